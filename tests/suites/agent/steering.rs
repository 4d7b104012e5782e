//! Steering by the agent's binary: questions of a pod that the kernel passes come to the agent's
//! resolver while it works, and go to the cluster's DNS otherwise.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_tests::{
    agent::{AgentProcess, LIMIT},
    topology::Topology,
    udp::{UdpClient, UdpServer, eventually},
    upstream::{self, UpstreamName},
};

use super::{
    A, ManifestFolder, PATIENCE, SHORT_LEASE, WEB,
    network_policy::{ALLOW, CLIENT, CLUSTER, DENY},
    start_agent,
    thread_capabilities::permitted_capabilities,
    with_dns_port,
};

/// A node with the stand-in for the cluster's DNS, a server outside the cluster, and an agent that
/// steers.
struct SteeredNode {
    agent: AgentProcess,
    topology: Topology,
    manifests: ManifestFolder,
    servers: Vec<UdpServer>,
}

/// Who answered a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DnsSource {
    /// The agent's resolver, with the answer of the server outside.
    Agent,
    /// The stand-in for the cluster's DNS.
    ClusterDns,
    Nothing,
}

/// The server outside the cluster.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), 53);
/// A name outside the cluster, as the server outside and as the stand-in answer it.
const NAME: &str = "www.example.com";
const FROM_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FROM_CLUSTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The longest time from the stop of an agent to the answers of the cluster's DNS.
/// On a quiet machine it is 1.5 s, which `cargo xtask faults` checks.
const HANDOVER_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn both_protocols_and_families_are_steered_in_each_shape() {
    for topology in [Topology::routed(), Topology::bridged()] {
        let node = SteeredNode::start(topology.unwrap(), &[]);
        for served in SERVED {
            node.wait_for(served, DnsSource::Agent);
            assert_eq!(node.ask_by_tcp(served), DnsSource::Agent, "{served}");
        }
        let status = node.agent.status().unwrap();
        assert!(
            status.contains("steering   queries that the kernel passes come"),
            "{status}"
        );
        // Names of the cluster are still answered by the kernel.
        let client = UdpClient::new(&node.topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap();
        let web = question("web.shop.svc.cluster.local");
        assert!(client.ask(&web, LIMIT).unwrap().is_some());
    }
}

#[test]
fn a_stopped_agent_loses_the_questions_to_the_clusters_dns() {
    let node = SteeredNode::start(Topology::routed().unwrap(), &[SHORT_LEASE]);
    for _ in 0..3 {
        node.wait_for(SERVED[0], DnsSource::Agent);
        node.agent.send_signal(Signal::SIGSTOP).unwrap();
        let stopped = Instant::now();
        while node.try_ask(SERVED[0]) != DnsSource::ClusterDns {
            assert!(stopped.elapsed() < LIMIT, "there is no answer");
        }
        let lasted = stopped.elapsed();
        // It stays there.
        assert_eq!(node.ask(SERVED[0]), DnsSource::ClusterDns);
        node.agent.send_signal(Signal::SIGCONT).unwrap();
        assert!(
            lasted < HANDOVER_LIMIT,
            "there was no answer for {lasted:?}"
        );
    }
}

#[test]
fn a_killed_agent_loses_no_later_question() {
    let mut node = SteeredNode::start(Topology::routed().unwrap(), &[]);
    for served in SERVED {
        node.wait_for(served, DnsSource::Agent);
    }
    node.agent.end_by(Signal::SIGKILL).unwrap();
    for served in SERVED {
        assert_eq!(node.ask(served), DnsSource::ClusterDns, "{served}");
    }
    // The namespaces and their devices go with the process.
    let gone = || Ok(node.topology.node.index("zh23112").is_err());
    assert!(eventually(LIMIT, gone).unwrap());
}

/// A policy decides about each protocol by itself, and a denial ends connections.
#[test]
fn policies_decide_about_each_protocol() {
    let dns = CLUSTER.replace(
        "ports: [{name: dns, port: 53, protocol: UDP}]",
        "ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]",
    );
    let allow_both = ALLOW.replace(
        "ports: [{port: 53, protocol: UDP}]",
        "ports: [{port: 53, protocol: UDP}, {port: 53}]",
    );
    let objects = |policies: &str| format!("{WEB}---{dns}{CLIENT}{policies}");
    let all = objects(&format!("{DENY}{allow_both}"));
    let node = SteeredNode::start_with(Topology::routed().unwrap(), &all, &[]);
    let served = SERVED[0];
    node.wait_for(served, DnsSource::Agent);
    let mut stream = node
        .topology
        .pod
        .enter(|| open_stream(served))
        .unwrap()
        .unwrap();
    assert_eq!(ask_on(&mut stream).unwrap(), DnsSource::Agent);

    let only_udp = objects(&format!("{DENY}{ALLOW}"));
    node.manifests.write(&only_udp);
    // The agent closes the connection.
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut end = [0];
    assert_eq!(stream.read(&mut end).unwrap(), 0, "the connection goes on");
    // No server stands for the cluster's DNS over TCP.
    assert_eq!(node.ask_by_tcp(served), DnsSource::Nothing);
    assert_eq!(node.ask(served), DnsSource::Agent);

    node.manifests.write(&objects(DENY));
    node.wait_for(served, DnsSource::ClusterDns);
    assert_eq!(node.ask_by_tcp(served), DnsSource::Nothing);

    node.manifests.write(&all);
    node.wait_for(served, DnsSource::Agent);
    let by_tcp = || Ok(node.ask_by_tcp(served) == DnsSource::Agent);
    assert!(eventually(LIMIT, by_tcp).unwrap());
}

#[test]
fn nothing_is_steered_while_a_policy_restricts_the_egress_of_the_clusters_dns() {
    let closed = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dns-egress, namespace: kube-system}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}
---
";
    let objects = format!("{WEB}---{CLUSTER}{CLIENT}");
    let node = SteeredNode::start_with(Topology::routed().unwrap(), &objects, &[]);
    node.wait_for(SERVED[0], DnsSource::Agent);
    node.manifests.write(&format!("{objects}{closed}"));
    node.wait_for(SERVED[0], DnsSource::ClusterDns);
    let status = node.agent.status().unwrap();
    assert!(
        status.contains("steering   queries that the kernel passes go to"),
        "{status}"
    );
    node.manifests.write(&objects);
    node.wait_for(SERVED[0], DnsSource::Agent);
}

/// The agent's upstreams may be out of its reach, and not out of CoreDNS's.
#[test]
fn nothing_is_steered_while_upstreams_are_silent() {
    let mut node = SteeredNode::start(Topology::routed().unwrap(), &[]);
    node.wait_for(SERVED[0], DnsSource::Agent);
    // Drops the server outside.
    let outside = node.servers.pop().unwrap();
    assert_eq!(outside.address(), OUTSIDE);
    drop(outside);
    node.wait_for(SERVED[0], DnsSource::ClusterDns);
    let status = node.agent.status().unwrap();
    assert!(
        status.contains("don't answer this agent"),
        "the status gives another reason: {status}"
    );
    let known = UpstreamName {
        name: NAME,
        address: FROM_OUTSIDE,
    };
    let outside = upstream::start(&node.topology.node, OUTSIDE, known).unwrap();
    node.servers.push(outside);
    node.wait_for(SERVED[0], DnsSource::Agent);
}

#[test]
fn an_agent_that_ends_leaves_nothing() {
    let mut node = SteeredNode::start(Topology::routed().unwrap(), &[]);
    node.wait_for(SERVED[0], DnsSource::Agent);
    let status = node.agent.end_by(Signal::SIGTERM).unwrap();
    assert!(status.success(), "the agent ended with {status}");
    assert_eq!(node.ask(SERVED[0]), DnsSource::ClusterDns);
    let gone = || Ok(node.topology.node.index("zh23112").is_err());
    assert!(eventually(LIMIT, gone).unwrap());
}

#[test]
fn no_thread_of_an_agent_can_administer_the_system() {
    let node = SteeredNode::start(Topology::routed().unwrap(), &[]);
    node.wait_for(SERVED[0], DnsSource::Agent);
    // It can't steer, because it has no upstreams.
    let other = start_agent(&node.topology.node, &node.manifests, &[]);
    for agent in [&node.agent, &other] {
        check_capabilities(&permitted_capabilities(agent.process_id()));
    }
}

fn check_capabilities(threads: &BTreeMap<String, Vec<u64>>) {
    const SYS_ADMIN: u64 = 1 << 21;
    for (name, permitted) in threads {
        assert!(
            permitted.iter().all(|set| set & SYS_ADMIN == 0),
            "{name}: {permitted:x?}"
        );
    }
}

impl SteeredNode {
    /// Starts the servers and an agent with these flags besides.
    fn start(topology: Topology, flags: &[&str]) -> SteeredNode {
        SteeredNode::start_with(topology, WEB, flags)
    }

    /// As [`SteeredNode::start`], with these objects.
    fn start_with(topology: Topology, objects: &str, flags: &[&str]) -> SteeredNode {
        topology.assign_served_addresses().unwrap();
        let answer = |address| UpstreamName {
            name: NAME,
            address,
        };
        let mut servers = Vec::from(SERVED.map(|served| {
            let served = SocketAddr::new(served, 53);
            upstream::start(&topology.node, served, answer(FROM_CLUSTER)).unwrap()
        }));
        servers.push(upstream::start(&topology.node, OUTSIDE, answer(FROM_OUTSIDE)).unwrap());
        let manifests = ManifestFolder::new(objects);
        let upstream = format!("--upstream={OUTSIDE}");
        let flags = [&["--steer=auto", &*upstream], flags].concat();
        let agent = start_agent(&topology.node, &manifests, &flags);
        SteeredNode {
            agent,
            topology,
            manifests,
            servers,
        }
    }

    /// Waits until this one answers.
    fn wait_for(&self, served: IpAddr, expected: DnsSource) {
        let answers = || Ok(self.try_ask(served) == expected);
        assert!(
            eventually(LIMIT, answers).unwrap(),
            "{served}: {expected:?} never answers"
        );
    }

    /// Asks for [`NAME`] over UDP until there is an answer.
    fn ask(&self, served: IpAddr) -> DnsSource {
        let mut source = DnsSource::Nothing;
        let is_answered = || {
            source = self.try_ask(served);
            Ok(source != DnsSource::Nothing)
        };
        assert!(
            eventually(LIMIT, is_answered).unwrap(),
            "there is no answer"
        );
        source
    }

    /// Asks once. [`DnsSource::Nothing`]: no answer within [`PATIENCE`].
    fn try_ask(&self, served: IpAddr) -> DnsSource {
        let client = UdpClient::new(&self.topology.pod, SocketAddr::new(served, 53)).unwrap();
        let reply = client.ask(&question(NAME), PATIENCE).unwrap();
        reply.map_or(DnsSource::Nothing, |reply| DnsSource::of(&reply))
    }

    /// Asks for [`NAME`] over TCP. [`DnsSource::Nothing`]: there is no connection.
    fn ask_by_tcp(&self, served: IpAddr) -> DnsSource {
        let ask = || match open_stream(served) {
            Ok(mut stream) => ask_on(&mut stream).unwrap(),
            Err(_) => DnsSource::Nothing,
        };
        self.topology.pod.enter(ask).unwrap()
    }
}

/// Opens a connection from the calling thread's network namespace.
fn open_stream(served: IpAddr) -> io::Result<TcpStream> {
    TcpStream::connect(with_dns_port(served))
}

/// Asks for [`NAME`] on a connection.
fn ask_on(stream: &mut TcpStream) -> io::Result<DnsSource> {
    let message = question(NAME);
    let length = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&length[..], &message].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    Ok(DnsSource::of(&reply))
}

impl DnsSource {
    fn of(reply: &[u8]) -> DnsSource {
        let ends_with = |address: Ipv4Addr| reply.ends_with(&address.octets());
        match (ends_with(FROM_OUTSIDE), ends_with(FROM_CLUSTER)) {
            (true, _) => DnsSource::Agent,
            (_, true) => DnsSource::ClusterDns,
            _ => panic!("an unexpected reply: {reply:02x?}"),
        }
    }
}

/// A question for an IPv4 address.
fn question(name: &str) -> Vec<u8> {
    QueryPacket::new(POD[0], SERVED[0], name, A).message()
}
