//! Tests of feeds with a fake API server in the same process and paused time.

mod admission;
mod coverage;
mod discovery;
mod errors;
mod fake;
mod health;
mod lists;
mod requests;
mod streamed;
mod watches;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1 as core;
use kube::Client;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use zerohop_kubernetes::{ConfigMapUpdates, EndpointScope, Event, Feed, Object, ObjectKey};

use self::fake::{FakeApi, PendingRequest};
use super::{
    FeedActivity, FeedHealth, ReceivedEvent, SourceHealth, SourceOptions, api_server::ApiServer,
    reflector::Reflector, selection,
};

/// One feed, its fake API server, and its events.
struct FeedSetup {
    api: FakeApi,
    events: mpsc::Receiver<ReceivedEvent>,
    health: Arc<SourceHealth>,
    feed: Feed,
    task: JoinHandle<()>,
}

/// Whether the feed requests streamed lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListStreaming {
    Plain,
    Streamed,
}

impl FeedSetup {
    /// A feed that is about to list.
    fn new(feed: Feed) -> FeedSetup {
        FeedSetup::with_lists(feed, ListStreaming::Plain)
    }

    fn with_lists(feed: Feed, lists: ListStreaming) -> FeedSetup {
        let options = SourceOptions {
            endpoints: EndpointScope::All,
            ..SourceOptions::default()
        };
        let mut selections = selection::object_feeds(&options);
        selections.push(selection::config_map(&key("kube-system", "coredns")));
        let selection = selections
            .into_iter()
            .find(|selection| selection.feed == feed);
        let (router, fake) = FakeApi::new();
        let health = Arc::new(SourceHealth::new([feed].into_iter()));
        let api = ApiServer::new(Client::new(router, "default"), health.clone());
        if lists == ListStreaming::Streamed {
            api.enable_streamed_lists();
        }
        let (sender, events) = mpsc::channel(1024);
        let reflector = Reflector::new(selection.unwrap(), Arc::new(api), sender);
        FeedSetup {
            api: fake,
            events,
            health,
            feed,
            task: tokio::spawn(reflector.send_events(Duration::ZERO)),
        }
    }

    /// A feed of Services that has listed the Service `a` at a version, and its watch request.
    async fn watching(version: &str) -> (FeedSetup, PendingRequest) {
        let mut setup = FeedSetup::new(Feed::Services);
        setup
            .api
            .next_request()
            .await
            .respond_with_list(version, &[service("a", version)]);
        let watch = setup.api.next_request().await;
        assert_eq!(watch.parameter("watch"), Some("true"));
        assert_eq!(watch.parameter("resourceVersion"), Some(version));
        assert_eq!(setup.received(), ["listing", "+a", "listed"]);
        (setup, watch)
    }

    /// The events since the last call, in the form of [`describe_event`].
    fn received(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|received| describe_event(&received.event))
            .collect()
    }

    /// The next event, in the form of [`describe_event`].
    async fn event(&mut self) -> String {
        let event = timeout(Duration::from_secs(3600), self.events.recv()).await;
        let received = event
            .expect("no event within an hour")
            .expect("the feed ended");
        describe_event(&received.event)
    }

    fn health(&self) -> FeedHealth {
        self.health.feeds()[&self.feed].clone()
    }

    /// The last error. The feed must be retrying.
    fn error(&self) -> String {
        match self.health().activity {
            FeedActivity::Retrying { error } => error,
            other => panic!("the feed is not retrying: {other:?}"),
        }
    }
}

impl Drop for FeedSetup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Abbreviates an event: `+a` for an object `a` that exists, `-a` for a deleted one, `?` and the
/// problem for an unusable one. Words describe the other events.
fn describe_event(event: &Event) -> String {
    match event {
        Event::ListStarted(_) => "listing".into(),
        Event::ListEnded(_) => "listed".into(),
        Event::Covered(_, covered) => format!("covered {}", coverage::describe_coverage(covered)),
        Event::Applied { object, .. } => format!("+{}", name(object)),
        Event::Deleted { key, .. } => format!("-{}", key.name),
        Event::Unusable { problem, .. } => format!("?{problem}"),
        Event::ConfigMap { data, updates, .. } => match updates {
            ConfigMapUpdates::Propagated => format!("config map {data:?}"),
            ConfigMapUpdates::Never => format!("config map {data:?}, never updated in pods again"),
        },
    }
}

fn name(object: &Object) -> &str {
    match object {
        Object::Namespace(namespace) => &namespace.name,
        Object::Service(service) => &service.key.name,
        Object::EndpointSlice(slice) => &slice.key.name,
        Object::Pod(pod) => &pod.key.name,
        Object::Fact(fact) => &fact.key().name,
    }
}

fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

/// The JSON of a Service.
fn service(name: &str, version: &str) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "resourceVersion": version},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    })
}

fn bookmark(version: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": version}})
}

/// The watch event for a new Service.
fn added(name: &str, version: &str) -> (&'static str, Value) {
    ("ADDED", service(name, version))
}

/// k8s-openapi can parse the Services of these tests.
#[test]
fn the_services_of_these_tests_are_valid() {
    serde_json::from_value::<core::Service>(service("a", "1")).unwrap();
}
