//! The publisher: the only task that changes the providers' names and the kernel plane's tables.
//!
//! The publisher knows providers ([`Intake`]), and no kind of object. It takes in their messages,
//! publishes the changed names of their union ([`zerohop_zone::Union`]), and renews the lease.

mod inbox;
mod queue;
mod status;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{runtime::Handle, sync::oneshot};
use tracing::{debug, info, warn};
use zerohop_datapath::{SteeringProgram, StopMode, settings};
use zerohop_zone::{Name, NameChanges, NameOwner, Providers, Standing};

pub(super) use self::inbox::{PublisherInbox, PublisherMessage, PublisherSender};
use self::{queue::PublicationQueue, status::OutrankedNames};
use super::{
    intake::{AppliedChange, Intake, Measure, write_lock},
    kernel_plane::{Freshness, KernelPlane, StaleReason, StartCondition},
    permitted_queries::PermittedQueries,
};
use crate::{admin::metrics::Metrics, admin::status_board::StatusBoard, config::Config};

/// Shortest time between two changes of the zones' serial. Each change publishes the kernel's
/// settings, because every negative answer contains the serial.
const SERIAL_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time for which objects are taken in before names are published.
const INTAKE_TIME: Duration = Duration::from_millis(50);

/// The longest time for which the names of one owner, or of all owners with few names, are
/// published before more objects are taken in.
const ROUND_TIME: Duration = Duration::from_millis(50);

/// The most names of owners with few names that one round publishes.
const ROUND_NAMES: usize = 4096;

/// The share of `--stale-after` after which the waiting names of an owner pass.
const OVERDUE_SHARE: u32 = 4;

/// The longest time in which a publisher that stops publishes what it has received.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// Applies messages to the providers, and writes changed names to the kernel plane's tables.
pub(super) struct Publisher {
    /// The intakes of the providers, in the order of their precedence.
    intakes: Vec<Box<dyn Intake>>,
    /// The providers, in the same order.
    providers: Providers,
    /// For each provider, whether the tables have its names.
    standings: Vec<Standing>,
    /// Problems of objects; each is logged once.
    problems: BTreeSet<String>,
    outranked: OutrankedNames,
    kernel_plane: KernelPlane,
    /// The names that wait for publication.
    queue: PublicationQueue,
    /// When the oldest change was received after which all names must be published. `None` if only
    /// names in `queue` wait.
    everything_since: Option<Instant>,
    /// Whether all names must be published when the providers are complete. Until then the kernel
    /// answers nothing, and changed names need not be kept.
    is_everything_due: bool,
    /// The zones in which absent names passed at the last tick, if there are several providers.
    passing_zones: BTreeSet<Name>,
    /// Objects that wait for an intake.
    backlog: Backlog,
    /// When the publisher last began to take in messages.
    last_receipt: Instant,
    /// The serial of the zones.
    serial: u32,
    /// Whether names changed after the serial was set.
    has_changed_since_serial: bool,
    /// When the serial was set.
    serial_set: Instant,
    /// When `tick` is due: for the lease and the list of devices, or at once after a change that
    /// may start or end answers.
    next_tick: Instant,
    last_tick: Instant,
    /// The freshness that the kernel plane answers with.
    freshness: Freshness,
    metrics: Arc<Metrics>,
    /// Changes since the last publication whose latency the metrics show.
    measured: Vec<MeasuredChange>,
    /// Whether network devices have changed after the last scan.
    have_devices_changed: bool,
    /// Notified when the current changes are published.
    publication_waiters: Vec<oneshot::Sender<()>>,
    /// How to stop the kernel plane; `None` while the publisher runs.
    stop_mode: Option<StopMode>,
}

/// A change of objects after the first lists.
struct MeasuredChange {
    /// The owners of the names that it changes.
    owners: Vec<NameOwner>,
    measure: Measure,
}

/// Objects that wait for an intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    Empty,
    /// Objects may wait that were received after this time.
    Since(Instant),
}

impl Publisher {
    /// A publisher that has published nothing. `intakes` are in the order of precedence. `steering`
    /// is the program that receives packets which may be steered.
    ///
    /// # Errors
    /// As for [`KernelPlane::new`].
    pub(super) fn new(
        config: &Config,
        intakes: Vec<Box<dyn Intake>>,
        metrics: Arc<Metrics>,
        steering: Option<SteeringProgram>,
    ) -> anyhow::Result<Publisher> {
        let mut clients = intakes.iter().filter_map(|intake| intake.clients());
        let clients = clients.next().unwrap_or_default();
        let providers = intakes.iter().map(|intake| intake.provider());
        let mut publisher = Publisher {
            providers: Providers::new(providers.collect()),
            standings: vec![Standing::Answered; intakes.len()],
            intakes,
            problems: BTreeSet::new(),
            outranked: OutrankedNames::default(),
            kernel_plane: KernelPlane::new(config, &clients, steering)?,
            queue: PublicationQueue::default(),
            everything_since: None,
            is_everything_due: false,
            passing_zones: BTreeSet::new(),
            backlog: Backlog::Empty,
            last_receipt: Instant::now(),
            serial: 0,
            has_changed_since_serial: false,
            serial_set: Instant::now(),
            next_tick: Instant::now(),
            last_tick: Instant::now(),
            freshness: Freshness::Stale(StaleReason::Unlisted),
            metrics,
            measured: Vec::new(),
            have_devices_changed: false,
            publication_waiters: Vec::new(),
            stop_mode: None,
        };
        publisher.set_serial();
        Ok(publisher)
    }

    /// The kernel plane, for its status.
    pub(super) fn kernel_plane(&self) -> &KernelPlane {
        &self.kernel_plane
    }

    /// The providers, in the order of their precedence.
    pub(super) fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Handles messages until [`PublisherMessage::Shutdown`], then stops the kernel plane.
    ///
    /// Each round of this loop takes in messages and publishes names, both for a limited time, and
    /// renews the lease if it is due. Nothing else renews the lease, so the lease expires if the
    /// publisher hangs.
    pub(super) fn run(mut self, inbox: &mut PublisherInbox, board: &StatusBoard) {
        let runtime = Handle::current();
        while self.stop_mode.is_none() {
            if !self.has_work() {
                let wait = self.next_tick.saturating_duration_since(Instant::now());
                runtime.block_on(inbox.wait(wait));
            }
            self.receive(inbox, INTAKE_TIME);
            let changes_often = self.intakes.iter().any(|intake| intake.changes_often());
            if self.publish_changes() && !changes_often {
                self.update_board(board);
            }
            board.record_round();
            if std::mem::take(&mut self.have_devices_changed) {
                self.kernel_plane.rescan_devices();
            }
            if Instant::now() >= self.next_tick {
                self.note_waiting_messages(inbox);
                self.tick(board);
            }
            // After the tick, which may begin the lease.
            if self.is_everything_published() {
                for waiter in self.publication_waiters.drain(..) {
                    // Fails when the reader has ended.
                    let _ = waiter.send(());
                }
            }
        }
        let stop_mode = self.stop_mode.unwrap_or(StopMode::Detach);
        if stop_mode == StopMode::KeepHooks {
            self.publish_farewell(inbox);
        }
        self.kernel_plane.stop(stop_mode);
    }

    /// Whether there is something to do before the next message or tick.
    fn has_work(&self) -> bool {
        let has_names = self.everything_since.is_some()
            || self.queue.has_work(Instant::now())
            || self.kernel_plane.is_growing();
        self.backlog != Backlog::Empty || has_names && self.is_publishable()
    }

    fn is_everything_published(&self) -> bool {
        self.queue.is_empty() && self.everything_since.is_none() && !self.is_everything_due
    }

    /// Publishes what was received, because the hooks answer for a while without an agent. If
    /// something is left, the hooks answer nothing.
    fn publish_farewell(&mut self, inbox: &mut PublisherInbox) {
        let deadline = Instant::now() + FAREWELL_TIME;
        loop {
            self.receive(inbox, INTAKE_TIME);
            self.publish_changes();
            self.note_waiting_messages(inbox);
            if self.oldest_unpublished().is_none() || Instant::now() >= deadline {
                break;
            }
        }
        if let Some((owner, _)) = self.oldest_unpublished() {
            warn!(
                "the agent stops before a change is published ({owner}), so the hooks pass \
                 everything, and CoreDNS answers until the next agent is ready"
            );
            self.kernel_plane.pass_everything();
        }
    }

    /// Takes in messages: all urgent ones, and objects until `limit` has passed. The providers take
    /// turns, so that one with many objects does not delay the others.
    fn receive(&mut self, inbox: &mut PublisherInbox, limit: Duration) {
        self.last_receipt = Instant::now();
        let deadline = self.last_receipt + limit;
        self.backlog = Backlog::Empty;
        // When the last objects were received that each provider has applied.
        let mut latest = vec![self.last_receipt; self.intakes.len()];
        loop {
            self.receive_urgent(inbox);
            let mut has_applied = false;
            for (number, latest) in latest.iter_mut().enumerate() {
                if let Some(change) = self.intakes[number].apply_next() {
                    *latest = change.received;
                    has_applied = true;
                    self.add_change(number, change);
                }
            }
            if !has_applied || Instant::now() >= deadline {
                break;
            }
        }
        // Objects that wait for the same provider were received later.
        let waiting = self.intakes.iter().zip(latest);
        let waiting = waiting.filter(|(intake, _)| intake.has_waiting());
        if let Some(since) = waiting.map(|(_, latest)| latest).min() {
            self.backlog = Backlog::Since(since);
        }
        if self.stop_mode.is_none() && inbox.is_closed() {
            self.stop_mode = Some(StopMode::Detach);
        }
    }

    /// Takes in the messages that must not wait behind objects. Returns whether served addresses or
    /// permitted clients may have changed.
    fn receive_urgent(&mut self, inbox: &mut PublisherInbox) -> bool {
        while let Some(message) = inbox.next() {
            match message {
                PublisherMessage::DevicesChanged => self.have_devices_changed = true,
                PublisherMessage::Shutdown(stop_mode) => self.stop_mode = Some(stop_mode),
            }
        }
        let mut may_change_clients = false;
        for number in 0..self.intakes.len() {
            let change = self.intakes[number].apply_urgent();
            may_change_clients |= change.may_change_clients;
            if change.ends_answers && self.standings[number] == Standing::Answered {
                self.kernel_plane.pass_everything();
                // The next tick finds the exact reason.
                self.set_freshness(Freshness::Stale(StaleReason::Unlisted));
            }
            if let Some(received) = change.names_since {
                // The next tick checks at once whether the kernel may answer.
                self.next_tick = Instant::now();
                self.take_changes(number, received);
            }
        }
        may_change_clients
    }

    /// Takes in urgent messages that have arrived meanwhile, and counts waiting objects, for the
    /// lease.
    fn note_waiting_messages(&mut self, inbox: &mut PublisherInbox) {
        if self.receive_urgent(inbox) && self.is_publishable() {
            self.publish_served_addresses();
            self.publish_clients();
        }
        self.note_waiting_objects();
    }

    /// Counts objects that have arrived meanwhile, for the lease.
    fn note_waiting_objects(&mut self) {
        let has_waiting = self.intakes.iter().any(|intake| intake.has_waiting());
        if self.backlog == Backlog::Empty && has_waiting {
            self.backlog = Backlog::Since(self.last_receipt);
        }
    }

    /// Adds the names that a message has changed to those that wait.
    fn add_change(&mut self, number: usize, change: AppliedChange) {
        let AppliedChange {
            received,
            published,
            measure,
        } = change;
        self.publication_waiters.extend(published);
        let is_current = || self.intakes[number].freshness() == Freshness::Current;
        if self.standings[number] == Standing::Passed && is_current() {
            // The next tick lets the kernel answer the provider's names again.
            self.next_tick = Instant::now();
        }
        let owners = self.take_changes(number, received);
        if let (Some(owners), Some(measure)) = (owners, measure) {
            self.measured.push(MeasuredChange { owners, measure });
        }
    }

    /// Moves a provider's changes, which were received at this time, to the queue. Returns their
    /// owners; `None` if they are not published now.
    fn take_changes(&mut self, number: usize, received: Instant) -> Option<Vec<NameOwner>> {
        let provider = self.intakes[number].provider();
        let changes = write_lock(&provider).take_changes();
        if !self.is_publishable() {
            self.everything_since = None;
            self.queue.clear();
            self.is_everything_due = true;
            return None;
        }
        if std::mem::take(&mut self.is_everything_due) {
            self.everything_since.get_or_insert(received);
        }
        if self.standings[number] == Standing::Passed {
            // All names are published when the provider is answered again. But its zones count,
            // because no other provider answers names in them.
            if changes.everything {
                self.queue.clear();
                self.everything_since.get_or_insert(received);
            }
            return None;
        }
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        if changes.everything || union.may_change_other_names(number, &changes) {
            self.queue.clear();
            self.everything_since.get_or_insert(received);
        }
        if self.everything_since.is_some() {
            return Some(Vec::new());
        }
        let owners = changes.names.keys().cloned().collect();
        let passed = self.queue.add(union.with_decided_names(changes), received);
        if !passed.is_empty() {
            self.kernel_plane.pass_names(&union, &passed);
        }
        Some(owners)
    }

    /// Publishes clients, addresses, and some of the names that wait. Returns whether the status
    /// may have changed.
    fn publish_changes(&mut self) -> bool {
        if !self.is_publishable() {
            return false;
        }
        self.publish_served_addresses();
        let have_clients_changed = self.publish_clients();
        let has_changed = self.publish_round();
        if have_clients_changed && self.can_start_kernel_plane() {
            self.start_kernel_plane();
        }
        self.observe_publications();
        self.has_changed_since_serial |= has_changed;
        let is_due = self.has_changed_since_serial && self.serial_set.elapsed() >= SERIAL_INTERVAL;
        if is_due {
            self.publish_serial();
        }
        if has_changed && self.freshness != Freshness::Current {
            // The change may have ended the reason for being stale.
            self.next_tick = Instant::now();
        }
        has_changed || have_clients_changed || is_due
    }

    /// Publishes some of the names that wait. Returns whether any name was published.
    fn publish_round(&mut self) -> bool {
        if self.kernel_plane.is_growing() && self.everything_since.is_none() {
            let providers = self.providers.read();
            let union = providers.union_of(&self.standings);
            let passed_names = || self.queue.passed_names();
            self.kernel_plane
                .continue_growth(&union, &passed_names, ROUND_TIME);
            if !self.kernel_plane.is_growing() {
                // The next tick updates the status.
                self.next_tick = Instant::now();
            }
        }
        if self.everything_since.is_none() && self.queue.is_empty() {
            return false;
        }
        if self.kernel_plane.is_ready_to_start() {
            // Without a zone the size of the tables can't be known yet.
            if self.can_start_kernel_plane() {
                self.start_kernel_plane();
            }
            // A start publishes all names.
            self.everything_since = None;
            self.queue.clear();
            return true;
        }
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        if self.everything_since.is_some() {
            self.kernel_plane.publish_all_names(&union);
            self.everything_since = None;
            return true;
        }
        let limit = self.kernel_plane.stale_after() / OVERDUE_SHARE;
        if let Some(overdue) = self.queue.pass_overdue(Instant::now(), limit) {
            self.kernel_plane.pass_names(&union, &overdue.names);
            for owner in &overdue.owners {
                warn!(
                    "{owner} has changed more often, or has more names, than could be published \
                     within {limit:?}: CoreDNS answers its changed names until they are published"
                );
            }
        }
        let now = Instant::now();
        let few = self.queue.next_few(now, ROUND_NAMES);
        let many = self.queue.next_many(now);
        let mut has_changed = false;
        for next in [Some(few), many].into_iter().flatten() {
            if next.names.is_empty() {
                continue;
            }
            let left = self
                .kernel_plane
                .publish_names(&union, &next.names, ROUND_TIME);
            debug!(
                owners = next.owners.len(),
                left = left.len(),
                "published names"
            );
            self.queue.finish(&next, &left);
            has_changed = true;
        }
        // The names of passed owners have records, so they need not be waited for.
        if self.queue.oldest().is_none() {
            self.kernel_plane.finish_publication(&union);
        }
        if self.kernel_plane.has_full_tables() && !self.queue.is_empty() {
            self.next_tick = Instant::now();
        }
        has_changed
    }

    /// Reports the latency of the changes that are published.
    fn observe_publications(&mut self) {
        let is_published = |change: &mut MeasuredChange| {
            let mut owners = change.owners.iter();
            !owners.any(|owner| self.queue.is_waiting(owner))
        };
        if self.everything_since.is_some() {
            return;
        }
        // The latency of a passed owner's change is not measured, because its names pass.
        let is_passed = |change: &MeasuredChange| {
            let mut owners = change.owners.iter();
            owners.any(|owner| self.queue.is_passed(owner))
        };
        self.measured.retain(|change| !is_passed(change));
        for change in self.measured.extract_if(.., is_published) {
            (change.measure)(&self.metrics);
        }
    }

    /// The oldest change that was received and after which the kernel still answers as before: its
    /// owner, or where it waits, and when it was received.
    fn oldest_unpublished(&self) -> Option<(String, Instant)> {
        let waiting = self.queue.oldest();
        let waiting = waiting.map(|(owner, since)| (owner.to_string(), since));
        let everything = self.everything_since;
        let everything = everything.map(|since| ("all names".to_owned(), since));
        let unread = |since| ("objects that are not read yet".to_owned(), since);
        let backlog = match self.backlog {
            Backlog::Empty => None,
            Backlog::Since(since) => Some(unread(since)),
        };
        let blocked = self.intakes.iter();
        let blocked = blocked.filter_map(|intake| intake.blocked_since());
        let all = [waiting, everything, backlog].into_iter().flatten();
        all.chain(blocked.map(unread))
            .min_by_key(|(_, since)| *since)
    }

    /// How long the kernel may still answer from the published names: no longer than
    /// `--stale-after` after a change that was received and is not published.
    fn lease_duration(&self) -> Duration {
        let age = self
            .oldest_unpublished()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed());
        self.kernel_plane.stale_after().saturating_sub(age)
    }

    /// Publishes the server addresses at which the kernel answers, if a provider knows them.
    fn publish_served_addresses(&mut self) {
        let known: Vec<_> = (self.intakes.iter())
            .filter_map(|intake| intake.served_addresses())
            .collect();
        if known.is_empty() {
            return;
        }
        // The settings have room for a limited number of addresses: those of the provider of the
        // highest precedence come first. Queries to the others pass.
        let addresses = known.concat();
        let count = addresses.len();
        let addresses = settings::first_of_each_family(addresses);
        self.kernel_plane
            .set_unserved_count(count - addresses.len());
        if self.kernel_plane.served_addresses() == addresses {
            return;
        }
        let clients = self.evaluate_clients(&addresses);
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        // No client is permitted during the change, because a client that may query the old
        // addresses may not be permitted to query the new ones.
        if let Some(clients) = clients {
            self.kernel_plane
                .set_clients(&union, &PermittedQueries::none());
            self.kernel_plane.set_served_addresses(&union, &addresses);
            self.kernel_plane.set_clients(&union, &clients);
        } else {
            self.kernel_plane.set_served_addresses(&union, &addresses);
        }
    }

    /// Publishes the permitted clients. Returns whether they were evaluated again.
    fn publish_clients(&mut self) -> bool {
        let served = self.kernel_plane.served_addresses().to_vec();
        let Some(clients) = self.evaluate_clients(&served) else {
            return false;
        };
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        self.kernel_plane.set_clients(&union, &clients);
        true
    }

    /// The permitted clients, if a provider has evaluated them again.
    fn evaluate_clients(&mut self, served: &[SocketAddr]) -> Option<PermittedQueries> {
        // At most one provider knows policies.
        let mut intakes = self.intakes.iter_mut();
        intakes.find_map(|intake| intake.evaluate_clients(served))
    }

    /// Starts the kernel plane with all names.
    fn start_kernel_plane(&mut self) {
        let freshness = self.current_freshness();
        let providers = self.providers.read();
        self.kernel_plane
            .start(&providers.union_of(&self.standings), freshness);
        self.next_tick = Instant::now();
    }

    /// Sets and publishes the current serial.
    fn publish_serial(&mut self) {
        let names = self.set_serial();
        self.has_changed_since_serial = false;
        self.serial_set = Instant::now();
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        // The names are the apexes of the zones, which are few.
        let left = self.kernel_plane.publish_names(&union, &names, ROUND_TIME);
        drop(union);
        if !left.is_empty() {
            self.has_changed_since_serial = true;
        }
    }

    /// Sets the current serial. Returns the names whose answers contain it.
    fn set_serial(&mut self) -> BTreeSet<Name> {
        self.serial = serial_after(self.serial);
        let mut names = BTreeSet::new();
        for intake in &self.intakes {
            let provider = intake.provider();
            let mut provider = write_lock(&provider);
            provider.set_serial(self.serial);
            names.extend(provider.take_changes().all_names());
        }
        names
    }

    /// Does the periodic work: renews or ends the lease, starts the kernel plane or grows its
    /// tables if necessary, and updates the status board.
    fn tick(&mut self, board: &StatusBoard) {
        self.update_standings();
        self.queue_names_of_changed_zones();
        self.note_waiting_objects();
        let freshness = self.current_freshness();
        self.set_freshness(freshness);
        self.kernel_plane
            .set_start_condition(self.start_condition());
        let providers = self.providers.clone();
        let providers = providers.read();
        let union = providers.union_of(&self.standings);
        // The other agent may have ended, or the client policy may be known now.
        if self.kernel_plane.is_behind_another_agent() || self.can_start_kernel_plane() {
            self.kernel_plane.start(&union, freshness);
        }
        let lease = self.lease_duration();
        self.kernel_plane.tick(freshness, lease);
        // Full tables may be the reason why names wait.
        if matches!(
            freshness,
            Freshness::Current | Freshness::Stale(StaleReason::Unpublished)
        ) {
            self.kernel_plane.begin_growth(&union);
        }
        drop(union);
        drop(providers);
        self.last_tick = Instant::now();
        self.next_tick = self.last_tick + self.kernel_plane.interval();
        self.update_board(board);
    }

    /// Decides which providers' names the tables have. A provider whose names may not be answered
    /// ends the lease, so that all queries pass. If another provider has names that may be
    /// answered, the tables get these names alone, and the lease can be renewed.
    fn update_standings(&mut self) {
        let current = self.intakes.iter();
        let current = current.map(|intake| intake.freshness() == Freshness::Current);
        let current: Vec<bool> = current.collect();
        let mut intakes = self.intakes.iter().zip(&current);
        let can_answer_some = intakes.any(|(intake, is_current)| *is_current && intake.has_names());
        let standing = |is_current: bool| match is_current {
            false if can_answer_some => Standing::Passed,
            _ => Standing::Answered,
        };
        let standings: Vec<Standing> = current.into_iter().map(standing).collect();
        // The tables get their names when the kernel plane starts.
        if standings == self.standings || !self.kernel_plane.is_running() {
            return;
        }
        for (number, standing) in standings.iter().enumerate() {
            let name = self.intakes[number].name();
            match (self.standings[number], standing) {
                (Standing::Answered, Standing::Passed) => {
                    // The lease must not be renewed before the tables have lost these names.
                    self.kernel_plane.pass_everything();
                    warn!(
                        "the names of {name} may be outdated, so the kernel passes them, and \
                         CoreDNS answers: `dns-agent status` shows the reason"
                    );
                }
                (Standing::Passed, Standing::Answered) => {
                    info!("the names of {name} are current, so the kernel may answer them again");
                }
                (Standing::Answered, Standing::Answered) | (Standing::Passed, Standing::Passed) => {
                }
            }
        }
        self.standings = standings;
        self.queue.clear();
        self.everything_since = None;
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        self.kernel_plane.publish_all_names(&union);
    }

    /// If a zone begins or ceases to deny absent names, names in it that are known one by one may
    /// belong to another provider.
    fn queue_names_of_changed_zones(&mut self) {
        if self.intakes.len() == 1 || !self.is_publishable() {
            return;
        }
        let providers = self.providers.read();
        let union = providers.union_of(&self.standings);
        let passing = union.passing_zones();
        let changed: Vec<Name> = passing
            .symmetric_difference(&self.passing_zones)
            .cloned()
            .collect();
        self.passing_zones = passing;
        if changed.is_empty() || self.everything_since.is_some() {
            return;
        }
        let names = union.exact_names_in(&changed);
        if names.is_empty() {
            return;
        }
        let changes = NameChanges {
            names: [(NameOwner::new("names in zones that changed"), names)].into(),
            everything: false,
        };
        // The zones have changed after the last tick.
        let passed = self.queue.add(changes, self.last_tick);
        self.kernel_plane.pass_names(&union, &passed);
    }

    fn set_freshness(&mut self, freshness: Freshness) {
        if self.intakes.iter().any(|intake| intake.changes_often()) {
            log_freshness_change(self.freshness, freshness);
        }
        self.freshness = freshness;
    }

    /// The condition that the kernel plane waits for.
    fn start_condition(&self) -> StartCondition {
        if self.is_publishable() && !self.has_names() {
            StartCondition::Zones
        } else {
            StartCondition::Lists
        }
    }

    /// Whether all conditions for starting the kernel plane are met.
    fn can_start_kernel_plane(&self) -> bool {
        self.kernel_plane.is_ready_to_start()
            && self.is_publishable()
            && self.has_names()
            && self.intakes.iter().all(|intake| intake.is_settled())
    }

    /// Whether any provider has names.
    fn has_names(&self) -> bool {
        self.intakes.iter().any(|intake| intake.has_names())
    }

    /// Whether the providers whose names the tables have are complete.
    fn is_publishable(&self) -> bool {
        let providers = self.providers.read();
        let mut providers = providers.iter().zip(&self.standings);
        providers
            .all(|(provider, standing)| *standing == Standing::Passed || provider.is_complete())
    }

    /// Whether the kernel may answer now from the names that the tables have, and if not, why.
    fn current_freshness(&self) -> Freshness {
        let answered = self.intakes.iter().zip(&self.standings);
        let answered = answered.filter(|(_, standing)| **standing == Standing::Answered);
        let stale: Vec<Freshness> = answered
            .map(|(intake, _)| intake.freshness())
            .filter(|freshness| *freshness != Freshness::Current)
            .collect();
        let unlisted = Freshness::Stale(StaleReason::Unlisted);
        if stale.contains(&unlisted) {
            return unlisted;
        }
        if self.lease_duration().is_zero() {
            return Freshness::Stale(StaleReason::Unpublished);
        }
        stale.first().copied().unwrap_or(Freshness::Current)
    }
}

/// The next serial: the Unix time in seconds, and greater than the previous serial.
fn serial_after(previous: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    u32::try_from(now)
        .unwrap_or(u32::MAX)
        .max(previous.saturating_add(1))
}

/// Logs that the kernel may answer, or no longer, if that changes.
fn log_freshness_change(before: Freshness, now: Freshness) {
    match (before, now) {
        (Freshness::Stale(_), Freshness::Current) => {
            info!("the published data is current, so the kernel may answer");
        }
        (Freshness::Current, Freshness::Stale(_)) => warn!(
            "the published data may not be current, so the kernel passes everything, and CoreDNS \
             answers: `dns-agent status` shows the reason"
        ),
        (Freshness::Current, Freshness::Current) | (Freshness::Stale(_), Freshness::Stale(_)) => {}
    }
}
