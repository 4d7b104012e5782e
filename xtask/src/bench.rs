//! `cargo xtask bench`: the kernel program beside a bare reflector, and its tables.

use std::process::Command;

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
}

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::need_root("bench")?;
    setup::ensure(&[Need::Ebpf, Need::Namespaces], Say::Changes)?;
    build_ebpf::programs()?;
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
