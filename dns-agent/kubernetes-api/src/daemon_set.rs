//! The agent's own DaemonSet, read at shutdown to learn whether Zerohop is being removed.

use std::time::Duration;

use k8s_openapi::api::apps::v1 as apps;
use kube::{Api, Client, Error, core::PartialObjectMeta};
use tokio::time::timeout;
use zerohop_kubernetes::ObjectKey;

/// Time limit for the API server's response. The agent keeps answering while it waits. The limit
/// must be well below the Pod's grace period (by default 30 s), after which the kubelet kills the
/// agent.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Reads the agent's DaemonSet from the API server.
#[derive(Clone, Debug)]
pub struct DaemonSet {
    api: Box<Api<apps::DaemonSet>>,
    key: ObjectKey,
}

impl DaemonSet {
    /// A handle for the DaemonSet with this namespace and name. Sends no request.
    #[must_use]
    pub fn new(client: Client, key: ObjectKey) -> DaemonSet {
        DaemonSet {
            api: Box::new(Api::namespaced(client, &key.namespace)),
            key,
        }
    }

    /// Reads the DaemonSet. Returns a clause that says why Zerohop counts as being removed. That is
    /// also the case if the agent may no longer read the DaemonSet. `None` if the DaemonSet exists
    /// and is not being deleted, after other errors, and if there is no response in time.
    pub async fn removal_reason(&self) -> Option<String> {
        let response = timeout(TIME_LIMIT, self.api.get_metadata(&self.key.name)).await;
        let reason = removal_evidence(&response.ok()?)?;
        let ObjectKey { namespace, name } = &self.key;
        Some(format!("the DaemonSet {namespace}/{name} {reason}"))
    }
}

/// What the response says about the DaemonSet, if Zerohop counts as being removed: the DaemonSet is
/// being deleted or doesn't exist, or the agent has lost its permissions. Otherwise `None`.
fn removal_evidence(
    response: &Result<PartialObjectMeta<apps::DaemonSet>, Error>,
) -> Option<&'static str> {
    match response {
        Ok(found) if found.metadata.deletion_timestamp.is_some() => Some("is being deleted"),
        Err(Error::Api(status)) if status.code == 404 => Some("is gone"),
        Err(Error::Api(status)) if matches!(status.code, 401 | 403) => Some(
            "can't be read any more, as happens when it is removed together with the agent's \
                 permissions",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectMeta, Status};
    use serde_json::json;

    use super::*;

    #[test]
    fn deletion_and_lost_permissions_mean_removal() {
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
        for (response, is_removed) in [
            (found(false), false),
            (found(true), true),
            (refused(404), true),
            (refused(401), true),
            (refused(403), true),
            (refused(429), false),
            (refused(500), false),
            (refused(503), false),
        ] {
            assert_eq!(
                removal_evidence(&response).is_some(),
                is_removed,
                "{response:?}"
            );
        }
    }
}
