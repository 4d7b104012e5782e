//! `cargo xtask lint`: formatting, and the lints of the kernel's side and ours.

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    process::{cargo, root, run as run_command},
    setup::Say,
    toolchain,
};

/// The job itself. Every warning is an error.
pub(crate) fn run() -> Result<()> {
    run_command(cargo().args(["fmt", "--all", "--check"]))?;
    // The agent embeds the kernel programs.
    build_ebpf::programs()?;
    run_command(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        // The comparison is no target of `cargo test`, so not one of all of them either.
        "--test=cluster",
        "--",
        "--deny=warnings",
    ]))?;

    let tools = toolchain::ensure(Say::Changes)?;
    // The lints of the very compiler that builds the programs: `cargo clippy`
    // would take those of the active toolchain.
    let clippy = tools.rustc.with_file_name("clippy-driver");
    if !clippy.exists() {
        bail!(
            "{} has no clippy-driver beside it: add clippy to that toolchain",
            tools.rustc.display()
        );
    }
    run_command(
        build_ebpf::cargo_for_kernel(&tools, root(), "check", &["-Dwarnings"])
            .args(["--bins", "--features", "log"])
            // This makes it a `cargo clippy`.
            .env("RUSTC_WORKSPACE_WRAPPER", clippy),
    )
}
