//! The agent's own binary, as an operator runs it.

mod api;
mod check;
mod dns_path;
mod faults;
mod life;
mod node;
mod numbers;
mod others;
mod policy;
mod threads;

use std::{
    cell::RefCell,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use zerohop_tests::{
    netns::Namespace,
    packet::Query,
    topology::{HOST_VETH, POD, SERVED, Topology},
    udp::{Client, Server, eventually},
};

/// How long anything may take. Alone on two cores the slowest, 20,000 services that are new to the tables, takes some
/// 4 s; beside ten busy processes it took 33 s, and beside other tests more than a minute.
const LIMIT: Duration = Duration::from_secs(300);
/// How long to wait for an answer that may not come.
const PATIENCE: Duration = Duration::from_millis(100);
const STALE_AFTER: Duration = Duration::from_secs(2);
const SHORT_LEASE: &str = "--stale-after=2s";

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1], ports: [{name: http, port: 80, protocol: TCP}]}
";

#[test]
fn a_stopped_agent_answers_until_its_lease_ends() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let agent = Agent::start(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    assert_eq!(pod.ttl(), Some(5));

    agent.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    // Nobody has a socket on the served address: the answers are the kernel's.
    while pod.ttl().is_some() {
        assert!(stopped.elapsed() < LIMIT, "still answered");
    }
    let lasted = stopped.elapsed();
    // The lease was renewed at most half a second before the stop.
    let shortest = STALE_AFTER - Duration::from_secs(1);
    let longest = STALE_AFTER + Duration::from_secs(1);
    assert!((shortest..longest).contains(&lasted), "{lasted:?}");

    topology.assign_served().unwrap();
    let _stand_in = Server::start(&topology.node, SocketAddr::new(SERVED[0], 53), |query| {
        Some(stand_in(query))
    })
    .unwrap();
    assert_eq!(pod.ttl(), Some(77));
    assert_eq!(pod.ttl(), Some(77));

    agent.signal(Signal::SIGCONT);
    assert!(eventually(LIMIT, || Ok(pod.ttl() == Some(5))).unwrap());
}

#[test]
fn sigterm_takes_everything_off() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let mut agent = Agent::start(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    assert_eq!(pod.ttl(), Some(5));
    agent.signal(Signal::SIGTERM);
    let status = agent.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(pod.ttl(), None);
}

#[test]
fn changed_manifests_are_served_and_broken_ones_change_nothing() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let agent = Agent::start(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    assert_eq!(pod.address("web"), Some([10, 96, 1, 1]));

    manifests.write(&WEB.replace("10.96.1.1", "10.96.1.2"));
    let changed = || Ok(pod.address("web") == Some([10, 96, 1, 2]));
    assert!(eventually(LIMIT, changed).unwrap());

    manifests.write(&format!("{WEB}---\nkind: [\n"));
    let line = agent.line_with("zerohop.yaml");
    assert!(line.contains("ERROR") && line.contains(":7:"), "{line}");
    assert_eq!(pod.address("web"), Some([10, 96, 1, 2]));

    manifests.write(&WEB.replace("web", "shop"));
    let changed = || Ok(pod.address("shop") == Some([10, 96, 1, 1]));
    assert!(eventually(LIMIT, changed).unwrap());
    // What is gone goes after what came.
    let gone = || Ok(pod.ask("web").is_some_and(|reply| reply[3] & 15 == 3));
    assert!(eventually(LIMIT, gone).unwrap());
}

#[test]
fn manifests_that_always_change_do_not_starve_the_lease() {
    let topology = Topology::routed().unwrap();
    let manifests = Manifests::new(WEB);
    let _agent = Agent::start(&topology.node, &manifests, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    let end = Instant::now() + 3 * STALE_AFTER;
    let mut last = 2;
    while Instant::now() < end {
        last = last % 250 + 1;
        manifests.write(&WEB.replace("10.96.1.1", &format!("10.96.1.{last}")));
        let changed = || Ok(pod.address("web") == Some([10, 96, 1, last]));
        assert!(
            eventually(LIMIT, changed).unwrap(),
            "{last} was never served"
        );
    }
}

#[test]
fn what_there_is_no_room_for_is_told_with_its_bound() {
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
    let manifests = Manifests::new(&headless(200));
    let domain = format!("--cluster-domain={}.test", "a".repeat(58));
    let agent = Agent::start(&topology.node, &manifests, &[&domain]);
    let status = || agent.status(&topology.node);
    let said = status();
    let answers = "names have answers that their records can't hold";
    assert!(said.contains(answers), "{said}");
    assert!(said.contains("suffixes of up to 64"), "{said}");
    assert!(!said.contains("degraded"), "{said}");

    manifests.write(&headless(2));
    assert!(eventually(LIMIT, || Ok(!status().contains(answers))).unwrap());
    assert!(status().contains("suffixes of up to 64"));
}

#[test]
fn a_card_is_refused_without_allowed_clients() {
    let node = Namespace::new("node").unwrap();
    node.ip(&["link add card type bridge", "link set card up"])
        .unwrap();
    let manifests = Manifests::new(WEB);
    let output = Agent::command(&node, &manifests)
        .args(["--interface", "card"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--allow"), "{error}");
}

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    /// Where its admin endpoints listen.
    pub(crate) admin: String,
    lines: std::sync::mpsc::Receiver<String>,
    /// What it said before it said that it had started.
    early: RefCell<Vec<String>>,
}

/// Where an agent's objects come from.
pub(crate) trait Source {
    /// The flags that say so.
    fn arguments(&self) -> Vec<String>;
}

impl Agent {
    /// Starts the agent on the node's host veth and waits until it is ready.
    pub(crate) fn start(node: &Namespace, source: &impl Source, more: &[&str]) -> Self {
        let host_veth = ["--interface", HOST_VETH];
        Self::start_anywhere(node, source, &[&host_veth, more].concat())
    }

    /// The same, on no interface that is not asked for.
    fn start_anywhere(node: &Namespace, source: &impl Source, arguments: &[&str]) -> Self {
        let mut command = Self::command(node, source);
        command.args(arguments);
        Self::follow(command)
    }

    /// Starts an agent and waits until it says that it has.
    fn follow(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("{line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut agent = Self {
            child,
            admin: String::new(),
            lines,
            early: RefCell::default(),
        };
        let (started, early) = agent.lines_up_to("started");
        agent.early = RefCell::new(early);
        let (_, admin) = started.split_once("admin=").unwrap();
        agent.admin = admin.to_owned();
        agent
    }

    fn command(node: &Namespace, source: &impl Source) -> Command {
        Self::command_of(&binary(), node, source)
    }

    /// The same of any build.
    fn command_of(program: &Path, node: &Namespace, source: &impl Source) -> Command {
        let mut command = node.command(program.to_str().unwrap()).unwrap();
        command
            .arg("run")
            .args(source.arguments())
            .args(["--admin", "127.0.0.1:0"]);
        command
    }

    /// What `dns-agent status` says of it, on its node.
    fn status(&self, node: &Namespace) -> String {
        let mut command = node.command(binary().to_str().unwrap()).unwrap();
        let output = command.args(["status", "--admin", &self.admin]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// Waits for a line of the log, which may have come before the one that says that it has started.
    fn line_with(&self, text: &str) -> String {
        let mut early = self.early.borrow_mut();
        if let Some(at) = early.iter().position(|line| line.contains(text)) {
            return early.remove(at);
        }
        self.lines_up_to(text).0
    }

    /// Waits for a line of the log; and those before it.
    fn lines_up_to(&self, text: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(text) => return (line, before),
                Ok(line) => before.push(line),
                Err(error) => panic!("the agent never said {text:?}: {error}"),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Sends a signal that ends it, and waits until it has.
    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn serve(address: std::net::IpAddr) -> String {
    SocketAddr::new(address, 53).to_string()
}

/// The agent's binary, beside the test's own: `cargo xtask test` builds it.
pub(crate) fn binary() -> PathBuf {
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

/// A file of manifests in a folder of its own.
pub(crate) struct Manifests(PathBuf);

impl Manifests {
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

    /// Replaces the file as careful programs do.
    fn write(&self, text: &str) {
        let aside = self.0.join("new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.0.join("zerohop.yaml")).unwrap();
    }
}

impl Source for Manifests {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--manifests".to_owned(), self.0.display().to_string()];
        for address in SERVED {
            arguments.extend(["--serve".to_owned(), serve(address)]);
        }
        arguments
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Asks from inside the pod.
struct Pod(Client);

impl Pod {
    fn new(topology: &Topology) -> Self {
        Self(Client::new(&topology.pod, SocketAddr::new(SERVED[0], 53)).unwrap())
    }

    fn ask(&self, service: &str) -> Option<Vec<u8>> {
        let name = format!("{service}.shop.svc.cluster.local");
        let query = Query {
            id: rand::random(),
            ..Query::new(POD[0], SERVED[0], &name, 1)
        };
        self.0.send(&query.message()).unwrap();
        // Answers to earlier questions may come late.
        while let Some(reply) = self.0.receive(PATIENCE).ok().flatten() {
            if reply[..2] == query.id.to_be_bytes() {
                return Some(reply);
            }
        }
        None
    }

    /// The TTL of the answer.
    fn ttl(&self) -> Option<u32> {
        self.ttl_of("web")
    }

    fn ttl_of(&self, service: &str) -> Option<u32> {
        let reply = self.ask(service)?;
        let at = reply.len() - 10;
        Some(u32::from_be_bytes([
            reply[at],
            reply[at + 1],
            reply[at + 2],
            reply[at + 3],
        ]))
    }

    /// The address in the answer.
    fn address(&self, service: &str) -> Option<[u8; 4]> {
        let reply = self.ask(service)?;
        (reply[7] == 1).then(|| reply[reply.len() - 4..].try_into().unwrap())
    }
}

/// Another DNS server's answer: 10.96.1.1 with a TTL of 77.
fn stand_in(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x84;
    reply[7] = 1;
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 77, 0, 4, 10, 96, 1, 1]);
    reply
}
