//! The values of settings and of other arguments. Each type parses its text for both the command
//! line and the file, and its error says which values are valid.

mod addresses;
mod probe;

use std::{fmt, num::NonZeroU32, path::PathBuf, str::FromStr, time::Duration};

use clap::ValueEnum;
use ipnet::IpNet;

pub use zerohop_datapath::{HookChoice, Interface};

pub use self::addresses::{
    ListenAddress, NodeIp, OutsideUpstream, ServedAddress, StubDomain, Upstream,
};
pub use self::probe::ProbeSetting;
use zerohop_kubernetes::{ObjectKey, PodMode};
use zerohop_resolver::QueryClass;
use zerohop_zone::{Name, Rtype};

/// The shortest `--max-age` other than 0. API servers send a bookmark about once a minute to
/// watches without other events.
const MIN_AGE: Duration = Duration::from_secs(120);

/// `--pods`: which names of pods exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodsSetting {
    /// No names of pods.
    Disabled,
    /// Any address under an existing namespace.
    Insecure,
    /// Addresses of existing pods only.
    Verified,
}

impl From<PodsSetting> for PodMode {
    fn from(pods: PodsSetting) -> Self {
        match pods {
            PodsSetting::Disabled => PodMode::Disabled,
            PodsSetting::Insecure => PodMode::Insecure,
            PodsSetting::Verified => PodMode::Verified,
        }
    }
}

/// `--network-policy`: which pods the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkPolicy {
    /// A pod is answered if NetworkPolicies provably permit it to query the cluster's DNS.
    Respect,
    /// Every pod is answered.
    Ignore,
}

/// `--outside-names`: how names outside the cluster are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutsideNames {
    /// As CoreDNS's Corefile says.
    Corefile,
    /// By `--upstream`, or by the cluster's DNS.
    ClusterDns,
}

/// `--steer`: whether queries that the kernel passes go to this agent's resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Steer {
    /// They do where that is possible and safe.
    Auto,
    /// They don't.
    Off,
}

/// A name to look up. It is absolute, with or without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryName(pub Name);

impl FromStr for QueryName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Name::parse(text).map(QueryName).map_err(|error| {
            format!(
                "{text:?} is not a domain name ({error}): give one such as \
                 web.shop.svc.cluster.local"
            )
        })
    }
}

/// A record type, such as `A` or `TYPE65`.
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

impl fmt::Display for QueryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `--cluster-domain`: a domain name other than the root.
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

/// `--pass`: a name that is delegated to other software, with all names below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegatedName(pub Name);

impl FromStr for DelegatedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match Name::parse(text) {
            Ok(name) => Ok(DelegatedName(name)),
            Err(error) => Err(format!(
                "{text:?} is not a domain name ({error}): give one such as legacy.svc.cluster.local"
            )),
        }
    }
}

/// A network in CIDR notation. Bits after the prefix are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub IpNet);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<IpNet>() {
            Ok(network) => Ok(Cidr(network.trunc())),
            Err(_) => Err(format!(
                "{text:?} is not a network: give ADDRESS/PREFIX, such as 10.96.0.0/12 or fd00::/64"
            )),
        }
    }
}

/// A record's time to live in seconds: 0 to 3600, as in CoreDNS's `kubernetes` plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(pub u32);

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
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let is_label = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-')
            && bytes.first().copied().is_some_and(alphanumeric)
            && bytes.last().copied().is_some_and(alphanumeric);
        if !is_label {
            return Err(format!(
                "{text:?} is not a namespace's name: use 1 to 63 characters of a-z, 0-9 and -, \
                 without - at either end"
            ));
        }
        Ok(NamespaceName(text.to_owned()))
    }
}

/// `--stale-after`: 100 ms to 1 hour. The lease is renewed at least four times in this time, so the
/// agent would have to renew a shorter lease every 25 ms or more often. On a busy node even a lease
/// of a few seconds may run out. With a longer lease, the kernel would answer from outdated data
/// for too long after the agent has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleAfter(pub Duration);

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

/// `--max-age`: how long the kernel answers after the last message from the API server. `None`:
/// without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxAge(pub Option<Duration>);

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
                "{text} is too short, because a watch may have no events for a minute: give {} or \
                 more, or 0 for no limit",
                humantime::format_duration(MIN_AGE)
            )),
            Err(error) => Err(format!(
                "{text:?} is not a duration ({error}): give one such as 15m, or 0 for no limit"
            )),
        }
    }
}

/// `--cache-size`: a number of bytes, perhaps with Ki, Mi or Gi, up to 16 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize(pub u64);

impl FromStr for CacheSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX: u64 = 16 << 30;
        let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
        let mut with_unit = units
            .iter()
            .filter_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = with_unit.next().unwrap_or((text, 0));
        let bytes = number.parse::<u64>().ok();
        match bytes.and_then(|number| number.checked_mul(1 << shift)) {
            Some(bytes) if bytes <= MAX => Ok(CacheSize(bytes)),
            _ => Err(format!(
                "{text:?} is not a size: give a number of bytes such as 16Mi, at most 16Gi"
            )),
        }
    }
}

/// A limit of the TTL of cached records: 0 to 604,800 s, the longest that RFC 8767 section 4
/// recommends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTtl(pub u32);

impl FromStr for CacheTtl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 0..=604_800) => Ok(CacheTtl(seconds)),
            _ => Err(format!(
                "{text:?} is not a limit of TTLs: give a number of seconds from 0 to 604800"
            )),
        }
    }
}

/// `--serve-stale`: up to three days (RFC 8767 section 5). Zero: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeStale(pub Duration);

impl FromStr for ServeStale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MAX: Duration = Duration::from_secs(3 * 86_400);
        if text == "0" {
            return Ok(ServeStale(Duration::ZERO));
        }
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= MAX => Ok(ServeStale(duration)),
            Ok(_) => Err(format!("{text} is too long: give at most 3d")),
            Err(error) => Err(format!(
                "{text:?} is not a duration ({error}): give one such as 1h, or 0 for never"
            )),
        }
    }
}

/// `--log-queries`: classes of queries, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryClasses(pub Vec<QueryClass>);

impl FromStr for QueryClasses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut classes = Vec::new();
        for word in text.split(',') {
            let named = match word.trim() {
                "all" => &QueryClass::ALL[..],
                "success" => &[QueryClass::Success],
                "denial" => &[QueryClass::Denial],
                "error" => &[QueryClass::Error],
                "slow" => &[QueryClass::Slow],
                _ => {
                    return Err(format!(
                        "{word:?} is not a class of queries: give all, or some of success, denial, \
                         error and slow, separated by commas"
                    ));
                }
            };
            classes.extend_from_slice(named);
        }
        Ok(QueryClasses(classes))
    }
}

/// `--log-queries-sample`: one of this number of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerySample(pub NonZeroU32);

impl FromStr for QuerySample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(QuerySample).map_err(|_| {
            format!(
                "{text:?} is not a number of queries: give one from 1 to {}",
                u32::MAX
            )
        })
    }
}

/// `--dnstap`: the Unix socket of a collector, as `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnstapSocket(pub PathBuf);

impl FromStr for DnstapSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A Unix socket's address has 108 bytes, the last of which is 0 (unix(7)).
        const MAX_PATH: usize = 107;
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && path.len() <= MAX_PATH => {
                Ok(DnstapSocket(path.into()))
            }
            _ => Err(format!(
                "{text:?} is not a Unix socket: give unix: and an absolute path of at most \
                 {MAX_PATH} bytes, such as unix:/run/dnstap.sock"
            )),
        }
    }
}

/// The namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(pub ObjectKey);

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(ObjectName(ObjectKey::new(namespace, name)))
            }
            _ => Err(format!(
                "{text:?} is not an object's name: give NAMESPACE/NAME, such as \
                 kube-system/kube-dns"
            )),
        }
    }
}

/// `--capacity`: a number of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity(pub u32);

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) | Err(_) => Err(format!(
                "{text:?} is not a number of names: give one from 1 to {}",
                u32::MAX
            )),
            Ok(names) => Ok(Capacity(names)),
        }
    }
}
