//! Where questions go: Services, their endpoints, and addresses of which nothing is known.

use serde_json::{Value, json};

use super::{SERVED, dns, fact, facts, objection, pod, policy, read, web};
use crate::cluster::{Binds, Client, Fact, Facts, Feed, Key, NodeCache};

fn allowing(to: Value) -> Value {
    let mut rule = json!({"ports": [{"protocol": "UDP", "port": 53}]});
    rule["to"] = to;
    let mut spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [null]});
    spec["egress"][0] = rule;
    policy("dns", spec)
}

fn selecting() -> Value {
    allowing(
        json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]),
    )
}

fn everything() -> Value {
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
    policy("dns", spec)
}

/// The DNS without the object of this kind and name.
fn without(kind: &str, name: &str) -> Vec<Value> {
    let is_it = |value: &Value| value["kind"] == kind && value["metadata"]["name"] == name;
    let all: Vec<_> = dns(53).into_iter().filter(|value| !is_it(value)).collect();
    assert_eq!(all.len(), 4);
    all
}

fn with(dns: Vec<Value>, policy: Value) -> Facts {
    facts(dns.into_iter().chain([web(), policy]))
}

#[test]
fn what_is_not_known_of_the_dns_is_not_proven() {
    for (kind, name) in [
        ("Service", "kube-dns"),
        ("EndpointSlice", "kube-dns-x"),
        ("Pod", "coredns-2"),
    ] {
        let facts = with(without(kind, name), selecting());
        assert!(objection(&facts).is_some(), "{kind} {name}");
        assert_eq!(objection(&with(without(kind, name), everything())), None);
    }
    assert_eq!(objection(&with(dns(53), selecting())), None);
}

#[test]
fn without_its_namespace_object_only_the_name_is_known() {
    for (labels, may) in [
        (
            json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}),
            true,
        ),
        (json!({}), true),
        (json!({"matchLabels": {"team": "core"}}), false),
        (
            json!({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}),
            false,
        ),
        (
            json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}),
            false,
        ),
    ] {
        let to = allowing(json!([{"namespaceSelector": labels}]));
        let facts = with(without("Namespace", "kube-system"), to);
        assert_eq!(objection(&facts).is_none(), may, "{labels}");
    }
}

#[test]
fn every_server_must_be_allowed() {
    let mut dns = dns(53);
    dns[4]["metadata"]["labels"] = json!({"k8s-app": "other"});
    let reason = objection(&with(dns, selecting())).unwrap();
    assert_eq!(
        reason,
        "NetworkPolicy shop/dns does not provably let it ask 10.244.1.9:53 over UDP"
    );
}

#[test]
fn selectors_mean_nothing_for_servers_in_their_nodes_network() {
    let mut dns = dns(53);
    dns[3]["spec"]["hostNetwork"] = json!(true);
    assert!(objection(&with(dns.clone(), selecting())).is_some());
    let to = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    assert_eq!(objection(&with(dns, allowing(to))), None);
}

#[test]
fn a_slice_that_can_not_be_read_may_hold_anybody() {
    let mut facts = with(dns(53), selecting());
    facts.unusable(Feed::DnsEndpoints, Key::new("kube-system", "kube-dns-y"));
    assert!(objection(&facts).is_some());
    facts.delete(Feed::DnsEndpoints, &Key::new("kube-system", "kube-dns-y"));
    assert_eq!(objection(&facts), None);
}

#[test]
fn addresses_that_others_may_read_otherwise_may_be_anybodys() {
    let mut slice = dns(53)[2].clone();
    slice["endpoints"][1]["addresses"] = json!(["010.244.1.9"]);
    let problem = read(slice).unwrap_err();
    assert_eq!(problem.field, "endpoints");
}

#[test]
fn a_service_that_can_not_be_read_may_have_the_address() {
    let to = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    let mut facts = with(dns(53), allowing(to));
    assert_eq!(objection(&facts), None);
    facts.unusable(Feed::DnsService, Key::new("kube-system", "kube-dns"));
    assert!(objection(&facts).is_some());
}

#[test]
fn endpoints_that_are_not_ready_are_not_asked() {
    let mut dns = dns(53);
    dns[2]["endpoints"][1]["conditions"] = json!({"ready": false});
    dns[4]["metadata"]["labels"] = json!({});
    assert_eq!(objection(&with(dns.clone(), selecting())), None);
    dns[2]["endpoints"][0]["conditions"] = json!({"ready": false});
    assert!(objection(&with(dns, selecting())).is_some());
}

#[test]
fn every_served_address_must_be_allowed() {
    let to = json!([{"namespaceSelector": {}}, {"ipBlock": {"cidr": "169.254.0.0/16"}}]);
    let facts = with(dns(53), allowing(to));
    let left_out = |served: &[&str]| {
        let served: Vec<_> = served.iter().map(|text| text.parse().unwrap()).collect();
        facts.verdicts(&served).left_out.len()
    };
    // The pod itself, and nobody else is in its namespace.
    for (served, count) in [
        (&[SERVED][..], 0),
        (&[SERVED, "169.254.20.10:53"], 0),
        (&[SERVED, "192.168.0.10:53"], 1),
        (&[SERVED, "169.254.20.10:5353"], 1),
        // Endpoints, as socket load balancing addresses them.
        (&["10.244.0.9:53", "10.244.1.9:53"], 0),
        (&["10.244.7.7:53"], 1),
        // A port that the Service doesn't have.
        (&["10.96.0.10:54"], 1),
        (&[], 1),
    ] {
        assert_eq!(left_out(served), count, "{served:?}");
    }
}

/// kubernetes/kubernetes #70555: a packet to the cache's address is never replaced by one to a pod.
#[test]
fn a_node_cache_at_the_clusters_address_must_be_allowed_too() {
    let mut cache = pod("kube-system", "cache", "192.168.0.1", json!({}));
    cache["spec"] = json!({"hostNetwork": true});
    let Fact::Pod(cache) = fact(cache) else {
        panic!("a Pod is one");
    };
    let bound = |addresses: &[&str]| Client {
        node_cache: Some(Box::new(NodeCache {
            binds: Binds::Addresses(addresses.iter().map(|text| text.parse().unwrap()).collect()),
            config: Err("of a test".to_owned()),
        })),
        ..cache.clone()
    };
    let unknown = Client {
        node_cache: Some(Box::new(NodeCache::unreadable("of a test"))),
        ..cache.clone()
    };
    let both = json!([
        {"namespaceSelector": {}},
        {"ipBlock": {"cidr": "10.96.0.10/32"}},
    ]);
    for (client, with_selector) in [
        (cache.clone(), true),
        (bound(&["169.254.20.10"]), true),
        (bound(&["169.254.20.10", "10.96.0.10"]), false),
        (unknown, false),
    ] {
        for (policy, may) in [(selecting(), with_selector), (allowing(both.clone()), true)] {
            let mut facts = with(dns(53), policy);
            facts.insert(Fact::Pod(client.clone()));
            assert_eq!(objection(&facts).is_none(), may, "{:?}", client.node_cache);
        }
    }
}

#[test]
fn an_address_of_no_known_service_may_be_replaced() {
    let block = json!([{"ipBlock": {"cidr": "10.96.0.0/12"}}]);
    let facts = with(dns(53), allowing(block));
    let served = ["10.96.0.53:53".parse().unwrap()];
    assert_eq!(facts.verdicts(&served).left_out.len(), 1);
}
