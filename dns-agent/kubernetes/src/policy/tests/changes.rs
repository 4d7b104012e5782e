//! Changes of facts: verdicts after each change equal those from the same objects at once.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};
use serde_json::{Value, json};

use super::super::policies::{MAX_MEMORY, MAX_NAMESPACE_MEMORY};
use super::random::{agent_input, cluster};
use super::{SERVED, dns, fact, pod, verdicts};
use crate::{
    ClientJudge, ClientVerdicts, Fact, Facts, Feed, ObjectKey, OtherPolicy, PolicyKind, Reach,
};

const SEQUENCES: u64 = 400;

/// The objects that the agent has received, as the last event of each.
type Received = BTreeMap<(Feed, ObjectKey), Fact>;

#[test]
fn verdicts_after_changes_equal_those_from_the_same_objects() {
    let (mut judged, mut permitted) = (0_usize, 0_usize);
    for seed in 0..SEQUENCES {
        let mut random = StdRng::seed_from_u64(seed);
        let mut facts = facts_with_other_kind();
        let mut judge = ClientJudge::default();
        let mut received = Received::new();
        for _ in 0..4 {
            let next = random_objects(&mut random);
            let keys: BTreeSet<_> = received.keys().chain(next.keys()).cloned().collect();
            let count = keys.len();
            for (feed, key) in keys.into_iter().sample(&mut random, count) {
                match next.get(&(feed, key.clone())) {
                    Some(fact) => {
                        facts.apply(feed, fact.clone());
                        received.insert((feed, key), fact.clone());
                    }
                    None => {
                        facts.delete(feed, &key);
                        received.remove(&(feed, key));
                    }
                }
                if random.random_bool(0.5) {
                    let verdicts = judge.judge(&mut facts, &[SERVED.parse().unwrap()]);
                    judged += verdicts.left_out.len();
                    permitted += verdicts.permitted.as_ref().map_or(0, BTreeSet::len);
                    assert_eq!(verdicts, verdicts_of(&received), "seed {seed}");
                }
            }
        }
    }
    println!("{judged} pods left out, {permitted} addresses permitted");
    assert!(judged > 1_000 && permitted > 1_000);
}

/// The verdicts from these objects, received at once.
fn verdicts_of(received: &Received) -> ClientVerdicts {
    let mut facts = facts_with_other_kind();
    for ((feed, _), fact) in received {
        facts.apply(*feed, fact.clone());
    }
    verdicts(&mut facts)
}

/// Facts without objects. The API serves one kind that is not evaluated, and has listed it.
fn facts_with_other_kind() -> Facts {
    let mut facts = Facts::default();
    facts.set_served_kinds([kind()]);
    facts.start_list(Feed::OtherPolicies(kind()));
    facts.finish_list(Feed::OtherPolicies(kind()));
    facts
}

fn random_objects(random: &mut StdRng) -> Received {
    let cluster = cluster(random);
    let input = agent_input(random, &cluster);
    let mut received = Received::new();
    let mut insert = |feed: Feed, fact: Fact| {
        received.insert((feed, fact.key().clone()), fact);
    };
    for object in &input.objects {
        let feed = feed_of(object);
        let fact = fact(object.clone());
        let key = fact.key().clone();
        if feed == Feed::Policies && random.random_bool(0.03) {
            insert(feed, Fact::Unreadable { feed, key });
            continue;
        }
        if feed == Feed::ClientNamespaces && &*key.name == "kube-system" {
            insert(Feed::DnsNamespace, fact.clone());
        }
        insert(feed, fact);
    }
    for server in &input.servers {
        insert(Feed::DnsPods, fact(server.clone()));
    }
    if random.random_bool(0.03) {
        let (feed, key) = (Feed::Policies, ObjectKey::new("", ""));
        insert(feed, Fact::Unreadable { feed, key });
    }
    for namespace in ["", "shop", "lab", "kube-system"] {
        if random.random_bool(0.05) {
            let reach = [Reach::Nothing, Reach::Ingress, Reach::Both];
            let policy = OtherPolicy {
                kind: kind(),
                key: ObjectKey::new(namespace, "other"),
                reach: reach.into_iter().choose(random).unwrap(),
            };
            insert(Feed::OtherPolicies(kind()), Fact::OtherPolicy(policy));
        }
    }
    received
}

fn feed_of(object: &Value) -> Feed {
    match object["kind"].as_str() {
        Some("NetworkPolicy") => Feed::Policies,
        Some("Pod") => Feed::Clients,
        Some("Namespace") => Feed::ClientNamespaces,
        Some("Service") => Feed::DnsService,
        Some("EndpointSlice") => Feed::DnsEndpoints,
        kind => panic!("the tests use no objects of kind {kind:?}"),
    }
}

fn kind() -> PolicyKind {
    super::other_policies::kind("ciliumnetworkpolicies.cilium.io")
}

/// A policy that allows the served address and these many other addresses.
fn blocks(namespace: &str, name: &str, count: usize) -> Fact {
    let blocks = (0..count).map(|at| {
        let cidr = format!("11.{}.{}.{}/32", at / 65536, at / 256 % 256, at % 256);
        json!({"ipBlock": {"cidr": cidr}})
    });
    let all = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    let to: Vec<Value> = blocks.chain([all]).collect();
    fact(json!({
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]},
    }))
}

/// The namespaces of the pods that aren't answered.
fn left_out_namespaces(facts: &mut Facts) -> Vec<String> {
    let left_out = verdicts(facts).left_out.into_iter();
    let namespaces = left_out.map(|pod| pod.pod.split('/').next().unwrap().to_owned());
    namespaces.collect()
}

#[test]
fn a_namespace_with_too_many_policies_is_left_out_alone() {
    let mut facts = Facts::default();
    for object in dns(53) {
        facts.insert(fact(object));
    }
    facts.insert(fact(pod("shop", "web", "10.244.0.2", json!({}))));
    facts.insert(fact(pod("large", "web", "10.244.0.3", json!({}))));
    facts.insert(blocks("shop", "p", 10));
    let count = MAX_NAMESPACE_MEMORY / 40 / 8;
    let mut number = 0;
    while left_out_namespaces(&mut facts).is_empty() {
        assert!(
            number < 8,
            "8 policies take {MAX_NAMESPACE_MEMORY} bytes or less"
        );
        facts.insert(blocks("large", &format!("p{number}"), count));
        number += 1;
    }
    assert!(number > 2, "{number} policies are too many");
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    let reason = verdicts(&mut facts).left_out.remove(0).reason;
    assert_eq!(
        reason,
        "NetworkPolicy large/p0 isn't evaluated, because its namespace has too many policies (at \
         most 4 MiB in a namespace, and 32 MiB in all), and may apply to this pod"
    );
    // A policy that is deleted leaves room, but the rules of the others aren't known any more.
    for number in 1..number {
        facts.delete(
            Feed::Policies,
            &ObjectKey::new("large", format!("p{number}")),
        );
    }
    facts.insert(blocks("large", "small", 1));
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    // A list has all rules again.
    let mut listed = facts.clone();
    listed.start_list(Feed::Policies);
    assert_eq!(left_out_namespaces(&mut listed), ["large"]);
    for policy in [
        blocks("large", "p0", count),
        blocks("large", "small", 1),
        blocks("shop", "p", 10),
    ] {
        listed.apply(Feed::Policies, policy);
    }
    assert_eq!(left_out_namespaces(&mut listed), [""; 0]);
    listed.finish_list(Feed::Policies);
    assert_eq!(left_out_namespaces(&mut listed), [""; 0]);
    // So has a namespace that has lost all its policies.
    for name in ["p0", "small"] {
        facts.delete(Feed::Policies, &ObjectKey::new("large", name));
    }
    facts.insert(blocks("large", "small", 1));
    assert_eq!(left_out_namespaces(&mut facts), [""; 0]);
}

#[test]
fn forgotten_policies_restrict_only_their_directions() {
    let mut facts = Facts::default();
    // The server is not a known pod, so ingress policies of any namespace may select it.
    facts.insert(fact(pod("shop", "web", "10.244.0.2", json!({}))));
    facts.insert(fact(pod("large", "web", "10.244.0.3", json!({}))));
    facts.insert(fact(json!({
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "large", "name": "in"},
        "spec": {"podSelector": {}, "ingress": [{}]},
    })));
    let count = MAX_NAMESPACE_MEMORY / 40;
    facts.insert(blocks("large", "p", count));
    assert_eq!(left_out_namespaces(&mut facts), ["large", "shop"]);
    facts.delete(Feed::Policies, &ObjectKey::new("large", "in"));
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    let mut ingress = blocks("large", "p", count);
    if let Fact::Policy(policy) = &mut ingress {
        policy.ingress = policy.egress.take();
    }
    facts.delete(Feed::Policies, &ObjectKey::new("large", "p"));
    facts.insert(ingress);
    assert_eq!(left_out_namespaces(&mut facts), ["large", "shop"]);
}

#[test]
fn the_largest_namespace_is_left_out_if_all_have_too_many_policies() {
    let mut facts = Facts::default();
    for object in dns(53) {
        facts.insert(fact(object));
    }
    facts.insert(fact(pod("shop", "web", "10.244.0.2", json!({}))));
    facts.insert(blocks("shop", "p", 10));
    let count = MAX_NAMESPACE_MEMORY / 40 / 4;
    let most = MAX_MEMORY / (count * 40) + 2;
    for number in 0..most {
        let namespace = format!("large-{number}");
        let address = format!("10.244.2.{number}");
        facts.insert(fact(pod(&namespace, "web", &address, json!({}))));
        facts.insert(blocks(&namespace, "p", count + number));
    }
    let left_out = left_out_namespaces(&mut facts);
    assert!(
        !left_out.is_empty() && left_out.len() < most,
        "{left_out:?}"
    );
    assert!(
        left_out
            .iter()
            .all(|namespace| namespace.starts_with("large"))
    );
    // The last policy does not cost a small namespace its answers.
    facts.insert(blocks("shop", "q", 10));
    assert_eq!(left_out_namespaces(&mut facts), left_out);
}

#[test]
fn a_reason_names_few_policies() {
    let mut facts = Facts::default();
    for object in dns(53) {
        facts.insert(fact(object));
    }
    facts.insert(fact(pod("shop", "web", "10.244.0.2", json!({}))));
    for number in 0..7 {
        facts.insert(fact(json!({
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": format!("p{number}")},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"]},
        })));
    }
    assert_eq!(
        verdicts(&mut facts).left_out[0].reason,
        "NetworkPolicy shop/p0, shop/p1, shop/p2, shop/p3, shop/p4 and 2 more do not provably let \
         this pod reach 10.244.0.9:53 over UDP"
    );
}
