//! Ingress policies at the servers of the cluster's DNS: NetworkPolicies, and cluster-wide
//! policies.
//!
//! The policies that apply to a server don't depend on the client, so [`Gate`]s collect them once
//! for all clients. There are no gates if no policy restricts the servers' ingress, or if rules for
//! all peers open them.

use std::sync::Arc;

use super::clients::Clients;
use super::destinations::{
    Destination, QueryAddress, ServerEndpoint, Servers, covers_whole_family,
};
use super::facts::Facts;
use super::objects::{Peer, Peers, Policy, PolicyPod, Rule};
use super::policies::{PolicyDirection, UnknownPolicies, join_names};
use super::ports::QueryProtocol;
use super::tiers::{Denial, IngressTiers};

/// The ingress policies that must admit a query at one address.
#[derive(Debug)]
pub(super) struct Gate {
    /// The address at which the query arrives.
    address: QueryAddress,
    policies: GatePolicies,
    /// Cluster-wide policies.
    tiers: IngressTiers,
}

/// The NetworkPolicies of a gate.
#[derive(Debug)]
enum GatePolicies {
    /// No policy selects the server.
    None,
    /// A policy selects the server and admits all clients.
    Open,
    /// These policies select the server. One of them must admit the client at the server's port.
    Selecting {
        policies: Vec<Arc<Policy>>,
        endpoint: ServerEndpoint,
    },
    /// The server is not a known pod. Any of these policies may be the only one that selects the
    /// server, so each policy must admit the client at every port. Perhaps none selects it.
    MaySelect(Vec<Arc<Policy>>),
    /// These policies may select the server and admit no client.
    Unknown(UnknownPolicies),
}

impl Gate {
    /// The gates on the way to these servers. Of adjacent gates that admit the same clients, there
    /// is one.
    pub(super) fn find_all(facts: &Facts, servers: &Servers) -> Vec<Gate> {
        let mut gates = Vec::new();
        for destination in &servers.destinations {
            match destination {
                Destination::Endpoint(endpoint) => {
                    gates.extend(Gate::before_endpoint(facts, endpoint));
                }
                Destination::Node(address) => {
                    let host_pods = servers.host_pods.as_deref();
                    gates.extend(Gate::before_node_address(facts, host_pods, *address));
                }
                Destination::Unknown(address) => {
                    gates.extend(Gate::before_unknown_server(facts, *address));
                }
                // The Service's endpoints are destinations too.
                Destination::Service { .. } => {}
            }
        }
        gates.dedup_by(|other, gate| gate.admits_like(other));
        gates
    }

    /// Whether the policies are those of another gate, so that both admit the same clients. False
    /// if it would take long to find out.
    fn admits_like(&self, other: &Gate) -> bool {
        self.address.socket.is_ipv4() == other.address.socket.is_ipv4()
            && self.tiers == other.tiers
            && self.policies.admit_like(&other.policies)
    }

    /// The gates before an endpoint: at most one for each pod that the endpoint may be.
    fn before_endpoint(facts: &Facts, endpoint: &ServerEndpoint) -> Vec<Gate> {
        if !endpoint.is_known_pod() {
            let protocol = endpoint.address.protocol;
            let tiers = if endpoint.is_on_host() {
                IngressTiers::before_host(protocol)
            } else {
                IngressTiers::before_unknown_server(facts, protocol)
            };
            let policies = GatePolicies::before_possible_server(facts, protocol, |_, _| true);
            let gate = Gate::new(endpoint.address, policies, tiers);
            return gate.into_iter().collect();
        }
        let pods = endpoint.pods.iter();
        pods.filter_map(|pod| Gate::before_pod(facts, endpoint, pod))
            .collect()
    }

    /// The gate before one pod of an endpoint. `None` if no policy restricts the pod's ingress.
    fn before_pod(facts: &Facts, endpoint: &ServerEndpoint, pod: &PolicyPod) -> Option<Gate> {
        let policies = GatePolicies::before_pod(facts, endpoint, pod);
        let tiers = IngressTiers::before_pod(facts, endpoint, pod);
        Gate::new(endpoint.address, policies, tiers)
    }

    /// `None` if these policies restrict nothing.
    fn new(address: QueryAddress, policies: GatePolicies, tiers: IngressTiers) -> Option<Gate> {
        let gate = Gate {
            address,
            policies,
            tiers,
        };
        (gate.has_network_policies() || !gate.tiers.is_empty()).then_some(gate)
    }

    /// Whether NetworkPolicies restrict the server's ingress.
    pub(super) fn has_network_policies(&self) -> bool {
        !matches!(self.policies, GatePolicies::None | GatePolicies::Open)
    }

    /// The gate before an address at which a process in this node's network answers. The process
    /// may belong to any pod in the node's network, or to no pod.
    fn before_node_address(
        facts: &Facts,
        host_pods: Option<&[Arc<PolicyPod>]>,
        address: QueryAddress,
    ) -> Option<Gate> {
        let Some(pods) = host_pods else {
            return Gate::before_unknown_server(facts, address);
        };
        let may_select = |namespace: &str, policy: Option<&Policy>| {
            let mut pods = pods.iter();
            pods.any(|pod| {
                let may_share_namespace = namespace.is_empty() || *namespace == *pod.key.namespace;
                may_share_namespace && policy.is_none_or(|policy| policy.pods.matches(&pod.labels))
            })
        };
        let protocol = address.protocol;
        let policies = GatePolicies::before_possible_server(facts, protocol, may_select);
        Gate::new(address, policies, IngressTiers::before_host(protocol))
    }

    /// The gate before an address that may belong to any pod.
    fn before_unknown_server(facts: &Facts, address: QueryAddress) -> Option<Gate> {
        let protocol = address.protocol;
        let policies = GatePolicies::before_possible_server(facts, protocol, |_, _| true);
        let tiers = IngressTiers::before_unknown_server(facts, protocol);
        Gate::new(address, policies, tiers)
    }

    /// Why it isn't certain that the policies admit these clients. `None`: they provably admit
    /// them.
    pub(super) fn find_objection(&self, clients: &Clients<'_>) -> Option<String> {
        let lower = match self.tiers.decide(clients) {
            Ok(lower) => lower,
            Err(denial) => return Some(self.describe_denial(denial)),
        };
        let objection = match &self.policies {
            _ if lower.network_policies.is_overridden() => None,
            policies => policies.find_objection(clients, self.address),
        };
        if let Some(objection) = objection {
            return Some(format!("{objection}{}", lower.network_policies));
        }
        match &self.policies {
            // A NetworkPolicy selects the server, so the baseline tier isn't consulted.
            GatePolicies::Open | GatePolicies::Selecting { .. } => None,
            GatePolicies::None | GatePolicies::MaySelect(_) | GatePolicies::Unknown(_) => {
                lower.baseline.map(|denial| self.describe_denial(denial))
            }
        }
    }

    fn describe_denial(&self, denial: Denial<'_>) -> String {
        let Denial { policy, rule } = denial;
        let address = self.address;
        format!(
            "{policy} does not provably admit this pod at {address}, because of its rule \
             ingress[{rule}]"
        )
    }
}

impl GatePolicies {
    /// The policies before one pod of an endpoint.
    fn before_pod(facts: &Facts, endpoint: &ServerEndpoint, pod: &PolicyPod) -> GatePolicies {
        // A policy without readable metadata has an empty namespace, and may be in any namespace.
        let all = facts.policies();
        let in_namespace = all.restricting_in(&pod.key.namespace, PolicyDirection::Ingress);
        let in_any = all.restricting_in("", PolicyDirection::Ingress);
        let mut policies = Vec::new();
        for policy in in_any.chain(in_namespace) {
            match policy {
                Err(unknown) => return GatePolicies::Unknown(unknown),
                Ok(policy) if policy.pods.matches(&pod.labels) => policies.push(policy.clone()),
                Ok(_) => {}
            }
        }
        if policies.is_empty() {
            return GatePolicies::None;
        }
        let is_open = |policy: &Arc<Policy>| {
            let mut rules = policy.ingress.iter().flatten();
            rules.any(|rule| rule.peers == Peers::All && endpoint.has_port(rule))
        };
        if policies.iter().any(is_open) {
            return GatePolicies::Open;
        }
        GatePolicies::Selecting {
            policies,
            endpoint: endpoint.clone(),
        }
    }

    /// The policies before a server that isn't a known pod. `may_select` decides which policies may
    /// select the server. It gets the policy's namespace, and `None` if the rules aren't known.
    fn before_possible_server(
        facts: &Facts,
        protocol: QueryProtocol,
        mut may_select: impl FnMut(&str, Option<&Policy>) -> bool,
    ) -> GatePolicies {
        let is_open = |policy: &Policy| {
            let mut rules = policy.ingress.iter().flatten();
            rules.any(|rule| rule.peers == Peers::All && rule.ports.contain_all(protocol))
        };
        let mut policies = Vec::new();
        for policy in facts.policies().restricting(PolicyDirection::Ingress) {
            match policy {
                Err(unknown) if may_select(unknown.namespace(), None) => {
                    return GatePolicies::Unknown(unknown);
                }
                Ok(policy)
                    if may_select(&policy.key.namespace, Some(policy)) && !is_open(policy) =>
                {
                    policies.push(policy.clone());
                }
                Ok(_) | Err(_) => {}
            }
        }
        if policies.is_empty() {
            GatePolicies::None
        } else {
            GatePolicies::MaySelect(policies)
        }
    }

    fn admit_like(&self, other: &GatePolicies) -> bool {
        match (self, other) {
            (GatePolicies::None, GatePolicies::None) | (GatePolicies::Open, GatePolicies::Open) => {
                true
            }
            (
                GatePolicies::Selecting { policies, endpoint },
                GatePolicies::Selecting {
                    policies: others,
                    endpoint: other,
                },
            ) => {
                policies.len() == others.len()
                    && policies
                        .iter()
                        .zip(others)
                        .all(|(one, other)| Arc::ptr_eq(one, other))
                    && endpoint.has_ports_like(other)
            }
            _ => false,
        }
    }

    /// Why it isn't certain that the policies admit these clients at this address. `None`: they
    /// provably admit them.
    fn find_objection(&self, clients: &Clients<'_>, address: QueryAddress) -> Option<String> {
        let QueryAddress { socket, protocol } = address;
        match self {
            GatePolicies::None | GatePolicies::Open => None,
            GatePolicies::Unknown(unknown) => {
                Some(format!("{unknown}, and may restrict access to {socket}"))
            }
            GatePolicies::MaySelect(policies) => {
                let mut policies = policies.iter();
                let policy = policies.find(|policy| {
                    let is_admitted = |rule: &Rule| {
                        rule.ports.contain_all(protocol)
                            && admits_clients(policy, rule, clients, address)
                    };
                    !policy.ingress.iter().flatten().any(is_admitted)
                })?;
                Some(format!(
                    "NetworkPolicy {} may apply to the server at {socket}, which is not a known pod, and does not provably admit this pod over {protocol}",
                    policy.key
                ))
            }
            GatePolicies::Selecting { policies, endpoint } => {
                let is_admitted = |policy: &Arc<Policy>| {
                    let mut rules = policy.ingress.iter().flatten();
                    rules.any(|rule| {
                        endpoint.has_port(rule) && admits_clients(policy, rule, clients, address)
                    })
                };
                if policies.iter().any(is_admitted) {
                    return None;
                }
                let keys = policies.iter().map(|policy| &policy.key);
                Some(format!(
                    "{} not provably admit this pod at {address}",
                    join_names(keys, ["does", "do"])
                ))
            }
        }
    }
}

/// Whether the peers of a rule provably include these clients when they query this address.
fn admits_clients(
    policy: &Policy,
    rule: &Rule,
    clients: &Clients<'_>,
    address: QueryAddress,
) -> bool {
    let Peers::Listed(peers) = &rule.peers else {
        return true;
    };
    peers.iter().any(|peer| match peer {
        Peer::Pods { namespaces, pods } => {
            let is_in_namespace = match namespaces {
                None => *clients.namespace == *policy.key.namespace,
                Some(namespaces) => clients.namespace_labels.are_matched_by(namespaces),
            };
            is_in_namespace && pods.matches(clients.labels)
        }
        // The client's address may be translated on the way, so the source address that the
        // server's node sees is unknown.
        Peer::Block { network, except } => {
            except.is_empty() && covers_whole_family(network, address.ip())
        }
    })
}
