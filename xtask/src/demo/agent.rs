//! The agent in the node's namespace, and what it says of itself.

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
use zerohop_tests::{
    netns::Namespace,
    topology::{HOST_VETH, SERVED},
    udp::eventually,
};

use super::{answer::Source, signals::Signals};
use crate::process::root;

/// Where it tells its status: the default, which nobody else can have in a new
/// namespace.
pub(crate) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9153);

/// How long it may take to start, to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent. It ends when dropped.
pub(crate) struct Agent<'a> {
    node: &'a Namespace,
    process: Child,
    /// What it wrote to its standard error; a file in memory.
    log: File,
}

/// Whether the kernel answers too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    On,
    Off,
}

/// Numbers of queries.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    /// Answered in the kernel.
    pub(super) kernel: u64,
    /// Answered by the agent's resolver.
    pub(super) agent: u64,
    /// Of these, sent on to the upstream.
    pub(super) forwarded: u64,
}

impl<'a> Agent<'a> {
    /// Starts it on examples/, and waits until it is ready.
    pub(crate) fn start(
        program: &Path,
        node: &'a Namespace,
        plane: Plane,
        upstream: SocketAddr,
        signals: &Signals,
    ) -> Result<Agent<'a>> {
        let log = memfd_create("dns-agent.log", MFdFlags::MFD_CLOEXEC)
            .context("cannot make a file in memory")?;
        let log = File::from(log);
        let mut command = node.command(&program.to_string_lossy())?;
        arguments(&mut command, plane, upstream);
        let process = command
            .current_dir(root())
            // Ctrl-C is for the demo, which ends this one in order.
            .process_group(0)
            .stderr(log.try_clone().context("cannot duplicate the log")?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut agent = Agent { node, process, log };
        agent.wait_until_ready(signals)?;
        Ok(agent)
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// What its kernel plane is attached to.
    pub(crate) fn attached(&self) -> Result<String> {
        let status = self.status()?;
        let Some(attached) = status.pointer("/datapath/attached/0") else {
            let reasons = &status["degraded"];
            return Err(self.failed(&format!("has no kernel plane: {reasons}")));
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

    /// How many queries were answered since it started.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let status = self.status()?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let outcomes = status
            .pointer("/datapath/outcomes")
            .and_then(Value::as_array);
        let resolver = &status["resolver"]["counts"];
        Ok(Counts {
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

    fn wait_until_ready(&mut self, signals: &Signals) -> Result<()> {
        let ready = eventually(PATIENCE, || {
            signals.check()?;
            if let Some(status) = self.process.try_wait()? {
                return Err(self.failed(&format!("ended with {status}")));
            }
            Ok(self.get("/readyz").is_ok_and(|(code, _)| code == 200))
        })?;
        if !ready {
            return Err(self.failed("did not become ready"));
        }
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let (_, body) = self
            .get("/status")
            .map_err(|error| self.failed(&format!("gives no status ({error:#})")))?;
        serde_json::from_str(&body).map_err(|_| self.failed(&format!("gives as its status {body}")))
    }

    /// The code and body of a page of its admin endpoints.
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

    /// An error of the agent's, with what it has logged. An unreadable log is an
    /// empty one: there is an error to report already.
    fn failed(&self, how: &str) -> Error {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut octets = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = self.log.read_at(&mut octets, 0).unwrap_or_default();
        let log = String::from_utf8_lossy(&octets[..read]);
        anyhow!("dns-agent {how}. It logged:\n{}", log.trim_end())
    }

    /// Ends it as the kubelet does, and gives how it ended.
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
        ended.context("it did not end")
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
            // Whoever talked to it last has said so.
            return;
        }
        match self.stop() {
            Ok(status) if status.success() => return,
            Ok(status) => eprintln!("{}", self.failed(&format!("ended with {status}"))),
            Err(error) => eprintln!("{}", self.failed(&format!("had to be killed ({error:#})"))),
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command line, but for the program.
fn arguments(command: &mut Command, plane: Plane, upstream: SocketAddr) {
    command.args(["run", "--manifests", "examples"]);
    command.args(["--reverse", "10.96.0.0/16", "--pods", "verified"]);
    command.args(["--upstream", &upstream.to_string()]);
    command.args(["--admin", &ADMIN.to_string()]);
    for address in SERVED {
        let socket = SocketAddr::new(address, 53);
        command.args(["--listen", &socket.to_string()]);
    }
    match plane {
        Plane::On => {
            command.args(["--interface", HOST_VETH]);
            for address in SERVED {
                command.args(["--serve", &address.to_string()]);
            }
        }
        Plane::Off => {}
    }
}

impl Plane {
    /// Who should answer, in words.
    pub(crate) fn expected(self, source: Source) -> &'static str {
        match (self, source) {
            (Plane::On, Source::Cluster) => "kernel",
            (Plane::On, Source::Outside) | (Plane::Off, _) => "agent",
        }
    }
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Plane::On => "with the kernel plane",
            Plane::Off => "without the kernel plane",
        })
    }
}

impl Counts {
    /// What was counted after `earlier`.
    pub(crate) fn since(self, earlier: Counts) -> Counts {
        Counts {
            kernel: self.kernel - earlier.kernel,
            agent: self.agent - earlier.agent,
            forwarded: self.forwarded - earlier.forwarded,
        }
    }

    /// Whether the right plane answered.
    pub(crate) fn right(self, source: Source, plane: Plane) -> bool {
        match (plane, source) {
            (Plane::On, Source::Cluster) => self.kernel > 0 && self.agent == 0,
            // Names that the search list makes up are the cluster's: only what
            // must be forwarded may reach the agent.
            (Plane::On, Source::Outside) => self.forwarded > 0 && self.agent == self.forwarded,
            (Plane::Off, _) => self.kernel == 0 && self.agent > 0,
        }
    }
}
