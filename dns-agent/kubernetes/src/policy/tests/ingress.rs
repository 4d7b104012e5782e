//! Ingress policies at the servers of the cluster's DNS.
//!
//! The objects of `dns` by index: 3 and 4 are the Pods.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    PROTOCOLS, QueryProtocol, answered_protocols, dns, fact, facts, judge, objection,
    objection_over, pod, policy, verdicts, web,
};
use crate::{ClientVerdicts, Facts, Feed, ObjectKey, Policy};

/// A policy in the namespace of the cluster's DNS.
fn dns_policy(spec: Value) -> Value {
    let mut policy = policy("in", spec);
    policy["metadata"]["namespace"] = json!("kube-system");
    policy
}

/// A policy with these ingress rules for every pod in the namespace of the cluster's DNS.
fn ingress_policy(rules: Value) -> Value {
    let mut spec = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    spec["ingress"] = rules;
    dns_policy(spec)
}

/// A policy that lets these peers reach every pod in the namespace of the cluster's DNS at port 53,
/// over both protocols.
fn policy_admitting(peers: Value) -> Value {
    let mut rules = json!([{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]);
    rules[0]["from"] = peers;
    ingress_policy(rules)
}

/// The facts of a cluster with its DNS, `shop/web`, the labelled Namespace `shop` and these
/// policies.
fn cluster(policies: impl IntoIterator<Item = Value>) -> Facts {
    let shop =
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "web"}}});
    facts(dns(53).into_iter().chain([web(), shop]).chain(policies))
}

/// Whether `shop/web` is answered over both protocols. Panics if it is answered over one.
fn is_admitted(policy: Value) -> bool {
    match &*answered_protocols(&mut cluster([policy])) {
        [] => false,
        [_, _] => true,
        one => panic!("shop/web is answered over {one:?}, and not over the other protocol"),
    }
}

#[test]
fn types_and_selectors_decide_which_servers_are_restricted() {
    for (case, spec, is_allowed) in [
        (
            "deny all ingress",
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            false,
        ),
        ("ingress by default", json!({"podSelector": {}}), false),
        (
            "ingress by default, without types",
            json!({"podSelector": {}, "policyTypes": []}),
            false,
        ),
        (
            "ingress by default, with egress rules",
            json!({"podSelector": {}, "egress": [{}]}),
            false,
        ),
        (
            "both, and ingress allows nothing",
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]}),
            false,
        ),
        (
            "no rules",
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []}),
            false,
        ),
        (
            "everything",
            json!({"podSelector": {}, "ingress": [{}]}),
            true,
        ),
        (
            "an empty list of ingress rules without the type Ingress",
            json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [], "egress": [{}]}),
            true,
        ),
        (
            "selects the servers",
            json!({"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}),
            false,
        ),
        (
            "selects other pods",
            json!({"podSelector": {"matchLabels": {"k8s-app": "metrics"}}}),
            true,
        ),
    ] {
        assert_eq!(is_admitted(dns_policy(spec)), is_allowed, "{case}");
    }
    let elsewhere = policy("in", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    assert!(is_admitted(elsewhere), "a policy in the client's namespace");
}

#[test]
fn peers_decide_which_clients_are_admitted() {
    for (case, peers, is_allowed) in [
        ("an empty list means all peers", json!([]), true),
        ("all pods", json!([{"namespaceSelector": {}}]), true),
        (
            "pods in the servers' namespace",
            json!([{"podSelector": {}}]),
            false,
        ),
        (
            "by the namespace's name",
            json!([{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
            }]),
            true,
        ),
        (
            "by the namespace's label",
            json!([{"namespaceSelector": {"matchLabels": {"team": "web"}}}]),
            true,
        ),
        (
            "by another label",
            json!([{"namespaceSelector": {"matchLabels": {"team": "core"}}}]),
            false,
        ),
        (
            "by a label that the namespace lacks",
            json!([{
                "namespaceSelector": {
                    "matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]
                }
            }]),
            true,
        ),
        (
            "by both selectors",
            json!([{
                "namespaceSelector": {"matchLabels": {"team": "web"}},
                "podSelector": {"matchLabels": {"app": "web"}}
            }]),
            true,
        ),
        (
            "another pod, by both selectors",
            json!([{
                "namespaceSelector": {"matchLabels": {"team": "web"}},
                "podSelector": {"matchLabels": {"app": "db"}}
            }]),
            false,
        ),
        (
            "one of two peers",
            json!([{"podSelector": {}}, {"namespaceSelector": {}}]),
            true,
        ),
        (
            "every address",
            json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]),
            true,
        ),
        (
            "every address of the other family",
            json!([{"ipBlock": {"cidr": "::/0"}}]),
            false,
        ),
        // The client's address may be translated before the packet arrives.
        (
            "the client's address",
            json!([{"ipBlock": {"cidr": "10.244.0.0/16"}}]),
            false,
        ),
        (
            "every address except some",
            json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.9.0.0/16"]}}]),
            false,
        ),
    ] {
        assert_eq!(is_admitted(policy_admitting(peers)), is_allowed, "{case}");
    }
}

#[test]
fn ports_decide_whether_a_client_is_admitted() {
    let policy_with_ports = |ports: Value| {
        let mut rules = json!([{"from": [{"namespaceSelector": {}}]}]);
        rules[0]["ports"] = ports;
        ingress_policy(rules)
    };
    let udp = &[QueryProtocol::Udp][..];
    let tcp = &[QueryProtocol::Tcp][..];
    for (ports, allowed) in [
        (json!([]), &PROTOCOLS[..]),
        (json!([{"protocol": "UDP"}]), udp),
        (json!([{"protocol": "TCP"}]), tcp),
        (json!([{}]), tcp),
        (json!([{"protocol": "UDP", "port": 53}]), udp),
        (json!([{"protocol": "UDP", "port": 54}]), &[]),
        (json!([{"port": 53}]), tcp),
        (json!([{"port": 54}]), &[]),
        (
            json!([{"port": 53}, {"protocol": "UDP", "port": 53}]),
            &PROTOCOLS,
        ),
        (json!([{"protocol": "UDP", "port": 50, "endPort": 60}]), udp),
        (json!([{"protocol": "UDP", "port": 54, "endPort": 60}]), &[]),
        (json!([{"protocol": "TCP", "port": 50, "endPort": 60}]), tcp),
        (json!([{"protocol": "TCP", "port": 54, "endPort": 60}]), &[]),
        (json!([{"protocol": "UDP", "port": "dns"}]), udp),
        (json!([{"protocol": "UDP", "port": "dns-tcp"}]), &[]),
        (json!([{"protocol": "UDP", "port": "metrics"}]), &[]),
        (json!([{"port": "dns-tcp"}]), tcp),
        (json!([{"port": "dns"}]), &[]),
        (json!([{"protocol": "SCTP", "port": 53}]), &[]),
    ] {
        let mut facts = cluster([policy_with_ports(ports.clone())]);
        assert_eq!(answered_protocols(&mut facts), allowed, "{ports}");
    }
    // The port of the DNS pods counts, not the port of the Service.
    for (port, allowed) in [(53, &[][..]), (1053, &PROTOCOLS)] {
        let ports = json!([{"protocol": "UDP", "port": port}, {"port": port}]);
        let policy = policy_with_ports(ports);
        let mut facts = facts(dns(1053).into_iter().chain([web(), policy]));
        assert_eq!(answered_protocols(&mut facts), allowed, "{port}");
    }
}

#[test]
fn a_policy_that_opens_the_servers_over_one_protocol_restricts_clients_over_the_other() {
    let policy = ingress_policy(json!([{"ports": [{"port": 53, "protocol": "UDP"}]}]));
    let verdicts = verdicts(&mut cluster([policy.clone()]));
    assert_eq!(verdicts.permitted, None);
    assert_eq!(verdicts.left_out, []);
    assert_eq!(verdicts.permitted_tcp, Some(BTreeSet::new()));
    assert_eq!(
        objection_over(QueryProtocol::Tcp, &mut cluster([policy])).unwrap(),
        "NetworkPolicy kube-system/in does not provably admit this pod at 10.244.0.9:53 over TCP"
    );
}

#[test]
fn a_port_name_used_twice_by_a_server_proves_nothing() {
    let mut objects = dns(53);
    objects[3]["spec"]["containers"][0]["ports"] = json!([
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "dns", "containerPort": 54, "protocol": "UDP"},
        // Names of ports of two protocols are different names. The default protocol is TCP.
        {"name": "dns-tcp", "containerPort": 53},
        {"name": "dns-tcp", "containerPort": 54, "protocol": "UDP"},
    ]);
    let ports = json!([{"protocol": "UDP", "port": "dns"}, {"port": "dns-tcp"}]);
    let mut rules = json!([{"from": [{"namespaceSelector": {}}]}]);
    rules[0]["ports"] = ports;
    let policy = ingress_policy(rules);
    let mut facts = facts(objects.into_iter().chain([web(), policy]));
    assert_eq!(answered_protocols(&mut facts), [QueryProtocol::Tcp]);
}

#[test]
fn policies_add_up_at_each_server() {
    let deny = || ingress_policy(json!([]));
    let named = |mut policy: Value, name: &str| {
        policy["metadata"]["name"] = json!(name);
        policy
    };
    let allow = || policy_admitting(json!([{"namespaceSelector": {}}]));
    let mut facts = cluster([deny(), named(allow(), "allow")]);
    assert_eq!(objection(&mut facts), None);

    // The second policy opens only one of the two servers.
    let mut allow_first = named(allow(), "allow");
    allow_first["spec"]["podSelector"] = json!({"matchLabels": {"first": "yes"}});
    let mut objects = dns(53);
    objects[3]["metadata"]["labels"]["first"] = json!("yes");
    let mut facts = super::facts(objects.into_iter().chain([web(), deny(), allow_first]));
    assert_eq!(
        objection(&mut facts).unwrap(),
        "NetworkPolicy kube-system/in does not provably admit this pod at 10.244.1.9:53 over UDP"
    );
}

#[test]
fn egress_and_ingress_must_both_allow() {
    let deny = policy("out", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    let let_out = policy("out", json!({"podSelector": {}, "egress": [{}]}));
    let (open, closed) = (policy_admitting(json!([])), ingress_policy(json!([])));
    for (egress, ingress, is_allowed) in [
        (&let_out, &open, true),
        (&let_out, &closed, false),
        (&deny, &open, false),
        (&deny, &closed, false),
    ] {
        let mut facts = cluster([egress.clone(), ingress.clone()]);
        let allowed = if is_allowed { &PROTOCOLS[..] } else { &[] };
        assert_eq!(
            answered_protocols(&mut facts),
            allowed,
            "{egress} {ingress}"
        );
    }
}

#[test]
fn servers_open_to_every_pod_restrict_no_client() {
    let elsewhere = policy("in", json!({"podSelector": {}}));
    for policy in [
        policy_admitting(json!([])),
        ingress_policy(json!([{}])),
        elsewhere,
    ] {
        let verdicts = verdicts(&mut cluster([policy.clone()]));
        assert_eq!(verdicts, ClientVerdicts::default(), "{policy}");
    }
}

#[test]
fn a_client_in_the_servers_namespace_is_judged_like_any_other() {
    let client = || pod("kube-system", "client", "10.244.0.3", json!({"app": "x"}));
    let left_out = |policy: Value| {
        let mut facts = cluster([client(), policy]);
        let left_out = verdicts(&mut facts).left_out.into_iter();
        left_out
            .filter(|left_out| left_out.pod == "kube-system/client")
            .count()
    };
    assert_eq!(left_out(policy_admitting(json!([{"podSelector": {}}]))), 0);
    let others = json!([{"podSelector": {"matchLabels": {"app": "y"}}}]);
    assert_eq!(left_out(policy_admitting(others)), 1);
}

#[test]
fn any_policy_may_apply_to_an_unknown_server() {
    let elsewhere = || policy("in", json!({"podSelector": {"matchLabels": {"a": "b"}}}));
    let open = || policy("in", json!({"podSelector": {}, "ingress": [{}]}));
    let some_ports =
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]});
    // One of the two DNS pods is unknown, or is in its node's network.
    let unknown = || {
        let mut objects = dns(53);
        objects.truncate(4);
        objects
    };
    let in_host_network = || {
        let mut objects = dns(53);
        objects[3]["spec"]["hostNetwork"] = json!(true);
        objects
    };
    let all_tcp_ports = json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "TCP"}]}]});
    for (servers, policy, allowed) in [
        (dns(53), elsewhere(), &PROTOCOLS[..]),
        (unknown(), elsewhere(), &[]),
        (in_host_network(), elsewhere(), &[]),
        (unknown(), open(), &PROTOCOLS),
        (in_host_network(), open(), &PROTOCOLS),
        (unknown(), policy("in", some_ports), &[]),
        (
            unknown(),
            policy("in", all_tcp_ports),
            &[QueryProtocol::Tcp],
        ),
    ] {
        let mut facts = facts(servers.into_iter().chain([web(), policy.clone()]));
        assert_eq!(answered_protocols(&mut facts), allowed, "{policy}");
    }
    let reason = objection(&mut facts(
        unknown().into_iter().chain([web(), elsewhere()]),
    ))
    .unwrap();
    assert_eq!(
        reason,
        "NetworkPolicy shop/in may apply to the server at 10.244.1.9:53, which is not a known pod, and does not provably admit this pod over UDP"
    );
    // An unreadable slice may belong to the Service, so no server is known.
    let mut facts = cluster([elsewhere()]);
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(
        Feed::DnsEndpoints,
        &ObjectKey::new("kube-system", "kube-dns-y"),
    );
    assert!(objection(&mut facts).is_some());
}

#[test]
fn a_server_that_has_ended_has_no_address() {
    let mut objects = dns(53);
    objects[3]["status"]["phase"] = json!("Succeeded");
    let open = policy_admitting(json!([{"namespaceSelector": {}}]));
    assert_eq!(objection(&mut cluster([open.clone()])), None);
    let mut facts = facts(objects.into_iter().chain([web(), open]));
    assert!(objection(&mut facts).is_some());
}

#[test]
fn a_link_local_address_belongs_to_a_pod_in_this_nodes_network() {
    let served = ["169.254.20.10:53".parse().unwrap()];
    let mut cache = pod(
        "kube-system",
        "cache",
        "192.168.0.1",
        json!({"app": "cache"}),
    );
    cache["spec"] = json!({"hostNetwork": true});
    let elsewhere = policy("in", json!({"podSelector": {}}));
    let about_cache = dns_policy(json!({"podSelector": {"matchLabels": {"app": "cache"}}}));
    let about_dns = dns_policy(json!({"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}));
    for (policy, is_allowed) in [(elsewhere, true), (about_dns, true), (about_cache, false)] {
        let mut facts = cluster([cache.clone(), policy.clone()]);
        let permitted = judge(&mut facts, &served).permitted;
        assert_eq!(permitted.is_none(), is_allowed, "{policy}");
    }
    // Until this node's pods have been listed, the server may be any pod.
    let mut facts = Facts::awaiting([]);
    facts.insert(fact(web()));
    facts.insert(fact(policy("in", json!({"podSelector": {}}))));
    assert!(judge(&mut facts, &served).permitted.is_some());
    facts.start_list(Feed::Clients);
    facts.apply(Feed::Clients, fact(web()));
    assert!(facts.finish_list(Feed::Clients));
    assert_eq!(judge(&mut facts, &served).permitted, None);
}

#[test]
fn every_pod_with_a_servers_address_must_admit_the_client() {
    let other = pod("lab", "other", "10.244.0.9", json!({}));
    let mut closed = policy("in", json!({"podSelector": {}}));
    closed["metadata"]["namespace"] = json!("lab");
    assert_eq!(objection(&mut cluster([other.clone()])), None);
    assert!(objection(&mut cluster([other, closed])).is_some());
}

#[test]
fn an_unreadable_policy_may_exclude_every_client() {
    let mut facts = cluster([]);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("lab", "bad"));
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("kube-system", "bad"));
    assert_eq!(
        objection(&mut facts).unwrap(),
        "NetworkPolicy kube-system/bad can't be read, and may restrict access to 10.244.0.9:53"
    );
    facts.delete(Feed::Policies, &ObjectKey::new("kube-system", "bad"));
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("", ""));
    assert!(objection(&mut facts).is_some());
}

#[test]
fn an_unknown_namespace_matches_by_its_name_only() {
    let cluster_admitting = |selector: Value| {
        let mut peers = json!([{}]);
        peers[0]["namespaceSelector"] = selector;
        facts(dns(53).into_iter().chain([web(), policy_admitting(peers)]))
    };
    for (selector, is_allowed) in [
        (json!({}), true),
        (
            json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}),
            true,
        ),
        (json!({"matchLabels": {"team": "web"}}), false),
        (
            json!({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}),
            false,
        ),
    ] {
        assert_eq!(
            objection(&mut cluster_admitting(selector.clone())).is_none(),
            is_allowed,
            "{selector}"
        );
    }
    // The Namespace becomes known, and then unreadable.
    let mut facts = cluster_admitting(json!({"matchLabels": {"team": "web"}}));
    let shop =
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "web"}}});
    assert!(facts.apply(Feed::ClientNamespaces, fact(shop)));
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(Feed::ClientNamespaces, &ObjectKey::new("", "shop"));
    assert!(objection(&mut facts).is_some());
}

#[test]
fn selectors_decide_whether_a_policy_needs_namespace_labels() {
    for (peers, needs_labels) in [
        (json!([]), false),
        (json!([{"podSelector": {}}]), false),
        (json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]), false),
        (json!([{"namespaceSelector": {}}]), false),
        (
            json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}}]),
            false,
        ),
        (
            json!([{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"team": "a"}}}]),
            true,
        ),
    ] {
        let policy: Policy = match fact(policy_admitting(peers.clone())) {
            crate::Fact::Policy(policy) => policy,
            other => panic!("the NetworkPolicy is read as another fact: {other:?}"),
        };
        assert_eq!(policy.needs_namespaces(), needs_labels, "{peers}");
    }
}

#[test]
fn only_changes_that_matter_to_client_policy_are_reported() {
    let mut facts = cluster([ingress_policy(json!([]))]);
    let mut ready = web();
    ready["status"]["conditions"] = json!([{"type": "Ready"}]);
    assert!(!facts.apply(Feed::Clients, fact(ready)));
    let mut other = web();
    other["metadata"]["labels"] = json!({"app": "other"});
    assert!(facts.apply(Feed::Clients, fact(other)));
    assert!(!facts.apply(Feed::Policies, fact(ingress_policy(json!([])))));
    assert!(facts.apply(Feed::Policies, fact(ingress_policy(json!([{}])))));
}
