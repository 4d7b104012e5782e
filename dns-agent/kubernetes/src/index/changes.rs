//! Determines which names change when an object changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use zerohop_zone::{Name, NameOwner, ZoneData as _, reverse_name, reverse_range};

use super::{Completeness, Index, PodCount, SlicePlace, StoredObject};
use crate::{
    endpoints::{ServiceEndpoints, SliceChange},
    feed::Feed,
    names::pod_label,
    objects::{EndpointSlice, ObjectKey, Pod, Problem, ServiceKind, SliceReadability},
    service::{Shape, service_name},
    settings::{EndpointScope, PodMode},
    zone_skeleton::{SkeletonInputs, ZoneSkeleton},
};

/// What a Service had before a change, for the comparison with what it has afterwards.
struct ServiceBefore {
    key: ObjectKey,
    names: BTreeSet<Name>,
    addresses: BTreeSet<IpAddr>,
    alias: Option<Name>,
    is_name_server: bool,
}

impl Index {
    /// Runs `change` on Services, and records all their names, old and new, as changed. For changes
    /// that may concern every name of a Service.
    pub(super) fn change_services(
        &mut self,
        keys: &BTreeSet<ObjectKey>,
        change: impl FnOnce(&mut Index),
    ) {
        let before = keys.iter().map(|key| self.before_change(key));
        let before: Vec<ServiceBefore> = before.collect();
        change(self);
        let mut is_name_server = false;
        for before in before {
            let mut names = BTreeSet::new();
            let after = self.before_change(&before.key);
            is_name_server |= before.is_name_server || after.is_name_server;
            self.update_alias(&before.key, before.alias.as_ref());
            let addresses: BTreeSet<IpAddr> =
                before.addresses.union(&after.addresses).copied().collect();
            self.update_pointers(&before.key, addresses.iter().copied());
            if self.is_complete() {
                for address in addresses {
                    self.add_reverse_names(address, &mut names);
                }
                names.extend(before.names);
                names.extend(after.names);
                self.update_problems(&before.key);
            }
            self.record_changed_names(&service_owner(&before.key), names);
            self.record_namespace(&before.key.namespace);
        }
        if is_name_server {
            self.refresh_skeleton();
        }
    }

    /// What a Service has now. While the index is incomplete, names need not be compared, because
    /// completing the index marks all names as changed.
    fn before_change(&self, key: &ObjectKey) -> ServiceBefore {
        let names = match self.completeness {
            Completeness::Partial => BTreeSet::new(),
            Completeness::Complete => self.all_names_of(key),
        };
        ServiceBefore {
            names,
            addresses: self.pointer_addresses(key),
            alias: self.alias_of(key),
            is_name_server: self.is_name_server(key),
            key: key.clone(),
        }
    }

    /// All names of a Service, in all cluster domains.
    fn all_names_of(&self, key: &ObjectKey) -> BTreeSet<Name> {
        let domains = self.skeleton.domains.iter();
        let domains = domains.filter_map(|domain| self.service_names(key, domain));
        domains.flat_map(|names| names.names()).collect()
    }

    /// Stores a slice. Returns whether it differs from the stored one.
    pub(super) fn apply_slice(&mut self, feed: Feed, list: u32, mut slice: EndpointSlice) -> bool {
        let key = slice.key.clone();
        let old = self.slices.get(&key).map(|stored| stored.object.clone());
        if let Some(old) = &old
            && old.service == slice.service
            && self.has_same_slice(old, &slice)
        {
            if let Some(stored) = self.slices.get_mut(&key) {
                (stored.feed, stored.list) = (feed, list);
            }
            return false;
        }
        self.interner.intern_slice(&mut slice);
        let old_number = match old {
            Some(old) if old.service == slice.service => old.number,
            Some(_) => {
                self.remove_slice(&key);
                None
            }
            None => None,
        };
        if slice.readability == SliceReadability::Unreadable {
            self.unreadable_slices.insert(key.clone());
        } else {
            self.unreadable_slices.remove(&key);
        }
        let service = slice.service.clone();
        let number = match slice.service_key() {
            Some(service) => self.edit_slice(&service, old_number, Some(slice)),
            None => None,
        };
        let place = SlicePlace { service, number };
        let stored = StoredObject {
            object: place,
            feed,
            list,
        };
        self.slices.insert(key, stored);
        self.update_denials();
        true
    }

    /// Removes a stored slice.
    pub(super) fn remove_slice(&mut self, key: &ObjectKey) {
        self.unreadable_slices.remove(key);
        let Some(StoredObject { object: place, .. }) = self.slices.remove(key) else {
            return;
        };
        let Some(service) = place.service else {
            return;
        };
        let service = ObjectKey {
            namespace: key.namespace.clone(),
            name: service,
        };
        self.edit_slice(&service, place.number, None);
    }

    fn has_same_slice(&self, place: &SlicePlace, slice: &EndpointSlice) -> bool {
        // A slice of no Service makes no names, so its versions need not be told apart.
        let Some(service) = slice.service_key() else {
            return true;
        };
        let endpoints = self.endpoints(&service).zip(place.number);
        endpoints.is_some_and(|(endpoints, number)| endpoints.has_slice(number, slice))
    }

    /// Adds, replaces or removes a slice of a Service, and records the names that differ
    /// afterwards. `number` is that of the stored version, and `slice` is the new version. Returns
    /// the number of the new version.
    fn edit_slice(
        &mut self,
        key: &ObjectKey,
        number: Option<u32>,
        slice: Option<EndpointSlice>,
    ) -> Option<u32> {
        let shape = self.shape_of(key);
        let exceeded = self.exceeds_bound(key);
        let old = self.stored_slice(key, number);
        let (mut number, change) = self.put_slice(key, number, slice);
        let mut names = BTreeSet::new();
        let has_new_shape = shape != self.shape_of(key);
        if self.is_complete() && has_new_shape {
            // All names of the Service may have changed. Its old names are found by undoing the
            // change for a moment.
            names.extend(self.all_names_of(key));
            let new = self.stored_slice(key, number);
            let (undone, _) = self.put_slice(key, number, old);
            names.extend(self.all_names_of(key));
            (number, _) = self.put_slice(key, undone, new);
        }
        let endpoints = change.removed.iter().chain(&change.added);
        let mut addresses: BTreeSet<IpAddr> = endpoints.map(|it| it.address).collect();
        if exceeded != self.exceeds_bound(key) {
            addresses.extend(self.pointer_addresses(key));
        }
        if self.settings.endpoint_scope == EndpointScope::All {
            self.update_pointers(key, addresses.iter().copied());
        }
        if self.is_complete() {
            for domain in &self.skeleton.domains {
                if let Some(service) = self.service_names(key, domain) {
                    names.extend(service.names_changed_by(&change));
                }
            }
            if self.settings.endpoint_scope == EndpointScope::All {
                for address in addresses {
                    self.add_reverse_names(address, &mut names);
                }
            }
            self.update_problems(key);
            self.record_changed_names(&service_owner(key), names);
        }
        self.remove_empty_state(key);
        self.record_namespace(&key.namespace);
        if has_new_shape && self.is_name_server(key) {
            self.refresh_skeleton();
        }
        number
    }

    /// Stores a version of a slice, or removes the slice, without recording changes.
    fn put_slice(
        &mut self,
        key: &ObjectKey,
        number: Option<u32>,
        slice: Option<EndpointSlice>,
    ) -> (Option<u32>, SliceChange) {
        let settings = &self.settings;
        let state = self.services.entry(key.clone()).or_default();
        let endpoints = state.endpoints.get_or_insert_default();
        match (number, slice) {
            (None, None) => (None, SliceChange::default()),
            (Some(number), None) => (None, endpoints.remove_slice(number, settings)),
            (Some(number), Some(slice)) => {
                let change = endpoints.replace_slice(number, slice, settings);
                (Some(number), change)
            }
            (None, Some(slice)) => {
                let (number, change) = endpoints.add_slice(slice, settings);
                (Some(number), change)
            }
        }
    }

    fn stored_slice(&self, key: &ObjectKey, number: Option<u32>) -> Option<EndpointSlice> {
        self.endpoints(key)?.slice(number?, key)
    }

    /// The shape of a Service's names. `None` if the Service doesn't exist.
    fn shape_of(&self, key: &ObjectKey) -> Option<Shape> {
        let service = self.service(key)?;
        let coverage = self.slice_coverage(service);
        Some(Shape::of(
            service,
            self.endpoints(key)?,
            coverage,
            &self.settings,
        ))
    }

    pub(super) fn exceeds_bound(&self, key: &ObjectKey) -> bool {
        self.endpoints(key)
            .is_some_and(ServiceEndpoints::exceeds_bound)
    }

    /// Whether a Service has a ClusterIP that clients use for DNS, so that it may be a name server.
    fn is_name_server(&self, key: &ObjectKey) -> bool {
        let served = &self.settings.served_addresses;
        match self.service_kind(key) {
            Some(ServiceKind::ClusterIp(own)) => own.iter().any(|it| served.contains(it)),
            _ => false,
        }
    }

    /// Updates the problems of a Service and its slices.
    fn update_problems(&mut self, key: &ObjectKey) {
        let domains = self.skeleton.domains.iter();
        let problems: Vec<Problem> = domains
            .flat_map(|domain| self.service_problems(key, domain))
            .collect();
        if problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.clone(), problems);
        }
    }

    /// Runs `change` on a Namespace, and records the names that may differ afterwards.
    pub(super) fn change_namespace(&mut self, namespace: &str, change: impl FnOnce(&mut Index)) {
        let keys = self.keys_in(namespace);
        let mut names: BTreeSet<Name> = self.names_of_namespace(namespace).collect();
        let pods = self.pod_addresses.keys();
        let pods = pods.filter(|(other, _)| **other == *namespace);
        names.extend(pods.flat_map(|(_, address)| self.names_of_pod(namespace, *address)));
        self.change_services(&keys, change);
        self.record_changed_names(&namespace_owner(namespace), names);
    }

    /// Stores a Pod, or removes it if `new` is `None`. Records the names that differ afterwards.
    pub(super) fn change_pod(&mut self, key: &ObjectKey, new: Option<StoredObject<Pod>>) {
        let addresses = |stored: &Option<StoredObject<Pod>>| -> BTreeSet<(IpAddr, bool)> {
            let pod = stored.iter().map(|stored| &stored.object);
            let addresses = pod.flat_map(|pod| {
                let addresses = pod.addresses.iter();
                addresses.map(|address| (*address, pod.is_terminating))
            });
            addresses.collect()
        };
        let added = addresses(&new);
        let old = match new {
            Some(stored) => self.pods.insert(key.clone(), stored),
            None => self.pods.remove(key),
        };
        let removed = addresses(&old);
        for (address, is_terminating) in &added {
            let place = (key.namespace.clone(), *address);
            *self
                .pod_addresses
                .entry(place)
                .or_default()
                .count_mut(*is_terminating) += 1;
        }
        for (address, is_terminating) in &removed {
            let place = (key.namespace.clone(), *address);
            if let Some(count) = self.pod_addresses.get_mut(&place) {
                *count.count_mut(*is_terminating) -= 1;
                if *count == PodCount::default() {
                    self.pod_addresses.remove(&place);
                }
            }
        }
        let mut names = BTreeSet::new();
        if self.settings.pods == PodMode::Verified {
            for (address, _) in added.symmetric_difference(&removed) {
                names.extend(self.names_of_pod(&key.namespace, *address));
            }
        }
        self.record_changed_names(&NameOwner::new(format!("Pod {key}")), names);
        self.record_namespace(&key.namespace);
    }

    /// Records that the names of a namespace may have changed, if every namespace counts as
    /// existing: an object in it decides whether these names are stored.
    fn record_namespace(&mut self, namespace: &str) {
        if self.any_namespace() {
            let names = self.names_of_namespace(namespace).collect();
            self.record_changed_names(&namespace_owner(namespace), names);
        }
    }

    /// Updates whether absent reverse names may be denied, after a change of what can be read.
    pub(super) fn update_denials(&mut self) {
        if self.skeleton.has_unreadable == self.has_unreadable() {
            return;
        }
        self.refresh_skeleton();
        // The answer of an alias that leads to an absent reverse name depends on it too.
        let reverse = self.aliases.iter();
        let reverse = reverse.filter(|(target, _)| reverse_range(target).is_some());
        let keys: BTreeSet<ObjectKey> = reverse.flat_map(|(_, keys)| keys).cloned().collect();
        for key in keys {
            let domains = self.skeleton.domains.iter();
            let names = domains.flat_map(|domain| service_name(&key, &domain.svc));
            let names = names.collect();
            self.record_changed_names(&service_owner(&key), names);
        }
    }

    /// Whether any object can't be read, so that any reverse name may exist.
    fn has_unreadable(&self) -> bool {
        !self.unreadable_services.is_empty() || !self.unreadable_slices.is_empty()
    }

    fn names_of_namespace(&self, namespace: &str) -> impl Iterator<Item = Name> {
        let names = self
            .skeleton
            .domains
            .iter()
            .flat_map(|domain| domain.namespace_names(namespace));
        names.flatten().collect::<Vec<_>>().into_iter()
    }

    fn names_of_pod(&self, namespace: &str, address: IpAddr) -> impl Iterator<Item = Name> {
        let parents = self
            .skeleton
            .domains
            .iter()
            .flat_map(|domain| domain.namespace_names(namespace));
        parents.filter_map(move |[_, pods]| pods.child(pod_label(address).as_bytes()).ok())
    }

    /// Adds the reverse name of an address, and the names between it and the apex of its zone.
    fn add_reverse_names(&self, address: IpAddr, names: &mut BTreeSet<Name>) {
        let zones = self.view();
        let mut name = Some(reverse_name(address));
        while let Some(it) = name {
            name = it.parent().filter(|parent| zones.is_inside(parent));
            names.insert(it);
        }
    }

    /// Records changed names, and the aliases that lead to these names. An alias is attributed to
    /// its own Service, because its publication must not delay that of its target.
    fn record_changed_names(&mut self, owner: &NameOwner, names: BTreeSet<Name>) {
        let mut todo: Vec<(NameOwner, Name)> = Vec::new();
        todo.extend(names.into_iter().map(|name| (owner.clone(), name)));
        while let Some((owner, name)) = todo.pop() {
            let aliases = self.aliases.get(&name).into_iter().flatten();
            if !self.changes.names.entry(owner).or_default().insert(name) {
                continue;
            }
            for key in aliases {
                let owner = service_owner(key);
                let domains = self.skeleton.domains.iter();
                let names = domains.flat_map(|domain| service_name(key, &domain.svc));
                todo.extend(names.map(|name| (owner.clone(), name)));
            }
        }
    }

    /// Recomputes everything that is derived from objects and settings.
    pub(super) fn rebuild(&mut self) {
        self.changes.everything = true;
        self.pointers.clear();
        self.aliases.clear();
        self.problems.clear();
        self.build_skeleton();
        let keys: Vec<ObjectKey> = self.services.keys().cloned().collect();
        for key in keys {
            self.update_alias(&key, None);
            self.update_pointers(&key, self.pointer_addresses(&key));
            if self.is_complete() {
                self.update_problems(&key);
            }
        }
        // The name servers are looked up by address, which needs the structures built above.
        self.build_skeleton();
    }

    /// Rebuilds the zone skeleton, and records its apexes as changed.
    pub(super) fn refresh_skeleton(&mut self) {
        self.build_skeleton();
        let apexes: Vec<Name> = self.skeleton.apexes().collect();
        let owner = NameOwner::new("the zones");
        self.changes.names.entry(owner).or_default().extend(apexes);
    }

    pub(super) fn build_skeleton(&mut self) {
        let known = SkeletonInputs {
            serial: self.serial,
            all_namespaces_exist: self.any_namespace(),
            complete: self.is_complete(),
            has_unreadable: self.has_unreadable(),
            servers: self.name_servers(),
        };
        self.skeleton = ZoneSkeleton::new(&self.settings, &known);
    }

    /// For each valid cluster domain, the names of the Services that clients use as DNS servers.
    fn name_servers(&self) -> Vec<BTreeSet<Name>> {
        let view = self.view();
        let domains = self.skeleton.domains.iter();
        domains
            .map(|domain| {
                let served = self.settings.served_addresses.iter();
                let owners = served.flat_map(|address| view.cluster_ip_owners(*address, domain));
                // A name server must have a name that exists.
                owners.filter(|owner| view.entry(owner).is_some()).collect()
            })
            .collect()
    }

    /// The reason why an exposed namespace can't have names, if there is one.
    pub(super) fn problem_of_namespace(&self, namespace: &str) -> Option<Problem> {
        let mut domains = self.skeleton.domains.iter();
        let reason = domains.find_map(|domain| domain.namespace_names(namespace).err())?;
        self.exposes(namespace).then(|| Problem {
            kind: "Namespace",
            namespace: String::new(),
            name: namespace.to_owned(),
            field: "metadata.name".into(),
            reason,
        })
    }
}

fn service_owner(key: &ObjectKey) -> NameOwner {
    NameOwner::new(format!("Service {key}"))
}

fn namespace_owner(namespace: &str) -> NameOwner {
    NameOwner::new(format!("Namespace {namespace}"))
}

impl PodCount {
    fn count_mut(&mut self, is_terminating: bool) -> &mut usize {
        if is_terminating {
            &mut self.terminating
        } else {
            &mut self.running
        }
    }
}
