//! Faults on a node while a pod looks names up. Every lookup must get a right answer, from the
//! kernel or from the cluster's DNS.
//!
//! `cargo xtask faults` runs these tests at full length, and prints the counts of lookups as a
//! table. It skips `clock`, which would step the machine's clock.

mod clock;
mod dns;
mod load;
mod steering;
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
    netns::NetworkNamespace,
    noop_program::{self, NoopProgram},
    not_run::report_not_run,
    topology::HOST_VETH,
    udp::{UdpClient, UdpServer, eventually},
};

use self::load::{LookupLoad, LookupMix, LookupTally};
use super::{
    AgentProcess, LIMIT, ObjectSource, api::server::MemoryApiServer, binary, cgroup::MemoryCgroup,
    node::TestNode,
};

/// A cluster of one node, with a stand-in for the cluster's DNS.
struct OneNodeCluster {
    /// First, so that the server is dropped before its namespace. `None`: the DNS is down.
    dns: Option<UdpServer>,
    node: TestNode,
}

#[test]
fn lookups_succeed_when_the_agent_is_killed() {
    let cluster = OneNodeCluster::new();
    let mut agent = cluster.start_agent(&[]);
    let tally = cluster.look_up_during(
        "kill -9, then a new agent after the lease",
        LookupMix::All,
        || {
            agent.end_by(Signal::SIGKILL).unwrap();
            cluster.wait_until_passed();
            agent = cluster.start_agent(&[]);
            cluster.wait_until_answered();
        },
    );
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_while_the_agent_is_stopped() {
    let cluster = OneNodeCluster::new();
    let agent = cluster.start_agent(&[]);
    let what = format!("SIGSTOP for {:?}", pause_length());
    let tally = cluster.look_up_during(&what, LookupMix::All, || {
        agent.send_signal(Signal::SIGSTOP).unwrap();
        cluster.wait_until_passed();
        thread::sleep(pause_length());
        agent.send_signal(Signal::SIGCONT).unwrap();
        cluster.wait_until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_when_the_agent_is_killed_for_lack_of_memory() {
    let cgroup = match MemoryCgroup::new() {
        Ok(cgroup) => cgroup,
        Err(error) => {
            println!("| OOM kill | not run |");
            return report_not_run("an OOM kill", format!("{error:#}"));
        }
    };
    let cluster = OneNodeCluster::new();
    let mut agent = cluster.start_agent(&[]);
    cgroup.add_process(agent.process_id()).unwrap();
    let tally = cluster.look_up_during("OOM kill, then a new agent", LookupMix::All, || {
        kill_for_lack_of_memory(&mut agent, &cgroup, &cluster.node);
        agent = cluster.start_agent(&[]);
        cluster.wait_until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_while_agents_crash_repeatedly() {
    let cluster = OneNodeCluster::new();
    let mut agent = cluster.start_agent(&[]);
    let tally = cluster.look_up_during(
        "20 crashes, each within half a second of its start",
        LookupMix::All,
        || {
            agent.end_by(Signal::SIGKILL).unwrap();
            for _ in 0..20 {
                let mut child = cluster.command(&binary(), &[]).spawn().unwrap();
                // Kills the agent at a random moment of its start.
                thread::sleep(Duration::from_millis(rand::rng().random_range(0..500)));
                child.kill().unwrap();
                child.wait().unwrap();
            }
            agent = cluster.start_agent(&[]);
            cluster.wait_until_answered();
        },
    );
    tally.assert_none_failed();
}

/// Updates as a DaemonSet does: the old agent ends, then the new one starts. The new agent has
/// tables of another size. It is the build at the path in `ZEROHOP_OTHER_AGENT`, or the same build
/// if that is unset. The TTL of answers identifies the agent.
#[test]
fn lookups_succeed_while_the_agent_is_updated_and_rolled_back() {
    let cluster = OneNodeCluster::new();
    let other_build = env::var_os("ZEROHOP_OTHER_AGENT");
    let what = match other_build {
        Some(_) => "update to another build and rollback, 3 times",
        None => "update to tables of another size and rollback, 3 times",
    };
    let other_build = other_build.map_or_else(binary, PathBuf::from);
    let mut agent = cluster.start_agent(&[]);
    let tally = cluster.look_up_during(what, LookupMix::All, || {
        for _ in 0..3 {
            agent.end_by(Signal::SIGTERM).unwrap();
            agent = AgentProcess::start(
                cluster.command(&other_build, &["--capacity=200000", "--ttl=9"]),
            )
            .unwrap();
            cluster.wait_for_ttl(9);
            agent.end_by(Signal::SIGTERM).unwrap();
            agent = cluster.start_agent(&[]);
            cluster.wait_until_answered();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_while_the_api_server_is_down() {
    let cluster = OneNodeCluster::new();
    let mut api = cluster.start_api_server();
    let _agent = cluster.start_agent_from(&api, &[]);
    cluster.wait_until_answered();
    let what = format!("API server down for {:?}", pause_length());
    let tally = cluster.look_up_during(&what, LookupMix::All, || {
        api.stop();
        thread::sleep(pause_length());
        api.resume(&cluster.node.topology.node);
        cluster.wait_until_answered();
    });
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_while_a_veth_comes_and_goes() {
    let cluster = OneNodeCluster::new();
    let agent = cluster.start_agent(&["--interface=pods"]);
    let is_attached = || Ok(agent.status().unwrap().contains("veth-other"));
    let rounds = 100;
    let what = format!("a veth removed and added {rounds} times");
    let tally = cluster.look_up_during(&what, LookupMix::All, || {
        let other = NetworkNamespace::new("other").unwrap();
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
fn lookups_succeed_while_two_hundred_veths_come_and_go() {
    let cluster = OneNodeCluster::new();
    let agent = cluster.start_agent(&["--interface=pods"]);
    let count_attached = || {
        let status = agent.status().unwrap();
        status.matches("veth-many").count()
    };
    let tally = cluster.look_up_during("200 veths come and go", LookupMix::All, || {
        let other = NetworkNamespace::new("other").unwrap();
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
        assert!(eventually(LIMIT, || Ok(count_attached() == 200)).unwrap());
        ip(&delete);
        assert!(eventually(LIMIT, || Ok(count_attached() == 0)).unwrap());
    });
    tally.assert_none_failed();
}

/// Most of the flood reaches the cluster's DNS, with or without Zerohop, and may overload it. So
/// only names of the cluster, which the kernel answers, are looked up during the flood.
#[test]
fn lookups_succeed_while_another_pod_sends_malformed_packets() {
    let cluster = OneNodeCluster::new();
    let _agent = cluster.start_agent(&["--interface=pods"]);
    let flooding = cluster.node.topology.add_pod().unwrap();
    let packets = flood_size();
    let what = format!("another pod sends {packets} malformed packets");
    let tally = cluster.look_up_during(&what, LookupMix::OfTheCluster, || {
        let client = UdpClient::new(&flooding, load::served_address()).unwrap();
        let mut random = rand::rng();
        for _ in 0..packets {
            // This call may fail because of an ICMP error for an earlier packet, or a full queue.
            client.send(&dns::malformed_message(&mut random)).ok();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_while_foreign_programs_come_and_go() {
    let cluster = OneNodeCluster::new();
    let _agent = cluster.start_agent(&[]);
    // The kernel may lose packets on their way to the pod while it adds the qdisc.
    let add = || noop_program::add_clsact(HOST_VETH);
    cluster.node.topology.node.enter(add).unwrap();
    let what = "foreign programs before and after Zerohop's, 50 times";
    let tally = cluster.look_up_during(what, LookupMix::All, || {
        for round in 0..50 {
            let program = |name: &str| {
                NoopProgram::load_tc(
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
                // Without tcx only the filter is attached.
                before.attach_tcx(HOST_VETH, at, LinkOrder::first()).ok();
                after.attach_tcx(HOST_VETH, at, LinkOrder::last()).ok();
                cluster.wait_until_answered();
                // Detaches the programs. The filter must be dropped in the device's namespace.
                drop((before, after, filter));
            };
            cluster.node.topology.node.enter(attach).unwrap();
        }
    });
    tally.assert_none_failed();
}

#[test]
fn lookups_succeed_while_the_cluster_dns_is_down() {
    let mut cluster = OneNodeCluster::new();
    let _agent = cluster.start_agent(&[]);
    cluster.dns = None;
    let what = format!("CoreDNS down for {:?}", pause_length());
    let tally = cluster.look_up_during(&what, LookupMix::OfTheCluster, || {
        thread::sleep(pause_length());
    });
    tally.assert_none_failed();
    assert_eq!(
        tally.by_kernel, tally.asked,
        "the kernel did not answer every lookup"
    );
}

/// Without the BPF file system there are no pins, so tcx links are detached when the agent ends,
/// and queries pass at once. Filters, which need no pins, stay attached and answer until the lease
/// expires.
#[test]
fn lookups_succeed_when_the_bpf_file_system_is_unmounted() {
    let cluster = OneNodeCluster::new();
    let mut agent = cluster.start_agent(&[]);
    let tally = cluster.look_up_during("bpffs unmounted, then kill -9", LookupMix::All, || {
        cluster.node.bpffs.unmount().unwrap();
        cluster.wait_until_answered();
        agent.end_by(Signal::SIGKILL).unwrap();
        cluster.wait_until_passed();
        agent = cluster.start_agent(&[]);
        cluster.wait_until_answered();
    });
    tally.assert_none_failed();
}

impl OneNodeCluster {
    fn new() -> OneNodeCluster {
        let node = TestNode::new(&dns::services(dns::LOOKED_UP));
        node.topology.assign_served_addresses().unwrap();
        let served = load::served_address();
        OneNodeCluster {
            dns: Some(UdpServer::start(&node.topology.node, served, dns::stand_in_reply).unwrap()),
            node,
        }
    }

    /// Starts an agent whose hooks outlive it, and waits until it answers.
    fn start_agent(&self, flags: &[&str]) -> AgentProcess {
        self.start_agent_from(&self.node.manifests, flags)
    }

    fn start_agent_from(&self, source: &impl ObjectSource, flags: &[&str]) -> AgentProcess {
        let agent = AgentProcess::start(self.command_with(&binary(), source, flags)).unwrap();
        self.wait_until_answered();
        agent
    }

    fn command(&self, program: &Path, flags: &[&str]) -> Command {
        self.command_with(program, &self.node.manifests, flags)
    }

    fn command_with(&self, program: &Path, source: &impl ObjectSource, flags: &[&str]) -> Command {
        let mut command = self.node.command(program, source, lease_flags());
        command.arg("--persist").args(flags);
        command
    }

    /// Starts an API server that has the services of the manifests.
    fn start_api_server(&self) -> MemoryApiServer {
        let api = super::api::start_cluster(&self.node.topology);
        for number in 0..dns::LOOKED_UP {
            let [a, b, c, d] = dns::service_address(number);
            let ports = json!([{"name": "http", "port": 80}]);
            let address = format!("{a}.{b}.{c}.{d}");
            let service = super::api::service("shop", &format!("s{number}"), &address, &ports);
            api.apply("services", service);
        }
        api
    }

    /// Looks names up while `act` runs, and prints a row of the table of `cargo xtask faults`.
    /// Requires that enough lookups were made, and that no reply is wrong. Callers check the
    /// lookups without a reply.
    fn look_up_during(&self, what: &str, mix: LookupMix, act: impl FnOnce()) -> LookupTally {
        let load = LookupLoad::start(&self.node.topology.pod, mix);
        act();
        let tally = load.stop();
        println!("| {what} | {tally} |");
        // With 100 lookups or fewer the load hardly ran: it makes up to 2,000 a second.
        assert!(tally.asked > 100, "only {} lookups", tally.asked);
        assert!(tally.wrong.is_empty(), "wrong replies: {:#?}", tally.wrong);
        tally
    }

    /// Waits until the kernel answers with the default TTL.
    fn wait_until_answered(&self) {
        self.wait_for_ttl(5);
    }

    /// Waits until the stand-in for the cluster's DNS answers.
    fn wait_until_passed(&self) {
        self.wait_for_ttl(dns::STAND_IN_TTL);
    }

    /// Waits for an answer with this TTL, which identifies the agent or the stand-in.
    fn wait_for_ttl(&self, ttl: u32) {
        let mut last = None;
        let has_ttl = || {
            last = self.node.pod.service_ttl("s0");
            Ok(last == Some(ttl))
        };
        let was_seen = eventually(LIMIT, has_ttl).unwrap();
        assert!(
            was_seen,
            "no answer with a TTL of {ttl}; the last TTL was {last:?}"
        );
    }
}

/// Lets the kernel kill an agent, whose cgroup is this one.
fn kill_for_lack_of_memory(agent: &mut AgentProcess, cgroup: &MemoryCgroup, node: &TestNode) {
    cgroup.shrink_limit().unwrap();
    // More services make the agent allocate memory.
    let mut services = 1000;
    let has_ended = || {
        services += 1;
        node.manifests.write(&dns::services(services));
        agent.has_ended()
    };
    assert!(eventually(LIMIT, has_ended).unwrap());
    assert_ne!(
        cgroup.count_kills().unwrap(),
        0,
        "the agent ended for another reason"
    );
}

/// Whether the tests run at full length, as `cargo xtask faults` does.
fn is_full_length() -> bool {
    env::var_os("ZEROHOP_FAULTS").is_some_and(|scale| scale == "full")
}

/// The length of an outage; longer than the lease.
fn pause_length() -> Duration {
    Duration::from_secs(if is_full_length() { 60 } else { 4 })
}

/// The default lease at full length, otherwise a short one.
fn lease_flags() -> &'static [&'static str] {
    if is_full_length() {
        &[]
    } else {
        &[super::SHORT_LEASE]
    }
}

/// The number of malformed packets.
fn flood_size() -> usize {
    if is_full_length() { 5_000_000 } else { 200_000 }
}
