//! The command line: subcommands and their arguments.

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand};

use super::{DEFAULT_ADMIN, QueryName, QueryType, Settings, Socket};
use crate::{datapath::pins::BPFFS, zone::Rtype};

/// Zerohop's agent: answers Kubernetes DNS in the kernel and in user space.
#[derive(Debug, Parser)]
#[command(name = "dns-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: load the objects, answer queries, follow changes.
    Run(Box<RunArgs>),
    /// Say what will work on this node and what won't, and why: the kernel, the
    /// capabilities, the BPF file system, the interfaces, other people's
    /// programs, kube-proxy.
    ///
    /// The real programs are loaded and run over a made-up question. Nothing is
    /// attached, nothing stays, and a running agent is not disturbed. All flags
    /// of `run` are taken; those below matter. Without --interface, pods' veths
    /// are looked at.
    Check(Box<CheckArgs>),
    /// Say what the running agent has loaded, attached and answered.
    Status(StatusArgs),
    /// Say what a question would be answered, by which plane, and from which
    /// objects.
    Lookup(LookupArgs),
    /// Print every record as a zone file.
    Dump(DumpArgs),
    /// Take every hook and pin of ours off this node.
    Detach(DetachArgs),
}

/// The arguments of `dns-agent run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A YAML file with any of the settings below, each under its flag's name
    /// without the dashes in front; a repeatable flag is a list there. A flag
    /// given here wins over the file; what the file switches on, none switches off.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings given as flags.
    #[command(flatten)]
    pub settings: Settings,
}

impl RunArgs {
    /// The settings of the file, overlaid with the flags.
    ///
    /// # Errors
    /// When the file can't be read or parsed.
    pub fn settings(self) -> anyhow::Result<Settings> {
        match &self.config {
            Some(path) => Ok(self.settings.or(Settings::read(path)?)),
            None => Ok(self.settings),
        }
    }
}

/// The arguments of `dns-agent check`: all those of `run`, so that a running agent's whole command line may be
/// checked. Only those that matter are shown.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when nothing fails, limits or not; 1 when something fails; 2 when the command line is wrong.",
    mut_args(only_what_is_checked)
)]
pub struct CheckArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,

    /// What an agent would be run with.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Hides the arguments of `run` that `check` has no use for.
fn only_what_is_checked(argument: Arg) -> Arg {
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
    #[arg(long, value_name = "IP:PORT", default_value_t = Socket(DEFAULT_ADMIN))]
    pub admin: Socket,
}

/// The arguments of `dns-agent lookup`.
#[derive(Debug, Args)]
pub struct LookupArgs {
    /// The whole name to look up: no search list is applied, and a dot at its
    /// end changes nothing.
    #[arg(value_name = "NAME")]
    pub name: QueryName,

    /// The type of record: a name such as AAAA in any case, or TYPE and a
    /// number.
    #[arg(value_name = "TYPE", default_value_t = QueryType(Rtype::A))]
    pub rtype: QueryType,

    /// Print the agent's answer as JSON.
    #[arg(long)]
    pub json: bool,

    /// Where the running agent's admin endpoints listen.
    #[arg(long, value_name = "IP:PORT", default_value_t = Socket(DEFAULT_ADMIN))]
    pub admin: Socket,
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
    /// named-checkzone, take one zone at a time; without this, all zones are
    /// printed one after another.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<QueryName>,

    /// Where the running agent's admin endpoints listen.
    #[arg(long, value_name = "IP:PORT", default_value_t = Socket(DEFAULT_ADMIN))]
    pub admin: Socket,
}
