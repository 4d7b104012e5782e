//! The path that results from events of the feeds.

use std::time::{Duration, SystemTime};

use serde_json::json;
use zerohop_kubernetes::{
    ApiPod, DnsContainers, DnsService, Event, Fact, Feed, Labels, NodeCache, Object, ObjectKey,
    PolicyPod, Problem,
};

use super::{DnsPathObserver, PodStarts, Readiness};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("kube-system", name)
}

/// A time, in seconds after a fixed one.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// A running pod of the cluster's DNS.
fn dns_pod(name: &str, started: Option<SystemTime>) -> PolicyPod {
    let pod = json!({
        "metadata": {"namespace": "kube-system", "name": name},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}]},
    });
    let pod: ApiPod = serde_json::from_value(pod).unwrap();
    let Fact::Pod(pod) = Fact::from_pod(&pod).unwrap() else {
        panic!("the fact is not a pod");
    };
    PolicyPod { started, ..pod }
}

/// A pod of this node that is a node cache.
fn cache_pod(name: &str) -> PolicyPod {
    PolicyPod {
        node_cache: Some(Box::new(NodeCache::unreadable(
            "the test gives no configuration",
        ))),
        ..dns_pod(name, Some(at(0)))
    }
}

fn applied(feed: Feed, pod: PolicyPod) -> Event {
    Event::Applied {
        feed,
        object: Object::Fact(Fact::Pod(pod)),
        changed: None,
    }
}

fn deleted(feed: Feed, name: &str) -> Event {
    Event::Deleted {
        feed,
        key: key(name),
    }
}

/// An observer after these events.
fn observer_after(events: &[Event]) -> DnsPathObserver {
    let mut observer = DnsPathObserver::default();
    for event in events {
        observer.apply_event(event);
    }
    observer
}

fn caches(observer: &DnsPathObserver) -> Option<Vec<String>> {
    let caches = observer.path().caches?;
    Some(caches.keys().map(|key| key.name.to_string()).collect())
}

#[test]
fn nothing_is_known_before_a_list_has_ended() {
    let clients = Feed::Clients;
    let mut observer = observer_after(&[
        Event::ListStarted(clients),
        applied(clients, cache_pod("a")),
    ]);
    let path = observer.path();
    assert_eq!((path.caches, path.service, path.starts), (None, None, None));

    observer.apply_event(&Event::ListEnded(clients));
    assert_eq!(caches(&observer), Some(vec!["a".to_owned()]));
    // The other feeds have reported nothing.
    let path = observer.path();
    assert_eq!((path.service, path.starts), (None, None));

    observer.apply_event(&Event::ListStarted(Feed::DnsService));
    observer.apply_event(&Event::ListEnded(Feed::DnsService));
    assert_eq!(observer.path().service, Some(None));
}

#[test]
fn node_caches_are_removed_when_they_are_deleted_or_not_listed_again() {
    let clients = Feed::Clients;
    let mut observer = observer_after(&[
        Event::ListStarted(clients),
        applied(clients, cache_pod("a")),
        applied(clients, cache_pod("b")),
        applied(clients, cache_pod("c")),
        Event::ListEnded(clients),
        deleted(clients, "a"),
    ]);
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(caches(&observer), names(&["b", "c"]));

    // Node caches stay until the next list has ended. A pod that can't be read stays even then.
    observer.apply_event(&Event::ListStarted(clients));
    assert_eq!(caches(&observer), names(&["b", "c"]));
    observer.apply_event(&Event::unusable(
        clients,
        Problem {
            kind: "Pod",
            namespace: "kube-system".to_owned(),
            name: "c".to_owned(),
            field: "status".to_owned(),
            reason: "is missing".to_owned(),
        },
    ));
    observer.apply_event(&Event::ListEnded(clients));
    assert_eq!(caches(&observer), names(&["c"]));

    // The pod stops being a node cache.
    observer.apply_event(&applied(clients, dns_pod("c", None)));
    assert_eq!(caches(&observer), names(&[]));
}

#[test]
fn start_times_have_one_entry_for_each_dns_pod_with_an_address() {
    let feed = Feed::DnsPods;
    let ended = PolicyPod {
        addresses: [].into(),
        ..dns_pod("old", Some(at(0)))
    };
    let observer = observer_after(&[
        Event::ListStarted(feed),
        applied(feed, dns_pod("a", Some(at(5)))),
        applied(feed, dns_pod("b", None)),
        applied(feed, ended),
        // A pod that only the feed `Clients` reports has no entry.
        applied(Feed::Clients, dns_pod("other", Some(at(0)))),
        Event::ListEnded(feed),
    ]);
    let starts = observer.path().starts;
    assert_eq!(starts, Some(PodStarts(vec![Some(at(5)), None])));
}

#[test]
fn the_service_is_the_one_reported_last() {
    let service = |address: &str| DnsService {
        key: key("kube-dns"),
        addresses: [address.parse().unwrap()].into(),
        ports: [].into(),
        selector: Labels::new(),
        created: None,
    };
    let applied = |service| Event::Applied {
        feed: Feed::DnsService,
        object: Object::Fact(Fact::Service(service)),
        changed: None,
    };
    let mut observer = observer_after(&[
        Event::ListStarted(Feed::DnsService),
        applied(service("10.96.0.10")),
        Event::ListEnded(Feed::DnsService),
        applied(service("10.96.0.11")),
    ]);
    assert_eq!(observer.path().service, Some(Some(service("10.96.0.11"))));
    observer.apply_event(&deleted(Feed::DnsService, "kube-dns"));
    assert_eq!(observer.path().service, Some(None));
}

#[test]
fn an_unknown_start_time_is_neither_before_nor_since_any_time() {
    let starts =
        |starts: &[Option<u64>]| PodStarts(starts.iter().map(|start| start.map(at)).collect());
    assert!(starts(&[Some(5), Some(7)]).all_since(at(5)));
    assert!(!starts(&[Some(5), Some(4)]).all_since(at(5)));
    assert!(!starts(&[Some(5), None]).all_since(at(5)));
    assert!(!starts(&[]).all_since(at(5)));
    assert!(starts(&[None, Some(4)]).any_before(at(5)));
    assert!(!starts(&[None, Some(5)]).any_before(at(5)));
}

#[test]
fn objects_of_a_reset_feed_are_unknown_until_the_next_list_has_ended() {
    let feed = Feed::DnsPods;
    let mut observer = observer_after(&[Event::ListStarted(feed), Event::ListEnded(feed)]);
    assert_eq!(observer.path().starts, Some(PodStarts::default()));
    observer.reset_feed(feed);
    assert_eq!(observer.path().starts, None);
    observer.apply_event(&Event::ListStarted(feed));
    observer.apply_event(&applied(feed, dns_pod("a", Some(at(5)))));
    assert_eq!(observer.path().starts, None);
    observer.apply_event(&Event::ListEnded(feed));
    assert_eq!(observer.path().starts, Some(PodStarts(vec![Some(at(5))])));
}

/// An event about an object in kube-system with this fact.
fn fact(feed: Feed, fact: Fact) -> Event {
    Event::Applied {
        feed,
        object: Object::Fact(fact),
        changed: None,
    }
}

/// A pod of CoreDNS with this address, whose Corefile is in the ConfigMap `map`.
fn coredns_pod(name: &str, address: &str, map: &str) -> Event {
    let pod = json!({
        "metadata": {"namespace": "kube-system", "name": name},
        "spec": {
            "containers": [{
                "name": "coredns",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": map}}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    });
    let whole = serde_json::from_value(pod.clone()).unwrap();
    let pod: ApiPod = serde_json::from_value(pod).unwrap();
    let Fact::Pod(pod) = Fact::from_pod(&pod).unwrap() else {
        panic!("the fact is not a pod");
    };
    let pod = PolicyPod {
        started: Some(at(0)),
        dns_containers: Some(Box::new(DnsContainers::of_pod(&whole))),
        ..pod
    };
    fact(Feed::DnsPods, Fact::Pod(pod))
}

/// The EndpointSlice of kube-dns with these ready addresses.
fn dns_slice(addresses: &[&str]) -> Event {
    let endpoints = addresses.iter();
    let endpoints = endpoints.map(|it| json!({"addresses": [it], "conditions": {"ready": true}}));
    let slice = json!({
        "metadata": {
            "namespace": "kube-system",
            "name": "kube-dns-a",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
    });
    let slice = serde_json::from_value(slice).unwrap();
    fact(Feed::DnsEndpoints, Fact::from_slice(&slice).unwrap())
}

#[test]
fn servers_are_the_pods_of_the_service_ready_or_not() {
    let service = json!({
        "metadata": {"namespace": "kube-system", "name": "kube-dns"},
        "spec": {
            "clusterIP": "10.96.0.10",
            "selector": {"k8s-app": "kube-dns"},
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    });
    let service = Fact::from_service(&serde_json::from_value(service).unwrap()).unwrap();
    let feeds = [Feed::DnsService, Feed::DnsEndpoints, Feed::DnsPods];
    let mut observer = observer_after(&feeds.map(Event::ListStarted));
    observer.apply_event(&fact(Feed::DnsService, service));
    observer.apply_event(&dns_slice(&["10.244.0.2", "10.244.9.9"]));
    observer.apply_event(&coredns_pod("ready", "10.244.0.2", "coredns"));
    observer.apply_event(&coredns_pod("unready", "10.244.0.3", "coredns"));
    assert_eq!(observer.path().servers, None);
    for feed in feeds {
        observer.apply_event(&Event::ListEnded(feed));
    }
    let servers = |observer: &DnsPathObserver| {
        let servers = observer.path().servers.unwrap();
        let servers = servers.into_iter();
        let servers = servers.map(|it| (it.name, it.readiness, it.server.is_ok()));
        servers.collect::<Vec<_>>()
    };
    let pod = |name: &str| format!("Pod kube-system/{name}");
    let wanted = [
        (pod("ready"), Readiness::Ready, true),
        (pod("unready"), Readiness::Unready, true),
        (
            "the endpoint 10.244.9.9".to_owned(),
            Readiness::Ready,
            false,
        ),
    ];
    assert_eq!(servers(&observer), wanted);
    // Pods of one template run CoreDNS alike, whether they are ready or not.
    let of_pods = observer.path().servers.unwrap();
    assert_eq!(of_pods[0].server, of_pods[1].server);
    // An event about another pod of this node can't change the path.
    assert!(!observer.apply_event(&applied(Feed::Clients, dns_pod("client", None))));
    assert!(observer.apply_event(&dns_slice(&["10.244.0.3"])));
    let wanted = [
        (pod("ready"), Readiness::Unready, true),
        (pod("unready"), Readiness::Ready, true),
    ];
    assert_eq!(servers(&observer), wanted);
}
