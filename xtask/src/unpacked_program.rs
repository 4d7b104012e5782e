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
};
/// Scrapes an agent and runs the expressions of dashboards.
pub(crate) const PROMETHEUS: UnpackedProgram = UnpackedProgram { name: "prometheus" };

/// A program of the package with the same name.
pub(crate) struct UnpackedProgram {
    name: &'static str,
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
        apt.unpack(&BTreeSet::from([name.to_owned()]), &tree)?;
        fs::rename(&tree, &folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
    }

    /// The path of the program.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder().join("usr/bin").join(self.name)
    }

    fn folder(&self) -> PathBuf {
        root().join("target/tools").join(self.name)
    }
}
