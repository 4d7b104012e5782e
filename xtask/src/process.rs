//! Running other programs, with errors that say which one failed and how.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Runs a command whose output is for the user.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            line(command),
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote bytes that are not UTF-8", line(command)))
}

/// Cargo, as it was started for this very program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a Cargo command that builds, and returns the program named `target`.
pub(crate) fn build(command: &mut Command, target: &str) -> Result<PathBuf> {
    let [program] = build_each(command, [target])?;
    Ok(program)
}

/// Runs a Cargo command that builds, and returns the programs of these names.
pub(crate) fn build_each<const N: usize>(
    command: &mut Command,
    targets: [&str; N],
) -> Result<[PathBuf; N]> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", line(command), output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|message| serde_json::from_str(message).ok())
        .collect();
    let programs = targets.map(|target| {
        let mut programs = messages.iter().filter_map(|message| {
            let program = message["executable"].as_str()?;
            (message["target"]["name"] == target).then(|| PathBuf::from(program))
        });
        programs.next_back().unwrap_or_default()
    });
    if let Some(missing) = programs.iter().position(|path| path.as_os_str().is_empty()) {
        bail!("{} built no program {}", line(command), targets[missing]);
    }
    Ok(programs)
}

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where a program is, in PATH or where Debian keeps administrators' programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

/// The paths in `ldd`'s output; none for a static program, about which it complains.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    let paths = listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// The names under which busybox is to be called, but not those of tools that
/// come as themselves: its own `ip` and `tc` know too little.
pub(crate) fn applets(busybox: &Path) -> Result<Vec<String>> {
    let listing = output(Command::new(busybox).arg("--list"))?;
    Ok(listing
        .lines()
        .filter(|name| !["ip", "tc", "busybox"].contains(name))
        .map(str::to_owned)
        .collect())
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("--user"))?.trim() == "0")
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy()),
    );
    format!("`{}`", words.join(" "))
}
