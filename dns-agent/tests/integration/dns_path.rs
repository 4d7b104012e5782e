//! DNS servers behind the agent: NodeLocal DNSCache, and CoreDNS with an edited Corefile.

use std::time::{Duration, SystemTime};

use dns_agent::admin::{
    client,
    status::{SourceStatus, Status},
};
use domain::base::iana::Rtype;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use zerohop_contract::corefiles::{ALTERED_NODE_LOCAL_DNS, NODE_LOCAL_DNS};
use zerohop_zone::Name;

use crate::{
    agent::RunningAgent,
    policies::{
        ApiContents, CLIENTS, DNS_ENDPOINTS, DNS_PODS, PreparedApi, cluster, dns_slice, pod,
    },
    support::{FakeUpstream, PATIENCE, ask, last_address, query},
};

const COREFILE: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=coredns";
const CACHE_MAP: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=node-local-dns";
const UPSTREAM_SERVICES: &str = "/api/v1/namespaces/kube-system/services";
const SERVICES: &str = "/api/v1/services";

const WEB: &str = "web.shop.svc.cluster.local";

/// The TTL of answers from the cluster's DNS in these tests, in seconds, as
/// `support::address_reply` sets it.
const PASSED_TTL: u32 = 300;

/// CoreDNS's Corefile with an additional line.
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

/// The Pod with a container that starts this number of seconds from now. A program certainly has an
/// edited ConfigMap only if it starts 90 s after the edit or later (`KUBELET_DELAY`), and a node
/// cache only if it starts 100 s after the edit or later (`CACHE_SYNC_INTERVAL` more).
/// The tests use 110 s, because fractions of a second are cut off.
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

/// The Pod of NodeLocal DNSCache that answers at these addresses.
fn node_cache(local_ip: &str) -> Value {
    let mut pod = pod("kube-system", "cache-x7", "192.0.2.1", json!({}));
    pod["spec"] = json!({
        "nodeName": "this",
        "hostNetwork": true,
        "containers": [{
            "name": "node-cache",
            "args": [
                "-localip",
                local_ip,
                "-conf",
                "/etc/Corefile",
                "-upstreamsvc",
                "kube-dns-upstream"
            ],
            "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns"}],
        }],
        "volumes": [{"name": "config-volume", "configMap": {
            "name": "node-local-dns",
            "items": [{"key": "Corefile", "path": "Corefile.base"}],
        }}],
    });
    pod
}

/// The value of `-localip` in Kubernetes' manifest: a link-local address and the DNS Service's.
const BOTH: &str = "169.254.20.10,10.96.0.10";

/// A cluster with NodeLocal DNSCache on this node. `line` is added to CoreDNS's Corefile; `text` is
/// the Corefile of NodeLocal DNSCache.
fn with_cache(line: &str, local_ip: &str, text: &str) -> ApiContents {
    let mut contents = with_corefile(line);
    let items = &mut contents.items;
    items.entry(CLIENTS).or_default().push(node_cache(local_ip));
    items.insert(CACHE_MAP, vec![config_map("node-local-dns", text)]);
    let upstream = service("kube-system", "kube-dns-upstream", "10.96.0.99");
    items.insert(UPSTREAM_SERVICES, vec![upstream]);
    contents
}

fn with_corefile(line: &str) -> ApiContents {
    let mut contents = cluster(&[]);
    let items = &mut contents.items;
    items.insert(COREFILE, vec![corefile(line)]);
    let web = service("shop", "web", "10.96.1.1");
    items.entry(SERVICES).or_default().push(web);
    let namespaces = ["shop", "kube-system"];
    let namespaces = namespaces.map(|name| json!({"metadata": {"name": name}}));
    items.insert("/api/v1/namespaces", namespaces.to_vec());
    contents
}

/// Waits until the agent's answer has an A record with this TTL, in seconds. The status shows the
/// reasons of a plan before the plan is published.
async fn wait_for_ttl(running: &RunningAgent, name: &str, wanted: u32) {
    let mut last = None;
    let waiting = async {
        while last != Some(wanted) {
            last = Some(ask_ttl(running, name).await);
        }
    };
    let came = timeout(PATIENCE, waiting).await;
    assert!(
        came.is_ok(),
        "the TTL of {name} is {last:?}, and not {wanted}"
    );
}

/// The TTL of the A record in the agent's answer, in seconds.
async fn ask_ttl(running: &RunningAgent, name: &str) -> u32 {
    let reply = ask(running.server, &query(1, name, Rtype::A)).await;
    // After the TTL follow the length of the data, 2 bytes, and the address, 4 bytes.
    let ttl = &reply[reply.len() - 10..reply.len() - 6];
    u32::from_be_bytes(ttl.try_into().unwrap())
}

fn any_contains(texts: &[String], part: &str) -> bool {
    texts.iter().any(|text| text.contains(part))
}

fn reasons(status: &Status) -> &[String] {
    match &status.source {
        SourceStatus::Kubernetes(kubernetes) => &kubernetes.reasons,
        SourceStatus::Manifests(_) => panic!("the source is not an API server: {status}"),
    }
}

/// Whether everything is listed, and `status` has no reason why the kernel passes everything.
fn is_settled(status: &Status) -> bool {
    let is_held = any_contains(&status.degraded, "the kernel passes everything");
    status.missing.is_empty() && !is_held && status.objects.services > 0
}

const FLAGS: [&str; 1] = ["--node-name=this"];

#[tokio::test]
async fn the_slower_reload_of_both_corefiles_counts() {
    for (before, after, wanted) in [
        ("reload 10m 1m", "reload", "(reload 10m, jitter 1m)"),
        ("reload", "reload 20m 2m", "(reload 20m, jitter 2m)"),
        // A new Corefile without `reload` does not delay its own adoption.
        ("reload", "log", "(reload 30s, jitter 15s)"),
    ] {
        let server = PreparedApi::start(with_corefile(before)).await;
        let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
        let running = server.start_agent(&dns, &FLAGS).await;
        running.status_when(is_settled).await;
        // An edit after which CoreDNS answers differently.
        let hosts = "\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }";
        let edited = corefile(&format!("{after}{hosts}"));
        server.send_event(COREFILE, "MODIFIED", edited).await;
        let status = running
            .status_when(|status| any_contains(&status.degraded, "Corefile has changed"))
            .await;
        assert!(any_contains(&status.degraded, wanted), "{wanted}: {status}");
        // The only Pod of CoreDNS was started after the edit.
        server
            .send_event(DNS_PODS, "MODIFIED", started(dns_pod(), 110))
            .await;
        running.status_when(is_settled).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn without_reload_the_pods_must_have_been_started_after_the_edit() {
    let server = PreparedApi::start(with_corefile("log")).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &FLAGS).await;
    running.status_when(is_settled).await;
    let edited = corefile("reload\n hosts {\n  10.0.0.1 a.cluster.local\n  fallthrough\n }");
    server.send_event(COREFILE, "MODIFIED", edited).await;
    let is_waiting = |status: &Status| {
        any_contains(&status.degraded, "until its pods are restarted")
            && any_contains(&status.degraded, "(no reload)")
    };
    running.status_when(is_waiting).await;
    // Only one of two Pods was certainly started after the edit.
    let other = pod(
        "kube-system",
        "coredns-2",
        "10.244.0.8",
        json!({"k8s-app": "kube-dns"}),
    );
    server
        .send_event(DNS_PODS, "ADDED", started(other.clone(), 0))
        .await;
    server
        .send_event(DNS_PODS, "MODIFIED", started(dns_pod(), 110))
        .await;
    running.status_when(is_waiting).await;
    server.send_event(DNS_PODS, "DELETED", other).await;
    running.status_when(is_settled).await;
    running.stop().await;
}

#[tokio::test]
async fn names_that_a_node_cache_answers_differently_pass() {
    // The agent watches the node's Pods for node caches even if it ignores policies.
    for flags in [&FLAGS[..], &["--node-name=this", "--network-policy=ignore"]] {
        let server = PreparedApi::start(with_cache("reload", BOTH, ALTERED_NODE_LOCAL_DNS)).await;
        let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
        let running = server.start_agent(&dns, flags).await;
        running
            .status_when(|status| status.missing.is_empty() && !reasons(status).is_empty())
            .await;
        let status = running
            .status_when(|status| any_contains(reasons(status), "cache-x7: line 2: `template`"))
            .await;
        assert!(status.missing.is_empty(), "{status}");
        wait_for_ttl(&running, WEB, PASSED_TTL).await;
        wait_for_ttl(&running, "legacy.shop.svc.cluster.local", PASSED_TTL).await;

        // The node cache's old configuration has no `reload`.
        let plain = config_map("node-local-dns", NODE_LOCAL_DNS);
        server.send_event(CACHE_MAP, "MODIFIED", plain).await;
        running
            .status_when(|status| {
                any_contains(
                    &status.degraded,
                    "the Corefile of node cache kube-system/cache-x7",
                ) && any_contains(&status.degraded, "until its pods are restarted")
            })
            .await;
        server
            .send_event(CLIENTS, "MODIFIED", started(node_cache(BOTH), 110))
            .await;
        running.status_when(is_settled).await;
        // The agent answers, with the TTL to which the node cache caps 30 s.
        wait_for_ttl(&running, WEB, 5).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn the_node_cache_of_the_kubernetes_manifest_only_caps_ttls() {
    let server = PreparedApi::start(with_cache("reload", BOTH, NODE_LOCAL_DNS)).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &FLAGS).await;
    let status = running
        .status_when(|status| {
            is_settled(status) && any_contains(reasons(status), "cache-x7: line 3")
        })
        .await;
    assert!(
        any_contains(reasons(&status), "5 s instead of 30 s"),
        "{status}"
    );
    wait_for_ttl(&running, WEB, 5).await;

    // Without the node cache, pods would get the TTL of CoreDNS's Corefile.
    server
        .send_event(CLIENTS, "DELETED", node_cache(BOTH))
        .await;
    running
        .status_when(|status| is_settled(status) && !any_contains(reasons(status), "cache-x7"))
        .await;
    wait_for_ttl(&running, WEB, 30).await;
    // The node cache returns with another configuration.
    let altering = config_map("node-local-dns", ALTERED_NODE_LOCAL_DNS);
    server.send_event(CACHE_MAP, "MODIFIED", altering).await;
    server.send_event(CLIENTS, "ADDED", node_cache(BOTH)).await;
    running
        .status_when(|status| any_contains(reasons(status), "cache-x7"))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn everything_passes_if_the_config_map_of_a_node_cache_cannot_be_read() {
    let mut contents = with_cache("reload", BOTH, NODE_LOCAL_DNS);
    contents.refused.push(CACHE_MAP);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &FLAGS).await;
    let status = running
        .status_when(|status| any_contains(&status.degraded, "add node-local-dns to resourceNames"))
        .await;
    let reason =
        "node cache kube-system/cache-x7 answers at 10.96.0.10, and its configuration isn't known";
    assert!(any_contains(&status.degraded, reason), "{status}");
    assert!(
        any_contains(&status.degraded, "the kernel passes everything"),
        "{status}"
    );
    // Without the node cache everything is known.
    server
        .send_event(CLIENTS, "DELETED", node_cache(BOTH))
        .await;
    running.status_when(is_settled).await;
    running.stop().await;
}

#[tokio::test]
async fn a_node_cache_that_answers_differently_at_its_own_address_changes_nothing() {
    let server = PreparedApi::start(with_cache(
        "reload",
        "169.254.20.10",
        ALTERED_NODE_LOCAL_DNS,
    ))
    .await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &FLAGS).await;
    let status = running.status_when(is_settled).await;
    assert!(!any_contains(reasons(&status), "cache-x7"), "{status}");
    wait_for_ttl(&running, WEB, 30).await;
    running.stop().await;

    // With `--serve`, the node cache's address is served, so its configuration counts.
    let flags = ["--node-name=this", "--serve=169.254.20.10"];
    let running = server.start_agent(&dns, &flags).await;
    running
        .status_when(|status| any_contains(reasons(status), "cache-x7"))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn without_the_node_name_status_warns_that_node_caches_go_unnoticed() {
    let server = PreparedApi::start(with_cache("reload", BOTH, ALTERED_NODE_LOCAL_DNS)).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&dns, &[]).await;
    running
        .status_when(|status| {
            is_settled(status)
                && any_contains(
                    reasons(status),
                    "a node cache in front of CoreDNS would not be noticed",
                )
        })
        .await;
    running.stop().await;
}

/// A pod of this Deployment that runs CoreDNS with the ConfigMap `map`.
fn coredns_pod(app: &str, address: &str, map: &str) -> Value {
    let mut pod = pod("kube-system", app, address, json!({"k8s-app": app}));
    pod["spec"] = json!({
        "nodeName": "other",
        "dnsPolicy": "Default",
        "containers": [{
            "name": "coredns",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": map}}],
    });
    pod
}

const OTHER_SERVICE: &str = "/api/v1/namespaces/kube-system/services?metadata.name=coredns";
const OTHER_SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices?kubernetes.io/service-name=coredns";
const OTHER_PODS: &str = "/api/v1/namespaces/kube-system/pods?k8s-app=coredns";

/// A cluster with the Services kube-dns, with the Pod `dns_pod`, and coredns, whose Pod runs
/// CoreDNS.
fn with_two_services(dns_pod: Value) -> ApiContents {
    let mut contents = with_corefile("reload");
    let items = &mut contents.items;
    items.insert(DNS_PODS, vec![dns_pod]);
    let mut other = service("kube-system", "coredns", "10.96.0.11");
    other["spec"]["selector"] = json!({"k8s-app": "coredns"});
    other["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    items.entry(SERVICES).or_default().push(other.clone());
    items.insert(OTHER_SERVICE, vec![other]);
    items.insert(OTHER_SLICES, vec![dns_slice("coredns", "10.244.0.7")]);
    let pod = coredns_pod("coredns", "10.244.0.7", "coredns");
    items.insert(OTHER_PODS, vec![pod]);
    contents
}

#[tokio::test]
async fn a_service_is_replaced_while_its_pods_do_not_run_coredns() {
    const MAP: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=cluster-dns";
    let dns_pod = coredns_pod("kube-dns", "10.244.0.9", "cluster-dns");
    let mut not_coredns = dns_pod.clone();
    not_coredns["spec"]["containers"][0]["args"] = json!(["--listen=:53"]);
    let mut contents = with_two_services(not_coredns);
    let text = ".:53 {\n kubernetes cluster.local {\n  ttl 20\n }\n}\n";
    contents
        .items
        .insert(MAP, vec![config_map("cluster-dns", text)]);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let settle_time = Duration::from_millis(300);
    let running = server.start_searching_agent(&dns, settle_time).await;
    running
        .status_when(|status| {
            any_contains(
                &status.degraded,
                "Pod kube-system/kube-dns answers DNS: its container coredns has no path in -conf",
            )
        })
        .await;
    let status = running
        .status_when(|status| is_settled(status) && any_contains(reasons(status), "kube-dns"))
        .await;
    let reason = "Service kube-system/kube-dns is not taken for the cluster's DNS";
    assert!(any_contains(reasons(&status), reason), "{status}");
    wait_for_ttl(&running, WEB, 30).await;
    // The Pod is replaced by one that runs CoreDNS.
    server.set_items(DNS_PODS, vec![dns_pod.clone()]);
    server.send_event(DNS_PODS, "MODIFIED", dns_pod).await;
    wait_for_ttl(&running, WEB, 20).await;
    // CoreDNS is down.
    let mut slice = dns_slice("kube-dns", "10.244.0.9");
    slice["endpoints"][0]["conditions"] = json!({"ready": false});
    server.set_items(DNS_ENDPOINTS, vec![slice.clone()]);
    server.send_event(DNS_ENDPOINTS, "MODIFIED", slice).await;
    sleep(5 * settle_time).await;
    wait_for_ttl(&running, WEB, 20).await;
    let status = running.status().await;
    assert!(
        is_settled(&status) && !any_contains(reasons(&status), "is not taken"),
        "{status}"
    );
    running.stop().await;
}

#[tokio::test]
async fn the_status_says_the_missing_right_while_another_service_is_taken() {
    const MAP: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=cluster-dns";
    let pod = coredns_pod("kube-dns", "10.244.0.9", "cluster-dns");
    let mut contents = with_two_services(pod);
    contents.refused.push(MAP);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let settle_time = Duration::from_millis(300);
    let running = server.start_searching_agent(&dns, settle_time).await;
    let rule = "add cluster-dns to resourceNames of `configmaps`";
    running
        .status_when(|status| is_settled(status) && any_contains(reasons(status), rule))
        .await;
    wait_for_ttl(&running, WEB, 30).await;
    running.stop().await;
}

/// The addresses that the servers of stub domains give, before and after an edit.
const STUB: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
const CLUSTER_DNS: [u8; 4] = [9, 9, 9, 9];

/// Asks for names below a stub domain until the answer has this address.
async fn wait_for_stub(running: &RunningAgent, wanted: [u8; 4]) {
    let waiting = async {
        for id in 0.. {
            let message = query(id, &format!("n{id}.corp.example"), Rtype::A);
            if last_address(&ask(running.server, &message).await) == wanted {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn names_outside_the_cluster_follow_an_edited_corefile() {
    let servers = [
        FakeUpstream::answering(STUB[0]).await,
        FakeUpstream::answering(STUB[1]).await,
    ];
    let edited = |server: &FakeUpstream| {
        let text = format!(
            ".:53 {{\n kubernetes cluster.local\n forward . /etc/resolv.conf\n\
             rewrite name www.example {WEB}\n hosts {{\n 10.0.0.1 db.example\n fallthrough\n }}\n\
             }}\ncorp.example {{\n forward . {}\n}}\n",
            server.address
        );
        config_map("cluster-dns", &text)
    };
    const MAP: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=cluster-dns";
    let mut contents = with_corefile("reload");
    let pod = coredns_pod("kube-dns", "10.244.0.9", "cluster-dns");
    contents.items.insert(DNS_PODS, vec![pod]);
    contents.items.insert(MAP, vec![edited(&servers[0])]);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering(CLUSTER_DNS).await;
    let running = server
        .start_searching_agent(&dns, Duration::from_millis(300))
        .await;
    wait_for_stub(&running, STUB[0]).await;
    let status = running.status().await;
    let route = &status.resolver.routes;
    assert!(
        route
            .iter()
            .any(|group| group.origin == "Corefile, line 11"),
        "{status}"
    );
    for (name, route, is_route) in [
        (
            "db.example",
            "`hosts` or `template` in the Corefile answers it",
            true,
        ),
        (
            "www.example",
            "`rewrite` in the Corefile: web.shop.svc.cluster.local.",
            true,
        ),
        ("a.corp.example", "forwarded by Corefile, line 11", false),
    ] {
        let name = Name::parse(name).unwrap();
        let lookup = client::lookup(running.admin, &name, Rtype::A)
            .await
            .unwrap();
        let explained = lookup.route.as_ref().unwrap();
        assert!(explained.starts_with(route), "{lookup}");
        assert!(
            lookup.answer.iter().all(|record| record.route == is_route),
            "{lookup}"
        );
        assert!(!lookup.answer.is_empty(), "{lookup}");
    }
    // CoreDNS runs with the old Corefile until its pod is restarted, because there is no `reload`.
    server
        .send_event(MAP, "MODIFIED", edited(&servers[1]))
        .await;
    wait_for_stub(&running, CLUSTER_DNS).await;
    let pod = coredns_pod("kube-dns", "10.244.0.9", "cluster-dns");
    server
        .send_event(DNS_PODS, "MODIFIED", started(pod, 110))
        .await;
    wait_for_stub(&running, STUB[1]).await;
    // Without the server block, the cluster's DNS answers.
    let text = ".:53 {\n kubernetes cluster.local\n forward . 192.0.2.9\n unknown\n}\n";
    let unknown = config_map("cluster-dns", text);
    server.send_event(MAP, "MODIFIED", unknown).await;
    wait_for_stub(&running, CLUSTER_DNS).await;
    running.stop().await;
}

#[tokio::test]
async fn names_outside_the_cluster_follow_the_config_map_of_kube_dns() {
    const MAP: &str = "/api/v1/namespaces/kube-system/configmaps?metadata.name=kube-dns";
    let stub = FakeUpstream::answering(STUB[0]).await;
    let config = |domains: String| {
        json!({
            "metadata": {"namespace": "kube-system", "name": "kube-dns", "resourceVersion": "8"},
            "data": {"stubDomains": domains},
        })
    };
    let mut kube_dns = pod(
        "kube-system",
        "kube-dns",
        "10.244.0.9",
        json!({"k8s-app": "kube-dns"}),
    );
    kube_dns["spec"] = json!({
        "nodeName": "other",
        "dnsPolicy": "Default",
        "containers": [{
            "name": "kubedns",
            "args": ["--domain=cluster.local.", "--dns-port=10053", "--config-dir=/config"],
            "volumeMounts": [{"name": "config", "mountPath": "/config"}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": "kube-dns", "optional": true}}],
    });
    let mut contents = with_corefile("reload");
    contents.items.insert(DNS_PODS, vec![kube_dns]);
    let domains = format!("{{\"corp.example\": [\"{}\"]}}", stub.address);
    contents.items.insert(MAP, vec![config(domains)]);
    let server = PreparedApi::start(contents).await;
    let dns = FakeUpstream::answering(CLUSTER_DNS).await;
    let running = server
        .start_searching_agent(&dns, Duration::from_millis(300))
        .await;
    wait_for_stub(&running, STUB[0]).await;
    let status = running.status().await;
    assert!(any_contains(reasons(&status), "is kube-dns"), "{status}");
    // kube-dns ignores a configuration with an error.
    server
        .send_event(MAP, "MODIFIED", config("{".to_owned()))
        .await;
    wait_for_stub(&running, CLUSTER_DNS).await;
    running
        .status_when(|status| any_contains(reasons(status), "stubDomains in the ConfigMap"))
        .await;
    running.stop().await;
}
