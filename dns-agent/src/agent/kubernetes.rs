//! Follows the Kubernetes API: reads CoreDNS's Corefile, makes a plan from it, and reads the
//! objects that the plan needs.

mod config_versions;
mod dns_path;
mod freshness;
mod intake;
mod node_caches;
mod plan;
mod policy_feeds;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use zerohop_datapath::pins;
use zerohop_kubernetes::{ConfigMapUpdates, Event, Feed, ObjectKey, Reload, WriteTime};
use zerohop_kubernetes_api::{Client, KubernetesSource, PolicyScope, ReceivedEvent, SourceOptions};

pub(super) use self::intake::{KubernetesIntake, KubernetesSender};
use self::{
    config_versions::{ConfigVersions, Hold, KUBELET_DELAY, RunningPods},
    dns_path::DnsPath,
    intake::{AnswerPlan, ObjectEvent, ReaderNumber, UrgentMessage},
    node_caches::{NodeCacheConfigs, NodeCaches},
    plan::{CacheCorefile, Plan},
};
use super::Tasks;
use crate::{
    admin::status_board::{KubernetesFeeds, StatusBoard},
    config::{self, Config},
};

/// The number of events that may wait for the publisher. More events wait in the connections to the
/// API server.
const EVENT_QUEUE: usize = 16;

/// The first lists of all agents of a cluster are spread over this time.
const FIRST_LIST_JITTER: Duration = Duration::from_secs(5);

/// Spawns the readers of the Kubernetes API.
pub(super) fn spawn_readers(
    client: Client,
    config: Config,
    kubernetes: config::KubernetesConfig,
    sender: &KubernetesSender,
    board: &Arc<StatusBoard>,
    tasks: &mut Tasks,
) {
    // Only the kernel plane depends on policies, and on the path to CoreDNS.
    let dns_path = (!config.interfaces.is_empty()).then(|| {
        let (path_sender, path_receiver) = watch::channel(DnsPath::default());
        let scope = PolicyScope {
            node: kubernetes.node_name.clone(),
            dns: kubernetes.dns_service.clone(),
        };
        tasks.spawn(policy_feeds::follow(
            client.clone(),
            scope,
            config.network_policy,
            first_list_jitter(&config.bpffs),
            sender.clone(),
            path_sender,
            board.clone(),
        ));
        path_receiver
    });
    let (sender, board) = (sender.clone(), board.clone());
    tasks.spawn(follow(client, config, kubernetes, dns_path, sender, board));
}

/// Sends events and plans to the intake until the publisher, or the source of CoreDNS's Corefile or
/// of objects, has ended. Returns the task's name.
async fn follow(
    client: Client,
    config: Config,
    kubernetes: config::KubernetesConfig,
    dns_path: Option<watch::Receiver<DnsPath>>,
    publisher: KubernetesSender,
    board: Arc<StatusBoard>,
) -> &'static str {
    let mut follower = KubernetesFollower::new(client, config, kubernetes, dns_path, board);
    while let Some(plan) = follower.next_plan(&publisher).await {
        if publisher
            .urgent
            .send(UrgentMessage::Plan(plan))
            .await
            .is_err()
        {
            break;
        }
    }
    "the reader of the Kubernetes API"
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
    board: Arc<StatusBoard>,
    corefiles: mpsc::Receiver<ReceivedEvent>,
    corefile_source: KubernetesSource,
    /// The Corefiles that CoreDNS may run with; a version is `None` if there was no ConfigMap, or
    /// no Corefile in it.
    corefile_versions: ConfigVersions<Option<String>>,
    /// The node caches of this node, and the DNS path, which says when CoreDNS's pods started.
    /// `None` without a kernel plane, because only the kernel plane depends on them.
    caches: Option<NodeCaches>,
    /// Reads the objects of the current plan; `None` before the first plan, and while the plan has
    /// no zone.
    reader: Option<ObjectReader>,
    /// The number of the newest reader.
    reader_number: ReaderNumber,
    /// The time over which the first lists of the next reader are spread. It is zero after the
    /// first reader has started, because only the start of all agents causes a burst of lists.
    first_list_jitter_left: Duration,
    /// The conclusions of the last plan. Those of the next plan are logged only if they differ.
    logged_reasons: Vec<String>,
}

/// Reads the objects of the current plan.
struct ObjectReader {
    number: ReaderNumber,
    options: SourceOptions,
    events: mpsc::Receiver<ReceivedEvent>,
    source: KubernetesSource,
}

impl KubernetesFollower {
    fn new(
        client: Client,
        config: Config,
        kubernetes: config::KubernetesConfig,
        dns_path: Option<watch::Receiver<DnsPath>>,
        board: Arc<StatusBoard>,
    ) -> KubernetesFollower {
        let (sender, corefiles) = mpsc::channel(1);
        let corefile_source =
            KubernetesSource::start_corefile(client.clone(), &kubernetes.corefile, sender);
        board.set_feeds(KubernetesFeeds {
            reasons: Vec::new(),
            health: vec![corefile_source.health()],
        });
        let first_list_jitter_left = first_list_jitter(&config.bpffs);
        let caches = dns_path
            .map(|dns_path| NodeCaches::new(client.clone(), &config, &kubernetes, dns_path));
        KubernetesFollower {
            client,
            config,
            kubernetes,
            board,
            corefiles,
            corefile_source,
            corefile_versions: ConfigVersions::new(KUBELET_DELAY),
            caches,
            reader: None,
            reader_number: ReaderNumber::default(),
            first_list_jitter_left,
            logged_reasons: Vec::new(),
        }
    }

    /// Sends events of objects to the publisher until there is a new plan. `None` when the
    /// publisher, or the source of CoreDNS's Corefile or of objects, has ended.
    async fn next_plan(&mut self, publisher: &KubernetesSender) -> Option<AnswerPlan> {
        loop {
            let plan = tokio::select! {
                event = self.corefiles.recv() => {
                    let Event::Corefile { text, written, updates } = event?.event else {
                        continue;
                    };
                    self.add_corefile(text, written, updates);
                    self.make_plan()
                }
                () = caches_changed(&mut self.caches) => self.make_plan(),
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

    /// Adds CoreDNS's current Corefile.
    fn add_corefile(
        &mut self,
        text: Option<String>,
        written: Option<WriteTime>,
        updates: ConfigMapUpdates,
    ) {
        let reload = match (text.as_deref().map(Reload::read), updates) {
            // Without a Corefile in the ConfigMap, CoreDNS keeps running with its current one.
            (None | Some(Reload::Refused), _) => Reload::Refused,
            (Some(_), ConfigMapUpdates::Never) => Reload::Never,
            (Some(reload), ConfigMapUpdates::Propagated) => reload,
        };
        let dns_path = self.caches.as_ref().map(NodeCaches::dns_path);
        self.corefile_versions
            .add_version(text, reload, written, dns_pods(dns_path.as_ref()));
    }

    /// Makes the plan from the current Corefiles and follows it; `None` before CoreDNS's Corefile
    /// is known.
    fn make_plan(&mut self) -> Option<AnswerPlan> {
        let corefile = self.corefile_versions.newest()?.clone();
        let configs = self.caches.as_mut().map(NodeCaches::read_configs);
        let NodeCacheConfigs {
            known,
            unknown,
            note,
        } = configs.unwrap_or_default();
        let (keys, caches): (Vec<_>, Vec<_>) = known.into_iter().unzip();
        let mut plan = Plan::new(&self.config, &self.kubernetes, corefile.as_deref(), &caches);
        plan.reasons.extend(note);
        let mut holds = unknown;
        holds.extend(self.hold_of_coredns(&plan, &caches));
        for (index, key) in keys.iter().enumerate() {
            holds.extend(self.hold_of_cache(&plan, corefile.as_deref(), &caches, index, key));
        }
        Some(self.follow_plan(plan, holds))
    }

    /// The hold while CoreDNS may run with an earlier Corefile that leads to other answers.
    fn hold_of_coredns(&mut self, plan: &Plan, caches: &[CacheCorefile]) -> Option<Hold> {
        let dns_path = self.caches.as_ref().map(NodeCaches::dns_path);
        let (config, kubernetes) = (&self.config, &self.kubernetes);
        let is_harmless = |text: &Option<String>| {
            let before = Plan::new(config, kubernetes, text.as_deref(), caches);
            before.answers_like(plan)
        };
        let hold =
            self.corefile_versions
                .hold("CoreDNS", dns_pods(dns_path.as_ref()), is_harmless)?;
        let reason = format!("the Corefile has changed, and {}", hold.reason);
        Some(Hold { reason, ..hold })
    }

    /// The hold while the node cache `caches[index]`, in the pod `key`, may run with an earlier
    /// Corefile that leads to other answers.
    fn hold_of_cache(
        &mut self,
        plan: &Plan,
        corefile: Option<&str>,
        caches: &[CacheCorefile],
        index: usize,
        key: &ObjectKey,
    ) -> Option<Hold> {
        let (config, kubernetes) = (&self.config, &self.kubernetes);
        let is_harmless = |text: &String| {
            let mut before = caches.to_vec();
            if let Some(cache) = before.get_mut(index) {
                cache.text.clone_from(text);
            }
            Plan::new(config, kubernetes, corefile, &before).answers_like(plan)
        };
        let name = &caches.get(index)?.name;
        self.caches.as_mut()?.hold(key, name, is_harmless)
    }

    /// Logs and shows the plan's reasons, starts reading its objects unless the previous plan has
    /// the same objects, and returns what the publisher needs.
    fn follow_plan(&mut self, plan: Plan, holds: Vec<Hold>) -> AnswerPlan {
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
        let reader = self.reader.as_ref();
        let health = reader.map(|reader| reader.source.health());
        let health: Vec<_> = std::iter::once(self.corefile_source.health())
            .chain(health)
            .chain(self.caches.iter().flat_map(NodeCaches::health))
            .collect();
        self.board.set_feeds(KubernetesFeeds {
            reasons: plan.reasons,
            health: health.clone(),
        });
        AnswerPlan {
            settings: plan.settings,
            holds,
            feeds: (!is_same).then(|| {
                let feeds = reader.map_or_else(BTreeSet::new, ObjectReader::feeds);
                (self.reader_number, feeds)
            }),
            health,
        }
    }
}

/// Waits until a node cache's configuration or the DNS path may have changed. The DNS path includes
/// CoreDNS's Service and the start times of its pods. Waits forever without a kernel plane.
async fn caches_changed(caches: &mut Option<NodeCaches>) {
    match caches {
        Some(caches) => caches.changed().await,
        None => std::future::pending().await,
    }
}

/// The pods that run with CoreDNS's Corefile. `dns_path` is `None` without a kernel plane.
fn dns_pods(dns_path: Option<&DnsPath>) -> RunningPods<'_> {
    match dns_path {
        None => RunningPods::NotWatched,
        Some(DnsPath { starts: None, .. }) => RunningPods::Unknown,
        Some(DnsPath {
            starts: Some(starts),
            ..
        }) => RunningPods::Started(starts),
    }
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
