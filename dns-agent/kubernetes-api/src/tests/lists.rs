//! Lists: requests, events, and failures.

use std::time::{Duration, SystemTime};

use axum::{body::Body, http::StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_list_accepts_any_state_and_its_events_are_in_order() {
    let mut setup = FeedSetup::new(Feed::Services);
    let list = setup.api.next_request().await;
    assert_eq!(list.path, "/api/v1/services");
    let query: Vec<_> = list
        .query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        query,
        ["resourceVersion=0", "resourceVersionMatch=NotOlderThan"]
    );
    list.respond_with_list("7", &[service("a", "3"), service("b", "5")]);
    let watch = setup.api.next_request().await;
    assert_eq!(watch.parameter("resourceVersion"), Some("7"));
    assert_eq!(setup.received(), ["listing", "+a", "+b", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn objects_are_reported_before_the_list_has_ended() {
    let mut setup = FeedSetup::new(Feed::Services);
    let body = setup.api.next_request().await.start_body();
    body.send_text(r#"{"metadata":{"resourceVersion":"7"},"items":["#)
        .await;
    body.send_text(&service("a", "1").to_string()).await;
    assert_eq!(setup.event().await, "listing");
    assert_eq!(setup.event().await, "+a");
    assert_eq!(setup.health().last_received, None);
    body.send_text(&format!(",{}]}}", service("b", "2"))).await;
    drop(body);
    assert_eq!(setup.event().await, "+b");
    assert_eq!(setup.event().await, "listed");
    assert!(setup.health().last_received.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_is_retried_without_an_end_event() {
    for ending in ["cut", "ended"] {
        let mut setup = FeedSetup::new(Feed::Services);
        let body = setup.api.next_request().await.start_body();
        body.send_text(r#"{"metadata":{"resourceVersion":"7"},"items":["#)
            .await;
        body.send_text(&format!("{},{{\"meta", service("a", "1")))
            .await;
        assert_eq!(setup.event().await, "listing");
        assert_eq!(setup.event().await, "+a");
        let broken = Instant::now();
        match ending {
            "cut" => body.cut().await,
            _ => drop(body),
        }
        let list = setup.api.next_request().await;
        assert!(
            list.arrived_at - broken <= Duration::from_millis(500),
            "the retry waited longer than the first back-off of at most 500 ms"
        );
        assert_eq!(list.parameter("resourceVersion"), Some("0"));
        assert_eq!(setup.received(), [""; 0]);
        assert_eq!(setup.health().last_received, None);
        list.respond_with_list("8", &[service("a", "1")]);
        // The watch request shows that the whole list has been read.
        setup.api.next_request().await;
        assert_eq!(setup.received(), ["listing", "+a", "listed"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_list_is_abandoned() {
    let mut setup = FeedSetup::new(Feed::Services);
    let body = setup.api.next_request().await.start_body();
    body.send_text(r#"{"metadata":{"resourceVersion":"7"},"items":["#)
        .await;
    assert_eq!(setup.event().await, "listing");
    let silent = Instant::now();
    let list = setup.api.next_request().await;
    let after = list.arrived_at - silent;
    assert!(
        after >= Duration::from_secs(180) && after <= Duration::from_millis(180_500),
        "retried after {after:?}, not after 180 s and a back-off of at most 0.5 s"
    );
    body.wait_until_closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_does_not_begin_is_abandoned() {
    let mut setup = FeedSetup::new(Feed::Services);
    let unanswered = setup.api.next_request().await;
    let list = setup.api.next_request().await;
    let after = list.arrived_at - unanswered.arrived_at;
    assert!(
        after >= Duration::from_secs(70) && after <= Duration::from_millis(70_500),
        "retried after {after:?}, not after 70 s and a back-off of at most 0.5 s"
    );
    assert!(
        setup.error().contains("didn't respond within 70 s"),
        "another error: {}",
        setup.error()
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_is_reported_and_skipped() {
    let mut setup = FeedSetup::new(Feed::Services);
    let mut port = service("port", "1");
    port["spec"]["ports"] = json!([{"port": "eighty"}]);
    let mut address = service("address", "1");
    address["spec"]["clusterIP"] = json!("10.0.0");
    let items = [
        json!(5),
        port,
        address,
        json!({"metadata": {"name": 5}}),
        service("a", "1"),
    ];
    setup
        .api
        .next_request()
        .await
        .respond_with_list("7", &items);
    // The watch request shows that the whole list has been read.
    setup.api.next_request().await;
    let received = setup.received();
    let [listing, number, port, address, nameless, a, listed] = received.as_slice() else {
        panic!("not seven events: {received:?}");
    };
    assert_eq!([listing, a, listed], ["listing", "+a", "listed"]);
    assert!(
        number.starts_with("?a Service without a readable name: invalid type"),
        "another event: {number}"
    );
    assert!(
        port.starts_with("?Service ns/port: spec.ports[0].port: invalid type"),
        "another event: {port}"
    );
    assert!(
        address.starts_with("?Service ns/address: spec.clusterIPs: "),
        "another event: {address}"
    );
    assert!(
        nameless.starts_with("?a Service without a readable name: metadata.name: invalid type"),
        "another event: {nameless}"
    );
    assert_eq!((setup.health().applied, setup.health().unusable), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_a_list_is_an_error() {
    for (body, reason) in [
        ("<html>Welcome</html>", "isn't a single JSON object"),
        (
            r#"{"kind":"Status","metadata":{},"status":"Success"}"#,
            "resourceVersion",
        ),
    ] {
        let mut setup = FeedSetup::new(Feed::Services);
        setup
            .api
            .next_request()
            .await
            .respond(StatusCode::OK, &[], Body::from(body));
        setup.api.next_request().await;
        let error = setup.error();
        assert!(error.contains(reason), "{reason:?} is not in: {error}");
        assert_eq!(setup.received(), ["listing"]);
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_slices_have_the_time_of_the_change() {
    for (annotations, changed) in [
        (
            json!({
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05.123456789Z"
            }),
            Some(SystemTime::UNIX_EPOCH + Duration::new(1_767_323_045, 123_456_789)),
        ),
        (
            json!({"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-02T03:04:05Z"}),
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)),
        ),
        (
            json!({"endpoints.kubernetes.io/last-change-trigger-time": "yesterday"}),
            None,
        ),
        (json!({"another": "annotation"}), None),
        (json!(null), None),
    ] {
        let mut setup = FeedSetup::new(Feed::SLICES);
        let slice = json!({
            "metadata": {"namespace": "ns", "name": "a", "annotations": annotations},
            "addressType": "IPv4", "endpoints": [], "ports": null,
        });
        setup
            .api
            .next_request()
            .await
            .respond_with_list("7", &[slice]);
        assert_eq!(setup.event().await, "listing");
        match setup.events.recv().await.unwrap().event {
            Event::Applied {
                changed: received, ..
            } => assert_eq!(received, changed, "{annotations}"),
            other => panic!("the slice was not reported as applied: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_slows_reading() {
    let mut setup = FeedSetup::new(Feed::Services);
    let body = setup.api.next_request().await.start_body();
    let writer = tokio::spawn(async move {
        body.send_text(r#"{"metadata":{"resourceVersion":"7"},"items":["#)
            .await;
        for index in 0..5000 {
            let comma = if index == 0 { "" } else { "," };
            body.send_text(&format!("{comma}{}", service(&index.to_string(), "1")))
                .await;
        }
        body.send_text("]}").await;
    });
    // The time is paused, so this sleep ends when all tasks wait for the receiver.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(
        !writer.is_finished(),
        "the list was read to its end, although no event was received"
    );
    let applied = setup.health().applied;
    // One more object may wait for room in the channel.
    assert!(
        applied <= 1024 + 1,
        "{applied} objects were read although the channel holds 1024"
    );
    assert_eq!(setup.event().await, "listing");
    for index in 0..5000 {
        assert_eq!(setup.event().await, format!("+{index}"));
    }
    assert_eq!(setup.event().await, "listed");
    assert_eq!(setup.health().lists, 1);
}

#[tokio::test(start_paused = true)]
async fn the_corefile_is_reported_from_lists_and_changes() {
    let map = |text: &str| {
        json!({
            "metadata": {"namespace": "kube-system", "name": "coredns"},
            "data": {"Corefile": text}
        })
    };
    let mut setup = FeedSetup::new(Feed::ConfigMap);
    setup
        .api
        .next_request()
        .await
        .respond_with_list("7", &[map(".:53 {}")]);
    let watch = setup.api.next_request().await.start_body();
    assert_eq!(
        setup.received(),
        [
            "listing",
            "config map Some({\"Corefile\": \".:53 {}\"})",
            "listed"
        ]
    );
    watch.send_event(("MODIFIED", map(".:54 {}"))).await;
    assert_eq!(
        setup.event().await,
        "config map Some({\"Corefile\": \".:54 {}\"})"
    );
    watch
        .send_event((
            "MODIFIED",
            json!({"metadata": {"name": "coredns"}, "data": {"other": "x"}}),
        ))
        .await;
    assert_eq!(setup.event().await, "config map Some({\"other\": \"x\"})");
    watch.send_event(("MODIFIED", map(".:55 {}"))).await;
    assert_eq!(
        setup.event().await,
        "config map Some({\"Corefile\": \".:55 {}\"})"
    );
    // CoreDNS reads the file even if it is not UTF-8. The bytes are `.:56 {} # ` and 0xE9.
    let binary =
        json!({"metadata": {"name": "coredns"}, "binaryData": {"Corefile": "Ljo1NiB7fSAjIOk="}});
    watch.send_event(("MODIFIED", binary)).await;
    assert_eq!(
        setup.event().await,
        "config map Some({\"Corefile\": \".:56 {} # \u{fffd}\"})"
    );
    let mut immutable = map(".:57 {}");
    immutable["immutable"] = json!(true);
    watch.send_event(("MODIFIED", immutable)).await;
    let received = setup.event().await;
    assert_eq!(
        received,
        "config map Some({\"Corefile\": \".:57 {}\"}), never updated in pods again"
    );
    watch.send_event(("DELETED", map(".:55 {}"))).await;
    assert_eq!(setup.event().await, "config map None");
    watch
        .send_event((
            "MODIFIED",
            json!({"metadata": {"name": "coredns"}, "data": 5}),
        ))
        .await;
    let received = setup.event().await;
    assert!(
        received.starts_with("?ConfigMap coredns: data"),
        "another event: {received}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_corefile_is_not_reported_as_absent() {
    let mut setup = FeedSetup::new(Feed::ConfigMap);
    let map = json!({"metadata": {"name": "coredns"}, "data": 5});
    setup
        .api
        .next_request()
        .await
        .respond_with_list("7", &[map]);
    setup.api.next_request().await;
    let received = setup.received();
    assert!(
        received[1].starts_with("?ConfigMap coredns: "),
        "other events: {received:?}"
    );
    assert_eq!((received.len(), received[2].as_str()), (3, "listed"));
}

#[tokio::test(start_paused = true)]
async fn a_corefile_missing_from_the_list_is_reported_as_absent() {
    let mut setup = FeedSetup::new(Feed::ConfigMap);
    setup.api.next_request().await.respond_with_list("7", &[]);
    let watch = setup.api.next_request().await;
    assert_eq!(setup.received(), ["listing", "config map None", "listed"]);
    watch.refuse(410, "Expired", "too old resource version");
    setup.api.next_request().await.respond_with_list("8", &[]);
    setup.api.next_request().await;
    assert_eq!(setup.received(), ["listing", "config map None", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_ends_when_its_channel_is_closed() {
    let (mut setup, watch) = FeedSetup::watching("7").await;
    let body = watch.start_body();
    setup.events.close();
    body.wait_until_closed().await;
    (&mut setup.task).await.unwrap();
}
