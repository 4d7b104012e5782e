//! Every job of this repository: `cargo xtask JOB`.
//!
//! One file per job. A job first asks [`setup`] for what it needs, so a fresh
//! machine needs nothing but Rust.

#![forbid(unsafe_code)]

mod apt;
mod bench;
mod build_ebpf;
mod demo;
mod deployment;
mod e2e;
mod faults;
mod guest;
mod image;
mod initramfs;
mod kernels;
mod kind;
mod kubectl;
mod lint;
mod oci;
mod process;
mod setup;
mod test;
mod toolchain;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    match run(&Cli::parse().job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: &Job) -> Result<()> {
    match job {
        Job::Setup => setup::run(),
        Job::BuildEbpf(options) => build_ebpf::run(options),
        Job::Demo(options) => demo::run(options),
        Job::DemoPod => demo::pod::run(),
        Job::Lint => lint::run(),
        Job::Kernels(options) => kernels::run(options),
        Job::Test(options) => test::run(options),
        Job::Verify => verify::run(),
        Job::Bench(options) => bench::run(options),
        Job::Faults(options) => faults::run(options),
        Job::Image(options) => image::run(options),
        Job::E2e(options) => e2e::run(options),
        Job::Kind(options) => kind::run(options),
    }
}

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every job of this repository")]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Finds or installs whatever the other jobs need, and says what it does.
    Setup,
    /// Builds the kernel programs into target/ebpf/zerohop.o.
    BuildEbpf(build_ebpf::Options),
    /// Shows it at work: a pod asks, with the kernel plane and without it.
    Demo(demo::Options),
    /// The process in the demo's pod; the demo starts it.
    #[command(hide = true)]
    DemoPod,
    /// Checks formatting and lints of everything, the kernel programs included.
    Lint,
    /// Downloads the kernels of the matrix into target/kernels.
    Kernels(kernels::Options),
    /// Runs the tests: all of them here, or the kernel plane's on another kernel.
    Test(test::Options),
    /// Prints what each kernel's verifier makes of each program; fails over budget.
    Verify,
    /// Measures the kernel program beside a bare reflector, and its tables.
    Bench(bench::Options),
    /// Does what may happen to a node's agent, while a pod looks names up, and prints what came of it.
    Faults(faults::Options),
    /// Makes the agent's container image, as an archive: no registry, no Docker.
    Image(image::Options),
    /// Installs the image in a test cluster, looks names up from pods, and takes it away again.
    E2e(e2e::Options),
    /// The same in a cluster of kind's, with a benchmark; needs kind and Docker.
    Kind(kind::Options),
}
