//! Zone data that is stored as a map, and the zones' apexes.

use std::collections::HashMap;
use std::sync::Arc;

use super::{LiveZoneData, Name, NameEntry, NameError, Rdata, Record, Soa, ZoneData};

/// The largest TTL of a SOA record, in seconds.
const MAX_SOA_TTL: u32 = 300;

/// Stored zone data: all names with their entries. Immutable once built.
#[derive(Debug, Default)]
pub struct Model {
    pub(super) zones: Vec<Apex>,
    pub(super) entries: HashMap<Name, Arc<NameEntry>>,
    pub(super) delegated: Vec<Name>,
}

/// The apex of a zone, which is a cluster domain or a reverse zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apex {
    /// The zone's name.
    pub name: Name,
    /// The SOA data. The primary name server is `ns.dns.<name>`, the mailbox `hostmaster.<name>`.
    pub soa: Soa,
    /// The TTL of the SOA record in an answer, in seconds.
    pub ttl: u32,
    /// The TTL of the SOA record in a negative answer, in seconds: how long resolvers may cache it
    /// (RFC 2308 §5).
    pub negative_ttl: u32,
    /// How questions for absent names are answered.
    pub absent_names: AbsentNames,
}

/// How questions for absent names in a zone are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AbsentNames {
    /// With NXDOMAIN.
    #[default]
    Denied,
    /// With NXDOMAIN, but questions for SOA records pass.
    DeniedExceptSoa,
    /// Not at all: they pass, because CoreDNS may know the names.
    Passed,
    /// Not yet: the lists of objects are incomplete.
    NotYetKnown,
}

impl Model {
    /// Stores all entries of `data`.
    pub fn from_zone_data(data: &dyn ZoneData) -> Model {
        let mut entries = HashMap::new();
        data.visit(&mut |name, entry| {
            entries.insert(name.clone(), Arc::new(entry.clone()));
        });
        Model {
            zones: data.zones().to_vec(),
            entries,
            delegated: data.delegated_names().to_vec(),
        }
    }

    /// All existing names with their entries, as in [`ZoneData::visit`].
    pub fn entries(&self) -> impl Iterator<Item = (&Name, &NameEntry)> {
        self.entries.iter().map(|(name, entry)| (name, &**entry))
    }
}

impl LiveZoneData for Model {
    fn with_data(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        see(self);
    }
}

impl ZoneData for Model {
    fn zones(&self) -> &[Apex] {
        &self.zones
    }

    fn delegated_names(&self) -> &[Name] {
        &self.delegated
    }

    fn entry(&self, name: &Name) -> Option<Arc<NameEntry>> {
        self.entries.get(name).cloned()
    }

    fn visit(&self, see: &mut dyn FnMut(&Name, &NameEntry)) {
        for (name, entry) in &self.entries {
            see(name, entry);
        }
    }
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

    /// The apex of a zone whose records have a TTL of `ttl` seconds. Fails when names in the SOA
    /// data are too long.
    pub(super) fn new(name: Name, serial: u32, ttl: u32) -> Result<Apex, NameError> {
        let soa = Soa {
            mname: name.child(b"dns")?.child(b"ns")?,
            rname: name.child(b"hostmaster")?,
            serial,
            refresh: 7200,
            retry: 1800,
            expire: 86400,
            minimum: ttl,
        };
        let ttl = ttl.min(MAX_SOA_TTL);
        Ok(Apex {
            name,
            soa,
            ttl,
            negative_ttl: ttl,
            absent_names: AbsentNames::default(),
        })
    }
}
