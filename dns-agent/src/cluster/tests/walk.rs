//! Names in order, a few at a time: all that there are, each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::cluster::{Index, PodMode, View, WalkPosition, ZoneSettings};
use crate::zone::{Answer, Model, Name, Node, Rtype, ZoneData};

use super::properties::clusters;
use super::{objects, service};

/// The names of a zone, or of none, in the order of a walk.
fn walked(view: &View<'_>, zone: Option<usize>) -> Vec<(Name, Arc<Node>)> {
    let mut all = Vec::new();
    let mut at = match zone {
        Some(_) => WalkPosition::START,
        None => WalkPosition::ADDRESSES,
    };
    while let Some((names, next)) = view.walk(zone, &at) {
        all.extend(names);
        at = next;
    }
    all
}

/// Holds walks to what is visited.
fn check(index: &Index) {
    let view = index.view();
    let model = Model::of(&view);
    let mut seen = BTreeMap::new();
    let zones = (0..view.zones().len()).map(Some);
    for zone in zones.chain([None]) {
        let names = walked(&view, zone);
        for (at, (name, node)) in names.iter().enumerate() {
            assert_eq!(view.zone_of(name), zone, "{name}");
            let before = seen.insert(name.clone(), node.clone());
            assert!(before.is_none(), "{name} is there twice");
            let first_below = names
                .iter()
                .position(|(other, _)| other.is_at_or_below(name));
            assert_eq!(
                first_below,
                Some(at),
                "something below {name} comes before it"
            );
        }
    }
    let visited: BTreeMap<Name, Arc<Node>> = model
        .nodes()
        .map(|(name, node)| (name.clone(), Arc::new(node.clone())))
        .collect();
    assert_eq!(seen, visited);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_walk_shows_each_name_once(cluster in clusters()) {
        let mut index = Index::new(cluster.settings.clone(), 7);
        for object in cluster.list {
            index.apply(super::changes::feed(&object), object);
        }
        index.complete();
        check(&index);
    }
}

#[test]
fn a_walk_goes_through_zones_in_zones() {
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
    let index = Index::of(objects(list), settings, 7);
    check(&index);
    // A zone in a zone has its SOA, whatever is below it.
    let inner = index
        .view()
        .answer(&super::name("1.10.in-addr.arpa"), Rtype::SOA);
    assert!(matches!(inner, Answer::Data { .. }), "{inner:?}");
}
