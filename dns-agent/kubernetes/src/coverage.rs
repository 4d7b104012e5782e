//! Tracks for which headless Services all EndpointSlices are watched.
//!
//! A slice belongs to the Service that its label `kubernetes.io/service-name` names. CoreDNS
//! assigns slices to Services by this label alone. Other labels are unreliable: they can be out of
//! date until a controller next writes the slice, and people copy them.
//! Therefore the names of a headless Service are answered only while the agent watches all slices
//! whose label names the Service. Otherwise the names are delegated to CoreDNS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::feed::Feed;

/// Names of Services, without their namespaces.
pub type ServiceNames = Arc<BTreeSet<Arc<str>>>;

/// The Services for which one feed watches every slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Every Service.
    Every,
    /// The Services with these names, in all namespaces.
    Named(ServiceNames),
}

/// The Services for which all feeds together watch every slice.
#[derive(Clone, Debug)]
pub enum Coverage {
    /// Every slice of every Service is watched.
    Every,
    /// For each feed of slices, the Services for which it has listed and watches every slice.
    ByFeed(BTreeMap<Feed, ServiceNames>),
}

impl Coverage {
    /// No Service is covered yet.
    pub const NOTHING: Coverage = Coverage::ByFeed(BTreeMap::new());

    /// Whether all slices of the Services with this name are watched.
    pub(super) fn covers(&self, service: &str) -> bool {
        match self {
            Coverage::Every => true,
            Coverage::ByFeed(feeds) => feeds.values().any(|names| names.contains(service)),
        }
    }

    /// Replaces the coverage of a feed. [`Coverage::Every`] stays as it is.
    pub(super) fn record(&mut self, feed: Feed, covered: Covered) {
        match (self, covered) {
            (coverage, Covered::Every) => *coverage = Coverage::Every,
            (Coverage::ByFeed(feeds), Covered::Named(names)) => {
                feeds.insert(feed, names);
            }
            (Coverage::Every, Covered::Named(_)) => {}
        }
    }
}
