//! Streamed lists: lists that arrive as the initial events of a watch.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use super::{
    super::{KubernetesSource, SourceOptions},
    *,
};

fn initial_end(version: &str) -> (&'static str, Value) {
    let mut bookmark = bookmark(version);
    bookmark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    ("BOOKMARK", bookmark)
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_continues_as_a_watch() {
    let mut setup = FeedSetup::with_lists(Feed::Services, ListStreaming::Streamed);
    let list = setup.api.next_request().await;
    for (parameter, value) in [
        ("watch", "true"),
        ("sendInitialEvents", "true"),
        ("resourceVersionMatch", "NotOlderThan"),
        ("resourceVersion", "0"),
        ("allowWatchBookmarks", "true"),
    ] {
        assert_eq!(list.parameter(parameter), Some(value), "{parameter}");
    }
    let body = list.start_body();
    body.send_event(added("a", "3")).await;
    body.send_event(("BOOKMARK", bookmark("4"))).await;
    body.send_event(added("b", "2")).await;
    assert_eq!(setup.event().await, "listing");
    assert_eq!(setup.event().await, "+a");
    assert_eq!(setup.event().await, "+b");
    assert_eq!(setup.health().last_received, None);
    assert_eq!(setup.health().activity, FeedActivity::Listing);
    body.send_event(initial_end("7")).await;
    assert_eq!(setup.event().await, "listed");
    body.send_event(added("c", "8")).await;
    assert_eq!(setup.event().await, "+c");
    assert_eq!(setup.health().activity, FeedActivity::Watching);
    // A streamed list is counted as a watch.
    assert_eq!((setup.health().lists, setup.health().watches), (0, 1));
    body.cut().await;
    let watch = setup.api.next_request().await;
    assert_eq!(watch.parameter("resourceVersion"), Some("8"));
    assert_eq!(watch.parameter("sendInitialEvents"), None);

    watch.refuse(410, "Expired", "too old");
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("sendInitialEvents"), Some("true"));
    assert_eq!(list.parameter("resourceVersion"), Some("8"));
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_breaks_off_starts_again() {
    for ending in ["cut", "ended"] {
        let mut setup = FeedSetup::with_lists(Feed::Services, ListStreaming::Streamed);
        let body = setup.api.next_request().await.start_body();
        body.send_event(added("a", "3")).await;
        assert_eq!(setup.event().await, "listing");
        assert_eq!(setup.event().await, "+a");
        match ending {
            "cut" => body.cut().await,
            _ => drop(body),
        }
        let list = setup.api.next_request().await;
        assert_eq!(list.parameter("sendInitialEvents"), Some("true"));
        assert_eq!(list.parameter("resourceVersion"), Some("0"), "{ending}");
        assert_eq!(setup.received(), [""; 0]);
        let body = list.start_body();
        body.send_event(initial_end("7")).await;
        assert_eq!(setup.event().await, "listing");
        assert_eq!(setup.event().await, "listed");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_version_that_is_too_large_a_streamed_list_requests_the_newest_state() {
    let mut setup = FeedSetup::with_lists(Feed::Services, ListStreaming::Streamed);
    let body = setup.api.next_request().await.start_body();
    body.send_event(initial_end("100")).await;
    assert_eq!(setup.event().await, "listing");
    assert_eq!(setup.event().await, "listed");
    body.send_event(("ERROR", fake::status(410, "Expired", "too old")))
        .await;
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("resourceVersion"), Some("100"));
    let mut ahead = fake::status(504, "Timeout", "not yet");
    ahead["details"] = json!({"causes": [{"reason": "ResourceVersionTooLarge"}]});
    list.start_body().send_event(("ERROR", ahead)).await;
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("sendInitialEvents"), Some("true"));
    assert_eq!(list.parameter("resourceVersion"), Some(""));
}

#[tokio::test(start_paused = true)]
async fn if_streamed_lists_are_not_supported_plain_lists_are_requested() {
    let mut setup = FeedSetup::with_lists(Feed::Services, ListStreaming::Streamed);
    let list = setup.api.next_request().await;
    let requested_at = list.arrived_at;
    list.refuse(
        422,
        "Invalid",
        "sendInitialEvents: Forbidden: needs the feature WatchList",
    );
    let list = setup.api.next_request().await;
    assert_eq!(list.arrived_at, requested_at, "the retry must not wait");
    assert_eq!(list.parameter("watch"), None);
    list.respond_with_list("7", &[]);
    setup
        .api
        .next_request()
        .await
        .refuse(410, "Expired", "too old");
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("watch"), None);
    assert_eq!(setup.received(), ["listing", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn other_refusals_keep_streamed_lists() {
    for code in [401, 403, 404, 429, 500] {
        let mut setup = FeedSetup::with_lists(Feed::Services, ListStreaming::Streamed);
        setup.api.next_request().await.refuse(code, "No", "no");
        let list = setup.api.next_request().await;
        assert_eq!(list.parameter("sendInitialEvents"), Some("true"), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_api_servers_version_selects_the_list_format() {
    for (code, body, streamed) in [
        (
            200,
            r#"{"major": "1", "minor": "34+", "gitVersion": "v1.34.1"}"#,
            true,
        ),
        (200, r#"{"major": "1", "minor": "33"}"#, false),
        (200, "<html>", false),
        (403, "", false),
        (500, "", false),
    ] {
        let (router, mut api) = FakeApi::new();
        let (sender, _events) = mpsc::channel(64);
        let client = Client::new(router, "default");
        let source = KubernetesSource::start(client, &SourceOptions::default(), sender);
        let version = api.next_request().await;
        assert_eq!(version.path, "/version");
        version.respond(StatusCode::from_u16(code).unwrap(), &[], body.into());
        let list = api.next_request().await;
        assert_eq!(
            list.parameter("sendInitialEvents").is_some(),
            streamed,
            "{code} {body}"
        );
        assert_eq!(source.health().requests().get, 1);
        // The list of the other feed. Dropping this request makes the list fail, and the second
        // request is the retry.
        api.next_request().await;
        api.next_request().await;
        drop(list);
        drop(source);
    }
}

#[tokio::test(start_paused = true)]
async fn if_the_version_is_not_known_after_70_seconds_lists_are_plain() {
    let (router, mut api) = FakeApi::new();
    let (sender, _events) = mpsc::channel(64);
    let source = KubernetesSource::start(
        Client::new(router, "default"),
        &SourceOptions::default(),
        sender,
    );
    let version = api.next_request().await;
    let list = api.next_request().await;
    // The source abandons the request for the version after `RESPONSE_TIMEOUT`.
    assert_eq!(
        list.arrived_at - version.arrived_at,
        Duration::from_secs(70)
    );
    assert_eq!(list.parameter("sendInitialEvents"), None);
    drop(source);
}
