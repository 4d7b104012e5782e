//! Downloads packages of other Debian releases from the mirrors that this machine uses.
//!
//! apt works in a state directory of its own, so the machine's state stays unchanged and no root is
//! needed. The mirrors' addresses and Debian's keys come from the machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process::{output, run_command};

/// An apt state with a few Debian suites, all with the same priority.
pub(crate) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Downloads the package lists of the suites. A suite that no mirror has is skipped.
    pub(crate) fn open(directory: &Path, suites: &[&str]) -> Result<Apt> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part))
                .with_context(|| format!("cannot create {}", directory.join(part).display()))?;
        }
        let apt = Apt {
            directory: directory.to_owned(),
        };
        apt.write("sources.list", &sources(&mirrors(directory)?, suites))?;
        // By default apt would prefer an older version to a backport.
        apt.write(
            "preferences",
            "Package: *\nPin: release *\nPin-Priority: 500\n",
        )?;
        // The update fails if a mirror lacks one of the suites. The other suites are usable even
        // then, and the caller finds out whether they have the package.
        output(&mut apt.command("apt-get", &["update"])).ok();
        Ok(apt)
    }

    /// Of a package and its direct and indirect dependencies, the names for which `is_wanted`
    /// returns true.
    pub(crate) fn dependencies_of(
        &self,
        package: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeSet<String>> {
        let mut command = self.command(
            "apt-cache",
            &["depends", "--recurse", "--important", package],
        );
        // A line is `PACKAGE`, or `  Depends: PACKAGE` below it.
        Ok(output(&mut command)?
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap_or(line))
            .filter(|name| is_wanted(name))
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages, and unpacks all of them into one directory.
    pub(crate) fn unpack(&self, packages: &BTreeSet<String>, into: &Path) -> Result<()> {
        let downloads = self.directory.join("packages");
        fs::create_dir_all(&downloads)
            .with_context(|| format!("cannot create {}", downloads.display()))?;
        let mut download = self.command("apt-get", &["download"]);
        output(download.args(packages).current_dir(&downloads))?;
        for entry in fs::read_dir(&downloads)? {
            run_command(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(entry?.path())
                    .arg(into),
            )?;
        }
        Ok(())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = apt_command(program, &self.directory);
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
            // Ignores the packages that are installed on this machine.
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

/// An apt command that keeps its state in `directory`.
fn apt_command(program: &str, directory: &Path) -> Command {
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
        // Signatures are checked, but the validity date of an archived suite has passed.
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
    // apt knows the origin of a source only from its lists, which this machine may not have
    // downloaded yet. Failures of other sources do not matter.
    output(apt_command("apt-get", directory).arg("update")).ok();
    let mirrors = debian_sources(&mut apt_command("apt-get", directory))?;
    if mirrors.is_empty() {
        bail!(
            "this machine's apt has no reachable source of Debian packages: add a Debian mirror \
             to its sources"
        );
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

/// The text of sources.list: a line for each suite on each mirror. A mirror need not have every
/// suite.
fn sources(mirrors: &BTreeSet<String>, suites: &[&str]) -> String {
    let keyrings: Vec<_> = KEYRINGS
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    let signed_by = match keyrings.as_slice() {
        // The machine's configuration trusts Debian's keys in another way.
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

/// Debian's keys, including those of archived releases.
const KEYRINGS: [&str; 3] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-removed-keys.gpg",
];
