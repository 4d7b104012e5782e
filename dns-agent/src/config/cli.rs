//! The command line: subcommands and their arguments.

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand};
use zerohop_datapath::pins::BPFFS;
use zerohop_zone::Rtype;

use super::{DEFAULT_ADMIN, ListenAddress, QueryName, QueryType, RunSettings};

/// Zerohop's agent: answers Kubernetes DNS queries in the kernel and in user space.
#[derive(Debug, Parser)]
#[command(name = "dns-agent", version)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: AgentCommand,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run the agent: load the objects, answer queries, follow changes.
    Run(Box<RunArgs>),
    /// Check what will work on this node and what won't, and why: the kernel,
    /// the capabilities, the BPF file system, the interfaces, foreign BPF
    /// programs, kube-proxy.
    ///
    /// The real programs are loaded and run over a test query. Nothing is
    /// attached, nothing is left behind, and a running agent is not disturbed.
    /// All flags of `run` are accepted; those listed below have an effect.
    /// Without --interface, pods' veths are checked.
    Check(Box<CheckArgs>),
    /// Show what the running agent has loaded, attached and answered.
    Status(StatusArgs),
    /// Show how a query would be answered, by which plane, and from which
    /// objects.
    Lookup(LookupArgs),
    /// Print every record as a zone file.
    Dump(DumpArgs),
    /// Remove all hooks and pins of Zerohop from this node.
    Detach(DetachArgs),
}

/// The arguments of `dns-agent run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A YAML file with any of the settings below. A key is the name of a flag
    /// without the leading dashes; the value of a repeatable flag is a list.
    /// Flags override the file, but a switch that the file turns on can't be
    /// turned off by a flag.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings on the command line.
    #[command(flatten)]
    pub settings: RunSettings,
}

impl RunArgs {
    /// The settings of the command line, completed by those of the file.
    ///
    /// # Errors
    /// When the file can't be read or parsed.
    pub fn settings(self) -> anyhow::Result<RunSettings> {
        match &self.config {
            Some(path) => Ok(self.settings.overlay(RunSettings::read(path)?)),
            None => Ok(self.settings),
        }
    }
}

/// The arguments of `dns-agent check`: all those of `run`, so that an agent's whole command line
/// can be checked. The help shows only those that have an effect.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when nothing fails, with or without limits; 1 when something fails; 2 when the command line is wrong.",
    mut_args(hide_unchecked)
)]
pub struct CheckArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,

    /// The arguments that an agent would be run with.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Hides the arguments of `run` that have no effect in `check`.
fn hide_unchecked(argument: Arg) -> Arg {
    const CHECKED: [&str; 12] = [
        "json",
        "config",
        "interface",
        "allow",
        "listen",
        "serve_dns_endpoints",
        "persist",
        "bpffs",
        "serve",
        "cluster_domain",
        "reverse",
        "pass",
    ];
    let is_checked = CHECKED.contains(&argument.get_id().as_str());
    argument.hide(!is_checked)
}

/// The arguments of `dns-agent status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print the agent's answer as JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the running agent's admin endpoints listen.
    #[arg(long, value_name = "IP:PORT", default_value_t = ListenAddress(DEFAULT_ADMIN))]
    pub admin: ListenAddress,
}

/// The arguments of `dns-agent lookup`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    /// The full name to look up. No search list is applied, and a trailing dot
    /// makes no difference.
    #[arg(value_name = "NAME")]
    pub name: QueryName,

    /// The record type: a name such as AAAA, in upper or lower case, or TYPE and
    /// a number.
    #[arg(value_name = "TYPE", default_value_t = QueryType(Rtype::A))]
    pub rtype: QueryType,

    /// Print the agent's answer as JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the running agent's admin endpoints listen.
    #[arg(long, value_name = "IP:PORT", default_value_t = ListenAddress(DEFAULT_ADMIN))]
    pub admin: ListenAddress,
}

/// The arguments of `dns-agent detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Where the BPF file system is mounted.
    #[arg(long, value_name = "PATH", default_value = BPFFS)]
    pub bpffs: PathBuf,
}

/// The arguments of `dns-agent dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Print this zone only. Programs that read zone files, such as
    /// named-checkzone, take one zone at a time. Without this flag, all zones
    /// are printed one after another.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<QueryName>,

    /// Where the running agent's admin endpoints listen.
    #[arg(long, value_name = "IP:PORT", default_value_t = ListenAddress(DEFAULT_ADMIN))]
    pub admin: ListenAddress,
}
