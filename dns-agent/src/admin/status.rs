//! The agent's state as it tells it, to machines and to people.

mod text;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    cluster::{Feed, LeftOut, ObjectCounts},
    datapath,
    resolver::Counts,
    source::kubernetes::{FeedHealth, State},
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
    /// What passes because the kernel holds only so much of it, each with its bound. Everything works
    /// as it is meant to.
    #[serde(default)]
    pub limits: Vec<String>,
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
    /// How the kernel plane is.
    pub kernel: PlaneState,
    /// What it has when it is on: attached hooks, tables, lease, outcomes. A text
    /// says why that can't be read.
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
    /// When it was last loaded without errors, as RFC 3339 writes it; empty before the first time.
    pub loaded: String,
    /// How long ago it was last looked at, in seconds; none before the first time. It is looked at
    /// every ten seconds, and when the system tells of a change.
    pub age_seconds: Option<f64>,
    /// Why it could not be loaded since, each with file and line; what was loaded
    /// before is served.
    pub errors: Vec<String>,
}

/// Objects from the Kubernetes API.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct KubernetesStatus {
    /// What was concluded from CoreDNS's configuration, and why.
    pub reasons: Vec<String>,
    /// How long ago the feed that was silent longest was last heard, in seconds; none before
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
    /// What it does now.
    pub state: FeedState,
    /// Why it failed, while it is tried again.
    pub error: Option<String>,
    /// For how long, in seconds.
    pub since_seconds: f64,
    /// How long ago it was last heard, in seconds.
    pub age_seconds: Option<f64>,
    /// Objects told.
    pub applied: u64,
    /// Objects that could not be used.
    pub unusable: u64,
}

/// What a feed does.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedState {
    /// It has not begun.
    #[default]
    Waiting,
    /// It has nothing to ask for.
    Resting,
    /// It reads a list.
    Listing,
    /// It hears of changes.
    Watching,
    /// It failed, and is tried again.
    Retrying,
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
    /// egress or about the cluster's DNS.
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
    /// Those servers that ask this agent in turn.
    #[serde(default)]
    pub loops: Vec<SocketAddr>,
    /// What it has done.
    pub counts: Counts,
}

/// How the kernel plane is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaneState {
    /// No interface was asked for.
    #[default]
    Off,
    /// It is not yet known what to answer.
    Waiting,
    /// There is no zone to answer for: CoreDNS's configuration leaves everything to CoreDNS.
    Idle,
    /// Another agent has the hooks of this node.
    Behind,
    /// It could not be started, or is broken.
    Failed,
    /// Its tables are there.
    On,
}

/// The kernel plane, with what can be read of it.
#[derive(Clone, Debug)]
pub enum KernelStatus {
    /// There are no tables.
    Without(PlaneState),
    /// Its tables are there.
    On(Box<datapath::Status>),
    /// Its tables are there, but its counters can't be read, and why.
    Unreadable(String),
}

impl KernelStatus {
    /// How it is.
    #[must_use]
    pub fn state(&self) -> PlaneState {
        match self {
            KernelStatus::Without(state) => *state,
            KernelStatus::On(_) | KernelStatus::Unreadable(_) => PlaneState::On,
        }
    }

    /// For people, who don't want to read of what never happened.
    pub(super) fn tell(self) -> Option<serde_json::Value> {
        match self {
            KernelStatus::On(mut status) => {
                status.outcomes.retain(|outcome| outcome.packets > 0);
                serde_json::to_value(status).ok()
            }
            KernelStatus::Unreadable(reason) => Some(format!("can't be read: {reason}").into()),
            KernelStatus::Without(_) => None,
        }
    }
}

impl PlaneState {
    /// All of them, in the order of their lives.
    pub const ALL: [PlaneState; 6] = [
        PlaneState::Off,
        PlaneState::Waiting,
        PlaneState::Idle,
        PlaneState::Behind,
        PlaneState::Failed,
        PlaneState::On,
    ];

    /// Its name in metrics and JSON.
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
    /// All of them, in the order of their lives.
    pub const ALL: [FeedState; 5] = [
        FeedState::Resting,
        FeedState::Waiting,
        FeedState::Listing,
        FeedState::Watching,
        FeedState::Retrying,
    ];

    /// Its name in metrics and JSON.
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
    /// As it is told.
    pub(super) fn of(feed: Feed, health: &FeedHealth) -> FeedStatus {
        let (state, error) = match &health.state {
            State::Resting => (FeedState::Resting, None),
            State::Waiting => (FeedState::Waiting, None),
            State::Listing => (FeedState::Listing, None),
            State::Watching => (FeedState::Watching, None),
            State::Retrying { error } => (FeedState::Retrying, Some(error.clone())),
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
    /// Files that are not loaded yet.
    pub fn of(path: &Path) -> ManifestsStatus {
        ManifestsStatus {
            path: path.to_owned(),
            ..ManifestsStatus::default()
        }
    }

    /// Files that were loaded just now.
    pub fn loaded_now(path: &Path) -> ManifestsStatus {
        ManifestsStatus {
            loaded: now(),
            ..ManifestsStatus::of(path)
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
