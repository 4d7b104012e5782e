//! Programs of Debian packages that tests need, and that are not installed, because the installed
//! packages would start services.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{apt::Apt, packages::Verbosity, process::root};

/// The Debian suite of the packages. Their programs run on newer suites too.
const SUITE: &str = "bookworm";

/// A real registry, for tests that push images.
pub(crate) const DOCKER_REGISTRY: UnpackedProgram = UnpackedProgram {
    name: "docker-registry",
    packages: &["docker-registry"],
    program: "docker-registry",
};
/// Scrapes an agent and runs the expressions of dashboards.
pub(crate) const PROMETHEUS: UnpackedProgram = UnpackedProgram {
    name: "prometheus",
    packages: &["prometheus"],
    program: "prometheus",
};
/// A collector and a reader of dnstap, with their libraries.
pub(crate) const DNSTAP_TOOLS: UnpackedProgram = UnpackedProgram {
    name: "dnstap",
    packages: &[
        "dnstap-ldns",
        "fstrm-bin",
        "libevent-2.1-7",
        "libfstrm0",
        "libldns3",
        "libprotobuf-c1",
        "libssl3",
    ],
    program: "dnstap-ldns",
};

/// A program of one of several packages.
pub(crate) struct UnpackedProgram {
    /// The folder in which the packages are unpacked.
    name: &'static str,
    packages: &'static [&'static str],
    program: &'static str,
}

impl UnpackedProgram {
    /// Finds the program, or unpacks it into this repository.
    pub(crate) fn ensure(&self, verbosity: Verbosity) -> Result<()> {
        let (name, program) = (self.name, self.path());
        if program.exists() {
            if verbosity == Verbosity::Everything {
                println!("{name}: found {}", program.display());
            }
            return Ok(());
        }
        println!("{name}: downloading");
        let folder = self.folder();
        let scratch = folder.with_extension("partial");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)
                .with_context(|| format!("cannot remove {}", scratch.display()))?;
        }
        let apt = Apt::open(&scratch.join("apt"), &[SUITE])?;
        let tree = scratch.join("tree");
        let packages: BTreeSet<_> = self.packages.iter().map(|it| (*it).to_owned()).collect();
        apt.unpack(&packages, &tree)?;
        fs::rename(&tree, &folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
    }

    /// The path of the program.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder().join("usr/bin").join(self.program)
    }

    fn folder(&self) -> PathBuf {
        root().join("target/tools").join(self.name)
    }
}
