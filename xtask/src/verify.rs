//! `cargo xtask verify`: the number of instructions that each kernel's verifier processes for each
//! program, and whether it is within the budget.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    guest::Guest,
    kernels::KernelName,
    process::{build, cargo, output, root, run as run_command},
    setup, test,
};

/// Runs the job on the running kernel and on every kernel of the matrix.
pub(crate) fn run() -> Result<()> {
    setup::need_root("verify")?;
    let object = build_ebpf::programs()?;
    let verify = build(
        cargo().args([
            "build",
            "--quiet",
            "--package",
            "zerohop-tests",
            "--bin",
            "verify",
        ]),
        "verify",
    )?;

    println!(
        "kernel running ({})",
        output(Command::new("uname").arg("-r"))?.trim()
    );
    let here = run_command(Command::new(&verify).arg(&object).current_dir(root()));
    if let Err(error) = &here {
        eprintln!("kernel running: {error:#}");
    }
    let guest = Guest {
        command: &[verify.display().to_string(), object.display().to_string()],
        directory: root(),
        programs: &[],
        files: &[object],
        environment: &[],
    };
    let guests = test::on_each(&KernelName::ALL, &guest);
    if here.is_err() && guests.is_ok() {
        bail!("failed on the running kernel");
    }
    guests
}
