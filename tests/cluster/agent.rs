//! The agent's binary, started as a process, and a DNS client for each of its planes.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    client::RetryingClient,
    cluster::LiveCluster,
    pod::{ClientPod, ClientPods},
    settings::ComparisonSettings,
};

/// The flags of an agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentMode {
    /// The agent knows the endpoints of headless Services only.
    Headless,
    /// The agent knows all endpoints.
    All,
    /// The agent delegates to CoreDNS the names where CoreDNS deviates from the RFCs.
    PassDeviations,
}

/// A running agent; killed when dropped.
pub(crate) struct ComparedAgent {
    pub(crate) mode: AgentMode,
    pub(crate) user_plane: RetryingClient,
    pub(crate) kernel: RetryingClient,
    child: Child,
    /// The address of its admin endpoints.
    pub(crate) admin: String,
    _pod: ClientPod,
}

/// The longest time that the agent may take to start.
const LIMIT: Duration = Duration::from_secs(30);

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
        let pod = pods.add()?;
        let namespace = cluster.dns_namespace();
        let mut child = Command::new(&settings.agent)
            .arg("run")
            .arg("--kubeconfig")
            .arg(&settings.kubeconfig)
            .args(mode.flags().split(' '))
            .args(["--corefile", &format!("{namespace}/coredns")])
            .args(["--dns-service", &format!("{namespace}/dns")])
            .args(["--cluster-dns", &settings.dns.to_string()])
            .args(["--interface", &pod.interface])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", settings.agent.display()))?;
        let lines = follow_log(mode, &mut child)?;
        let (listen, admin) = loop {
            let line = lines
                .recv_timeout(LIMIT)
                .context("the agent did not start")?;
            if let Some(addresses) = addresses(&line) {
                break addresses;
            }
        };
        Ok(ComparedAgent {
            mode,
            user_plane: RetryingClient::new(listen)?,
            kernel: RetryingClient::from_socket(pod.socket(pods.served())?)?,
            child,
            admin,
            _pod: pod,
        })
    }

    /// All names on those lines of `dns-agent dump` that contain `part`: owner names, and names in
    /// rdata.
    pub(crate) fn dump(
        &self,
        settings: &ComparisonSettings,
        part: &str,
    ) -> Result<BTreeSet<String>> {
        let output = Command::new(&settings.agent)
            .args(["dump", "--admin", &self.admin])
            .output()?;
        ensure!(
            output.status.success(),
            "dns-agent dump: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter(|line| line.contains(part));
        let words = lines.flat_map(|line| line.split([' ', '\t', ';']));
        let names = words.filter_map(|word| word.strip_suffix('.'));
        Ok(names
            .filter(|name| name.contains('.'))
            .map(str::to_owned)
            .collect())
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }
}

impl Drop for ComparedAgent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Prints the agent's log lines, and sends each to the channel that it returns.
fn follow_log(mode: AgentMode, child: &mut Child) -> Result<Receiver<String>> {
    let stderr = child.stderr.take().context("no standard error")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("[{}] {line}", mode.flags());
            // The receiver is gone once the agent has started.
            sender.send(line).ok();
        }
    });
    Ok(lines)
}

/// The resolver's and the admin address, from the log line that reports all sockets as bound.
fn addresses(line: &str) -> Option<(SocketAddr, String)> {
    let (_, addresses) = line.split_once("started listen=[")?;
    let (listen, admin) = addresses.split_once("] admin=")?;
    Some((listen.parse().ok()?, admin.trim().to_owned()))
}
