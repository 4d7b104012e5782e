//! Watches of the EndpointSlices of headless Services.

use zerohop_kubernetes::Covered;

use super::{
    super::{KubernetesSource, SourceOptions},
    fake::BodyWriter,
    *,
};

/// A source that has listed its Services, and its fake API server.
struct CoverageSetup {
    api: FakeApi,
    events: mpsc::Receiver<ReceivedEvent>,
    source: KubernetesSource,
    /// Writes the watch of Services.
    services: BodyWriter,
}

impl CoverageSetup {
    async fn start(services: &[Value]) -> CoverageSetup {
        let (router, mut api) = FakeApi::new();
        let (sender, events) = mpsc::channel(4096);
        let source = KubernetesSource::start(
            Client::new(router, "default"),
            &SourceOptions::default(),
            sender,
        );
        // Refuses the request for the version, so that the source requests plain lists.
        api.next_request()
            .await
            .refuse(404, "NotFound", "no version");
        let services = loop {
            let request = api.next_request().await;
            match (request.path.as_str(), request.parameter("watch")) {
                ("/api/v1/services", Some(_)) => break request.start_body(),
                ("/api/v1/services", None) => request.respond_with_list("7", services),
                // Other watches end at once, and are opened again later.
                (_, Some(_)) => drop(request.start_body()),
                (_, None) => request.respond_with_list("7", &[]),
            }
        };
        CoverageSetup {
            api,
            events,
            source,
            services,
        }
    }

    /// The next request for EndpointSlices, and its selector. Watches of other objects end at once.
    async fn next_slices_request(&mut self) -> (PendingRequest, String) {
        loop {
            let request = self.api.next_request().await;
            if request.path.ends_with("/endpointslices") {
                let selector = request
                    .parameter("labelSelector")
                    .unwrap_or_default()
                    .to_owned();
                return (request, selector);
            }
            drop(request.start_body());
        }
    }

    /// Responds to a list of EndpointSlices, and returns the watch that follows.
    async fn answer_slices_list(&mut self, selector: &str) -> BodyWriter {
        let (request, requested_selector) = self.next_slices_request().await;
        assert_eq!(
            (requested_selector.as_str(), request.parameter("watch")),
            (selector, None)
        );
        request.respond_with_list("9", &[]);
        let (request, requested_selector) = self.next_slices_request().await;
        assert_eq!(
            (requested_selector.as_str(), request.parameter("watch")),
            (selector, Some("true"))
        );
        request.start_body()
    }

    /// The events of EndpointSlices since the last call, abbreviated.
    fn received(&mut self) -> Vec<String> {
        let mut received = Vec::new();
        while let Ok(ReceivedEvent { event, .. }) = self.events.try_recv() {
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

fn headless_service(name: &str) -> Value {
    let mut service = service(name, "7");
    service["spec"]["clusterIP"] = json!("None");
    service
}

#[tokio::test(start_paused = true)]
async fn slices_are_selected_by_service_names() {
    let services = [
        headless_service("db"),
        service("web", "7"),
        headless_service("cache"),
    ];
    let mut setup = CoverageSetup::start(&services).await;
    let both = "kubernetes.io/service-name in (cache,db)";
    let _watch = setup.answer_slices_list(both).await;
    assert_eq!(
        setup.received(),
        ["listing", "covered cache,db", "listed"],
        "coverage is reported before the end of the list"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_headless_is_covered_after_another_list() {
    let mut setup = CoverageSetup::start(&[headless_service("db"), service("web", "7")]).await;
    let _watch = setup
        .answer_slices_list("kubernetes.io/service-name in (db)")
        .await;
    setup.received();
    setup
        .services
        .send_event(("MODIFIED", headless_service("web")))
        .await;
    let (request, selector) = setup.next_slices_request().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,web)");
    // The new list must not be older than the state that the part has read.
    assert_eq!(request.parameter("resourceVersion"), Some("9"));
    assert_eq!(
        request.parameter("resourceVersionMatch"),
        Some("NotOlderThan")
    );
    assert_eq!(
        setup.received(),
        [""; 0],
        "a request without a response covers nothing"
    );
    request.respond_with_list("12", &[]);
    let (_, selector) = setup.next_slices_request().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,web)");
    assert_eq!(setup.received(), ["listing", "covered db,web", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_already_watched_cause_no_request() {
    let mut setup = CoverageSetup::start(&[headless_service("db")]).await;
    let _watch = setup
        .answer_slices_list("kubernetes.io/service-name in (db)")
        .await;
    // The Service stops being headless, becomes headless again, and is replaced. Its name stays
    // watched, so only `new` causes a list.
    setup
        .services
        .send_event(("MODIFIED", service("db", "8")))
        .await;
    setup
        .services
        .send_event(("MODIFIED", headless_service("db")))
        .await;
    setup
        .services
        .send_event(("DELETED", headless_service("db")))
        .await;
    setup
        .services
        .send_event(("ADDED", headless_service("db")))
        .await;
    setup
        .services
        .send_event(("ADDED", headless_service("new")))
        .await;
    let (_, selector) = setup.next_slices_request().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,new)");
    let lists = setup.source.health().feeds()[&Feed::SLICES].lists;
    assert_eq!(lists, 2, "one list for `db`, and one for both names");
}

#[tokio::test(start_paused = true)]
async fn without_headless_services_the_list_is_empty_and_its_age_is_zero() {
    let mut setup = CoverageSetup::start(&[service("web", "7")]).await;
    // The empty list causes no request, so only the events show when the source has sent it.
    let received = loop {
        let received = setup.received();
        if !received.is_empty() {
            break received;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(received, ["listing", "listed"]);
    let health = setup.source.health();
    tokio::time::advance(Duration::from_secs(3600)).await;
    let age = health.feeds()[&Feed::SLICES].age();
    assert_eq!(age, Some(Duration::ZERO));
    // The slices of the first headless Service are requested.
    setup
        .services
        .send_event(("ADDED", headless_service("db")))
        .await;
    let (_, selector) = setup.next_slices_request().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db)");
}

#[tokio::test(start_paused = true)]
async fn many_names_are_watched_in_parts_and_for_too_many_names_all_slices_are_watched() {
    // Each name has 60 bytes with its comma, so 68 names fit into a part.
    let services = |numbers: std::ops::Range<usize>| -> Vec<Value> {
        numbers
            .map(|number| headless_service(&format!("{number:059}")))
            .collect()
    };
    let mut setup = CoverageSetup::start(&services(0..200)).await;
    let mut covered = 0;
    let mut watches = Vec::new();
    while covered < 200 {
        let (request, selector) = setup.next_slices_request().await;
        // The names begin with zeros, and have at most 4096 bytes in a request. The rest is the
        // syntax of the selector.
        assert!(
            selector.contains('0') && selector.len() < 4200,
            "a selector without names, or with too many: {selector}"
        );
        match request.parameter("watch") {
            Some(_) => watches.push(request.start_body()),
            None => request.respond_with_list("9", &[]),
        }
        covered += setup
            .received()
            .iter()
            .filter_map(|event| event.strip_prefix("covered "))
            .map(|names| names.split(',').count())
            .sum::<usize>();
    }
    // Namespaces, Services, and three parts.
    assert_eq!(setup.source.health().feeds().len(), 2 + 3);

    // All eight parts together have room for 544 names.
    for service in services(200..600) {
        setup.services.send_event(("ADDED", service)).await;
    }
    loop {
        let (request, selector) = setup.next_slices_request().await;
        if selector.is_empty() {
            request.respond_with_list("20", &[]);
            break;
        }
        match request.parameter("watch") {
            Some(_) => watches.push(request.start_body()),
            None => request.respond_with_list("9", &[]),
        }
    }
    let (request, selector) = setup.next_slices_request().await;
    assert_eq!(
        (selector.as_str(), request.parameter("watch")),
        ("", Some("true"))
    );
    let received = setup.received();
    assert_eq!(
        received[received.len() - 2..],
        ["covered every Service", "listed"]
    );
    // Before the new list, the coverage of the old parts ended.
    assert!(
        received.contains(&"covered ".to_owned()),
        "no coverage ended: {received:?}"
    );
}

pub(super) fn describe_coverage(covered: &Covered) -> String {
    match covered {
        Covered::Every => "every Service".to_owned(),
        Covered::Named(names) => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            names.join(",")
        }
    }
}
