//! Freshness: whether the kernel may still answer from the data that was read from the Kubernetes
//! API.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use zerohop_kubernetes::{Feed, ObjectKey, ZoneSettings};
use zerohop_kubernetes_api::{FeedHealth, SourceHealth};
use zerohop_resolver::UpstreamServers;

use super::config_versions::Hold;
use crate::agent::kernel_plane::{Freshness, StaleReason};
use crate::config::{DnsAddresses, KubernetesConfig};

/// The feeds of facts that show which pods answer DNS.
const PATH_FEEDS: [Feed; 4] = [
    Feed::Clients,
    Feed::DnsService,
    Feed::DnsEndpoints,
    Feed::DnsPods,
];

/// The intake's state about the Kubernetes API: the current plan and the health of its feeds.
pub(super) struct ApiFreshness {
    /// The Service of the cluster's DNS. `None`: not known yet.
    pub(super) dns_service: Option<ObjectKey>,
    /// The addresses of node caches at which the kernel answers.
    pub(super) cache_addresses: Vec<IpAddr>,
    /// Which addresses of the cluster's DNS are served addresses.
    pub(super) dns_addresses: DnsAddresses,
    /// `--max-age`; `None` means that data never becomes outdated.
    max_age: Option<Duration>,
    /// The resolver's servers of the cluster's DNS; `None` if `--cluster-dns` sets them.
    pub(super) cluster_dns: Option<UpstreamServers>,
    /// The health of the feeds of objects.
    pub(super) feed_health: Vec<Arc<SourceHealth>>,
    /// The health of the feeds of facts. Some of them report which pods
    /// answer DNS.
    pub(super) policy_feed_health: Vec<Arc<SourceHealth>>,
    /// The feeds of objects in the current plan; empty before the first plan.
    pub(super) planned_feeds: BTreeSet<Feed>,
    /// Feeds whose first list has not ended yet.
    pub(super) unlisted_feeds: BTreeSet<Feed>,
    /// The zone settings of the current plan; `None` before the first plan.
    settings: Option<ZoneSettings>,
    /// Reasons why the kernel may not answer by the plan yet.
    holds: Vec<Hold>,
}

/// Whether a plan's settings differ from those of the previous plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanChange {
    /// The settings are the same, or this is the first plan.
    Unchanged,
    /// The settings differ.
    Changed,
}

impl ApiFreshness {
    /// The state before the first plan.
    pub(super) fn new(kubernetes: &KubernetesConfig, cluster_dns: UpstreamServers) -> ApiFreshness {
        ApiFreshness {
            dns_service: None,
            cache_addresses: Vec::new(),
            dns_addresses: kubernetes.dns_addresses,
            max_age: kubernetes.max_age,
            cluster_dns: kubernetes.cluster_dns.is_empty().then_some(cluster_dns),
            feed_health: Vec::new(),
            policy_feed_health: Vec::new(),
            planned_feeds: BTreeSet::new(),
            unlisted_feeds: BTreeSet::new(),
            settings: None,
            holds: Vec::new(),
        }
    }

    /// Forgets what is known of another Service, because this one is the cluster's DNS from now on.
    /// The kernel may not answer before the next plan.
    pub(super) fn set_dns_service(&mut self, service: ObjectKey) {
        self.dns_service = Some(service);
        self.cache_addresses.clear();
        self.policy_feed_health.clear();
        self.planned_feeds.clear();
        self.unlisted_feeds.clear();
        let reason = "the Service of the cluster's DNS was found just now".to_owned();
        let until = None;
        self.holds = vec![Hold { until, reason }];
    }

    /// Sets the settings of the current plan. The kernel may not answer before `holds` have ended.
    pub(super) fn replace_plan(&mut self, settings: &ZoneSettings, holds: Vec<Hold>) -> PlanChange {
        let before = self.settings.replace(settings.clone());
        self.holds = holds;
        if before.is_none_or(|before| before == *settings) {
            PlanChange::Unchanged
        } else {
            PlanChange::Changed
        }
    }

    /// The holds that have not ended.
    pub(super) fn active_holds(&self) -> impl Iterator<Item = &Hold> {
        let now = Instant::now();
        let is_active = move |hold: &&Hold| hold.until.is_none_or(|until| now < until);
        self.holds.iter().filter(is_active)
    }

    /// Whether any hold has not ended.
    pub(super) fn is_held(&self) -> bool {
        self.active_holds().next().is_some()
    }

    /// The freshness: current if no hold is active, and if every feed of objects and those of
    /// [`PATH_FEEDS`] have received something within `--max-age`.
    pub(super) fn freshness(&self) -> Freshness {
        if self.is_held() {
            return Freshness::Stale(StaleReason::Held);
        }
        let Some(max_age) = self.max_age else {
            return Freshness::Current;
        };
        let is_fresh = |health: &Arc<SourceHealth>| health.age().is_some_and(|age| age <= max_age);
        let feeds = self
            .policy_feed_health
            .iter()
            .flat_map(|health| health.feeds());
        let mut path = feeds.filter(|(feed, _)| PATH_FEEDS.contains(feed));
        let is_known =
            |(_, health): (_, FeedHealth)| health.age().is_some_and(|age| age <= max_age);
        if self.feed_health.iter().all(is_fresh) && path.all(is_known) {
            Freshness::Current
        } else {
            Freshness::Stale(StaleReason::Silence)
        }
    }
}
