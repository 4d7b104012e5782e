//! The apexes of zones.

use std::collections::BTreeSet;

use super::{Name, NameError, Rdata, Record, Rtype, Soa};

/// The largest TTL of a SOA record, in seconds, as in CoreDNS.
const MAX_SOA_TTL: u32 = 300;

/// The times of a SOA record (RFC 1035 section 3.3.13), in seconds, as in CoreDNS.
const REFRESH: u32 = 7200;
const RETRY: u32 = 1800;
const EXPIRE: u32 = 86400;

/// The apex of a zone, which is a cluster domain or a reverse zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apex {
    /// The zone's name.
    pub name: Name,
    /// The SOA data. The primary name server is `ns.dns.<name>`, the mailbox `hostmaster.<name>`.
    pub soa: Soa,
    /// The TTL of the SOA record in an answer, in seconds.
    pub ttl: u32,
    /// The TTL of the SOA record in a negative answer, in seconds: how long resolvers may cache the
    /// answer (RFC 2308 §5).
    pub negative_ttl: u32,
    /// How queries for absent names are answered.
    pub absent_names: AbsentNames,
    /// The types whose queries pass for all names, because other software changes their answers.
    pub passed_types: BTreeSet<Rtype>,
    /// The answers of existing names that other software changes, so that the queries pass.
    pub changed_answers: BTreeSet<ChangedAnswers>,
    /// How queries with the DO bit are answered.
    pub dnssec_ok: DnssecOkQueries,
}

/// How queries for absent names in a zone are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AbsentNames {
    /// With NXDOMAIN.
    #[default]
    Denied,
    /// With NXDOMAIN, but queries for SOA records pass, because of a CoreDNS deviation.
    DeniedExceptSoa,
    /// The queries pass, because CoreDNS may know the names.
    Passed,
    /// With [`Answer::NotYetKnown`](crate::Answer::NotYetKnown), because the lists of objects are
    /// incomplete.
    NotYetKnown,
}

/// A kind of answers that other software changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangedAnswers {
    /// Those to queries for this type, without a record of it.
    WithoutType(Rtype),
    /// Those with several addresses in one section. Their order is changed.
    SeveralAddresses,
}

/// How queries with the DO bit (RFC 3225) are answered in the zones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnssecOkQueries {
    /// Like other queries: no zone is signed.
    #[default]
    Answered,
    /// They pass, because other software signs the answers to them.
    Passed,
}

impl Apex {
    /// The SOA record of a negative answer (RFC 2308 §3).
    pub fn negative_soa(&self) -> Record {
        Record {
            owner: self.name.clone(),
            ttl: self.negative_ttl,
            data: Rdata::Soa(self.soa.clone()),
        }
    }

    /// The apex of a zone whose records have a TTL of `ttl` seconds, and whose SOA data has this
    /// `minimum`, in seconds. Fails when names in the SOA data are too long.
    pub(super) fn new(name: Name, serial: u32, ttl: u32, minimum: u32) -> Result<Apex, NameError> {
        let soa = Soa {
            mname: name.child(b"dns")?.child(b"ns")?,
            rname: name.child(b"hostmaster")?,
            serial,
            refresh: REFRESH,
            retry: RETRY,
            expire: EXPIRE,
            minimum,
        };
        let ttl = ttl.min(MAX_SOA_TTL);
        Ok(Apex {
            name,
            soa,
            ttl,
            negative_ttl: ttl,
            absent_names: AbsentNames::default(),
            passed_types: BTreeSet::new(),
            changed_answers: BTreeSet::new(),
            dnssec_ok: DnssecOkQueries::default(),
        })
    }
}

/// Sorts zones, longest name first. Of zones with the same name, the first stays.
pub(super) fn sort_zones(zones: &mut Vec<Apex>) {
    // The sort is stable.
    zones.sort_by(|a, b| {
        let length = |zone: &Apex| zone.name.wire().len();
        (length(b).cmp(&length(a))).then_with(|| a.name.cmp(&b.name))
    });
    zones.dedup_by(|later, earlier| later.name == earlier.name);
}

/// The SOA record for the negative answer of a name that is known alone: the name is the owner, the
/// primary name server and the mailbox. The serial is constant, because there is no zone to
/// transfer. `ttl` is that of the name's records, in seconds.
pub(super) fn soa_of_name(name: &Name, ttl: u32) -> Record {
    let soa = Soa {
        mname: name.clone(),
        rname: name.clone(),
        serial: 1,
        refresh: REFRESH,
        retry: RETRY,
        expire: EXPIRE,
        minimum: ttl,
    };
    Record {
        owner: name.clone(),
        ttl: ttl.min(MAX_SOA_TTL),
        data: Rdata::Soa(soa),
    }
}
