//! Determines which names change when an object changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use zerohop_zone::{Name, ZoneData as _, reverse_name};

use super::reverse_lookup::LookupKeys;
use super::{Index, PodCount, StoredObject};
use crate::{
    names::{Subtree, build_subtree, pod_label, service_name},
    objects::{ObjectKey, Pod, Problem, ServiceKind, SliceReadability},
    pointers::Pointer,
    settings::PodMode,
    zone_skeleton::{SkeletonInputs, ZoneSkeleton},
};

/// The names, pointers and problems of one Service, in all cluster domains.
#[derive(Debug, Default)]
struct ServiceOutput {
    entries: Vec<Subtree>,
    pointers: BTreeSet<Pointer>,
    problems: Vec<Problem>,
}

impl Index {
    /// Runs `change` on Services or their slices, and records the names that differ afterwards.
    pub(super) fn change_services(
        &mut self,
        keys: &BTreeSet<ObjectKey>,
        change: impl FnOnce(&mut Index),
    ) {
        let before: Vec<_> = keys
            .iter()
            .map(|key| (self.lookup_keys(key), self.service_output(key)))
            .collect();
        let mut serve_names = self.any_is_served(&before);
        change(self);
        for (key, (old_links, old)) in keys.iter().zip(before) {
            self.update_lookup(key, &old_links);
            if self.is_complete() {
                let new = self.service_output(key);
                serve_names |= self.is_served(&new);
                self.record_differences(key, &old, new);
            }
            if self.any_namespace() {
                let names: Vec<Name> = self.names_of_namespace(&key.namespace).collect();
                self.changes.names.extend(names);
            }
        }
        if serve_names {
            self.refresh_skeleton();
        }
    }

    fn any_is_served(&self, made: &[(LookupKeys, ServiceOutput)]) -> bool {
        made.iter().any(|(_, made)| self.is_served(made))
    }

    /// Whether the Service or one of its endpoints has an address that clients use for DNS. If so,
    /// the Service may be a name server.
    fn is_served(&self, made: &ServiceOutput) -> bool {
        let mut pointers = made.pointers.iter();
        pointers.any(|pointer| self.settings.served_addresses.contains(&pointer.address))
    }

    /// Runs `change` on a Namespace, and records the names that may differ afterwards.
    pub(super) fn change_namespace(&mut self, namespace: &str, change: impl FnOnce(&mut Index)) {
        let keys = self.keys_in(namespace);
        let mut names: BTreeSet<Name> = self.names_of_namespace(namespace).collect();
        let pods = self.pod_addresses.keys();
        let pods = pods.filter(|(other, _)| **other == *namespace);
        names.extend(pods.flat_map(|(_, address)| self.names_of_pod(namespace, *address)));
        self.change_services(&keys, change);
        self.record_changed_names(names);
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
        if self.any_namespace() {
            names.extend(self.names_of_namespace(&key.namespace));
        }
        self.record_changed_names(names);
    }

    /// Updates `unreadable` for the Service and the slice with this key. While anything is
    /// unreadable, no reverse name is denied.
    pub(super) fn update_unreadable(&mut self, key: &ObjectKey) {
        let service = self.services.get(key).map(|stored| &stored.object.kind);
        let slice = self.slices.get(key).map(|stored| stored.object.readability);
        let is_unreadable = service.is_some_and(ServiceKind::is_undetermined)
            || slice == Some(SliceReadability::Unreadable);
        let were_none = self.unreadable.is_empty();
        if is_unreadable {
            self.unreadable.insert(key.clone());
        } else {
            self.unreadable.remove(key);
        }
        if self.unreadable.is_empty() != were_none {
            self.rebuild();
        }
    }

    /// Removes a slice from its Service's list of slices.
    pub(super) fn unlink_slice(&mut self, slice: &ObjectKey) {
        let Some(service) = self
            .slices
            .get(slice)
            .and_then(|stored| stored.object.service_key())
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

    /// The names, pointers and problems of a Service. Empty while the index is incomplete, because
    /// changes are not recorded then: [`Index::mark_complete`] records that every name may differ.
    fn service_output(&self, key: &ObjectKey) -> ServiceOutput {
        let mut made = ServiceOutput::default();
        if !self.is_complete() {
            return made;
        }
        for (at, domain) in self.skeleton.domains.iter().enumerate() {
            let Some(mut contribution) = self.contribution(key, domain) else {
                continue;
            };
            made.problems.append(&mut contribution.problems);
            // PTR records point into the first cluster domain.
            if at == 0 {
                made.pointers.extend(contribution.pointers.drain(..));
            }
            made.entries.push(build_subtree(contribution, key, domain));
        }
        made
    }

    /// Records the names that differ between the old and the new output of a Service.
    fn record_differences(&mut self, key: &ObjectKey, old: &ServiceOutput, new: ServiceOutput) {
        let mut names = BTreeSet::new();
        let differ = |a: &[Subtree], b: &[Subtree], names: &mut BTreeSet<Name>| {
            for (at, tree) in a.iter().enumerate() {
                let other = b.get(at);
                let changed = tree
                    .iter()
                    .filter(|(name, entry)| other.and_then(|tree| tree.get(*name)) != Some(*entry));
                names.extend(changed.map(|(name, _)| name.clone()));
            }
        };
        differ(&old.entries, &new.entries, &mut names);
        differ(&new.entries, &old.entries, &mut names);
        // An answer that points at hosts includes their addresses.
        let trees = new.entries.iter().flatten();
        let pointing = trees.filter(|(_, entry)| entry.hosts().any(|host| names.contains(host)));
        let pointing: Vec<Name> = pointing.map(|(name, _)| name.clone()).collect();
        names.extend(pointing);
        for pointer in old.pointers.symmetric_difference(&new.pointers) {
            self.add_reverse_names(pointer.address, &mut names);
        }
        if new.problems.is_empty() {
            self.problems.remove(key);
        } else {
            self.problems.insert(key.clone(), new.problems);
        }
        self.record_changed_names(names);
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

    /// Records changed names, and the aliases that lead to these names.
    fn record_changed_names(&mut self, names: BTreeSet<Name>) {
        let mut todo: Vec<Name> = names.into_iter().collect();
        while let Some(name) = todo.pop() {
            if self.changes.names.contains(&name) {
                continue;
            }
            for key in self.aliases.get(&name).into_iter().flatten() {
                let domains = self.skeleton.domains.iter();
                todo.extend(domains.filter_map(|domain| service_name(key, domain)));
            }
            self.changes.names.insert(name);
        }
    }

    /// Recomputes everything that is derived from objects and settings.
    pub(super) fn rebuild(&mut self) {
        self.changes.everything = true;
        self.pointers.clear();
        self.aliases.clear();
        self.problems.clear();
        self.build_skeleton();
        let keys = self.services.keys().chain(self.slices_of.keys());
        let keys: BTreeSet<ObjectKey> = keys.cloned().collect();
        for key in keys {
            self.update_lookup(&key, &LookupKeys::default());
            let problems = self.service_output(&key).problems;
            if !problems.is_empty() {
                self.problems.insert(key, problems);
            }
        }
        // The name servers are looked up by address, which needs the structures built above.
        self.build_skeleton();
    }

    /// Rebuilds the zone skeleton, and records its apexes as changed.
    pub(super) fn refresh_skeleton(&mut self) {
        self.build_skeleton();
        let apexes: Vec<Name> = self.skeleton.apexes().collect();
        self.changes.names.extend(apexes);
    }

    pub(super) fn build_skeleton(&mut self) {
        let known = SkeletonInputs {
            serial: self.serial,
            all_namespaces_exist: self.any_namespace(),
            complete: self.is_complete(),
            has_unreadable: !self.unreadable.is_empty(),
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

impl PodCount {
    fn count_mut(&mut self, is_terminating: bool) -> &mut usize {
        if is_terminating {
            &mut self.terminating
        } else {
            &mut self.running
        }
    }
}
