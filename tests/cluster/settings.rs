//! What `cargo xtask test --cluster` passes on, by environment variables.

use std::{env, fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

/// What is compared, and how.
pub(crate) struct Settings {
    /// The way to the API server.
    pub(crate) kubeconfig: PathBuf,
    /// The CoreDNS that serves it.
    pub(crate) dns: SocketAddr,
    /// What that CoreDNS is configured with.
    pub(crate) corefile: String,
    /// The cluster's zone, without a dot at its end.
    pub(crate) zone: String,
    /// The agent's program.
    pub(crate) agent: PathBuf,
    pub(crate) parts: Parts,
    /// What all random choices follow from, and the names of the namespaces.
    pub(crate) seed: u64,
    /// Random changes before everything is asked again.
    pub(crate) changes: usize,
    /// Transitions beside the controller manager, each of which is asked about.
    pub(crate) transitions: usize,
    /// Kills the API server and starts it again.
    pub(crate) restart_api: Option<String>,
    /// Makes etcd forget old versions.
    pub(crate) compact: Option<String>,
}

/// Which parts of the comparison are run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    All,
    Transitions,
}

/// What `cargo xtask bench --cluster` measures.
pub(crate) struct Measured {
    /// Services with five endpoints each, half of them headless, that are made.
    pub(crate) services: usize,
    /// Changes that are timed.
    pub(crate) changes: usize,
    /// CoreDNS's process, if it is on this machine.
    pub(crate) dns_pid: Option<u32>,
    /// Ends the API server, and starts it again.
    pub(crate) stop_api: Option<String>,
    pub(crate) start_api: Option<String>,
    /// How long it is away.
    pub(crate) outage: Duration,
}

/// What `cargo xtask bench --watches` measures.
pub(crate) struct Watched {
    /// The way to the API server.
    pub(crate) kubeconfig: PathBuf,
    /// Agents that watch.
    pub(crate) watchers: usize,
    /// Changes of an EndpointSlice in a second.
    pub(crate) rate: u64,
    /// Seconds that each way is measured for.
    pub(crate) seconds: u64,
}

impl Watched {
    /// None when this is something else.
    pub(crate) fn from_environment() -> Result<Option<Watched>> {
        let Ok(watchers) = env::var("ZEROHOP_WATCHERS") else {
            return Ok(None);
        };
        Ok(Some(Watched {
            kubeconfig: needed("ZEROHOP_KUBECONFIG")?.into(),
            watchers: watchers
                .parse()
                .context("ZEROHOP_WATCHERS is not a number")?,
            rate: number("ZEROHOP_RATE", 100)?,
            seconds: number("ZEROHOP_SECONDS", 20)?,
        }))
    }
}

impl Measured {
    /// None when this is a comparison.
    pub(crate) fn from_environment() -> Result<Option<Measured>> {
        let Ok(services) = env::var("ZEROHOP_MEASURE") else {
            return Ok(None);
        };
        let dns_pid = match number("ZEROHOP_DNS_PID", 0)? {
            0 => None,
            pid => Some(u32::try_from(pid)?),
        };
        Ok(Some(Measured {
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

impl Settings {
    pub(crate) fn from_environment() -> Result<Settings> {
        let corefile = match env::var("ZEROHOP_COREFILE") {
            Ok(path) => fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?,
            Err(_) => include_str!("Corefile").to_owned(),
        };
        let seed = match env::var("ZEROHOP_SEED") {
            Ok(seed) => seed.parse().context("ZEROHOP_SEED is not a number")?,
            Err(_) => rand::random::<u32>().into(),
        };
        let count = |variable: &str, otherwise: usize| match env::var(variable) {
            Ok(count) => count
                .parse()
                .with_context(|| format!("{variable} is not a number")),
            Err(_) => Ok(otherwise),
        };
        let zone = zone(&corefile).context("the Corefile has no line `kubernetes ZONE …`")?;
        Ok(Settings {
            kubeconfig: needed("ZEROHOP_KUBECONFIG")?.into(),
            dns: needed("ZEROHOP_DNS")?
                .parse()
                .context("ZEROHOP_DNS is not an address and port")?,
            zone,
            corefile,
            agent: needed("ZEROHOP_AGENT")?.into(),
            parts: match env::var("ZEROHOP_ONLY").as_deref() {
                Ok("transitions") => Parts::Transitions,
                _ => Parts::All,
            },
            seed,
            changes: count("ZEROHOP_CHANGES", 1000)?,
            transitions: count("ZEROHOP_TRANSITIONS", 500)?,
            restart_api: env::var("ZEROHOP_RESTART_API").ok(),
            compact: env::var("ZEROHOP_COMPACT").ok(),
        })
    }
}

fn number(variable: &str, otherwise: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable} is not a number")),
        Err(_) => Ok(otherwise),
    }
}

fn needed(variable: &str) -> Result<String> {
    env::var(variable).with_context(|| {
        format!("{variable} is not set: start this by `cargo xtask test --cluster`")
    })
}

/// The first zone of the `kubernetes` plugin.
fn zone(corefile: &str) -> Option<String> {
    let mut lines = corefile.lines().map(str::split_whitespace);
    let mut words = lines.find(|words| words.clone().next() == Some("kubernetes"))?;
    let zone = words.nth(1)?.trim_end_matches('.');
    Some(zone.to_ascii_lowercase())
}
