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
    /// The owner name.
    pub owner: Name,
    /// The time to live, in seconds.
    pub ttl: u32,
    /// The type and the data.
    pub data: Rdata,
}

/// The data of a record. The variant gives the record's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rdata {
    /// An IPv4 address (RFC 1035 §3.4.1).
    A(Ipv4Addr),
    /// An IPv6 address (RFC 3596 §2.1).
    Aaaa(Ipv6Addr),
    /// The target of an alias (RFC 1035 §3.3.1).
    Cname(Name),
    /// A name server of the zone (RFC 1035 §3.3.11).
    Ns(Name),
    /// The name of an address (RFC 1035 §3.3.12).
    Ptr(Name),
    /// The start of authority of a zone (RFC 1035 §3.3.13).
    Soa(Soa),
    /// A host and port of a service (RFC 2782).
    Srv(Srv),
    /// One character-string of at most 255 bytes (RFC 1035 §3.3.14).
    Txt(Box<[u8]>),
    /// Rdata in wire form, without compressed names (RFC 3597 §4). Used only for records of
    /// upstream servers, for all types except A, AAAA and CNAME.
    Opaque(Rtype, Box<[u8]>),
}

/// The start of authority of a zone (RFC 1035 §3.3.13). Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Soa {
    /// The primary name server.
    pub mname: Name,
    /// The mailbox of the zone's administrator, with a dot for the `@`.
    pub rname: Name,
    /// The version of the zone.
    pub serial: u32,
    /// The interval at which a secondary server checks for a new version.
    pub refresh: u32,
    /// The interval at which a secondary server retries a failed check.
    pub retry: u32,
    /// The time without a successful check after which a secondary server stops answering.
    pub expire: u32,
    /// The TTL of negative answers (RFC 2308 §4).
    pub minimum: u32,
}

/// A host and port of a service (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Srv {
    /// The priority. Targets with lower numbers are used first.
    pub priority: u16,
    /// The relative share among targets of the same priority.
    pub weight: u16,
    /// The port of the service.
    pub port: u16,
    /// The host, which must not be an alias.
    pub target: Name,
}

impl Record {
    /// A lower bound of the record's length in a message, in bytes. It is exact for addresses and
    /// SRV records whose owner is the name in the question.
    pub(super) fn least_bytes(&self) -> usize {
        // A compression pointer for the owner; type, class, TTL and the length of the data.
        const BEFORE_DATA: usize = 2 + 10;
        BEFORE_DATA
            + match &self.data {
                Rdata::A(_) => 4,
                Rdata::Aaaa(_) => 16,
                Rdata::Srv(srv) => 6 + srv.target.wire().len(),
                _ => 0,
            }
    }
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

    /// The host whose addresses belong in the additional section (RFC 1035 §3.3.11, RFC 2782).
    pub fn host(&self) -> Option<&Name> {
        match self {
            Rdata::Ns(host) => Some(host),
            Rdata::Srv(srv) => Some(&srv.target),
            _ => None,
        }
    }

    /// Converts opaque NS, PTR, SOA, SRV and TXT data to the variant of its type. Malformed data,
    /// TXT data of several strings and data of other types stay as they are.
    pub fn typed(self) -> Rdata {
        let Rdata::Opaque(rtype, bytes) = &self else {
            return self;
        };
        Rdata::parse(*rtype, bytes).unwrap_or(self)
    }

    fn parse(rtype: Rtype, bytes: &[u8]) -> Option<Rdata> {
        let name = |bytes| Name::from_wire(bytes).ok();
        Some(match rtype {
            Rtype::NS => Rdata::Ns(name(bytes)?),
            Rtype::PTR => Rdata::Ptr(name(bytes)?),
            Rtype::SOA => Rdata::Soa(Soa::parse_soa(bytes)?),
            Rtype::SRV => {
                let (numbers, target) = bytes.split_at_checked(6)?;
                let number = |at| u16::from_be_bytes([numbers[at], numbers[at + 1]]);
                Rdata::Srv(Srv {
                    priority: number(0),
                    weight: number(2),
                    port: number(4),
                    target: name(target)?,
                })
            }
            Rtype::TXT => match bytes {
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
    fn parse_soa(bytes: &[u8]) -> Option<Soa> {
        let (names, numbers) = bytes.split_at_checked(bytes.len().checked_sub(20)?)?;
        let mname = Name::from_wire_prefix(names)?;
        let rname = Name::from_wire(&names[mname.wire().len()..]).ok()?;
        let number = |at: usize| {
            let bytes = [0, 1, 2, 3].map(|offset| numbers[4 * at + offset]);
            u32::from_be_bytes(bytes)
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

/// Writes a line of a zone file (RFC 1035 §5.1).
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { owner, ttl, data } = self;
        write!(f, "{owner} {ttl} IN {data}")
    }
}

/// Writes the type and the data as in a zone file.
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
                for &byte in text {
                    match byte {
                        b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                        b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                        _ => write!(f, "\\{byte:03}")?,
                    }
                }
                f.write_str("\"")
            }
            Rdata::Opaque(rtype, bytes) => fmt_opaque(*rtype, bytes, f),
        }
    }
}

/// Writes opaque data in the form of its type, or in the form for unknown types (RFC 3597 §5).
fn fmt_opaque(rtype: Rtype, bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut parser = Parser::from_ref(bytes);
    let parsed = AllRecordData::<&[u8], ParsedName<&[u8]>>::parse_any_rdata(rtype, &mut parser);
    if let Ok(data) = parsed
        && !matches!(data, AllRecordData::Unknown(_))
    {
        return write!(f, "{data}");
    }
    write!(f, "\\# {}", bytes.len())?;
    if !bytes.is_empty() {
        f.write_str(" ")?;
    }
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
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
