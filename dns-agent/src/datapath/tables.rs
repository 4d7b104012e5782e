//! Zone data on its way into the tables: what is written when, so that no reader is ever told a
//! false no.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use dns_common::{
    Settings,
    directory::WORDS,
    names::{HashKey, MAX_WORDS},
    records::{CHUNK, REACH},
    settings::SLOTS,
};
use serde::Serialize;

use super::{
    Clients, Config,
    clients::ClientTable,
    grace::Grace,
    interfaces::HardwareAddress,
    limits,
    object::{Object, Size},
    records,
    settings::{self, Fixed, Limit, Publisher},
    slots,
    table::{Fill, Put, Table},
};
use crate::zone::{Name, Node, ZoneData};

/// Room for at least so many names.
const MIN_CAPACITY: usize = 16_384;
/// Tables have room for one more name for so many that there are.
const HEADROOM: usize = 8;
/// Directory words for each name: below this load hardly a name needs its second bucket.
const WORDS_FOR_EACH_NAME: f64 = 2.5;
/// Octets of records for each name that is yet to come.
const OCTETS_FOR_EACH_NAME: usize = 256;

/// The tables, filled from zone data.
pub struct Tables<G> {
    pub(super) table: Table<G>,
    pub(super) publisher: Publisher,
    pub(super) fixed: Fixed,
    clients: Clients,
    client_table: ClientTable,
    /// The zones as they stand in the settings in force.
    zones: Vec<Name>,
    /// For each of them, whether the absence of a name means anything.
    owned: Vec<bool>,
    /// Names below which more exists than a flag of the parent could tell, as they say too.
    deep: BTreeSet<Name>,
    /// Names for which there was no room.
    left_out: BTreeSet<Name>,
    /// How often the settings were replaced since readers were waited for: they may still look at so
    /// many older ones.
    unsettled: u32,
    pub(super) published: Published,
    /// What of the zones the settings can't hold.
    zone_limits: Vec<String>,
}

/// What [`Tables::publish`] or [`Tables::update`] did.
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
    /// Names for which there is no room: their zones answer no NXDOMAIN from the kernel.
    pub left_out: usize,
}

/// Names on their way into the tables.
struct Round<'a> {
    data: &'a dyn ZoneData,
    /// Names below which absence means nothing, before this round or after it.
    deep: &'a BTreeSet<Name>,
    published: Published,
    /// Names that were there with another answer, or not at all, and that must wait: until every
    /// reader can find the names below, their records go on speaking for them.
    later: Vec<(Name, Arc<Node>)>,
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
            secret: rand::random(),
            serve: config.serve.clone(),
            allow: config.allow.clone(),
            hardware: Vec::new(),
            limit: None,
        };
        let mut client_table = ClientTable::new(object.clients()?);
        if let Clients::Known(addresses) = &config.clients {
            client_table.set(addresses)?;
        }
        Ok(Self {
            table,
            publisher: Publisher::new(memories.control, memories.settings),
            fixed,
            clients: config.clients.clone(),
            client_table,
            zones: Vec::new(),
            owned: Vec::new(),
            deep: BTreeSet::new(),
            left_out: BTreeSet::new(),
            unsettled: 0,
            published: Published::default(),
            zone_limits: Vec::new(),
        })
    }

    /// What passes because there is no room for it, each with its bound.
    pub(super) fn limits(&self) -> Vec<String> {
        let others = [
            limits::of_answers(self.fill().names_too_large),
            limits::of_clients(self.client_table.left_out()),
            limits::of_cards(self.fixed.hardware.len()),
        ];
        let zones = self.zone_limits.iter().cloned();
        zones.chain(others.into_iter().flatten()).collect()
    }

    /// Who is answered on pods' veths.
    pub(super) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// How full they are.
    #[must_use]
    pub fn fill(&self) -> Fill {
        self.table.fill()
    }

    /// Whether names found no room.
    pub(super) fn are_full(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// Whether names found no room, or soon won't: then larger ones are made before any has to be left out.
    pub(super) fn need_room(&self) -> bool {
        let fill = self.fill();
        self.are_full() || fill.record_octets > fill.record_octets_capacity / 32 * 31
    }

    /// Brings the tables to all of `data`, and calls `progress` now and then while it does.
    ///
    /// While names come and go, the absence of a name means no more than it did before: only the
    /// last settings of a round let it mean more.
    ///
    /// # Errors
    ///
    /// See [`Datapath::publish`].
    pub fn publish(
        &mut self,
        data: &dyn ZoneData,
        progress: &mut dyn FnMut(),
    ) -> anyhow::Result<Published> {
        let deep = data.deep_names();
        let mut either = self.deep.clone();
        either.extend(deep.iter().cloned());
        let zones: Vec<Name> = data.zones().iter().map(|zone| zone.name.clone()).collect();
        if self.zones != zones {
            self.owned = vec![false; zones.len()];
            self.zones = zones;
        }
        self.zone_limits = limits::of_zones(data);
        self.settle(data, &either)?;

        let mut round = Round::new(data, &either);
        self.table.begin();
        self.left_out.clear();
        let mut done = Ok(());
        data.visit(&mut |name, node| {
            if done.is_ok() {
                done = self.put(&mut round, name, node);
                progress();
            }
        });
        done?;
        self.put_later(&mut round)?;
        round.published.removed = self.table.sweep();
        // Words are visible to every reader now, and so their absence means something.
        self.wait_for_readers();
        self.owned = self.complete_zones(data);
        self.deep = deep.clone();
        self.settle(data, &deep)?;
        Ok(self.finish(&round))
    }

    /// Brings the tables to `data` where only these names may have changed since the last round. The
    /// zones are the same, but for their serials.
    ///
    /// # Errors
    ///
    /// See [`Datapath::publish`].
    pub fn update(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
    ) -> anyhow::Result<Published> {
        let deep = self.deep.clone();
        let mut round = Round::new(data, &deep);
        self.table.begin_update();
        let was_full = !self.left_out.is_empty();
        let retried = std::mem::take(&mut self.left_out);
        let mut names: Vec<&Name> = names.union(&retried).collect();
        // Who asks for a parent is told of it before its children are there, and after.
        names.sort_by_key(|name| name.wire().len());
        let mut gone = Vec::new();
        for name in names {
            match data.node(name) {
                Some(node) => self.put(&mut round, name, &node)?,
                None => gone.push(name),
            }
        }
        self.put_later(&mut round)?;
        for name in gone.into_iter().rev() {
            round.published.removed += usize::from(self.table.remove(name.wire()));
        }
        if was_full && self.left_out.is_empty() {
            self.wait_for_readers();
            self.owned = self.complete_zones(data);
        }
        self.replace_settings(data, &deep)?;
        Ok(self.finish(&round))
    }

    /// Answers for other addresses from now on.
    ///
    /// # Errors
    ///
    /// When there are more than the kernel program looks through.
    pub(super) fn serve(
        &mut self,
        data: &dyn ZoneData,
        addresses: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.fixed.serve, addresses.to_vec());
        let deep = self.deep.clone();
        let done = self.replace_settings(data, &deep);
        if done.is_err() {
            self.fixed.serve = before;
        }
        done
    }

    /// Answers on network cards with these hardware addresses from now on, and on no others.
    pub fn receive(&mut self, hardware: Vec<HardwareAddress>) {
        if self.fixed.hardware == hardware {
            return;
        }
        self.fixed.hardware = hardware;
        self.guard();
    }

    /// Answers one client on network cards only so often.
    pub fn limit(&mut self, limit: Option<Limit>) {
        self.fixed.limit = limit;
        self.guard();
    }

    fn guard(&mut self) {
        if let Some(mut settings) = self.publisher.current().copied() {
            settings::guard(&mut settings, &self.fixed);
            self.replace(&settings);
        }
    }

    /// Answers only these clients on pods' veths from now on.
    ///
    /// The table of clients is right before the settings say that it counts, and nobody is added to it
    /// before those that must not be answered any more are out.
    ///
    /// # Errors
    ///
    /// See [`Datapath::admit`].
    pub fn admit(&mut self, data: &dyn ZoneData, clients: Clients) -> anyhow::Result<()> {
        if let Clients::Known(addresses) = &clients {
            self.client_table.set(addresses)?;
        }
        self.clients = clients;
        let deep = self.deep.clone();
        self.replace_settings(data, &deep)
    }

    /// Writes one name's record, now or later. Without room for it, the absence of names means
    /// nothing in its zone any more.
    fn put(&mut self, round: &mut Round<'_>, name: &Name, node: &Node) -> anyhow::Result<()> {
        if !node.below_is_computed() && self.table.speaks_for_children(name.wire()) {
            round.later.push((name.clone(), Arc::new(node.clone())));
            return Ok(());
        }
        self.write(round, name, node)
    }

    fn put_later(&mut self, round: &mut Round<'_>) -> anyhow::Result<()> {
        let later = std::mem::take(&mut round.later);
        if !later.is_empty() {
            self.wait_for_readers();
        }
        for (name, node) in later {
            self.write(round, &name, &node)?;
        }
        Ok(())
    }

    fn write(&mut self, round: &mut Round<'_>, name: &Name, node: &Node) -> anyhow::Result<()> {
        let Some(mut record) = records::build(round.data, name, node) else {
            return Ok(());
        };
        match self.table.put(&mut record) {
            Ok(Put::Unchanged) => round.published.unchanged += 1,
            Ok(Put::Replaced) => round.published.replaced += 1,
            Ok(Put::Inserted) => round.published.inserted += 1,
            Err(_) => {
                self.left_out.insert(name.clone());
                // Absence must mean nothing before the name is left out.
                if let Some(zone) = round.data.zone_of(name)
                    && std::mem::replace(&mut self.owned[zone], false)
                {
                    self.settle(round.data, round.deep)?;
                }
                // What the name had before is wrong now.
                self.table.remove(name.wire());
            }
        }
        Ok(())
    }

    /// For each zone, whether all its names have found room.
    fn complete_zones(&self, data: &dyn ZoneData) -> Vec<bool> {
        let mut complete = vec![true; data.zones().len()];
        for zone in self.left_out.iter().filter_map(|name| data.zone_of(name)) {
            complete[zone] = false;
        }
        complete
    }

    fn finish(&mut self, round: &Round<'_>) -> Published {
        self.published = Published {
            left_out: self.left_out.len(),
            ..round.published
        };
        self.published
    }

    fn wait_for_readers(&mut self) {
        self.table.wait_for_readers();
        self.unsettled = 0;
    }

    /// Publishes the settings and waits until every reader has them.
    fn settle(&mut self, data: &dyn ZoneData, deep: &BTreeSet<Name>) -> anyhow::Result<()> {
        self.replace_settings(data, deep)?;
        if self.unsettled > 0 {
            self.wait_for_readers();
        }
        Ok(())
    }

    /// Publishes the settings. A copy that a reader may still look at is not written to: while there
    /// are others nobody has to wait.
    fn replace_settings(
        &mut self,
        data: &dyn ZoneData,
        deep: &BTreeSet<Name>,
    ) -> anyhow::Result<()> {
        let mut settings = settings::build(&self.fixed, data, &self.owned, deep)
            .context("building the settings")?;
        settings.clients = self.clients.setting();
        self.replace(&settings);
        Ok(())
    }

    fn replace(&mut self, settings: &Settings) {
        if self.publisher.is_current(settings) {
            return;
        }
        // One copy is current; the one written next must not be one that is still looked at.
        if self.unsettled + 1 >= SLOTS {
            self.wait_for_readers();
        }
        self.unsettled += u32::from(self.publisher.publish(settings));
    }
}

impl<'a> Round<'a> {
    fn new(data: &'a dyn ZoneData, deep: &'a BTreeSet<Name>) -> Round<'a> {
        Round {
            data,
            deep,
            published: Published::default(),
            later: Vec::new(),
        }
    }
}

/// Tables with room for all of `data` and an eighth more, or for `capacity` names.
#[must_use]
pub fn size(data: &dyn ZoneData, capacity: Option<usize>) -> Size {
    let (mut names, mut octets) = (0, 0);
    data.visit(&mut |name, node| {
        if let Some(record) = records::build(data, name, node) {
            names += 1;
            octets += slots::slot_octets(record.len());
        }
    });
    let room = capacity
        .unwrap_or(names + names / HEADROOM)
        .max(names)
        .max(MIN_CAPACITY);
    let words = (room as f64 * WORDS_FOR_EACH_NAME) as usize;
    // Names that come may be like those that are there.
    let like_these = match capacity {
        Some(_) => 0,
        None => octets / HEADROOM,
    };
    let octets = octets + like_these.max((room - names) * OCTETS_FOR_EACH_NAME);
    Size {
        buckets: words.div_ceil(WORDS).next_power_of_two() as u32,
        chunks: octets.div_ceil(CHUNK - REACH) as u32 + 1,
    }
}
