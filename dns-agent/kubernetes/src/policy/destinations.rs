//! The destinations of queries to the cluster's DNS, and the egress rules that allow them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::certainty::Certainty;
use super::cluster_policy::PodSet;
use super::facts::{Facts, NamespaceLabels};
use super::objects::{DnsService, Peer, Peers, PodNetwork, Policy, PolicyPod, Rule};
use super::ports::{Ports, QueryProtocol};
use crate::objects::Port;

/// The servers that receive the queries of one protocol to the served addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Servers {
    /// Every destination of the queries.
    pub(super) destinations: Vec<Destination>,
    /// The namespaces of all servers. `None` if a server may be in any namespace.
    pub(super) namespaces: Option<BTreeSet<Arc<str>>>,
    /// If a process in this node's network may be a server, the pods in this network. `None` if
    /// some of them may be unknown.
    pub(super) host_pods: Option<Vec<Arc<PolicyPod>>>,
}

/// What is known about the labels of Namespaces, by their names.
pub(super) type LabelsByNamespace<'a> = BTreeMap<Arc<str>, NamespaceLabels<'a>>;

/// The address, port and protocol that a query is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueryAddress {
    pub(super) socket: SocketAddr,
    pub(super) protocol: QueryProtocol,
}

/// A destination that policies must allow for a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A Service address, before it is translated to an endpoint's address.
    Service {
        address: QueryAddress,
        endpoints: Vec<ServerEndpoint>,
    },
    /// One of the servers, at its own address.
    Endpoint(ServerEndpoint),
    /// A process in this node's network that may answer at this address, such as NodeLocal
    /// DNSCache. It gets the packets untranslated.
    Node(QueryAddress),
    /// An address whose servers are unknown.
    Unknown(QueryAddress),
}

/// A server of the cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerEndpoint {
    pub(super) address: QueryAddress,
    /// The known pods that have this address.
    pub(super) pods: Vec<Arc<PolicyPod>>,
}

impl Servers {
    pub(super) fn find(facts: &Facts, served: &[SocketAddr], protocol: QueryProtocol) -> Servers {
        let served = served.iter().map(|socket| QueryAddress {
            socket: *socket,
            protocol,
        });
        let destinations: Vec<_> = served
            .flat_map(|address| Destination::find_for_address(facts, address))
            .collect();
        let mut all = destinations.iter();
        let may_be_on_host = all.any(|destination| matches!(destination, Destination::Node(_)));
        let host_pods = match may_be_on_host {
            true => facts.host_pods().map(|pods| pods.cloned().collect()),
            false => Some(Vec::new()),
        };
        let mut servers = Servers {
            destinations,
            namespaces: None,
            host_pods,
        };
        servers.namespaces = servers.find_namespaces(facts);
        servers
    }

    /// Whether a server may be in a namespace.
    pub(super) fn may_be_in(&self, namespace: &str) -> bool {
        let namespaces = self.namespaces.as_ref();
        namespaces.is_none_or(|namespaces| namespaces.contains(namespace))
    }

    /// The pods that are servers, or may be. `None` if a server may be any pod.
    pub(super) fn pods(&self) -> Option<Vec<&Arc<PolicyPod>>> {
        let mut pods = Vec::new();
        for destination in &self.destinations {
            match destination {
                // The Service's endpoints are destinations too.
                Destination::Service { .. } => {}
                Destination::Endpoint(endpoint) if endpoint.is_known_pod() => {
                    pods.extend(&endpoint.pods);
                }
                Destination::Node(_) => pods.extend(self.host_pods.as_ref()?),
                Destination::Endpoint(_) | Destination::Unknown(_) => return None,
            }
        }
        Some(pods)
    }

    fn find_namespaces(&self, facts: &Facts) -> Option<BTreeSet<Arc<str>>> {
        let pods = self.pods()?.into_iter();
        // As a precaution, the Services' namespaces always count, even if all endpoints were
        // written by hand and are pods in other namespaces.
        let services = facts.services().flatten();
        let namespaces = services.map(|service| &service.key.namespace);
        let namespaces = namespaces.chain(pods.map(|pod| &pod.key.namespace));
        Some(namespaces.cloned().collect())
    }
}

impl QueryAddress {
    pub(super) fn ip(self) -> IpAddr {
        self.socket.ip()
    }

    pub(super) fn port(self) -> u16 {
        self.socket.port()
    }

    /// Whether the port is one of these, for rules of cluster-wide policies.
    fn match_unnamed(self, ports: &Ports) -> Certainty {
        ports.match_unnamed(self.protocol, self.port())
    }
}

impl fmt::Display for QueryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.socket, self.protocol)
    }
}

impl Destination {
    fn find_for_address(facts: &Facts, address: QueryAddress) -> Vec<Destination> {
        let Some(services) = facts.services().collect::<Option<Vec<_>>>() else {
            return vec![Destination::Unknown(address)];
        };
        let services = services.into_iter();
        let services: Vec<_> = services
            .filter(|service| service.addresses.contains(&address.ip()))
            .collect();
        let is_cache_here = facts.has_node_cache_at(address.ip());
        let mut destinations = Vec::new();
        if is_cache_here || (services.is_empty() && is_node_local(address.ip())) {
            destinations.push(Destination::Node(address));
        }
        if services.is_empty() {
            match ServerEndpoint::new(facts, address) {
                endpoint if !endpoint.pods.is_empty() => {
                    destinations.push(Destination::Endpoint(endpoint));
                }
                // The address may be translated to another one.
                _ if destinations.is_empty() => destinations.push(Destination::Unknown(address)),
                _ => {}
            }
        }
        for service in services {
            let Some(endpoints) = find_endpoints(facts, service, address) else {
                return vec![Destination::Unknown(address)];
            };
            destinations.extend(endpoints.iter().cloned().map(Destination::Endpoint));
            destinations.push(Destination::Service { address, endpoints });
        }
        destinations
    }

    /// The labels of the namespaces of the pods at these destinations.
    pub(super) fn namespace_labels<'a>(
        destinations: &[Destination],
        facts: &'a Facts,
    ) -> LabelsByNamespace<'a> {
        let pods = destinations.iter().flat_map(Destination::pods);
        let namespaces: BTreeSet<&Arc<str>> = pods.map(|pod| &pod.key.namespace).collect();
        let namespaces = namespaces.into_iter();
        namespaces
            .map(|namespace| (namespace.clone(), facts.namespace_labels(namespace)))
            .collect()
    }

    /// Whether a policy has a rule that provably allows a query to this destination. `labels` are
    /// from [`Destination::namespace_labels`].
    pub(super) fn is_allowed_by(&self, labels: &LabelsByNamespace<'_>, policy: &Policy) -> bool {
        let mut rules = policy.egress.iter().flatten();
        rules.any(|rule| self.is_allowed_by_rule(labels, policy, rule))
    }

    /// Whether the destination is in this set of pods, and its port is one of `ports`. `labels` are
    /// from [`Destination::namespace_labels`].
    pub(super) fn match_pods(
        &self,
        labels: &LabelsByNamespace<'_>,
        set: &PodSet,
        ports: &Ports,
    ) -> Certainty {
        let match_endpoint = |endpoint: &ServerEndpoint| {
            let pods = endpoint.pods.iter();
            let pods = pods.map(|pod| match_server_pod(labels, set, pod));
            let has_port = endpoint.address.match_unnamed(ports);
            has_port.and(Certainty::common(pods))
        };
        match self {
            // Network plugins enforce selectors on translated packets.
            Destination::Service { endpoints, .. } => {
                Certainty::common(endpoints.iter().map(match_endpoint))
            }
            Destination::Endpoint(endpoint) => match_endpoint(endpoint),
            Destination::Node(_) | Destination::Unknown(_) => {
                Certainty::Maybe.and(self.match_ports(ports))
            }
        }
    }

    /// Whether the destination's address is in one of these networks, and its port is one of
    /// `ports`.
    pub(super) fn match_networks(&self, networks: &[IpNet], ports: &Ports) -> Certainty {
        let mut networks = networks.iter();
        let is_inside = match self {
            Destination::Service { address, .. }
            | Destination::Node(address)
            | Destination::Endpoint(ServerEndpoint { address, .. }) => networks
                .any(|network| network.contains(&address.ip()))
                .into(),
            Destination::Unknown(address) => {
                if networks.any(|network| covers_whole_family(network, address.ip())) {
                    Certainty::Yes
                } else {
                    Certainty::Maybe
                }
            }
        };
        is_inside.and(self.match_ports(ports))
    }

    /// Whether the destination's port is one of these, if the rule is about addresses.
    pub(super) fn match_ports(&self, ports: &Ports) -> Certainty {
        match self {
            Destination::Service { .. } | Destination::Node(_) | Destination::Endpoint(_) => {
                self.address().match_unnamed(ports)
            }
            Destination::Unknown(address) => ports.match_unknown(address.protocol),
        }
    }

    pub(super) fn address(&self) -> QueryAddress {
        match self {
            Destination::Service { address, .. }
            | Destination::Endpoint(ServerEndpoint { address, .. })
            | Destination::Node(address)
            | Destination::Unknown(address) => *address,
        }
    }

    /// Whether only pods in networks of their own receive the queries.
    pub(super) fn is_known_pods(&self) -> bool {
        match self {
            Destination::Service { endpoints, .. } => {
                endpoints.iter().all(ServerEndpoint::is_known_pod)
            }
            Destination::Endpoint(endpoint) => endpoint.is_known_pod(),
            Destination::Node(_) | Destination::Unknown(_) => false,
        }
    }

    /// The known pods at this destination.
    fn pods(&self) -> impl Iterator<Item = &Arc<PolicyPod>> {
        let endpoints = match self {
            Destination::Service { endpoints, .. } => endpoints.as_slice(),
            Destination::Endpoint(endpoint) => std::slice::from_ref(endpoint),
            Destination::Node(_) | Destination::Unknown(_) => &[],
        };
        endpoints.iter().flat_map(|endpoint| &endpoint.pods)
    }

    fn is_allowed_by_rule(
        &self,
        labels: &LabelsByNamespace<'_>,
        policy: &Policy,
        rule: &Rule,
    ) -> bool {
        match self {
            Destination::Service { address, endpoints } => {
                // Network plugins enforce selectors on translated packets, which have a pod's
                // address and port.
                allows_address(rule, *address)
                    || endpoints
                        .iter()
                        .all(|endpoint| endpoint.is_selected_by_rule(labels, policy, rule))
            }
            Destination::Endpoint(endpoint) => {
                allows_address(rule, endpoint.address)
                    || endpoint.is_selected_by_rule(labels, policy, rule)
                    // Both conditions above ignore a port name in a rule for all peers.
                    || rule.peers == Peers::All && endpoint.has_port(rule)
            }
            Destination::Node(address) => allows_address(rule, *address),
            Destination::Unknown(address) => {
                rule.peers == Peers::All && rule.ports.contain_all(address.protocol)
            }
        }
    }
}

impl ServerEndpoint {
    fn new(facts: &Facts, address: QueryAddress) -> ServerEndpoint {
        ServerEndpoint {
            address,
            pods: facts.pods_at(address.ip()).cloned().collect(),
        }
    }

    /// Whether the address belongs to known pods, and to no other pod. A pod in its node's network
    /// shares its address with other pods, which may be unknown.
    pub(super) fn is_known_pod(&self) -> bool {
        let mut pods = self.pods.iter();
        !self.pods.is_empty() && pods.all(|pod| pod.network == PodNetwork::Own)
    }

    /// Whether rules for ports treat two endpoints alike.
    pub(super) fn has_ports_like(&self, other: &ServerEndpoint) -> bool {
        let names = |endpoint: &ServerEndpoint| {
            let pods = endpoint.pods.iter();
            pods.map(|pod| pod.named_ports.clone()).collect::<Vec<_>>()
        };
        self.address.port() == other.address.port() && names(self) == names(other)
    }

    /// Whether the address belongs to pods in their node's network, as far as is known.
    pub(super) fn is_on_host(&self) -> bool {
        let mut pods = self.pods.iter();
        !self.pods.is_empty() && pods.all(|pod| pod.network == PodNetwork::Host)
    }

    /// Whether a rule provably selects the pod behind the endpoint, and its port.
    fn is_selected_by_rule(
        &self,
        labels: &LabelsByNamespace<'_>,
        policy: &Policy,
        rule: &Rule,
    ) -> bool {
        let Peers::Listed(peers) = &rule.peers else {
            return false;
        };
        let mut peers = peers.iter();
        self.has_port(rule)
            && peers.any(|peer| {
                // If several pods claim the same address, the server may be any of them.
                let mut pods = self.pods.iter();
                !self.pods.is_empty() && pods.all(|pod| selects_pod(labels, policy, peer, pod))
            })
    }

    /// Whether a rule provably allows the endpoint's port, by its number or by its name in the pod.
    pub(super) fn has_port(&self, rule: &Rule) -> bool {
        let (protocol, number) = (self.address.protocol, self.address.port());
        let Some(first) = self.pods.first() else {
            return rule.ports.contain(protocol, number, &[]);
        };
        let is_shared = |name: &str| {
            let mut pods = self.pods.iter();
            pods.all(|pod| has_named_port(pod, name, self.address))
        };
        let names = first.named_ports.iter().map(|port| &*port.name);
        let names: Vec<&str> = names.filter(|name| is_shared(name)).collect();
        rule.ports.contain(protocol, number, &names)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Service { address, .. } | Destination::Node(address) => {
                write!(f, "{address}")
            }
            Destination::Endpoint(endpoint) => write!(f, "{}", endpoint.address),
            Destination::Unknown(address) => {
                write!(f, "the unknown servers behind {address}")
            }
        }
    }
}

/// The endpoints that receive queries to a Service address. `None` if the Service has no such port
/// of the query's protocol, if there are no endpoints, or if some endpoints are unknown.
fn find_endpoints(
    facts: &Facts,
    service: &DnsService,
    service_address: QueryAddress,
) -> Option<Vec<ServerEndpoint>> {
    let QueryAddress { socket, protocol } = service_address;
    let number = Some(socket.port());
    let mut ports = service.ports.iter();
    let port = ports.find(|port| protocol.is_of(port) && port.number.valid() == number)?;
    let mut endpoints = Vec::new();
    for slice in facts.slices_of(&service.key) {
        let slice = slice?;
        let is_target = |other: &&Port| protocol.is_of(other) && other.name == port.name;
        for target in slice.ports.iter().filter(is_target) {
            let number = target.number.valid()?;
            // A Service address leads only to endpoints of its own address family.
            let addresses = slice.addresses.iter();
            let addresses = addresses.filter(|address| is_same_family(**address, socket.ip()));
            endpoints.extend(addresses.map(|address| {
                let socket = SocketAddr::new(*address, number);
                ServerEndpoint::new(facts, QueryAddress { socket, protocol })
            }));
        }
    }
    (!endpoints.is_empty()).then_some(endpoints)
}

/// Whether an address is link-local or loopback. No pod on another node has such an address.
fn is_node_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
    }
}

/// Whether a rule allows an address by its network and its port by its number. Selectors and port
/// names don't count.
fn allows_address(rule: &Rule, address: QueryAddress) -> bool {
    let is_inside = |peer: &Peer| match peer {
        Peer::Pods { .. } => false,
        Peer::Block { network, except } => {
            let mut except = except.iter();
            network.contains(&address.ip())
                && !except.any(|network| network.contains(&address.ip()))
        }
    };
    // Ports come first, because a rule may have thousands of peers.
    if !rule.ports.contain(address.protocol, address.port(), &[]) {
        return false;
    }
    match &rule.peers {
        Peers::All => true,
        Peers::Listed(peers) => peers.iter().any(is_inside),
    }
}

/// Whether a peer of a policy's rule provably selects this pod.
fn selects_pod(
    labels: &LabelsByNamespace<'_>,
    policy: &Policy,
    peer: &Peer,
    pod: &PolicyPod,
) -> bool {
    let Peer::Pods { namespaces, pods } = peer else {
        return false;
    };
    let is_in_namespace = match namespaces {
        None => pod.key.namespace == policy.key.namespace,
        Some(namespaces) => labels[&pod.key.namespace].are_matched_by(namespaces),
    };
    // Kubernetes doesn't define what selectors mean for pods in their node's network.
    pod.network == PodNetwork::Own && is_in_namespace && pods.matches(&pod.labels)
}

/// Whether a pod of a server is in a set of pods.
fn match_server_pod(labels: &LabelsByNamespace<'_>, set: &PodSet, pod: &PolicyPod) -> Certainty {
    // The API excludes pods in their node's network, but plugins know them only by their address.
    if pod.network == PodNetwork::Host {
        return Certainty::Maybe;
    }
    labels[&pod.key.namespace].match_pods(set, &pod.labels)
}

/// Whether a pod provably gives this name to the port at this address.
fn has_named_port(pod: &PolicyPod, name: &str, address: QueryAddress) -> bool {
    let ports = pod.named_ports.iter();
    let ports = ports.filter(|port| *port.name == *name && port.protocol == address.protocol);
    let mut ports = ports.peekable();
    // Kubernetes doesn't define which port counts if several ports have one name, so all must
    // match.
    ports.peek().is_some() && ports.all(|port| port.number == address.port())
}

/// Whether a network contains every address of the address's family, IPv4 or IPv6.
pub(super) fn covers_whole_family(network: &IpNet, address: IpAddr) -> bool {
    network.prefix_len() == 0 && network.contains(&address)
}

fn is_same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}
