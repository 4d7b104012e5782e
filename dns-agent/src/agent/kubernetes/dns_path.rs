//! The path from this node's pods to CoreDNS, as read from the Kubernetes API: NodeLocal DNSCache
//! on this node, the Service of the cluster's DNS, and the start times of its pods.
//!
//! The events come from the feeds of facts for NetworkPolicies ([`super::policy_feeds`]), so the
//! objects need no watches of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use zerohop_kubernetes::{DnsService, Event, Fact, Feed, NodeCache, Object, ObjectKey, PolicyPod};

/// The path from this node's pods to CoreDNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DnsPath {
    /// The node caches of this node, by pod; `None` before the pods of this node are listed, and
    /// without `--node-name`.
    pub(super) caches: Option<BTreeMap<ObjectKey, CachePod>>,
    /// The Service of the cluster's DNS: `None` before it is listed, `Some(None)` if it does not
    /// exist or has never been readable.
    pub(super) service: Option<Option<DnsService>>,
    /// The start times of that Service's pods that have started and not ended; `None` while its
    /// pods are not listed. The pods of a Service without a selector can't be known: if the
    /// selector was removed, the start times are empty; if the Service never had one, they stay
    /// `None`.
    pub(super) starts: Option<PodStarts>,
}

/// The pod of a node cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CachePod {
    pub(super) cache: NodeCache,
    /// When the pod's longest-running container was started; `None` while no container runs, or if
    /// the status lacks a time.
    pub(super) started: Option<SystemTime>,
}

/// The start times of the pods that run with a configuration; `None` for a pod of which no
/// container runs, or whose status lacks the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodStarts(pub(super) Vec<Option<SystemTime>>);

/// Computes the path from events.
#[derive(Debug, Default)]
pub(super) struct DnsPathObserver {
    caches: ListedObjects<CachePod>,
    services: ListedObjects<DnsService>,
    dns_pods: ListedObjects<Option<SystemTime>>,
}

/// The objects of one feed, by key.
#[derive(Debug)]
pub(super) struct ListedObjects<T> {
    objects: BTreeMap<ObjectKey, T>,
    /// Objects that the current list has not reported yet.
    not_yet_listed: BTreeSet<ObjectKey>,
    /// Whether any list has ended since the start or the last [`ListEvent::Reset`].
    listed: ListState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListState {
    #[default]
    Never,
    AtLeastOnce,
}

impl PodStarts {
    /// Whether there is a pod, and every pod is known to have started at this time or later.
    pub(super) fn all_since(&self, time: SystemTime) -> bool {
        let is_since = |start: &Option<SystemTime>| start.is_some_and(|start| start >= time);
        !self.0.is_empty() && self.0.iter().all(is_since)
    }

    /// Whether any pod is known to have started before this time.
    pub(super) fn any_before(&self, time: SystemTime) -> bool {
        self.0.iter().flatten().any(|start| *start < time)
    }
}

impl DnsPathObserver {
    /// Applies an event of a feed.
    pub(super) fn apply_event(&mut self, event: &Event) {
        match event {
            Event::ListStarted(feed) => self.apply_list_event(*feed, ListStarted),
            Event::ListEnded(feed) => self.apply_list_event(*feed, ListEnded),
            Event::Deleted { feed, key } => self.apply_list_event(*feed, Deleted(key)),
            Event::Unusable { feed, problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                self.apply_list_event(*feed, Present(&key));
            }
            Event::Applied {
                feed,
                object: Object::Fact(fact),
                ..
            } => self.apply_fact(*feed, fact),
            Event::Applied { .. }
            | Event::Covered(..)
            | Event::Corefile { .. }
            | Event::CacheConfig { .. } => {}
        }
    }

    /// Drops a feed's objects because the feed selects other objects from now on. The objects are
    /// unknown until the next list has ended.
    pub(super) fn reset_feed(&mut self, feed: Feed) {
        self.apply_list_event(feed, Reset);
    }

    /// The current path.
    pub(super) fn path(&self) -> DnsPath {
        let services = self.services.known();
        // The feed selects one Service by its name.
        let service = services.map(|services| services.values().next().cloned());
        let starts = self.dns_pods.known();
        DnsPath {
            caches: self.caches.known().cloned(),
            service,
            starts: starts.map(|starts| PodStarts(starts.values().copied().collect())),
        }
    }

    fn apply_fact(&mut self, feed: Feed, fact: &Fact) {
        match (feed, fact) {
            (Feed::Clients, Fact::Pod(pod)) => {
                let PolicyPod {
                    key,
                    started,
                    node_cache,
                    ..
                } = pod;
                let cache = node_cache.as_deref().map(|cache| CachePod {
                    cache: cache.clone(),
                    started: *started,
                });
                self.caches.set(key, cache);
            }
            (Feed::DnsPods, Fact::Pod(pod)) => {
                // A pod that has ended, or has not started yet, has no addresses.
                let has_address = !pod.addresses.is_empty();
                self.dns_pods
                    .set(&pod.key, has_address.then_some(pod.started));
            }
            (Feed::DnsService, Fact::Service(service)) => {
                self.services.set(&service.key, Some(service.clone()));
            }
            _ => {}
        }
    }

    fn apply_list_event(&mut self, feed: Feed, event: ListEvent<'_>) {
        match feed {
            Feed::Clients => self.caches.apply(event),
            Feed::DnsService => self.services.apply(event),
            Feed::DnsPods => self.dns_pods.apply(event),
            _ => {}
        }
    }
}

/// An event of a feed, without the object.
#[derive(Clone, Copy)]
pub(super) enum ListEvent<'a> {
    /// A list has started.
    ListStarted,
    /// The list has ended: objects that it did not report are gone.
    ListEnded,
    /// An object was deleted.
    Deleted(&'a ObjectKey),
    /// An object exists but can't be read. Its previous value stays.
    Present(&'a ObjectKey),
    /// The feed selects other objects from now on.
    Reset,
}
use ListEvent::{Deleted, ListEnded, ListStarted, Present, Reset};

impl<T> ListedObjects<T> {
    /// Sets the value of an object; `None` when the object has no value, such as a pod that is not
    /// a node cache.
    pub(super) fn set(&mut self, key: &ObjectKey, value: Option<T>) {
        self.not_yet_listed.remove(key);
        match value {
            Some(value) => self.objects.insert(key.clone(), value),
            None => self.objects.remove(key),
        };
    }

    /// Applies an event of the feed.
    pub(super) fn apply(&mut self, event: ListEvent<'_>) {
        match event {
            ListStarted => self.not_yet_listed = self.objects.keys().cloned().collect(),
            ListEnded => {
                for key in std::mem::take(&mut self.not_yet_listed) {
                    self.objects.remove(&key);
                }
                self.listed = ListState::AtLeastOnce;
            }
            Deleted(key) => {
                self.objects.remove(key);
            }
            Present(key) => {
                self.not_yet_listed.remove(key);
            }
            Reset => *self = ListedObjects::default(),
        }
    }

    /// All objects; `None` before the first list has ended, and again after [`ListEvent::Reset`].
    pub(super) fn known(&self) -> Option<&BTreeMap<ObjectKey, T>> {
        (self.listed == ListState::AtLeastOnce).then_some(&self.objects)
    }
}

impl<T> Default for ListedObjects<T> {
    fn default() -> Self {
        ListedObjects {
            objects: BTreeMap::new(),
            not_yet_listed: BTreeSet::new(),
            listed: ListState::default(),
        }
    }
}

#[cfg(test)]
mod tests;
