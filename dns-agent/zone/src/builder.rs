//! Builds a [`Model`] from records.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::apex::sort_zones;
use super::name_entry::RrSet;
use super::{
    AbsentNames, Apex, ChangedAnswers, ComputedNames, DnssecOkQueries, Model, Name, NameEntry,
    NameError, Rdata, Record, Rtype,
};

/// Collects names and records in any order, for [`ModelBuilder::build`].
#[derive(Debug)]
pub struct ModelBuilder {
    zones: Vec<Apex>,
    entries: HashMap<Name, NameEntry>,
    delegated: Vec<Name>,
    serial: u32,
}

impl ModelBuilder {
    /// An empty builder. All zones get this serial.
    pub fn new(serial: u32) -> ModelBuilder {
        ModelBuilder {
            zones: Vec::new(),
            entries: HashMap::new(),
            delegated: Vec::new(),
            serial,
        }
    }

    /// Adds a zone with its SOA record. `ttl` is the usual TTL of the zone's other records, in
    /// seconds. Returns the zone's apex. Fails when names in the SOA data are too long.
    pub fn add_zone(&mut self, name: Name, ttl: u32) -> Result<Apex, NameError> {
        self.add_zone_with_minimum(name, ttl, ttl)
    }

    /// Adds a zone whose SOA data has another `minimum` than the usual TTL, both in seconds. A
    /// cache caps TTLs, but changes no data.
    pub fn add_zone_with_minimum(
        &mut self,
        name: Name,
        ttl: u32,
        minimum: u32,
    ) -> Result<Apex, NameError> {
        let apex = Apex::new(name, self.serial, ttl, minimum)?;
        self.add(Record {
            owner: apex.name.clone(),
            ttl: apex.ttl,
            data: Rdata::Soa(apex.soa.clone()),
        });
        self.zones.push(apex.clone());
        Ok(apex)
    }

    /// Adds a record. [`ModelBuilder::build`] drops duplicates. The first record of an RRset
    /// decides the TTL of the RRset (RFC 2181 §5.2).
    pub fn add(&mut self, record: Record) {
        let Record { owner, ttl, data } = record;
        let rtype = data.rtype();
        let sets = &mut self.entries.entry(owner).or_default().rrsets;
        match sets.iter_mut().find(|set| set.rtype == rtype) {
            Some(set) => set.data.push(data),
            None => sets.push(RrSet::with_record(ttl, data)),
        }
    }

    /// Sets how queries for absent names are answered, for each zone added so far. `choose` gets
    /// the zone's name.
    pub fn set_absent_names(&mut self, choose: impl Fn(&Name) -> AbsentNames) {
        for apex in &mut self.zones {
            apex.absent_names = choose(&apex.name);
        }
    }

    /// Sets the types whose queries pass, for each zone added so far. `choose` gets the zone's
    /// name.
    pub fn set_passed_types(&mut self, choose: impl Fn(&Name) -> BTreeSet<Rtype>) {
        for apex in &mut self.zones {
            apex.passed_types = choose(&apex.name);
        }
    }

    /// Sets the answers that other software changes, for each zone added so far. `choose` gets the
    /// zone's name.
    pub fn set_changed_answers(&mut self, choose: impl Fn(&Name) -> BTreeSet<ChangedAnswers>) {
        for apex in &mut self.zones {
            apex.changed_answers = choose(&apex.name);
        }
    }

    /// Sets how queries with the DO bit are answered in the zones added so far.
    pub fn set_dnssec_ok(&mut self, dnssec_ok: DnssecOkQueries) {
        for apex in &mut self.zones {
            apex.dnssec_ok = dnssec_ok;
        }
    }

    /// Makes queries for one type of a name pass. Data of this type that was added before is
    /// removed. Data must not be added afterwards: it would be answered, with a TTL of 0.
    pub fn delegate_type(&mut self, name: Name, rtype: Rtype) {
        self.entries.entry(name).or_default().delegate_type(rtype);
    }

    /// Adds a name without data, unless it exists.
    pub fn add_name(&mut self, name: Name) {
        self.entries.entry(name).or_default();
    }

    /// Sets the computed names below a name, and adds the name if it doesn't exist.
    pub fn set_computed_names(&mut self, name: Name, computed_names: ComputedNames) {
        self.entries
            .entry(name)
            .or_default()
            .set_computed_names(computed_names);
    }

    /// Makes queries pass for types without data at `name`, and for names one label below it that
    /// are not added.
    pub fn delegate_remainder(&mut self, name: Name) {
        self.entries.entry(name).or_default().delegate_remainder();
    }

    /// Delegates a name and all names below it to CoreDNS. [`ModelBuilder::build`] drops zones and
    /// names at or below it.
    pub fn delegate(&mut self, name: Name) {
        self.delegated.push(name);
    }

    /// Removes zones and names at or below delegated names, puts the records of the other names
    /// into canonical order, and adds the missing names between a name and the highest apex above
    /// it, as empty non-terminals (RFC 8020) or with the data of computed names. They are added
    /// above delegated names too.
    pub fn build(mut self) -> Model {
        self.remove_delegated();
        sort_zones(&mut self.zones);
        self.sort_rrsets();
        let missing = self.missing_names();
        self.insert_missing(missing);
        Model {
            zones: self.zones,
            entries: (self.entries.into_iter())
                .map(|(name, entry)| (name, Arc::new(entry)))
                .collect(),
            delegated: self.delegated,
            passed: BTreeSet::new(),
        }
    }

    /// Removes zones and names at or below delegated names. Also removes delegations that are
    /// outside all zones or below another delegation.
    fn remove_delegated(&mut self) {
        let delegated = std::mem::take(&mut self.delegated);
        let stays = |name: &Name| {
            let mut delegated = delegated.iter();
            !delegated.any(|delegated| name.is_at_or_below(delegated))
        };
        self.zones.retain(|zone| stays(&zone.name));
        self.entries.retain(|name, _| stays(name));
        let (zones, all) = (&self.zones, &delegated);
        let below_a_zone = |name: &&Name| zones.iter().any(|zone| name.is_at_or_below(&zone.name));
        let below_another =
            |name: &Name| (all.iter()).any(|other| name != other && name.is_at_or_below(other));
        self.delegated = (all.iter().filter(below_a_zone))
            .filter(|name| !below_another(name))
            .cloned()
            .collect();
        self.delegated.sort_unstable();
        self.delegated.dedup();
    }

    /// Builds only the entries, and adds entries for all names from `root` down to these names. All
    /// names must be at or below `root`. Zones and delegations are ignored.
    pub fn build_below(mut self, root: &Name) -> HashMap<Name, Arc<NameEntry>> {
        self.sort_rrsets();
        let mut missing = HashSet::new();
        for name in self.entries.keys() {
            self.add_missing(name, root.wire().len(), &mut missing);
        }
        self.insert_missing(missing);
        let entries = self.entries.into_iter();
        entries
            .map(|(name, entry)| (name, Arc::new(entry)))
            .collect()
    }

    /// Puts the records of each RRset into canonical order, without duplicates.
    fn sort_rrsets(&mut self) {
        for entry in self.entries.values_mut() {
            entry.rrsets.shrink_to_fit();
            for set in &mut entry.rrsets {
                set.data.sort_unstable();
                set.data.dedup();
                set.data.shrink_to_fit();
            }
        }
    }

    /// Adds entries for `missing` names. Each gets the data of the computed name that it replaces,
    /// if there is one.
    fn insert_missing(&mut self, missing: HashSet<Name>) {
        let mut missing = Vec::from_iter(missing);
        // Parents come before children.
        missing.sort_by_key(|name| name.wire().len());
        for name in missing {
            let parent = name.parent().and_then(|parent| self.entries.get(&parent));
            let entry = match parent {
                Some(parent) => parent
                    .computed_names
                    .child_entry(&name, |other| self.entries.get(other).cloned()),
                None => NameEntry::default(),
            };
            self.entries.insert(name, entry);
        }
    }

    /// The names that need an entry because names below them exist or are delegated.
    fn missing_names(&self) -> HashSet<Name> {
        let mut missing: HashSet<Name> = HashSet::new();
        for name in self.entries.keys().chain(&self.delegated) {
            // The shortest apex: the names between the apexes of an inner and an outer zone belong
            // to the outer zone.
            let Some(apex) = self
                .zones
                .iter()
                .rfind(|zone| name.is_at_or_below(&zone.name))
            else {
                continue;
            };
            self.add_missing(name, apex.name.wire().len(), &mut missing);
        }
        missing
    }

    /// Adds to `missing` the names above this one that have no entry and whose wire form has at
    /// least `shortest` bytes.
    fn add_missing(&self, name: &Name, shortest: usize, missing: &mut HashSet<Name>) {
        for ancestor in name.suffixes().skip(1) {
            // The names above an existing or missing one are added for that name.
            if ancestor.len() < shortest
                || self.entries.contains_key(ancestor)
                || missing.contains(ancestor)
            {
                break;
            }
            missing.insert(Name::from_suffix(ancestor));
        }
    }
}

impl Extend<Record> for ModelBuilder {
    fn extend<T: IntoIterator<Item = Record>>(&mut self, records: T) {
        for record in records {
            self.add(record);
        }
    }
}
