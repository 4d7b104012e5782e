//! `cargo xtask setup`: finds or installs what the jobs need.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    deployment,
    process::{find, is_root, output},
    toolchain,
};

/// What a job may need from the machine.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// A compiler with the sources of `core`, and bpf-linker.
    Ebpf,
    /// Network namespaces, links and routes.
    Namespaces,
    /// What checks the agent's zone files.
    ZoneFiles,
    /// The clients that are in the field, as far as Debian has them.
    Clients,
    /// What the image of DNS clients is made of.
    ClientImage,
    /// Other kernels, booted in an emulator; they get this machine's `ip` too.
    Guests,
}

/// How much of its findings set-up prints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    /// One line for each thing, also when it was there.
    Everything,
    /// Only what has to be installed.
    Changes,
}

/// The job itself: everything that any job needs.
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
        Say::Everything,
    )?;
    // What it says is for people; only tests need to know.
    let _ = deployment::ensure(Say::Everything);
    Ok(())
}

/// Sees to it that what a job needs is there.
pub(crate) fn ensure(needs: &[Need], say: Say) -> Result<()> {
    for need in needs {
        match need {
            Need::Ebpf => {
                toolchain::ensure(say)?;
            }
            Need::Namespaces => programs(&[IP], say)?,
            Need::ZoneFiles => programs(&[NAMED_CHECKZONE, KZONECHECK], say)?,
            Need::Clients => programs(&[MUSL, DIG, KDIG, DRILL], say)?,
            Need::ClientImage => programs(&[BUSYBOX, GETENT, DIG, DNSPERF], say)?,
            Need::Guests => programs(&[QEMU, BUSYBOX], say)?,
        }
    }
    Ok(())
}

/// Refuses to go on without root, before any work is done.
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
        bail!(
            "{names} (names of Debian packages) must be installed: this machine has no apt, use its own means"
        );
    }
    if !is_root()? {
        bail!(
            "run as root: apt-get update && apt-get install --yes --no-install-recommends {names}"
        );
    }
    println!("{names}: installing with apt");
    // A failed update may only mean that some repository of the user's own
    // cannot be reached; whether that matters, the installation shows.
    output(Command::new("apt-get").args(["--quiet=2", "update"])).ok();
    let mut install = Command::new("apt-get");
    install
        .args(["--quiet=2", "install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut install).map(drop).with_context(|| {
        format!(
            "apt could not install {names} (Debian bookworm and trixie have them; on other systems \
             install the same things by their own means)"
        )
    })
}

/// A program and the package that brings it.
struct Program {
    name: &'static str,
    package: &'static str,
}

/// Links, addresses and routes.
const IP: Program = Program {
    name: "ip",
    package: "iproute2",
};
/// Reads zone files as BIND does.
const NAMED_CHECKZONE: Program = Program {
    name: "named-checkzone",
    package: "bind9-utils",
};
/// Reads zone files as Knot DNS does.
const KZONECHECK: Program = Program {
    name: "kzonecheck",
    package: "knot-dnssecutils",
};
/// Builds programs with another resolver than glibc's.
const MUSL: Program = Program {
    name: "musl-gcc",
    package: "musl-tools",
};
/// BIND's tool.
const DIG: Program = Program {
    name: "dig",
    package: "bind9-dnsutils",
};
/// Looks names up as programs do, by glibc.
const GETENT: Program = Program {
    name: "getent",
    package: "libc-bin",
};
/// Asks as fast as answers come.
const DNSPERF: Program = Program {
    name: "dnsperf",
    package: "dnsperf",
};
/// Knot's tool.
const KDIG: Program = Program {
    name: "kdig",
    package: "knot-dnsutils",
};
/// NLnet Labs' tool.
const DRILL: Program = Program {
    name: "drill",
    package: "ldnsutils",
};
/// Runs the kernels of the matrix.
const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
};
/// The guests' shell, and `unxz` for their modules.
const BUSYBOX: Program = Program {
    name: "busybox",
    package: "busybox-static",
};

fn programs(programs: &[Program], say: Say) -> Result<()> {
    let mut missing = Vec::new();
    for program in programs {
        match find(program.name) {
            Some(path) if say == Say::Everything => {
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
