//! The lists and watches that objects come from.

use super::policy::PolicyKind;

/// A list and the changes that follow it: the selected objects of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// EndpointSlices: all of them, or those of headless Services. The latter are watched by the
    /// Services' names, in parts numbered below [`Feed::SLICE_PARTS`], because the length of a
    /// request limits how many names it can hold.
    Slices(u8),
    /// EndpointSlices of the cluster's DNS Service.
    DnsSlices,
    /// Pods.
    Pods,
    /// The ConfigMap with CoreDNS's configuration.
    Corefile,
    /// NetworkPolicies.
    Policies,
    /// The kinds of policies that the API server serves and the agent doesn't evaluate.
    PolicyKinds,
    /// Policies of one kind that the agent doesn't evaluate.
    OtherPolicies(PolicyKind),
    /// Namespaces with their labels, for the client policy.
    ClientNamespaces,
    /// Pods of this node, for the client policy.
    Clients,
    /// The Namespace of the cluster's DNS, for the client policy.
    DnsNamespace,
    /// The Service of the cluster's DNS, for the client policy.
    DnsService,
    /// EndpointSlices of the cluster's DNS, for the client policy.
    DnsEndpoints,
    /// Pods of the cluster's DNS, for the client policy.
    DnsPods,
    /// Services to which NodeLocal DNSCache may forward queries for cluster names.
    UpstreamServices,
    /// A ConfigMap with the configuration of NodeLocal DNSCache.
    CacheConfig,
}

/// Names of the parts of EndpointSlices, for logs and status.
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
    /// All EndpointSlices, or the first part of them.
    pub const SLICES: Feed = Feed::Slices(0);
    /// The largest number of parts of EndpointSlices.
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
            Feed::Corefile => "Corefile",
            Feed::Policies => "NetworkPolicies",
            Feed::PolicyKinds => "kinds of policies",
            Feed::OtherPolicies(kind) => kind.resource(),
            Feed::ClientNamespaces => "Namespaces of clients",
            Feed::Clients => "Pods of this node",
            Feed::DnsNamespace => "Namespace of the cluster's DNS",
            Feed::DnsService => "Service of the cluster's DNS",
            Feed::DnsEndpoints => "endpoints of the cluster's DNS",
            Feed::DnsPods => "Pods of the cluster's DNS",
            Feed::UpstreamServices => "Services beside the cluster's DNS",
            Feed::CacheConfig => "configuration of a node cache",
        }
    }
}
