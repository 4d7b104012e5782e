//! The agent in the node's namespace, its status and its counters.

use std::{net::SocketAddr, os::unix::process::CommandExt as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{agent::AgentProcess, topology::HOST_VETH, udp::eventually};

use super::DemoScene;
use crate::process::root;

/// How long the agent may take to become ready after it has bound its sockets.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running agent, with its admin endpoints at their default address.
pub(crate) struct DemoAgent<'a> {
    pub(super) scene: &'a DemoScene<'a>,
    pub(super) plane: KernelPlaneSwitch,
    pub(super) process: AgentProcess,
}

/// Whether the agent runs with the kernel plane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelPlaneSwitch {
    On,
    Off,
}

/// Numbers of queries since the agent started.
pub(crate) struct QueryCounts {
    /// Answered in the kernel.
    pub(super) kernel: u64,
    /// Received by the agent's resolver, over UDP.
    pub(super) agent: u64,
    /// Answered by the resolver from the upstream, or from its cache of the upstream's replies.
    pub(super) outside: u64,
}

impl<'a> DemoAgent<'a> {
    /// Starts an agent with the objects of examples/, and waits until it is ready.
    pub(crate) fn start(scene: &'a DemoScene<'_>, plane: KernelPlaneSwitch) -> Result<Self> {
        let mut command = scene
            .topology
            .node
            .command(&scene.program.to_string_lossy())?;
        // Ctrl-C must reach only the demo, which then ends the agent in an orderly way.
        command.current_dir(root()).process_group(0);
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
        let agent = DemoAgent {
            scene,
            plane,
            process: AgentProcess::start(command)?,
        };
        let is_ready = eventually(PATIENCE, || {
            scene.signals.check()?;
            Ok(agent.status()?["missing"] == json!([]))
        })?;
        ensure!(
            is_ready,
            agent
                .process
                .error(&format!("did not become ready within {PATIENCE:?}"))
        );
        Ok(agent)
    }

    /// The attachment of the kernel plane, as text.
    pub(crate) fn attachment(&self) -> Result<String> {
        let status = self.status()?;
        let attached = &status["datapath"]["attached"][0];
        let [program, hook, mode, interface] = ["program", "hook", "mode", "interface"]
            .map(|field| attached[field].as_str().unwrap_or("?"));
        ensure!(
            attached.is_object(),
            self.process
                .error(&format!("has attached no program: {}", status["degraded"]))
        );
        Ok(format!(
            "program {program} at {hook} ingress ({mode}) of the node's {interface}"
        ))
    }

    pub(crate) fn counts(&self) -> Result<QueryCounts> {
        let status = self.status()?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let outcomes = status["datapath"]["outcomes"].as_array();
        let answered = outcomes
            .into_iter()
            .flatten()
            .filter(|outcome| outcome["answered"] == true);
        let resolver = &status["resolver"]["counts"];
        Ok(QueryCounts {
            kernel: answered.map(|outcome| number(&outcome["packets"])).sum(),
            agent: number(&resolver["udpQueries"]),
            outside: number(&resolver["cacheHits"]) + number(&resolver["cacheMisses"]),
        })
    }

    fn status(&self) -> Result<Value> {
        let status = self.process.output(&["status", "--json"])?;
        serde_json::from_str(&status).context("the agent's status is not JSON")
    }
}
