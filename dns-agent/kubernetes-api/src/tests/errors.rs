//! Errors of the API server: delays, retries and messages.

use std::time::Duration;

use axum::{
    body::Body,
    http::{StatusCode, header::RETRY_AFTER},
};
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn errors_are_retried_after_growing_random_delays() {
    let mut setup = FeedSetup::new(Feed::Services);
    let mut list = setup.api.next_request().await;
    let mut waits = Vec::new();
    // Six delays with growing ceilings, then 100 delays with the highest ceiling.
    for _ in 0..106 {
        let requested_at = list.arrived_at;
        list.refuse(500, "InternalError", "etcd is unavailable");
        list = setup.api.next_request().await;
        waits.push(list.arrived_at - requested_at);
    }
    for (wait, ceiling) in waits.iter().zip([500, 1000, 2000, 4000, 8000, 16000]) {
        assert!(
            *wait <= Duration::from_millis(ceiling),
            "waited {wait:?}, more than {ceiling} ms"
        );
    }
    let later = &waits[6..];
    let longest = Duration::from_secs(30);
    assert!(
        later.iter().all(|wait| *wait <= longest),
        "a delay is longer than {longest:?}: {later:?}"
    );
    // The mean of 100 uniform delays is 15 s with a standard deviation of 0.87 s.
    let mean = later.iter().sum::<Duration>() / 100;
    assert!(
        mean > Duration::from_secs(10) && mean < Duration::from_secs(20),
        "the mean delay is {mean:?}, not 10 s to 20 s"
    );
    assert!(
        setup
            .error()
            .contains("can't list services: 500 etcd is unavailable"),
        "another error: {}",
        setup.error()
    );
    assert_eq!(setup.received(), [""; 0]);
    // The first request and 106 retries.
    assert_eq!(setup.health().lists, 107);
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_watch_resets_the_back_off() {
    let mut setup = FeedSetup::new(Feed::Services);
    for _ in 0..10 {
        setup
            .api
            .next_request()
            .await
            .refuse(500, "InternalError", "etcd is unavailable");
    }
    setup.api.next_request().await.respond_with_list("7", &[]);
    let body = setup.api.next_request().await.start_body();
    body.send_event(("BOOKMARK", bookmark("8"))).await;
    for expected in ["listing", "listed"] {
        assert_eq!(setup.event().await, expected);
    }
    // The bookmark sends no event. The feed reads it during this sleep.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.health().activity, FeedActivity::Watching);
    let broken = Instant::now();
    body.cut().await;
    assert!(
        setup.api.next_request().await.arrived_at - broken <= Duration::from_millis(500),
        "the retry waited longer than the first back-off of at most 500 ms"
    );
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_watch_continues_without_a_list() {
    let (mut setup, mut watch) = FeedSetup::watching("7").await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3600) {
        watch.respond(
            StatusCode::BAD_GATEWAY,
            &[],
            Body::from("<html>no upstream</html>"),
        );
        watch = setup.api.next_request().await;
        assert_eq!(watch.parameter("watch"), Some("true"));
        assert_eq!(watch.parameter("resourceVersion"), Some("7"));
    }
    assert!(
        setup.error().contains("502 <html>no upstream"),
        "another error: {}",
        setup.error()
    );
    assert!(
        setup.health().since - started < Duration::from_secs(1),
        "the activity did not begin with the first failure"
    );
    let age = setup.health.age();
    assert!(
        age >= Some(Duration::from_secs(3600)),
        "failed watches reset the age to {age:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_respected() {
    for code in [429, 503] {
        let mut setup = FeedSetup::new(Feed::Services);
        let list = setup.api.next_request().await;
        let requested_at = list.arrived_at;
        list.refuse_with(code, "TooManyRequests", "slow down", &[(RETRY_AFTER, "20")]);
        let wait = setup.api.next_request().await.arrived_at - requested_at;
        // A random back-off of at most 500 ms is added.
        assert!(
            wait >= Duration::from_secs(20) && wait <= Duration::from_millis(20_500),
            "retried after {wait:?}, not after 20 s and a back-off of at most 0.5 s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_bounded() {
    let mut setup = FeedSetup::new(Feed::Services);
    let list = setup.api.next_request().await;
    let requested_at = list.arrived_at;
    list.refuse_with(
        429,
        "TooManyRequests",
        "slow down",
        &[(RETRY_AFTER, "86400")],
    );
    // At most 300 s are waited, and a random back-off of at most 500 ms.
    let wait = setup.api.next_request().await.arrived_at - requested_at;
    assert!(
        wait <= Duration::from_millis(300_500),
        "retried only after {wait:?}, more than 300 s and a back-off of at most 0.5 s"
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_say_what_to_do() {
    for (feed, code, parts) in [
        (
            Feed::Services,
            403,
            [
                "to list services",
                "bind a ClusterRole with the verbs list and watch on services",
            ],
        ),
        (
            Feed::SLICES,
            403,
            [
                "to list endpointslices.discovery.k8s.io",
                "bind a ClusterRole",
            ],
        ),
        (
            Feed::ConfigMap,
            403,
            [
                "to list configmaps in the namespace kube-system",
                "bind a Role or ClusterRole",
            ],
        ),
        (
            Feed::Services,
            401,
            [
                "rejects the agent's credentials when the agent tries to list services",
                "check the ServiceAccount's token",
            ],
        ),
    ] {
        let mut setup = FeedSetup::new(feed);
        let list = setup.api.next_request().await;
        let refused = list.arrived_at;
        list.refuse(code, "Reason", "what the API server says");
        let list = setup.api.next_request().await;
        assert!(
            list.arrived_at - refused <= Duration::from_millis(500),
            "the retry waited longer than the first back-off of at most 500 ms"
        );
        let error = setup.error();
        for part in parts.iter().chain(&["what the API server says"]) {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        // After the permission is granted, the feed works.
        list.respond_with_list("7", &[]);
        let watch = setup.api.next_request().await;
        assert_eq!(setup.health().activity, FeedActivity::Listing);
        watch.refuse(code, "Reason", "what the API server says");
        // The error is stored before the retry.
        setup.api.next_request().await;
        let error = setup.error();
        assert!(error.contains("to watch "), "another error: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_watches_cause_lists_at_growing_intervals() {
    for (code, reason) in [(400, "BadRequest"), (410, "Expired")] {
        let (mut setup, mut watch) = FeedSetup::watching("7").await;
        let started = Instant::now();
        for _ in 0..40 {
            watch.refuse(code, reason, "no such version");
            let list = setup.api.next_request().await;
            assert_eq!(list.parameter("watch"), None);
            list.respond_with_list("8", &[]);
            watch = setup.api.next_request().await;
            assert_eq!(watch.parameter("resourceVersion"), Some("8"));
            while setup.events.try_recv().is_ok() {}
        }
        // The ceilings are four times 5 s (the least before a list), 8 s, 16 s and 34 times 30 s,
        // so the mean of the sum is 532 s. If the ceilings stayed at 5 s, it would be 100 s.
        assert!(
            started.elapsed() > Duration::from_secs(200),
            "40 refused watches took only {:?}",
            started.elapsed()
        );
    }
}
