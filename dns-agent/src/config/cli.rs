//! The command line: subcommands and their arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// given here wins over the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings given as flags.
    #[command(flatten)]
    pub settings: Settings,
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
