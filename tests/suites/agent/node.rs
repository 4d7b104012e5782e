//! A node with a pod, where agents come and go.

use std::{path::Path, process::Command};

use zerohop_tests::{
    bpffs::Bpffs,
    topology::{HOST_VETH, Topology},
};

use super::{Agent, Manifests, Pod, Source, binary};

/// What outlives an agent, and whatever it needs.
pub(super) struct Node {
    pub(super) topology: Topology,
    pub(super) bpffs: Bpffs,
    pub(super) manifests: Manifests,
    pub(super) pod: Pod,
}

impl Node {
    /// With these objects.
    pub(super) fn new(manifests: &str) -> Node {
        let topology = Topology::routed().unwrap();
        Node {
            bpffs: Bpffs::new().unwrap(),
            manifests: Manifests::new(manifests),
            pod: Pod::new(&topology),
            topology,
        }
    }

    /// Starts an agent on the pod's veth.
    pub(super) fn agent(&self, more: &[&str]) -> Agent {
        self.agent_with(&self.manifests, more)
    }

    /// The same with objects from elsewhere.
    pub(super) fn agent_with(&self, source: &impl Source, more: &[&str]) -> Agent {
        Agent::follow(self.command(&binary(), source, more))
    }

    /// What starts any build of the agent on the pod's veth.
    pub(super) fn command(&self, program: &Path, source: &impl Source, more: &[&str]) -> Command {
        let mut command = self.command_at(HOST_VETH, program, source);
        command.args(more);
        command
    }

    /// The same on another interface.
    pub(super) fn command_at(
        &self,
        interface: &str,
        program: &Path,
        source: &impl Source,
    ) -> Command {
        let mut command = Agent::command_of(program, &self.topology.node, source);
        command.args(["--interface", interface]);
        command.arg("--bpffs").arg(self.bpffs.path());
        command
    }
}
