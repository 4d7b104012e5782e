//! An agent that reads a fake API server on a real socket.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use dns_agent::{
    admin::lookup::AnsweringPlane,
    admin::status::{SourceStatus, Status},
};
use domain::base::iana::Rtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    agent::RunningAgent,
    fake::{BodyWriter, FakeApi, PendingRequest},
    lookup,
    support::{
        FakeUpstream, ask, config_with_source, http_get, kubeconfig, last_address, query, rcode,
    },
};

const WEB: &str = "web.shop.svc.cluster.local";
const GHOST: &str = "ghost.shop.svc.cluster.local";

// Response codes, RFC 1035 section 4.1.1.
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

const COREFILE: &str = ".:53 {\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  ttl 30\n  fallthrough in-addr.arpa ip6.arpa\n }\n forward . /etc/resolv.conf\n}\n";

/// A fake API server that answers a list or watch only when the test calls for it.
struct SteppedApi {
    api: FakeApi,
    kubeconfig: TempDir,
    /// Unanswered requests, by the last segment of the path and whether they are watches.
    unanswered: BTreeMap<(String, bool), PendingRequest>,
    _served: JoinHandle<()>,
}

impl SteppedApi {
    async fn start() -> SteppedApi {
        let (router, api) = FakeApi::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = kubeconfig(address);
        SteppedApi {
            api,
            kubeconfig,
            unanswered: BTreeMap::new(),
            _served: tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }),
        }
    }

    /// Starts an agent that reads this API server and forwards queries for other names to
    /// `cluster_dns`.
    async fn start_agent(&self, cluster_dns: &FakeUpstream, flags: &[&str]) -> RunningAgent {
        let file = self.kubeconfig.path().join("config");
        let cluster_dns = cluster_dns.address.to_string();
        let own = [
            "--kubeconfig",
            file.to_str().unwrap(),
            "--corefile=kube-system/coredns",
            "--dns-service=kube-system/kube-dns",
            "--cluster-dns",
            &cluster_dns,
        ];
        RunningAgent::start_with(config_with_source(&[&own, flags].concat())).await
    }

    /// The next list or watch of the objects with this plural.
    async fn next_request(&mut self, plural: &str, is_watch: bool) -> PendingRequest {
        loop {
            if let Some(request) = self.unanswered.remove(&(plural.to_owned(), is_watch)) {
                return request;
            }
            let request = self.api.next_request().await;
            let last = request.path.rsplit('/').next().unwrap().to_owned();
            // Without a version, the agent never requests a list as the beginning of a watch.
            if last == "version" {
                request.refuse(404, "NotFound", "no version");
                continue;
            }
            let other_is_watch = request.parameter("watch").is_some();
            self.unanswered.insert((last, other_is_watch), request);
        }
    }

    /// Answers a list, and returns the watch that follows it. Dropping it ends the watch.
    async fn answer_list(&mut self, plural: &str, items: &[Value]) -> BodyWriter {
        self.next_request(plural, false)
            .await
            .respond_with_list("7", items);
        self.next_request(plural, true).await.start_body()
    }

    /// Answers the list of ConfigMaps with CoreDNS's Corefile.
    async fn answer_corefile(&mut self, text: &str) -> BodyWriter {
        self.answer_list("configmaps", &[config_map(text)]).await
    }
}

fn config_map(text: &str) -> Value {
    json!({
        "metadata": {"namespace": "kube-system", "name": "coredns", "resourceVersion": "8"},
        "data": {"Corefile": text}
    })
}

fn namespace() -> Value {
    json!({"metadata": {"name": "shop", "resourceVersion": "7"}})
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": "9"},
        "spec": {"clusterIP": address, "ports": [{"name": "http", "port": 80}]},
    })
}

/// Whether the agent waits because CoreDNS may not have read the Corefile yet.
fn is_waiting_for_coredns(status: &Status) -> bool {
    let mut degraded = status.degraded.iter();
    degraded.any(|reason| reason.contains("Corefile has changed"))
}

async fn ask_rcode(running: &RunningAgent, name: &str) -> u8 {
    rcode(&ask(running.server, &query(1, name, Rtype::A)).await)
}

async fn ask_address(running: &RunningAgent, name: &str) -> [u8; 4] {
    last_address(&ask(running.server, &query(1, name, Rtype::A)).await)
}

#[tokio::test]
async fn known_names_are_answered_but_none_is_denied_before_all_is_listed() {
    let mut server = SteppedApi::start().await;
    let coredns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&coredns, &[]).await;
    assert_eq!(ask_rcode(&running, GHOST).await, SERVFAIL);
    let status = running.status().await;
    assert!(status.missing[0].contains("Corefile"), "{status}");

    let _corefile = server.answer_corefile(COREFILE).await;
    let _namespaces = server.answer_list("namespaces", &[namespace()]).await;
    let services = [service("web", "10.0.0.1"), service("db", "None")];
    let services = server.answer_list("services", &services).await;
    running
        .status_when(|status| status.objects.services == 2)
        .await;
    // A headless Service exists, so the agent has requested slices. They are not listed yet.
    assert_eq!(ask_address(&running, WEB).await, [10, 0, 0, 1]);
    assert_eq!(ask_rcode(&running, GHOST).await, SERVFAIL);
    // No type of an existing name is denied either before all is listed.
    let aaaa = query(1, WEB, Rtype::AAAA);
    assert_eq!(rcode(&ask(running.server, &aaaa).await), SERVFAIL);
    let status = running.status().await;
    assert!(status.missing[0].contains("EndpointSlices"), "{status}");

    let slices = server.next_request("endpointslices", false).await;
    let selector = slices.parameter("labelSelector");
    assert_eq!(selector, Some("kubernetes.io/service-name in (db)"));
    slices.respond_with_list("7", &[]);
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert_eq!(ask_rcode(&running, GHOST).await, NXDOMAIN);
    assert_eq!(rcode(&ask(running.server, &aaaa).await), 0);
    // Names of endpoints below Services with a ClusterIP are delegated to CoreDNS.
    let endpoint = format!("10-1-0-1.{WEB}");
    assert_eq!(ask_address(&running, &endpoint).await, [9, 9, 9, 9]);

    services
        .send_event(("MODIFIED", service("web", "10.0.0.2")))
        .await;
    services
        .send_event(("ADDED", service("ghost", "10.0.0.3")))
        .await;
    running
        .status_when(|status| status.objects.services == 3)
        .await;
    assert_eq!(ask_address(&running, WEB).await, [10, 0, 0, 2]);
    assert_eq!(ask_address(&running, GHOST).await, [10, 0, 0, 3]);
    let reply = ask(running.server, &query(1, WEB, Rtype::A)).await;
    // After the TTL follow the length of the data, 2 bytes, and the address, 4 bytes.
    let ttl = &reply[reply.len() - 10..reply.len() - 6];
    assert_eq!(ttl, [0, 0, 0, 30], "the TTL is not the Corefile's");
    running.stop().await;
}

#[tokio::test]
async fn without_a_supported_corefile_every_name_passes_to_coredns() {
    for (text, reason) in [
        ("import /etc/coredns/custom/*\n", "import"),
        (".:53 {\n forward . /etc/resolv.conf\n}\n", "kubernetes"),
    ] {
        let mut server = SteppedApi::start().await;
        let coredns = FakeUpstream::answering([9, 9, 9, 9]).await;
        let running = server.start_agent(&coredns, &[]).await;
        let _corefile = server.answer_corefile(text).await;
        let status = running
            .status_when(|status| !status.degraded.is_empty())
            .await;
        let SourceStatus::Kubernetes(source) = &status.source else {
            panic!("the source is not an API server: {status}");
        };
        assert!(source.reasons.join("\n").contains(reason), "{status}");
        assert!(
            status.zones.is_empty() && status.missing.is_empty(),
            "{status}"
        );
        assert_eq!(ask_address(&running, WEB).await, [9, 9, 9, 9]);
        running.stop().await;
    }
}

#[tokio::test]
async fn without_any_corefile_the_settings_count_only_with_trust_zone() {
    for (flags, answered) in [
        (&["--trust-zone", "--ttl=7"][..], [10, 0, 0, 1]),
        (&[], [9; 4]),
    ] {
        let mut server = SteppedApi::start().await;
        let coredns = FakeUpstream::answering([9, 9, 9, 9]).await;
        let running = server.start_agent(&coredns, flags).await;
        let _configmaps = server.answer_list("configmaps", &[]).await;
        // Without --trust-zone, nothing but the Corefile is read.
        if !flags.is_empty() {
            server.answer_list("namespaces", &[namespace()]).await;
            server
                .answer_list("services", &[service("web", "10.0.0.1")])
                .await;
        }
        running
            .status_when(|status| status.missing.is_empty())
            .await;
        assert_eq!(ask_address(&running, WEB).await, answered);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_changed_corefile_is_followed() {
    let mut server = SteppedApi::start().await;
    let coredns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&coredns, &["--endpoints=all"]).await;
    let corefile = server.answer_corefile(COREFILE).await;
    server.answer_list("namespaces", &[namespace()]).await;
    server
        .answer_list("services", &[service("web", "10.0.0.1")])
        .await;
    server.answer_list("endpointslices", &[]).await;
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert_eq!(ask_rcode(&running, GHOST).await, NXDOMAIN);

    // The new Corefile selects different objects, so everything is listed again.
    let selecting = COREFILE.replace("ttl 30", "ttl 30\n  labels tier=front");
    corefile
        .send_event(("MODIFIED", config_map(&selecting)))
        .await;
    running
        .status_when(|status| !status.missing.is_empty())
        .await;
    assert_eq!(ask_rcode(&running, GHOST).await, SERVFAIL);
    server.answer_list("namespaces", &[namespace()]).await;
    let services = server.next_request("services", false).await;
    assert_eq!(services.parameter("labelSelector"), Some("tier=front"));
    services.respond_with_list("9", &[]);
    server.answer_list("endpointslices", &[]).await;
    let status = running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert!(is_waiting_for_coredns(&status), "{status}");
    // Only a kernel plane would wait. The resolver follows the new Corefile at once.
    assert_eq!(ask_rcode(&running, WEB).await, NXDOMAIN);

    // The new Corefile has no `kubernetes` plugin, so every name passes to CoreDNS.
    corefile
        .send_event(("MODIFIED", config_map(".:53 {\n whoami\n}\n")))
        .await;
    running.status_when(|status| status.zones.is_empty()).await;
    assert_eq!(ask_address(&running, WEB).await, [9, 9, 9, 9]);
    running.stop().await;
}

/// The Corefile was edited before the agent started.
#[tokio::test]
async fn the_agent_waits_for_coredns_to_read_a_recently_edited_corefile() {
    // The kubelet may take 90 s to write an edited Corefile (`KUBELET_DELAY`). Without a kernel
    // plane the agent waits no longer than that, although this Corefile has no `reload`.
    for (seconds, waits) in [(20, true), (200, false)] {
        let changed = SystemTime::now() - Duration::from_secs(seconds);
        let changed = humantime::format_rfc3339_seconds(changed).to_string();
        let mut map = config_map(COREFILE);
        // An edit is recognised only if the object was created earlier.
        map["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        map["metadata"]["managedFields"] =
            json!([{"manager": "kubectl", "operation": "Update", "time": changed}]);

        let mut server = SteppedApi::start().await;
        let coredns = FakeUpstream::answering([9, 9, 9, 9]).await;
        let running = server.start_agent(&coredns, &["--endpoints=all"]).await;
        let _corefile = server.answer_list("configmaps", &[map]).await;
        for plural in ["namespaces", "services", "endpointslices"] {
            server.answer_list(plural, &[]).await;
        }
        let status = running
            .status_when(|status| status.missing.is_empty())
            .await;
        assert_eq!(
            is_waiting_for_coredns(&status),
            waits,
            "{seconds} s: {status}"
        );
        running.stop().await;
    }
}

#[tokio::test]
async fn bad_objects_are_reported_and_the_rest_is_answered() {
    let mut server = SteppedApi::start().await;
    let coredns = FakeUpstream::answering([9, 9, 9, 9]).await;
    let running = server.start_agent(&coredns, &["--endpoints=all"]).await;
    let _corefile = server.answer_corefile(COREFILE).await;
    server.answer_list("namespaces", &[namespace()]).await;
    let bad = json!({"metadata": {"namespace": "shop", "name": "bad"}, "spec": {"ports": 7}});
    let items = [bad, service("web", "10.0.0.1")];
    server.answer_list("services", &items).await;
    server.answer_list("endpointslices", &[]).await;
    let status = running
        .status_when(|status| status.missing.is_empty() && !status.problems.is_empty())
        .await;
    assert!(
        status.problems[0].starts_with("Service shop/bad: spec.ports"),
        "{status}"
    );
    assert_eq!(ask_address(&running, WEB).await, [10, 0, 0, 1]);
    let metrics = http_get(running.admin, "/metrics").await;
    assert!(
        metrics.contains("zerohop_publish_duration_seconds_bucket"),
        "{metrics}"
    );
    running.stop().await;
}

/// The DaemonSet runs the agent without `--upstream`, so queries for other names go to the
/// cluster's DNS.
#[tokio::test]
async fn lookup_matches_the_resolver_without_upstream_flags() {
    let mut server = SteppedApi::start().await;
    let coredns = lookup::mixed_upstream().await;
    let running = server.start_agent(&coredns, &["--endpoints=all"]).await;
    // The address of CoreDNS is known from the flag; its configuration is not known yet.
    lookup::assert_lookup_matches_resolver(&running, WEB, Rtype::A).await;
    let _corefile = server.answer_corefile(COREFILE).await;
    server.answer_list("namespaces", &[namespace()]).await;
    let alias = |name: &str, target: &str| {
        json!({
            "metadata": {"namespace": "shop", "name": name, "resourceVersion": "9"},
            "spec": {"type": "ExternalName", "externalName": target},
        })
    };
    let services = [
        service("web", "10.0.0.1"),
        alias("pay", "pay.example.com"),
        alias("gone", "absent.example.com"),
        alias("failing", "broken.example.com"),
        alias("near", WEB),
        alias("name-server", "ns.dns.cluster.local"),
    ];
    server.answer_list("services", &services).await;
    server.answer_list("endpointslices", &[]).await;
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    for name in [
        "pay",
        "gone",
        "failing",
        "near",
        "name-server",
        "web",
        "ghost",
    ] {
        let name = format!("{name}.shop.svc.cluster.local");
        for rtype in [Rtype::A, Rtype::AAAA, Rtype::TXT, Rtype::SRV] {
            lookup::assert_lookup_matches_resolver(&running, &name, rtype).await;
        }
    }
    for passed in [
        "www.example.com",
        "absent.example.com",
        "ns.dns.cluster.local",
        "9.9.9.9.in-addr.arpa",
    ] {
        let lookup = lookup::assert_lookup_matches_resolver(&running, passed, Rtype::A).await;
        assert_eq!(lookup.plane, AnsweringPlane::Upstream, "{passed}");
        assert_eq!(lookup.upstreams, [coredns.address], "{passed}");
    }
    let pay = "pay.shop.svc.cluster.local";
    let pay = lookup::assert_lookup_matches_resolver(&running, pay, Rtype::A).await;
    assert_eq!(pay.rcode.as_deref(), Some("NOERROR"));
    assert_eq!((pay.answer.len(), pay.authority.len()), (2, 0));
    assert_eq!(pay.upstreams, [coredns.address]);
    running.stop().await;
}

/// The cluster's DNS Service has the agent's own address.
#[tokio::test]
async fn the_agent_never_queries_itself() {
    let mut server = SteppedApi::start().await;
    let file = server.kubeconfig.path().join("config");
    let flags = [
        "--kubeconfig",
        file.to_str().unwrap(),
        "--corefile=kube-system/coredns",
        "--dns-service=kube-system/kube-dns",
        "--endpoints=all",
    ];
    let running = RunningAgent::start_with(config_with_source(&flags)).await;
    let own = running.server;
    let _corefile = server.answer_corefile(COREFILE).await;
    server.answer_list("namespaces", &[namespace()]).await;
    let mut dns = service("kube-dns", &own.ip().to_string());
    dns["metadata"]["namespace"] = json!("kube-system");
    dns["spec"]["ports"] = json!([{"name": "dns", "port": own.port(), "protocol": "UDP"}]);
    server.answer_list("services", &[dns]).await;
    server.answer_list("endpointslices", &[]).await;
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert_eq!(ask_rcode(&running, "www.example.com").await, SERVFAIL);
    assert_eq!(running.status().await.resolver.counts.forwarded, 0);
    let status = running
        .status_when(|status| status.resolver.loops == [own])
        .await;
    let expected = format!("the upstream {own} leads back to this agent");
    let mut degraded = status.degraded.iter();
    assert!(
        degraded.any(|reason| reason.contains(&expected)),
        "{status}"
    );
    running.stop().await;
}
