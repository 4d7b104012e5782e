//! Whether an agent that is told to end is replaced by another or taken away.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::{Api, Client, Error, core::PartialObjectMeta};
use tokio::time::timeout;
use tracing::info;

use crate::{
    cluster::Key,
    datapath::{Ending, Persistence},
};

/// How long the API server may take. The agent serves meanwhile, and pods have 30 s to end.
const LIMIT: Duration = Duration::from_secs(5);

/// What decides how the kernel plane ends.
#[derive(Debug)]
pub(super) enum Ends {
    /// Always so.
    Always(Ending),
    /// With this DaemonSet hooks stay, and without it they go.
    With(Box<Api<DaemonSet>>, Key),
}

impl Ends {
    pub(super) fn new(
        persistence: Persistence,
        client: Option<Client>,
        daemon_set: Option<Key>,
    ) -> Ends {
        match (persistence, client, daemon_set) {
            (Persistence::None, ..) => Ends::Always(Ending::Detached),
            (Persistence::Pinned, Some(client), Some(key)) => {
                Ends::With(Box::new(Api::namespaced(client, &key.namespace)), key)
            }
            (Persistence::Pinned, ..) => Ends::Always(Ending::Left),
        }
    }

    /// How to end when something went wrong: nobody has taken the agent away.
    pub(super) fn by_mistake(&self) -> Ending {
        match self {
            Ends::Always(ending) => *ending,
            Ends::With(..) => Ending::Left,
        }
    }

    /// How to end when told to.
    pub(super) async fn by_order(&self) -> Ending {
        let (api, key) = match self {
            Ends::Always(ending) => return *ending,
            Ends::With(api, key) => (api, key),
        };
        let answer = timeout(LIMIT, api.get_metadata(&key.name)).await;
        let reason = match &answer {
            Ok(answer) => taken_away(answer),
            Err(_) => None,
        };
        match reason {
            Some(reason) => {
                info!(
                    "the DaemonSet {}/{} {reason}: hooks are taken off",
                    key.namespace, key.name
                );
                Ending::Detached
            }
            None => {
                info!("hooks are left to the next agent");
                Ending::Left
            }
        }
    }
}

/// Why an answer means that the DaemonSet was taken away; errors of the way there don't.
fn taken_away(answer: &Result<PartialObjectMeta<DaemonSet>, Error>) -> Option<&'static str> {
    match answer {
        Ok(found) if found.metadata.deletion_timestamp.is_some() => Some("is being deleted"),
        Err(Error::Api(status)) if status.code == 404 => Some("is gone"),
        Err(Error::Api(status)) if matches!(status.code, 401 | 403) => {
            Some("may not be read any more, so it is being taken away with its rights")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectMeta, Status};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_means_that_it_was_taken_away() {
        let found = |deleted: bool| {
            let mut metadata: ObjectMeta =
                serde_json::from_value(json!({"name": "zerohop"})).unwrap();
            let time = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
            let time: ObjectMeta = serde_json::from_value(time).unwrap();
            metadata.deletion_timestamp = time.deletion_timestamp.filter(|_| deleted);
            Ok(PartialObjectMeta {
                metadata,
                ..PartialObjectMeta::default()
            })
        };
        let refused = |code| {
            Err(Error::Api(Box::new(
                Status::failure("no", "No").with_code(code),
            )))
        };
        for (answer, is_taken_away) in [
            (found(false), false),
            (found(true), true),
            (refused(404), true),
            (refused(401), true),
            (refused(403), true),
            (refused(429), false),
            (refused(500), false),
            (refused(503), false),
        ] {
            assert_eq!(taken_away(&answer).is_some(), is_taken_away, "{answer:?}");
        }
    }
}
