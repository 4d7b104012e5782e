//! Agents that come after each other: what stays on the node, and what is answered meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use zerohop_tests::{netns::Namespace, udp::eventually};

use super::{Agent, LIMIT, Manifests, Pod, SHORT_LEASE, WEB, binary, node::Node};

#[test]
fn a_killed_agent_is_replaced_without_a_gap() {
    let node = Node::new(WEB);
    // However long a new one takes to start.
    let long = &["--stale-after=60s"];
    let mut agent = node.persisting(long);
    assert!(node.is_left());
    let asked = while_asking(&node.pod, || {
        for _ in 0..3 {
            agent.end(Signal::SIGKILL);
            agent = node.persisting(long);
        }
    });
    assert!(asked > 100, "{asked}");
}

#[test]
fn a_stopped_agent_is_replaced_without_a_gap() {
    let node = Node::new(WEB);
    // Tables of other sizes, and so on: whatever another version does.
    let versions = [
        ["--capacity=20000", "--stale-after=2s"],
        ["--capacity=200000", "--stale-after=10s"],
    ];
    let start = |version: usize| {
        let [capacity, stale_after] = versions[version % 2];
        node.persisting(&[capacity, stale_after])
    };
    let mut agent = start(0);
    let pod = Pod::new(&node.topology);
    let asked = while_asking(&node.pod, || {
        for version in 1..4 {
            agent.end(Signal::SIGTERM);
            // Longer than the lease while it ran.
            let stopped = Instant::now();
            while stopped.elapsed() < Duration::from_secs(3) {
                assert_eq!(pod.ttl(), Some(5));
            }
            agent = start(version);
        }
    });
    assert!(asked > 100, "{asked}");
}

#[test]
fn an_agent_that_does_not_persist_takes_off_what_is_left() {
    let node = Node::new(WEB);
    let mut agent = node.persisting(&[]);
    agent.end(Signal::SIGTERM);
    assert!(node.is_left());
    assert_eq!(node.pod.ttl(), Some(5));

    let mut agent = node.agent(&[]);
    assert_eq!(node.pod.ttl(), Some(5));
    agent.end(Signal::SIGTERM);
    assert_eq!(node.pod.ttl(), None);
    assert!(!node.is_left());
}

/// With other settings; an agent before may have left a link or a filter.
#[test]
fn an_agent_takes_off_what_is_not_wanted_any_more() {
    let node = Node::new(WEB);
    let mut agent = node.persisting(&[]);
    agent.end(Signal::SIGTERM);
    assert_eq!(node.pod.ttl(), Some(5));
    let mut command = node.command_at("another", &binary(), &node.manifests);
    command.arg("--persist");
    let _agent = Agent::follow(command);
    // What was left would answer for longer.
    assert_eq!(node.pod.ttl(), None);
}

#[test]
fn a_second_agent_waits() {
    let node = Node::new(WEB);
    let mut first = node.persisting(&[]);
    let others = Manifests::new(&WEB.replace("10.96.1.1", "10.96.1.2"));
    let second = node.agent_with(&others, &["--persist"]);
    let said = second.status(&node.topology.node);
    assert!(
        said.contains("another agent has the hooks of this node"),
        "{said}"
    );
    assert_eq!(node.pod.address("web"), Some([10, 96, 1, 1]));

    first.end(Signal::SIGTERM);
    let is_second = || Ok(node.pod.address("web") == Some([10, 96, 1, 2]));
    assert!(eventually(LIMIT, is_second).unwrap());
}

#[test]
fn detach_takes_off_what_is_left() {
    let node = Node::new(WEB);
    let mut agent = node.persisting(&[]);
    let (succeeded, said) = node.detach();
    assert!(!succeeded && said.contains("an agent is running"), "{said}");

    agent.end(Signal::SIGKILL);
    assert_eq!(node.pod.ttl(), Some(5));
    let (succeeded, said) = node.detach();
    assert!(succeeded && said.contains("taken off: "), "{said}");
    assert_eq!(node.pod.ttl(), None);
    assert!(!node.is_left());
    let (succeeded, said) = node.detach();
    assert!(succeeded && said.contains("nothing of ours"), "{said}");
}

#[test]
fn hooks_of_a_killed_agent_go_with_their_lease() {
    let node = Node::new(WEB);
    let mut agent = node.persisting(&[SHORT_LEASE]);
    assert_eq!(node.pod.ttl(), Some(5));
    agent.end(Signal::SIGKILL);
    assert!(eventually(LIMIT, || Ok(node.pod.ttl().is_none())).unwrap());
    let (succeeded, said) = node.detach();
    assert!(succeeded, "{said}");
}

#[test]
fn pods_are_answered_as_they_come_and_forgotten_as_they_go() {
    let node = Node::new(WEB);
    let agent = node.persisting(&["--interface=pods"]);
    let is_attached = |name: &str| Ok(agent.status(&node.topology.node).contains(name));
    for round in 0..5 {
        let late = Namespace::new("late").unwrap();
        let pair = format!(
            "link add veth-late{round} type veth peer name eth0 netns {}",
            late.name()
        );
        let start = Instant::now();
        node.topology.node.ip(&[&pair]).unwrap();
        assert!(eventually(LIMIT, || is_attached("veth-late")).unwrap());
        println!("attached {:?} after `ip` was started", start.elapsed());
        drop(late);
        assert!(eventually(LIMIT, || Ok(!is_attached("veth-late")?)).unwrap());
    }
    assert_eq!(node.pod.ttl(), Some(5));
}

/// Asks all the time while something is done, and wants every question answered. How many there were.
fn while_asking(pod: &Pod, act: impl FnOnce()) -> usize {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !is_done.load(Ordering::Relaxed) {
                assert_eq!(pod.ttl(), Some(5), "after {asked} questions");
                asked += 1;
            }
            asked
        });
        // Also when acting fails: else the scope waits for ever.
        let _done = Done(&is_done);
        act();
        drop(_done);
        asking.join().unwrap()
    })
}

struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Node {
    fn persisting(&self, more: &[&str]) -> Agent {
        self.agent(&[&["--persist"], more].concat())
    }

    /// Whether anything is on the node, or may be.
    fn is_left(&self) -> bool {
        let bpffs = self.bpffs.path();
        let inside = || dns_agent::datapath::pins::are_there(bpffs);
        self.topology.node.enter(inside).unwrap()
    }

    /// Runs `dns-agent detach`: whether it succeeded, and what it said.
    fn detach(&self) -> (bool, String) {
        let program = binary();
        let mut command = self
            .topology
            .node
            .command(program.to_str().unwrap())
            .unwrap();
        let command = command.arg("detach").arg("--bpffs").arg(self.bpffs.path());
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }
}
