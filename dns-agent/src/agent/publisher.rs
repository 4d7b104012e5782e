//! The publisher: the only task that writes the index and the kernel plane's tables.

mod freshness;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{info, warn};
use zerohop_datapath::{PermittedClients, StopMode, settings};
use zerohop_kubernetes::{
    Coverage, EndpointScope, Event, Feed, Index, NameChanges, Object, ObjectKey, Objects,
    PolicyKind, Problem, ZoneSettings,
};
use zerohop_kubernetes_api::SourceHealth;
use zerohop_resolver::UpstreamServers;
use zerohop_zone::ZoneData;

use self::freshness::{ApiFreshness, PlanChange};
use super::{
    client_policy::ClientPolicy,
    config_versions::Hold,
    kernel_plane::{Freshness, KernelPlane, StaleReason, StartCondition},
};
use crate::{
    admin::metrics::Metrics,
    admin::status_board::StatusBoard,
    config::{Config, DnsAddresses, SourceConfig},
};

/// Shortest time between two changes of the zones' serial. Each change publishes the kernel's
/// settings, because every negative answer contains the serial.
const SERIAL_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of messages handled before the changes are published.
const BATCH: usize = 4096;

/// Messages to the publisher.
#[derive(Debug)]
pub(super) enum PublisherMessage {
    /// All objects of the manifests. The publisher sends `()` when they are published.
    Objects(Objects, oneshot::Sender<()>),
    /// A new plan.
    Plan(AnswerPlan),
    /// An event of a feed of objects, and when it was read.
    Event(Event, Instant),
    /// An event of a feed of facts for NetworkPolicies.
    PolicyEvent(Event),
    /// The kinds of policies that the API serves but Zerohop doesn't evaluate.
    PolicyKinds(BTreeSet<PolicyKind>),
    /// The health of the feeds of facts.
    PolicyHealth(Vec<Arc<SourceHealth>>),
    /// Network devices were added, changed or removed.
    DevicesChanged,
    /// Stops the publisher, and the kernel plane in this mode.
    Shutdown(StopMode),
}

/// The part of a plan that the publisher applies.
#[derive(Debug)]
pub(super) struct AnswerPlan {
    /// How objects become records.
    pub(super) settings: ZoneSettings,
    /// Reasons why the kernel may not answer yet, each with its end.
    pub(super) holds: Vec<Hold>,
    /// The feeds that list again; `None` when the feeds are the same as before. The kernel passes
    /// everything until the lists of all these feeds are complete.
    pub(super) feeds: Option<BTreeSet<Feed>>,
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
    /// Each round of this loop applies the waiting messages, publishes the changes, and renews the
    /// lease if it is due. Nothing else renews the lease, so the lease expires if the publisher
    /// hangs.
    pub(super) fn run(
        mut self,
        messages: &mut mpsc::Receiver<PublisherMessage>,
        board: &StatusBoard,
    ) {
        let runtime = Handle::current();
        while self.stop_mode.is_none() {
            let wait = self.next_tick.saturating_duration_since(Instant::now());
            match runtime.block_on(timeout(wait, messages.recv())) {
                Ok(Some(first)) => self.handle_message(first),
                Ok(None) => self.stop_mode = Some(StopMode::Detach),
                Err(_) => {}
            }
            // Bounded, so that the lease is renewed even if changes come faster than they can be
            // published.
            for _ in 0..BATCH {
                match messages.try_recv() {
                    Ok(next) => self.handle_message(next),
                    Err(_) => break,
                }
            }
            // Manifests change rarely, so the status is updated after each change.
            if self.publish_changes() && self.api.is_none() {
                self.update_board(board);
            }
            for waiter in self.publication_waiters.drain(..) {
                // Fails when the reader of the manifests has ended.
                let _ = waiter.send(());
            }
            board.record_round();
            if std::mem::take(&mut self.have_devices_changed) {
                self.kernel_plane.rescan_devices();
            }
            if Instant::now() >= self.next_tick {
                self.tick(board);
            }
        }
        self.kernel_plane
            .stop(self.stop_mode.unwrap_or(StopMode::Detach));
    }

    fn handle_message(&mut self, message: PublisherMessage) {
        match message {
            PublisherMessage::Objects(mut objects, published) => {
                self.publication_waiters.push(published);
                self.client_policy
                    .replace_facts(*std::mem::take(&mut objects.facts));
                let mut index = write_lock(&self.index);
                index.replace_objects(objects);
                if !index.is_complete() {
                    index.mark_complete();
                }
            }
            PublisherMessage::Plan(plan) => self.apply_plan(plan),
            PublisherMessage::Event(event, read) => self.apply_event(event, read),
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
        if let Some(feeds) = feeds {
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
    }

    fn apply_event(&mut self, event: Event, read: Instant) {
        self.track_unusable_objects(&event);
        let mut index = write_lock(&self.index);
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
                    let endpoints = service.zip(changed);
                    self.measured.push(MeasuredChange { read, endpoints });
                }
            }
            Event::Deleted { feed, key } => {
                index.delete_object(feed, &key);
                if index.is_complete() {
                    let endpoints = None;
                    self.measured.push(MeasuredChange { read, endpoints });
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
                let Some(api) = &mut self.api else {
                    return;
                };
                api.unlisted_feeds.remove(&feed);
                if api.unlisted_feeds.is_empty() && !index.is_complete() {
                    index.mark_complete();
                    info!(objects = ?index.counts(), "the first lists of all objects are complete");
                }
            }
            Event::Corefile { .. } | Event::CacheConfig { .. } => {}
        }
    }

    /// Publishes all changes. Returns whether the status may have changed.
    fn publish_changes(&mut self) -> bool {
        let changes = {
            let mut index = write_lock(&self.index);
            let changes = index.take_changes();
            // Changes of an incomplete index need not be kept, because completing the index marks
            // all names as changed.
            if !index.is_complete() {
                return false;
            }
            changes
        };
        self.publish_served_addresses();
        let have_clients_changed = self.publish_clients();
        let has_changed = changes.everything || !changes.names.is_empty();
        if has_changed {
            self.publish_names(&changes);
        }
        if have_clients_changed && self.can_start_kernel_plane() {
            let freshness = self.current_freshness();
            self.kernel_plane
                .start(&read_lock(&self.index).view(), freshness);
            self.next_tick = Instant::now();
        }
        for MeasuredChange { read, endpoints } in self.measured.drain(..) {
            self.metrics.observe_publication(read.elapsed());
            if let Some((service, changed)) = endpoints {
                let index = read_lock(&self.index);
                self.metrics
                    .observe_programming(index.service_kind(&service), changed);
            }
        }
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

    /// Writes changed names to the kernel plane, or starts the kernel plane if it does not run yet.
    fn publish_names(&mut self, changes: &NameChanges) {
        let freshness = self.current_freshness();
        let index = read_lock(&self.index);
        let view = index.view();
        if self.kernel_plane.is_ready_to_start() {
            // Without a zone the size of the tables can't be known yet.
            if !view.zones().is_empty() && self.client_policy.is_settled() {
                self.kernel_plane.start(&view, freshness);
                self.next_tick = Instant::now();
            }
        } else if changes.everything {
            self.kernel_plane.publish_all_names(&view);
        } else {
            self.kernel_plane.publish_names(&view, &changes.names);
        }
    }

    /// Sets and publishes the current serial.
    fn publish_serial(&mut self) {
        let changes = {
            let mut index = write_lock(&self.index);
            let serial = serial_after(index.serial());
            index.set_serial(serial);
            index.take_changes()
        };
        self.publish_names(&changes);
        self.has_changed_since_serial = false;
        self.serial_set = Instant::now();
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
        self.kernel_plane.tick(freshness);
        if freshness == Freshness::Current {
            self.kernel_plane
                .grow_tables(&read_lock(&self.index).view());
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
