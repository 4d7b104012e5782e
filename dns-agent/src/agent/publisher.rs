//! The publisher: the only task that writes the index and the kernel plane's tables.

mod freshness;
mod inbox;
mod queue;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{runtime::Handle, sync::oneshot};
use tracing::{debug, info, warn};
use zerohop_datapath::{PermittedClients, StopMode, settings};
use zerohop_kubernetes::{
    Coverage, EndpointScope, Event, Feed, Index, Object, ObjectKey, Problem, ZoneSettings,
};
use zerohop_kubernetes_api::SourceHealth;
use zerohop_resolver::UpstreamServers;
use zerohop_zone::{NameOwner, ZoneData};

use self::freshness::{ApiFreshness, PlanChange};
use self::inbox::{Backlog, ObjectMessage};
pub(super) use self::inbox::{
    PublisherGone, PublisherInbox, PublisherMessage, PublisherSender, ReaderNumber,
};
use self::queue::PublicationQueue;
use super::{
    client_policy::ClientPolicy,
    config_versions::Hold,
    kernel_plane::{Freshness, GrownTables, KernelPlane, StaleReason, StartCondition},
};
use crate::{
    admin::metrics::Metrics,
    admin::status_board::StatusBoard,
    config::{Config, DnsAddresses, SourceConfig},
};

/// Shortest time between two changes of the zones' serial. Each change publishes the kernel's
/// settings, because every negative answer contains the serial.
const SERIAL_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time for which objects are taken from the inbox before names are published.
const INTAKE_TIME: Duration = Duration::from_millis(50);

/// The longest time for which the names of one owner, or of all owners with few names, are
/// published before more objects are taken from the inbox.
const ROUND_TIME: Duration = Duration::from_millis(50);

/// The most names of owners with few names that one round publishes.
const ROUND_NAMES: usize = 4096;

/// The share of `--stale-after` after which the waiting names of an owner pass.
const OVERDUE_SHARE: u32 = 4;

/// The longest time in which a publisher that stops publishes what it has received.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// The part of a plan that the publisher applies.
#[derive(Debug)]
pub(super) struct AnswerPlan {
    /// How objects become records.
    pub(super) settings: ZoneSettings,
    /// Reasons why the kernel may not answer yet, each with its end.
    pub(super) holds: Vec<Hold>,
    /// The feeds that list again, and the number of their reader; `None` when the feeds are the
    /// same as before. The kernel passes everything until the lists of all these feeds are
    /// complete.
    pub(super) feeds: Option<(ReaderNumber, BTreeSet<Feed>)>,
    /// The health of the feeds of objects.
    pub(super) health: Vec<Arc<SourceHealth>>,
}

/// Applies messages to the index, and writes the index's changes to the kernel plane's tables.
pub(super) struct Publisher {
    index: Arc<RwLock<Index>>,
    /// Problems of objects in the index; each is logged once.
    problems: BTreeSet<Problem>,
    /// Problems of objects that can't be read, by feed and object.
    unusable: BTreeMap<(Feed, ObjectKey), Problem>,
    /// Keys of `unusable` that the current list has not reported yet.
    unusable_unlisted: BTreeSet<(Feed, ObjectKey)>,
    kernel_plane: KernelPlane,
    client_policy: ClientPolicy,
    /// The names that wait for publication.
    queue: PublicationQueue,
    /// When the oldest change was received after which all names must be published. `None` if only
    /// names in `queue` wait.
    everything_since: Option<Instant>,
    /// What waits in the inbox.
    backlog: Backlog,
    /// When the publisher last began to take messages from the inbox.
    last_receipt: Instant,
    /// The reader whose events are applied.
    reader: ReaderNumber,
    /// Whether names changed after the serial was set.
    has_changed_since_serial: bool,
    /// When the serial was set.
    serial_set: Instant,
    /// When `tick` is due: for the lease and the list of devices, or at once after a change that
    /// may start or end answers.
    next_tick: Instant,
    /// The freshness that the kernel plane answers with.
    freshness: Freshness,
    /// `None` with manifests as the source.
    api: Option<ApiFreshness>,
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

/// A change of one object, read from the API after the first lists.
struct MeasuredChange {
    /// When the change was read from the API.
    read: Instant,
    /// The owners of the names that it changes.
    owners: Vec<NameOwner>,
    /// The Service whose endpoints changed, and when they changed in the cluster. `None` for other
    /// changes.
    endpoints: Option<(ObjectKey, SystemTime)>,
}

impl Publisher {
    /// A publisher that has published nothing.
    ///
    /// # Errors
    /// As for [`KernelPlane::new`].
    pub(super) fn new(
        config: &Config,
        cluster_dns: UpstreamServers,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Publisher> {
        let api = match &config.source {
            SourceConfig::Manifests(_) => None,
            SourceConfig::Kubernetes(kubernetes) => {
                Some(ApiFreshness::new(kubernetes, cluster_dns))
            }
        };
        let index = Index::new(config.zone.clone(), serial_after(0));
        let client_policy = ClientPolicy::new(config);
        Ok(Publisher {
            index: Arc::new(RwLock::new(index)),
            problems: BTreeSet::new(),
            unusable: BTreeMap::new(),
            unusable_unlisted: BTreeSet::new(),
            kernel_plane: KernelPlane::new(config, client_policy.clients())?,
            client_policy,
            queue: PublicationQueue::default(),
            everything_since: None,
            backlog: Backlog::Empty,
            last_receipt: Instant::now(),
            reader: ReaderNumber::default(),
            has_changed_since_serial: false,
            serial_set: Instant::now(),
            next_tick: Instant::now(),
            freshness: Freshness::Stale(StaleReason::Unlisted),
            api,
            metrics,
            measured: Vec::new(),
            have_devices_changed: false,
            publication_waiters: Vec::new(),
            stop_mode: None,
        })
    }

    /// The kernel plane, for its status.
    pub(super) fn kernel_plane(&self) -> &KernelPlane {
        &self.kernel_plane
    }

    /// The index of objects.
    pub(super) fn index(&self) -> &Arc<RwLock<Index>> {
        &self.index
    }

    /// Handles messages until [`PublisherMessage::Shutdown`], then stops the kernel plane.
    ///
    /// Each round of this loop takes in messages and publishes names, both for a limited time, and
    /// renews the lease if it is due. Nothing else renews the lease, so the lease expires if the
    /// publisher hangs.
    pub(super) fn run(mut self, inbox: &mut PublisherInbox, board: &StatusBoard) {
        let runtime = Handle::current();
        while self.stop_mode.is_none() {
            let has_work = self.queue.has_work(Instant::now()) || self.backlog != Backlog::Empty;
            if !has_work {
                let wait = self.next_tick.saturating_duration_since(Instant::now());
                runtime.block_on(inbox.wait(wait));
            }
            self.receive(inbox, INTAKE_TIME);
            // Manifests change rarely, so the status is updated after each change.
            if self.publish_changes() && self.api.is_none() {
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
            if self.queue.is_empty() && self.everything_since.is_none() {
                for waiter in self.publication_waiters.drain(..) {
                    // Fails when the reader of the manifests has ended.
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

    /// Takes messages from the inbox: all urgent ones, and objects until `limit` has passed.
    fn receive(&mut self, inbox: &mut PublisherInbox, limit: Duration) {
        self.last_receipt = Instant::now();
        let deadline = self.last_receipt + limit;
        self.backlog = Backlog::Empty;
        loop {
            while let Some(message) = inbox.next_urgent() {
                self.handle_message(message);
            }
            let Some(message) = inbox.next_objects() else {
                break;
            };
            // The plan of a new reader is sent before the reader's events.
            while message.reader() > self.reader
                && let Some(plan) = inbox.next_urgent()
            {
                self.handle_message(plan);
            }
            let received = message.received();
            self.handle_objects(message);
            if Instant::now() >= deadline {
                // Messages that wait were received later.
                self.backlog = Backlog::Since(received);
                break;
            }
        }
        if self.stop_mode.is_none() && inbox.is_closed() {
            self.stop_mode = Some(StopMode::Detach);
        }
    }

    /// Handles urgent messages that have arrived since the inbox was emptied, and counts waiting
    /// objects, for the lease.
    fn note_waiting_messages(&mut self, inbox: &mut PublisherInbox) {
        let mut may_change_clients = false;
        while let Some(message) = inbox.next_urgent() {
            may_change_clients |= !matches!(message, PublisherMessage::DevicesChanged);
            self.handle_message(message);
        }
        if may_change_clients && read_lock(&self.index).is_complete() {
            self.publish_served_addresses();
            self.publish_clients();
        }
        if self.backlog == Backlog::Empty && inbox.has_objects() {
            self.backlog = Backlog::Since(self.last_receipt);
        }
    }

    fn handle_message(&mut self, message: PublisherMessage) {
        match message {
            PublisherMessage::Plan(plan) => self.apply_plan(plan),
            PublisherMessage::PolicyEvent(event) => {
                self.track_unusable_objects(&event);
                self.client_policy.apply_event(event);
            }
            PublisherMessage::PolicyKinds(kinds) => self.client_policy.set_policy_kinds(kinds),
            PublisherMessage::PolicyHealth(health) => {
                if let Some(api) = &mut self.api {
                    api.policy_feed_health.clone_from(&health);
                }
                self.client_policy.set_feed_health(health);
            }
            PublisherMessage::DevicesChanged => self.have_devices_changed = true,
            PublisherMessage::Shutdown(stop_mode) => self.stop_mode = Some(stop_mode),
        }
    }

    fn handle_objects(&mut self, message: ObjectMessage) {
        match message {
            ObjectMessage::Objects {
                mut objects,
                published,
                received,
            } => {
                self.publication_waiters.push(published);
                self.client_policy
                    .replace_facts(*std::mem::take(&mut objects.facts));
                {
                    let mut index = write_lock(&self.index);
                    index.replace_objects(*objects);
                    if !index.is_complete() {
                        index.mark_complete();
                    }
                }
                self.take_changes(received);
            }
            ObjectMessage::Event {
                event,
                reader,
                received,
            } if reader == self.reader => {
                let measured = self.apply_event(*event, received);
                let owners = self.take_changes(received);
                self.measured
                    .extend(measured.map(|measured| MeasuredChange { owners, ..measured }));
            }
            // An event of a reader that was stopped.
            ObjectMessage::Event { .. } => {}
        }
    }

    /// Moves the index's changes, which were received at this time, to the queue. Returns their
    /// owners.
    fn take_changes(&mut self, received: Instant) -> Vec<NameOwner> {
        let changes = {
            let mut index = write_lock(&self.index);
            let changes = index.take_changes();
            // Changes of an incomplete index need not be kept, because completing the index marks
            // all names as changed.
            if !index.is_complete() {
                self.everything_since = None;
                self.queue.clear();
                return Vec::new();
            }
            changes
        };
        if changes.everything {
            self.queue.clear();
            self.everything_since.get_or_insert(received);
        }
        if self.everything_since.is_some() {
            return Vec::new();
        }
        let owners = changes.names.keys().cloned().collect();
        let passed = self.queue.add(changes, received);
        if !passed.is_empty() {
            let index = read_lock(&self.index);
            self.kernel_plane.pass_names(&index.view(), &passed);
        }
        owners
    }

    fn apply_plan(&mut self, plan: AnswerPlan) {
        let AnswerPlan {
            settings,
            holds,
            feeds,
            health,
        } = plan;
        let Some(api) = &mut self.api else {
            return;
        };
        api.feed_health = health;
        // The kernel passes everything until CoreDNS runs with the configuration of this plan, and
        // all feeds have listed again.
        let plan_change = api.replace_plan(&settings, holds);
        if plan_change == PlanChange::Changed || feeds.is_some() || api.is_held() {
            self.kernel_plane.pass_everything();
            // The next tick finds the exact reason.
            let freshness = Freshness::Stale(StaleReason::Unlisted);
            log_freshness_change(self.freshness, freshness);
            self.freshness = freshness;
        }
        // The next tick checks at once whether the kernel may answer.
        self.next_tick = Instant::now();
        let mut index = write_lock(&self.index);
        if let Some((reader, feeds)) = feeds {
            self.reader = reader;
            // A feed of all slices covers every Service. Otherwise an event names the Services that
            // the feed covers.
            let coverage = match settings.endpoint_scope {
                EndpointScope::All => Coverage::Every,
                EndpointScope::Headless => Coverage::NOTHING,
            };
            index.begin_listing(&feeds, coverage);
            api.unlisted_feeds.clone_from(&feeds);
            api.planned_feeds = feeds;
        }
        index.set_settings(settings);
        if api.unlisted_feeds.is_empty() && !index.is_complete() {
            index.mark_complete();
        }
        drop(index);
        self.take_changes(Instant::now());
    }

    /// Applies an event of a feed of objects, which was read at this time. Returns the change if
    /// its latency is measured, without its owners.
    fn apply_event(&mut self, event: Event, read: Instant) -> Option<MeasuredChange> {
        self.track_unusable_objects(&event);
        let mut index = write_lock(&self.index);
        let measured = |endpoints| MeasuredChange {
            read,
            owners: Vec::new(),
            endpoints,
        };
        match event {
            Event::ListStarted(feed) => index.begin_list(feed),
            Event::Applied {
                feed,
                object,
                changed,
            } => {
                let service = match &object {
                    Object::EndpointSlice(slice) => slice.service_key(),
                    _ => None,
                };
                let differs = index.apply_object(feed, object);
                if differs && index.is_complete() {
                    return Some(measured(service.zip(changed)));
                }
            }
            Event::Deleted { feed, key } => {
                index.delete_object(feed, &key);
                if index.is_complete() {
                    return Some(measured(None));
                }
            }
            Event::Unusable {
                feed,
                placeholder: Some(placeholder),
                ..
            } => {
                index.apply_object(feed, placeholder);
            }
            Event::Unusable {
                placeholder: None, ..
            } => {}
            Event::Covered(feed, covered) => index.record_coverage(feed, covered),
            Event::ListEnded(feed) => {
                index.end_list(feed);
                let api = self.api.as_mut()?;
                api.unlisted_feeds.remove(&feed);
                if api.unlisted_feeds.is_empty() && !index.is_complete() {
                    index.mark_complete();
                    info!(objects = ?index.counts(), "the first lists of all objects are complete");
                }
            }
            Event::Corefile { .. } | Event::CacheConfig { .. } => {}
        }
        None
    }

    /// Publishes clients, addresses, and some of the names that wait. Returns whether the status
    /// may have changed.
    fn publish_changes(&mut self) -> bool {
        if !read_lock(&self.index).is_complete() {
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
        let index = read_lock(&self.index);
        let view = index.view();
        if self.everything_since.is_some() {
            self.kernel_plane.publish_all_names(&view);
            self.everything_since = None;
            return true;
        }
        // Full tables have no room for names that pass. They are replaced by larger ones at once.
        let limit = self.kernel_plane.stale_after() / OVERDUE_SHARE;
        if !self.kernel_plane.has_full_tables()
            && let Some(overdue) = self.queue.pass_overdue(Instant::now(), limit)
        {
            self.kernel_plane.pass_names(&view, &overdue.names);
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
                .publish_names(&view, &next.names, ROUND_TIME);
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
            self.kernel_plane.finish_publication(&view);
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
        let published: Vec<_> = self.measured.extract_if(.., is_published).collect();
        for MeasuredChange {
            read, endpoints, ..
        } in published
        {
            self.metrics.observe_publication(read.elapsed());
            if let Some((service, changed)) = endpoints {
                let index = read_lock(&self.index);
                self.metrics
                    .observe_programming(index.service_kind(&service), changed);
            }
        }
    }

    /// The oldest change that was received and after which the kernel still answers as before: its
    /// owner, or where it waits, and when it was received.
    fn oldest_unpublished(&self) -> Option<(String, Instant)> {
        let waiting = self.queue.oldest();
        let waiting = waiting.map(|(owner, since)| (owner.to_string(), since));
        let everything = self.everything_since;
        let everything = everything.map(|since| ("all names".to_owned(), since));
        let backlog = match self.backlog {
            Backlog::Empty => None,
            Backlog::Since(since) => Some(("objects that are not read yet".to_owned(), since)),
        };
        let health = self.api.iter().flat_map(|api| &api.feed_health);
        let blocked = health.filter_map(|health| health.blocked_since());
        let blocked = blocked
            .map(|since| ("objects that are not read yet".to_owned(), since.into_std()))
            .min_by_key(|(_, since)| *since);
        let all = [waiting, everything, backlog, blocked]
            .into_iter()
            .flatten();
        all.min_by_key(|(_, since)| *since)
    }

    /// How long the kernel may still answer from the published names: no longer than
    /// `--stale-after` after a change that was received and is not published.
    fn lease_duration(&self) -> Duration {
        let age = self
            .oldest_unpublished()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed());
        self.kernel_plane.stale_after().saturating_sub(age)
    }

    /// Publishes the addresses of the cluster's DNS. They may change while no name changes, because
    /// its Service need not have names (`--namespace`, `--labels`), and the names of its endpoints
    /// may be delegated to CoreDNS.
    fn publish_served_addresses(&mut self) {
        let Some(api) = &self.api else {
            return;
        };
        let index = read_lock(&self.index);
        let (services, endpoints) = index.dns_addresses(&api.dns_service);
        if let Some(cluster_dns) = &api.cluster_dns {
            cluster_dns.set(&services);
        }
        let addresses = match api.dns_addresses {
            DnsAddresses::Given => return,
            DnsAddresses::Service => services,
            DnsAddresses::ServiceAndEndpoints => [services, endpoints].concat(),
        };
        // The settings have room for a limited number of addresses. Queries to the others pass.
        let count = addresses.len();
        let addresses = settings::first_of_each_family(addresses);
        self.kernel_plane
            .set_unserved_count(count - addresses.len());
        if self.kernel_plane.served_addresses() == addresses {
            return;
        }
        let view = index.view();
        // No client is permitted during the change, because a client that may query the old
        // addresses may not be permitted to query the new ones.
        if let Some(clients) = self.client_policy.evaluate_clients(&addresses) {
            self.kernel_plane
                .set_clients(&view, &PermittedClients::Only(BTreeSet::new()));
            self.kernel_plane.set_served_addresses(&view, &addresses);
            self.kernel_plane.set_clients(&view, &clients);
        } else {
            self.kernel_plane.set_served_addresses(&view, &addresses);
        }
    }

    /// Publishes the permitted clients. Returns whether they were evaluated again.
    fn publish_clients(&mut self) -> bool {
        let Some(clients) = self
            .client_policy
            .evaluate_clients(self.kernel_plane.served_addresses())
        else {
            return false;
        };
        let index = read_lock(&self.index);
        self.kernel_plane.set_clients(&index.view(), &clients);
        true
    }

    /// Starts the kernel plane with all names.
    fn start_kernel_plane(&mut self) {
        let freshness = self.current_freshness();
        self.kernel_plane
            .start(&read_lock(&self.index).view(), freshness);
        self.next_tick = Instant::now();
    }

    /// Sets and publishes the current serial.
    fn publish_serial(&mut self) {
        let changes = {
            let mut index = write_lock(&self.index);
            let serial = serial_after(index.serial());
            index.set_serial(serial);
            index.take_changes()
        };
        self.has_changed_since_serial = false;
        self.serial_set = Instant::now();
        let index = read_lock(&self.index);
        let (view, names) = (index.view(), changes.all_names());
        // The names are the apexes of the zones, which are few.
        let left = self.kernel_plane.publish_names(&view, &names, ROUND_TIME);
        drop(index);
        if !left.is_empty() {
            self.has_changed_since_serial = true;
        }
    }

    /// Does the periodic work: renews or ends the lease, starts the kernel plane or grows its
    /// tables if necessary, and updates the status board.
    fn tick(&mut self, board: &StatusBoard) {
        let freshness = self.current_freshness();
        if self.api.is_some() {
            log_freshness_change(self.freshness, freshness);
        }
        self.freshness = freshness;
        self.kernel_plane
            .set_start_condition(self.start_condition());
        // The other agent may have ended, or the client policy may be known now.
        if self.kernel_plane.is_behind_another_agent() || self.can_start_kernel_plane() {
            self.kernel_plane
                .start(&read_lock(&self.index).view(), freshness);
        }
        let lease = self.lease_duration();
        self.kernel_plane.tick(freshness, lease);
        // Full tables may be the reason why names wait.
        if matches!(
            freshness,
            Freshness::Current | Freshness::Stale(StaleReason::Unpublished)
        ) {
            let index = read_lock(&self.index);
            if self.kernel_plane.grow_tables(&index.view()) == GrownTables::New {
                self.queue.clear();
                self.everything_since = None;
            }
        }
        self.next_tick = Instant::now() + self.kernel_plane.interval();
        self.update_board(board);
    }

    /// The condition that the kernel plane waits for.
    fn start_condition(&self) -> StartCondition {
        let index = read_lock(&self.index);
        if index.is_complete() && index.view().zones().is_empty() {
            StartCondition::Zones
        } else {
            StartCondition::Lists
        }
    }

    /// Whether all conditions for starting the kernel plane are met.
    fn can_start_kernel_plane(&self) -> bool {
        let index = read_lock(&self.index);
        self.kernel_plane.is_ready_to_start()
            && index.is_complete()
            && !index.view().zones().is_empty()
            && self.client_policy.is_settled()
    }

    /// Whether the kernel may answer from the index now, and if not, why.
    fn current_freshness(&self) -> Freshness {
        if !read_lock(&self.index).is_complete() {
            return Freshness::Stale(StaleReason::Unlisted);
        }
        if self.lease_duration().is_zero() {
            return Freshness::Stale(StaleReason::Unpublished);
        }
        self.api
            .as_ref()
            .map_or(Freshness::Current, ApiFreshness::freshness)
    }
}

/// Ignores poisoning: a publisher that panicked ends the agent, so its state is no longer used.
fn read_lock(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
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
