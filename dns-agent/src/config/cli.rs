//! The command line: subcommands and their arguments.

use std::path::PathBuf;

use clap::{Arg, Args, Parser, Subcommand};
use zerohop_datapath::pins::BPFFS;
use zerohop_zone::Rtype;

use super::{
    ListenAddress, QueryName, QueryType, RunSettings,
    declaration::{find_setting, is_in_group},
    file,
    given::GivenSettings,
    settings::{CHECKED, DEFAULT_ADMIN},
};

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
    /// All flags of `run` are accepted; the flags listed below have an effect.
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
    /// A YAML file with any settings of `dns-agent run`. A key is the name of a flag
    /// without the leading dashes; the value of a repeatable flag is a list. A
    /// flag replaces the file's value; --switch=false turns off a switch that the
    /// file turns on.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The settings on the command line.
    #[command(flatten)]
    pub flags: GivenSettings,
}

impl RunArgs {
    /// The settings of the command line and of the file. Flags take precedence.
    ///
    /// # Errors
    /// When the file can't be read or parsed, or a value is invalid.
    pub fn settings(self) -> anyhow::Result<RunSettings> {
        let file = match &self.config {
            Some(path) => file::read(path)?,
            None => GivenSettings::default(),
        };
        Ok(self.flags.overlay(file).parse()?)
    }
}

/// The arguments of `dns-agent check`. It accepts all arguments of `run`, so that an agent's whole
/// command line can be checked. The help shows only the arguments that have an effect.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when nothing fails, with or without limits; 1 when something fails; \
                  2 when the command line is wrong.",
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

/// Hides the settings that have no effect in `check`.
fn hide_unchecked(argument: Arg) -> Arg {
    let name = argument.get_long().unwrap_or_default();
    let is_unchecked = find_setting(name).is_some_and(|setting| !is_in_group(setting, CHECKED));
    argument.hide(is_unchecked)
}

/// The address of the running agent.
#[derive(Debug, Args)]
pub struct AgentAddress {
    /// Where the running agent's admin endpoints listen.
    #[arg(long, value_name = "IP:PORT", default_value = DEFAULT_ADMIN)]
    pub admin: ListenAddress,
}

/// The arguments of `dns-agent status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print the agent's answer as JSON.
    #[arg(long)]
    pub json: bool,

    /// The agent that answers.
    #[command(flatten)]
    pub agent: AgentAddress,
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

    /// The agent that answers.
    #[command(flatten)]
    pub agent: AgentAddress,
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
    /// are printed one after another, and then the records outside the zones.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<QueryName>,

    /// The agent that answers.
    #[command(flatten)]
    pub agent: AgentAddress,
}
