//! What may happen to a node's agent, while a pod looks names up: nothing it hears may be wrong, and
//! it always hears something, from the kernel or from the cluster's own DNS behind it.
//!
//! `cargo xtask faults` runs these at their full length and prints what was counted.

mod cgroup;
mod clock;
mod dns;
mod load;
mod tables;

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
    foreign::Foreign,
    netns::Namespace,
    topology::HOST_VETH,
    udp::{Client, Server, eventually},
};

use self::{
    cgroup::Cgroup,
    load::{Load, Mix, Tally},
};
use super::{Agent, LIMIT, Source, api::server::Api, binary, node::Node};

/// A node, and the cluster's DNS behind it.
struct Cluster {
    /// First, so that it ends while there is a namespace.
    dns: Option<Server>,
    node: Node,
}

#[test]
fn killed() {
    let cluster = Cluster::new();
    let mut agent = cluster.agent(&[]);
    let tally = cluster.during("kill -9, after the lease a new agent", Mix::All, || {
        agent.end(Signal::SIGKILL);
        cluster.until_passed();
        agent = cluster.agent(&[]);
        cluster.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn stopped() {
    let cluster = Cluster::new();
    let agent = cluster.agent(&[]);
    let what = format!("SIGSTOP for {:?}", pause());
    let tally = cluster.during(&what, Mix::All, || {
        agent.signal(Signal::SIGSTOP);
        cluster.until_passed();
        thread::sleep(pause());
        agent.signal(Signal::SIGCONT);
        cluster.until_answered();
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
    let cluster = Cluster::new();
    let mut agent = cluster.agent(&[]);
    cgroup.add(agent.child.id()).unwrap();
    let tally = cluster.during("OOM kill, then a new agent", Mix::All, || {
        cgroup.shrink().unwrap();
        // Whatever makes it ask for memory.
        let mut more = 1000;
        let has_ended = || {
            more += 1;
            cluster.node.manifests.write(&dns::services(more));
            Ok(agent.child.try_wait()?.is_some())
        };
        assert!(eventually(LIMIT, has_ended).unwrap());
        assert_ne!(cgroup.kills().unwrap(), 0);
        agent = cluster.agent(&[]);
        cluster.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn crash_loop() {
    let cluster = Cluster::new();
    let mut agent = cluster.agent(&[]);
    let tally = cluster.during(
        "20 crashes, each within half a second of its start",
        Mix::All,
        || {
            agent.end(Signal::SIGKILL);
            for _ in 0..20 {
                let mut child = cluster.command(&binary(), &[]).spawn().unwrap();
                // In the middle of whatever it is doing.
                thread::sleep(Duration::from_millis(rand::rng().random_range(0..500)));
                child.kill().unwrap();
                child.wait().unwrap();
            }
            agent = cluster.agent(&[]);
            cluster.until_answered();
        },
    );
    tally.assert_none_failed();
}

/// As a DaemonSet does it: the old one ends, then the new one starts. Without another build the new
/// one's tables have at least another size. What they answer tells them apart.
#[test]
fn updated_and_rolled_back() {
    let cluster = Cluster::new();
    let other = env::var_os("ZEROHOP_OTHER_AGENT");
    let what = match other {
        Some(_) => "update to another build and rollback, 3 times",
        None => "update to tables of another size and rollback, 3 times",
    };
    let other = other.map_or_else(binary, PathBuf::from);
    let mut agent = cluster.agent(&[]);
    let tally = cluster.during(what, Mix::All, || {
        for _ in 0..3 {
            agent.end(Signal::SIGTERM);
            agent = Agent::follow(cluster.command(&other, &["--capacity=200000", "--ttl=9"]));
            cluster.until_ttl(9);
            agent.end(Signal::SIGTERM);
            agent = cluster.agent(&[]);
            cluster.until_answered();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn api_server_down() {
    let cluster = Cluster::new();
    let mut api = cluster.api();
    let _agent = cluster.agent_with(&api, &[]);
    cluster.until_answered();
    let what = format!("API server down for {:?}", pause());
    let tally = cluster.during(&what, Mix::All, || {
        api.stop();
        thread::sleep(pause());
        api.resume(&cluster.node.topology.node);
        cluster.until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn a_veth_comes_and_goes() {
    let cluster = Cluster::new();
    let agent = cluster.agent(&["--interface=pods"]);
    let is_attached = || {
        Ok(agent
            .status(&cluster.node.topology.node)
            .contains("veth-other"))
    };
    let rounds = 100;
    let what = format!("a veth removed and added {rounds} times");
    let tally = cluster.during(&what, Mix::All, || {
        let other = Namespace::new("other").unwrap();
        let add = format!(
            "link add veth-other type veth peer name eth0 netns {}",
            other.name()
        );
        for _ in 0..rounds {
            cluster.node.topology.node.ip(&[&add]).unwrap();
            assert!(eventually(LIMIT, is_attached).unwrap());
            cluster
                .node
                .topology
                .node
                .ip(&["link delete veth-other"])
                .unwrap();
            assert!(eventually(LIMIT, || Ok(!is_attached()?)).unwrap());
        }
    });
    tally.assert_none_failed();
}

#[test]
fn two_hundred_veths() {
    let cluster = Cluster::new();
    let agent = cluster.agent(&["--interface=pods"]);
    let attached = || {
        let status = agent.status(&cluster.node.topology.node);
        status.matches("veth-many").count()
    };
    let tally = cluster.during("200 veths come and go", Mix::All, || {
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
            cluster.node.topology.node.ip(&lines).unwrap();
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
    let cluster = Cluster::new();
    let _agent = cluster.agent(&["--interface=pods"]);
    let flooding = cluster.node.topology.another_pod().unwrap();
    let packets = flood_size();
    let what = format!("another pod sends {packets} malformed packets");
    let tally = cluster.during(&what, Mix::OfTheCluster, || {
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
    let cluster = Cluster::new();
    let _agent = cluster.agent(&[]);
    let what = "programs of others before and after ours, 50 times";
    let tally = cluster.during(what, Mix::All, || {
        for round in 0..50 {
            let program = |name: &str| {
                Foreign::tc(
                    name,
                    &cluster.node.bpffs.path().join(format!("{name}{round}")),
                )
                .unwrap()
            };
            let [mut before, mut after, mut filter] =
                ["before", "after", "accounting"].map(program);
            let attach = || {
                let at = TcAttachType::Ingress;
                filter.attach_filter(HOST_VETH, at).unwrap();
                // Where there is no tcx, the filters are all there is.
                before.attach_tcx(HOST_VETH, at, LinkOrder::first()).ok();
                after.attach_tcx(HOST_VETH, at, LinkOrder::last()).ok();
                cluster.until_answered();
                drop((before, after, filter));
            };
            cluster.node.topology.node.enter(attach).unwrap();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn cluster_dns_down() {
    let mut cluster = Cluster::new();
    let _agent = cluster.agent(&[]);
    cluster.dns = None;
    let what = format!("CoreDNS down for {:?}", pause());
    let tally = cluster.during(&what, Mix::OfTheCluster, || thread::sleep(pause()));
    tally.assert_none_failed();
    assert_eq!(tally.by_kernel, tally.asked);
}

/// Nothing is pinned any more: what the agent holds stays until it ends.
#[test]
fn bpffs_unmounted() {
    let cluster = Cluster::new();
    let mut agent = cluster.agent(&[]);
    let tally = cluster.during("bpffs unmounted, then kill -9", Mix::All, || {
        cluster.node.bpffs.unmount().unwrap();
        cluster.until_answered();
        agent.end(Signal::SIGKILL);
        cluster.until_passed();
        agent = cluster.agent(&[]);
        cluster.until_answered();
    });
    tally.assert_none_failed();
}

impl Cluster {
    fn new() -> Cluster {
        let node = Node::new(&dns::services(dns::LOOKED_UP));
        node.topology.assign_served().unwrap();
        let served = load::served();
        Cluster {
            dns: Some(Server::start(&node.topology.node, served, dns::reply).unwrap()),
            node,
        }
    }

    /// An agent whose hooks outlive it.
    fn agent(&self, more: &[&str]) -> Agent {
        self.agent_with(&self.node.manifests, more)
    }

    fn agent_with(&self, source: &impl Source, more: &[&str]) -> Agent {
        let agent = Agent::follow(self.command_with(&binary(), source, more));
        self.until_answered();
        agent
    }

    fn command(&self, program: &Path, more: &[&str]) -> Command {
        self.command_with(program, &self.node.manifests, more)
    }

    fn command_with(&self, program: &Path, source: &impl Source, more: &[&str]) -> Command {
        let mut command = self.node.command(program, source, lease());
        command.arg("--persist").args(more);
        command
    }

    /// An API server with the same services.
    fn api(&self) -> Api {
        let api = super::api::cluster(&self.node.topology);
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
        let load = Load::start(&self.node.topology.pod, mix);
        act();
        let tally = load.stop();
        println!("| {what} | {tally} |");
        assert!(tally.asked > 100, "{tally}");
        assert_eq!(tally.wrong, [""; 0]);
        tally
    }

    fn until_answered(&self) {
        self.until_ttl(5);
    }

    fn until_passed(&self) {
        self.until_ttl(dns::STAND_IN_TTL);
    }

    /// Waits until somebody answers with this TTL, which tells who it is.
    fn until_ttl(&self, ttl: u32) {
        let mut last = None;
        let is_so = || {
            last = self.node.pod.ttl_of("s0");
            Ok(last == Some(ttl))
        };
        let is_so = eventually(LIMIT, is_so).unwrap();
        assert!(is_so, "the TTL never was {ttl}: {last:?}");
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
