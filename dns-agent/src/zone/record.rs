//! Resource records.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Name;

/// A record type (RFC 1035 §3.2.2), with the constants of the `domain` crate.
pub type Rtype = domain::base::iana::Rtype;

/// A resource record (RFC 1035 §3.2.1). Its class is always IN.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// The name the record is found at.
    pub owner: Name,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Its type and data.
    pub data: Rdata,
}

/// The data of a record; the variant is its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rdata {
    /// An IPv4 address (RFC 1035 §3.4.1).
    A(Ipv4Addr),
    /// An IPv6 address (RFC 3596 §2.1).
    Aaaa(Ipv6Addr),
    /// The name that this name is an alias of (RFC 1035 §3.3.1).
    Cname(Name),
    /// A name server of the zone (RFC 1035 §3.3.11).
    Ns(Name),
    /// The name of an address (RFC 1035 §3.3.12).
    Ptr(Name),
    /// The start of a zone (RFC 1035 §3.3.13).
    Soa(Soa),
    /// A host and port of a service (RFC 2782).
    Srv(Srv),
    /// One character-string of at most 255 octets (RFC 1035 §3.3.14).
    Txt(Box<[u8]>),
}

/// The start of a zone of authority (RFC 1035 §3.3.13). Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Soa {
    /// The primary name server.
    pub mname: Name,
    /// The mailbox of the zone's keeper, `@` written as a dot.
    pub rname: Name,
    /// The version of the zone.
    pub serial: u32,
    /// After how long a secondary asks for a newer version.
    pub refresh: u32,
    /// After how long it asks again when that failed.
    pub retry: u32,
    /// After how long without success it stops answering.
    pub expire: u32,
    /// How long "no such name" may be kept (RFC 2308 §4).
    pub minimum: u32,
}

/// Where a service is found (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Srv {
    /// Lower is asked first.
    pub priority: u16,
    /// The share among targets of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, never an alias.
    pub target: Name,
}

impl Rdata {
    /// The type of the record.
    pub fn rtype(&self) -> Rtype {
        match self {
            Rdata::A(_) => Rtype::A,
            Rdata::Aaaa(_) => Rtype::AAAA,
            Rdata::Cname(_) => Rtype::CNAME,
            Rdata::Ns(_) => Rtype::NS,
            Rdata::Ptr(_) => Rtype::PTR,
            Rdata::Soa(_) => Rtype::SOA,
            Rdata::Srv(_) => Rtype::SRV,
            Rdata::Txt(_) => Rtype::TXT,
        }
    }

    /// The host whose addresses belong into the additional section
    /// (RFC 1035 §3.3.11, RFC 2782).
    pub fn host(&self) -> Option<&Name> {
        match self {
            Rdata::Ns(host) => Some(host),
            Rdata::Srv(srv) => Some(&srv.target),
            _ => None,
        }
    }
}

impl From<IpAddr> for Rdata {
    fn from(address: IpAddr) -> Rdata {
        match address {
            IpAddr::V4(address) => Rdata::A(address),
            IpAddr::V6(address) => Rdata::Aaaa(address),
        }
    }
}

/// A line of a master file (RFC 1035 §5.1).
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { owner, ttl, data } = self;
        write!(f, "{owner} {ttl} IN {data}")
    }
}

/// Type and data as in a master file.
impl fmt::Display for Rdata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.rtype())?;
        match self {
            Rdata::A(address) => address.fmt(f),
            Rdata::Aaaa(address) => address.fmt(f),
            Rdata::Cname(name) | Rdata::Ns(name) | Rdata::Ptr(name) => name.fmt(f),
            Rdata::Soa(soa) => soa.fmt(f),
            Rdata::Srv(srv) => srv.fmt(f),
            Rdata::Txt(text) => {
                f.write_str("\"")?;
                for &octet in text {
                    match octet {
                        b'"' | b'\\' => write!(f, "\\{}", char::from(octet))?,
                        b' '..=b'~' => write!(f, "{}", char::from(octet))?,
                        _ => write!(f, "\\{octet:03}")?,
                    }
                }
                f.write_str("\"")
            }
        }
    }
}

impl fmt::Display for Soa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Soa {
            mname,
            rname,
            serial,
            refresh,
            retry,
            expire,
            minimum,
        } = self;
        write!(
            f,
            "{mname} {rname} {serial} {refresh} {retry} {expire} {minimum}"
        )
    }
}

impl fmt::Display for Srv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Srv {
            priority,
            weight,
            port,
            target,
        } = self;
        write!(f, "{priority} {weight} {port} {target}")
    }
}
