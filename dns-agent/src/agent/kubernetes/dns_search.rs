//! Finds the Service of the cluster's DNS: a Service with UDP port 53 that selects pods.
//!
//! Whether these pods run CoreDNS, and with which configuration, is proven later
//! ([`super::coredns_configs`]). Queries to the addresses of other Services pass, so a wrong choice
//! costs only speed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use zerohop_kubernetes::{DnsService, Event, Fact, Object, ObjectKey, SYSTEM_NAMESPACES};
use zerohop_kubernetes_api::{Client, KubernetesSource, ReceivedEvent};

use super::dns_path::{ListEvent, ListedObjects};

/// The number of events that may wait. More events wait in the connection to the API server.
const EVENT_QUEUE: usize = 16;

/// The most Services that are kept. Of more, those with the lowest preference are ignored.
const MAX_CANDIDATES: usize = 1_000;

/// The names that distributions give to the Service of the cluster's DNS. In
/// [`SYSTEM_NAMESPACES`], they are preferred.
const USUAL_NAMES: [&str; 4] = [
    "kube-dns",
    "coredns",
    "dns-default",
    "rke2-coredns-rke2-coredns",
];

/// Finds the Service of the cluster's DNS.
pub(super) enum DnsSearch {
    /// The operator has named the Service.
    Given(ObjectKey),
    Searching(Box<ServiceSearch>),
}

/// Searches all Services.
pub(super) struct ServiceSearch {
    source: KubernetesSource,
    events: mpsc::Receiver<ReceivedEvent>,
    candidates: ListedObjects<DnsService>,
    /// The Service that was found last.
    found: Option<ObjectKey>,
}

/// How much a Service is preferred. The least is preferred most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    class: PreferenceClass,
    addressing: Addressing,
    created: Option<SystemTime>,
    key: ObjectKey,
}

/// Whether pods can query the Service's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Addressing {
    ClusterIp,
    Headless,
}

/// Services of a better class replace a Service that was found before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PreferenceClass {
    UsualNameInSystemNamespace,
    SystemNamespace,
    /// Services of operators and tenants, whatever their names.
    Other,
}

impl DnsSearch {
    /// A search, or the Service that the operator has named.
    pub(super) fn new(
        client: &Client,
        given: Option<&ObjectKey>,
        first_list_jitter: Duration,
    ) -> DnsSearch {
        if let Some(given) = given {
            return DnsSearch::Given(given.clone());
        }
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        DnsSearch::Searching(Box::new(ServiceSearch {
            source: KubernetesSource::start_dns_candidates(
                client.clone(),
                first_list_jitter,
                sender,
            ),
            events,
            candidates: ListedObjects::default(),
            found: None,
        }))
    }

    /// Waits for the next Service: the first one, or another one than before. Without any Service,
    /// this is the one that most distributions have. `None` if the source has ended.
    pub(super) async fn next(&mut self, before: Option<&ObjectKey>) -> Option<ObjectKey> {
        match self {
            DnsSearch::Given(given) if before.is_none() => Some(given.clone()),
            DnsSearch::Given(_) => std::future::pending().await,
            DnsSearch::Searching(search) => search.next(before).await,
        }
    }

    /// The source of Services, while there is a search.
    pub(super) fn source(&self) -> Option<&KubernetesSource> {
        match self {
            DnsSearch::Given(_) => None,
            DnsSearch::Searching(search) => Some(&search.source),
        }
    }
}

impl ServiceSearch {
    async fn next(&mut self, before: Option<&ObjectKey>) -> Option<ObjectKey> {
        loop {
            if let Some(candidates) = self.candidates.known() {
                self.found = choose(candidates, self.found.as_ref());
                let usual = || ObjectKey::new("kube-system", "kube-dns");
                let service = self.found.clone().unwrap_or_else(usual);
                if before != Some(&service) {
                    return Some(service);
                }
            }
            let event = self.events.recv().await?;
            self.apply_event(event.event);
        }
    }

    fn apply_event(&mut self, event: Event) {
        match event {
            Event::ListStarted(_) => self.candidates.apply(ListEvent::ListStarted),
            Event::ListEnded(_) => self.candidates.apply(ListEvent::ListEnded),
            Event::Deleted { key, .. } => self.candidates.apply(ListEvent::Deleted(&key)),
            Event::Unusable { problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                self.candidates.apply(ListEvent::Present(&key));
            }
            Event::Applied {
                object: Object::Fact(Fact::Service(service)),
                ..
            } => {
                self.candidates.set(&service.key.clone(), Some(service));
                if self.candidates.len() > MAX_CANDIDATES {
                    self.drop_least_preferred();
                }
            }
            Event::Applied { .. } | Event::Covered(..) | Event::ConfigMap { .. } => {}
        }
    }

    fn drop_least_preferred(&mut self) {
        let worst = self.candidates.values().map(Preference::of).max();
        if let Some(worst) = worst {
            self.candidates.set(&worst.key, None);
        }
    }
}

impl Preference {
    fn of(service: &DnsService) -> Preference {
        let key = &service.key;
        let is_usual = USUAL_NAMES.contains(&&*key.name);
        let is_system = SYSTEM_NAMESPACES.contains(&&*key.namespace);
        Preference {
            class: match (is_system, is_usual) {
                (true, true) => PreferenceClass::UsualNameInSystemNamespace,
                (true, false) => PreferenceClass::SystemNamespace,
                (false, _) => PreferenceClass::Other,
            },
            addressing: match service.addresses.is_empty() {
                false => Addressing::ClusterIp,
                true => Addressing::Headless,
            },
            created: service.created,
            key: key.clone(),
        }
    }
}

/// Chooses the Service of the cluster's DNS. The Service that was found before is kept unless
/// another one is of a better class.
fn choose(
    candidates: &BTreeMap<ObjectKey, DnsService>,
    before: Option<&ObjectKey>,
) -> Option<ObjectKey> {
    let best = candidates.values().map(Preference::of).min()?;
    let before = before
        .and_then(|key| candidates.get(key))
        .map(Preference::of);
    let is_as_good =
        |before: &Preference| (before.class, before.addressing) <= (best.class, best.addressing);
    let kept = before.filter(is_as_good);
    Some(kept.unwrap_or(best).key)
}

#[cfg(test)]
mod tests;
