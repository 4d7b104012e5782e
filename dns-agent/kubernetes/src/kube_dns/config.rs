//! The ConfigMap of kube-dns, from which kube-dns and NodeLocal DNSCache read stub domains and
//! upstream servers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;

use crate::container_files::ConfigMapData;

/// The most upstream servers that node-cache accepts.
const MAX_UPSTREAMS: usize = 3;

/// The settings that node-cache reads from the ConfigMap of kube-dns.
#[derive(Debug, Default)]
pub(crate) struct StubConfig {
    /// The servers of each stub domain.
    pub(crate) stub_domains: BTreeMap<String, Vec<String>>,
    /// The servers for names outside the cluster and the stub domains. Empty: the servers in
    /// /etc/resolv.conf.
    pub(crate) upstreams: Vec<String>,
}

impl StubConfig {
    /// Reads the ConfigMap as node-cache does (kubernetes/dns, `pkg/dns/config`).
    ///
    /// # Errors
    /// If node-cache may refuse any part, because node-cache then keeps its previous settings. Also
    /// if there are federations, which are obsolete. The error is the reason, as a clause.
    pub(crate) fn read(data: &ConfigMapData) -> Result<StubConfig, String> {
        let unusable = |what: &str| Err(format!("the ConfigMap of kube-dns {what}"));
        // The reader of ConfigMaps replaces invalid bytes of `binaryData` with this character.
        if data
            .values()
            .any(|text| text.contains(char::REPLACEMENT_CHARACTER))
        {
            return unusable("holds bytes that are not UTF-8");
        }
        let federations: BTreeMap<String, String> = parse_entry(data, "federations")?;
        let stub_domains: BTreeMap<String, Vec<String>> = parse_entry(data, "stubDomains")?;
        let upstreams: Vec<String> = parse_entry(data, "upstreamNameservers")?;
        if !federations.is_empty() {
            return unusable("has federations, which Zerohop doesn't evaluate");
        }
        if !stub_domains.keys().all(|domain| is_subdomain(domain)) {
            return unusable("has a stub domain that is not a lower-case DNS name");
        }
        if upstreams.len() > MAX_UPSTREAMS {
            return unusable(&format!(
                "has more than {MAX_UPSTREAMS} upstreamNameservers"
            ));
        }
        if !stub_domains
            .values()
            .flatten()
            .chain(&upstreams)
            .all(|server| is_server(server))
        {
            return unusable("has a server that is not an IP address, with or without a port");
        }
        Ok(StubConfig {
            stub_domains,
            upstreams,
        })
    }
}

fn parse_entry<T: Default + DeserializeOwned>(
    data: &ConfigMapData,
    key: &str,
) -> Result<T, String> {
    let Some(json) = data.get(key) else {
        return Ok(T::default());
    };
    serde_json::from_str(json)
        .map_err(|_| format!("{key} in the ConfigMap of kube-dns is not the JSON of a valid value"))
}

/// Whether a text passes Kubernetes's check for DNS subdomains (RFC 1123, in lower case).
fn is_subdomain(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        let has_outer_hyphen = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && !has_outer_hyphen && label.bytes().all(is_allowed)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether a text is an IP address, with or without a port. Port 0 isn't accepted, because
/// node-cache may refuse it.
fn is_server(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || text
            .parse::<SocketAddr>()
            .is_ok_and(|server| server.port() != 0)
}
