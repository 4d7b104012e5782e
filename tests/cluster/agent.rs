//! The agent's own binary, asked in both planes.

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
    ask::Asker,
    cluster::Cluster,
    pod::{Pod, Pods},
    settings::Settings,
};

/// How an agent is configured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It knows the endpoints of headless services only.
    Headless,
    /// It knows all endpoints.
    All,
    /// It leaves to CoreDNS what CoreDNS answers against the standards.
    PassDepartures,
}

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    pub(crate) mode: Mode,
    pub(crate) user_plane: Asker,
    pub(crate) kernel: Asker,
    child: Child,
    pub(crate) admin: String,
    _pod: Pod,
}

/// How long the agent may take to start.
const LIMIT: Duration = Duration::from_secs(30);

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Headless, Mode::All, Mode::PassDepartures];

    pub(crate) fn flags(self) -> &'static str {
        match self {
            Mode::Headless => "--endpoints=headless",
            Mode::All => "--endpoints=all",
            Mode::PassDepartures => "--endpoints=all --pass-departures",
        }
    }
}

impl Agent {
    /// Starts an agent with a pod of its own.
    pub(crate) fn start(
        settings: &Settings,
        cluster: &Cluster,
        pods: &mut Pods,
        mode: Mode,
    ) -> Result<Agent> {
        let pod = pods.add()?;
        let own = cluster.own_namespace();
        let mut child = Command::new(&settings.agent)
            .arg("run")
            .arg("--kubeconfig")
            .arg(&settings.kubeconfig)
            .args(mode.flags().split(' '))
            .args(["--corefile", &format!("{own}/coredns")])
            .args(["--dns-service", &format!("{own}/dns")])
            .args(["--cluster-dns", &settings.dns.to_string()])
            .args(["--interface", &pod.interface])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", settings.agent.display()))?;
        let lines = log(mode, &mut child)?;
        let (listen, admin) = loop {
            let line = lines
                .recv_timeout(LIMIT)
                .context("the agent did not start")?;
            if let Some(addresses) = addresses(&line) {
                break addresses;
            }
        };
        Ok(Agent {
            mode,
            user_plane: Asker::new(listen)?,
            kernel: Asker::on(pod.socket(pods.served())?)?,
            child,
            admin,
            _pod: pod,
        })
    }

    /// The words of `dns-agent dump` that are names and contain `part`, and the names of what leads to
    /// them.
    pub(crate) fn dump(&self, settings: &Settings, part: &str) -> Result<BTreeSet<String>> {
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

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the agent says, and prints for those who look on.
fn log(mode: Mode, child: &mut Child) -> Result<Receiver<String>> {
    let stderr = child.stderr.take().context("no standard error")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("[{}] {line}", mode.flags());
            // Nobody listens once the agent has started.
            sender.send(line).ok();
        }
    });
    Ok(lines)
}

/// The addresses in the line that says that all are bound.
fn addresses(line: &str) -> Option<(SocketAddr, String)> {
    let (_, addresses) = line.split_once("started listen=[")?;
    let (listen, admin) = addresses.split_once("] admin=")?;
    Some((listen.parse().ok()?, admin.trim().to_owned()))
}
