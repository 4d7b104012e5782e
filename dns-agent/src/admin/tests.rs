use std::sync::Arc;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::json;

use super::{
    status::{SourceStatus, Status, ZoneStatus},
    *,
};
use crate::resolver::Counters;

fn board(status: Status) -> State<Arc<Board>> {
    State(Arc::new(Board::new(
        status,
        Arc::new(Counters::default()),
        Box::new(|| None),
    )))
}

async fn text(body: Body) -> String {
    let octets = body.collect().await.unwrap().to_bytes();
    String::from_utf8(octets.to_vec()).unwrap()
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

#[tokio::test]
async fn the_status_is_for_loopback_peers() {
    #[track_caller]
    fn peer(text: &str) -> ConnectInfo<SocketAddr> {
        ConnectInfo(text.parse().unwrap())
    }
    for local in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
    ] {
        let response = status(board(Status::default()), peer(local)).await;
        assert_eq!(response.status(), StatusCode::OK, "{local}");
    }
    for remote in ["10.0.0.1:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
        let response = status(board(Status::default()), peer(remote)).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{remote}");
        assert!(text(response.into_body()).await.contains("loopback"));
    }
}

#[test]
fn the_status_reads_well() {
    let status = Status {
        version: "1.2.3".to_owned(),
        missing: vec!["interface eth7".to_owned()],
        source: SourceStatus {
            path: "/objects".into(),
            loaded: "2026-01-02T03:04:05Z".to_owned(),
            errors: vec!["/objects/a.yaml:3: unclosed".to_owned()],
            problems: vec!["Service a/b: spec: bad".to_owned()],
        },
        zones: vec![ZoneStatus {
            name: "cluster.local.".to_owned(),
            serial: 7,
        }],
        names: 12,
        datapath: Some(json!({"hooks": [{"interface": "eth0"}], "lease": "fresh"})),
        ..Status::default()
    };
    assert_eq!(
        status.to_string(),
        "\
dns-agent 1.2.3: not ready
missing    interface eth7
source     /objects, loaded 2026-01-02T03:04:05Z
stale      /objects/a.yaml:3: unclosed
problem    Service a/b: spec: bad
zone       cluster.local. serial 7
names      12
queries    UDP 0, TCP 0, ignored 0
replies    none
upstreams  asked 0, timed out 0, failed 0, too many at once 0
refused    0 connections
kernel
  hooks
    -
      interface eth0
  lease fresh
"
    );
    let back: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
    assert_eq!(back, status);
}
