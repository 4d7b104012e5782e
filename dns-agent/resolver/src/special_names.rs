//! Special-use names, which the resolver answers itself, because no server outside knows them.
//!
//! What the operator has configured for such a name comes first
//! ([`Upstreams::special_domain`](super::Upstreams)).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use domain::base::{header::Flags, iana::OptRcode};
use zerohop_zone::{Name, NameError, Rdata, Record, Rtype, Soa, render_sections, reverse_name};

use super::{loops::is_probe_name, query::Query};

/// The TTL of the records, in seconds, and so the life of negative answers: that of `cache` in
/// kubeadm's Corefile. Clients notice within this time that the operator has configured a name.
const TTL: u32 = 30;

/// A domain whose names the resolver answers itself.
#[derive(Debug, PartialEq, Eq)]
pub struct SpecialDomain {
    pub(super) name: Name,
    contents: DomainContents,
    /// The document and section that say so.
    source: &'static str,
    localhost: Name,
    /// The SOA record of negative answers (RFC 6303 section 3), with which clients keep them.
    soa: Record,
}

/// Which names exist in a domain, and with which records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DomainContents {
    /// All, with the loopback addresses.
    LoopbackAddresses,
    /// None, not even the domain itself.
    NoNames,
    /// All, without records.
    NoRecords,
    /// The domain itself, without records.
    EmptyZone,
    /// The domain itself, and the reverse name of this address, which leads to `localhost`.
    ReverseZone(IpAddr),
}

/// The records of a name in a special domain.
#[derive(Debug, PartialEq, Eq)]
enum SpecialAnswer {
    /// The name exists. It may have no record of the type.
    Records(Vec<Record>),
    NxDomain,
}

/// The domains. `test`, `local` and `home.arpa`, and the reverse names of private addresses, are
/// missing, because clusters and their networks use them.
const DOMAINS: [(&str, DomainContents, &str); 10] = {
    use DomainContents::{EmptyZone, LoopbackAddresses, NoNames, NoRecords, ReverseZone};
    const LOOPBACK4: DomainContents = ReverseZone(IpAddr::V4(Ipv4Addr::LOCALHOST));
    const LOOPBACK6: DomainContents = ReverseZone(IpAddr::V6(Ipv6Addr::LOCALHOST));
    [
        ("localhost", LoopbackAddresses, "RFC 6761 section 6.3"),
        ("invalid", NoNames, "RFC 6761 section 6.4"),
        ("onion", NoNames, "RFC 7686 section 2"),
        ("alt", NoNames, "RFC 9476 section 2"),
        ("resolver.arpa", NoRecords, "RFC 9462 section 6"),
        ("0.in-addr.arpa", EmptyZone, "RFC 6303 section 4.2"),
        ("127.in-addr.arpa", LOOPBACK4, "RFC 6303 section 4.2"),
        (
            "255.255.255.255.in-addr.arpa",
            EmptyZone,
            "RFC 6303 section 4.2",
        ),
        (
            "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            EmptyZone,
            "RFC 6303 section 4.3",
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            LOOPBACK6,
            "RFC 6303 section 4.3",
        ),
    ]
};

impl SpecialDomain {
    /// The special domain of a name. `None` for loop probes too: if two agents forward to each
    /// other, each one's probe must return through the other one.
    pub(super) fn of(name: &Name) -> Option<&'static SpecialDomain> {
        static ALL: LazyLock<Vec<SpecialDomain>> = LazyLock::new(|| {
            let domains = DOMAINS.into_iter();
            // All names are well-formed, which a test checks.
            let read = domains.map(|(name, contents, source)| {
                SpecialDomain::new(Name::parse(name)?, contents, source)
            });
            read.filter_map(Result::ok).collect()
        });
        let mut all = ALL.iter();
        let found = all.find(|domain| name.is_at_or_below(&domain.name))?;
        (!is_probe_name(name)).then_some(found)
    }

    fn new(
        name: Name,
        contents: DomainContents,
        source: &'static str,
    ) -> Result<SpecialDomain, NameError> {
        let localhost = Name::parse("localhost")?;
        let soa = Soa {
            mname: localhost.clone(),
            rname: Name::parse("hostmaster.invalid")?,
            serial: 1,
            refresh: 3600,
            retry: 1200,
            expire: 604_800,
            minimum: TTL,
        };
        let soa = Record {
            owner: name.clone(),
            ttl: TTL,
            data: Rdata::Soa(soa),
        };
        Ok(SpecialDomain {
            name,
            contents,
            source,
            localhost,
            soa,
        })
    }

    /// Whether the domain itself has the records of a zone (RFC 6303 section 3).
    fn is_zone(&self) -> bool {
        match self.contents {
            DomainContents::EmptyZone | DomainContents::ReverseZone(_) => true,
            DomainContents::LoopbackAddresses
            | DomainContents::NoNames
            | DomainContents::NoRecords => false,
        }
    }

    fn answer(&self, name: &Name, rtype: Rtype) -> SpecialAnswer {
        let is_domain = *name == self.name;
        let mut data = match self.contents {
            DomainContents::LoopbackAddresses => vec![
                Rdata::A(Ipv4Addr::LOCALHOST),
                Rdata::Aaaa(Ipv6Addr::LOCALHOST),
            ],
            DomainContents::NoRecords => Vec::new(),
            DomainContents::EmptyZone if is_domain => Vec::new(),
            DomainContents::ReverseZone(address) => {
                let host = reverse_name(address);
                match host.is_at_or_below(name) {
                    true if host == *name => vec![Rdata::Ptr(self.localhost.clone())],
                    // A name between the domain and the host exists (RFC 8020 section 2).
                    true => Vec::new(),
                    false => return SpecialAnswer::NxDomain,
                }
            }
            DomainContents::NoNames | DomainContents::EmptyZone => return SpecialAnswer::NxDomain,
        };
        if is_domain && self.is_zone() {
            data.extend([self.soa.data.clone(), Rdata::Ns(self.localhost.clone())]);
        }
        let is_asked = |data: &Rdata| rtype == Rtype::ANY || data.rtype() == rtype;
        let data = data.into_iter().filter(is_asked);
        let record = |data| Record {
            owner: name.clone(),
            ttl: TTL,
            data,
        };
        SpecialAnswer::Records(data.map(record).collect())
    }
}

impl fmt::Display for SpecialDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match self.contents {
            DomainContents::LoopbackAddresses => "it means this machine",
            DomainContents::NoNames => "no such name exists",
            DomainContents::NoRecords => "it has no records",
            DomainContents::EmptyZone => "no host has this address",
            DomainContents::ReverseZone(_) => "only this machine has such an address",
        };
        let source = self.source;
        write!(
            f,
            "a special-use name ({source}): {answer}, so no server is asked"
        )
    }
}

impl Query {
    /// The reply about a name in a special domain.
    pub(super) fn special_reply(&self, domain: &SpecialDomain, rotation: usize) -> Vec<u8> {
        let (rcode, answer) = match domain.answer(&self.name, self.qtype) {
            SpecialAnswer::Records(records) => (OptRcode::NOERROR, records),
            SpecialAnswer::NxDomain => (OptRcode::NXDOMAIN, Vec::new()),
        };
        let soa = std::slice::from_ref(&domain.soa);
        let authority = if answer.is_empty() { soa } else { &[] };
        let flags = Flags {
            aa: true,
            ..Flags::default()
        };
        let sections = render_sections(&self.name, [&answer, authority, &[]], rotation);
        self.reply(rcode, flags, &sections, None)
    }
}

#[cfg(test)]
mod tests;
