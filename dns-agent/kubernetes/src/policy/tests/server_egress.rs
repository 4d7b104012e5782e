//! Policies about the egress of the cluster's DNS servers.

use serde_json::{Value, json};

use super::other_policies::kind;
use super::{cluster_kind, dns, fact, facts, pod, policy, verdicts, web};
use crate::{Fact, Facts, Feed, ObjectKey, OtherPolicy};

/// A NetworkPolicy `p` in this namespace.
fn policy_in(namespace: &str, spec: Value) -> Value {
    let mut policy = policy("p", spec);
    policy["metadata"]["namespace"] = json!(namespace);
    policy
}

/// A ClusterNetworkPolicy for the pods of this namespace, with these rules in this direction.
fn cluster_policy(namespace: &str, direction: &str, rules: Value) -> Value {
    let name = json!({"kubernetes.io/metadata.name": namespace});
    let mut spec = json!({
        "tier": "Admin", "priority": 0, "subject": {"namespaces": {"matchLabels": name}},
    });
    spec[direction] = rules;
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"}, "spec": spec,
    })
}

/// A policy `p` of another kind, in this namespace.
fn other(resource: &str, namespace: &str, spec: Value) -> Fact {
    let mut object = json!({"metadata": {"namespace": namespace, "name": "p"}});
    object["spec"] = spec;
    Fact::OtherPolicy(OtherPolicy::from_object(kind(resource), &object).unwrap())
}

/// The facts of a cluster with its DNS, `shop/web` and these policies.
fn cluster(policies: impl IntoIterator<Item = Value>) -> Facts {
    facts(dns(53).into_iter().chain([web()]).chain(policies))
}

/// Why the egress of the cluster's DNS servers may be restricted.
fn restriction(facts: &mut Facts) -> Option<String> {
    verdicts(facts).server_egress_restriction
}

#[test]
fn network_policies_restrict_the_servers_that_they_select() {
    let all = || json!({"podSelector": {}, "policyTypes": ["Egress"]});
    let with_labels = |labels: Value| {
        let mut spec = all();
        spec["podSelector"]["matchLabels"] = labels;
        spec
    };
    assert_eq!(restriction(&mut cluster([])), None);
    assert_eq!(
        restriction(&mut cluster([policy_in("kube-system", all())])).unwrap(),
        "NetworkPolicy kube-system/p restricts the egress of Pod kube-system/coredns-1, a server \
         of the cluster's DNS"
    );
    for (case, namespace, spec, is_restricted) in [
        ("another namespace", "shop", all(), false),
        (
            "selects the servers",
            "kube-system",
            with_labels(json!({"k8s-app": "kube-dns"})),
            true,
        ),
        (
            "selects other pods",
            "kube-system",
            with_labels(json!({"k8s-app": "proxy"})),
            false,
        ),
        (
            "only about ingress",
            "kube-system",
            json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}),
            false,
        ),
        (
            "ingress by default",
            "kube-system",
            json!({"podSelector": {}}),
            false,
        ),
        // The rules don't matter.
        (
            "allows all egress",
            "kube-system",
            json!({"podSelector": {}, "egress": [{}]}),
            true,
        ),
    ] {
        let mut facts = cluster([policy_in(namespace, spec)]);
        assert_eq!(restriction(&mut facts).is_some(), is_restricted, "{case}");
    }
    // One of two servers.
    let mut objects = dns(53);
    objects[4]["metadata"]["labels"]["second"] = json!("yes");
    let policy = policy_in("kube-system", with_labels(json!({"second": "yes"})));
    let reason = restriction(&mut facts(objects.into_iter().chain([policy]))).unwrap();
    assert!(reason.contains("Pod kube-system/coredns-2"), "{reason}");
}

#[test]
fn unreadable_policies_may_restrict_the_servers() {
    let mut facts = cluster([]);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("shop", "bad"));
    assert_eq!(restriction(&mut facts), None);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("kube-system", "bad"));
    assert_eq!(
        restriction(&mut facts).unwrap(),
        "NetworkPolicy kube-system/bad can't be read, and may restrict the egress of Pod \
         kube-system/coredns-1, a server of the cluster's DNS"
    );
    facts.delete(Feed::Policies, &ObjectKey::new("kube-system", "bad"));
    assert_eq!(restriction(&mut facts), None);
    // The namespace of this policy is unknown.
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("", ""));
    assert!(restriction(&mut facts).is_some());
}

#[test]
fn any_policy_may_restrict_unknown_servers() {
    let elsewhere = || policy_in("lab", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
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
    // Over TCP, the servers are unknown.
    let without_tcp = || {
        let mut objects = dns(53);
        let ports = objects[1]["spec"]["ports"].as_array_mut().unwrap();
        ports.retain(|port| port["protocol"] == "UDP");
        objects
    };
    for objects in [unknown(), in_host_network(), without_tcp()] {
        let mut facts = facts(objects);
        assert_eq!(restriction(&mut facts), None);
        facts.insert(fact(elsewhere()));
        assert_eq!(
            restriction(&mut facts).unwrap(),
            "NetworkPolicy lab/p restricts egress, and may apply to a server of the cluster's DNS \
             that is not a known pod"
        );
        facts.delete(Feed::Policies, &ObjectKey::new("lab", "p"));
        let deny = json!([{"action": "Deny", "to": [{"namespaces": {}}]}]);
        facts.insert(fact(cluster_policy("lab", "egress", deny)));
        assert!(restriction(&mut facts).is_some());
    }
    assert_eq!(restriction(&mut cluster([elsewhere()])), None);
}

#[test]
fn cluster_wide_policies_restrict_the_servers_that_they_select() {
    let rule = |action: &str| json!([{"action": action, "to": [{"networks": ["8.8.8.8/32"]}]}]);
    let ingress = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    for (policy, is_restricted) in [
        (cluster_policy("kube-system", "egress", rule("Deny")), true),
        (cluster_policy("shop", "egress", rule("Deny")), false),
        // A rule that accepts or passes denies nothing.
        (
            cluster_policy("kube-system", "egress", rule("Accept")),
            false,
        ),
        (cluster_policy("kube-system", "egress", rule("Pass")), false),
        (cluster_policy("kube-system", "ingress", ingress), false),
    ] {
        let mut facts = cluster([policy.clone()]);
        assert_eq!(restriction(&mut facts).is_some(), is_restricted, "{policy}");
    }
    let mut facts = cluster([cluster_policy("kube-system", "egress", rule("Deny"))]);
    assert_eq!(
        restriction(&mut facts).unwrap(),
        "ClusterNetworkPolicy p may restrict the egress of Pod kube-system/coredns-1, a server of \
         the cluster's DNS"
    );
    // The labels of the servers' Namespace aren't known.
    let mut policy = cluster_policy("kube-system", "egress", rule("Deny"));
    policy["spec"]["subject"] = json!({"namespaces": {"matchLabels": {"team": "other"}}});
    assert_eq!(restriction(&mut cluster([policy.clone()])), None);
    let objects = dns(53).into_iter().skip(1);
    assert!(restriction(&mut super::facts(objects.chain([policy]))).is_some());
    // A policy that can't be read.
    let mut unreadable = cluster_policy("shop", "egress", rule("Deny"));
    unreadable["spec"]["priority"] = json!(1001);
    assert_eq!(
        restriction(&mut cluster([unreadable])).unwrap(),
        "ClusterNetworkPolicy p (policy.networking.k8s.io) may restrict the egress of the \
         cluster's DNS, and it can't be read (spec.priority is not a number from 0 to 1000)"
    );
}

#[test]
fn policies_of_other_kinds_may_restrict_the_servers() {
    let cilium = "ciliumnetworkpolicies.cilium.io";
    for (resource, namespace, spec, is_restricted) in [
        (cilium, "kube-system", json!({"egress": []}), true),
        (cilium, "kube-system", json!({"ingress": []}), false),
        (cilium, "shop", json!({"egress": []}), false),
        (
            "globalnetworkpolicies.crd.projectcalico.org",
            "",
            json!({}),
            true,
        ),
        ("egressfirewalls.k8s.ovn.org", "shop", json!({}), false),
        (
            "egressfirewalls.k8s.ovn.org",
            "kube-system",
            json!({}),
            true,
        ),
        ("subnets.kubeovn.io", "", json!({"acls": []}), false),
    ] {
        let mut facts = cluster([]);
        facts.insert(other(resource, namespace, spec.clone()));
        let restriction = restriction(&mut facts);
        assert_eq!(
            restriction.is_some(),
            is_restricted,
            "{resource} in {namespace:?}, {spec}: {restriction:?}"
        );
    }
    let mut facts = cluster([]);
    facts.insert(other(cilium, "kube-system", json!({"egress": []})));
    assert_eq!(
        restriction(&mut facts).unwrap(),
        "CiliumNetworkPolicy kube-system/p (cilium.io) may restrict the egress of the cluster's \
         DNS, and Zerohop doesn't evaluate this kind"
    );
    // A kind that the API serves, and that has not been listed yet.
    for kind in [kind(cilium), cluster_kind("AdminNetworkPolicy").unwrap()] {
        let mut facts = cluster([]);
        facts.set_served_kinds([kind]);
        assert!(restriction(&mut facts).is_some());
        facts.start_list(Feed::OtherPolicies(kind));
        facts.finish_list(Feed::OtherPolicies(kind));
        assert_eq!(restriction(&mut facts), None);
    }
}

#[test]
fn the_restriction_follows_changes() {
    let spec = json!({
        "podSelector": {"matchLabels": {"restricted": "yes"}}, "policyTypes": ["Egress"],
    });
    let mut facts = cluster([policy_in("kube-system", spec)]);
    let mut judge = crate::ClientJudge::default();
    let served = [super::SERVED.parse().unwrap()];
    let mut is_restricted = |facts: &mut Facts| {
        let verdicts = judge.judge(facts, &served);
        verdicts.server_egress_restriction.is_some()
    };
    assert!(!is_restricted(&mut facts));
    let labels = json!({"k8s-app": "kube-dns", "restricted": "yes"});
    let server = pod("kube-system", "coredns-1", "10.244.0.9", labels);
    facts.insert(fact(server));
    assert!(is_restricted(&mut facts));
    facts.delete(Feed::Policies, &ObjectKey::new("kube-system", "p"));
    assert!(!is_restricted(&mut facts));
}
