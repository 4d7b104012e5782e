//! What one tenant's objects cost the others. While a tenant's objects attack the agent, the kernel
//! must answer the others' names, and the others' changes must be answered soon.
//!
//! `cargo xtask faults --attacks` runs these tests at full length and against the goals. Otherwise
//! they are short, and have limits for a slow machine.

use std::{
    env,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use zerohop_contract::addresses::{POD, SERVED};
use zerohop_tests::{
    netns::NetworkNamespace,
    topology::{ANOTHER_POD, Topology},
    udp::{UdpClient, eventually},
};

use super::{
    AgentProcess, LIMIT, PodClient,
    api::{server::MemoryApiServer, service, start_cluster},
    cgroup::MemoryCgroup,
    start_agent,
};

/// The lease, `--stale-after`.
const LEASE: Duration = Duration::from_secs(4);
/// The namespace of the attacking tenant. The other tenant's Services are in `shop`.
const ATTACKER: &str = "attacker";

/// What the goals are, how long an attack lasts, and how large the cluster beside it is.
struct AttackScale {
    length: Duration,
    /// The Services of other tenants, half of them headless with ten endpoints.
    services: usize,
    /// The attacker's Services with the same 100 addresses.
    shared_services: usize,
    /// The attacker's policies, each with as many `ipBlock`s.
    policies: usize,
    /// The memory limit of the agent in bytes, that of the DaemonSet; `None`: unlimited.
    memory: Option<u64>,
    /// The slowest publication of another tenant's change.
    slowest_change: Duration,
    /// The longest time for which a denied pod, or a deleted name, is answered.
    slowest_end: Duration,
    /// The lowest share of queries that the kernel answers in any second, in percent.
    lowest_share: usize,
}

/// A node whose agent reads the API, and a tenant whose names are watched.
struct WatchedCluster {
    topology: Topology,
    /// A second pod, which a policy denies again and again.
    victim: NetworkNamespace,
    api: MemoryApiServer,
    scale: AttackScale,
}

/// An agent with the memory limit of the scale.
struct LimitedAgent {
    // First, so that it ends before its group is removed.
    agent: AgentProcess,
    cgroup: Option<MemoryCgroup>,
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
    let status = agent.agent.status().unwrap();
    assert!(
        status.contains("250000 SRV records") && status.contains("attacker/huge"),
        "no reason in {status}"
    );
    cluster.attack(
        &agent,
        "5,000 ports x 50 endpoints, readiness changes",
        |turn| {
            cluster.apply_slice("huge", 0, 50 - turn % 2, &ports);
            Duration::from_millis(500)
        },
    );
}

#[test]
fn others_are_answered_while_a_service_with_many_ports_changes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(5_000);
    cluster.add_service("ports", &ports);
    cluster.apply_slice("ports", 0, 13, &ports);
    let agent = cluster.start_agent();
    cluster.attack(
        &agent,
        "5,000 ports x 13 endpoints, readiness changes",
        |turn| {
            cluster.apply_slice("ports", 0, 13 - turn % 2, &ports);
            Duration::from_millis(500)
        },
    );
}

#[test]
fn others_are_answered_while_a_service_with_many_endpoints_changes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(1);
    cluster.add_service("endpoints", &ports);
    for slice in 0..50 {
        cluster.apply_slice("endpoints", slice, 100, &ports);
    }
    let agent = cluster.start_agent();
    cluster.attack(
        &agent,
        "5,000 endpoints, 20 changes of slices a second",
        |turn| {
            cluster.apply_slice("endpoints", turn % 50, 100 - turn / 50 % 2, &ports);
            Duration::from_millis(50)
        },
    );
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
    let agent = cluster.start_agent();
    cluster.attack(
        &agent,
        "1,000 aliases of 500 ports x 10 endpoints",
        |turn| {
            cluster.apply_slice("target", 0, 10 - turn % 2, &ports);
            Duration::from_millis(500)
        },
    );
}

#[test]
fn others_are_answered_while_an_unreadable_slice_comes_and_goes() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(1);
    cluster.add_service("odd", &ports);
    let odd = json!([{"name": "odd", "port": 70_000, "protocol": "TCP"}]);
    cluster.apply_slice("odd", 0, 1, &ports);
    let agent = cluster.start_agent();
    cluster.attack(
        &agent,
        "a slice that can't be read, in and out 10 times a second",
        |turn| {
            let ports = if turn % 2 == 0 { &odd } else { &ports };
            cluster.apply_slice("odd", 0, 1, ports);
            Duration::from_millis(100)
        },
    );
}

#[test]
fn others_are_answered_while_services_share_addresses() {
    let cluster = WatchedCluster::new();
    let ports = numbered_ports(1);
    // All of these Services have the same endpoints.
    for number in 0..cluster.scale.shared_services {
        let name = format!("shared-{number}");
        cluster.add_service(&name, &ports);
        let addresses = (0..100).map(|at| format!("10.100.0.{}", at + 1));
        let slice = slice(ATTACKER, &name, 0, addresses, &ports);
        cluster.api.apply("endpointslices", slice);
    }
    let agent = cluster.start_agent_with(&["--endpoints=all"]);
    cluster.attack(
        &agent,
        "Services that share 100 addresses, one endpoint changes",
        |turn| {
            let addresses = (0..100 - turn % 2).map(|at| format!("10.100.0.{}", at + 1));
            let slice = slice(ATTACKER, "shared-0", 0, addresses, &ports);
            cluster.api.apply("endpointslices", slice);
            Duration::from_millis(500)
        },
    );
}

#[test]
fn others_are_answered_while_pods_change_beside_many_policies() {
    let cluster = WatchedCluster::new();
    let count = cluster.scale.policies;
    for number in 0..count {
        let name = format!("policy-{number}");
        let policy = policy_with_blocks(ATTACKER, &name, count, 0);
        cluster.api.apply("networkpolicies", policy);
    }
    for number in 0..100 {
        let pod = attacking_pod(ATTACKER, number, 0);
        cluster.api.apply("pods", pod);
    }
    let agent = cluster.start_agent();
    cluster.attack(
        &agent,
        "policies with many ipBlocks, a pod changes 5 times a second",
        |turn| {
            let pod = attacking_pod(ATTACKER, turn % 100, turn);
            cluster.api.apply("pods", pod);
            Duration::from_millis(200)
        },
    );
}

/// Here no namespace exceeds the limit of its policies' memory, so that all of them are evaluated.
#[test]
fn others_are_answered_while_policies_of_many_namespaces_change() {
    let cluster = WatchedCluster::new();
    let blocks = cluster.scale.policies;
    let policies = blocks / 20;
    let namespace = |number: usize| format!("{ATTACKER}-{}", number % 10);
    for number in 0..10 * policies {
        let name = format!("policy-{number}");
        let policy = policy_with_blocks(&namespace(number), &name, blocks, 0);
        cluster.api.apply("networkpolicies", policy);
    }
    for number in 0..100 {
        let pod = attacking_pod(&namespace(number), number, 0);
        cluster.api.apply("pods", pod);
    }
    let agent = cluster.start_agent();
    cluster.attack(
        &agent,
        "policies of 10 namespaces with many ipBlocks, a policy and a pod change 10 times a second",
        |turn| {
            let number = turn % (10 * policies);
            let name = format!("policy-{number}");
            let policy = policy_with_blocks(&namespace(number), &name, blocks, 1 + turn % 200);
            cluster.api.apply("networkpolicies", policy);
            let pod = attacking_pod(&namespace(turn), turn % 100, turn);
            cluster.api.apply("pods", pod);
            Duration::from_millis(100)
        },
    );
}

/// A policy that allows egress to `count` networks, which depend on `turn`, and to no others.
fn policy_with_blocks(namespace: &str, name: &str, count: usize, turn: usize) -> Value {
    let network = |at: usize| format!("{}.{}.{}.0/24", 11 + turn, at / 256, at % 256);
    let blocks: Vec<Value> = (0..count)
        .map(|at| json!({"ipBlock": {"cidr": network(at)}}))
        .collect();
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": blocks}]},
    })
}

/// A pod of the attacker, with a label that depends on `turn`.
fn attacking_pod(namespace: &str, number: usize, turn: usize) -> Value {
    let address = format!("10.244.9.{}", number + 1);
    let mut pod = pod(&format!("pod-{number}"), &address);
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["labels"]["turn"] = json!(turn.to_string());
    pod
}

impl WatchedCluster {
    fn new() -> WatchedCluster {
        let scale = AttackScale::of_this_run();
        let topology = Topology::routed().unwrap();
        let api = start_cluster(&topology);
        api.apply("namespaces", json!({"metadata": {"name": ATTACKER}}));
        let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        for number in 0..scale.services {
            let name = format!("beside-{number}");
            if number % 2 == 0 {
                let address = format!("10.97.{}.{}", number / 250, number % 250 + 1);
                api.apply("services", service("shop", &name, &address, &ports));
                continue;
            }
            api.apply("services", service("shop", &name, "None", &ports));
            let host = |at: usize| number * 10 + at;
            let addresses = (0..10).map(|at| {
                let host = host(at);
                format!(
                    "10.{}.{}.{}",
                    128 + host / 65536,
                    host / 256 % 256,
                    host % 256
                )
            });
            api.apply("endpointslices", slice("shop", &name, 0, addresses, &ports));
        }
        for (name, address) in [
            ("client", POD[0].to_string()),
            ("victim", ANOTHER_POD.to_string()),
        ] {
            api.apply("pods", pod(name, &address));
        }
        WatchedCluster {
            victim: topology.add_pod().unwrap(),
            topology,
            api,
            scale,
        }
    }

    fn start_agent(&self) -> LimitedAgent {
        self.start_agent_with(&[])
    }

    fn start_agent_with(&self, flags: &[&str]) -> LimitedAgent {
        let lease = format!("--stale-after={}s", LEASE.as_secs());
        let both = [&lease, "--node-name=this", "--interface=veth-another"];
        let agent = start_agent(&self.topology.node, &self.api, &[&both, flags].concat());
        let cgroup = self.scale.memory.map(|bytes| {
            let cgroup = MemoryCgroup::new().unwrap();
            cgroup.set_limit(bytes).unwrap();
            cgroup.add_process(agent.process_id()).unwrap();
            cgroup
        });
        let started = Instant::now();
        for pod in [PodClient::new(&self.topology), self.victim_client()] {
            let is_answered = || Ok(pod.web_ttl() == Some(5));
            assert!(eventually(LIMIT, is_answered).unwrap());
        }
        eprintln!("the agent answered after {:?}", started.elapsed());
        LimitedAgent { agent, cgroup }
    }

    fn victim_client(&self) -> PodClient {
        let server = SocketAddr::new(SERVED[0], 53);
        PodClient(UdpClient::new(&self.victim, server).unwrap())
    }

    /// Adds a headless Service of the attacking tenant.
    fn add_service(&self, name: &str, ports: &Value) {
        self.api
            .apply("services", service(ATTACKER, name, "None", ports));
    }

    /// Applies a slice with this many endpoints.
    fn apply_slice(&self, name: &str, number: usize, endpoints: usize, ports: &Value) {
        let address = |at| format!("10.{}.{}.{}", 100 + number / 250, number % 250, at + 1);
        let addresses = (0..endpoints).map(address);
        let slice = slice(ATTACKER, name, number, addresses, ports);
        self.api.apply("endpointslices", slice);
    }

    /// Repeats `act`, which gets the number of the turn and returns the time to the next one.
    /// Checks meanwhile that the kernel answers another tenant's name, soon answers with the new
    /// address of another Service, and soon answers neither a deleted name nor a denied pod.
    fn attack(
        &self,
        agent: &LimitedAgent,
        what: &str,
        mut act: impl FnMut(usize) -> Duration + Send,
    ) {
        let scale = &self.scale;
        let end = Instant::now() + scale.length;
        let is_over = AtomicBool::new(false);
        let pod = PodClient::new(&self.topology);
        let (seconds, slowest, deleted, denied) = thread::scope(|scope| {
            let watch = scope.spawn(|| watch_name(&pod, &is_over));
            let changes = scope.spawn(|| self.change_another_service(end));
            let deletions = scope.spawn(|| self.delete_another_service(end));
            let denials = scope.spawn(|| self.deny_a_pod(end));
            let mut turn = 0;
            while Instant::now() < end {
                let pause = act(turn);
                turn += 1;
                thread::sleep(pause);
            }
            let slowest = changes.join().unwrap();
            let (deleted, denied) = (deletions.join().unwrap(), denials.join().unwrap());
            is_over.store(true, Ordering::Relaxed);
            (watch.join().unwrap(), slowest, deleted, denied)
        });
        let share = |tally: &SecondTally| 100 * tally.answered / tally.asked.max(1);
        let lowest = seconds.iter().map(share).min().unwrap_or(0);
        let sum = |count: fn(&SecondTally) -> usize| seconds.iter().map(count).sum::<usize>();
        let peak = agent.cgroup.as_ref().and_then(MemoryCgroup::peak);
        let peak = peak.map_or_else(|| "–".to_owned(), |bytes| (bytes >> 20).to_string());
        println!(
            "| {what} | {} | {:.1} % | {lowest} % | {} | {} | {} | {peak} |",
            sum(|tally| tally.asked),
            100.0 * sum(|tally| tally.answered) as f64 / sum(|tally| tally.asked).max(1) as f64,
            slowest.as_millis(),
            deleted.as_millis(),
            denied.as_millis(),
        );
        if let Some(cgroup) = &agent.cgroup {
            assert_eq!(
                cgroup.count_kills().unwrap(),
                0,
                "killed for lack of memory"
            );
        }
        assert!(
            lowest >= scale.lowest_share,
            "in one second the kernel answered only {lowest} % of another tenant's queries: \
             {seconds:?}"
        );
        assert!(
            slowest <= scale.slowest_change,
            "another tenant's change was answered only after {slowest:?}"
        );
        for (what, longest) in [("a deleted name", deleted), ("a denied pod", denied)] {
            assert!(
                longest <= scale.slowest_end,
                "{what} was answered for {longest:?} more"
            );
        }
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

    /// Deletes and creates another tenant's Service until `end`. Returns the longest time for which
    /// the kernel answered the deleted name.
    fn delete_another_service(&self, end: Instant) -> Duration {
        let pod = PodClient::new(&self.topology);
        let ports = json!([{"name": "http", "port": 80}]);
        repeat_until(end, |slowest| {
            let deleted = service("shop", "deleted", "10.96.8.1", &ports);
            self.api.apply("services", deleted);
            wait_until(|| pod.service_address("deleted").is_some());
            self.api.delete("services", "shop", "deleted");
            *slowest = (*slowest).max(wait_until(|| pod.service_address("deleted").is_none()));
        })
    }

    /// Denies and allows a pod's egress until `end`. Returns the longest time for which the kernel
    /// answered the denied pod.
    fn deny_a_pod(&self, end: Instant) -> Duration {
        let victim = self.victim_client();
        let policy = json!({
            "metadata": {"namespace": "shop", "name": "deny"},
            "spec": {"podSelector": {"matchLabels": {"app": "victim"}}, "policyTypes": ["Egress"]},
        });
        repeat_until(end, |slowest| {
            wait_until(|| victim.web_ttl().is_some());
            self.api.apply("networkpolicies", policy.clone());
            *slowest = (*slowest).max(wait_until(|| victim.web_ttl().is_none()));
            self.api.delete("networkpolicies", "shop", "deny");
        })
    }
}

impl AttackScale {
    fn of_this_run() -> AttackScale {
        if env::var_os("ZEROHOP_FAULTS").is_some_and(|scale| scale == "full") {
            return AttackScale {
                length: Duration::from_secs(30),
                services: 10_004,
                shared_services: 1_000,
                policies: 1_000,
                memory: Some(256 << 20),
                slowest_change: Duration::from_secs(1),
                slowest_end: LEASE,
                lowest_share: 99,
            };
        }
        AttackScale {
            // Longer than the lease, so that a lease that is not renewed ends.
            length: LEASE * 2,
            services: 0,
            shared_services: 200,
            policies: 100,
            memory: None,
            slowest_end: Duration::from_secs(20),
            slowest_change: Duration::from_secs(20),
            lowest_share: 50,
        }
    }
}

/// Repeats an action, which gets the longest time so far, until `end`. Returns the longest time.
fn repeat_until(end: Instant, mut act: impl FnMut(&mut Duration)) -> Duration {
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        act(&mut slowest);
        thread::sleep(Duration::from_millis(200));
    }
    slowest
}

/// Waits until a condition holds. Returns how long that took.
fn wait_until(mut holds: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < LIMIT,
            "nothing has changed within {LIMIT:?}"
        );
        thread::sleep(Duration::from_millis(5));
    }
    started.elapsed()
}

/// A slice with one endpoint for each address.
fn slice(
    namespace: &str,
    service: &str,
    number: usize,
    addresses: impl Iterator<Item = String>,
    ports: &Value,
) -> Value {
    let endpoint = |address| json!({"addresses": [address], "conditions": {"ready": true}});
    let endpoints: Vec<Value> = addresses.map(endpoint).collect();
    json!({
        "metadata": {
            "namespace": namespace,
            "name": format!("{service}-{number}"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// A pod of this node.
fn pod(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": "this"},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
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
