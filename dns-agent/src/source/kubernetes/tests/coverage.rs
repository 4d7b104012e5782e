//! The slices of headless Services.

use super::{
    super::{Kubernetes, Options},
    fake::Writer,
    *,
};
use crate::cluster::Covered;

/// A whole source, whose Services were listed, and its API server.
struct Source {
    api: FakeApi,
    events: mpsc::Receiver<Event>,
    source: Kubernetes,
    services: Writer,
}

impl Source {
    async fn with(services: &[Value]) -> Source {
        let (router, mut api) = FakeApi::new();
        let (sender, events) = mpsc::channel(4096);
        let source = Kubernetes::start(Client::new(router, "default"), &Options::default(), sender);
        api.next().await.refuse(404, "NotFound", "no version");
        let services = loop {
            let asked = api.next().await;
            match (asked.path.as_str(), asked.get("watch")) {
                ("/api/v1/services", Some(_)) => break asked.open(),
                ("/api/v1/services", None) => asked.list("7", services),
                (_, Some(_)) => drop(asked.open()),
                (_, None) => asked.list("7", &[]),
            }
        };
        Source {
            api,
            events,
            source,
            services,
        }
    }

    /// The next request for slices, and its selector.
    async fn slices(&mut self) -> (Asked, String) {
        loop {
            let asked = self.api.next().await;
            if asked.path.ends_with("/endpointslices") {
                let selector = asked.get("labelSelector").unwrap_or_default().to_owned();
                return (asked, selector);
            }
            drop(asked.open());
        }
    }

    /// Answers a list of slices, and gives its watch.
    async fn list(&mut self, selector: &str) -> Writer {
        let (asked, asked_for) = self.slices().await;
        assert_eq!((asked_for.as_str(), asked.get("watch")), (selector, None));
        asked.list("9", &[]);
        let (asked, asked_for) = self.slices().await;
        assert_eq!(
            (asked_for.as_str(), asked.get("watch")),
            (selector, Some("true"))
        );
        asked.open()
    }

    /// The events of slices so far, in short.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match &event {
                Event::Listing(Feed::Slices(_))
                | Event::Listed(Feed::Slices(_))
                | Event::Covered(..) => told.push(short(&event)),
                _ => {}
            }
        }
        told
    }
}

fn headless(name: &str) -> Value {
    let mut service = service(name, "7");
    service["spec"]["clusterIP"] = json!("None");
    service
}

#[tokio::test(start_paused = true)]
async fn they_are_asked_for_by_the_services_names() {
    let services = [headless("db"), service("web", "7"), headless("cache")];
    let mut source = Source::with(&services).await;
    let both = "kubernetes.io/service-name in (cache,db)";
    let _watch = source.list(both).await;
    assert_eq!(
        source.told(),
        ["listing", "covered cache,db", "listed"],
        "before the list's end"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_headless_is_covered_after_another_list() {
    let mut source = Source::with(&[headless("db"), service("web", "7")]).await;
    let _watch = source.list("kubernetes.io/service-name in (db)").await;
    source.told();
    source.services.event(("MODIFIED", headless("web"))).await;
    let (asked, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,web)");
    // Time must not go backwards for those that were known.
    assert_eq!(asked.get("resourceVersion"), Some("9"));
    assert_eq!(asked.get("resourceVersionMatch"), Some("NotOlderThan"));
    assert_eq!(source.told(), [""; 0], "nothing is covered by asking");
    asked.list("12", &[]);
    let (_, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db,web)");
    assert_eq!(source.told(), ["listing", "covered db,web", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_known_cost_no_request() {
    let mut source = Source::with(&[headless("db")]).await;
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
async fn where_no_service_is_headless_nothing_is_missing() {
    let mut source = Source::with(&[service("web", "7")]).await;
    let told = loop {
        let told = source.told();
        if !told.is_empty() {
            break told;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(told, ["listing", "listed"]);
    let health = source.source.health();
    tokio::time::advance(Duration::from_secs(3600)).await;
    let age = health.feeds()[&Feed::SLICES].age();
    assert_eq!(age, Some(Duration::ZERO));
    // The first one that comes is asked for.
    source.services.event(("ADDED", headless("db"))).await;
    let (_, selector) = source.slices().await;
    assert_eq!(selector, "kubernetes.io/service-name in (db)");
}

#[tokio::test(start_paused = true)]
async fn too_many_names_are_watched_in_parts_and_then_all_slices_are() {
    // 60 bytes each, with the comma: 68 of them fit into a part.
    let services = |numbers: std::ops::Range<usize>| -> Vec<Value> {
        numbers
            .map(|number| headless(&format!("{number:059}")))
            .collect()
    };
    let mut source = Source::with(&services(0..200)).await;
    let mut covered = 0;
    let mut watches = Vec::new();
    while covered < 200 {
        let (asked, selector) = source.slices().await;
        let names = selector.matches('0').count();
        assert!(names > 0 && selector.len() < 4200, "{selector}");
        match asked.get("watch") {
            Some(_) => watches.push(asked.open()),
            None => asked.list("9", &[]),
        }
        covered += source
            .told()
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
        let (asked, selector) = source.slices().await;
        if selector.is_empty() {
            asked.list("20", &[]);
            break;
        }
        match asked.get("watch") {
            Some(_) => watches.push(asked.open()),
            None => asked.list("9", &[]),
        }
    }
    let (asked, selector) = source.slices().await;
    assert_eq!((selector.as_str(), asked.get("watch")), ("", Some("true")));
    let told = source.told();
    assert_eq!(told[told.len() - 2..], ["covered everything", "listed"]);
    // In between nothing was.
    assert!(told.contains(&"covered ".to_owned()), "{told:?}");
}

pub(super) fn shown(covered: &Covered) -> String {
    match covered {
        Covered::Every => "everything".to_owned(),
        Covered::Named(names) => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            names.join(",")
        }
    }
}
