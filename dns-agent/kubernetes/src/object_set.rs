//! A set of Kubernetes objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::objects::{EndpointSlice, Namespace, ObjectKey, Pod, Service, ServiceKind};
use super::policy::{Fact, Facts};

/// The objects that make records, and the facts for the client policy.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The names of the Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// The Services.
    pub services: BTreeMap<ObjectKey, Service>,
    /// The EndpointSlices, by namespace and name of the slice.
    pub endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// The Pods.
    pub pods: BTreeMap<ObjectKey, Pod>,
    /// Whether `namespaces` lists every Namespace that exists. If false, every namespace counts as
    /// existing. Inserting or removing a Namespace sets it to true, because files that contain any
    /// Namespace are taken to contain all.
    pub namespaces_known: bool,
    /// The facts for the client policy.
    pub facts: Box<Facts>,
}

/// Number of objects of each kind.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct ObjectCounts {
    /// Namespaces.
    pub namespaces: usize,
    /// Services.
    pub services: usize,
    /// EndpointSlices.
    pub endpoint_slices: usize,
    /// Pods.
    pub pods: usize,
}

/// An object that makes records, or a fact for the client policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A fact for the client policy. It makes no records.
    Fact(Fact),
}

impl Object {
    /// The object's namespace and name. A Namespace has an empty namespace.
    pub fn key(&self) -> ObjectKey {
        match self {
            Object::Namespace(namespace) => ObjectKey::new("", namespace.name.clone()),
            Object::Service(service) => service.key.clone(),
            Object::EndpointSlice(slice) => slice.key.clone(),
            Object::Pod(pod) => pod.key.clone(),
            Object::Fact(fact) => fact.key().clone(),
        }
    }
}

impl Objects {
    /// Adds an object, or replaces the one with the same kind and key.
    pub fn insert(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces_known = true;
                self.namespaces.insert(namespace.name);
            }
            Object::Service(service) => {
                self.services.insert(service.key.clone(), service);
            }
            Object::EndpointSlice(slice) => {
                self.endpoint_slices.insert(slice.key.clone(), slice);
            }
            Object::Pod(pod) => {
                self.pods.insert(pod.key.clone(), pod);
            }
            Object::Fact(fact) => self.facts.insert(fact),
        }
    }

    /// Marks headless Services without an EndpointSlice, so that their names are delegated to
    /// CoreDNS. Call this after all manifest files have been read. Objects from the API need no
    /// mark, because the API has the slices of every Service.
    pub fn mark_services_without_slices(&mut self) {
        let slices = self.endpoint_slices.values();
        let with_slices: BTreeSet<ObjectKey> =
            slices.filter_map(EndpointSlice::service_key).collect();
        for service in self.services.values_mut() {
            if service.kind == ServiceKind::Headless && !with_slices.contains(&service.key) {
                service.kind = ServiceKind::HeadlessWithoutSlices;
            }
        }
    }

    /// Removes the object with the same kind and key as this one. A Namespace that is removed, or
    /// that was never inserted because a selector rejects it, still sets `namespaces_known`. Facts
    /// stay, because no selector rejects them.
    pub fn remove(&mut self, object: &Object) {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces_known = true;
                self.namespaces.remove(&namespace.name);
            }
            Object::Service(service) => {
                self.services.remove(&service.key);
            }
            Object::EndpointSlice(slice) => {
                self.endpoint_slices.remove(&slice.key);
            }
            Object::Pod(pod) => {
                self.pods.remove(&pod.key);
            }
            Object::Fact(_) => {}
        }
    }
}
