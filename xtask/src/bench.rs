//! `cargo xtask bench`: measures the kernel program, its tables, TCP streams beside it, and what
//! the attacks of clients cost the others. With `--cluster` it measures an agent and CoreDNS with a
//! real API server, and with `--watches` the cost of watches for an API server.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Result;
use clap::Args;

use crate::{
    build_ebpf,
    packages::Verbosity,
    process::{build, cargo, root, run_command},
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct BenchOptions {
    /// Passed to the benchmark: --case NAME, --pairs N, --frames N, --runs N, --seconds N,
    /// --attack TEXT.
    #[arg(last = true)]
    arguments: Vec<String>,
    /// Only checks that the benchmark works: few packets, no required rates, no release build.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    cluster: ClusterBenchOptions,
    #[command(flatten)]
    watches: WatchBenchOptions,
}

/// Options of the measurement of EndpointSlice watches.
#[derive(Args)]
struct WatchBenchOptions {
    /// Measures instead what EndpointSlice watches cost the API server of this kubeconfig.
    #[arg(long, value_name = "KUBECONFIG", conflicts_with = "bench_cluster")]
    watches: Option<PathBuf>,
    /// Number of simulated agents.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    watchers: u32,
    /// EndpointSlice changes a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    rate: u32,
    /// Seconds for which each method of watching is measured, in each of two rounds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u32,
}

/// Options of the measurement of an agent and CoreDNS: how long changes take, memory, requests to
/// the API server, and answers while the API server is stopped.
#[derive(Args)]
struct ClusterBenchOptions {
    /// Measures instead an agent and a CoreDNS that read the API server of this kubeconfig. The
    /// measurement uses its own namespaces, and deletes them.
    #[arg(
        id = "bench_cluster",
        long = "cluster",
        value_name = "KUBECONFIG",
        requires = "bench_dns"
    )]
    kubeconfig: Option<PathBuf>,
    /// The address of the CoreDNS that reads the same API server.
    #[arg(
        id = "bench_dns",
        long = "dns",
        value_name = "IP:PORT",
        requires = "bench_cluster"
    )]
    dns: Option<SocketAddr>,
    /// The process ID of that CoreDNS, if it runs on this machine. Then its memory is compared.
    #[arg(long, value_name = "PID", requires = "bench_cluster")]
    dns_pid: Option<u32>,
    /// Number of Services to create, with five endpoints each; a number below 200 means 200. Half
    /// of them are headless.
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    services: u32,
    /// Number of endpoint changes to time.
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    changes: u32,
    /// A shell command that stops the API server. While it is stopped, for --outage seconds, the
    /// kernel receives queries.
    #[arg(long, value_name = "COMMAND", requires = "start_api")]
    stop_api: Option<String>,
    /// A shell command that starts the API server again.
    #[arg(long, value_name = "COMMAND", requires = "stop_api")]
    start_api: Option<String>,
    /// How long the API server is stopped, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    outage: u32,
}

/// Runs the job.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    if let Some(kubeconfig) = &options.watches.watches {
        return options.watches.run(kubeconfig);
    }
    setup::need_root("bench")?;
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Verbosity::Changes)?;
    build_ebpf::build_programs()?;
    if let (Some(kubeconfig), Some(dns)) = (&options.cluster.kubeconfig, options.cluster.dns) {
        return options.cluster.run(kubeconfig, dns);
    }
    let programs = build_ebpf::build_benchmark_programs()?;
    let build_program = |arguments: &[&str], target| {
        let mut command = cargo();
        command.args(["build", "--quiet"]).args(arguments);
        if !options.quick {
            command.arg("--release");
        }
        build(&mut command, target)
    };
    let bench = build_program(&["--package", "zerohop-tests", "--bench", "bench"], "bench")?;
    let agent = build_program(&["--package", "dns-agent"], "dns-agent")?;
    let mut command = Command::new(bench);
    command.current_dir(root()).arg("--object").arg(programs);
    command.arg("--agent").arg(agent);
    if options.quick {
        command.arg("--quick");
    }
    run_command(command.args(&options.arguments))
}

impl ClusterBenchOptions {
    fn run(&self, kubeconfig: &PathBuf, dns: SocketAddr) -> Result<()> {
        let agent = build(
            cargo().args(["build", "--quiet", "--release", "--package", "dns-agent"]),
            "dns-agent",
        )?;
        let mut command = Command::new(build_cluster_test()?);
        command
            .env("ZEROHOP_KUBECONFIG", std::path::absolute(kubeconfig)?)
            .env("ZEROHOP_DNS", dns.to_string())
            .env("ZEROHOP_AGENT", agent)
            .env("ZEROHOP_MEASURE", self.services.to_string())
            .env("ZEROHOP_CHANGES", self.changes.to_string())
            .env("ZEROHOP_OUTAGE", self.outage.to_string());
        let optional = [
            ("ZEROHOP_DNS_PID", self.dns_pid.map(|pid| pid.to_string())),
            ("ZEROHOP_STOP_API", self.stop_api.clone()),
            ("ZEROHOP_START_API", self.start_api.clone()),
        ];
        for (variable, value) in optional {
            if let Some(value) = value {
                command.env(variable, value);
            }
        }
        run_command(&mut command)
    }
}

impl WatchBenchOptions {
    fn run(&self, kubeconfig: &PathBuf) -> Result<()> {
        setup::ensure(&[Need::Ebpf], Verbosity::Changes)?;
        // The test program's package depends on dns-agent, which embeds the kernel programs.
        build_ebpf::build_programs()?;
        let mut command = Command::new(build_cluster_test()?);
        command
            .env("ZEROHOP_KUBECONFIG", std::path::absolute(kubeconfig)?)
            .env("ZEROHOP_WATCHERS", self.watchers.to_string())
            .env("ZEROHOP_RATE", self.rate.to_string())
            .env("ZEROHOP_SECONDS", self.seconds.to_string());
        run_command(&mut command)
    }
}

/// Builds the test program that works with a real API server.
fn build_cluster_test() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--quiet", "--package", "zerohop-tests"]);
    build(command.args(["--test", "cluster", "--no-run"]), "cluster")
}
