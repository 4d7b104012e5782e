//! Where Kubernetes objects come from.
//!
//! A source tells [`Event`]s: lists of objects, and what changes after them. Whoever listens
//! needs nothing else to know what exists.

pub mod kubernetes;
pub mod manifests;
pub mod watch;

use std::{collections::BTreeMap, time::SystemTime};

pub use crate::cluster::Feed;
use crate::cluster::{Covered, Key, Object, Problem};

/// What a source tells of one of its feeds.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A list starts. What was told before still exists until it has ended.
    Listing(Feed),
    /// An object is there: new, changed, or just listed again.
    Applied {
        /// Who tells it.
        feed: Feed,
        /// The object as it is now.
        object: Object,
        /// When the change that led to it happened in the cluster, where the object says so:
        /// `endpoints.kubernetes.io/last-change-trigger-time` of an EndpointSlice.
        changed: Option<SystemTime>,
    },
    /// An object is gone, or not selected any more. It may be in another feed by now.
    Deleted {
        /// Who tells it.
        feed: Feed,
        /// Its namespace and name.
        key: Key,
    },
    /// An object can't be used.
    Unusable {
        /// Who tells it.
        feed: Feed,
        /// The object and what is wrong with it.
        problem: Problem,
        /// What leaves its names to somebody else; none where it makes none, or is not known by name.
        stand_in: Option<Object>,
    },
    /// A feed of EndpointSlices has read all slices of these Services, and watches them. What it told of before
    /// counts no longer.
    Covered(Feed, Covered),
    /// The list has ended: what this feed told before it, and not in it, is gone.
    Listed(Feed),
    /// CoreDNS's configuration.
    Corefile {
        /// Its text; none when there is no such thing.
        text: Option<String>,
        /// When it was written last, where that is known. CoreDNS may not have read it yet.
        written: Option<Written>,
        /// Whether the kubelet ever brings another one into pods that run.
        updates: Updates,
    },
    /// A ConfigMap with configuration of a node cache.
    CacheConfig {
        /// Its texts; none when there is no such thing.
        data: Option<BTreeMap<String, String>>,
        /// When it was written last, where that is known.
        written: Option<Written>,
        /// Whether the kubelet ever brings others into pods that run.
        updates: Updates,
    },
}

/// Whether pods that run get what is written into a ConfigMap later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updates {
    /// The kubelet brings it.
    Brought,
    /// It doesn't: it never looks again at a ConfigMap with `immutable: true`, even when that is deleted
    /// and made anew (kubernetes/kubernetes, `pkg/kubelet/util/manager/watch_based_manager.go`).
    Never,
}

/// When an object was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// When it was made.
    Made(SystemTime),
    /// Later.
    Edited(SystemTime),
}

impl Event {
    /// There is no configuration of CoreDNS.
    pub(crate) const NO_COREFILE: Event = Event::Corefile {
        text: None,
        written: None,
        updates: Updates::Brought,
    };

    /// There is no such ConfigMap.
    pub(crate) const NO_CACHE_CONFIG: Event = Event::CacheConfig {
        data: None,
        written: None,
        updates: Updates::Brought,
    };

    /// What the only object of a feed tells when it doesn't exist; none for feeds of many objects.
    pub(crate) fn absent(feed: Feed) -> Option<Event> {
        match feed {
            Feed::Corefile => Some(Event::NO_COREFILE),
            Feed::CacheConfig => Some(Event::NO_CACHE_CONFIG),
            _ => None,
        }
    }

    /// Something can't be used, and nothing stands in for it.
    pub(crate) fn unusable(feed: Feed, problem: Problem) -> Event {
        Event::Unusable {
            feed,
            problem,
            stand_in: None,
        }
    }
}
