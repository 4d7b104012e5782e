//! What the events of feeds make known of the path.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{Observer, Starts};
use crate::{
    cluster::{ApiPod, Client, DnsService, Fact, Key, Labels, NodeCache, Object, Problem},
    source::{Event, Feed},
};

fn key(name: &str) -> Key {
    Key::new("kube-system", name)
}

/// A time so many seconds after a fixed one.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// A pod of the cluster's DNS that runs.
fn dns_pod(name: &str, started: Option<SystemTime>) -> Client {
    let pod = json!({
        "metadata": {"namespace": "kube-system", "name": name},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}]},
    });
    let pod: ApiPod = serde_json::from_value(pod).unwrap();
    let Fact::Pod(pod) = Fact::of_pod(&pod).unwrap() else {
        panic!("a Pod is one");
    };
    Client { started, ..pod }
}

/// A pod of this node that is a node cache.
fn cache_pod(name: &str) -> Client {
    Client {
        node_cache: Some(Box::new(NodeCache::unreadable("of a test"))),
        ..dns_pod(name, Some(at(0)))
    }
}

fn applied(feed: Feed, pod: Client) -> Event {
    Event::Applied {
        feed,
        object: Object::Fact(Fact::Pod(pod)),
        changed: None,
    }
}

fn gone(feed: Feed, name: &str) -> Event {
    Event::Deleted {
        feed,
        key: key(name),
    }
}

/// An observer that was told all this.
fn told(events: &[Event]) -> Observer {
    let mut observer = Observer::default();
    events.iter().for_each(|event| observer.event(event));
    observer
}

fn caches(observer: &Observer) -> Option<Vec<String>> {
    let caches = observer.path().caches?;
    Some(caches.keys().map(|key| key.name.to_string()).collect())
}

#[test]
fn nothing_is_known_before_a_list_has_ended() {
    let clients = Feed::Clients;
    let mut observer = told(&[Event::Listing(clients), applied(clients, cache_pod("a"))]);
    let path = observer.path();
    assert_eq!((path.caches, path.service, path.starts), (None, None, None));

    observer.event(&Event::Listed(clients));
    assert_eq!(caches(&observer), Some(vec!["a".to_owned()]));
    // The other feeds have not been heard.
    let path = observer.path();
    assert_eq!((path.service, path.starts), (None, None));

    observer.event(&Event::Listing(Feed::DnsService));
    observer.event(&Event::Listed(Feed::DnsService));
    assert_eq!(observer.path().service, Some(None));
}

#[test]
fn node_caches_go_when_they_are_deleted_or_not_listed_again() {
    let clients = Feed::Clients;
    let mut observer = told(&[
        Event::Listing(clients),
        applied(clients, cache_pod("a")),
        applied(clients, cache_pod("b")),
        applied(clients, cache_pod("c")),
        Event::Listed(clients),
        gone(clients, "a"),
    ]);
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(caches(&observer), names(&["b", "c"]));

    // They stay until the next list has ended; one that can't be read stays after it.
    observer.event(&Event::Listing(clients));
    assert_eq!(caches(&observer), names(&["b", "c"]));
    observer.event(&Event::unusable(
        clients,
        Problem {
            kind: "Pod",
            namespace: "kube-system".to_owned(),
            name: "c".to_owned(),
            field: "status".to_owned(),
            reason: "of a test".to_owned(),
        },
    ));
    observer.event(&Event::Listed(clients));
    assert_eq!(caches(&observer), names(&["c"]));

    // The pod is no node cache any more.
    observer.event(&applied(clients, dns_pod("c", None)));
    assert_eq!(caches(&observer), names(&[]));
}

#[test]
fn only_pods_that_run_have_a_start() {
    let feed = Feed::DnsPods;
    let ended = Client {
        addresses: [].into(),
        ..dns_pod("old", Some(at(0)))
    };
    let observer = told(&[
        Event::Listing(feed),
        applied(feed, dns_pod("a", Some(at(5)))),
        applied(feed, dns_pod("b", None)),
        applied(feed, ended),
        // Pods of this node say nothing about those of the cluster's DNS.
        applied(Feed::Clients, dns_pod("other", Some(at(0)))),
        Event::Listed(feed),
    ]);
    let starts = observer.path().starts;
    assert_eq!(starts, Some(Starts(vec![Some(at(5)), None])));
}

#[test]
fn the_service_is_the_one_told_last() {
    let service = |address: &str| DnsService {
        key: key("kube-dns"),
        addresses: [address.parse().unwrap()].into(),
        ports: [].into(),
        selector: Labels::new(),
    };
    let applied = |service| Event::Applied {
        feed: Feed::DnsService,
        object: Object::Fact(Fact::Service(service)),
        changed: None,
    };
    let mut observer = told(&[
        Event::Listing(Feed::DnsService),
        applied(service("10.96.0.10")),
        Event::Listed(Feed::DnsService),
        applied(service("10.96.0.11")),
    ]);
    assert_eq!(observer.path().service, Some(Some(service("10.96.0.11"))));
    observer.event(&gone(Feed::DnsService, "kube-dns"));
    assert_eq!(observer.path().service, Some(None));
}

#[test]
fn pods_without_a_start_are_neither_before_nor_since() {
    let starts =
        |starts: &[Option<u64>]| Starts(starts.iter().map(|start| start.map(at)).collect());
    assert!(starts(&[Some(5), Some(7)]).are_since(at(5)));
    assert!(!starts(&[Some(5), Some(4)]).are_since(at(5)));
    assert!(!starts(&[Some(5), None]).are_since(at(5)));
    assert!(!starts(&[]).are_since(at(5)));
    assert!(starts(&[None, Some(4)]).any_before(at(5)));
    assert!(!starts(&[None, Some(5)]).any_before(at(5)));
}

#[test]
fn what_is_forgotten_is_not_known_before_the_next_list_has_ended() {
    let feed = Feed::DnsPods;
    let mut observer = told(&[Event::Listing(feed), Event::Listed(feed)]);
    assert_eq!(observer.path().starts, Some(Starts::default()));
    observer.forget(feed);
    assert_eq!(observer.path().starts, None);
    observer.event(&Event::Listing(feed));
    observer.event(&applied(feed, dns_pod("a", Some(at(5)))));
    assert_eq!(observer.path().starts, None);
    observer.event(&Event::Listed(feed));
    assert_eq!(observer.path().starts, Some(Starts(vec![Some(at(5))])));
}
