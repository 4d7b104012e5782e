//! Questions about the admission of Pods.

use std::sync::Mutex;

use axum::{Router, body::to_bytes, extract::Request, http::StatusCode, response::IntoResponse};

use super::{fake::status, *};
use crate::{Admission, AdmissionError, PodCounts, ReviewedAccount};

/// Maximum length of a request's body in the tests, in bytes.
const MAX_BODY: usize = 64 << 10;

/// An API server that gives every request the same response.
struct CannedApi {
    admission: Admission,
    /// The method and path of each request, and its body.
    requests: Arc<Mutex<Vec<(String, Value)>>>,
}

#[tokio::test]
async fn the_labels_of_a_namespace_are_listed() {
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let api = CannedApi::new(200, json!({"items": [{"metadata": {"labels": labels}}]}));
    let found = api.admission.namespace_labels("zerohop").await.unwrap();
    let found = serde_json::to_value(found.unwrap()).unwrap();
    assert_eq!(found, labels);
    let (request, _) = api.request();
    assert_eq!(
        request,
        "GET /api/v1/namespaces?fieldSelector=metadata.name%3Dzerohop"
    );

    let api = CannedApi::new(200, json!({"items": []}));
    assert_eq!(api.admission.namespace_labels("zerohop").await, Ok(None));
}

#[tokio::test]
async fn a_missing_right_and_a_refusal_differ() {
    let missing = "pods is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \
                   \"pods\" in API group \"\" in the namespace \"a\"";
    let refused = "pods \"zerohop-x\" is forbidden: violates PodSecurity \"baseline:latest\": \
                   host namespaces (hostNetwork=true)";
    for (code, text, expected) in [
        (
            403,
            missing,
            AdmissionError::NotPermitted(missing.to_owned()),
        ),
        (403, refused, AdmissionError::Refused(refused.to_owned())),
        (
            500,
            "etcd is unavailable",
            AdmissionError::Failed("the API server answers 500: etcd is unavailable".to_owned()),
        ),
    ] {
        let api = CannedApi::new(code, status(code, "Forbidden", text));
        let result = api.admission.try_pod("a", &json!({"kind": "Pod"})).await;
        assert_eq!(result, Err(expected));
        let (request, body) = api.request();
        assert_eq!(request, "POST /api/v1/namespaces/a/pods?dryRun=All");
        assert_eq!(body, json!({"kind": "Pod"}));
    }
    let api = CannedApi::new(201, json!({"kind": "Pod"}));
    assert_eq!(api.admission.try_pod("a", &json!({})).await, Ok(()));
}

#[tokio::test]
async fn the_right_to_use_an_scc_is_that_of_the_reviewed_account() {
    for (account, path, user) in [
        (
            ReviewedAccount::Own,
            "selfsubjectaccessreviews",
            json!(null),
        ),
        (
            ReviewedAccount::ServiceAccount(key("zerohop", "agent")),
            "subjectaccessreviews",
            json!("system:serviceaccount:zerohop:agent"),
        ),
    ] {
        for allowed in [true, false] {
            let api = CannedApi::new(201, json!({"status": {"allowed": allowed}}));
            let answer = api.admission.may_use_privileged_scc(&account, "zerohop");
            assert_eq!(answer.await, Ok(allowed));
            let (request, review) = api.request();
            assert_eq!(
                request,
                format!("POST /apis/authorization.k8s.io/v1/{path}")
            );
            assert_eq!(review["spec"]["user"], user);
            let attributes = &review["spec"]["resourceAttributes"];
            assert_eq!(attributes["verb"], "use");
            assert_eq!(attributes["group"], "security.openshift.io");
            assert_eq!(attributes["name"], "privileged");
            assert_eq!(attributes["namespace"], "zerohop");
        }
    }
}

#[tokio::test]
async fn only_openshift_has_sccs() {
    for (group, has_sccs) in [("apps", false), ("security.openshift.io", true)] {
        let api = CannedApi::new(200, json!({"groups": [{"name": group, "versions": []}]}));
        assert_eq!(api.admission.has_sccs().await, Ok(has_sccs));
    }
}

#[tokio::test]
async fn the_pods_of_a_daemon_set_are_counted() {
    let status_of = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 1});
    let api = CannedApi::new(200, json!({"status": status_of}));
    let counts = api.admission.daemon_set_pods(&key("a", "b")).await;
    let expected = PodCounts {
        desired: 3,
        existing: 1,
    };
    assert_eq!(counts, Ok(Some(expected)));
    assert_eq!(
        api.request().0,
        "GET /apis/apps/v1/namespaces/a/daemonsets/b"
    );

    let api = CannedApi::new(404, status(404, "NotFound", "no such DaemonSet"));
    assert_eq!(
        api.admission.daemon_set_pods(&key("a", "b")).await,
        Ok(None)
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_respond_is_given_up() {
    let (router, _requests) = FakeApi::new();
    let admission = Admission::new(Client::new(router, "default"));
    let Err(AdmissionError::Failed(text)) = admission.namespace_labels("a").await else {
        panic!("the question was answered");
    };
    assert!(text.contains("didn't respond within 10 s"), "{text}");
}

impl CannedApi {
    fn new(code: u16, body: Value) -> CannedApi {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = requests.clone();
        let router = Router::new().fallback(async move |request: Request| {
            let line = format!("{} {}", request.method(), request.uri());
            let text = to_bytes(request.into_body(), MAX_BODY).await.unwrap();
            let document = serde_json::from_slice(&text).unwrap_or_default();
            received.lock().unwrap().push((line, document));
            (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response()
        });
        CannedApi {
            admission: Admission::new(Client::new(router, "default")),
            requests,
        }
    }

    /// The only request so far, with its body.
    fn request(&self) -> (String, Value) {
        let requests = self.requests.lock().unwrap();
        let [request] = requests.as_slice() else {
            panic!("not exactly one request: {requests:?}");
        };
        request.clone()
    }
}
