//! The agent's status, as JSON and as text.

mod text;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use zerohop_datapath as datapath;
use zerohop_kubernetes::{Feed, LeftOutPod, ObjectCounts};
use zerohop_kubernetes_api::{FeedActivity, FeedHealth};
use zerohop_resolver::{GroupStatus, ResolverCounts};

/// The status of a running agent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Reasons for not being ready; empty when the agent is ready.
    pub missing: Vec<String>,
    /// Failures that do not keep the agent from being ready.
    pub degraded: Vec<String>,
    /// Descriptions of the queries that pass because of a size limit of the kernel's tables. A
    /// limit is not a failure.
    #[serde(default)]
    pub limits: Vec<String>,
    /// The names that wait for publication to the kernel plane.
    #[serde(default)]
    pub publication: PublicationStatus,
    /// The source of the objects.
    pub source: SourceStatus,
    /// The hosts files, in the order of the configuration.
    #[serde(default)]
    pub hosts: Vec<HostsFileStatus>,
    /// Objects, parts of objects, and settings that can't be used, with the reason.
    pub problems: Vec<String>,
    /// The zones that are answered authoritatively.
    pub zones: Vec<ZoneStatus>,
    /// The numbers of known objects.
    pub objects: ObjectCounts,
    /// The client policy; `None` without a kernel plane.
    pub network_policy: Option<PolicyStatus>,
    /// The user plane.
    pub resolver: ResolverStatus,
    /// Whether queries of pods that the kernel passes go to this agent's resolver.
    #[serde(default)]
    pub steering: SteeringStatus,
    /// The state of the kernel plane.
    pub kernel: PlaneState,
    /// The kernel plane's attached hooks, tables, lease and outcomes; `None` when it is not on. It
    /// is a string with the reason when they can't be read.
    pub datapath: Option<serde_json::Value>,
}

/// The names that wait for publication to the kernel plane.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PublicationStatus {
    /// Seconds since the oldest change was received that is not published yet, and after which the
    /// kernel still answers as before. 0 if there is none.
    pub delay_seconds: f64,
    /// The object of that change; empty if there is none.
    pub delayed: String,
    /// The objects whose changed names pass until they are published.
    pub passed: Vec<String>,
}

/// The source of the objects.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceStatus {
    /// Manifests.
    Manifests(ManifestsStatus),
    /// The Kubernetes API.
    Kubernetes(KubernetesStatus),
}

/// The status of manifests as the source.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ManifestsStatus {
    /// The file or directory.
    pub path: PathBuf,
    /// When the manifests were last loaded without errors, in RFC 3339 format; empty before the
    /// first such load.
    pub loaded: String,
    /// Seconds since the manifests were last checked for changes; `None` before the first check.
    /// They are checked every ten seconds, and when inotify reports a change.
    pub age_seconds: Option<f64>,
    /// Errors of the last load, each with its file and, if known, its line. The objects of the last
    /// load without errors stay published.
    pub errors: Vec<String>,
}

/// The status of a hosts file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct HostsFileStatus {
    /// The file.
    pub path: PathBuf,
    /// The number of names with addresses of the last successful reading.
    pub names: usize,
    /// When the file was last read, in RFC 3339 format; empty before that.
    pub loaded: String,
    /// Why the last attempt to read the file failed; `None` if it succeeded.
    pub error: Option<String>,
}

/// The status of the Kubernetes API as the source.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct KubernetesStatus {
    /// Conclusions from the Corefiles of CoreDNS and of node caches, and their reasons.
    pub reasons: Vec<String>,
    /// The largest [`FeedStatus::age_seconds`]; `None` if that of any feed is `None`, or if there
    /// is no feed yet. The feeds of facts for NetworkPolicies don't count.
    pub age_seconds: Option<f64>,
    /// All feeds.
    pub feeds: Vec<FeedStatus>,
    /// The numbers of requests of the current feeds, by verb. Feeds that were stopped don't count.
    pub requests: BTreeMap<String, u64>,
}

/// The status of a feed: a list and its watch.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct FeedStatus {
    /// The feed's name.
    pub name: String,
    /// The feed's current activity.
    pub state: FeedState,
    /// The error; `None` unless the feed is retrying.
    pub error: Option<String>,
    /// Seconds since the activity began.
    pub since_seconds: f64,
    /// Seconds since the feed received the end of a list or, after it, a change or a bookmark.
    /// `None` before the first list has ended. 0 while the feed has nothing to request. Also 0 for
    /// a feed that was added later, until its first list has ended: the names that depend on it
    /// pass.
    pub age_seconds: Option<f64>,
    /// The number of usable objects received from lists and watches. An object counts each time.
    pub applied: u64,
    /// The number of unusable objects received, counted likewise, and of events that can't be
    /// parsed.
    pub unusable: u64,
}

/// The activity of a feed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedState {
    /// The feed waits to send its first list request, or for the response.
    #[default]
    Waiting,
    /// The feed has nothing to request, for example because there is no headless Service.
    Resting,
    /// The feed reads a list, or waits for the response to the watch request after it.
    Listing,
    /// The feed watches for changes, or requests the next watch or list after a watch has ended.
    /// For the feed of policy kinds, which is polled: the last poll succeeded.
    Watching,
    /// The feed failed, and waits or retries until the API server responds.
    Retrying,
}

/// A zone that is answered authoritatively.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ZoneStatus {
    /// The zone's name.
    pub name: String,
    /// The serial of the SOA record.
    pub serial: u32,
}

/// The client policy: which pods the kernel answers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// `respect`, or `ignore`, which answers every pod.
    pub mode: String,
    /// The number of permitted client addresses. `None` means that all clients are permitted.
    pub permitted: Option<usize>,
    /// The pods that are not permitted, with the reasons, as in
    /// [`left_out`](zerohop_kubernetes::ClientVerdicts::left_out). Empty while the facts are
    /// incomplete or outdated: then no pod is permitted.
    pub left_out: Vec<LeftOutPod>,
}

/// The user plane.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ResolverStatus {
    /// The addresses that the resolver listens on.
    pub listen: Vec<SocketAddr>,
    /// The servers of `--upstream`, in order.
    pub upstreams: Vec<SocketAddr>,
    /// The groups of servers for names outside the cluster, as the Corefile and the settings have
    /// them.
    #[serde(default)]
    pub routes: Vec<GroupStatus>,
    /// The node's `resolv.conf`. `None` without the Kubernetes API.
    #[serde(default)]
    pub resolv_conf: Option<ResolvConfStatus>,
    /// The upstreams that forward back to this agent, and the servers of the cluster's DNS that are
    /// addresses of this agent.
    #[serde(default)]
    pub loops: Vec<SocketAddr>,
    /// The resolver's counters.
    pub counts: ResolverCounts,
}

/// The node's `resolv.conf`, which stands for that of CoreDNS's pods.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ResolvConfStatus {
    /// The file.
    pub path: PathBuf,
    /// The servers in it.
    pub servers: Vec<IpAddr>,
    /// Why it can't be read; empty if it can.
    pub problem: String,
    /// What to know about it; empty if there is nothing.
    pub note: String,
}

/// Steering: whether queries of pods that the kernel passes go to this agent's resolver.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SteeringStatus {
    /// The state.
    pub state: SteeringState,
    /// Why nothing new is steered; empty if it is, or isn't wanted.
    pub reason: String,
    /// The node's device that leads into the agent's network namespace; empty if there is none.
    pub device: String,
    /// The server addresses to which packets are steered.
    pub served: Vec<IpAddr>,
    /// The number of addresses of steered pods.
    pub pods: usize,
    /// The packets with each outcome at the steering program.
    pub outcomes: BTreeMap<String, u64>,
}

/// Whether new queries are steered.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SteeringState {
    /// It isn't wanted.
    #[default]
    Off,
    /// It isn't possible here.
    Unavailable,
    /// They go to the cluster's DNS at present.
    Waiting,
    /// They are steered.
    On,
}

impl SteeringStatus {
    /// Steering that isn't possible here.
    pub fn unavailable(reason: String) -> SteeringStatus {
        SteeringStatus {
            state: SteeringState::Unavailable,
            reason,
            ..SteeringStatus::default()
        }
    }
}

/// The state of the kernel plane.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaneState {
    /// No `--interface` is given.
    #[default]
    Off,
    /// The first lists of objects are not complete yet, or a feed of facts for NetworkPolicies has
    /// neither received its first list nor failed.
    Waiting,
    /// There has been no zone to answer for, for example because CoreDNS's configuration delegates
    /// everything to CoreDNS.
    Idle,
    /// Another agent holds the hooks of this node.
    Behind,
    /// The kernel plane could not be started, or its tables could not be written.
    Failed,
    /// The kernel plane runs. It may be attached to no interface.
    On,
}

/// The kernel plane's state, with its status if it runs.
#[derive(Clone, Debug)]
pub enum KernelStatus {
    /// The kernel plane does not run.
    Without(PlaneState),
    /// The kernel plane runs.
    On(Box<datapath::DatapathStatus>),
    /// The kernel plane runs, but its counters can't be read, for the reason in the text.
    Unreadable(String),
}

impl KernelStatus {
    /// The state of the kernel plane.
    #[must_use]
    pub fn state(&self) -> PlaneState {
        match self {
            KernelStatus::Without(state) => *state,
            KernelStatus::On(_) | KernelStatus::Unreadable(_) => PlaneState::On,
        }
    }

    /// The status as JSON, without outcomes that never occurred. `None` if the kernel plane does
    /// not run.
    pub(super) fn into_json(self) -> Option<serde_json::Value> {
        match self {
            KernelStatus::On(mut status) => {
                status.outcomes.retain(|outcome| outcome.packets > 0);
                serde_json::to_value(status).ok()
            }
            KernelStatus::Unreadable(reason) => {
                Some(format!("the kernel plane's counters can't be read: {reason}").into())
            }
            KernelStatus::Without(_) => None,
        }
    }
}

impl PlaneState {
    /// All states.
    pub const ALL: [PlaneState; 6] = [
        PlaneState::Off,
        PlaneState::Waiting,
        PlaneState::Idle,
        PlaneState::Behind,
        PlaneState::Failed,
        PlaneState::On,
    ];

    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            PlaneState::Off => "off",
            PlaneState::Waiting => "waiting",
            PlaneState::Idle => "idle",
            PlaneState::Behind => "behind",
            PlaneState::Failed => "failed",
            PlaneState::On => "on",
        }
    }
}

impl FeedState {
    /// All activities.
    pub const ALL: [FeedState; 5] = [
        FeedState::Resting,
        FeedState::Waiting,
        FeedState::Listing,
        FeedState::Watching,
        FeedState::Retrying,
    ];

    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FeedState::Resting => "resting",
            FeedState::Waiting => "waiting",
            FeedState::Listing => "listing",
            FeedState::Watching => "watching",
            FeedState::Retrying => "retrying",
        }
    }
}

impl FeedStatus {
    /// The status of a feed with this health.
    pub(super) fn new(feed: Feed, health: &FeedHealth) -> FeedStatus {
        let (state, error) = match &health.activity {
            FeedActivity::Resting => (FeedState::Resting, None),
            FeedActivity::Waiting => (FeedState::Waiting, None),
            FeedActivity::Listing => (FeedState::Listing, None),
            FeedActivity::Watching => (FeedState::Watching, None),
            FeedActivity::Retrying { error } => (FeedState::Retrying, Some(error.clone())),
        };
        FeedStatus {
            name: feed.name().to_owned(),
            state,
            error,
            since_seconds: health.since.elapsed().as_secs_f64(),
            age_seconds: health.age().map(|age| age.as_secs_f64()),
            applied: health.applied,
            unusable: health.unusable,
        }
    }
}

impl ManifestsStatus {
    /// The status of manifests that are not loaded yet.
    pub fn not_loaded(path: &Path) -> ManifestsStatus {
        ManifestsStatus {
            path: path.to_owned(),
            ..ManifestsStatus::default()
        }
    }

    /// The status of manifests that were loaded just now.
    pub fn loaded_now(path: &Path) -> ManifestsStatus {
        ManifestsStatus {
            loaded: rfc3339(SystemTime::now()),
            ..ManifestsStatus::not_loaded(path)
        }
    }
}

impl Default for SourceStatus {
    fn default() -> SourceStatus {
        SourceStatus::Manifests(ManifestsStatus::default())
    }
}

/// A time in RFC 3339 format, in whole seconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
