//! Of which headless Services every EndpointSlice is known to be watched.
//!
//! A slice belongs to the Service that its label `kubernetes.io/service-name` names, and to no other label
//! does CoreDNS look. Controllers write other labels when they create a slice and keep them when the Service
//! changes, and people copy them. So the names of a headless Service are answered only when its slices are
//! watched by that one label; until then they are delegated to CoreDNS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::feed::Feed;

/// Names of Services, without their namespaces.
pub type ServiceNames = Arc<BTreeSet<Arc<str>>>;

/// Which Services' slices one feed watches, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Those of every Service.
    Every,
    /// Those of the Services with these names, in all namespaces.
    Named(ServiceNames),
}

/// What all feeds together cover.
#[derive(Clone, Debug)]
pub enum Coverage {
    /// Every slice of every Service is watched.
    Every,
    /// What each feed of slices has listed and watches.
    ByFeed(BTreeMap<Feed, ServiceNames>),
}

impl Coverage {
    /// Nothing is covered until a feed reports it.
    pub const NOTHING: Coverage = Coverage::ByFeed(BTreeMap::new());

    /// Whether all slices of the Services with this name are watched.
    pub(super) fn has(&self, service: &str) -> bool {
        match self {
            Coverage::Every => true,
            Coverage::ByFeed(feeds) => feeds.values().any(|names| names.contains(service)),
        }
    }

    /// Takes in what a feed covers from now on.
    pub(super) fn set(&mut self, feed: Feed, covered: Covered) {
        match (self, covered) {
            (coverage, Covered::Every) => *coverage = Coverage::Every,
            (Coverage::ByFeed(feeds), Covered::Named(names)) => {
                feeds.insert(feed, names);
            }
            (Coverage::Every, Covered::Named(_)) => {}
        }
    }
}
