//! Which names a change of an object changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::links::Links;
use super::{Index, PodCount, Told};
use crate::cluster::frame::{Frame, Known};
use crate::cluster::objects::{Key, Pod, Problem, Reading, ServiceKind};
use crate::cluster::pointers::Pointer;
use crate::cluster::settings::PodMode;
use crate::cluster::view::{Subtree, pod_label, service_name, subtree};
use crate::zone::{Name, ZoneData as _, reverse_name};

/// What a service makes, in all domains.
#[derive(Debug, Default)]
struct Made {
    nodes: Vec<Subtree>,
    pointers: BTreeSet<Pointer>,
    problems: Vec<Problem>,
}

impl Index {
    /// Changes Services or their slices.
    pub(super) fn change(&mut self, keys: &BTreeSet<Key>, change: impl FnOnce(&mut Index)) {
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

    pub(super) fn change_namespace(&mut self, namespace: &str, change: impl FnOnce(&mut Index)) {
        let keys = self.keys_in(namespace);
        let mut names: BTreeSet<Name> = self.names_of_namespace(namespace).collect();
        let pods = self.pod_addresses.keys();
        let pods = pods.filter(|(other, _)| **other == *namespace);
        names.extend(pods.flat_map(|(_, address)| self.names_of_pod(namespace, *address)));
        self.change(&keys, change);
        self.add_names(names);
    }

    pub(super) fn change_pod(&mut self, key: &Key, new: Option<Told<Pod>>) {
        let addresses = |told: &Option<Told<Pod>>| -> BTreeSet<(IpAddr, bool)> {
            let pod = told.iter().map(|told| &told.object);
            let addresses = pod.flat_map(|pod| {
                let addresses = pod.addresses.iter();
                addresses.map(|address| (*address, pod.is_terminating))
            });
            addresses.collect()
        };
        let added = addresses(&new);
        let old = match new {
            Some(told) => self.pods.insert(key.clone(), told),
            None => self.pods.remove(key),
        };
        let removed = addresses(&old);
        for (address, is_terminating) in &added {
            let place = (key.namespace.clone(), *address);
            *self
                .pod_addresses
                .entry(place)
                .or_default()
                .of(*is_terminating) += 1;
        }
        for (address, is_terminating) in &removed {
            let place = (key.namespace.clone(), *address);
            if let Some(count) = self.pod_addresses.get_mut(&place) {
                *count.of(*is_terminating) -= 1;
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
        self.add_names(names);
    }

    /// Notes whether a Service or slice can be read. While any can't, no address is denied a name.
    pub(super) fn note_unreadable(&mut self, key: &Key) {
        let service = self.services.get(key).map(|told| &told.object.kind);
        let slice = self.slices.get(key).map(|told| told.object.reading);
        let is_unreadable =
            service.is_some_and(ServiceKind::is_unknown) || slice == Some(Reading::Unreadable);
        let were_none = self.unreadable.is_empty();
        match is_unreadable {
            true => self.unreadable.insert(key.clone()),
            false => self.unreadable.remove(key),
        };
        if self.unreadable.is_empty() != were_none {
            self.rebuild();
        }
    }

    pub(super) fn unlink_slice(&mut self, slice: &Key) {
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
        parents.filter_map(move |[_, pods]| pods.child(pod_label(address).as_bytes()).ok())
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
                todo.extend(domains.filter_map(|domain| service_name(key, domain)));
            }
            self.changes.names.insert(name);
        }
    }

    /// Works everything out anew.
    pub(super) fn rebuild(&mut self) {
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
    pub(super) fn reframe(&mut self) {
        self.build_frame();
        let apexes: Vec<Name> = self.frame.apexes().collect();
        self.changes.names.extend(apexes);
    }

    pub(super) fn build_frame(&mut self) {
        let known = Known {
            serial: self.serial,
            any_namespace: self.any_namespace(),
            complete: self.is_complete(),
            has_unreadable: !self.unreadable.is_empty(),
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
                let owners = served.flat_map(|address| view.owners(*address, domain));
                // A name server that isn't there helps nobody.
                owners.filter(|owner| view.node(owner).is_some()).collect()
            })
            .collect()
    }

    /// What keeps a namespace from having names.
    pub(super) fn problem_of_namespace(&self, namespace: &str) -> Option<Problem> {
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

impl PodCount {
    fn of(&mut self, is_terminating: bool) -> &mut usize {
        match is_terminating {
            true => &mut self.terminating,
            false => &mut self.running,
        }
    }
}
