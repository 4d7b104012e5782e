//! An agent that reads an API server: what it answers for, and what happens when that is gone.

pub(crate) mod server;

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use zerohop_tests::{bpffs::Bpffs, topology::Topology, udp::eventually};

use self::server::Api;
use super::{Agent, LIMIT, Pod, SHORT_LEASE, STALE_AFTER};

const COREFILE: &str = ".:53 {\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  ttl 5\n  fallthrough in-addr.arpa ip6.arpa\n }\n}\n";

/// An API server with the objects of a small cluster.
pub(super) fn cluster(topology: &Topology) -> Api {
    let api = Api::start(&topology.node);
    api.apply("configmaps", corefile(COREFILE));
    for name in ["kube-system", "shop"] {
        api.apply("namespaces", json!({"metadata": {"name": name}}));
    }
    api.apply("services", dns("10.96.0.10"));
    api.apply("services", web("10.96.1.1"));
    api
}

fn corefile(text: &str) -> Value {
    json!({"metadata": {"namespace": "kube-system", "name": "coredns"}, "data": {"Corefile": text}})
}

fn dns(address: &str) -> Value {
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
    service("kube-system", "kube-dns", address, &ports)
}

fn web(address: &str) -> Value {
    let ports = json!([{"name": "http", "port": 80}]);
    service("shop", "web", address, &ports)
}

pub(super) fn service(namespace: &str, name: &str, address: &str, ports: &Value) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports},
    })
}

#[test]
fn served_addresses_follow_the_dns_service() {
    let topology = Topology::routed().unwrap();
    let api = cluster(&topology);
    let _agent = Agent::start(&topology.node, &api, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    let is_served = || Ok(pod.ttl() == Some(5));
    assert!(eventually(LIMIT, is_served).unwrap());

    api.apply("services", dns("10.96.0.11"));
    assert!(eventually(LIMIT, || Ok(!is_served()?)).unwrap());
    api.apply("services", dns("10.96.0.10"));
    assert!(eventually(LIMIT, is_served).unwrap());
    api.delete("services", "kube-system", "kube-dns");
    assert!(eventually(LIMIT, || Ok(!is_served()?)).unwrap());
}

#[test]
fn an_api_server_that_is_gone_changes_no_answer() {
    let topology = Topology::routed().unwrap();
    let mut api = cluster(&topology);
    let _agent = Agent::start(&topology.node, &api, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    assert!(eventually(LIMIT, || Ok(pod.ttl() == Some(5))).unwrap());
    api.stop();
    let stopped = Instant::now();
    while stopped.elapsed() < 2 * STALE_AFTER {
        assert_eq!(pod.ttl(), Some(5));
    }
    api.apply("services", web("10.96.1.9"));
    api.resume(&topology.node);
    let is_new = || Ok(pod.address("web") == Some([10, 96, 1, 9]));
    assert!(eventually(4 * LIMIT, is_new).unwrap());
}

/// CoreDNS may go on with the old one for a while, so hooks that are left then must not answer either.
#[test]
fn what_an_agent_leaves_after_a_change_of_the_corefile_passes() {
    let topology = Topology::routed().unwrap();
    let bpffs = Bpffs::new().unwrap();
    let api = cluster(&topology);
    let flag = format!("--bpffs={}", bpffs.path().display());
    let flags = [SHORT_LEASE, "--persist", &flag];
    let mut agent = Agent::start(&topology.node, &api, &flags);
    let pod = Pod::new(&topology);
    assert!(eventually(LIMIT, || Ok(pod.ttl() == Some(5))).unwrap());
    api.apply("configmaps", corefile(&COREFILE.replace("ttl 5", "ttl 7")));
    assert!(eventually(LIMIT, || Ok(pod.ttl().is_none())).unwrap());
    agent.end(Signal::SIGTERM);
    let is_left = || dns_agent::datapath::pins::are_there(bpffs.path());
    assert!(topology.node.enter(is_left).unwrap());
    for _ in 0..10 {
        assert_eq!(pod.ttl(), None);
    }
}

#[test]
fn a_service_that_can_not_be_read_passes() {
    let topology = Topology::routed().unwrap();
    let api = cluster(&topology);
    let _agent = Agent::start(&topology.node, &api, &[SHORT_LEASE]);
    let pod = Pod::new(&topology);
    let has = |address| move |pod: &Pod| Ok(pod.address("web") == Some(address));
    assert!(eventually(LIMIT, || has([10, 96, 1, 1])(&pod)).unwrap());
    api.apply("services", web("010.096.001.001"));
    assert!(eventually(LIMIT, || Ok(pod.ask("web").is_none())).unwrap());
    api.apply("services", web("10.96.1.2"));
    assert!(eventually(LIMIT, || has([10, 96, 1, 2])(&pod)).unwrap());
}
