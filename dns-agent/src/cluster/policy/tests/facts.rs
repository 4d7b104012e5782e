//! What is told and listed again, and what can't be read.

use serde_json::{Value, json};

use super::{dns, fact, facts, objection, policy, read, verdicts, web};
use crate::cluster::{Facts, Feed, Key, Verdicts};

fn deny() -> Value {
    policy(
        "deny",
        json!({"podSelector": {}, "policyTypes": ["Egress"]}),
    )
}

fn all(more: impl IntoIterator<Item = Value>) -> Facts {
    facts(dns(53).into_iter().chain([web()]).chain(more))
}

#[test]
fn a_list_takes_away_what_it_does_not_bring_at_its_end() {
    let mut facts = all([deny()]);
    facts.listing(Feed::Policies);
    assert!(objection(&facts).is_some());
    facts.listed(Feed::Policies);
    assert!(!facts.restrict());

    facts.listing(Feed::Policies);
    facts.apply(Feed::Policies, fact(deny()));
    facts.listed(Feed::Policies);
    assert!(objection(&facts).is_some());
}

#[test]
fn nothing_is_awaited_once_all_feeds_were_listed() {
    let mut facts = Facts::awaiting([Feed::Policies, Feed::Clients]);
    for (feed, left) in [
        (Feed::Clients, 1),
        (Feed::DnsService, 1),
        (Feed::Policies, 0),
    ] {
        facts.listing(feed);
        facts.listed(feed);
        assert_eq!(facts.awaited().len(), left);
    }
}

#[test]
fn a_policy_that_is_no_longer_about_egress_restricts_nobody() {
    let mut facts = all([deny()]);
    assert!(objection(&facts).is_some());
    let ingress = policy(
        "deny",
        json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
    );
    facts.apply(Feed::Policies, fact(ingress));
    assert_eq!(verdicts(&facts), Verdicts::default());
    let key = Key::new("shop", "deny");
    facts.delete(Feed::Policies, &key);
    assert!(!facts.restrict());

    // Of a direction that is unknown it may be about both.
    let unknown = policy("deny", json!({"podSelector": {}, "policyTypes": ["Other"]}));
    assert_eq!(read(unknown).unwrap_err().field, "spec.policyTypes");
    facts.unusable(Feed::Policies, key);
    assert!(objection(&facts).is_some());
}

#[test]
fn pods_of_the_dns_are_no_clients() {
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
    assert_eq!(objection(&facts), None);
    let verdicts = verdicts(&facts);
    assert_eq!(verdicts.permitted.unwrap().len(), 1);
    facts.delete(Feed::DnsPods, &Key::new("kube-system", "coredns-1"));
    assert!(objection(&facts).is_some());
}

#[test]
fn a_policy_that_can_not_be_read_is_about_everybody_in_its_namespace() {
    let other = policy(
        "other",
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}),
    );
    let mut facts = all([other]);
    assert_eq!(objection(&facts), None);
    facts.unusable(Feed::Policies, Key::new("elsewhere", "bad"));
    assert_eq!(objection(&facts), None);
    facts.unusable(Feed::Policies, Key::new("shop", "bad"));
    let reason = objection(&facts).unwrap();
    assert!(
        reason.contains("NetworkPolicy shop/bad can't be read"),
        "{reason}"
    );
    // It can be read now.
    let good = policy("bad", json!({"podSelector": {}, "egress": [{}]}));
    facts.apply(Feed::Policies, fact(good));
    assert_eq!(objection(&facts), None);
    // One of which not even the namespace is known.
    facts.unusable(Feed::Policies, Key::new("", ""));
    assert!(objection(&facts).is_some());
}

#[test]
fn policies_that_make_no_sense() {
    for (egress, field) in [
        (
            json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]),
            "spec.egress[0].to[0].ipBlock: \"10.0.0.0/33\"",
        ),
        (
            json!([{}, {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}]),
            "spec.egress[1].to[0].ipBlock: \"x\"",
        ),
        (json!([{"to": [{}]}]), "spec.egress[0].to[0]: is neither"),
        (
            json!([{"to": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
            "spec.egress[0].to[0]: is neither",
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
            json!([{"to": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}]}]),
            "podSelector: \"Is\" is no operator",
        ),
    ] {
        let problem = read(policy("bad", json!({"podSelector": {}, "egress": egress})));
        let problem = problem.unwrap_err().to_string();
        assert!(
            problem.starts_with("NetworkPolicy shop/bad: ") && problem.contains(field),
            "{problem}"
        );
    }
}
