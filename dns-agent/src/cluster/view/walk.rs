//! All names in one order, a few at a time, so that whoever shows them all needs to hold but a few,
//! and need not look at one view all the while.
//!
//! A name comes before those below it, which follow it at once. Names that no object makes are in
//! canonical order (RFC 4034 section 6.1), and so are services and what is below each; pods and
//! reverse names are in the order of their addresses.

use std::net::IpAddr;
use std::sync::Arc;

use super::{View, pod_label};
use crate::cluster::objects::Key;
use crate::cluster::settings::PodMode;
use crate::zone::{Name, Node, ZoneData as _, reverse_name, reverse_range};

/// Where a walk is: what was shown last.
#[derive(Clone, Debug)]
pub enum WalkPosition {
    /// A name that no object makes; none before the first one.
    Frame(Option<Name>),
    /// A Service of a domain, or a namespace: a key without a name.
    Service(usize, Key),
    /// A namespace of a domain, and the address of a pod in it.
    Pod(usize, Arc<str>, Option<IpAddr>),
    /// The reverse name of an address.
    Address(Option<IpAddr>),
}

/// Names that exist, with what is known of them.
pub type Names = Vec<(Name, Arc<Node>)>;

impl WalkPosition {
    /// Before all names.
    pub const START: WalkPosition = WalkPosition::Frame(None);
    /// Before all reverse names.
    pub const ADDRESSES: WalkPosition = WalkPosition::Address(None);
}

impl View<'_> {
    /// The next names of a zone, or of none, and where to go on; nothing at the end. There may be no
    /// names, though it is not the end.
    pub fn walk(&self, zone: Option<usize>, from: &WalkPosition) -> Option<(Names, WalkPosition)> {
        let (mut names, next) = match from {
            WalkPosition::Frame(after) => self.next_frame(zone, after.as_ref()),
            WalkPosition::Service(domain, after) => self.next_service(*domain, after),
            WalkPosition::Pod(domain, namespace, after) => {
                self.next_pod(*domain, namespace, *after)
            }
            WalkPosition::Address(after) => self.next_address(zone, *after)?,
        };
        names.retain(|(name, _)| self.zone_of(name) == zone);
        Some((names, next))
    }

    fn next_frame(&self, zone: Option<usize>, after: Option<&Name>) -> (Names, WalkPosition) {
        let after = after.map(canonical);
        let all = self.index.frame.model.nodes().map(|(name, _)| name);
        let behind = all.filter(|name| after.as_ref().is_none_or(|it| canonical(name) > *it));
        let Some(name) = behind.min_by_key(|name| canonical(name)) else {
            return (Names::new(), WalkPosition::ADDRESSES);
        };
        let node = match self.made(name) {
            Some(_) => None,
            None => self.node(name),
        };
        let zone = zone.and_then(|zone| self.zones().get(zone));
        let may_lead_there = zone
            .is_some_and(|zone| name.is_at_or_below(&zone.name) || zone.name.is_at_or_below(name));
        let domains = self.index.frame.domains.iter().enumerate();
        let mut parts = domains.flat_map(|(at, domain)| {
            let services = WalkPosition::Service(at, Key::new("", ""));
            let pods = WalkPosition::Pod(at, "".into(), None);
            [(&domain.svc, services), (&domain.pod, pods)]
        });
        let part = parts.find(|(above, _)| *above == name && may_lead_there);
        let here = || WalkPosition::Frame(Some(name.clone()));
        let next = part.map_or_else(here, |(_, part)| part);
        (named(name.clone(), node), next)
    }

    fn next_service(&self, at: usize, after: &Key) -> (Names, WalkPosition) {
        let Some(domain) = self.index.frame.domains.get(at) else {
            return (Names::new(), WalkPosition::ADDRESSES);
        };
        let Some(key) = self.index.next_service(after) else {
            let svc = domain.svc.clone();
            return (Names::new(), WalkPosition::Frame(Some(svc)));
        };
        let names = if key.name.is_empty() {
            let name = domain.of_namespace(&key.namespace).map(|[name, _]| name);
            name.map_or_else(|_| Names::new(), |name| self.known(name))
        } else {
            let subtree = self.names_of(key.clone(), at, domain);
            let names = subtree.iter().flat_map(|subtree| subtree.iter());
            let shown = names.filter(|(name, _)| !self.is_passed(name));
            let mut names: Names = shown
                .map(|(name, node)| (name.clone(), self.said(node.clone())))
                .collect();
            names.sort_by(|(one, _), (other, _)| canonical(one).cmp(&canonical(other)));
            names
        };
        (names, WalkPosition::Service(at, key))
    }

    fn next_pod(
        &self,
        at: usize,
        namespace: &Arc<str>,
        after: Option<IpAddr>,
    ) -> (Names, WalkPosition) {
        let Some(domain) = self.index.frame.domains.get(at) else {
            return (Names::new(), WalkPosition::ADDRESSES);
        };
        let is_stored = self.index.settings().pods == PodMode::Verified;
        let address = self.index.next_pod(namespace, after);
        if let Some(address) = address.filter(|_| is_stored) {
            let pods = domain.of_namespace(namespace).map(|[_, pods]| pods);
            let name = pods.map(|pods| pods.child(pod_label(address).as_bytes()));
            let names = name.ok().and_then(Result::ok);
            let names = names.map_or_else(Names::new, |name| self.known(name));
            return (
                names,
                WalkPosition::Pod(at, namespace.clone(), Some(address)),
            );
        }
        let Some(next) = self.index.next_namespace(namespace) else {
            let pod = domain.pod.clone();
            return (Names::new(), WalkPosition::Frame(Some(pod)));
        };
        let name = domain.of_namespace(&next).map(|[_, pods]| pods);
        let names = name.map_or_else(|_| Names::new(), |name| self.known(name));
        (names, WalkPosition::Pod(at, next, None))
    }

    /// The reverse name of the next address, and before it those above that are new.
    fn next_address(
        &self,
        zone: Option<usize>,
        after: Option<IpAddr>,
    ) -> Option<(Names, WalkPosition)> {
        let range = match zone {
            Some(zone) => Some(reverse_range(&self.zones().get(zone)?.name)?),
            None => None,
        };
        let first = range.as_ref().map(|range| *range.start());
        let address = self.index.next_address(first, after)?;
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
                names.extend(self.known(name));
            }
        }
        names.reverse();
        Some((names, WalkPosition::Address(Some(address))))
    }

    /// A name, if it exists.
    fn known(&self, name: Name) -> Names {
        let node = self.node(&name);
        named(name, node)
    }
}

fn named(name: Name, node: Option<Arc<Node>>) -> Names {
    node.map(|node| (name, node)).into_iter().collect()
}

/// What orders names: their labels, the last one first.
fn canonical(name: &Name) -> Vec<&[u8]> {
    let mut labels: Vec<&[u8]> = name.labels().collect();
    labels.reverse();
    labels
}
