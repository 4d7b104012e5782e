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
    let mut setup = FeedSetup::with(Feed::Services, ListStreaming::Streamed);
    let list = setup.api.next().await;
    for (parameter, value) in [
        ("watch", "true"),
        ("sendInitialEvents", "true"),
        ("resourceVersionMatch", "NotOlderThan"),
        ("resourceVersion", "0"),
        ("allowWatchBookmarks", "true"),
    ] {
        assert_eq!(list.get(parameter), Some(value), "{parameter}");
    }
    let body = list.open();
    body.event(added("a", "3")).await;
    body.event(("BOOKMARK", bookmark("4"))).await;
    body.event(added("b", "2")).await;
    assert_eq!(setup.event().await, "listing");
    assert_eq!(setup.event().await, "+a");
    assert_eq!(setup.event().await, "+b");
    assert_eq!(setup.health().last_received, None);
    assert_eq!(setup.health().state, FeedActivity::Listing);
    body.event(initial_end("7")).await;
    assert_eq!(setup.event().await, "listed");
    body.event(added("c", "8")).await;
    assert_eq!(setup.event().await, "+c");
    assert_eq!(setup.health().state, FeedActivity::Watching);
    assert_eq!((setup.health().lists, setup.health().watches), (0, 1));
    body.cut().await;
    let watch = setup.api.next().await;
    assert_eq!(watch.get("resourceVersion"), Some("8"));
    assert_eq!(watch.get("sendInitialEvents"), None);

    watch.refuse(410, "Expired", "too old");
    let list = setup.api.next().await;
    assert_eq!(list.get("sendInitialEvents"), Some("true"));
    assert_eq!(list.get("resourceVersion"), Some("8"));
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_breaks_off_starts_again() {
    for ending in ["cut", "ended"] {
        let mut setup = FeedSetup::with(Feed::Services, ListStreaming::Streamed);
        let body = setup.api.next().await.open();
        body.event(added("a", "3")).await;
        assert_eq!(setup.event().await, "listing");
        assert_eq!(setup.event().await, "+a");
        match ending {
            "cut" => body.cut().await,
            _ => drop(body),
        }
        let list = setup.api.next().await;
        assert_eq!(list.get("sendInitialEvents"), Some("true"));
        assert_eq!(list.get("resourceVersion"), Some("0"), "{ending}");
        assert_eq!(setup.received(), [""; 0]);
        let body = list.open();
        body.event(initial_end("7")).await;
        assert_eq!(setup.event().await, "listing");
        assert_eq!(setup.event().await, "listed");
    }
}

#[tokio::test(start_paused = true)]
async fn streamed_lists_abandon_a_version_in_the_future() {
    let mut setup = FeedSetup::with(Feed::Services, ListStreaming::Streamed);
    let body = setup.api.next().await.open();
    body.event(initial_end("100")).await;
    assert_eq!(setup.event().await, "listing");
    assert_eq!(setup.event().await, "listed");
    body.event(("ERROR", fake::status(410, "Expired", "too old")))
        .await;
    let list = setup.api.next().await;
    assert_eq!(list.get("resourceVersion"), Some("100"));
    let mut ahead = fake::status(504, "Timeout", "not yet");
    ahead["details"] = json!({"causes": [{"reason": "ResourceVersionTooLarge"}]});
    list.open().event(("ERROR", ahead)).await;
    let list = setup.api.next().await;
    assert_eq!(list.get("sendInitialEvents"), Some("true"));
    assert_eq!(list.get("resourceVersion"), Some(""));
}

#[tokio::test(start_paused = true)]
async fn an_unsupported_streamed_list_switches_to_plain_lists() {
    let mut setup = FeedSetup::with(Feed::Services, ListStreaming::Streamed);
    let list = setup.api.next().await;
    let request = list.at;
    list.refuse(
        422,
        "Invalid",
        "sendInitialEvents: Forbidden: needs the feature WatchList",
    );
    let list = setup.api.next().await;
    assert_eq!(list.at, request, "at once");
    assert_eq!(list.get("watch"), None);
    list.list("7", &[]);
    setup.api.next().await.refuse(410, "Expired", "too old");
    let list = setup.api.next().await;
    assert_eq!(list.get("watch"), None);
    assert_eq!(setup.received(), ["listing", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn other_refusals_keep_streamed_lists() {
    for code in [401, 403, 404, 429, 500] {
        let mut setup = FeedSetup::with(Feed::Services, ListStreaming::Streamed);
        setup.api.next().await.refuse(code, "No", "no");
        let list = setup.api.next().await;
        assert_eq!(list.get("sendInitialEvents"), Some("true"), "{code}");
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
        let version = api.next().await;
        assert_eq!(version.path, "/version");
        version.respond(StatusCode::from_u16(code).unwrap(), &[], body.into());
        let list = api.next().await;
        assert_eq!(list.get("sendInitialEvents").is_some(), streamed, "{body}");
        assert_eq!(source.health().requests().get, 1);
        api.next().await;
        api.next().await;
        drop(list);
        drop(source);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_version_lists_are_plain() {
    let (router, mut api) = FakeApi::new();
    let (sender, _events) = mpsc::channel(64);
    let source = KubernetesSource::start(
        Client::new(router, "default"),
        &SourceOptions::default(),
        sender,
    );
    let version = api.next().await;
    let list = api.next().await;
    assert_eq!(list.at - version.at, Duration::from_secs(70));
    assert_eq!(list.get("sendInitialEvents"), None);
    drop(source);
}
