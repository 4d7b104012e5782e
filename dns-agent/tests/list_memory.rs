//! How much memory it takes to read a large list.
//!
//! A test program of its own, because it counts what is allocated.

// Not everything of it is needed here.
#[expect(dead_code, reason = "shared with the tests of the source")]
#[path = "../src/source/kubernetes/tests/fake.rs"]
mod fake;

mod counted;

use dns_agent::{
    cluster::Endpoints,
    source::{
        Event, Feed,
        kubernetes::{Kubernetes, Options},
    },
};
use fake::{Asked, FakeApi};
use kube::Client;
use serde_json::json;
use tokio::sync::mpsc;

/// As many as a large cluster has.
const SLICES: usize = 50_000;
/// The octets of a piece of the body, as hyper reads them.
const PIECE: usize = 16 << 10;

#[tokio::test]
async fn a_list_takes_little_memory_however_long_it_is() {
    let (router, mut api) = FakeApi::new();
    // What waits to be received takes memory too.
    let (sender, mut events) = mpsc::channel(16);
    let client = Client::new(router, "default");
    let options = Options {
        endpoints: Endpoints::All,
        ..Options::default()
    };
    let _source = Kubernetes::start(client, &options, sender);
    api.next().await.refuse(404, "NotFound", "no version");
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(api.next().await);
    }
    // The other lists stay unanswered.
    let slices = asked
        .iter()
        .position(|list| list.path.ends_with("/endpointslices"));
    let list = asked.swap_remove(slices.unwrap());

    let before = counted::now();
    counted::take_peak();
    let body = tokio::spawn(write(list));
    let mut applied = 0;
    loop {
        match events.recv().await.unwrap() {
            Event::Applied { .. } => applied += 1,
            Event::Listed(feed) => {
                assert_eq!(feed, Feed::SLICES);
                break;
            }
            Event::Listing(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(applied, SLICES);
    let peak = counted::take_peak() - before;
    let body = body.await.unwrap();
    println!("{peak} octets allocated at most, for a body of {body} octets");
    assert!(peak < 1 << 20, "{peak}");
    assert!(body > 100 * peak, "{body}");
}

/// Writes the list's body. Its length.
async fn write(list: Asked) -> usize {
    let body = list.open();
    let template = slice();
    let mut length = 0;
    let mut piece = String::from(r#"{"metadata":{"resourceVersion":"7"},"items":["#);
    for index in 0..SLICES {
        if index > 0 {
            piece.push(',');
        }
        piece.push_str(&template.replace("INDEX", &index.to_string()));
        if piece.len() >= PIECE {
            length += piece.len();
            body.text(&piece).await;
            piece.clear();
        }
    }
    piece.push_str("]}");
    body.text(&piece).await;
    length + piece.len()
}

/// A slice of ten endpoints, as Kubernetes' own controller writes them, of the Service with an index.
fn slice() -> String {
    let endpoints: Vec<_> = (0..10)
        .map(|endpoint| {
            json!({
                "addresses": [format!("10.0.0.{endpoint}")],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{endpoint}"),
                "zone": "zone-a",
                "targetRef": {"kind": "Pod", "namespace": "ns", "name": format!("pod-INDEX-{endpoint}")},
            })
        })
        .collect();
    let slice = json!({
        "metadata": {
            "namespace": "ns",
            "name": "service-INDEX-abcde",
            "resourceVersion": "INDEX",
            "labels": {"kubernetes.io/service-name": "service-INDEX"},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    });
    slice.to_string()
}
