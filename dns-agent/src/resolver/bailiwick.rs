//! Which records of an upstream's response belong to the question.
//!
//! An upstream is believed about the name that it was asked for, and about where that name leads. What
//! it says of names in our zones is not believed, because those come from our data: only the cluster's
//! DNS says something about them, and only when it was asked for one of them.

use std::collections::{HashSet, VecDeque};

use domain::base::iana::Rtype;

use super::response::{Records, Response};
use crate::zone::{Name, Rdata, Record, ZoneData};

/// How many CNAMEs of a response are followed.
const MAX_LINKS: usize = 32;

/// The names that come from our data, or from the cluster's DNS.
#[derive(Clone, Copy)]
pub struct OwnNames<'a> {
    /// Our zones.
    pub data: &'a dyn ZoneData,
    /// The cluster's domains, which may have no zone here.
    pub domains: &'a [Name],
}

/// The records of a response that belong to its question.
#[derive(Debug)]
pub(super) struct Relevant {
    /// The CNAMEs from the question's name on, and the data at their end.
    pub(super) answer: Vec<Record>,
    /// What zones at or above the last name say: SOA, NS, DS, and proofs of absence.
    pub(super) authority: Vec<Record>,
    /// The addresses of hosts that the other sections name.
    pub(super) additional: Vec<Record>,
    /// The last name: the question's own, or where the CNAMEs lead.
    pub(super) end: Name,
    /// What the last name is.
    pub(super) lead: Lead,
    /// How many records of the response are left out.
    pub(super) left_out: usize,
}

/// Where the CNAMEs of a response lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// To a name that the upstream answers for.
    Upstream,
    /// To one of our own names, of which the upstream is not believed anything.
    Own,
    /// Round in a circle, or over more than [`MAX_LINKS`] names.
    Nowhere,
}

impl OwnNames<'_> {
    /// Whether a name is one of them.
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.data.zone_of(name).is_some()
            || self
                .domains
                .iter()
                .any(|domain| name.is_at_or_below(domain))
    }
}

impl Response {
    /// What of the response belongs to the question for `asked` and `qtype`. `None`: a record can't be
    /// read.
    pub(super) fn relevant(
        &self,
        asked: &Name,
        qtype: Rtype,
        own: &OwnNames<'_>,
    ) -> Option<Relevant> {
        let Records {
            sections: [answers, authorities, additionals],
            count,
        } = self.records()?;
        let (answer, end, lead) = chain(answers, asked, qtype, own);
        let (mut authority, mut additional) = (Vec::new(), Vec::new());
        // Of one of our names nothing but the CNAMEs that lead there is believed.
        if lead != Lead::Own {
            let believed = |name: &Name| !own.contains(name) || own.contains(&end);
            authority = of_zone(authorities, &end, believed);
            let hosts: HashSet<Name> = answer.iter().chain(&authority).filter_map(host).collect();
            additional = additionals;
            additional.retain(|record| {
                is_address(record) && hosts.contains(&record.owner) && believed(&record.owner)
            });
        }
        let left_out = count - answer.len() - authority.len() - additional.len();
        Some(Relevant {
            answer,
            authority,
            additional,
            end,
            lead,
            left_out,
        })
    }
}

/// The records from `asked` on, as far as CNAMEs lead; the last name, and what it is.
///
/// The cluster's DNS, asked for one of the cluster's names, is believed about others of them as well,
/// as long as no name of another server leads to them; and CoreDNS gives several CNAMEs to a headless
/// Service whose endpoints are domain names.
fn chain(
    answers: Vec<Record>,
    asked: &Name,
    qtype: Rtype,
    own: &OwnNames<'_>,
) -> (Vec<Record>, Name, Lead) {
    let follows = !matches!(qtype, Rtype::CNAME | Rtype::ANY);
    let mut rest = answers;
    let mut chain = Vec::new();
    let mut seen = HashSet::from([asked.clone()]);
    let mut next = VecDeque::from([(asked.clone(), Speaker::of(asked, own))]);
    let mut end = asked.clone();
    while let Some((name, speaker)) = next.pop_front() {
        if speaker == Speaker::Upstream && own.contains(&name) {
            return (chain, name, Lead::Own);
        }
        end = name;
        let (here, others): (Vec<Record>, Vec<Record>) = rest.into_iter().partition(|record| {
            let is_meant = [Rtype::ANY, record.data.rtype()].contains(&qtype)
                || [qtype, Rtype::CNAME].contains(&signed_type(record));
            let redirects = signed_type(record) == Rtype::DNAME
                && end != record.owner
                && end.is_at_or_below(&record.owner);
            (record.owner == end && is_meant) || redirects
        });
        rest = others;
        let links = here.iter().filter_map(|record| match &record.data {
            Rdata::Cname(target) if follows && record.owner == end => Some(target),
            _ => None,
        });
        let links = links.take(match speaker {
            Speaker::Cluster => usize::MAX,
            Speaker::Upstream => 1,
        });
        for target in links {
            if !seen.insert(target.clone()) || seen.len() > MAX_LINKS {
                chain.extend(here);
                return (chain, end, Lead::Nowhere);
            }
            let speaker = match own.contains(target) {
                true => speaker,
                false => Speaker::Upstream,
            };
            next.push_back((target.clone(), speaker));
        }
        chain.extend(here);
    }
    (chain, end, Lead::Upstream)
}

/// Who speaks of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// The cluster's DNS, of one of the cluster's names.
    Cluster,
    /// Any other server.
    Upstream,
}

impl Speaker {
    fn of(asked: &Name, own: &OwnNames<'_>) -> Speaker {
        match own.contains(asked) {
            true => Speaker::Cluster,
            false => Speaker::Upstream,
        }
    }
}

/// What is said of the zone that `end` is in: by names at or above it, and as proof of what is not
/// there (RFC 4035 section 3.1.3, RFC 5155 section 7.2) by other names of that zone.
fn of_zone(mut records: Vec<Record>, end: &Name, believed: impl Fn(&Name) -> bool) -> Vec<Record> {
    let is_above = |record: &Record| end.is_at_or_below(&record.owner);
    let is_apex = |record: &&Record| {
        matches!(record.data.rtype(), Rtype::SOA | Rtype::NS) && is_above(record)
    };
    let apexes: Vec<Name> = (records.iter().filter(is_apex))
        .map(|record| record.owner.clone())
        .collect();
    let is_in_zone =
        |name: &Name| apexes.is_empty() || apexes.iter().any(|apex| name.is_at_or_below(apex));
    records.retain(|record| match signed_type(record) {
        Rtype::SOA | Rtype::NS | Rtype::DS => is_above(record),
        Rtype::NSEC | Rtype::NSEC3 => believed(&record.owner) && is_in_zone(&record.owner),
        _ => false,
    });
    records
}

/// The type of a record; of a signature, the type that it covers (RFC 4034 section 3.1.1).
fn signed_type(record: &Record) -> Rtype {
    match &record.data {
        Rdata::Opaque(Rtype::RRSIG, octets) => match octets[..] {
            [high, low, ..] => Rtype::from_int(u16::from_be_bytes([high, low])),
            _ => Rtype::RRSIG,
        },
        data => data.rtype(),
    }
}

/// A or AAAA, or a signature of them.
fn is_address(record: &Record) -> bool {
    matches!(signed_type(record), Rtype::A | Rtype::AAAA)
}

/// The host that a record names, whose addresses may stand in the additional section (RFC 1035
/// section 3.3, RFC 2782, RFC 9460 section 4.2).
fn host(record: &Record) -> Option<Name> {
    let Rdata::Opaque(rtype, octets) = &record.data else {
        return record.data.host().cloned();
    };
    let before = match *rtype {
        Rtype::NS => 0,
        Rtype::MX | Rtype::SVCB | Rtype::HTTPS => 2,
        Rtype::SRV => 6,
        _ => return None,
    };
    let name = Name::first(octets.get(before..)?)?;
    // RFC 9460 section 2.5.2: the owner itself.
    let is_service = matches!(*rtype, Rtype::SVCB | Rtype::HTTPS);
    Some(match is_service && name == Name::root() {
        true => record.owner.clone(),
        false => name,
    })
}
