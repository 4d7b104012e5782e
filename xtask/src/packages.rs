//! Installs packages of the machine's distribution.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find_program, is_root, output};

/// How much set-up prints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// The programs that are found, and what is installed now.
    Everything,
    /// Only what is installed now.
    Changes,
}

/// A program, and the Debian package that contains it.
pub(crate) struct PackagedProgram {
    /// The program's name in PATH.
    pub(crate) name: &'static str,
    /// The Debian package.
    pub(crate) package: &'static str,
}

/// Installs the programs that the machine lacks.
pub(crate) fn ensure_programs(programs: &[PackagedProgram], verbosity: Verbosity) -> Result<()> {
    let mut missing = Vec::new();
    for program in programs {
        match find_program(program.name) {
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

/// Installs Debian packages with apt. Fails on machines without apt, and if not run as root.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!("this machine has no apt: install the equivalents of these Debian packages: {names}");
    }
    if !is_root()? {
        bail!(
            "run as root: apt-get update && apt-get install --yes --no-install-recommends {names}"
        );
    }
    println!("{names}: installing with apt");
    // An update also fails if an unrelated repository cannot be reached. The installation fails if
    // that matters.
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
