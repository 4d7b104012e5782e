//! Egress rules, as Kubernetes defines them. The client is the pod `shop/web`. The DNS pods are
//! 10.244.0.9 and 10.244.1.9 in `kube-system`, behind the ClusterIP 10.96.0.10.

use serde_json::{Value, json};

use super::{PROTOCOLS, QueryProtocol, may_query};

/// The spec of a policy with this egress rule for every pod in its namespace.
fn allowing(rule: Value) -> Value {
    let mut policy = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [null]});
    policy["egress"][0] = rule;
    policy
}

/// The spec of a policy that allows queries over both protocols to these peers at port 53.
fn to(peers: Value) -> Value {
    let mut rule = json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]});
    rule["to"] = peers;
    allowing(rule)
}

/// The spec of a policy that allows queries to every peer at these ports.
fn ports(ports: Value) -> Value {
    let mut rule = json!({});
    rule["ports"] = ports;
    allowing(rule)
}

/// Checks whether a policy with this spec allows queries, over each protocol.
fn check_both(spec: &Value, is_allowed: bool, case: &str) {
    for protocol in PROTOCOLS {
        let specs = [spec.clone()];
        let is_answered = may_query(protocol, 53, &specs);
        assert_eq!(is_answered, is_allowed, "{case}, over {protocol}");
    }
}

#[test]
fn types_and_selectors_decide_which_pods_are_restricted() {
    for (case, spec, is_allowed) in [
        (
            "deny all egress",
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            false,
        ),
        (
            "both directions, without rules",
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": []}),
            false,
        ),
        (
            "ingress only",
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            true,
        ),
        ("ingress by default", json!({"podSelector": {}}), true),
        (
            "ingress by default, with an empty list",
            json!({"podSelector": {}, "egress": []}),
            true,
        ),
        (
            "egress rules without the type Egress",
            json!({
                "podSelector": {},
                "policyTypes": ["Ingress"],
                "egress": [{"to": [{"podSelector": {}}]}]
            }),
            true,
        ),
        (
            "egress by default, because of its rules",
            json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]}),
            false,
        ),
        (
            "allow all egress",
            json!({"podSelector": {}, "egress": [{}]}),
            true,
        ),
        (
            "selects other pods",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}),
            true,
        ),
        (
            "selects this pod",
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}),
            false,
        ),
        (
            "two labels that both match",
            json!({
                "podSelector": {"matchLabels": {"app": "web", "tier": "front"}},
                "policyTypes": ["Egress"]
            }),
            false,
        ),
        (
            "two labels, one of which matches",
            json!({
                "podSelector": {"matchLabels": {"app": "web", "tier": "back"}},
                "policyTypes": ["Egress"]
            }),
            true,
        ),
        (
            "In",
            json!({
                "podSelector": {
                    "matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]
                },
                "policyTypes": ["Egress"]
            }),
            false,
        ),
        (
            "In without the value",
            json!({
                "podSelector": {
                    "matchExpressions": [{"key": "app", "operator": "In", "values": ["db"]}]
                },
                "policyTypes": ["Egress"]
            }),
            true,
        ),
        (
            "NotIn without the value",
            json!({
                "podSelector": {
                    "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]
                },
                "policyTypes": ["Egress"]
            }),
            false,
        ),
        (
            "NotIn without the label",
            json!({
                "podSelector": {
                    "matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]
                },
                "policyTypes": ["Egress"]
            }),
            false,
        ),
        (
            "NotIn with the value",
            json!({
                "podSelector": {
                    "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]
                },
                "policyTypes": ["Egress"]
            }),
            true,
        ),
        (
            "Exists",
            json!({
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
                "policyTypes": ["Egress"]
            }),
            false,
        ),
        (
            "Exists without the label",
            json!({
                "podSelector": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
                "policyTypes": ["Egress"]
            }),
            true,
        ),
        (
            "DoesNotExist without the label",
            json!({
                "podSelector": {"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]},
                "policyTypes": ["Egress"]
            }),
            false,
        ),
        (
            "DoesNotExist with the label",
            json!({
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]},
                "policyTypes": ["Egress"]
            }),
            true,
        ),
    ] {
        check_both(&spec, is_allowed, case);
    }
}

#[test]
fn ports_decide_whether_a_query_is_allowed() {
    let udp = &[QueryProtocol::Udp][..];
    let tcp = &[QueryProtocol::Tcp][..];
    for (case, spec, allowed) in [
        ("all", allowing(json!({})), &PROTOCOLS[..]),
        ("all, as an empty list", ports(json!([])), &PROTOCOLS),
        ("53", ports(json!([{"protocol": "UDP", "port": 53}])), udp),
        ("TCP is the default", ports(json!([{"port": 53}])), tcp),
        ("TCP", ports(json!([{"protocol": "TCP", "port": 53}])), tcp),
        ("SCTP", ports(json!([{"protocol": "SCTP"}])), &[]),
        ("all UDP ports", ports(json!([{"protocol": "UDP"}])), udp),
        ("all TCP ports", ports(json!([{"protocol": "TCP"}])), tcp),
        ("all TCP ports by default", ports(json!([{}])), tcp),
        (
            "another port",
            ports(json!([{"protocol": "UDP", "port": 54}, {"port": 52}])),
            &[],
        ),
        (
            "both protocols",
            ports(json!([{"protocol": "TCP", "port": 53}, {"protocol": "UDP", "port": 53}])),
            &PROTOCOLS,
        ),
        (
            "one of two ports of a protocol",
            ports(json!([{"port": 80}, {"port": 53}])),
            tcp,
        ),
        (
            "a range of UDP",
            ports(json!([{"protocol": "UDP", "port": 50, "endPort": 60}])),
            udp,
        ),
        (
            "a range of TCP",
            ports(json!([{"port": 50, "endPort": 60}])),
            tcp,
        ),
        (
            "the first port of a range",
            ports(json!([
                {"protocol": "UDP", "port": 53, "endPort": 60},
                {"protocol": "TCP", "port": 54, "endPort": 60}
            ])),
            udp,
        ),
        (
            "the last port of a range",
            ports(json!([
                {"protocol": "UDP", "port": 50, "endPort": 52},
                {"protocol": "TCP", "port": 50, "endPort": 53}
            ])),
            tcp,
        ),
        (
            "ranges below and above",
            ports(json!([
                {"protocol": "UDP", "port": 50, "endPort": 52},
                {"protocol": "TCP", "port": 54, "endPort": 60}
            ])),
            &[],
        ),
        // Before the address is translated, the destination is the ClusterIP, whose port has no
        // name.
        (
            "names, to any peer",
            ports(json!([{"protocol": "UDP", "port": "dns"}, {"port": "dns-tcp"}])),
            &[],
        ),
        // A TCP port that can't be read proves nothing, and doesn't hide the UDP port.
        (
            "a number that is too large",
            ports(json!([{"protocol": "UDP", "port": 53}, {"port": 70000}])),
            udp,
        ),
        (
            "a name with an endPort",
            ports(json!([{"protocol": "UDP", "port": 53}, {"port": "dns-tcp", "endPort": 60}])),
            udp,
        ),
    ] {
        let specs = [spec];
        let answered = PROTOCOLS.into_iter();
        let answered = answered.filter(|protocol| may_query(*protocol, 53, &specs));
        assert_eq!(answered.collect::<Vec<_>>(), allowed, "{case}");
    }
}

#[test]
fn port_names_are_looked_up_in_the_dns_pods() {
    let named = |name: &str, protocol: &str| {
        allowing(json!({
            "to": [{"namespaceSelector": {}}],
            "ports": [{"protocol": protocol, "port": name}],
        }))
    };
    for port in [53, 1053] {
        for (name, protocol, allowed) in [
            ("dns", "UDP", Some(QueryProtocol::Udp)),
            ("dns-tcp", "TCP", Some(QueryProtocol::Tcp)),
            // The names of ports of the other protocol.
            ("dns-tcp", "UDP", None),
            ("dns", "TCP", None),
            ("domain", "UDP", None),
            ("domain", "TCP", None),
        ] {
            let specs = [named(name, protocol)];
            for query in PROTOCOLS {
                assert_eq!(
                    may_query(query, port, &specs),
                    allowed == Some(query),
                    "{protocol} port {name} over {query}, and DNS pods on port {port}"
                );
            }
        }
    }
}

#[test]
fn peers_decide_which_destinations_are_allowed() {
    for (case, spec, is_allowed) in [
        (
            "all pods of all namespaces",
            to(json!([{"namespaceSelector": {}}])),
            true,
        ),
        (
            "the same, with both selectors",
            to(json!([{"namespaceSelector": {}, "podSelector": {}}])),
            true,
        ),
        (
            "pods of the same namespace",
            to(json!([{"podSelector": {}}])),
            false,
        ),
        (
            "by label, in the same namespace",
            to(json!([{"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}])),
            false,
        ),
        (
            "by both selectors",
            to(json!([{
                "namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": "kube-system"}
                },
                "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}
            }])),
            true,
        ),
        (
            "another namespace",
            to(json!([{
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}
            }])),
            false,
        ),
        (
            "by the namespace's label",
            to(json!([{"namespaceSelector": {"matchLabels": {"team": "core"}}}])),
            true,
        ),
        (
            "by a label that the namespace lacks",
            to(json!([{
                "namespaceSelector": {
                    "matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]
                }
            }])),
            true,
        ),
        (
            "other pods of the namespace",
            to(json!([{
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"k8s-app": "proxy"}}
            }])),
            false,
        ),
        (
            "by a label that is not in the Service's selector",
            to(json!([{
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "coredns"}}
            }])),
            true,
        ),
        (
            "one of two peers",
            to(json!([{"podSelector": {}}, {"namespaceSelector": {}}])),
            true,
        ),
        ("an empty list means all peers", to(json!([])), true),
        (
            "all addresses",
            to(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
            true,
        ),
        (
            "all IPv6 addresses",
            to(json!([{"ipBlock": {"cidr": "::/0"}}])),
            false,
        ),
        (
            "only the pods' addresses",
            to(json!([{"ipBlock": {"cidr": "10.244.0.0/16"}}])),
            false,
        ),
        (
            "only the ClusterIP",
            to(json!([{"ipBlock": {"cidr": "10.96.0.10/32"}}])),
            false,
        ),
        (
            "the pods' addresses and the ClusterIP",
            to(json!([
                {"ipBlock": {"cidr": "10.244.0.0/16"}},
                {"ipBlock": {"cidr": "10.96.0.10/32"}}
            ])),
            true,
        ),
        (
            "the address of one pod and the ClusterIP",
            to(json!([
                {"ipBlock": {"cidr": "10.244.0.0/24"}},
                {"ipBlock": {"cidr": "10.96.0.10/32"}}
            ])),
            false,
        ),
        (
            "all addresses except that of one pod",
            to(json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.1.9/32"]}}])),
            false,
        ),
        (
            "all addresses except the ClusterIP",
            to(json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.96.0.0/12"]}}])),
            false,
        ),
        (
            "all addresses except unrelated ones",
            to(json!([{
                "ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.97.0.0/16", "192.168.0.0/16"]}
            }])),
            true,
        ),
        (
            "a network with host bits",
            to(json!([{"ipBlock": {"cidr": "10.1.2.3/8"}}])),
            true,
        ),
    ] {
        check_both(&spec, is_allowed, case);
    }
}

#[test]
fn policies_add_up() {
    for protocol in PROTOCOLS {
        check_sums_of_policies(protocol);
    }
}

fn check_sums_of_policies(protocol: QueryProtocol) {
    let name = protocol.to_string();
    let deny = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    let dns = to(json!([{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    }]));
    let web = allowing(json!({"to": [{"podSelector": {}}], "ports": [{"port": 80}]}));
    assert!(!may_query(protocol, 53, &[deny.clone(), web.clone()]));
    assert!(may_query(protocol, 53, &[deny.clone(), dns.clone()]));
    assert!(may_query(protocol, 53, &[dns.clone(), deny.clone()]));
    assert!(may_query(protocol, 53, &[deny.clone(), web, dns.clone()]));

    // Each policy may allow a part of the destinations. Peer and port must match the same rule.
    let pods = to(json!([{"ipBlock": {"cidr": "10.244.0.0/16"}}]));
    let cluster_ip = to(json!([{"ipBlock": {"cidr": "10.96.0.0/16"}}]));
    assert!(may_query(protocol, 53, &[pods, cluster_ip]));
    let right_peer = allowing(
        json!({"to": [{"namespaceSelector": {}}], "ports": [{"protocol": name, "port": 9}]}),
    );
    let right_port =
        allowing(json!({"to": [{"podSelector": {}}], "ports": [{"protocol": name, "port": 53}]}));
    assert!(!may_query(protocol, 53, &[right_peer, right_port]));

    // A policy for other pods allows nothing for this pod.
    let mut others = dns;
    others["podSelector"] = json!({"matchLabels": {"app": "db"}});
    assert!(!may_query(protocol, 53, &[deny, others]));
}

#[test]
fn with_a_selector_the_port_of_the_dns_pods_counts() {
    for protocol in PROTOCOLS {
        check_ports_of_dns_pods(protocol);
    }
}

fn check_ports_of_dns_pods(protocol: QueryProtocol) {
    let name = protocol.to_string();
    let pods = |port: u16| {
        allowing(json!({
            "to": [{"namespaceSelector": {}}],
            "ports": [{"protocol": name, "port": port}],
        }))
    };
    let any_peer = |list: &[u16]| {
        let list: Vec<_> = list
            .iter()
            .map(|port| json!({"protocol": name, "port": port}))
            .collect();
        ports(json!(list))
    };
    assert!(may_query(protocol, 5353, &[pods(5353)]));
    assert!(!may_query(protocol, 5353, &[pods(53)]));
    assert!(!may_query(protocol, 5353, &[pods(54)]));
    // Network plugins see the Service's port before translation, and the pods' port afterwards.
    assert!(!may_query(protocol, 5353, &[any_peer(&[53])]));
    assert!(!may_query(protocol, 5353, &[any_peer(&[5353])]));
    assert!(may_query(protocol, 5353, &[any_peer(&[53, 5353])]));
    assert!(may_query(protocol, 5353, &[any_peer(&[53]), pods(5353)]));
}
