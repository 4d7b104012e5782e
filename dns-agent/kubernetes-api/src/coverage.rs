//! Watches every EndpointSlice of the headless Services, by the label that assigns a slice to its
//! Service.
//!
//! The selector is `kubernetes.io/service-name in (…)` with the names of all headless Services of
//! all namespaces, combined with the operator's selector if there is one. Without the operator's
//! selector it selects every slice of these Services, because CoreDNS finds a Service's slices by
//! the same label. Other labels may be out of date. For example, a controller sets
//! `service.kubernetes.io/headless` when it next writes a slice, not when the Service becomes
//! headless (Kubernetes 1.35, `staging/src/k8s.io/endpointslice/utils.go`).
//!
//! A request holds a limited number of names, so the names are divided into *parts*. Each part has
//! its own watch. A new name goes into the last part, or into a new part if the last one is full,
//! and this part lists again. Names of Services that are no longer headless stay, because watching
//! them costs little. When all parts are full, the names of the Services that are headless now are
//! divided again. If they fill more than half of the parts, the label is not in the selector from
//! then on, so slices of all Services are watched.
//!
//! [`Event::Covered`] reports the Services whose slices a part has listed. All other headless
//! Services are delegated to CoreDNS.

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::warn;
use zerohop_kubernetes::{Covered, Event, Feed, ServiceNames};

use super::{
    ReceivedEvent, api_server::ApiServer, backoff::jitter, headless_services::HeadlessServices,
    health::FeedActivity, reflector::Reflector, selection::FeedSelection,
};

/// Upper bound on the names of one part, joined with commas, in bytes. Common proxies in front of
/// API servers accept request lines of 8 KiB, and an encoded comma is three bytes: a part of names
/// of three letters takes 6 KiB.
const PART_BYTES: usize = 4096;
/// Shortest delay between a new name and the list of its part, so that one list serves several new
/// names. A random time of at most the same length is added to each delay.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Longest delay between a new name and the list of its part, without the random time. The delay
/// doubles while new names keep arriving. Therefore a client that keeps creating Services with new
/// names costs the API server about one list of one part by each agent in this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Watches the EndpointSlices of headless Services until the event channel is closed.
pub(super) async fn watch_slices(
    services: Arc<HeadlessServices>,
    slices: FeedSelection,
    api: Arc<ApiServer>,
    events: mpsc::Sender<ReceivedEvent>,
) {
    let event_channel = events.clone();
    tokio::select! {
        () = event_channel.closed() => {}
        () = follow_names(&services, slices, api, events) => {}
    }
}

/// Adds the names of new headless Services to the watches, until the names can't change any more.
async fn follow_names(
    services: &HeadlessServices,
    slices: FeedSelection,
    api: Arc<ApiServer>,
    events: mpsc::Sender<ReceivedEvent>,
) {
    let mut watches = SliceWatches {
        slices,
        api,
        events,
        allotment: Allotment::default(),
        running: Vec::new(),
        tasks: JoinSet::new(),
    };
    let mut names = services.subscribe_names();
    let mut pause = SHORTEST_PAUSE;
    let mut last_change = Instant::now();
    loop {
        // `None` until the Services have been listed.
        let current = names.wait_for(Option::is_some).await;
        let Ok(Some(current)) = current.map(|current| current.clone()) else {
            return;
        };
        let watches_changed = watches.add_names(&current).await;
        if watches_changed {
            // The next delay is the shortest again if the last change is much longer ago than the
            // delay.
            pause = if last_change.elapsed() > pause * 4 {
                SHORTEST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
            last_change = Instant::now();
        }
        if names.changed().await.is_err() {
            return;
        }
        // One list may serve several new names. The jitter spreads the lists of all agents.
        sleep(pause + jitter(pause)).await;
    }
}

/// The parts, and the watch of each part.
struct SliceWatches {
    /// The selection that all parts share.
    slices: FeedSelection,
    api: Arc<ApiServer>,
    events: mpsc::Sender<ReceivedEvent>,
    allotment: Allotment,
    /// The sender of each watch's selection.
    running: Vec<watch::Sender<FeedSelection>>,
    tasks: JoinSet<()>,
}

impl SliceWatches {
    /// Makes the watches cover all of these names. Returns whether a watch started or changed. If
    /// there was never a headless Service, reports an empty list instead.
    async fn add_names(&mut self, names: &ServiceNames) -> bool {
        let has_no_watch = self.running.is_empty();
        match self.allotment.add_names(names) {
            AllotmentChange::Nothing if has_no_watch => {
                self.report_no_services().await;
                false
            }
            AllotmentChange::Nothing => false,
            AllotmentChange::PartsGrew(changed) => {
                for part in changed {
                    self.update_watch(part);
                }
                true
            }
            AllotmentChange::Redivided => {
                self.restart_watches().await;
                true
            }
        }
    }

    /// Reports an empty list, because there is no headless Service.
    async fn report_no_services(&self) {
        self.api
            .health
            .set_activity(Feed::SLICES, FeedActivity::Resting);
        for event in [
            Event::ListStarted(Feed::SLICES),
            Event::ListEnded(Feed::SLICES),
        ] {
            // A closed channel ends the source.
            let _ = self.events.send(ReceivedEvent::now(event)).await;
        }
    }

    /// Updates the selection of a part's watch, or starts the watch.
    fn update_watch(&mut self, part: usize) {
        let Some((feed, covered)) = self.allotment.covered(part) else {
            return;
        };
        let selection = self.slices.clone().of_services(feed, covered);
        if let Some(watch) = self.running.get(part) {
            watch.send_replace(selection);
            return;
        }
        self.api.health.add_feed(feed);
        let (sender, selections) = watch::channel(selection);
        let reflector =
            Reflector::with_changing_selection(selections, self.api.clone(), self.events.clone());
        self.tasks.spawn(reflector.send_events(Duration::ZERO));
        self.running.push(sender);
    }

    /// Ends all watches and starts the watches of a new allotment. Until the new watches have
    /// listed, every headless Service is delegated to CoreDNS.
    async fn restart_watches(&mut self) {
        self.tasks.shutdown().await;
        let stopped = mem::take(&mut self.running);
        for part in 0..stopped.len() {
            let feed = part_feed(part);
            let nothing = Covered::Named(ServiceNames::default());
            // The empty list removes the slices that this part has reported.
            for event in [
                Event::Covered(feed, nothing),
                Event::ListStarted(feed),
                Event::ListEnded(feed),
            ] {
                let _ = self.events.send(ReceivedEvent::now(event)).await;
            }
            self.api.health.set_activity(feed, FeedActivity::Resting);
        }
        for part in 0..self.allotment.part_count() {
            self.update_watch(part);
        }
    }
}

/// The division of names into parts.
#[derive(Debug)]
enum Allotment {
    /// The names of each part.
    Named(Vec<BTreeSet<Arc<str>>>),
    /// A single part with every slice, because there are too many names.
    Every,
}

/// The effect of adding names on an allotment.
#[derive(Debug, PartialEq, Eq)]
enum AllotmentChange {
    Nothing,
    /// These parts have more names.
    PartsGrew(BTreeSet<usize>),
    /// The names were divided into new parts, or there is now a single part with every slice.
    Redivided,
}

impl Allotment {
    /// Adds the names that are in no part yet.
    fn add_names(&mut self, names: &BTreeSet<Arc<str>>) -> AllotmentChange {
        let Allotment::Named(parts) = self else {
            return AllotmentChange::Nothing;
        };
        let mut changed = BTreeSet::new();
        for name in names {
            if parts.iter().any(|part| part.contains(name)) {
                continue;
            }
            match add_to_last_part(parts, name) {
                Some(part) => changed.insert(part),
                None => {
                    *self = Allotment::divide(names);
                    return AllotmentChange::Redivided;
                }
            };
        }
        if changed.is_empty() {
            AllotmentChange::Nothing
        } else {
            AllotmentChange::PartsGrew(changed)
        }
    }

    /// Divides the names into parts, or chooses every slice if the names fill more than half of the
    /// parts.
    fn divide(names: &BTreeSet<Arc<str>>) -> Allotment {
        let mut parts = Vec::new();
        let fit = names
            .iter()
            .all(|name| add_to_last_part(&mut parts, name).is_some());
        if fit && parts.len() <= usize::from(Feed::SLICE_PARTS / 2) {
            return Allotment::Named(parts);
        }
        warn!(
            services = names.len(),
            "there are too many headless Services to watch their EndpointSlices by name: \
             the agent watches all EndpointSlices, which costs more network traffic and CPU time; \
             DNS answers stay complete"
        );
        Allotment::Every
    }

    fn part_count(&self) -> usize {
        match self {
            Allotment::Named(parts) => parts.len(),
            Allotment::Every => 1,
        }
    }

    /// The feed of a part and the Services that the part covers. `None` if there is no such part.
    fn covered(&self, part: usize) -> Option<(Feed, Covered)> {
        let covered = match self {
            Allotment::Named(parts) => Covered::Named(Arc::new(parts.get(part)?.clone())),
            Allotment::Every => Covered::Every,
        };
        Some((part_feed(part), covered))
    }
}

impl Default for Allotment {
    fn default() -> Allotment {
        Allotment::Named(Vec::new())
    }
}

/// Adds a name to the last part, or to a new part if the last one is full. Returns the part's
/// number, or `None` if all parts are full.
fn add_to_last_part(parts: &mut Vec<BTreeSet<Arc<str>>>, name: &Arc<str>) -> Option<usize> {
    // Each name is counted with a comma.
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
fn part_feed(part: usize) -> Feed {
    Feed::Slices(u8::try_from(part).unwrap_or(u8::MAX))
}
