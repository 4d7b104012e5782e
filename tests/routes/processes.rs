//! A CoreDNS and an agent with the same Corefile, in the network of one node.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use zerohop_tests::{agent::AgentProcess, netns::NetworkNamespace};

use crate::{
    api::FixedApiServer,
    corefile::{COREDNS, RouteShape},
    exchange::RouteClient,
    questions::RouteQuestion,
    reply::RouteReply,
    servers::start_servers,
};

/// The network in which CoreDNS and the agent run, and that of the upstream servers.
pub(crate) struct RouteNetwork {
    node: NetworkNamespace,
    _internet: NetworkNamespace,
}

/// A CoreDNS and an agent that follow one Corefile.
pub(crate) struct ComparedServers {
    pub(crate) coredns: RouteClient,
    pub(crate) zerohop: RouteClient,
    agent: AgentProcess,
    process: RootedCoreDns,
    _api: FixedApiServer,
}

/// A CoreDNS with a root directory of its own.
struct RootedCoreDns {
    child: Child,
    root: TempDir,
}

/// The programs that are compared.
pub(crate) struct ComparedPrograms {
    /// A CoreDNS that needs no libraries.
    pub(crate) coredns: PathBuf,
    pub(crate) agent: PathBuf,
}

/// The addresses at the two ends of the link between the networks.
const LINK_ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];
/// The node's `resolv.conf`, which is CoreDNS's too.
const RESOLV_CONF: &str = "nameserver 203.0.113.1\n";
/// The longest time until all servers answer as they should.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

impl RouteNetwork {
    /// Makes the networks, and starts the upstream servers.
    pub(crate) fn new() -> Result<RouteNetwork> {
        let internet = NetworkNamespace::new("internet")?;
        let node = NetworkNamespace::new("node")?;
        let [own, other] = LINK_ADDRESSES;
        node.ip(&[
            &format!(
                "link add internet type veth peer name node netns {}",
                internet.name()
            ),
            "link set internet up",
            &format!("address add {own}/30 dev internet"),
            &format!("address add {COREDNS}/32 dev lo"),
        ])?;
        internet.ip(&[
            "link set node up",
            &format!("address add {other}/30 dev node"),
        ])?;
        node.ip(&[&format!("route add default via {other}")])?;
        start_servers(&internet)?;
        Ok(RouteNetwork {
            node,
            _internet: internet,
        })
    }

    /// Starts CoreDNS and an agent, and waits until both answer by the Corefile.
    pub(crate) fn start(
        &self,
        programs: &ComparedPrograms,
        shape: &RouteShape,
    ) -> Result<ComparedServers> {
        let api = FixedApiServer::start(&self.node, shape.objects())?;
        let root = tempfile::tempdir()?;
        self.write_files(root.path(), programs, shape, api.address)?;
        let log = File::create(root.path().join("log"))?;
        let mut command: Command = self.node.command("chroot")?;
        let child = command
            .arg(root.path())
            .args(["/coredns", "-conf", "/etc/coredns/Corefile"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start chroot")?;
        let process = RootedCoreDns { child, root };
        let coredns = SocketAddr::from((COREDNS, shape.port()));
        let path = |name: &str| process.root.path().join(name).display().to_string();
        let mut command = self.node.command(&programs.agent.display().to_string())?;
        command
            .args(["run", "--kubeconfig", &path("kubeconfig")])
            .args(["--endpoints", "all", "--node-name", "this"])
            .args(["--cluster-dns", &coredns.to_string()])
            .args(["--resolv-conf", &path("etc/resolv.conf")])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let agent = AgentProcess::start(command)?;
        let servers = ComparedServers {
            coredns: RouteClient::new(&self.node, coredns)?,
            zerohop: RouteClient::new(&self.node, agent.listen[0])?,
            agent,
            process,
            _api: api,
        };
        let mut is_ready = false;
        for number in 0.. {
            is_ready = servers.are_ready(shape, number)?;
            if is_ready || number > (LIMIT.as_millis() / PAUSE.as_millis()) as usize {
                break;
            }
            thread::sleep(PAUSE);
        }
        ensure!(
            is_ready,
            "{} is not answered:\n{}",
            shape.title,
            servers.describe()
        );
        Ok(servers)
    }

    /// Writes the files of CoreDNS's root directory, and the agent's kubeconfig.
    fn write_files(
        &self,
        root: &Path,
        programs: &ComparedPrograms,
        shape: &RouteShape,
        api: SocketAddr,
    ) -> Result<()> {
        fs::create_dir_all(root.join("etc/coredns/custom"))?;
        fs::copy(&programs.coredns, root.join("coredns"))
            .with_context(|| format!("cannot copy {}", programs.coredns.display()))?;
        fs::write(root.join("etc/resolv.conf"), RESOLV_CONF)?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'http://{api}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        fs::write(root.join("kubeconfig"), kubeconfig)?;
        for (name, text) in &shape.text.coredns {
            // In a cluster, the environment of the container names the API server.
            let text = with_api_server(text, api);
            fs::write(root.join("etc/coredns").join(name), text)?;
        }
        for (name, text) in &shape.text.custom {
            fs::write(root.join("etc/coredns/custom").join(name), text)?;
        }
        Ok(())
    }
}

/// A Corefile with the API server's address as an option of `kubernetes`.
fn with_api_server(corefile: &str, api: SocketAddr) -> String {
    let line = |line: &str| match line.trim_start().starts_with("kubernetes ") {
        true => format!("{line}\n endpoint http://{api}\n"),
        false => format!("{line}\n"),
    };
    corefile.lines().map(line).collect()
}

impl ComparedServers {
    /// Whether CoreDNS and the agent know the cluster, and the agent asks all servers of the
    /// Corefile. `number` makes other names than those of earlier calls.
    fn are_ready(&self, shape: &RouteShape, number: usize) -> Result<bool> {
        let ask = |client: &RouteClient, name: &str| {
            let reply = client.ask(&RouteQuestion::address(name))?;
            anyhow::Ok(RouteReply::read(&reply)?.has_data())
        };
        let web = "web.shop.svc.cluster.local";
        // Until CoreDNS listens, the query fails.
        let is_known = ask(&self.coredns, web).unwrap_or(false) && ask(&self.zerohop, web)?;
        if !is_known {
            return Ok(false);
        }
        for zone in &shape.text.below {
            ask(&self.zerohop, &format!("ready{number}.{zone}"))?;
        }
        let status: Value = serde_json::from_str(&self.agent.output(&["status", "--json"])?)?;
        let routes = status["resolver"]["routes"].as_array();
        let routes = routes.map(Vec::as_slice).unwrap_or_default();
        Ok(!routes.is_empty() && routes.iter().all(|route| route["state"] == "used"))
    }

    /// The agent's status, and the log of CoreDNS.
    fn describe(&self) -> String {
        let status = self
            .agent
            .status()
            .unwrap_or_else(|error| format!("{error:#}"));
        let log = fs::read_to_string(self.process.root.path().join("log")).unwrap_or_default();
        format!("{status}\n{log}")
    }
}

impl Drop for RootedCoreDns {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
