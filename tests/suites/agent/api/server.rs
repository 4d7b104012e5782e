//! A Kubernetes API server with objects in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use zerohop_tests::netns::NetworkNamespace;

use crate::agent::ObjectSource;

/// A running API server. Dropping it closes every connection.
pub(crate) struct MemoryApiServer {
    store: Arc<Store>,
    address: SocketAddr,
    kubeconfig: TempDir,
    runtime: Option<Runtime>,
}

/// The objects, and the history of their changes.
struct Store {
    /// The names of objects that the agent may not read by name.
    forbidden: Mutex<BTreeSet<String>>,
    objects: Mutex<StoredObjects>,
    /// The version of the last change; 1 before the first.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct StoredObjects {
    current: BTreeMap<ObjectPath, Value>,
    /// Every change, in order. Element n has resource version n + 2.
    changes: Vec<StoredChange>,
}

/// A change of one object.
struct StoredChange {
    path: ObjectPath,
    /// The event for watches that select the changed object. Its type is MODIFIED even for watches
    /// that did not select the object before; a real server sends ADDED. The agent reads both
    /// alike.
    event: Value,
    /// The object before the change. `None`: it did not exist.
    before: Option<Value>,
}

/// The key of an object: plural of its kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ObjectPath {
    plural: String,
    namespace: String,
    name: String,
}

/// The objects that a request selects.
#[derive(Clone)]
struct RequestSelection {
    plural: String,
    /// `None`: all namespaces.
    namespace: Option<String>,
    /// The label selector, as in the URL.
    labels: String,
    /// The field selector, as in the URL.
    fields: String,
}

impl MemoryApiServer {
    /// Starts an empty API server on a node's loopback.
    pub(crate) fn start(node: &NetworkNamespace) -> MemoryApiServer {
        let kubeconfig = tempfile::tempdir().unwrap();
        let mut api = MemoryApiServer {
            store: Arc::new(Store {
                forbidden: Mutex::default(),
                objects: Mutex::default(),
                version: watch::Sender::new(1),
            }),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            kubeconfig,
            runtime: None,
        };
        api.resume(node);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            api.address
        );
        fs::write(api.kubeconfig.path().join("config"), text).unwrap();
        api
    }

    /// Stops listening and closes every connection.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts to listen: after a stop, at the same address as before.
    pub(crate) fn resume(&mut self, node: &NetworkNamespace) {
        let bind = || std::net::TcpListener::bind(self.address);
        let listener = node.enter(bind).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        self.address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let router = Router::new()
            .fallback(handle_request)
            .with_state(self.store.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Creates or replaces an object.
    pub(crate) fn apply(&self, plural: &str, object: Value) {
        self.store
            .change(ObjectPath::of(plural, &object), Some(object));
    }

    /// Refuses requests for the objects with exactly these names.
    pub(crate) fn forbid(&self, names: &[&str]) {
        let forbidden = self.store.forbidden.lock();
        let names = names.iter().map(|name| (*name).to_owned());
        *forbidden.unwrap_or_else(PoisonError::into_inner) = names.collect();
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let path = ObjectPath {
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.store.change(path, None);
    }
}

impl Drop for MemoryApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An API server from which the agent finds out which Service is the cluster's DNS, and which
/// configuration CoreDNS has.
pub(crate) struct Undescribed<'a>(pub(crate) &'a MemoryApiServer);

impl ObjectSource for MemoryApiServer {
    fn arguments(&self) -> Vec<String> {
        let names = [
            "--corefile=kube-system/coredns",
            "--dns-service=kube-system/kube-dns",
        ];
        let names = names.map(str::to_owned);
        [Undescribed(self).arguments(), names.to_vec()].concat()
    }
}

impl ObjectSource for Undescribed<'_> {
    fn arguments(&self) -> Vec<String> {
        let kubeconfig = self.0.kubeconfig.path().join("config");
        vec!["--kubeconfig".to_owned(), kubeconfig.display().to_string()]
    }
}

impl Store {
    /// Replaces the object at `path`, or deletes it if `object` is `None`.
    fn change(&self, path: ObjectPath, object: Option<Value>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let StoredObjects { current, changes } = &mut *objects;
        let version = changes.len() as u64 + 2;
        let versioned = |mut object: Value| {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            object
        };
        let (event, before) = match object {
            Some(object) => {
                let object = versioned(object);
                let before = current.insert(path.clone(), object.clone());
                let verb = match before {
                    Some(_) => "MODIFIED",
                    None => "ADDED",
                };
                (json!({"type": verb, "object": object}), before)
            }
            None => {
                let object = current
                    .remove(&path)
                    .expect("only existing objects are deleted");
                let event = json!({"type": "DELETED", "object": versioned(object.clone())});
                (event, Some(object))
            }
        };
        changes.push(StoredChange {
            path,
            event,
            before,
        });
        self.version.send_replace(version);
    }

    /// The events of a watch after `version`, one JSON object a line, and the version of the last
    /// change.
    fn events_since(&self, version: u64, selection: &RequestSelection) -> (String, u64) {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let after = objects.changes.iter().skip(version as usize - 1);
        let mut lines = String::new();
        for change in after.filter(|change| selection.covers(&change.path)) {
            let mut event = change.event.clone();
            let is_selected = |object: &Value| selection.matches(&change.path, object);
            if !is_selected(&event["object"]) {
                if !change.before.as_ref().is_some_and(is_selected) {
                    continue;
                }
                // The watch selected the object until this change.
                event["type"] = json!("DELETED");
            }
            lines += &format!("{event}\n");
        }
        (lines, objects.changes.len() as u64 + 1)
    }
}

impl ObjectPath {
    fn of(plural: &str, object: &Value) -> ObjectPath {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        ObjectPath {
            plural: plural.to_owned(),
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
        }
    }
}

impl RequestSelection {
    /// Whether the selection includes the kind and the namespace of an object.
    fn covers(&self, path: &ObjectPath) -> bool {
        let namespace = self.namespace.as_ref();
        path.plural == self.plural && namespace.is_none_or(|name| *name == path.namespace)
    }

    /// Whether an object has the selected labels and fields.
    fn matches(&self, path: &ObjectPath, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let node = object["spec"]["nodeName"].as_str();
        let field = |key: &str| match key {
            "metadata.name" => Some(path.name.as_str()),
            "spec.nodeName" => node,
            // `status.phase`.
            _ => object["status"]["phase"].as_str(),
        };
        all_hold(&self.labels, label) && all_hold(&self.fields, field)
    }
}

/// Whether all requirements of a selector hold: `key`, `!key`, `key=value`, `key!=value` and
/// `key in (value,…)`.
fn all_hold<'v>(requirements: &str, value: impl Fn(&str) -> Option<&'v str>) -> bool {
    // A comma in parentheses does not end a requirement.
    let mut in_parentheses = false;
    let split = requirements.split(|character| {
        in_parentheses = character == '(' || in_parentheses && character != ')';
        character == ',' && !in_parentheses
    });
    let mut requirements = split.filter(|text| !text.is_empty());
    requirements.all(|text| {
        if let Some((key, values)) = text.split_once(" in ") {
            let mut values = values.trim_matches(['(', ')']).split(',');
            return value(key).is_some_and(|value| values.any(|one| one == value));
        }
        if let Some((key, other)) = text.split_once("!=") {
            return value(key) != Some(other);
        }
        if let Some((key, wanted)) = text.split_once('=') {
            return value(key) == Some(wanted);
        }
        match text.strip_prefix('!') {
            Some(key) => value(key).is_none(),
            None => value(text).is_some(),
        }
    })
}

async fn handle_request(
    State(store): State<Arc<Store>>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let get = |key: &str| query.get(key).cloned().unwrap_or_default();
    // The account may only read, like that of the agents.
    if request.method() == Method::POST {
        let reason = "User \"test\" cannot create resource \"pods\" in the namespace \"shop\"";
        return refuse_with(
            StatusCode::FORBIDDEN,
            &format!("pods is forbidden: {reason}"),
        );
    }
    // `/api/v1/…` or `/apis/<group>/v1/…`.
    let parts: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    // The agent looks for the API groups of policies that it doesn't evaluate. There are none.
    if let ["apis"] = parts.as_slice() {
        let groups = json!({"kind": "APIGroupList", "groups": []});
        return ([(CONTENT_TYPE, "application/json")], groups.to_string()).into_response();
    }
    let parts = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return refuse_request(StatusCode::NOT_FOUND),
    };
    let (namespace, plural) = match parts {
        ["namespaces", namespace, plural] => (Some((*namespace).to_owned()), *plural),
        [plural] => (None, *plural),
        _ => return refuse_request(StatusCode::NOT_FOUND),
    };
    let selection = RequestSelection {
        plural: plural.to_owned(),
        namespace,
        labels: get("labelSelector"),
        fields: get("fieldSelector"),
    };
    let forbidden = store.forbidden.lock();
    let forbidden = forbidden.unwrap_or_else(PoisonError::into_inner).clone();
    let is_forbidden = |name: &String| selection.fields == format!("metadata.name={name}");
    if forbidden.iter().any(is_forbidden) {
        return refuse_request(StatusCode::FORBIDDEN);
    }
    // Like a server without streaming lists: the agent must list and then watch.
    if get("sendInitialEvents") == "true" {
        return refuse_request(StatusCode::UNPROCESSABLE_ENTITY);
    }
    match get("watch").as_str() {
        "true" => watch_objects(
            store,
            selection,
            get("resourceVersion").parse().unwrap_or(1),
        ),
        _ => list_objects(&store, &selection),
    }
}

fn list_objects(store: &Store, selection: &RequestSelection) -> Response {
    let objects = store.objects.lock().unwrap_or_else(PoisonError::into_inner);
    let selected = objects
        .current
        .iter()
        .filter(|(path, object)| selection.covers(path) && selection.matches(path, object));
    let items: Vec<&Value> = selected.map(|(_, object)| object).collect();
    let version = (objects.changes.len() as u64 + 1).to_string();
    let list = json!({
        "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items
    });
    ([(CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

/// Streams events until the client or the server closes the connection.
fn watch_objects(store: Arc<Store>, selection: RequestSelection, from: u64) -> Response {
    let seen = store.version.subscribe();
    let events = stream::unfold((seen, from), move |(mut seen, version)| {
        let (store, selection) = (store.clone(), selection.clone());
        async move {
            seen.wait_for(|now| *now > version).await.ok()?;
            let (lines, version) = store.events_since(version, &selection);
            Some((io::Result::Ok(lines), (seen, version)))
        }
    });
    let body = Body::from_stream(events);
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn refuse_request(code: StatusCode) -> Response {
    refuse_with(code, "not in this test's API")
}

fn refuse_with(code: StatusCode, message: &str) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Invalid", "message": message, "code": code.as_u16(),
    });
    (code, status.to_string()).into_response()
}
