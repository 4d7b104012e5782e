//! `cargo xtask lint`: checks the formatting, and the lints of the workspace and of the kernel
//! programs.

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    packages::Verbosity,
    process::{cargo, root, run_command},
    toolchain,
};

/// Runs the job. Every warning is an error.
pub(crate) fn run() -> Result<()> {
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    // The agent embeds the kernel programs.
    build_ebpf::build_programs()?;
    // The comparisons have `test = false`, so `--all-targets` does not include them, and Cargo
    // ignores `--test` together with `--all-targets`.
    for targets in ["--all-targets", "--test=cluster", "--test=routes"] {
        run_command(cargo().args(["clippy", "--workspace", targets, "--", "--deny=warnings"]))?;
    }

    let tools = toolchain::ensure(Verbosity::Changes)?;
    // The clippy of the compiler that builds the programs. `cargo clippy` would use the clippy of
    // the active toolchain.
    let clippy = tools.rustc.with_file_name("clippy-driver");
    if !clippy.exists() {
        bail!(
            "{} has no clippy-driver in its directory: add clippy to that toolchain",
            tools.rustc.display()
        );
    }
    run_command(
        build_ebpf::cargo_for_kernel(&tools, root(), "check", &["-Dwarnings"])
            .args(["--bins", "--features", "log"])
            // This is how `cargo clippy` makes `cargo check` run clippy.
            .env("RUSTC_WORKSPACE_WRAPPER", clippy),
    )
}
