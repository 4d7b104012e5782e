//! The agent in the node's namespace, its status and its counters.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::FileExt, process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow};
use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{netns::NetworkNamespace, topology::HOST_VETH, udp::eventually};

use super::{answer::AnswerSource, signals::CaughtSignals};
use crate::process::root;

/// The address of the agent's admin endpoints: the default, which is free in a new namespace.
pub(crate) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9153);

/// How long the agent may take to start, to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent. Dropping it ends the process.
pub(crate) struct DemoAgent<'a> {
    node: &'a NetworkNamespace,
    process: Child,
    /// The agent's standard error, as a file in memory.
    log: File,
}

/// Whether the agent runs with the kernel plane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelPlaneSwitch {
    On,
    Off,
}

/// Numbers of queries, by the plane that answered.
#[derive(Clone, Copy)]
pub(crate) struct QueryCounts {
    /// Answered in the kernel.
    pub(super) kernel: u64,
    /// Answered by the agent's resolver.
    pub(super) agent: u64,
    /// Those of `agent` that were forwarded to the upstream.
    pub(super) forwarded: u64,
}

impl<'a> DemoAgent<'a> {
    /// Starts an agent with the objects of examples/, and waits until it is ready.
    pub(crate) fn start(
        program: &Path,
        node: &'a NetworkNamespace,
        plane: KernelPlaneSwitch,
        upstream: SocketAddr,
        signals: &CaughtSignals,
    ) -> Result<DemoAgent<'a>> {
        let log = memfd_create("dns-agent.log", MFdFlags::MFD_CLOEXEC)
            .context("cannot make a file in memory")?;
        let log = File::from(log);
        let mut command = node.command(&program.to_string_lossy())?;
        add_arguments(&mut command, plane, upstream);
        let process = command
            .current_dir(root())
            // Ctrl-C must reach only the demo, which then ends the agent in order.
            .process_group(0)
            .stderr(log.try_clone().context("cannot duplicate the log")?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut agent = DemoAgent { node, process, log };
        agent.wait_until_ready(signals)?;
        Ok(agent)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The attachment of the kernel plane, as text.
    pub(crate) fn attachment(&self) -> Result<String> {
        let status = self.status()?;
        let Some(attached) = status.pointer("/datapath/attached/0") else {
            let reasons = &status["degraded"];
            return Err(self.error_with_log(&format!("has no kernel plane: {reasons}")));
        };
        let field = |name: &str| attached[name].as_str().unwrap_or("?").to_owned();
        Ok(format!(
            "program {} at {} ingress ({}) of the node's {}",
            field("program"),
            field("hook"),
            field("mode"),
            field("interface")
        ))
    }

    /// The queries that were answered since the agent started.
    pub(crate) fn counts(&self) -> Result<QueryCounts> {
        let status = self.status()?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let outcomes = status
            .pointer("/datapath/outcomes")
            .and_then(Value::as_array);
        let resolver = &status["resolver"]["counts"];
        Ok(QueryCounts {
            kernel: outcomes
                .into_iter()
                .flatten()
                .filter(|outcome| outcome["answered"] == true)
                .map(|outcome| number(&outcome["packets"]))
                .sum(),
            agent: number(&resolver["udpQueries"]),
            forwarded: number(&resolver["forwarded"]),
        })
    }

    fn wait_until_ready(&mut self, signals: &CaughtSignals) -> Result<()> {
        let ready = eventually(PATIENCE, || {
            signals.check()?;
            if let Some(status) = self.process.try_wait()? {
                return Err(self.error_with_log(&format!("ended with {status}")));
            }
            Ok(self.get("/readyz").is_ok_and(|(code, _)| code == 200))
        })?;
        if !ready {
            return Err(self.error_with_log("did not become ready"));
        }
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let (_, body) = self.get("/status").map_err(|error| {
            self.error_with_log(&format!("does not give its status ({error:#})"))
        })?;
        serde_json::from_str(&body)
            .map_err(|_| self.error_with_log(&format!("gives an unreadable status: {body}")))
    }

    /// The status code and the body of an admin endpoint's response.
    fn get(&self, path: &str) -> Result<(u16, String)> {
        let ask = || {
            let mut stream = TcpStream::connect(ADMIN)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // HTTP/1.0, so that the reply ends with the connection.
            write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok::<_, io::Error>(reply)
        };
        let reply = self.node.enter(ask)??;
        let (head, body) = reply.split_once("\r\n\r\n").context("no HTTP reply")?;
        let code = head.split(' ').nth(1).context("no HTTP status line")?;
        Ok((code.parse()?, body.to_owned()))
    }

    /// An error about the agent, with its log. An unreadable log counts as empty.
    fn error_with_log(&self, what: &str) -> Error {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = self.log.read_at(&mut bytes, 0).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes[..read]);
        anyhow!("dns-agent {what}. Its log:\n{}", log.trim_end())
    }

    /// Ends the agent by SIGTERM, as the kubelet does, and returns its exit status.
    fn stop(&mut self) -> Result<ExitStatus> {
        kill(
            Pid::from_raw(self.process.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        let mut ended = None;
        eventually(PATIENCE, || {
            ended = self.process.try_wait()?;
            Ok(ended.is_some())
        })?;
        ended.context("SIGTERM did not end it")
    }
}

impl Drop for DemoAgent<'_> {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
            // The last request to the agent has reported this.
            return;
        }
        match self.stop() {
            Ok(status) if status.success() => return,
            Ok(status) => eprintln!("{}", self.error_with_log(&format!("ended with {status}"))),
            Err(error) => eprintln!(
                "{}",
                self.error_with_log(&format!("had to be killed ({error:#})"))
            ),
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Adds the agent's arguments to a command.
fn add_arguments(command: &mut Command, plane: KernelPlaneSwitch, upstream: SocketAddr) {
    command.args(["run", "--manifests", "examples"]);
    command.args(["--reverse", "10.96.0.0/16", "--pods", "verified"]);
    command.args(["--upstream", &upstream.to_string()]);
    command.args(["--admin", &ADMIN.to_string()]);
    for address in SERVED {
        let socket = SocketAddr::new(address, 53);
        command.args(["--listen", &socket.to_string()]);
    }
    match plane {
        KernelPlaneSwitch::On => {
            command.args(["--interface", HOST_VETH]);
            for address in SERVED {
                command.args(["--serve", &address.to_string()]);
            }
        }
        KernelPlaneSwitch::Off => {}
    }
}

impl KernelPlaneSwitch {
    /// The plane that must answer, as text.
    pub(crate) fn expected_plane(self, source: AnswerSource) -> &'static str {
        match (self, source) {
            (KernelPlaneSwitch::On, AnswerSource::Cluster) => "kernel",
            (KernelPlaneSwitch::On, AnswerSource::Outside) | (KernelPlaneSwitch::Off, _) => "agent",
        }
    }
}

impl fmt::Display for KernelPlaneSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KernelPlaneSwitch::On => "with the kernel plane",
            KernelPlaneSwitch::Off => "without the kernel plane",
        })
    }
}

impl QueryCounts {
    /// The queries after `earlier`.
    pub(crate) fn since(self, earlier: QueryCounts) -> QueryCounts {
        QueryCounts {
            kernel: self.kernel - earlier.kernel,
            agent: self.agent - earlier.agent,
            forwarded: self.forwarded - earlier.forwarded,
        }
    }

    /// Whether the expected plane answered.
    pub(crate) fn is_right(self, source: AnswerSource, plane: KernelPlaneSwitch) -> bool {
        match (plane, source) {
            (KernelPlaneSwitch::On, AnswerSource::Cluster) => self.kernel > 0 && self.agent == 0,
            // The names that the search list makes are the cluster's, so only forwarded queries
            // may reach the agent.
            (KernelPlaneSwitch::On, AnswerSource::Outside) => {
                self.forwarded > 0 && self.agent == self.forwarded
            }
            (KernelPlaneSwitch::Off, _) => self.kernel == 0 && self.agent > 0,
        }
    }
}
