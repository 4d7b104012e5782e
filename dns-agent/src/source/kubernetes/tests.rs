//! Feeds against a made-up API server, in the process and in made-up time.

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

use self::fake::{Asked, FakeApi};
use super::{FeedHealth, Health, Options, State, api::Api, reflector::Reflector, selection};
use crate::{
    cluster::{Endpoints, Key, Object},
    source::{Event, Feed, Updates},
};

/// One feed, its API server, and what it tells.
struct Setup {
    api: FakeApi,
    events: mpsc::Receiver<Event>,
    health: Arc<Health>,
    feed: Feed,
    task: JoinHandle<()>,
}

/// Whether lists are asked for as streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    Plain,
    Streamed,
}

impl Setup {
    /// A feed that is about to list.
    fn new(feed: Feed) -> Setup {
        Setup::with(feed, Lists::Plain)
    }

    fn with(feed: Feed, lists: Lists) -> Setup {
        let options = Options {
            endpoints: Endpoints::All,
            ..Options::default()
        };
        let mut selections = selection::all(&options);
        selections.push(selection::corefile(&key("kube-system", "coredns")));
        let selection = selections
            .into_iter()
            .find(|selection| selection.feed == feed);
        let (router, fake) = FakeApi::new();
        let health = Arc::new(Health::new([feed].into_iter()));
        let api = Api::new(Client::new(router, "default"), health.clone());
        if lists == Lists::Streamed {
            api.stream_lists();
        }
        let (sender, events) = mpsc::channel(1024);
        let reflector = Reflector::new(selection.unwrap(), Arc::new(api), sender);
        Setup {
            api: fake,
            events,
            health,
            feed,
            task: tokio::spawn(reflector.run(Duration::ZERO)),
        }
    }

    /// A feed of Services that has listed `a` at a version, and its watch.
    async fn watching(version: &str) -> (Setup, Asked) {
        let mut setup = Setup::new(Feed::Services);
        setup
            .api
            .next()
            .await
            .list(version, &[service("a", version)]);
        let watch = setup.api.next().await;
        assert_eq!(watch.get("watch"), Some("true"));
        assert_eq!(watch.get("resourceVersion"), Some(version));
        assert_eq!(setup.told(), ["listing", "+a", "listed"]);
        (setup, watch)
    }

    /// What was told since the last time, in short.
    fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|event| short(&event))
            .collect()
    }

    /// The next event, in short.
    async fn event(&mut self) -> String {
        let event = timeout(Duration::from_secs(3600), self.events.recv()).await;
        short(&event.expect("no event").expect("the feed ended"))
    }

    fn health(&self) -> FeedHealth {
        self.health.feeds()[&self.feed].clone()
    }

    fn error(&self) -> String {
        match self.health().state {
            State::Retrying { error } => error,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn short(event: &Event) -> String {
    match event {
        Event::Listing(_) => "listing".into(),
        Event::Listed(_) => "listed".into(),
        Event::Covered(_, covered) => format!("covered {}", coverage::shown(covered)),
        Event::Applied { object, .. } => format!("+{}", name(object)),
        Event::Deleted { key, .. } => format!("-{}", key.name),
        Event::Unusable { problem, .. } => format!("?{problem}"),
        Event::Corefile { text, updates, .. } => match updates {
            Updates::Brought => format!("corefile {text:?}"),
            Updates::Never => format!("corefile {text:?}, never brought into pods again"),
        },
        Event::CacheConfig { data, .. } => format!("cache config {data:?}"),
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

fn key(namespace: &str, name: &str) -> Key {
    Key::new(namespace, name)
}

/// A Service as lists and watches hold it.
fn service(name: &str, version: &str) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "resourceVersion": version},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    })
}

fn bookmark(version: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"resourceVersion": version}})
}

/// A new Service, and what else is to be told of it.
fn added(name: &str, version: &str) -> (&'static str, Value) {
    ("ADDED", service(name, version))
}

/// The Services of this test are what k8s-openapi takes for such.
#[test]
fn made_up_objects_are_valid() {
    serde_json::from_value::<core::Service>(service("a", "1")).unwrap();
}
