//! Clients: this node's pods and their addresses.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use super::{dns, facts, pod, policy, verdicts, web};
use crate::ClientVerdicts;

/// A policy that denies all egress of pods with the label `app: web` in the namespace `shop`.
fn deny() -> Value {
    policy(
        "deny",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}),
    )
}

/// The verdicts in a cluster with these pods and policies. The DNS pods must be permitted, and are
/// removed from the result.
fn judge_pods(objects: impl IntoIterator<Item = Value>) -> ClientVerdicts {
    let mut verdicts = verdicts(&mut facts(dns(53).into_iter().chain(objects)));
    if let Some(permitted) = &mut verdicts.permitted {
        for dns in ["10.244.0.9", "10.244.1.9"] {
            let is_permitted = permitted.remove(&dns.parse().unwrap());
            assert!(is_permitted, "the DNS pod {dns} is not permitted");
        }
    }
    verdicts
}

/// The permitted addresses, in the form of [`ClientVerdicts::permitted`].
fn addresses(list: &[&str]) -> Option<BTreeSet<IpAddr>> {
    Some(list.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn every_pod_may_query_without_an_egress_policy() {
    let ingress = policy("in", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    assert_eq!(judge_pods([web(), ingress]), ClientVerdicts::default());
}

#[test]
fn a_pod_that_no_policy_selects_may_query() {
    let db = pod("shop", "db", "10.244.0.3", json!({"app": "db"}));
    let elsewhere = pod("other", "web", "10.244.0.4", json!({"app": "web"}));
    let verdicts = judge_pods([web(), db, elsewhere, deny()]);
    assert_eq!(verdicts.permitted, addresses(&["10.244.0.3", "10.244.0.4"]));
    let [left_out] = &verdicts.left_out[..] else {
        panic!("not exactly one pod is left out: {verdicts:?}");
    };
    assert_eq!(left_out.pod, "shop/web");
    assert_eq!(
        left_out.addresses,
        ["10.244.0.2".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        left_out.reason,
        "NetworkPolicy shop/deny does not provably let this pod reach 10.244.0.9:53 over UDP"
    );
}

#[test]
fn every_address_of_a_pod_is_permitted() {
    let mut db = pod("shop", "db", "10.244.0.3", json!({}));
    db["status"]["podIPs"] = json!([{"ip": "10.244.0.3"}, {"ip": "fd00::3"}]);
    assert_eq!(
        judge_pods([db, deny()]).permitted,
        addresses(&["10.244.0.3", "fd00::3"])
    );
}

#[test]
fn pods_without_a_veth_or_an_address_are_not_judged() {
    let mut on_host = web();
    on_host["spec"] = json!({"hostNetwork": true});
    let mut ended = web();
    ended["status"]["phase"] = json!("Succeeded");
    let mut failed = web();
    failed["status"]["phase"] = json!("Failed");
    let mut pending = web();
    pending["status"] = json!({"phase": "Pending"});
    for pod in [on_host, ended, failed, pending] {
        let verdicts = judge_pods([pod.clone(), deny()]);
        assert_eq!(verdicts.permitted, addresses(&[]), "{pod}");
        assert_eq!(verdicts.left_out, [], "{pod}");
    }
}

#[test]
fn an_ending_pod_is_not_permitted() {
    let db = pod("shop", "db", "10.244.0.3", json!({}));
    let mut deleted = db.clone();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut lost = db.clone();
    lost["status"]["phase"] = json!("Unknown");
    assert_eq!(
        judge_pods([db, deny()]).permitted,
        addresses(&["10.244.0.3"])
    );
    for pod in [deleted, lost] {
        let verdicts = judge_pods([pod.clone(), deny()]);
        assert_eq!(verdicts.permitted, addresses(&[]), "{pod}");
        assert!(
            verdicts.left_out[0].reason.contains("deleted"),
            "another reason: {verdicts:?}"
        );
    }
}

#[test]
fn an_address_claimed_by_two_pods_is_permitted_for_neither() {
    let old = pod("other", "old", "10.244.0.2", json!({}));
    let verdicts = judge_pods([web(), old.clone(), deny()]);
    assert_eq!(verdicts.permitted, addresses(&[]));
    assert!(
        verdicts.left_out[0]
            .reason
            .contains("Pod shop/web has the address"),
        "another reason: {verdicts:?}"
    );
    // The old pod has ended. Without any policy, `permitted` would be `None`.
    let mut ended = old;
    ended["status"]["phase"] = json!("Succeeded");
    let allow = policy("allow", json!({"podSelector": {}, "egress": [{}]}));
    assert_eq!(
        judge_pods([web(), ended, allow]).permitted,
        addresses(&["10.244.0.2"])
    );
}
