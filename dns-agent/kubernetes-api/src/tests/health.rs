//! The health of all feeds together.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use super::{
    super::{EndpointScope, KubernetesSource, PodScope, SourceOptions},
    *,
};

/// A source of Namespaces, Services, EndpointSlices and Pods, with its first list requests by the
/// plural of their objects.
async fn start_source() -> (
    KubernetesSource,
    FakeApi,
    BTreeMap<String, PendingRequest>,
    mpsc::Receiver<ReceivedEvent>,
) {
    let options = SourceOptions {
        endpoints: EndpointScope::All,
        pods: Some(PodScope::All),
        ..SourceOptions::default()
    };
    let (router, mut api) = FakeApi::new();
    let (sender, events) = mpsc::channel(64);
    let source = KubernetesSource::start(Client::new(router, "default"), &options, sender);
    // Refuses the request for the version, so that the source requests plain lists.
    api.next_request()
        .await
        .refuse(404, "NotFound", "no version");
    let mut lists = BTreeMap::new();
    for _ in 0..4 {
        let list = api.next_request().await;
        let plural = list.path.rsplit('/').next().unwrap().to_owned();
        lists.insert(plural, list);
    }
    (source, api, lists, events)
}

#[tokio::test(start_paused = true)]
async fn the_age_is_the_largest_of_all_feeds() {
    let (source, mut api, mut lists, _events) = start_source().await;
    let health = source.health();
    assert!(
        health
            .feeds()
            .values()
            .all(|feed| feed.activity == FeedActivity::Waiting),
        "a feed does not wait for its list: {:?}",
        health.feeds()
    );
    let mut watches = Vec::new();
    for plural in ["namespaces", "services", "endpointslices", "pods"] {
        assert_eq!(health.age(), None, "{plural} are not listed yet");
        lists.remove(plural).unwrap().respond_with_list("7", &[]);
        watches.push(api.next_request().await.start_body());
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(health.age(), Some(Duration::from_secs(4)));
    for watch in &watches[..3] {
        watch.send_event(("BOOKMARK", bookmark("8"))).await;
    }
    sleep(Duration::from_secs(1)).await;
    let age_of_pods = Duration::from_secs(2);
    assert_eq!(health.age(), Some(age_of_pods));
    let feeds = health.feeds();
    assert!(
        feeds
            .values()
            .all(|feed| feed.activity == FeedActivity::Watching),
        "a feed does not watch: {feeds:?}"
    );
    assert_eq!(feeds[&Feed::Services].age(), Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_list_does_not_affect_other_feeds() {
    for code in [403, 404] {
        let (source, mut api, mut lists, mut events) = start_source().await;
        lists.remove("pods").unwrap().refuse(code, "Reason", "no");
        for list in std::mem::take(&mut lists).into_values() {
            list.respond_with_list("7", &[]);
        }
        let mut watches = Vec::new();
        let mut refused = 0;
        // Many retries, so that an effect on the other feeds would show.
        while watches.len() < 3 || refused < 20 {
            let request = api.next_request().await;
            if request.path.ends_with("pods") {
                request.refuse(code, "Reason", "no");
                refused += 1;
            } else {
                // The watches stay open and silent.
                watches.push(request.start_body());
            }
        }
        let mut listed = Vec::new();
        while let Ok(ReceivedEvent { event, .. }) = events.try_recv() {
            if let Event::ListEnded(feed) = event {
                listed.push(feed);
            }
        }
        listed.sort();
        listed.dedup();
        assert_eq!(listed, [Feed::Namespaces, Feed::Services, Feed::SLICES]);
        let health = source.health();
        assert_eq!(health.age(), None, "the Pods have not been listed");
        let feed = &health.feeds()[&Feed::Pods];
        assert!(
            matches!(feed.activity, FeedActivity::Retrying { .. }),
            "the feed of Pods is not retrying: {:?}",
            feed.activity
        );
        assert_eq!(feed.last_received, None);
    }
}
