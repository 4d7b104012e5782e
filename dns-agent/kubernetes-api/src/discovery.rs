//! Polls the API server for the kinds of policies that it serves, besides NetworkPolicy.
//!
//! The agent polls because API groups can't be watched. A watch of CustomResourceDefinitions would
//! need permission to read all of them, and would miss groups of aggregated API servers, such as
//! Calico's.

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
use zerohop_kubernetes::{Feed, PolicyKind};

use super::{
    api_server::{ApiServer, Failure},
    backoff::{Backoff, jitter},
    health::{FeedActivity, SourceHealth},
};

/// The time from a successful poll to the next poll is one to two times this.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// The kinds of policies that the API server serves besides NetworkPolicy, each with the
/// version of its API group to read.
pub type ServedKinds = BTreeMap<PolicyKind, String>;

/// Polls the API server for the kinds of policies that it serves, until dropped or its channel is
/// closed.
#[derive(Debug)]
pub struct Discovery {
    health: Arc<SourceHealth>,
    _task: AbortOnDropHandle<()>,
}

/// The response to `/apis`: the API groups.
#[derive(Debug, Deserialize)]
struct GroupList {
    groups: Vec<ApiGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiGroup {
    name: String,
    versions: Vec<GroupVersion>,
    /// Also contained in `versions`.
    preferred_version: Option<GroupVersion>,
}

#[derive(Debug, Deserialize)]
struct GroupVersion {
    version: String,
}

/// The resources of one version of a group.
#[derive(Debug, Deserialize)]
struct ResourceList {
    resources: Vec<ApiResource>,
}

#[derive(Debug, Deserialize)]
struct ApiResource {
    /// The plural, such as `pods`, or the plural and a subresource, such as `pods/status`.
    name: String,
}

impl Discovery {
    /// Starts polling after a random delay of at most `first_jitter`. Sends the served kinds once
    /// they are known, and after each change. Must be called within a Tokio runtime.
    #[must_use]
    pub fn start(
        client: Client,
        first_jitter: Duration,
        kinds: mpsc::Sender<ServedKinds>,
    ) -> Discovery {
        let health = Arc::new(SourceHealth::new([Feed::PolicyKinds].into_iter()));
        let api = ApiServer::new(client, health.clone());
        let task = async move {
            tokio::select! {
                () = kinds.closed() => {}
                () = poll_kinds(&api, first_jitter, &kinds) => {}
            }
        };
        Discovery {
            health,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// The health of the polling.
    #[must_use]
    pub fn health(&self) -> Arc<SourceHealth> {
        self.health.clone()
    }
}

/// Polls forever. Sends the served kinds after the first successful poll and after each change.
async fn poll_kinds(api: &ApiServer, first_jitter: Duration, sender: &mpsc::Sender<ServedKinds>) {
    let mut reported: Option<ServedKinds> = None;
    let mut missing = BTreeSet::new();
    let mut backoff = Backoff::default();
    sleep(jitter(first_jitter)).await;
    loop {
        let pause = match read_served_kinds(api).await {
            Ok(mut kinds) => {
                missing = retain_missing_once(reported.iter().flatten(), &mut kinds, &missing);
                backoff.reset();
                api.health.record_received(Feed::PolicyKinds);
                api.health
                    .set_activity(Feed::PolicyKinds, FeedActivity::Watching);
                if reported.as_ref() != Some(&kinds) {
                    for kind in kinds.keys() {
                        info!(
                            "the API server serves {kind:?}: \
                             CoreDNS answers every pod that such a policy may restrict"
                        );
                    }
                    // A closed channel ends the polling.
                    let _ = sender.send(kinds.clone()).await;
                    reported = Some(kinds);
                }
                POLL_INTERVAL + jitter(POLL_INTERVAL)
            }
            Err(failure) => {
                let error = format!("can't read which API groups the API server serves: {failure}");
                let activity = FeedActivity::Retrying {
                    error: error.clone(),
                };
                let previous = api.health.set_activity(Feed::PolicyKinds, activity);
                if !matches!(previous, FeedActivity::Retrying { .. }) {
                    warn!(
                        error,
                        "can't read which kinds of policies the API server serves: the agent \
                         retries, and uses the kinds that it read last; before the first success, \
                         CoreDNS answers all pods"
                    );
                }
                jitter(backoff.next_ceiling())
            }
        };
        sleep(pause).await;
    }
}

impl ApiGroup {
    /// The group's versions without duplicates, the preferred one first.
    fn versions(&self) -> Vec<&str> {
        let mut versions = Vec::new();
        for GroupVersion { version } in self.preferred_version.iter().chain(&self.versions) {
            if !versions.contains(&&**version) {
                versions.push(version);
            }
        }
        versions
    }
}

/// Adds the kinds of `before` that `kinds` lacks for the first time. `missing` has the kinds that
/// this function added after the previous poll. Returns the added kinds.
///
/// One poll without a kind proves nothing: an API server that has just started lists none of its
/// CustomResourceDefinitions for a moment.
fn retain_missing_once<'a>(
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

/// Reads the kinds that the API server serves.
async fn read_served_kinds(api: &ApiServer) -> Result<ServedKinds, Failure> {
    let GroupList { groups } = api.get("/apis").await?;
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
            let resources = api.get::<ResourceList>(&path).await;
            for kind in &kinds {
                let is_served = match &resources {
                    Ok(ResourceList { resources }) => {
                        let mut resources = resources.iter();
                        resources.any(|resource| resource.name == kind.plural())
                    }
                    // The group was removed after `/apis` was read.
                    Err(Failure::Refused { code: 404, .. }) => false,
                    // The feed of this kind will list the kind and report the error. Until that
                    // list succeeds, the kind's policies stay unknown.
                    Err(_) => true,
                };
                // The group's preferred version may be one that can't be read.
                let is_better = served.get(kind).is_none_or(|before| {
                    !kind.reads_version(before) && kind.reads_version(version)
                });
                if is_served && is_better {
                    served.insert(*kind, version.to_owned());
                }
            }
        }
    }
    Ok(served)
}
