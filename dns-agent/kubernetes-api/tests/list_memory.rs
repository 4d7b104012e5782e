//! The memory needed to read a large list.
//!
//! This is a separate test program because it replaces the global allocator to count allocations.

#![deny(unsafe_code)]

#[expect(dead_code, reason = "the crate's unit tests use the other items")]
#[path = "../src/tests/fake.rs"]
mod fake;

#[expect(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait")]
#[path = "../../tests/counting_allocator/mod.rs"]
mod counting_allocator;

use fake::{FakeApi, PendingRequest};
use kube::Client;
use serde_json::json;
use tokio::sync::mpsc;
use zerohop_kubernetes::{EndpointScope, Event, Feed};
use zerohop_kubernetes_api::{KubernetesSource, SourceOptions};

/// Number of slices of a large cluster.
const SLICES: usize = 50_000;
/// Least size of a chunk of the body other than the last, in bytes: the size of the longest TLS
/// record.
const CHUNK: usize = 16 << 10;

#[tokio::test]
async fn a_list_of_any_length_takes_little_memory() {
    let (router, mut api) = FakeApi::new();
    // A small channel, because waiting events take memory too.
    let (sender, mut events) = mpsc::channel(16);
    let client = Client::new(router, "default");
    let options = SourceOptions {
        endpoints: EndpointScope::All,
        ..SourceOptions::default()
    };
    let _source = KubernetesSource::start(client, &options, sender);
    // Refuses the request for the version, so that the source requests plain lists.
    api.next_request()
        .await
        .refuse(404, "NotFound", "no version");
    let mut lists = Vec::new();
    // Namespaces, Services and EndpointSlices.
    for _ in 0..3 {
        lists.push(api.next_request().await);
    }
    // The other lists stay unanswered.
    let slices = lists
        .iter()
        .position(|list| list.path.ends_with("/endpointslices"));
    let list = lists.swap_remove(slices.unwrap());

    let before = counting_allocator::bytes_in_use();
    counting_allocator::take_peak();
    let body = tokio::spawn(write_list(list));
    let mut applied = 0;
    loop {
        match events.recv().await.unwrap().event {
            Event::Applied { .. } => applied += 1,
            Event::ListEnded(feed) => {
                assert_eq!(feed, Feed::SLICES);
                break;
            }
            Event::ListStarted(_) => {}
            other => panic!("unexpected event: {other:?}"),
        }
    }
    assert_eq!(applied, SLICES);
    let peak = counting_allocator::take_peak() - before;
    let body = body.await.unwrap();
    println!("at most {peak} bytes allocated for a body of {body} bytes");
    assert!(peak < 1 << 20, "{peak} bytes allocated, more than 1 MiB");
    assert!(
        body > 100 * peak,
        "{peak} bytes allocated for {body} bytes of body, not less than 1 %"
    );
}

/// Writes the list's body, and returns its length in bytes.
async fn write_list(list: PendingRequest) -> usize {
    let body = list.start_body();
    let template = slice();
    let mut length = 0;
    let mut chunk = String::from(r#"{"metadata":{"resourceVersion":"7"},"items":["#);
    for index in 0..SLICES {
        if index > 0 {
            chunk.push(',');
        }
        chunk.push_str(&template.replace("INDEX", &index.to_string()));
        if chunk.len() >= CHUNK {
            length += chunk.len();
            body.send_text(&chunk).await;
            chunk.clear();
        }
    }
    chunk.push_str("]}");
    body.send_text(&chunk).await;
    length + chunk.len()
}

/// An EndpointSlice with ten endpoints, in the form that the Kubernetes controller writes. `INDEX`
/// is a placeholder for the Service's number.
fn slice() -> String {
    let endpoints: Vec<_> = (0..10)
        .map(|endpoint| {
            json!({
                "addresses": [format!("10.0.0.{endpoint}")],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{endpoint}"),
                "zone": "zone-a",
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "ns",
                    "name": format!("pod-INDEX-{endpoint}")
                },
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
