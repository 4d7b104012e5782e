//! Records in, a [`Model`] out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::node::RecordSet;
use super::{Absent, Apex, Below, Model, Name, NameError, Node, Rdata, Record, Rest, Rtype};

/// Collects names and records, in any order, until [`ModelBuilder::build`].
#[derive(Debug)]
pub struct ModelBuilder {
    zones: Vec<Apex>,
    nodes: HashMap<Name, Node>,
    passed: Vec<Name>,
    serial: u32,
}

impl ModelBuilder {
    /// A model of nothing yet. `serial` is the one of all its zones.
    pub fn new(serial: u32) -> ModelBuilder {
        ModelBuilder {
            zones: Vec::new(),
            nodes: HashMap::new(),
            passed: Vec::new(),
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
            None => sets.push(RecordSet::of(ttl, data)),
        }
    }

    /// Says for each zone that was added what is said of names that are not there.
    pub fn set_absent(&mut self, of: impl Fn(&Name) -> Absent) {
        for apex in &mut self.zones {
            apex.absent = of(&apex.name);
        }
    }

    /// Leaves one type of a name to somebody else.
    pub fn pass_type(&mut self, name: Name, rtype: Rtype) {
        let sets = &mut self.nodes.entry(name).or_default().sets;
        sets.retain(|set| set.rtype != rtype);
        sets.push(RecordSet {
            rtype,
            ttl: 0,
            data: Vec::new(),
        });
    }

    /// Makes a name exist, with or without data.
    pub fn exists(&mut self, name: Name) {
        self.nodes.entry(name).or_default();
    }

    /// Makes a name exist, and below it what is not stored.
    pub fn compute_below(&mut self, name: Name, below: Below) {
        self.nodes.entry(name).or_default().below = below;
    }

    /// Leaves to somebody else what a name has no data of, and every name one label below that is
    /// not added.
    pub fn leave(&mut self, name: Name) {
        let node = self.nodes.entry(name).or_default();
        node.below = Below::Unknown;
        node.rest = Rest::Passed;
    }

    /// Leaves a name and everything below it to somebody else, whatever is added
    /// there: zones and records alike.
    pub fn pass(&mut self, name: Name) {
        self.passed.push(name);
    }

    /// Puts the records into canonical order, and makes every name between a
    /// name and the apex of its zone exist too (RFC 8020), whether it is ours or
    /// somebody else's.
    pub fn build(mut self) -> Model {
        self.drop_passed();
        self.zones.sort_by(|a, b| {
            let length = |zone: &Apex| zone.name.wire().len();
            (length(b).cmp(&length(a))).then_with(|| a.name.cmp(&b.name))
        });
        self.zones.dedup_by(|a, b| a.name == b.name);
        self.sort();
        let missing = self.empty_non_terminals();
        self.insert_missing(missing);
        Model {
            zones: self.zones,
            nodes: (self.nodes.into_iter())
                .map(|(name, node)| (name, Arc::new(node)))
                .collect(),
            passed: self.passed,
        }
    }

    /// Drops what is somebody else's, and of the names that say so those that no
    /// zone is above: nobody would take such a name for ours.
    fn drop_passed(&mut self) {
        let passed = std::mem::take(&mut self.passed);
        let is_ours = |name: &Name| !passed.iter().any(|passed| name.is_at_or_below(passed));
        self.zones.retain(|zone| is_ours(&zone.name));
        self.nodes.retain(|name, _| is_ours(name));
        let (zones, all) = (&self.zones, &passed);
        let below_a_zone = |name: &&Name| zones.iter().any(|zone| name.is_at_or_below(&zone.name));
        let below_another =
            |name: &Name| (all.iter()).any(|other| name != other && name.is_at_or_below(other));
        self.passed = (all.iter().filter(below_a_zone))
            .filter(|name| !below_another(name))
            .cloned()
            .collect();
        self.passed.sort_unstable();
        self.passed.dedup();
    }

    /// Only the nodes, and every name between them and `root`, which is above all of them.
    pub(crate) fn build_below(mut self, root: &Name) -> HashMap<Name, Arc<Node>> {
        self.sort();
        let mut missing = HashSet::new();
        for name in self.nodes.keys() {
            self.add_missing(name, root.wire().len(), &mut missing);
        }
        self.insert_missing(missing);
        let nodes = self.nodes.into_iter();
        nodes.map(|(name, node)| (name, Arc::new(node))).collect()
    }

    /// Puts the records of each name into canonical order.
    fn sort(&mut self) {
        for node in self.nodes.values_mut() {
            node.sets.shrink_to_fit();
            for set in &mut node.sets {
                set.data.sort_unstable();
                set.data.dedup();
                set.data.shrink_to_fit();
            }
        }
    }

    /// Adds names that no record made. What their parent says of them they would hide
    /// otherwise.
    fn insert_missing(&mut self, missing: HashSet<Name>) {
        let mut missing = Vec::from_iter(missing);
        // A name's parent comes before it.
        missing.sort_by_key(|name| name.wire().len());
        for name in missing {
            let parent = name.parent().and_then(|parent| self.nodes.get(&parent));
            let node = match parent {
                Some(parent) => parent
                    .below
                    .child(&name, |other| self.nodes.get(other).cloned()),
                None => Node::default(),
            };
            self.nodes.insert(name, node);
        }
    }

    fn empty_non_terminals(&self) -> HashSet<Name> {
        let mut missing: HashSet<Name> = HashSet::new();
        for name in self.nodes.keys().chain(&self.passed) {
            // The shortest, not the nearest: between a zone and a zone inside it
            // lie names of the outer one.
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

    /// Adds the names above this one that are not nodes, down to a wire form of this length.
    fn add_missing(&self, name: &Name, shortest: usize, missing: &mut HashSet<Name>) {
        for ancestor in name.suffixes().skip(1) {
            // Whoever is there already sees to its own ancestors.
            if ancestor.len() < shortest
                || self.nodes.contains_key(ancestor)
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
