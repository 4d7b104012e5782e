//! One feed: lists what there is, watches what changes, and finds back after whatever goes wrong.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{
    api::{Api, Failure, SILENCE, Stream},
    backoff::{Backoff, jitter},
    coverage::HeadlessServices,
    health::{State, Verb},
    object::{Change, Item},
    pieces::{Lines, ListPieces},
    selection::{Selection, Since},
};
use crate::source::Event;

/// A list that an API server made necessary, maybe for all agents at once, waits for up to this time.
const LIST_JITTER: Duration = Duration::from_secs(5);
/// A watch that ends sooner is not reopened at once, or an API server, or what stands before it, that ends
/// all of them would be asked without a pause.
const SHORT: Duration = Duration::from_secs(1);
/// A feed whose watches were open for so long, together, and said nothing lists again. A watch from a
/// version that the API server has not reached, as after etcd was restored, is opened and stays silent; and
/// without bookmarks silence would be all there is to tell of objects that don't change.
const QUIET: Duration = SILENCE.saturating_mul(2);

/// Keeps whoever listens informed of the objects of one feed.
pub(super) struct Reflector {
    selection: Selection,
    /// What is to be selected from now on, if that changes.
    selections: Option<watch::Receiver<Selection>>,
    /// Who notes the Services that are headless.
    services: Option<Arc<HeadlessServices>>,
    api: Arc<Api>,
    events: mpsc::Sender<Event>,
    next: Next,
    since: Since,
    backoff: Backoff,
    /// When the open watch was opened, or said something.
    quiet_since: Instant,
    /// How long the watches before it said nothing, since one of them did.
    quiet: Duration,
    /// Whether the only object of a feed with one object was in the list, readable or not.
    single: Single,
}

/// What is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    List,
    Watch,
}

/// What a watch's events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The objects that there are.
    Initial,
    /// Changes.
    Changes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Single {
    Unlisted,
    Listed,
}

impl Reflector {
    pub(super) fn new(
        selection: Selection,
        api: Arc<Api>,
        events: mpsc::Sender<Event>,
    ) -> Reflector {
        Reflector {
            selection,
            selections: None,
            services: None,
            api,
            events,
            next: Next::List,
            since: Since::Any,
            backoff: Backoff::default(),
            quiet_since: Instant::now(),
            quiet: Duration::ZERO,
            single: Single::Unlisted,
        }
    }

    /// One that lists again whenever the selection changes.
    pub(super) fn following(
        mut selections: watch::Receiver<Selection>,
        api: Arc<Api>,
        events: mpsc::Sender<Event>,
    ) -> Reflector {
        let selection = selections.borrow_and_update().clone();
        Reflector {
            selections: Some(selections),
            ..Reflector::new(selection, api, events)
        }
    }

    /// The same, whose Services are noted.
    pub(super) fn noting(self, services: Arc<HeadlessServices>) -> Reflector {
        Reflector {
            services: Some(services),
            ..self
        }
    }

    /// Goes on until nobody listens any more.
    pub(super) async fn run(self, first_list_jitter: Duration) {
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
                selection = changed(&mut selections) => {
                    self.selection = selection;
                    self.next = Next::List;
                }
                () = self.step() => {}
            }
        }
    }

    /// Asks for what comes next, and waits after a failure. What it was doing may be given up at any time, if a
    /// list follows.
    async fn step(&mut self) {
        let done = match self.next {
            Next::List if self.api.streams_lists() => self.streamed_list().await,
            Next::List => self.list().await,
            Next::Watch => self.watch().await,
        };
        if let Err(failure) = done {
            let pause = self.recover(&failure);
            self.tell_trouble(&failure, pause);
            sleep(pause).await;
        }
    }

    /// Reads a list.
    async fn list(&mut self) -> Result<(), Failure> {
        let request = self.selection.list(&self.since);
        let mut stream = self.open(Verb::List, request).await?;
        self.listing().await;
        let mut list = ListPieces::default();
        while let Some(octets) = stream.next().await? {
            list.push(&octets)?;
            while let Some(json) = list.next()? {
                let event = Item::new(self.selection.feed, json).applied();
                self.tell(event).await;
            }
        }
        self.listed(list.finish()?).await;
        Ok(())
    }

    /// Reads a list and, on the same stream, the changes after it.
    async fn streamed_list(&mut self) -> Result<(), Failure> {
        let request = self.selection.streamed_list(&self.since);
        match self.open(Verb::Watch, request).await {
            Ok(stream) => {
                self.listing().await;
                self.follow(stream, Phase::Initial).await
            }
            Err(Failure::Refused { code, reason, .. }) if is_unknown_request(code) => {
                info!(%reason, "the API server sends no lists as streams: asking for plain ones");
                self.api.stream_no_lists();
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reads the changes after what is known.
    async fn watch(&mut self) -> Result<(), Failure> {
        let Since::Seen(version) = &self.since else {
            self.next = Next::List;
            return Ok(());
        };
        if self.quiet >= QUIET {
            warn!(
                feed = self.selection.feed.name(),
                "watches say nothing: listing again"
            );
            self.next = Next::List;
            sleep(jitter(LIST_JITTER)).await;
            return Ok(());
        }
        let request = self.selection.watch(version);
        let stream = self.open(Verb::Watch, request).await?;
        self.becomes(State::Watching);
        self.follow(stream, Phase::Changes).await
    }

    /// Reads a watch to its end.
    async fn follow(&mut self, stream: Stream, phase: Phase) -> Result<(), Failure> {
        self.quiet_since = Instant::now();
        let done = self.take_all(stream, phase).await;
        // Longer than that it was this process that didn't run.
        self.quiet += self.quiet_since.elapsed().min(SILENCE);
        done
    }

    async fn take_all(&mut self, mut stream: Stream, mut phase: Phase) -> Result<(), Failure> {
        let opened = Instant::now();
        let mut lines = Lines::default();
        while let Some(octets) = stream.next().await? {
            lines.push(&octets)?;
            while let Some(line) = lines.next() {
                phase = self
                    .take(Change::new(self.selection.feed, line), phase)
                    .await?;
            }
        }
        lines.finish()?;
        if phase == Phase::Initial {
            return Err(Failure::broken("the list broke off"));
        }
        if opened.elapsed() < SHORT {
            return Err(Failure::broken("the API server ended a watch at once"));
        }
        Ok(())
    }

    /// Passes on what a watch says. What the next event will be.
    async fn take(&mut self, change: Change<'_>, phase: Phase) -> Result<Phase, Failure> {
        let feed = self.selection.feed;
        let (event, version) = match change {
            Change::Applied(item) => (Some(item.applied()), item.version().map(str::to_owned)),
            Change::Deleted(item) => (Some(item.deleted()), item.version().map(str::to_owned)),
            Change::Unreadable(problem) => (Some(Event::unusable(feed, problem)), None),
            Change::Bookmark(version) => (None, Some(version)),
            Change::InitialEnd(version) if phase == Phase::Initial => {
                self.listed(version).await;
                self.becomes(State::Watching);
                return Ok(Phase::Changes);
            }
            Change::InitialEnd(version) => (None, Some(version)),
            Change::Error(status) => {
                return Err(Failure::told(status).explained(Verb::Watch, &self.selection));
            }
        };
        if let Some(event) = event {
            self.tell(event).await;
        }
        if phase == Phase::Changes {
            // Until a list is whole, its objects' versions say nothing of the others.
            if let Some(version) = version.filter(|version| !version.is_empty()) {
                self.since = Since::Seen(version);
            }
            self.heard();
        }
        Ok(phase)
    }

    async fn listing(&mut self) {
        self.becomes(State::Listing);
        self.single = Single::Unlisted;
        self.tell(Event::Listing(self.selection.feed)).await;
    }

    async fn listed(&mut self, version: String) {
        let feed = self.selection.feed;
        if let Some(absent) = Event::absent(feed).filter(|_| self.single == Single::Unlisted) {
            self.tell(absent).await;
        }
        if let Some(covered) = self.selection.covers.clone() {
            self.tell(Event::Covered(feed, covered)).await;
        }
        self.tell(Event::Listed(feed)).await;
        self.since = Since::Seen(version);
        self.next = Next::Watch;
        self.api.health.heard(feed);
        self.end_quiet();
        debug!(feed = feed.name(), since = ?self.since, "listed");
    }

    /// A watch works.
    fn heard(&mut self) {
        self.api.health.heard(self.selection.feed);
        self.end_quiet();
        // A list alone is not enough: an API server that lists, and then refuses to watch from there,
        // would have to list all the time.
        self.backoff.reset();
    }

    fn end_quiet(&mut self) {
        self.quiet_since = Instant::now();
        self.quiet = Duration::ZERO;
    }

    async fn tell(&mut self, event: Event) {
        let is_single = matches!(
            event,
            Event::Corefile { .. } | Event::CacheConfig { .. } | Event::Unusable { .. }
        );
        if is_single {
            self.single = Single::Listed;
        }
        self.api.health.told(self.selection.feed, &event);
        if let Some(services) = &self.services {
            services.note(&event);
        }
        // When nobody listens any more, `run` ends.
        let _ = self.events.send(event).await;
    }

    async fn open(
        &self,
        verb: Verb,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Stream, Failure> {
        self.api.open(verb, &self.selection, request).await
    }

    /// Decides what to do after a failure, and how long to wait before.
    fn recover(&mut self, failure: &Failure) -> Duration {
        if *failure == Failure::Silent && self.next == Next::Watch {
            // It waited long enough.
            return Duration::ZERO;
        }
        let ceiling = self.backoff.ceiling();
        match (failure, self.next) {
            // What a watch can't go on from, a list may still have reached: as long as it isn't older, any
            // state will do.
            (Failure::Expired(_), Next::Watch) => {
                self.next = Next::List;
                jitter(ceiling.max(LIST_JITTER))
            }
            // Not the version, but the request as a whole was refused: watching like this can't work.
            (
                Failure::Refused {
                    code: 400 | 422, ..
                },
                Next::Watch,
            ) => {
                self.next = Next::List;
                jitter(ceiling.max(LIST_JITTER))
            }
            (Failure::Expired(_), Next::List) => {
                self.since = Since::Newest;
                jitter(ceiling.max(LIST_JITTER))
            }
            (Failure::Refused { retry_after, .. }, _) => *retry_after + jitter(ceiling),
            (Failure::Broken(_) | Failure::Silent, _) => jitter(ceiling),
        }
    }

    fn becomes(&self, state: State) {
        let feed = self.selection.feed;
        if let State::Retrying { error } = self.api.health.becomes(feed, state) {
            info!(
                feed = feed.name(),
                after = error,
                "the API server answers again"
            );
        }
    }

    fn tell_trouble(&self, failure: &Failure, pause: Duration) {
        let feed = self.selection.feed;
        let error = failure.to_string();
        let state = State::Retrying {
            error: error.clone(),
        };
        match self.api.health.becomes(feed, state) {
            State::Retrying { .. } => debug!(feed = feed.name(), error, ?pause, "trying again"),
            _ => warn!(feed = feed.name(), error, ?pause, "trying again"),
        }
    }
}

/// The next selection; never, when it doesn't change any more.
async fn changed(selections: &mut Option<watch::Receiver<Selection>>) -> Selection {
    if let Some(selections) = selections
        && selections.changed().await.is_ok()
    {
        return selections.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Whether the API server refuses not who asks or what is asked for, but how.
fn is_unknown_request(code: u16) -> bool {
    (400..500).contains(&code) && !matches!(code, 401 | 403 | 404 | 408 | 409 | 410 | 429)
}
