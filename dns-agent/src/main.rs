//! The command line of Zerohop's agent.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use dns_agent::{
    admin,
    agent::{Agent, threads::drop_capabilities},
    check::{self, Asked, Verdict},
    config::{
        CheckArgs, Cli, Command, Config, DetachArgs, DumpArgs, LookupArgs, RunArgs, StatusArgs,
    },
    datapath::{self, interfaces::Devices},
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = runtime(&cli.command)
        .context("can't start the runtime")
        .and_then(|runtime| runtime.block_on(act(cli.command)));
    match done {
        Ok(code) => code,
        Err(error) => {
            // Whoever closed the terminal doesn't want to know.
            let _ = writeln!(io::stderr(), "dns-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime whose threads have only what the command needs.
fn runtime(command: &Command) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().thread_name("worker");
    if let Command::Run(_) = command {
        builder.on_thread_start(|| {
            if let Err(error) = drop_capabilities() {
                tracing::warn!("a thread keeps capabilities that it doesn't need: {error}");
            }
        });
    }
    builder.build()
}

async fn act(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run(*args).await?,
        Command::Check(args) => return check(*args).await,
        Command::Status(args) => status(args).await?,
        Command::Lookup(args) => lookup(args).await?,
        Command::Dump(args) => dump(args).await?,
        Command::Detach(args) => detach(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves until told to end.
async fn run(args: RunArgs) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::builder()
                .with_default_directive(tracing::Level::INFO.into())
                .from_env()
                .context(
                    "RUST_LOG is not a log filter: give one such as info or dns_agent=debug",
                )?,
        )
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    // Heard from the first moment on: as process 1 of a container it would have no effect else.
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    let config = Config::from_args(args)?;
    let agent = tokio::select! {
        agent = Agent::begin(config) => agent?,
        () = shutdown.cancelled() => {
            tracing::info!("stopped");
            return Ok(());
        }
    };
    // From here on this thread only waits.
    drop_capabilities().context("can't give up the capabilities")?;
    agent.run(shutdown).await
}

/// Prints what will work on this node. Fails when something won't.
async fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let asked = Asked::from(args.run.settings()?);
    let report = check::check(&asked).await;
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        report.to_string()
    };
    print(text.as_bytes())?;
    match report.verdict {
        Verdict::Works | Verdict::Limited => Ok(ExitCode::SUCCESS),
        Verdict::Fails => Ok(ExitCode::FAILURE),
    }
}

/// Prints what the running agent says of itself.
async fn status(args: StatusArgs) -> anyhow::Result<()> {
    let status = admin::client::status(args.admin.0).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status.to_string()
    };
    print(text.as_bytes())?;
    Ok(())
}

/// Prints what the running agent would answer.
async fn lookup(args: LookupArgs) -> anyhow::Result<()> {
    let lookup = admin::client::lookup(args.admin.0, &args.name.0, args.rtype.0).await?;
    let text = if args.json {
        serde_json::to_string_pretty(&lookup)? + "\n"
    } else {
        lookup.to_string()
    };
    print(text.as_bytes())?;
    Ok(())
}

/// Prints every record of the running agent.
async fn dump(args: DumpArgs) -> anyhow::Result<()> {
    let zone = args.zone.as_ref().map(|zone| &zone.0);
    let mut text = admin::client::dump(args.admin.0, zone).await?;
    while let Some(piece) = text.next().await? {
        if print(&piece)? == Reader::Gone {
            break;
        }
    }
    Ok(())
}

/// Takes off what agents have left on this node.
async fn detach(args: DetachArgs) -> anyhow::Result<()> {
    let mut devices = Devices::default();
    let taken_off = datapath::detach(&args.bpffs, devices.list().await?)?;
    let text: String = match taken_off.is_empty() {
        true => "nothing of ours is on this node\n".to_owned(),
        false => taken_off
            .iter()
            .map(|what| format!("taken off: {what}\n"))
            .collect(),
    };
    print(text.as_bytes())?;
    Ok(())
}

/// Who reads what is printed.
#[derive(PartialEq, Eq)]
enum Reader {
    There,
    /// As when `head` has seen enough: no error, and no reason to go on.
    Gone,
}

fn print(text: &[u8]) -> anyhow::Result<Reader> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("can't write to the standard output"),
    }
}

/// Cancels the token at the first SIGTERM, SIGINT or SIGHUP.
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
