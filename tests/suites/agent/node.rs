//! A node with a pod, on which a test starts and ends agents.

use std::{path::Path, process::Command};

use zerohop_tests::{
    bpffs::Bpffs,
    topology::{HOST_VETH, Topology},
};

use super::{AgentProcess, ManifestFolder, ObjectSource, PodClient, agent_command, binary};

/// A node with a pod, a BPF file system and manifests. They outlive each agent.
pub(super) struct TestNode {
    pub(super) topology: Topology,
    pub(super) bpffs: Bpffs,
    pub(super) manifests: ManifestFolder,
    pub(super) pod: PodClient,
}

impl TestNode {
    /// A node with these manifests.
    pub(super) fn new(manifests: &str) -> TestNode {
        let topology = Topology::routed().unwrap();
        TestNode {
            bpffs: Bpffs::new().unwrap(),
            manifests: ManifestFolder::new(manifests),
            pod: PodClient::new(&topology),
            topology,
        }
    }

    /// Starts an agent on the pod's veth, with the node's manifests.
    pub(super) fn start_agent(&self, flags: &[&str]) -> AgentProcess {
        self.start_agent_from(&self.manifests, flags)
    }

    /// Starts an agent on the pod's veth, with another source of objects.
    pub(super) fn start_agent_from(
        &self,
        source: &impl ObjectSource,
        flags: &[&str],
    ) -> AgentProcess {
        AgentProcess::start(self.command(&binary(), source, flags)).unwrap()
    }

    /// The command that starts the agent at the path `program` on the pod's veth.
    pub(super) fn command(
        &self,
        program: &Path,
        source: &impl ObjectSource,
        flags: &[&str],
    ) -> Command {
        let mut command = self.command_on(HOST_VETH, program, source);
        command.args(flags);
        command
    }

    /// The command that starts the agent at the path `program` on `interface`.
    pub(super) fn command_on(
        &self,
        interface: &str,
        program: &Path,
        source: &impl ObjectSource,
    ) -> Command {
        let mut command = agent_command(program, &self.topology.node, source);
        command.args(["--interface", interface]);
        command.arg("--bpffs").arg(self.bpffs.path());
        command
    }
}
