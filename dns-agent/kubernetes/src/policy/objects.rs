//! Kubernetes objects, reduced to the fields that client policy and the agent's `dns_path` need.

use std::mem::size_of;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use super::other_policies::OtherPolicy;
use super::ports::{Ports, QueryProtocol};
use crate::coredns_pod::DnsContainers;
use crate::feed::Feed;
use crate::node_cache::NodeCache;
use crate::objects::{ObjectKey, Port};
use crate::selector::{Labels, NAMESPACE_NAME, Selector};

/// An object that client policy or the agent's `dns_path` depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A NetworkPolicy.
    Policy(Policy),
    /// A Pod.
    Pod(PolicyPod),
    /// A Namespace.
    Namespace(LabelledNamespace),
    /// A Service.
    Service(DnsService),
    /// An EndpointSlice.
    Slice(DnsSlice),
    /// A policy of another kind than NetworkPolicy.
    OtherPolicy(OtherPolicy),
    /// An object whose effect on client policy is unknown: a field can't be read, or other software
    /// may read different addresses from it (see [`Fact::from_slice`]).
    Unreadable {
        /// The feed that reported the object.
        feed: Feed,
        /// Namespace and name.
        key: ObjectKey,
    },
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Selects the pods in the policy's namespace that the policy applies to.
    pub pods: Selector,
    /// The connections that the selected pods may open. Other policies may allow more. `None`: the
    /// policy doesn't restrict egress.
    pub egress: Option<Box<[Rule]>>,
    /// The connections that the selected pods may receive. Other policies may allow more. `None`:
    /// the policy doesn't restrict ingress.
    pub ingress: Option<Box<[Rule]>>,
}

/// Connections that a policy allows in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The other end of the connection: the destination for egress, the source for ingress.
    pub peers: Peers,
    /// The ports at the destination.
    pub ports: Ports,
}

/// The peers that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every peer.
    All,
    /// The peers in one or more of these sets.
    Listed(Box<[Peer]>),
}

/// A set of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods, by labels.
    Pods {
        /// Selects the pods' namespaces. `None`: the policy's own namespace.
        namespaces: Option<Selector>,
        /// Selects pods within these namespaces.
        pods: Selector,
    },
    /// Addresses, by network (`ipBlock`).
    Block {
        /// The network that holds the addresses.
        network: IpNet,
        /// Networks within `network` that are excluded.
        except: Box<[IpNet]>,
    },
}

/// A pod, as a client or as a server of DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The pod's labels.
    pub labels: Labels,
    /// The pod's addresses. Empty if the pod has none yet, or has ended.
    pub addresses: Box<[IpAddr]>,
    /// Whether the pod is alive or ending.
    pub stage: Stage,
    /// The network that `addresses` belong to.
    pub network: PodNetwork,
    /// The pod's named ports.
    pub named_ports: Box<[NamedPort]>,
    /// The start time of the longest-running container. `None` if no container runs, or if a
    /// running container has no start time.
    pub started: Option<SystemTime>,
    /// The node cache in this pod. `None` if the pod isn't a node cache. [`Fact::from_pod`] leaves
    /// it `None`; the reader of the Kubernetes API sets it.
    pub node_cache: Option<Box<NodeCache>>,
    /// The containers of a pod of [`Feed::DnsPods`]. Otherwise `None`. The reader of the Kubernetes
    /// API sets it.
    pub dns_containers: Option<Box<DnsContainers>>,
}

/// A port of a pod to which policies may refer by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// The port's name.
    pub name: Box<str>,
    /// The port's protocol.
    pub protocol: QueryProtocol,
    /// The port's number.
    pub number: u16,
}

/// The stage of a pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The pod keeps its addresses.
    Alive,
    /// The pod is being deleted, or its node doesn't answer. Another pod may get its addresses at
    /// any moment.
    Ending,
}

/// The network namespace that a pod runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// The pod's own network namespace.
    Own,
    /// The node's network namespace. The pod's packets cross no veth, so it is never judged as a
    /// client. It may be a server.
    Host,
}

/// A Namespace with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledNamespace {
    /// The Namespace's name. The field `namespace` of the key is empty.
    pub key: ObjectKey,
    /// The Namespace's labels.
    pub labels: Labels,
}

/// A Service that may be the cluster's DNS, or to which NodeLocal DNSCache may forward queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsService {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The ClusterIPs.
    pub addresses: Box<[IpAddr]>,
    /// The Service's ports.
    pub ports: Box<[Port]>,
    /// The labels that select the Service's pods.
    pub selector: Labels,
    /// When the Service was created, if known.
    pub created: Option<SystemTime>,
}

/// An EndpointSlice: some of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service that the slice belongs to, if any.
    pub service: Option<ObjectKey>,
    /// The addresses of the ready endpoints.
    pub addresses: Box<[IpAddr]>,
    /// The endpoints' ports. The port of a Service leads to the ports with the same name and
    /// protocol.
    pub ports: Box<[Port]>,
}

impl Fact {
    /// The object's namespace and name.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        match self {
            Fact::Policy(policy) => &policy.key,
            Fact::Pod(pod) => &pod.key,
            Fact::Namespace(namespace) => &namespace.key,
            Fact::Service(service) => &service.key,
            Fact::Slice(slice) => &slice.key,
            Fact::OtherPolicy(policy) => &policy.key,
            Fact::Unreadable { key, .. } => key,
        }
    }
}

impl DnsService {
    /// Whether the Service may be a cluster's DNS: it selects pods, and has UDP port 53.
    #[must_use]
    pub fn may_be_dns(&self) -> bool {
        !self.selector.is_empty() && self.dns_port().is_some()
    }

    /// The UDP port 53.
    #[must_use]
    pub fn dns_port(&self) -> Option<&Port> {
        let mut ports = self.ports.iter();
        ports.find(|port| port.protocol == "udp" && port.number.valid() == Some(53))
    }
}

impl Policy {
    /// The memory of the policy in bytes, about, without its key.
    pub(super) fn memory(&self) -> usize {
        let rules = self.egress.iter().chain(&self.ingress).flatten();
        let rules: usize = rules.map(Rule::memory).sum();
        size_of::<Policy>() + self.pods.memory() + rules
    }

    /// Whether an ingress rule selects peers by a Namespace label other than `NAMESPACE_NAME`, so
    /// that the labels of clients' Namespaces must be known. Egress rules need only the labels of
    /// the Namespace of the cluster's DNS, which [`Feed::DnsNamespace`] reports.
    #[must_use]
    pub fn needs_namespaces(&self) -> bool {
        let rules = self.ingress.iter().flatten();
        let mut peers = rules.flat_map(|rule| match &rule.peers {
            Peers::All => &[][..],
            Peers::Listed(peers) => peers,
        });
        peers.any(|peer| match peer {
            Peer::Pods {
                namespaces: Some(selector),
                ..
            } => !selector.is_only_about(NAMESPACE_NAME),
            Peer::Pods { .. } | Peer::Block { .. } => false,
        })
    }
}

impl Rule {
    fn memory(&self) -> usize {
        let peers = match &self.peers {
            Peers::All => &[][..],
            Peers::Listed(peers) => peers,
        };
        let peers: usize = peers.iter().map(Peer::memory).sum();
        size_of::<Rule>() + peers + self.ports.memory()
    }
}

impl Peer {
    fn memory(&self) -> usize {
        let parts = match self {
            Peer::Pods { namespaces, pods } => {
                namespaces.as_ref().map_or(0, Selector::memory) + pods.memory()
            }
            Peer::Block { except, .. } => size_of_val(&**except),
        };
        size_of::<Peer>() + parts
    }
}
