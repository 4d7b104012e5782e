//! Faults of an agent that steers, while pods ask for names outside the cluster as the resolvers of
//! glibc, musl and Go do, and over TCP.

mod load;
mod streams;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use zerohop_contract::addresses::SERVED;
use zerohop_tests::{
    agent::{AgentProcess, LIMIT},
    not_run::report_not_run,
    udp::{UdpServer, eventually},
};

use self::{
    load::{OutsideLoad, OutsideTally, answer, is_from_cluster_dns},
    streams::{StreamLoad, StreamTally},
};
use super::{MemoryCgroup, TestNode, dns, is_full_length, kill_for_lack_of_memory, lease_flags};

/// A node with a stand-in for the cluster's DNS and a server outside the cluster.
struct SteeredCluster {
    /// First, so that the servers are dropped before their namespace.
    _servers: Vec<UdpServer>,
    _streams: streams::StandIn,
    node: TestNode,
}

/// What clients saw while a fault happened.
struct FaultTally {
    questions: OutsideTally,
    streams: StreamTally,
}

/// The server outside the cluster.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), 53);
/// The longest time from a stop to the answers of the cluster's DNS, on a quiet machine.
const HANDOVER_LIMIT: Duration = Duration::from_millis(1500);

#[test]
fn steered_lookups_succeed_when_the_agent_is_killed() {
    let cluster = SteeredCluster::new();
    let mut agent = cluster.start_agent();
    let tally = cluster.look_up_during("steering: kill -9, then a new agent", || {
        thread::sleep(Duration::from_millis(500));
        agent.end_by(Signal::SIGKILL).unwrap();
        thread::sleep(Duration::from_secs(1));
        agent = cluster.start_agent();
    });
    // One instant; on a busy machine more questions wait in it.
    tally.assert_lost_at_most(IN_FLIGHT);
    tally.streams.assert_ended_or_went_on();
}

#[test]
fn steered_lookups_succeed_while_the_agent_is_stopped() {
    let cluster = SteeredCluster::new();
    let agent = cluster.start_agent();
    cluster.look_up_during("steering: SIGSTOP, and SIGCONT", || {
        agent.send_signal(Signal::SIGSTOP).unwrap();
        let stopped = Instant::now();
        while !cluster.is_answered_by_cluster_dns() {
            assert!(stopped.elapsed() < LIMIT, "there is no answer");
        }
        let lasted = stopped.elapsed();
        thread::sleep(Duration::from_secs(2));
        agent.send_signal(Signal::SIGCONT).unwrap();
        cluster.wait_until_steered();
        let limit = HANDOVER_LIMIT * if is_full_length() { 1 } else { 10 };
        assert!(lasted < limit, "there was no answer for {lasted:?}");
    });
}

#[test]
fn steered_lookups_succeed_when_the_agent_is_killed_for_lack_of_memory() {
    let cgroup = match MemoryCgroup::new() {
        Ok(cgroup) => cgroup,
        Err(error) => {
            println!("| steering: OOM kill | not run |");
            return report_not_run("an OOM kill of an agent that steers", format!("{error:#}"));
        }
    };
    let cluster = SteeredCluster::new();
    let mut agent = cluster.start_agent();
    cgroup.add_process(agent.process_id()).unwrap();
    let tally = cluster.look_up_during("steering: OOM kill, then a new agent", || {
        kill_for_lack_of_memory(&mut agent, &cgroup, &cluster.node);
        agent = cluster.start_agent();
    });
    tally.streams.assert_ended_or_went_on();
}

#[test]
fn an_update_and_a_rollback_lose_no_steered_question() {
    let cluster = SteeredCluster::new();
    let mut agent = cluster.start_agent();
    let rounds = if is_full_length() { 5 } else { 1 };
    let what = format!("steering: update and rollback, {rounds} times");
    let tally = cluster.look_up_during(&what, || {
        for capacity in ["200000", "100000"].repeat(rounds) {
            agent.end_by(Signal::SIGTERM).unwrap();
            agent = cluster.start_agent_with(&["--capacity", capacity]);
            thread::sleep(Duration::from_millis(500));
        }
    });
    tally.assert_lost_at_most(0);
    tally.streams.assert_ended_or_went_on();
}

/// The bound on the questions that are lost by a kill: 2,000 lookups a second of two questions
/// each, which wait for the upstream for a millisecond, on a machine that stands still for up to
/// 50 ms meanwhile.
const IN_FLIGHT: usize = 200;

impl SteeredCluster {
    fn new() -> SteeredCluster {
        let node = TestNode::new(&dns::services(dns::LOOKED_UP));
        let topology = &node.topology;
        topology.assign_served_addresses().unwrap();
        let served = SocketAddr::new(SERVED[0], 53);
        let start = |address, source| {
            UdpServer::start(&topology.node, address, move |query| answer(query, source)).unwrap()
        };
        let servers = vec![
            start(served, load::Source::ClusterDns),
            start(OUTSIDE, load::Source::Outside),
        ];
        SteeredCluster {
            _servers: servers,
            _streams: streams::StandIn::start(&topology.node, served),
            node,
        }
    }

    /// Starts an agent whose hooks outlive it, and waits until it steers.
    fn start_agent(&self) -> AgentProcess {
        self.start_agent_with(&[])
    }

    fn start_agent_with(&self, flags: &[&str]) -> AgentProcess {
        let upstream = format!("--upstream={OUTSIDE}");
        let steering = ["--persist", "--steer=auto", &upstream];
        let flags = [lease_flags(), &steering, flags].concat();
        let agent = self.node.start_agent(&flags);
        self.wait_until_steered();
        agent
    }

    fn wait_until_steered(&self) {
        let steered = || Ok(self.ask().is_some_and(|reply| !is_from_cluster_dns(&reply)));
        assert!(eventually(LIMIT, steered).unwrap(), "nothing is steered");
    }

    fn is_answered_by_cluster_dns(&self) -> bool {
        self.ask().is_some_and(|reply| is_from_cluster_dns(&reply))
    }

    fn ask(&self) -> Option<Vec<u8>> {
        self.node.pod.ask(load::PROBE, 1)
    }

    /// Looks names up while `act` runs, and prints a row of the table of `cargo xtask faults`.
    fn look_up_during(&self, what: &str, act: impl FnOnce()) -> FaultTally {
        let pod = &self.node.topology.pod;
        let questions = OutsideLoad::start(pod);
        let streams = StreamLoad::start(pod);
        act();
        let tally = FaultTally {
            questions: questions.stop(),
            streams: streams.stop(),
        };
        println!("| {what} | {} | {} |", tally.questions, tally.streams);
        tally.questions.assert_none_failed();
        tally.streams.assert_retries_succeeded();
        tally
    }
}

impl FaultTally {
    fn assert_lost_at_most(&self, limit: usize) {
        let lost = self.questions.lost;
        assert!(
            lost <= limit,
            "{lost} questions were lost, not at most {limit}"
        );
    }
}
