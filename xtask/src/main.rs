//! Every job of this repository: `cargo xtask JOB`.
//!
//! Each job has a file. [`setup`] finds or installs what a job needs, so on a fresh Debian machine
//! most jobs need only Rust and root. `e2e` also needs kubectl, and `kind` also kubectl, kind and
//! Docker. `e2e`, `test --cluster`, `bench --cluster` and `bench --watches` need a cluster.

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
mod packages;
mod picture;
mod process;
mod registry;
mod setup;
mod test;
mod toolchain;
mod unpacked_program;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    match run_job(&XtaskCli::parse().job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_job(job: &XtaskJob) -> Result<()> {
    match job {
        XtaskJob::Setup => setup::run(),
        XtaskJob::BuildEbpf(options) => build_ebpf::run(options),
        XtaskJob::Demo(options) => demo::run(options),
        XtaskJob::DemoPod { name } => demo::pod::run(name.as_deref()),
        XtaskJob::Lint => lint::run(),
        XtaskJob::Kernels(options) => kernels::run(options),
        XtaskJob::Test(options) => test::run(options),
        XtaskJob::Verify => verify::run(),
        XtaskJob::Bench(options) => bench::run(options),
        XtaskJob::Faults(options) => faults::run(options),
        XtaskJob::Image(options) => image::run(options),
        XtaskJob::E2e(options) => e2e::run(options),
        XtaskJob::Kind(options) => kind::run(options),
        XtaskJob::Picture => picture::run(),
    }
}

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every job of this repository")]
struct XtaskCli {
    #[command(subcommand)]
    job: XtaskJob,
}

#[derive(Subcommand)]
enum XtaskJob {
    /// Finds or installs what the other jobs need, except kubectl, kind and Docker, and prints each
    /// step.
    Setup,
    /// Builds the kernel programs into target/ebpf: zerohop.o and steering.o.
    BuildEbpf(build_ebpf::BuildEbpfOptions),
    /// Shows Zerohop at work: a pod queries DNS, with the kernel plane and without it.
    Demo(demo::DemoOptions),
    /// The process in the demo's pod. Only the demo starts it.
    #[command(hide = true)]
    DemoPod { name: Option<String> },
    /// Checks the formatting and lints of all code, including the kernel programs.
    Lint,
    /// Downloads the kernels of the matrix into target/kernels.
    Kernels(kernels::KernelsOptions),
    /// Runs all tests on this kernel, or the tests of the kernel plane on other kernels.
    Test(test::TestOptions),
    /// Prints how many instructions each kernel's verifier processes for each program. Fails if a
    /// program exceeds its budget.
    Verify,
    /// Measures the kernel program and its tables, or with a cluster, an agent beside CoreDNS.
    Bench(bench::BenchOptions),
    /// Injects faults into an agent while a pod looks up names, and prints their effect.
    Faults(faults::FaultsOptions),
    /// Builds the agent's container image as an archive, and pushes it to registries. Needs no
    /// Docker.
    Image(image::ImageOptions),
    /// Installs Zerohop in a test cluster, looks up names from pods, and uninstalls it. Needs
    /// kubectl.
    E2e(e2e::E2eOptions),
    /// Runs Zerohop and a benchmark in a kind cluster. Needs kubectl, kind and Docker.
    Kind(kind::KindOptions),
    /// Draws the README's picture, docs/query-path.svg.
    Picture,
}
