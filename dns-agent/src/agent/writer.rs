//! The one task that publishes.

mod api;
mod shown;

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

use self::api::{Api, Followed};
use super::{
    guard::Guard,
    in_force::Hold,
    kernel::{Because, Kernel, Trust, WaitsFor},
};
use crate::{
    admin::{board::Board, metrics::Metrics},
    cluster::{
        Changes, Coverage, Endpoints, Feed, Index, Key, Object, Objects, PolicyKind, Problem,
        ZoneSettings,
    },
    config::{Config, Serves, Source},
    datapath::{Clients, Ending, settings},
    resolver::Servers,
    source::{Event, kubernetes::Health},
    zone::ZoneData,
};

/// How often the serial of the zones may change: it is in every negative answer, so the kernel's
/// settings change with it.
const SERIAL: Duration = Duration::from_secs(1);

/// How much is taken in before it is published.
const BATCH: usize = 4096;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Told {
    /// All objects there are, and who is told when they are published.
    Objects(Objects, oneshot::Sender<()>),
    /// How to answer from now on.
    Planned(Planned),
    /// What a feed tells, and when that was read.
    Event(Event, Instant),
    /// What a feed tells of who may ask.
    Policy(Event),
    /// The API serves these kinds of policies that are not evaluated.
    PolicyKinds(BTreeSet<PolicyKind>),
    /// How the feeds do that tell who may ask.
    PolicyHealth(Vec<Arc<Health>>),
    /// Network devices came or went.
    Devices,
    /// To end.
    End(Ending),
}

/// How to answer from now on.
#[derive(Debug)]
pub(super) struct Planned {
    /// How objects become records.
    pub(super) settings: ZoneSettings,
    /// Why the kernel may not answer yet, and until when.
    pub(super) holds: Vec<Hold>,
    /// The feeds that list from now on, if it is not those of before: until all have, nothing is
    /// denied.
    pub(super) feeds: Option<BTreeSet<Feed>>,
    /// How the feeds do.
    pub(super) health: Vec<Arc<Health>>,
}

/// Brings what sources tell into the index, and the index into the kernel's tables.
pub(super) struct Writer {
    index: Arc<RwLock<Index>>,
    /// What is wrong with objects; said once each.
    problems: BTreeSet<Problem>,
    /// What is wrong with objects that a feed could not use.
    unusable: BTreeMap<(Feed, Key), Problem>,
    /// Those of them that a list which has begun has not brought yet.
    unlisted: BTreeSet<(Feed, Key)>,
    kernel: Kernel,
    guard: Guard,
    /// Whether anything changed since the serial did.
    is_newer: bool,
    renumbered: Instant,
    /// When the lease is to be renewed.
    next_tick: Instant,
    trust: Trust,
    api: Option<Api>,
    metrics: Arc<Metrics>,
    /// What was taken in and is not yet published.
    unpublished: Vec<Taken>,
    /// Whether network devices came or went since they were looked for.
    has_devices: bool,
    /// Who is told after the next round.
    waiting: Vec<oneshot::Sender<()>>,
    /// How to end, when it is time to.
    ending: Option<Ending>,
}

/// A change on its way.
struct Taken {
    read: Instant,
    /// The service whose endpoints changed, and when they did.
    endpoints: Option<(Key, SystemTime)>,
}

impl Writer {
    /// A writer that has published nothing.
    ///
    /// # Errors
    /// When the kernel plane would answer strangers.
    pub(super) fn new(
        config: &Config,
        cluster_dns: Servers,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Writer> {
        let api = match &config.source {
            Source::Manifests(_) => None,
            Source::Kubernetes(kubernetes) => Some(Api::new(kubernetes, cluster_dns)),
        };
        let index = Index::new(config.zone.clone(), serial_after(0));
        let guard = Guard::new(config);
        Ok(Writer {
            index: Arc::new(RwLock::new(index)),
            problems: BTreeSet::new(),
            unusable: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            kernel: Kernel::new(config, guard.clients())?,
            guard,
            is_newer: false,
            renumbered: Instant::now(),
            next_tick: Instant::now(),
            trust: Trust::Stale(Because::Unlisted),
            api,
            metrics,
            unpublished: Vec::new(),
            has_devices: false,
            waiting: Vec::new(),
            ending: None,
        })
    }

    /// The kernel plane, to be shown.
    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// What is answered, and where it came from.
    pub(super) fn index(&self) -> &Arc<RwLock<Index>> {
        &self.index
    }

    /// Publishes what is told, until it is told to end; then ends the kernel plane.
    ///
    /// The lease is renewed here and nowhere else, after everything that was waiting has
    /// been published: so it is fresh only while this works.
    pub(super) fn run(mut self, told: &mut mpsc::Receiver<Told>, board: &Board) {
        let runtime = Handle::current();
        while self.ending.is_none() {
            let wait = self.next_tick.saturating_duration_since(Instant::now());
            match runtime.block_on(timeout(wait, told.recv())) {
                Ok(Some(first)) => self.take(first),
                Ok(None) => self.ending = Some(Ending::Detached),
                Err(_) => {}
            }
            // What changes faster than it can be published must not keep the lease from being
            // renewed.
            for _ in 0..BATCH {
                match told.try_recv() {
                    Ok(next) => self.take(next),
                    Err(_) => break,
                }
            }
            // Files change seldom, and who changed one looks at once.
            if self.publish() && self.api.is_none() {
                self.show(board);
            }
            for waiting in self.waiting.drain(..) {
                // Nobody may wait any more.
                let _ = waiting.send(());
            }
            board.beat();
            if std::mem::take(&mut self.has_devices) {
                self.kernel.look();
            }
            if Instant::now() >= self.next_tick {
                self.tick(board);
            }
        }
        self.kernel.stop(self.ending.unwrap_or(Ending::Detached));
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Objects(mut objects, published) => {
                self.waiting.push(published);
                self.guard.replace(*std::mem::take(&mut objects.facts));
                let mut index = write(&self.index);
                index.replace(objects);
                if !index.is_complete() {
                    index.complete();
                }
            }
            Told::Planned(planned) => self.plan(planned),
            Told::Event(event, read) => self.event(event, read),
            Told::Policy(event) => {
                self.note_unusable(&event);
                self.guard.event(event);
            }
            Told::PolicyKinds(kinds) => self.guard.discovered(kinds),
            Told::PolicyHealth(health) => {
                if let Some(api) = &mut self.api {
                    api.path_health.clone_from(&health);
                }
                self.guard.watch(health);
            }
            Told::Devices => self.has_devices = true,
            Told::End(ending) => self.ending = Some(ending),
        }
    }

    fn plan(&mut self, planned: Planned) {
        let Planned {
            settings,
            holds,
            feeds,
            health,
        } = planned;
        let Some(api) = &mut self.api else {
            return;
        };
        api.health = health;
        // Until CoreDNS answers the same, and until all has been read again: else nobody can tell what is missing.
        let followed = api.follow(&settings, holds);
        if followed == Followed::Other || feeds.is_some() || api.is_held() {
            self.kernel.pass();
            self.trust = Trust::Stale(Because::Unlisted);
        }
        // Whether it may answer again is looked at at once.
        self.next_tick = Instant::now();
        let mut index = write(&self.index);
        if let Some(feeds) = feeds {
            let coverage = match settings.endpoints {
                Endpoints::All => Coverage::Every,
                Endpoints::Headless => Coverage::NOTHING,
            };
            index.begin(&feeds, coverage);
            api.awaited.clone_from(&feeds);
            api.feeds = feeds;
        }
        index.set_settings(settings);
        if api.awaited.is_empty() && !index.is_complete() {
            index.complete();
        }
    }

    fn event(&mut self, event: Event, read: Instant) {
        self.note_unusable(&event);
        let mut index = write(&self.index);
        match event {
            Event::Listing(feed) => index.listing(feed),
            Event::Applied {
                feed,
                object,
                changed,
            } => {
                let service = match &object {
                    Object::EndpointSlice(slice) => slice.service_key(),
                    _ => None,
                };
                let is_new = index.apply(feed, object);
                if is_new && index.is_complete() {
                    let endpoints = service.zip(changed);
                    self.unpublished.push(Taken { read, endpoints });
                }
            }
            Event::Deleted { feed, key } => {
                index.delete(feed, &key);
                if index.is_complete() {
                    let endpoints = None;
                    self.unpublished.push(Taken { read, endpoints });
                }
            }
            Event::Unusable {
                feed,
                stand_in: Some(stand_in),
                ..
            } => {
                index.apply(feed, stand_in);
            }
            Event::Unusable { stand_in: None, .. } => {}
            Event::Covered(feed, covered) => index.cover(feed, covered),
            Event::Listed(feed) => {
                index.listed(feed);
                let Some(api) = &mut self.api else {
                    return;
                };
                api.awaited.remove(&feed);
                if api.awaited.is_empty() && !index.is_complete() {
                    index.complete();
                    info!(objects = ?index.counts(), "everything has been listed");
                }
            }
            Event::Corefile { .. } | Event::CacheConfig { .. } => {}
        }
    }

    /// Publishes what has changed; says whether anything has.
    fn publish(&mut self) -> bool {
        let changes = {
            let mut index = write(&self.index);
            let changes = index.take_changes();
            // Completing it makes everything a change.
            if !index.is_complete() {
                return false;
            }
            changes
        };
        self.serve();
        let has_admitted = self.admit();
        let has_changed = changes.everything || !changes.names.is_empty();
        if has_changed {
            self.bring(&changes);
        }
        if has_admitted && self.can_start() {
            let trust = self.trusted();
            self.kernel.start(&read_lock(&self.index).view(), trust);
            self.next_tick = Instant::now();
        }
        for Taken { read, endpoints } in self.unpublished.drain(..) {
            self.metrics.published(read.elapsed());
            if let Some((service, changed)) = endpoints {
                let index = read_lock(&self.index);
                self.metrics
                    .programmed(index.service_kind(&service), changed);
            }
        }
        self.is_newer |= has_changed;
        let is_due = self.is_newer && self.renumbered.elapsed() >= SERIAL;
        if is_due {
            self.renumber();
        }
        if has_changed && self.trust != Trust::Current {
            // There may be nothing to wait for any more.
            self.next_tick = Instant::now();
        }
        has_changed || has_admitted || is_due
    }

    /// Follows the addresses of the cluster's DNS. They may change without any name: its Service may
    /// not be exposed, and names of its endpoints may be left to others.
    fn serve(&mut self) {
        let Some(api) = &self.api else {
            return;
        };
        let index = read_lock(&self.index);
        let (services, endpoints) = index.dns_addresses(&api.dns_service);
        if let Some(cluster_dns) = &api.cluster_dns {
            cluster_dns.set(&services);
        }
        let addresses = match api.serves {
            Serves::Given => return,
            Serves::Service => services,
            Serves::ServiceAndEndpoints => [services, endpoints].concat(),
        };
        // What there is no room for passes.
        let count = addresses.len();
        let addresses = settings::fitting(addresses);
        self.kernel.leaves_unserved(count - addresses.len());
        if self.kernel.served() == addresses {
            return;
        }
        let view = index.view();
        // Who may ask the old ones may not be allowed to ask the new ones.
        if let Some(clients) = self.guard.judge(&addresses) {
            self.kernel.admit(&view, &Clients::Known(BTreeSet::new()));
            self.kernel.serve(&view, &addresses);
            self.kernel.admit(&view, &clients);
        } else {
            self.kernel.serve(&view, &addresses);
        }
    }

    /// Follows who may ask; says whether that has changed.
    fn admit(&mut self) -> bool {
        let Some(clients) = self.guard.judge(self.kernel.served()) else {
            return false;
        };
        let index = read_lock(&self.index);
        self.kernel.admit(&index.view(), &clients);
        true
    }

    /// Brings changes to the kernel.
    fn bring(&mut self, changes: &Changes) {
        let trust = self.trusted();
        let index = read_lock(&self.index);
        let view = index.view();
        if self.kernel.is_waiting() {
            // Where everything passes nothing is known of what the tables must hold later.
            if !view.zones().is_empty() && self.guard.is_settled() {
                self.kernel.start(&view, trust);
                self.next_tick = Instant::now();
            }
        } else if changes.everything {
            self.kernel.publish(&view);
        } else {
            self.kernel.update(&view, &changes.names);
        }
    }

    /// Gives the zones the serial of this moment.
    fn renumber(&mut self) {
        let changes = {
            let mut index = write(&self.index);
            let serial = serial_after(index.serial());
            index.set_serial(serial);
            index.take_changes()
        };
        self.bring(&changes);
        self.is_newer = false;
        self.renumbered = Instant::now();
    }

    fn tick(&mut self, board: &Board) {
        let trust = self.trusted();
        let was_current = self.trust == Trust::Current;
        if was_current != (trust == Trust::Current) && self.api.is_some() {
            match trust {
                Trust::Current => info!("what is known is current: the kernel may answer"),
                Trust::Stale(_) => {
                    warn!(
                        "what is known may not be current: the cluster's DNS is asked everything"
                    );
                }
            }
        }
        self.trust = trust;
        self.kernel.waits_for(self.waits_for());
        // The other agent may have ended, or it is known who may ask.
        if self.kernel.is_behind() || self.can_start() {
            self.kernel.start(&read_lock(&self.index).view(), trust);
        }
        self.kernel.tick(trust);
        if trust == Trust::Current {
            self.kernel.grow(&read_lock(&self.index).view());
        }
        self.next_tick = Instant::now() + self.kernel.interval();
        self.show(board);
    }

    /// What the kernel plane has to wait for, while it does.
    fn waits_for(&self) -> WaitsFor {
        let index = read_lock(&self.index);
        match index.is_complete() && index.view().zones().is_empty() {
            true => WaitsFor::Zones,
            false => WaitsFor::Lists,
        }
    }

    /// Whether nothing keeps the kernel plane from starting any more.
    fn can_start(&self) -> bool {
        let index = read_lock(&self.index);
        self.kernel.is_waiting()
            && index.is_complete()
            && !index.view().zones().is_empty()
            && self.guard.is_settled()
    }

    /// Whether what is known is complete, and not too old.
    fn trusted(&self) -> Trust {
        if !read_lock(&self.index).is_complete() {
            return Trust::Stale(Because::Unlisted);
        }
        self.api.as_ref().map_or(Trust::Current, Api::trusted)
    }
}

/// A writer that panicked has ended the agent, so nobody sees what it left behind.
fn read_lock(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}

/// The serial of a change: the time of day in Unix seconds, and more than the one
/// before.
fn serial_after(previous: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    u32::try_from(now)
        .unwrap_or(u32::MAX)
        .max(previous.saturating_add(1))
}
