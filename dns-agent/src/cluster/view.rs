//! The names that an index's objects make.

mod walk;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::zone::{
    Apex, ModelBuilder, Name, Node, Rdata, Record, ZoneData, address_data, reverse_name,
    reverse_range, undashed,
};

pub use self::walk::{Names, WalkPosition};
use super::frame::{Domain, below_pods};
use super::index::{Index, PodCount};
use super::objects::Key;
use super::pointers::{PointerSource, pointers_of};
use super::service::{self, Contribution, weight};
use super::settings::{Departures, PodMode, ZonalNames};

/// The names at and below a service's name.
pub(super) type Subtree = HashMap<Name, Arc<Node>>;

/// All names of an index, worked out of its objects when they are asked for.
///
/// It keeps the names of the service that was asked for last: those of one service point at
/// each other.
pub struct View<'a> {
    index: &'a Index,
    last: RefCell<Option<Last>>,
}

/// A service's names.
struct Last {
    domain: usize,
    service: Key,
    names: Rc<Subtree>,
}

/// The names of an address.
enum Targets {
    Known(BTreeSet<Name>),
    /// CoreDNS has others, or more.
    Unknown,
}

impl<'a> View<'a> {
    pub(super) fn new(index: &'a Index) -> View<'a> {
        View {
            index,
            last: RefCell::new(None),
        }
    }

    /// Whether a name is inside a zone of ours, and not its apex.
    pub(super) fn is_inside(&self, name: &Name) -> bool {
        let mut zones = self.zones().iter();
        zones.any(|zone| zone.name != *name && name.is_at_or_below(&zone.name))
    }

    /// Whether a name is a zone's own.
    fn is_apex(&self, name: &Name) -> bool {
        self.zones().iter().any(|zone| zone.name == *name)
    }

    /// The names of the services whose ClusterIP an address is.
    pub(super) fn owners(&self, address: IpAddr, domain: &Domain) -> impl Iterator<Item = Name> {
        self.pointers_of(address, domain, PointerSource::ClusterIp)
    }

    /// The names that services give an address.
    fn pointers_of(
        &self,
        address: IpAddr,
        domain: &Domain,
        source: PointerSource,
    ) -> impl Iterator<Item = Name> {
        let services = self.services_of(address);
        let pointing = services.filter(|key| self.index.points_into(&key.namespace));
        let given = pointing.flat_map(move |key| {
            let (service, slices) = (self.index.service(key), self.index.slices_of(key));
            service_name(key, domain).map_or_else(Vec::new, |name| {
                let settings = self.index.settings();
                let is_it = |other: IpAddr| other == address;
                pointers_of(is_it, service, &slices, &name, settings)
            })
        });
        given
            .filter(move |pointer| pointer.source == source)
            .map(|pointer| pointer.target)
    }

    fn services_of(&self, address: IpAddr) -> impl Iterator<Item = &'a Key> {
        let pairs = self.index.pointers.range((address, first_key())..);
        pairs
            .take_while(move |(other, _)| *other == address)
            .map(|(_, key)| &**key)
    }

    /// The node of a name that objects make.
    fn made(&self, name: &Name) -> Option<Arc<Node>> {
        let domains = self.index.frame.domains.iter().enumerate();
        for (at, domain) in domains {
            if name.is_at_or_below(&domain.svc) {
                if let Some(node) = self.of_service(name, at, domain) {
                    return Some(node);
                }
            } else if name.is_at_or_below(&domain.pod)
                && let Some(node) = self.of_pod(name, domain)
            {
                return Some(node);
            }
        }
        self.pointer(name)
    }

    fn of_service(&self, name: &Name, at: usize, domain: &Domain) -> Option<Arc<Node>> {
        let labels = labels_below(name, &domain.svc)?;
        let (namespace, service) = match labels.as_slice() {
            [namespace] => {
                return self.index.exposes(namespace).then(Arc::default);
            }
            [namespace, service, ..] => (*namespace, *service),
            [] => return None,
        };
        if let Some(last) = &*self.last.borrow()
            && last.domain == at
            && *last.service.name == *service
            && last.service.is_in(namespace)
        {
            return last.names.get(name).cloned();
        }
        let key = Key::new(namespace, service);
        self.names_of(key, at, domain)?.get(name).cloned()
    }

    /// The names of a service, which are kept for the next question.
    fn names_of(&self, service: Key, at: usize, domain: &Domain) -> Option<Rc<Subtree>> {
        let contribution = self.index.contribution(&service, domain)?;
        let names = Rc::new(subtree(contribution, &service, domain));
        self.last.replace(Some(Last {
            domain: at,
            service,
            names: names.clone(),
        }));
        Some(names)
    }

    fn of_pod(&self, name: &Name, domain: &Domain) -> Option<Arc<Node>> {
        let settings = self.index.settings();
        let labels = labels_below(name, &domain.pod)?;
        match labels.as_slice() {
            [namespace] if self.index.exposes(namespace) => {
                let below = below_pods(settings)?;
                Some(Arc::new(Node::computing(below)))
            }
            [namespace, label] if settings.pods == PodMode::Verified => {
                let address = undashed(label.as_bytes())?;
                let is_there = pod_label(address) == *label && self.index.exposes(namespace);
                let count = self.index.count_pods(namespace, address);
                let is_there = is_there && count != PodCount::default();
                is_there.then(|| Arc::new(pod(name, address, count, settings.ttl)))
            }
            _ => None,
        }
    }

    /// The PTR records of an address, or the fact that there are some below.
    fn pointer(&self, name: &Name) -> Option<Arc<Node>> {
        let range = reverse_range(name)?;
        let settings = self.index.settings();
        let mut pointers = settings.pointers.iter();
        if !pointers.any(|suffix| name.is_at_or_below(suffix)) {
            return None;
        }
        if range.start() != range.end() {
            // An apex is there anyway, with more than that.
            let is_between = self.is_inside(name) && !self.is_apex(name);
            return (is_between && self.has_pointer(*range.start(), *range.end()))
                .then(Arc::default);
        }
        let address = *range.start();
        let owner = reverse_name(address);
        let mut builder = ModelBuilder::new(0);
        match self.targets(address) {
            Targets::Known(targets) => builder.extend(targets.into_iter().map(|target| Record {
                owner: owner.clone(),
                ttl: settings.ttl,
                data: Rdata::Ptr(target),
            })),
            Targets::Unknown => builder.leave(owner.clone()),
        }
        builder.build_below(&owner).remove(&owner)
    }

    fn has_pointer(&self, first: IpAddr, last: IpAddr) -> bool {
        let after = self.index.pointers.range((first, first_key())..);
        after
            .take_while(|(address, _)| *address <= last)
            .any(|(address, _)| {
                !self.is_passed(&reverse_name(*address)) && !self.targets(*address).are_none()
            })
    }

    /// The names of an address: of services whose ClusterIP it is the first one's, alone, or else
    /// every endpoint's.
    fn targets(&self, address: IpAddr) -> Targets {
        let Some(domain) = self.index.frame.domains.first() else {
            return Targets::Known(BTreeSet::new());
        };
        if let Some(owner) = self.owners(address, domain).next() {
            return Targets::Known(BTreeSet::from([owner]));
        }
        if self
            .pointers_of(address, domain, PointerSource::Odd)
            .next()
            .is_some()
        {
            return Targets::Unknown;
        }
        let endpoints = self.pointers_of(address, domain, PointerSource::Endpoint);
        Targets::Known(endpoints.collect())
    }

    /// A name of the frame. One that no record made hides nothing that the name above it says.
    fn framed(&self, name: &Name, node: Arc<Node>) -> Arc<Node> {
        if !node.is_bare() {
            return node;
        }
        match name.parent().and_then(|parent| self.node(&parent)) {
            Some(parent) if parent.below_is_computed() => {
                let like = |other: &Name| self.node(other).map(|node| (*node).clone());
                Arc::new(parent.below().child(name, like))
            }
            _ => node,
        }
    }

    /// A node as it is told: where CoreDNS departs from the standards it may be left to it.
    fn said(&self, node: Arc<Node>) -> Arc<Node> {
        match self.index.settings().departures {
            Departures::Passed if node.is_host() => Arc::new(node.passing_at_alias()),
            Departures::Passed => Arc::new(node.passing_rest()),
            Departures::Answered => node,
        }
    }

    /// Whether CoreDNS is asked because of what it makes of many labels: it ignores those in front of
    /// a pod's, and takes any number of them for a topology zone.
    fn is_left_deep(&self, name: &Name) -> bool {
        let mut domains = self.index.frame.domains.iter();
        self.index.settings().departures == Departures::Passed
            && domains.any(|Domain { svc, pod, .. }| {
                if name.is_at_or_below(svc) {
                    let labels = labels_below(name, svc);
                    let directives = ["pin", "prefer"];
                    return self.has_zonal_names()
                        && matches!(labels.as_deref(),
                            Some([_, _, "_zone", directive, _, _, ..]) if directives.contains(directive));
                }
                name.is_at_or_below(pod) && name.labels().count() > pod.labels().count() + 2
            })
    }

    fn has_zonal_names(&self) -> bool {
        self.index.settings().zonal_names == ZonalNames::Answered
    }

    fn visit_domain(&self, at: usize, domain: &Domain, see: &mut dyn FnMut(&Name, &Node)) {
        let mut see_if_there = |name: &Name| {
            if let Some(node) = self.node(name) {
                see(name, &node);
            }
        };
        for namespace in self.index.exposed_namespaces() {
            let names = domain.of_namespace(namespace);
            names.iter().flatten().for_each(&mut see_if_there);
        }
        if self.index.settings().pods == PodMode::Verified {
            for (namespace, address) in self.index.pod_addresses() {
                if let Ok([_, pods]) = domain.of_namespace(namespace)
                    && let Ok(name) = pods.child(pod_label(address).as_bytes())
                {
                    see_if_there(&name);
                }
            }
        }
        for key in self.index.services() {
            let Some(names) = self.names_of(key.clone(), at, domain) else {
                continue;
            };
            for (name, node) in &*names {
                if !self.is_passed(name) {
                    see(name, &self.said(node.clone()));
                }
            }
        }
    }

    fn visit_pointers(&self, see: &mut dyn FnMut(&Name, &Node)) {
        // Of addresses in order those with a name above in common are neighbours.
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
                    && let Some(node) = self.node(&name)
                {
                    see(&name, &node);
                }
                next = name.parent().filter(|parent| self.is_inside(parent));
                above.push(name);
            }
        }
    }
}

impl Targets {
    fn are_none(&self) -> bool {
        matches!(self, Targets::Known(targets) if targets.is_empty())
    }
}

impl ZoneData for View<'_> {
    fn zones(&self) -> &[Apex] {
        self.index.frame.model.zones()
    }

    fn passed(&self) -> &[Name] {
        self.index.frame.model.passed()
    }

    fn is_passed(&self, name: &Name) -> bool {
        // Those of the settings also where no zone of ours is above.
        let mut passed = self.index.settings().passed.iter().chain(self.passed());
        passed.any(|passed| name.is_at_or_below(passed)) || self.is_left_deep(name)
    }

    fn node(&self, name: &Name) -> Option<Arc<Node>> {
        if self.is_passed(name) {
            return None;
        }
        let node = match self.made(name) {
            Some(node) => node,
            None => self.framed(name, self.index.frame.model.node(name)?),
        };
        Some(self.said(node))
    }

    fn visit(&self, see: &mut dyn FnMut(&Name, &Node)) {
        for (name, _) in self.index.frame.model.nodes() {
            if self.made(name).is_none()
                && let Some(node) = self.node(name)
            {
                see(name, &node);
            }
        }
        for (at, domain) in self.index.frame.domains.iter().enumerate() {
            self.visit_domain(at, domain, see);
        }
        self.visit_pointers(see);
    }

    fn deep_names(&self) -> BTreeSet<Name> {
        // No object makes names more than one label deep without records.
        let mut deep = self.index.frame.model.deep_names();
        if self.index.settings().departures == Departures::Passed {
            let domains = self.index.frame.domains.iter();
            deep.extend(domains.clone().map(|domain| domain.pod.clone()));
            if self.has_zonal_names() {
                deep.extend(domains.map(|domain| domain.svc.clone()));
            }
        }
        deep
    }
}

/// A key that comes before all others.
fn first_key() -> Arc<Key> {
    Arc::new(Key::new("", ""))
}

/// The name of a service, if it can have one.
pub(super) fn service_name(key: &Key, domain: &Domain) -> Option<Name> {
    service::service_name(key, &domain.svc).ok()
}

/// The names of what a service gives to a domain.
pub(super) fn subtree(contribution: Contribution, key: &Key, domain: &Domain) -> Subtree {
    let Some(root) = service_name(key, domain) else {
        return Subtree::new();
    };
    let mut builder = ModelBuilder::new(0);
    builder.extend(contribution.records);
    for (name, below) in contribution.below {
        builder.compute_below(name, below);
    }
    for (name, rtype) in contribution.passed {
        builder.pass_type(name, rtype);
    }
    for name in contribution.left {
        builder.leave(name);
    }
    builder.build_below(&root)
}

/// What pods with an address are called. Unlike an endpoint's name it may end with a dash.
pub(super) fn pod_label(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The name of so many pods, in the network of one node if it is more than one. CoreDNS answers for
/// one that is being deleted if it knew it before, which nobody can tell.
fn pod(name: &Name, address: IpAddr, count: PodCount, ttl: u32) -> Node {
    let mut builder = ModelBuilder::new(0);
    if count.terminating > 0 {
        builder.leave(name.clone());
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
    let mut nodes = builder.build_below(name);
    nodes
        .remove(name)
        .map(Arc::unwrap_or_clone)
        .unwrap_or_default()
}

/// The labels of a name below another, the last one first; none if one can't be an object's.
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
