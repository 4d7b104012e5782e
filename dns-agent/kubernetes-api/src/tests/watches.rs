//! Watches: changes, the end of a watch, and recovery from failures.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{fake::status, *};

#[tokio::test(start_paused = true)]
async fn changes_are_reported_and_the_version_advances() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    assert_eq!(watch.path, "/api/v1/services");
    assert_eq!(watch.parameter("allowWatchBookmarks"), Some("true"));
    let seconds: u64 = watch.parameter("timeoutSeconds").unwrap().parse().unwrap();
    assert!(
        (300..=600).contains(&seconds),
        "timeoutSeconds={seconds} is not from 300 to 600"
    );
    let body = watch.start_body();
    body.send_event(added("b", "8")).await;
    body.send_event(("MODIFIED", service("a", "9"))).await;
    body.send_event(("DELETED", service("b", "10"))).await;
    assert_eq!(setup.event().await, "+b");
    assert_eq!(setup.event().await, "+a");
    assert_eq!(setup.event().await, "-b");
    assert_eq!(setup.health().activity, FeedActivity::Watching);
    sleep(Duration::from_secs(60)).await;
    let ended = Instant::now();
    drop(body);
    let watch = setup.api.next_request().await;
    assert_eq!(
        watch.arrived_at, ended,
        "the watch must be reopened at once"
    );
    assert_eq!(watch.parameter("resourceVersion"), Some("10"));

    let body = watch.start_body();
    sleep(Duration::from_secs(60)).await;
    body.send_event(("BOOKMARK", bookmark("99"))).await;
    drop(body);
    let watch = setup.api.next_request().await;
    assert_eq!(watch.parameter("resourceVersion"), Some("99"));
    assert_eq!(setup.received(), [""; 0]);
    assert_eq!((setup.health().lists, setup.health().watches), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn after_an_expired_version_the_feed_lists_a_state_that_is_not_older() {
    for ending in ["status", "event", "event without a code"] {
        let (mut setup, watch) = FeedSetup::watching("7").await;
        let expired = Instant::now();
        match ending {
            "status" => watch.refuse(410, "Expired", "too old resource version: 7 (9)"),
            "event" => {
                watch
                    .start_body()
                    .send_event(("ERROR", status(410, "Expired", "too old")))
                    .await;
            }
            _ => {
                watch
                    .start_body()
                    .send_event(("ERROR", json!({"reason": "Expired"})))
                    .await;
            }
        }
        let list = setup.api.next_request().await;
        assert!(
            list.arrived_at - expired <= Duration::from_secs(5),
            "the list waited longer than the jitter of at most 5 s"
        );
        assert_eq!(list.parameter("watch"), None);
        assert_eq!(
            list.parameter("resourceVersion"),
            Some("7"),
            "the list must not accept a state older than the one received"
        );
        assert_eq!(list.parameter("resourceVersionMatch"), Some("NotOlderThan"));
        list.respond_with_list("12", &[]);
        let watch = setup.api.next_request().await;
        assert_eq!(watch.parameter("resourceVersion"), Some("12"));
        assert_eq!(setup.received(), ["listing", "listed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn lists_after_an_expired_version_are_spread_over_time() {
    let mut waits = Vec::new();
    for _ in 0..50 {
        let (mut setup, watch) = FeedSetup::watching("7").await;
        let expired = Instant::now();
        watch.refuse(410, "Expired", "too old");
        waits.push(setup.api.next_request().await.arrived_at - expired);
    }
    // Of 50 uniform delays up to 5 s, practically always some are below 2 s, and some above 3 s.
    assert!(
        waits.iter().any(|wait| *wait < Duration::from_secs(2)),
        "no list came early: {waits:?}"
    );
    assert!(
        waits.iter().any(|wait| *wait > Duration::from_secs(3)),
        "no list came late: {waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn if_the_api_server_has_only_an_older_state_the_feed_lists_that_state() {
    let (mut setup, watch) = FeedSetup::watching("100").await;
    watch.refuse(
        504,
        "Timeout",
        "Too large resource version: 100, current: 50",
    );
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("resourceVersion"), Some("100"));
    list.refuse(
        504,
        "Timeout",
        "Too large resource version: 100, current: 50",
    );
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("watch"), None);
    assert_eq!(
        list.parameter("resourceVersion"),
        None,
        "the list must request the newest state"
    );
    assert_eq!(list.parameter("resourceVersionMatch"), None);
    list.respond_with_list("50", &[]);
    let watch = setup.api.next_request().await;
    assert_eq!(watch.parameter("resourceVersion"), Some("50"));
    // The next list requests a state that is not older than the version 50.
    watch.refuse(410, "Expired", "too old");
    assert_eq!(
        setup.api.next_request().await.parameter("resourceVersion"),
        Some("50")
    );
}

#[tokio::test(start_paused = true)]
async fn a_feed_lists_again_if_the_api_server_has_not_reached_its_version() {
    // After a restore of etcd, the API server opens the watch and sends nothing.
    let (mut setup, watch) = FeedSetup::watching("100").await;
    let started = watch.arrived_at;
    let _first = watch.start_body();
    let watch = setup.api.next_request().await;
    assert_eq!(watch.parameter("watch"), Some("true"));
    let _second = watch.start_body();
    let list = setup.api.next_request().await;
    assert_eq!(list.parameter("watch"), None);
    assert_eq!(list.parameter("resourceVersion"), Some("100"));
    let after = list.arrived_at - started;
    // Two watches were silent for 180 s each. A random delay of at most 5 s follows.
    assert!(
        after >= Duration::from_secs(360) && after <= Duration::from_secs(366),
        "listed again after {after:?}, not after 360 s to 366 s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_abandoned_and_opened_again() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.start_body();
    sleep(Duration::from_secs(179)).await;
    body.send_event(("BOOKMARK", bookmark("8"))).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.health().age(), Some(Duration::from_secs(1)));
    let watch = setup.api.next_request().await;
    body.wait_until_closed().await;
    assert_eq!(setup.health().age(), Some(Duration::from_secs(180)));
    assert_eq!(watch.parameter("resourceVersion"), Some("8"));
    // An opened watch without an event doesn't count as received data.
    let body = watch.start_body();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(setup.health().age(), Some(Duration::from_secs(280)));
    // An event counts and resets the age.
    body.send_event(added("b", "9")).await;
    assert_eq!(setup.event().await, "+b");
    let watch = setup.api.next_request().await;
    assert_eq!(watch.parameter("watch"), Some("true"));
    assert_eq!(watch.parameter("resourceVersion"), Some("9"));
    assert_eq!(setup.health().lists, 1);
}

#[tokio::test(start_paused = true)]
async fn the_silence_of_several_watches_adds_up() {
    // A proxy closes connections that are idle for a minute, and the API server sends no bookmarks.
    let (mut setup, mut request) = FeedSetup::watching("7").await;
    let mut watches = 0;
    while request.parameter("watch").is_some() {
        let body = request.start_body();
        sleep(Duration::from_secs(60)).await;
        drop(body);
        watches += 1;
        assert!(watches < 10, "ten silent watches, and no list");
        request = setup.api.next_request().await;
    }
    assert_eq!(watches, 6, "a list is due after 360 s without an event");
    assert_eq!(request.parameter("resourceVersion"), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_reopened_from_the_last_whole_event() {
    for ending in ["cut", "cut within a line", "ended within a line"] {
        let (mut setup, watch) = FeedSetup::watching("7").await;
        let body = watch.start_body();
        body.send_event(added("b", "8")).await;
        assert_eq!(setup.event().await, "+b");
        let broken = Instant::now();
        if ending != "cut" {
            let line = json!({"type": "ADDED", "object": service("c", "9")}).to_string();
            body.send_text(&line[..line.len() - 20]).await;
        }
        if ending == "ended within a line" {
            drop(body);
        } else {
            body.cut().await;
        }
        let watch = setup.api.next_request().await;
        assert!(
            watch.arrived_at - broken <= Duration::from_millis(500),
            "the retry waited longer than the first back-off of at most 500 ms"
        );
        assert_eq!(watch.parameter("watch"), Some("true"), "{ending}");
        assert_eq!(watch.parameter("resourceVersion"), Some("8"), "{ending}");
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
    let body = watch.start_body();
    let mut broken = service("broken", "8");
    broken["spec"]["ports"] = json!(5);
    body.send_event(("MODIFIED", broken)).await;
    let received = setup.event().await;
    assert!(
        received.starts_with("?Service ns/broken: spec.ports: invalid type"),
        "another event: {received}"
    );
    body.send_text("not JSON\n").await;
    let received = setup.event().await;
    assert!(
        received.contains("can't parse a watch event"),
        "another event: {received}"
    );
    body.send_event(("NEWS", service("x", "9"))).await;
    let received = setup.event().await;
    assert!(
        received.contains("unknown event type \"NEWS\""),
        "another event: {received}"
    );
    body.send_event(("DELETED", json!({"metadata": {}}))).await;
    let received = setup.event().await;
    assert!(
        received.starts_with("?a Service without a readable name: metadata.name: "),
        "another event: {received}"
    );
    // A deleted object need not be valid.
    body.send_event((
        "DELETED",
        json!({"metadata": {"namespace": "ns", "name": "a"}, "spec": 5}),
    ))
    .await;
    assert_eq!(setup.event().await, "-a");
    body.send_event(added("b", "10")).await;
    assert_eq!(setup.event().await, "+b");
    assert_eq!((setup.health().unusable, setup.health().lists), (4, 1));
    body.cut().await;
    assert_eq!(
        setup.api.next_request().await.parameter("resourceVersion"),
        Some("10")
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_advances_the_version_too() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.start_body();
    let mut broken = service("broken", "8");
    broken["spec"] = json!(5);
    body.send_event(("MODIFIED", broken)).await;
    setup.event().await;
    body.cut().await;
    assert_eq!(
        setup.api.next_request().await.parameter("resourceVersion"),
        Some("8")
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_opened_again_after_a_growing_delay() {
    let (mut setup, mut watch) = FeedSetup::watching("7").await;
    let started = Instant::now();
    for _ in 0..40 {
        drop(watch.start_body());
        watch = setup.api.next_request().await;
        assert_eq!(watch.parameter("watch"), Some("true"));
    }
    // The mean of the sum is 526 s: half of the ceilings, which are 15.5 s in total for the first
    // five delays, 16 s for the sixth, and 30 s for each of the other 34. If the ceilings stayed at
    // 0.5 s, it would be 10 s.
    assert!(
        started.elapsed() > Duration::from_secs(200),
        "40 watches took only {:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_feed_does_not_list_again_after_the_machine_was_suspended() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.start_body();
    body.send_event(("BOOKMARK", bookmark("8"))).await;
    sleep(Duration::from_secs(1)).await;
    // The machine was suspended, so nothing ran in between.
    tokio::time::advance(Duration::from_secs(5 * 3600)).await;
    let watch = setup.api.next_request().await;
    body.wait_until_closed().await;
    assert!(setup.health().age() >= Some(Duration::from_secs(5 * 3600)));
    assert_eq!(watch.parameter("watch"), Some("true"));
    assert_eq!(watch.parameter("resourceVersion"), Some("8"));
    let body = watch.start_body();
    body.send_event(added("b", "9")).await;
    assert_eq!(setup.event().await, "+b");
    assert!(setup.health().age() < Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn events_that_had_to_wait_have_the_time_at_which_they_were_read() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.start_body();
    // More events than the channel holds.
    let events = (0..2_000).map(|number| {
        let (event_type, object) = added("b", &(number + 8).to_string());
        format!("{}\n", json!({"type": event_type, "object": object}))
    });
    body.send_text(&events.collect::<String>()).await;
    let first = setup.events.recv().await.unwrap().received;
    sleep(Duration::from_secs(5)).await;
    assert!(setup.health().blocked_since.is_some());
    for _ in 1..2_000 {
        assert_eq!(setup.events.recv().await.unwrap().received, first);
    }
    body.send_event(added("c", "3000")).await;
    let later = setup.events.recv().await.unwrap().received;
    assert_eq!(later - first, Duration::from_secs(5));
}
