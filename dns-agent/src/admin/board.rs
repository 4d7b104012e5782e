//! Where the agent's tasks put up what they know, for whoever asks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::status::{
    FeedStatus, KernelStatus, KubernetesStatus, ManifestsStatus, SourceStatus, Status,
};
use crate::{
    resolver::{Counters, loops},
    source::kubernetes::{Health, Requests},
};

/// Where the agent's tasks put up what they know.
pub struct Board {
    status: watch::Sender<Status>,
    counters: Arc<Counters>,
    kernel: Kernel,
    /// How the Kubernetes API is read, with the reasons for what is read.
    feeds: watch::Sender<Feeds>,
    /// How that part of it is read that says who may ask.
    policy_feeds: watch::Sender<Vec<Arc<Health>>>,
    /// When the writer did its last round.
    beaten: watch::Sender<Instant>,
    /// When the files were last looked at; none before the first time, or where there are none.
    looked_at_files: watch::Sender<Option<Instant>>,
}

/// How the Kubernetes API is read.
#[derive(Clone, Debug, Default)]
pub struct Feeds {
    /// What was concluded from CoreDNS's configuration, and why.
    pub reasons: Vec<String>,
    /// The feeds.
    pub health: Vec<Arc<Health>>,
}

/// Reads the kernel plane's state at the time of asking.
pub type Kernel = Box<dyn Fn() -> KernelStatus + Send + Sync>;

impl Board {
    /// A board that shows `status`, with the counts of `counters` and the state of
    /// `kernel` at the time of reading.
    pub fn new(status: Status, counters: Arc<Counters>, kernel: Kernel) -> Board {
        Board {
            status: watch::Sender::new(status),
            counters,
            kernel,
            feeds: watch::Sender::default(),
            policy_feeds: watch::Sender::default(),
            beaten: watch::Sender::new(Instant::now()),
            looked_at_files: watch::Sender::default(),
        }
    }

    /// Shows other feeds from now on.
    pub fn show_feeds(&self, feeds: Feeds) {
        self.feeds.send_replace(feeds);
    }

    /// Shows other feeds of who may ask from now on.
    pub fn show_policy_feeds(&self, health: Vec<Arc<Health>>) {
        self.policy_feeds.send_replace(health);
    }

    /// The writer does its rounds.
    pub fn beat(&self) {
        self.beaten.send_replace(Instant::now());
    }

    /// How long ago it did the last one.
    pub fn silence(&self) -> Duration {
        self.beaten.borrow().elapsed()
    }

    /// The files have been looked at, and read where they had changed.
    pub fn look_at_files(&self) {
        self.looked_at_files.send_replace(Some(Instant::now()));
    }

    /// How long ago that was; none before the first time, or where there are none.
    pub fn age_of_files(&self) -> Option<Duration> {
        self.looked_at_files.borrow().map(|looked| looked.elapsed())
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// What is shown of files, if there are any.
    pub fn manifests(&self) -> ManifestsStatus {
        match &self.status.borrow().source {
            SourceStatus::Manifests(manifests) => manifests.clone(),
            SourceStatus::Kubernetes(_) => ManifestsStatus::default(),
        }
    }

    /// What is shown now.
    pub fn read(&self) -> Status {
        let (mut status, kernel) = self.measure();
        status.kernel = kernel.state();
        status.datapath = kernel.tell();
        status
    }

    /// What is shown now, with the kernel plane in a form to reckon with.
    pub fn measure(&self) -> (Status, KernelStatus) {
        let mut status = self.status.borrow().clone();
        status.resolver.counts = self.counters.read();
        status.degraded = degraded(&status);
        match &mut status.source {
            SourceStatus::Kubernetes(kubernetes) => {
                *kubernetes = self.feeds.borrow().read(&self.policy_feeds.borrow());
            }
            SourceStatus::Manifests(manifests) => {
                manifests.age_seconds = self.age_of_files().map(|age| age.as_secs_f64());
            }
        }
        (status, (self.kernel)())
    }

    /// Everything that is not as it should be.
    pub fn troubles(&self) -> Vec<String> {
        let status = self.status.borrow();
        [&status.missing[..], &degraded(&status)].concat()
    }

    /// What keeps the agent from being ready.
    pub fn missing(&self) -> Vec<String> {
        self.status.borrow().missing.clone()
    }
}

/// What the publisher says, and which upstreams lead back to this agent.
fn degraded(status: &Status) -> Vec<String> {
    let loops = status.resolver.loops.iter().copied();
    let loops = loops.map(loops::describe);
    status.degraded.iter().cloned().chain(loops).collect()
}

impl Feeds {
    /// What they do, and what the feeds of the policies do. How old everything is is told by these alone:
    /// without the others the kernel answers fewer pods, not other answers.
    fn read(&self, policies: &[Arc<Health>]) -> KubernetesStatus {
        let ages: Option<Vec<_>> = self.health.iter().map(|health| health.age()).collect();
        let oldest = ages.and_then(|ages| ages.into_iter().max());
        let mut requests = BTreeMap::new();
        let all = || self.health.iter().chain(policies);
        for health in all() {
            let Requests { list, watch, get } = health.requests();
            for (verb, count) in [("list", list), ("watch", watch), ("get", get)] {
                *requests.entry(verb.to_owned()).or_default() += count;
            }
        }
        let feeds = all().flat_map(|health| health.feeds());
        KubernetesStatus {
            reasons: self.reasons.clone(),
            age_seconds: oldest.map(|age| age.as_secs_f64()),
            feeds: feeds
                .map(|(feed, health)| FeedStatus::of(feed, &health))
                .collect(),
            requests,
        }
    }
}
