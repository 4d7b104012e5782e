//! The objects that the suite writes: those of `zoo.yaml`, and parts to make others of.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Namespace and name.
pub(crate) type Key = (String, String);

/// What is there now, as the API server stored it.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) namespaces: BTreeSet<String>,
    /// Those of the namespaces that a Corefile may leave out.
    pub(crate) hidden: BTreeSet<String>,
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) slices: BTreeMap<Key, EndpointSlice>,
    pub(crate) pods: BTreeMap<Key, Pod>,
}

/// An object to be written.
pub(crate) enum Object {
    Namespace(Box<Namespace>),
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Pod(Box<Pod>),
}

/// Who says to have written a slice.
#[derive(Clone, Copy)]
pub(crate) enum Writer {
    /// Kubernetes' own controller.
    Kubernetes,
    /// Somebody who leaves no mark.
    Hand,
}

/// On namespaces and objects that a Corefile may leave out by `!zerohop.test/hidden`.
pub(crate) const HIDDEN: &str = "zerohop.test/hidden";

/// The label that says whose endpoints a slice holds.
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const KUBERNETES: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Links of the chain of aliases: more than are followed.
const CHAIN: usize = 14;

/// The objects of `zoo.yaml`, and those that are too many to be written there.
pub(crate) fn zoo(prefix: &str, zone: &str) -> Result<Vec<Object>> {
    let mut objects = written(include_str!("zoo.yaml"), prefix, zone)?;
    for number in 0..CHAIN {
        let target = match number + 1 {
            CHAIN => format!("web.{prefix}-a.svc.{zone}"),
            next => format!("link-{next}.{prefix}-b.svc.{zone}"),
        };
        let key = (format!("{prefix}-b"), format!("link-{number}"));
        objects.push(service(&key, &alias(&target))?);
    }
    for (name, third, count) in [("some", 5, 40), ("many", 6, 100)] {
        let key = (format!("{prefix}-b"), name.to_owned());
        let endpoints =
            (1..=count).map(|last| json!({"addresses": [format!("100.64.{third}.{last}")]}));
        let ports = json!([{"name": "http", "port": 80}]);
        let slice = slice(&key, "IPv4", &endpoints.collect(), &ports)?;
        objects.push(Object::Slice(Box::new(owned(
            slice,
            name,
            Some(true),
            Writer::Kubernetes,
        ))));
    }
    Ok(objects)
}

/// The objects that only a cluster with addresses of both families takes.
pub(crate) fn dual_stack_zoo(prefix: &str, zone: &str) -> Result<Vec<Object>> {
    written(include_str!("dual-stack.yaml"), prefix, zone)
}

fn written(text: &str, prefix: &str, zone: &str) -> Result<Vec<Object>> {
    let text = text.replace("NS", prefix).replace("cluster.local", zone);
    text.split("\n---\n").map(object).collect()
}

/// A Service.
pub(crate) fn service(key: &Key, spec: &Value) -> Result<Object> {
    read(json!({"metadata": {"namespace": key.0, "name": key.1}, "spec": spec}))
        .map(|service| Object::Service(Box::new(service)))
}

/// A Pod that nothing starts, with the state that a kubelet would report.
pub(crate) fn pod(key: &Key, status: &Value) -> Result<Object> {
    read(json!({"metadata": {"namespace": key.0, "name": key.1}, "status": status}))
        .map(|pod| Object::Pod(Box::new(pod)))
}

/// The spec of a Service that is another name.
pub(crate) fn alias(target: &str) -> Value {
    json!({"type": "ExternalName", "externalName": target})
}

/// An EndpointSlice that is nobody's.
pub(crate) fn slice(
    key: &Key,
    family: &str,
    endpoints: &Value,
    ports: &Value,
) -> Result<EndpointSlice> {
    read(json!({
        "metadata": {"namespace": key.0, "name": key.1},
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }))
}

/// The slice as one of this service, with the labels that its writer gives it. A headless
/// service's is marked as such by Kubernetes' controller alone.
pub(crate) fn owned(
    mut slice: EndpointSlice,
    service: &str,
    headless: Option<bool>,
    writer: Writer,
) -> EndpointSlice {
    let labels = slice.metadata.labels.get_or_insert_default();
    labels.insert(SERVICE.to_owned(), service.to_owned());
    labels.remove(MANAGED_BY);
    labels.remove(HEADLESS);
    if let Writer::Kubernetes = writer {
        labels.insert(MANAGED_BY.to_owned(), KUBERNETES.to_owned());
        if headless == Some(true) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(TRIGGERED.to_owned(), Timestamp::now().to_string());
    }
    slice
}

impl Objects {
    /// The Services and slices of some namespaces.
    pub(crate) fn within(&self, namespaces: &[String]) -> Objects {
        let services = self.services.iter();
        let slices = self.slices.iter();
        Objects {
            services: services
                .filter(|(key, _)| namespaces.contains(&key.0))
                .map(|(key, service)| (key.clone(), service.clone()))
                .collect(),
            slices: slices
                .filter(|(key, _)| namespaces.contains(&key.0))
                .map(|(key, slice)| (key.clone(), slice.clone()))
                .collect(),
            ..Objects::default()
        }
    }

    /// Whether Services have addresses of both families.
    pub(crate) fn are_dual_stack(&self) -> bool {
        let mut specs = self
            .services
            .values()
            .filter_map(|service| service.spec.as_ref());
        specs.any(|spec| {
            spec.cluster_ips
                .as_ref()
                .is_some_and(|addresses| addresses.len() == 2)
        })
    }

    /// Whether a service's name leads to its endpoints; none if there is no such service.
    pub(crate) fn is_headless(&self, key: &Key) -> Option<bool> {
        let spec = self.services.get(key)?.spec.as_ref()?;
        Some(spec.cluster_ip.as_deref() == Some("None"))
    }
}

/// Who wrote a slice.
pub(crate) fn writer(slice: &EndpointSlice) -> Writer {
    let labels = slice.metadata.labels.iter().flatten();
    let mut marks = labels.filter(|(label, by)| *label == MANAGED_BY && *by == KUBERNETES);
    match marks.next() {
        Some(_) => Writer::Kubernetes,
        None => Writer::Hand,
    }
}

/// The service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE)?;
    Some((slice.metadata.namespace.clone()?, service.clone()))
}

/// The namespace and name of an object that has both.
pub(crate) fn key(metadata: &ObjectMeta) -> Key {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&metadata.namespace), text(&metadata.name))
}

fn object(text: &str) -> Result<Object> {
    let object: Value = serde_saphyr::from_str(text).with_context(|| format!("no YAML: {text}"))?;
    Ok(match object["kind"].as_str() {
        Some("Namespace") => Object::Namespace(Box::new(read(object)?)),
        Some("Service") => Object::Service(Box::new(read(object)?)),
        Some("EndpointSlice") => Object::Slice(Box::new(read(object)?)),
        Some("Pod") => Object::Pod(Box::new(read(object)?)),
        other => bail!("an object of kind {other:?}"),
    })
}

fn read<K: DeserializeOwned>(object: Value) -> Result<K> {
    let text = object.to_string();
    serde_json::from_value(object).with_context(|| format!("no object: {text}"))
}
