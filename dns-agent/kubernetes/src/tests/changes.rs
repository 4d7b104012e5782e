//! Applies random sequences of changes to an index. After each one, the answers may differ only for
//! the names that the index records as changed. In the end, the answers equal those of a new index
//! with the same objects.

use std::collections::BTreeMap;

use proptest::prelude::*;
use zerohop_zone::{Answer, Model, Name, Rtype, ZoneData};

use super::properties::{clusters, key, word};
use crate::{
    EndpointScope, Feed, Index, KnownPods, NameServers, Namespace, Object, ObjectKey, Objects,
    ZoneSettings,
};

const TYPES: [Rtype; 7] = [
    Rtype::A,
    Rtype::AAAA,
    Rtype::CNAME,
    Rtype::NS,
    Rtype::PTR,
    Rtype::SOA,
    Rtype::SRV,
];

/// A change of an index.
#[derive(Clone, Debug)]
pub(super) enum IndexEvent {
    Applied(Feed, Object),
    Deleted(Feed, ObjectKey),
    /// A feed's list with these objects. Objects of other kinds are skipped.
    Listed(Feed, Vec<Object>),
    SerialChanged(u32),
}

/// A model of the kernel's tables: the answers of each name, updated only for the names that the
/// index records as changed, or for all names if it records that every name may have changed.
#[derive(Default)]
struct Mirror(BTreeMap<Name, Vec<Answer>>);

impl Mirror {
    fn update(&mut self, index: &mut Index) {
        let changes = index.take_changes();
        let view = index.view();
        if changes.everything {
            *self = Mirror::of(index);
            return;
        }
        for name in changes.all_names() {
            match view.entry(&name) {
                Some(_) => self.0.insert(name.clone(), answers(&view, &name)),
                None => self.0.remove(&name),
            };
        }
    }

    fn of(index: &Index) -> Mirror {
        let view = index.view();
        let model = Model::from_zone_data(&view);
        let names = model.entries().map(|(name, _)| name);
        Mirror(
            names
                .map(|name| (name.clone(), answers(&view, name)))
                .collect(),
        )
    }
}

/// The answers that the record of a name holds: one for each type, and the same for a computed name
/// below it. Negative answers don't contain the serial, so a new serial changes only the answers
/// for apexes.
pub(super) fn answers(data: &dyn ZoneData, name: &Name) -> Vec<Answer> {
    let entry = data.entry(name);
    let computed = entry.filter(|entry| entry.has_computed_names());
    // No object makes this label.
    let computed = computed.and_then(|_| name.child(b"10-9-9-9").ok());
    let names = std::iter::once(name).chain(&computed);
    names
        .flat_map(|name| TYPES.map(|rtype| data.answer(name, rtype)))
        .collect()
}

proptest! {
    // Fewer than the default of 256, because each case computes all names after each event.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn only_recorded_names_change(
        cluster in clusters(),
        settings in other_settings(),
        events in prop::collection::vec(index_event(), 1..40),
    ) {
        let settings = ZoneSettings {
            endpoint_scope: settings.endpoint_scope,
            known_pods: settings.known_pods,
            name_servers: settings.name_servers,
            served_addresses: settings.served_addresses,
            ..cluster.settings.clone()
        };
        let mut index = Index::from_objects(Objects::default(), settings.clone(), 7);
        index.take_changes();
        let mut mirror = Mirror::of(&index);
        let applied = |object: &Object| IndexEvent::Applied(feed_of(object), object.clone());
        let initial = cluster.list.iter().map(applied);
        for event in initial.chain(events) {
            apply_event(&mut index, event.clone());
            mirror.update(&mut index);
            prop_assert_eq!(&mirror.0, &Mirror::of(&index).0, "after {:?}", event);
        }

        let new_index = Index::from_objects(index.objects(), settings, index.serial());
        prop_assert_eq!(&mirror.0, &Mirror::of(&new_index).0);
        prop_assert_eq!(new_index.problems(), index.problems());
    }
}

pub(super) fn apply_event(index: &mut Index, event: IndexEvent) {
    match event {
        IndexEvent::Applied(feed, object) => {
            index.apply_object(feed, object);
        }
        IndexEvent::Deleted(feed, key) => index.delete_object(feed, &key),
        IndexEvent::Listed(feed, objects) => {
            index.begin_list(feed);
            for object in objects
                .into_iter()
                .filter(|object| is_in_list(feed, object))
            {
                index.apply_object(feed, object);
            }
            index.end_list(feed);
        }
        IndexEvent::SerialChanged(serial) => index.set_serial(serial),
    }
}

pub(super) fn index_event() -> impl Strategy<Value = IndexEvent> {
    let feeds = || {
        prop::sample::select(vec![
            Feed::Namespaces,
            Feed::Services,
            Feed::SLICES,
            Feed::Slices(1),
            Feed::Pods,
        ])
    };
    let objects = || clusters().prop_map(|cluster| cluster.list);
    prop_oneof![
        // `other`: a slice is reported by the other feed of slices.
        4 => (objects(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(list, at, other)| {
            let Some(object) = (!list.is_empty()).then(|| list[at.index(list.len())].clone()) else {
                // The random cluster has no object to apply.
                return IndexEvent::SerialChanged(8);
            };
            match (feed_of(&object), other) {
                (Feed::SLICES, true) => IndexEvent::Applied(Feed::Slices(1), object),
                (feed, _) => IndexEvent::Applied(feed, object),
            }
        }),
        3 => (feeds(), key()).prop_map(|(feed, key)| IndexEvent::Deleted(feed, key)),
        // `key` makes no keys of Namespaces, because these have an empty namespace.
        1 => word().prop_map(|name| {
            IndexEvent::Deleted(Feed::Namespaces, ObjectKey::new("", name))
        }),
        2 => word().prop_map(|name| {
            let namespace = Namespace { name: name.into() };
            IndexEvent::Applied(Feed::Namespaces, Object::Namespace(namespace))
        }),
        2 => (feeds(), objects()).prop_map(|(feed, objects)| IndexEvent::Listed(feed, objects)),
        1 => (1..100u32).prop_map(IndexEvent::SerialChanged),
    ]
}

/// Settings that [`clusters`] doesn't vary.
pub(super) fn other_settings() -> impl Strategy<Value = ZoneSettings> {
    let endpoints = prop::sample::select(vec![EndpointScope::All, EndpointScope::Headless]);
    let pods = prop::sample::select(vec![KnownPods::AllNodes, KnownPods::SomeNodes]);
    let servers = prop::sample::select(vec![NameServers::Answered, NameServers::Passed]);
    (endpoints, pods, servers, any::<bool>()).prop_map(
        |(endpoints, known_pods, name_servers, serves)| ZoneSettings {
            endpoint_scope: endpoints,
            known_pods,
            name_servers,
            // Services of `clusters` may have this ClusterIP.
            served_addresses: serves.then(|| [10, 0, 0, 1].into()).into_iter().collect(),
            ..ZoneSettings::default()
        },
    )
}

/// The feed that usually reports objects of this kind.
pub(super) fn feed_of(object: &Object) -> Feed {
    match object {
        Object::Namespace(_) => Feed::Namespaces,
        Object::Service(_) => Feed::Services,
        Object::EndpointSlice(_) => Feed::SLICES,
        Object::Pod(_) => Feed::Pods,
        Object::Fact(_) => panic!("a fact makes no records"),
    }
}

/// Whether a list of `feed` can have this object.
fn is_in_list(feed: Feed, object: &Object) -> bool {
    let usual = feed_of(object);
    usual == feed || (usual == Feed::SLICES && feed == Feed::Slices(1))
}
