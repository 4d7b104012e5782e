//! What the writer knows of the Kubernetes API: what is to be read there, and whether that is still right.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Because, Hold, Trust};
use crate::{
    cluster::{Feed, Key, ZoneSettings},
    config::{Kubernetes, Serves},
    resolver::Servers,
    source::kubernetes::{FeedHealth, Health},
};

/// What the writer knows of the Kubernetes API.
pub(super) struct Api {
    pub(super) dns_service: Key,
    pub(super) serves: Serves,
    max_age: Option<Duration>,
    /// Where the resolver asks, if it was not told.
    pub(super) cluster_dns: Option<Servers>,
    pub(super) health: Vec<Arc<Health>>,
    /// How the feeds do that say what stands before CoreDNS, among others.
    pub(super) path_health: Vec<Arc<Health>>,
    pub(super) feeds: BTreeSet<Feed>,
    /// Feeds whose first list is still to come.
    pub(super) awaited: BTreeSet<Feed>,
    /// What the operator and CoreDNS want, for the time being.
    settings: Option<ZoneSettings>,
    /// Why that may not be answered yet.
    holds: Vec<Hold>,
}

/// Whether a plan says the same as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// It does, or it is the first.
    Same,
    /// It does not.
    Other,
}

impl Api {
    /// One of which nothing is known yet.
    pub(super) fn new(kubernetes: &Kubernetes, cluster_dns: Servers) -> Api {
        Api {
            dns_service: kubernetes.dns_service.clone(),
            serves: kubernetes.serves,
            max_age: kubernetes.max_age,
            cluster_dns: kubernetes.cluster_dns.is_empty().then_some(cluster_dns),
            health: Vec::new(),
            path_health: Vec::new(),
            feeds: BTreeSet::new(),
            awaited: BTreeSet::new(),
            settings: None,
            holds: Vec::new(),
        }
    }

    /// Follows what is wanted from now on, which may not be answered before these have ended.
    pub(super) fn follow(&mut self, settings: &ZoneSettings, holds: Vec<Hold>) -> Followed {
        let before = self.settings.replace(settings.clone());
        self.holds = holds;
        match before.is_none_or(|before| before == *settings) {
            true => Followed::Same,
            false => Followed::Other,
        }
    }

    /// Why it may not be answered now.
    pub(super) fn holds(&self) -> impl Iterator<Item = &Hold> {
        let now = Instant::now();
        let is_active = move |hold: &&Hold| hold.until.is_none_or(|until| now < until);
        self.holds.iter().filter(is_active)
    }

    /// Whether it may not be answered now, though everything is known that is read.
    pub(super) fn is_held(&self) -> bool {
        self.holds().next().is_some()
    }

    /// Whether what was read, all of it, is still right.
    pub(super) fn trusted(&self) -> Trust {
        if self.is_held() {
            return Trust::Stale(Because::Held);
        }
        let Some(max_age) = self.max_age else {
            return Trust::Current;
        };
        let is_fresh = |health: &Arc<Health>| health.age().is_some_and(|age| age <= max_age);
        let feeds = self.path_health.iter().flat_map(|health| health.feeds());
        let mut caches = feeds.filter(|(feed, _)| *feed == Feed::Clients);
        let knows_caches =
            |(_, health): (_, FeedHealth)| health.age().is_some_and(|age| age <= max_age);
        match self.health.iter().all(is_fresh) && caches.all(knows_caches) {
            true => Trust::Current,
            false => Trust::Stale(Because::Silence),
        }
    }
}
