//! Where a question to the cluster's DNS goes, and which rules let it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::facts::Facts;
use super::objects::{Client, DnsService, Peer, Peers, PodNetwork, Policy, Rule};

/// A place that a question must be allowed to go to.
#[derive(Clone, Debug)]
pub(super) enum Destination<'a> {
    /// An address of a Service, before it is replaced by that of one of its endpoints.
    Service {
        address: SocketAddr,
        endpoints: Vec<Endpoint<'a>>,
    },
    /// One of the servers.
    Endpoint(Endpoint<'a>),
    /// A program in this node's network, at this address: a packet to it stays as it is.
    Node(SocketAddr),
    /// It isn't known where a question to this address goes.
    Unknown(SocketAddr),
}

/// One of the servers.
#[derive(Clone, Debug)]
pub(super) struct Endpoint<'a> {
    pub(super) address: SocketAddr,
    /// The pods that have the address.
    pub(super) pods: Vec<&'a Client>,
}

impl<'a> Destination<'a> {
    /// Everywhere that questions to the served addresses go.
    pub(super) fn all(facts: &'a Facts, served: &[SocketAddr]) -> Vec<Destination<'a>> {
        served
            .iter()
            .flat_map(|address| Destination::of(facts, *address))
            .collect()
    }

    fn of(facts: &'a Facts, address: SocketAddr) -> Vec<Destination<'a>> {
        let Some(services) = facts.services().collect::<Option<Vec<_>>>() else {
            return vec![Destination::Unknown(address)];
        };
        let services = services.into_iter();
        let services: Vec<_> = services
            .filter(|service| service.addresses.contains(&address.ip()))
            .collect();
        let is_cache_here = facts.has_node_cache_at(address.ip());
        let mut destinations = Vec::new();
        if is_cache_here || (services.is_empty() && is_of_node(address.ip())) {
            destinations.push(Destination::Node(address));
        }
        if services.is_empty() {
            match Endpoint::new(facts, address) {
                endpoint if !endpoint.pods.is_empty() => {
                    destinations.push(Destination::Endpoint(endpoint));
                }
                // It may be replaced by another one.
                _ if destinations.is_empty() => destinations.push(Destination::Unknown(address)),
                _ => {}
            }
        }
        for service in services {
            let Some(endpoints) = endpoints(facts, service, address) else {
                return vec![Destination::Unknown(address)];
            };
            destinations.extend(endpoints.iter().cloned().map(Destination::Endpoint));
            destinations.push(Destination::Service { address, endpoints });
        }
        destinations
    }

    /// The namespaces of all servers; none if one of them may be in any namespace.
    pub(super) fn namespaces(
        facts: &'a Facts,
        destinations: &[Destination<'a>],
    ) -> Option<BTreeSet<&'a str>> {
        // A Service whose pods are not in its namespace is written by hand; policies beside it count.
        let services = facts.services().flatten();
        let mut namespaces: BTreeSet<&str> =
            services.map(|service| &*service.key.namespace).collect();
        for destination in destinations {
            match destination {
                Destination::Service { .. } => {}
                Destination::Endpoint(endpoint) if endpoint.is_known_pod() => {
                    let pods = endpoint.pods.iter();
                    namespaces.extend(pods.map(|pod| &*pod.key.namespace));
                }
                Destination::Node(_) => {
                    namespaces.extend(facts.host_pods()?.map(|pod| &*pod.key.namespace));
                }
                Destination::Endpoint(_) | Destination::Unknown(_) => return None,
            }
        }
        Some(namespaces)
    }

    /// Whether a policy has a rule that surely lets a question go there.
    pub(super) fn is_allowed_by(&self, facts: &Facts, policy: &Policy) -> bool {
        let mut rules = policy.egress.iter().flatten();
        rules.any(|rule| self.is_allowed(facts, policy, rule))
    }

    fn is_allowed(&self, facts: &Facts, policy: &Policy, rule: &Rule) -> bool {
        match self {
            Destination::Service { address, endpoints } => {
                // Whoever enforces selectors looks at a packet that has got a pod's address, and
                // its port.
                allows_address(rule, *address)
                    || endpoints
                        .iter()
                        .all(|endpoint| endpoint.is_selected(facts, policy, rule))
            }
            Destination::Endpoint(endpoint) => {
                allows_address(rule, endpoint.address)
                    || endpoint.is_selected(facts, policy, rule)
                    || rule.peers == Peers::All && endpoint.has_port(rule)
            }
            Destination::Node(address) => allows_address(rule, *address),
            Destination::Unknown(_) => rule.peers == Peers::All && rule.ports.contain_all(),
        }
    }
}

impl<'a> Endpoint<'a> {
    fn new(facts: &'a Facts, address: SocketAddr) -> Endpoint<'a> {
        Endpoint {
            address,
            pods: facts.pods_at(address.ip()).collect(),
        }
    }

    /// Whether its address says which pod it is. A pod in its node's network shares its address with
    /// other pods, which may not be known.
    pub(super) fn is_known_pod(&self) -> bool {
        let mut pods = self.pods.iter();
        !self.pods.is_empty() && pods.all(|pod| pod.network == PodNetwork::Own)
    }

    /// Whether a rule surely selects the pod behind it, and its port.
    fn is_selected(&self, facts: &Facts, policy: &Policy, rule: &Rule) -> bool {
        let Peers::Some(peers) = &rule.peers else {
            return false;
        };
        let mut peers = peers.iter();
        self.has_port(rule)
            && peers.any(|peer| {
                // Nobody knows which of several pods it is, if they claim the same address.
                let mut pods = self.pods.iter();
                !self.pods.is_empty() && pods.all(|pod| selects(facts, policy, peer, pod))
            })
    }

    /// Whether a rule surely has the endpoint's port, by number or by a name that its pod gives it.
    pub(super) fn has_port(&self, rule: &Rule) -> bool {
        let number = self.address.port();
        let Some(first) = self.pods.first() else {
            return rule.ports.contain(number, &[]);
        };
        let is_shared = |name: &str| {
            let mut pods = self.pods.iter();
            pods.all(|pod| has_name(pod, name, number))
        };
        let names = first.named_ports.iter().map(|(name, _)| &**name);
        let names: Vec<&str> = names.filter(|name| is_shared(name)).collect();
        rule.ports.contain(number, &names)
    }
}

impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Service { address, .. } | Destination::Node(address) => {
                write!(f, "{address}")
            }
            Destination::Endpoint(endpoint) => write!(f, "{}", endpoint.address),
            Destination::Unknown(address) => {
                write!(f, "the servers behind {address}, which are not known,")
            }
        }
    }
}

/// The endpoints that get what is asked at an address of a Service; none if they are not known.
fn endpoints<'a>(
    facts: &'a Facts,
    service: &DnsService,
    asked: SocketAddr,
) -> Option<Vec<Endpoint<'a>>> {
    let ports = service.ports.iter();
    let mut ports =
        ports.filter(|port| port.protocol == "udp" && port.number == Some(asked.port()));
    let port = ports.next()?;
    let mut endpoints = Vec::new();
    for slice in facts.slices_of(&service.key) {
        let slice = slice?;
        let same = |other: &&_| {
            let other: &crate::cluster::objects::Port = other;
            other.protocol == "udp" && other.name == port.name
        };
        for target in slice.ports.iter().filter(same) {
            let number = target.number?;
            // A slice holds addresses of one family, and only those of the asked one's are sent there.
            let addresses = slice.addresses.iter();
            let addresses = addresses.filter(|address| is_same_family(**address, asked.ip()));
            endpoints.extend(
                addresses.map(|address| Endpoint::new(facts, SocketAddr::new(*address, number))),
            );
        }
    }
    (!endpoints.is_empty()).then_some(endpoints)
}

/// Whether packets to an address stay on this node, for a program in its network.
fn is_of_node(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
    }
}

/// Whether a rule allows an address and port, whoever has them.
fn allows_address(rule: &Rule, address: SocketAddr) -> bool {
    let is_inside = match &rule.peers {
        Peers::All => true,
        Peers::Some(peers) => peers.iter().any(|peer| match peer {
            Peer::Pods { .. } => false,
            Peer::Block { network, except } => {
                let mut except = except.iter();
                network.contains(&address.ip())
                    && !except.any(|network| network.contains(&address.ip()))
            }
        }),
    };
    is_inside && rule.ports.contain(address.port(), &[])
}

/// Whether a peer of a policy's rule is surely this pod.
fn selects(facts: &Facts, policy: &Policy, peer: &Peer, pod: &Client) -> bool {
    let Peer::Pods { namespaces, pods } = peer else {
        return false;
    };
    let is_in_namespace = match namespaces {
        None => pod.key.namespace == policy.key.namespace,
        Some(namespaces) => facts.selects_namespace(namespaces, &pod.key.namespace),
    };
    // What selectors mean for pods in their nodes' network, Kubernetes leaves open.
    pod.network == PodNetwork::Own && is_in_namespace && pods.matches(&pod.labels)
}

fn has_name(pod: &Client, name: &str, number: u16) -> bool {
    let ports = pod.named_ports.iter();
    let mut ports = ports.filter(|(other, _)| **other == *name).peekable();
    // Which one counts of several is not defined.
    ports.peek().is_some() && ports.all(|(_, port)| *port == number)
}

fn is_same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}
