//! The answers of an agent that reads its objects from a Kubernetes API server, also while that
//! server is down.

pub(crate) mod server;

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use zerohop_tests::{bpffs::Bpffs, topology::Topology, udp::eventually};

use self::server::MemoryApiServer;
use super::{LIMIT, PodClient, SHORT_LEASE, STALE_AFTER, start_agent};

const COREFILE: &str = ".:53 {\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  ttl 5\n  fallthrough in-addr.arpa ip6.arpa\n }\n}\n";

/// Starts an API server with the objects of a small cluster.
pub(super) fn start_cluster(topology: &Topology) -> MemoryApiServer {
    let api = MemoryApiServer::start(&topology.node);
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
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": ports
        },
    })
}

#[test]
fn served_addresses_follow_the_dns_service() {
    let topology = Topology::routed().unwrap();
    let api = start_cluster(&topology);
    let _agent = start_agent(&topology.node, &api, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    let is_served = || Ok(pod.web_ttl() == Some(5));
    assert!(eventually(LIMIT, is_served).unwrap());

    api.apply("services", dns("10.96.0.11"));
    assert!(eventually(LIMIT, || Ok(!is_served()?)).unwrap());
    api.apply("services", dns("10.96.0.10"));
    assert!(eventually(LIMIT, is_served).unwrap());
    api.delete("services", "kube-system", "kube-dns");
    assert!(eventually(LIMIT, || Ok(!is_served()?)).unwrap());
}

#[test]
fn an_api_server_that_is_down_changes_no_answer() {
    let topology = Topology::routed().unwrap();
    let mut api = start_cluster(&topology);
    let _agent = start_agent(&topology.node, &api, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    assert!(eventually(LIMIT, || Ok(pod.web_ttl() == Some(5))).unwrap());
    api.stop();
    let stopped = Instant::now();
    // Longer than the lease, so the answers show that the agent still renews it.
    while stopped.elapsed() < 2 * STALE_AFTER {
        assert_eq!(pod.web_ttl(), Some(5));
    }
    api.apply("services", web("10.96.1.9"));
    api.resume(&topology.node);
    let is_new = || Ok(pod.service_address("web") == Some([10, 96, 1, 9]));
    assert!(eventually(LIMIT, is_new).unwrap());
}

/// CoreDNS may use the old Corefile for a while, so neither the agent nor hooks that outlive it may
/// answer.
#[test]
fn hooks_that_outlive_an_agent_pass_after_a_change_of_the_corefile() {
    let topology = Topology::routed().unwrap();
    let bpffs = Bpffs::new().unwrap();
    let api = start_cluster(&topology);
    let flag = format!("--bpffs={}", bpffs.path().display());
    let flags = [SHORT_LEASE, "--persist", &flag];
    let mut agent = start_agent(&topology.node, &api, &flags);
    let pod = PodClient::new(&topology);
    assert!(eventually(LIMIT, || Ok(pod.web_ttl() == Some(5))).unwrap());
    api.apply("configmaps", corefile(&COREFILE.replace("ttl 5", "ttl 7")));
    assert!(eventually(LIMIT, || Ok(pod.web_ttl().is_none())).unwrap());
    agent.end_by(Signal::SIGTERM).unwrap();
    let has_hooks = || zerohop_datapath::pins::folder_exists(bpffs.path());
    assert!(
        topology.node.enter(has_hooks).unwrap(),
        "the hooks did not outlive the agent"
    );
    for _ in 0..10 {
        assert_eq!(pod.web_ttl(), None);
    }
}

#[test]
fn queries_for_an_unreadable_service_pass() {
    let topology = Topology::routed().unwrap();
    let api = start_cluster(&topology);
    let _agent = start_agent(&topology.node, &api, &[SHORT_LEASE]);
    let pod = PodClient::new(&topology);
    let has_address = |address| Ok(pod.service_address("web") == Some(address));
    assert!(eventually(LIMIT, || has_address([10, 96, 1, 1])).unwrap());
    // The leading zeros make the address unreadable.
    api.apply("services", web("010.096.001.001"));
    assert!(eventually(LIMIT, || Ok(pod.ask_for("web").is_none())).unwrap());
    api.apply("services", web("10.96.1.2"));
    assert!(eventually(LIMIT, || has_address([10, 96, 1, 2])).unwrap());
}
