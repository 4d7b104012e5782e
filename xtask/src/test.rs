//! `cargo xtask test`: every test on this kernel, or those of the kernel plane
//! on a kernel of the matrix.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    build_ebpf,
    guest::Guest,
    kernels::{self, Name},
    process::{build, cargo, root, run as run_command},
    setup::{self, Need, Say},
};

#[derive(Args)]
pub(crate) struct Options {
    /// The kernel to run on: 5.10, 6.1, 6.12, newest, running, or all (of the matrix).
    #[arg(long, value_parser = choice, default_value = "running")]
    kernel: Choice,
    /// Passed to the test binaries: which tests, and their options.
    #[arg(last = true)]
    filter: Vec<String>,
}

/// The kernels that one word on the command line stands for.
#[derive(Clone)]
enum Choice {
    Running,
    Matrix(Vec<Name>),
}

/// The job itself.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.kernel {
        Choice::Running => on_this_machine(&options.filter),
        Choice::Matrix(kernels) => on_kernels(kernels, &options.filter),
    }
}

fn choice(word: &str) -> Result<Choice, String> {
    match word {
        "running" => Ok(Choice::Running),
        "all" => Ok(Choice::Matrix(Name::ALL.to_vec())),
        name => Name::from_str(name, false)
            .map(|name| Choice::Matrix(vec![name]))
            .map_err(|_| "not one of 5.10, 6.1, 6.12, newest, running, all".to_owned()),
    }
}

fn on_this_machine(filter: &[String]) -> Result<()> {
    setup::need_root("test")?;
    setup::ensure(
        &[Need::Ebpf, Need::Namespaces, Need::Clients, Need::ZoneFiles],
        Say::Changes,
    )?;
    build_ebpf::programs()?;
    run_command(
        cargo()
            .args(["test", "--workspace", "--no-fail-fast", "--"])
            .args(filter),
    )
}

fn on_kernels(kernels: &[Name], filter: &[String]) -> Result<()> {
    let object = build_ebpf::programs()?;
    let suites = build(
        cargo().args([
            "test",
            "--quiet",
            "--package",
            "zerohop-tests",
            "--test",
            "suites",
            "--no-run",
        ]),
        "suites",
    )?;
    // Only this module's tests can do with what a guest has.
    let mut command = vec![suites.display().to_string(), "--test-threads=1".to_owned()];
    match filter {
        [] => command.push("kernel::".to_owned()),
        filter => command.extend_from_slice(filter),
    }
    let guest = Guest {
        command: &command,
        // Where Cargo would start it.
        directory: &root().join("tests"),
        programs: &[],
        files: &[object],
        // Suites ask fewer questions of an emulated machine.
        environment: &[("RUST_BACKTRACE", "1"), ("ZEROHOP_GUEST", "1")],
    };
    on_each(kernels, &guest)
}

/// Runs the same guest on several kernels, and fails at the end if one failed.
pub(crate) fn on_each(kernels: &[Name], guest: &Guest) -> Result<()> {
    let mut failed = Vec::new();
    for name in kernels {
        let outcome = kernels::obtain(*name).and_then(|kernel| {
            println!("kernel {name} ({})", kernel.version);
            guest.run(&kernel)
        });
        match outcome {
            Ok(0) => continue,
            Ok(code) => eprintln!("kernel {name}: ended with exit code {code}"),
            Err(error) => eprintln!("kernel {name}: {error:#}"),
        }
        failed.push(name.to_string());
    }
    if !failed.is_empty() {
        bail!("failed on kernel {}", failed.join(", "));
    }
    Ok(())
}
