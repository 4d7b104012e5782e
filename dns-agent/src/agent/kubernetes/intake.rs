//! The intake of the Kubernetes API: applies plans, policies and events of objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
    time::{Instant, SystemTime},
};

use tokio::sync::mpsc;
use tracing::{info, warn};
use zerohop_kubernetes::{
    Coverage, EndpointScope, Event, Feed, Index, Object, ObjectKey, PolicyKind, Problem,
    ZoneSettings,
};
use zerohop_kubernetes_api::{ReceivedEvent, SourceHealth};
use zerohop_resolver::UpstreamServers;
use zerohop_zone::{Provider, ZoneData as _};

use super::{
    config_versions::Hold,
    freshness::{ApiFreshness, PlanChange},
};
use crate::{
    admin::{metrics::Metrics, status_board::StatusBoard},
    agent::{
        client_policy::ClientPolicy,
        intake::{
            self, AppliedChange, Intake, IntakeReport, IntakeSender, Measure, UrgentChange, Wake,
            read_lock, write_lock,
        },
        kernel_plane::{Freshness, StaleReason},
        permitted_queries::PermittedQueries,
    },
    config::{Config, DnsAddresses, KubernetesConfig},
};

/// The port at which pods query the cluster's DNS.
const DNS_PORT: u16 = 53;

/// A message that must not wait behind objects.
#[derive(Debug)]
pub(super) enum UrgentMessage {
    /// The Service of the cluster's DNS: the first one, or another one than before. The facts of
    /// the one before don't count any more.
    DnsService(ObjectKey),
    /// A new plan.
    Plan(AnswerPlan),
    /// An event of a feed of facts for NetworkPolicies.
    PolicyEvent(Event),
    /// The kinds of policies that the API serves, besides NetworkPolicy.
    PolicyKinds(BTreeSet<PolicyKind>),
    /// The health of the feeds of facts.
    PolicyHealth(Vec<Arc<SourceHealth>>),
}

/// The part of a plan that the intake applies.
#[derive(Debug)]
pub(super) struct AnswerPlan {
    /// How objects become records.
    pub(super) settings: ZoneSettings,
    /// Reasons why the kernel may not answer yet, each with its end.
    pub(super) holds: Vec<Hold>,
    /// The feeds that list again, and the number of their reader; `None` when the feeds are the
    /// same as before. The kernel passes everything until the lists of all these feeds are
    /// complete.
    pub(super) feeds: Option<(ReaderNumber, BTreeSet<Feed>)>,
    /// The addresses of node caches at which the kernel answers.
    pub(super) cache_addresses: Vec<IpAddr>,
    /// The health of the feeds of objects.
    pub(super) health: Vec<Arc<SourceHealth>>,
}

/// The number of a reader of objects. A later reader has a larger number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReaderNumber(u64);

/// An event of a feed of objects.
#[derive(Debug)]
pub(super) struct ObjectEvent {
    event: Box<Event>,
    /// The reader of the feed.
    reader: ReaderNumber,
    /// When the event was read from the API.
    received: Instant,
}

/// Sends messages to the intake.
#[derive(Clone, Debug)]
pub(in crate::agent) struct KubernetesSender {
    pub(super) urgent: IntakeSender<UrgentMessage>,
    pub(super) objects: IntakeSender<ObjectEvent>,
}

/// Applies plans, policies and events of objects to the index and the client policy.
pub(in crate::agent) struct KubernetesIntake {
    index: Arc<RwLock<Index>>,
    urgent: mpsc::Receiver<UrgentMessage>,
    objects: mpsc::Receiver<ObjectEvent>,
    /// The next event, if the plan of its reader has not been applied yet.
    early: Option<ObjectEvent>,
    /// The reader whose events are applied.
    reader: ReaderNumber,
    api: ApiFreshness,
    client_policy: ClientPolicy,
    /// Problems of objects that can't be read, by feed and object.
    unusable: BTreeMap<(Feed, ObjectKey), Problem>,
    /// Keys of `unusable` that the current list has not reported yet.
    unusable_unlisted: BTreeSet<(Feed, ObjectKey)>,
}

impl KubernetesIntake {
    /// An intake that has received nothing, and its sender. `index` has no objects. `cluster_dns`
    /// are the resolver's servers of the cluster's DNS.
    pub(in crate::agent) fn new(
        config: &Config,
        kubernetes: &KubernetesConfig,
        index: Arc<RwLock<Index>>,
        cluster_dns: UpstreamServers,
        wake: &Wake,
    ) -> (KubernetesSender, KubernetesIntake) {
        let (urgent_sender, urgent) = intake::channel(wake);
        let (objects_sender, objects) = intake::channel(wake);
        let sender = KubernetesSender {
            urgent: urgent_sender,
            objects: objects_sender,
        };
        let intake = KubernetesIntake {
            index,
            urgent,
            objects,
            early: None,
            reader: ReaderNumber::default(),
            api: ApiFreshness::new(kubernetes, cluster_dns),
            client_policy: ClientPolicy::new(config),
            unusable: BTreeMap::new(),
            unusable_unlisted: BTreeSet::new(),
        };
        (sender, intake)
    }

    /// Applies a plan. Returns whether the kernel may not answer from the current names any more:
    /// CoreDNS may not run with the configuration of this plan yet, or feeds list again.
    fn apply_plan(&mut self, plan: AnswerPlan) -> bool {
        let AnswerPlan {
            settings,
            holds,
            feeds,
            cache_addresses,
            health,
        } = plan;
        self.api.feed_health = health;
        self.api.cache_addresses = cache_addresses;
        let plan_change = self.api.replace_plan(&settings, holds);
        let ends_answers =
            plan_change == PlanChange::Changed || feeds.is_some() || self.api.is_held();
        let mut index = write_lock(&self.index);
        if let Some((reader, feeds)) = feeds {
            self.reader = reader;
            // A feed of all slices covers every Service. Otherwise an event names the Services that
            // the feed covers.
            let coverage = match settings.endpoint_scope {
                EndpointScope::All => Coverage::Every,
                EndpointScope::Headless => Coverage::NOTHING,
            };
            index.begin_listing(&feeds, coverage);
            self.api.unlisted_feeds.clone_from(&feeds);
            self.api.planned_feeds = feeds;
        }
        index.set_settings(settings);
        if self.api.unlisted_feeds.is_empty() && !index.is_complete() {
            index.mark_complete();
        }
        ends_answers
    }

    /// Applies an event of a feed of objects, which was read at this time. Returns how to measure
    /// its latency, if it is measured.
    fn apply_event(&mut self, event: Event, read: Instant) -> Option<Measure> {
        self.track_unusable_objects(&event);
        let mut index = write_lock(&self.index);
        match event {
            Event::ListStarted(feed) => index.begin_list(feed),
            Event::Applied {
                feed,
                object,
                changed,
            } => {
                let service = match &object {
                    Object::EndpointSlice(slice) => slice.service_key(),
                    _ => None,
                };
                let differs = index.apply_object(feed, object);
                if differs && index.is_complete() {
                    return Some(self.measure(read, service.zip(changed)));
                }
            }
            Event::Deleted { feed, key } => {
                index.delete_object(feed, &key);
                if index.is_complete() {
                    return Some(self.measure(read, None));
                }
            }
            Event::Unusable {
                feed,
                placeholder: Some(placeholder),
                ..
            } => {
                index.apply_object(feed, placeholder);
            }
            Event::Unusable {
                placeholder: None, ..
            } => {}
            Event::Covered(feed, covered) => index.record_coverage(feed, covered),
            Event::ListEnded(feed) => {
                index.end_list(feed);
                self.api.unlisted_feeds.remove(&feed);
                if self.api.unlisted_feeds.is_empty() && !index.is_complete() {
                    index.mark_complete();
                    info!(objects = ?index.counts(), "the first lists of all objects are complete");
                }
            }
            Event::ConfigMap { .. } => {}
        }
        None
    }

    /// Measures the latency of a change. `endpoints` is the Service whose endpoints changed, and
    /// when they changed in the cluster; `None` for other changes.
    fn measure(&self, read: Instant, endpoints: Option<(ObjectKey, SystemTime)>) -> Measure {
        let index = self.index.clone();
        Box::new(move |metrics: &Metrics| {
            metrics.observe_publication(read.elapsed());
            if let Some((service, changed)) = endpoints {
                let index = read_lock(&index);
                metrics.observe_programming(index.service_kind(&service), changed);
            }
        })
    }

    /// Keeps the problems of objects that can't be read, and logs new problems.
    fn track_unusable_objects(&mut self, event: &Event) {
        match event {
            Event::Unusable { feed, problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                self.unusable_unlisted.remove(&(*feed, key.clone()));
                let before = self.unusable.insert((*feed, key), problem.clone());
                if before.as_ref() != Some(problem) {
                    warn!("{problem}; the object's names are delegated to CoreDNS");
                }
            }
            Event::ListStarted(feed) => {
                let keys = self.unusable.keys().filter(|(of, _)| of == feed);
                self.unusable_unlisted.extend(keys.cloned());
            }
            // Objects that the list did not report are gone.
            Event::ListEnded(feed) => {
                for gone in self.unusable_unlisted.extract_if(.., |(of, _)| of == feed) {
                    self.unusable.remove(&gone);
                }
            }
            Event::Applied { feed, object, .. } if !self.unusable.is_empty() => {
                self.unusable.remove(&(*feed, object.key()));
            }
            Event::Deleted { feed, key } => {
                self.unusable.remove(&(*feed, key.clone()));
            }
            _ => {}
        }
    }
}

impl Intake for KubernetesIntake {
    fn name(&self) -> &'static str {
        "the Kubernetes API"
    }

    fn provider(&self) -> Arc<RwLock<dyn Provider>> {
        self.index.clone()
    }

    fn has_names(&self) -> bool {
        !read_lock(&self.index).view().zones().is_empty()
    }

    fn apply_urgent(&mut self) -> UrgentChange {
        let mut change = UrgentChange::default();
        while let Ok(message) = self.urgent.try_recv() {
            change.may_change_clients = true;
            match message {
                UrgentMessage::DnsService(service) => {
                    self.client_policy.restart();
                    self.api.set_dns_service(service);
                    change.ends_answers = true;
                }
                UrgentMessage::Plan(plan) => {
                    change.names_since.get_or_insert_with(Instant::now);
                    change.ends_answers |= self.apply_plan(plan);
                }
                UrgentMessage::PolicyEvent(event) => {
                    self.track_unusable_objects(&event);
                    self.client_policy.apply_event(event);
                }
                UrgentMessage::PolicyKinds(kinds) => self.client_policy.set_policy_kinds(kinds),
                UrgentMessage::PolicyHealth(health) => {
                    self.api.policy_feed_health.clone_from(&health);
                    self.client_policy.set_feed_health(health);
                }
            }
        }
        change
    }

    fn apply_next(&mut self) -> Option<AppliedChange> {
        let next = self.early.take();
        let next = next.or_else(|| self.objects.try_recv().ok())?;
        // The plan of a new reader is sent before the reader's events.
        if next.reader > self.reader {
            self.early = Some(next);
            return None;
        }
        let received = next.received;
        // An event of an earlier reader, which was stopped, is ignored.
        let measure = (next.reader == self.reader)
            .then(|| self.apply_event(*next.event, received))
            .flatten();
        Some(AppliedChange {
            received,
            published: None,
            measure,
        })
    }

    fn has_waiting(&self) -> bool {
        self.early.is_some() || !self.objects.is_empty()
    }

    fn blocked_since(&self) -> Option<Instant> {
        let health = self.api.feed_health.iter();
        let blocked = health.filter_map(|health| health.blocked_since());
        blocked.map(tokio::time::Instant::into_std).min()
    }

    fn freshness(&self) -> Freshness {
        if !read_lock(&self.index).is_complete() {
            return Freshness::Stale(StaleReason::Unlisted);
        }
        self.api.freshness()
    }

    /// The addresses of the cluster's DNS. They may change while no name changes, because its
    /// Service need not have names (`--namespace`, `--labels`), and the names of its endpoints may
    /// be delegated to CoreDNS. Also tells the resolver.
    fn served_addresses(&self) -> Option<Vec<SocketAddr>> {
        let index = read_lock(&self.index);
        let (services, endpoints) = (self.api.dns_service.as_ref())
            .map(|service| index.dns_addresses(service))
            .unwrap_or_default();
        let caches = self.api.cache_addresses.iter();
        let caches: Vec<_> = caches.map(|it| SocketAddr::new(*it, DNS_PORT)).collect();
        if let Some(cluster_dns) = &self.api.cluster_dns {
            cluster_dns.set(&services);
        }
        match self.api.dns_addresses {
            DnsAddresses::Given => None,
            DnsAddresses::Service => Some([services, caches].concat()),
            DnsAddresses::ServiceAndEndpoints => Some([services, caches, endpoints].concat()),
        }
    }

    fn clients(&self) -> Option<PermittedQueries> {
        Some(self.client_policy.permitted().clone())
    }

    fn evaluate_clients(&mut self, served_addresses: &[SocketAddr]) -> Option<PermittedQueries> {
        self.client_policy.evaluate_clients(served_addresses)
    }

    fn is_settled(&self) -> bool {
        self.client_policy.is_settled()
    }

    fn changes_often(&self) -> bool {
        true
    }

    fn report(&mut self, board: &StatusBoard) -> IntakeReport {
        let mut report = IntakeReport {
            missing: self.client_policy.missing().into_iter().collect(),
            degraded: self.client_policy.degraded(),
            problems: self.unusable.values().map(ToString::to_string).collect(),
        };
        let index = read_lock(&self.index);
        board.update(|status| {
            status.objects = index.counts();
            status.network_policy = self.client_policy.status();
        });
        let unlisted = self.api.unlisted_feeds.iter();
        let awaited: Vec<_> = unlisted.map(|feed| feed.name()).collect();
        if !awaited.is_empty() {
            report.missing.push(format!(
                "the first list of {} is not complete yet",
                awaited.join(", ")
            ));
        }
        if !index.is_complete() && self.api.planned_feeds.is_empty() {
            let reason = "CoreDNS's Corefile has not been read yet".to_owned();
            report.missing.push(reason);
        }
        let uncovered = index.count_uncovered();
        if index.is_complete() && uncovered > 0 {
            report.degraded.push(format!(
                "CoreDNS answers the names of {uncovered} headless Services, because not all of \
                 their EndpointSlices are watched yet"
            ));
        }
        if index.is_complete() && index.view().zones().is_empty() {
            report.degraded.push(
                "the kernel passes everything about the cluster, and CoreDNS answers, because there \
                 is no zone to answer for: see the reasons below"
                    .to_owned(),
            );
        }
        match self.api.freshness() {
            _ if !index.is_complete() => {}
            Freshness::Stale(StaleReason::Held) => {
                let reasons = self.api.active_holds().map(|hold| &hold.reason);
                report.degraded.extend(reasons.map(|reason| {
                    format!("{reason}: the kernel passes everything about the cluster, and CoreDNS answers")
                }));
            }
            Freshness::Stale(StaleReason::Silence) => report.degraded.push(
                "nothing was received from the API for --max-age, so the kernel passes everything \
                 about the cluster, and CoreDNS answers: see the feeds in `dns-agent status`"
                    .to_owned(),
            ),
            // Reported as missing.
            Freshness::Stale(StaleReason::Unlisted | StaleReason::Unpublished)
            | Freshness::Current => {}
        }
        report
    }
}

impl ObjectEvent {
    /// An event of this reader.
    pub(super) fn new(event: ReceivedEvent, reader: ReaderNumber) -> ObjectEvent {
        ObjectEvent {
            event: Box::new(event.event),
            reader,
            received: event.received,
        }
    }
}

impl ReaderNumber {
    /// The number of the next reader.
    pub(super) fn next(self) -> ReaderNumber {
        ReaderNumber(self.0 + 1)
    }
}
