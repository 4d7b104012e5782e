//! `cargo xtask build-ebpf`: builds the kernel programs, those of the kernel plane and those that
//! steer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    packages::Verbosity,
    process::{cargo, root, run_command},
    toolchain::{self, Toolchain},
};

#[derive(Args)]
pub(crate) struct BuildEbpfOptions {
    /// Builds slower programs, which log the outcome of each packet to a served address.
    #[arg(long)]
    log: bool,
    /// Builds the benchmark's programs instead, into target/ebpf/bench.o.
    #[arg(long, conflicts_with = "log")]
    bench: bool,
}

/// Runs the job. The last line of output is the object's path.
pub(crate) fn run(options: &BuildEbpfOptions) -> Result<()> {
    let object = match options {
        BuildEbpfOptions { bench: true, .. } => build_benchmark_programs()?,
        BuildEbpfOptions { log: true, .. } => build_programs_with(root(), "log")?,
        _ => build_programs()?,
    };
    println!("{}", object.display());
    Ok(())
}

/// Builds the programs as they are deployed. Returns the path of the kernel plane's object. The
/// object with the steering programs is beside it.
pub(crate) fn build_programs() -> Result<PathBuf> {
    build_programs_in(root())
}

/// Builds the programs of another workspace, into that workspace's target directory.
pub(crate) fn build_programs_in(workspace: &Path) -> Result<PathBuf> {
    build_programs_with(workspace, "kernel")
}

/// `features` are those of the kernel plane's programs.
fn build_programs_with(workspace: &Path, features: &str) -> Result<PathBuf> {
    build(workspace, "steering", "kernel")?;
    build(workspace, "zerohop", features)
}

/// The object with the steering programs, beside the kernel plane's object.
pub(crate) fn steering_object(kernel_plane: &Path) -> PathBuf {
    kernel_plane.with_file_name("steering.o")
}

/// Builds the benchmark's own programs.
pub(crate) fn build_benchmark_programs() -> Result<PathBuf> {
    build(root(), "bench", "kernel")
}

fn build(workspace: &Path, binary: &str, features: &str) -> Result<PathBuf> {
    let tools = toolchain::ensure(Verbosity::Changes)?;
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
    install_object(&built.join(binary), &object)?;
    Ok(object)
}

/// Little-endian eBPF, without an operating system.
const TARGET: &str = "bpfel-unknown-none";

/// The target directory of these builds. It is a separate one, so that builds for the host and for
/// the kernel do not invalidate each other.
fn target_directory(workspace: &Path) -> PathBuf {
    workspace.join("target/ebpf-build")
}

/// A Cargo command for the kernel programs, with the compiler's settings of a deployed build. `job`
/// is Cargo's subcommand, and `flags` are more flags for the compiler.
pub(crate) fn cargo_for_kernel(
    tools: &Toolchain,
    workspace: &Path,
    job: &str,
    flags: &[&str],
) -> Command {
    let mut all_flags = vec![
        "-Clinker=".to_owned() + &tools.linker.to_string_lossy(),
        // BTF: types for the verifier's messages.
        "-Clink-arg=--btf".to_owned(),
        // Allows loads of 2 to 8 bytes at unaligned addresses, which saves 24 ns for an A answer.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        // Allows 32-bit registers and jumps, which every kernel of the matrix supports.
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
        // Allows -Zbuild-std with a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        // The encoded form allows paths with spaces.
        .env("CARGO_ENCODED_RUSTFLAGS", all_flags.join("\x1f"))
        // Set by environment variables, so that the host's release profile is unaffected.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        // The linker makes BTF from debug information.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    command
}

/// Replaces the object atomically, because a build of the agent may be reading it. Leaves an
/// identical object untouched, so that Cargo does not build the agent again.
fn install_object(built: &Path, object: &Path) -> Result<()> {
    let is_unchanged = |old: Vec<u8>| fs::read(built).is_ok_and(|new| new == old);
    if fs::read(object).is_ok_and(is_unchanged) {
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
