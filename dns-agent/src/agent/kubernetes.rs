//! Follows the Kubernetes API: CoreDNS's Corefile first, then what it says is to be read.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::Client;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    plan::Plan,
    writer::{Planned, Told},
};
use crate::{
    config::{self, Config},
    source::{
        Event, Feed,
        kubernetes::{Health, Kubernetes, Options},
    },
};

/// Events that wait for the writer. More wait in the API server's connections.
const WAITING: usize = 1024;

/// The first lists of all agents of a cluster are spread over this time.
const FIRST_LIST_JITTER: Duration = Duration::from_secs(5);

/// Reads what the plan of the moment wants.
struct Reading {
    options: Options,
    events: mpsc::Receiver<Event>,
    source: Kubernetes,
}

/// Tells the writer what the API server tells, until the writer is gone.
pub(super) async fn follow(
    client: Client,
    config: Config,
    kubernetes: config::Kubernetes,
    told: mpsc::Sender<Told>,
) -> &'static str {
    const NAME: &str = "the source of objects";
    let (sender, mut corefiles) = mpsc::channel(1);
    let options = Options {
        corefile: Some(kubernetes.corefile.clone()),
        ..Options::default()
    };
    let corefile = Kubernetes::start_corefile(client.clone(), &options, sender);
    let mut reading: Option<Reading> = None;
    let mut jitter = FIRST_LIST_JITTER;
    loop {
        let told_now = tokio::select! {
            event = corefiles.recv() => match event {
                Some(Event::Corefile(text)) => {
                    let plan = Plan::new(&config, &kubernetes, text.as_deref());
                    say(&plan);
                    let is_same = match (&reading, &plan.options) {
                        (Some(reading), Some(options)) => reading.options == *options,
                        (reading, options) => reading.is_none() && options.is_none(),
                    };
                    if !is_same {
                        // What was read before must not be told after the plan.
                        reading = None;
                        reading = plan.options.clone().map(|options| {
                            let options = Options { first_list_jitter: jitter, ..options };
                            Reading::start(client.clone(), options)
                        });
                        jitter = Duration::ZERO;
                    }
                    Told::Planned(Planned {
                        settings: plan.settings,
                        reasons: plan.reasons,
                        feeds: match is_same {
                            true => None,
                            false => Some(reading.as_ref().map_or_else(BTreeSet::new, Reading::feeds)),
                        },
                        health: std::iter::once(corefile.health())
                            .chain(reading.as_ref().map(|reading| reading.source.health()))
                            .collect(),
                    })
                }
                Some(_) => continue,
                None => return NAME,
            },
            Some(event) = next(&mut reading) => Told::Event(event),
        };
        if told.send(told_now).await.is_err() {
            return NAME;
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
    fn start(client: Client, options: Options) -> Reading {
        let (sender, events) = mpsc::channel(WAITING);
        Reading {
            source: Kubernetes::start(client, &options, sender),
            options: Options {
                first_list_jitter: Duration::ZERO,
                ..options
            },
            events,
        }
    }

    fn feeds(&self) -> BTreeSet<Feed> {
        self.source.health().feeds().into_keys().collect()
    }
}

fn say(plan: &Plan) {
    for reason in &plan.reasons {
        info!("{reason}");
    }
    if plan.settings.cluster_domains.is_empty() {
        warn!("everything passes to the cluster's DNS");
    }
}

/// How the reading of an agent goes.
pub(super) type Healths = Vec<Arc<Health>>;
