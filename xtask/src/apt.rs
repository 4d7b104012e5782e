//! Packages of other Debian releases, from the mirrors this machine uses.
//!
//! Everything is done in an apt state of its own: nothing of the machine's is
//! changed, no root is needed, and the mirrors' addresses are the machine's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process::{output, run};

/// An apt that sees a few suites of Debian, all with the same priority.
pub(crate) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Reads the lists of those of the suites that the machine's mirrors have.
    pub(crate) fn open(directory: &Path, suites: &[&str]) -> Result<Apt> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))
                .with_context(|| format!("cannot create {}", directory.join(part).display()))?;
        }
        let apt = Apt {
            directory: directory.to_owned(),
        };
        apt.write("sources.list", &sources(&mirrors(directory)?, suites))?;
        // Without this, apt would prefer an older version to a backport.
        apt.write(
            "preferences",
            "Package: *\nPin: release *\nPin-Priority: 500\n",
        )?;
        // A mirror without one of the suites makes the update fail, which says
        // nothing about the others: the look-up of the package will tell.
        output(&mut apt.command("apt-get", &["update"])).ok();
        Ok(apt)
    }

    /// The packages that a package leads to through its dependencies and whose
    /// name `wanted` accepts.
    pub(crate) fn closure(
        &self,
        package: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>> {
        let mut command = self.command(
            "apt-cache",
            &["depends", "--recurse", "--important", package],
        );
        Ok(output(&mut command)?
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap_or(line))
            .filter(|name| wanted(name))
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages and unpacks them, one over the other, into a directory.
    pub(crate) fn unpack(&self, packages: &BTreeSet<String>, into: &Path) -> Result<()> {
        let downloads = self.directory.join("packages");
        fs::create_dir_all(&downloads)
            .with_context(|| format!("cannot create {}", downloads.display()))?;
        let mut download = self.command("apt-get", &["download"]);
        output(download.args(packages).current_dir(&downloads))?;
        for entry in fs::read_dir(&downloads)? {
            run(Command::new("dpkg-deb")
                .arg("--extract")
                .arg(entry?.path())
                .arg(into))?;
        }
        Ok(())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = private(program, &self.directory);
        command
            .arg(format!(
                "--option=Dir::Etc::sourcelist={}",
                self.path("sources.list")
            ))
            .arg("--option=Dir::Etc::sourceparts=/dev/null")
            .arg(format!(
                "--option=Dir::Etc::preferences={}",
                self.path("preferences")
            ))
            .arg("--option=Dir::Etc::preferencesparts=/dev/null")
            // What is installed on this machine has no part in this.
            .arg("--option=Dir::State::status=/dev/null")
            .args(arguments);
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

/// An apt command that keeps its state in a directory.
fn private(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(format!(
            "--option=Dir::State::lists={}",
            directory.join("lists").display()
        ))
        .arg(format!(
            "--option=Dir::Cache={}",
            directory.join("cache").display()
        ))
        // Signatures are checked; but the date on an archived suite has passed.
        .arg("--option=Acquire::Check-Valid-Until=false")
        // The user `_apt` cannot write into this workspace.
        .arg("--option=APT::Sandbox::User=root");
    command
}

/// The addresses of the Debian mirrors that this machine's apt uses.
fn mirrors(directory: &Path) -> Result<BTreeSet<String>> {
    let mirrors = debian_sources(&mut Command::new("apt-get"))?;
    if !mirrors.is_empty() {
        return Ok(mirrors);
    }
    // apt knows the origin of a source only when it has its lists, and this
    // machine's were never read. Other sources may fail without harm.
    output(private("apt-get", directory).arg("update")).ok();
    let mirrors = debian_sources(&mut private("apt-get", directory))?;
    if mirrors.is_empty() {
        bail!("this machine's apt has no source of Debian's packages that can be reached");
    }
    Ok(mirrors)
}

fn debian_sources(apt_get: &mut Command) -> Result<BTreeSet<String>> {
    apt_get.args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
    ]);
    Ok(output(apt_get)?.lines().map(str::to_owned).collect())
}

/// One line for each suite on each mirror; most pairs do not exist.
fn sources(mirrors: &BTreeSet<String>, suites: &[&str]) -> String {
    let keyrings: Vec<_> = KEYRINGS
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    let signed_by = match keyrings.as_slice() {
        // The machine trusts Debian's keys in some way of its own.
        [] => String::new(),
        found => format!(" signed-by={}", found.join(",")),
    };
    let mut text = String::new();
    for mirror in mirrors {
        for suite in suites {
            text += &format!("deb [target=Packages{signed_by}] {mirror} {suite} main\n");
        }
    }
    text
}

/// Debian's keys: of the living releases, and of those that have been archived.
const KEYRINGS: [&str; 3] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-removed-keys.gpg",
];
