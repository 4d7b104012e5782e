//! Settings that are addresses: served addresses, upstream servers, node addresses, listening
//! addresses.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use nix::net::if_::{Interface as NetworkInterface, if_nameindex};
use zerohop_zone::Name;

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// The port of DNS over TLS (RFC 7858 section 3.1).
const DNS_OVER_TLS_PORT: u16 = 853;

/// A server address at which the kernel answers queries. The default port is 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedAddress(pub SocketAddr);

impl FromStr for ServedAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        let address = match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(address), _) => address,
            (Err(_), Ok(address)) => SocketAddr::new(address, DNS_PORT),
            (Err(_), Err(_)) => {
                return Err(format!(
                    "{text:?} is not a server's address: give IP or IP:PORT, such as 10.96.0.10, \
                     fd00::a or [fd00::a]:53"
                ));
            }
        };
        require_single_server(text, address).map(ServedAddress)
    }
}

/// The address of a DNS server that the agent queries. The default port is 53. A link-local IPv6
/// address needs its interface (RFC 4007 section 11): `fe80::1%eth0`, `[fe80::1%eth0]:53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream(pub SocketAddr);

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = parse_with_interface(text, Some(DNS_PORT))?.ok_or_else(|| {
            format!(
                "{text:?} is not a server's address: give IP or IP:PORT, such as 10.96.0.10, \
                 fd00::a, [fd00::a]:53 or fe80::1%eth0"
            )
        })?;
        require_single_server(text, address).map(Upstream)
    }
}

/// A DNS server that the agent queries for names outside the cluster: an [`Upstream`], or a server
/// over TLS, as in `tls://192.0.2.53#dns.example`. The default port of TLS is 853.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideUpstream {
    /// The address of the server.
    pub address: SocketAddr,
    /// The name that the server's certificate must have. `None`: the server is queried over UDP and
    /// TCP.
    pub tls_name: Option<String>,
}

impl FromStr for OutsideUpstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(server) = text.strip_prefix("tls://") else {
            let Upstream(address) = text.parse()?;
            return Ok(OutsideUpstream {
                address,
                tls_name: None,
            });
        };
        let describe = || {
            format!(
                "{text:?} is not a server over TLS: give tls://IP#NAME or tls://IP:PORT#NAME, with \
                 the name in the server's certificate, such as tls://192.0.2.53#dns.example"
            )
        };
        let (server, name) = server.split_once('#').ok_or_else(describe)?;
        if name.is_empty() {
            return Err(describe());
        }
        let address = parse_with_interface(server, Some(DNS_OVER_TLS_PORT))?;
        let address = address.ok_or_else(describe)?;
        Ok(OutsideUpstream {
            address: require_single_server(text, address)?,
            tls_name: Some(name.to_owned()),
        })
    }
}

/// Servers for the names in a zone, as in `corp.example=192.0.2.53,192.0.2.54`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubDomain {
    /// The zone.
    pub zone: Name,
    /// The servers, in order.
    pub servers: Vec<OutsideUpstream>,
}

impl FromStr for StubDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((zone, servers)) = text.split_once('=') else {
            return Err(format!(
                "{text:?} has no servers: give ZONE=SERVER, or ZONE=SERVER,SERVER, such as \
                 corp.example=192.0.2.53"
            ));
        };
        let zone = Name::parse(zone).map_err(|error| format!("{zone:?} is no zone: {error}"))?;
        let servers = servers.split(',').map(str::parse);
        Ok(StubDomain {
            zone,
            servers: servers.collect::<Result<_, _>>()?,
        })
    }
}

fn require_single_server(text: &str, address: SocketAddr) -> Result<SocketAddr, String> {
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!(
            "{text:?} is not the address of a single server: give the server's own address, and \
             a port other than 0"
        ));
    }
    Ok(address)
}

/// Parses an IP address, which may have an interface and a port. `port` is the default port; `None`
/// means that the text must have a port. Returns `Ok(None)` if the text is not such an address.
///
/// # Errors
/// * A link-local IPv6 address has no interface, or its interface doesn't exist.
/// * Another IPv6 address has an interface.
fn parse_with_interface(text: &str, port: Option<u16>) -> Result<Option<SocketAddr>, String> {
    let (address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, port),
        Some((address, after_bracket)) => {
            let port = after_bracket
                .strip_prefix(':')
                .and_then(|port| port.parse().ok());
            if port.is_none() {
                return Ok(None);
            }
            (address, port)
        }
        None => match text.parse() {
            Ok(SocketAddr::V4(address)) => return Ok(Some(address.into())),
            _ => (text, port),
        },
    };
    let (address, interface) = match address.split_once('%') {
        Some((address, interface)) => (address, Some(interface)),
        None => (address, None),
    };
    let (Ok(address), Some(port)) = (address.parse::<IpAddr>(), port) else {
        return Ok(None);
    };
    let IpAddr::V6(address) = address else {
        return Ok(interface.is_none().then(|| (address, port).into()));
    };
    let scope = match (address.is_unicast_link_local(), interface) {
        (true, Some(interface)) => interface_index(interface).ok_or_else(|| {
            format!(
                "{text:?}: no interface is called {interface:?} at the moment, so the address \
                 can't be used: give an interface that `ip link` shows, and start the agent when it \
                 exists"
            )
        })?,
        (true, None) => {
            return Err(format!(
                "{text:?} is a link-local address, which is valid on one interface only: give the \
                 interface too, as in {address}%eth0 or [{address}%eth0]:{port}"
            ));
        }
        (false, Some(interface)) => {
            return Err(format!(
                "{text:?}: only link-local addresses take an interface: leave %{interface} out"
            ));
        }
        (false, None) => 0,
    };
    Ok(Some(SocketAddrV6::new(address, port, 0, scope).into()))
}

/// The index of an existing interface, given by its name or index. `None` also if the interfaces
/// can't be listed.
fn interface_index(interface: &str) -> Option<u32> {
    let interfaces = if_nameindex().ok()?;
    let mut interfaces = interfaces.iter();
    let number: Option<u32> = interface.parse().ok();
    let is_meant = |existing: &&NetworkInterface| {
        existing.name().to_bytes() == interface.as_bytes() || Some(existing.index()) == number
    };
    interfaces.find(is_meant).map(NetworkInterface::index)
}

/// An address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIp(pub IpAddr);

impl FromStr for NodeIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<IpAddr>() {
            Ok(address) if !address.is_unspecified() => Ok(NodeIp(address.to_canonical())),
            _ => Err(format!(
                "{text:?} is not an address of a node: give one such as 192.0.2.7 or 2001:db8::7"
            )),
        }
    }
}

/// An address and port to listen on. With port 0 the system chooses a free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match parse_with_interface(text, None)? {
            Some(address) => Ok(ListenAddress(address)),
            None => Err(format!(
                "{text:?} is not an address and port: give IP:PORT, such as 127.0.0.1:53 or \
                 [::1]:53"
            )),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
