//! Runs other programs. Errors say which program failed and how.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Runs a command. Its output goes to the user.
pub(crate) fn run_command(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command_line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", command_line(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command_line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            command_line(command),
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote bytes that are not UTF-8", command_line(command)))
}

/// A command for the Cargo that started this program, in the workspace's directory.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a Cargo build, and returns the path of the program `target`.
pub(crate) fn build(command: &mut Command, target: &str) -> Result<PathBuf> {
    let [program] = build_each(command, [target])?;
    Ok(program)
}

/// Runs a Cargo build, and returns the paths of the programs `targets`: the last one that Cargo
/// reports for each name.
pub(crate) fn build_each<const N: usize>(
    command: &mut Command,
    targets: [&str; N],
) -> Result<[PathBuf; N]> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", command_line(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", command_line(command), output.status);
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
        bail!(
            "{} built no program {}",
            command_line(command),
            targets[missing]
        );
    }
    Ok(programs)
}

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Finds a program in PATH, or in Debian's directories of system administration programs.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

/// The shared libraries of a program, as `ldd` lists them. Empty if `ldd` fails, as for a static
/// program.
pub(crate) fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
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

/// The names of busybox's applets, without `busybox` itself, and without `ip` and `tc`, because
/// busybox's versions of these two lack features.
pub(crate) fn busybox_applets(busybox: &Path) -> Result<Vec<String>> {
    let listing = output(Command::new(busybox).arg("--list"))?;
    Ok(listing
        .lines()
        .filter(|name| !["ip", "tc", "busybox"].contains(name))
        .map(str::to_owned)
        .collect())
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("--user"))?.trim() == "0")
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The command's words, for messages.
fn command_line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy()),
    );
    format!("`{}`", words.join(" "))
}
