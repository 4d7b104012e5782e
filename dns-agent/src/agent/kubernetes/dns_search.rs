//! Finds the Service of the cluster's DNS: a Service with UDP port 53 that selects pods, behind
//! which CoreDNS is proven to run.
//!
//! [`super::coredns_configs`] proves it for the chosen Service, and [`super::dns_probe`] for others
//! that may replace it. Queries to the addresses of other Services pass, so a wrong choice costs
//! only speed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::info;
use zerohop_kubernetes::{DnsService, Event, Fact, Object, ObjectKey, SYSTEM_NAMESPACES};
use zerohop_kubernetes_api::{Client, KubernetesSource, ReceivedEvent};

use super::{
    coredns_configs::Proof,
    dns_path::{ListEvent, ListedObjects},
    dns_probe::{self, DnsProbe},
};
use crate::config::{KubernetesConfig, WithoutCorefile};

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

/// The most Services besides the chosen one whose pods and Corefiles are read.
const MAX_PROBES: usize = 4;

/// The interval at which a probe looks again whether a ConfigMap can't be read, because no event
/// says so.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The interval at which the search decides again without an event.
const FAR: Duration = Duration::from_secs(3600);

/// Finds the Service of the cluster's DNS.
pub(super) enum DnsSearch {
    /// The operator has named the Service.
    Given(ObjectKey),
    Searching(Box<ServiceSearch>),
}

/// Searches all Services.
pub(super) struct ServiceSearch {
    client: Client,
    kubernetes: KubernetesConfig,
    source: KubernetesSource,
    events: mpsc::Receiver<ReceivedEvent>,
    candidates: ListedObjects<DnsService>,
    /// The Service that was found last.
    found: Option<(ObjectKey, ProofState)>,
    /// The proof of the Service that was found last; `None` before one is found.
    found_proof: Option<watch::Receiver<Proof>>,
    /// Other Services whose pods and Corefiles are read.
    probes: BTreeMap<ObjectKey, (DnsProbe, ProofState)>,
    /// Receives the remarks about these Services, for the status.
    notes: watch::Sender<Vec<String>>,
}

/// What is known of a candidate.
#[derive(Clone, Debug)]
struct ProofState {
    proof: Proof,
    /// Since when CoreDNS is proven, or isn't.
    since: Instant,
}

/// A choice among the candidates.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    service: ObjectKey,
    /// The other candidates whose pods and Corefiles are read.
    probed: Vec<ObjectKey>,
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

/// Without a proof, Services of a better class replace a Service that was found before.
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
        kubernetes: &KubernetesConfig,
        first_list_jitter: Duration,
    ) -> DnsSearch {
        if let Some(given) = &kubernetes.dns_service {
            return DnsSearch::Given(given.clone());
        }
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        DnsSearch::Searching(Box::new(ServiceSearch {
            client: client.clone(),
            kubernetes: kubernetes.clone(),
            source: KubernetesSource::start_dns_candidates(
                client.clone(),
                first_list_jitter,
                sender,
            ),
            events,
            candidates: ListedObjects::default(),
            found: None,
            found_proof: None,
            probes: BTreeMap::new(),
            notes: watch::Sender::default(),
        }))
    }

    /// Waits for the next choice: the first one, or another one than before. Without any Service,
    /// this is the one that most distributions have. `None` if the source has ended.
    pub(super) async fn next(&mut self, before: Option<&ObjectKey>) -> Option<ObjectKey> {
        match self {
            DnsSearch::Given(given) if before.is_none() => Some(given.clone()),
            DnsSearch::Given(_) => std::future::pending().await,
            DnsSearch::Searching(search) => search.next(before).await,
        }
    }

    /// Says where the proof of the Service arrives that was found last.
    pub(super) fn watch_proof(&mut self, proof: watch::Receiver<Proof>) {
        if let DnsSearch::Searching(search) = self {
            search.found_proof = Some(proof);
        }
    }

    /// The remarks about Services that were not chosen, for the status; `None` without a search.
    pub(super) fn notes(&self) -> Option<watch::Receiver<Vec<String>>> {
        match self {
            DnsSearch::Given(_) => None,
            DnsSearch::Searching(search) => Some(search.notes.subscribe()),
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
            if let Some(service) = self.choose()
                && before != Some(&service)
            {
                return Some(service);
            }
            let again_at = self.next_look();
            let probes = self.probes.values_mut().map(|(probe, _)| probe);
            tokio::select! {
                event = self.events.recv() => self.apply_event(event?.event),
                () = proof_changed(&mut self.found_proof) => {}
                () = dns_probe::any_changed(probes) => {}
                () = sleep_until(again_at) => {}
            }
        }
    }

    /// Whether a Service counts only if CoreDNS is proven to run behind it. Otherwise the operator
    /// has said what CoreDNS answers.
    fn needs_proof(&self) -> bool {
        self.kubernetes.corefile.is_none()
            && self.kubernetes.without_corefile == WithoutCorefile::Pass
    }

    /// Chooses a Service by what is known now, and starts and stops probes. `None` before Services
    /// are listed.
    fn choose(&mut self) -> Option<ObjectKey> {
        let now = Instant::now();
        let candidates = self.candidates.known()?;
        let ranked = rank(candidates);
        let Some(preferred) = ranked.first().cloned() else {
            self.probes.clear();
            self.found = None;
            let usual = ObjectKey::new("kube-system", "kube-dns");
            self.send_notes();
            return Some(usual);
        };
        if !self.needs_proof() {
            let found = self.found.as_ref().map(|(key, _)| key);
            let service = keep_or_replace(candidates, found).unwrap_or(preferred);
            self.found = Some((service.clone(), ProofState::new(now)));
            return Some(service);
        }
        if let (Some((_, state)), Some(proof)) = (&mut self.found, &mut self.found_proof) {
            state.update(proof.borrow_and_update().clone(), now);
        }
        for (probe, state) in self.probes.values_mut() {
            state.update(probe.read_proof(), now);
        }
        let states = self.probes.iter();
        let states = states.map(|(key, (_, state))| (key, state));
        let found = self.found.as_ref().map(|(key, state)| (key, state));
        let settle_time = self.kubernetes.dns_settle_time;
        let Decision { service, probed } =
            decide(&ranked, found, &states.collect(), settle_time, now);
        self.probe(&probed, now);
        match &self.found {
            Some((found, _)) if *found == service => {}
            found => {
                if let Some((found, state)) = found {
                    info!(
                        "Service {service} is the cluster's DNS from now on, instead of Service \
                         {found}: {}",
                        state.describe()
                    );
                }
                self.found = Some((service.clone(), ProofState::new(now)));
                self.found_proof = None;
            }
        }
        self.send_notes();
        Some(service)
    }

    /// Probes these Services, and no others.
    fn probe(&mut self, wanted: &[ObjectKey], now: Instant) {
        let wanted: BTreeSet<&ObjectKey> = wanted.iter().collect();
        self.probes.retain(|key, _| wanted.contains(key));
        for key in wanted {
            let start = || DnsProbe::start(&self.client, &self.kubernetes, key);
            let probe = self.probes.entry(key.clone());
            probe.or_insert_with(|| (start(), ProofState::new(now)));
        }
    }

    /// When to decide again at the latest. It is far in the future if only an event can change the
    /// decision.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let settle_time = self.kubernetes.dns_settle_time;
        let others = self.probes.values().map(|(_, state)| state);
        let found = self.found.iter().map(|(_, state)| state);
        let settled = found.chain(others.clone()).map(|it| it.since + settle_time);
        let settled = settled.filter(|settled| *settled > now);
        let is_awaited = others.clone().any(|it| it.proof == Proof::Awaited);
        let awaited = is_awaited.then_some(now + LOOK_INTERVAL);
        settled.chain(awaited).min().unwrap_or(now + FAR)
    }

    fn send_notes(&self) {
        let reasons = self.probes.iter();
        let reasons = reasons.filter_map(|(key, (_, state))| match &state.proof {
            Proof::Unproven(reason) => Some(format!(
                "Service {key} is not taken for the cluster's DNS, because CoreDNS isn't proven to \
                 run behind it: {reason}"
            )),
            Proof::Awaited | Proof::Proven => None,
        });
        let mut current: Vec<String> = reasons.collect();
        if let Some((found, _)) = &self.found
            && !current.is_empty()
        {
            let note = format!("Service {found} is taken for the cluster's DNS");
            current.insert(0, note);
        }
        self.notes.send_if_modified(|notes| {
            let has_changed = *notes != current;
            *notes = current;
            has_changed
        });
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

impl ProofState {
    /// The state of a Service of which nothing is known yet.
    fn new(now: Instant) -> ProofState {
        ProofState {
            proof: Proof::Awaited,
            since: now,
        }
    }

    fn update(&mut self, proof: Proof, now: Instant) {
        if self.is_proven() != (proof == Proof::Proven) {
            self.since = now;
        }
        self.proof = proof;
    }

    fn is_proven(&self) -> bool {
        self.proof == Proof::Proven
    }

    /// What is known, as a clause.
    fn describe(&self) -> &str {
        match &self.proof {
            Proof::Awaited => "it isn't known what answers there",
            Proof::Proven => "CoreDNS is proven there too, but the other one is preferred",
            Proof::Unproven(reason) => reason,
        }
    }
}

/// The candidates, the one that is preferred most first. Services of operators and tenants are left
/// out if there is another one, even if CoreDNS isn't proven behind that: a tenant must not decide
/// how this node's resolver answers others.
fn rank(candidates: &BTreeMap<ObjectKey, DnsService>) -> Vec<ObjectKey> {
    let mut ranked: Vec<Preference> = candidates.values().map(Preference::of).collect();
    ranked.sort();
    if let Some(first) = ranked.first()
        && first.class != PreferenceClass::Other
    {
        ranked.retain(|it| it.class != PreferenceClass::Other);
    }
    ranked.into_iter().map(|it| it.key).collect()
}

/// Decides which of the `ranked` candidates is the cluster's DNS. `found` was so before, and
/// `probes` are others that have been looked at.
///
/// A Service is kept while CoreDNS is proven behind it, unless CoreDNS has been proven behind a
/// preferred one for the settle time. If CoreDNS has not been proven for the settle time, the
/// Service is replaced by the one that is preferred most among those that are proven, or among all
/// if none is.
fn decide(
    ranked: &[ObjectKey],
    found: Option<(&ObjectKey, &ProofState)>,
    probes: &BTreeMap<&ObjectKey, &ProofState>,
    settle_time: Duration,
    now: Instant,
) -> Decision {
    let is_settled = |state: &ProofState| now.duration_since(state.since) >= settle_time;
    let place = |key: &ObjectKey| ranked.iter().position(|other| other == key);
    let found = found.and_then(|(key, state)| Some((place(key)?, state)));
    let Some((place, state)) = found else {
        // The first choice, or the Service is gone.
        return Decision {
            service: ranked[0].clone(),
            probed: Vec::new(),
        };
    };
    let has_failed = !state.is_proven() && is_settled(state);
    let better = &ranked[..place];
    let others = match has_failed {
        true => &ranked[place + 1..],
        false => &[],
    };
    let looked_at = || better.iter().chain(others).take(MAX_PROBES);
    let may_replace = |key: &&ObjectKey| {
        let probe = probes.get(*key).filter(|it| it.is_proven());
        probe.is_some_and(|it| !state.is_proven() || is_settled(it))
    };
    let is_open = |key: &ObjectKey| {
        probes
            .get(key)
            .is_none_or(|it| it.proof == Proof::Awaited && !is_settled(it))
    };
    // One of which nothing is known yet may be proven, and is preferred to those after it.
    let first = looked_at().find(|key| may_replace(key) || is_open(key));
    let service = match first {
        Some(key) if may_replace(&key) => key,
        None if has_failed => &ranked[0],
        _ => &ranked[place],
    };
    Decision {
        service: service.clone(),
        probed: looked_at().filter(|key| *key != service).cloned().collect(),
    }
}

/// Waits until a proof may have changed; forever without one.
async fn proof_changed(proof: &mut Option<watch::Receiver<Proof>>) {
    let has_changed = match proof {
        Some(proof) => proof.changed().await.is_ok(),
        None => false,
    };
    if !has_changed {
        std::future::pending::<()>().await;
    }
}

/// Chooses the Service of the cluster's DNS without a proof. The Service that was found before is
/// kept unless another one is of a better class.
fn keep_or_replace(
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
