//! The servers that a `resolv.conf` names.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

/// Where a container has its `resolv.conf`.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The most servers that the kubelet writes into a pod's file (Kubernetes,
/// `pkg/apis/core/validation`).
pub const MAX_NODE_SERVERS: usize = 3;

/// Which servers a pod's `resolv.conf` names (Kubernetes, `pkg/kubelet/network/dns`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodResolvConf {
    /// Those of its node.
    Node,
    /// These.
    Servers(Vec<IpAddr>),
    /// Zerohop can't tell. The text is the reason, as a clause.
    Unknown(String),
}

impl Default for PodResolvConf {
    fn default() -> PodResolvConf {
        PodResolvConf::Unknown("the pod of CoreDNS isn't known, and so its servers".to_owned())
    }
}

impl PodResolvConf {
    pub(crate) fn of_pod(pod: &core::Pod) -> PodResolvConf {
        let spec = pod.spec.as_ref();
        let config = spec.and_then(|spec| spec.dns_config.as_ref());
        let texts = config.and_then(|config| config.nameservers.as_deref());
        let mut servers = Vec::new();
        for text in texts.unwrap_or_default() {
            match text.parse() {
                Ok(server) => servers.push(server),
                Err(_) => {
                    return PodResolvConf::Unknown(format!(
                        "dnsConfig of CoreDNS's pod has {text:?}, which is not an address"
                    ));
                }
            }
        }
        let policy = spec.and_then(|spec| spec.dns_policy.as_deref());
        let is_on_host = spec.and_then(|spec| spec.host_network) == Some(true);
        match policy {
            Some("None") => PodResolvConf::Servers(servers),
            Some("Default") if servers.is_empty() => PodResolvConf::Node,
            // The kubelet gives a pod with `ClusterFirst` in the node's network the node's file.
            Some("ClusterFirst") | None if is_on_host && servers.is_empty() => PodResolvConf::Node,
            policy => PodResolvConf::Unknown(format!(
                "CoreDNS's pod has dnsPolicy {}, so it isn't known which servers its {RESOLV_CONF} \
                 names",
                policy.unwrap_or("ClusterFirst")
            )),
        }
    }
}

/// The servers in a text, in their order. Addresses with a scope are left out.
pub fn read_servers(text: &str) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        if let Some(server) = words.next().and_then(|word| word.parse().ok())
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}
