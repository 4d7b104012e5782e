//! The command line of Zerohop's agent.

#![forbid(unsafe_code)]

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use dns_agent::{
    admin,
    agent::threads::{drop_administrator, drop_capabilities, drop_unneeded_capabilities},
    agent::{Agent, SteeringPreparation},
    check::{self, CheckRequest, CheckVerdict},
    config::{
        AgentCommand, CheckArgs, Cli, Config, DetachArgs, DumpArgs, LookupArgs, RunArgs,
        StatusArgs, Steer,
    },
};
use mimalloc::MiMalloc;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use zerohop_datapath::interfaces::Devices;

/// Queries to upstreams allocate and free several kilobytes each, for which glibc's allocator takes
/// a fifth of their time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = build_runtime(&cli.command)
        .context("can't start the runtime")
        .and_then(|runtime| runtime.block_on(run_command(cli.command)));
    match result {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be reported if the standard error is closed.
            let _ = writeln!(io::stderr(), "dns-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the runtime of a command. The worker threads of `dns-agent run` drop their capabilities.
fn build_runtime(command: &AgentCommand) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name("worker");
    // The workers learn of what the network brings after this number of turns of tasks. With
    // Tokio's 61, large answers over TCP delayed other connections.
    builder.event_interval(4);
    if let AgentCommand::Run(_) = command {
        builder.on_thread_start(drop_unneeded_capabilities);
    }
    builder.build()
}

async fn run_command(command: AgentCommand) -> anyhow::Result<ExitCode> {
    match command {
        AgentCommand::Run(args) => run_agent(*args).await?,
        AgentCommand::Check(args) => return check_node(*args).await,
        AgentCommand::Status(args) => print_status(args).await?,
        AgentCommand::Lookup(args) => print_lookup(args).await?,
        AgentCommand::Dump(args) => print_dump(args).await?,
        AgentCommand::Detach(args) => detach_hooks(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the agent until SIGTERM, SIGINT or SIGHUP, or until it fails.
async fn run_agent(args: RunArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::builder()
                .with_default_directive(tracing::Level::INFO.into())
                .from_env()
                .context(
                    "RUST_LOG is not a log filter: give a filter such as info or \
                     zerohop_resolver=debug",
                )?,
        )
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    admin::metrics::count_panics();
    // Signals are handled before the agent starts, which may take long: without a handler the
    // kernel ignores SIGTERM for process 1 of a container.
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let config = Config::from_args(args)?;
    let start = async {
        let steering = SteeringPreparation::prepare(&config).await;
        if config.steer == Steer::Auto {
            // Only the network namespaces of steering need it. No later thread gets it.
            drop_administrator().context("the main thread can't drop the capability SYS_ADMIN")?;
        }
        Agent::spawn(config, steering).await
    };
    let agent = tokio::select! {
        agent = start => agent?,
        () = shutdown.cancelled() => {
            tracing::info!("stopped");
            return Ok(());
        }
    };
    // The tasks that need capabilities run on other threads by now.
    drop_capabilities().context("the main thread can't drop its capabilities")?;
    agent.run(shutdown).await
}

/// Prints what works on this node. The exit status is 1 if a check fails; limits are no failure.
async fn check_node(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let request = CheckRequest::from(args.run.settings()?);
    let report = check::check_node(&request).await;
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.to_string()
    };
    write_stdout(text.as_bytes())?;
    match report.verdict {
        CheckVerdict::Works | CheckVerdict::Limited => Ok(ExitCode::SUCCESS),
        CheckVerdict::Fails => Ok(ExitCode::FAILURE),
    }
}

/// Prints the status of the running agent.
async fn print_status(args: StatusArgs) -> anyhow::Result<()> {
    let status = admin::client::status(args.agent.admin.0).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status.to_string()
    };
    write_stdout(text.as_bytes())?;
    Ok(())
}

/// Prints how the running agent answers a question: the answer, the plane that gives it, and the
/// objects that it comes from.
async fn print_lookup(args: LookupArgs) -> anyhow::Result<()> {
    let lookup = admin::client::lookup(args.agent.admin.0, &args.name.0, args.rtype.0).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&lookup)? + "\n"
    } else {
        lookup.to_string()
    };
    write_stdout(text.as_bytes())?;
    Ok(())
}

/// Prints the running agent's records as a zone file.
async fn print_dump(args: DumpArgs) -> anyhow::Result<()> {
    let zone = args.zone.as_ref().map(|zone| &zone.0);
    let mut text = admin::client::dump(args.agent.admin.0, zone).await?;
    while let Some(piece) = text.next().await? {
        if write_stdout(&piece)? == OutputReader::Gone {
            break;
        }
    }
    Ok(())
}

/// Removes the hooks and pins that agents left on this node.
async fn detach_hooks(args: DetachArgs) -> anyhow::Result<()> {
    let mut devices = Devices::default();
    let removed = zerohop_datapath::detach(&args.bpffs, devices.list().await?)?;
    let text: String = if removed.is_empty() {
        "no hook or pin of Zerohop is on this node\n".to_owned()
    } else {
        removed
            .iter()
            .map(|hook| format!("removed: {hook}\n"))
            .collect()
    };
    write_stdout(text.as_bytes())?;
    Ok(())
}

/// Whether a process still reads the standard output.
#[derive(PartialEq, Eq)]
enum OutputReader {
    There,
    /// The reader, such as `head`, has closed the pipe. Printing stops without an error.
    Gone,
}

fn write_stdout(text: &[u8]) -> anyhow::Result<OutputReader> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(OutputReader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(OutputReader::Gone),
        Err(error) => Err(error).context("can't write to the standard output"),
    }
}

/// Installs handlers of SIGTERM, SIGINT and SIGHUP. The returned future cancels the token at the
/// first of these signals.
fn cancel_on_signal(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("can't wait for SIGHUP")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        shutdown.cancel();
    })
}
