//! The agent in the node's namespace, its status and its counters.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Child,
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
use serde_json::{Value, json};
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{topology::HOST_VETH, udp::eventually};

use super::DemoScene;
use crate::process::{output, root};

/// How long the agent may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent, with its admin endpoints at their default address. Dropping it ends the
/// process.
pub(crate) struct DemoAgent<'a> {
    pub(super) scene: &'a DemoScene<'a>,
    pub(super) plane: KernelPlaneSwitch,
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
    pub(crate) fn start(scene: &'a DemoScene<'_>, plane: KernelPlaneSwitch) -> Result<Self> {
        let log = memfd_create("dns-agent.log", MFdFlags::MFD_CLOEXEC)
            .context("cannot make a file in memory")?;
        let log = File::from(log);
        let mut command = scene.agent_command()?;
        command
            .args(["run", "--manifests", "examples", "--pods", "verified"])
            .args(["--reverse", "10.96.0.0/16"])
            .args(["--upstream", &scene.upstream.address().to_string()]);
        for address in SERVED {
            command.args(["--listen", &SocketAddr::new(address, 53).to_string()]);
            if plane == KernelPlaneSwitch::On {
                command.args(["--serve", &address.to_string()]);
            }
        }
        if plane == KernelPlaneSwitch::On {
            command.args(["--interface", HOST_VETH]);
        }
        let process = command
            .current_dir(root())
            // Ctrl-C must reach only the demo, which then ends the agent in order.
            .process_group(0)
            .stderr(log.try_clone().context("cannot duplicate the log")?)
            .spawn()
            .context("cannot start dns-agent")?;
        let mut agent = DemoAgent {
            scene,
            plane,
            process,
            log,
        };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The attachment of the kernel plane, as text.
    pub(crate) fn attachment(&self) -> Result<String> {
        let status = self.status()?;
        let attached = &status["datapath"]["attached"][0];
        let [program, hook, mode, interface] = ["program", "hook", "mode", "interface"]
            .map(|field| attached[field].as_str().unwrap_or("?"));
        if attached.is_null() {
            let reasons = &status["degraded"];
            return Err(self.error_with_log(&format!("has no kernel plane: {reasons}")));
        }
        Ok(format!(
            "program {program} at {hook} ingress ({mode}) of the node's {interface}"
        ))
    }

    /// The queries that were answered since the agent started.
    pub(crate) fn counts(&self) -> Result<QueryCounts> {
        let status = self.status()?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let outcomes = status["datapath"]["outcomes"].as_array();
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

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = eventually(PATIENCE, || {
            self.scene.signals.check()?;
            if let Some(status) = self.process.try_wait()? {
                return Err(self.error_with_log(&format!("ended with {status}")));
            }
            Ok(self
                .status()
                .is_ok_and(|status| status["missing"] == json!([])))
        })?;
        ready
            .then_some(())
            .ok_or_else(|| self.error_with_log("did not become ready"))
    }

    fn status(&self) -> Result<Value> {
        let status = output(self.scene.agent_command()?.args(["status", "--json"]));
        let status = status.map_err(|error| {
            self.error_with_log(&format!("does not give its status ({error:#})"))
        })?;
        serde_json::from_str(&status).context("the agent's status is not JSON")
    }

    /// An error about the agent, with its log. An unreadable log counts as empty.
    fn error_with_log(&self, what: &str) -> Error {
        // Opened anew, because the agent writes at the position of the open file.
        let log = fs::read_to_string(format!("/proc/self/fd/{}", self.log.as_raw_fd()));
        let log = log.unwrap_or_default();
        anyhow!("dns-agent {what}. Its log:\n{}", log.trim_end())
    }
}

impl Drop for DemoAgent<'_> {
    /// Ends the agent by SIGTERM, as the kubelet does.
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
            // The last request to the agent has reported this.
            return;
        }
        let process = Pid::from_raw(self.process.id().cast_signed());
        let _ = kill(process, Signal::SIGTERM);
        let ended = eventually(PATIENCE, || Ok(self.process.try_wait()?.is_some()));
        if !ended.unwrap_or_default() {
            let _ = self.process.kill();
        }
        match self.process.wait() {
            Ok(status) if status.success() => {}
            ended => eprintln!(
                "{}",
                self.error_with_log(&format!("ended badly: {ended:?}"))
            ),
        }
    }
}
