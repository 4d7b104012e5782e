//! The ConfigMap of kube-dns, of which a node cache takes stub domains and upstream servers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::de::DeserializeOwned;

use super::MapData;

/// More upstream servers are refused.
const MAX_UPSTREAMS: usize = 3;

/// What node-cache takes of the ConfigMap.
#[derive(Debug, Default)]
pub(super) struct StubConfig {
    /// The servers of each domain.
    pub(super) stub_domains: BTreeMap<String, Vec<String>>,
    /// The servers for all other names; none: those of the node.
    pub(super) upstreams: Vec<String>,
}

impl StubConfig {
    /// Reads it as node-cache does, which goes on with what it had when it refuses any part
    /// (kubernetes/dns, `pkg/dns/config`). What it might refuse is an error here, and so are federations,
    /// which nothing has any more.
    ///
    /// # Errors
    /// With the reason.
    pub(super) fn read(data: &MapData) -> Result<StubConfig, String> {
        let refused = |what: &str| Err(format!("the ConfigMap of kube-dns {what}"));
        if data
            .values()
            .any(|text| text.contains(char::REPLACEMENT_CHARACTER))
        {
            return refused("holds octets that are no UTF-8");
        }
        let federations: BTreeMap<String, String> = parse(data, "federations")?;
        let stub_domains: BTreeMap<String, Vec<String>> = parse(data, "stubDomains")?;
        let upstreams: Vec<String> = parse(data, "upstreamNameservers")?;
        if !federations.is_empty() {
            return refused("has federations");
        }
        if !stub_domains.keys().all(|domain| is_subdomain(domain)) {
            return refused("has a stub domain that is no DNS name");
        }
        if upstreams.len() > MAX_UPSTREAMS {
            return refused(&format!(
                "has more than {MAX_UPSTREAMS} upstreamNameservers"
            ));
        }
        if !stub_domains
            .values()
            .flatten()
            .chain(&upstreams)
            .all(|server| is_server(server))
        {
            return refused("has a server that is no address");
        }
        Ok(StubConfig {
            stub_domains,
            upstreams,
        })
    }
}

fn parse<T: Default + DeserializeOwned>(data: &MapData, key: &str) -> Result<T, String> {
    let Some(json) = data.get(key) else {
        return Ok(T::default());
    };
    serde_json::from_str(json)
        .map_err(|_| format!("{key} in the ConfigMap of kube-dns can't be read"))
}

/// RFC 1123, in lower case, as Kubernetes checks subdomains.
fn is_subdomain(text: &str) -> bool {
    let is_inner =
        |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
    let is_label = |label: &str| {
        let is_ended = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && !is_ended && label.bytes().all(is_inner)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_server(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || text
            .parse::<SocketAddr>()
            .is_ok_and(|server| server.port() != 0)
}
