//! Random policies of both directions, compared with the reference model. An element that a list of
//! choices repeats is chosen more often.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use super::{
    fact, judge,
    reference_model::{
        ModelCluster, ModelLabels, ModelNetwork, ModelPeer, ModelPod, ModelPolicy, ModelPort,
        ModelRule, ModelSelector, ModelServer, SERVICE,
    },
    tier_model::{
        ModelAction, ModelApi, ModelClusterPolicy, ModelPods, ModelTier, ModelTierPeer,
        ModelTierPort, ModelTierRule,
    },
};
use crate::{ClientVerdicts, Facts, Feed};

const CLUSTERS: u64 = 10_000;

const NAMESPACES: [&str; 4] = ["kube-system", "shop", "other", "lab"];
const LABELS: [(&str, [&str; 3]); 2] = [("app", ["dns", "web", "db"]), ("tier", ["a", "b", "c"])];
const NAMESPACE_LABELS: [(&str, [&str; 3]); 2] = [
    ("team", ["core", "web", "lab"]),
    (
        "kubernetes.io/metadata.name",
        ["kube-system", "shop", "other"],
    ),
];

/// The objects of a cluster that the agent receives.
pub(super) struct AgentInput {
    /// All objects except the DNS pods.
    pub(super) objects: Vec<Value>,
    /// The DNS pods that the Service selects.
    pub(super) servers: Vec<Value>,
}

/// All APIs of cluster-wide policies.
pub(super) const APIS: [ModelApi; 2] =
    [ModelApi::AdminNetworkPolicy, ModelApi::ClusterNetworkPolicy];

#[test]
fn pods_that_network_policies_deny_are_not_answered() {
    compare_with_model(&[]);
}

#[test]
fn pods_that_admin_network_policies_deny_are_not_answered() {
    compare_with_model(&[ModelApi::AdminNetworkPolicy]);
}

#[test]
fn pods_that_cluster_network_policies_deny_are_not_answered() {
    compare_with_model(&[ModelApi::ClusterNetworkPolicy]);
}

#[test]
fn pods_that_policies_of_all_apis_deny_are_not_answered() {
    compare_with_model(&APIS);
}

/// What the model and the agent say about the clients of random clusters over one protocol.
#[derive(Debug, Default)]
struct ModelCounts {
    allowed: u32,
    /// Of the allowed clients, those that the agent answers.
    answered: u32,
    denied: u32,
}

/// Compares the verdicts about random clusters with the reference model, for each protocol. The
/// clusters have NetworkPolicies, and cluster-wide policies of these APIs.
fn compare_with_model(apis: &[ModelApi]) {
    let (mut udp, mut tcp) = (ModelCounts::default(), ModelCounts::default());
    let (mut restricted, mut unrestricted) = (0, 0);
    for seed in 0..CLUSTERS {
        let mut random = StdRng::seed_from_u64(seed);
        let cluster = cluster(&mut random, apis);
        let verdicts = judge_input(&agent_input(&mut random, &cluster));
        compare_clients(&cluster, "UDP", verdicts.permitted.as_ref(), &mut udp);
        compare_clients(&cluster, "TCP", verdicts.permitted_tcp.as_ref(), &mut tcp);
        if verdicts.server_egress_restriction.is_some() {
            restricted += 1;
            continue;
        }
        unrestricted += 1;
        assert!(
            !cluster.restricts_server_egress(),
            "seed {seed}: nothing seems to restrict the servers' egress in {cluster:#?}"
        );
    }
    println!("UDP: {udp:?}; TCP: {tcp:?}");
    println!("servers' egress restricted in {restricted} clusters, not in {unrestricted}");
    // The clusters are diverse enough: many clients are denied, many are allowed, and for many of
    // these the agent can prove it. It can't for all, for example if it lacks a Namespace.
    for counts in [udp, tcp] {
        let all = counts.allowed + counts.denied;
        assert!(counts.denied > all / 5, "of {all} clients: {counts:?}");
        assert!(counts.allowed > all / 5, "of {all} clients: {counts:?}");
        assert!(counts.answered > counts.allowed * 3 / 10, "{counts:?}");
    }
    assert!(restricted > CLUSTERS / 10 && unrestricted > CLUSTERS / 10);
}

/// Compares the verdicts about the clients of one cluster. `permitted` are the permitted addresses
/// for a protocol, in the form of [`ClientVerdicts`].
fn compare_clients(
    cluster: &ModelCluster,
    protocol: &'static str,
    permitted: Option<&BTreeSet<IpAddr>>,
    counts: &mut ModelCounts,
) {
    for client in &cluster.clients {
        // Pods in the node's network are never judged as clients.
        if client.host_network {
            continue;
        }
        let address = client.address.into();
        let is_answered = permitted.is_none_or(|permitted| permitted.contains(&address));
        if cluster.allows_query(client, protocol) {
            counts.allowed += 1;
            counts.answered += u32::from(is_answered);
            continue;
        }
        counts.denied += 1;
        assert!(
            !is_answered,
            "{client:?} is answered over {protocol} in {cluster:#?}"
        );
    }
}

/// Judges all pods.
fn judge_input(input: &AgentInput) -> ClientVerdicts {
    let mut facts = Facts::default();
    for object in &input.objects {
        facts.insert(fact(object.clone()));
    }
    for server in &input.servers {
        facts.apply(Feed::DnsPods, fact(server.clone()));
    }
    let served = (SERVICE.0, SERVICE.1).into();
    judge(&mut facts, &[served])
}

/// The objects of a cluster, sometimes without one Namespace or one server. All policies are
/// included.
pub(super) fn agent_input(random: &mut StdRng, cluster: &ModelCluster) -> AgentInput {
    let mut objects = cluster.objects();
    if random.random_bool(0.1) {
        let missing = *NAMESPACES.choose(random).unwrap();
        objects.retain(|object| {
            object["kind"] != "Namespace" || object["metadata"]["name"] != missing
        });
    }
    let is_selected = |server: &ModelPod| {
        server.namespace == "kube-system" && server.labels.get("app") == Some(&"dns")
    };
    let servers = cluster.servers.iter().map(|server| &server.pod);
    let servers = servers.filter(|server| is_selected(server));
    let mut servers: Vec<_> = servers.map(ModelPod::object).collect();
    if random.random_bool(0.05) {
        servers.pop();
    }
    AgentInput { objects, servers }
}

pub(super) fn cluster(random: &mut StdRng, apis: &[ModelApi]) -> ModelCluster {
    let namespaces = NAMESPACES.map(|name| {
        let mut labels = labels(random, &NAMESPACE_LABELS[..1]);
        labels.insert("kubernetes.io/metadata.name", name);
        (name, labels)
    });
    let clients = (0..random.random_range(1..4)).map(|at| ModelPod {
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
    let cluster_policies = match apis {
        [] => Vec::new(),
        apis => cluster_policies(random, apis),
    };
    ModelCluster {
        namespaces: namespaces.into(),
        clients,
        servers,
        policies,
        cluster_policies,
    }
}

/// A server, which the Service usually selects.
fn server(random: &mut StdRng, at: u8) -> ModelServer {
    let udp = *[53, 53, 1053].choose(random).unwrap();
    let tcp = *[udp, udp, udp, 53, 1053].choose(random).unwrap();
    let mut labels = labels(random, &LABELS[1..]);
    labels.insert("app", "dns");
    let host_network = random.random_bool(0.05);
    let mut pod = ModelPod {
        namespace: "kube-system",
        name: format!("dns-{at}"),
        labels,
        address: if host_network {
            Ipv4Addr::new(192, 168, 0, 1 + at)
        } else {
            Ipv4Addr::new(10, 244, 1, 9 + at)
        },
        host_network,
        ports: match random.random_range(0..4) {
            0 => vec![("dns", "UDP", udp), ("dns", "TCP", tcp)],
            _ => vec![("dns", "UDP", udp), ("dns-tcp", "TCP", tcp)],
        },
    };
    if random.random_bool(0.05) {
        // The Service doesn't select this pod, so its slice was written by hand.
        pod.namespace = "lab";
        pod.labels.insert("app", "web");
    }
    if random.random_bool(0.1) {
        pod.ports.clear();
    }
    ModelServer { pod, udp, tcp }
}

/// Up to three policies. At most one API is reported as enforced.
fn cluster_policies(random: &mut StdRng, apis: &[ModelApi]) -> Vec<ModelClusterPolicy> {
    let reported = random
        .random_bool(0.5)
        .then(|| *apis.choose(random).unwrap());
    let mut has_baseline = false;
    let policies = (0..random.random_range(0..4)).map(|_| {
        let api = *apis.choose(random).unwrap();
        let tier = match random.random_range(0..3) {
            // There is at most one BaselineAdminNetworkPolicy.
            0 if api == ModelApi::ClusterNetworkPolicy || !has_baseline => ModelTier::Baseline,
            _ => ModelTier::Admin,
        };
        has_baseline |= tier == ModelTier::Baseline;
        let priority = *[0, 5, 5, 7, 42, 1_000].choose(random).unwrap();
        ModelClusterPolicy {
            api,
            tier,
            priority: match (api, tier) {
                (ModelApi::AdminNetworkPolicy, ModelTier::Baseline) => 0,
                _ => priority,
            },
            subject: pods(random),
            egress: tier_rules(random, tier_peer),
            ingress: tier_rules(random, |random| ModelTierPeer::Pods(pods(random))),
            report: (reported == Some(api))
                .then(|| {
                    *[Some(true), Some(true), Some(true), Some(false), None]
                        .choose(random)
                        .unwrap()
                })
                .flatten(),
        }
    });
    policies.collect()
}

fn pods(random: &mut StdRng) -> ModelPods {
    ModelPods {
        namespaces: selector(random, &NAMESPACE_LABELS),
        pods: random.random_bool(0.5).then(|| selector(random, &LABELS)),
    }
}

fn tier_rules(
    random: &mut StdRng,
    mut peer: impl FnMut(&mut StdRng) -> ModelTierPeer,
) -> Vec<ModelTierRule> {
    let actions = [
        ModelAction::Accept,
        ModelAction::Accept,
        ModelAction::Deny,
        ModelAction::Pass,
    ];
    let rules = (0..random.random_range(0..4)).map(|_| ModelTierRule {
        action: *actions.choose(random).unwrap(),
        peers: (0..random.random_range(1..3))
            .map(|_| peer(random))
            .collect(),
        ports: match random.random_range(0..3) {
            0 => None,
            _ => Some(
                (0..random.random_range(1..3))
                    .map(|_| tier_port(random))
                    .collect(),
            ),
        },
    });
    rules.collect()
}

fn tier_peer(random: &mut StdRng) -> ModelTierPeer {
    match random.random_range(0..20) {
        0..12 => ModelTierPeer::Pods(pods(random)),
        12..17 => {
            let count = random.random_range(1..3);
            ModelTierPeer::Networks((0..count).map(|_| network(random)).collect())
        }
        17 => ModelTierPeer::Nodes,
        18 => ModelTierPeer::DomainName,
        _ => ModelTierPeer::Unknown,
    }
}

fn tier_port(random: &mut StdRng) -> ModelTierPort {
    let (first, last) = match random.random_range(0..8) {
        0 => return ModelTierPort::Name("dns"),
        1 => return ModelTierPort::Name("dns-tcp"),
        2 | 3 => (53, 53),
        4 => (1053, 1053),
        5 => (50, 60),
        _ => (1, 65535),
    };
    ModelTierPort::Numbers {
        protocol: ["TCP", "TCP", "TCP", "UDP", "UDP", "UDP", "SCTP"]
            .choose(random)
            .unwrap(),
        first,
        last,
    }
}

fn policy(random: &mut StdRng) -> ModelPolicy {
    let types: [Option<&[&str]>; 6] = [
        None,
        Some(&[]),
        Some(&["Ingress"]),
        Some(&["Ingress"]),
        Some(&["Egress"]),
        Some(&["Ingress", "Egress"]),
    ];
    ModelPolicy {
        namespace: if random.random_bool(0.4) {
            "kube-system"
        } else {
            NAMESPACES.choose(random).unwrap()
        },
        selector: selector(random, &LABELS),
        types: types.choose(random).unwrap().map(<[_]>::to_vec),
        ingress: rules(random),
        egress: rules(random),
    }
}

fn rules(random: &mut StdRng) -> Option<Vec<ModelRule>> {
    let count = [None, Some(0), Some(1), Some(1), Some(1), Some(2)];
    let count = (*count.choose(random).unwrap())?;
    Some((0..count).map(|_| rule(random)).collect())
}

fn rule(random: &mut StdRng) -> ModelRule {
    let mut count = || {
        *[None, Some(0), Some(1), Some(1), Some(2)]
            .choose(random)
            .unwrap()
    };
    let (peers, ports) = (count(), count());
    ModelRule {
        peers: peers.map(|count| (0..count).map(|_| peer(random)).collect()),
        ports: ports.map(|count| (0..count).map(|_| port(random)).collect()),
    }
}

fn peer(random: &mut StdRng) -> ModelPeer {
    match random.random_range(0..4) {
        0 => ModelPeer::Block {
            network: network(random),
            except: match random.random_range(0..3) {
                0 => vec![network(random)],
                _ => Vec::new(),
            },
        },
        1 => ModelPeer::Selectors {
            namespaces: None,
            pods: Some(selector(random, &LABELS)),
        },
        2 => ModelPeer::Selectors {
            namespaces: Some(selector(random, &NAMESPACE_LABELS)),
            pods: None,
        },
        _ => ModelPeer::Selectors {
            namespaces: Some(selector(random, &NAMESPACE_LABELS)),
            pods: Some(selector(random, &LABELS)),
        },
    }
}

fn network(random: &mut StdRng) -> ModelNetwork {
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
    let (bytes, length) = *networks.choose(random).unwrap();
    (Ipv4Addr::from(bytes), length)
}

fn port(random: &mut StdRng) -> ModelPort {
    let protocols = [
        None,
        None,
        Some("TCP"),
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
    ModelPort {
        protocol: *protocols.choose(random).unwrap(),
        port,
        end_port,
    }
}

/// A selector with up to two conditions. Without conditions, it selects everything.
fn selector(random: &mut StdRng, known: &[(&'static str, [&'static str; 3])]) -> ModelSelector {
    let mut selector = ModelSelector::default();
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
            // `In` and `NotIn` need a value. No object has this one.
            values.push("none");
        }
        selector.expressions.push((key, operator, values));
    }
    selector
}

fn labels(random: &mut StdRng, known: &[(&'static str, [&'static str; 3])]) -> ModelLabels {
    let mut labels = ModelLabels::new();
    for (key, values) in known {
        if random.random_bool(0.8) {
            labels.insert(key, values.choose(random).unwrap());
        }
    }
    labels
}
