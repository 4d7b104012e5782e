//! The values settings take: each is parsed from its text in one place, for the
//! command line and the file alike, and its error says what would be right.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use nix::net::if_::{Interface as NetworkInterface, if_nameindex};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    cluster::{Key, PodMode},
    zone::{Name, Rtype},
};

/// The shortest `--max-age`. API servers send a bookmark about once a minute to watches that have
/// nothing else to say.
const MIN_AGE: Duration = Duration::from_secs(120);

/// The port of DNS, RFC 1035 section 4.2.
const DNS_PORT: u16 = 53;

/// Where the kernel answers: an interface's name or pattern, and the hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// A name, a shell pattern, or `pods`.
    pub name: String,
    /// The hook asked for.
    pub hook: Hook,
}

/// Where in the kernel's receive path a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// tc on a veth, XDP elsewhere, native where the driver has it.
    Auto,
    /// XDP in the driver.
    Xdp,
    /// XDP in the network stack, for drivers without it.
    XdpGeneric,
    /// tc ingress.
    Tc,
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, hook) = match text.split_once('=') {
            None => (text, Hook::Auto),
            Some((name, "auto")) => (name, Hook::Auto),
            Some((name, "xdp")) => (name, Hook::Xdp),
            Some((name, "xdp-generic")) => (name, Hook::XdpGeneric),
            Some((name, "tc")) => (name, Hook::Tc),
            Some((_, hook)) => {
                return Err(format!(
                    "no hook is called {hook:?}: use auto, xdp, xdp-generic or tc"
                ));
            }
        };
        if name.is_empty() {
            return Err("the interface's name is missing: give NAME or NAME=HOOK".to_owned());
        }
        Ok(Interface {
            name: name.to_owned(),
            hook,
        })
    }
}

/// `--pods`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pods {
    /// No names of pods.
    Disabled,
    /// Any address under an existing namespace.
    #[default]
    Insecure,
    /// Addresses of existing pods only.
    Verified,
}

impl From<Pods> for PodMode {
    fn from(pods: Pods) -> Self {
        match pods {
            Pods::Disabled => PodMode::Disabled,
            Pods::Insecure => PodMode::Insecure,
            Pods::Verified => PodMode::Verified,
        }
    }
}

/// `--network-policy`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPolicy {
    /// A pod is answered if NetworkPolicies provably let it ask the cluster's DNS.
    #[default]
    Respect,
    /// Every pod is answered.
    Ignore,
}

/// A name that is asked for; every name is absolute, with or without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryName(pub Name);

impl FromStr for QueryName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Name::parse(text).map(QueryName).map_err(|error| {
            format!(
                "{text:?} is not a domain name ({error}): give one such as web.shop.svc.cluster.local"
            )
        })
    }
}

/// A type of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryType(pub Rtype);

impl FromStr for QueryType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(QueryType).map_err(|_| {
            format!("{text:?} is not a record type: give one such as A, SRV, PTR or TYPE65")
        })
    }
}

/// As in `TYPE65`, unless it has a name.
impl fmt::Display for QueryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A zone's name, other than the root's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(pub Name);

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = Name::parse(text).map_err(|error| {
            format!("{text:?} is not a domain name ({error}): give one such as cluster.local")
        })?;
        if name.labels().next().is_none() {
            return Err(
                "the root is not a cluster's domain: give one such as cluster.local".to_owned(),
            );
        }
        Ok(Domain(name))
    }
}

/// A name that belongs to other software, with everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed(pub Name);

impl FromStr for Passed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Name::parse(text) {
            Ok(name) => Ok(Passed(name)),
            Err(error) => Err(format!(
                "{text:?} is not a domain name ({error}): give one such as legacy.svc.cluster.local"
            )),
        }
    }
}

/// A network in CIDR notation; bits after the prefix are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<IpNet>() {
            Ok(network) => Ok(Network(network.trunc())),
            Err(_) => Err(format!(
                "{text:?} is not a network: give ADDRESS/PREFIX, such as 10.96.0.0/12 or fd00::/64"
            )),
        }
    }
}

/// A record's time to live in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(pub u32);

impl Default for Ttl {
    fn default() -> Self {
        Ttl(5)
    }
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 0..=3600) => Ok(Ttl(seconds)),
            _ => Err(format!(
                "{text:?} is not a TTL: give a number of seconds from 0 to 3600"
            )),
        }
    }
}

/// A namespace's name: a DNS label in lower case (RFC 1123 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceName(pub String);

impl FromStr for NamespaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alphanumeric = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
        let octets = text.as_bytes();
        let fits = (1..=63).contains(&octets.len())
            && octets
                .iter()
                .all(|&octet| alphanumeric(octet) || octet == b'-')
            && octets.first().copied().is_some_and(alphanumeric)
            && octets.last().copied().is_some_and(alphanumeric);
        if !fits {
            return Err(format!(
                "{text:?} is not a namespace's name: up to 63 of a-z, 0-9 and -, without - at either end"
            ));
        }
        Ok(NamespaceName(text.to_owned()))
    }
}

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

/// `--stale-after`. Below a tenth of a second nobody could renew in time, and a busy node not below some
/// seconds; above an hour nobody would call it failing open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleAfter(pub Duration);

impl Default for StaleAfter {
    fn default() -> Self {
        StaleAfter(Duration::from_secs(10))
    }
}

impl FromStr for StaleAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = Duration::from_millis(100)..=Duration::from_secs(3600);
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Ok(StaleAfter(duration)),
            Ok(_) => Err(format!(
                "{text} is out of range: give a duration from 100ms to 1h"
            )),
            Err(error) => Err(format!(
                "{text:?} is not a duration ({error}): give one such as 10s or 1m30s"
            )),
        }
    }
}

/// `--max-age`; none: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxAge(pub Option<Duration>);

impl Default for MaxAge {
    fn default() -> Self {
        MaxAge(Some(Duration::from_secs(15 * 60)))
    }
}

impl FromStr for MaxAge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(MaxAge(None));
        }
        match humantime::parse_duration(text) {
            Ok(duration) if duration.is_zero() => Ok(MaxAge(None)),
            Ok(duration) if duration >= MIN_AGE => Ok(MaxAge(Some(duration))),
            Ok(_) => Err(format!(
                "{text} is too short, since a watch may say nothing for a minute: give {} or more, or 0 for no limit",
                humantime::format_duration(MIN_AGE)
            )),
            Err(error) => Err(format!(
                "{text:?} is not a duration ({error}): give one such as 15m, or 0 for no limit"
            )),
        }
    }
}

/// An object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(pub Key);

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(ObjectName(Key::new(namespace, name)))
            }
            _ => Err(format!(
                "{text:?} names no object: give NAMESPACE/NAME, such as kube-system/kube-dns"
            )),
        }
    }
}

/// `--capacity`, a number of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(pub u32);

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err(format!("{text:?} is not a number of names: give 1 or more")),
            Ok(names) => Ok(Capacity(names)),
        }
    }
}

/// Reads a setting from its text in the file.
pub(super) fn single<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    Text::deserialize(deserializer).map(|Text(value)| Some(value))
}

/// Reads a repeatable setting from a list in the file.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let values = Vec::<Text<T>>::deserialize(deserializer)?;
    Ok(Some(values.into_iter().map(|Text(value)| value).collect()))
}

/// A value read from its text, whatever scalar it looks like in YAML.
struct Text<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(D::Error::custom)
    }
}
