//! The one task that publishes.

mod shown;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{runtime::Handle, sync::mpsc, time::timeout};
use tracing::{info, warn};

use super::{
    guard::Guard,
    kernel::{Kernel, Trust},
};

use crate::{
    admin::{metrics::Metrics, status::Board},
    cluster::{Changes, Feed, Index, Key, Object, Objects, Problem, ZoneSettings},
    config::{Config, Serves, Source},
    datapath::{Clients, Ending},
    resolver::Servers,
    source::{Event, kubernetes::Health},
    zone::ZoneData,
};

/// How often the serial of the zones may change: it is in every negative answer, so the kernel's
/// settings change with it.
const SERIAL: Duration = Duration::from_secs(1);

/// How long CoreDNS may go on with a Corefile that was changed: the kubelet takes up to a minute and
/// a half to bring it into the pods, and CoreDNS's `reload` looks for it every 30 seconds, give or take
/// half of that.
const RELOAD: Duration = Duration::from_secs(150);

/// How much is taken in before it is published.
const BATCH: usize = 4096;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Told {
    /// All objects there are.
    Objects(Objects),
    /// How to answer from now on.
    Planned(Planned),
    /// What a feed tells, and when that was read.
    Event(Event, Instant),
    /// What a feed tells of who may ask.
    Policy(Event),
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
    kernel: Kernel,
    guard: Guard,
    /// Whether anything changed since the serial did.
    is_newer: bool,
    renumbered: Instant,
    ticked: Instant,
    trust: Trust,
    api: Option<Api>,
    metrics: Arc<Metrics>,
    /// What was taken in and is not yet published.
    unpublished: Vec<Taken>,
    /// Whether network devices came or went since they were looked for.
    has_devices: bool,
    /// How to end, when it is time to.
    ending: Option<Ending>,
}

/// What the writer knows of the Kubernetes API.
struct Api {
    dns_service: Key,
    serves: Serves,
    max_age: Option<Duration>,
    /// Where the resolver asks, if it was not told.
    cluster_dns: Option<Servers>,
    health: Vec<Arc<Health>>,
    feeds: BTreeSet<Feed>,
    /// Feeds whose first list is still to come.
    awaited: BTreeSet<Feed>,
    planned: Option<Plan>,
}

/// What the operator and CoreDNS want, for the time being.
struct Plan {
    settings: ZoneSettings,
    /// When CoreDNS has surely read the same Corefile.
    settled: Instant,
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
            Source::Kubernetes(kubernetes) => Some(Api {
                dns_service: kubernetes.dns_service.clone(),
                serves: kubernetes.serves,
                max_age: kubernetes.max_age,
                cluster_dns: kubernetes.cluster_dns.is_empty().then_some(cluster_dns),
                health: Vec::new(),
                feeds: BTreeSet::new(),
                awaited: BTreeSet::new(),
                planned: None,
            }),
        };
        let index = Index::new(config.zone.clone(), serial_after(0));
        let guard = Guard::new(config);
        Ok(Writer {
            index: Arc::new(RwLock::new(index)),
            problems: BTreeSet::new(),
            unusable: BTreeMap::new(),
            kernel: Kernel::new(config, guard.clients())?,
            guard,
            is_newer: false,
            renumbered: Instant::now(),
            ticked: Instant::now(),
            trust: Trust::Stale,
            api,
            metrics,
            unpublished: Vec::new(),
            has_devices: false,
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

    /// Publishes these objects, all that there are.
    pub(super) fn load(&mut self, objects: Objects) {
        self.take(Told::Objects(objects));
        self.publish();
    }

    /// Publishes what is told, until it is told to end; then ends the kernel plane.
    ///
    /// The lease is renewed here and nowhere else, after everything that was waiting has
    /// been published: so it is fresh only while this works.
    pub(super) fn run(mut self, told: &mut mpsc::Receiver<Told>, board: &Board) {
        let runtime = Handle::current();
        while self.ending.is_none() {
            let wait = self.kernel.interval().saturating_sub(self.ticked.elapsed());
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
            if std::mem::take(&mut self.has_devices) {
                self.kernel.look();
            }
            if self.ticked.elapsed() >= self.kernel.interval() {
                self.tick(board);
            }
        }
        self.kernel.stop(self.ending.unwrap_or(Ending::Detached));
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Objects(mut objects) => {
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
            Told::PolicyHealth(health) => self.guard.watch(health),
            Told::Devices => self.has_devices = true,
            Told::End(ending) => self.ending = Some(ending),
        }
    }

    fn plan(&mut self, planned: Planned) {
        let Planned {
            settings,
            feeds,
            health,
        } = planned;
        let Some(api) = &mut self.api else {
            return;
        };
        api.health = health;
        let now = Instant::now();
        let settled = match &api.planned {
            None => now,
            Some(before) if before.settings == settings => before.settled,
            Some(_) => {
                self.kernel.pass();
                self.trust = Trust::Stale;
                now + RELOAD
            }
        };
        api.planned = Some(Plan {
            settings: settings.clone(),
            settled,
        });
        let mut index = write(&self.index);
        if let Some(feeds) = feeds {
            // Until all have been read again nobody can tell what is missing.
            self.kernel.pass();
            self.trust = Trust::Stale;
            index.begin();
            for feed in api.feeds.difference(&feeds) {
                index.listing(*feed);
                index.listed(*feed);
            }
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
            Event::Corefile(_) => {}
        }
    }

    /// Publishes what has changed; says whether anything has.
    fn publish(&mut self) -> bool {
        let changes = {
            let mut index = write(&self.index);
            let changes = index.take_changes();
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
            self.kernel.start(&read_lock(&self.index).view());
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
        if has_changed && self.trust == Trust::Stale {
            // There may be nothing to wait for any more.
            self.ticked = Instant::now()
                .checked_sub(self.kernel.interval())
                .unwrap_or(self.ticked);
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
        let index = read_lock(&self.index);
        let view = index.view();
        if self.kernel.is_waiting() {
            // Where everything passes nothing is known of what the tables must hold later.
            if !view.zones().is_empty() && self.guard.is_settled() {
                self.kernel.start(&view);
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
        if trust != self.trust && self.api.is_some() {
            match trust {
                Trust::Current => info!("what is known is current: the kernel may answer"),
                Trust::Stale => warn!("what is known may not be current: everything passes"),
            }
        }
        self.trust = trust;
        // The other agent may have ended, or it is known who may ask.
        if self.kernel.is_behind() || self.can_start() {
            self.kernel.start(&read_lock(&self.index).view());
        }
        self.kernel.tick(trust);
        if trust == Trust::Current {
            self.kernel.grow(&read_lock(&self.index).view());
        }
        self.ticked = Instant::now();
        self.show(board);
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
            return Trust::Stale;
        }
        let Some(api) = &self.api else {
            return Trust::Current;
        };
        let planned = api.planned.as_ref();
        if planned.is_some_and(|plan| Instant::now() < plan.settled) {
            return Trust::Stale;
        }
        let Some(max_age) = api.max_age else {
            return Trust::Current;
        };
        let is_fresh = |health: &Arc<Health>| health.age().is_some_and(|age| age <= max_age);
        match api.health.iter().all(is_fresh) {
            true => Trust::Current,
            false => Trust::Stale,
        }
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
