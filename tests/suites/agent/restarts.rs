//! Restarts of agents: which hooks stay on the node, and what they answer until the next agent
//! runs.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use zerohop_tests::{netns::NetworkNamespace, udp::eventually};

use super::{
    AgentProcess, LIMIT, ManifestFolder, PodClient, SHORT_LEASE, WEB, binary, node::TestNode,
};

#[test]
fn a_killed_agent_is_replaced_without_a_gap() {
    let node = TestNode::new(WEB);
    // This lease outlasts the start of the next agent.
    let long = &["--stale-after=300s"];
    let mut agent = node.start_persisting(long);
    assert!(node.has_hooks());
    let asked = while_asking(&node.pod, || {
        for _ in 0..3 {
            agent.end_by(Signal::SIGKILL).unwrap();
            agent = node.start_persisting(long);
        }
    });
    assert!(asked > 100, "only {asked} queries");
}

#[test]
fn a_stopped_agent_is_replaced_without_a_gap() {
    let node = TestNode::new(WEB);
    // Tables of another size and another lease stand for another version.
    let versions = [
        ["--capacity=20000", "--stale-after=2s"],
        ["--capacity=200000", "--stale-after=10s"],
    ];
    let start = |version: usize| {
        let [capacity, stale_after] = versions[version % 2];
        node.start_persisting(&[capacity, stale_after])
    };
    let mut agent = start(0);
    let pod = PodClient::new(&node.topology);
    let asked = while_asking(&node.pod, || {
        for version in 1..4 {
            agent.end_by(Signal::SIGTERM).unwrap();
            // Longer than the lease of 2 s: an agent that ends extends its lease.
            let stopped = Instant::now();
            while stopped.elapsed() < Duration::from_secs(3) {
                assert_eq!(pod.web_ttl(), Some(5));
            }
            agent = start(version);
        }
    });
    assert!(asked > 100, "only {asked} queries");
}

#[test]
fn an_agent_without_persist_detaches_hooks_that_it_finds() {
    let node = TestNode::new(WEB);
    let mut agent = node.start_persisting(&[]);
    agent.end_by(Signal::SIGTERM).unwrap();
    assert!(node.has_hooks());
    assert_eq!(node.pod.web_ttl(), Some(5));

    let mut agent = node.start_agent(&[]);
    assert_eq!(node.pod.web_ttl(), Some(5));
    agent.end_by(Signal::SIGTERM).unwrap();
    assert_eq!(node.pod.web_ttl(), None);
    assert!(!node.has_hooks());
}

/// The hook of the first agent is a tcx link, or before Linux 6.6 a filter.
#[test]
fn an_agent_detaches_hooks_of_interfaces_that_it_does_not_match() {
    let node = TestNode::new(WEB);
    let mut agent = node.start_persisting(&[]);
    agent.end_by(Signal::SIGTERM).unwrap();
    assert_eq!(node.pod.web_ttl(), Some(5));
    let mut command = node.command_on("another", &binary(), &node.manifests);
    command.arg("--persist");
    let _agent = AgentProcess::start(command).unwrap();
    // If the old hook were still attached, it would answer.
    assert_eq!(node.pod.web_ttl(), None);
}

#[test]
fn a_second_agent_waits() {
    let node = TestNode::new(WEB);
    let mut first = node.start_persisting(&[]);
    let others = ManifestFolder::new(&WEB.replace("10.96.1.1", "10.96.1.2"));
    let second = node.start_agent_from(&others, &["--persist"]);
    let output = second.status().unwrap();
    assert!(
        output.contains("another agent holds the hooks of this node"),
        "the second agent does not report that it waits: {output}"
    );
    assert_eq!(node.pod.service_address("web"), Some([10, 96, 1, 1]));

    first.end_by(Signal::SIGTERM).unwrap();
    let is_second = || Ok(node.pod.service_address("web") == Some([10, 96, 1, 2]));
    assert!(eventually(LIMIT, is_second).unwrap());
}

#[test]
fn detach_removes_hooks_without_an_agent() {
    let node = TestNode::new(WEB);
    let mut agent = node.start_persisting(&[]);
    let (succeeded, output) = node.run_detach();
    assert!(
        !succeeded && output.contains("a running agent owns the hooks"),
        "`detach` beside a running agent: {output}"
    );

    agent.end_by(Signal::SIGKILL).unwrap();
    assert_eq!(node.pod.web_ttl(), Some(5));
    let (succeeded, output) = node.run_detach();
    assert!(
        succeeded && output.contains("removed: "),
        "`detach` after the agent's end: {output}"
    );
    assert_eq!(node.pod.web_ttl(), None);
    assert!(!node.has_hooks());
    let (succeeded, output) = node.run_detach();
    assert!(
        succeeded && output.contains("no hook or pin of Zerohop"),
        "a second `detach`: {output}"
    );
}

#[test]
fn hooks_of_a_killed_agent_pass_after_their_lease() {
    let node = TestNode::new(WEB);
    let mut agent = node.start_persisting(&[SHORT_LEASE]);
    assert_eq!(node.pod.web_ttl(), Some(5));
    agent.end_by(Signal::SIGKILL).unwrap();
    assert!(eventually(LIMIT, || Ok(node.pod.web_ttl().is_none())).unwrap());
    let (succeeded, output) = node.run_detach();
    assert!(succeeded, "`detach` failed: {output}");
}

#[test]
fn removed_pins_are_created_again() {
    let node = TestNode::new(WEB);
    let mut agent = node.start_persisting(&["--stale-after=300s"]);
    // On kernels without tcx the hooks are filters, which need no pins.
    let pins = node.pins().unwrap();
    for pin in &pins {
        fs::remove_file(pin).unwrap();
    }
    let are_there = || Ok(node.pins().is_ok_and(|there| there == pins));
    assert!(eventually(LIMIT, are_there).unwrap());
    fs::remove_dir_all(node.bpffs.path().join("zerohop")).unwrap();
    assert!(eventually(LIMIT, are_there).unwrap());
    let output = agent.status().unwrap();
    assert!(
        !output.contains("degraded"),
        "the new pins count as degraded: {output}"
    );

    // The new pins keep the hooks attached, like the removed ones.
    let asked = while_asking(&node.pod, || {
        agent.end_by(Signal::SIGKILL).unwrap();
        agent = node.start_persisting(&["--stale-after=300s"]);
    });
    assert!(asked > 0, "no query was sent during the restart");
}

#[test]
fn pins_that_cannot_be_created_again_are_reported() {
    let node = TestNode::new(WEB);
    let agent = node.start_persisting(&[]);
    node.bpffs.unmount().unwrap();
    let is_reported = || {
        let output = agent.status().unwrap();
        Ok(output.contains("the pins of the hooks were removed")
            && !output.contains("outlives true"))
    };
    // On kernels without tcx the hook is a filter, which outlives the agent without a pin.
    let has_pins =
        aya::util::KernelVersion::current().unwrap() >= aya::util::KernelVersion::new(6, 6, 0);
    if has_pins {
        assert!(eventually(LIMIT, is_reported).unwrap());
    }
    assert_eq!(node.pod.web_ttl(), Some(5));
}

#[test]
fn only_the_owner_can_open_the_directory_of_the_pins() {
    let node = TestNode::new(WEB);
    let folder = node.bpffs.path().join("zerohop");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = node.start_persisting(&[]);
    let mode = |folder: &Path| fs::metadata(folder).unwrap().mode() & 0o7777;
    let pins_folder = node.pins_folder().unwrap();
    assert_eq!((mode(&folder), mode(&pins_folder)), (0o700, 0o700));
    agent.end_by(Signal::SIGKILL).unwrap();

    // An older agent may have created the directory with another mode.
    fs::set_permissions(&pins_folder, fs::Permissions::from_mode(0o755)).unwrap();
    let mut agent = node.start_persisting(&[]);
    assert_eq!(mode(&pins_folder), 0o700);
    agent.end_by(Signal::SIGTERM).unwrap();
}

#[test]
fn a_directory_of_another_user_is_not_trusted() {
    let node = TestNode::new(WEB);
    let folder = node.bpffs.path().join("zerohop");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(65534), Some(65534)).unwrap();
    let agent = node.start_persisting(&[]);
    assert_eq!(node.pod.web_ttl(), Some(5));
    let output = agent.status().unwrap();
    assert!(
        output.contains("belongs to the user 65534"),
        "the owner is not reported: {output}"
    );
    assert!(
        output.contains("rm -r"),
        "no command removes the directory: {output}"
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn veths_are_attached_when_created_and_forgotten_when_removed() {
    let node = TestNode::new(WEB);
    let agent = node.start_persisting(&["--interface=pods"]);
    let is_attached = |name: &str| Ok(agent.status().unwrap().contains(name));
    for round in 0..5 {
        let late = NetworkNamespace::new("late").unwrap();
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
    assert_eq!(node.pod.web_ttl(), Some(5));
}

/// Sends queries while `act` runs, and requires an answer to each. Returns the number of queries.
fn while_asking(pod: &PodClient, act: impl FnOnce()) -> usize {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !is_done.load(Ordering::Relaxed) {
                assert_eq!(pod.web_ttl(), Some(5), "after {asked} queries");
                asked += 1;
            }
            asked
        });
        // The flag is set even if `act` panics, because the scope waits for the asking thread.
        let done = SetWhenDropped(&is_done);
        act();
        drop(done);
        asking.join().unwrap()
    })
}

/// Sets the flag when dropped.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl TestNode {
    fn start_persisting(&self, flags: &[&str]) -> AgentProcess {
        self.start_agent(&[&["--persist"], flags].concat())
    }

    /// Whether the node may have an agent's hooks, that is, whether the directory of pins exists.
    fn has_hooks(&self) -> bool {
        let bpffs = self.bpffs.path();
        let inside = || zerohop_datapath::pins::folder_exists(bpffs);
        self.topology.node.enter(inside).unwrap()
    }

    /// The directory of the pins of the node's network namespace.
    fn pins_folder(&self) -> io::Result<PathBuf> {
        let mut folders = fs::read_dir(self.bpffs.path().join("zerohop"))?;
        let folder = folders.next().ok_or(io::ErrorKind::NotFound)?;
        Ok(folder?.path())
    }

    /// The paths of the pins, sorted.
    fn pins(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.pins_folder()?)?;
        let pins: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut pins = pins?;
        pins.sort();
        Ok(pins)
    }

    /// Runs `dns-agent detach`. Returns whether it succeeded, and its output.
    fn run_detach(&self) -> (bool, String) {
        let program = binary();
        let mut command = self
            .topology
            .node
            .command(program.to_str().unwrap())
            .unwrap();
        let command = command.arg("detach").arg("--bpffs").arg(self.bpffs.path());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }
}
