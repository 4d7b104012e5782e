//! `cargo xtask bench`: the kernel program beside a bare reflector, and its tables; or an agent beside
//! CoreDNS, in front of a real API server.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Result;
use clap::Args;

use crate::{
    build_ebpf,
    process::{build, cargo, root, run as run_command},
    setup::{self, Need, Say},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Passed to the benchmark: --case NAME, --pairs N.
    #[arg(last = true)]
    arguments: Vec<String>,
    /// A smoke test of the benchmark itself: few frames, no bars, no release build.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    watches: Watches,
}

/// An API server, and what the ways to watch EndpointSlices cost it.
#[derive(Args)]
struct Watches {
    /// Measure what watches of EndpointSlices cost this API server instead.
    #[arg(long, value_name = "KUBECONFIG", conflicts_with = "bench_cluster")]
    watches: Option<PathBuf>,
    /// Agents that watch.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    watchers: u32,
    /// Changes of an EndpointSlice in a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    rate: u32,
    /// Seconds that each way is measured for.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u32,
}

/// A cluster, and a CoreDNS that serves it: how long changes take, and what both hold.
#[derive(Args)]
struct Cluster {
    /// Measure an agent and a CoreDNS in front of this API server instead; in namespaces that are made
    /// for it and taken away again.
    #[arg(
        id = "bench_cluster",
        long = "cluster",
        value_name = "KUBECONFIG",
        requires = "bench_dns"
    )]
    kubeconfig: Option<PathBuf>,
    /// The CoreDNS that serves the same API server.
    #[arg(
        id = "bench_dns",
        long = "dns",
        value_name = "IP:PORT",
        requires = "bench_cluster"
    )]
    dns: Option<SocketAddr>,
    /// Its process, if it runs on this machine, to compare memory.
    #[arg(long, value_name = "PID", requires = "bench_cluster")]
    dns_pid: Option<u32>,
    /// Services to make, with five endpoints each, half of them headless.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    services: u32,
    /// Changes of an endpoint to time.
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    changes: u32,
    /// Ends the API server; with --start-api, questions go on for --outage seconds without it.
    #[arg(long, value_name = "COMMAND", requires = "start_api")]
    stop_api: Option<String>,
    /// Starts the API server again.
    #[arg(long, value_name = "COMMAND", requires = "stop_api")]
    start_api: Option<String>,
    /// How long the API server is away, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    outage: u32,
}

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(kubeconfig) = &options.watches.watches {
        return options.watches.run(kubeconfig);
    }
    setup::need_root("bench")?;
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Say::Changes)?;
    build_ebpf::programs()?;
    if let (Some(kubeconfig), Some(dns)) = (&options.cluster.kubeconfig, options.cluster.dns) {
        return options.cluster.run(kubeconfig, dns);
    }
    let programs = build_ebpf::bench()?;
    let mut command = cargo();
    command.args([
        "build",
        "--quiet",
        "--package",
        "zerohop-tests",
        "--bench",
        "bench",
    ]);
    if !options.quick {
        command.arg("--release");
    }
    let bench = build(&mut command, "bench")?;
    let mut command = Command::new(bench);
    command.current_dir(root()).arg("--object").arg(programs);
    if options.quick {
        command.arg("--quick");
    }
    run_command(command.args(&options.arguments))
}

impl Cluster {
    fn run(&self, kubeconfig: &PathBuf, dns: SocketAddr) -> Result<()> {
        let agent = build(
            cargo().args(["build", "--quiet", "--release", "--package", "dns-agent"]),
            "dns-agent",
        )?;
        let mut command = Command::new(cluster()?);
        command
            .env("ZEROHOP_KUBECONFIG", std::path::absolute(kubeconfig)?)
            .env("ZEROHOP_DNS", dns.to_string())
            .env("ZEROHOP_AGENT", agent)
            .env("ZEROHOP_MEASURE", self.services.to_string())
            .env("ZEROHOP_CHANGES", self.changes.to_string())
            .env("ZEROHOP_OUTAGE", self.outage.to_string());
        let given = [
            ("ZEROHOP_DNS_PID", self.dns_pid.map(|pid| pid.to_string())),
            ("ZEROHOP_STOP_API", self.stop_api.clone()),
            ("ZEROHOP_START_API", self.start_api.clone()),
        ];
        for (variable, value) in given {
            if let Some(value) = value {
                command.env(variable, value);
            }
        }
        run_command(&mut command)
    }
}

impl Watches {
    fn run(&self, kubeconfig: &PathBuf) -> Result<()> {
        setup::ensure(&[Need::Ebpf], Say::Changes)?;
        build_ebpf::programs()?;
        let mut command = Command::new(cluster()?);
        command
            .env("ZEROHOP_KUBECONFIG", std::path::absolute(kubeconfig)?)
            .env("ZEROHOP_WATCHERS", self.watchers.to_string())
            .env("ZEROHOP_RATE", self.rate.to_string())
            .env("ZEROHOP_SECONDS", self.seconds.to_string());
        run_command(&mut command)
    }
}

/// Builds what speaks to a real API server.
fn cluster() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "zerohop-tests"]);
    build(command.args(["--test", "cluster", "--no-run"]), "cluster")
}
