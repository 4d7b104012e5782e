//! What one tenant's objects cost the others. While a tenant's objects attack the agent, the kernel
//! must answer the others' names, and the others' changes must be answered soon.
//!
//! `cargo xtask faults --attacks` runs these tests at full length and against the goals. Otherwise
//! they are short, and have limits for a slow machine.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use zerohop_tests::{topology::Topology, udp::eventually};

use super::{
    AgentProcess, LIMIT, PodClient,
    api::{server::MemoryApiServer, service, start_cluster},
    start_agent,
};

/// The lease, `--stale-after`.
const LEASE: Duration = Duration::from_secs(4);
/// The namespace of the attacking tenant. The other tenant's Services are in `shop`.
const ATTACKER: &str = "attacker";

/// What the goals are, and how long an attack lasts.
struct AttackScale {
    length: Duration,
    /// The slowest publication of another tenant's change.
    slowest_change: Duration,
    /// The lowest share of queries that the kernel answers in any second, in percent.
    lowest_share: usize,
}

/// A node whose agent reads the API, and a tenant whose names are watched.
struct WatchedCluster {
    topology: Topology,
    api: MemoryApiServer,
}

/// Counts of the queries in each second.
#[derive(Clone, Copy, Debug, Default)]
struct SecondTally {
    asked: usize,
    answered: usize,
}

#[test]
fn a_service_with_too_many_ports_and_endpoints_is_delegated() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(5_000);
    cluster.add_service("huge", &ports);
    cluster.apply_slice("huge", 0, 50, &ports);
    let agent = cluster.start_agent();
    let status = agent.status().unwrap();
    assert!(
        status.contains("250000 SRV records") && status.contains("attacker/huge"),
        "no reason in {status}"
    );
    cluster.attack("5,000 ports x 50 endpoints, readiness changes", |turn| {
        cluster.apply_slice("huge", 0, 50 - turn % 2, &ports);
        Duration::from_millis(500)
    });
}

#[test]
fn others_are_answered_while_a_service_with_many_ports_changes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(5_000);
    cluster.add_service("ports", &ports);
    cluster.apply_slice("ports", 0, 13, &ports);
    let _agent = cluster.start_agent();
    cluster.attack("5,000 ports x 13 endpoints, readiness changes", |turn| {
        cluster.apply_slice("ports", 0, 13 - turn % 2, &ports);
        Duration::from_millis(500)
    });
}

#[test]
fn others_are_answered_while_a_service_with_many_endpoints_changes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(1);
    cluster.add_service("endpoints", &ports);
    for slice in 0..50 {
        cluster.apply_slice("endpoints", slice, 100, &ports);
    }
    let _agent = cluster.start_agent();
    cluster.attack("5,000 endpoints, 20 changes of slices a second", |turn| {
        cluster.apply_slice("endpoints", turn % 50, 100 - turn / 50 % 2, &ports);
        Duration::from_millis(50)
    });
}

#[test]
fn others_are_answered_while_the_target_of_many_aliases_changes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(500);
    cluster.add_service("target", &ports);
    cluster.apply_slice("target", 0, 10, &ports);
    const TARGET: &str = "target.attacker.svc.cluster.local";
    for number in 0..1_000 {
        let alias = json!({
            "metadata": {"namespace": ATTACKER, "name": format!("alias-{number}")},
            "spec": {"type": "ExternalName", "externalName": TARGET},
        });
        cluster.api.apply("services", alias);
    }
    let _agent = cluster.start_agent();
    cluster.attack("1,000 aliases of 500 ports x 10 endpoints", |turn| {
        cluster.apply_slice("target", 0, 10 - turn % 2, &ports);
        Duration::from_millis(500)
    });
}

#[test]
fn others_are_answered_while_an_unreadable_slice_comes_and_goes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(1);
    cluster.add_service("odd", &ports);
    let odd = json!([{"name": "odd", "port": 70_000, "protocol": "TCP"}]);
    cluster.apply_slice("odd", 0, 1, &ports);
    let _agent = cluster.start_agent();
    cluster.attack(
        "a slice that can't be read, in and out 10 times a second",
        |turn| {
            let ports = if turn % 2 == 0 { &odd } else { &ports };
            cluster.apply_slice("odd", 0, 1, ports);
            Duration::from_millis(100)
        },
    );
}

impl WatchedCluster {
    fn new() -> WatchedCluster {
        let topology = Topology::routed().unwrap();
        let api = start_cluster(&topology);
        api.apply("namespaces", json!({"metadata": {"name": ATTACKER}}));
        WatchedCluster { topology, api }
    }

    fn start_agent(&self) -> AgentProcess {
        let lease = format!("--stale-after={}s", LEASE.as_secs());
        let agent = start_agent(&self.topology.node, &self.api, &[&lease]);
        let pod = PodClient::new(&self.topology);
        let is_answered = || Ok(pod.web_ttl() == Some(5));
        assert!(eventually(LIMIT, is_answered).unwrap());
        agent
    }

    /// Adds a headless Service of the attacking tenant.
    fn add_service(&self, name: &str, ports: &Value) {
        self.api
            .apply("services", service(ATTACKER, name, "None", ports));
    }

    /// Applies a slice with this many endpoints.
    fn apply_slice(&self, name: &str, number: usize, endpoints: usize, ports: &Value) {
        let endpoints: Vec<Value> = (0..endpoints)
            .map(|at| {
                let address = format!("10.{}.{}.{}", 100 + number / 250, number % 250, at + 1);
                json!({"addresses": [address], "conditions": {"ready": true}})
            })
            .collect();
        let slice = json!({
            "metadata": {
                "namespace": ATTACKER,
                "name": format!("{name}-{number}"),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        });
        self.api.apply("endpointslices", slice);
    }

    /// Repeats `act`, which gets the number of the turn and returns the time to the next one.
    /// Checks meanwhile that the kernel answers another tenant's name, and soon answers with the
    /// new address of another Service.
    fn attack(&self, what: &str, mut act: impl FnMut(usize) -> Duration + Send) {
        let scale = AttackScale::of_this_run();
        let end = Instant::now() + scale.length;
        let is_over = AtomicBool::new(false);
        let pod = PodClient::new(&self.topology);
        let (seconds, slowest) = thread::scope(|scope| {
            let watch = scope.spawn(|| watch_name(&pod, &is_over));
            let changes = scope.spawn(|| self.change_another_service(end));
            let mut turn = 0;
            while Instant::now() < end {
                let pause = act(turn);
                turn += 1;
                thread::sleep(pause);
            }
            let slowest = changes.join().unwrap();
            is_over.store(true, Ordering::Relaxed);
            (watch.join().unwrap(), slowest)
        });
        let share = |tally: &SecondTally| 100 * tally.answered / tally.asked.max(1);
        let lowest = seconds.iter().map(share).min().unwrap_or(0);
        let sum = |count: fn(&SecondTally) -> usize| seconds.iter().map(count).sum::<usize>();
        println!(
            "| {what} | {} | {:.1} % | {lowest} % | {} |",
            sum(|tally| tally.asked),
            100.0 * sum(|tally| tally.answered) as f64 / sum(|tally| tally.asked).max(1) as f64,
            slowest.as_millis(),
        );
        assert!(
            lowest >= scale.lowest_share,
            "in one second the kernel answered only {lowest} % of another tenant's queries: \
             {seconds:?}"
        );
        assert!(
            slowest <= scale.slowest_change,
            "another tenant's change was answered only after {slowest:?}"
        );
    }

    /// Gives another tenant's Service new addresses until `end`. Returns the longest time until a
    /// pod was answered with one.
    fn change_another_service(&self, end: Instant) -> Duration {
        let pod = PodClient::new(&self.topology);
        let mut slowest = Duration::ZERO;
        let mut last = 1;
        while Instant::now() < end {
            last = last % 250 + 1;
            let ports = json!([{"name": "http", "port": 80}]);
            let address = format!("10.96.7.{last}");
            let started = Instant::now();
            let other = service("shop", "other", &address, &ports);
            self.api.apply("services", other);
            while pod.service_address("other") != Some([10, 96, 7, last]) {
                assert!(started.elapsed() < LIMIT, "{address} is never answered");
            }
            slowest = slowest.max(started.elapsed());
            thread::sleep(Duration::from_millis(200));
        }
        slowest
    }
}

impl AttackScale {
    fn of_this_run() -> AttackScale {
        if env::var_os("ZEROHOP_FAULTS").is_some_and(|scale| scale == "full") {
            return AttackScale {
                length: Duration::from_secs(30),
                slowest_change: Duration::from_secs(1),
                lowest_share: 99,
            };
        }
        AttackScale {
            // Longer than the lease, so that a lease that is not renewed ends.
            length: LEASE * 2,
            slowest_change: Duration::from_secs(20),
            lowest_share: 50,
        }
    }
}

/// Asks for another tenant's Service about 50 times a second. Returns the counts of each second. A
/// query that passes gets no reply here.
fn watch_name(pod: &PodClient, is_over: &AtomicBool) -> Vec<SecondTally> {
    let started = Instant::now();
    let mut seconds: Vec<SecondTally> = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let second = started.elapsed().as_secs() as usize;
        if seconds.len() <= second {
            seconds.resize(second + 1, SecondTally::default());
        }
        seconds[second].asked += 1;
        seconds[second].answered += usize::from(pod.ask_for("web").is_some());
        thread::sleep(Duration::from_millis(20));
    }
    // The last second is not whole.
    seconds.pop();
    seconds
}

/// Ports with these names and numbers: `p0` with port 1, and so on.
fn numbered_ports(count: u16) -> Value {
    let ports = (0..count)
        .map(|number| json!({"name": format!("p{number}"), "port": number + 1, "protocol": "TCP"}));
    ports.collect()
}
