//! The DaemonSet that an agent is of: whether it is still wanted.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet as Object;
use kube::{Api, Client, Error, core::PartialObjectMeta};
use tokio::time::timeout;

use crate::cluster::Key;

/// How long the API server may take. The agent serves meanwhile, and pods have 30 s to end.
const LIMIT: Duration = Duration::from_secs(5);

/// A DaemonSet that can be asked for.
#[derive(Clone, Debug)]
pub struct DaemonSet {
    api: Box<Api<Object>>,
    key: Key,
}

impl DaemonSet {
    /// By its namespace and name.
    #[must_use]
    pub fn new(client: Client, key: Key) -> DaemonSet {
        DaemonSet {
            api: Box::new(Api::namespaced(client, &key.namespace)),
            key,
        }
    }

    /// Asks the API server. A sentence when it was taken away; none when it is there, or nobody can tell.
    pub async fn why_taken_away(&self) -> Option<String> {
        let answer = timeout(LIMIT, self.api.get_metadata(&self.key.name)).await;
        let reason = taken_away(&answer.ok()?)?;
        let Key { namespace, name } = &self.key;
        Some(format!("the DaemonSet {namespace}/{name} {reason}"))
    }
}

/// Why an answer means that the DaemonSet was taken away; errors of the way there don't.
fn taken_away(answer: &Result<PartialObjectMeta<Object>, Error>) -> Option<&'static str> {
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
