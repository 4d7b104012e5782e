//! Stores all objects, and determines which names change when an object changes.
//!
//! Names are not stored: [`View`](super::View) computes them from the objects on demand, one
//! Service at a time. Besides the objects, the index stores look-up structures, such as the slices
//! of each Service, the Services with each address, and the aliases with each target.

mod changes;
mod interning;
mod queries;
mod reverse_lookup;
mod successors;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use zerohop_zone::{Name, NameChanges};

use self::interning::Interner;
pub(super) use self::reverse_lookup::{PointerSource, Pointers};
use super::coverage::{Coverage, Covered};
use super::endpoints::ServiceEndpoints;
use super::feed::Feed;
use super::object_set::{Object, ObjectCounts, Objects};
use super::objects::{ObjectKey, Pod, Problem, Service, ServiceKind};
use super::settings::ZoneSettings;
use super::zone_skeleton::{SkeletonInputs, ZoneSkeleton};

/// All objects reported by the sources, the settings, and look-up structures.
#[derive(Debug)]
pub struct Index {
    settings: ZoneSettings,
    pub(super) skeleton: ZoneSkeleton,
    serial: u32,
    completeness: Completeness,
    /// Whether `namespaces` holds every Namespace that exists. If false, every namespace counts as
    /// existing.
    namespaces_known: bool,
    namespaces: BTreeMap<Arc<str>, StoredObject<()>>,
    /// Services, and Services that don't exist but have slices.
    services: BTreeMap<ObjectKey, ServiceState>,
    /// Where each slice is stored.
    slices: BTreeMap<ObjectKey, StoredObject<SlicePlace>>,
    /// The Services of which every slice is stored.
    coverage: Coverage,
    pods: BTreeMap<ObjectKey, StoredObject<Pod>>,
    pub(super) pointers: Pointers,
    /// For each name, the ExternalName Services with this name as their target, or with a target
    /// one label below it. The latter may be a computed name.
    aliases: BTreeMap<Name, BTreeSet<ObjectKey>>,
    /// The number of Pods for each namespace and address.
    pod_addresses: BTreeMap<(Arc<str>, IpAddr), PodCount>,
    /// Services with unknown addresses.
    unreadable_services: BTreeSet<ObjectKey>,
    /// Slices that can't be read.
    unreadable_slices: BTreeSet<ObjectKey>,
    /// How many lists each feed has started.
    lists: BTreeMap<Feed, u32>,
    /// The problems of each Service and its slices, by the Service's key.
    problems: BTreeMap<ObjectKey, Vec<Problem>>,
    interner: Interner,
    changes: NameChanges,
}

/// An object, and the feed that reported it last.
#[derive(Debug)]
struct StoredObject<T> {
    object: T,
    feed: Feed,
    /// How many lists the feed had started when it reported the object last.
    list: u32,
}

/// A Service, and its slices.
#[derive(Debug, Default)]
pub(super) struct ServiceState {
    /// `None` if only slices exist.
    object: Option<StoredObject<Service>>,
    /// `None` if there is no slice, to save memory.
    endpoints: Option<Box<ServiceEndpoints>>,
}

/// Where a slice is stored.
#[derive(Clone, Debug)]
struct SlicePlace {
    /// The name of the Service, in the same namespace. `None`: the slice belongs to no Service, so
    /// it is not stored.
    service: Option<Arc<str>>,
    /// The slice's number in [`ServiceEndpoints`]; `None` if it is not stored.
    number: Option<u32>,
}

/// The number of Pods with an address in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PodCount {
    /// Pods that are not being deleted.
    pub(super) running: usize,
    /// Pods that are being deleted.
    pub(super) terminating: usize,
}

/// Whether all feeds have been listed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completeness {
    /// At least one list is outstanding. An absent name may exist.
    Partial,
    /// All feeds have been listed.
    Complete,
}

impl Index {
    /// An empty, incomplete index.
    #[must_use]
    pub fn new(settings: ZoneSettings, serial: u32) -> Index {
        let known = SkeletonInputs {
            serial,
            all_namespaces_exist: false,
            complete: false,
            has_unreadable: false,
            servers: Vec::new(),
        };
        Index {
            skeleton: ZoneSkeleton::new(&settings, &known),
            settings,
            serial,
            completeness: Completeness::Partial,
            namespaces_known: true,
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            coverage: Coverage::Every,
            pods: BTreeMap::new(),
            pointers: Pointers::default(),
            aliases: BTreeMap::new(),
            pod_addresses: BTreeMap::new(),
            unreadable_services: BTreeSet::new(),
            unreadable_slices: BTreeSet::new(),
            lists: BTreeMap::new(),
            problems: BTreeMap::new(),
            interner: Interner::default(),
            changes: NameChanges::default(),
        }
    }

    /// A complete index of exactly these objects.
    #[must_use]
    pub fn from_objects(objects: Objects, settings: ZoneSettings, serial: u32) -> Index {
        let mut index = Index::new(settings, serial);
        index.replace_objects(objects);
        index.mark_complete();
        index
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &ZoneSettings {
        &self.settings
    }

    /// The serial of the zones: the Unix time of the last change.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether all feeds have been listed once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.completeness == Completeness::Complete
    }

    /// Number of stored objects of each kind.
    #[must_use]
    pub fn counts(&self) -> ObjectCounts {
        ObjectCounts {
            namespaces: self.namespaces.len(),
            services: self.stored_services().count(),
            endpoint_slices: self.slices.len(),
            pods: self.pods.len(),
        }
    }

    /// Problems with objects or settings. The affected parts make no records.
    pub fn problems(&self) -> BTreeSet<Problem> {
        let namespaces = self.namespaces.keys();
        let of_namespaces = namespaces.filter_map(|name| self.problem_of_namespace(name));
        let others = self.problems.values().flatten();
        let others = others.chain(&self.skeleton.problems).cloned();
        others.chain(of_namespaces).collect()
    }

    /// Returns and clears the changes since the last call.
    pub fn take_changes(&mut self) -> NameChanges {
        std::mem::take(&mut self.changes)
    }

    /// Prepares for these feeds to list everything again. The index is incomplete until
    /// [`Index::mark_complete`] is called. Objects of other feeds are removed. `coverage` replaces
    /// the previous coverage.
    pub fn begin_listing(&mut self, feeds: &BTreeSet<Feed>, coverage: Coverage) {
        self.completeness = Completeness::Partial;
        self.coverage = coverage;
        let silent: Vec<Feed> = (self.lists.keys())
            .filter(|feed| !feeds.contains(feed))
            .copied()
            .collect();
        for feed in silent {
            self.begin_list(feed);
            self.end_list(feed);
        }
        self.build_skeleton();
    }

    /// Records that all feeds have been listed. From now on, absent names may be denied.
    pub fn mark_complete(&mut self) {
        self.completeness = Completeness::Complete;
        self.rebuild();
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: ZoneSettings) {
        if settings != self.settings {
            self.settings = settings;
            for state in self.services.values_mut() {
                if let Some(endpoints) = &mut state.endpoints {
                    endpoints.update_settings(&self.settings);
                }
            }
            self.rebuild();
        }
    }

    /// Records that a feed has listed and watches all slices of these Services.
    pub fn record_coverage(&mut self, feed: Feed, covered: Covered) {
        let mut coverage = self.coverage.clone();
        coverage.record(feed, covered);
        let changed: BTreeSet<ObjectKey> = (self.stored_services())
            .filter(|service| service.kind == ServiceKind::Headless)
            .map(|service| &service.key)
            .filter(|key| self.coverage.covers(&key.name) != coverage.covers(&key.name))
            .cloned()
            .collect();
        self.change_services(&changed, |index| index.coverage = coverage);
    }

    /// Sets the serial of the zones.
    pub fn set_serial(&mut self, serial: u32) {
        self.serial = serial;
        self.refresh_skeleton();
    }

    /// Records that a feed starts a new list.
    pub fn begin_list(&mut self, feed: Feed) {
        *self.lists.entry(feed).or_default() += 1;
    }

    /// Records that a feed's list has ended. Removes the objects that the feed reported before this
    /// list but not in it.
    pub fn end_list(&mut self, feed: Feed) {
        let list = self.current_list(feed);
        let is_gone =
            |reported_by: Feed, reported_in: u32| reported_by == feed && reported_in != list;
        let mut gone = Vec::new();
        for (namespace, stored) in &self.namespaces {
            if is_gone(stored.feed, stored.list) {
                gone.push(ObjectKey::new("", namespace.clone()));
            }
        }
        fn keys<T>(
            objects: &BTreeMap<ObjectKey, StoredObject<T>>,
            is_gone: impl Fn(Feed, u32) -> bool,
        ) -> impl Iterator<Item = ObjectKey> {
            let gone = objects
                .iter()
                .filter(move |(_, stored)| is_gone(stored.feed, stored.list));
            gone.map(|(key, _)| key.clone())
        }
        let services = self.services.iter();
        let services = services.filter_map(|(key, state)| Some((key, state.object.as_ref()?)));
        let services = services.filter(|(_, stored)| is_gone(stored.feed, stored.list));
        gone.extend(services.map(|(key, _)| key.clone()));
        gone.extend(keys(&self.slices, is_gone));
        gone.extend(keys(&self.pods, is_gone));
        for key in gone {
            self.delete_object(feed, &key);
        }
        self.interner.remove_unused();
    }

    /// Stores a new or changed object. Returns whether it differs from the stored one.
    pub fn apply_object(&mut self, feed: Feed, object: Object) -> bool {
        let list = self.current_list(feed);
        match object {
            Object::Namespace(namespace) => {
                let name = namespace.name;
                let stored = StoredObject {
                    object: (),
                    feed,
                    list,
                };
                if let Some(old) = self.namespaces.get_mut(&name) {
                    *old = stored;
                    return false;
                }
                self.change_namespace(&name, |index| {
                    index.namespaces.insert(name.clone(), stored);
                });
            }
            Object::Service(mut object) => {
                let state = self.services.get_mut(&object.key);
                if let Some(known) = state.and_then(|state| state.object.as_mut())
                    && known.refresh_if_equal(&object, feed, list)
                {
                    return false;
                }
                self.interner.intern_service(&mut object);
                let key = object.key.clone();
                if object.kind.is_undetermined() {
                    self.unreadable_services.insert(key.clone());
                } else {
                    self.unreadable_services.remove(&key);
                }
                let stored = StoredObject { object, feed, list };
                self.change_services(&BTreeSet::from([key.clone()]), |index| {
                    index.services.entry(key.clone()).or_default().object = Some(stored);
                });
                self.update_denials();
            }
            Object::EndpointSlice(object) => return self.apply_slice(feed, list, object),
            Object::Pod(object) => {
                if let Some(known) = self.pods.get_mut(&object.key)
                    && known.refresh_if_equal(&object, feed, list)
                {
                    return false;
                }
                let key = object.key.clone();
                self.change_pod(&key, Some(StoredObject { object, feed, list }));
            }
            Object::Fact(_) => return false,
        }
        true
    }

    /// Removes an object that a feed reported. A slice stays if another feed has reported it since.
    pub fn delete_object(&mut self, feed: Feed, key: &ObjectKey) {
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
                if self.service(key).is_some() {
                    self.change_services(&BTreeSet::from([key.clone()]), |index| {
                        if let Some(state) = index.services.get_mut(key) {
                            state.object = None;
                        }
                        index.remove_empty_state(key);
                    });
                    self.unreadable_services.remove(key);
                    self.update_denials();
                }
            }
            Feed::Slices(_) | Feed::DnsSlices => {
                if self
                    .slices
                    .get(key)
                    .is_some_and(|stored| stored.feed == feed)
                {
                    self.remove_slice(key);
                    self.update_denials();
                }
            }
            Feed::Pods => self.change_pod(key, None),
            Feed::ConfigMap
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
            | Feed::DnsCandidates => {}
        }
    }

    /// Replaces all stored objects with these, as if each feed had listed its kind once.
    pub fn replace_objects(&mut self, objects: Objects) {
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
        self.replace_list(Feed::Namespaces, namespaces);
        self.replace_list(Feed::Services, services.into_values().map(Object::Service));
        let slices = endpoint_slices.into_values().map(Object::EndpointSlice);
        self.replace_list(Feed::SLICES, slices);
        self.replace_list(Feed::Pods, pods.into_values().map(Object::Pod));
    }

    /// The stored objects.
    #[cfg(test)]
    pub(super) fn objects(&self) -> Objects {
        let mut objects = Objects {
            namespaces_known: self.namespaces_known,
            namespaces: self.namespaces.keys().cloned().collect(),
            ..Objects::default()
        };
        for (key, state) in &self.services {
            if let Some(stored) = &state.object {
                objects.insert(Object::Service(stored.object.clone()));
            }
            let slices = state.endpoints.as_ref().map(|it| it.slices(key));
            for slice in slices.into_iter().flatten() {
                objects.insert(Object::EndpointSlice(slice));
            }
        }
        for stored in self.pods.values() {
            objects.insert(Object::Pod(stored.object.clone()));
        }
        objects
    }

    fn replace_list(&mut self, feed: Feed, objects: impl Iterator<Item = Object>) {
        self.begin_list(feed);
        for object in objects {
            self.apply_object(feed, object);
        }
        self.end_list(feed);
    }

    /// The keys of a namespace's Services, including Services that don't exist but have slices.
    fn keys_in(&self, namespace: &str) -> BTreeSet<ObjectKey> {
        let start = ObjectKey::first_in(namespace);
        let keys = self.services.range(start..).map(|(key, _)| key);
        keys.take_while(|key| key.is_in(namespace))
            .cloned()
            .collect()
    }

    /// The Services that exist.
    fn stored_services(&self) -> impl Iterator<Item = &Service> {
        let states = self.services.values();
        states.filter_map(|state| Some(&state.object.as_ref()?.object))
    }

    /// Removes the state of a Service that doesn't exist and has no slices.
    fn remove_empty_state(&mut self, key: &ObjectKey) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        if state.endpoints.as_ref().is_some_and(|it| it.has_no_slice()) {
            state.endpoints = None;
        }
        if state.object.is_none() && state.endpoints.is_none() {
            self.services.remove(key);
        }
    }

    fn current_list(&self, feed: Feed) -> u32 {
        self.lists.get(&feed).copied().unwrap_or_default()
    }

    fn has_objects(&self, namespace: &str) -> bool {
        fn first<'a, T>(
            objects: &'a BTreeMap<ObjectKey, T>,
            namespace: &str,
        ) -> Option<&'a ObjectKey> {
            let start = ObjectKey::first_in(namespace);
            let mut keys = objects.range(start..).map(|(key, _)| key);
            keys.next().filter(|key| key.is_in(namespace))
        }
        first(&self.services, namespace).is_some() || first(&self.pods, namespace).is_some()
    }
}

impl<T: PartialEq> StoredObject<T> {
    /// If the object is unchanged, updates only its feed and list. Returns whether it is unchanged.
    fn refresh_if_equal(&mut self, object: &T, feed: Feed, list: u32) -> bool {
        let is_same = self.object == *object;
        if is_same {
            (self.feed, self.list) = (feed, list);
        }
        is_same
    }
}
