//! What `cargo xtask test --cluster` passes on, by environment variables.

use std::{env, fs, net::SocketAddr, path::PathBuf};

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
    /// What all random choices follow from.
    pub(crate) seed: u64,
    /// Kills the API server and starts it again.
    pub(crate) restart_api: Option<String>,
    /// Makes etcd forget old versions.
    pub(crate) compact: Option<String>,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Settings> {
        let corefile = match env::var("ZEROHOP_COREFILE") {
            Ok(path) => fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?,
            Err(_) => include_str!("Corefile").to_owned(),
        };
        let seed = match env::var("ZEROHOP_SEED") {
            Ok(seed) => seed.parse().context("ZEROHOP_SEED is not a number")?,
            Err(_) => rand::random(),
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
            seed,
            restart_api: env::var("ZEROHOP_RESTART_API").ok(),
            compact: env::var("ZEROHOP_COMPACT").ok(),
        })
    }
}

fn needed(variable: &str) -> Result<String> {
    env::var(variable)
        .with_context(|| format!("{variable} is not set: start this by `cargo xtask test --cluster`"))
}

/// The first zone of the `kubernetes` plugin.
fn zone(corefile: &str) -> Option<String> {
    let mut lines = corefile.lines().map(str::split_whitespace);
    let mut words = lines.find(|words| words.clone().next() == Some("kubernetes"))?;
    let zone = words.nth(1)?.trim_end_matches('.');
    Some(zone.to_ascii_lowercase())
}
