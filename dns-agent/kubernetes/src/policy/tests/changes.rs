//! Changes of facts: verdicts after each change equal those from the same objects at once.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};
use serde_json::{Value, json};

use super::super::kinds::Reach;
use super::super::objects::Peer;
use super::super::other_policies::PolicyEffect;
use super::super::policies::{MemoryLimits, Policies};
use super::random::{APIS, agent_input, cluster};
use super::{SERVED, cluster_kind, dns, fact, pod, read, verdicts};
use crate::{ClientJudge, ClientVerdicts, Fact, Facts, Feed, ObjectKey, OtherPolicy, PolicyKind};

const SEQUENCES: u64 = 400;

/// The feeds that are listed.
fn feeds() -> Vec<Feed> {
    let mut feeds = vec![
        Feed::Policies,
        Feed::Clients,
        Feed::DnsPods,
        Feed::ClientNamespaces,
        Feed::DnsNamespace,
        Feed::DnsService,
        Feed::DnsEndpoints,
    ];
    feeds.extend(cluster_kinds().map(Feed::OtherPolicies));
    feeds
}

/// The objects that the agent has received, as the last event of each.
type Received = BTreeMap<(Feed, ObjectKey), Fact>;

#[test]
fn verdicts_after_changes_equal_those_from_the_same_objects() {
    let (mut judged, mut permitted) = (0_usize, 0_usize);
    for seed in 0..SEQUENCES {
        let mut random = StdRng::seed_from_u64(seed);
        let mut facts = facts_with_other_kinds();
        let mut judge = ClientJudge::default();
        let mut received = Received::new();
        for _ in 0..4 {
            let next = random_objects(&mut random);
            let keys: BTreeSet<_> = received.keys().chain(next.keys()).cloned().collect();
            let count = keys.len();
            let is_list = random.random_bool(0.3);
            if is_list {
                feeds().iter().for_each(|feed| facts.start_list(*feed));
            }
            for (feed, key) in keys.into_iter().sample(&mut random, count) {
                match next.get(&(feed, key.clone())) {
                    Some(fact) => {
                        facts.apply(feed, fact.clone());
                        received.insert((feed, key), fact.clone());
                    }
                    // The end of the list removes it.
                    None if is_list => {}
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
            if is_list {
                for feed in feeds() {
                    facts.finish_list(feed);
                    received.retain(|key, _| key.0 != feed || next.contains_key(key));
                    let verdicts = judge.judge(&mut facts, &[SERVED.parse().unwrap()]);
                    assert_eq!(verdicts, verdicts_of(&received), "seed {seed}, {feed:?}");
                }
            }
        }
    }
    println!("{judged} pods left out, {permitted} addresses permitted");
    assert!(judged > 1_000 && permitted > 1_000);
}

/// The verdicts from these objects, received at once.
fn verdicts_of(received: &Received) -> ClientVerdicts {
    let mut facts = facts_with_other_kinds();
    for ((feed, _), fact) in received {
        facts.apply(*feed, fact.clone());
    }
    verdicts(&mut facts)
}

/// Facts without objects. The API serves the kinds that the tests use, and has listed them.
fn facts_with_other_kinds() -> Facts {
    let mut facts = Facts::default();
    let kinds: Vec<PolicyKind> = cluster_kinds().chain([kind()]).collect();
    facts.set_served_kinds(kinds.iter().copied());
    for kind in kinds {
        facts.start_list(Feed::OtherPolicies(kind));
        facts.finish_list(Feed::OtherPolicies(kind));
    }
    facts
}

fn random_objects(random: &mut StdRng) -> Received {
    let cluster = cluster(random, &APIS);
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
                effect: PolicyEffect::Possible(reach.into_iter().choose(random).unwrap()),
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
        Some(kind) if let Some(kind) = cluster_kind(kind) => Feed::OtherPolicies(kind),
        kind => panic!("the tests use no objects of kind {kind:?}"),
    }
}

/// The kinds of cluster-wide policies whose rules are evaluated.
fn cluster_kinds() -> impl Iterator<Item = PolicyKind> {
    PolicyKind::all().filter(|kind| kind.group() == "policy.networking.k8s.io")
}

fn kind() -> PolicyKind {
    super::other_policies::kind("ciliumnetworkpolicies.cilium.io")
}

/// A policy that allows the cluster's DNS, of about this many bytes.
fn policy_of_size(namespace: &str, name: &str, bytes: usize) -> Fact {
    let block = |at: usize| format!("11.{}.{}.{}/32", at / 65536, at / 256 % 256, at % 256);
    let blocks = (0..bytes / size_of::<Peer>()).map(|at| json!({"ipBlock": {"cidr": block(at)}}));
    let all = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    let to: Vec<Value> = blocks.chain([all]).collect();
    fact(json!({
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]},
    }))
}

/// The cluster's DNS, and one pod in each of these namespaces.
fn facts_with_limits(namespaces: &[&str], limits: MemoryLimits) -> Facts {
    let mut facts = Facts::default();
    facts.policies = Policies::with_limits(limits);
    for object in dns(53) {
        facts.insert(fact(object));
    }
    for (number, namespace) in namespaces.iter().enumerate() {
        let address = format!("10.244.2.{number}");
        facts.insert(fact(pod(namespace, "web", &address, json!({}))));
    }
    facts
}

/// The namespaces of the pods that aren't answered.
fn left_out_namespaces(facts: &mut Facts) -> Vec<String> {
    let left_out = verdicts(facts).left_out.into_iter();
    let namespaces = left_out.map(|pod| pod.pod.split('/').next().unwrap().to_owned());
    namespaces.collect()
}

#[test]
fn a_namespace_with_too_many_policies_is_left_out_alone() {
    let limits = MemoryLimits::default();
    let mut facts = facts_with_limits(&["shop", "large"], limits);
    facts.insert(policy_of_size("shop", "p", 400));
    for number in 0..3 {
        let name = format!("p{number}");
        facts.insert(policy_of_size("large", &name, limits.namespace / 4));
        assert_eq!(left_out_namespaces(&mut facts), [""; 0]);
    }
    facts.insert(policy_of_size("large", "p3", limits.namespace / 4));
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    assert_eq!(
        verdicts(&mut facts).left_out.remove(0).reason,
        "the NetworkPolicies of namespace large are not evaluated, because there are or were too \
         many (at most 4 MiB in a namespace, and 32 MiB in all; if there are fewer now, restart \
         the agent), and may apply to this pod"
    );
    // A policy that is deleted leaves room, but the rules of the others aren't known any more.
    for number in 1..4 {
        let key = ObjectKey::new("large", format!("p{number}"));
        facts.delete(Feed::Policies, &key);
    }
    facts.insert(policy_of_size("large", "small", 40));
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    // After a list all rules are known again.
    facts.start_list(Feed::Policies);
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    for policy in [
        policy_of_size("large", "p0", limits.namespace / 4),
        policy_of_size("large", "small", 40),
        policy_of_size("shop", "p", 400),
    ] {
        facts.apply(Feed::Policies, policy);
        assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    }
    assert!(facts.finish_list(Feed::Policies));
    assert_eq!(left_out_namespaces(&mut facts), [""; 0]);
}

#[test]
fn the_largest_namespaces_are_left_out_if_all_policies_are_too_many() {
    let namespaces = ["shop", "one", "three", "two"];
    let limits = MemoryLimits {
        namespace: 40_000,
        all: 60_000,
    };
    let mut facts = facts_with_limits(&namespaces, limits);
    facts.insert(policy_of_size("shop", "p", 400));
    facts.insert(policy_of_size("one", "p", 10_000));
    facts.insert(policy_of_size("two", "p", 20_000));
    assert_eq!(left_out_namespaces(&mut facts), [""; 0]);
    facts.insert(policy_of_size("three", "p", 30_000));
    assert_eq!(left_out_namespaces(&mut facts), ["three"]);
    // The order of a list doesn't matter.
    facts.start_list(Feed::Policies);
    for (namespace, bytes) in [
        ("three", 30_000),
        ("two", 20_000),
        ("one", 10_000),
        ("shop", 400),
    ] {
        facts.apply(Feed::Policies, policy_of_size(namespace, "p", bytes));
    }
    facts.finish_list(Feed::Policies);
    assert_eq!(left_out_namespaces(&mut facts), ["three"]);
}

#[test]
fn policies_that_replace_others_during_a_list_leave_no_namespace_out() {
    let limits = MemoryLimits {
        namespace: 40_000,
        all: 60_000,
    };
    let mut facts = facts_with_limits(&["shop"], limits);
    facts.insert(policy_of_size("shop", "old", 30_000));
    facts.start_list(Feed::Policies);
    facts.apply(Feed::Policies, policy_of_size("shop", "new", 30_000));
    assert_eq!(left_out_namespaces(&mut facts), [""; 0]);
    facts.finish_list(Feed::Policies);
    assert_eq!(left_out_namespaces(&mut facts), [""; 0]);
    // Twice the limit is too much during a list, too.
    facts.start_list(Feed::Policies);
    for name in ["new", "newer", "newest"] {
        facts.apply(Feed::Policies, policy_of_size("shop", name, 30_000));
    }
    assert_eq!(left_out_namespaces(&mut facts), ["shop"]);
    facts.finish_list(Feed::Policies);
    assert_eq!(left_out_namespaces(&mut facts), ["shop"]);
}

#[test]
fn forgotten_policies_restrict_only_their_directions() {
    let mut facts = Facts::default();
    facts.policies = Policies::with_limits(MemoryLimits {
        namespace: 40_000,
        all: 60_000,
    });
    // The server is not a known pod, so ingress policies of any namespace may select it.
    facts.insert(fact(pod("shop", "web", "10.244.0.2", json!({}))));
    facts.insert(fact(pod("large", "web", "10.244.0.3", json!({}))));
    facts.insert(policy_of_size("large", "p", 40_000));
    assert_eq!(left_out_namespaces(&mut facts), ["large"]);
    facts.insert(fact(json!({
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "large", "name": "in"},
        "spec": {"podSelector": {}, "ingress": [{}]},
    })));
    assert_eq!(left_out_namespaces(&mut facts), ["large", "shop"]);
}

#[test]
fn a_pod_with_too_many_labels_is_left_out() {
    let labels: BTreeMap<String, String> = (0..1100)
        .map(|at| (format!("label-{at}"), "v".repeat(60)))
        .collect();
    let error = read(pod("shop", "web", "10.244.0.2", json!(labels))).unwrap_err();
    assert!(error.to_string().contains("metadata.labels"), "{error}");
    assert!(error.to_string().contains("at most 65536"), "{error}");
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
