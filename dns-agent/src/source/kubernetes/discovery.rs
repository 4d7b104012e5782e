//! Which kinds of policies the API serves that are not evaluated: asked again and again.
//!
//! A watch would tell of changes sooner, but there is none of API groups. A watch of
//! CustomResourceDefinitions would need a right to read all of them, and would not know of groups that
//! other API servers serve behind this one, such as Calico's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use serde::Deserialize;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    api::{Api, Failure},
    backoff::{Backoff, jitter},
    health::{Health, State},
};
use crate::{cluster::PolicyKind, source::Feed};

/// The API is asked again after one to two times this.
pub(super) const PAUSE: Duration = Duration::from_secs(30);

/// The kinds of policies that the API serves and that are not evaluated, each with the version to read.
pub type ServedKinds = BTreeMap<PolicyKind, String>;

/// Asks the API server which kinds of policies it serves, for as long as this exists and is received.
#[derive(Debug)]
pub struct Discovery {
    health: Arc<Health>,
    _task: AbortOnDropHandle<()>,
}

/// The groups of the API, as `/apis` lists them.
#[derive(Debug, Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    versions: Vec<Version>,
    preferred_version: Option<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
}

/// The resources of one version of a group.
#[derive(Debug, Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    /// The plural; with a slash and a word behind it for a part of a resource.
    name: String,
}

impl Discovery {
    /// Starts asking. Must be called within a runtime. Sends the kinds when they are known first, and
    /// whenever they are others than before.
    #[must_use]
    pub fn start(
        client: Client,
        first_jitter: Duration,
        kinds: mpsc::Sender<ServedKinds>,
    ) -> Discovery {
        let health = Arc::new(Health::new([Feed::PolicyKinds].into_iter()));
        let api = Api::new(client, health.clone());
        let task = async move {
            tokio::select! {
                () = kinds.closed() => {}
                () = follow(&api, first_jitter, &kinds) => {}
            }
        };
        Discovery {
            health,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// How the asking goes.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }
}

async fn follow(api: &Api, first_jitter: Duration, sender: &mpsc::Sender<ServedKinds>) {
    let mut before: Option<ServedKinds> = None;
    let mut missing = BTreeSet::new();
    let mut backoff = Backoff::default();
    sleep(jitter(first_jitter)).await;
    loop {
        let pause = match served(api).await {
            Ok(mut kinds) => {
                missing = keep(before.iter().flatten(), &mut kinds, &missing);
                backoff.reset();
                api.health.heard(Feed::PolicyKinds);
                api.health.becomes(Feed::PolicyKinds, State::Watching);
                if before.as_ref() != Some(&kinds) {
                    for kind in kinds.keys() {
                        info!("the API serves {kind:?}, which are not evaluated");
                    }
                    let _ = sender.send(kinds.clone()).await;
                    before = Some(kinds);
                }
                PAUSE + jitter(PAUSE)
            }
            Err(failure) => {
                let error =
                    format!("the API server does not say which groups it serves: {failure}");
                let state = State::Retrying {
                    error: error.clone(),
                };
                let was = api.health.becomes(Feed::PolicyKinds, state);
                if !matches!(was, State::Retrying { .. }) {
                    warn!(error, "trying again");
                }
                jitter(backoff.ceiling())
            }
        };
        sleep(pause).await;
    }
}

impl Group {
    /// Its versions, each once, the preferred one first.
    fn versions(&self) -> Vec<&str> {
        let mut versions = Vec::new();
        for Version { version } in self.preferred_version.iter().chain(&self.versions) {
            if !versions.contains(&&**version) {
                versions.push(version);
            }
        }
        versions
    }
}

/// Keeps the kinds of before that are missing for the first time: an API server that has just started says
/// for a moment that it has none of its CustomResourceDefinitions. Gives them.
fn keep<'a>(
    before: impl Iterator<Item = (&'a PolicyKind, &'a String)>,
    kinds: &mut ServedKinds,
    missing: &BTreeSet<PolicyKind>,
) -> BTreeSet<PolicyKind> {
    let mut missing_now = BTreeSet::new();
    for (kind, version) in before {
        if !kinds.contains_key(kind) && !missing.contains(kind) {
            kinds.insert(*kind, version.clone());
            missing_now.insert(*kind);
        }
    }
    missing_now
}

/// The kinds that the API serves.
async fn served(api: &Api) -> Result<ServedKinds, Failure> {
    let Groups { groups } = api.get("/apis").await?;
    let mut served = ServedKinds::new();
    for group in groups {
        let kinds: Vec<_> = PolicyKind::all()
            .filter(|kind| kind.group() == group.name)
            .collect();
        if kinds.is_empty() {
            continue;
        }
        for version in group.versions() {
            let path = format!("/apis/{}/{version}", group.name);
            let resources = api.get::<Resources>(&path).await;
            for kind in &kinds {
                let is_served = match &resources {
                    Ok(Resources { resources }) => {
                        let mut resources = resources.iter();
                        resources.any(|resource| resource.name == kind.plural())
                    }
                    // The group has just gone.
                    Err(Failure::Refused { code: 404, .. }) => false,
                    // Its lists will say what is wrong; until they do not, nothing is known of the kind.
                    Err(_) => true,
                };
                if is_served {
                    served.entry(*kind).or_insert_with(|| version.to_owned());
                }
            }
        }
    }
    Ok(served)
}
