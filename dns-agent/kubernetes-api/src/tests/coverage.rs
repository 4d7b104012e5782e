//! EndpointSlices of headless Services.

use zerohop_kubernetes::Covered;

use super::{
    super::{KubernetesSource, SourceOptions},
    fake::BodyWriter,
    *,
};

/// A whole source that has listed its Services, and its fake API server.
struct CoverageSetup {
    api: FakeApi,
    events: mpsc::Receiver<Event>,
    source: KubernetesSource,
    services: BodyWriter,
}

impl CoverageSetup {
    async fn with(services: &[Value]) -> CoverageSetup {
        let (router, mut api) = FakeApi::new();
        let (sender, events) = mpsc::channel(4096);
        let source = KubernetesSource::start(
            Client::new(router, "default"),
            &SourceOptions::default(),
            sender,
        );
        api.next().await.refuse(404, "NotFound", "no version");
        let services = loop {
            let request = api.next().await;
            match (request.path.as_str(), request.get("watch")) {
                ("/api/v1/services", Some(_)) => break request.open(),
                ("/api/v1/services", None) => request.list("7", services),
                (_, Some(_)) => drop(request.open()),
                (_, None) => request.list("7", &[]),
            }
        };
        CoverageSetup {
            api,
            events,
            source,
            services,
        }
    }

    /// The next request for EndpointSlices, and its selector.
    async fn slices(&mut self) -> (PendingRequest, String) {
        loop {
            let request = self.api.next().await;
            if request.path.ends_with("/endpointslices") {
                let selector = request.get("labelSelector").unwrap_or_default().to_owned();
                return (request, selector);
            }
            drop(request.open());
        }
    }

    /// Responds to a list of EndpointSlices, and returns the watch that follows.
    async fn list(&mut self, selector: &str) -> BodyWriter {
        let (request, requested_selector) = self.slices().await;
        assert_eq!(
            (requested_selector.as_str(), request.get("watch")),
            (selector, None)
        );
        request.list("9", &[]);
        let (request, requested_selector) = self.slices().await;
        assert_eq!(
            (requested_selector.as_str(), request.get("watch")),
            (selector, Some("true"))
        );
        request.open()
    }

    /// The events of EndpointSlices since the last call, abbreviated.
    fn received(&mut self) -> Vec<String> {
        let mut received = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match &event {
                Event::ListStarted(Feed::Slices(_))
                | Event::ListEnded(Feed::Slices(_))
                | Event::Covered(..) => received.push(describe_event(&event)),
                _ => {}
            }
        }
        received
    }
}

fn headless(name: &str) -> Value {
    let mut service = service(name, "7");
    service["spec"]["clusterIP"] = json!("None");
    service
}

#[tokio::test(start_paused = true)]
async fn slices_are_selected_by_service_names() {
    let services = [headless("db"), service("web", "7"), headless("cache")];
    let mut source = CoverageSetup::with(&services).await;
    let both = "kubernetes.io/service-name in (cache,db)";
    let _watch = source.list(both).await;
    assert_eq!(
        source.received(),
        ["listing", "covered cache,db", "listed"],
        "before the list's end"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_headless_is_covered_after_another_list() {
    let mut source = CoverageSetup::with(&[headless("db"), service("web", "7")]).await;
    let _watch = source.list("kubernetes.io/service-name in (db)").await;
    source.received();
    source.services.event(("MODIFIED", headless("web"))).await;
    let (request, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,web)");
    // The state of the slices read before must not go back in time.
    assert_eq!(request.get("resourceVersion"), Some("9"));
    assert_eq!(request.get("resourceVersionMatch"), Some("NotOlderThan"));
    assert_eq!(
        source.received(),
        [""; 0],
        "a request without a response covers nothing"
    );
    request.list("12", &[]);
    let (_, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,web)");
    assert_eq!(source.received(), ["listing", "covered db,web", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn known_names_cause_no_request() {
    let mut source = CoverageSetup::with(&[headless("db")]).await;
    let _watch = source.list("kubernetes.io/service-name in (db)").await;
    source
        .services
        .event(("MODIFIED", service("db", "8")))
        .await;
    source.services.event(("MODIFIED", headless("db"))).await;
    source.services.event(("DELETED", headless("db"))).await;
    source.services.event(("ADDED", headless("db"))).await;
    source.services.event(("ADDED", headless("new"))).await;
    let (_, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,new)");
    let lists = source.source.health().feeds()[&Feed::SLICES].lists;
    assert_eq!(lists, 2);
}

#[tokio::test(start_paused = true)]
async fn without_headless_services_the_list_is_empty_and_fresh() {
    let mut source = CoverageSetup::with(&[service("web", "7")]).await;
    let received = loop {
        let received = source.received();
        if !received.is_empty() {
            break received;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(received, ["listing", "listed"]);
    let health = source.source.health();
    tokio::time::advance(Duration::from_secs(3600)).await;
    let age = health.feeds()[&Feed::SLICES].age();
    assert_eq!(age, Some(Duration::ZERO));
    // The slices of the first headless Service are requested.
    source.services.event(("ADDED", headless("db"))).await;
    let (_, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db)");
}

#[tokio::test(start_paused = true)]
async fn too_many_names_are_watched_in_parts_and_then_all_slices_are() {
    // Each name has 60 bytes with its comma, so 68 names fit into a part.
    let services = |numbers: std::ops::Range<usize>| -> Vec<Value> {
        numbers
            .map(|number| headless(&format!("{number:059}")))
            .collect()
    };
    let mut source = CoverageSetup::with(&services(0..200)).await;
    let mut covered = 0;
    let mut watches = Vec::new();
    while covered < 200 {
        let (request, selector) = source.slices().await;
        let names = selector.matches('0').count();
        assert!(names > 0 && selector.len() < 4200, "{selector}");
        match request.get("watch") {
            Some(_) => watches.push(request.open()),
            None => request.list("9", &[]),
        }
        covered += source
            .received()
            .iter()
            .filter_map(|event| event.strip_prefix("covered "))
            .map(|names| names.split(',').count())
            .sum::<usize>();
    }
    assert_eq!(source.source.health().feeds().len(), 2 + 3);

    for service in services(200..600) {
        source.services.event(("ADDED", service)).await;
    }
    loop {
        let (request, selector) = source.slices().await;
        if selector.is_empty() {
            request.list("20", &[]);
            break;
        }
        match request.get("watch") {
            Some(_) => watches.push(request.open()),
            None => request.list("9", &[]),
        }
    }
    let (request, selector) = source.slices().await;
    assert_eq!(
        (selector.as_str(), request.get("watch")),
        ("", Some("true"))
    );
    let received = source.received();
    assert_eq!(
        received[received.len() - 2..],
        ["covered everything", "listed"]
    );
    // In between, nothing was covered.
    assert!(received.contains(&"covered ".to_owned()), "{received:?}");
}

pub(super) fn describe_coverage(covered: &Covered) -> String {
    match covered {
        Covered::Every => "everything".to_owned(),
        Covered::Named(names) => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            names.join(",")
        }
    }
}
