//! `cargo xtask setup`: finds or installs what the jobs need from the machine.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    deployment,
    process::{find, is_root, output},
    toolchain,
};

/// A requirement of a job.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// A compiler with the sources of `core`, and bpf-linker.
    Ebpf,
    /// Network namespaces, links and routes.
    Namespaces,
    /// Programs that check the agent's zone files.
    ZoneFiles,
    /// Real DNS clients, as Debian packages them.
    Clients,
    /// The programs in the image of DNS clients.
    ClientImage,
    /// QEMU and busybox, to boot other kernels.
    Guests,
}

/// How much set-up prints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// A line for each thing, whether found or installed.
    Everything,
    /// Only what is installed now.
    Changes,
}

/// Runs the job for the needs of all jobs.
pub(crate) fn run() -> Result<()> {
    ensure(
        &[
            Need::Ebpf,
            Need::Namespaces,
            Need::Clients,
            Need::ZoneFiles,
            Need::ClientImage,
            Need::Guests,
        ],
        Verbosity::Everything,
    )?;
    // The result matters only to the tests; for people it is printed.
    let _ = deployment::ensure(Verbosity::Everything);
    Ok(())
}

/// Finds or installs what a job needs.
pub(crate) fn ensure(needs: &[Need], verbosity: Verbosity) -> Result<()> {
    for need in needs {
        match need {
            Need::Ebpf => {
                toolchain::ensure(verbosity)?;
            }
            Need::Namespaces => ensure_programs(&[IP], verbosity)?,
            Need::ZoneFiles => ensure_programs(&[NAMED_CHECKZONE, KZONECHECK], verbosity)?,
            Need::Clients => ensure_programs(&[MUSL, DIG, KDIG, DRILL], verbosity)?,
            Need::ClientImage => ensure_programs(&[BUSYBOX, GETENT, DIG, DNSPERF], verbosity)?,
            Need::Guests => ensure_programs(&[QEMU, BUSYBOX], verbosity)?,
        }
    }
    Ok(())
}

/// Fails without root, before any work is done.
pub(crate) fn need_root(job: &str) -> Result<()> {
    if !is_root()? {
        bail!(
            "`cargo xtask {job}` makes network namespaces and loads kernel programs: run it as root"
        );
    }
    Ok(())
}

/// Installs packages of the machine's own distribution.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("this machine has no apt: install the equivalents of these Debian packages: {names}");
    }
    if !is_root()? {
        bail!(
            "run as root: apt-get update && apt-get install --yes --no-install-recommends {names}"
        );
    }
    println!("{names}: installing with apt");
    // An update also fails if some unrelated repository cannot be reached. The installation shows
    // whether the failure matters.
    output(Command::new("apt-get").args(["--quiet=2", "update"])).ok();
    let mut install = Command::new("apt-get");
    install
        .args(["--quiet=2", "install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut install).map(drop).with_context(|| {
        format!(
            "apt could not install {names} (Debian bookworm and trixie have them; on other systems \
             install the equivalent packages)"
        )
    })
}

/// A program, and the Debian package that contains it.
struct PackagedProgram {
    name: &'static str,
    package: &'static str,
}

/// Configures links, addresses and routes.
const IP: PackagedProgram = PackagedProgram {
    name: "ip",
    package: "iproute2",
};
/// Checks zone files with BIND's parser.
const NAMED_CHECKZONE: PackagedProgram = PackagedProgram {
    name: "named-checkzone",
    package: "bind9-utils",
};
/// Checks zone files with Knot DNS's parser.
const KZONECHECK: PackagedProgram = PackagedProgram {
    name: "kzonecheck",
    package: "knot-dnssecutils",
};
/// Builds programs with musl's resolver.
const MUSL: PackagedProgram = PackagedProgram {
    name: "musl-gcc",
    package: "musl-tools",
};
/// BIND's DNS client.
const DIG: PackagedProgram = PackagedProgram {
    name: "dig",
    package: "bind9-dnsutils",
};
/// Looks names up by glibc.
const GETENT: PackagedProgram = PackagedProgram {
    name: "getent",
    package: "libc-bin",
};
/// Sends queries as fast as answers arrive.
const DNSPERF: PackagedProgram = PackagedProgram {
    name: "dnsperf",
    package: "dnsperf",
};
/// Knot's DNS client.
const KDIG: PackagedProgram = PackagedProgram {
    name: "kdig",
    package: "knot-dnsutils",
};
/// NLnet Labs' DNS client.
const DRILL: PackagedProgram = PackagedProgram {
    name: "drill",
    package: "ldnsutils",
};
/// Runs the kernels of the matrix.
const QEMU: PackagedProgram = PackagedProgram {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
};
/// The guests' shell, and `unxz` for their modules.
const BUSYBOX: PackagedProgram = PackagedProgram {
    name: "busybox",
    package: "busybox-static",
};

fn ensure_programs(programs: &[PackagedProgram], verbosity: Verbosity) -> Result<()> {
    let mut missing = Vec::new();
    for program in programs {
        match find(program.name) {
            Some(path) if verbosity == Verbosity::Everything => {
                println!("{}: found {}", program.name, path.display());
            }
            Some(_) => {}
            None => missing.push(program.package),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(&missing)
}
