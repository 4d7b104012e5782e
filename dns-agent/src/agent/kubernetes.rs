//! Follows the Kubernetes API: reads CoreDNS's Corefile, makes a plan from it, and reads the
//! objects that the plan needs.

mod config_maps;
mod config_versions;
mod coredns_configs;
mod dns_path;
mod dns_pods;
mod dns_probe;
mod dns_search;
mod freshness;
mod intake;
mod kube_dns;
mod node_caches;
mod plan;
mod policy_feeds;

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};
use zerohop_datapath::pins;
use zerohop_kubernetes::{CoreDnsServer, Feed, ObjectKey};
use zerohop_kubernetes_api::{
    Client, KubernetesSource, PolicyScope, ReceivedEvent, SourceHealth, SourceOptions,
};
use zerohop_resolver::FollowedRoutes;

pub(super) use self::intake::{KubernetesIntake, KubernetesSender};
use self::{
    config_versions::Hold,
    coredns_configs::{ConfigsReading, CoreDnsConfigs, CorefileVersion, PodWatch, Proof},
    dns_path::DnsPath,
    dns_search::DnsSearch,
    intake::{AnswerPlan, ObjectEvent, ReaderNumber, UrgentMessage},
    kube_dns::KubeDnsConfig,
    node_caches::{NodeCacheConfigs, NodeCaches},
    plan::{DnsPlacement, Plan},
};
use super::{Tasks, routes::RouteFollower};
use crate::{
    admin::status_board::{KubernetesFeeds, StatusBoard},
    config::{self, Config, NetworkPolicy},
};

/// The number of events that may wait for the publisher. More events wait in the connections to the
/// API server.
const EVENT_QUEUE: usize = 16;

/// The interval at which the agent looks whether an awaited configuration can't be read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The first lists of all agents of a cluster are spread over this time.
const FIRST_LIST_JITTER: Duration = Duration::from_secs(5);

/// What the readers of the Kubernetes API need.
pub(super) struct KubernetesReaders {
    pub(super) config: Config,
    pub(super) kubernetes: config::KubernetesConfig,
    pub(super) board: Arc<StatusBoard>,
    pub(super) routes: RouteFollower,
}

impl KubernetesReaders {
    /// Spawns the readers.
    pub(super) fn spawn(self, client: Client, sender: &KubernetesSender, tasks: &mut Tasks) {
        let KubernetesReaders {
            config,
            kubernetes,
            board,
            routes,
        } = self;
        // A search spreads everything that follows.
        let jitter = first_list_jitter(&config.bpffs);
        let (search_jitter, first_list_jitter_left) = match kubernetes.dns_service {
            None => (jitter, Duration::ZERO),
            Some(_) => (Duration::ZERO, jitter),
        };
        let reader = ApiReader {
            search: DnsSearch::new(&client, &kubernetes, search_jitter),
            first_list_jitter_left,
            client,
            config,
            kubernetes,
            board,
            routes,
            publisher: sender.clone(),
            reader_number: ReaderNumber::default(),
        };
        tasks.spawn(reader.read());
    }
}

/// Reads the Kubernetes API. Another Service of the cluster's DNS starts everything anew, except
/// this.
struct ApiReader {
    search: DnsSearch,
    client: Client,
    config: Config,
    kubernetes: config::KubernetesConfig,
    board: Arc<StatusBoard>,
    routes: RouteFollower,
    publisher: KubernetesSender,
    /// The number of the newest reader of objects.
    reader_number: ReaderNumber,
    /// The time over which the next first lists are spread. It is zero after they have started
    /// once, because only the start of all agents causes a burst of lists.
    first_list_jitter_left: Duration,
}

impl ApiReader {
    /// Sends events and plans to the intake until the publisher, or a source, has ended. Returns
    /// the task's name.
    async fn read(mut self) -> &'static str {
        let ended = "the reader of the Kubernetes API";
        self.board.set_feeds(KubernetesFeeds {
            reasons: Vec::new(),
            health: self
                .search
                .source()
                .map(KubernetesSource::health)
                .into_iter()
                .collect(),
        });
        let Some(mut service) = self.search.next(None).await else {
            return ended;
        };
        loop {
            info!("takes Service {service} for the cluster's DNS, if it exists");
            // Until this Service's configuration is known, its DNS answers.
            self.routes.follow_cluster_dns(&FollowedRoutes::Unknown);
            let message = UrgentMessage::DnsService(service.clone());
            if self.publisher.urgent.send(message).await.is_err() {
                return ended;
            }
            // The facts' reader is stopped before the next message, so that no fact about an
            // earlier Service arrives after it.
            let mut facts = JoinSet::new();
            let mut follower = self.start_follower(&service, &mut facts);
            let next = tokio::select! {
                Some(Ok(name)) = facts.join_next() => return name,
                () = follower.send_plans(&self.publisher) => return ended,
                next = self.search.next(Some(&service)) => next,
            };
            self.reader_number = follower.reader_number;
            drop(follower);
            facts.shutdown().await;
            match next {
                Some(next) => service = next,
                None => return ended,
            }
        }
    }

    /// Starts reading the facts about a Service, and makes plans from them.
    fn start_follower(
        &mut self,
        service: &ObjectKey,
        facts: &mut JoinSet<&'static str>,
    ) -> KubernetesFollower {
        let jitter = std::mem::take(&mut self.first_list_jitter_left);
        let has_kernel_plane = !self.config.interfaces.is_empty();
        // Only the kernel plane depends on policies and node caches, and only the search for the
        // Corefile on pods.
        let is_path_needed = has_kernel_plane || self.kubernetes.corefile.is_none();
        let dns_path = is_path_needed.then(|| {
            let (path_sender, path_receiver) = watch::channel(DnsPath::default());
            let scope = PolicyScope {
                node: self.kubernetes.node_name.clone(),
                dns: service.clone(),
            };
            facts.spawn(policy_feeds::follow(
                self.client.clone(),
                scope,
                match has_kernel_plane {
                    true => self.config.network_policy,
                    false => NetworkPolicy::Ignore,
                },
                jitter,
                self.publisher.clone(),
                path_sender,
                self.board.clone(),
            ));
            path_receiver
        });
        let client = self.client.clone();
        let (config, kubernetes) = (&self.config, &self.kubernetes);
        let caches = has_kernel_plane
            .then(|| NodeCaches::new(client.clone(), config, kubernetes, service.clone()));
        let watch = match has_kernel_plane {
            true => PodWatch::On,
            false => PodWatch::Off,
        };
        let (proof, proof_receiver) = watch::channel(Proof::Awaited);
        self.search.watch_proof(proof_receiver);
        KubernetesFollower {
            proof,
            notes: self.search.notes(),
            search: self.search.source().map(KubernetesSource::health),
            corefiles: CoreDnsConfigs::new(client.clone(), kubernetes, watch),
            kube_dns: KubeDnsConfig::new(client.clone()),
            client,
            config: config.clone(),
            kubernetes: kubernetes.clone(),
            service: service.clone(),
            board: self.board.clone(),
            routes: self.routes.clone(),
            dns_path,
            caches,
            reader: None,
            reader_number: self.reader_number,
            first_list_jitter_left: jitter,
            logged_reasons: Vec::new(),
            last_plan: None,
            next_look: None,
        }
    }
}

/// The time over which the first lists are spread; zero if hooks of an earlier agent may answer.
fn first_list_jitter(bpffs: &Path) -> Duration {
    // Pinned hooks of an earlier agent answer only until their lease ends, so this agent must list
    // at once to take over without a gap.
    if pins::folder_exists(bpffs) {
        Duration::ZERO
    } else {
        FIRST_LIST_JITTER
    }
}

/// Follows the Corefiles of CoreDNS and of node caches, and reads the objects of the current plan.
struct KubernetesFollower {
    client: Client,
    config: Config,
    kubernetes: config::KubernetesConfig,
    /// The Service of the cluster's DNS.
    service: ObjectKey,
    board: Arc<StatusBoard>,
    routes: RouteFollower,
    /// The health of the search for the Service; `None` if it was given.
    search: Option<Arc<SourceHealth>>,
    /// Receives whether CoreDNS is proven to run behind the Service.
    proof: watch::Sender<Proof>,
    /// Remarks about other Services, for the status; `None` if the Service was given.
    notes: Option<watch::Receiver<Vec<String>>>,
    /// Says which pods answer DNS; `None` if neither the kernel plane nor the search for the
    /// Corefile needs it.
    dns_path: Option<watch::Receiver<DnsPath>>,
    corefiles: CoreDnsConfigs,
    kube_dns: KubeDnsConfig,
    /// The node caches of this node. `None` without a kernel plane, because only the kernel plane
    /// depends on them.
    caches: Option<NodeCaches>,
    /// Reads the objects of the current plan; `None` before the first plan, and while the plan has
    /// no zone.
    reader: Option<ObjectReader>,
    /// The number of the newest reader.
    reader_number: ReaderNumber,
    /// As in [`ApiReader`].
    first_list_jitter_left: Duration,
    /// The conclusions of the last plan. Those of the next plan are logged only if they differ.
    logged_reasons: Vec<String>,
    last_plan: Option<Plan>,
    /// When to look again whether a configuration of CoreDNS can't be read, because no event says
    /// so. `None` while none is awaited.
    next_look: Option<Instant>,
}

/// Reads the objects of the current plan.
struct ObjectReader {
    number: ReaderNumber,
    options: SourceOptions,
    events: mpsc::Receiver<ReceivedEvent>,
    source: KubernetesSource,
}

impl KubernetesFollower {
    /// Sends plans, and events of objects, until the publisher or a source has ended.
    async fn send_plans(&mut self, publisher: &KubernetesSender) {
        // A named ConfigMap is read at once.
        let mut plan = self.make_plan();
        loop {
            if let Some(plan) = plan
                && publisher
                    .urgent
                    .send(UrgentMessage::Plan(plan))
                    .await
                    .is_err()
            {
                return;
            }
            plan = match self.next_plan(publisher).await {
                Some(plan) => Some(plan),
                None => return,
            };
        }
    }

    /// Sends events of objects to the publisher until there is a new plan. `None` when the
    /// publisher, or a source, has ended.
    async fn next_plan(&mut self, publisher: &KubernetesSender) -> Option<AnswerPlan> {
        loop {
            let plan = tokio::select! {
                changed = path_changed(&mut self.dns_path) => {
                    changed?;
                    self.make_plan()
                }
                () = configs_changed(
                    &mut self.corefiles, &mut self.kube_dns, &mut self.caches
                ) => self.make_plan(),
                () = reach_time(self.next_look) => self.make_plan(),
                () = notes_changed(&mut self.notes) => {
                    let plan = self.last_plan.as_ref();
                    self.show_feeds(plan.map(|plan| plan.reasons.clone()).unwrap_or_default());
                    None
                }
                // A publisher that takes no objects must not keep Corefiles waiting.
                forwarded = forward_event(&mut self.reader, publisher) => {
                    forwarded?;
                    None
                }
            };
            if plan.is_some() {
                return plan;
            }
        }
    }

    /// Makes the plan from the current Corefiles and follows it; `None` before CoreDNS's Corefile
    /// is known.
    fn make_plan(&mut self) -> Option<AnswerPlan> {
        let dns_path = self.dns_path.as_mut();
        let dns_path = dns_path.map(|path| path.borrow_and_update().clone());
        let reading = self.corefiles.read(dns_path.as_ref());
        self.send_proof(reading.proof());
        let ConfigsReading::Known { configs, unknown } = reading else {
            self.next_look = Some(Instant::now() + LOOK_INTERVAL);
            return self.hold_plan();
        };
        self.next_look = None;
        let holds_of_pods = unknown.clone();
        let mut holds = unknown;
        let dns_path = dns_path.unwrap_or_default();
        let read = self
            .caches
            .as_mut()
            .map(|caches| caches.read_configs(&dns_path));
        let NodeCacheConfigs {
            known,
            unknown,
            note,
        } = read.unwrap_or_default();
        holds.extend(unknown);
        let (config, service) = (&self.config, &self.service);
        let dns = DnsPlacement {
            kubernetes: &self.kubernetes,
            service,
        };
        let known = Plan::new(config, &dns, &configs, &[]).counted_caches(known);
        let (keys, caches): (Vec<_>, Vec<_>) = known.into_iter().unzip();
        let addresses = caches.iter().flat_map(|cache| cache.own_addresses.iter());
        let addresses = addresses.copied().collect();
        let mut plan = Plan::new(config, &dns, &configs, &caches);
        plan.reasons.extend(note);
        let kube_dns = self.kube_dns.read(&dns_path);
        if configs.is_empty() {
            if kube_dns.routes.is_none() && !kube_dns.reasons.is_empty() {
                self.next_look = Some(Instant::now() + LOOK_INTERVAL);
            }
            if let Some(routes) = kube_dns.routes {
                plan.routes = FollowedRoutes::Known(routes);
            }
            plan.reasons.extend(kube_dns.reasons);
        }
        let plan_before = |server: &CoreDnsServer, config_before: &CorefileVersion| {
            let mut before = configs.clone();
            before.insert(server.clone(), config_before.clone());
            Plan::new(config, &dns, &before, &caches)
        };
        holds.extend(
            (self.corefiles)
                .holds(|server, before| plan_before(server, before).answers_like(&plan)),
        );
        // CoreDNS may still forward names by another Corefile, or it isn't known by which.
        let of_routes = (self.corefiles)
            .holds(|server, before| plan_before(server, before).routes == plan.routes);
        let has_unknown = !configs.is_empty() && !holds_of_pods.is_empty();
        if has_unknown || !of_routes.is_empty() {
            plan.routes = FollowedRoutes::Unknown;
            plan.reasons.extend(of_routes.iter().map(|hold| {
                format!(
                    "{}: meanwhile the cluster's DNS answers all names outside the cluster",
                    hold.reason
                )
            }));
            let ends = of_routes.iter().filter_map(|hold| hold.until);
            let next = ends.chain(self.next_look.map(Instant::into_std)).min();
            self.next_look = next.map(Instant::from_std);
        }
        for (index, key) in keys.iter().enumerate() {
            let Some(watched) = &mut self.caches else {
                continue;
            };
            let name = &caches[index].name;
            holds.extend(watched.hold(key, name, &dns_path, |text| {
                let mut before = caches.clone();
                before[index].text.clone_from(text);
                Plan::new(config, &dns, &configs, &before).answers_like(&plan)
            }));
        }
        Some(self.follow_plan(plan, holds, addresses))
    }

    fn send_proof(&self, current: Proof) {
        self.proof.send_if_modified(|proof| {
            let has_changed = *proof != current;
            *proof = current;
            has_changed
        });
    }

    /// The last plan with a hold, because CoreDNS's pods or configurations aren't known now. `None`
    /// before the first plan.
    fn hold_plan(&mut self) -> Option<AnswerPlan> {
        let Some(plan) = self.last_plan.clone() else {
            self.show_feeds(Vec::new());
            return None;
        };
        let hold = Hold {
            until: None,
            reason: "it isn't known yet with which configuration CoreDNS runs now".to_owned(),
        };
        Some(self.follow_plan(plan, vec![hold], Vec::new()))
    }

    /// Logs and shows the plan's reasons, starts reading its objects unless the previous plan has
    /// the same objects, and returns what the publisher needs.
    fn follow_plan(
        &mut self,
        plan: Plan,
        holds: Vec<Hold>,
        cache_addresses: Vec<IpAddr>,
    ) -> AnswerPlan {
        self.routes.follow_cluster_dns(&plan.routes);
        self.last_plan = Some(plan.clone());
        if plan.reasons != self.logged_reasons {
            for reason in &plan.reasons {
                info!("{reason}");
            }
            if plan.settings.cluster_domains.is_empty() {
                warn!(
                    "CoreDNS answers all queries, because the agent has no zone to answer for: \
                     see the reasons above"
                );
            }
            self.logged_reasons.clone_from(&plan.reasons);
        }
        let before = self.reader.as_ref().map(|reader| &reader.options);
        let is_same = before == plan.options.as_ref();
        if !is_same {
            // Dropped first, so that no event of the old reader arrives after the plan.
            self.reader = None;
            let jitter = std::mem::take(&mut self.first_list_jitter_left);
            self.reader_number = self.reader_number.next();
            let number = self.reader_number;
            let start = |options| {
                let client = self.client.clone();
                ObjectReader::start(client, options, jitter, number)
            };
            self.reader = plan.options.map(start);
        }
        let health = self.show_feeds(plan.reasons);
        AnswerPlan {
            settings: plan.settings,
            holds,
            feeds: (!is_same).then(|| {
                let reader = self.reader.as_ref();
                let feeds = reader.map_or_else(BTreeSet::new, ObjectReader::feeds);
                (self.reader_number, feeds)
            }),
            cache_addresses,
            health,
        }
    }

    /// Shows the health of all feeds, a plan's reasons, and remarks about other Services. Returns
    /// the health.
    fn show_feeds(&self, mut reasons: Vec<String>) -> Vec<Arc<SourceHealth>> {
        let notes = self.notes.iter();
        reasons.extend(notes.flat_map(|notes| notes.borrow().clone()));
        let reader = self.reader.as_ref();
        let health: Vec<_> = (self.search.iter().cloned())
            .chain(self.corefiles.health())
            .chain(self.kube_dns.health())
            .chain(reader.map(|reader| reader.source.health()))
            .chain(self.caches.iter().flat_map(NodeCaches::health))
            .collect();
        self.board.set_feeds(KubernetesFeeds {
            reasons,
            health: health.clone(),
        });
        health
    }
}

/// Waits until the DNS path may have changed; forever if it isn't needed. `None` if its source has
/// ended.
async fn path_changed(dns_path: &mut Option<watch::Receiver<DnsPath>>) -> Option<()> {
    match dns_path {
        Some(dns_path) => dns_path.changed().await.ok(),
        None => std::future::pending().await,
    }
}

/// Waits until the remarks about other Services may have changed; forever without a search.
async fn notes_changed(notes: &mut Option<watch::Receiver<Vec<String>>>) {
    let has_changed = match notes {
        Some(notes) => notes.changed().await.is_ok(),
        None => false,
    };
    if !has_changed {
        std::future::pending::<()>().await;
    }
}

/// Waits until a time; forever without one.
async fn reach_time(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until a configuration of CoreDNS, of kube-dns or of a node cache may have changed.
async fn configs_changed(
    corefiles: &mut CoreDnsConfigs,
    kube_dns: &mut KubeDnsConfig,
    caches: &mut Option<NodeCaches>,
) {
    std::future::poll_fn(|context| {
        if corefiles.poll_changed(context).is_ready() || kube_dns.poll_changed(context).is_ready() {
            return Poll::Ready(());
        }
        match caches {
            Some(caches) => caches.poll_changed(context),
            None => Poll::Pending,
        }
    })
    .await;
}

/// Sends the next event of the current reader to the publisher; waits forever without a reader.
/// `None` when the publisher or the reader has ended.
async fn forward_event(
    reader: &mut Option<ObjectReader>,
    publisher: &KubernetesSender,
) -> Option<()> {
    let Some(reader) = reader else {
        return std::future::pending().await;
    };
    // Waits for room first, so that no event is lost if the caller drops this future.
    let place = publisher.objects.reserve().await.ok()?;
    let event = reader.events.recv().await?;
    place.send(ObjectEvent::new(event, reader.number));
    Some(())
}

impl ObjectReader {
    fn start(
        client: Client,
        options: SourceOptions,
        jitter: Duration,
        number: ReaderNumber,
    ) -> ObjectReader {
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let spread = SourceOptions {
            first_list_jitter: jitter,
            ..options.clone()
        };
        ObjectReader {
            number,
            source: KubernetesSource::start(client, &spread, sender),
            options,
            events,
        }
    }

    fn feeds(&self) -> BTreeSet<Feed> {
        self.source.health().feeds().into_keys().collect()
    }
}
