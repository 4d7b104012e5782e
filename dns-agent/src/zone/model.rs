//! Zone data, stored.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Live, Name, NameError, Node, Rdata, Record, Soa, ZoneData};

/// The longest TTL of a SOA record, in seconds.
const MAX_SOA_TTL: u32 = 300;

/// Every name with its data, stored. Immutable once built, and shared as `Arc<Model>`.
#[derive(Debug, Default)]
pub struct Model {
    pub(super) zones: Vec<Apex>,
    pub(super) nodes: HashMap<Name, Arc<Node>>,
    pub(super) passed: Vec<Name>,
}

/// A zone: a cluster domain or a reverse zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apex {
    /// The zone's name.
    pub name: Name,
    /// Its SOA data; the primary server is `ns.dns.<name>`, the mailbox
    /// `hostmaster.<name>`.
    pub soa: Soa,
    /// The TTL of the SOA record in an answer, in seconds.
    pub ttl: u32,
    /// The TTL of the SOA record in a negative answer: how long "no" may be kept,
    /// in seconds (RFC 2308 §5).
    pub negative_ttl: u32,
    /// What is said of names that are not there.
    pub absent: Absent,
}

/// What is said of names that are not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// That they do not exist.
    #[default]
    Denied,
    /// The same, but to who asks for their SOA nothing: somebody else is asked for that.
    DeniedExceptSoa,
    /// Nothing: somebody else may know them.
    Passed,
    /// That nobody can know yet: not everything that makes names has been told.
    NotYetKnown,
}

impl Model {
    /// All that `data` shows, stored.
    pub fn of(data: &dyn ZoneData) -> Model {
        let mut nodes = HashMap::new();
        data.visit(&mut |name, node| {
            nodes.insert(name.clone(), Arc::new(node.clone()));
        });
        Model {
            zones: data.zones().to_vec(),
            nodes,
            passed: data.passed().to_vec(),
        }
    }

    /// Every name that exists, as in [`ZoneData::visit`].
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.nodes.iter().map(|(name, node)| (name, &**node))
    }
}

impl Live for Model {
    fn look(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        see(self);
    }
}

impl ZoneData for Model {
    fn zones(&self) -> &[Apex] {
        &self.zones
    }

    fn passed(&self) -> &[Name] {
        &self.passed
    }

    fn node(&self, name: &Name) -> Option<Arc<Node>> {
        self.nodes.get(name).cloned()
    }

    fn visit(&self, see: &mut dyn FnMut(&Name, &Node)) {
        for (name, node) in &self.nodes {
            see(name, node);
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

    /// The apex of a zone whose records have a TTL of `ttl` seconds. Fails when the
    /// names in the SOA become too long.
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
            absent: Absent::default(),
        })
    }
}
