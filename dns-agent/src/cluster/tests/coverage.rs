//! Headless Services whose EndpointSlices may not all be watched.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use crate::cluster::{Coverage, Covered, Endpoints, Feed, Index, Object, ZoneSettings};
use crate::zone::Rtype;

use super::{name, namespace, object, say, service, slice};

/// The headless Service `db` with one slice, `web` with a ClusterIP, and an alias of `db`; with everything
/// listed, as the API tells of it.
fn index() -> Index {
    let settings = ZoneSettings {
        endpoints: Endpoints::Headless,
        ..ZoneSettings::default()
    };
    let mut index = Index::new(settings, 3);
    index.begin(&feeds(), Coverage::NOTHING);
    index.apply(Feed::Namespaces, object(namespace("default")));
    let alias = json!({"type": "ExternalName", "externalName": "db.default.svc.cluster.local"});
    for (name, spec) in [
        ("db", json!({"clusterIP": "None"})),
        ("web", json!({"clusterIP": "10.96.0.2"})),
        ("alias", alias),
    ] {
        index.apply(Feed::Services, object(service(name, spec)));
    }
    index.apply(Feed::SLICES, db_slice("a", "10.0.0.7"));
    index.complete();
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

fn named(names: &[&str]) -> Covered {
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
            let said = say(&index.view(), question, rtype);
            assert_eq!(said, "NOT OURS", "{question} {rtype}");
        }
    }
    assert_eq!(index.count_uncovered(), 1);
    assert_eq!(say(&index.view(), "web.default", Rtype::A), "A 10.96.0.2");
    assert_eq!(say(&index.view(), "ghost.default", Rtype::A), "NXDOMAIN");

    index.cover(Feed::SLICES, named(&["other", "db"]));
    assert_eq!(index.count_uncovered(), 0);
    let changed = index.take_changes();
    for question in NAMES_OF_DB
        .iter()
        .filter(|name| !name.starts_with("absent"))
    {
        let question = name(&format!("{question}.svc.cluster.local."));
        assert!(changed.names.contains(&question), "{question}");
    }
    assert_eq!(say(&index.view(), "db.default", Rtype::A), "A 10.0.0.7");
    assert_eq!(say(&index.view(), "a.db.default", Rtype::A), "A 10.0.0.7");
    assert_eq!(
        say(&index.view(), "absent.db.default", Rtype::A),
        "NXDOMAIN"
    );
}

#[test]
fn a_feed_covers_what_it_reported_last_and_other_feeds_go_on() {
    let mut index = index();
    let is_answered = |index: &Index| say(&index.view(), "db.default", Rtype::A) == "A 10.0.0.7";
    index.cover(Feed::Slices(1), named(&["db"]));
    index.cover(Feed::SLICES, named(&["web"]));
    assert!(is_answered(&index));
    index.cover(Feed::Slices(1), named(&[]));
    assert!(!is_answered(&index));
    index.cover(Feed::SLICES, Covered::Every);
    assert!(is_answered(&index));
    index.begin(&feeds(), Coverage::NOTHING);
    index.complete();
    assert!(!is_answered(&index));
}

#[test]
fn what_a_part_told_is_gone_when_everything_is_told_again_without_it() {
    let mut index = index();
    index.listing(Feed::Slices(1));
    index.apply(Feed::Slices(1), db_slice("b", "10.0.0.8"));
    index.listed(Feed::Slices(1));
    index.begin(&feeds(), Coverage::Every);
    index.complete();
    assert_eq!(say(&index.view(), "db.default", Rtype::A), "A 10.0.0.7");
}

/// Its slice says that another controller wrote it, or that it is not a headless Service's (kubernetes/kubernetes
/// issue 103804), or has no label but the one that counts.
#[test]
fn no_other_label_of_a_slice_counts() {
    let labels = [
        json!({}),
        json!({"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}),
        json!({"endpointslice.kubernetes.io/managed-by": "mirror", "service.kubernetes.io/headless": ""}),
    ];
    let mut index = index();
    index.cover(Feed::SLICES, named(&["db"]));
    for (number, more) in labels.into_iter().enumerate() {
        let endpoints = json!([{"addresses": [format!("10.0.1.{number}")]}]);
        let mut one = slice(&format!("more-{number}"), "db", endpoints, Value::Null);
        for (label, value) in more.as_object().unwrap() {
            one["metadata"]["labels"][label] = value.clone();
        }
        index.apply(Feed::SLICES, object(one));
    }
    assert_eq!(
        say(&index.view(), "db.default", Rtype::A),
        "A 10.0.0.7, A 10.0.1.0, A 10.0.1.1, A 10.0.1.2"
    );
}
