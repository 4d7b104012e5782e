//! The agent's binary, run as a process.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, anyhow, ensure};
use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{netns, udp::eventually};

/// A running agent. Dropping it kills the process, and prints its log if the thread panics.
pub struct AgentProcess {
    child: Child,
    program: PathBuf,
    /// The network namespace of the process.
    namespace: File,
    log: AgentLog,
    /// The addresses of the resolver, from the log.
    pub listen: Vec<SocketAddr>,
    /// The address of the admin endpoints, from the log.
    pub admin: String,
}

/// The standard error of an agent: a file in memory.
struct AgentLog {
    file: File,
    /// The offset at which the next call of `next_line` begins to read, in bytes.
    read: u64,
}

/// The longest time for a step of the agent. The slowest step, 20,000 services that are new to the
/// tables, takes about 4 s alone on two cores; beside other tests it took more than a minute.
pub const LIMIT: Duration = Duration::from_secs(300);
/// How long to wait before the log is read again.
const PAUSE: Duration = Duration::from_millis(5);

impl AgentProcess {
    /// Runs a command `dns-agent run …`, and waits for the log line that says that all sockets are
    /// bound. With `--manifests`, the names are then published and the hooks attached, unless
    /// another agent holds the hooks; with the Kubernetes API, the agent may still wait for its
    /// lists.
    ///
    /// # Errors
    ///
    /// The process can't be started, or ends before that line, or doesn't write it within
    /// [`LIMIT`].
    pub fn start(mut command: Command) -> Result<AgentProcess> {
        let log = memfd_create("dns-agent.log", MFdFlags::MFD_CLOEXEC)
            .context("cannot make a file in memory")?;
        let log = AgentLog {
            file: File::from(log),
            read: 0,
        };
        let program = PathBuf::from(command.get_program());
        let child = command
            .stderr(log.file.try_clone().context("cannot duplicate the log")?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        // `spawn` returned after exec, so the process has entered its namespace.
        let namespace = format!("/proc/{}/ns/net", child.id());
        let mut agent = AgentProcess {
            namespace: File::open(&namespace)
                .with_context(|| format!("cannot open {namespace}"))?,
            child,
            program,
            log,
            listen: Vec::new(),
            admin: String::new(),
        };
        let started = agent.wait_for_line(" started listen=[")?;
        (agent.listen, agent.admin) = addresses(&started)
            .with_context(|| format!("no addresses in the log line {started:?}"))?;
        // Lines before this one can be waited for too.
        agent.log.read = 0;
        Ok(agent)
    }

    /// Waits for the next log line with `text`. The first call begins at the first line of the log,
    /// each other call after the line that the last call returned.
    ///
    /// # Errors
    ///
    /// The process ended without such a line, or wrote none within [`LIMIT`].
    pub fn wait_for_line(&mut self, text: &str) -> Result<String> {
        let mut line = None;
        let found = eventually(LIMIT, || {
            // Asked before the log is read: after its end the process writes no more.
            let ended = self.child.try_wait()?;
            line = self.log.next_line(text)?;
            if let (None, Some(status)) = (&line, ended) {
                return Err(self.error(&format!("ended with {status} before it logged {text:?}")));
            }
            if line.is_none() {
                thread::sleep(PAUSE);
            }
            Ok(line.is_some())
        });
        found?;
        line.ok_or_else(|| self.error(&format!("did not log {text:?} within {LIMIT:?}")))
    }

    /// The output of `dns-agent ARGUMENTS --admin ADDRESS`, run in the agent's network namespace.
    ///
    /// # Errors
    ///
    /// The command can't be started, or its output is not UTF-8, or it fails; then with its
    /// standard error and the agent's log.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = netns::command_in(&self.namespace, &self.program)?
            .args(arguments)
            .args(["--admin", &self.admin])
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(self.error(&format!(
                "failed with the arguments {arguments:?} ({stderr})"
            )));
        }
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// The output of `dns-agent status`.
    pub fn status(&self) -> Result<String> {
        self.output(&["status"])
    }

    /// The process ID.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends a signal to the process.
    pub fn send_signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Sends a signal, and waits for the end of the process.
    pub fn end_by(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.send_signal(signal)?;
        Ok(self.child.wait()?)
    }

    /// Ends the agent by SIGTERM, as the kubelet does.
    ///
    /// # Errors
    ///
    /// The process can't be signalled, or ends otherwise than with exit code 0; then with the
    /// agent's log.
    pub fn stop(mut self) -> Result<()> {
        let status = self.end_by(Signal::SIGTERM)?;
        ensure!(
            status.success(),
            self.error(&format!("ended with {status}"))
        );
        Ok(())
    }

    /// An error about the agent, with its log.
    pub fn error(&self, what: &str) -> Error {
        anyhow!("dns-agent {what}. Its log:\n{}", self.log())
    }

    /// What the agent has logged. A log that can't be read counts as empty.
    pub fn log(&self) -> String {
        let log = self.log.bytes_from(0).unwrap_or_default();
        String::from_utf8_lossy(&log).trim_end().to_owned()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("The log of dns-agent:\n{}", self.log());
        }
    }
}

impl AgentLog {
    /// The next complete line with `text`, if it has been written.
    fn next_line(&mut self, text: &str) -> Result<Option<String>> {
        let mut end = self.read;
        for line in self.bytes_from(end)?.split_inclusive(|&byte| byte == b'\n') {
            end += line.len() as u64;
            let line = String::from_utf8_lossy(line);
            if line.ends_with('\n') && line.contains(text) {
                self.read = end;
                return Ok(Some(line.trim_end().to_owned()));
            }
        }
        Ok(None)
    }

    fn bytes_from(&self, offset: u64) -> Result<Vec<u8>> {
        let length = self.file.metadata()?.len().saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(length)?];
        // Reads at a position of its own, because the agent writes at the position of the file.
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// The addresses of the resolver and of the admin endpoints.
fn addresses(started: &str) -> Option<(Vec<SocketAddr>, String)> {
    let (_, addresses) = started.split_once(" started listen=[")?;
    let (listen, admin) = addresses.split_once("] admin=")?;
    let listen = listen.split(", ").filter(|address| !address.is_empty());
    Some((
        listen
            .map(|address| address.parse().ok())
            .collect::<Option<_>>()?,
        admin.trim().to_owned(),
    ))
}
