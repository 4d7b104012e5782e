//! What may happen to a node's agent, while a pod looks names up: nothing it hears may be wrong, and
//! it always hears something, from the kernel or from the cluster's own DNS behind it.
//!
//! `cargo xtask faults` runs these at their full length and prints what was counted.

mod cgroup;
mod clock;
mod dns;
mod load;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use aya::programs::{LinkOrder, TcAttachType};
use nix::sys::signal::Signal;
use rand::RngExt as _;
use serde_json::json;
use zerohop_tests::{
    bpffs::Bpffs,
    foreign::Foreign,
    netns::Namespace,
    topology::{HOST_VETH, Topology},
    udp::{Client, Server, eventually},
};

use self::{
    cgroup::Cgroup,
    load::{Load, Mix, Tally},
};
use super::{Agent, LIMIT, Manifests, Pod, Source, api::server::Api, binary};

/// A node with a pod, its cluster's DNS, and whatever the agent needs.
struct Node {
    /// First, so that it ends while there is a namespace.
    dns: Option<Server>,
    topology: Topology,
    bpffs: Bpffs,
    manifests: Manifests,
    pod: Pod,
}

#[test]
fn killed() {
    let node = Node::new();
    let mut agent = node.agent(&[]);
    let tally = node.during("kill -9, after the lease a new agent", Mix::All, || {
        agent.end(Signal::SIGKILL);
        node.until_passed();
        agent = node.agent(&[]);
        node.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn stopped() {
    let node = Node::new();
    let agent = node.agent(&[]);
    let what = format!("SIGSTOP for {:?}", pause());
    let tally = node.during(&what, Mix::All, || {
        agent.signal(Signal::SIGSTOP);
        node.until_passed();
        thread::sleep(pause());
        agent.signal(Signal::SIGCONT);
        node.until_answered();
    });
    tally.assert_none_failed();
}

/// The kernel ends it for want of memory, and it is started again.
#[test]
fn out_of_memory() {
    let cgroup = match Cgroup::new() {
        Ok(cgroup) => cgroup,
        Err(error) => return println!("| OOM kill | not run: {error:#} |"),
    };
    let node = Node::new();
    let mut agent = node.agent(&[]);
    cgroup.add(agent.child.id()).unwrap();
    let tally = node.during("OOM kill, then a new agent", Mix::All, || {
        cgroup.shrink().unwrap();
        // Whatever makes it ask for memory.
        let mut more = 1000;
        let has_ended = || {
            more += 1;
            node.manifests.write(&dns::services(more));
            Ok(agent.child.try_wait()?.is_some())
        };
        assert!(eventually(LIMIT, has_ended).unwrap());
        assert_ne!(cgroup.kills().unwrap(), 0);
        agent = node.agent(&[]);
        node.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn crash_loop() {
    let node = Node::new();
    let mut agent = node.agent(&[]);
    let tally = node.during("20 crashes within half a second", Mix::All, || {
        agent.end(Signal::SIGKILL);
        for _ in 0..20 {
            let mut child = node.command(&binary(), &[]).spawn().unwrap();
            // In the middle of whatever it is doing.
            thread::sleep(Duration::from_millis(rand::rng().random_range(0..500)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        agent = node.agent(&[]);
        node.until_answered();
    });
    tally.assert_none_failed();
}

/// As a DaemonSet does it: the old one ends, then the new one starts. The other build's tables have
/// another layout, or at least another size.
#[test]
fn updated_and_rolled_back() {
    let node = Node::new();
    let other = env::var_os("ZEROHOP_OTHER_AGENT").map_or_else(binary, PathBuf::from);
    let mut agent = node.agent(&[]);
    let tally = node.during("update and rollback, 3 times", Mix::All, || {
        for _ in 0..3 {
            agent.end(Signal::SIGTERM);
            agent = Agent::follow(node.command(&other, &["--capacity=200000"]));
            node.until_answered();
            agent.end(Signal::SIGTERM);
            agent = node.agent(&[]);
            node.until_answered();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn api_server_down() {
    let node = Node::new();
    let mut api = node.api();
    let _agent = node.agent_with(&api, &[]);
    node.until_answered();
    let what = format!("API server down for {:?}", pause());
    let tally = node.during(&what, Mix::All, || {
        api.stop();
        thread::sleep(pause());
        api.resume(&node.topology.node);
        node.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn a_veth_comes_and_goes() {
    let node = Node::new();
    let agent = node.agent(&["--interface=pods"]);
    let is_attached = || Ok(agent.status(&node.topology.node).contains("veth-other"));
    let rounds = 100;
    let what = format!("a veth removed and added {rounds} times");
    let tally = node.during(&what, Mix::All, || {
        let other = Namespace::new("other").unwrap();
        let add = format!(
            "link add veth-other type veth peer name eth0 netns {}",
            other.name()
        );
        for _ in 0..rounds {
            node.topology.node.ip(&[&add]).unwrap();
            assert!(eventually(LIMIT, is_attached).unwrap());
            node.topology.node.ip(&["link delete veth-other"]).unwrap();
            assert!(eventually(LIMIT, || Ok(!is_attached()?)).unwrap());
        }
    });
    tally.assert_none_failed();
}

#[test]
fn two_hundred_veths() {
    let node = Node::new();
    let agent = node.agent(&["--interface=pods"]);
    let attached = || {
        let status = agent.status(&node.topology.node);
        status.matches("veth-many").count()
    };
    let tally = node.during("200 veths come and go", Mix::All, || {
        let other = Namespace::new("other").unwrap();
        let lines = |line: &dyn Fn(u8) -> String| (0..200).map(line).collect::<Vec<_>>();
        let add = lines(&|number| {
            format!(
                "link add veth-many{number} type veth peer name eth{number} netns {}",
                other.name()
            )
        });
        let delete = lines(&|number| format!("link delete veth-many{number}"));
        let ip = |lines: &[String]| {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            node.topology.node.ip(&lines).unwrap();
        };
        ip(&add);
        assert!(eventually(LIMIT, || Ok(attached() == 200)).unwrap());
        ip(&delete);
        assert!(eventually(LIMIT, || Ok(attached() == 0)).unwrap());
    });
    tally.assert_none_failed();
}

/// Its cluster's DNS gets what the kernel passes, with Zerohop as without: so only names of the
/// cluster are looked up meanwhile.
#[test]
fn malformed_packets() {
    let node = Node::new();
    let _agent = node.agent(&["--interface=pods"]);
    let flooding = node.topology.another_pod().unwrap();
    let packets = flood_size();
    let what = format!("another pod sends {packets} malformed packets");
    let tally = node.during(&what, Mix::OfTheCluster, || {
        let client = Client::new(&flooding, load::served()).unwrap();
        let mut random = rand::rng();
        for _ in 0..packets {
            // Whoever can't be reached says so by an error here.
            client.send(&dns::malformed(&mut random)).ok();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn other_programs_before_and_after() {
    let node = Node::new();
    let _agent = node.agent(&[]);
    let what = "programs of others before and after ours, 50 times";
    let tally = node.during(what, Mix::All, || {
        for round in 0..50 {
            let program = |name: &str| {
                Foreign::tc(name, &node.bpffs.path().join(format!("{name}{round}"))).unwrap()
            };
            let [mut before, mut after, mut filter] =
                ["before", "after", "accounting"].map(program);
            let attach = || {
                let at = TcAttachType::Ingress;
                filter.attach_filter(HOST_VETH, at).unwrap();
                // Where there is no tcx, the filters are all there is.
                before.attach_tcx(HOST_VETH, at, LinkOrder::first()).ok();
                after.attach_tcx(HOST_VETH, at, LinkOrder::last()).ok();
                node.until_answered();
                drop((before, after, filter));
            };
            node.topology.node.enter(attach).unwrap();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn cluster_dns_down() {
    let mut node = Node::new();
    let _agent = node.agent(&[]);
    node.dns = None;
    let what = format!("CoreDNS down for {:?}", pause());
    let tally = node.during(&what, Mix::OfTheCluster, || thread::sleep(pause()));
    tally.assert_none_failed();
    assert_eq!(tally.by_kernel, tally.asked);
}

/// Nothing is pinned any more: what the agent holds stays until it ends.
#[test]
fn bpffs_unmounted() {
    let node = Node::new();
    let mut agent = node.agent(&[]);
    let tally = node.during("bpffs unmounted, then kill -9", Mix::All, || {
        node.bpffs.unmount().unwrap();
        node.until_answered();
        agent.end(Signal::SIGKILL);
        node.until_passed();
        agent = node.agent(&[]);
        node.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn table_full() {
    let node = Node::new();
    let agent = node.agent(&["--capacity=100"]);
    let tally = node.during(
        "more services than --capacity has room for",
        Mix::All,
        || {
            let services = 20_000;
            node.manifests.write(&dns::services(services));
            let is_full = || {
                let status = agent.status(&node.topology.node);
                Ok(status.contains("the tables are full"))
            };
            assert!(eventually(3 * LIMIT, is_full).unwrap());
            let pod = Pod::new(&node.topology);
            for number in (0..services).step_by(97) {
                let name = format!("s{number}");
                assert_eq!(pod.address(&name), Some(dns::address(number)), "{name}");
            }
        },
    );
    tally.assert_none_failed();
}

/// Larger tables come in the place of those that nobody has said the size of.
#[test]
fn tables_grow() {
    let node = Node::new();
    let agent = node.agent(&[]);
    let tally = node.during(
        "more services than there is room for: the tables grow",
        Mix::All,
        || {
            let services = 20_000;
            node.manifests.write(&dns::services(services));
            agent.line_with("larger tables are in the place");
            let pod = Pod::new(&node.topology);
            let is_served = || Ok(pod.ttl_of(&format!("s{}", services - 1)) == Some(5));
            assert!(eventually(LIMIT, is_served).unwrap());
            for number in (0..services).step_by(97) {
                let name = format!("s{number}");
                assert_eq!(pod.address(&name), Some(dns::address(number)), "{name}");
                assert_eq!(pod.ttl_of(&name), Some(5), "{name}");
            }
            let status = agent.status(&node.topology.node);
            assert!(!status.contains("the tables are full"), "{status}");
        },
    );
    tally.assert_none_failed();
}

impl Node {
    fn new() -> Node {
        let topology = Topology::routed().unwrap();
        topology.assign_served().unwrap();
        let served = load::served();
        Node {
            dns: Some(Server::start(&topology.node, served, dns::reply).unwrap()),
            bpffs: Bpffs::new().unwrap(),
            manifests: Manifests::new(&dns::services(dns::LOOKED_UP)),
            pod: Pod::new(&topology),
            topology,
        }
    }

    /// An agent whose hooks outlive it.
    fn agent(&self, more: &[&str]) -> Agent {
        self.agent_with(&self.manifests, more)
    }

    fn agent_with(&self, source: &impl Source, more: &[&str]) -> Agent {
        let agent = Agent::follow(self.command_with(&binary(), source, more));
        self.until_answered();
        agent
    }

    fn command(&self, program: &Path, more: &[&str]) -> Command {
        self.command_with(program, &self.manifests, more)
    }

    fn command_with(&self, program: &Path, source: &impl Source, more: &[&str]) -> Command {
        let mut command = Agent::command_of(program, &self.topology.node, source);
        command
            .arg("--persist")
            .arg("--bpffs")
            .arg(self.bpffs.path());
        command
            .args(["--interface", HOST_VETH])
            .args(lease())
            .args(more);
        command
    }

    /// An API server with the same services.
    fn api(&self) -> Api {
        let api = super::api::cluster(&self.topology);
        for number in 0..dns::LOOKED_UP {
            let [a, b, c, d] = dns::address(number);
            let ports = json!([{"name": "http", "port": 80}]);
            let address = format!("{a}.{b}.{c}.{d}");
            let service = super::api::service("shop", &format!("s{number}"), &address, &ports);
            api.apply("services", service);
        }
        api
    }

    /// Looks names up while something is done, and wants no wrong answer.
    fn during(&self, what: &str, mix: Mix, act: impl FnOnce()) -> Tally {
        let load = Load::start(&self.topology.pod, mix);
        act();
        let tally = load.stop();
        println!("| {what} | {tally} |");
        assert!(tally.asked > 100, "{tally}");
        assert_eq!(tally.wrong, [""; 0]);
        tally
    }

    fn until_answered(&self) {
        let is_answered = || Ok(self.pod.ttl_of("s0") == Some(5));
        assert!(
            eventually(LIMIT, is_answered).unwrap(),
            "the kernel never answered"
        );
    }

    fn until_passed(&self) {
        let is_passed = || Ok(self.pod.ttl_of("s0") == Some(dns::STAND_IN_TTL));
        assert!(
            eventually(LIMIT, is_passed).unwrap(),
            "the kernel never passed"
        );
    }
}

/// Whether these run at the length that the documentation speaks of.
fn is_full() -> bool {
    env::var_os("ZEROHOP_FAULTS").is_some_and(|scale| scale == "full")
}

/// How long something is away: longer than the lease.
fn pause() -> Duration {
    Duration::from_secs(if is_full() { 60 } else { 4 })
}

fn lease() -> &'static [&'static str] {
    if is_full() {
        &[]
    } else {
        &[super::SHORT_LEASE]
    }
}

fn flood_size() -> usize {
    if is_full() { 5_000_000 } else { 200_000 }
}
