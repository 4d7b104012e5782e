//! `cargo xtask build-ebpf`: the kernel programs, as one object.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    process::{cargo, root, run as run_command},
    setup::Say,
    toolchain::{self, Toolchain},
};

#[derive(Args)]
pub(crate) struct Options {
    /// Logs one line for each packet that reaches the table look-up; costs speed.
    #[arg(long)]
    log: bool,
    /// Builds the benchmark's programs instead, into target/ebpf/bench.o.
    #[arg(long, conflicts_with = "log")]
    bench: bool,
}

/// The job itself; the object's path is the last line it prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let object = match options {
        Options { bench: true, .. } => bench()?,
        Options { log: true, .. } => build(root(), "zerohop", "log")?,
        _ => programs()?,
    };
    println!("{}", object.display());
    Ok(())
}

/// Builds the programs as they are deployed.
pub(crate) fn programs() -> Result<PathBuf> {
    programs_of(root())
}

/// The same of another workspace, into its own target directory.
pub(crate) fn programs_of(workspace: &Path) -> Result<PathBuf> {
    build(workspace, "zerohop", "kernel")
}

/// Builds the programs that the benchmark compares them with.
pub(crate) fn bench() -> Result<PathBuf> {
    build(root(), "bench", "kernel")
}

fn build(workspace: &Path, binary: &str, features: &str) -> Result<PathBuf> {
    let tools = toolchain::ensure(Say::Changes)?;
    run_command(cargo_for_kernel(&tools, workspace, "build", &[]).args([
        "--quiet",
        "--bin",
        binary,
        "--features",
        features,
    ]))?;
    let object = workspace
        .join("target/ebpf")
        .join(binary)
        .with_extension("o");
    let built = target_directory(workspace).join(TARGET).join("release");
    place(&built.join(binary), &object)?;
    Ok(object)
}

/// Little-endian eBPF without an operating system.
const TARGET: &str = "bpfel-unknown-none";

/// A directory of its own, so that builds for host and kernel keep out of each
/// other's way.
fn target_directory(workspace: &Path) -> PathBuf {
    workspace.join("target/ebpf-build")
}

/// A Cargo command for the kernel program as it is deployed, with more flags
/// for the compiler.
pub(crate) fn cargo_for_kernel(
    tools: &Toolchain,
    workspace: &Path,
    job: &str,
    flags: &[&str],
) -> Command {
    let mut all_flags = vec![
        "-Clinker=".to_owned() + &tools.linker.to_string_lossy(),
        // Types for the verifier's messages, and for maps found by name.
        "-Clink-arg=--btf".to_owned(),
        // Loads of 2 to 8 bytes at any address: 24 ns less for an A answer.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        // 32-bit registers and jumps, which every kernel of the matrix knows.
        "-Ctarget-cpu=v3".to_owned(),
    ];
    all_flags.extend(flags.iter().map(ToString::to_string));
    let mut command = cargo();
    command
        .current_dir(workspace)
        .args([
            job,
            "--package",
            "dns-ebpf",
            "--release",
            "--target",
            TARGET,
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(target_directory(workspace))
        .env("RUSTC", &tools.rustc)
        // -Zbuild-std with a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        // The encoded form takes a path with a space in it.
        .env("CARGO_ENCODED_RUSTFLAGS", all_flags.join("\x1f"))
        // In the environment, so that the host's release profile stays as it is.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    command
}

/// Moves the object to its place in one step, since the agent may be reading it. The same
/// object again is left alone, or Cargo would build the agent again.
fn place(built: &Path, object: &Path) -> Result<()> {
    let is_there = |object: Vec<u8>| fs::read(built).is_ok_and(|built| built == object);
    if fs::read(object).is_ok_and(is_there) {
        return Ok(());
    }
    let directory = object
        .parent()
        .context("the object's path has no directory")?;
    let partial = object.with_extension("partial");
    fs::create_dir_all(directory)
        .and_then(|()| fs::copy(built, &partial).map(drop))
        .and_then(|()| fs::rename(&partial, object))
        .with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))
}
