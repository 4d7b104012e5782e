//! What stands between the pods of this node and CoreDNS, as the Kubernetes API says: node caches on
//! this node, the Service of the cluster's DNS, and when its pods were started.
//!
//! The facts are those that NetworkPolicies are judged by ([`super::policies`]): nothing is watched
//! twice for this.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use crate::{
    cluster::{Client, DnsService, Fact, Key, NodeCache, Object},
    source::{Event, Feed},
};

/// What stands between the pods of this node and CoreDNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DnsPath {
    /// Node caches, by their pods; none before the pods have been listed.
    pub(super) caches: Option<BTreeMap<Key, CachePod>>,
    /// The Service of the cluster's DNS, if it exists; none before that is known.
    pub(super) service: Option<Option<DnsService>>,
    /// The starts of the pods of that Service; none before the pods have been listed.
    pub(super) starts: Option<Starts>,
}

/// The pod of a node cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CachePod {
    pub(super) cache: NodeCache,
    /// When its container was started; none while it doesn't run, or where that isn't said.
    pub(super) started: Option<SystemTime>,
}

/// When the pods that run with a configuration were started; a pod that runs and doesn't say so has
/// none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Starts(pub(super) Vec<Option<SystemTime>>);

/// Keeps what is known of the path up to date.
#[derive(Debug, Default)]
pub(super) struct Observer {
    caches: Kept<CachePod>,
    services: Kept<DnsService>,
    dns_pods: Kept<Option<SystemTime>>,
}

/// Objects of one feed.
#[derive(Debug)]
pub(super) struct Kept<T> {
    now: BTreeMap<Key, T>,
    /// What the list that goes on has not brought yet.
    unlisted: BTreeSet<Key>,
    /// Whether a list has ended.
    listed: Listed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    #[default]
    NotYet,
    Once,
}

impl Starts {
    /// Whether every pod is known to have been started at this time or later.
    pub(super) fn are_since(&self, time: SystemTime) -> bool {
        let is_since = |start: &Option<SystemTime>| start.is_some_and(|start| start >= time);
        !self.0.is_empty() && self.0.iter().all(is_since)
    }

    /// Whether any pod is known to have been started before this time.
    pub(super) fn any_before(&self, time: SystemTime) -> bool {
        self.0.iter().flatten().any(|start| *start < time)
    }
}

impl Observer {
    /// Takes what a feed tells.
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Listing(feed) => self.each(*feed, Listing),
            Event::Listed(feed) => self.each(*feed, End),
            Event::Deleted { feed, key } => self.each(*feed, Gone(key)),
            Event::Unusable { feed, problem, .. } => {
                let key = Key::new(&*problem.namespace, &*problem.name);
                self.each(*feed, Seen(&key));
            }
            Event::Applied {
                feed,
                object: Object::Fact(fact),
                ..
            } => self.apply(*feed, fact),
            Event::Applied { .. }
            | Event::Covered(..)
            | Event::Corefile { .. }
            | Event::CacheConfig { .. } => {}
        }
    }

    /// A feed tells of other objects from now on: nothing is known of it before its next list has ended.
    pub(super) fn forget(&mut self, feed: Feed) {
        self.each(feed, Forget);
    }

    /// What is known now.
    pub(super) fn path(&self) -> DnsPath {
        let services = self.services.known();
        let service = services.map(|services| services.values().next().cloned());
        // A Service without a selector has no pods that could be known.
        let starts = self.dns_pods.known();
        DnsPath {
            caches: self.caches.known().cloned(),
            service,
            starts: starts.map(|starts| Starts(starts.values().copied().collect())),
        }
    }

    fn apply(&mut self, feed: Feed, fact: &Fact) {
        match (feed, fact) {
            (Feed::Clients, Fact::Pod(pod)) => {
                let Client {
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
                let runs = !pod.addresses.is_empty();
                self.dns_pods.set(&pod.key, runs.then_some(pod.started));
            }
            (Feed::DnsService, Fact::Service(service)) => {
                self.services.set(&service.key, Some(service.clone()));
            }
            _ => {}
        }
    }

    fn each(&mut self, feed: Feed, step: Step<'_>) {
        match feed {
            Feed::Clients => self.caches.step(step),
            Feed::DnsService => self.services.step(step),
            Feed::DnsPods => self.dns_pods.step(step),
            _ => {}
        }
    }
}

/// What a feed tells of its objects, whatever they are.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// A list starts.
    Listing,
    /// It has ended.
    End,
    /// An object is gone.
    Gone(&'a Key),
    /// An object is there and can't be read: what is known of it stays.
    Seen(&'a Key),
    /// Other objects count from now on, and none of them is known yet.
    Forget,
}
use Step::{End, Forget, Gone, Listing, Seen};

impl<T> Kept<T> {
    /// An object is there, with this value, or with none that counts.
    pub(super) fn set(&mut self, key: &Key, value: Option<T>) {
        self.unlisted.remove(key);
        match value {
            Some(value) => self.now.insert(key.clone(), value),
            None => self.now.remove(key),
        };
    }

    /// Takes what the feed tells.
    pub(super) fn step(&mut self, step: Step<'_>) {
        match step {
            Listing => self.unlisted = self.now.keys().cloned().collect(),
            End => {
                for key in std::mem::take(&mut self.unlisted) {
                    self.now.remove(&key);
                }
                self.listed = Listed::Once;
            }
            Gone(key) => {
                self.now.remove(key);
            }
            Seen(key) => {
                self.unlisted.remove(key);
            }
            Forget => *self = Kept::default(),
        }
    }

    /// All objects; none before they have been listed.
    pub(super) fn known(&self) -> Option<&BTreeMap<Key, T>> {
        (self.listed == Listed::Once).then_some(&self.now)
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept {
            now: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            listed: Listed::default(),
        }
    }
}

#[cfg(test)]
mod tests;
