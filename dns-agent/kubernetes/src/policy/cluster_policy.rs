//! Cluster-wide policies of the network policy API (`policy.networking.k8s.io`), whose rules are
//! evaluated.
//!
//! AdminNetworkPolicy and BaselineAdminNetworkPolicy of version v1alpha1 are one [`PolicyApi`], and
//! ClusterNetworkPolicy of versions v1alpha2 and v1beta1 is another. Network plugins enforce one of
//! them or none. The source is the Go module sigs.k8s.io/network-policy-api, versions 0.1.7 and
//! 0.3.0.

mod convert;

use std::fmt;
use std::mem::size_of;

use ipnet::IpNet;
use serde::Deserialize;

use super::ports::{Ports, QueryProtocol};
use crate::objects::ObjectKey;
use crate::selector::{NAMESPACE_NAME, Selector};

/// The most memory that the rules of one policy may take, in bytes.
pub(super) const MAX_POLICY_MEMORY: usize = 4 << 20;

/// A cluster-wide policy. Its rules count in their order; the first one that matches a connection
/// decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterPolicy {
    /// The name. The namespace is empty.
    pub(super) key: ObjectKey,
    /// The `kind` field.
    pub(super) kind: &'static str,
    pub(super) api: PolicyApi,
    pub(super) tier: Tier,
    /// 0 to 1,000. Within a tier, policies with smaller numbers come first. The order of policies
    /// with equal numbers is not defined.
    pub(super) priority: u16,
    /// The pods that the policy applies to. Pods in their node's network are never among them.
    pub(super) subject: PodSet,
    pub(super) egress: Box<[ClusterRule]>,
    pub(super) ingress: Box<[ClusterRule]>,
    pub(super) report: PolicyReport,
}

/// An API with its own kinds of cluster-wide policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PolicyApi {
    /// AdminNetworkPolicy and BaselineAdminNetworkPolicy.
    AdminNetworkPolicy,
    /// ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

/// When policies are consulted, in this order.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// If no NetworkPolicy selects the pod.
    Baseline,
}

/// What a policy's status says about its enforcement. Only OVN-Kubernetes is known to write one: a
/// condition `Ready-In-Zone-NAME` for each zone (go-controller, `adminnetworkpolicy/status.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PolicyReport {
    /// The conditions of all zones are true.
    Enforced,
    /// The condition of a zone is not true, or is about an earlier version of the policy.
    NotEnforced,
    /// There is no such condition.
    Missing,
}

/// What a rule decides about the connections that match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterRule {
    /// The rule's index in the policy's list of rules.
    pub(super) index: usize,
    pub(super) action: RuleAction,
    pub(super) peers: ClusterPeers,
    /// The ports at the destination.
    pub(super) ports: Ports,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) enum RuleAction {
    /// Version v1alpha1 calls it `Allow`.
    #[serde(alias = "Allow")]
    Accept,
    Deny,
    /// The next tier decides.
    Pass,
}

/// The other ends of the connections that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClusterPeers {
    /// The peers in one or more of these sets.
    Listed(Box<[ClusterPeer]>),
    /// Every peer, at every port, because a part of the rule is not known. "If an implementation
    /// sees no fields are set then … it should fail closed": a rule that accepts matches nothing,
    /// so it is not stored. Any other rule denies everything.
    FailClosed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClusterPeer {
    Pods(PodSet),
    /// Destinations, by address.
    Networks(Box<[IpNet]>),
    /// Nodes. Their addresses aren't known here.
    Nodes,
    /// Domain names. Their addresses aren't known here.
    DomainNames,
}

/// Pods by their labels. Pods in their node's network are never included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSet {
    /// Selects the pods' namespaces.
    pub(super) namespaces: Selector,
    /// Selects pods within these namespaces.
    pub(super) pods: Selector,
}

impl ClusterPolicy {
    /// Whether a selector for clients needs the labels of Namespaces, besides their names.
    pub(super) fn needs_namespaces(&self) -> bool {
        let rules = self.ingress.iter();
        let peers = rules.flat_map(|rule| rule.peers.listed());
        let sources = peers.filter_map(|peer| match peer {
            ClusterPeer::Pods(pods) => Some(pods),
            ClusterPeer::Networks(_) | ClusterPeer::Nodes | ClusterPeer::DomainNames => None,
        });
        let mut selectors = sources.chain([&self.subject]).map(|pods| &pods.namespaces);
        selectors.any(|selector| !selector.is_only_about(NAMESPACE_NAME))
    }

    /// Whether the policy can deny a connection over a protocol, with any plugin.
    pub(super) fn can_deny(&self, protocol: QueryProtocol) -> bool {
        let mut rules = self.egress.iter().chain(&self.ingress);
        rules.any(|rule| rule.can_deny(protocol))
    }

    /// Whether the policy can deny a connection from a pod, with any plugin.
    pub(super) fn can_deny_egress(&self) -> bool {
        let protocols = [QueryProtocol::Udp, QueryProtocol::Tcp];
        let mut rules = self.egress.iter();
        rules.any(|rule| protocols.iter().any(|protocol| rule.can_deny(*protocol)))
    }

    /// The memory of the policy in bytes, about, without its key.
    pub(super) fn memory(&self) -> usize {
        let rules = self.egress.iter().chain(&self.ingress);
        let rules: usize = rules.map(ClusterRule::memory).sum();
        size_of::<ClusterPolicy>() + self.subject.memory() + rules
    }
}

impl PolicyApi {
    /// The largest priority that every plugin accepts. OVN-Kubernetes and Kube-OVN accept 99 for
    /// AdminNetworkPolicies (`ANPWithUnsupportedPriority`, `validateAnpConfig`), and Kube-OVN 399
    /// for ClusterNetworkPolicies (`CnpMaxPriority`). They enforce no other policy.
    pub(super) fn max_accepted_priority(self) -> u16 {
        match self {
            PolicyApi::AdminNetworkPolicy => 99,
            PolicyApi::ClusterNetworkPolicy => 399,
        }
    }
}

impl fmt::Display for ClusterPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key.name)
    }
}

impl ClusterRule {
    /// Whether the rule can deny a connection over a protocol, with any plugin.
    fn can_deny(&self, protocol: QueryProtocol) -> bool {
        match self.action {
            RuleAction::Accept => false,
            RuleAction::Deny => true,
            RuleAction::Pass => self.has_optional_peers() || self.ports.are_unknown(protocol),
        }
    }

    /// Whether the rule has peers that a plugin may not know: they are experimental in the API.
    /// With such a plugin, the rule fails closed, as described at [`ClusterPeers::FailClosed`].
    fn has_optional_peers(&self) -> bool {
        let mut peers = self.peers.listed().iter();
        peers.any(|peer| matches!(peer, ClusterPeer::Nodes | ClusterPeer::DomainNames))
    }

    fn memory(&self) -> usize {
        let peers: usize = self.peers.listed().iter().map(ClusterPeer::memory).sum();
        size_of::<ClusterRule>() + peers + self.ports.memory()
    }
}

impl ClusterPeers {
    /// The sets, if they are known.
    fn listed(&self) -> &[ClusterPeer] {
        match self {
            ClusterPeers::Listed(peers) => peers,
            ClusterPeers::FailClosed => &[],
        }
    }
}

impl ClusterPeer {
    fn memory(&self) -> usize {
        let parts = match self {
            ClusterPeer::Pods(pods) => pods.memory(),
            ClusterPeer::Networks(networks) => size_of_val(&**networks),
            ClusterPeer::Nodes | ClusterPeer::DomainNames => 0,
        };
        size_of::<ClusterPeer>() + parts
    }
}

impl PodSet {
    fn memory(&self) -> usize {
        self.namespaces.memory() + self.pods.memory()
    }
}
