//! A node with an agent, its upstreams, and two pods behind a bridge: the attacker, and the
//! well-behaved clients.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    path::Path,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};
use tempfile::TempDir;
use zerohop_contract::packet;
use zerohop_tests::{
    agent::AgentProcess,
    netns::NetworkNamespace,
    topology::{BRIDGE, POD_DEVICE, Topology},
    udp::UdpServer,
};

use super::IN_OWN_SESSION;

/// A running agent with all that it needs.
pub(super) struct AttackedNode {
    // The agent and the servers end before the namespaces are removed.
    agent: AgentProcess,
    _upstreams: Vec<ScriptedUpstream>,
    topology: Topology,
    others: NetworkNamespace,
    _manifests: TempDir,
}

/// How the agent's two upstreams behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpstreamBehavior {
    BothAnswer,
    /// The first one never answers.
    FirstSilent,
}

/// An upstream that answers over UDP, and accepts queries over TCP without an answer.
struct ScriptedUpstream {
    server: UdpServer,
    _tcp: TcpListener,
}

/// The address on which the agent answers: the bridge's.
pub(super) const LISTEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, 1), 53);
/// The last bytes of addresses in the bridge's network 10.244.0.0/24.
const OTHERS: std::ops::Range<u8> = 16..20;
const ATTACKERS: std::ops::Range<u8> = 64..128;
const FORGED: std::ops::Range<u8> = 128..228;

/// A Service with a ClusterIP.
pub(super) const WEB_SERVICE: &str = "web.shop.svc.cluster.local";
pub(super) const WEB_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 1);
/// A headless Service with 5,000 endpoints.
pub(super) const LARGE_SERVICE: &str = "large.shop.svc.cluster.local";
/// Both upstreams are silent about names in this zone.
pub(super) const SILENT_ZONE: &str = "silent.example";
/// Names in this zone don't exist.
pub(super) const ABSENT_ZONE: &str = "absent.example";
/// The address of all names outside the cluster.
pub(super) const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The TTL of the upstreams' answers, in seconds: longer than a run.
const TTL: u32 = 3600;
/// The bytes that wait in an upstream's socket: a burst of all questions in flight.
const UPSTREAM_BUFFER: usize = 4 << 20;

/// Addresses of well-behaved clients.
pub(super) fn other_addresses() -> impl Iterator<Item = Ipv4Addr> {
    OTHERS.map(pod_address)
}

/// Addresses of the attacker.
pub(super) fn attacker_addresses() -> impl Iterator<Item = Ipv4Addr> {
    ATTACKERS.map(pod_address)
}

/// Addresses of the bridge's network that no pod has.
pub(super) fn forged_addresses() -> impl Iterator<Item = Ipv4Addr> {
    FORGED.map(pod_address)
}

fn pod_address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, last)
}

impl AttackedNode {
    /// Starts the agent at the path `program`.
    pub(super) fn start(upstreams: UpstreamBehavior, program: &Path) -> Result<AttackedNode> {
        let topology = Topology::bridged()?;
        let others = NetworkNamespace::new("others")?;
        topology.node.ip(&[
            &format!(
                "link add veth-others type veth peer name {POD_DEVICE} netns {}",
                others.name()
            ),
            &format!("link set veth-others master {BRIDGE}"),
            "link set veth-others up",
        ])?;
        others.ip(&[&format!("link set {POD_DEVICE} up")])?;
        add_addresses(&others, other_addresses())?;
        add_addresses(&topology.pod, attacker_addresses())?;
        let manifests = TempDir::new()?;
        fs::write(manifests.path().join("objects.yaml"), objects()?)?;
        let first = match upstreams {
            UpstreamBehavior::BothAnswer => reply,
            UpstreamBehavior::FirstSilent => |_: &[u8]| None,
        };
        let servers = [first, reply].map(|reply| ScriptedUpstream::start(&topology.node, reply));
        let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let program = program.to_str().context("the agent's path is not UTF-8")?;
        let mut command = topology.node.command(IN_OWN_SESSION)?;
        command.args([program, "run", "--admin", "127.0.0.1:0", "--manifests"]);
        command.arg(manifests.path());
        command.args(["--listen", &LISTEN.to_string()]);
        // As in the image.
        command.env("MALLOC_ARENA_MAX", "1");
        for upstream in &servers {
            command.args(["--upstream", &upstream.server.address().to_string()]);
        }
        Ok(AttackedNode {
            agent: AgentProcess::start(command)?,
            _upstreams: servers,
            topology,
            others,
            _manifests: manifests,
        })
    }

    /// The namespace of the attacker.
    pub(super) fn attacker(&self) -> &NetworkNamespace {
        &self.topology.pod
    }

    /// The namespace of the well-behaved clients.
    pub(super) fn others(&self) -> &NetworkNamespace {
        &self.others
    }

    /// The agent's largest resident memory since its start, in bytes.
    pub(super) fn peak_resident_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.agent.process_id());
        let status = fs::read_to_string(&path)
            .map_err(|error| self.agent.error(&format!("has ended: {error}")))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|rest| rest.split_whitespace().next());
        let kibibytes = kibibytes.with_context(|| format!("{path} has no VmHWM"))?;
        Ok(kibibytes.parse::<u64>()? << 10)
    }
}

impl ScriptedUpstream {
    fn start(
        node: &NetworkNamespace,
        reply: fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<ScriptedUpstream> {
        let (socket, tcp) = node.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address: SocketAddr = socket.local_addr()?;
            Ok::<_, std::io::Error>((socket, TcpListener::bind(address)?))
        })??;
        setsockopt(&socket, sockopt::RcvBuf, &UPSTREAM_BUFFER)?;
        Ok(ScriptedUpstream {
            server: UdpServer::on_socket(socket, reply)?,
            _tcp: tcp,
        })
    }
}

fn add_addresses(
    namespace: &NetworkNamespace,
    addresses: impl Iterator<Item = Ipv4Addr>,
) -> Result<()> {
    let commands: Vec<String> = addresses
        .map(|address| format!("address add {address}/24 dev {POD_DEVICE}"))
        .collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    namespace.ip(&commands)
}

/// The manifests of the Services.
fn objects() -> Result<String> {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{clusterIP: {WEB_ADDRESS}, ports: [{{name: http, port: 80}}]}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: large, namespace: shop}}\n\
         spec: {{clusterIP: None, ports: [{{name: http, port: 80}}]}}\n"
    );
    for slice in 0..50 {
        let addresses = (1..=100).map(|last| format!("{{addresses: [10.100.{slice}.{last}]}}"));
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: large-{slice}, namespace: shop, \
             labels: {{kubernetes.io/service-name: large}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 80}}]\nendpoints: [{}]\n",
            addresses.collect::<Vec<_>>().join(", ")
        )?;
    }
    Ok(text)
}

/// An upstream's reply. `None`: it is silent.
fn reply(query: &[u8]) -> Option<Vec<u8>> {
    let is_in = |zone: &str| {
        let zone = packet::wire_name(zone);
        query.windows(zone.len()).any(|bytes| bytes == zone)
    };
    // QR, RD and RA.
    let bits = 0x8180;
    if is_in(SILENT_ZONE) {
        return None;
    }
    if is_in(ABSENT_ZONE) {
        const NXDOMAIN: u16 = 3;
        let mut reply = packet::empty_reply(query, bits | NXDOMAIN)?;
        // One authority record: SOA of the root, class IN, TTL, and data of 22 bytes that begin
        // with two names, both the root.
        reply[9] = 1;
        reply.extend([0, 0, 6, 0, 1]);
        reply.extend(TTL.to_be_bytes());
        reply.extend([0, 22, 0, 0]);
        for number in [1, TTL, TTL, TTL, TTL] {
            reply.extend(number.to_be_bytes());
        }
        return Some(reply);
    }
    packet::address_reply(query, bits, TTL, OUTSIDE_ADDRESS)
}
