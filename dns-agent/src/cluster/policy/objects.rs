//! Objects, as far as they matter for who may ask.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::SystemTime;

use ipnet::IpNet;

use super::others::OtherPolicy;
use crate::cluster::feed::Feed;
use crate::cluster::node_cache::NodeCache;
use crate::cluster::objects::{Key, Port};
use crate::cluster::selector::{Labels, Selector};

/// The label that every Namespace has, with its name (Kubernetes 1.22).
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// An object, as far as it matters for who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A NetworkPolicy.
    Policy(Policy),
    /// A Pod.
    Pod(Client),
    /// A Namespace.
    Namespace(LabelledNamespace),
    /// A Service.
    Service(DnsService),
    /// An EndpointSlice.
    Slice(DnsSlice),
    /// A policy of a kind that is not evaluated.
    Other(OtherPolicy),
    /// An object that can't be read, or not without doubt.
    Unreadable {
        /// The feed that tells of such objects.
        feed: Feed,
        /// Namespace and name.
        key: Key,
    },
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name.
    pub key: Key,
    /// The pods of its namespace that it is about.
    pub pods: Selector,
    /// What they may ask; nothing else, if no other policy allows it. None: it isn't about egress.
    pub egress: Option<Box<[Rule]>>,
    /// Which packets may reach the pods; no others, if no other policy admits them. None: the policy
    /// isn't about ingress.
    pub ingress: Option<Box<[Rule]>>,
}

/// What a policy allows, in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The other end of the connection: its destination for egress, its source for ingress.
    pub peers: Peers,
    /// The UDP ports at the destination.
    pub ports: Ports,
}

/// The other ends of connections that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Every other end.
    All,
    /// Any of these.
    Some(Box<[Peer]>),
}

/// Some other ends of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// In the namespaces with such labels; none: in the policy's own.
        namespaces: Option<Selector>,
        /// With such labels.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// In this network.
        network: IpNet,
        /// But not in these.
        except: Box<[IpNet]>,
    },
}

/// To which UDP ports a rule allows packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// All.
    All,
    /// Any of these; none where the rule is about other protocols.
    Some(Box<[PortRange]>),
}

/// Some UDP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// By number.
    Numbers(RangeInclusive<u16>),
    /// What the pod that is asked calls so.
    Name(Box<str>),
}

/// A pod: one that may ask, or that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Namespace and name.
    pub key: Key,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses; none when it has ended.
    pub addresses: Box<[IpAddr]>,
    /// Where it is in its life.
    pub stage: Stage,
    /// Whose addresses these are.
    pub network: PodNetwork,
    /// Its UDP ports that have names.
    pub named_ports: Box<[(Box<str>, u16)]>,
    /// When the first of its containers that run was started last; none while none runs.
    pub started: Option<SystemTime>,
    /// The node cache that it is, if it is one.
    pub node_cache: Option<Box<NodeCache>>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is there.
    Alive,
    /// It is being deleted, or its node doesn't answer: its addresses may be another's any moment.
    Ending,
}

/// Whose network a pod is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// Its own.
    Own,
    /// Its node's: policies are not about it, and its packets cross no veth.
    Host,
}

/// A Namespace, by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledNamespace {
    /// Its name, in no namespace.
    pub key: Key,
    /// Its labels.
    pub labels: Labels,
}

/// A Service that may be the cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsService {
    /// Namespace and name.
    pub key: Key,
    /// Its ClusterIPs.
    pub addresses: Box<[IpAddr]>,
    /// Its ports.
    pub ports: Box<[Port]>,
    /// The labels of its pods.
    pub selector: Labels,
}

/// A part of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSlice {
    /// Namespace and name.
    pub key: Key,
    /// The Service that it belongs to, if any.
    pub service: Option<Key>,
    /// The addresses of its endpoints that are ready.
    pub addresses: Box<[IpAddr]>,
    /// The port of each of them for each of the Service's, by its name.
    pub ports: Box<[Port]>,
}

impl Fact {
    /// Namespace and name of the object.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Fact::Policy(policy) => &policy.key,
            Fact::Pod(pod) => &pod.key,
            Fact::Namespace(namespace) => &namespace.key,
            Fact::Service(service) => &service.key,
            Fact::Slice(slice) => &slice.key,
            Fact::Other(policy) => &policy.key,
            Fact::Unreadable { key, .. } => key,
        }
    }
}

impl Policy {
    /// Whether its ingress rules select peers by labels of Namespaces, other than the one with the
    /// Namespace's name.
    #[must_use]
    pub fn needs_namespaces(&self) -> bool {
        let rules = self.ingress.iter().flatten();
        let peers = rules.flat_map(|rule| match &rule.peers {
            Peers::All => &[][..],
            Peers::Some(peers) => peers,
        });
        let mut peers = peers;
        peers.any(|peer| match peer {
            Peer::Pods {
                namespaces: Some(selector),
                ..
            } => !selector.is_only_about(NAMESPACE_NAME),
            Peer::Pods { .. } | Peer::Block { .. } => false,
        })
    }
}

impl Ports {
    /// Whether a UDP port is among them, by its number or by one of the names that it has.
    pub(super) fn contain(&self, number: u16, names: &[&str]) -> bool {
        let Ports::Some(ranges) = self else {
            return true;
        };
        ranges.iter().any(|range| match range {
            PortRange::Numbers(numbers) => numbers.contains(&number),
            PortRange::Name(name) => names.contains(&&**name),
        })
    }

    /// Whether every UDP port is among them.
    pub(super) fn contain_all(&self) -> bool {
        let Ports::Some(ranges) = self else {
            return true;
        };
        let all = PortRange::Numbers(0..=u16::MAX);
        ranges.contains(&all)
    }
}
