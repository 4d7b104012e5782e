//! An API server that holds what a test puts into it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use zerohop_tests::netns::Namespace;

use crate::agent::Source;

/// A running API server. It goes, with every connection, when it is dropped.
pub(crate) struct Api {
    store: Arc<Store>,
    address: SocketAddr,
    kubeconfig: TempDir,
    runtime: Option<Runtime>,
}

/// The objects, and how they came to be.
struct Store {
    objects: Mutex<Objects>,
    /// The version of the last change.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Objects {
    now: BTreeMap<Place, Value>,
    /// Every change: the version after it is one more than its place here.
    changes: Vec<Change>,
}

/// An object that became another one.
struct Change {
    place: Place,
    /// The watch's event, for those who select the object as it is now.
    event: Value,
    /// The object as it was.
    before: Option<Value>,
}

/// The plural of an object's kind, its namespace and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    plural: String,
    namespace: String,
    name: String,
}

/// Which objects a request is for.
#[derive(Clone)]
struct Selection {
    plural: String,
    /// All namespaces if there is none.
    namespace: Option<String>,
    /// Requirements of labels and fields, as in a URL.
    labels: String,
    fields: String,
}

impl Api {
    /// An API server with nothing in it, on a node's loopback.
    pub(crate) fn start(node: &Namespace) -> Api {
        let kubeconfig = tempfile::tempdir().unwrap();
        let mut api = Api {
            store: Arc::new(Store {
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

    /// Goes away, with every connection.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Is there, at the address that it had before.
    pub(crate) fn resume(&mut self, node: &Namespace) {
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
            .fallback(answer)
            .with_state(self.store.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Puts an object where one with its name was.
    pub(crate) fn apply(&self, plural: &str, object: Value) {
        self.store.change(Place::of(plural, &object), Some(object));
    }

    /// Takes one away.
    pub(crate) fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let place = Place {
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.store.change(place, None);
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Source for Api {
    fn arguments(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig.path().join("config");
        vec!["--kubeconfig".to_owned(), kubeconfig.display().to_string()]
    }
}

impl Store {
    fn change(&self, place: Place, object: Option<Value>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let Objects { now, changes } = &mut *objects;
        let version = changes.len() as u64 + 2;
        let versioned = |mut object: Value| {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            object
        };
        let (event, before) = match object {
            Some(object) => {
                let object = versioned(object);
                let before = now.insert(place.clone(), object.clone());
                let verb = match before {
                    Some(_) => "MODIFIED",
                    None => "ADDED",
                };
                (json!({"type": verb, "object": object}), before)
            }
            None => {
                let object = now.remove(&place).expect("what is deleted is there");
                let event = json!({"type": "DELETED", "object": versioned(object.clone())});
                (event, Some(object))
            }
        };
        changes.push(Change {
            place,
            event,
            before,
        });
        self.version.send_replace(version);
    }

    /// What a watch is told after a version: events, and the version of the last change.
    fn since(&self, version: u64, selection: &Selection) -> (String, u64) {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let after = objects.changes.iter().skip(version as usize - 1);
        let mut lines = String::new();
        for change in after.filter(|change| selection.is_in(&change.place)) {
            let mut event = change.event.clone();
            let is_selected = |object: &Value| selection.matches(&change.place, object);
            if !is_selected(&event["object"]) {
                if !change.before.as_ref().is_some_and(is_selected) {
                    continue;
                }
                event["type"] = json!("DELETED");
            }
            lines += &format!("{event}\n");
        }
        (lines, objects.changes.len() as u64 + 1)
    }
}

impl Place {
    fn of(plural: &str, object: &Value) -> Place {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        Place {
            plural: plural.to_owned(),
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
        }
    }
}

impl Selection {
    fn is_in(&self, place: &Place) -> bool {
        let namespace = self.namespace.as_ref();
        place.plural == self.plural && namespace.is_none_or(|name| *name == place.namespace)
    }

    fn matches(&self, place: &Place, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let node = object["spec"]["nodeName"].as_str();
        let field = |key: &str| match key {
            "metadata.name" => Some(place.name.as_str()),
            "spec.nodeName" => node,
            _ => object["status"]["phase"].as_str(),
        };
        all_hold(&self.labels, label) && all_hold(&self.fields, field)
    }
}

/// Whether requirements hold: `key`, `!key`, `key=value`, `key!=value` and `key in (value,…)`.
fn all_hold<'v>(requirements: &str, value: impl Fn(&str) -> Option<&'v str>) -> bool {
    let mut is_within = false;
    let each = requirements.split(|character| {
        is_within = character == '(' || is_within && character != ')';
        character == ',' && !is_within
    });
    let mut each = each.filter(|text| !text.is_empty());
    each.all(|text| {
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

async fn answer(
    State(store): State<Arc<Store>>,
    Query(query): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let get = |key: &str| query.get(key).cloned().unwrap_or_default();
    // `/api/v1/…` or `/apis/<group>/v1/…`.
    let parts: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    if let ["apis"] = parts.as_slice() {
        let groups = json!({"kind": "APIGroupList", "groups": []});
        return ([(CONTENT_TYPE, "application/json")], groups.to_string()).into_response();
    }
    let parts = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return refuse(StatusCode::NOT_FOUND),
    };
    let (namespace, plural) = match parts {
        ["namespaces", namespace, plural] => (Some((*namespace).to_owned()), *plural),
        [plural] => (None, *plural),
        _ => return refuse(StatusCode::NOT_FOUND),
    };
    let selection = Selection {
        plural: plural.to_owned(),
        namespace,
        labels: get("labelSelector"),
        fields: get("fieldSelector"),
    };
    if get("sendInitialEvents") == "true" {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY);
    }
    match get("watch").as_str() {
        "true" => watch(
            store,
            selection,
            get("resourceVersion").parse().unwrap_or(1),
        ),
        _ => list(&store, &selection),
    }
}

fn list(store: &Store, selection: &Selection) -> Response {
    let objects = store.objects.lock().unwrap_or_else(PoisonError::into_inner);
    let selected = objects
        .now
        .iter()
        .filter(|(place, object)| selection.is_in(place) && selection.matches(place, object));
    let items: Vec<&Value> = selected.map(|(_, object)| object).collect();
    let version = (objects.changes.len() as u64 + 1).to_string();
    let list = json!({
        "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items
    });
    ([(CONTENT_TYPE, "application/json")], list.to_string()).into_response()
}

/// Tells changes as they come, for ever.
fn watch(store: Arc<Store>, selection: Selection, from: u64) -> Response {
    let seen = store.version.subscribe();
    let told = stream::unfold((seen, from), move |(mut seen, version)| {
        let (store, selection) = (store.clone(), selection.clone());
        async move {
            seen.wait_for(|now| *now > version).await.ok()?;
            let (lines, version) = store.since(version, &selection);
            Some((io::Result::Ok(lines), (seen, version)))
        }
    });
    let body = Body::from_stream(told);
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

fn refuse(code: StatusCode) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Invalid", "message": "not in this test's API", "code": code.as_u16(),
    });
    (code, status.to_string()).into_response()
}
