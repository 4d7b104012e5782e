//! `cargo xtask faults`: injects faults into a node's agent under load, and prints their effects as
//! a table. With `--attacks` one tenant's objects attack the agent instead.

mod other_layout;

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build_ebpf,
    packages::Verbosity,
    process::{build, cargo, root},
    setup::{self, Need},
    test::BuiltSuites,
};

#[derive(Args)]
pub(crate) struct FaultsOptions {
    /// Another build of the agent. The test updates to it and rolls back from it [default: a build
    /// of these sources with another layout of the tables].
    #[arg(long, value_name = "FILE")]
    other_agent: Option<PathBuf>,
    /// Measures instead what one tenant's objects cost the others, with a release build.
    #[arg(long, conflicts_with = "other_agent")]
    attacks: bool,
    /// Passed to the test binary: names of tests, or parts of names [default: faults::, or
    /// attacks:: with --attacks].
    #[arg(last = true)]
    filter: Vec<String>,
}

/// The test harness prints this text between a test's name and the first line of its output.
const BEFORE_OUTPUT: &str = " ... ";

/// Runs the job.
pub(crate) fn run(options: &FaultsOptions) -> Result<()> {
    setup::need_root("faults")?;
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Verbosity::Changes)?;
    build_ebpf::build_programs()?;
    let suites = BuiltSuites::build()?.program;
    let (variable, agent) = match &options.other_agent {
        _ if options.attacks => {
            let mut release = cargo();
            release.args(["build", "--quiet", "--release", "--package", "dns-agent"]);
            ("ZEROHOP_AGENT", build(&mut release, "dns-agent")?)
        }
        Some(path) => {
            let agent = path.canonicalize();
            let agent = agent.with_context(|| format!("--other-agent: {}", path.display()))?;
            ("ZEROHOP_OTHER_AGENT", agent)
        }
        None => ("ZEROHOP_OTHER_AGENT", other_layout::build_agent()?),
    };
    let path = root().join("target/faults.log");
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let tables = match &options.filter[..] {
        [] if options.attacks => vec![FaultTable::ATTACKS],
        [] => vec![FaultTable::FAULTS, FaultTable::STEERING],
        filter => vec![FaultTable {
            filter,
            ..FaultTable::FAULTS
        }],
    };
    let mut failed = false;
    for table in tables {
        let mut command = Command::new(&suites);
        command.env(variable, &agent).stderr(log.try_clone()?);
        failed |= !table.print(command)?;
    }
    if failed {
        bail!(
            "lookups are affected, or a test failed otherwise: the messages of the tests and the \
             logs of their agents are in {}",
            path.display()
        );
    }
    Ok(())
}

/// A table of faults, filled by tests.
struct FaultTable<'a> {
    /// Names of tests, or parts of names.
    filter: &'a [String],
    /// The filter if `filter` is empty.
    usual_filter: &'static str,
    skipped: &'static str,
    columns: &'static str,
}

impl FaultTable<'_> {
    const FAULTS: FaultTable<'static> = FaultTable {
        filter: &[],
        usual_filter: "faults::",
        skipped: "faults::steering",
        columns: "fault | lookups | from the kernel | failed | wrong | over 100 ms | slowest, ms",
    };
    const STEERING: FaultTable<'static> = FaultTable {
        filter: &[],
        usual_filter: "faults::steering",
        skipped: "faults::clock",
        columns: "fault | lookups over UDP | questions that the cluster's DNS answered | lost | \
                  failed lookups | slowest, ms | answers over TCP | connections ended | hung",
    };
    const ATTACKS: FaultTable<'static> = FaultTable {
        filter: &[],
        usual_filter: "attacks::",
        skipped: "faults::clock",
        columns: "attack | lookups | from the kernel | in the worst second | slowest change, ms | \
                  a deleted name answered for, ms | a denied pod answered for, ms | largest \
                  memory, MiB",
    };

    /// Runs the tests, and prints their rows. Returns whether they passed.
    fn print(&self, mut tests: Command) -> Result<bool> {
        tests
            // Cargo runs tests in their package's directory.
            .current_dir(root().join("tests"))
            .args(["--nocapture", "--test-threads=1"])
            // This test would step the clock of this machine.
            .arg("--skip=faults::clock")
            .env("ZEROHOP_FAULTS", "full")
            .stdout(Stdio::piped());
        match self.filter {
            [] => tests.args([self.usual_filter, "--skip", self.skipped]),
            filter => tests.args(filter),
        };
        println!("| {} |", self.columns);
        println!("|{}", "---|".repeat(self.columns.split(" | ").count()));
        let mut tests = tests.spawn().context("cannot start the tests")?;
        let output = tests.stdout.take().context("the tests have no output")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            match line.split_once(BEFORE_OUTPUT) {
                Some((_, row)) if row.starts_with('|') => println!("{row}"),
                _ if line.starts_with("test result") || line.ends_with("FAILED") => {
                    println!("{line}");
                }
                _ => {}
            }
        }
        Ok(tests.wait()?.success())
    }
}
