//! Publishes zone data into the kernel's tables. The order of the writes ensures that the kernel
//! never gives a wrong negative answer.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use dns_common::{
    Settings,
    directory::WORDS,
    names::{HashKey, MAX_WORDS},
    records::{CHUNK, REACH},
    settings::SETTINGS_COPIES,
};
use serde::Serialize;
use zerohop_zone::{AbsentNames, Apex, Name, NameEntry, Window, ZoneData};

use super::{
    DatapathConfig, PermittedClients,
    grace::Grace,
    hash_table::{HashTable, PutOutcome, TableUsage},
    interfaces::HardwareAddress,
    limits,
    permitted_clients::ClientTable,
    program::{EbpfObject, TableSize},
    records,
    settings::{self, NodeSettings, RateLimit, SettingsPublisher},
    slots,
};

/// The least number of names that tables have room for, so that a small cluster can grow without
/// larger tables.
const MIN_CAPACITY: usize = 16_384;
/// One spare name per this many names: 12.5 % headroom.
const NAMES_PER_SPARE: usize = 8;
/// The least number of directory words per name. The number of buckets is rounded up to a power of
/// two. At this load few names need their second bucket.
const WORDS_PER_NAME: f64 = 2.5;
/// The least number of bytes of record space for each spare name.
const BYTES_PER_NEW_NAME: usize = 256;

/// The kernel's tables, settings and map of clients, with their single writer.
pub struct KernelTables<G> {
    pub(super) table: HashTable<G>,
    pub(super) settings: SettingsPublisher,
    pub(super) node_settings: NodeSettings,
    /// The clients that the settings permit.
    clients: PermittedClients,
    client_table: ClientTable,
    /// The zones in the last call of [`KernelTables::publish_all`].
    zones: Vec<Name>,
    /// For each of `zones`, whether absent names may be denied, because the tables have all its
    /// names. It may stay `false` while names of another zone are left out.
    /// [`settings::build_settings`] has more conditions.
    authoritative: Vec<bool>,
    /// For each zone, whether its absent names may be denied if it is authoritative and the data
    /// denies them. It becomes true only when all names are published.
    may_deny: Vec<bool>,
    /// The [`ZoneData::pass_suffixes`] in the last call of [`KernelTables::publish_all`] that wrote
    /// all names.
    pass_suffixes: BTreeSet<Name>,
    /// Names for which the last publication had no room.
    left_out: BTreeSet<Name>,
    /// Whether publications try these names again.
    retry: Retry,
    /// The number of publications of settings since [`KernelTables::wait_for_readers`]. Readers may
    /// still use up to this many older copies.
    unsettled_copies: u32,
    /// The counts of the last publication.
    pub(super) published: PublicationCounts,
    /// Descriptions of the limits that the zones and pass suffixes exceed.
    zone_limits: Vec<String>,
}

/// Whether a publication tries names again that were left out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    EachTime,
    /// Only if they have changed, because larger tables will have room for them.
    Never,
}

/// Counts of what [`KernelTables::publish_all`] or [`KernelTables::publish_names`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublicationCounts {
    /// Published names whose records are unchanged.
    pub unchanged: usize,
    /// Published names whose records changed.
    pub replaced: usize,
    /// Published names that are new.
    pub inserted: usize,
    /// Names that were removed because they no longer exist.
    pub removed: usize,
    /// Names for which the tables have no room. The kernel answers no NXDOMAIN in their zones.
    pub left_out: usize,
}

/// The result of [`KernelTables::publish_names`].
#[derive(Debug)]
pub struct PartialPublication {
    /// The counts of the names that were published.
    pub published: PublicationCounts,
    /// The names that were not published before the limit was reached.
    pub left: BTreeSet<Name>,
}

/// The state of one publication.
struct PublicationRound<'a> {
    data: &'a dyn ZoneData,
    /// The suffixes below which absent names pass during the round.
    pass_suffixes: &'a BTreeSet<Name>,
    published: PublicationCounts,
    /// Entries without computed names that replace a record with computed names. The old record
    /// must stay until every reader can find the records of the names below it.
    postponed: Vec<(Name, Arc<NameEntry>)>,
}

impl<G: Grace> KernelTables<G> {
    /// Tables without names over the maps of `object`. The map of clients is filled, and no
    /// settings are published yet.
    ///
    /// # Errors
    ///
    /// When a map can't be opened or mapped.
    pub fn new(
        object: &EbpfObject,
        size: TableSize,
        config: &DatapathConfig,
        grace: G,
    ) -> anyhow::Result<Self> {
        let memories = object.map_tables(size)?;
        let hash_key = HashKey {
            words: rand::random::<[u64; MAX_WORDS]>(),
            finish: rand::random::<u64>() | 1,
        };
        let table = HashTable::new(memories.directory, memories.records, hash_key, grace);
        let node_settings = NodeSettings {
            hash_key,
            directory_mask: table.directory_mask(),
            secret: rand::random(),
            served_addresses: config.served_addresses.clone(),
            allow: config.allow.clone(),
            card_addresses: Vec::new(),
            rate_limit: None,
        };
        let mut client_table = ClientTable::new(object.client_map()?);
        if let PermittedClients::Only(addresses) = &config.clients {
            client_table.replace_addresses(addresses)?;
        }
        Ok(Self {
            table,
            settings: SettingsPublisher::new(memories.control, memories.settings),
            node_settings,
            clients: config.clients.clone(),
            client_table,
            zones: Vec::new(),
            authoritative: Vec::new(),
            may_deny: Vec::new(),
            pass_suffixes: BTreeSet::new(),
            left_out: BTreeSet::new(),
            retry: Retry::EachTime,
            unsettled_copies: 0,
            published: PublicationCounts::default(),
            zone_limits: Vec::new(),
        })
    }

    /// Descriptions of the exceeded size limits, except for names that full tables have no room
    /// for.
    pub(super) fn limits(&self) -> Vec<String> {
        let other_limits = [
            limits::answer_limit(self.usage().names_too_large),
            limits::client_limit(self.client_table.left_out()),
            limits::card_limit(self.node_settings.card_addresses.len()),
        ];
        let zones = self.zone_limits.iter().cloned();
        zones.chain(other_limits.into_iter().flatten()).collect()
    }

    /// The permitted clients.
    pub(super) fn clients(&self) -> &PermittedClients {
        &self.clients
    }

    /// The usage of directory and records.
    #[must_use]
    pub fn usage(&self) -> TableUsage {
        self.table.usage()
    }

    /// Sets whether publications try names again that were left out.
    pub(super) fn set_retry(&mut self, retry: Retry) {
        self.retry = retry;
    }

    /// Whether names were left out because there is no room.
    pub(super) fn are_full(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// Whether names were left out, or more than 31/32 of the record space is in use. The agent
    /// then creates larger tables, if possible before names are left out. The record space usually
    /// fills up before the directory. Less than 1/32 of it is unusable: the ends of chunks, where
    /// no record may start ([`REACH`]).
    pub(super) fn are_nearly_full(&self) -> bool {
        let usage = self.usage();
        self.are_full() || usage.record_bytes > usage.record_bytes_capacity / 32 * 31
    }

    /// Publishes all names of `data`, and removes all other names. Calls `progress` after each name
    /// of `data`.
    ///
    /// During the round, absent names pass below the pass suffixes of both the old and the new
    /// data. Only the settings published at the end of the round can deny more names, but types
    /// that no longer pass are denied from the beginning, like the others.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_all`](super::Datapath::publish_all).
    pub fn publish_all(
        &mut self,
        data: &dyn ZoneData,
        progress: &mut dyn FnMut(),
    ) -> anyhow::Result<PublicationCounts> {
        let pass_suffixes = data.pass_suffixes();
        let mut old_and_new = self.pass_suffixes.clone();
        old_and_new.extend(pass_suffixes.iter().cloned());
        let zones: Vec<Name> = data.zones().iter().map(|zone| zone.name.clone()).collect();
        if self.zones != zones {
            self.authoritative = vec![false; zones.len()];
            self.may_deny = vec![false; zones.len()];
            self.zones = zones;
        }
        self.zone_limits = limits::zone_limits(data);
        self.publish_settings_and_wait(data, &old_and_new)?;

        let mut round = PublicationRound::new(data, &old_and_new);
        self.table.begin_full_round();
        self.left_out.clear();
        let mut result = Ok(());
        data.visit(records::WINDOW, &mut |name, entry| {
            if result.is_ok() {
                result = self.put_or_postpone(&mut round, name, entry);
                progress();
            }
        });
        result?;
        self.put_postponed(&mut round)?;
        round.published.removed = self.table.sweep();
        // After a grace period every reader sees all words, so absent names may be denied.
        self.wait_for_readers();
        self.authoritative = self.complete_zones(data);
        self.may_deny = denied_zones(data);
        self.pass_suffixes = pass_suffixes.clone();
        self.publish_settings_and_wait(data, &pass_suffixes)?;
        Ok(self.finish_round(&round))
    }

    /// Prepares empty tables for [`KernelTables::publish_names`] of all names of `data`. Until
    /// [`KernelTables::finish_filling`], no absent name is denied.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_all`](super::Datapath::publish_all).
    pub(super) fn begin_filling(&mut self, data: &dyn ZoneData) -> anyhow::Result<()> {
        self.zones = data.zones().iter().map(|zone| zone.name.clone()).collect();
        self.authoritative = vec![false; self.zones.len()];
        self.may_deny = vec![false; self.zones.len()];
        self.zone_limits = limits::zone_limits(data);
        self.pass_suffixes = data.pass_suffixes();
        let pass_suffixes = self.pass_suffixes.clone();
        self.publish_zone_settings(data, &pass_suffixes)
    }

    /// Lets the kernel deny absent names, because all names of `data` are published.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_all`](super::Datapath::publish_all).
    pub(super) fn finish_filling(&mut self, data: &dyn ZoneData) -> anyhow::Result<()> {
        self.wait_for_readers();
        self.authoritative = self.complete_zones(data);
        self.may_deny = denied_zones(data);
        let pass_suffixes = self.pass_suffixes.clone();
        self.publish_settings_and_wait(data, &pass_suffixes)
    }

    /// Publishes `names` from `data` for at most `limit`, and removes those that `data` lacks. At
    /// least one name is published. Unchanged records are not written. Names that were left out
    /// before are tried again, except during a growth. All other names, the pass suffixes, and the
    /// zones must be the same as in the last publication. Of a zone, the serial and the answers for
    /// absent names may differ, but no more names are denied before
    /// [`KernelTables::finish_publication`].
    ///
    /// The names that are left keep their old records. A caller that publishes them later gets the
    /// same tables as without a limit.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_names`](super::Datapath::publish_names).
    pub fn publish_names(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
        limit: Duration,
    ) -> anyhow::Result<PartialPublication> {
        let pass_suffixes = self.pass_suffixes.clone();
        let mut round = PublicationRound::new(data, &pass_suffixes);
        self.table.begin_partial_round();
        let was_full = !self.left_out.is_empty();
        let retried = match self.retry {
            Retry::EachTime => std::mem::take(&mut self.left_out),
            Retry::Never => self.left_out.intersection(names).cloned().collect(),
        };
        self.left_out.retain(|name| !retried.contains(name));
        // Parents before children: a reader that finds a child also finds its parents. The names
        // that were left out come last, because the tables may still have no room for them.
        let mut queue: Vec<&Name> = names.iter().collect();
        queue.sort_by_key(|name| name.wire().len());
        let mut others: Vec<&Name> = retried.difference(names).collect();
        others.sort_by_key(|name| name.wire().len());
        queue.append(&mut others);
        let mut queue = queue.into_iter();
        let mut gone = Vec::new();
        let deadline = Instant::now() + limit;
        for name in queue.by_ref() {
            let postponed = round.postponed.len();
            match data.entry_within(name, records::WINDOW) {
                Some(entry) => self.put_or_postpone(&mut round, name, &entry)?,
                None => gone.push(name),
            }
            // A postponed name is not published.
            let is_published = round.postponed.len() == postponed;
            if is_published && Instant::now() >= deadline {
                break;
            }
        }
        let mut left = BTreeSet::new();
        for name in queue {
            if retried.contains(name) {
                self.left_out.insert(name.clone());
            }
            if names.contains(name) {
                left.insert(name.clone());
            }
        }
        if left.is_empty() {
            self.put_postponed(&mut round)?;
        } else {
            let postponed = round.postponed.drain(..).map(|(name, _)| name);
            left.extend(postponed);
        }
        // Children before parents.
        for name in gone.into_iter().rev() {
            round.published.removed += usize::from(self.table.remove(name.wire()));
        }
        if was_full && self.left_out.is_empty() {
            self.wait_for_readers();
            self.authoritative = self.complete_zones(data);
        }
        self.publish_zone_settings(data, &pass_suffixes)?;
        let published = self.finish_round(&round);
        Ok(PartialPublication { published, left })
    }

    /// Lets the kernel deny absent names where `data` denies them now. All names must be published.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_names`](super::Datapath::publish_names).
    pub fn finish_publication(&mut self, data: &dyn ZoneData) -> anyhow::Result<()> {
        let denied = denied_zones(data);
        if denied == self.may_deny {
            return Ok(());
        }
        // Every reader must see the new names before more names are denied.
        self.wait_for_readers();
        self.may_deny = denied;
        let pass_suffixes = self.pass_suffixes.clone();
        self.publish_zone_settings(data, &pass_suffixes)
    }

    /// Replaces the records of `names`, which need not exist, with records that make all queries
    /// for these names and for computed names below them pass.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_names`](super::Datapath::publish_names).
    pub fn pass_names(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
    ) -> anyhow::Result<()> {
        let pass_suffixes = self.pass_suffixes.clone();
        let mut round = PublicationRound::new(data, &pass_suffixes);
        self.table.begin_partial_round();
        let without_names_below = NameEntry::default().delegating_other_types();
        let mut with_names_below = NameEntry::default();
        with_names_below.delegate_remainder();
        for name in names {
            let entry = data.entry_within(name, Window::EXISTENCE);
            let has_computed_names = entry.is_some_and(|entry| entry.has_computed_names())
                || self.table.has_computed_names(name.wire());
            let entry = if has_computed_names {
                &with_names_below
            } else {
                &without_names_below
            };
            self.write_record(&mut round, name, entry)?;
        }
        self.publish_zone_settings(data, &pass_suffixes)
    }

    /// Replaces the server addresses at which the kernel answers queries.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_served_addresses`](super::Datapath::publish_served_addresses).
    pub(super) fn publish_served_addresses(
        &mut self,
        data: &dyn ZoneData,
        addresses: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let before =
            std::mem::replace(&mut self.node_settings.served_addresses, addresses.to_vec());
        let pass_suffixes = self.pass_suffixes.clone();
        let result = self.publish_zone_settings(data, &pass_suffixes);
        if result.is_err() {
            self.node_settings.served_addresses = before;
        }
        result
    }

    /// Replaces the hardware addresses of the network cards on which the kernel answers.
    pub fn publish_card_addresses(&mut self, addresses: Vec<HardwareAddress>) {
        if self.node_settings.card_addresses == addresses {
            return;
        }
        self.node_settings.card_addresses = addresses;
        self.publish_card_settings();
    }

    /// Replaces the rate limit of clients on network cards.
    pub fn publish_rate_limit(&mut self, limit: Option<RateLimit>) {
        self.node_settings.rate_limit = limit;
        self.publish_card_settings();
    }

    /// Publishes the current settings with the card settings of `node_settings`. Before the first
    /// publication there is nothing to do, because it will include them.
    fn publish_card_settings(&mut self) {
        if let Some(mut settings) = self.settings.current().copied() {
            settings::set_card_settings(&mut settings, &self.node_settings);
            self.publish_settings(&settings);
        }
    }

    /// Replaces the permitted clients. The map of clients is updated before the settings refer to
    /// it.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_clients`](super::Datapath::publish_clients).
    pub fn publish_clients(
        &mut self,
        data: &dyn ZoneData,
        clients: PermittedClients,
    ) -> anyhow::Result<()> {
        if let PermittedClients::Only(addresses) = &clients {
            self.client_table.replace_addresses(addresses)?;
        }
        self.clients = clients;
        let pass_suffixes = self.pass_suffixes.clone();
        self.publish_zone_settings(data, &pass_suffixes)
    }

    /// Writes the record of a name, or postpones it. See [`PublicationRound::postponed`].
    fn put_or_postpone(
        &mut self,
        round: &mut PublicationRound<'_>,
        name: &Name,
        entry: &NameEntry,
    ) -> anyhow::Result<()> {
        if !entry.has_computed_names() && self.table.has_computed_names(name.wire()) {
            round
                .postponed
                .push((name.clone(), Arc::new(entry.clone())));
            return Ok(());
        }
        self.write_record(round, name, entry)
    }

    fn put_postponed(&mut self, round: &mut PublicationRound<'_>) -> anyhow::Result<()> {
        let postponed = std::mem::take(&mut round.postponed);
        if !postponed.is_empty() {
            self.wait_for_readers();
        }
        for (name, entry) in postponed {
            self.write_record(round, &name, &entry)?;
        }
        Ok(())
    }

    fn write_record(
        &mut self,
        round: &mut PublicationRound<'_>,
        name: &Name,
        entry: &NameEntry,
    ) -> anyhow::Result<()> {
        let Some(mut record) = records::build_record(round.data, name, entry) else {
            // The kernel doesn't look up names of this length.
            return Ok(());
        };
        match self.table.put(&mut record) {
            Ok(PutOutcome::Unchanged) => round.published.unchanged += 1,
            Ok(PutOutcome::Replaced) => round.published.replaced += 1,
            Ok(PutOutcome::Inserted) => round.published.inserted += 1,
            Err(_) => {
                self.left_out.insert(name.clone());
                // Readers must stop denying names of the zone before this name is left out.
                let zone = round.data.zone_of(name);
                let authoritative = zone.and_then(|zone| self.authoritative.get_mut(zone));
                if authoritative.is_some_and(std::mem::take) {
                    self.publish_settings_and_wait(round.data, round.pass_suffixes)?;
                }
                // The old record is out of date.
                self.table.remove(name.wire());
            }
        }
        Ok(())
    }

    /// For each zone, whether the tables have all its names that the kernel looks up.
    fn complete_zones(&self, data: &dyn ZoneData) -> Vec<bool> {
        let mut complete = vec![true; data.zones().len()];
        for zone in self.left_out.iter().filter_map(|name| data.zone_of(name)) {
            complete[zone] = false;
        }
        complete
    }

    fn finish_round(&mut self, round: &PublicationRound<'_>) -> PublicationCounts {
        self.published = PublicationCounts {
            left_out: self.left_out.len(),
            ..round.published
        };
        self.published
    }

    fn wait_for_readers(&mut self) {
        self.table.wait_for_readers();
        self.unsettled_copies = 0;
    }

    /// Publishes the settings and waits until every reader uses them.
    fn publish_settings_and_wait(
        &mut self,
        data: &dyn ZoneData,
        pass_suffixes: &BTreeSet<Name>,
    ) -> anyhow::Result<()> {
        self.publish_zone_settings(data, pass_suffixes)?;
        if self.unsettled_copies > 0 {
            self.wait_for_readers();
        }
        Ok(())
    }

    /// Builds and publishes the settings. Waits for readers only when no unused copy is left.
    fn publish_zone_settings(
        &mut self,
        data: &dyn ZoneData,
        pass_suffixes: &BTreeSet<Name>,
    ) -> anyhow::Result<()> {
        let may_deny = self.may_deny.iter().chain(std::iter::repeat(&false));
        let authoritative = self.authoritative.iter().zip(may_deny);
        let authoritative = authoritative.map(|(is_complete, may_deny)| *is_complete && *may_deny);
        let authoritative: Vec<bool> = authoritative.collect();
        let mut settings =
            settings::build_settings(&self.node_settings, data, &authoritative, pass_suffixes)
                .context("building the settings")?;
        settings.clients = self.clients.setting();
        self.publish_settings(&settings);
        Ok(())
    }

    fn publish_settings(&mut self, settings: &Settings) {
        if self.settings.is_current(settings) {
            return;
        }
        // One copy is current. The copy that is written next must not be in use by a reader.
        if self.unsettled_copies + 1 >= SETTINGS_COPIES {
            self.wait_for_readers();
        }
        self.unsettled_copies += u32::from(self.settings.publish(settings));
    }
}

impl<'a> PublicationRound<'a> {
    fn new(data: &'a dyn ZoneData, pass_suffixes: &'a BTreeSet<Name>) -> PublicationRound<'a> {
        PublicationRound {
            data,
            pass_suffixes,
            published: PublicationCounts::default(),
            postponed: Vec::new(),
        }
    }
}

/// For each zone, whether its absent names are denied.
fn denied_zones(data: &dyn ZoneData) -> Vec<bool> {
    let zones = data.zones().iter();
    let is_denied = |zone: &Apex| match zone.absent_names {
        AbsentNames::Denied | AbsentNames::DeniedExceptSoa => true,
        AbsentNames::Passed | AbsentNames::NotYetKnown => false,
    };
    zones.map(is_denied).collect()
}

/// The size of tables with room for `capacity` names. Without a capacity: for 12.5 % more names
/// than `data` has. There is always room for all names of `data`, and for at least `MIN_CAPACITY`
/// names.
#[must_use]
pub fn table_size(data: &dyn ZoneData, capacity: Option<usize>) -> TableSize {
    let mut space = NeededSpace::default();
    data.visit(records::WINDOW, &mut |name, entry| {
        space.add(data, name, entry);
    });
    space.table_size(capacity)
}

/// The space that names need in the tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NeededSpace {
    names: usize,
    bytes: usize,
}

impl NeededSpace {
    /// Adds a name.
    pub(super) fn add(&mut self, data: &dyn ZoneData, name: &Name, entry: &NameEntry) {
        if let Some(record) = records::build_record(data, name, entry) {
            self.names += 1;
            self.bytes += slots::slot_bytes(record.len());
        }
    }

    /// As [`table_size`].
    pub(super) fn table_size(self, capacity: Option<usize>) -> TableSize {
        let NeededSpace { names, bytes } = self;
        let room = capacity
            .unwrap_or(names + names / NAMES_PER_SPARE)
            .max(names)
            .max(MIN_CAPACITY);
        let words = (room as f64 * WORDS_PER_NAME) as usize;
        // `BYTES_PER_NEW_NAME` for each spare name. Without a capacity at least an eighth of the
        // current bytes, because the new records may be as long as the current ones.
        let spare = match capacity {
            Some(_) => 0,
            None => bytes / NAMES_PER_SPARE,
        };
        let bytes = bytes + spare.max((room - names) * BYTES_PER_NEW_NAME);
        TableSize {
            buckets: words.div_ceil(WORDS).next_power_of_two() as u32,
            // Every record starts at least `REACH` bytes before the end of its chunk. The
            // additional chunk holds new records while the slots of replaced ones wait for a grace
            // period.
            chunks: bytes.div_ceil(CHUNK - REACH) as u32 + 1,
        }
    }
}
