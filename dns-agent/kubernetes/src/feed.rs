//! Feeds: the lists and watches from which the agent receives objects.

use super::policy::PolicyKind;

/// A list of objects of one kind, and the watch that reports changes after the list.
/// [`Feed::PolicyKinds`] is read repeatedly instead of watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// All EndpointSlices, or one part of the EndpointSlices of headless Services. A part is
    /// selected by the names of its Services. There are several parts because a request can hold
    /// only a limited number of names. Parts are numbered from 0 to [`Feed::SLICE_PARTS`] - 1.
    Slices(u8),
    /// EndpointSlices of the cluster's DNS Service, for DNS names. Read only with
    /// [`EndpointScope::Headless`](crate::EndpointScope::Headless).
    DnsSlices,
    /// Pods.
    Pods,
    /// NetworkPolicies.
    Policies,
    /// The kinds of policies that the API server serves, besides NetworkPolicy.
    PolicyKinds,
    /// Policies of one kind other than NetworkPolicy.
    OtherPolicies(PolicyKind),
    /// Namespaces with their labels, for the client policy.
    ClientNamespaces,
    /// Pods of this node, for the client policy and for NodeLocal DNSCache.
    Clients,
    /// The Namespace of the cluster's DNS Service, for the client policy.
    DnsNamespace,
    /// The cluster's DNS Service, for the client policy and for NodeLocal DNSCache.
    DnsService,
    /// EndpointSlices of the cluster's DNS Service, for the client policy.
    DnsEndpoints,
    /// Pods of the cluster's DNS, for the client policy, and because their start times show which
    /// Corefile they have read.
    DnsPods,
    /// Services to which NodeLocal DNSCache may forward queries for cluster names.
    UpstreamServices,
    /// A ConfigMap with the configuration of CoreDNS or NodeLocal DNSCache.
    ConfigMap,
    /// Services with UDP port 53, one of which may be the cluster's DNS.
    DnsCandidates,
}

/// The names of the [`Feed::Slices`] feeds in logs and status, by part.
const PART_NAMES: [&str; 8] = [
    "EndpointSlices",
    "EndpointSlices, part 2",
    "EndpointSlices, part 3",
    "EndpointSlices, part 4",
    "EndpointSlices, part 5",
    "EndpointSlices, part 6",
    "EndpointSlices, part 7",
    "EndpointSlices, part 8",
];

impl Feed {
    /// All EndpointSlices, or the first part of those of headless Services.
    pub const SLICES: Feed = Feed::Slices(0);
    /// The number of [`Feed::Slices`] feeds that can exist. When all are full and the names of the
    /// headless Services need more than half of them, the agent watches all EndpointSlices.
    pub const SLICE_PARTS: u8 = PART_NAMES.len() as u8;

    /// The feed's name in logs and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Feed::Namespaces => "Namespaces",
            Feed::Services => "Services",
            Feed::Slices(part) => match PART_NAMES.get(usize::from(part)) {
                Some(name) => name,
                None => "EndpointSlices",
            },
            Feed::DnsSlices => "EndpointSlices of the cluster's DNS",
            Feed::Pods => "Pods",
            Feed::Policies => "NetworkPolicies",
            Feed::PolicyKinds => "policy kinds",
            Feed::OtherPolicies(kind) => kind.resource(),
            Feed::ClientNamespaces => "Namespaces for the client policy",
            Feed::Clients => "Pods of this node",
            Feed::DnsNamespace => "Namespace of the cluster's DNS",
            Feed::DnsService => "Service of the cluster's DNS",
            Feed::DnsEndpoints => "endpoints of the cluster's DNS",
            Feed::DnsPods => "Pods of the cluster's DNS",
            Feed::UpstreamServices => "upstream Services of NodeLocal DNSCache",
            Feed::ConfigMap => "configuration of the cluster's DNS",
            Feed::DnsCandidates => "Services with UDP port 53",
        }
    }
}
