//! Records in, a [`Model`] out.

use std::collections::{HashMap, HashSet};

use super::model::RecordSet;
use super::{Apex, Below, Model, Name, NameError, Node, Rdata, Record};

/// Collects names and records, in any order, until [`ModelBuilder::build`].
#[derive(Debug)]
pub struct ModelBuilder {
    zones: Vec<Apex>,
    nodes: HashMap<Name, Node>,
    serial: u32,
}

impl ModelBuilder {
    /// A model of nothing yet. `serial` is the one of all its zones.
    pub fn new(serial: u32) -> ModelBuilder {
        ModelBuilder {
            zones: Vec::new(),
            nodes: HashMap::new(),
            serial,
        }
    }

    /// Adds a zone whose records have a TTL of `ttl` seconds, with its SOA record.
    /// Fails when the names in it become too long.
    pub fn add_zone(&mut self, name: Name, ttl: u32) -> Result<Apex, NameError> {
        let apex = Apex::new(name, self.serial, ttl)?;
        self.add(Record {
            owner: apex.name.clone(),
            ttl: apex.ttl,
            data: Rdata::Soa(apex.soa.clone()),
        });
        self.zones.push(apex.clone());
        Ok(apex)
    }

    /// Adds a record. Said twice it is there once; the first of a set decides
    /// the TTL of all (RFC 2181 §5.2).
    pub fn add(&mut self, record: Record) {
        let Record { owner, ttl, data } = record;
        let rtype = data.rtype();
        let sets = &mut self.nodes.entry(owner).or_default().sets;
        match sets.iter_mut().find(|set| set.rtype == rtype) {
            Some(set) => set.data.push(data),
            None => sets.push(RecordSet {
                rtype,
                ttl,
                data: vec![data],
            }),
        }
    }

    /// Makes a name exist, with or without data.
    pub fn exists(&mut self, name: Name) {
        self.nodes.entry(name).or_default();
    }

    /// Makes a name exist, and below it what is not stored.
    pub fn compute_below(&mut self, name: Name, below: Below) {
        self.nodes.entry(name).or_default().below = below;
    }

    /// Puts the records into canonical order, and makes every name between a
    /// name and the apex of its zone exist too (RFC 8020).
    pub fn build(mut self) -> Model {
        self.zones.sort_by(|a, b| {
            let length = |zone: &Apex| zone.name.wire().len();
            (length(b).cmp(&length(a))).then_with(|| a.name.cmp(&b.name))
        });
        self.zones.dedup_by(|a, b| a.name == b.name);
        for node in self.nodes.values_mut() {
            node.sets.shrink_to_fit();
            for set in &mut node.sets {
                set.data.sort_unstable();
                set.data.dedup();
                set.data.shrink_to_fit();
            }
        }
        for name in self.empty_non_terminals() {
            self.exists(name);
        }
        Model {
            zones: self.zones,
            nodes: self.nodes,
            serial: self.serial,
        }
    }

    fn empty_non_terminals(&self) -> HashSet<Name> {
        let mut missing: HashSet<Name> = HashSet::new();
        for name in self.nodes.keys() {
            // The shortest, not the nearest: between a zone and a zone inside it
            // lie names of the outer one.
            let Some(apex) = self
                .zones
                .iter()
                .rfind(|zone| name.is_at_or_below(&zone.name))
            else {
                continue;
            };
            for ancestor in name.suffixes().skip(1) {
                // Whoever is there already sees to its own ancestors.
                if ancestor.len() < apex.name.wire().len()
                    || self.nodes.contains_key(ancestor)
                    || missing.contains(ancestor)
                {
                    break;
                }
                missing.insert(Name::from_suffix(ancestor));
            }
        }
        missing
    }
}

impl Extend<Record> for ModelBuilder {
    fn extend<T: IntoIterator<Item = Record>>(&mut self, records: T) {
        for record in records {
            self.add(record);
        }
    }
}
