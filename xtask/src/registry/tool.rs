//! A real registry for the tests: `docker-registry` of Debian.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{apt::Apt, packages::Verbosity, process::root};

/// The package with the registry, and the name of its program.
const REGISTRY: &str = "docker-registry";
/// The Debian suite of the package. Its program runs on newer suites too.
const SUITE: &str = "bookworm";

/// Finds the registry, or unpacks it into this repository. It is not installed, because the
/// installed package would run a registry on port 5000.
pub(crate) fn ensure(verbosity: Verbosity) -> Result<()> {
    let program = program();
    if program.exists() {
        if verbosity == Verbosity::Everything {
            println!("{REGISTRY}: found {}", program.display());
        }
        return Ok(());
    }
    println!("{REGISTRY}: downloading");
    let scratch = folder().with_extension("partial");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let apt = Apt::open(&scratch.join("apt"), &[SUITE])?;
    let tree = scratch.join("tree");
    apt.unpack(&BTreeSet::from([REGISTRY.to_owned()]), &tree)?;
    fs::rename(&tree, folder()).with_context(|| format!("cannot create {}", folder().display()))?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The path of the registry's program.
pub(super) fn program() -> PathBuf {
    folder().join("usr/bin").join(REGISTRY)
}

fn folder() -> PathBuf {
    root().join("target/tools").join(REGISTRY)
}
