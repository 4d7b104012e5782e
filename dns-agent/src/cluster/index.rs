//! All objects, as they are told one by one, and which names a change of one changes.
//!
//! Names are not stored: [`View`] works them out of the objects, one service at a time, for
//! whoever asks. What is stored beside the objects is only what finds them: the slices of a
//! service, the services of an address, the aliases of a name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use crate::zone::{Live, Name, ZoneData, dashed, reverse_name};

use super::feed::Feed;
use super::frame::{Domain, Frame, Known};
use super::objects::{
    EndpointSlice, Key, Object, ObjectCounts, Objects, Pod, Port, Problem, Service, ServiceKind,
};
use super::service::{Contribution, Pointer, contribution, orphaned};
use super::settings::{Endpoints, PodMode, ZoneSettings};
use super::view::{Subtree, View, subtree};

/// Every object told, the settings, and what finds them.
#[derive(Debug)]
pub struct Index {
    settings: ZoneSettings,
    pub(super) frame: Frame,
    serial: u32,
    completeness: Completeness,
    /// Whether the Namespaces told are all there are. If not, all exist.
    namespaces_known: bool,
    namespaces: BTreeMap<String, Told<()>>,
    services: BTreeMap<Key, Told<Service>>,
    slices: BTreeMap<Key, Told<EndpointSlice>>,
    pods: BTreeMap<Key, Told<Pod>>,
    /// The slices of each service, by their names.
    slices_of: BTreeMap<Key, Vec<Box<str>>>,
    /// The services of each address that has names.
    pub(super) pointers: BTreeSet<(IpAddr, Arc<Key>)>,
    /// The aliases that lead to a name, and those that lead to a name one label below it.
    aliases: BTreeMap<Name, BTreeSet<Key>>,
    /// How many pods of a namespace have an address.
    pod_addresses: BTreeMap<(String, IpAddr), usize>,
    /// The list of each feed that came last, by number.
    lists: BTreeMap<Feed, u32>,
    problems: BTreeMap<Key, Vec<Problem>>,
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

/// Whether everything has been told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Completeness {
    /// Something is still to come: a name that is not there may be.
    Partial,
    /// Everything has.
    Complete,
}

/// What finds a service, by what it says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Links {
    addresses: BTreeSet<IpAddr>,
    alias: Option<Name>,
}

/// What a service makes, in all domains.
#[derive(Debug, Default)]
struct Made {
    nodes: Vec<Subtree>,
    pointers: BTreeSet<Pointer>,
    problems: Vec<Problem>,
}

impl Index {
    /// Nothing has been told yet.
    #[must_use]
    pub fn new(settings: ZoneSettings, serial: u32) -> Index {
        let known = Known {
            serial,
            any_namespace: false,
            complete: false,
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
            pods: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            pointers: BTreeSet::new(),
            aliases: BTreeMap::new(),
            pod_addresses: BTreeMap::new(),
            lists: BTreeMap::new(),
            problems: BTreeMap::new(),
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

    /// Everything is told again: until it has been, a name that is not there may be.
    pub fn begin(&mut self) {
        self.completeness = Completeness::Partial;
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
                gone.push(Key {
                    namespace: String::new(),
                    name: namespace.clone(),
                });
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
            Object::Service(object) => {
                if let Some(old) = self.services.get_mut(&object.key)
                    && old.object == object
                {
                    (old.feed, old.list) = (feed, list);
                    return false;
                }
                let key = object.key.clone();
                let told = Told { object, feed, list };
                self.change(&BTreeSet::from([key.clone()]), |index| {
                    index.services.insert(key, told);
                });
            }
            Object::EndpointSlice(object) => {
                if let Some(old) = self.slices.get_mut(&object.key)
                    && old.object == object
                {
                    (old.feed, old.list) = (feed, list);
                    return false;
                }
                let mut services: BTreeSet<Key> = object.service_key().into_iter().collect();
                services.extend(
                    self.slices
                        .get(&object.key)
                        .and_then(|old| old.object.service_key()),
                );
                let told = Told { object, feed, list };
                self.change(&services, |index| {
                    index.unlink_slice(&told.object.key);
                    if let Some(service) = told.object.service_key() {
                        let names = index.slices_of.entry(service).or_default();
                        let name = told.object.key.name.as_str();
                        let at = names.partition_point(|other| **other < *name);
                        names.reserve_exact(1);
                        names.insert(at, name.into());
                    }
                    index.slices.insert(told.object.key.clone(), told);
                });
            }
            Object::Pod(object) => {
                if let Some(old) = self.pods.get_mut(&object.key)
                    && old.object == object
                {
                    (old.feed, old.list) = (feed, list);
                    return false;
                }
                let key = object.key.clone();
                self.change_pod(&key, Some(Told { object, feed, list }));
            }
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
                }
            }
            Feed::Slices | Feed::OtherSlices | Feed::DnsSlices => {
                let Some(told) = self.slices.get(key).filter(|told| told.feed == feed) else {
                    return;
                };
                self.change(&told.object.service_key().into_iter().collect(), |index| {
                    index.unlink_slice(key);
                    index.slices.remove(key);
                });
            }
            Feed::Pods => self.change_pod(key, None),
            Feed::Corefile => {}
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
        self.relist(Feed::Slices, slices);
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

    /// Where a service answers UDP: its ClusterIPs, and its endpoints as far as they are known.
    #[must_use]
    pub fn dns_addresses(&self, key: &Key) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let Some(service) = self.service(key) else {
            return (Vec::new(), Vec::new());
        };
        let own = match &service.kind {
            ServiceKind::ClusterIp(addresses) => sockets(addresses, &service.ports),
            _ => Vec::new(),
        };
        let slices = self.slices_of(key).into_iter();
        let endpoints = slices.flat_map(|slice| {
            let endpoints = slice.endpoints.iter();
            endpoints.flat_map(|endpoint| sockets(&endpoint.addresses, &slice.ports))
        });
        let endpoints: BTreeSet<SocketAddr> = endpoints.collect();
        (own, endpoints.into_iter().collect())
    }

    /// What stands behind a service's name; none for an unknown service.
    #[must_use]
    pub fn service_kind(&self, key: &Key) -> Option<&ServiceKind> {
        self.service(key).map(|service| &service.kind)
    }

    /// Whether a namespace is exposed.
    pub(super) fn exposes(&self, namespace: &str) -> bool {
        let listed = &self.settings.namespaces;
        let is_listed = listed.is_empty() || listed.iter().any(|name| name == namespace);
        if self.namespaces_known {
            return is_listed && self.namespaces.contains_key(namespace);
        }
        match listed.is_empty() {
            // Those that objects are in; that others exist too is said above them.
            true => self.has_objects(namespace),
            false => is_listed,
        }
    }

    /// Whether every namespace exists.
    pub(super) fn any_namespace(&self) -> bool {
        !self.namespaces_known && self.settings.namespaces.is_empty()
    }

    /// Whether the Namespaces told are all there are.
    pub(super) fn knows_namespaces(&self) -> bool {
        self.namespaces_known
    }

    /// Whether a Namespace was told.
    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The exposed namespaces that are known.
    pub(super) fn exposed_namespaces(&self) -> BTreeSet<&str> {
        let listed = self.settings.namespaces.iter().map(String::as_str);
        let told = self.namespaces.keys().map(String::as_str);
        let services = self.services.keys().map(|key| key.namespace.as_str());
        let pods = self.pods.keys().map(|key| key.namespace.as_str());
        let slices = self.slices_of.keys().map(|key| key.namespace.as_str());
        let of_objects = services.chain(slices).chain(pods);
        let all: BTreeSet<&str> = listed.chain(told).chain(of_objects).collect();
        all.into_iter().filter(|name| self.exposes(name)).collect()
    }

    /// A Service.
    pub(super) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key).map(|told| &told.object)
    }

    /// All Services.
    pub(super) fn services(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// The slices of a Service.
    pub(super) fn slices_of(&self, service: &Key) -> Vec<&EndpointSlice> {
        let names = self.slices_of.get(service).into_iter().flatten();
        let slices = names.filter_map(|name| {
            self.slices.get(&Key {
                namespace: service.namespace.clone(),
                name: name.to_string(),
            })
        });
        slices.map(|told| &told.object).collect()
    }

    /// All Pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|told| &told.object)
    }

    /// The addresses of pods of exposed namespaces.
    pub(super) fn pod_addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let addresses = self.pod_addresses.keys();
        addresses
            .map(|(namespace, address)| (namespace.as_str(), *address))
            .filter(|(namespace, _)| self.exposes(namespace))
    }

    /// Whether a pod of a namespace has an address.
    pub(super) fn has_pod(&self, namespace: &str, address: IpAddr) -> bool {
        self.pod_addresses
            .contains_key(&(namespace.to_owned(), address))
    }

    /// What a Service and its slices give to a domain; none when they are not there, or not exposed.
    pub(super) fn contribution(&self, key: &Key, domain: &Domain) -> Option<Contribution> {
        if !self.exposes(&key.namespace) {
            return None;
        }
        let slices = self.slices_of(key);
        match self.service(key) {
            Some(service) => Some(contribution(service, &slices, &domain.svc, &self.settings)),
            None if slices.is_empty() => None,
            None => Some(orphaned(key, &slices, &domain.svc, &self.settings)),
        }
    }

    /// The Services of a namespace, and those that only their slices tell of.
    fn keys_in(&self, namespace: &str) -> BTreeSet<Key> {
        let start = Key {
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let services = self.services.range(start.clone()..).map(|(key, _)| key);
        let others = self.slices_of.range(start..).map(|(key, _)| key);
        let is_inside = |key: &&Key| key.namespace == namespace;
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
            let start = Key {
                namespace: namespace.to_owned(),
                name: String::new(),
            };
            let mut keys = objects.range(start..).map(|(key, _)| key);
            keys.next().filter(|key| key.namespace == namespace)
        }
        first(&self.services, namespace).is_some()
            || first(&self.slices_of, namespace).is_some()
            || first(&self.pods, namespace).is_some()
    }

    /// Changes Services or their slices.
    fn change(&mut self, keys: &BTreeSet<Key>, change: impl FnOnce(&mut Index)) {
        let before: Vec<_> = keys
            .iter()
            .map(|key| (self.links(key), self.made(key)))
            .collect();
        let mut serve_names = self.served_names(&before);
        change(self);
        for (key, (old_links, old)) in keys.iter().zip(before) {
            self.link(key, &old_links);
            if self.is_complete() {
                let new = self.made(key);
                serve_names |= self.is_served(&new);
                self.note(key, &old, new);
            }
            if self.any_namespace() {
                let names: Vec<Name> = self.names_of_namespace(&key.namespace).collect();
                self.changes.names.extend(names);
            }
        }
        if serve_names {
            self.reframe();
        }
    }

    fn served_names(&self, made: &[(Links, Made)]) -> bool {
        made.iter().any(|(_, made)| self.is_served(made))
    }

    /// Whether the service is asked by the cluster's clients, so that it is a name server.
    fn is_served(&self, made: &Made) -> bool {
        let mut pointers = made.pointers.iter();
        pointers.any(|pointer| self.settings.served.contains(&pointer.address))
    }

    fn change_namespace(&mut self, namespace: &str, change: impl FnOnce(&mut Index)) {
        let keys = self.keys_in(namespace);
        let mut names: BTreeSet<Name> = self.names_of_namespace(namespace).collect();
        let pods = self.pod_addresses.keys();
        let pods = pods.filter(|(other, _)| other == namespace);
        names.extend(pods.flat_map(|(_, address)| self.names_of_pod(namespace, *address)));
        self.change(&keys, change);
        self.add_names(names);
    }

    fn change_pod(&mut self, key: &Key, new: Option<Told<Pod>>) {
        let addresses = |told: &Option<Told<Pod>>| -> BTreeSet<IpAddr> {
            let addresses = told.iter().flat_map(|told| &told.object.addresses);
            addresses.copied().collect()
        };
        let added = addresses(&new);
        let old = match new {
            Some(told) => self.pods.insert(key.clone(), told),
            None => self.pods.remove(key),
        };
        let removed = addresses(&old);
        for address in &added {
            let place = (key.namespace.clone(), *address);
            *self.pod_addresses.entry(place).or_default() += 1;
        }
        for address in &removed {
            let place = (key.namespace.clone(), *address);
            if let Some(count) = self.pod_addresses.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.pod_addresses.remove(&place);
                }
            }
        }
        let mut names = BTreeSet::new();
        if self.settings.pods == PodMode::Verified {
            for address in added.symmetric_difference(&removed) {
                names.extend(self.names_of_pod(&key.namespace, *address));
            }
        }
        if self.any_namespace() {
            names.extend(self.names_of_namespace(&key.namespace));
        }
        self.add_names(names);
    }

    fn unlink_slice(&mut self, slice: &Key) {
        let Some(service) = self
            .slices
            .get(slice)
            .and_then(|told| told.object.service_key())
        else {
            return;
        };
        if let Some(names) = self.slices_of.get_mut(&service) {
            names.retain(|name| **name != *slice.name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
    }

    fn names_of_namespace(&self, namespace: &str) -> impl Iterator<Item = Name> {
        let names = self
            .frame
            .domains
            .iter()
            .flat_map(|domain| domain.of_namespace(namespace));
        names.flatten().collect::<Vec<_>>().into_iter()
    }

    fn names_of_pod(&self, namespace: &str, address: IpAddr) -> impl Iterator<Item = Name> {
        let parents = self
            .frame
            .domains
            .iter()
            .flat_map(|domain| domain.of_namespace(namespace));
        parents.filter_map(move |[_, pods]| pods.child(dashed(address).as_bytes()).ok())
    }

    /// What is to find a service. It is cheaper than what the service makes, and is kept from
    /// the start.
    fn links(&self, key: &Key) -> Links {
        if !self.exposes(&key.namespace) {
            return Links::default();
        }
        let (mut addresses, alias) = match self.service_kind(key) {
            Some(ServiceKind::ExternalName(target)) => (BTreeSet::new(), Name::parse(target).ok()),
            Some(ServiceKind::ClusterIp(addresses)) => (addresses.iter().copied().collect(), None),
            Some(ServiceKind::Headless) | None => (BTreeSet::new(), None),
        };
        if self.settings.endpoints == Endpoints::All {
            let slices = self.slices_of(key).into_iter();
            let endpoints = slices.flat_map(|slice| &slice.endpoints);
            addresses.extend(endpoints.flat_map(|endpoint| &endpoint.addresses));
        }
        Links { addresses, alias }
    }

    /// Brings what finds a service up to date.
    fn link(&mut self, key: &Key, old: &Links) {
        let new = self.links(key);
        let shared = Arc::new(key.clone());
        for address in old.addresses.difference(&new.addresses) {
            self.pointers.remove(&(*address, shared.clone()));
        }
        for address in new.addresses.difference(&old.addresses) {
            self.pointers.insert((*address, shared.clone()));
        }
        if old.alias == new.alias {
            return;
        }
        for target in targets(&old.alias) {
            if let Some(keys) = self.aliases.get_mut(&target) {
                keys.remove(key);
                if keys.is_empty() {
                    self.aliases.remove(&target);
                }
            }
        }
        for target in targets(&new.alias) {
            self.aliases.entry(target).or_default().insert(key.clone());
        }
    }

    /// All that a service makes; nothing before everything was told once, when nobody needs it.
    fn made(&self, key: &Key) -> Made {
        let mut made = Made::default();
        if !self.is_complete() {
            return made;
        }
        for (at, domain) in self.frame.domains.iter().enumerate() {
            let Some(mut contribution) = self.contribution(key, domain) else {
                continue;
            };
            made.problems.append(&mut contribution.problems);
            // PTR records name the first domain.
            if at == 0 {
                made.pointers.extend(contribution.pointers.drain(..));
            }
            made.nodes.push(subtree(contribution, key, domain));
        }
        made
    }

    /// Notes which names differ.
    fn note(&mut self, key: &Key, old: &Made, new: Made) {
        let mut names = BTreeSet::new();
        let differ = |a: &[Subtree], b: &[Subtree], names: &mut BTreeSet<Name>| {
            for (at, tree) in a.iter().enumerate() {
                let other = b.get(at);
                let changed = tree
                    .iter()
                    .filter(|(name, node)| other.and_then(|tree| tree.get(*name)) != Some(*node));
                names.extend(changed.map(|(name, _)| name.clone()));
            }
        };
        differ(&old.nodes, &new.nodes, &mut names);
        differ(&new.nodes, &old.nodes, &mut names);
        // An answer that points at hosts comes with their addresses.
        let trees = new.nodes.iter().flatten();
        let pointing = trees.filter(|(_, node)| node.hosts().any(|host| names.contains(host)));
        let pointing: Vec<Name> = pointing.map(|(name, _)| name.clone()).collect();
        names.extend(pointing);
        for pointer in old.pointers.symmetric_difference(&new.pointers) {
            self.add_reverse_names(pointer.address, &mut names);
        }
        match new.problems.is_empty() {
            true => self.problems.remove(key),
            false => self.problems.insert(key.clone(), new.problems),
        };
        self.add_names(names);
    }

    /// The reverse name of an address, and those above it that exist because of it.
    fn add_reverse_names(&self, address: IpAddr, names: &mut BTreeSet<Name>) {
        let zones = self.view();
        let mut name = Some(reverse_name(address));
        while let Some(it) = name {
            name = it.parent().filter(|parent| zones.is_inside(parent));
            names.insert(it);
        }
    }

    /// Notes changed names, and the aliases that lead to them.
    fn add_names(&mut self, names: BTreeSet<Name>) {
        let mut todo: Vec<Name> = names.into_iter().collect();
        while let Some(name) = todo.pop() {
            if self.changes.names.contains(&name) {
                continue;
            }
            for key in self.aliases.get(&name).into_iter().flatten() {
                let domains = self.frame.domains.iter();
                todo.extend(domains.filter_map(|domain| super::view::service_name(key, domain)));
            }
            self.changes.names.insert(name);
        }
    }

    /// Works everything out anew.
    fn rebuild(&mut self) {
        self.changes.everything = true;
        self.pointers.clear();
        self.aliases.clear();
        self.problems.clear();
        self.build_frame();
        let keys = self.services.keys().chain(self.slices_of.keys());
        let keys: BTreeSet<Key> = keys.cloned().collect();
        for key in keys {
            self.link(&key, &Links::default());
            let problems = self.made(&key).problems;
            if !problems.is_empty() {
                self.problems.insert(key, problems);
            }
        }
        // The name servers are found by their addresses.
        self.build_frame();
    }

    /// Builds the frame again, and notes the names in it that change by that.
    fn reframe(&mut self) {
        self.build_frame();
        let apexes: Vec<Name> = self.frame.apexes().collect();
        self.changes.names.extend(apexes);
    }

    fn build_frame(&mut self) {
        let known = Known {
            serial: self.serial,
            any_namespace: self.any_namespace(),
            complete: self.is_complete(),
            servers: self.servers(),
        };
        self.frame = Frame::new(&self.settings, &known);
    }

    /// For each domain the names of the services that are asked by the cluster's clients.
    fn servers(&self) -> Vec<BTreeSet<Name>> {
        let view = self.view();
        let domains = self.frame.domains.iter();
        domains
            .map(|domain| {
                let served = self.settings.served.iter();
                served
                    .flat_map(|address| view.owners(*address, domain))
                    .collect()
            })
            .collect()
    }

    /// What keeps a namespace from having names.
    fn problem_of_namespace(&self, namespace: &str) -> Option<Problem> {
        let mut domains = self.frame.domains.iter();
        let reason = domains.find_map(|domain| domain.of_namespace(namespace).err())?;
        self.exposes(namespace).then(|| Problem {
            kind: "Namespace",
            namespace: String::new(),
            name: namespace.to_owned(),
            field: "metadata.name".into(),
            reason,
        })
    }
}

impl Live for RwLock<Index> {
    fn look(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        // A writer that panicked has ended the agent, so nobody sees what it left behind.
        let index = self.read().unwrap_or_else(PoisonError::into_inner);
        see(&index.view());
    }
}

/// The addresses with each of the UDP ports.
fn sockets(addresses: &[IpAddr], ports: &[Port]) -> Vec<SocketAddr> {
    let numbers = ports.iter().filter(|port| port.protocol == "udp");
    let numbers = numbers.filter_map(|port| port.number);
    numbers
        .flat_map(|number| {
            let addresses = addresses.iter();
            addresses.map(move |address| SocketAddr::new(*address, number))
        })
        .collect()
}

/// Where an alias is found: at the name it leads to, and at the name above, which may say
/// what is below it.
fn targets(alias: &Option<Name>) -> impl Iterator<Item = Name> {
    let target = alias.iter().cloned();
    target.chain(alias.iter().filter_map(Name::parent))
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
