//! Tests of the agent's binary, run as an operator runs it.

mod api;
mod attacks;
mod cgroup;
mod check;
mod dashboards;
mod dns_path;
mod faults;
mod foreign_programs;
mod hosts;
mod metrics;
mod network_policy;
mod node;
mod platforms;
mod restarts;
mod steering;
mod thread_capabilities;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_tests::{
    agent::{AgentProcess, LIMIT},
    netns::NetworkNamespace,
    topology::{HOST_VETH, Topology},
    udp::{UdpClient, UdpServer, eventually},
};

use crate::kernel::fixture::rcode;

/// How long to wait for an answer before it counts as missing.
const PATIENCE: Duration = Duration::from_millis(100);
/// The lease that [`SHORT_LEASE`] sets.
const STALE_AFTER: Duration = Duration::from_secs(2);
const SHORT_LEASE: &str = "--stale-after=2s";

/// The type A (RFC 1035 section 3.2.2).
const A: u16 = 1;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1], ports: [{name: http, port: 80, protocol: TCP}]}
";

#[test]
fn a_stopped_agent_answers_until_its_lease_ends() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let agent = start_agent(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    assert_eq!(pod.web_ttl(), Some(5));

    agent.send_signal(Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    // No socket listens on the served address, so only the kernel can answer.
    while pod.web_ttl().is_some() {
        assert!(stopped.elapsed() < LIMIT, "still answered after {LIMIT:?}");
    }
    let lasted = stopped.elapsed();
    // The lease was renewed at most half a second before the stop, a quarter of the lease. The rest
    // is tolerance.
    let shortest = STALE_AFTER - Duration::from_secs(1);
    let longest = STALE_AFTER + Duration::from_secs(1);
    assert!(
        (shortest..longest).contains(&lasted),
        "the kernel answered for {lasted:?} after the stop, not for {shortest:?} to {longest:?}"
    );

    topology.assign_served_addresses().unwrap();
    let served = SocketAddr::new(SERVED[0], 53);
    let _stand_in = UdpServer::start(&topology.node, served, stand_in_reply).unwrap();
    // The kernel keeps passing the queries.
    for _ in 0..2 {
        assert_eq!(pod.web_ttl(), Some(77));
    }

    agent.send_signal(Signal::SIGCONT).unwrap();
    assert!(eventually(LIMIT, || Ok(pod.web_ttl() == Some(5))).unwrap());
}

#[test]
fn sigterm_detaches_every_hook() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let mut agent = start_agent(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    assert_eq!(pod.web_ttl(), Some(5));
    let status = agent.end_by(Signal::SIGTERM).unwrap();
    assert!(status.success(), "the agent ended with {status}");
    assert_eq!(pod.web_ttl(), None);
}

#[test]
fn changed_manifests_are_answered_and_broken_ones_change_nothing() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let mut agent = start_agent(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    assert_eq!(pod.service_address("web"), Some([10, 96, 1, 1]));

    manifests.write(&WEB.replace("10.96.1.1", "10.96.1.2"));
    let changed = || Ok(pod.service_address("web") == Some([10, 96, 1, 2]));
    assert!(eventually(LIMIT, changed).unwrap());

    manifests.write(&format!("{WEB}---\nkind: [\n"));
    let line = agent.wait_for_line("zerohop.yaml").unwrap();
    // The faulty line, `kind: [`, is the seventh.
    assert!(
        line.contains("ERROR") && line.contains(":7:"),
        "no error that names line 7: {line}"
    );
    assert_eq!(pod.service_address("web"), Some([10, 96, 1, 2]));

    manifests.write(&WEB.replace("web", "shop"));
    let changed = || Ok(pod.service_address("shop") == Some([10, 96, 1, 1]));
    assert!(eventually(LIMIT, changed).unwrap());
    // Names are removed after new names are published.
    let gone = || Ok(pod.ask_for("web").is_some_and(|reply| rcode(&reply) == 3));
    assert!(eventually(LIMIT, gone).unwrap());
}

#[test]
fn constant_changes_of_manifests_do_not_starve_the_lease() {
    let topology = Topology::routed().unwrap();
    let manifests = ManifestFolder::new(WEB);
    let _agent = start_agent(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    let end = Instant::now() + 3 * STALE_AFTER;
    let mut last = 2;
    while Instant::now() < end {
        last = last % 250 + 1;
        manifests.write(&WEB.replace("10.96.1.1", &format!("10.96.1.{last}")));
        let changed = || Ok(pod.service_address("web") == Some([10, 96, 1, last]));
        assert!(
            eventually(LIMIT, changed).unwrap(),
            "10.96.1.{last} was never answered"
        );
    }
}

#[test]
fn status_reports_answers_and_suffixes_beyond_their_limits() {
    let topology = Topology::routed().unwrap();
    let headless = |count: usize| {
        let endpoints: Vec<String> = (1..=count)
            .map(|last| format!("{{addresses: [10.244.0.{last}]}}"))
            .collect();
        format!(
            "{WEB}---
apiVersion: v1
kind: Service
metadata: {{name: many, namespace: shop}}
spec: {{clusterIP: None}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many-1, namespace: shop, labels: {{kubernetes.io/service-name: many}}}}
addressType: IPv4
endpoints: [{}]
",
            endpoints.join(", ")
        )
    };
    // The answer with 200 addresses has 2 * 200 - 1 resource records of 16 bytes. A record of the
    // tables has at most 4096 bytes.
    let manifests = ManifestFolder::new(&headless(200));
    // In wire form this zone's name has 65 bytes, one more than a suffix in the settings can have.
    let domain = format!("--cluster-domain={}.test", "a".repeat(58));
    let agent = start_agent(&topology.node, &manifests, &[&domain]);
    let status = || agent.status().unwrap();
    let said = status();
    let answers = "names have more answers than their records can hold";
    assert!(said.contains(answers), "no {answers:?} in {said}");
    let suffixes = "suffixes of up to 64";
    assert!(said.contains(suffixes), "no {suffixes:?} in {said}");
    assert!(
        !said.contains("degraded"),
        "the limits count as degraded: {said}"
    );

    manifests.write(&headless(2));
    assert!(eventually(LIMIT, || Ok(!status().contains(answers))).unwrap());
    // The name of the zone is still too long.
    assert!(status().contains(suffixes));
}

#[test]
fn a_network_card_is_refused_without_allowed_clients() {
    let node = NetworkNamespace::new("node").unwrap();
    // Every device but a veth counts as a network card.
    node.ip(&["link add card type bridge", "link set card up"])
        .unwrap();
    let manifests = ManifestFolder::new(WEB);
    let output = agent_command(&binary(), &node, &manifests)
        .args(["--interface", "card"])
        .output()
        .unwrap();
    assert!(
        !output.status.success(),
        "the agent accepts a network card without --allow"
    );
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("--allow"),
        "the error names no --allow: {error}"
    );
}

/// A source of an agent's objects.
pub(crate) trait ObjectSource {
    /// The flags of an agent that reads this source.
    fn arguments(&self) -> Vec<String>;
}

/// Starts an agent on the node's host veth, and waits until it has started.
pub(crate) fn start_agent(
    node: &NetworkNamespace,
    source: &impl ObjectSource,
    flags: &[&str],
) -> AgentProcess {
    start_agent_with(node, source, &[&["--interface", HOST_VETH], flags].concat())
}

/// Starts an agent with these arguments, and waits until it has started.
fn start_agent_with(
    node: &NetworkNamespace,
    source: &impl ObjectSource,
    arguments: &[&str],
) -> AgentProcess {
    let mut command = agent_command(&binary(), node, source);
    command.args(arguments);
    AgentProcess::start(command).unwrap()
}

/// The command that starts the agent at the path `program`.
fn agent_command(program: &Path, node: &NetworkNamespace, source: &impl ObjectSource) -> Command {
    let mut command = node.command(program.to_str().unwrap()).unwrap();
    command
        .arg("run")
        .args(source.arguments())
        .args(["--admin", "127.0.0.1:0"]);
    command
}

fn with_dns_port(address: std::net::IpAddr) -> String {
    SocketAddr::new(address, 53).to_string()
}

/// The agent's binary: the one that `ZEROHOP_AGENT` names, or the one in the target directory of
/// the test, which `cargo xtask test` builds.
pub(crate) fn binary() -> PathBuf {
    if let Some(agent) = std::env::var_os("ZEROHOP_AGENT") {
        return agent.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("dns-agent");
    assert!(
        path.exists(),
        "{} is not there: run `cargo build -p dns-agent` or `cargo xtask test`",
        path.display()
    );
    path
}

/// A new directory with one file of manifests; removed when dropped.
pub(crate) struct ManifestFolder(PathBuf);

impl ManifestFolder {
    pub(crate) fn new(text: &str) -> Self {
        let name = format!(
            "zerohop-{}-{:016x}",
            std::process::id(),
            rand::random::<u64>()
        );
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let manifests = Self(folder);
        manifests.write(text);
        manifests
    }

    /// Replaces the file atomically, by a rename.
    fn write(&self, text: &str) {
        let aside = self.0.join("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.0.join("zerohop.yaml")).unwrap();
    }
}

impl ObjectSource for ManifestFolder {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--manifests".to_owned(), self.0.display().to_string()];
        for address in SERVED {
            arguments.extend(["--serve".to_owned(), with_dns_port(address)]);
        }
        arguments
    }
}

impl Drop for ManifestFolder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A DNS client inside the pod.
struct PodClient(UdpClient);

impl PodClient {
    fn new(topology: &Topology) -> Self {
        Self(UdpClient::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap())
    }

    /// Asks for the IPv4 address of a service of `shop`. `None`: no reply within [`PATIENCE`], or
    /// an ICMP error.
    fn ask_for(&self, service: &str) -> Option<Vec<u8>> {
        self.ask(&format!("{service}.shop.svc.cluster.local"), A)
    }

    /// The reply to a question. `None`: no reply within [`PATIENCE`], or an ICMP error.
    fn ask(&self, name: &str, rtype: u16) -> Option<Vec<u8>> {
        let query = QueryPacket {
            id: rand::random(),
            ..QueryPacket::new(POD[0], SERVED[0], name, rtype)
        };
        self.0.send(&query.message()).unwrap();
        // Skips late replies to earlier queries.
        while let Some(reply) = self.0.receive(PATIENCE).ok().flatten() {
            if reply[..2] == query.id.to_be_bytes() {
                return Some(reply);
            }
        }
        None
    }

    /// As [`service_ttl`](PodClient::service_ttl), for `web`. Agents answer with a TTL of 5 s by
    /// default, and the stand-in with 77 s.
    fn web_ttl(&self) -> Option<u32> {
        self.service_ttl("web")
    }

    /// The TTL of the reply's last record, if that is an IPv4 address. For a denial the number has
    /// no meaning, and is not a TTL that the tests expect. `None`: no reply.
    fn service_ttl(&self, service: &str) -> Option<u32> {
        let reply = self.ask_for(service)?;
        // The message ends with the record's TTL, data length and IPv4 address.
        let at = reply.len() - 10;
        Some(u32::from_be_bytes([
            reply[at],
            reply[at + 1],
            reply[at + 2],
            reply[at + 3],
        ]))
    }

    /// The address in the answer for a service. `None`: no reply, or not one answer record.
    fn service_address(&self, service: &str) -> Option<[u8; 4]> {
        let reply = self.ask_for(service)?;
        // Byte 7 is the low byte of the number of answer records.
        (reply[7] == 1).then(|| reply[reply.len() - 4..].try_into().unwrap())
    }
}

/// The answer of the stand-in for the cluster's DNS: 10.96.1.1 with a TTL of 77.
fn stand_in_reply(query: &[u8]) -> Option<Vec<u8>> {
    // QR, AA and RD.
    packet::address_reply(query, 0x8500, 77, Ipv4Addr::new(10, 96, 1, 1))
}
