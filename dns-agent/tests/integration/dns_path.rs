//! What stands between pods and CoreDNS: node caches, and Corefiles that were edited.

use std::time::{Duration, SystemTime};

use dns_agent::admin::status::{SourceStatus, Status};
use domain::base::iana::Rtype;
use serde_json::{Value, json};

use crate::{
    agent::Running,
    policies::{CLIENTS, DNS_PODS, Lists, Server, cluster, pod},
    support::{Upstream, ask, query},
};

const COREFILE: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=coredns";
const CACHE_MAP: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=node-local-dns";
const UPSTREAM_SERVICES: &str = "/api/v1/namespaces/kube-system/services";
const SERVICES: &str = "/api/v1/services";

const WEB: &str = "web.shop.svc.cluster.local";

/// What the cluster's DNS of these tests answers, and the TTL that it has.
const PASSED: u32 = 300;

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

/// What kubernetes' own manifest has.
const PLAIN: &str = "cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
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
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
.:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.96.0.10
    forward . __PILLAR__UPSTREAM__SERVERS__
    prometheus :9253
    }
";

/// A Corefile with this line more.
fn corefile(line: &str) -> Value {
    let text = format!(
        ".:53 {{\n {line}\n kubernetes cluster.local in-addr.arpa {{\n  ttl 30\n }}\n forward . /etc/resolv.conf\n}}\n"
    );
    config_map("coredns", &text)
}

fn config_map(name: &str, text: &str) -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": name, "resourceVersion": "8"},
        "data": {"Corefile": text},
    })
}

fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": "7"},
        "spec": {
            "clusterIP": address, "clusterIPs": [address],
            "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    })
}

/// A pod whose container was started so many seconds after now.
fn started(mut pod: Value, seconds: u64) -> Value {
    let at = SystemTime::now() + Duration::from_secs(seconds);
    let at = humantime::format_rfc3339_seconds(at).to_string();
    pod["status"]["containerStatuses"] = json!([{
        "name": "dns", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": at}},
    }]);
    pod
}

fn dns_pod() -> Value {
    pod(
        "kube-system",
        "coredns",
        "10.244.0.9",
        json!({"k8s-app": "kube-dns"}),
    )
}

/// A node cache that answers at these addresses.
fn node_cache(local_ip: &str) -> Value {
    let mut pod = pod("kube-system", "cache-x7", "192.0.2.1", json!({}));
    pod["spec"] = json!({
        "nodeName": "this",
        "hostNetwork": true,
        "containers": [{
            "name": "node-cache",
            "args": ["-localip", local_ip, "-conf", "/etc/Corefile", "-upstreamsvc", "kube-dns-upstream"],
            "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns"}],
        }],
        "volumes": [{"name": "config-volume", "configMap": {
            "name": "node-local-dns",
            "items": [{"key": "Corefile", "path": "Corefile.base"}],
        }}],
    });
    pod
}

const BOTH: &str = "169.254.20.10,10.96.0.10";

/// A cluster whose CoreDNS has this Corefile, with a node cache on this node.
fn with_cache(line: &str, local_ip: &str, text: &str) -> Lists {
    let mut lists = with_corefile(line);
    let items = &mut lists.items;
    items.entry(CLIENTS).or_default().push(node_cache(local_ip));
    items.insert(CACHE_MAP, vec![config_map("node-local-dns", text)]);
    let upstream = service("kube-system", "kube-dns-upstream", "10.96.0.99");
    items.insert(UPSTREAM_SERVICES, vec![upstream]);
    lists
}

fn with_corefile(line: &str) -> Lists {
    let mut lists = cluster(&[]);
    let items = &mut lists.items;
    items.insert(COREFILE, vec![corefile(line)]);
    let web = service("shop", "web", "10.96.1.1");
    items.entry(SERVICES).or_default().push(web);
    let namespaces = ["shop", "kube-system"];
    let namespaces = namespaces.map(|name| json!({"metadata": {"name": name}}));
    items.insert("/api/v1/namespaces", namespaces.to_vec());
    lists
}

/// The TTL of a name's address.
async fn ttl(running: &Running, name: &str) -> u32 {
    let reply = ask(running.server, &query(1, name, Rtype::A)).await;
    let ttl = &reply[reply.len() - 10..reply.len() - 6];
    u32::from_be_bytes(ttl.try_into().unwrap())
}

fn says(texts: &[String], what: &str) -> bool {
    texts.iter().any(|text| text.contains(what))
}

fn reasons(status: &Status) -> &[String] {
    match &status.source {
        SourceStatus::Kubernetes(kubernetes) => &kubernetes.reasons,
        SourceStatus::Manifests(_) => panic!("{status}"),
    }
}

/// Everything is known, and nothing keeps the kernel from answering.
fn is_settled(status: &Status) -> bool {
    let is_held = says(&status.degraded, "the kernel passes everything");
    status.missing.is_empty() && !is_held && status.objects.services > 0
}

const FLAGS: [&str; 1] = ["--node-name=this"];

#[tokio::test]
async fn the_interval_of_the_corefile_before_counts() {
    for (before, after, wanted) in [
        ("reload 10m 1m", "reload", "(reload 10m, jitter 1m)"),
        ("reload", "reload 20m 2m", "(reload 20m, jitter 2m)"),
        ("reload", "log", "(reload 30s, jitter 15s)"),
    ] {
        let server = Server::start(with_corefile(before)).await;
        let dns = Upstream::answering([9, 9, 9, 9]).await;
        let running = server.agent(&dns, &FLAGS).await;
        running.status_when(is_settled).await;
        let hosts = "\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }";
        let edited = corefile(&format!("{after}{hosts}"));
        server.tell(COREFILE, "MODIFIED", edited).await;
        let status = running
            .status_when(|status| says(&status.degraded, "Corefile has changed"))
            .await;
        assert!(says(&status.degraded, wanted), "{wanted}: {status}");
        // The pods that run were started after that.
        server
            .tell(DNS_PODS, "MODIFIED", started(dns_pod(), 100))
            .await;
        running.status_when(is_settled).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn without_reload_the_pods_must_have_been_started_after_the_edit() {
    let server = Server::start(with_corefile("log")).await;
    let dns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&dns, &FLAGS).await;
    running.status_when(is_settled).await;
    let edited = corefile("reload\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }");
    server.tell(COREFILE, "MODIFIED", edited).await;
    let is_waiting = |status: &Status| {
        says(&status.degraded, "until its pods are started again")
            && says(&status.degraded, "(no reload)")
    };
    running.status_when(is_waiting).await;
    let other = pod(
        "kube-system",
        "coredns-2",
        "10.244.0.8",
        json!({"k8s-app": "kube-dns"}),
    );
    server
        .tell(DNS_PODS, "ADDED", started(other.clone(), 0))
        .await;
    server
        .tell(DNS_PODS, "MODIFIED", started(dns_pod(), 100))
        .await;
    running.status_when(is_waiting).await;
    server.tell(DNS_PODS, "DELETED", other).await;
    running.status_when(is_settled).await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_cache_with_rules_of_its_own_lets_names_pass() {
    for flags in [&FLAGS[..], &["--node-name=this", "--network-policy=ignore"]] {
        let server = Server::start(with_cache("reload", BOTH, B14)).await;
        let dns = Upstream::answering([9, 9, 9, 9]).await;
        let running = server.agent(&dns, flags).await;
        let status = running
            .status_when(|status| status.missing.is_empty() && !reasons(status).is_empty())
            .await;
        assert!(
            running
                .status_when(|status| says(reasons(status), "cache-x7: line 2: `template`"))
                .await
                .missing
                .is_empty(),
            "{status}"
        );
        assert_eq!(ttl(&running, WEB).await, PASSED);
        assert_eq!(ttl(&running, "legacy.shop.svc.cluster.local").await, PASSED);

        // It has no `reload`.
        let plain = config_map("node-local-dns", PLAIN);
        server.tell(CACHE_MAP, "MODIFIED", plain).await;
        running
            .status_when(|status| {
                says(
                    &status.degraded,
                    "the Corefile of node cache kube-system/cache-x7",
                ) && says(&status.degraded, "until its pods are started again")
            })
            .await;
        server
            .tell(CLIENTS, "MODIFIED", started(node_cache(BOTH), 101))
            .await;
        running.status_when(is_settled).await;
        assert_eq!(ttl(&running, WEB).await, 5);
        running.stop().await;
    }
}

#[tokio::test]
async fn the_node_cache_of_kubernetes_manifest_caps_ttls_and_lets_names_be_answered() {
    let server = Server::start(with_cache("reload", BOTH, PLAIN)).await;
    let dns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&dns, &FLAGS).await;
    let status = running
        .status_when(|status| is_settled(status) && says(reasons(status), "cache-x7: line 3"))
        .await;
    assert!(says(reasons(&status), "5 s instead of 30 s"), "{status}");
    assert_eq!(ttl(&running, WEB).await, 5);

    // It goes, and CoreDNS answers.
    server.tell(CLIENTS, "DELETED", node_cache(BOTH)).await;
    running
        .status_when(|status| is_settled(status) && !says(reasons(status), "cache-x7"))
        .await;
    assert_eq!(ttl(&running, WEB).await, 30);
    // It comes again, with another text.
    let b14 = config_map("node-local-dns", B14);
    server.tell(CACHE_MAP, "MODIFIED", b14).await;
    server.tell(CLIENTS, "ADDED", node_cache(BOTH)).await;
    running
        .status_when(|status| says(reasons(status), "cache-x7"))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_cache_whose_config_map_can_not_be_read_lets_everything_pass() {
    let mut lists = with_cache("reload", BOTH, PLAIN);
    lists.refused.push(CACHE_MAP);
    let server = Server::start(lists).await;
    let dns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&dns, &FLAGS).await;
    let status = running
        .status_when(|status| says(&status.degraded, "resourceNames: [node-local-dns]"))
        .await;
    let what =
        "node cache kube-system/cache-x7 answers at 10.96.0.10, and what it answers isn't known";
    assert!(says(&status.degraded, what), "{status}");
    assert!(
        says(&status.degraded, "the kernel passes everything"),
        "{status}"
    );
    // Without it everything is known.
    server.tell(CLIENTS, "DELETED", node_cache(BOTH)).await;
    running.status_when(is_settled).await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_cache_that_is_not_in_the_way_changes_nothing() {
    let server = Server::start(with_cache("reload", "169.254.20.10", B14)).await;
    let dns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&dns, &FLAGS).await;
    let status = running.status_when(is_settled).await;
    assert!(!says(reasons(&status), "cache-x7"), "{status}");
    assert_eq!(ttl(&running, WEB).await, 30);
    assert!(!server.was_asked(CACHE_MAP));
    running.stop().await;

    // It is, where the operator says that its address is served.
    let flags = ["--node-name=this", "--serve=169.254.20.10"];
    let running = server.agent(&dns, &flags).await;
    running
        .status_when(|status| says(reasons(status), "cache-x7"))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn without_the_nodes_name_it_is_said_that_node_caches_are_not_noticed() {
    let server = Server::start(with_cache("reload", BOTH, B14)).await;
    let dns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&dns, &[]).await;
    running
        .status_when(|status| {
            is_settled(status)
                && says(
                    reasons(status),
                    "a node cache in front of CoreDNS is not noticed",
                )
        })
        .await;
    running.stop().await;
}
