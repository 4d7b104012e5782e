//! Watches every EndpointSlice of the headless Services, by the one label that makes it theirs.
//!
//! The selector is `kubernetes.io/service-name in (…)` with the names of all headless Services, of any
//! namespace. It is a proof because it is the very condition by which CoreDNS finds a Service's slices; other
//! labels say what a controller or a person once wrote (Kubernetes 1.35,
//! `staging/src/k8s.io/endpointslice/utils.go`: the label `service.kubernetes.io/headless` is set when a slice
//! is written for other reasons, not when its Service becomes headless).
//!
//! A request holds only so many names, so they are shared out among *parts*, each with a watch of its own.
//! A new name goes into the last part, which lists again; names that are not headless any more stay, because
//! watching them costs little. When all parts are full, the names of today are shared out anew, and if they
//! fill more than half of the parts, every slice of the cluster is watched instead.
//!
//! [`Event::Covered`] reports what a part has listed. All other headless Services are delegated to CoreDNS.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::warn;

use super::{api::Api, backoff::jitter, health::State, reflector::Reflector, selection::Selection};
use crate::{
    cluster::{Covered, Key, Object, ServiceKind, ServiceNames},
    source::{Event, Feed},
};

/// The names of one part, with commas between them, are no longer than this many bytes: proxies in front of
/// API servers take request lines of 8 KiB, and a comma is three bytes there.
const PART_BYTES: usize = 4096;
/// New names are waited for during this time before a part lists again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The same while new names keep coming: the pause doubles up to this, so that whoever makes Services with
/// ever new names costs the API server a list of one part in this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The headless Services, noted while their events pass by.
#[derive(Debug, Default)]
pub(super) struct HeadlessServices {
    services: Mutex<Services>,
    names: watch::Sender<Option<ServiceNames>>,
}

#[derive(Debug, Default)]
struct Services {
    /// Those that are headless now.
    headless: BTreeSet<Key>,
    /// Those that the list which is being read has brought so far.
    listing: Option<BTreeSet<Key>>,
}

impl HeadlessServices {
    /// Notes an event of the feed of Services.
    pub(super) fn note(&self, event: &Event) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = services.note(event) {
            self.names.send_replace(Some(names));
        }
    }

    /// The names of all headless Services; none before the first list has ended.
    fn names(&self) -> watch::Receiver<Option<ServiceNames>> {
        self.names.subscribe()
    }
}

impl Services {
    /// Takes an event in. The names of all headless Services, if that changed them.
    fn note(&mut self, event: &Event) -> Option<ServiceNames> {
        let is_changed = match event {
            Event::Listing(_) => {
                self.listing = Some(BTreeSet::new());
                false
            }
            Event::Listed(_) => {
                self.headless = self.listing.take().unwrap_or_default();
                true
            }
            Event::Applied {
                object: Object::Service(service),
                ..
            } if service.kind == ServiceKind::Headless => {
                let key = &service.key;
                if let Some(listing) = &mut self.listing {
                    listing.insert(key.clone());
                }
                self.headless.insert(key.clone())
            }
            Event::Applied { object, .. } => self.headless.remove(&object.key()),
            Event::Unusable {
                stand_in: Some(object),
                ..
            } => self.headless.remove(&object.key()),
            Event::Deleted { key, .. } => self.headless.remove(key),
            _ => false,
        };
        let is_known = is_changed && self.listing.is_none();
        is_known.then(|| {
            let names = self.headless.iter().map(|key| key.name.clone());
            Arc::new(names.collect())
        })
    }
}

/// Watches the slices of headless Services for as long as their events are received.
pub(super) async fn watch_slices(
    services: Arc<HeadlessServices>,
    slices: Selection,
    api: Arc<Api>,
    events: mpsc::Sender<Event>,
) {
    let is_received = events.clone();
    tokio::select! {
        () = is_received.closed() => {}
        () = follow(&services, slices, api, events) => {}
    }
}

async fn follow(
    services: &HeadlessServices,
    slices: Selection,
    api: Arc<Api>,
    events: mpsc::Sender<Event>,
) {
    let mut parts = Parts {
        slices,
        api,
        events,
        allotment: Allotment::default(),
        running: Vec::new(),
        tasks: JoinSet::new(),
    };
    let mut names = services.names();
    let mut pause = SHORTEST_PAUSE;
    let mut last_change = Instant::now();
    loop {
        let known = names.wait_for(Option::is_some).await;
        let Ok(Some(known)) = known.map(|known| known.clone()) else {
            return;
        };
        let has_changed = parts.follow(&known).await;
        if has_changed {
            pause = match last_change.elapsed() > pause * 4 {
                true => SHORTEST_PAUSE,
                false => (pause * 2).min(LONGEST_PAUSE),
            };
            last_change = Instant::now();
        }
        if names.changed().await.is_err() {
            return;
        }
        // More may come, and other agents have seen the same.
        sleep(pause + jitter(pause)).await;
    }
}

/// The parts, and the watches that follow them.
struct Parts {
    /// What is asked of all of them.
    slices: Selection,
    api: Arc<Api>,
    events: mpsc::Sender<Event>,
    allotment: Allotment,
    /// How each watch is told what to select.
    running: Vec<watch::Sender<Selection>>,
    tasks: JoinSet<()>,
}

impl Parts {
    /// Sees to it that all of these names are watched. Says whether that changed anything.
    async fn follow(&mut self, names: &ServiceNames) -> bool {
        let is_first = self.running.is_empty();
        match self.allotment.add(names) {
            Added::Nothing if is_first => {
                self.rest().await;
                false
            }
            Added::Nothing => false,
            Added::ToParts(changed) => {
                for part in changed {
                    self.select(part);
                }
                true
            }
            Added::SharedOut => {
                self.start_over().await;
                true
            }
        }
    }

    /// There is no headless Service, so there is nothing to ask for.
    async fn rest(&self) {
        self.api.health.becomes(Feed::SLICES, State::Resting);
        for event in [Event::Listing(Feed::SLICES), Event::Listed(Feed::SLICES)] {
            // When nobody receives any more, the reading ends.
            let _ = self.events.send(event).await;
        }
    }

    /// Tells a part's watch what to select, and starts it if it is not there.
    fn select(&mut self, part: usize) {
        let Some((feed, covered)) = self.allotment.covered(part) else {
            return;
        };
        let selection = self.slices.clone().of_services(feed, covered);
        if let Some(watch) = self.running.get(part) {
            watch.send_replace(selection);
            return;
        }
        self.api.health.add(feed);
        let (sender, selections) = watch::channel(selection);
        let reflector = Reflector::following(selections, self.api.clone(), self.events.clone());
        self.tasks.spawn(reflector.run(Duration::ZERO));
        self.running.push(sender);
    }

    /// Ends all watches and starts those of a new allotment. Until they have listed, every headless Service
    /// is delegated to CoreDNS.
    async fn start_over(&mut self) {
        self.tasks.shutdown().await;
        for part in 0..mem::take(&mut self.running).len() {
            let feed = feed(part);
            let nothing = Covered::Named(ServiceNames::default());
            for event in [
                Event::Covered(feed, nothing),
                Event::Listing(feed),
                Event::Listed(feed),
            ] {
                let _ = self.events.send(event).await;
            }
            self.api.health.becomes(feed, State::Resting);
        }
        for part in 0..self.allotment.parts() {
            self.select(part);
        }
    }
}

/// Which names each part has.
#[derive(Debug)]
enum Allotment {
    Named(Vec<BTreeSet<Arc<str>>>),
    /// There are too many names: the one part has every slice.
    Every,
}

/// What adding names has changed.
#[derive(Debug, PartialEq, Eq)]
enum Added {
    Nothing,
    /// These parts have more names.
    ToParts(BTreeSet<usize>),
    /// All parts are other ones.
    SharedOut,
}

impl Allotment {
    /// Adds the names that no part has.
    fn add(&mut self, names: &BTreeSet<Arc<str>>) -> Added {
        let Allotment::Named(parts) = self else {
            return Added::Nothing;
        };
        let mut changed = BTreeSet::new();
        for name in names {
            if parts.iter().any(|part| part.contains(name)) {
                continue;
            }
            match place(parts, name) {
                Some(part) => changed.insert(part),
                None => {
                    *self = Allotment::of(names);
                    return Added::SharedOut;
                }
            };
        }
        match changed.is_empty() {
            true => Added::Nothing,
            false => Added::ToParts(changed),
        }
    }

    /// Shares out these names, if they leave half of the room for others.
    fn of(names: &BTreeSet<Arc<str>>) -> Allotment {
        let mut parts = Vec::new();
        let fit = names.iter().all(|name| place(&mut parts, name).is_some());
        if fit && parts.len() <= usize::from(Feed::SLICE_PARTS / 2) {
            return Allotment::Named(parts);
        }
        warn!(
            services = names.len(),
            "there are too many headless Services to watch their EndpointSlices by name: watching all EndpointSlices"
        );
        Allotment::Every
    }

    fn parts(&self) -> usize {
        match self {
            Allotment::Named(parts) => parts.len(),
            Allotment::Every => 1,
        }
    }

    /// What a part covers.
    fn covered(&self, part: usize) -> Option<(Feed, Covered)> {
        let covered = match self {
            Allotment::Named(parts) => Covered::Named(Arc::new(parts.get(part)?.clone())),
            Allotment::Every => Covered::Every,
        };
        Some((feed(part), covered))
    }
}

impl Default for Allotment {
    fn default() -> Allotment {
        Allotment::Named(Vec::new())
    }
}

/// Puts a name into the last part, or into one more. The part's number; none if all are full.
fn place(parts: &mut Vec<BTreeSet<Arc<str>>>, name: &Arc<str>) -> Option<usize> {
    let bytes = |part: &BTreeSet<Arc<str>>| part.iter().map(|name| name.len() + 1).sum::<usize>();
    let has_room = parts
        .last()
        .is_some_and(|last| bytes(last) + name.len() < PART_BYTES);
    if !has_room {
        if parts.len() == usize::from(Feed::SLICE_PARTS) {
            return None;
        }
        parts.push(BTreeSet::new());
    }
    parts.last_mut()?.insert(name.clone());
    Some(parts.len() - 1)
}

/// The feed of a part. There are never more parts than [`Feed::SLICE_PARTS`].
fn feed(part: usize) -> Feed {
    Feed::Slices(u8::try_from(part).unwrap_or(u8::MAX))
}
