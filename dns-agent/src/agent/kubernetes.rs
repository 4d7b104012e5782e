//! Follows the Kubernetes API: CoreDNS's Corefile first, then what it says is to be read.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use kube::Client;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    plan::Plan,
    writer::{Planned, Told},
};
use crate::{
    admin::board::{Board, Feeds},
    config::{self, Config},
    datapath::pins,
    source::{
        Event, Feed,
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
    tell: mpsc::Sender<Told>,
    board: Arc<Board>,
) -> &'static str {
    let mut followed = Followed::new(client, config, kubernetes, board);
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
    reading: Option<Reading>,
    /// Over which time the next first lists are spread.
    jitter: Duration,
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
        board: Arc<Board>,
    ) -> Followed {
        let (sender, corefiles) = mpsc::channel(1);
        let corefile = Kubernetes::start_corefile(client.clone(), &kubernetes.corefile, sender);
        board.show_feeds(Feeds {
            reasons: Vec::new(),
            health: vec![corefile.health()],
        });
        let jitter = first_list_jitter(&config.bpffs);
        Followed {
            client,
            config,
            kubernetes,
            board,
            corefiles,
            corefile,
            reading: None,
            jitter,
        }
    }

    /// What comes next; none when nothing does any more.
    async fn next(&mut self) -> Option<Told> {
        loop {
            tokio::select! {
                event = self.corefiles.recv() => {
                    if let Event::Corefile { text, changed } = event? {
                        return Some(Told::Planned(self.plan(text.as_deref(), changed)));
                    }
                }
                event = next(&mut self.reading) => {
                    return Some(Told::Event(event?, Instant::now()));
                }
            }
        }
    }

    /// Reads what is to be read with this Corefile, which somebody may have changed.
    fn plan(&mut self, corefile: Option<&str>, changed: Option<SystemTime>) -> Planned {
        let plan = Plan::new(&self.config, &self.kubernetes, corefile);
        for reason in &plan.reasons {
            info!("{reason}");
        }
        if plan.settings.cluster_domains.is_empty() {
            warn!("everything is passed on to the cluster's DNS");
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
            .collect();
        self.board.show_feeds(Feeds {
            reasons: plan.reasons,
            health: health.clone(),
        });
        Planned {
            settings: plan.settings,
            changed,
            feeds: (!is_same).then(|| reading.map_or_else(BTreeSet::new, Reading::feeds)),
            health,
        }
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
