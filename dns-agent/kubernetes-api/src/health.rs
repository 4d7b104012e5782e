//! The health of each feed: its activity, its age and its counters.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use zerohop_kubernetes::{Event, Feed};

/// The health of a source's feeds, shared between the feeds and readers such as `/status`.
#[derive(Debug)]
pub struct SourceHealth(Mutex<HealthRecords>);

/// The health of one feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedHealth {
    /// The feed's current activity.
    pub activity: FeedActivity,
    /// When the activity began.
    pub since: Instant,
    /// When the API server last sent the end of a list or, after the list, a change or a bookmark.
    /// The start of a watch doesn't count. `None` before the first list has ended, also for a feed
    /// that has been restarted. For [`Feed::PolicyKinds`]: when the last successful poll ended.
    pub last_received: Option<Instant>,
    silence: SilenceRule,
    /// Since when an event of the feed waits because the agent takes no more events. `None` if none
    /// waits.
    pub blocked_since: Option<Instant>,
    /// Number of list requests.
    pub lists: u64,
    /// Number of watch requests, including streamed lists.
    pub watches: u64,
    /// Number of events for existing objects, from lists and watches.
    pub applied: u64,
    /// Number of [`Event::Unusable`]: unusable objects, and events that can't be parsed.
    pub unusable: u64,
}

/// Whether the time since a feed last received data counts as the feed's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SilenceRule {
    /// Counts. The kernel answers nothing before the first list of a feed that exists from the
    /// start, and afterwards answers the names that depend on it.
    Counts,
    /// Doesn't count, until the first list of a feed that was added later has ended. Meanwhile
    /// CoreDNS answers the names that depend on it, so silence makes no answer outdated.
    Ignored,
}

/// The current activity of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedActivity {
    /// Has no request to send, for example because there is no headless Service.
    Resting,
    /// Waits to send its first list request, or for the response.
    Waiting,
    /// Reads a list, or waits for the response to the watch request after it.
    Listing,
    /// Reads changes, or requests the next watch or list after a watch has ended. For
    /// [`Feed::PolicyKinds`]: the last poll succeeded.
    Watching,
    /// Waits or retries after an error, until the API server responds.
    Retrying {
        /// The last error, with advice for the operator.
        error: String,
    },
}

/// Numbers of requests sent to the API server, by the verb that RBAC and the API server's metrics
/// use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// List requests.
    pub list: u64,
    /// Watch requests, including streamed lists.
    pub watch: u64,
    /// Requests for other documents, such as the API server's version.
    pub get: u64,
}

/// The verb of a request for objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestVerb {
    List,
    Watch,
}

/// An event of a feed that waits. When it is dropped, the event no longer waits.
pub(super) struct BlockedFeed<'a> {
    health: &'a SourceHealth,
    feed: Feed,
}

impl Drop for BlockedFeed<'_> {
    fn drop(&mut self) {
        self.health.set_blocked(self.feed, None);
    }
}

#[derive(Debug)]
struct HealthRecords {
    feeds: BTreeMap<Feed, FeedHealth>,
    gets: u64,
}

impl SourceHealth {
    /// The largest [`FeedHealth::age`] of all feeds. `None` if the age of any feed is `None`, or if
    /// there is no feed.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let ages = self
            .records()
            .feeds
            .values()
            .map(FeedHealth::age)
            .collect::<Option<Vec<_>>>()?;
        ages.into_iter().max()
    }

    /// Since when the event of a feed that has waited longest waits because the agent takes no more
    /// events. `None` if none waits.
    #[must_use]
    pub fn blocked_since(&self) -> Option<Instant> {
        let records = self.records();
        let feeds = records.feeds.values();
        feeds.filter_map(|feed| feed.blocked_since).min()
    }

    /// The health of every feed.
    #[must_use]
    pub fn feeds(&self) -> BTreeMap<Feed, FeedHealth> {
        self.records().feeds.clone()
    }

    /// The numbers of requests sent so far.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        let records = self.records();
        RequestCounts {
            list: records.feeds.values().map(|feed| feed.lists).sum(),
            watch: records.feeds.values().map(|feed| feed.watches).sum(),
            get: records.gets,
        }
    }

    pub(super) fn new(feeds: impl Iterator<Item = Feed>) -> SourceHealth {
        let feeds = feeds.map(|feed| (feed, FeedHealth::new())).collect();
        SourceHealth(Mutex::new(HealthRecords { feeds, gets: 0 }))
    }

    /// Adds a feed, or restarts one. Its age is zero until its first list has ended, because names
    /// that depend on the feed pass until then.
    pub(super) fn add_feed(&self, feed: Feed) {
        let mut records = self.records();
        let health = records.feeds.entry(feed).or_insert_with(FeedHealth::new);
        health.last_received = None;
        health.silence = SilenceRule::Ignored;
        health.set_activity(FeedActivity::Waiting);
    }

    /// Records that an event of a feed waits from now on, until the result is dropped.
    pub(super) fn block(&self, feed: Feed) -> BlockedFeed<'_> {
        self.set_blocked(feed, Some(Instant::now()));
        BlockedFeed { health: self, feed }
    }

    fn set_blocked(&self, feed: Feed, since: Option<Instant>) {
        if let Some(health) = self.records().feeds.get_mut(&feed) {
            health.blocked_since = since;
        }
    }

    /// Counts a request of a feed.
    pub(super) fn count_request(&self, feed: Feed, verb: RequestVerb) {
        self.update(feed, |health| match verb {
            RequestVerb::List => health.lists += 1,
            RequestVerb::Watch => health.watches += 1,
        });
    }

    /// Counts a request for a document that isn't a list of objects.
    pub(super) fn count_get(&self) {
        self.records().gets += 1;
    }

    /// Sets a feed's activity. Returns the previous activity, or [`FeedActivity::Waiting`] if there
    /// is no such feed.
    pub(super) fn set_activity(&self, feed: Feed, activity: FeedActivity) -> FeedActivity {
        let mut before = FeedActivity::Waiting;
        self.update(feed, |health| before = health.set_activity(activity));
        before
    }

    /// Records that the API server sent the end of a list or, after a list, a change or a bookmark.
    pub(super) fn record_received(&self, feed: Feed) {
        self.update(feed, |health| {
            health.last_received = Some(Instant::now());
            health.silence = SilenceRule::Counts;
        });
    }

    /// Counts an event that a feed sends.
    pub(super) fn count_event(&self, feed: Feed, event: &Event) {
        self.update(feed, |health| match event {
            Event::Applied { .. } | Event::ConfigMap { data: Some(_), .. } => health.applied += 1,
            Event::Unusable { .. } => health.unusable += 1,
            Event::ListStarted(_)
            | Event::ListEnded(_)
            | Event::Covered(..)
            | Event::Deleted { .. }
            | Event::ConfigMap { data: None, .. } => {}
        });
    }

    fn update(&self, feed: Feed, change: impl FnOnce(&mut FeedHealth)) {
        if let Some(health) = self.records().feeds.get_mut(&feed) {
            change(health);
        }
    }

    fn records(&self) -> MutexGuard<'_, HealthRecords> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedHealth {
    /// Zero while the feed has no request to send, or while names that depend on it pass until its
    /// first list has ended. Otherwise the time since [`FeedHealth::last_received`], or `None` if
    /// that is `None`.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        if self.activity == FeedActivity::Resting || self.silence == SilenceRule::Ignored {
            return Some(Duration::ZERO);
        }
        self.last_received.map(|received| received.elapsed())
    }

    fn new() -> FeedHealth {
        FeedHealth {
            activity: FeedActivity::Waiting,
            since: Instant::now(),
            last_received: None,
            silence: SilenceRule::Counts,
            blocked_since: None,
            lists: 0,
            watches: 0,
            applied: 0,
            unusable: 0,
        }
    }

    fn set_activity(&mut self, activity: FeedActivity) -> FeedActivity {
        let is_same = matches!(
            (&self.activity, &activity),
            (FeedActivity::Resting, FeedActivity::Resting)
                | (FeedActivity::Waiting, FeedActivity::Waiting)
                | (FeedActivity::Listing, FeedActivity::Listing)
                | (FeedActivity::Watching, FeedActivity::Watching)
                | (FeedActivity::Retrying { .. }, FeedActivity::Retrying { .. })
        );
        if !is_same {
            self.since = Instant::now();
        }
        std::mem::replace(&mut self.activity, activity)
    }
}

impl fmt::Display for RequestVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestVerb::List => "list",
            RequestVerb::Watch => "watch",
        })
    }
}
