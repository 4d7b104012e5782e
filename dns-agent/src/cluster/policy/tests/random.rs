//! Random policies of both directions, against the plain evaluator.

use std::net::Ipv4Addr;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use super::{
    fact,
    plain::{Cluster, Labels, Network, Peer, Pod, Policy, Port, Rule, SERVICE, Selector},
};
use crate::cluster::{Facts, Feed};

const SETS: u64 = 10_000;

const NAMESPACES: [&str; 4] = ["kube-system", "shop", "other", "lab"];
const LABELS: [(&str, [&str; 3]); 2] = [("app", ["dns", "web", "db"]), ("tier", ["a", "b", "c"])];
const NAMESPACE_LABELS: [(&str, [&str; 3]); 2] = [
    ("team", ["core", "web", "lab"]),
    (
        "kubernetes.io/metadata.name",
        ["kube-system", "shop", "other"],
    ),
];

/// What the agent is told of a cluster.
struct Told {
    objects: Vec<Value>,
    /// The servers that its Service selects.
    servers: Vec<Value>,
}

#[test]
fn no_pod_is_answered_that_a_plain_reading_of_the_rules_denies() {
    let (mut allowed, mut denied, mut answered) = (0_u32, 0_u32, 0_u32);
    for seed in 0..SETS {
        let mut random = StdRng::seed_from_u64(seed);
        let cluster = cluster(&mut random);
        let told = told(&mut random, &cluster);
        let permitted = permitted(&told);
        for client in &cluster.clients {
            let is_answered = permitted(client);
            if client.host_network {
                continue;
            }
            if cluster.lets_ask(client) {
                allowed += 1;
                answered += u32::from(is_answered);
                continue;
            }
            denied += 1;
            assert!(
                !is_answered,
                "seed {seed}: {client:?} is answered in {cluster:#?}"
            );
        }
    }
    println!("allowed {allowed}, of these answered {answered}; denied {denied}");
    // The sets are worth something: much is denied, and much is allowed, provably.
    let all = allowed + denied;
    assert!(denied > all / 5, "{denied} of {all} denied");
    assert!(allowed > all / 5, "{allowed} of {all} allowed");
    assert!(
        answered > allowed * 3 / 10,
        "{answered} of {allowed} answered"
    );
}

/// Whether the agent answers a pod, after all that it was told.
fn permitted(told: &Told) -> impl Fn(&Pod) -> bool {
    let mut facts = Facts::default();
    for object in &told.objects {
        facts.insert(fact(object.clone()));
    }
    for server in &told.servers {
        facts.apply(Feed::DnsPods, fact(server.clone()));
    }
    let served = (SERVICE.0, SERVICE.1).into();
    let permitted = facts.verdicts(&[served]).permitted;
    move |pod| {
        let address = pod.address.into();
        permitted
            .as_ref()
            .is_none_or(|permitted| permitted.contains(&address))
    }
}

/// Mostly everything, but for the policies something may be missing.
fn told(random: &mut StdRng, cluster: &Cluster) -> Told {
    let mut objects = cluster.objects();
    if random.random_bool(0.1) {
        let gone = *NAMESPACES.choose(random).unwrap();
        objects
            .retain(|object| object["kind"] != "Namespace" || object["metadata"]["name"] != gone);
    }
    let is_selected = |server: &Pod| {
        server.namespace == "kube-system" && server.labels.get("app") == Some(&"dns")
    };
    let servers = cluster.servers.iter().map(|(server, _)| server);
    let servers = servers.filter(|server| is_selected(server));
    let mut servers: Vec<_> = servers.map(Pod::object).collect();
    if random.random_bool(0.05) {
        servers.pop();
    }
    Told { objects, servers }
}

fn cluster(random: &mut StdRng) -> Cluster {
    let namespaces = NAMESPACES.map(|name| {
        let mut labels = labels(random, &NAMESPACE_LABELS[..1]);
        labels.insert("kubernetes.io/metadata.name", name);
        (name, labels)
    });
    let clients = (0..random.random_range(1..4)).map(|at| Pod {
        namespace: NAMESPACES.choose(random).unwrap(),
        name: format!("client-{at}"),
        labels: labels(random, &LABELS),
        address: Ipv4Addr::new(10, 244, 0, 2 + at),
        host_network: random.random_bool(0.05),
        ports: Vec::new(),
    });
    let clients = clients.collect();
    let servers = (0..random.random_range(1..3)).map(|at| server(random, at));
    let servers = servers.collect();
    let policies = (0..random.random_range(0..5)).map(|_| policy(random));
    let policies = policies.collect();
    Cluster {
        namespaces: namespaces.into(),
        clients,
        servers,
        policies,
    }
}

/// A server, mostly one that the Service selects.
fn server(random: &mut StdRng, at: u8) -> (Pod, u16) {
    let port = *[53, 53, 1053].choose(random).unwrap();
    let mut labels = labels(random, &LABELS[1..]);
    labels.insert("app", "dns");
    let host_network = random.random_bool(0.05);
    let mut pod = Pod {
        namespace: "kube-system",
        name: format!("dns-{at}"),
        labels,
        address: match host_network {
            true => Ipv4Addr::new(192, 168, 0, 1 + at),
            false => Ipv4Addr::new(10, 244, 1, 9 + at),
        },
        host_network,
        ports: vec![("dns", "UDP", port), ("dns-tcp", "TCP", port)],
    };
    if random.random_bool(0.05) {
        // Somebody wrote its address into a slice by hand.
        pod.namespace = "lab";
        pod.labels.insert("app", "web");
    }
    if random.random_bool(0.1) {
        pod.ports.clear();
    }
    (pod, port)
}

fn policy(random: &mut StdRng) -> Policy {
    let types: [Option<&[&str]>; 6] = [
        None,
        Some(&[]),
        Some(&["Ingress"]),
        Some(&["Ingress"]),
        Some(&["Egress"]),
        Some(&["Ingress", "Egress"]),
    ];
    Policy {
        namespace: match random.random_bool(0.4) {
            true => "kube-system",
            false => NAMESPACES.choose(random).unwrap(),
        },
        selector: selector(random, &LABELS),
        types: types.choose(random).unwrap().map(<[_]>::to_vec),
        ingress: rules(random),
        egress: rules(random),
    }
}

fn rules(random: &mut StdRng) -> Option<Vec<Rule>> {
    let count = [None, Some(0), Some(1), Some(1), Some(1), Some(2)];
    let count = (*count.choose(random).unwrap())?;
    Some((0..count).map(|_| rule(random)).collect())
}

fn rule(random: &mut StdRng) -> Rule {
    let mut count = || {
        *[None, Some(0), Some(1), Some(1), Some(2)]
            .choose(random)
            .unwrap()
    };
    let (peers, ports) = (count(), count());
    Rule {
        peers: peers.map(|count| (0..count).map(|_| peer(random)).collect()),
        ports: ports.map(|count| (0..count).map(|_| port(random)).collect()),
    }
}

fn peer(random: &mut StdRng) -> Peer {
    match random.random_range(0..4) {
        0 => Peer::Block {
            network: network(random),
            except: match random.random_range(0..3) {
                0 => vec![network(random)],
                _ => Vec::new(),
            },
        },
        1 => Peer::Selectors {
            namespaces: None,
            pods: Some(selector(random, &LABELS)),
        },
        2 => Peer::Selectors {
            namespaces: Some(selector(random, &NAMESPACE_LABELS)),
            pods: None,
        },
        _ => Peer::Selectors {
            namespaces: Some(selector(random, &NAMESPACE_LABELS)),
            pods: Some(selector(random, &LABELS)),
        },
    }
}

fn network(random: &mut StdRng) -> Network {
    let networks = [
        ([0, 0, 0, 0], 0),
        ([0, 0, 0, 0], 0),
        ([10, 0, 0, 0], 8),
        ([10, 244, 0, 0], 16),
        ([10, 244, 0, 2], 32),
        ([10, 244, 1, 9], 32),
        ([10, 96, 0, 0], 12),
        ([192, 168, 0, 0], 16),
    ];
    let (octets, length) = *networks.choose(random).unwrap();
    (Ipv4Addr::from(octets), length)
}

fn port(random: &mut StdRng) -> Port {
    let protocols = [
        None,
        Some("TCP"),
        Some("UDP"),
        Some("UDP"),
        Some("UDP"),
        Some("UDP"),
        Some("SCTP"),
    ];
    let (port, end_port) = match random.random_range(0..8) {
        0 => (None, None),
        1 | 2 => (Some(json!(53)), None),
        3 => (Some(json!(1053)), None),
        4 => (Some(json!("dns")), None),
        5 => (Some(json!("dns-tcp")), None),
        6 => (Some(json!(50)), Some(60)),
        _ => (Some(json!(53)), Some(2000)),
    };
    Port {
        protocol: *protocols.choose(random).unwrap(),
        port,
        end_port,
    }
}

/// Often everything; else one or two conditions.
fn selector(random: &mut StdRng, known: &[(&'static str, [&'static str; 3])]) -> Selector {
    let mut selector = Selector::default();
    if random.random_bool(0.4) {
        return selector;
    }
    let (key, values) = *known.choose(random).unwrap();
    if random.random_bool(0.6) {
        selector.labels.insert(key, values.choose(random).unwrap());
    }
    if random.random_bool(0.5) {
        let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
        let operator = *operators.choose(random).unwrap();
        let values = values.into_iter().filter(|_| random.random_bool(0.5));
        let mut values: Vec<_> = values.collect();
        if values.is_empty() {
            values.push("none");
        }
        selector.expressions.push((key, operator, values));
    }
    selector
}

fn labels(random: &mut StdRng, known: &[(&'static str, [&'static str; 3])]) -> Labels {
    let mut labels = Labels::new();
    for (key, values) in known {
        if random.random_bool(0.8) {
            labels.insert(key, values.choose(random).unwrap());
        }
    }
    labels
}
