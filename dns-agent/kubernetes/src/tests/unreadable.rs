//! Names that are delegated to CoreDNS because their data is unknown: of unreadable objects, of
//! Services without an address or without slices, and of Pods that are being deleted.

use serde_json::{Value, json};
use zerohop_zone::Rtype;

use super::{answer_text, namespace, object, objects, service, slice};
use crate::{
    EndpointScope, EndpointSlice, Feed, Index, KnownPods, NonstandardEndpoints, Object, ObjectKey,
    PodMode, Service, ZonalNames, ZoneSettings,
};

fn index(list: Value, settings: ZoneSettings) -> Index {
    let mut all = objects(list);
    all.insert(object(namespace("default")));
    Index::from_objects(all, settings, 3)
}

fn settings() -> ZoneSettings {
    ZoneSettings {
        reverse: vec!["10.0.0.0/16".parse().unwrap()],
        nonstandard_endpoints: NonstandardEndpoints::Passed,
        endpoint_scope: EndpointScope::All,
        ..ZoneSettings::default()
    }
}

/// A slice of `db` that can't be read.
fn unreadable_slice() -> Object {
    let key = ObjectKey::new("default", "unreadable");
    Object::EndpointSlice(EndpointSlice::unreadable(key, Some("db".into())))
}

#[test]
fn names_of_an_unreadable_service_pass() {
    let list = json!([service("web", json!({"clusterIP": "10.0.0.1"}))]);
    let mut index = index(list, settings());
    let web = ObjectKey::new("default", "web");
    let placeholder = Object::Service(Service::unreadable(web.clone()));
    index.apply_object(Feed::Services, placeholder);
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
                answer_text(&index.view(), question, rtype),
                "PASSES",
                "{question} {rtype}"
            );
        }
    }
    assert_eq!(
        answer_text(&index.view(), "ghost.default", Rtype::A),
        "NXDOMAIN"
    );
    // The unreadable Service may have any address.
    let address = "1.0.0.10.in-addr.arpa.";
    assert_eq!(answer_text(&index.view(), address, Rtype::PTR), "PASSES");
    index.delete_object(Feed::Services, &web);
    assert_eq!(
        answer_text(&index.view(), "web.default", Rtype::A),
        "NXDOMAIN"
    );
    assert_eq!(answer_text(&index.view(), address, Rtype::PTR), "NXDOMAIN");
}

#[test]
fn names_of_an_unreadable_slice_pass() {
    let http = json!([{"name": "http", "port": 80}]);
    let endpoints = json!([{"addresses": ["10.0.0.7"], "hostname": "ep"}]);
    let list = json!([
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", endpoints.clone(), http.clone()),
    ]);
    let mut index = index(list, settings());
    assert_eq!(
        answer_text(&index.view(), "db.default", Rtype::A),
        "A 10.0.0.7"
    );
    index.apply_object(Feed::SLICES, unreadable_slice());
    for question in [
        "db.default",
        "ep.db.default",
        "other.db.default",
        "_x._tcp.db.default",
    ] {
        assert_eq!(
            answer_text(&index.view(), question, Rtype::A),
            "PASSES",
            "{question}"
        );
    }
    let pointer = |index: &Index, name| answer_text(&index.view(), name, Rtype::PTR);
    // The unreadable slice may have any address.
    assert_eq!(pointer(&index, "8.0.0.10.in-addr.arpa."), "PASSES");
    // The slice becomes readable again.
    let readable = object(slice("unreadable", "db", endpoints, http));
    index.apply_object(Feed::SLICES, readable);
    assert_eq!(
        answer_text(&index.view(), "other.db.default", Rtype::A),
        "NXDOMAIN"
    );
    assert_eq!(pointer(&index, "8.0.0.10.in-addr.arpa."), "NXDOMAIN");
}

#[test]
fn names_of_a_service_without_an_address_pass() {
    let pending = |address: &str| service("web", json!({"clusterIP": address}));
    let mut index = index(json!([pending("")]), settings());
    for question in [
        "web.default",
        "ep.web.default",
        "_tcp.web.default",
        "_http._tcp.web.default",
    ] {
        for rtype in [Rtype::A, Rtype::SRV] {
            let answer = answer_text(&index.view(), question, rtype);
            assert_eq!(answer, "PASSES", "{question} {rtype}");
        }
    }
    let address = "1.0.0.10.in-addr.arpa.";
    assert_eq!(answer_text(&index.view(), address, Rtype::PTR), "PASSES");
    assert_eq!(
        answer_text(&index.view(), "ghost.default", Rtype::A),
        "NXDOMAIN"
    );
    let problems: Vec<String> = index.problems().iter().map(ToString::to_string).collect();
    assert!(problems[0].contains("no address yet"), "{problems:?}");

    index.apply_object(Feed::Services, object(pending("10.0.0.2")));
    assert_eq!(
        answer_text(&index.view(), "web.default", Rtype::A),
        "A 10.0.0.2"
    );
    assert_eq!(answer_text(&index.view(), address, Rtype::PTR), "NXDOMAIN");
    assert!(index.problems().is_empty());
}

#[test]
fn names_of_a_headless_service_without_slices_in_the_files_pass() {
    let list = json!([
        namespace("default"),
        service("db", json!({"clusterIP": "None"})),
        service("idle", json!({"clusterIP": "None"})),
        slice("idle-1", "idle", json!([]), json!([])),
        service("web", json!({"clusterIP": "10.0.0.1"})),
    ]);
    let from_api = objects(list);
    let mut from_files = from_api.clone();
    from_files.mark_services_without_slices();
    // The API has all slices. Files may lack some.
    for (objects, expected) in [(from_api, "NXDOMAIN"), (from_files, "PASSES")] {
        // With names for topology zones, `idle` and `db` would pass in both cases.
        let settings = ZoneSettings {
            zonal_names: ZonalNames::Absent,
            ..settings()
        };
        let index = Index::from_objects(objects, settings, 3);
        for question in ["db.default", "ep.db.default", "_http._tcp.db.default"] {
            assert_eq!(
                answer_text(&index.view(), question, Rtype::A),
                expected,
                "{question}"
            );
        }
        let pointer = answer_text(&index.view(), "8.0.0.10.in-addr.arpa.", Rtype::PTR);
        assert_eq!(pointer, expected);
        assert_eq!(
            answer_text(&index.view(), "idle.default", Rtype::A),
            "NXDOMAIN"
        );
        assert_eq!(
            answer_text(&index.view(), "web.default", Rtype::A),
            "A 10.0.0.1"
        );
    }
}

#[test]
fn a_slice_missing_from_the_next_list_is_removed() {
    let mut index = index(
        json!([service("db", json!({"clusterIP": "None"}))]),
        settings(),
    );
    index.apply_object(Feed::SLICES, unreadable_slice());
    let address = "8.0.0.10.in-addr.arpa.";
    assert_eq!(answer_text(&index.view(), address, Rtype::PTR), "PASSES");
    index.begin_list(Feed::SLICES);
    index.end_list(Feed::SLICES);
    assert_eq!(answer_text(&index.view(), address, Rtype::PTR), "NXDOMAIN");
}

#[test]
fn the_name_of_a_pod_that_is_being_deleted_passes() {
    let settings = ZoneSettings {
        pods: PodMode::Verified,
        known_pods: KnownPods::AllNodes,
        ..ZoneSettings::default()
    };
    let pod = |name: &str, address: &str| {
        json!({
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "status": {"phase": "Running", "podIP": address},
        })
    };
    let mut deleted_pod = pod("deleted", "10.0.0.2");
    let list = json!([pod("kept", "10.0.0.1"), deleted_pod]);
    let mut index = index(list, settings);
    let (kept, deleted) = (
        "10-0-0-1.default.pod.cluster.local.",
        "10-0-0-2.default.pod.cluster.local.",
    );
    assert_eq!(answer_text(&index.view(), deleted, Rtype::A), "A 10.0.0.2");
    index.take_changes();
    deleted_pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    index.apply_object(Feed::Pods, object(deleted_pod.clone()));
    assert_eq!(answer_text(&index.view(), deleted, Rtype::A), "PASSES");
    assert_eq!(answer_text(&index.view(), kept, Rtype::A), "A 10.0.0.1");
    assert!(
        index
            .take_changes()
            .all_names()
            .contains(&super::name(deleted))
    );
    // In CoreDNS, too, a Pod that has ended has no name.
    deleted_pod["status"]["phase"] = json!("Succeeded");
    index.apply_object(Feed::Pods, object(deleted_pod));
    assert_eq!(answer_text(&index.view(), deleted, Rtype::A), "NXDOMAIN");
}
