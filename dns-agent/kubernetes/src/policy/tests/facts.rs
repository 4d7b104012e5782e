//! Lists, updates and unreadable objects.

use serde_json::{Value, json};

use super::{PROTOCOLS, dns, fact, facts, objection, objection_over, policy, read, verdicts, web};
use crate::{ClientVerdicts, Facts, Feed, ObjectKey};

/// A policy that denies all egress in the namespace `shop`.
fn deny() -> Value {
    policy(
        "deny",
        json!({"podSelector": {}, "policyTypes": ["Egress"]}),
    )
}

fn cluster_with(policies: impl IntoIterator<Item = Value>) -> Facts {
    facts(dns(53).into_iter().chain([web()]).chain(policies))
}

#[test]
fn the_end_of_a_list_removes_objects_that_it_did_not_return() {
    let mut facts = cluster_with([deny()]);
    facts.start_list(Feed::Policies);
    assert!(objection(&mut facts).is_some());
    facts.finish_list(Feed::Policies);
    assert!(!facts.may_restrict());

    facts.start_list(Feed::Policies);
    facts.apply(Feed::Policies, fact(deny()));
    facts.finish_list(Feed::Policies);
    assert!(objection(&mut facts).is_some());
}

#[test]
fn no_feed_is_awaited_after_all_required_feeds_were_listed() {
    let mut facts = Facts::awaiting([Feed::Policies, Feed::Clients]);
    for (feed, awaited) in [
        (Feed::Clients, 1),
        // This feed is not required.
        (Feed::DnsService, 1),
        (Feed::Policies, 0),
    ] {
        facts.start_list(feed);
        facts.finish_list(feed);
        assert_eq!(facts.awaited().len(), awaited, "after {feed:?}");
    }
}

#[test]
fn a_policy_that_no_longer_covers_egress_restricts_no_pod() {
    let mut facts = cluster_with([deny()]);
    assert!(objection(&mut facts).is_some());
    let ingress = policy(
        "deny",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    );
    facts.apply(Feed::Policies, fact(ingress));
    assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
    let key = ObjectKey::new("shop", "deny");
    facts.delete(Feed::Policies, &key);
    assert!(!facts.may_restrict());

    // A policy with an unknown type may restrict both directions.
    let unknown = policy("deny", json!({"podSelector": {}, "policyTypes": ["Other"]}));
    assert_eq!(read(unknown).unwrap_err().field, "spec.policyTypes");
    facts.mark_unreadable(Feed::Policies, &key);
    assert!(objection(&mut facts).is_some());
}

#[test]
fn dns_pods_are_not_clients() {
    let mut facts = Facts::default();
    for value in dns(53) {
        match value["kind"].as_str() {
            Some("Pod") => {
                facts.apply(Feed::DnsPods, fact(value));
            }
            _ => facts.insert(fact(value)),
        }
    }
    facts.insert(fact(web()));
    let to_pods = json!({"podSelector": {}, "egress": [{"to": [{"namespaceSelector": {}}]}]});
    facts.insert(fact(policy("dns", to_pods)));
    assert_eq!(objection(&mut facts), None);
    let verdicts = verdicts(&mut facts);
    assert_eq!(verdicts.permitted.unwrap().len(), 1);
    facts.delete(Feed::DnsPods, &ObjectKey::new("kube-system", "coredns-1"));
    assert!(objection(&mut facts).is_some());
}

#[test]
fn an_unreadable_policy_applies_to_every_pod_in_its_namespace() {
    let other = policy(
        "other",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}),
    );
    let mut facts = cluster_with([other]);
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("elsewhere", "bad"));
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("shop", "bad"));
    for protocol in PROTOCOLS {
        let reason = objection_over(protocol, &mut facts).unwrap();
        assert!(
            reason.contains("NetworkPolicy shop/bad can't be read"),
            "another reason: {reason}"
        );
    }
    // The policy becomes readable.
    let good = policy("bad", json!({"podSelector": {}, "egress": [{}]}));
    facts.apply(Feed::Policies, fact(good));
    assert_eq!(objection(&mut facts), None);
    // The namespace of this policy is unknown.
    facts.mark_unreadable(Feed::Policies, &ObjectKey::new("", ""));
    assert!(objection(&mut facts).is_some());
}

#[test]
fn invalid_policies_are_errors() {
    for (egress, field) in [
        (
            json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]),
            "spec.egress[0].to[0].ipBlock: \"10.0.0.0/33\"",
        ),
        (
            json!([{}, {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}]),
            "spec.egress[1].to[0].ipBlock: \"x\"",
        ),
        (json!([{"to": [{}]}]), "spec.egress[0].to[0]: has neither"),
        (
            json!([{"to": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
            "spec.egress[0].to[0]: has neither",
        ),
        (
            json!([{"ports": [{"protocol": "UDP", "port": 70000}]}]),
            "spec.egress[0].ports[0]: 70000",
        ),
        (
            json!([{"ports": [{"protocol": "UDP", "port": "dns", "endPort": 60}]}]),
            "endPort",
        ),
        (
            json!([{
                "to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]
            }]),
            "podSelector: \"Is\" for the label \"a\" is not an operator",
        ),
    ] {
        let problem = read(policy("bad", json!({"podSelector": {}, "egress": egress})));
        let problem = problem.unwrap_err().to_string();
        assert!(
            problem.starts_with("NetworkPolicy shop/bad: ") && problem.contains(field),
            "{problem} is not about shop/bad, or lacks {field}"
        );
    }
}
