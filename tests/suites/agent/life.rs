//! Agents that come after each other: what stays on the node, and what is answered meanwhile.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
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
fn pins_that_are_removed_are_made_again() {
    let node = Node::new(WEB);
    let mut agent = node.persisting(&["--stale-after=60s"]);
    // Filters of kernels before tcx need none.
    let pins = node.pins().unwrap();
    for pin in &pins {
        fs::remove_file(pin).unwrap();
    }
    let are_there = || Ok(node.pins().is_ok_and(|there| there == pins));
    assert!(eventually(LIMIT, are_there).unwrap());
    fs::remove_dir_all(node.bpffs.path().join("zerohop")).unwrap();
    assert!(eventually(LIMIT, are_there).unwrap());
    let said = agent.status(&node.topology.node);
    assert!(!said.contains("degraded"), "{said}");

    // They hold the hooks, as those before did.
    let asked = while_asking(&node.pod, || {
        agent.end(Signal::SIGKILL);
        agent = node.persisting(&["--stale-after=60s"]);
    });
    assert!(asked > 0);
}

#[test]
fn pins_that_can_not_be_made_again_are_told() {
    let node = Node::new(WEB);
    let agent = node.persisting(&[]);
    node.bpffs.unmount().unwrap();
    let is_told = || {
        let said = agent.status(&node.topology.node);
        Ok(said.contains("pins are gone") && !said.contains("outlives true"))
    };
    // A filter of a kernel before tcx outlives the agent all the same.
    let has_pins =
        aya::util::KernelVersion::current().unwrap() >= aya::util::KernelVersion::new(6, 6, 0);
    if has_pins {
        assert!(eventually(LIMIT, is_told).unwrap());
    }
    assert_eq!(node.pod.ttl(), Some(5));
}

#[test]
fn only_its_owner_can_open_the_folder_of_the_pins() {
    let node = Node::new(WEB);
    let all = node.bpffs.path().join("zerohop");
    fs::create_dir(&all).unwrap();
    fs::set_permissions(&all, fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = node.persisting(&[]);
    let mode = |folder: &Path| fs::metadata(folder).unwrap().mode() & 0o7777;
    let own = node.pins_folder().unwrap();
    assert_eq!((mode(&all), mode(&own)), (0o700, 0o700));
    agent.end(Signal::SIGKILL);

    // An agent before made it otherwise.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = node.persisting(&[]);
    assert_eq!(mode(&own), 0o700);
    agent.end(Signal::SIGTERM);
}

#[test]
fn a_folder_of_another_user_is_not_trusted() {
    let node = Node::new(WEB);
    let folder = node.bpffs.path().join("zerohop");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(65534), Some(65534)).unwrap();
    let agent = node.persisting(&[]);
    assert_eq!(node.pod.ttl(), Some(5));
    let said = agent.status(&node.topology.node);
    assert!(said.contains("belongs to the user 65534"), "{said}");
    assert!(said.contains("rm -r"), "{said}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
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

    /// The folder of the pins of its network namespace.
    fn pins_folder(&self) -> io::Result<PathBuf> {
        let mut folders = fs::read_dir(self.bpffs.path().join("zerohop"))?;
        let folder = folders.next().ok_or(io::ErrorKind::NotFound)?;
        Ok(folder?.path())
    }

    /// What is pinned there.
    fn pins(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.pins_folder()?)?;
        let pins: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut pins = pins?;
        pins.sort();
        Ok(pins)
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
