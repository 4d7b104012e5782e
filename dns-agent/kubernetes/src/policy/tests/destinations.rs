//! The destinations of queries: Services, their endpoints, node caches, and unknown addresses.
//!
//! The objects of `dns` by index: 2 is the EndpointSlice, 3 and 4 are the Pods.

use serde_json::{Value, json};

use super::{
    PROTOCOLS, QueryProtocol, SERVED, answered_protocols, dns, fact, facts, judge, objection,
    objection_over, pod, policy, read, verdicts, web,
};
use crate::{CacheAddresses, ClientVerdicts, Fact, Facts, Feed, NodeCache, ObjectKey, PolicyPod};

/// A policy that allows queries over both protocols to these peers at port 53.
fn allowing(to: Value) -> Value {
    let mut rule = json!({"ports": [{"protocol": "UDP", "port": 53}, {"port": 53}]});
    rule["to"] = to;
    let mut spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [null]});
    spec["egress"][0] = rule;
    policy("dns", spec)
}

/// A policy that allows queries to pods with a label of the DNS pods, in any namespace.
fn selecting() -> Value {
    allowing(
        json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]),
    )
}

/// A policy that allows all egress.
fn everything() -> Value {
    let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
    policy("dns", spec)
}

/// The objects of the cluster's DNS without the object of this kind and name.
fn without(kind: &str, name: &str) -> Vec<Value> {
    let is_removed = |value: &Value| value["kind"] == kind && value["metadata"]["name"] == name;
    let objects = dns(53).into_iter();
    let objects: Vec<_> = objects.filter(|value| !is_removed(value)).collect();
    assert_eq!(
        objects.len(),
        4,
        "dns() has 5 objects, one of them {kind} {name}"
    );
    objects
}

/// The facts of a cluster with these DNS objects, `shop/web` and this policy.
fn cluster_with(dns: Vec<Value>, policy: Value) -> Facts {
    facts(dns.into_iter().chain([web(), policy]))
}

#[test]
fn selectors_prove_nothing_if_parts_of_the_cluster_dns_are_unknown() {
    for (kind, name) in [
        ("Service", "kube-dns"),
        ("EndpointSlice", "kube-dns-x"),
        ("Pod", "coredns-2"),
    ] {
        let mut facts = cluster_with(without(kind, name), selecting());
        assert_eq!(answered_protocols(&mut facts), [], "without {kind} {name}");
        let mut facts = cluster_with(without(kind, name), everything());
        let answered = answered_protocols(&mut facts);
        assert_eq!(answered, PROTOCOLS, "without {kind} {name}");
    }
    let mut facts = cluster_with(dns(53), selecting());
    assert_eq!(answered_protocols(&mut facts), PROTOCOLS);
}

/// The Service lacks a port of one protocol, or its slices do.
#[test]
fn servers_are_unknown_over_a_protocol_for_which_the_service_has_no_port() {
    for (missing, answered) in [("TCP", QueryProtocol::Udp), ("UDP", QueryProtocol::Tcp)] {
        for (at, field) in [(1, "/spec/ports"), (2, "/ports")] {
            let mut dns = dns(53);
            let ports = dns[at].pointer_mut(field).unwrap().as_array_mut().unwrap();
            ports.retain(|port| port["protocol"] != missing);
            let mut facts = cluster_with(dns.clone(), selecting());
            assert_eq!(answered_protocols(&mut facts), [answered], "{field}");
            // The policy allows every destination.
            let mut facts = cluster_with(dns.clone(), everything());
            assert_eq!(answered_protocols(&mut facts), PROTOCOLS, "{field}");
            // No policy is in play, and then one in another namespace than that of the pod.
            let mut facts = super::facts(dns.into_iter().chain([web()]));
            assert_eq!(verdicts(&mut facts), ClientVerdicts::default());
            let mut elsewhere = selecting();
            elsewhere["metadata"]["namespace"] = json!("lab");
            facts.insert(fact(elsewhere));
            assert_eq!(answered_protocols(&mut facts), PROTOCOLS, "{field}");
        }
    }
}

/// The port of a Service leads to the port of the slices with the same name and protocol.
#[test]
fn each_protocol_has_its_own_target_port() {
    let mut dns = dns(53);
    for port in dns[2]["ports"].as_array_mut().unwrap() {
        if port["protocol"] == "TCP" {
            port["port"] = json!(1053);
        }
    }
    let to = |ports: Value| {
        let mut rule = json!({"to": [{"namespaceSelector": {}}]});
        rule["ports"] = ports;
        policy("dns", json!({"podSelector": {}, "egress": [rule]}))
    };
    for (ports, answered) in [
        (
            json!([{"protocol": "UDP", "port": 53}, {"port": 53}]),
            &[QueryProtocol::Udp][..],
        ),
        (
            json!([{"protocol": "UDP", "port": 1053}, {"port": 1053}]),
            &[QueryProtocol::Tcp],
        ),
        (
            json!([{"protocol": "UDP", "port": 53}, {"port": 1053}]),
            &PROTOCOLS,
        ),
        // The pod's name for the TCP port 53, which isn't the target port.
        (json!([{"port": "dns-tcp"}]), &[]),
    ] {
        let mut facts = cluster_with(dns.clone(), to(ports.clone()));
        assert_eq!(answered_protocols(&mut facts), answered, "{ports}");
    }
}

#[test]
fn an_unknown_dns_namespace_matches_by_its_name_only() {
    for (labels, is_allowed) in [
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
        let mut facts = cluster_with(without("Namespace", "kube-system"), to);
        assert_eq!(objection(&mut facts).is_none(), is_allowed, "{labels}");
    }
}

#[test]
fn every_server_must_be_allowed() {
    let mut dns = dns(53);
    dns[4]["metadata"]["labels"] = json!({"k8s-app": "other"});
    let mut facts = cluster_with(dns, selecting());
    for protocol in PROTOCOLS {
        let reason = objection_over(protocol, &mut facts).unwrap();
        assert_eq!(
            reason,
            format!(
                "NetworkPolicy shop/dns does not provably let this pod reach 10.244.1.9:53 over \
                 {protocol}"
            )
        );
    }
}

#[test]
fn selectors_do_not_match_servers_in_the_host_network() {
    let mut dns = dns(53);
    dns[3]["spec"]["hostNetwork"] = json!(true);
    assert!(objection(&mut cluster_with(dns.clone(), selecting())).is_some());
    let to = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    assert_eq!(objection(&mut cluster_with(dns, allowing(to))), None);
}

#[test]
fn an_unreadable_slice_may_hold_any_server() {
    let mut facts = cluster_with(dns(53), selecting());
    facts.mark_unreadable(
        Feed::DnsEndpoints,
        &ObjectKey::new("kube-system", "kube-dns-y"),
    );
    assert!(objection(&mut facts).is_some());
    facts.delete(
        Feed::DnsEndpoints,
        &ObjectKey::new("kube-system", "kube-dns-y"),
    );
    assert_eq!(objection(&mut facts), None);
}

#[test]
fn a_slice_with_ambiguous_addresses_is_an_error() {
    let mut slice = dns(53)[2].clone();
    slice["endpoints"][1]["addresses"] = json!(["010.244.1.9"]);
    let problem = read(slice).unwrap_err();
    assert_eq!(problem.field, "endpoints");
}

#[test]
fn an_unreadable_service_may_have_the_address() {
    let to = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    let mut facts = cluster_with(dns(53), allowing(to));
    assert_eq!(objection(&mut facts), None);
    facts.mark_unreadable(Feed::DnsService, &ObjectKey::new("kube-system", "kube-dns"));
    assert!(objection(&mut facts).is_some());
}

#[test]
fn unready_endpoints_receive_no_queries() {
    let mut dns = dns(53);
    dns[2]["endpoints"][1]["conditions"] = json!({"ready": false});
    dns[4]["metadata"]["labels"] = json!({});
    assert_eq!(objection(&mut cluster_with(dns.clone(), selecting())), None);
    dns[2]["endpoints"][0]["conditions"] = json!({"ready": false});
    assert!(objection(&mut cluster_with(dns, selecting())).is_some());
}

#[test]
fn every_served_address_must_be_allowed() {
    let to = json!([{"namespaceSelector": {}}, {"ipBlock": {"cidr": "169.254.0.0/16"}}]);
    let mut facts = cluster_with(dns(53), allowing(to));
    let mut left_out = |served: &[&str]| {
        let served: Vec<_> = served.iter().map(|text| text.parse().unwrap()).collect();
        judge(&mut facts, &served).left_out.len()
    };
    // `count` is 1 if `shop/web` isn't answered. No policy applies to the other pods.
    for (served, count) in [
        (&[SERVED][..], 0),
        (&[SERVED, "169.254.20.10:53"], 0),
        (&[SERVED, "192.168.0.10:53"], 1),
        (&[SERVED, "169.254.20.10:5353"], 1),
        // With socket load balancing, queries have the address of an endpoint.
        (&["10.244.0.9:53", "10.244.1.9:53"], 0),
        (&["10.244.7.7:53"], 1),
        // The Service lacks this port.
        (&["10.96.0.10:54"], 1),
        // No address of the cluster's DNS is known.
        (&[], 1),
    ] {
        assert_eq!(left_out(served), count, "{served:?}");
    }
}

/// Packets to a node cache's address are never translated to the address of a pod
/// (kubernetes/kubernetes #70555).
#[test]
fn a_node_cache_at_the_cluster_ip_must_be_allowed_too() {
    let mut cache = pod("kube-system", "cache", "192.168.0.1", json!({}));
    cache["spec"] = json!({"hostNetwork": true});
    let Fact::Pod(cache) = fact(cache) else {
        panic!("the Pod is read as another fact");
    };
    let bound = |addresses: &[&str]| PolicyPod {
        node_cache: Some(Box::new(NodeCache {
            addresses: CacheAddresses::Known(
                addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ),
            config: Err("the test needs none".to_owned()),
        })),
        ..cache.clone()
    };
    let unknown = PolicyPod {
        node_cache: Some(Box::new(NodeCache::unreadable("the test needs none"))),
        ..cache.clone()
    };
    let both = json!([
        {"namespaceSelector": {}},
        {"ipBlock": {"cidr": "10.96.0.10/32"}},
    ]);
    for (cache_pod, is_selector_enough) in [
        (cache.clone(), true),
        (bound(&["169.254.20.10"]), true),
        (bound(&["169.254.20.10", "10.96.0.10"]), false),
        (unknown, false),
    ] {
        let policies = [
            (selecting(), is_selector_enough),
            (allowing(both.clone()), true),
        ];
        for (policy, is_allowed) in policies {
            let mut facts = cluster_with(dns(53), policy);
            facts.insert(Fact::Pod(cache_pod.clone()));
            let node_cache = &cache_pod.node_cache;
            let answered = answered_protocols(&mut facts);
            let expected = if is_allowed { &PROTOCOLS[..] } else { &[] };
            assert_eq!(answered, expected, "{node_cache:?}");
        }
    }
}

#[test]
fn an_address_without_a_known_service_may_be_translated() {
    let block = json!([{"ipBlock": {"cidr": "10.96.0.0/12"}}]);
    let mut facts = cluster_with(dns(53), allowing(block));
    let served = ["10.96.0.53:53".parse().unwrap()];
    assert_eq!(judge(&mut facts, &served).left_out.len(), 1);
}
