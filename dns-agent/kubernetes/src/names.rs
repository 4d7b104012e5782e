//! Computes names and records from an index's objects.

mod walk;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use zerohop_zone::{
    Apex, Model, ModelBuilder, Name, NameEntry, Rdata, Record, ZoneData, ZoneDataOwner,
    address_data, reverse_name, reverse_range, undashed,
};

pub use self::walk::{Names, WalkPosition};
use super::index::{Index, PodCount};
use super::object_set::Objects;
use super::objects::{ObjectKey, Problem};
use super::pointers::{PointerSource, selected_pointers};
use super::service::{self, Contribution, weight};
use super::settings::{Deviations, PodMode, ZonalNames, ZoneSettings};
use super::zone_skeleton::{ClusterDomain, computed_pod_names};

/// The names at and below a Service's name.
pub(super) type Subtree = HashMap<Name, Arc<NameEntry>>;

/// All names of an index, computed from its objects on demand.
///
/// The names of the last Service are cached, because the records of a Service point at names of the
/// same Service.
pub struct View<'a> {
    index: &'a Index,
    cached: RefCell<Option<CachedService>>,
}

/// The names of one Service in one cluster domain.
struct CachedService {
    /// The index of the cluster domain.
    domain: usize,
    service: ObjectKey,
    names: Rc<Subtree>,
}

/// The targets of an address's PTR records.
enum PointerTargets {
    Known(BTreeSet<Name>),
    /// CoreDNS has different or additional targets.
    Unknown,
}

impl<'a> View<'a> {
    pub(super) fn new(index: &'a Index) -> View<'a> {
        View {
            index,
            cached: RefCell::new(None),
        }
    }

    /// Whether a name is below the apex of a zone.
    pub(super) fn is_inside(&self, name: &Name) -> bool {
        let mut zones = self.zones().iter();
        zones.any(|zone| zone.name != *name && name.is_at_or_below(&zone.name))
    }

    /// Whether a name is the apex of a zone.
    fn is_apex(&self, name: &Name) -> bool {
        self.zones().iter().any(|zone| zone.name == *name)
    }

    /// The names of the Services that have this ClusterIP.
    pub(super) fn cluster_ip_owners(
        &self,
        address: IpAddr,
        domain: &ClusterDomain,
    ) -> impl Iterator<Item = Name> {
        self.pointer_targets(address, domain, PointerSource::ClusterIp)
    }

    /// The names that Services give to an address, limited to one source of the address.
    fn pointer_targets(
        &self,
        address: IpAddr,
        domain: &ClusterDomain,
        source: PointerSource,
    ) -> impl Iterator<Item = Name> {
        let services = self.services_with_address(address);
        let pointing = services.filter(|key| self.index.points_into(&key.namespace));
        let given = pointing.flat_map(move |key| {
            let (service, slices) = (self.index.service(key), self.index.slices_of(key));
            service_name(key, domain).map_or_else(Vec::new, |name| {
                let settings = self.index.settings();
                let is_it = |other: IpAddr| other == address;
                selected_pointers(is_it, service, &slices, &name, settings)
            })
        });
        given
            .filter(move |pointer| pointer.source == source)
            .map(|pointer| pointer.target)
    }

    fn services_with_address(&self, address: IpAddr) -> impl Iterator<Item = &'a ObjectKey> {
        let pairs = self.index.pointers.range((address, first_key())..);
        pairs
            .take_while(move |(other, _)| *other == address)
            .map(|(_, key)| &**key)
    }

    /// The entry of a name if objects make the name.
    fn object_entry(&self, name: &Name) -> Option<Arc<NameEntry>> {
        let domains = self.index.skeleton.domains.iter().enumerate();
        for (at, domain) in domains {
            if name.is_at_or_below(&domain.svc) {
                if let Some(entry) = self.service_entry(name, at, domain) {
                    return Some(entry);
                }
            } else if name.is_at_or_below(&domain.pod)
                && let Some(entry) = self.pod_entry(name, domain)
            {
                return Some(entry);
            }
        }
        self.reverse_entry(name)
    }

    /// The entry of a name below `svc`. `at` is the index of `domain`.
    fn service_entry(
        &self,
        name: &Name,
        at: usize,
        domain: &ClusterDomain,
    ) -> Option<Arc<NameEntry>> {
        let labels = labels_below(name, &domain.svc)?;
        let (namespace, service) = match labels.as_slice() {
            [namespace] => {
                return self.index.exposes(namespace).then(Arc::default);
            }
            [namespace, service, ..] => (*namespace, *service),
            [] => return None,
        };
        if let Some(last) = &*self.cached.borrow()
            && last.domain == at
            && *last.service.name == *service
            && last.service.is_in(namespace)
        {
            return last.names.get(name).cloned();
        }
        let key = ObjectKey::new(namespace, service);
        self.service_names(key, at, domain)?.get(name).cloned()
    }

    /// Computes the names of a Service, and caches them for the next call.
    fn service_names(
        &self,
        service: ObjectKey,
        at: usize,
        domain: &ClusterDomain,
    ) -> Option<Rc<Subtree>> {
        let contribution = self.index.contribution(&service, domain)?;
        let names = Rc::new(build_subtree(contribution, &service, domain));
        self.cached.replace(Some(CachedService {
            domain: at,
            service,
            names: names.clone(),
        }));
        Some(names)
    }

    fn pod_entry(&self, name: &Name, domain: &ClusterDomain) -> Option<Arc<NameEntry>> {
        let settings = self.index.settings();
        let labels = labels_below(name, &domain.pod)?;
        match labels.as_slice() {
            [namespace] if self.index.exposes(namespace) => {
                let below = computed_pod_names(settings)?;
                Some(Arc::new(NameEntry::with_computed_names(below)))
            }
            [namespace, label] if settings.pods == PodMode::Verified => {
                let address = undashed(label.as_bytes())?;
                let is_there = pod_label(address) == *label && self.index.exposes(namespace);
                let count = self.index.count_pods(namespace, address);
                let is_there = is_there && count != PodCount::default();
                is_there.then(|| Arc::new(build_pod_entry(name, address, count, settings.ttl)))
            }
            _ => None,
        }
    }

    /// The entry of a reverse name: the PTR records of an address, or an empty non-terminal above
    /// reverse names that have PTR records.
    fn reverse_entry(&self, name: &Name) -> Option<Arc<NameEntry>> {
        let range = reverse_range(name)?;
        let settings = self.index.settings();
        let mut pointers = settings.pointer_suffixes.iter();
        if !pointers.any(|suffix| name.is_at_or_below(suffix)) {
            return None;
        }
        if range.start() != range.end() {
            // The zone skeleton has the apexes.
            let is_between = self.is_inside(name) && !self.is_apex(name);
            return (is_between && self.has_pointer(*range.start(), *range.end()))
                .then(Arc::default);
        }
        let address = *range.start();
        let owner = reverse_name(address);
        let mut builder = ModelBuilder::new(0);
        match self.targets_of_address(address) {
            PointerTargets::Known(targets) => {
                builder.extend(targets.into_iter().map(|target| Record {
                    owner: owner.clone(),
                    ttl: settings.ttl,
                    data: Rdata::Ptr(target),
                }));
            }
            PointerTargets::Unknown => builder.delegate_remainder(owner.clone()),
        }
        builder.build_below(&owner).remove(&owner)
    }

    /// Whether an address from `first` to `last` has a PTR record.
    fn has_pointer(&self, first: IpAddr, last: IpAddr) -> bool {
        let after = self.index.pointers.range((first, first_key())..);
        after
            .take_while(|(address, _)| *address <= last)
            .any(|(address, _)| {
                !self.is_delegated(&reverse_name(*address))
                    && !self.targets_of_address(*address).is_empty()
            })
    }

    /// The targets of an address's PTR records. If Services have this ClusterIP, the name of the
    /// first one; otherwise the names of all endpoints with this address.
    fn targets_of_address(&self, address: IpAddr) -> PointerTargets {
        let Some(domain) = self.index.skeleton.domains.first() else {
            return PointerTargets::Known(BTreeSet::new());
        };
        if let Some(owner) = self.cluster_ip_owners(address, domain).next() {
            return PointerTargets::Known(BTreeSet::from([owner]));
        }
        if self
            .pointer_targets(address, domain, PointerSource::Nonstandard)
            .next()
            .is_some()
        {
            return PointerTargets::Unknown;
        }
        let endpoints = self.pointer_targets(address, domain, PointerSource::Endpoint);
        PointerTargets::Known(endpoints.collect())
    }

    /// The entry of a name of the zone skeleton. If `entry` has no data, and the parent has
    /// computed names, the name gets the computed data.
    fn skeleton_entry(&self, name: &Name, entry: Arc<NameEntry>) -> Arc<NameEntry> {
        if !entry.is_bare() {
            return entry;
        }
        match name.parent().and_then(|parent| self.entry(&parent)) {
            Some(parent) if parent.has_computed_names() => {
                let like = |other: &Name| self.entry(other).map(|entry| (*entry).clone());
                Arc::new(parent.computed_names().child_entry(name, like))
            }
            _ => entry,
        }
    }

    /// The entry as it is answered. With [`Deviations::Passed`], queries pass for the types for
    /// which CoreDNS deviates from the standards.
    fn pass_deviations(&self, entry: Arc<NameEntry>) -> Arc<NameEntry> {
        match self.index.settings().deviations {
            Deviations::Passed if entry.is_host() => Arc::new(entry.delegating_types_at_alias()),
            Deviations::Passed => Arc::new(entry.delegating_other_types()),
            Deviations::Answered => entry,
        }
    }

    /// Whether a name passes because of a CoreDNS deviation about surplus labels: CoreDNS ignores
    /// labels in front of a Pod's label, and takes any number of labels as a topology zone.
    fn is_delegated_deep(&self, name: &Name) -> bool {
        let mut domains = self.index.skeleton.domains.iter();
        self.index.settings().deviations == Deviations::Passed
            && domains.any(|ClusterDomain { svc, pod, .. }| {
                if name.is_at_or_below(svc) {
                    let labels = labels_below(name, svc);
                    let has_surplus_labels = matches!(
                        labels.as_deref(),
                        Some([_, _, "_zone", "pin" | "prefer", _, _, ..])
                    );
                    return self.has_zonal_names() && has_surplus_labels;
                }
                // More labels than `<dashed-ip>.<namespace>`.
                name.is_at_or_below(pod) && name.labels().count() > pod.labels().count() + 2
            })
    }

    fn has_zonal_names(&self) -> bool {
        self.index.settings().zonal_names == ZonalNames::Answered
    }

    fn visit_domain(
        &self,
        at: usize,
        domain: &ClusterDomain,
        see: &mut dyn FnMut(&Name, &NameEntry),
    ) {
        let mut see_if_there = |name: &Name| {
            if let Some(entry) = self.entry(name) {
                see(name, &entry);
            }
        };
        for namespace in self.index.exposed_namespaces() {
            let names = domain.namespace_names(namespace);
            names.iter().flatten().for_each(&mut see_if_there);
        }
        if self.index.settings().pods == PodMode::Verified {
            for (namespace, address) in self.index.pod_addresses() {
                if let Ok([_, pods]) = domain.namespace_names(namespace)
                    && let Ok(name) = pods.child(pod_label(address).as_bytes())
                {
                    see_if_there(&name);
                }
            }
        }
        for key in self.index.services() {
            let Some(names) = self.service_names(key.clone(), at, domain) else {
                continue;
            };
            for (name, entry) in &*names {
                if !self.is_delegated(name) {
                    see(name, &self.pass_deviations(entry.clone()));
                }
            }
        }
    }

    fn visit_pointers(&self, see: &mut dyn FnMut(&Name, &NameEntry)) {
        // In address order, addresses that share a parent name are adjacent.
        let mut above: Vec<Name> = Vec::new();
        let mut last = None;
        for (address, _) in &self.index.pointers {
            if last.replace(*address) == Some(*address) {
                continue;
            }
            let name = reverse_name(*address);
            above.retain(|other| name.is_at_or_below(other));
            let mut next = Some(name);
            while let Some(name) = next.filter(|name| !above.contains(name)) {
                if !self.is_apex(&name)
                    && let Some(entry) = self.entry(&name)
                {
                    see(&name, &entry);
                }
                next = name.parent().filter(|parent| self.is_inside(parent));
                above.push(name);
            }
        }
    }
}

impl PointerTargets {
    fn is_empty(&self) -> bool {
        matches!(self, PointerTargets::Known(targets) if targets.is_empty())
    }
}

impl ZoneData for View<'_> {
    fn zones(&self) -> &[Apex] {
        self.index.skeleton.model.zones()
    }

    fn delegated_names(&self) -> &[Name] {
        self.index.skeleton.model.delegated_names()
    }

    fn is_delegated(&self, name: &Name) -> bool {
        // The names in the settings are delegated even if they are in no zone.
        let mut passed = self
            .index
            .settings()
            .passed
            .iter()
            .chain(self.delegated_names());
        passed.any(|passed| name.is_at_or_below(passed)) || self.is_delegated_deep(name)
    }

    fn entry(&self, name: &Name) -> Option<Arc<NameEntry>> {
        if self.is_delegated(name) {
            return None;
        }
        let entry = match self.object_entry(name) {
            Some(entry) => entry,
            None => self.skeleton_entry(name, self.index.skeleton.model.entry(name)?),
        };
        Some(self.pass_deviations(entry))
    }

    fn visit(&self, see: &mut dyn FnMut(&Name, &NameEntry)) {
        for (name, _) in self.index.skeleton.model.entries() {
            if self.object_entry(name).is_none()
                && let Some(entry) = self.entry(name)
            {
                see(name, &entry);
            }
        }
        for (at, domain) in self.index.skeleton.domains.iter().enumerate() {
            self.visit_domain(at, domain, see);
        }
        self.visit_pointers(see);
    }

    fn pass_suffixes(&self) -> BTreeSet<Name> {
        // Objects make no computed names more than one label deep.
        let mut deep = self.index.skeleton.model.pass_suffixes();
        if self.index.settings().deviations == Deviations::Passed {
            let domains = self.index.skeleton.domains.iter();
            deep.extend(domains.clone().map(|domain| domain.pod.clone()));
            if self.has_zonal_names() {
                deep.extend(domains.map(|domain| domain.svc.clone()));
            }
        }
        deep
    }
}

/// The lowest key.
fn first_key() -> Arc<ObjectKey> {
    Arc::new(ObjectKey::new("", ""))
}

/// The name of a Service, or `None` if a label is invalid.
pub(super) fn service_name(key: &ObjectKey, domain: &ClusterDomain) -> Option<Name> {
    service::service_name(key, &domain.svc).ok()
}

/// The entries of the names that a Service makes in a cluster domain.
pub(super) fn build_subtree(
    contribution: Contribution,
    key: &ObjectKey,
    domain: &ClusterDomain,
) -> Subtree {
    let Some(root) = service_name(key, domain) else {
        return Subtree::new();
    };
    let mut builder = ModelBuilder::new(0);
    builder.extend(contribution.records);
    for (name, below) in contribution.computed_names {
        builder.set_computed_names(name, below);
    }
    for (name, rtype) in contribution.passed_types {
        builder.delegate_type(name, rtype);
    }
    for name in contribution.delegated {
        builder.delegate_remainder(name);
    }
    builder.build_below(&root)
}

/// The label of Pods with this address. Unlike an endpoint's label, it may end with a dash.
pub(super) fn pod_label(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The entry of the Pods with one address. Several Pods have the same address if they use their
/// node's network. If one of them is being deleted, the name is delegated: CoreDNS answers the name
/// only if CoreDNS saw the Pod before the deletion began, which Zerohop can't know.
fn build_pod_entry(name: &Name, address: IpAddr, count: PodCount, ttl: u32) -> NameEntry {
    let mut builder = ModelBuilder::new(0);
    if count.terminating > 0 {
        builder.delegate_remainder(name.clone());
    } else {
        builder.extend(address_data(name, address).map(|mut data| {
            if let Rdata::Srv(srv) = &mut data {
                srv.weight = weight(count.running);
            }
            Record {
                owner: name.clone(),
                ttl,
                data,
            }
        }));
    }
    let mut entries = builder.build_below(name);
    entries
        .remove(name)
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default()
}

/// The labels of `name` below `above`, from right to left. `None` if a label isn't UTF-8, because
/// no object makes such a name.
fn labels_below<'n>(name: &'n Name, above: &Name) -> Option<Vec<&'n str>> {
    let count = name.labels().count() - above.labels().count();
    let labels = name.labels().take(count);
    let mut labels = labels
        .map(std::str::from_utf8)
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    labels.reverse();
    Some(labels)
}

impl Index {
    /// All current names.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(self)
    }
}

impl ZoneDataOwner for Index {
    fn with_zone_data(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        see(&self.view());
    }
}

/// Builds a [`Model`] of all objects. An invalid object is left out and returned as a problem.
/// `serial` is the serial of all zones: the Unix time of the last change.
pub fn build_model(
    objects: &Objects,
    settings: &ZoneSettings,
    serial: u32,
) -> (Model, Vec<Problem>) {
    let index = Index::from_objects(objects.clone(), settings.clone(), serial);
    let problems = index.problems().into_iter().collect();
    (Model::from_zone_data(&index.view()), problems)
}
