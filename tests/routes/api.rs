//! A Kubernetes API server with objects that never change. It is enough for CoreDNS and for the
//! agent, and needs no control plane.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Result;
use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime};
use zerohop_tests::netns::NetworkNamespace;

/// A running API server.
pub(crate) struct FixedApiServer {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

/// The objects by the plural of their kind.
type FixedObjects = BTreeMap<String, Vec<Value>>;

impl FixedApiServer {
    /// Starts an API server on the loopback of a namespace.
    pub(crate) fn start(
        namespace: &NetworkNamespace,
        objects: FixedObjects,
    ) -> Result<FixedApiServer> {
        let bind = || std::net::TcpListener::bind("127.0.0.1:0");
        let listener = namespace.enter(bind)??;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let router = Router::new().fallback(handle).with_state(Arc::new(objects));
        runtime.spawn(async move {
            // Requests fail if the server does.
            if let Ok(listener) = TcpListener::from_std(listener) {
                axum::serve(listener, router).await.ok();
            }
        });
        Ok(FixedApiServer {
            address,
            _runtime: runtime,
        })
    }
}

async fn handle(
    State(objects): State<Arc<FixedObjects>>,
    Query(query): Query<BTreeMap<String, String>>,
    uri: Uri,
) -> Response {
    let get = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let parts: Vec<&str> = uri.path().split('/').skip(1).collect();
    if let ["apis"] = parts.as_slice() {
        return reply(
            StatusCode::OK,
            &json!({"kind": "APIGroupList", "groups": []}),
        );
    }
    let (version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return refuse(StatusCode::NOT_FOUND),
    };
    let (namespace, plural) = match rest {
        ["namespaces", namespace, plural] => (Some(*namespace), *plural),
        [plural] => (None, *plural),
        _ => return refuse(StatusCode::NOT_FOUND),
    };
    // Clients then list and watch.
    if get("sendInitialEvents") == "true" {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if matches!(get("watch"), "true" | "1") {
        // A watch without events.
        let body = Body::from_stream(stream::pending::<Result<String, std::io::Error>>());
        return ([(CONTENT_TYPE, "application/json")], body).into_response();
    }
    let name = get("fieldSelector").strip_prefix("metadata.name=");
    let is_selected = |object: &&Value| {
        let metadata = &object["metadata"];
        let has = |field: &str, wanted: Option<&str>| {
            wanted.is_none_or(|wanted| metadata[field].as_str() == Some(wanted))
        };
        let has_labels = get("labelSelector").split(',').all(|label| {
            let Some((key, value)) = label.split_once('=') else {
                return true;
            };
            metadata["labels"][key].as_str() == Some(value)
        });
        has("namespace", namespace) && has("name", name) && has_labels
    };
    let all = objects.get(plural).map(Vec::as_slice).unwrap_or_default();
    let items: Vec<&Value> = all.iter().filter(is_selected).collect();
    let kind = match plural {
        "services" => "ServiceList",
        "endpointslices" => "EndpointSliceList",
        "namespaces" => "NamespaceList",
        "pods" => "PodList",
        "configmaps" => "ConfigMapList",
        _ => "List",
    };
    let list = json!({
        "kind": kind, "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items,
    });
    reply(StatusCode::OK, &list)
}

fn refuse(code: StatusCode) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Invalid", "message": "not in this API", "code": code.as_u16(),
    });
    reply(code, &status)
}

fn reply(code: StatusCode, body: &Value) -> Response {
    (code, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
