//! The agent's binary, started as a process, and a DNS client for each of its planes.

use std::{collections::BTreeSet, process::Command};

use anyhow::Result;
use zerohop_tests::agent::AgentProcess;

use crate::{
    client::RetryingClient,
    cluster::LiveCluster,
    pod::{ClientPod, ClientPods},
    settings::{ComparisonSettings, CorefileDiscovery},
};

/// The flags of an agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentMode {
    /// The agent knows the endpoints of headless Services only.
    Headless,
    /// The agent knows all endpoints.
    All,
    /// The agent knows all endpoints, and delegates to CoreDNS the names where CoreDNS deviates
    /// from the RFCs.
    PassDeviations,
}

/// A running agent, with a client for each of its planes.
pub(crate) struct ComparedAgent {
    pub(crate) mode: AgentMode,
    pub(crate) user_plane: RetryingClient,
    pub(crate) kernel: RetryingClient,
    pub(crate) process: AgentProcess,
    _pod: ClientPod,
}

impl AgentMode {
    pub(crate) const ALL: [AgentMode; 3] = [
        AgentMode::Headless,
        AgentMode::All,
        AgentMode::PassDeviations,
    ];

    pub(crate) fn flags(self) -> &'static str {
        match self {
            AgentMode::Headless => "--endpoints=headless",
            AgentMode::All => "--endpoints=all",
            AgentMode::PassDeviations => "--endpoints=all --pass-deviations",
        }
    }
}

impl ComparedAgent {
    /// Starts an agent, and a pod that queries it. The agent attaches to the pod's host veth.
    pub(crate) fn start(
        settings: &ComparisonSettings,
        cluster: &LiveCluster,
        pods: &mut ClientPods,
        mode: AgentMode,
    ) -> Result<ComparedAgent> {
        let pod = pods.add_pod()?;
        let namespace = cluster.dns_namespace();
        let mut command = Command::new(&settings.agent);
        command
            .arg("run")
            .arg("--kubeconfig")
            .arg(&settings.kubeconfig)
            .args(mode.flags().split(' '))
            .args(["--dns-service", &format!("{namespace}/dns")])
            .args(["--cluster-dns", &settings.dns.to_string()])
            .args(["--interface", &pod.interface])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        if settings.source == CorefileDiscovery::Flag {
            command.args(["--corefile", &format!("{namespace}/coredns")]);
        }
        let process = AgentProcess::start(command)?;
        Ok(ComparedAgent {
            mode,
            user_plane: RetryingClient::new(process.listen[0])?,
            kernel: RetryingClient::from_socket(pod.socket(pods.served())?)?,
            process,
            _pod: pod,
        })
    }

    /// All names of at least two labels on those lines of `dns-agent dump` that contain `part`:
    /// owner names, and names in rdata and comments.
    pub(crate) fn dump(&self, part: &str) -> Result<BTreeSet<String>> {
        let text = self.process.output(&["dump"])?;
        let lines = text.lines().filter(|line| line.contains(part));
        let words = lines.flat_map(|line| line.split([' ', '\t', ';']));
        let names = words.filter_map(|word| word.strip_suffix('.'));
        Ok(names
            .filter(|name| name.contains('.'))
            .map(str::to_owned)
            .collect())
    }
}

impl Drop for ComparedAgent {
    fn drop(&mut self) {
        eprintln!(
            "The log of dns-agent {}:\n{}",
            self.mode.flags(),
            self.process.log()
        );
    }
}
