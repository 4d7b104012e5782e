//! Watches: changes, ends, and recovery.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{fake::status, *};

#[tokio::test(start_paused = true)]
async fn changes_are_reported_and_the_version_advances() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    assert_eq!(watch.path, "/api/v1/services");
    assert_eq!(watch.get("allowWatchBookmarks"), Some("true"));
    let seconds: u64 = watch.get("timeoutSeconds").unwrap().parse().unwrap();
    assert!((300..=600).contains(&seconds), "{seconds}");
    let body = watch.open();
    body.event(added("b", "8")).await;
    body.event(("MODIFIED", service("a", "9"))).await;
    body.event(("DELETED", service("b", "10"))).await;
    assert_eq!(setup.event().await, "+b");
    assert_eq!(setup.event().await, "+a");
    assert_eq!(setup.event().await, "-b");
    assert_eq!(setup.health().state, FeedActivity::Watching);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let ended = Instant::now();
    drop(body);
    let watch = setup.api.next().await;
    assert_eq!(watch.at, ended, "reopened at once");
    assert_eq!(watch.get("resourceVersion"), Some("10"));

    let body = watch.open();
    tokio::time::sleep(Duration::from_secs(60)).await;
    body.event(("BOOKMARK", bookmark("99"))).await;
    drop(body);
    let watch = setup.api.next().await;
    assert_eq!(watch.get("resourceVersion"), Some("99"));
    assert_eq!(setup.received(), [""; 0]);
    assert_eq!((setup.health().lists, setup.health().watches), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn an_expired_version_causes_a_list_that_is_not_older() {
    for ending in ["status", "event", "event without a code"] {
        let (mut setup, watch) = FeedSetup::watching("7").await;
        let expired = Instant::now();
        match ending {
            "status" => watch.refuse(410, "Expired", "too old resource version: 7 (9)"),
            "event" => {
                watch
                    .open()
                    .event(("ERROR", status(410, "Expired", "too old")))
                    .await;
            }
            _ => {
                watch
                    .open()
                    .event(("ERROR", json!({"reason": "Expired"})))
                    .await;
            }
        }
        let list = setup.api.next().await;
        assert!(list.at - expired <= Duration::from_secs(5));
        assert_eq!(list.get("watch"), None);
        assert_eq!(
            list.get("resourceVersion"),
            Some("7"),
            "no going back in time"
        );
        assert_eq!(list.get("resourceVersionMatch"), Some("NotOlderThan"));
        list.list("12", &[]);
        let watch = setup.api.next().await;
        assert_eq!(watch.get("resourceVersion"), Some("12"));
        assert_eq!(setup.received(), ["listing", "listed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn forced_lists_are_spread() {
    let mut waits = Vec::new();
    for _ in 0..50 {
        let (mut setup, watch) = FeedSetup::watching("7").await;
        let expired = Instant::now();
        watch.refuse(410, "Expired", "too old");
        waits.push(setup.api.next().await.at - expired);
    }
    assert!(waits.iter().any(|wait| *wait < Duration::from_secs(2)));
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_with_an_older_state_is_followed_back() {
    let (mut setup, watch) = FeedSetup::watching("100").await;
    watch.refuse(
        504,
        "Timeout",
        "Too large resource version: 100, current: 50",
    );
    let list = setup.api.next().await;
    assert_eq!(list.get("resourceVersion"), Some("100"));
    list.refuse(
        504,
        "Timeout",
        "Too large resource version: 100, current: 50",
    );
    let list = setup.api.next().await;
    assert_eq!(list.get("watch"), None);
    assert_eq!(list.get("resourceVersion"), None, "whatever is newest");
    assert_eq!(list.get("resourceVersionMatch"), None);
    list.list("50", &[]);
    let watch = setup.api.next().await;
    assert_eq!(watch.get("resourceVersion"), Some("50"));
    // The next list is again not older than the version seen.
    watch.refuse(410, "Expired", "too old");
    assert_eq!(setup.api.next().await.get("resourceVersion"), Some("50"));
}

#[tokio::test(start_paused = true)]
async fn a_version_in_the_future_does_not_block_a_feed_for_ever() {
    // After a restore of etcd, the API server opens the watch and sends nothing.
    let (mut setup, watch) = FeedSetup::watching("100").await;
    let started = watch.at;
    let _first = watch.open();
    let watch = setup.api.next().await;
    assert_eq!(watch.get("watch"), Some("true"));
    let _second = watch.open();
    let list = setup.api.next().await;
    assert_eq!(list.get("watch"), None);
    assert_eq!(list.get("resourceVersion"), Some("100"));
    let after = list.at - started;
    assert!(
        after >= Duration::from_secs(360) && after <= Duration::from_secs(366),
        "{after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_dropped_and_reopened() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.open();
    tokio::time::sleep(Duration::from_secs(179)).await;
    body.event(("BOOKMARK", bookmark("8"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.health().age(), Some(Duration::from_secs(1)));
    let watch = setup.api.next().await;
    body.closed().await;
    assert_eq!(setup.health().age(), Some(Duration::from_secs(180)));
    assert_eq!(watch.get("resourceVersion"), Some("8"));
    // An opened watch without an event doesn't count as received data.
    let body = watch.open();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(setup.health().age(), Some(Duration::from_secs(280)));
    // An event counts and resets the age.
    body.event(added("b", "9")).await;
    assert_eq!(setup.event().await, "+b");
    let watch = setup.api.next().await;
    assert_eq!(watch.get("watch"), Some("true"));
    assert_eq!(watch.get("resourceVersion"), Some("9"));
    assert_eq!(setup.health().lists, 1);
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_without_an_event_do_not_reset_the_silence() {
    // This happens behind a proxy that closes connections after an idle minute, if the API server
    // sends no bookmarks.
    let (mut setup, mut request) = FeedSetup::watching("7").await;
    let mut watches = 0;
    while request.get("watch").is_some() {
        let body = request.open();
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(body);
        watches += 1;
        assert!(watches < 10, "no list");
        request = setup.api.next().await;
    }
    assert_eq!(watches, 6);
    assert_eq!(request.get("resourceVersion"), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_reopened_from_the_last_whole_event() {
    for ending in ["cut", "cut within a line", "ended within a line"] {
        let (mut setup, watch) = FeedSetup::watching("7").await;
        let body = watch.open();
        body.event(added("b", "8")).await;
        assert_eq!(setup.event().await, "+b");
        let broken = Instant::now();
        if ending != "cut" {
            let line = json!({"type": "ADDED", "object": service("c", "9")}).to_string();
            body.text(&line[..line.len() - 20]).await;
        }
        if ending == "ended within a line" {
            drop(body);
        } else {
            body.cut().await;
        }
        let watch = setup.api.next().await;
        assert!(watch.at - broken <= Duration::from_millis(500));
        assert_eq!(watch.get("watch"), Some("true"), "{ending}");
        assert_eq!(watch.get("resourceVersion"), Some("8"), "{ending}");
        assert_eq!(setup.received(), [""; 0], "{ending}");
        let error = setup.error();
        assert_eq!(
            error.contains("within an event"),
            ending.starts_with("ended"),
            "{ending}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_events_are_reported_and_skipped() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.open();
    let mut broken = service("broken", "8");
    broken["spec"]["ports"] = json!(5);
    body.event(("MODIFIED", broken)).await;
    let received = setup.event().await;
    assert!(
        received.starts_with("?Service ns/broken: spec.ports: invalid type"),
        "{received}"
    );
    body.text("rubbish\n").await;
    let received = setup.event().await;
    assert!(received.contains("can't parse a watch event"), "{received}");
    body.event(("NEWS", service("x", "9"))).await;
    let received = setup.event().await;
    assert!(
        received.contains("unknown event type \"NEWS\""),
        "{received}"
    );
    body.event(("DELETED", json!({"metadata": {}}))).await;
    let received = setup.event().await;
    assert!(
        received.starts_with("?a Service without a readable name: metadata.name: "),
        "{received}"
    );
    // A deleted object need not be valid.
    body.event((
        "DELETED",
        json!({"metadata": {"namespace": "ns", "name": "a"}, "spec": 5}),
    ))
    .await;
    assert_eq!(setup.event().await, "-a");
    body.event(added("b", "10")).await;
    assert_eq!(setup.event().await, "+b");
    assert_eq!((setup.health().unusable, setup.health().lists), (4, 1));
    body.cut().await;
    assert_eq!(setup.api.next().await.get("resourceVersion"), Some("10"));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_advances_the_version_too() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.open();
    let mut broken = service("broken", "8");
    broken["spec"] = json!(5);
    body.event(("MODIFIED", broken)).await;
    setup.event().await;
    body.cut().await;
    assert_eq!(setup.api.next().await.get("resourceVersion"), Some("8"));
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_not_reopened_without_a_pause() {
    let (mut setup, mut watch) = FeedSetup::watching("7").await;
    let started = Instant::now();
    for _ in 0..40 {
        drop(watch.open());
        watch = setup.api.next().await;
        assert_eq!(watch.get("watch"), Some("true"));
    }
    // The expected sum is half of 15.5 s plus half of 34 times 30 s.
    assert!(
        started.elapsed() > Duration::from_secs(200),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_jump_in_time_needs_no_new_list() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.open();
    body.event(("BOOKMARK", bookmark("8"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The machine was suspended, so nothing ran in between.
    tokio::time::advance(Duration::from_secs(5 * 3600)).await;
    let watch = setup.api.next().await;
    body.closed().await;
    assert!(setup.health().age() >= Some(Duration::from_secs(5 * 3600)));
    assert_eq!(watch.get("watch"), Some("true"));
    assert_eq!(watch.get("resourceVersion"), Some("8"));
    let body = watch.open();
    body.event(added("b", "9")).await;
    assert_eq!(setup.event().await, "+b");
    assert!(setup.health().age() < Some(Duration::from_secs(1)));
}
