//! Configuration that changes what pods are answered: NodeLocal DNSCache on the node, and edits of
//! CoreDNS's Corefile.

use serde_json::{Value, json};
use zerohop_contract::corefiles::{ALTERED_NODE_LOCAL_DNS, NODE_LOCAL_DNS};
use zerohop_tests::{topology::Topology, udp::eventually};

use super::{
    LIMIT, PodClient, SHORT_LEASE,
    api::{server::MemoryApiServer, start_cluster},
    start_agent,
};

const FLAGS: [&str; 2] = [SHORT_LEASE, "--node-name=this"];

fn config_map(name: &str, text: &str) -> Value {
    json!({"metadata": {"namespace": "kube-system", "name": name}, "data": {"Corefile": text}})
}

/// CoreDNS's Corefile with additional lines.
pub(super) fn corefile(lines: &str) -> Value {
    let text = format!(".:53 {{\n {lines}\n kubernetes cluster.local {{\n  ttl 30\n }}\n}}\n");
    config_map("coredns", &text)
}

/// The Service of the cluster's DNS, with the selector by which the agent finds CoreDNS's pods.
fn dns_service() -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    })
}

/// Times before and after every step of these tests.
const BEFORE: &str = "2026-01-01T00:00:00Z";
pub(super) const AFTER: &str = "2126-01-01T00:00:00Z";

/// The pod of CoreDNS, started at this time.
pub(super) fn dns_pod(started: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "kube-system",
            "name": "coredns",
            "labels": {"k8s-app": "kube-dns"}
        },
        "spec": {"nodeName": "other"},
        "status": {
            "phase": "Running", "podIPs": [{"ip": "10.244.0.9"}],
            "containerStatuses": [{"state": {"running": {"startedAt": started}}}],
        },
    })
}

/// The pod of NodeLocal DNSCache on the agent's node.
fn node_cache() -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "cache"},
        "spec": {
            "nodeName": "this", "hostNetwork": true,
            "containers": [{
                "name": "node-cache",
                "args": ["-localip", "169.254.20.10,10.96.0.10", "-conf", "/etc/Corefile"],
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
            }],
            "volumes": [{"name": "config", "configMap": {
                "name": "node-local-dns",
                "items": [{"key": "Corefile", "path": "Corefile.base"}],
            }}],
        },
        "status": {"phase": "Running"},
    })
}

/// Starts an API server with a cluster whose CoreDNS has `line` in its Corefile.
pub(super) fn start_api(topology: &Topology, line: &str) -> MemoryApiServer {
    let api = start_cluster(topology);
    api.apply("configmaps", corefile(line));
    api.apply("services", dns_service());
    api.apply("pods", dns_pod(BEFORE));
    api
}

/// Waits until the answer for `web` has this TTL. `None`: until the query passes.
fn wait_for_ttl(pod: &PodClient, ttl: Option<u32>) {
    let has_ttl = || Ok(pod.web_ttl() == ttl);
    assert!(
        eventually(LIMIT, has_ttl).unwrap(),
        "the TTL of `web` never became {ttl:?}"
    );
}

#[test]
fn names_that_a_node_cache_may_answer_itself_pass() {
    let topology = Topology::routed().unwrap();
    let api = start_api(&topology, "reload");
    api.apply(
        "configmaps",
        config_map("node-local-dns", ALTERED_NODE_LOCAL_DNS),
    );
    let _agent = start_agent(&topology.node, &api, &FLAGS);
    let pod = PodClient::new(&topology);
    wait_for_ttl(&pod, Some(30));
    api.apply("pods", node_cache());
    wait_for_ttl(&pod, None);
    // The names keep passing.
    for _ in 0..10 {
        assert_eq!(pod.web_ttl(), None);
    }
    api.delete("pods", "kube-system", "cache");
    wait_for_ttl(&pod, Some(30));
    // With Kubernetes' Corefile, NodeLocal DNSCache only lowers TTLs. Zerohop has one TTL for all
    // answers, so it uses the cap for denials, 5 s.
    api.apply("configmaps", config_map("node-local-dns", NODE_LOCAL_DNS));
    api.apply("pods", node_cache());
    wait_for_ttl(&pod, Some(5));
    // Without its Corefile it is not known which names NodeLocal DNSCache answers itself.
    api.delete("configmaps", "kube-system", "node-local-dns");
    wait_for_ttl(&pod, None);
}

#[test]
fn an_edited_corefile_is_not_used_before_coredns_uses_it() {
    let topology = Topology::routed().unwrap();
    // Without the plugin `reload`, CoreDNS reads a new Corefile only when it starts.
    let api = start_api(&topology, "log");
    let agent = start_agent(&topology.node, &api, &FLAGS);
    let pod = PodClient::new(&topology);
    wait_for_ttl(&pod, Some(30));
    let hosts = "reload\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }";
    api.apply("configmaps", corefile(hosts));
    wait_for_ttl(&pod, None);
    let status = agent.status().unwrap();
    let reason = "until its pods are restarted";
    assert!(status.contains(reason), "no {reason:?} in {status}");
    api.apply("pods", dns_pod(AFTER));
    wait_for_ttl(&pod, Some(30));
}
