//! Iterates over all names in a fixed order, a few at a time. A caller holds only a few names in
//! memory, and may use a new view for each step.
//!
//! A name comes directly before the names below it. Canonical order (RFC 4034 section 6.1) applies
//! to the names of the zone skeleton, to Services, and to the names below each Service. Pods and
//! reverse names are in the order of their addresses.

use std::net::IpAddr;
use std::sync::Arc;

use zerohop_zone::{Name, NameEntry, Window, ZoneData as _, reverse_name, reverse_range};

use super::{View, pod_label};
use crate::{objects::ObjectKey, service::NamesOfService, settings::PodMode};

/// The position of a walk: the last name returned.
#[derive(Clone, Debug)]
pub enum ViewPosition {
    /// A name of the zone skeleton; `None` before the first one.
    Skeleton(Option<Name>),
    /// The index of a cluster domain, and a Service in it. A key without a name stands for the
    /// namespace itself.
    Service(usize, ObjectKey),
    /// The index of a cluster domain, a namespace in it, and a Pod's address; `None` before the
    /// namespace's first Pod.
    Pod(usize, Arc<str>, Option<IpAddr>),
    /// The address of a reverse name; `None` before the first one.
    Address(Option<IpAddr>),
}

/// Existing names with their entries.
pub type Names = Vec<(Name, Arc<NameEntry>)>;

impl ViewPosition {
    /// Before all names.
    pub const START: ViewPosition = ViewPosition::Skeleton(None);
    /// Before all reverse names.
    pub const ADDRESSES: ViewPosition = ViewPosition::Address(None);
}

impl View<'_> {
    /// Returns the next names of a zone, and the position after them. `zone` is an index into
    /// [`ZoneData::zones`](zerohop_zone::ZoneData::zones), or `None` for the reverse names in no
    /// zone. Returns `None` at the end of the walk. The list of names may be empty before the end.
    pub fn walk(&self, zone: Option<usize>, from: &ViewPosition) -> Option<(Names, ViewPosition)> {
        let (mut names, next) = match from {
            ViewPosition::Skeleton(after) => self.next_skeleton(zone, after.as_ref()),
            ViewPosition::Service(domain, after) => self.next_service(*domain, after),
            ViewPosition::Pod(domain, namespace, after) => {
                self.next_pod(*domain, namespace, *after)
            }
            ViewPosition::Address(after) => self.next_address(zone, *after)?,
        };
        names.retain(|(name, _)| self.zone_of(name) == zone);
        Some((names, next))
    }

    /// The next name of the zone skeleton. After `svc` or `pod` of a cluster domain, the walk
    /// continues with the domain's Services or Pods if some of their names may be in the zone.
    fn next_skeleton(&self, zone: Option<usize>, after: Option<&Name>) -> (Names, ViewPosition) {
        let after = after.map(canonical_order);
        let all = self.index.skeleton.model.entries().map(|(name, _)| name);
        let following =
            all.filter(|name| after.as_ref().is_none_or(|it| canonical_order(name) > *it));
        let Some(name) = following.min_by_key(|name| canonical_order(name)) else {
            return (Names::new(), ViewPosition::ADDRESSES);
        };
        let entry = match self.object_entry(name, Window::EXISTENCE) {
            Some(_) => None,
            None => self.entry(name),
        };
        let zone = zone.and_then(|zone| self.zones().get(zone));
        let may_lead_there = zone
            .is_some_and(|zone| name.is_at_or_below(&zone.name) || zone.name.is_at_or_below(name));
        let domains = self.index.skeleton.domains.iter().enumerate();
        let mut parts = domains.flat_map(|(at, domain)| {
            let services = ViewPosition::Service(at, ObjectKey::new("", ""));
            let pods = ViewPosition::Pod(at, "".into(), None);
            [(&domain.svc, services), (&domain.pod, pods)]
        });
        let part = parts.find(|(above, _)| *above == name && may_lead_there);
        let here = || ViewPosition::Skeleton(Some(name.clone()));
        let next = part.map_or_else(here, |(_, part)| part);
        (existing_names(name.clone(), entry), next)
    }

    /// The names of the next Service or namespace below `svc`. After the last one, the walk returns
    /// to the zone skeleton.
    fn next_service(&self, at: usize, after: &ObjectKey) -> (Names, ViewPosition) {
        let Some(domain) = self.index.skeleton.domains.get(at) else {
            return (Names::new(), ViewPosition::ADDRESSES);
        };
        let Some(key) = self.index.next_service(after) else {
            let svc = domain.svc.clone();
            return (Names::new(), ViewPosition::Skeleton(Some(svc)));
        };
        let names = if key.name.is_empty() {
            let name = domain.namespace_names(&key.namespace).map(|[name, _]| name);
            name.map_or_else(|_| Names::new(), |name| self.lookup_name(name))
        } else {
            let service = self.index.service_names(&key, domain);
            let names = service.iter().flat_map(NamesOfService::names);
            let mut names: Names = names.flat_map(|name| self.lookup_name(name)).collect();
            names.sort_by(|(one, _), (other, _)| canonical_order(one).cmp(&canonical_order(other)));
            names
        };
        (names, ViewPosition::Service(at, key))
    }

    /// The name of the next Pod or namespace below `pod`. After the last one, the walk returns to
    /// the zone skeleton.
    fn next_pod(
        &self,
        at: usize,
        namespace: &Arc<str>,
        after: Option<IpAddr>,
    ) -> (Names, ViewPosition) {
        let Some(domain) = self.index.skeleton.domains.get(at) else {
            return (Names::new(), ViewPosition::ADDRESSES);
        };
        let is_stored = self.index.settings().pods == PodMode::Verified;
        let address = self.index.next_pod(namespace, after);
        if let Some(address) = address.filter(|_| is_stored) {
            let pods = domain.namespace_names(namespace).map(|[_, pods]| pods);
            let name = pods.map(|pods| pods.child(pod_label(address).as_bytes()));
            let names = name.ok().and_then(Result::ok);
            let names = names.map_or_else(Names::new, |name| self.lookup_name(name));
            return (
                names,
                ViewPosition::Pod(at, namespace.clone(), Some(address)),
            );
        }
        let Some(next) = self.index.next_namespace(namespace) else {
            let pod = domain.pod.clone();
            return (Names::new(), ViewPosition::Skeleton(Some(pod)));
        };
        let name = domain.namespace_names(&next).map(|[_, pods]| pods);
        let names = name.map_or_else(|_| Names::new(), |name| self.lookup_name(name));
        (names, ViewPosition::Pod(at, next, None))
    }

    /// The reverse name of the next address, preceded by its parents that were not returned yet.
    fn next_address(
        &self,
        zone: Option<usize>,
        after: Option<IpAddr>,
    ) -> Option<(Names, ViewPosition)> {
        let range = match zone {
            Some(zone) => Some(reverse_range(&self.zones().get(zone)?.name)?),
            None => None,
        };
        let first = range.as_ref().map(|range| *range.start());
        let address = self.index.pointers.next_address(first, after)?;
        if range.is_some_and(|range| !range.contains(&address)) {
            return None;
        }
        let before = after.map(reverse_name);
        let is_shown = |name: &Name| {
            let before = before.as_ref();
            before.is_some_and(|before| before.is_at_or_below(name))
        };
        let mut names = Names::new();
        let mut next = Some(reverse_name(address));
        while let Some(name) = next.filter(|name| !is_shown(name)) {
            next = name.parent().filter(|parent| self.is_inside(parent));
            if self.zone_of(&name) == zone && !self.is_apex(&name) {
                names.extend(self.lookup_name(name));
            }
        }
        names.reverse();
        Some((names, ViewPosition::Address(Some(address))))
    }

    /// A name with its entry, if it exists.
    fn lookup_name(&self, name: Name) -> Names {
        let entry = self.entry(&name);
        existing_names(name, entry)
    }
}

fn existing_names(name: Name, entry: Option<Arc<NameEntry>>) -> Names {
    entry.map(|entry| (name, entry)).into_iter().collect()
}

/// Sort key of a name: its labels from right to left.
fn canonical_order(name: &Name) -> Vec<&[u8]> {
    let mut labels: Vec<&[u8]> = name.labels().collect();
    labels.reverse();
    labels
}
