//! The objects that the suite writes: those of `zoo.yaml` and `dual-stack.yaml`, and constructors
//! for others.

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

/// The namespace and the name of an object.
pub(crate) type NamespacedName = (String, String);

/// The suite's objects, as [`LiveCluster`](crate::cluster::LiveCluster) last wrote or listed them.
/// [`LiveCluster::patch`](crate::cluster::LiveCluster::patch) does not update them. The objects of
/// the DNS namespace and of a [`Marker`](crate::cluster::Marker) are not among them.
#[derive(Default)]
pub(crate) struct LiveObjects {
    pub(crate) namespaces: BTreeSet<String>,
    /// The namespaces with the label [`HIDDEN`].
    pub(crate) hidden: BTreeSet<String>,
    pub(crate) services: BTreeMap<NamespacedName, Service>,
    pub(crate) slices: BTreeMap<NamespacedName, EndpointSlice>,
    pub(crate) pods: BTreeMap<NamespacedName, Pod>,
}

/// An object to write.
pub(crate) enum WrittenObject {
    Namespace(Box<Namespace>),
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Pod(Box<Pod>),
}

/// The writer of a slice, by its `managed-by` label.
#[derive(Clone, Copy)]
pub(crate) enum SliceWriter {
    /// Kubernetes' EndpointSlice controller.
    Kubernetes,
    /// Written by hand: the label is absent.
    Hand,
}

/// The label of namespaces and objects that a Corefile can exclude by `!zerohop.test/hidden`.
pub(crate) const HIDDEN: &str = "zerohop.test/hidden";

/// The label that names a slice's Service.
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";

/// The label that names a slice's writer.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] for Kubernetes' EndpointSlice controller.
pub(crate) const KUBERNETES: &str = "endpointslice-controller.k8s.io";
/// The label that the controller adds to slices of headless Services.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// The annotation in which the controller writes the time of the change that it reacts to.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Number of aliases in the longest chain: more than the 11 that CoreDNS and Zerohop follow.
const CHAIN: usize = 14;

/// The objects of `zoo.yaml`, a long chain of aliases, and two slices with many endpoints.
pub(crate) fn zoo(prefix: &str, zone: &str) -> Result<Vec<WrittenObject>> {
    let mut objects = parse_documents(include_str!("zoo.yaml"), prefix, zone)?;
    for number in 0..CHAIN {
        let target = match number + 1 {
            CHAIN => format!("web.{prefix}-a.svc.{zone}"),
            next => format!("link-{next}.{prefix}-b.svc.{zone}"),
        };
        let key = (format!("{prefix}-b"), format!("link-{number}"));
        objects.push(service(&key, &alias(&target))?);
    }
    // Slices of the Services `some` and `many` of `zoo.yaml`. Each A record takes 16 bytes, so 40
    // do not fit into the 512 bytes of a reply without EDNS, and 100 not into 1232 bytes.
    for (name, third, count) in [("some", 5, 40), ("many", 6, 100)] {
        let key = (format!("{prefix}-b"), name.to_owned());
        let endpoints =
            (1..=count).map(|last| json!({"addresses": [format!("100.64.{third}.{last}")]}));
        let ports = json!([{"name": "http", "port": 80}]);
        let slice = slice(&key, "IPv4", &endpoints.collect(), &ports)?;
        objects.push(WrittenObject::Slice(Box::new(label_slice(
            slice,
            name,
            Some(true),
            SliceWriter::Kubernetes,
        ))));
    }
    Ok(objects)
}

/// The objects of `dual-stack.yaml`, which only a dual-stack cluster accepts.
pub(crate) fn dual_stack_zoo(prefix: &str, zone: &str) -> Result<Vec<WrittenObject>> {
    parse_documents(include_str!("dual-stack.yaml"), prefix, zone)
}

/// Parses YAML documents, after `NS` and `cluster.local` are replaced by the run's prefix and zone.
fn parse_documents(text: &str, prefix: &str, zone: &str) -> Result<Vec<WrittenObject>> {
    let text = text.replace("NS", prefix).replace("cluster.local", zone);
    text.split("\n---\n").map(parse_object).collect()
}

pub(crate) fn service(key: &NamespacedName, spec: &Value) -> Result<WrittenObject> {
    read(json!({"metadata": {"namespace": key.0, "name": key.1}, "spec": spec}))
        .map(|service| WrittenObject::Service(Box::new(service)))
}

/// A Pod with the status that a kubelet would report.
/// [`LiveCluster::write`](crate::cluster::LiveCluster::write) adds a spec that no scheduler places.
pub(crate) fn pod(key: &NamespacedName, status: &Value) -> Result<WrittenObject> {
    read(json!({"metadata": {"namespace": key.0, "name": key.1}, "status": status}))
        .map(|pod| WrittenObject::Pod(Box::new(pod)))
}

/// The spec of an ExternalName Service.
pub(crate) fn alias(target: &str) -> Value {
    json!({"type": "ExternalName", "externalName": target})
}

/// An EndpointSlice without labels, and therefore without a Service.
pub(crate) fn slice(
    key: &NamespacedName,
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

/// Labels a slice as one of `service`, and annotates it, as `writer` would. `headless` is `None` if
/// the Service does not exist.
pub(crate) fn label_slice(
    mut slice: EndpointSlice,
    service: &str,
    headless: Option<bool>,
    writer: SliceWriter,
) -> EndpointSlice {
    let labels = slice.metadata.labels.get_or_insert_default();
    labels.insert(SERVICE.to_owned(), service.to_owned());
    labels.remove(MANAGED_BY);
    labels.remove(HEADLESS);
    if let SliceWriter::Kubernetes = writer {
        labels.insert(MANAGED_BY.to_owned(), KUBERNETES.to_owned());
        if headless == Some(true) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        let annotations = slice.metadata.annotations.get_or_insert_default();
        annotations.insert(TRIGGERED.to_owned(), Timestamp::now().to_string());
    }
    slice
}

impl LiveObjects {
    /// The Services and slices of these namespaces.
    pub(crate) fn within(&self, namespaces: &[String]) -> LiveObjects {
        let services = self.services.iter();
        let slices = self.slices.iter();
        LiveObjects {
            services: services
                .filter(|(key, _)| namespaces.contains(&key.0))
                .map(|(key, service)| (key.clone(), service.clone()))
                .collect(),
            slices: slices
                .filter(|(key, _)| namespaces.contains(&key.0))
                .map(|(key, slice)| (key.clone(), slice.clone()))
                .collect(),
            ..LiveObjects::default()
        }
    }

    /// Whether any Service has addresses of both families.
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

    /// Whether a Service is headless; `None` if the Service is absent.
    pub(crate) fn is_headless(&self, key: &NamespacedName) -> Option<bool> {
        let spec = self.services.get(key)?.spec.as_ref()?;
        Some(spec.cluster_ip.as_deref() == Some("None"))
    }
}

/// The writer that a slice's labels name: `Hand` for every other writer than Kubernetes'
/// controller.
pub(crate) fn writer_of(slice: &EndpointSlice) -> SliceWriter {
    let labels = slice.metadata.labels.iter().flatten();
    let mut marks = labels.filter(|(label, by)| *label == MANAGED_BY && *by == KUBERNETES);
    match marks.next() {
        Some(_) => SliceWriter::Kubernetes,
        None => SliceWriter::Hand,
    }
}

/// The Service that a slice's label names. `None` without that label.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE)?;
    Some((slice.metadata.namespace.clone()?, service.clone()))
}

/// The namespace and name of an object. The namespace is empty if the object is a Namespace.
pub(crate) fn key(metadata: &ObjectMeta) -> NamespacedName {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&metadata.namespace), text(&metadata.name))
}

/// Parses one YAML document.
fn parse_object(text: &str) -> Result<WrittenObject> {
    let object: Value =
        serde_saphyr::from_str(text).with_context(|| format!("invalid YAML: {text}"))?;
    Ok(match object["kind"].as_str() {
        Some("Namespace") => WrittenObject::Namespace(Box::new(read(object)?)),
        Some("Service") => WrittenObject::Service(Box::new(read(object)?)),
        Some("EndpointSlice") => WrittenObject::Slice(Box::new(read(object)?)),
        Some("Pod") => WrittenObject::Pod(Box::new(read(object)?)),
        other => bail!("an object of the suite has the unexpected kind {other:?}"),
    })
}

fn read<K: DeserializeOwned>(object: Value) -> Result<K> {
    let text = object.to_string();
    serde_json::from_value(object).with_context(|| format!("cannot read the object {text}"))
}
