//! Whether an API server would admit a Pod, as `dns-agent check` asks. Nothing is created.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use zerohop_kubernetes::ObjectKey;

use super::{
    api_server::{ApiServer, Failure},
    health::SourceHealth,
};

/// Time limit for each question.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Asks an API server what decides the admission of Pods.
pub struct Admission {
    api: ApiServer,
}

/// The account whose rights are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReviewedAccount {
    /// The account of this process, which may always ask for its own rights.
    Own,
    /// A ServiceAccount. Asking for its rights needs the right to create SubjectAccessReviews,
    /// which administrators have.
    ServiceAccount(ObjectKey),
}

/// The number of Pods of a DaemonSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// The nodes that should have a Pod.
    #[serde(rename = "desiredNumberScheduled")]
    pub desired: u32,
    /// The nodes that have a Pod, whatever the Pod's state. A Pod that is not admitted does not
    /// exist.
    #[serde(rename = "currentNumberScheduled")]
    pub existing: u32,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdmissionError {
    /// The account of this process may not ask. The text is the API server's.
    NotPermitted(String),
    /// The admission refused the Pod. The text is the API server's, and names what refused it.
    Refused(String),
    /// There was no response, or an unexpected one.
    Failed(String),
}

#[derive(Deserialize)]
struct NamespaceList {
    items: Vec<Labelled>,
}

#[derive(Deserialize)]
struct Labelled {
    metadata: LabelledMetadata,
}

#[derive(Deserialize)]
struct LabelledMetadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct GroupNames {
    groups: Vec<GroupName>,
}

#[derive(Deserialize)]
struct GroupName {
    name: String,
}

#[derive(Deserialize)]
struct AccessReview {
    status: AccessReviewStatus,
}

#[derive(Deserialize)]
struct AccessReviewStatus {
    allowed: bool,
}

#[derive(Deserialize)]
struct CountedDaemonSet {
    #[serde(default)]
    status: PodCounts,
}

/// A response whose contents don't matter.
#[derive(Deserialize)]
struct AnyObject {}

impl Admission {
    /// A handle for an API server. Sends no request.
    #[must_use]
    pub fn new(client: Client) -> Admission {
        let health = Arc::new(SourceHealth::new([].into_iter()));
        Admission {
            api: ApiServer::new(client, health),
        }
    }

    /// The labels of a Namespace. `None` if it does not exist. The agents' right to list Namespaces
    /// suffices.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn namespace_labels(
        &self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, AdmissionError> {
        let path = format!("/api/v1/namespaces?fieldSelector=metadata.name%3D{name}");
        let list: NamespaceList = within_limit(self.api.get(&path)).await?;
        let labels = list.items.into_iter().map(|item| item.metadata.labels);
        Ok(labels.into_iter().next())
    }

    /// Whether the API server has security context constraints (SCC), as OpenShift does.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn has_sccs(&self) -> Result<bool, AdmissionError> {
        let list: GroupNames = within_limit(self.api.get("/apis")).await?;
        let mut groups = list.groups.iter();
        Ok(groups.any(|group| group.name == SCC_GROUP))
    }

    /// Whether an account may use the SCC `privileged` in a namespace.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn may_use_privileged_scc(
        &self,
        account: &ReviewedAccount,
        namespace: &str,
    ) -> Result<bool, AdmissionError> {
        let attributes = json!({
            "namespace": namespace,
            "verb": "use",
            "group": SCC_GROUP,
            "resource": "securitycontextconstraints",
            "name": "privileged",
        });
        let (kind, spec) = match account {
            ReviewedAccount::Own => (
                "SelfSubjectAccessReview",
                json!({ "resourceAttributes": attributes }),
            ),
            ReviewedAccount::ServiceAccount(ObjectKey { namespace, name }) => (
                "SubjectAccessReview",
                json!({
                    "resourceAttributes": attributes,
                    "user": format!("system:serviceaccount:{namespace}:{name}"),
                    // The groups of every ServiceAccount.
                    "groups": [
                        "system:serviceaccounts",
                        format!("system:serviceaccounts:{namespace}"),
                        "system:authenticated",
                    ],
                }),
            ),
        };
        let path = format!("/apis/authorization.k8s.io/v1/{}s", kind.to_lowercase());
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": kind,
            "spec": spec,
        });
        let review: AccessReview = within_limit(self.api.post(&path, &review)).await?;
        Ok(review.status.allowed)
    }

    /// Creates a Pod in a dry run, which all admission takes part in, and nothing remains of.
    ///
    /// # Errors
    /// [`AdmissionError::Refused`] if the Pod is not admitted, and others when the API server does
    /// not say.
    pub async fn try_pod(&self, namespace: &str, pod: &Value) -> Result<(), AdmissionError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods?dryRun=All");
        match within_limit(self.api.post::<AnyObject>(&path, pod)).await {
            Ok(AnyObject {}) => Ok(()),
            // The code is the same for a missing right and for a refusal by admission. Only the
            // former's text, which the API server makes for every authorizer, has these words.
            Err(AdmissionError::NotPermitted(text)) if !text.contains("cannot create resource") => {
                Err(AdmissionError::Refused(text))
            }
            Err(error) => Err(error),
        }
    }

    /// The number of Pods of a DaemonSet. `None` if it does not exist.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn daemon_set_pods(
        &self,
        daemon_set: &ObjectKey,
    ) -> Result<Option<PodCounts>, AdmissionError> {
        let ObjectKey { namespace, name } = daemon_set;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
        let request = timeout(TIME_LIMIT, self.api.get::<CountedDaemonSet>(&path));
        match request.await.map_err(|_| AdmissionError::late())? {
            Ok(found) => Ok(Some(found.status)),
            Err(Failure::Refused { code: 404, .. }) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// The API group of OpenShift's security context constraints.
const SCC_GROUP: &str = "security.openshift.io";

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl AdmissionError {
    fn late() -> AdmissionError {
        let seconds = TIME_LIMIT.as_secs();
        AdmissionError::Failed(format!("the API server didn't respond within {seconds} s"))
    }
}

impl fmt::Display for AdmissionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdmissionError::NotPermitted(text)
            | AdmissionError::Refused(text)
            | AdmissionError::Failed(text) => f.write_str(text),
        }
    }
}

impl From<Failure> for AdmissionError {
    fn from(failure: Failure) -> AdmissionError {
        match failure {
            Failure::Refused {
                code: 403, reason, ..
            } => AdmissionError::NotPermitted(reason),
            Failure::Refused { code, reason, .. } => {
                AdmissionError::Failed(format!("the API server answers {code}: {reason}"))
            }
            other => AdmissionError::Failed(other.to_string()),
        }
    }
}

async fn within_limit<T>(
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, AdmissionError> {
    match timeout(TIME_LIMIT, request).await {
        Ok(response) => response.map_err(AdmissionError::from),
        Err(_) => Err(AdmissionError::late()),
    }
}
