//! Objects told one by one: what is noted as changed is all that changes, and what comes out is
//! what comes out of the same objects at once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::cluster::{
    Endpoints, Feed, Index, Key, KnownPods, NameServers, Namespace, Object, Objects, ZoneSettings,
};
use crate::zone::{Answer, Model, Name, Rtype, ZoneData};

use super::properties::{clusters, key, word};

const TYPES: [Rtype; 7] = [
    Rtype::A,
    Rtype::AAAA,
    Rtype::CNAME,
    Rtype::NS,
    Rtype::PTR,
    Rtype::SOA,
    Rtype::SRV,
];

/// What a source tells.
#[derive(Clone, Debug)]
enum Told {
    Applied(Feed, Object),
    Deleted(Feed, Key),
    /// A list with these objects in it, of which some may not be of its kind.
    Listed(Feed, Vec<Object>),
    Renumbered(u32),
}

/// What the kernel's tables hold: for each name its answers, brought up to date only where the
/// index says that something has changed.
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
        for name in changes.names {
            match view.node(&name) {
                Some(_) => self.0.insert(name.clone(), answers(&view, &name)),
                None => self.0.remove(&name),
            };
        }
    }

    fn of(index: &Index) -> Mirror {
        let view = index.view();
        let model = Model::of(&view);
        let names = model.nodes().map(|(name, _)| name);
        Mirror(
            names
                .map(|name| (name.clone(), answers(&view, name)))
                .collect(),
        )
    }
}

/// All answers at a name, without the serials of negative ones.
fn answers(data: &dyn ZoneData, name: &Name) -> Vec<Answer> {
    TYPES
        .into_iter()
        .map(|rtype| data.answer(name, rtype))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn only_what_is_noted_changes(
        cluster in clusters(),
        settings in more_settings(),
        told in prop::collection::vec(told(), 1..40),
    ) {
        let settings = ZoneSettings {
            endpoints: settings.endpoints,
            known_pods: settings.known_pods,
            name_servers: settings.name_servers,
            served: settings.served,
            ..cluster.settings.clone()
        };
        let mut index = Index::of(Objects::default(), settings.clone(), 7);
        index.take_changes();
        let mut mirror = Mirror::of(&index);
        let first = cluster.list.iter().map(|object| Told::Applied(feed(object), object.clone()));
        for told in first.chain(told) {
            tell(&mut index, told.clone());
            mirror.update(&mut index);
            prop_assert_eq!(&mirror.0, &Mirror::of(&index).0, "after {:?}", told);
        }

        let again = Index::of(index.objects(), settings, index.serial());
        prop_assert_eq!(&mirror.0, &Mirror::of(&again).0);
        prop_assert_eq!(again.problems(), index.problems());
    }
}

fn tell(index: &mut Index, told: Told) {
    match told {
        Told::Applied(feed, object) => {
            index.apply(feed, object);
        }
        Told::Deleted(feed, key) => index.delete(feed, &key),
        Told::Listed(feed, objects) => {
            index.listing(feed);
            for object in objects.into_iter().filter(|object| is_of(feed, object)) {
                index.apply(feed, object);
            }
            index.listed(feed);
        }
        Told::Renumbered(serial) => index.set_serial(serial),
    }
}

fn told() -> impl Strategy<Value = Told> {
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
        4 => (objects(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(list, at, other)| {
            let Some(object) = (!list.is_empty()).then(|| list[at.index(list.len())].clone()) else {
                return Told::Renumbered(8);
            };
            match (feed(&object), other) {
                (Feed::SLICES, true) => Told::Applied(Feed::Slices(1), object),
                (feed, _) => Told::Applied(feed, object),
            }
        }),
        3 => (feeds(), key()).prop_map(|(feed, key)| Told::Deleted(feed, key)),
        1 => word().prop_map(|name| Told::Deleted(Feed::Namespaces, Key::new("", name))),
        2 => word().prop_map(|name| Told::Applied(Feed::Namespaces, Object::Namespace(Namespace { name: name.into() }))),
        2 => (feeds(), objects()).prop_map(|(feed, objects)| Told::Listed(feed, objects)),
        1 => (1..100u32).prop_map(Told::Renumbered),
    ]
}

fn more_settings() -> impl Strategy<Value = ZoneSettings> {
    let endpoints = prop::sample::select(vec![Endpoints::All, Endpoints::Headless]);
    let pods = prop::sample::select(vec![KnownPods::All, KnownPods::Some]);
    let servers = prop::sample::select(vec![NameServers::Ours, NameServers::Passed]);
    (endpoints, pods, servers, any::<bool>()).prop_map(
        |(endpoints, known_pods, name_servers, serves)| ZoneSettings {
            endpoints,
            known_pods,
            name_servers,
            served: serves.then(|| [10, 0, 0, 1].into()).into_iter().collect(),
            ..ZoneSettings::default()
        },
    )
}

pub(super) fn feed(object: &Object) -> Feed {
    match object {
        Object::Namespace(_) => Feed::Namespaces,
        Object::Service(_) => Feed::Services,
        Object::EndpointSlice(_) => Feed::SLICES,
        Object::Pod(_) => Feed::Pods,
        Object::Fact(_) => panic!("it makes no records"),
    }
}

fn is_of(list: Feed, object: &Object) -> bool {
    let feed = feed(object);
    feed == list || (feed == Feed::SLICES && list == Feed::Slices(1))
}
