//! Who tells of which objects.

/// A list and its changes: objects of one kind, as far as they are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// EndpointSlices: all, or those of headless Services.
    Slices,
    /// EndpointSlices that Kubernetes' own controller did not make: written by hand, mirrored, or made
    /// by other controllers. It doesn't mark those of headless Services.
    OtherSlices,
    /// EndpointSlices of the cluster's own DNS.
    DnsSlices,
    /// Pods.
    Pods,
    /// The ConfigMap with CoreDNS's configuration.
    Corefile,
    /// NetworkPolicies.
    Policies,
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

impl Feed {
    /// Its name, for logs and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Feed::Namespaces => "Namespaces",
            Feed::Services => "Services",
            Feed::Slices => "EndpointSlices",
            Feed::OtherSlices => "other EndpointSlices",
            Feed::DnsSlices => "EndpointSlices of the cluster's DNS",
            Feed::Pods => "Pods",
            Feed::Corefile => "Corefile",
            Feed::Policies => "NetworkPolicies",
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
