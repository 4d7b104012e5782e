//! An agent that reads an API server: a made-up one, on a real socket.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use dns_agent::admin::{
    lookup::Plane,
    status::{SourceStatus, Status},
};
use domain::base::iana::Rtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    agent::Running,
    fake::{Asked, FakeApi, Writer},
    lookup,
    support::{Upstream, ask, config_of, kubeconfig, last_address, query, rcode},
};

const WEB: &str = "web.shop.svc.cluster.local";
const GHOST: &str = "ghost.shop.svc.cluster.local";

/// Response codes, RFC 1035 section 4.1.1.
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

const COREFILE: &str = ".:53 {\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n  ttl 30\n  fallthrough in-addr.arpa ip6.arpa\n }\n forward . /etc/resolv.conf\n}\n";

/// An API server, and what it was asked for and has not answered.
struct Server {
    api: FakeApi,
    kubeconfig: TempDir,
    /// By the last part of the path, and whether a watch was asked for.
    asked: BTreeMap<(String, bool), Asked>,
    _served: JoinHandle<()>,
}

impl Server {
    async fn start() -> Server {
        let (router, api) = FakeApi::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = kubeconfig(address);
        Server {
            api,
            kubeconfig,
            asked: BTreeMap::new(),
            _served: tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }),
        }
    }

    /// An agent that reads it and asks this server for what it does not know.
    async fn agent(&self, cluster_dns: &Upstream, flags: &[&str]) -> Running {
        let file = self.kubeconfig.path().join("config");
        let cluster_dns = cluster_dns.address.to_string();
        let own = [
            "--kubeconfig",
            file.to_str().unwrap(),
            "--cluster-dns",
            &cluster_dns,
        ];
        Running::of(config_of(&[&own, flags].concat())).await
    }

    /// The next request for these objects.
    async fn next(&mut self, plural: &str, is_watch: bool) -> Asked {
        loop {
            if let Some(asked) = self.asked.remove(&(plural.to_owned(), is_watch)) {
                return asked;
            }
            let asked = self.api.next().await;
            let last = asked.path.rsplit('/').next().unwrap().to_owned();
            if last == "version" {
                asked.refuse(404, "NotFound", "no version");
                continue;
            }
            let is_watch = asked.get("watch").is_some();
            self.asked.insert((last, is_watch), asked);
        }
    }

    /// Answers a list, and gives its watch.
    async fn list(&mut self, plural: &str, items: &[Value]) -> Writer {
        self.next(plural, false).await.list("7", items);
        self.next(plural, true).await.open()
    }

    async fn corefile(&mut self, text: &str) -> Writer {
        self.list("configmaps", &[config_map(text)]).await
    }
}

fn config_map(text: &str) -> Value {
    json!({"metadata": {"namespace": "kube-system", "name": "coredns", "resourceVersion": "8"}, "data": {"Corefile": text}})
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

/// Whether CoreDNS may not have read the Corefile yet.
fn is_waiting_for_coredns(status: &Status) -> bool {
    let mut degraded = status.degraded.iter();
    degraded.any(|reason| reason.contains("Corefile has changed"))
}

/// The response to a request for the admin endpoints.
async fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

async fn code(running: &Running, name: &str) -> u8 {
    rcode(&ask(running.server, &query(1, name, Rtype::A)).await)
}

async fn address(running: &Running, name: &str) -> [u8; 4] {
    last_address(&ask(running.server, &query(1, name, Rtype::A)).await)
}

#[tokio::test]
async fn what_is_known_is_answered_and_nothing_is_denied_before_all_is_listed() {
    let mut server = Server::start().await;
    let coredns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&coredns, &[]).await;
    assert_eq!(code(&running, GHOST).await, SERVFAIL);
    let status = running.status().await;
    assert!(status.missing[0].contains("Corefile"), "{status}");

    let _corefile = server.corefile(COREFILE).await;
    let _namespaces = server.list("namespaces", &[namespace()]).await;
    let services = [service("web", "10.0.0.1"), service("db", "None")];
    let services = server.list("services", &services).await;
    running
        .status_when(|status| status.objects.services == 2)
        .await;
    // Slices are still to come, because there is a headless Service.
    assert_eq!(address(&running, WEB).await, [10, 0, 0, 1]);
    assert_eq!(code(&running, GHOST).await, SERVFAIL);
    // Nor is a type: slices may bring addresses of the other family.
    let aaaa = query(1, WEB, Rtype::AAAA);
    assert_eq!(rcode(&ask(running.server, &aaaa).await), SERVFAIL);
    let status = running.status().await;
    assert!(status.missing[0].contains("EndpointSlices"), "{status}");

    let slices = server.next("endpointslices", false).await;
    let selector = slices.get("labelSelector");
    assert_eq!(selector, Some("kubernetes.io/service-name in (db)"));
    slices.list("7", &[]);
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert_eq!(code(&running, GHOST).await, NXDOMAIN);
    assert_eq!(rcode(&ask(running.server, &aaaa).await), 0);
    // Names of endpoints below other services are CoreDNS's to answer.
    let endpoint = format!("10-1-0-1.{WEB}");
    assert_eq!(address(&running, &endpoint).await, [9, 9, 9, 9]);

    services
        .event(("MODIFIED", service("web", "10.0.0.2")))
        .await;
    services
        .event(("ADDED", service("ghost", "10.0.0.3")))
        .await;
    running
        .status_when(|status| status.objects.services == 3)
        .await;
    assert_eq!(address(&running, WEB).await, [10, 0, 0, 2]);
    assert_eq!(address(&running, GHOST).await, [10, 0, 0, 3]);
    let reply = ask(running.server, &query(1, WEB, Rtype::A)).await;
    let ttl = &reply[reply.len() - 10..reply.len() - 6];
    assert_eq!(ttl, [0, 0, 0, 30], "the Corefile's");
    running.stop().await;
}

#[tokio::test]
async fn without_a_corefile_that_is_understood_everything_is_cored_ns_to_answer() {
    for (text, because) in [
        ("import /etc/coredns/custom/*\n", "import"),
        (".:53 {\n forward . /etc/resolv.conf\n}\n", "kubernetes"),
    ] {
        let mut server = Server::start().await;
        let coredns = Upstream::answering([9, 9, 9, 9]).await;
        let running = server.agent(&coredns, &[]).await;
        let _corefile = server.corefile(text).await;
        let status = running
            .status_when(|status| !status.degraded.is_empty())
            .await;
        let SourceStatus::Kubernetes(source) = &status.source else {
            panic!("{status}");
        };
        assert!(source.reasons.join("\n").contains(because), "{status}");
        assert!(status.zones.is_empty() && status.missing.is_empty());
        assert_eq!(address(&running, WEB).await, [9, 9, 9, 9]);
        running.stop().await;
    }
}

#[tokio::test]
async fn without_any_corefile_the_settings_count_if_they_are_trusted() {
    for (flags, answered) in [
        (&["--trust-zone", "--ttl=7"][..], [10, 0, 0, 1]),
        (&[], [9; 4]),
    ] {
        let mut server = Server::start().await;
        let coredns = Upstream::answering([9, 9, 9, 9]).await;
        let running = server.agent(&coredns, flags).await;
        let _configmaps = server.list("configmaps", &[]).await;
        if !flags.is_empty() {
            server.list("namespaces", &[namespace()]).await;
            server.list("services", &[service("web", "10.0.0.1")]).await;
        }
        running
            .status_when(|status| status.missing.is_empty())
            .await;
        assert_eq!(address(&running, WEB).await, answered);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_corefile_that_changes_is_followed() {
    let mut server = Server::start().await;
    let coredns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&coredns, &["--endpoints=all"]).await;
    let corefile = server.corefile(COREFILE).await;
    server.list("namespaces", &[namespace()]).await;
    server.list("services", &[service("web", "10.0.0.1")]).await;
    server.list("endpointslices", &[]).await;
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert_eq!(code(&running, GHOST).await, NXDOMAIN);

    // Other objects are selected: everything is read again.
    let selecting = COREFILE.replace("ttl 30", "ttl 30\n  labels tier=front");
    corefile.event(("MODIFIED", config_map(&selecting))).await;
    running
        .status_when(|status| !status.missing.is_empty())
        .await;
    assert_eq!(code(&running, GHOST).await, SERVFAIL);
    server.list("namespaces", &[namespace()]).await;
    let services = server.next("services", false).await;
    assert_eq!(services.get("labelSelector"), Some("tier=front"));
    services.list("9", &[]);
    server.list("endpointslices", &[]).await;
    let status = running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert!(is_waiting_for_coredns(&status), "{status}");
    assert_eq!(code(&running, WEB).await, NXDOMAIN);

    // Nothing is to be answered any more.
    corefile
        .event(("MODIFIED", config_map(".:53 {\n whoami\n}\n")))
        .await;
    running.status_when(|status| status.zones.is_empty()).await;
    assert_eq!(address(&running, WEB).await, [9, 9, 9, 9]);
    running.stop().await;
}

/// As it was changed before the agent started.
#[tokio::test]
async fn a_corefile_that_coredns_may_not_have_read_yet_is_waited_for() {
    for (seconds, waits) in [(20, true), (200, false)] {
        let changed = SystemTime::now() - Duration::from_secs(seconds);
        let changed = humantime::format_rfc3339_seconds(changed).to_string();
        let mut map = config_map(COREFILE);
        map["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        map["metadata"]["managedFields"] =
            json!([{"manager": "kubectl", "operation": "Update", "time": changed}]);

        let mut server = Server::start().await;
        let coredns = Upstream::answering([9, 9, 9, 9]).await;
        let running = server.agent(&coredns, &["--endpoints=all"]).await;
        let _corefile = server.list("configmaps", &[map]).await;
        for plural in ["namespaces", "services", "endpointslices"] {
            server.list(plural, &[]).await;
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
async fn bad_objects_are_told_and_the_rest_is_served() {
    let mut server = Server::start().await;
    let coredns = Upstream::answering([9, 9, 9, 9]).await;
    let running = server.agent(&coredns, &["--endpoints=all"]).await;
    let _corefile = server.corefile(COREFILE).await;
    server.list("namespaces", &[namespace()]).await;
    let bad = json!({"metadata": {"namespace": "shop", "name": "bad"}, "spec": {"ports": 7}});
    let items = [bad, service("web", "10.0.0.1")];
    server.list("services", &items).await;
    server.list("endpointslices", &[]).await;
    let status = running
        .status_when(|status| status.missing.is_empty() && !status.problems.is_empty())
        .await;
    assert!(
        status.problems[0].starts_with("Service shop/bad: spec.ports"),
        "{status}"
    );
    assert_eq!(address(&running, WEB).await, [10, 0, 0, 1]);
    let metrics = get(running.admin, "/metrics").await;
    assert!(
        metrics.contains("zerohop_publish_duration_seconds_bucket"),
        "{metrics}"
    );
    running.stop().await;
}

/// As the DaemonSet runs it: the cluster's DNS is asked for everything else too.
#[tokio::test]
async fn lookup_says_what_the_resolver_answers_without_an_upstream() {
    let mut server = Server::start().await;
    let coredns = lookup::upstream().await;
    let running = server.agent(&coredns, &["--endpoints=all"]).await;
    // Its address is known by the flag, CoreDNS's configuration is not.
    lookup::hold_to_the_resolver(&running, WEB, Rtype::A).await;
    let _corefile = server.corefile(COREFILE).await;
    server.list("namespaces", &[namespace()]).await;
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
    server.list("services", &services).await;
    server.list("endpointslices", &[]).await;
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
            lookup::hold_to_the_resolver(&running, &name, rtype).await;
        }
    }
    for outside in [
        "www.example.com",
        "absent.example.com",
        "ns.dns.cluster.local",
        "9.9.9.9.in-addr.arpa",
    ] {
        let lookup = lookup::hold_to_the_resolver(&running, outside, Rtype::A).await;
        assert_eq!(lookup.plane, Plane::Upstream, "{outside}");
        assert_eq!(lookup.upstreams, [coredns.address], "{outside}");
    }
    let pay = "pay.shop.svc.cluster.local";
    let pay = lookup::hold_to_the_resolver(&running, pay, Rtype::A).await;
    assert_eq!(pay.rcode.as_deref(), Some("NOERROR"));
    assert_eq!((pay.answer.len(), pay.authority.len()), (2, 0));
    assert_eq!(pay.upstreams, [coredns.address]);
    running.stop().await;
}

/// The address of the cluster's DNS turns out to be the agent's own.
#[tokio::test]
async fn the_agent_never_asks_itself() {
    let mut server = Server::start().await;
    let file = server.kubeconfig.path().join("config");
    let flags = ["--kubeconfig", file.to_str().unwrap(), "--endpoints=all"];
    let running = Running::of(config_of(&flags)).await;
    let own = running.server;
    let _corefile = server.corefile(COREFILE).await;
    server.list("namespaces", &[namespace()]).await;
    let mut dns = service("kube-dns", &own.ip().to_string());
    dns["metadata"]["namespace"] = json!("kube-system");
    dns["spec"]["ports"] = json!([{"name": "dns", "port": own.port(), "protocol": "UDP"}]);
    server.list("services", &[dns]).await;
    server.list("endpointslices", &[]).await;
    running
        .status_when(|status| status.missing.is_empty())
        .await;
    assert_eq!(code(&running, "www.example.com").await, SERVFAIL);
    assert_eq!(running.status().await.resolver.counts.forwarded, 0);
    let status = running
        .status_when(|status| status.resolver.loops == [own])
        .await;
    let said = format!("the upstream {own} asks this agent in turn");
    let mut degraded = status.degraded.iter();
    assert!(degraded.any(|reason| reason.contains(&said)), "{status}");
    running.stop().await;
}
