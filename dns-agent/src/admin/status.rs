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
    cluster::ObjectCounts,
    resolver::{Counters, Counts},
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
    /// The zones answered with authority.
    pub zones: Vec<ZoneStatus>,
    /// How many objects are known.
    pub objects: ObjectCounts,
    /// What the resolver has done.
    pub resolver: ResolverStatus,
    /// The kernel plane: attached hooks, tables, lease, outcomes; none without
    /// one.
    pub datapath: Option<serde_json::Value>,
}

/// Where the objects come from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SourceStatus {
    /// The file or directory.
    pub path: PathBuf,
    /// When it was last loaded without errors, as RFC 3339 writes it.
    pub loaded: String,
    /// Why it could not be loaded since, each with file and line; what was loaded
    /// before is served.
    pub errors: Vec<String>,
    /// Objects or parts of them that are left out, and why.
    pub problems: Vec<String>,
}

/// A zone answered with authority.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ZoneStatus {
    /// Its name.
    pub name: String,
    /// The serial of its SOA record.
    pub serial: u32,
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
}

/// Reads the kernel plane's state at the time of asking; nothing without one.
pub type Kernel = Box<dyn Fn() -> Option<serde_json::Value> + Send + Sync>;

impl Board {
    /// A board that shows `status`, with the counts of `counters` and the state of
    /// `kernel` at the time of reading.
    pub fn new(status: Status, counters: Arc<Counters>, kernel: Kernel) -> Board {
        Board {
            status: watch::Sender::new(status),
            counters,
            kernel,
        }
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// What is shown now.
    pub fn read(&self) -> Status {
        let mut status = self.status.borrow().clone();
        status.resolver.counts = self.counters.read();
        status.datapath = (self.kernel)();
        status
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

impl SourceStatus {
    /// A source that was loaded just now.
    pub fn loaded_now(path: &Path) -> SourceStatus {
        SourceStatus {
            path: path.to_owned(),
            loaded: now(),
            ..SourceStatus::default()
        }
    }

    /// Notes that it was loaded without errors.
    pub fn loaded(&mut self) {
        self.loaded = now();
        self.errors.clear();
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
            zones,
            objects,
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
        writeln!(
            f,
            "source     {}, loaded {}",
            source.path.display(),
            source.loaded
        )?;
        lines(f, "stale", &source.errors)?;
        lines(f, "problem", &source.problems)?;
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
