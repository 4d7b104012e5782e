//! Zones as CoreDNS writes them: names or networks, with a scheme before and a port behind.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::zone::{Name, reverse_zones};

/// The schemes of other transports than plain DNS (CoreDNS, `plugin/pkg/transport`).
const OTHER_SCHEMES: [&str; 6] = [
    "tls://",
    "quic://",
    "grpc://",
    "https3://",
    "https://",
    "unix://",
];
/// The port of plain DNS when a key has none. CoreDNS's flag `-dns.port` could change it.
const DEFAULT_PORT: u16 = 53;

/// Zones and how they are asked for.
pub(super) struct Address {
    /// Several for a network that is no zone of its own.
    pub(super) zones: Vec<Name>,
    pub(super) transport: Transport,
}

/// How a server block is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Plain DNS, over UDP and TCP, on this port.
    Plain(u16),
    /// TLS, HTTPS, gRPC…
    Other,
}

impl Address {
    /// Reads a server block's key or a plugin's zone; `Err` has a reason.
    ///
    /// Stricter than CoreDNS, which takes nearly everything for a domain name
    /// (`plugin/normalize.go`): colons and slashes are no part of one, nor are escapes.
    pub(super) fn parse(text: &str) -> Result<Address, String> {
        let other = OTHER_SCHEMES
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let plain = text.strip_prefix("dns://").unwrap_or(text);
        let (zone, port) = split_port(other.unwrap_or(plain));
        let transport = match other {
            Some(_) => Transport::Other,
            None => Transport::Plain(port.unwrap_or(DEFAULT_PORT)),
        };
        let zones =
            zones(zone).ok_or_else(|| format!("`{text}` is no zone that Zerohop understands"))?;
        Ok(Address { zones, transport })
    }
}

/// The zones among a plugin's arguments, in their order; `Err` has a reason.
pub(super) fn zones_of(args: &[String]) -> Result<Vec<Name>, String> {
    let mut zones = Vec::new();
    for arg in args {
        zones.extend(Address::parse(arg)?.zones);
    }
    Ok(zones)
}

/// A name as plugins write them, with or without a dot at its end; `Err` has a reason.
pub(super) fn name(text: &str) -> Result<Name, String> {
    // CoreDNS compares texts: an escaped letter is another letter to it.
    if text.contains('\\') {
        return Err(format!(
            "`{text}` has escapes, which CoreDNS doesn't resolve"
        ));
    }
    Name::parse(text).map_err(|error| format!("`{text}` is no domain name ({error})"))
}

/// The zones that the names of all addresses are in: `in-addr.arpa` and `ip6.arpa`.
pub(super) fn reverse_trees() -> Vec<Name> {
    let v4 = reverse_zones(Ipv4Net::default().into());
    let v6 = reverse_zones(Ipv6Net::default().into());
    [v4, v6].concat()
}

/// Whether a zone is one of names of addresses.
pub(super) fn is_reverse(zone: &Name) -> bool {
    reverse_trees().iter().any(|tree| zone.is_at_or_below(tree))
}

/// What is before the last colon, and the number behind it.
fn split_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((zone, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => {
            port.parse().map_or((text, None), |port| (zone, Some(port)))
        }
        _ => (text, None),
    }
}

fn zones(text: &str) -> Option<Vec<Name>> {
    if let Ok(network) = text.parse::<IpNet>() {
        // CoreDNS refuses some of these, and reads IPv4-mapped ones in its own way.
        let is_odd = text.contains(':') && text.starts_with([':', '0']);
        return (!is_odd).then(|| reverse_zones(network));
    }
    if text.contains([':', '/']) {
        return None;
    }
    Some(vec![name(text).ok()?])
}
