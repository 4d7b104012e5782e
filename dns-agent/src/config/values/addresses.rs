//! Addresses: of servers that are asked, of this node, and those that are listened on or answered for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    str::FromStr,
};

use nix::net::if_::{Interface as NetworkInterface, if_nameindex};

/// The port of DNS, RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

/// An address that the kernel answers for, port 53 unless given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server(pub SocketAddr);

impl FromStr for Server {
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
                    "{text:?} is not a server's address: give IP or IP:PORT, such as 10.96.0.10, fd00::a or [fd00::a]:53"
                ));
            }
        };
        single_server(text, address).map(Server)
    }
}

/// The address of a DNS server that is asked, port 53 unless given. A link-local IPv6 address stands
/// with its interface (RFC 4007 section 11): `fe80::1%eth0`, `[fe80::1%eth0]:53`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream(pub SocketAddr);

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = with_interface(text, Some(DNS_PORT))?.ok_or_else(|| {
            format!(
                "{text:?} is not a server's address: give IP or IP:PORT, such as 10.96.0.10, fd00::a, [fd00::a]:53 or fe80::1%eth0"
            )
        })?;
        single_server(text, address).map(Upstream)
    }
}

fn single_server(text: &str, address: SocketAddr) -> Result<SocketAddr, String> {
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!(
            "{text:?} stands for no single server: give its own address and port"
        ));
    }
    Ok(address)
}

/// Reads an address and a port, which is `port` unless given. `Ok(None)`: the text is no address.
///
/// # Errors
/// When the interface is missing, or not there.
fn with_interface(text: &str, port: Option<u16>) -> Result<Option<SocketAddr>, String> {
    let (address, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, port),
        Some((address, behind)) => {
            let port = behind.strip_prefix(':').and_then(|port| port.parse().ok());
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
                "{text:?}: no interface is called {interface:?} at the moment, so the server can't be asked: give one of `ip link`, and start the agent when it is there"
            )
        })?,
        (true, None) => {
            return Err(format!(
                "{text:?} is a link-local address, which means another host on each interface: give the interface too, as in {address}%eth0 or [{address}%eth0]:{port}"
            ));
        }
        (false, Some(interface)) => {
            return Err(format!(
                "{text:?}: only link-local addresses have an interface: leave %{interface} out"
            ));
        }
        (false, None) => 0,
    };
    Ok(Some(SocketAddrV6::new(address, port, 0, scope).into()))
}

/// The index of an interface that is there, by its name or as it is.
fn interface_index(interface: &str) -> Option<u32> {
    let interfaces = if_nameindex().ok()?;
    let mut interfaces = interfaces.iter();
    let number: Option<u32> = interface.parse().ok();
    let is_it = |known: &&NetworkInterface| {
        known.name().to_bytes() == interface.as_bytes() || Some(known.index()) == number
    };
    interfaces.find(is_it).map(NetworkInterface::index)
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

/// An address and port to listen on; port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket(pub SocketAddr);

impl FromStr for Socket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match with_interface(text, None)? {
            Some(address) => Ok(Socket(address)),
            None => Err(format!(
                "{text:?} is not an address and port: give IP:PORT, such as 127.0.0.1:53 or [::1]:53"
            )),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
