//! Responses of the admin endpoints, and the output of the commands that read them.

use std::sync::{Arc, RwLock};

use axum::body::Body;
use dns_common::Outcome;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::oneshot};
use tower::ServiceExt as _;
use zerohop_datapath::{canary::CanaryReport, explain::Explanation};
use zerohop_kubernetes::{Index, ObjectCounts, Objects, ZoneSettings};
use zerohop_resolver::{CacheSettings, Resolver, Upstreams};
use zerohop_zone::{ObjectRef, Providers};

use super::{
    lookup::{AnsweringPlane, KernelReport, KernelState, Lookup, RecordReport},
    probes::ProbeStates,
    state::{KernelExplanation, KernelHealth},
    status::{
        HostsFileStatus, KernelStatus, ManifestsStatus, PlaneState, SourceStatus, Status,
        ZoneStatus,
    },
    *,
};

fn board(status: Status) -> State<Arc<StatusBoard>> {
    State(Arc::new(StatusBoard::new(
        status,
        idle_resolver(),
        Box::new(|| KernelStatus::Without(PlaneState::Off)),
    )))
}

/// A resolver without names and upstreams.
pub(super) fn idle_resolver() -> Arc<Resolver> {
    resolver_of(Arc::new(Providers::new(Vec::new())))
}

fn resolver_of(data: Arc<Providers>) -> Arc<Resolver> {
    let (upstreams, cache) = (Upstreams::default(), CacheSettings::default());
    Arc::new(Resolver::new(data, upstreams, cache))
}

/// The state of an agent without objects, with this kernel plane.
fn admin_state(kernel: KernelExplanation) -> AdminState {
    // No test depends on the serial, 7.
    let index = Index::from_objects(Objects::default(), ZoneSettings::default(), 7);
    let State(board) = board(Status {
        degraded: vec!["nothing matches".to_owned()],
        ..Status::default()
    });
    let providers = Providers::new(vec![Arc::new(RwLock::new(index))]);
    let data = Arc::new(providers.clone());
    AdminState {
        resolver: resolver_of(data),
        providers,
        listen: vec!["127.0.0.1:53".parse().unwrap()],
        explain_kernel: Box::new(move |_, _| kernel.clone()),
        kernel_canary: Box::new(|_| KernelHealth::Off),
        resolver_canaries: Vec::new(),
        board,
        metrics: Arc::default(),
        probes: Arc::new(ProbeStates::new(["coredns".to_owned()])),
    }
}

async fn text(body: Body) -> String {
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let State(board) = board(Status::default());
    let response = readyz(State(board.clone())).await;
    assert_eq!(response.status(), StatusCode::OK);

    board.update(|status| status.missing.push("interface eth7".to_owned()));
    let response = readyz(State(board)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        text(response.into_body()).await,
        "missing: interface eth7\n"
    );
}

/// The response to a request for `path` from the address `peer`.
async fn get_from(admin_state: &Arc<AdminState>, peer: &str, path: &str) -> (StatusCode, String) {
    get_with_hosts(admin_state, peer, path, &["localhost"]).await
}

/// The response to a request for `target` from the address `peer`, with these `Host` headers.
async fn get_with_hosts(
    admin_state: &Arc<AdminState>,
    peer: &str,
    target: &str,
    hosts: &[&str],
) -> (StatusCode, String) {
    let peer: SocketAddr = peer.parse().unwrap();
    let mut request = Request::get(target);
    for host in hosts {
        request = request.header("host", *host);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    let response = router(admin_state.clone()).oneshot(request).await.unwrap();
    (response.status(), text(response.into_body()).await)
}

#[tokio::test]
async fn requests_for_other_hosts_are_refused() {
    let admin_state = Arc::new(admin_state(KernelExplanation::Off));
    let local = "127.0.0.1:1";
    for (target, hosts, code) in [
        ("/status", &["evil.example"] as &[&str], 403),
        ("/dump", &["evil.example:9153"], 403),
        ("/lookup/cluster.local/SOA", &["10.0.0.1"], 403),
        ("/other", &["evil.example"], 403),
        ("/status", &[], 403),
        ("/status", &["localhost", "evil.example"], 403),
        ("http://evil.example/status", &["localhost"], 403),
        ("http://evil.example/status", &[], 403),
        ("http://localhost/status", &["evil.example"], 403),
        ("http://localhost:9153/status", &["localhost:9153"], 200),
        ("http://127.0.0.1/status", &[], 200),
        ("/status", &["127.0.0.1:9153"], 200),
        ("/metrics", &["evil.example"], 200),
        ("/livez", &[], 200),
        ("http://evil.example/readyz", &[], 200),
    ] {
        let (got, body) = get_with_hosts(&admin_state, local, target, hosts).await;
        assert_eq!(got.as_u16(), code, "{target} of {hosts:?}: {body}");
        let is_about_host = body.contains("Host");
        assert_eq!(
            is_about_host,
            code == 403,
            "only a refusal names Host: {target}: {body}"
        );
    }
}

#[tokio::test]
async fn remote_peers_get_only_metrics_and_health() {
    let admin_state = Arc::new(admin_state(KernelExplanation::Off));
    let private = [
        "/status",
        "/lookup/cluster.local/SOA",
        "/dump",
        "/dump/cluster.local",
    ];
    for local in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        for path in PUBLIC_PATHS.iter().chain(&private) {
            let (code, body) = get_from(&admin_state, local, path).await;
            assert_eq!(code, StatusCode::OK, "{path} from {local}: {body}");
        }
        let (code, _) = get_from(&admin_state, local, "/other").await;
        assert_eq!(code, StatusCode::NOT_FOUND, "/other from {local}");
    }
    for remote in ["10.0.0.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
        for path in PUBLIC_PATHS {
            let (code, body) = get_from(&admin_state, remote, path).await;
            assert_eq!(code, StatusCode::OK, "{path} from {remote}: {body}");
        }
        for (path, expected) in [("/healthcheck/coredns", 503), ("/healthcheck/other", 404)] {
            let (code, body) = get_from(&admin_state, remote, path).await;
            assert_eq!(code.as_u16(), expected, "{path} from {remote}: {body}");
        }
        for path in private
            .iter()
            .chain(&["/other", "/metrics/", "//status", "/healthcheck"])
        {
            let (code, body) = get_from(&admin_state, remote, path).await;
            assert_eq!(code, StatusCode::FORBIDDEN, "{path} from {remote}");
            assert!(body.contains("loopback"), "{path} from {remote}: {body}");
        }
    }
}

#[tokio::test]
async fn healthz_reports_both_planes() {
    let get_health = async |health: fn(&[Name]) -> KernelHealth| {
        let admin_state = AdminState {
            kernel_canary: Box::new(health),
            ..admin_state(KernelExplanation::Off)
        };
        get_from(&Arc::new(admin_state), "10.0.0.1:1", "/healthz").await
    };
    let (code, body) = get_health(|_| KernelHealth::Off).await;
    assert_eq!(code, StatusCode::OK, "{body}");
    let off = "kernel: off, no --interface is given\nuser: off, no --listen is given\n";
    assert_eq!(body, off);

    let passing = |zones: &[Name]| {
        KernelHealth::On(Some(CanaryReport {
            zone: zones[0].clone(),
            outcomes: vec![("zerohop_tc", Outcome::LeaseStale)],
            failed: 0,
        }))
    };
    let (code, body) = get_health(passing).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let passes = "kernel: zerohop_tc passes cluster.local. SOA: lease_stale\n";
    assert!(body.starts_with(passes), "{body}");

    // Liveness does not query the planes, so the kubelet does not restart the pod.
    let admin_state = Arc::new(admin_state(KernelExplanation::Off));
    assert_eq!(
        get_from(&admin_state, "10.0.0.1:1", "/livez").await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn healthcheck_reports_the_last_probe() {
    let admin_state = Arc::new(admin_state(KernelExplanation::Off));
    let get = async |label| get_from(&admin_state, "10.0.0.1:1", label).await;
    let (code, body) = get("/healthcheck/coredns").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("waiting for first probe"), "{body}");

    let state = admin_state.probes.iter().next().unwrap();
    state.record(Ok(Duration::from_millis(2)));
    let (code, body) = get("/healthcheck/coredns").await;
    let ok = r#"{"IsOk":true,"LatencySeconds":0.002,"Err":""}"#;
    assert_eq!((code, body.as_str()), (StatusCode::OK, ok));

    state.record(Err("answers with SERVFAIL".to_owned()));
    let (code, body) = get("/healthcheck/coredns").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("answers with SERVFAIL"), "{body}");

    let (code, body) = get("/healthcheck/CoreDNS").await;
    assert_eq!(code, StatusCode::NOT_FOUND, "{body}");
    assert!(body.ends_with("the labels are: coredns\n"), "{body}");
}

#[tokio::test]
async fn a_lookup_says_which_plane_answers_and_why() {
    let on = |is_attached, plain, edns| {
        KernelExplanation::On(Explanation {
            is_attached,
            plain,
            edns,
        })
    };
    let name = Name::parse("cluster.local").unwrap();
    for (kernel, plane, why) in [
        (on(true, Outcome::Data, None), AnsweringPlane::Kernel, None),
        (
            KernelExplanation::Off,
            AnsweringPlane::Agent,
            Some("--interface"),
        ),
        (
            KernelExplanation::Failed("no BPF".to_owned()),
            AnsweringPlane::Agent,
            Some("no BPF"),
        ),
        (
            on(false, Outcome::Data, None),
            AnsweringPlane::Agent,
            Some("attached to no interface: nothing matches"),
        ),
        (
            on(true, Outcome::LeaseStale, None),
            AnsweringPlane::Agent,
            Some("lease_stale: the lease has ended; the status shows: nothing matches"),
        ),
        (
            on(true, Outcome::TooLarge, Some(Outcome::Data)),
            AnsweringPlane::Agent,
            Some("clients with EDNS (1232 bytes) get the answer from the kernel"),
        ),
    ] {
        let admin_state = Arc::new(admin_state(kernel.clone()));
        let lookup = admin_state.lookup(name.clone(), Rtype::SOA).await.unwrap();
        assert_eq!(lookup.plane, plane, "{kernel:?}");
        match (&lookup.why, why) {
            (None, None) => {}
            (Some(said), Some(why)) => assert!(said.contains(why), "{kernel:?}: {said}"),
            (said, why) => panic!("{kernel:?}: the reason is {said:?}, not {why:?}"),
        }
    }
    let without_listen = AdminState {
        listen: Vec::new(),
        ..admin_state(KernelExplanation::Off)
    };
    let lookup = Arc::new(without_listen)
        .lookup(name, Rtype::SOA)
        .await
        .unwrap();
    assert_eq!(lookup.plane, AnsweringPlane::Neither);
}

#[test]
fn a_lookup_is_printed_as_text() {
    let object = |kind: &str, name: &str| ObjectRef {
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    let record = |last: u8| RecordReport {
        record: format!("db.z. 5 IN A 10.0.0.{last}"),
        objects: vec![object("Service", "db"), object("EndpointSlice", "db-1")],
        settings: false,
        upstream: false,
        route: false,
    };
    let lookup = Lookup {
        name: "db.z.".to_owned(),
        rtype: "A".to_owned(),
        rcode: Some("NOERROR".to_owned()),
        aa: true,
        answer: vec![record(1), record(2)],
        authority: vec![RecordReport {
            record: "z. 5 IN NS ns.dns.z.".to_owned(),
            objects: Vec::new(),
            settings: true,
            upstream: false,
            route: false,
        }],
        additional: vec![RecordReport {
            record: "ns.dns.z. 5 IN A 192.0.2.7".to_owned(),
            objects: Vec::new(),
            settings: false,
            upstream: true,
            route: false,
        }],
        plane: AnsweringPlane::Agent,
        why: Some("lease_stale: late".to_owned()),
        kernel: KernelReport {
            state: KernelState::On,
            outcome: Some("lease_stale".to_owned()),
            outcome_edns: None,
        },
        steering: None,
        upstreams: vec!["192.0.2.53:53".parse().unwrap()],
        route: Some("forwarded by Corefile, line 6".to_owned()),
        notes: vec!["this and that".to_owned()],
    };
    assert_eq!(
        lookup.to_string(),
        "\
db.z. A: NOERROR, authoritative
answer     db.z. 5 IN A 10.0.0.1
answer     db.z. 5 IN A 10.0.0.2
             from Service shop/db, EndpointSlice shop/db-1
authority  z. 5 IN NS ns.dns.z.
             from the settings
additional ns.dns.z. 5 IN A 192.0.2.7
             from the upstream
plane      agent
why        lease_stale: late
route      forwarded by Corefile, line 6
upstream   192.0.2.53:53
note       this and that
"
    );
    let json = serde_json::to_value(&lookup).unwrap();
    assert_eq!(json["type"], "A");
    assert_eq!(json["plane"], "agent");
    assert_eq!(json["answer"][0]["objects"][0]["kind"], "Service");
    let back: Lookup = serde_json::from_value(json).unwrap();
    assert_eq!(back, lookup);
}

#[tokio::test]
async fn a_truncated_response_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        stream.write_all(head).await.unwrap();
    });
    let mut text = client::dump(address, None).await.unwrap();
    assert_eq!(text.next().await.unwrap().unwrap(), "abc");
    let error = text.next().await.unwrap_err().to_string();
    assert!(error.contains("stopped before its end"), "{error}");
}

#[test]
fn the_status_is_printed_as_text() {
    let status = Status {
        version: "1.2.3".to_owned(),
        missing: vec!["interface eth7".to_owned()],
        source: SourceStatus::Manifests(ManifestsStatus {
            path: "/objects".into(),
            loaded: "2026-01-02T03:04:05Z".to_owned(),
            age_seconds: Some(7.0),
            errors: vec!["/objects/a.yaml:3: unclosed".to_owned()],
        }),
        hosts: vec![HostsFileStatus {
            path: "/hosts".into(),
            names: 12,
            loaded: "2026-01-02T03:04:05Z".to_owned(),
            error: Some("no such file".to_owned()),
        }],
        problems: vec!["Service a/b: spec: bad".to_owned()],
        zones: vec![ZoneStatus {
            name: "cluster.local.".to_owned(),
            serial: 7,
        }],
        objects: ObjectCounts {
            namespaces: 1,
            services: 2,
            endpoint_slices: 3,
            pods: 4,
        },
        kernel: PlaneState::On,
        datapath: Some(json!({"hooks": [{"interface": "eth0"}], "lease": "fresh"})),
        ..Status::default()
    };
    assert_eq!(
        status.to_string(),
        "\
dns-agent 1.2.3: not ready
missing    interface eth7
source     /objects, loaded 2026-01-02T03:04:05Z, checked 7 s ago
stale      /objects/a.yaml:3: unclosed
hosts      /hosts: 12 names, read 2026-01-02T03:04:05Z; no such file
problem    Service a/b: spec: bad
zone       cluster.local. serial 7
objects    1 Namespaces, 2 Services, 3 EndpointSlices, 4 Pods
queries    UDP 0, TCP 0, ignored 0
replies    none
upstreams  queries 0, timed out 0, failed 0, too many at once 0
cache      0 replies, 0 bytes, hits 0, misses 0, refreshed 0, stale 0, failures 0
refused    0 connections
steering   off
kernel     on
  hooks
    -
      interface eth0
  lease fresh
"
    );
    let back: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
    assert_eq!(back, status);
}

#[tokio::test]
async fn the_task_of_a_disconnected_client_keeps_its_turn() {
    let (started, has_started) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let first = take_turn(async {
        started.send(()).unwrap();
        ended.await.unwrap();
        Ok(())
    });
    // The request is dropped while its task runs.
    tokio::select! {
        _ = first => panic!("the task ended before `end` was sent"),
        () = async { has_started.await.unwrap() } => {}
    }
    assert!(
        KERNEL_PLANE_TURN.try_lock().is_err(),
        "the running task has lost its turn"
    );
    end.send(()).unwrap();
    take_turn(async { Ok(()) }).await.unwrap();
}
