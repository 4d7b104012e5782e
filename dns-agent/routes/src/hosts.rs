//! Names with addresses (CoreDNS, `plugin/hosts`).

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerohop_zone::{Name, Rdata, Record, Rtype};

use crate::{FixedAnswer, is_within};

/// NOERROR (RFC 1035 section 4.1.1).
const NOERROR: u8 = 0;
/// SERVFAIL (RFC 1035 section 4.1.1).
const SERVFAIL: u8 = 2;

/// Names with addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsRules {
    /// The zones. Names outside of them are not kept.
    zones: Vec<Name>,
    /// In these zones, names without an address go on to the next rule. Other names without an
    /// address get SERVFAIL.
    through: Vec<Name>,
    unsupported: UnsupportedTypes,
    /// The TTL of records, in seconds.
    ttl: u32,
    /// One table for each text.
    tables: Vec<HostsTable>,
}

/// The names of a text in the format of `/etc/hosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HostsTable {
    names: HashMap<Name, HostAddresses>,
    /// The addresses of all names with one more label than these.
    wildcards: HashMap<Name, HostAddresses>,
}

/// What happens to questions for other types than A and AAAA about a name with addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnsupportedTypes {
    /// The answer has no record.
    #[default]
    NoData,
    /// They go on to the next rule, in the zones in which absent names do.
    Through,
}

/// The addresses of a name, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HostAddresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What the names say about a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HostsDecision {
    /// They say nothing.
    Next,
    Answer(FixedAnswer),
}

impl HostsRules {
    /// Rules without names.
    pub fn new(
        zones: Vec<Name>,
        through: Vec<Name>,
        unsupported: UnsupportedTypes,
        ttl: u32,
    ) -> HostsRules {
        HostsRules {
            zones,
            through,
            unsupported,
            ttl,
            tables: Vec::new(),
        }
    }

    /// Adds the names of a text in the format of `/etc/hosts`. Lines without an address, and names
    /// outside of the zones, are skipped (CoreDNS, `plugin/hosts/hostsfile.go`).
    pub fn add_text(&mut self, text: &str) {
        let mut table = HostsTable::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let address = words.next().and_then(read_address);
            let Some(address) = address else { continue };
            for host in words {
                table.add_host(host, address, &self.zones);
            }
        }
        self.tables.push(table);
    }

    pub(super) fn decide(&self, name: &Name, rtype: Rtype) -> HostsDecision {
        // CoreDNS answers PTR questions from the addresses. If the name is not the reverse name of
        // one of them, the next rule counts, with or without `fallthrough`.
        if !is_within(name, &self.zones) || rtype == Rtype::PTR {
            return HostsDecision::Next;
        }
        let falls_through = is_within(name, &self.through);
        let is_supported = matches!(rtype, Rtype::A | Rtype::AAAA);
        if !is_supported && self.unsupported == UnsupportedTypes::Through && falls_through {
            return HostsDecision::Next;
        }
        let addresses: Vec<IpAddr> = (self.tables.iter())
            .flat_map(|table| table.addresses_of(name))
            .collect();
        if addresses.is_empty() {
            return match falls_through {
                true => HostsDecision::Next,
                false => HostsDecision::Answer(FixedAnswer {
                    rcode: SERVFAIL,
                    records: Vec::new(),
                }),
            };
        }
        let data = |address| match (rtype, address) {
            (Rtype::A, IpAddr::V4(address)) => Some(Rdata::A(address)),
            (Rtype::AAAA, IpAddr::V6(address)) => Some(Rdata::Aaaa(address)),
            _ => None,
        };
        let record = |data| Record {
            owner: name.clone(),
            ttl: self.ttl,
            data,
        };
        let records = addresses.into_iter().filter_map(data).map(record);
        HostsDecision::Answer(FixedAnswer {
            rcode: NOERROR,
            records: records.collect(),
        })
    }
}

impl HostsTable {
    fn add_host(&mut self, host: &str, address: IpAddr, zones: &[Name]) {
        // CoreDNS compares an escaped name as text, so no question has it.
        if host.contains('\\') {
            return;
        }
        let (table, host) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcards, parent),
            None => (&mut self.names, host),
        };
        let Ok(name) = Name::parse(host) else { return };
        if !is_within(&name, zones) {
            return;
        }
        let addresses = table.entry(name).or_default();
        match address.to_canonical() {
            IpAddr::V4(address) => addresses.v4.push(address),
            IpAddr::V6(address) => addresses.v6.push(address),
        }
    }

    /// The addresses of a name: of each family, its own, or else those of its wildcard.
    fn addresses_of(&self, name: &Name) -> Vec<IpAddr> {
        const NONE: HostAddresses = HostAddresses {
            v4: Vec::new(),
            v6: Vec::new(),
        };
        let none = &NONE;
        let own = self.names.get(name).unwrap_or(none);
        let parent = name.parent();
        let wildcard = parent.and_then(|parent| self.wildcards.get(&parent));
        let wildcard = wildcard.unwrap_or(none);
        let v4 = if own.v4.is_empty() {
            &wildcard.v4
        } else {
            &own.v4
        };
        let v6 = if own.v6.is_empty() {
            &wildcard.v6
        } else {
            &own.v6
        };
        let v4 = v4.iter().copied().map(IpAddr::V4);
        v4.chain(v6.iter().copied().map(IpAddr::V6)).collect()
    }
}

/// Reads an address without its scope.
fn read_address(text: &str) -> Option<IpAddr> {
    let without_scope = text.split_once('%').map_or(text, |(address, _)| address);
    without_scope.parse().ok()
}
