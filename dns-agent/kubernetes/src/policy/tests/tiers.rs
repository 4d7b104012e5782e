//! Cluster-wide policies: their tiers, priorities, rules and unknown parts.

use serde_json::{Value, json};

use super::{
    PROTOCOLS, QueryProtocol, answered_protocols, cluster_kind, dns, fact, facts, objection,
    objection_over, pod, policy, web,
};
use crate::{Facts, Feed, ObjectKey};

/// A policy with this kind, name and spec.
fn cluster_policy(kind: &str, name: &str, spec: &Value) -> Value {
    let version = match kind {
        "ClusterNetworkPolicy" => "v1alpha2",
        _ => "v1alpha1",
    };
    json!({
        "apiVersion": format!("policy.networking.k8s.io/{version}"),
        "kind": kind, "metadata": {"name": name, "generation": 3}, "spec": spec,
    })
}

/// A ClusterNetworkPolicy for all pods.
fn policy_for_all(name: &str, tier: &str, priority: u16, egress: &Value) -> Value {
    let spec = json!({
        "tier": tier, "priority": priority, "subject": {"namespaces": {}}, "egress": egress,
    });
    cluster_policy("ClusterNetworkPolicy", name, &spec)
}

/// The same policy, with a status that says that it is enforced.
fn reported(mut policy: Value) -> Value {
    policy["status"] = json!({"conditions": [
        {"type": "Ready-In-Zone-n1", "status": "True"},
        {"type": "Ready-In-Zone-n2", "status": "True"},
    ]});
    policy
}

/// A rule about egress to all pods.
fn to_all(action: &str) -> Value {
    json!({"action": action, "to": [{"namespaces": {}}]})
}

/// The facts of a cluster with its DNS, `shop/web` and these policies.
fn cluster(policies: impl IntoIterator<Item = Value>) -> Facts {
    facts(dns(53).into_iter().chain([web()]).chain(policies))
}

/// Why `shop/web` isn't answered over UDP when these policies exist, which treat both protocols
/// alike.
fn objection_of(policies: impl IntoIterator<Item = Value>) -> Option<String> {
    let mut facts = cluster(policies);
    let [udp, tcp] = PROTOCOLS.map(|protocol| objection_over(protocol, &mut facts));
    let udp_as_tcp = udp
        .as_ref()
        .map(|reason| reason.replace("over UDP", "over TCP"));
    assert_eq!(udp_as_tcp, tcp, "the reason for UDP (left) and for TCP");
    udp
}

fn deny_all_egress() -> Value {
    policy(
        "deny",
        json!({"podSelector": {}, "policyTypes": ["Egress"]}),
    )
}

fn allow_all_egress() -> Value {
    policy("allow", json!({"podSelector": {}, "egress": [{}]}))
}

#[test]
fn the_first_matching_rule_decides() {
    let objection = |rules: Value| objection_of([policy_for_all("p", "Admin", 0, &rules)]);
    assert_eq!(objection(json!([to_all("Accept"), to_all("Deny")])), None);
    assert_eq!(objection(json!([to_all("Pass"), to_all("Deny")])), None);
    assert_eq!(
        objection(json!([to_all("Deny"), to_all("Accept")])).as_deref(),
        Some(
            "ClusterNetworkPolicy p does not provably let this pod reach 10.244.0.9:53 over UDP, because of its rule egress[0]"
        )
    );
    // Other destinations, and other ports.
    let elsewhere =
        json!({"action": "Deny", "to": [{"namespaces": {"matchLabels": {"team": "x"}}}]});
    assert_eq!(objection(json!([elsewhere])), None);
    // Some plugins ignore names of ports.
    let mut named = to_all("Deny");
    named["protocols"] = json!([{"destinationNamedPort": "dns-tcp"}]);
    assert!(objection(json!([named])).is_some());
    named["action"] = json!("Accept");
    assert!(objection(json!([named, to_all("Deny")])).is_some());
}

#[test]
fn ports_decide_over_which_protocol_a_rule_matches() {
    let udp = &[QueryProtocol::Udp][..];
    let tcp = &[QueryProtocol::Tcp][..];
    let number = |number: u16| json!({"destinationPort": {"number": number}});
    let range =
        |start: u16, end: u16| json!({"destinationPort": {"range": {"start": start, "end": end}}});
    // The protocols over which the pod is answered if a rule denies these ports.
    for (protocols, answered) in [
        (json!([{"tcp": number(53)}]), udp),
        (json!([{"udp": number(53)}]), tcp),
        (json!([{"udp": number(53)}, {"tcp": number(53)}]), &[]),
        (
            json!([{"udp": number(54)}, {"tcp": number(52)}]),
            &PROTOCOLS,
        ),
        (json!([{"udp": range(50, 60)}]), tcp),
        (json!([{"tcp": range(50, 60)}]), udp),
        (json!([{"tcp": range(54, 60)}]), &PROTOCOLS),
        (json!([{"tcp": {}}]), udp),
        (json!([{"udp": {}}]), tcp),
        (json!([{"sctp": {}}]), &PROTOCOLS),
        // Some plugins ignore names of ports.
        (json!([{"destinationNamedPort": "metrics"}]), &[]),
        // A TCP port that can't be read may be any TCP port.
        (json!([{"tcp": range(9, 8)}]), udp),
        (json!([{"tcp": {"destinationPort": {}}}]), udp),
    ] {
        let mut deny = to_all("Deny");
        deny["protocols"] = protocols.clone();
        let policy = policy_for_all("p", "Admin", 0, &json!([deny]));
        let mut facts = cluster([policy]);
        assert_eq!(answered_protocols(&mut facts), answered, "{protocols}");
    }
    // A rule with such a port may deny everything, also if it passes or is about other pods.
    let mut pass = to_all("Pass");
    pass["protocols"] = json!([{"tcp": range(9, 8)}]);
    let mut elsewhere = pass.clone();
    elsewhere["action"] = json!("Deny");
    elsewhere["to"] = json!([{"networks": ["8.8.8.8/32"]}]);
    for rule in [pass, elsewhere] {
        let policy = policy_for_all("p", "Admin", 0, &json!([rule]));
        assert_eq!(answered_protocols(&mut cluster([policy])), udp, "{rule}");
    }
    let mut deny = to_all("Deny");
    deny["protocols"] = json!([{"tcp": number(53)}]);
    let policy = policy_for_all("p", "Admin", 0, &json!([deny]));
    assert_eq!(
        objection_over(QueryProtocol::Tcp, &mut cluster([policy])).as_deref(),
        Some(
            "ClusterNetworkPolicy p does not provably let this pod reach 10.244.0.9:53 over TCP, because of its rule egress[0]"
        )
    );
    // The other API, where TCP is the default.
    for (ports, answered) in [
        (json!([{"portNumber": {"port": 53}}]), udp),
        (
            json!([{"portNumber": {"protocol": "TCP", "port": 53}}]),
            udp,
        ),
        (
            json!([{"portNumber": {"protocol": "UDP", "port": 53}}]),
            tcp,
        ),
        (json!([{"portRange": {"start": 50, "end": 60}}]), udp),
        (
            json!([{"portRange": {"protocol": "UDP", "start": 50, "end": 60}}]),
            tcp,
        ),
        (json!([{"portRange": {"start": 60, "end": 50}}]), udp),
        (
            json!([{"portNumber": {"protocol": "SCTP", "port": 53}}]),
            &PROTOCOLS,
        ),
        (json!([{"namedPort": "metrics"}]), &[]),
    ] {
        let mut deny = to_all("Deny");
        deny["ports"] = ports.clone();
        let spec = json!({"priority": 0, "subject": {"namespaces": {}}, "egress": [deny]});
        let mut facts = cluster([cluster_policy("AdminNetworkPolicy", "p", &spec)]);
        assert_eq!(answered_protocols(&mut facts), answered, "{ports}");
    }
}

#[test]
fn servers_deny_a_protocol_by_their_own_tiers() {
    for (protocols, answered) in [
        (json!([{"tcp": {}}]), QueryProtocol::Udp),
        (json!([{"udp": {}}]), QueryProtocol::Tcp),
        // A TCP port that can't be read.
        (
            json!([{"tcp": {"destinationPort": {}}}]),
            QueryProtocol::Udp,
        ),
    ] {
        let mut rule = json!({"action": "Deny", "from": [{"namespaces": {}}]});
        rule["protocols"] = protocols;
        let spec = json!({
            "tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "ingress": [rule],
        });
        let policy = cluster_policy("ClusterNetworkPolicy", "p", &spec);
        let mut facts = cluster([policy.clone()]);
        assert_eq!(answered_protocols(&mut facts), [answered]);
        // Without the second DNS pod, a server is unknown, and so is its port.
        let mut objects = dns(53);
        objects.truncate(4);
        let mut facts = super::facts(objects.into_iter().chain([web(), policy]));
        assert_eq!(answered_protocols(&mut facts), [answered]);
    }
}

#[test]
fn smaller_priorities_come_first_and_equal_ones_take_the_worst() {
    let accept = |priority| policy_for_all("a", "Admin", priority, &json!([to_all("Accept")]));
    let deny = |priority| policy_for_all("b", "Admin", priority, &json!([to_all("Deny")]));
    assert_eq!(objection_of([accept(1), deny(2)]), None);
    assert!(objection_of([accept(2), deny(1)]).is_some());
    assert!(objection_of([accept(1), deny(1)]).is_some());
}

#[test]
fn network_policies_decide_between_the_tiers() {
    let baseline = || policy_for_all("p", "Baseline", 0, &json!([to_all("Deny")]));
    assert!(objection_of([baseline()]).is_some());
    // A NetworkPolicy that selects the pod makes a final decision.
    assert_eq!(objection_of([baseline(), allow_all_egress()]), None);
    let pass = policy_for_all("a", "Admin", 0, &json!([to_all("Pass")]));
    assert!(objection_of([baseline(), pass]).is_some());
    let accept = policy_for_all("a", "Admin", 0, &json!([to_all("Accept")]));
    assert_eq!(objection_of([baseline(), accept]), None);
    let deny = policy_for_all("a", "Admin", 0, &json!([to_all("Deny")]));
    assert!(objection_of([deny, allow_all_egress()]).is_some());
}

#[test]
fn an_accepting_policy_replaces_network_policies_only_if_it_is_enforced() {
    let accept = policy_for_all("a", "Admin", 0, &json!([to_all("Accept")]));
    assert_eq!(
        objection_of([accept.clone(), deny_all_egress()]).as_deref(),
        Some(
            "NetworkPolicy shop/deny does not provably let this pod reach 10.244.0.9:53 over UDP (ClusterNetworkPolicy a accepts the query, but its status doesn't show that a network plugin enforces it)"
        )
    );
    assert_eq!(
        objection_of([reported(accept.clone()), deny_all_egress()]),
        None
    );
    // A report about an older generation of the policy, one that is not true, and one that is not
    // about enforcement.
    for (field, value) in [
        ("observedGeneration", json!(2)),
        ("status", json!("False")),
        ("type", json!("Ready")),
    ] {
        let mut other = reported(accept.clone());
        other["status"]["conditions"][0][field] = value.clone();
        other["status"]["conditions"][1][field] = value;
        assert!(
            objection_of([other, deny_all_egress()]).is_some(),
            "{field}"
        );
    }
    let mut one_zone = reported(accept);
    one_zone["status"]["conditions"][1]["status"] = json!("False");
    assert!(objection_of([one_zone, deny_all_egress()]).is_some());
}

#[test]
fn reports_of_an_api_that_another_one_may_have_replaced_do_not_count() {
    let spec = json!({
        "priority": 9, "subject": {"namespaces": {}},
        "egress": [{"action": "Allow", "to": [{"namespaces": {}}]}],
    });
    let accept = reported(cluster_policy("AdminNetworkPolicy", "a", &spec));
    let objects = dns(53).into_iter().chain([web(), deny_all_egress()]);
    let mut facts = facts(objects);
    let kinds = ["AdminNetworkPolicy", "ClusterNetworkPolicy"];
    for (kinds, is_answered) in [(&kinds[..1], true), (&kinds, false)] {
        let kinds: Vec<_> = kinds
            .iter()
            .map(|kind| cluster_kind(kind).unwrap())
            .collect();
        facts.set_served_kinds(kinds.iter().copied());
        for feed in kinds.into_iter().map(Feed::OtherPolicies) {
            facts.start_list(feed);
            facts.finish_list(feed);
        }
        facts.insert(fact(accept.clone()));
        assert_eq!(objection(&mut facts).is_none(), is_answered);
    }
}

/// Plugins reject some policies, whose rules then don't keep later ones from deciding.
#[test]
fn a_policy_that_a_plugin_may_reject_hides_no_other() {
    let policy = |name: &str, priority: u16, action: &str| {
        policy_for_all(name, "Admin", priority, &json!([to_all(action)]))
    };
    let deny = || policy("z", 900, "Deny");
    assert_eq!(objection_of([policy("a", 399, "Accept"), deny()]), None);
    assert!(objection_of([policy("a", 400, "Accept"), deny()]).is_some());
    assert!(objection_of([policy("a", 400, "Pass"), deny()]).is_some());
    let enforced = reported(policy("a", 400, "Accept"));
    assert_eq!(objection_of([enforced, deny()]), None);
    // Equal priorities, although the subject of one is elsewhere.
    let mut elsewhere = policy("b", 5, "Accept");
    elsewhere["spec"]["subject"] =
        json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}});
    assert!(objection_of([policy("a", 5, "Accept"), elsewhere, deny()]).is_some());
    // The status of others shows that the plugin writes one.
    let baseline = policy_for_all("b", "Baseline", 0, &json!([to_all("Deny")]));
    assert_eq!(
        objection_of([policy("a", 5, "Accept"), baseline.clone()]),
        None
    );
    let others = [policy("a", 5, "Accept"), reported(baseline)];
    assert!(objection_of(others).is_some());
}

#[test]
fn nodes_are_no_pods_if_the_policy_is_enforced() {
    let rule = |action: &str| json!({"action": action, "to": [{"nodes": {}}]});
    let deny = policy_for_all("p", "Admin", 5, &json!([rule("Deny")]));
    assert!(objection_of([deny.clone()]).is_some());
    assert_eq!(objection_of([reported(deny)]), None);
    // A plugin that doesn't know nodes treats the rule as one that denies.
    let pass = policy_for_all("p", "Admin", 5, &json!([rule("Pass")]));
    assert!(objection_of([pass.clone()]).is_some());
    assert_eq!(objection_of([reported(pass)]), None);
}

#[test]
fn each_api_must_permit_the_query() {
    let accept = reported(policy_for_all("a", "Admin", 0, &json!([to_all("Accept")])));
    let spec = json!({
        "priority": 9, "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [{"networks": ["10.244.0.0/16"]}],
            "ports": [
                {"portNumber": {"protocol": "UDP", "port": 53}},
                {"portNumber": {"protocol": "TCP", "port": 53}},
            ]}],
    });
    let deny = cluster_policy("AdminNetworkPolicy", "d", &spec);
    let reason = objection_of([accept, deny]).unwrap();
    assert!(
        reason.starts_with("AdminNetworkPolicy d does not"),
        "{reason}"
    );
}

#[test]
fn servers_admit_clients_by_their_own_tiers() {
    let policies = |action: &str, from: Value| {
        let spec = json!({
            "tier": "Admin", "priority": 0,
            "subject": {"pods": {
                "namespaceSelector": {"matchLabels": {"team": "core"}},
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
            }},
            "ingress": [{"action": action, "from": [from]}],
        });
        [cluster_policy("ClusterNetworkPolicy", "p", &spec)]
    };
    let web =
        json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}});
    assert_eq!(
        objection_of(policies("Deny", web.clone())).as_deref(),
        Some(
            "ClusterNetworkPolicy p does not provably admit this pod at 10.244.0.9:53 over UDP, because of its rule ingress[0]"
        )
    );
    let db =
        json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}});
    assert_eq!(objection_of(policies("Deny", db)), None);
    // The client's Namespace isn't known, so its labels aren't.
    let team = json!({"namespaces": {"matchLabels": {"team": "x"}}});
    assert!(objection_of(policies("Deny", team)).is_some());
    let name = json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}});
    assert_eq!(objection_of(policies("Deny", name)), None);
    let deny = policy(
        "deny",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    );
    let mut deny = deny;
    deny["metadata"]["namespace"] = json!("kube-system");
    let [accept] = policies("Accept", web);
    assert!(objection_of([accept.clone(), deny.clone()]).is_some());
    assert_eq!(objection_of([reported(accept), deny]), None);
}

#[test]
fn a_rule_with_an_unknown_part_fails_closed() {
    let parts = [
        json!({"to": [{"future": {}}]}),
        json!({"to": [{"namespaces": {}, "networks": ["10.0.0.0/8"]}]}),
        // A version of the API before 0.1.2.
        json!({"to": [{"namespaces": {"sameLabels": ["team"]}}]}),
        json!({"to": []}),
        json!({}),
        json!({"to": [{"namespaces": {}}], "from": [{"namespaces": {}}]}),
        json!({"to": [{"namespaces": {}}], "protocols": [{"quic": {}}]}),
        json!({"to": [{"namespaces": {}}], "protocols": []}),
        json!({"to": [{"networks": []}]}),
        json!({"to": [{"namespaces": {}}], "future": 1}),
    ];
    for part in parts {
        let rule = |action: &str| {
            let mut rule = part.clone();
            rule["action"] = json!(action);
            rule
        };
        let objection =
            |rules: Value| objection_of([policy_for_all("p", "Admin", 0, &rules)]).is_some();
        assert!(objection(json!([rule("Deny")])), "{part}");
        assert!(objection(json!([rule("Pass")])), "{part}");
        assert!(objection(json!([rule("Future")])), "{part}");
        assert!(objection(json!([rule("Accept"), to_all("Deny")])), "{part}");
        assert!(!objection(json!([rule("Accept")])), "{part}");
    }
}

#[test]
fn a_policy_that_can_t_be_read_may_restrict_every_pod() {
    let spec = || json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    let with = |field: &str, value: Value| {
        let mut spec = spec();
        spec[field] = value;
        spec
    };
    for (kind, spec, reason) in [
        (
            "ClusterNetworkPolicy",
            with("tier", json!("Middle")),
            "spec: unknown variant `Middle`",
        ),
        (
            "ClusterNetworkPolicy",
            with("tier", json!(null)),
            "spec.tier is missing",
        ),
        (
            "ClusterNetworkPolicy",
            with("priority", json!(1001)),
            "spec.priority is not",
        ),
        (
            "ClusterNetworkPolicy",
            with("subject", json!({})),
            "spec.subject: give either",
        ),
        (
            "ClusterNetworkPolicy",
            with("future", json!({})),
            "spec: unknown field `future`",
        ),
        (
            "AdminNetworkPolicy",
            spec(),
            "spec.tier is not a field of this kind",
        ),
        (
            "BaselineAdminNetworkPolicy",
            with("tier", json!(null)),
            "spec.priority is not a field",
        ),
    ] {
        let found = objection_of([cluster_policy(kind, "p", &spec)]).unwrap();
        assert!(
            found.contains("may restrict this pod, and it can't be read"),
            "{found}"
        );
        assert!(
            found.contains(reason),
            "{found} does not contain {reason:?}"
        );
    }
    let mut future = policy_for_all("p", "Admin", 0, &json!([]));
    future["apiVersion"] = json!("policy.networking.k8s.io/v2");
    let found = objection_of([future]).unwrap();
    assert!(
        found.contains("its API version \"v2\" is not known"),
        "{found}"
    );
}

#[test]
fn a_policy_counts_until_it_is_deleted() {
    let kind = cluster_kind("ClusterNetworkPolicy").unwrap();
    let feed = Feed::OtherPolicies(kind);
    let mut facts: Facts = facts(dns(53).into_iter().chain([web()]));
    facts.set_served_kinds([kind]);
    facts.start_list(feed);
    facts.finish_list(feed);
    assert_eq!(objection(&mut facts), None);
    let deny = policy_for_all("p", "Admin", 0, &json!([to_all("Deny")]));
    assert!(facts.apply(feed, fact(deny.clone())));
    assert!(objection(&mut facts).is_some());
    // A change of its status alone changes nothing.
    let mut with_status = deny.clone();
    with_status["status"] = json!({"conditions": [{"type": "Accepted", "status": "True"}]});
    assert!(!facts.apply(feed, fact(with_status)));
    facts.delete(feed, &ObjectKey::new("", "p"));
    assert_eq!(objection(&mut facts), None);
    facts.apply(feed, fact(deny));
    facts.set_served_kinds([]);
    assert_eq!(objection(&mut facts), None);
}

/// Policies of one kind that take more memory than the limit. Each has as many peers as the API
/// permits, with long labels.
#[test]
fn no_pod_is_answered_above_the_memory_limit() {
    let kind = cluster_kind("AdminNetworkPolicy").unwrap();
    let feed = Feed::OtherPolicies(kind);
    let mut facts = facts(dns(53).into_iter().chain([web()]));
    facts.set_served_kinds([kind]);
    let peer = json!({"namespaces": {"matchLabels": {"x".repeat(63): "x".repeat(63)}}});
    let rule = json!({"action": "Deny", "to": vec![peer; 100]});
    let spec = json!({
        "priority": 0, "subject": {"namespaces": {}}, "egress": vec![rule; 100],
    });
    let list = |facts: &mut Facts, count: usize| {
        facts.start_list(feed);
        for at in 0..count {
            let policy = cluster_policy("AdminNetworkPolicy", &format!("p{at}"), &spec);
            facts.apply(feed, fact(policy));
        }
        facts.finish_list(feed);
    };
    list(&mut facts, 1);
    assert_eq!(objection(&mut facts), None);
    list(&mut facts, 40);
    let reason = objection(&mut facts).unwrap();
    assert!(reason.contains("more than 32 MiB of rules"), "{reason}");
    list(&mut facts, 1);
    assert_eq!(objection(&mut facts), None);
}

#[test]
fn pods_of_other_namespaces_are_not_concerned() {
    let spec = json!({
        "tier": "Admin", "priority": 0,
        "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "lab"}}},
        "egress": [to_all("Deny")],
    });
    let db = pod("lab", "db", "10.244.0.3", json!({}));
    let policy = cluster_policy("ClusterNetworkPolicy", "p", &spec);
    let mut facts = facts(dns(53).into_iter().chain([web(), db, policy]));
    assert_eq!(objection(&mut facts), None);
    let left_out = super::verdicts(&mut facts).left_out;
    assert_eq!(left_out.len(), 1, "{left_out:?}");
    assert_eq!(left_out[0].pod, "lab/db");
}
