//! Models on their way into the tables: what is written when, so that no reader is ever told a
//! false no.

use std::collections::BTreeSet;

use anyhow::Context as _;
use dns_common::{
    directory::WORDS,
    names::{HashKey, MAX_WORDS},
    records::{CHUNK, REACH},
};
use serde::Serialize;

use super::{
    Config,
    grace::Grace,
    object::{Object, Size},
    records,
    settings::{self, Fixed, Publisher},
    slots,
    table::{Fill, Put, Table},
};
use crate::zone::{Model, Name, Node};

/// Room for at least so many names.
const MIN_CAPACITY: usize = 16_384;
/// Directory words for each name: below this load hardly a name needs its second bucket.
const WORDS_FOR_EACH_NAME: f64 = 2.5;
/// Octets of records for each name that is yet to come.
const OCTETS_FOR_EACH_NAME: usize = 256;

/// The tables, filled from models.
pub struct Tables<G> {
    pub(super) table: Table<G>,
    pub(super) publisher: Publisher,
    fixed: Fixed,
    /// For each zone, whether the absence of a name means anything, as the settings in force say.
    owned: Vec<bool>,
    /// Names below which more exists than a flag of the parent could tell, as they say too.
    deep: BTreeSet<Name>,
    pub(super) published: Published,
}

/// What [`Tables::publish`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Names that were there already, with the same answers.
    pub unchanged: usize,
    /// Names whose answers changed.
    pub replaced: usize,
    /// New names.
    pub inserted: usize,
    /// Names that are gone.
    pub removed: usize,
    /// Names for which there was no room: their zones answer no NXDOMAIN from the kernel.
    pub left_out: usize,
}

/// A model on its way into the tables.
struct Round<'a> {
    model: &'a Model,
    /// Names below which absence means nothing, before this round or after it.
    deep: &'a BTreeSet<Name>,
    /// For each zone, whether all names have found room so far.
    complete: Vec<bool>,
    published: Published,
}

impl<G: Grace> Tables<G> {
    /// Empty tables in an object's maps.
    ///
    /// # Errors
    ///
    /// When the maps can't be mapped.
    pub fn new(object: &Object, size: Size, config: &Config, grace: G) -> anyhow::Result<Self> {
        let memories = object.memories(size)?;
        let hash_key = HashKey {
            words: rand::random::<[u64; MAX_WORDS]>(),
            finish: rand::random::<u64>() | 1,
        };
        let table = Table::new(memories.directory, memories.records, hash_key, grace);
        let fixed = Fixed {
            hash_key,
            directory_mask: table.directory_mask(),
            rotation_key: rand::random(),
            serve: config.serve.clone(),
            allow: config.allow.clone(),
        };
        Ok(Self {
            table,
            publisher: Publisher::new(memories.control, memories.settings),
            fixed,
            owned: Vec::new(),
            deep: BTreeSet::new(),
            published: Published::default(),
        })
    }

    /// How full they are.
    #[must_use]
    pub fn fill(&self) -> Fill {
        self.table.fill()
    }

    /// Brings the tables to a model, and calls `progress` now and then while it does.
    ///
    /// While names come and go, the absence of a name means no more than it did before: only the
    /// last settings of a round let it mean more.
    ///
    /// # Errors
    ///
    /// See [`Datapath::publish`].
    pub fn publish(
        &mut self,
        model: &Model,
        progress: &mut dyn FnMut(),
    ) -> anyhow::Result<Published> {
        let deep = settings::deep_names(model);
        let mut either = self.deep.clone();
        either.extend(deep.iter().cloned());
        self.owned.resize(model.zones().len(), false);
        self.settle(model, &either)?;

        let mut round = Round {
            model,
            deep: &either,
            complete: vec![true; model.zones().len()],
            published: Published::default(),
        };
        self.table.begin();
        let mut later = Vec::new();
        for (name, node) in model.nodes() {
            // Until every reader can find the names below it, its record goes on speaking for them.
            if !node.below_is_computed() && self.table.speaks_for_children(name.wire()) {
                later.push((name, node));
                continue;
            }
            self.put(&mut round, name, node)?;
            progress();
        }
        if !later.is_empty() {
            self.table.wait_for_readers();
        }
        for (name, node) in later {
            self.put(&mut round, name, node)?;
            progress();
        }
        let Round {
            complete,
            mut published,
            ..
        } = round;
        published.removed = self.table.sweep();
        // Words are visible to every reader now, and so their absence means something.
        self.table.wait_for_readers();
        self.owned = complete;
        self.settle(model, &deep)?;
        self.deep = deep;
        self.published = published;
        Ok(published)
    }

    /// Writes one name's record. Without room for it, the absence of names means nothing in its zone
    /// any more.
    fn put(&mut self, round: &mut Round<'_>, name: &Name, node: &Node) -> anyhow::Result<()> {
        let Some(mut record) = records::build(round.model, name, node) else {
            return Ok(());
        };
        match self.table.put(&mut record) {
            Ok(Put::Unchanged) => round.published.unchanged += 1,
            Ok(Put::Replaced) => round.published.replaced += 1,
            Ok(Put::Inserted) => round.published.inserted += 1,
            Err(_) => {
                round.published.left_out += 1;
                // Absence must mean nothing before the name is left out. An old record of the
                // name goes in the sweep.
                if let Some(zone) = round.model.zone_of(name) {
                    round.complete[zone] = false;
                    if std::mem::replace(&mut self.owned[zone], false) {
                        self.settle(round.model, round.deep)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Publishes the settings and waits until every reader has them.
    fn settle(&mut self, model: &Model, deep: &BTreeSet<Name>) -> anyhow::Result<()> {
        let settings = settings::build(&self.fixed, model, &self.owned, deep)
            .context("building the settings")?;
        if self.publisher.publish(&settings) {
            self.table.wait_for_readers();
        }
        Ok(())
    }
}

/// Tables with room for a model and for as much again, or for `capacity` names.
#[must_use]
pub fn size(model: &Model, capacity: Option<usize>) -> Size {
    let (mut names, mut octets) = (0, 0);
    for (name, node) in model.nodes() {
        if let Some(record) = records::build(model, name, node) {
            names += 1;
            octets += slots::slot_octets(record.len());
        }
    }
    let capacity = capacity.unwrap_or(2 * names).max(names).max(MIN_CAPACITY);
    let words = (capacity as f64 * WORDS_FOR_EACH_NAME) as usize;
    let octets = octets + (capacity - names) * OCTETS_FOR_EACH_NAME;
    Size {
        buckets: words.div_ceil(WORDS).next_power_of_two() as u32,
        chunks: octets.div_ceil(CHUNK - REACH) as u32 + 1,
    }
}
