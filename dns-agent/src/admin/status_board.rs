//! The status board: tasks write their state to it, and the admin endpoints read it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use zerohop_kubernetes_api::{RequestCounts, SourceHealth};
use zerohop_resolver::{Resolver, TrafficCounts, loops};

use super::status::{
    FeedStatus, KernelStatus, KubernetesStatus, ManifestsStatus, SourceStatus, Status,
    SteeringStatus,
};

/// The current state of the agent's tasks.
pub struct StatusBoard {
    /// The status without the parts that are read from the fields below.
    status: watch::Sender<Status>,
    resolver: Arc<Resolver>,
    read_kernel_status: KernelStatusReader,
    /// The feeds that are not for NetworkPolicies, and the conclusions from the Corefiles.
    feeds: watch::Sender<KubernetesFeeds>,
    /// The health of the feeds of facts for NetworkPolicies.
    policy_feeds: watch::Sender<Vec<Arc<SourceHealth>>>,
    /// When the publisher's loop finished its last round; before the first round, when the board
    /// was made.
    last_round: watch::Sender<Instant>,
    /// When the manifests were last checked; `None` before the first check, and without manifests.
    last_file_check: watch::Sender<Option<Instant>>,
}

/// The feeds from the Kubernetes API that are not for NetworkPolicies: those of objects, of
/// CoreDNS's Corefile, and of what node caches depend on.
#[derive(Clone, Debug, Default)]
pub struct KubernetesFeeds {
    /// Conclusions from the Corefiles of CoreDNS and of node caches, and their reasons.
    pub reasons: Vec<String>,
    /// The health of the feeds.
    pub health: Vec<Arc<SourceHealth>>,
}

/// Reads the current state of the kernel plane.
pub type KernelStatusReader = Box<dyn Fn() -> KernelStatus + Send + Sync>;

impl StatusBoard {
    /// A board with this status. [`StatusBoard::read`] and [`StatusBoard::read_with_kernel`] read
    /// the counters and routes of `resolver`, and call `read_kernel_status`.
    pub fn new(
        status: Status,
        resolver: Arc<Resolver>,
        read_kernel_status: KernelStatusReader,
    ) -> StatusBoard {
        StatusBoard {
            status: watch::Sender::new(status),
            resolver,
            read_kernel_status,
            feeds: watch::Sender::default(),
            policy_feeds: watch::Sender::default(),
            last_round: watch::Sender::new(Instant::now()),
            last_file_check: watch::Sender::default(),
        }
    }

    /// Replaces the feeds that are not for NetworkPolicies.
    pub fn set_feeds(&self, feeds: KubernetesFeeds) {
        self.feeds.send_replace(feeds);
    }

    /// Replaces the feeds of facts for NetworkPolicies.
    pub fn set_policy_feeds(&self, health: Vec<Arc<SourceHealth>>) {
        self.policy_feeds.send_replace(health);
    }

    /// Records that the publisher's loop finished a round.
    pub fn record_round(&self) {
        self.last_round.send_replace(Instant::now());
    }

    /// The time since the last round of the publisher's loop; before the first round, since the
    /// board was made.
    pub fn time_since_round(&self) -> Duration {
        self.last_round.borrow().elapsed()
    }

    /// Records that the manifests were checked, and read if they had changed.
    pub fn record_file_check(&self) {
        self.last_file_check.send_replace(Some(Instant::now()));
    }

    /// The time since the manifests were checked; `None` before the first check, and without
    /// manifests.
    pub fn time_since_file_check(&self) -> Option<Duration> {
        self.last_file_check
            .borrow()
            .map(|checked| checked.elapsed())
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// The status of the manifests, without their age; without manifests, the default value.
    pub fn manifests(&self) -> ManifestsStatus {
        match &self.status.borrow().source {
            SourceStatus::Manifests(manifests) => manifests.clone(),
            SourceStatus::Kubernetes(_) => ManifestsStatus::default(),
        }
    }

    /// The current status. Waits for the kernel plane's lock.
    pub fn read(&self) -> Status {
        let (mut status, kernel) = self.read_with_kernel();
        status.kernel = kernel.state();
        status.datapath = kernel.into_json();
        status
    }

    /// The current status without the kernel plane's part, and the kernel plane's status. Waits for
    /// the kernel plane's lock.
    pub fn read_with_kernel(&self) -> (Status, KernelStatus) {
        let mut status = self.status.borrow().clone();
        status.resolver.counts = self.resolver.counters().snapshot();
        status.resolver.routes = self.resolver.route_groups();
        status.degraded = degraded(&status);
        match &mut status.source {
            SourceStatus::Kubernetes(kubernetes) => {
                *kubernetes = self.feeds.borrow().read(&self.policy_feeds.borrow());
            }
            SourceStatus::Manifests(manifests) => {
                manifests.age_seconds = self.time_since_file_check().map(|age| age.as_secs_f64());
            }
        }
        (status, (self.read_kernel_status)())
    }

    /// What CoreDNS's metrics count.
    pub fn traffic(&self) -> TrafficCounts {
        self.resolver.counters().traffic()
    }

    /// Whether queries that the kernel passes go to this agent's resolver.
    pub fn steering(&self) -> SteeringStatus {
        self.status.borrow().steering.clone()
    }

    /// All reasons for being not ready or degraded.
    pub fn missing_and_degraded(&self) -> Vec<String> {
        let status = self.status.borrow();
        [&status.missing[..], &degraded(&status)].concat()
    }

    /// All reasons for being not ready.
    pub fn missing(&self) -> Vec<String> {
        self.status.borrow().missing.clone()
    }
}

/// The publisher's reasons for being degraded, and the upstreams that lead back to this agent.
fn degraded(status: &Status) -> Vec<String> {
    let loops = status.resolver.loops.iter().copied();
    let loops = loops.map(loops::describe_loop);
    status.degraded.iter().cloned().chain(loops).collect()
}

impl KubernetesFeeds {
    /// The status of all feeds. `age_seconds` does not include the feeds of `policies`: if they
    /// fail, the kernel answers fewer pods, but no outdated records.
    fn read(&self, policies: &[Arc<SourceHealth>]) -> KubernetesStatus {
        let ages: Option<Vec<_>> = self.health.iter().map(|health| health.age()).collect();
        let oldest = ages.and_then(|ages| ages.into_iter().max());
        let mut requests = BTreeMap::new();
        let sources = || self.health.iter().chain(policies);
        for health in sources() {
            let RequestCounts { list, watch, get } = health.requests();
            for (verb, count) in [("list", list), ("watch", watch), ("get", get)] {
                *requests.entry(verb.to_owned()).or_default() += count;
            }
        }
        let feeds = sources().flat_map(|health| health.feeds());
        KubernetesStatus {
            reasons: self.reasons.clone(),
            age_seconds: oldest.map(|age| age.as_secs_f64()),
            feeds: feeds
                .map(|(feed, health)| FeedStatus::new(feed, &health))
                .collect(),
            requests,
        }
    }
}
