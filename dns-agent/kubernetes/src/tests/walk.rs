//! Walks return every name once, and each name before the names below it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use zerohop_zone::{Answer, Model, Name, NameEntry, Rtype, ZoneData};

use super::properties::clusters;
use super::{objects, service};
use crate::{Index, PodMode, View, ViewPosition, ZoneSettings};

/// The names of a zone, or the names in no zone, in the order of a walk.
fn walk_zone(view: &View<'_>, zone: Option<usize>) -> Vec<(Name, Arc<NameEntry>)> {
    let mut all = Vec::new();
    let mut at = match zone {
        Some(_) => ViewPosition::START,
        // Names outside all zones are reverse names.
        None => ViewPosition::ADDRESSES,
    };
    while let Some((names, next)) = view.walk(zone, &at) {
        all.extend(names);
        at = next;
    }
    all
}

/// Checks that the walks of all zones, and of the names outside all zones, together return each
/// name once, before the names below it, with the entry that [`ZoneData::visit`] gives.
fn assert_walk_is_complete(index: &Index) {
    let view = index.view();
    let model = Model::from_zone_data(&view);
    let mut seen = BTreeMap::new();
    let zones = (0..view.zones().len()).map(Some);
    for zone in zones.chain([None]) {
        let names = walk_zone(&view, zone);
        for (at, (name, entry)) in names.iter().enumerate() {
            assert_eq!(view.zone_of(name), zone, "{name}");
            let before = seen.insert(name.clone(), entry.clone());
            assert!(before.is_none(), "{name} is returned twice");
            let first_below = names
                .iter()
                .position(|(other, _)| other.is_at_or_below(name));
            assert_eq!(first_below, Some(at), "a name below {name} comes before it");
        }
    }
    let visited: BTreeMap<Name, Arc<NameEntry>> = model
        .entries()
        .map(|(name, entry)| (name.clone(), Arc::new(entry.clone())))
        .collect();
    assert_eq!(seen, visited);
}

proptest! {
    // Fewer than the default of 256, because each case compares all names of a zone with each
    // other.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_walk_returns_each_name_once(cluster in clusters()) {
        let mut index = Index::new(cluster.settings.clone(), 7);
        for object in cluster.list {
            index.apply_object(super::changes::feed_of(&object), object);
        }
        index.mark_complete();
        assert_walk_is_complete(&index);
    }
}

#[test]
fn a_walk_goes_through_nested_zones() {
    // `web` has an address in the inner reverse zone, `db` in the outer one, and `far` in none. `p`
    // has a name below `pod`.
    let list = serde_json::json!([
        service(
            "web",
            serde_json::json!({"clusterIP": "10.1.0.1", "ports": [{"name": "http", "port": 80}]})
        ),
        service("db", serde_json::json!({"clusterIP": "10.2.0.1"})),
        service("far", serde_json::json!({"clusterIP": "192.0.2.1"})),
        serde_json::json!({
            "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
            "status": {"phase": "Running", "podIP": "10.1.0.9"},
        }),
    ]);
    let settings = ZoneSettings {
        cluster_domains: ["cluster.local", "svc.cluster.local", "other.test"]
            .into_iter()
            .flat_map(Name::parse)
            .collect(),
        reverse: ["10.0.0.0/8", "10.1.0.0/16", "fd00::/112"]
            .into_iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        pods: PodMode::Verified,
        ..ZoneSettings::default()
    };
    let index = Index::from_objects(objects(list), settings, 7);
    assert_walk_is_complete(&index);
    // A nested zone has its own SOA record.
    let inner = index
        .view()
        .answer(&super::name("1.10.in-addr.arpa"), Rtype::SOA);
    assert!(matches!(inner, Answer::Data { .. }), "{inner:?}");
}
