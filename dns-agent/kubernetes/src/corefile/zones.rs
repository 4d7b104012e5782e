//! Zones in CoreDNS's notation: names or networks, with an optional scheme and port.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use zerohop_zone::{Name, reverse_zones};

use super::finding::CorefileProblem;
use super::parser::CorefileLine;
use crate::coredns_config::DEFAULT_PORT;

/// The schemes of transports other than plain DNS (CoreDNS, `plugin/pkg/transport`).
const OTHER_SCHEMES: [&str; 6] = [
    "tls://",
    "quic://",
    "grpc://",
    "https3://",
    "https://",
    "unix://",
];
/// The zones and the transport of a server block's key.
pub(super) struct ZoneAddress {
    /// One zone for a name. Several zones for a network that no single reverse zone covers exactly.
    pub(super) zones: Vec<Name>,
    pub(super) transport: BlockTransport,
}

/// The transport on which CoreDNS serves a server block's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockTransport {
    /// Plain DNS, over UDP and TCP, on this port.
    Plain(u16),
    /// TLS, HTTPS, gRPC…
    Other,
}

impl ZoneAddress {
    /// Reads a server block's key or a plugin's zone. `Err` holds the reason as a clause.
    ///
    /// CoreDNS accepts nearly any text as a domain name (`plugin/normalize.go`). This function
    /// accepts only networks, and valid names without colons, slashes and escapes. A key without a
    /// port is served on `default_port`.
    pub(super) fn parse(text: &str, default_port: u16) -> Result<ZoneAddress, String> {
        let other = OTHER_SCHEMES
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let plain = text.strip_prefix("dns://").unwrap_or(text);
        let (zone, port) = split_port(other.unwrap_or(plain));
        let transport = match other {
            Some(_) => BlockTransport::Other,
            None => BlockTransport::Plain(port.unwrap_or(default_port)),
        };
        let zones = parse_zone(zone)
            .ok_or_else(|| format!("`{text}` is not a zone that Zerohop understands"))?;
        Ok(ZoneAddress { zones, transport })
    }
}

/// Reads zones from a plugin's arguments, in their order. `Err` holds the reason as a clause.
pub(super) fn parse_zones(args: &[String]) -> Result<Vec<Name>, String> {
    let mut zones = Vec::new();
    for arg in args {
        zones.extend(ZoneAddress::parse(arg, DEFAULT_PORT)?.zones);
    }
    Ok(zones)
}

/// The zones in a plugin's arguments, or `block_zones` if there are none.
pub(super) fn zones_or_default(
    head: &CorefileLine,
    zones: &[String],
    block_zones: &[Name],
) -> Result<Vec<Name>, CorefileProblem> {
    match zones {
        [] => Ok(block_zones.to_vec()),
        zones => parse_zones(zones).map_err(|cause| head.problem(cause)),
    }
}

/// Reads a name from a plugin's arguments, with or without a trailing dot. `Err` holds the reason
/// as a clause.
pub(super) fn parse_name(text: &str) -> Result<Name, String> {
    // CoreDNS compares names as text, so an escaped letter doesn't match the letter itself.
    if text.contains('\\') {
        return Err(format!(
            "`{text}` has escapes, which CoreDNS doesn't resolve"
        ));
    }
    Name::parse(text).map_err(|error| format!("`{text}` is not a domain name ({error})"))
}

/// The zones that contain all reverse names: `in-addr.arpa` and `ip6.arpa`.
pub(super) fn reverse_trees() -> Vec<Name> {
    let v4 = reverse_zones(Ipv4Net::default().into());
    let v6 = reverse_zones(Ipv6Net::default().into());
    [v4, v6].concat()
}

/// Whether a zone is a reverse zone.
pub(super) fn is_reverse(zone: &Name) -> bool {
    reverse_trees().iter().any(|tree| zone.is_at_or_below(tree))
}

/// Splits `zone:port`. Text that doesn't end with a colon and a port is returned whole.
fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((zone, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map_or((text, None), |port| (zone, Some(port)))
        }
        _ => (text, None),
    }
}

/// Reads a name or a network without scheme and port.
fn parse_zone(text: &str) -> Option<Vec<Name>> {
    if let Ok(network) = text.parse::<IpNet>() {
        // CoreDNS refuses IPv6 networks that begin with a colon or a zero, such as `::/0`.
        let is_refused = text.contains(':') && text.starts_with([':', '0']);
        return (!is_refused).then(|| reverse_zones(network));
    }
    if text.contains([':', '/']) {
        return None;
    }
    Some(vec![parse_name(text).ok()?])
}
