//! Objects that can't be read, and pods that may be gone: what they would be called is CoreDNS's to
//! tell.

use serde_json::{Value, json};

use crate::cluster::{
    EndpointSlice, Endpoints, Feed, Index, Key, KnownPods, Object, OddEndpoints, PodMode, Service,
    ZonalNames, ZoneSettings,
};
use crate::zone::Rtype;

use super::{namespace, object, objects, say, service, slice};

fn index(list: Value, settings: ZoneSettings) -> Index {
    let mut all = objects(list);
    all.insert(object(namespace("default")));
    Index::of(all, settings, 3)
}

fn settings() -> ZoneSettings {
    ZoneSettings {
        reverse: vec!["10.0.0.0/16".parse().unwrap()],
        odd_endpoints: OddEndpoints::Passed,
        endpoints: Endpoints::All,
        ..ZoneSettings::default()
    }
}

/// A slice of `db` that can't be read.
fn broken_slice() -> Object {
    let key = Key::new("default", "broken");
    Object::EndpointSlice(EndpointSlice::unreadable(key, Some("db".into())))
}

#[test]
fn names_of_a_service_that_can_not_be_read_pass() {
    let list = json!([service("web", json!({"clusterIP": "10.0.0.1"}))]);
    let mut index = index(list, settings());
    let web = Key::new("default", "web");
    let stand_in = Object::Service(Service::unreadable(web.clone()));
    index.apply(Feed::Services, stand_in);
    for question in [
        "web.default",
        "ep.web.default",
        "_tcp.web.default",
        "_http._tcp.web.default",
        "http.tcp.web.default",
        "_._udp.web.default",
    ] {
        for rtype in [Rtype::A, Rtype::SRV, Rtype::SOA] {
            assert_eq!(
                say(&index.view(), question, rtype),
                "NOT OURS",
                "{question} {rtype}"
            );
        }
    }
    assert_eq!(say(&index.view(), "ghost.default", Rtype::A), "NXDOMAIN");
    // Whose address it is nobody knows.
    let address = "1.0.0.10.in-addr.arpa.";
    assert_eq!(say(&index.view(), address, Rtype::PTR), "NOT OURS");
    index.delete(Feed::Services, &web);
    assert_eq!(say(&index.view(), "web.default", Rtype::A), "NXDOMAIN");
    assert_eq!(say(&index.view(), address, Rtype::PTR), "NXDOMAIN");
}

#[test]
fn names_of_a_slice_that_can_not_be_read_pass() {
    let http = json!([{"name": "http", "port": 80}]);
    let endpoints = json!([{"addresses": ["10.0.0.7"], "hostname": "ep"}]);
    let list = json!([
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", endpoints.clone(), http.clone()),
    ]);
    let mut index = index(list, settings());
    assert_eq!(say(&index.view(), "db.default", Rtype::A), "A 10.0.0.7");
    index.apply(Feed::SLICES, broken_slice());
    for question in [
        "db.default",
        "ep.db.default",
        "other.db.default",
        "_x._tcp.db.default",
    ] {
        assert_eq!(
            say(&index.view(), question, Rtype::A),
            "NOT OURS",
            "{question}"
        );
    }
    let pointer = |index: &Index, name| say(&index.view(), name, Rtype::PTR);
    assert_eq!(pointer(&index, "8.0.0.10.in-addr.arpa."), "NOT OURS");
    // It can be read again.
    index.apply(Feed::SLICES, object(slice("broken", "db", endpoints, http)));
    assert_eq!(say(&index.view(), "other.db.default", Rtype::A), "NXDOMAIN");
    assert_eq!(pointer(&index, "8.0.0.10.in-addr.arpa."), "NXDOMAIN");
}

#[test]
fn names_of_a_service_without_its_address_pass() {
    let pending = |address: &str| service("web", json!({"clusterIP": address}));
    let mut index = index(json!([pending("")]), settings());
    for question in [
        "web.default",
        "ep.web.default",
        "_tcp.web.default",
        "_http._tcp.web.default",
    ] {
        for rtype in [Rtype::A, Rtype::SRV] {
            let said = say(&index.view(), question, rtype);
            assert_eq!(said, "NOT OURS", "{question} {rtype}");
        }
    }
    let address = "1.0.0.10.in-addr.arpa.";
    assert_eq!(say(&index.view(), address, Rtype::PTR), "NOT OURS");
    assert_eq!(say(&index.view(), "ghost.default", Rtype::A), "NXDOMAIN");
    let problems: Vec<String> = index.problems().iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("no address yet"), "{problems:?}");

    index.apply(Feed::Services, object(pending("10.0.0.2")));
    assert_eq!(say(&index.view(), "web.default", Rtype::A), "A 10.0.0.2");
    assert_eq!(say(&index.view(), address, Rtype::PTR), "NXDOMAIN");
    assert!(index.problems().is_empty());
}

#[test]
fn names_of_a_headless_service_whose_slices_are_elsewhere_pass() {
    let list = json!([
        namespace("default"),
        service("db", json!({"clusterIP": "None"})),
        service("idle", json!({"clusterIP": "None"})),
        slice("idle-1", "idle", json!([]), json!([])),
        service("web", json!({"clusterIP": "10.0.0.1"})),
    ]);
    let told = objects(list);
    let mut files = told.clone();
    files.note_missing_slices();
    // The API has all slices.
    for (objects, said) in [(told, "NXDOMAIN"), (files, "NOT OURS")] {
        // Else zonal names may be there without endpoints.
        let settings = ZoneSettings {
            zonal_names: ZonalNames::Absent,
            ..settings()
        };
        let index = Index::of(objects, settings, 3);
        for question in ["db.default", "ep.db.default", "_http._tcp.db.default"] {
            assert_eq!(say(&index.view(), question, Rtype::A), said, "{question}");
        }
        let pointer = say(&index.view(), "8.0.0.10.in-addr.arpa.", Rtype::PTR);
        assert_eq!(pointer, said);
        assert_eq!(say(&index.view(), "idle.default", Rtype::A), "NXDOMAIN");
        assert_eq!(say(&index.view(), "web.default", Rtype::A), "A 10.0.0.1");
    }
}

#[test]
fn what_is_not_in_the_next_list_is_gone() {
    let mut index = index(
        json!([service("db", json!({"clusterIP": "None"}))]),
        settings(),
    );
    index.apply(Feed::SLICES, broken_slice());
    let address = "8.0.0.10.in-addr.arpa.";
    assert_eq!(say(&index.view(), address, Rtype::PTR), "NOT OURS");
    index.listing(Feed::SLICES);
    index.listed(Feed::SLICES);
    assert_eq!(say(&index.view(), address, Rtype::PTR), "NXDOMAIN");
}

#[test]
fn the_name_of_a_pod_that_is_being_deleted_passes() {
    let settings = ZoneSettings {
        pods: PodMode::Verified,
        known_pods: KnownPods::All,
        ..ZoneSettings::default()
    };
    let pod = |name: &str, metadata: &str, address: &str| {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "status": {"phase": "Running", "podIP": address},
        });
        if !metadata.is_empty() {
            pod["metadata"][metadata] = json!("2030-01-01T00:00:00Z");
        }
        pod
    };
    let list = json!([pod("here", "", "10.0.0.1"), pod("going", "", "10.0.0.2")]);
    let mut index = index(list, settings);
    let (here, going) = (
        "10-0-0-1.default.pod.cluster.local.",
        "10-0-0-2.default.pod.cluster.local.",
    );
    assert_eq!(say(&index.view(), going, Rtype::A), "A 10.0.0.2");
    index.take_changes();
    index.apply(
        Feed::Pods,
        object(pod("going", "deletionTimestamp", "10.0.0.2")),
    );
    assert_eq!(say(&index.view(), going, Rtype::A), "NOT OURS");
    assert_eq!(say(&index.view(), here, Rtype::A), "A 10.0.0.1");
    assert!(index.take_changes().names.contains(&super::name(going)));
    // One that has ended is gone for CoreDNS too.
    let mut ended = pod("going", "deletionTimestamp", "10.0.0.2");
    ended["status"]["phase"] = json!("Succeeded");
    index.apply(Feed::Pods, object(ended));
    assert_eq!(say(&index.view(), going, Rtype::A), "NXDOMAIN");
}
