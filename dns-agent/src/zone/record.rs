//! Resource records.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::{
    base::{ParsedName, rdata::ParseAnyRecordData},
    dep::octseq::Parser,
    rdata::AllRecordData,
};

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
    /// The bytes of any type, without compressed names (RFC 3597 §4). Only an upstream's records are
    /// held so.
    Opaque(Rtype, Box<[u8]>),
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
            Rdata::Opaque(rtype, _) => *rtype,
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

impl Rdata {
    /// Data that was read as bytes, in the form of the types that we have data of.
    pub fn typed(self) -> Rdata {
        let Rdata::Opaque(rtype, octets) = &self else {
            return self;
        };
        Rdata::read(*rtype, octets).unwrap_or(self)
    }

    fn read(rtype: Rtype, octets: &[u8]) -> Option<Rdata> {
        let name = |octets| Name::from_wire(octets).ok();
        Some(match rtype {
            Rtype::NS => Rdata::Ns(name(octets)?),
            Rtype::PTR => Rdata::Ptr(name(octets)?),
            Rtype::SOA => Rdata::Soa(Soa::read(octets)?),
            Rtype::SRV => {
                let (numbers, target) = octets.split_at_checked(6)?;
                let number = |at| u16::from_be_bytes([numbers[at], numbers[at + 1]]);
                Rdata::Srv(Srv {
                    priority: number(0),
                    weight: number(2),
                    port: number(4),
                    target: name(target)?,
                })
            }
            Rtype::TXT => match octets {
                [length, text @ ..] if usize::from(*length) == text.len() => {
                    Rdata::Txt(text.into())
                }
                _ => return None,
            },
            _ => return None,
        })
    }
}

impl Soa {
    fn read(octets: &[u8]) -> Option<Soa> {
        let (names, numbers) = octets.split_at_checked(octets.len().checked_sub(20)?)?;
        let mname = Name::first(names)?;
        let rname = Name::from_wire(&names[mname.wire().len()..]).ok()?;
        let number = |at: usize| {
            let octets = [0, 1, 2, 3].map(|offset| numbers[4 * at + offset]);
            u32::from_be_bytes(octets)
        };
        Some(Soa {
            mname,
            rname,
            serial: number(0),
            refresh: number(1),
            retry: number(2),
            expire: number(3),
            minimum: number(4),
        })
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
            Rdata::Opaque(rtype, octets) => opaque(*rtype, octets, f),
        }
    }
}

/// Data as its type is written, or as RFC 3597 §5 writes data of a type that isn't known.
fn opaque(rtype: Rtype, octets: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut parser = Parser::from_ref(octets);
    let parsed = AllRecordData::<&[u8], ParsedName<&[u8]>>::parse_any_rdata(rtype, &mut parser);
    if let Ok(data) = parsed
        && !matches!(data, AllRecordData::Unknown(_))
    {
        return write!(f, "{data}");
    }
    write!(f, "\\# {}", octets.len())?;
    if !octets.is_empty() {
        f.write_str(" ")?;
    }
    octets.iter().try_for_each(|octet| write!(f, "{octet:02X}"))
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
