//! All objects, as they are told one by one, and which names a change of one changes.
//!
//! Names are not stored: [`View`] works them out of the objects, one service at a time, for
//! whoever asks. What is stored beside the objects is only what finds them: the slices of a
//! service, the services of an address, the aliases of a name.

mod changes;
mod known;
mod links;
mod order;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::zone::{Live, Name, ZoneData};

use self::shared::Shared;
use super::coverage::{Coverage, Covered};
use super::feed::Feed;
use super::frame::{Frame, Known};
use super::objects::{
    EndpointSlice, Key, Object, ObjectCounts, Objects, Pod, Problem, Service, ServiceKind,
};
use super::settings::ZoneSettings;
use super::view::View;

/// Every object told, the settings, and what finds them.
#[derive(Debug)]
pub struct Index {
    settings: ZoneSettings,
    pub(super) frame: Frame,
    serial: u32,
    completeness: Completeness,
    /// Whether the Namespaces told are all there are. If not, all exist.
    namespaces_known: bool,
    namespaces: BTreeMap<Arc<str>, Told<()>>,
    services: BTreeMap<Key, Told<Service>>,
    slices: BTreeMap<Key, Told<EndpointSlice>>,
    /// Of which Services `slices` has every slice.
    coverage: Coverage,
    pods: BTreeMap<Key, Told<Pod>>,
    /// The slices of each service, by their names.
    slices_of: BTreeMap<Key, Vec<Arc<str>>>,
    /// The services of each address that has names.
    pub(super) pointers: BTreeSet<(IpAddr, Arc<Key>)>,
    /// The aliases that lead to a name, and those that lead to a name one label below it.
    aliases: BTreeMap<Name, BTreeSet<Key>>,
    /// The pods of each namespace that have an address.
    pod_addresses: BTreeMap<(Arc<str>, IpAddr), PodCount>,
    /// Services and slices that are there and can't be read.
    unreadable: BTreeSet<Key>,
    /// The list of each feed that came last, by number.
    lists: BTreeMap<Feed, u32>,
    problems: BTreeMap<Key, Vec<Problem>>,
    shared: Shared,
    changes: Changes,
}

/// Names that may have changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Their names, if it is only some.
    pub names: BTreeSet<Name>,
    /// Whether anything may have changed.
    pub everything: bool,
}

/// An object, and who told of it last.
#[derive(Debug)]
struct Told<T> {
    object: T,
    feed: Feed,
    /// The number of the feed's list in which, or after which, it was told.
    list: u32,
}

/// How many pods there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PodCount {
    /// Those that are not being deleted.
    pub(super) running: usize,
    /// Those that are.
    pub(super) terminating: usize,
}

/// Whether everything has been told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completeness {
    /// Something is still to come: a name that is not there may be.
    Partial,
    /// Everything has.
    Complete,
}

impl Index {
    /// Nothing has been told yet.
    #[must_use]
    pub fn new(settings: ZoneSettings, serial: u32) -> Index {
        let known = Known {
            serial,
            any_namespace: false,
            complete: false,
            has_unreadable: false,
            servers: Vec::new(),
        };
        Index {
            frame: Frame::new(&settings, &known),
            settings,
            serial,
            completeness: Completeness::Partial,
            namespaces_known: true,
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            coverage: Coverage::Every,
            pods: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            pointers: BTreeSet::new(),
            aliases: BTreeMap::new(),
            pod_addresses: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            lists: BTreeMap::new(),
            problems: BTreeMap::new(),
            shared: Shared::default(),
            changes: Changes::default(),
        }
    }

    /// An index of these objects, and of no others.
    #[must_use]
    pub fn of(objects: Objects, settings: ZoneSettings, serial: u32) -> Index {
        let mut index = Index::new(settings, serial);
        index.replace(objects);
        index.complete();
        index
    }

    /// All names, as they are now.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self)
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &ZoneSettings {
        &self.settings
    }

    /// The Unix time of the last change, as the zones give it.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether everything has been told once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.completeness == Completeness::Complete
    }

    /// How many objects there are.
    #[must_use]
    pub fn counts(&self) -> ObjectCounts {
        ObjectCounts {
            namespaces: self.namespaces.len(),
            services: self.services.len(),
            endpoint_slices: self.slices.len(),
            pods: self.pods.len(),
        }
    }

    /// What is wrong with objects or settings, and left out.
    pub fn problems(&self) -> BTreeSet<Problem> {
        let namespaces = self.namespaces.keys();
        let of_namespaces = namespaces.filter_map(|name| self.problem_of_namespace(name));
        let others = self.problems.values().flatten();
        let others = others.chain(&self.frame.problems).cloned();
        others.chain(of_namespaces).collect()
    }

    /// Takes the changes since this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Everything is told again, by these feeds: until it has been, a name that is not there may be. `coverage` is
    /// what is known to be watched from now on. What other feeds told is gone.
    pub fn begin(&mut self, feeds: &BTreeSet<Feed>, coverage: Coverage) {
        self.completeness = Completeness::Partial;
        self.coverage = coverage;
        let silent: Vec<Feed> = (self.lists.keys())
            .filter(|feed| !feeds.contains(feed))
            .copied()
            .collect();
        for feed in silent {
            self.listing(feed);
            self.listed(feed);
        }
        self.build_frame();
    }

    /// Everything has been told once: from now on a name that is not there does not exist.
    pub fn complete(&mut self) {
        self.completeness = Completeness::Complete;
        self.rebuild();
    }

    /// Takes other settings.
    pub fn set_settings(&mut self, settings: ZoneSettings) {
        if settings != self.settings {
            self.settings = settings;
            self.rebuild();
        }
    }

    /// A feed has listed the slices of these Services, all of them, and watches them.
    pub fn cover(&mut self, feed: Feed, covered: Covered) {
        let mut coverage = self.coverage.clone();
        coverage.set(feed, covered);
        let changed: BTreeSet<Key> = (self.services.values())
            .filter(|told| told.object.kind == ServiceKind::Headless)
            .map(|told| &told.object.key)
            .filter(|key| self.coverage.has(&key.name) != coverage.has(&key.name))
            .cloned()
            .collect();
        self.change(&changed, |index| index.coverage = coverage);
    }

    /// Gives the zones another serial.
    pub fn set_serial(&mut self, serial: u32) {
        self.serial = serial;
        self.reframe();
    }

    /// A list of a feed starts.
    pub fn listing(&mut self, feed: Feed) {
        *self.lists.entry(feed).or_default() += 1;
    }

    /// A list of a feed has ended: what the feed told before it, and not since, is gone.
    pub fn listed(&mut self, feed: Feed) {
        let list = self.list(feed);
        let is_gone = |told_by: Feed, told_in: u32| told_by == feed && told_in != list;
        let mut gone = Vec::new();
        for (namespace, told) in &self.namespaces {
            if is_gone(told.feed, told.list) {
                gone.push(Key::new("", namespace.clone()));
            }
        }
        fn keys<T>(
            objects: &BTreeMap<Key, Told<T>>,
            is_gone: impl Fn(Feed, u32) -> bool,
        ) -> impl Iterator<Item = Key> {
            let gone = objects
                .iter()
                .filter(move |(_, told)| is_gone(told.feed, told.list));
            gone.map(|(key, _)| key.clone())
        }
        gone.extend(keys(&self.services, is_gone));
        gone.extend(keys(&self.slices, is_gone));
        gone.extend(keys(&self.pods, is_gone));
        for key in gone {
            self.delete(feed, &key);
        }
        self.shared.tidy();
    }

    /// An object is there: new, or as it is now. Says whether it is another than before.
    pub fn apply(&mut self, feed: Feed, object: Object) -> bool {
        let list = self.list(feed);
        match object {
            Object::Namespace(namespace) => {
                let name = namespace.name;
                let told = Told {
                    object: (),
                    feed,
                    list,
                };
                if let Some(old) = self.namespaces.get_mut(&name) {
                    *old = told;
                    return false;
                }
                self.change_namespace(&name, |index| {
                    index.namespaces.insert(name.clone(), told);
                });
            }
            Object::Service(mut object) => {
                if let Some(known) = self.services.get_mut(&object.key)
                    && known.is_told_again(&object, feed, list)
                {
                    return false;
                }
                self.shared.share_service(&mut object);
                let key = object.key.clone();
                let told = Told { object, feed, list };
                self.change(&BTreeSet::from([key.clone()]), |index| {
                    index.services.insert(key.clone(), told);
                });
                self.note_unreadable(&key);
            }
            Object::EndpointSlice(mut object) => {
                if let Some(known) = self.slices.get_mut(&object.key)
                    && known.is_told_again(&object, feed, list)
                {
                    return false;
                }
                self.shared.share_slice(&mut object);
                let mut services: BTreeSet<Key> = object.service_key().into_iter().collect();
                services.extend(
                    self.slices
                        .get(&object.key)
                        .and_then(|old| old.object.service_key()),
                );
                let key = object.key.clone();
                let told = Told { object, feed, list };
                self.change(&services, |index| {
                    index.unlink_slice(&told.object.key);
                    if let Some(service) = told.object.service_key() {
                        let names = index.slices_of.entry(service).or_default();
                        let name = &told.object.key.name;
                        let at = names.partition_point(|other| other < name);
                        names.reserve_exact(1);
                        names.insert(at, name.clone());
                    }
                    index.slices.insert(told.object.key.clone(), told);
                });
                self.note_unreadable(&key);
            }
            Object::Pod(object) => {
                if let Some(known) = self.pods.get_mut(&object.key)
                    && known.is_told_again(&object, feed, list)
                {
                    return false;
                }
                let key = object.key.clone();
                self.change_pod(&key, Some(Told { object, feed, list }));
            }
            Object::Fact(_) => return false,
        }
        true
    }

    /// An object that a feed told of is gone. It stays if another feed told of it since.
    pub fn delete(&mut self, feed: Feed, key: &Key) {
        match feed {
            Feed::Namespaces => {
                let name = &key.name;
                if self.namespaces.contains_key(name) {
                    self.change_namespace(name, |index| {
                        index.namespaces.remove(name);
                    });
                }
            }
            Feed::Services => {
                if self.services.contains_key(key) {
                    self.change(&BTreeSet::from([key.clone()]), |index| {
                        index.services.remove(key);
                    });
                    self.note_unreadable(key);
                }
            }
            Feed::Slices(_) | Feed::DnsSlices => {
                let Some(told) = self.slices.get(key).filter(|told| told.feed == feed) else {
                    return;
                };
                self.change(&told.object.service_key().into_iter().collect(), |index| {
                    index.unlink_slice(key);
                    index.slices.remove(key);
                });
                self.note_unreadable(key);
            }
            Feed::Pods => self.change_pod(key, None),
            Feed::Corefile
            | Feed::Policies
            | Feed::PolicyKinds
            | Feed::OtherPolicies(_)
            | Feed::ClientNamespaces
            | Feed::Clients
            | Feed::DnsNamespace
            | Feed::DnsService
            | Feed::DnsEndpoints
            | Feed::DnsPods
            | Feed::UpstreamServices
            | Feed::CacheConfig => {}
        }
    }

    /// Brings everything to these objects, and to no others: a list of each kind.
    pub fn replace(&mut self, objects: Objects) {
        let Objects {
            namespaces,
            services,
            endpoint_slices,
            pods,
            namespaces_known,
            facts: _,
        } = objects;
        if self.namespaces_known != namespaces_known {
            self.namespaces_known = namespaces_known;
            self.rebuild();
        }
        let namespaces = namespaces
            .into_iter()
            .map(|name| Object::Namespace(super::Namespace { name }));
        self.relist(Feed::Namespaces, namespaces);
        self.relist(Feed::Services, services.into_values().map(Object::Service));
        let slices = endpoint_slices.into_values().map(Object::EndpointSlice);
        self.relist(Feed::SLICES, slices);
        self.relist(Feed::Pods, pods.into_values().map(Object::Pod));
    }

    /// The objects that are there now.
    #[cfg(test)]
    pub(super) fn objects(&self) -> Objects {
        let mut objects = Objects {
            namespaces_known: self.namespaces_known,
            namespaces: self.namespaces.keys().cloned().collect(),
            ..Objects::default()
        };
        for told in self.services.values() {
            objects.insert(Object::Service(told.object.clone()));
        }
        for told in self.slices.values() {
            objects.insert(Object::EndpointSlice(told.object.clone()));
        }
        for told in self.pods.values() {
            objects.insert(Object::Pod(told.object.clone()));
        }
        objects
    }

    fn relist(&mut self, feed: Feed, objects: impl Iterator<Item = Object>) {
        self.listing(feed);
        for object in objects {
            self.apply(feed, object);
        }
        self.listed(feed);
    }

    /// The Services of a namespace, and those that only their slices tell of.
    fn keys_in(&self, namespace: &str) -> BTreeSet<Key> {
        let start = Key::first_in(namespace);
        let services = self.services.range(start.clone()..).map(|(key, _)| key);
        let others = self.slices_of.range(start..).map(|(key, _)| key);
        let is_inside = |key: &&Key| key.is_in(namespace);
        let services = services.take_while(is_inside);
        services
            .chain(others.take_while(is_inside))
            .cloned()
            .collect()
    }

    fn list(&self, feed: Feed) -> u32 {
        self.lists.get(&feed).copied().unwrap_or_default()
    }

    fn has_objects(&self, namespace: &str) -> bool {
        fn first<'a, T>(objects: &'a BTreeMap<Key, T>, namespace: &str) -> Option<&'a Key> {
            let start = Key::first_in(namespace);
            let mut keys = objects.range(start..).map(|(key, _)| key);
            keys.next().filter(|key| key.is_in(namespace))
        }
        first(&self.services, namespace).is_some()
            || first(&self.slices_of, namespace).is_some()
            || first(&self.pods, namespace).is_some()
    }
}

impl<T: PartialEq> Told<T> {
    /// Whether an object is as it was; then it is only noted who told it last.
    fn is_told_again(&mut self, object: &T, feed: Feed, list: u32) -> bool {
        let is_same = self.object == *object;
        if is_same {
            (self.feed, self.list) = (feed, list);
        }
        is_same
    }
}

impl Live for RwLock<Index> {
    fn look(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        // A writer that panicked has ended the agent, so nobody sees what it left behind.
        let index = self.read().unwrap_or_else(PoisonError::into_inner);
        see(&index.view());
    }
}

/// Makes the model of all objects, stored. An object that makes no sense is a problem and
/// left out; the others are built. `serial` is the version of all zones: the Unix
/// time of the last change.
pub fn build(
    objects: &Objects,
    settings: &ZoneSettings,
    serial: u32,
) -> (crate::zone::Model, Vec<Problem>) {
    let index = Index::of(objects.clone(), settings.clone(), serial);
    let problems = index.problems().into_iter().collect();
    (crate::zone::Model::of(&index.view()), problems)
}
