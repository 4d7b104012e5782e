//! The agent's state as it tells it, to machines and to people.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    cluster::{Feed, LeftOut, ObjectCounts},
    datapath,
    resolver::{Counters, Counts},
    source::kubernetes::{FeedHealth, Health, Requests, State},
};

/// Everything there is to know about a running agent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// What keeps the agent from being ready; nothing when it is.
    pub missing: Vec<String>,
    /// What does not work though the agent is ready.
    pub degraded: Vec<String>,
    /// Where the objects come from.
    pub source: SourceStatus,
    /// Objects or parts of them that are left out, and why.
    pub problems: Vec<String>,
    /// The zones answered with authority.
    pub zones: Vec<ZoneStatus>,
    /// How many objects are known.
    pub objects: ObjectCounts,
    /// Whom NetworkPolicies let ask; none without a kernel plane.
    pub network_policy: Option<PolicyStatus>,
    /// What the resolver has done.
    pub resolver: ResolverStatus,
    /// The kernel plane: attached hooks, tables, lease, outcomes; none without
    /// one.
    pub datapath: Option<serde_json::Value>,
}

/// Where the objects come from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceStatus {
    /// Files.
    Manifests(ManifestsStatus),
    /// The Kubernetes API.
    Kubernetes(KubernetesStatus),
}

/// Objects from files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ManifestsStatus {
    /// The file or directory.
    pub path: PathBuf,
    /// When it was last loaded without errors, as RFC 3339 writes it.
    pub loaded: String,
    /// Why it could not be loaded since, each with file and line; what was loaded
    /// before is served.
    pub errors: Vec<String>,
}

/// Objects from the Kubernetes API.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct KubernetesStatus {
    /// What was concluded from CoreDNS's configuration, and why.
    pub reasons: Vec<String>,
    /// How long ago the feed that is worst off was last heard, in seconds; none before
    /// everything has been listed.
    pub age_seconds: Option<f64>,
    /// The feeds.
    pub feeds: Vec<FeedStatus>,
    /// Requests made since the start, by verb.
    pub requests: BTreeMap<String, u64>,
}

/// A list and its changes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct FeedStatus {
    /// Which objects.
    pub name: String,
    /// `waiting`, `listing`, `watching`, or `retrying` with the error.
    pub state: String,
    /// For how long, in seconds.
    pub since_seconds: f64,
    /// How long ago it was last heard, in seconds.
    pub age_seconds: Option<f64>,
    /// Objects told.
    pub applied: u64,
    /// Objects that could not be used.
    pub unusable: u64,
}

/// A zone answered with authority.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ZoneStatus {
    /// Its name.
    pub name: String,
    /// The serial of its SOA record.
    pub serial: u32,
}

/// Whom NetworkPolicies let ask.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// `respect`, or `ignore`: then every pod is answered.
    pub mode: String,
    /// How many addresses the kernel answers on pods' veths; none: all, since no policy is about
    /// egress.
    pub permitted: Option<usize>,
    /// The pods that are not answered, and why.
    pub left_out: Vec<LeftOut>,
}

/// The user plane.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ResolverStatus {
    /// The addresses it answers on.
    pub listen: Vec<SocketAddr>,
    /// The servers it asks, in order.
    pub upstreams: Vec<SocketAddr>,
    /// What it has done.
    pub counts: Counts,
}

/// Where the agent's tasks put up what they know.
pub struct Board {
    status: watch::Sender<Status>,
    counters: Arc<Counters>,
    kernel: Kernel,
    /// How the Kubernetes API is read, with the reasons for what is read.
    feeds: watch::Sender<Feeds>,
    /// How that part of it is read that says who may ask.
    policy_feeds: watch::Sender<Vec<Arc<Health>>>,
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

/// The kernel plane.
#[derive(Clone, Debug)]
pub enum KernelStatus {
    /// No interface was asked for.
    Off,
    /// It is not yet known what to answer.
    Waiting,
    /// Another agent has the hooks of this node.
    Behind,
    /// It could not be started, or is broken.
    Failed,
    /// Its tables are there.
    On(Box<datapath::Status>),
    /// Its tables are there, but its counters can't be read, and why.
    Unreadable(String),
}

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
        status.datapath = kernel.tell();
        status
    }

    /// What is shown now, with the kernel plane in a form to reckon with.
    pub fn measure(&self) -> (Status, KernelStatus) {
        let mut status = self.status.borrow().clone();
        status.resolver.counts = self.counters.read();
        if let SourceStatus::Kubernetes(kubernetes) = &mut status.source {
            *kubernetes = self.feeds.borrow().read(&self.policy_feeds.borrow());
        }
        (status, (self.kernel)())
    }

    /// Everything that is not as it should be.
    pub fn troubles(&self) -> Vec<String> {
        let status = self.status.borrow();
        [&status.missing[..], &status.degraded[..]].concat()
    }

    /// What keeps the agent from being ready.
    pub fn missing(&self) -> Vec<String> {
        self.status.borrow().missing.clone()
    }
}

impl KernelStatus {
    /// For people, who don't want to read of what never happened.
    fn tell(self) -> Option<serde_json::Value> {
        match self {
            KernelStatus::On(mut status) => {
                status.outcomes.retain(|outcome| outcome.packets > 0);
                serde_json::to_value(status).ok()
            }
            KernelStatus::Unreadable(reason) => Some(format!("can't be read: {reason}").into()),
            KernelStatus::Off
            | KernelStatus::Waiting
            | KernelStatus::Behind
            | KernelStatus::Failed => None,
        }
    }
}

impl Feeds {
    /// With other feeds, which others depend on.
    fn read(&self, others: &[Arc<Health>]) -> KubernetesStatus {
        let ages: Option<Vec<_>> = self.health.iter().map(|health| health.age()).collect();
        let oldest = ages.and_then(|ages| ages.into_iter().max());
        let mut requests = BTreeMap::new();
        let all = || self.health.iter().chain(others);
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

impl FeedStatus {
    fn of(feed: Feed, health: &FeedHealth) -> FeedStatus {
        FeedStatus {
            name: feed.name().to_owned(),
            state: match &health.state {
                State::Waiting => "waiting".to_owned(),
                State::Listing => "listing".to_owned(),
                State::Watching => "watching".to_owned(),
                State::Retrying { error } => format!("retrying: {error}"),
            },
            since_seconds: health.since.elapsed().as_secs_f64(),
            age_seconds: health.age().map(|age| age.as_secs_f64()),
            applied: health.applied,
            unusable: health.unusable,
        }
    }
}

impl ManifestsStatus {
    /// Files that were loaded just now.
    pub fn loaded_now(path: &Path) -> ManifestsStatus {
        ManifestsStatus {
            path: path.to_owned(),
            loaded: now(),
            errors: Vec::new(),
        }
    }
}

impl Default for SourceStatus {
    fn default() -> SourceStatus {
        SourceStatus::Manifests(ManifestsStatus::default())
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status {
            version,
            missing,
            degraded,
            source,
            problems,
            zones,
            objects,
            network_policy,
            resolver,
            datapath,
        } = self;
        let ready = if missing.is_empty() {
            "ready"
        } else {
            "not ready"
        };
        writeln!(f, "dns-agent {version}: {ready}")?;
        lines(f, "missing", missing)?;
        lines(f, "degraded", degraded)?;
        source.fmt(f)?;
        lines(f, "problem", problems)?;
        let zones = zones
            .iter()
            .map(|zone| format!("{} serial {}", zone.name, zone.serial));
        lines(f, "zone", zones)?;
        let ObjectCounts {
            namespaces,
            services,
            endpoint_slices,
            pods,
        } = objects;
        writeln!(
            f,
            "objects    {namespaces} Namespaces, {services} Services, {endpoint_slices} EndpointSlices, {pods} Pods"
        )?;
        if let Some(policy) = network_policy {
            policy.fmt(f)?;
        }
        lines(f, "listening", &resolver.listen)?;
        lines(f, "upstream", &resolver.upstreams)?;
        resolver.counts.fmt(f)?;
        match datapath {
            None => writeln!(f, "kernel     off"),
            Some(datapath) => {
                writeln!(f, "kernel")?;
                tree(f, datapath, 1)
            }
        }
    }
}

impl fmt::Display for PolicyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.permitted {
            None if self.mode == "ignore" => {
                writeln!(f, "policies   ignored: every pod's queries are answered")?;
            }
            None => writeln!(
                f,
                "policies   none about egress: every pod's queries are answered"
            )?,
            Some(count) => writeln!(
                f,
                "policies   queries of {count} addresses of pods are answered, others pass"
            )?,
        }
        for left_out in &self.left_out {
            let LeftOut {
                pod,
                addresses,
                reason,
            } = left_out;
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "left out   Pod {pod} ({}): {reason}",
                addresses.join(", ")
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for SourceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kubernetes = match self {
            SourceStatus::Manifests(manifests) => {
                let path = manifests.path.display();
                writeln!(f, "source     {path}, loaded {}", manifests.loaded)?;
                return lines(f, "stale", &manifests.errors);
            }
            SourceStatus::Kubernetes(kubernetes) => kubernetes,
        };
        match kubernetes.age_seconds {
            Some(age) => writeln!(
                f,
                "source     the Kubernetes API, all of it heard in the last {age:.0} s"
            )?,
            None => writeln!(f, "source     the Kubernetes API, not all listed yet")?,
        }
        for feed in &kubernetes.feeds {
            let heard = match feed.age_seconds {
                Some(age) => format!("heard {age:.0} s ago"),
                None => "not listed yet".to_owned(),
            };
            writeln!(
                f,
                "feed       {}: {} for {:.0} s, {heard}, {} objects told, {} unusable",
                feed.name, feed.state, feed.since_seconds, feed.applied, feed.unusable
            )?;
        }
        let requests: Vec<_> = kubernetes
            .requests
            .iter()
            .map(|(verb, count)| format!("{verb} {count}"))
            .collect();
        writeln!(f, "requests   {}", requests.join(", "))?;
        lines(f, "because", &kubernetes.reasons)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |counts: &BTreeMap<String, u64>| {
            let words: Vec<_> = counts
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            if words.is_empty() {
                "none".to_owned()
            } else {
                words.join(", ")
            }
        };
        writeln!(
            f,
            "queries    UDP {}, TCP {}, ignored {}",
            self.udp_queries, self.tcp_queries, self.ignored
        )?;
        writeln!(f, "replies    {}", words(&self.replies))?;
        writeln!(
            f,
            "upstreams  asked {}, timed out {}, failed {}, too many at once {}",
            self.forwarded, self.upstream_timeouts, self.upstream_errors, self.overloaded
        )?;
        writeln!(f, "refused    {} connections", self.connections_refused)
    }
}

/// One line for each value.
fn lines<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    values: impl IntoIterator<Item = T>,
) -> fmt::Result {
    values
        .into_iter()
        .try_for_each(|value| writeln!(f, "{label:<10} {value}"))
}

/// Nested values, indented.
fn tree(f: &mut fmt::Formatter<'_>, value: &serde_json::Value, depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    let mut entry = |label: &str, value: &serde_json::Value| match value {
        serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
            writeln!(f, "{indent}{label}")?;
            tree(f, value, depth + 1)
        }
        serde_json::Value::String(text) => writeln!(f, "{indent}{label} {text}"),
        scalar => writeln!(f, "{indent}{label} {scalar}"),
    };
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .try_for_each(|(name, value)| entry(&name.replace('_', " "), value)),
        serde_json::Value::Array(values) => values.iter().try_for_each(|value| entry("-", value)),
        scalar => writeln!(f, "{indent}{scalar}"),
    }
}
