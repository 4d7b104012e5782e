//! Follows the Kubernetes API: CoreDNS's Corefile first, then what it says is to be read.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Client;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    dns_path::DnsPath,
    in_force::{Hold, KUBELET, Pods, Texts},
    node_caches::{Known, NodeCaches},
    plan::{CacheCorefile, Plan},
    writer::{Planned, Told},
};
use crate::{
    admin::board::{Board, Feeds},
    cluster::{Key, Reload},
    config::{self, Config},
    datapath::pins,
    source::{
        Event, Feed, Updates, Written,
        kubernetes::{Kubernetes, Options},
    },
};

/// Events that wait for the writer. More wait in the API server's connections.
const WAITING: usize = 1024;

/// The first lists of all agents of a cluster are spread over this time.
const FIRST_LIST_JITTER: Duration = Duration::from_secs(5);

/// Tells the writer what the API server tells, until the writer is gone.
pub(super) async fn follow(
    client: Client,
    config: Config,
    kubernetes: config::Kubernetes,
    path: Option<watch::Receiver<DnsPath>>,
    tell: mpsc::Sender<Told>,
    board: Arc<Board>,
) -> &'static str {
    let mut followed = Followed::new(client, config, kubernetes, path, board);
    while let Some(told) = followed.next().await {
        if tell.send(told).await.is_err() {
            break;
        }
    }
    "the source of objects"
}

/// Over which time first lists are spread.
pub(super) fn first_list_jitter(bpffs: &Path) -> Duration {
    // Hooks that an agent before left answer for a while only.
    match pins::are_there(bpffs) {
        true => Duration::ZERO,
        false => FIRST_LIST_JITTER,
    }
}

/// The Corefile, and what it says is to be read.
struct Followed {
    client: Client,
    config: Config,
    kubernetes: config::Kubernetes,
    board: Arc<Board>,
    corefiles: mpsc::Receiver<Event>,
    corefile: Kubernetes,
    /// The Corefiles that CoreDNS may run with; none of them is a Corefile where there is none.
    texts: Texts<Option<String>>,
    /// The node caches of this node; none where there is no kernel plane, so that they don't matter.
    caches: Option<NodeCaches>,
    reading: Option<Reading>,
    /// Over which time the next first lists are spread.
    jitter: Duration,
    /// Those of the last plan.
    reasons: Vec<String>,
}

/// Reads what the plan of the moment wants.
struct Reading {
    options: Options,
    events: mpsc::Receiver<Event>,
    source: Kubernetes,
}

impl Followed {
    fn new(
        client: Client,
        config: Config,
        kubernetes: config::Kubernetes,
        path: Option<watch::Receiver<DnsPath>>,
        board: Arc<Board>,
    ) -> Followed {
        let (sender, corefiles) = mpsc::channel(1);
        let corefile = Kubernetes::start_corefile(client.clone(), &kubernetes.corefile, sender);
        board.show_feeds(Feeds {
            reasons: Vec::new(),
            health: vec![corefile.health()],
        });
        let jitter = first_list_jitter(&config.bpffs);
        let caches = path.map(|path| NodeCaches::new(client.clone(), &config, &kubernetes, path));
        Followed {
            client,
            config,
            kubernetes,
            board,
            corefiles,
            corefile,
            texts: Texts::new(KUBELET),
            caches,
            reading: None,
            jitter,
            reasons: Vec::new(),
        }
    }

    /// What comes next; none when nothing does any more.
    async fn next(&mut self) -> Option<Told> {
        loop {
            tokio::select! {
                event = self.corefiles.recv() => {
                    if let Event::Corefile { text, written, updates } = event? {
                        self.put(text, written, updates);
                        return self.plan().map(Told::Planned);
                    }
                }
                () = changed(&mut self.caches) => {
                    if let Some(planned) = self.plan() {
                        return Some(Told::Planned(planned));
                    }
                }
                event = next(&mut self.reading) => {
                    return Some(Told::Event(event?, Instant::now()));
                }
            }
        }
    }

    /// Takes CoreDNS's Corefile of this moment.
    fn put(&mut self, text: Option<String>, written: Option<Written>, updates: Updates) {
        let reload = match (text.as_deref().map(Reload::read), updates) {
            // Without a ConfigMap CoreDNS goes on with what it has.
            (None | Some(Reload::Refused), _) => Reload::Refused,
            (Some(_), Updates::Never) => Reload::Never,
            (Some(reload), Updates::Brought) => reload,
        };
        let path = self.caches.as_ref().map(NodeCaches::path);
        self.texts
            .put(text, reload, written, dns_pods(path.as_ref()));
    }

    /// Reads what is to be read with the Corefiles of this moment; none before that of CoreDNS is known.
    fn plan(&mut self) -> Option<Planned> {
        let corefile = self.texts.newest()?.clone();
        let known = self.caches.as_mut().map(NodeCaches::known);
        let Known {
            read,
            unknown,
            note,
        } = known.unwrap_or_default();
        let (keys, caches): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let mut plan = Plan::new(&self.config, &self.kubernetes, corefile.as_deref(), &caches);
        plan.reasons.extend(note);
        let mut holds = unknown;
        holds.extend(self.hold_of_coredns(&plan, &caches));
        for (at, key) in keys.iter().enumerate() {
            holds.extend(self.hold_of_cache(&plan, corefile.as_deref(), &caches, at, key));
        }
        Some(self.follow(plan, holds))
    }

    /// Until when CoreDNS may answer by a Corefile of before.
    fn hold_of_coredns(&mut self, plan: &Plan, caches: &[CacheCorefile]) -> Option<Hold> {
        let path = self.caches.as_ref().map(NodeCaches::path);
        let (config, kubernetes) = (&self.config, &self.kubernetes);
        let is_harmless = |text: &Option<String>| {
            let before = Plan::new(config, kubernetes, text.as_deref(), caches);
            before.answers_like(plan)
        };
        let hold = self
            .texts
            .hold("CoreDNS", dns_pods(path.as_ref()), is_harmless)?;
        let reason = format!("the Corefile has changed, and {}", hold.reason);
        Some(Hold { reason, ..hold })
    }

    /// Until when one of these node caches may answer by a Corefile of before.
    fn hold_of_cache(
        &mut self,
        plan: &Plan,
        corefile: Option<&str>,
        caches: &[CacheCorefile],
        at: usize,
        key: &Key,
    ) -> Option<Hold> {
        let (config, kubernetes) = (&self.config, &self.kubernetes);
        let is_harmless = |text: &String| {
            let mut before = caches.to_vec();
            if let Some(cache) = before.get_mut(at) {
                cache.text.clone_from(text);
            }
            Plan::new(config, kubernetes, corefile, &before).answers_like(plan)
        };
        let name = &caches.get(at)?.name;
        self.caches.as_mut()?.hold(key, name, is_harmless)
    }

    /// Reads what this plan wants.
    fn follow(&mut self, plan: Plan, holds: Vec<Hold>) -> Planned {
        if plan.reasons != self.reasons {
            for reason in &plan.reasons {
                info!("{reason}");
            }
            if plan.settings.cluster_domains.is_empty() {
                warn!("everything is passed on to the cluster's DNS");
            }
            self.reasons.clone_from(&plan.reasons);
        }
        let before = self.reading.as_ref().map(|reading| &reading.options);
        let is_same = before == plan.options.as_ref();
        if !is_same {
            // What was read before must not be told after the plan.
            self.reading = None;
            let jitter = std::mem::take(&mut self.jitter);
            let start = |options| Reading::start(self.client.clone(), options, jitter);
            self.reading = plan.options.map(start);
        }
        let reading = self.reading.as_ref();
        let health = reading.map(|reading| reading.source.health());
        let health: Vec<_> = std::iter::once(self.corefile.health())
            .chain(health)
            .chain(self.caches.iter().flat_map(NodeCaches::health))
            .collect();
        self.board.show_feeds(Feeds {
            reasons: plan.reasons,
            health: health.clone(),
        });
        Planned {
            settings: plan.settings,
            holds,
            feeds: (!is_same).then(|| reading.map_or_else(BTreeSet::new, Reading::feeds)),
            health,
        }
    }
}

/// Waits until something of the node caches may have changed; for ever, where they don't matter.
async fn changed(caches: &mut Option<NodeCaches>) {
    match caches {
        Some(caches) => caches.changed().await,
        None => std::future::pending().await,
    }
}

/// The pods that run with CoreDNS's Corefile.
fn dns_pods(path: Option<&DnsPath>) -> Pods<'_> {
    match path {
        None => Pods::NotFollowed,
        Some(DnsPath { starts: None, .. }) => Pods::Unknown,
        Some(DnsPath {
            starts: Some(starts),
            ..
        }) => Pods::Started(starts),
    }
}

/// The next event of what is read now; never, when nothing is.
async fn next(reading: &mut Option<Reading>) -> Option<Event> {
    match reading {
        Some(reading) => reading.events.recv().await,
        None => std::future::pending().await,
    }
}

impl Reading {
    fn start(client: Client, options: Options, jitter: Duration) -> Reading {
        let (sender, events) = mpsc::channel(WAITING);
        let spread = Options {
            first_list_jitter: jitter,
            ..options.clone()
        };
        Reading {
            source: Kubernetes::start(client, &spread, sender),
            options,
            events,
        }
    }

    fn feeds(&self) -> BTreeSet<Feed> {
        self.source.health().feeds().into_keys().collect()
    }
}
