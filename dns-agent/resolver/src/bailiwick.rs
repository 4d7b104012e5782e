//! Selects the records of an upstream's response that belong to the question.
//!
//! The resolver trusts an upstream about the queried name and the names that its CNAMEs lead to. It
//! doesn't trust an upstream about local names, because these are answered from local data or by
//! the cluster's DNS. The exception is the cluster's DNS itself when it was queried for a local
//! name.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    iter,
};

use domain::base::iana::Rtype;
use zerohop_zone::{Name, Rdata, Record, ZoneData};

use super::{records::Records, response::Response};

/// Upper bound on the names of the chain in one response: the queried name and the targets of
/// CNAMEs.
const MAX_CHAIN_NAMES: usize = 32;

/// The local names: those in local zones, without the [delegated
/// names](ZoneData::delegated_names), and those in the cluster's domains.
#[derive(Clone, Copy)]
pub struct LocalNames<'a> {
    /// The local zones.
    pub data: &'a dyn ZoneData,
    /// The cluster's domains, which may have no local zone.
    pub domains: &'a [Name],
}

/// The records of a response that belong to its question, and about which the upstream is trusted.
#[derive(Debug)]
pub(super) struct RelevantRecords {
    /// The CNAMEs and DNAMEs from the queried name on, the data at their end, and signatures.
    pub(super) answer: Vec<Record>,
    /// SOA, NS and DS records at or above the last name, NSEC and NSEC3 records of the zone, and
    /// signatures. Empty with [`ChainEnd::Local`].
    pub(super) authority: Vec<Record>,
    /// The addresses of hosts named in the other sections, and signatures. Empty with
    /// [`ChainEnd::Local`].
    pub(super) additional: Vec<Record>,
    /// The last name: the queried name, or the name that the CNAMEs lead to. With
    /// [`ChainEnd::Endless`], the name whose CNAME is not followed.
    pub(super) last_name: Name,
    /// Where the chain ends.
    pub(super) chain_end: ChainEnd,
    /// Number of records of the response, not counting its OPT record and records after it, that
    /// are not in the three sections above.
    pub(super) left_out: usize,
}

/// Where the chain of CNAMEs in a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainEnd {
    /// At a name that the upstream is trusted about.
    Upstream,
    /// At a local name, about which the upstream is not trusted.
    Local,
    /// At no name, because the chain is a loop, or has more than [`MAX_CHAIN_NAMES`] names.
    Endless,
}

impl LocalNames<'_> {
    /// Whether `name` is a local name.
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.data.zone_of(name).is_some()
            || self
                .domains
                .iter()
                .any(|domain| name.is_at_or_below(domain))
    }
}

impl Response {
    /// The records of the response that belong to the question for `queried_name` and `qtype`.
    /// `None`: a record can't be parsed.
    pub(super) fn relevant_records(
        &self,
        queried_name: &Name,
        qtype: Rtype,
        local_names: &LocalNames<'_>,
    ) -> Option<RelevantRecords> {
        let Records {
            sections: [answers, authorities, additionals],
            count,
        } = self.records()?;
        let (answer, last_name, chain_end) =
            follow_chain(answers, queried_name, qtype, local_names);
        let (mut authority, mut additional) = (Vec::new(), Vec::new());
        // If the chain ends at a local name, only the CNAMEs that lead there are trusted.
        if chain_end != ChainEnd::Local {
            // If the last name is local here, the cluster's DNS was queried for a local name, and
            // is trusted about other local names too.
            let is_trusted =
                |name: &Name| !local_names.contains(name) || local_names.contains(&last_name);
            authority = retain_zone_records(authorities, &last_name, is_trusted);
            let hosts: HashSet<Name> = answer
                .iter()
                .chain(&authority)
                .filter_map(named_host)
                .collect();
            additional = additionals;
            additional.retain(|record| {
                is_address(record) && hosts.contains(&record.owner) && is_trusted(&record.owner)
            });
        }
        let left_out = count - answer.len() - authority.len() - additional.len();
        Some(RelevantRecords {
            answer,
            authority,
            additional,
            last_name,
            chain_end,
            left_out,
        })
    }
}

/// Follows the CNAMEs from `queried_name` on. Returns the records of the visited names, the last
/// name, and where the chain ends.
///
/// If the cluster's DNS was queried for a local name, it is trusted about other local names too,
/// unless the chain reaches them through a name outside the cluster. CoreDNS returns several CNAMEs
/// for a headless Service if its endpoints are domain names.
fn follow_chain(
    answers: Vec<Record>,
    queried_name: &Name,
    qtype: Rtype,
    local_names: &LocalNames<'_>,
) -> (Vec<Record>, Name, ChainEnd) {
    // CNAMEs don't redirect queries of these types (RFC 1034 section 3.6.2).
    let follows_cnames = !matches!(qtype, Rtype::CNAME | Rtype::ANY);
    let mut rest = answers;
    let mut chain = Vec::new();
    // Each name of the chain, with the name whose CNAME leads to it.
    let mut aliases: HashMap<Name, Option<Name>> = HashMap::from([(queried_name.clone(), None)]);
    let mut next = VecDeque::from([(
        queried_name.clone(),
        Responder::for_query(queried_name, local_names),
    )]);
    let mut last_name = queried_name.clone();
    while let Some((name, responder)) = next.pop_front() {
        if responder == Responder::Other && local_names.contains(&name) {
            return (chain, name, ChainEnd::Local);
        }
        last_name = name;
        // The records at this name, and the DNAME records above it that redirect it, with their
        // signatures.
        let (here, others): (Vec<Record>, Vec<Record>) = rest.into_iter().partition(|record| {
            // A CNAME, and the signatures of a CNAME and of the queried type, belong to the answer
            // too.
            let has_queried_type = [Rtype::ANY, record.data.rtype()].contains(&qtype)
                || [qtype, Rtype::CNAME].contains(&signed_type(record));
            let redirects = signed_type(record) == Rtype::DNAME
                && last_name != record.owner
                && last_name.is_at_or_below(&record.owner);
            (record.owner == last_name && has_queried_type) || redirects
        });
        rest = others;
        let targets = here.iter().filter_map(|record| match &record.data {
            Rdata::Cname(target) if follows_cnames && record.owner == last_name => Some(target),
            _ => None,
        });
        // A name has one CNAME at most (RFC 1034 section 3.6.2), except in CoreDNS's answers.
        let max_targets = match responder {
            Responder::ClusterDns => usize::MAX,
            Responder::Other => 1,
        };
        for target in targets.take(max_targets) {
            if leads_back(&aliases, &last_name, target) {
                chain.extend(here);
                return (chain, last_name, ChainEnd::Endless);
            }
            // Several CNAMEs may lead to one name.
            if aliases.contains_key(target) {
                continue;
            }
            if aliases.len() >= MAX_CHAIN_NAMES {
                chain.extend(here);
                return (chain, last_name, ChainEnd::Endless);
            }
            aliases.insert(target.clone(), Some(last_name.clone()));
            let responder = if local_names.contains(target) {
                responder
            } else {
                Responder::Other
            };
            next.push_back((target.clone(), responder));
        }
        chain.extend(here);
    }
    (chain, last_name, ChainEnd::Upstream)
}

/// Whether `target`, the target of a CNAME of `name`, is `name` itself or a name whose CNAMEs led
/// to `name`.
fn leads_back(aliases: &HashMap<Name, Option<Name>>, name: &Name, target: &Name) -> bool {
    let alias_of = |name: &&Name| aliases.get(*name).and_then(Option::as_ref);
    iter::successors(Some(name), alias_of).any(|above| above == target)
}

/// The server that a name's records come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Responder {
    /// The cluster's DNS, for a local name.
    ClusterDns,
    /// Another server, or the cluster's DNS for a name that is not local or that was reached
    /// through such a name.
    Other,
}

impl Responder {
    fn for_query(queried_name: &Name, local_names: &LocalNames<'_>) -> Responder {
        if local_names.contains(queried_name) {
            Responder::ClusterDns
        } else {
            Responder::Other
        }
    }
}

/// Keeps the authority records of the zone that contains `last_name`: SOA, NS and DS records at or
/// above the name, NSEC and NSEC3 records in the zone (RFC 4035 section 3.1.3, RFC 5155 section
/// 7.2), and the signatures of all these.
fn retain_zone_records(
    mut records: Vec<Record>,
    last_name: &Name,
    is_trusted: impl Fn(&Name) -> bool,
) -> Vec<Record> {
    let is_at_or_above = |record: &Record| last_name.is_at_or_below(&record.owner);
    let is_apex = |record: &&Record| {
        matches!(record.data.rtype(), Rtype::SOA | Rtype::NS) && is_at_or_above(record)
    };
    let apexes: Vec<Name> = (records.iter().filter(is_apex))
        .map(|record| record.owner.clone())
        .collect();
    // Without SOA and NS records, the zone of the records is not known.
    let is_in_zone =
        |name: &Name| apexes.is_empty() || apexes.iter().any(|apex| name.is_at_or_below(apex));
    records.retain(|record| match signed_type(record) {
        Rtype::SOA | Rtype::NS | Rtype::DS => is_at_or_above(record),
        Rtype::NSEC | Rtype::NSEC3 => is_trusted(&record.owner) && is_in_zone(&record.owner),
        _ => false,
    });
    records
}

/// The type of a record, or the type covered by a signature (RFC 4034 section 3.1.1).
fn signed_type(record: &Record) -> Rtype {
    match &record.data {
        Rdata::Opaque(Rtype::RRSIG, bytes) => match bytes[..] {
            [high, low, ..] => Rtype::from_int(u16::from_be_bytes([high, low])),
            _ => Rtype::RRSIG,
        },
        data => data.rtype(),
    }
}

/// Whether the record is A or AAAA, or a signature that covers one of them.
fn is_address(record: &Record) -> bool {
    matches!(signed_type(record), Rtype::A | Rtype::AAAA)
}

/// The host named in a record's data, if the host's addresses belong in the additional section (RFC
/// 1035 section 3.3, RFC 2782, RFC 9460 section 4.2).
fn named_host(record: &Record) -> Option<Name> {
    let Rdata::Opaque(rtype, bytes) = &record.data else {
        return record.data.host().cloned();
    };
    // `Records::read` leaves the data of these types opaque. The offset is that of the name in it.
    let offset = match *rtype {
        Rtype::NS => 0,
        Rtype::MX | Rtype::SVCB | Rtype::HTTPS => 2,
        Rtype::SRV => 6,
        _ => return None,
    };
    let name = Name::from_wire_prefix(bytes.get(offset..)?)?;
    // In a service binding, the target "." means the owner itself (RFC 9460 section 2.5.2).
    let is_service = matches!(*rtype, Rtype::SVCB | Rtype::HTTPS);
    Some(if is_service && name == Name::root() {
        record.owner.clone()
    } else {
        name
    })
}
