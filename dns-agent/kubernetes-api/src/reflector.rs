//! One feed: lists the objects, watches their changes, and recovers from failures.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};
use zerohop_kubernetes::Event;

use super::{
    ReceivedEvent,
    api_server::{ApiServer, Failure, MAX_SILENCE, ResponseBody},
    backoff::{Backoff, jitter},
    headless_services::HeadlessServices,
    health::{FeedActivity, RequestVerb},
    json_stream::{LineSplitter, ListSplitter},
    object::{ObjectJson, WatchEvent},
    selection::{FeedSelection, ResourceVersion},
};

/// Upper bound of the random delay before a list that all agents may need at the same time, such as
/// after an API server has lost a resource version. The back-off may raise it.
const LIST_JITTER: Duration = Duration::from_secs(5);
/// A watch that ends within this time counts as a failure and is reopened after a delay. Otherwise
/// an API server or a proxy that ends all watches at once would get requests without a pause.
const MIN_WATCH_DURATION: Duration = Duration::from_secs(1);
/// A feed lists again after its watches were open without an event for this long in total. A watch
/// from a version that the API server has not reached, as after a restore of etcd, opens and stays
/// silent. Without bookmarks, a watch of objects that don't change stays silent too.
const MAX_QUIET: Duration = MAX_SILENCE.saturating_mul(2);

/// Sends the events of one feed.
pub(super) struct Reflector {
    selection: FeedSelection,
    /// New selections, if the selection changes.
    selections: Option<watch::Receiver<FeedSelection>>,
    /// Receives the events too. `None` unless this is the Services feed of a source that watches
    /// the slices of headless Services.
    services: Option<Arc<HeadlessServices>>,
    api: Arc<ApiServer>,
    events: mpsc::Sender<ReceivedEvent>,
    /// When the bytes that are handled now were read from the connection. Their events may have to
    /// wait for room.
    read: Instant,
    next: NextRequest,
    /// The version that the next request refers to.
    version: ResourceVersion,
    backoff: Backoff,
    /// When the open watch was opened, or last had an event.
    quiet_since: Instant,
    /// How long earlier watches were open since the last event.
    quiet: Duration,
    /// Whether the current list has held the object, for feeds of a single object.
    single: SingleObject,
}

/// The next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextRequest {
    List,
    Watch,
}

/// The meaning of a watch's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WatchPhase {
    /// Events list the existing objects.
    Initial,
    /// Events report changes.
    Changes,
}

/// The object of a feed that reads a single object, such as the Corefile's ConfigMap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SingleObject {
    NotListed,
    /// The list held the object, readable or not.
    Listed,
}

impl Reflector {
    pub(super) fn new(
        selection: FeedSelection,
        api: Arc<ApiServer>,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> Reflector {
        Reflector {
            selection,
            selections: None,
            services: None,
            api,
            events,
            read: Instant::now(),
            next: NextRequest::List,
            version: ResourceVersion::Any,
            backoff: Backoff::default(),
            quiet_since: Instant::now(),
            quiet: Duration::ZERO,
            single: SingleObject::NotListed,
        }
    }

    /// A reflector that lists again whenever the selection changes.
    pub(super) fn with_changing_selection(
        mut selections: watch::Receiver<FeedSelection>,
        api: Arc<ApiServer>,
        events: mpsc::Sender<ReceivedEvent>,
    ) -> Reflector {
        let selection = selections.borrow_and_update().clone();
        Reflector {
            selections: Some(selections),
            ..Reflector::new(selection, api, events)
        }
    }

    /// Passes the feed's events to `services` too.
    pub(super) fn with_headless_services(self, services: Arc<HeadlessServices>) -> Reflector {
        Reflector {
            services: Some(services),
            ..self
        }
    }

    /// Sends events until the channel is closed.
    pub(super) async fn send_events(self, first_list_jitter: Duration) {
        let events = self.events.clone();
        tokio::select! {
            () = events.closed() => {}
            () = self.reflect(first_list_jitter) => {}
        }
    }

    async fn reflect(mut self, first_list_jitter: Duration) {
        sleep(jitter(first_list_jitter)).await;
        let mut selections = self.selections.take();
        loop {
            tokio::select! {
                biased;
                selection = next_selection(&mut selections) => {
                    self.selection = selection;
                    self.next = NextRequest::List;
                }
                () = self.send_next_request() => {}
            }
        }
    }

    /// Sends the next request and reads the response. Waits after a failure. If the future is
    /// dropped early, the next request must be a list, because an event may have been lost.
    async fn send_next_request(&mut self) {
        let result = match self.next {
            NextRequest::List if self.api.streams_lists() => self.read_streamed_list().await,
            NextRequest::List => self.read_list().await,
            NextRequest::Watch => self.read_changes().await,
        };
        if let Err(failure) = result {
            let pause = self.recover(&failure);
            self.report_failure(&failure, pause);
            sleep(pause).await;
        }
    }

    /// Reads a list.
    async fn read_list(&mut self) -> Result<(), Failure> {
        let request = self.selection.list_request(&self.version);
        let mut stream = self.open_stream(RequestVerb::List, request).await?;
        self.start_list().await;
        let mut list = ListSplitter::default();
        while let Some(bytes) = stream.next().await? {
            self.read = Instant::now();
            list.push(&bytes)?;
            while let Some(json) = list.next()? {
                let event = ObjectJson::new(self.selection.feed, json).applied_event();
                self.send_event(event).await;
            }
        }
        self.finish_list(list.finish()?).await;
        Ok(())
    }

    /// Reads a streamed list and, on the same stream, the changes after it.
    async fn read_streamed_list(&mut self) -> Result<(), Failure> {
        let request = self.selection.streamed_list_request(&self.version);
        match self.open_stream(RequestVerb::Watch, request).await {
            Ok(stream) => {
                self.start_list().await;
                self.follow_watch(stream, WatchPhase::Initial).await
            }
            Err(Failure::Refused { code, reason, .. }) if is_unknown_request(code) => {
                info!(%reason, "the API server doesn't support streamed lists: using plain lists");
                self.api.disable_streamed_lists();
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reads the changes after the last version seen.
    async fn read_changes(&mut self) -> Result<(), Failure> {
        // Never taken: a watch is requested only after a list, whose end sets the version.
        let ResourceVersion::Seen(version) = &self.version else {
            self.next = NextRequest::List;
            return Ok(());
        };
        if self.quiet >= MAX_QUIET {
            warn!(
                feed = self.selection.feed.name(),
                "the API server has sent no event for {} s, so the agent may have missed changes: \
                 it lists the objects again",
                MAX_QUIET.as_secs()
            );
            self.next = NextRequest::List;
            sleep(jitter(LIST_JITTER)).await;
            return Ok(());
        }
        let request = self.selection.watch_request(version);
        let stream = self.open_stream(RequestVerb::Watch, request).await?;
        self.set_activity(FeedActivity::Watching);
        self.follow_watch(stream, WatchPhase::Changes).await
    }

    /// Reads a watch to its end, and adds the time since its last event to `quiet`.
    async fn follow_watch(
        &mut self,
        stream: ResponseBody,
        phase: WatchPhase,
    ) -> Result<(), Failure> {
        self.quiet_since = Instant::now();
        let result = self.read_events(stream, phase).await;
        // A silent stream fails after MAX_SILENCE. Further time has another cause. For example,
        // this process or machine was suspended.
        self.quiet += self.quiet_since.elapsed().min(MAX_SILENCE);
        result
    }

    /// Reads a watch to its end, and sends its events.
    async fn read_events(
        &mut self,
        mut stream: ResponseBody,
        mut phase: WatchPhase,
    ) -> Result<(), Failure> {
        let opened = Instant::now();
        let mut lines = LineSplitter::default();
        while let Some(bytes) = stream.next().await? {
            self.read = Instant::now();
            lines.push(&bytes)?;
            while let Some(line) = lines.next() {
                phase = self
                    .handle_line(WatchEvent::new(self.selection.feed, line), phase)
                    .await?;
            }
        }
        lines.finish()?;
        if phase == WatchPhase::Initial {
            return Err(Failure::broken("the list broke off"));
        }
        if opened.elapsed() < MIN_WATCH_DURATION {
            return Err(Failure::broken(
                "the API server ended a watch within a second",
            ));
        }
        Ok(())
    }

    /// Handles a line of a watch: sends its event, or ends the initial list. After that list,
    /// advances the version. Returns the phase of the next line.
    async fn handle_line(
        &mut self,
        line: WatchEvent<'_>,
        phase: WatchPhase,
    ) -> Result<WatchPhase, Failure> {
        let feed = self.selection.feed;
        let (event, version) = match line {
            WatchEvent::Applied(object) => (
                Some(object.applied_event()),
                object.resource_version().map(str::to_owned),
            ),
            WatchEvent::Deleted(object) => (
                Some(object.deleted_event()),
                object.resource_version().map(str::to_owned),
            ),
            WatchEvent::Unreadable(problem) => (Some(Event::unusable(feed, problem)), None),
            WatchEvent::Bookmark(version) => (None, Some(version)),
            WatchEvent::InitialEnd(version) if phase == WatchPhase::Initial => {
                self.finish_list(version).await;
                self.set_activity(FeedActivity::Watching);
                return Ok(WatchPhase::Changes);
            }
            WatchEvent::InitialEnd(version) => (None, Some(version)),
            WatchEvent::Error(status) => {
                return Err(
                    Failure::from_status(status).with_advice(RequestVerb::Watch, &self.selection)
                );
            }
        };
        if let Some(event) = event {
            self.send_event(event).await;
        }
        if phase == WatchPhase::Changes {
            // The version of an object in an incomplete list is not the version of the list.
            if let Some(version) = version.filter(|version| !version.is_empty()) {
                self.version = ResourceVersion::Seen(version);
            }
            self.record_received();
        }
        Ok(phase)
    }

    async fn start_list(&mut self) {
        self.set_activity(FeedActivity::Listing);
        self.single = SingleObject::NotListed;
        self.send_event(Event::ListStarted(self.selection.feed))
            .await;
    }

    async fn finish_list(&mut self, version: String) {
        let feed = self.selection.feed;
        if let Some(absent) = Event::absent(feed).filter(|_| self.single == SingleObject::NotListed)
        {
            self.send_event(absent).await;
        }
        if let Some(covered) = self.selection.covers.clone() {
            self.send_event(Event::Covered(feed, covered)).await;
        }
        self.send_event(Event::ListEnded(feed)).await;
        self.version = ResourceVersion::Seen(version);
        self.next = NextRequest::Watch;
        self.api.health.record_received(feed);
        self.reset_quiet();
        debug!(feed = feed.name(), version = ?self.version, "listed");
    }

    /// Records that a watch works.
    fn record_received(&mut self) {
        self.api.health.record_received(self.selection.feed);
        self.reset_quiet();
        // A successful list doesn't reset the back-off. Otherwise an API server that lists and then
        // refuses the watch would receive list requests all the time.
        self.backoff.reset();
    }

    fn reset_quiet(&mut self) {
        self.quiet_since = Instant::now();
        self.quiet = Duration::ZERO;
    }

    async fn send_event(&mut self, event: Event) {
        let is_listed = matches!(event, Event::ConfigMap { .. } | Event::Unusable { .. });
        if is_listed {
            self.single = SingleObject::Listed;
        }
        self.api.health.count_event(self.selection.feed, &event);
        if let Some(services) = &self.services {
            services.apply_event(&event);
        }
        let event = ReceivedEvent {
            event,
            received: self.read.into_std(),
        };
        let Err(TrySendError::Full(event)) = self.events.try_send(event) else {
            // A closed channel ends `send_events`.
            return;
        };
        // Ends also if this future is dropped, for example because the selection changes.
        let _blocked = self.api.health.block(self.selection.feed);
        let _ = self.events.send(event).await;
    }

    async fn open_stream(
        &self,
        verb: RequestVerb,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<ResponseBody, Failure> {
        self.api.open_stream(verb, &self.selection, request).await
    }

    /// Chooses the next request after a failure. Returns how long to wait before that request.
    fn recover(&mut self, failure: &Failure) -> Duration {
        if *failure == Failure::Silent && self.next == NextRequest::Watch {
            // The silence of MAX_SILENCE was delay enough.
            return Duration::ZERO;
        }
        let ceiling = self.backoff.next_ceiling();
        match (failure, self.next) {
            // A list may succeed although the watch failed, because a list accepts newer states.
            (Failure::Expired(_), NextRequest::Watch) => {
                self.next = NextRequest::List;
                jitter(ceiling.max(LIST_JITTER))
            }
            // The request was refused as invalid, so repeating the same watch can't work.
            (
                Failure::Refused {
                    code: 400 | 422, ..
                },
                NextRequest::Watch,
            ) => {
                self.next = NextRequest::List;
                jitter(ceiling.max(LIST_JITTER))
            }
            // The API server doesn't have the version, so the next list accepts its newest state.
            (Failure::Expired(_), NextRequest::List) => {
                self.version = ResourceVersion::Newest;
                jitter(ceiling.max(LIST_JITTER))
            }
            (Failure::Refused { retry_after, .. }, _) => *retry_after + jitter(ceiling),
            (Failure::Broken(_) | Failure::Silent, _) => jitter(ceiling),
        }
    }

    fn set_activity(&self, activity: FeedActivity) {
        let feed = self.selection.feed;
        if let FeedActivity::Retrying { error } = self.api.health.set_activity(feed, activity) {
            info!(
                feed = feed.name(),
                after = error,
                "the API server responds again"
            );
        }
    }

    fn report_failure(&self, failure: &Failure, pause: Duration) {
        let feed = self.selection.feed;
        let error = failure.to_string();
        let activity = FeedActivity::Retrying {
            error: error.clone(),
        };
        match self.api.health.set_activity(feed, activity) {
            FeedActivity::Retrying { .. } => debug!(feed = feed.name(), error, ?pause, "retrying"),
            _ => warn!(
                feed = feed.name(),
                error,
                ?pause,
                "a request to the API server failed: \
                 the agent uses the objects that it received so far, and retries"
            ),
        }
    }
}

/// The next selection. Never completes if the selection doesn't change any more.
async fn next_selection(selections: &mut Option<watch::Receiver<FeedSelection>>) -> FeedSelection {
    if let Some(selections) = selections
        && selections.changed().await.is_ok()
    {
        return selections.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Whether the status code is taken to mean that the API server doesn't support the form of the
/// request. The codes excluded here reject the credentials, the resource or its version, or ask the
/// client to wait. Codes from 500 report errors of the server.
fn is_unknown_request(code: u16) -> bool {
    (400..500).contains(&code) && !matches!(code, 401 | 403 | 404 | 408 | 409 | 410 | 429)
}
