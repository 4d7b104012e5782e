//! Computes names and records from an index's objects.

mod walk;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use zerohop_zone::{
    Apex, Model, ModelBuilder, Name, NameEntry, Rdata, Record, Rtype, Window, ZoneData,
    address_data, reverse_name, reverse_range, undashed,
};

pub use self::walk::{Names, ViewPosition};
use super::endpoints::EndpointLabel;
use super::index::{Index, PodCount, PointerSource};
use super::object_set::Objects;
use super::objects::{ObjectKey, Problem};
use super::service::{NamesOfService, service_name, weight};
use super::settings::{Deviations, PodMode, ZonalNames, ZoneSettings};
use super::zone_skeleton::{ClusterDomain, computed_pod_names};

/// The length of the shortest PTR record in a message, in bytes: a compression pointer (2 bytes),
/// type, class, TTL and the length of the data (10), and a label with a compression pointer (4).
const MIN_PTR_RECORD: usize = 16;

/// All names of an index, computed from its objects on demand.
pub struct View<'a> {
    index: &'a Index,
}

/// The targets of an address's PTR records.
enum PointerTargets {
    Known(BTreeSet<Name>),
    /// CoreDNS has different or additional targets.
    Unknown,
}

impl<'a> View<'a> {
    pub(super) fn new(index: &'a Index) -> View<'a> {
        View { index }
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
        let services = self
            .index
            .pointers
            .services(address, PointerSource::ClusterIp);
        services.flat_map(|key| service_name(key, &domain.svc))
    }

    /// The names of the endpoints with this address.
    fn endpoint_names(
        &self,
        address: IpAddr,
        domain: &ClusterDomain,
    ) -> impl Iterator<Item = Name> {
        let services = self
            .index
            .pointers
            .services(address, PointerSource::Endpoint);
        services.flat_map(move |key| {
            let settings = self.index.settings();
            let name = service_name(key, &domain.svc).ok();
            let reader = self.index.endpoints(key).map(|it| it.reader(settings));
            let members = reader.map(|reader| reader.at_address(address).collect::<Vec<_>>());
            let members = members.into_iter().flatten();
            let standard = members.filter(|member| !member.is_nonstandard);
            standard.filter_map(move |member| {
                let label = EndpointLabel::of(member.endpoint, settings);
                label.name_below(name.as_ref()?).ok()
            })
        })
    }

    /// The entry of a name if objects make the name.
    fn object_entry(&self, name: &Name, window: Window) -> Option<Arc<NameEntry>> {
        for domain in &self.index.skeleton.domains {
            if name.is_at_or_below(&domain.svc) {
                if let Some(entry) = self.service_entry(name, domain, window) {
                    return Some(entry);
                }
            } else if name.is_at_or_below(&domain.pod)
                && let Some(entry) = self.pod_entry(name, domain)
            {
                return Some(entry);
            }
        }
        self.reverse_entry(name, window)
    }

    /// The entry of a name below `svc`.
    fn service_entry(
        &self,
        name: &Name,
        domain: &ClusterDomain,
        window: Window,
    ) -> Option<Arc<NameEntry>> {
        let labels = labels_below(name, &domain.svc)?;
        match labels.as_slice() {
            [] => None,
            [namespace] => self.index.exposes(namespace).then(Arc::default),
            [namespace, service, below @ ..] => {
                let key = ObjectKey::new(*namespace, *service);
                let names = self.index.service_names(&key, domain)?;
                names.entry(below, window).map(Arc::new)
            }
        }
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
    fn reverse_entry(&self, name: &Name, window: Window) -> Option<Arc<NameEntry>> {
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
        let mut entry = NameEntry::default();
        let count = window.count_records(Rtype::PTR, MIN_PTR_RECORD);
        match self.targets_of_address(address, count) {
            PointerTargets::Known(targets) if targets.is_empty() => return None,
            PointerTargets::Known(targets) => {
                entry.add_rrset(settings.ttl, targets.into_iter().map(Rdata::Ptr).collect());
            }
            PointerTargets::Unknown => entry.delegate_remainder(),
        }
        Some(Arc::new(entry))
    }

    /// Whether an address from `first` to `last` has a PTR record.
    fn has_pointer(&self, first: IpAddr, last: IpAddr) -> bool {
        let next = |after: &IpAddr| self.index.pointers.next_address(None, Some(*after));
        let first = self.index.pointers.next_address(Some(first), None);
        std::iter::successors(first, next)
            .take_while(|address| *address <= last)
            .any(|address| {
                !self.is_delegated(&reverse_name(address))
                    && !self.targets_of_address(address, 1).is_empty()
            })
    }

    /// The targets of an address's PTR records, at most `count`. If Services have this ClusterIP,
    /// the name of the first one; otherwise the names of all endpoints with this address.
    fn targets_of_address(&self, address: IpAddr, count: usize) -> PointerTargets {
        let Some(domain) = self.index.skeleton.domains.first() else {
            return PointerTargets::Known(BTreeSet::new());
        };
        if let Some(owner) = self.cluster_ip_owners(address, domain).next() {
            return PointerTargets::Known(BTreeSet::from([owner]));
        }
        let mut unknown = (self.index.pointers).services(address, PointerSource::Nonstandard);
        if unknown.any(|key| service_name(key, &domain.svc).is_ok()) {
            return PointerTargets::Unknown;
        }
        let mut targets = BTreeSet::new();
        for target in self.endpoint_names(address, domain) {
            targets.insert(target);
            if targets.len() >= count {
                break;
            }
        }
        PointerTargets::Known(targets)
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
        domain: &ClusterDomain,
        window: Window,
        see: &mut dyn FnMut(&Name, &NameEntry),
    ) {
        let mut see_if_there = |name: &Name| {
            if let Some(entry) = self.entry_within(name, window) {
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
            let names = self.index.service_names(key, domain);
            for name in names.iter().flat_map(NamesOfService::names) {
                see_if_there(&name);
            }
        }
    }

    fn visit_pointers(&self, window: Window, see: &mut dyn FnMut(&Name, &NameEntry)) {
        // In address order, addresses that share a parent name are adjacent.
        let mut above: Vec<Name> = Vec::new();
        for address in self.index.pointers.addresses() {
            let name = reverse_name(address);
            above.retain(|other| name.is_at_or_below(other));
            let mut next = Some(name);
            while let Some(name) = next.filter(|name| !above.contains(name)) {
                if !self.is_apex(&name)
                    && let Some(entry) = self.entry_within(&name, window)
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

    fn entry_within(&self, name: &Name, window: Window) -> Option<Arc<NameEntry>> {
        if self.is_delegated(name) {
            return None;
        }
        let entry = match self.object_entry(name, window) {
            Some(entry) => entry,
            None => self.skeleton_entry(name, self.index.skeleton.model.entry(name)?),
        };
        Some(self.pass_deviations(entry))
    }

    fn has_address(&self, name: &Name, address: IpAddr) -> bool {
        let domains = self.index.skeleton.domains.iter();
        let mut services = domains.filter(|domain| name.is_at_or_below(&domain.svc));
        let of_service = services.any(|domain| match labels_below(name, &domain.svc).as_deref() {
            Some([namespace, service, below @ ..]) => {
                let key = ObjectKey::new(*namespace, *service);
                let names = self.index.service_names(&key, domain);
                names.is_some_and(|names| names.has_address(below, address))
            }
            _ => false,
        });
        if of_service {
            return true;
        }
        let is_below_svc = |domain: &ClusterDomain| name.is_at_or_below(&domain.svc);
        if self.index.skeleton.domains.iter().any(is_below_svc) {
            return false;
        }
        let data = Rdata::from(address);
        let entry = self.entry(name);
        entry.is_some_and(|entry| entry.records_have(&data))
    }

    fn visit(&self, window: Window, see: &mut dyn FnMut(&Name, &NameEntry)) {
        for (name, _) in self.index.skeleton.model.entries() {
            if self.object_entry(name, Window::EXISTENCE).is_none()
                && let Some(entry) = self.entry_within(name, window)
            {
                see(name, &entry);
            }
        }
        for domain in &self.index.skeleton.domains {
            self.visit_domain(domain, window, see);
        }
        self.visit_pointers(window, see);
    }

    fn passes_queries(&self, name: &Name) -> bool {
        let mut rewritten = self.index.settings().rewritten.iter();
        rewritten.any(|pattern| pattern.matches(name))
    }

    fn may_know(&self, name: &Name) -> bool {
        let mut pointers = self.index.settings().pointer_suffixes.iter();
        pointers.any(|suffix| name.is_at_or_below(suffix))
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
