//! Settings of the comparison and of the measurements, from environment variables. `cargo xtask`
//! sets them from its flags, except `ZEROHOP_CHANGES` and `ZEROHOP_SHAPES` (names of shapes) for
//! `test --cluster`, and `ZEROHOP_COREFILE` and `ZEROHOP_SEED` for `bench --cluster`: these have no
//! flags, and can be set by hand.

use std::{env, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use zerohop_contract::corefile_shapes::CorefileShape;

use crate::reply::TtlRule;

/// Settings of `cargo xtask test --cluster`. `cargo xtask bench --cluster` uses some of them too.
pub(crate) struct ComparisonSettings {
    pub(crate) kubeconfig: PathBuf,
    /// The address of the CoreDNS that reads the same API server.
    pub(crate) dns: SocketAddr,
    /// The Corefile of that CoreDNS.
    pub(crate) corefile: String,
    /// How the agents find the Corefile.
    pub(crate) source: CorefileDiscovery,
    /// Which TTLs are right.
    pub(crate) ttls: TtlRule,
    /// The cluster domain, without a final dot.
    pub(crate) zone: String,
    /// The path of the agent's binary.
    pub(crate) agent: PathBuf,
    pub(crate) parts: ComparisonParts,
    /// The seed of the random changes, transitions and questions. The names of the namespaces
    /// contain it.
    pub(crate) seed: u64,
    /// Number of random changes, after which everything is compared again. 0 skips this part.
    pub(crate) changes: usize,
    /// Number of transitions, which need a running controller manager. 0 skips this part.
    pub(crate) transitions: usize,
    /// Shell command that kills the API server and starts it again.
    pub(crate) restart_api: Option<String>,
    /// Shell command that compacts etcd.
    pub(crate) compact: Option<String>,
}

/// How agents find the Corefile of CoreDNS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CorefileDiscovery {
    /// The flag `--corefile` names its ConfigMap.
    Flag,
    /// The DNS Service's Pods show it.
    Pods,
}

/// Settings of `cargo xtask test --cluster --corefiles`.
pub(crate) struct ShapeSettings {
    pub(crate) kubeconfig: PathBuf,
    /// The path of a CoreDNS that needs no libraries.
    pub(crate) coredns: PathBuf,
    /// The path of the agent's binary.
    pub(crate) agent: PathBuf,
    /// The seed of the questions. The names of the namespaces contain it.
    pub(crate) seed: u64,
    /// The names of the only shapes to compare. Empty: all.
    only: Vec<String>,
}

/// The parts of the comparison to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComparisonParts {
    All,
    Transitions,
}

/// Settings of `cargo xtask bench --cluster`.
pub(crate) struct MeasurementSettings {
    /// Number of Services to make, with five endpoints each; half of them are headless. At least
    /// 200 are made.
    pub(crate) services: usize,
    /// Number of endpoint changes to time.
    pub(crate) changes: usize,
    /// CoreDNS's process ID. `None` if `--dns-pid` is not given.
    pub(crate) dns_pid: Option<u32>,
    /// Shell command that stops the API server.
    pub(crate) stop_api: Option<String>,
    /// Shell command that starts the API server again.
    pub(crate) start_api: Option<String>,
    /// The time from `stop_api` to `start_api`.
    pub(crate) outage: Duration,
}

/// Settings of `cargo xtask bench --watches`.
pub(crate) struct WatchCostSettings {
    pub(crate) kubeconfig: PathBuf,
    /// Number of simulated agents.
    pub(crate) watchers: usize,
    /// EndpointSlice changes a second.
    pub(crate) rate: u64,
    /// Seconds for which each strategy is measured.
    pub(crate) seconds: u64,
}

impl WatchCostSettings {
    /// `None` without `ZEROHOP_WATCHERS`, which only `bench --watches` sets.
    pub(crate) fn from_environment() -> Result<Option<WatchCostSettings>> {
        let Ok(watchers) = env::var("ZEROHOP_WATCHERS") else {
            return Ok(None);
        };
        Ok(Some(WatchCostSettings {
            kubeconfig: required("ZEROHOP_KUBECONFIG")?.into(),
            watchers: watchers
                .parse()
                .context("ZEROHOP_WATCHERS is not a number")?,
            rate: number("ZEROHOP_RATE", 100)?,
            seconds: number("ZEROHOP_SECONDS", 20)?,
        }))
    }
}

impl ShapeSettings {
    /// `None` without `ZEROHOP_COREDNS`, which only `test --corefiles` sets.
    pub(crate) fn from_environment() -> Result<Option<ShapeSettings>> {
        let Ok(coredns) = env::var("ZEROHOP_COREDNS") else {
            return Ok(None);
        };
        let only = env::var("ZEROHOP_SHAPES").unwrap_or_default();
        Ok(Some(ShapeSettings {
            kubeconfig: required("ZEROHOP_KUBECONFIG")?.into(),
            coredns: coredns.into(),
            agent: required("ZEROHOP_AGENT")?.into(),
            seed: seed()?,
            only: only.split_whitespace().map(str::to_owned).collect(),
        }))
    }

    /// Whether a shape is to be compared.
    pub(crate) fn selects(&self, shape: &CorefileShape) -> bool {
        self.only.is_empty() || self.only.contains(&shape.file)
    }
}

impl MeasurementSettings {
    /// `None` without `ZEROHOP_MEASURE`, which only `bench --cluster` sets.
    pub(crate) fn from_environment() -> Result<Option<MeasurementSettings>> {
        let Ok(services) = env::var("ZEROHOP_MEASURE") else {
            return Ok(None);
        };
        let dns_pid = match number("ZEROHOP_DNS_PID", 0)? {
            0 => None,
            pid => Some(u32::try_from(pid)?),
        };
        Ok(Some(MeasurementSettings {
            services: services
                .parse()
                .context("ZEROHOP_MEASURE is not a number")?,
            changes: usize::try_from(number("ZEROHOP_CHANGES", 500)?)?,
            dns_pid,
            stop_api: env::var("ZEROHOP_STOP_API").ok(),
            start_api: env::var("ZEROHOP_START_API").ok(),
            outage: Duration::from_secs(number("ZEROHOP_OUTAGE", 300)?),
        }))
    }
}

impl ComparisonSettings {
    pub(crate) fn from_environment() -> Result<ComparisonSettings> {
        let corefile = match env::var("ZEROHOP_COREFILE") {
            Ok(path) => fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?,
            Err(_) => include_str!("Corefile").to_owned(),
        };
        let count = |variable: &str, default: usize| match env::var(variable) {
            Ok(count) => count
                .parse()
                .with_context(|| format!("{variable} is not a number")),
            Err(_) => Ok(default),
        };
        let zone = zone(&corefile).context("the Corefile has no line `kubernetes ZONE …`")?;
        Ok(ComparisonSettings {
            kubeconfig: required("ZEROHOP_KUBECONFIG")?.into(),
            dns: required("ZEROHOP_DNS")?
                .parse()
                .context("ZEROHOP_DNS is not an address and port")?,
            zone,
            corefile,
            source: CorefileDiscovery::Flag,
            ttls: TtlRule::Equal,
            agent: required("ZEROHOP_AGENT")?.into(),
            parts: match env::var("ZEROHOP_ONLY").as_deref() {
                Ok("transitions") => ComparisonParts::Transitions,
                _ => ComparisonParts::All,
            },
            seed: seed()?,
            changes: count("ZEROHOP_CHANGES", 1000)?,
            transitions: count("ZEROHOP_TRANSITIONS", 500)?,
            restart_api: env::var("ZEROHOP_RESTART_API").ok(),
            compact: env::var("ZEROHOP_COMPACT").ok(),
        })
    }
}

/// The number in an environment variable, or `default` if the variable is not set.
fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(default),
    }
}

/// The seed, or a random one.
fn seed() -> Result<u64> {
    match env::var("ZEROHOP_SEED") {
        Ok(seed) => seed.parse().context("ZEROHOP_SEED is not a number"),
        Err(_) => Ok(rand::random::<u32>().into()),
    }
}

fn required(variable: &str) -> Result<String> {
    env::var(variable).with_context(|| {
        format!(
            "{variable} is not set: start this program by `cargo xtask test --cluster` or `cargo \
             xtask bench`"
        )
    })
}

/// The first zone of the `kubernetes` plugin.
fn zone(corefile: &str) -> Option<String> {
    let mut lines = corefile.lines().map(str::split_whitespace);
    let mut words = lines.find(|words| words.clone().next() == Some("kubernetes"))?;
    let zone = words.nth(1)?.trim_end_matches('.');
    Some(zone.to_ascii_lowercase())
}
