//! `cargo xtask verify`: prints how many instructions each kernel's verifier processes for each
//! program, and checks the budgets.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    guest::Guest,
    kernels::KernelName,
    process::{build, cargo, output, root, run_command},
    setup, test,
};

/// Runs the job on the running kernel and on every kernel of the matrix.
pub(crate) fn run() -> Result<()> {
    setup::need_root("verify")?;
    let object = build_ebpf::build_programs()?;
    let steering_object = build_ebpf::steering_object(&object);
    let objects = [object, steering_object];
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
        "the running kernel ({})",
        output(Command::new("uname").arg("-r"))?.trim()
    );
    let on_running_kernel = run_command(Command::new(&verify).args(&objects).current_dir(root()));
    if let Err(error) = &on_running_kernel {
        eprintln!("the running kernel: {error:#}");
    }
    let mut command = vec![verify.display().to_string()];
    command.extend(objects.iter().map(|object| object.display().to_string()));
    let guest = Guest {
        command: &command,
        directory: root(),
        programs: &[],
        files: &objects,
        environment: &[],
    };
    let guests = test::run_on_each_kernel(&KernelName::ALL, &guest);
    match (on_running_kernel, guests) {
        (Ok(()), guests) => guests,
        (Err(_), Ok(())) => bail!("failed on the running kernel: see above"),
        (Err(_), Err(error)) => bail!("failed on the running kernel (see above), and {error:#}"),
    }
}
