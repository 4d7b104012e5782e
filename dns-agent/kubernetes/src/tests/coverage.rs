//! Headless Services for which some EndpointSlices may not be watched.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use zerohop_zone::Rtype;

use super::{answer_text, name, namespace, object, service, slice};
use crate::{Coverage, Covered, EndpointScope, Feed, Index, Object, ZoneSettings};

/// A complete index of the headless Service `db` with one slice, of `web` with a ClusterIP, and of
/// an alias of `db`. It covers no slices yet.
fn index() -> Index {
    let settings = ZoneSettings {
        endpoint_scope: EndpointScope::Headless,
        ..ZoneSettings::default()
    };
    let mut index = Index::new(settings, 3);
    index.begin_listing(&feeds(), Coverage::NOTHING);
    index.apply_object(Feed::Namespaces, object(namespace("default")));
    let alias = json!({"type": "ExternalName", "externalName": "db.default.svc.cluster.local"});
    for (name, spec) in [
        ("db", json!({"clusterIP": "None"})),
        ("web", json!({"clusterIP": "10.96.0.2"})),
        ("alias", alias),
    ] {
        index.apply_object(Feed::Services, object(service(name, spec)));
    }
    index.apply_object(Feed::SLICES, db_slice("a", "10.0.0.7"));
    index.mark_complete();
    index.take_changes();
    index
}

fn feeds() -> BTreeSet<Feed> {
    BTreeSet::from([Feed::Namespaces, Feed::Services, Feed::SLICES])
}

fn db_slice(name: &str, address: &str) -> Object {
    let endpoints = json!([{"addresses": [address], "hostname": name}]);
    let http = json!([{"name": "http", "port": 80}]);
    object(slice(name, "db", endpoints, http))
}

fn covered_names(names: &[&str]) -> Covered {
    let names = names.iter().map(|name| Arc::from(*name));
    Covered::Named(Arc::new(names.collect()))
}

const NAMES_OF_DB: [&str; 6] = [
    "db.default",
    "a.db.default",
    "absent.db.default",
    "_http._tcp.db.default",
    "_tcp.db.default",
    "alias.default",
];

#[test]
fn names_of_a_headless_service_pass_until_all_its_slices_are_watched() {
    let mut index = index();
    for question in NAMES_OF_DB {
        for rtype in [Rtype::A, Rtype::AAAA, Rtype::SRV] {
            let answer = answer_text(&index.view(), question, rtype);
            assert_eq!(answer, "PASSES", "{question} {rtype}");
        }
    }
    assert_eq!(index.count_uncovered(), 1);
    assert_eq!(
        answer_text(&index.view(), "web.default", Rtype::A),
        "A 10.96.0.2"
    );
    assert_eq!(
        answer_text(&index.view(), "ghost.default", Rtype::A),
        "NXDOMAIN"
    );

    index.record_coverage(Feed::SLICES, covered_names(&["other", "db"]));
    assert_eq!(index.count_uncovered(), 0);
    let changed = index.take_changes().all_names();
    // Names without an entry before and after are not recorded as changed.
    for question in NAMES_OF_DB
        .iter()
        .filter(|name| !name.starts_with("absent"))
    {
        let question = name(&format!("{question}.svc.cluster.local."));
        assert!(changed.contains(&question), "{question}");
    }
    assert_eq!(
        answer_text(&index.view(), "db.default", Rtype::A),
        "A 10.0.0.7"
    );
    assert_eq!(
        answer_text(&index.view(), "a.db.default", Rtype::A),
        "A 10.0.0.7"
    );
    assert_eq!(
        answer_text(&index.view(), "absent.db.default", Rtype::A),
        "NXDOMAIN"
    );
}

#[test]
fn a_feeds_coverage_is_replaced_and_other_feeds_keep_theirs() {
    let mut index = index();
    let is_answered =
        |index: &Index| answer_text(&index.view(), "db.default", Rtype::A) == "A 10.0.0.7";
    index.record_coverage(Feed::Slices(1), covered_names(&["db"]));
    index.record_coverage(Feed::SLICES, covered_names(&["web"]));
    assert!(is_answered(&index));
    index.record_coverage(Feed::Slices(1), covered_names(&[]));
    assert!(!is_answered(&index));
    index.record_coverage(Feed::SLICES, Covered::Every);
    assert!(is_answered(&index));
    index.begin_listing(&feeds(), Coverage::NOTHING);
    index.mark_complete();
    assert!(!is_answered(&index));
}

#[test]
fn objects_of_a_feed_that_is_no_longer_listed_are_removed() {
    let mut index = index();
    index.begin_list(Feed::Slices(1));
    index.apply_object(Feed::Slices(1), db_slice("b", "10.0.0.8"));
    index.end_list(Feed::Slices(1));
    // `feeds` doesn't include `Feed::Slices(1)`.
    index.begin_listing(&feeds(), Coverage::Every);
    index.mark_complete();
    assert_eq!(
        answer_text(&index.view(), "db.default", Rtype::A),
        "A 10.0.0.7"
    );
}

/// The three added slices differ in their other labels: no other label; the label of the
/// EndpointSlice controller on slices of Services that aren't headless; and the labels of another
/// controller (kubernetes/kubernetes issue 103804).
#[test]
fn only_the_service_name_label_assigns_a_slice_to_a_service() {
    let labels = [
        json!({}),
        json!({"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}),
        json!({
            "endpointslice.kubernetes.io/managed-by": "mirror",
            "service.kubernetes.io/headless": ""
        }),
    ];
    let mut index = index();
    index.record_coverage(Feed::SLICES, covered_names(&["db"]));
    for (number, other_labels) in labels.into_iter().enumerate() {
        let endpoints = json!([{"addresses": [format!("10.0.1.{number}")]}]);
        let mut added = slice(&format!("added-{number}"), "db", endpoints, Value::Null);
        for (label, value) in other_labels.as_object().unwrap() {
            added["metadata"]["labels"][label] = value.clone();
        }
        index.apply_object(Feed::SLICES, object(added));
    }
    assert_eq!(
        answer_text(&index.view(), "db.default", Rtype::A),
        "A 10.0.0.7, A 10.0.1.0, A 10.0.1.1, A 10.0.1.2"
    );
}
