//! What is known of each feed: whether it works, and how old what it told may be.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::source::{Event, Feed};

/// How all feeds are.
#[derive(Debug)]
pub struct Health(Mutex<Known>);

/// How one feed is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedHealth {
    /// What it does.
    pub state: State,
    /// Since when it does that.
    pub since: Instant,
    /// When the API server last told something of it: a list's end, and after that a change or a bookmark.
    /// That a watch could be opened doesn't count. None before the first list has ended.
    pub heard: Option<Instant>,
    /// What it means that it has told nothing yet.
    silence: Silence,
    /// The lists asked for.
    pub lists: u64,
    /// The watches asked for, those that begin with a list among them.
    pub watches: u64,
    /// The objects told as they are now, by lists and by watches.
    pub applied: u64,
    /// The objects that could not be used.
    pub unusable: u64,
}

/// What it means that a feed has told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// What depends on it waits.
    Counts,
    /// Nothing depends on it before it tells something.
    Harmless,
}

/// What a feed does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Has nothing to ask for, as where there is no headless Service.
    Resting,
    /// Waits for its turn, or for an answer, to list for the first time.
    Waiting,
    /// Reads a list.
    Listing,
    /// Reads changes.
    Watching,
    /// Waits, or tries again after an error. It lasts until the API server answers.
    Retrying {
        /// What went wrong the last time, and what to do.
        error: String,
    },
}

/// The requests made to the API server, by their verb as RBAC and the API server's metrics know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Lists.
    pub list: u64,
    /// Watches, those that begin with a list among them.
    pub watch: u64,
    /// Others.
    pub get: u64,
}

/// What a request for objects is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    Watch,
}

#[derive(Debug)]
struct Known {
    feeds: BTreeMap<Feed, FeedHealth>,
    got: u64,
}

impl Health {
    /// How long ago the feed that is worst off was last heard; none while there is a feed whose first list
    /// has not ended.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let ages = self
            .known()
            .feeds
            .values()
            .map(FeedHealth::age)
            .collect::<Option<Vec<_>>>()?;
        ages.into_iter().max()
    }

    /// Every feed.
    #[must_use]
    pub fn feeds(&self) -> BTreeMap<Feed, FeedHealth> {
        self.known().feeds.clone()
    }

    /// The requests made so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        let known = self.known();
        Requests {
            list: known.feeds.values().map(|feed| feed.lists).sum(),
            watch: known.feeds.values().map(|feed| feed.watches).sum(),
            get: known.got,
        }
    }

    pub(super) fn new(feeds: impl Iterator<Item = Feed>) -> Health {
        let feeds = feeds.map(|feed| (feed, FeedHealth::new())).collect();
        Health(Mutex::new(Known { feeds, got: 0 }))
    }

    /// There is one more feed, or one again. What it is to tell is not answered before it has told it, so
    /// nothing waits for it.
    pub(super) fn add(&self, feed: Feed) {
        let mut known = self.known();
        let health = known.feeds.entry(feed).or_insert_with(FeedHealth::new);
        health.heard = None;
        health.silence = Silence::Harmless;
        health.becomes(State::Waiting);
    }

    /// A feed asks.
    pub(super) fn requested(&self, feed: Feed, verb: Verb) {
        self.change(feed, |health| match verb {
            Verb::List => health.lists += 1,
            Verb::Watch => health.watches += 1,
        });
    }

    /// Something else was asked.
    pub(super) fn got(&self) {
        self.known().got += 1;
    }

    /// A feed does something else now. How it was before.
    pub(super) fn becomes(&self, feed: Feed, state: State) -> State {
        let mut before = State::Waiting;
        self.change(feed, |health| before = health.becomes(state));
        before
    }

    /// A list has ended, or a change or bookmark came after it.
    pub(super) fn heard(&self, feed: Feed) {
        self.change(feed, |health| {
            health.heard = Some(Instant::now());
            health.silence = Silence::Counts;
        });
    }

    /// A feed tells an event.
    pub(super) fn told(&self, feed: Feed, event: &Event) {
        self.change(feed, |health| match event {
            Event::Applied { .. }
            | Event::Corefile { text: Some(_), .. }
            | Event::CacheConfig { data: Some(_), .. } => health.applied += 1,
            Event::Unusable { .. } => health.unusable += 1,
            Event::Listing(_)
            | Event::Listed(_)
            | Event::Covered(..)
            | Event::Deleted { .. }
            | Event::Corefile { text: None, .. }
            | Event::CacheConfig { data: None, .. } => {}
        });
    }

    fn change(&self, feed: Feed, change: impl FnOnce(&mut FeedHealth)) {
        if let Some(health) = self.known().feeds.get_mut(&feed) {
            change(health);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedHealth {
    /// How long ago it was heard; none before its first list has ended. Nothing is missed while it rests,
    /// nor while nothing depends on it.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        if self.state == State::Resting || self.silence == Silence::Harmless {
            return Some(Duration::ZERO);
        }
        self.heard.map(|heard| heard.elapsed())
    }

    fn new() -> FeedHealth {
        FeedHealth {
            state: State::Waiting,
            since: Instant::now(),
            heard: None,
            silence: Silence::Counts,
            lists: 0,
            watches: 0,
            applied: 0,
            unusable: 0,
        }
    }

    fn becomes(&mut self, state: State) -> State {
        let goes_on = matches!(
            (&self.state, &state),
            (State::Resting, State::Resting)
                | (State::Waiting, State::Waiting)
                | (State::Listing, State::Listing)
                | (State::Watching, State::Watching)
                | (State::Retrying { .. }, State::Retrying { .. })
        );
        if !goes_on {
            self.since = Instant::now();
        }
        std::mem::replace(&mut self.state, state)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::List => "list",
            Verb::Watch => "watch",
        })
    }
}
