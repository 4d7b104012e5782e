//! Who tells of which objects.

use super::policy::PolicyKind;

/// A list and its changes: objects of one kind, as far as they are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// EndpointSlices: all, or those of headless Services. These are watched by the Services' names, in
    /// numbered parts below [`Feed::SLICE_PARTS`], because a request holds only so many names.
    Slices(u8),
    /// EndpointSlices of the cluster's own DNS.
    DnsSlices,
    /// Pods.
    Pods,
    /// The ConfigMap with CoreDNS's configuration.
    Corefile,
    /// NetworkPolicies.
    Policies,
    /// Which kinds of policies the API serves that are not evaluated.
    PolicyKinds,
    /// Policies of such a kind.
    OtherPolicies(PolicyKind),
    /// Namespaces with their labels, for the policies about the cluster's DNS.
    ClientNamespaces,
    /// Pods that may ask: those of this node.
    Clients,
    /// The Namespace of the cluster's own DNS.
    DnsNamespace,
    /// The Service of the cluster's own DNS.
    DnsService,
    /// EndpointSlices of the cluster's own DNS, for who may ask it.
    DnsEndpoints,
    /// Pods of the cluster's own DNS.
    DnsPods,
    /// Services that a node cache may ask for the cluster's names.
    UpstreamServices,
    /// A ConfigMap with configuration of a node cache.
    CacheConfig,
}

/// What the parts of the EndpointSlices are called.
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
    /// How many parts of EndpointSlices there may be.
    pub const SLICE_PARTS: u8 = PART_NAMES.len() as u8;

    /// Its name, for logs and status.
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
