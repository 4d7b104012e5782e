//! What stands between pods and CoreDNS: what the kernel does about it.

use serde_json::{Value, json};
use zerohop_tests::{topology::Topology, udp::eventually};

use super::{
    Agent, LIMIT, Pod, SHORT_LEASE,
    api::{cluster, server::Api},
};

const FLAGS: [&str; 2] = [SHORT_LEASE, "--node-name=this"];

/// bugs.md, B14.
const B14: &str = "cluster.local:53 {
    template IN AAAA cluster.local {
        rcode NOERROR
    }
    rewrite name exact legacy.shop.svc.cluster.local ok.shop.svc.cluster.local
    cache 30
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.99
}
";

/// The block of the cluster's domain in kubernetes' own manifest.
const PLAIN: &str = "cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 7
    }
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
    }
";

fn config_map(name: &str, text: &str) -> Value {
    json!({"metadata": {"namespace": "kube-system", "name": name}, "data": {"Corefile": text}})
}

/// CoreDNS's Corefile with this line more.
fn corefile(line: &str) -> Value {
    let text = format!(".:53 {{\n {line}\n kubernetes cluster.local {{\n  ttl 30\n }}\n}}\n");
    config_map("coredns", &text)
}

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

/// Before and after everything that happens here.
const BEFORE: &str = "2026-01-01T00:00:00Z";
const AFTER: &str = "2126-01-01T00:00:00Z";

/// The pod of CoreDNS, started then.
fn dns_pod(started: &str) -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "coredns", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"nodeName": "other"},
        "status": {
            "phase": "Running", "podIPs": [{"ip": "10.244.0.9"}],
            "containerStatuses": [{"state": {"running": {"startedAt": started}}}],
        },
    })
}

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

fn api(topology: &Topology, line: &str) -> Api {
    let api = cluster(topology);
    api.apply("configmaps", corefile(line));
    api.apply("services", dns_service());
    api.apply("pods", dns_pod(BEFORE));
    api
}

/// Waits until a pod's question is answered with this TTL; none: it passes.
fn becomes(pod: &Pod, ttl: Option<u32>) {
    let is_so = || Ok(pod.ttl() == ttl);
    assert!(eventually(LIMIT, is_so).unwrap(), "{ttl:?}");
}

#[test]
fn what_a_node_cache_may_answer_itself_passes() {
    let topology = Topology::routed().unwrap();
    let api = api(&topology, "reload");
    api.apply("configmaps", config_map("node-local-dns", B14));
    let _agent = Agent::start(&topology.node, &api, &FLAGS);
    let pod = Pod::new(&topology);
    becomes(&pod, Some(30));
    api.apply("pods", node_cache());
    becomes(&pod, None);
    // It stays so.
    for _ in 0..10 {
        assert_eq!(pod.ttl(), None);
    }
    api.delete("pods", "kube-system", "cache");
    becomes(&pod, Some(30));
    // With a Corefile like kubernetes' own it lowers TTLs.
    api.apply("configmaps", config_map("node-local-dns", PLAIN));
    api.apply("pods", node_cache());
    becomes(&pod, Some(7));
    api.delete("configmaps", "kube-system", "node-local-dns");
    becomes(&pod, None);
}

#[test]
fn an_edited_corefile_is_not_followed_before_coredns_has_it() {
    let topology = Topology::routed().unwrap();
    let api = api(&topology, "log");
    let agent = Agent::start(&topology.node, &api, &FLAGS);
    let pod = Pod::new(&topology);
    becomes(&pod, Some(30));
    let hosts = "reload\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }";
    api.apply("configmaps", corefile(hosts));
    becomes(&pod, None);
    let status = agent.status(&topology.node);
    assert!(
        status.contains("until its pods are started again"),
        "{status}"
    );
    api.apply("pods", dns_pod(AFTER));
    becomes(&pod, Some(30));
}
