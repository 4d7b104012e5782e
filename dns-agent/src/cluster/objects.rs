//! What matters of a cluster's objects.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::policy::{Fact, Facts};

/// Every object known, of the kinds that make records.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The names of the Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// The Services.
    pub services: BTreeMap<Key, Service>,
    /// The EndpointSlices, by their own name.
    pub endpoint_slices: BTreeMap<Key, EndpointSlice>,
    /// The Pods.
    pub pods: BTreeMap<Key, Pod>,
    /// Whether `namespaces` says which Namespaces exist. Without any Namespace
    /// object all of them do.
    pub namespaces_known: bool,
    /// What decides who may ask.
    pub facts: Box<Facts>,
}

/// How many objects there are of each kind.
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

/// What tells apart the objects of one kind. It is kept wherever an object is found, so its
/// texts are shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace it is in.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// One object, read from the API's form with `TryFrom`.
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
    /// What an object says of who may ask; it makes no records.
    Fact(Fact),
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: Key,
    /// What stands behind its name.
    pub kind: ServiceKind,
    /// Its ports; services share the lists they have in common.
    pub ports: Arc<[Port]>,
}

/// What stands behind a service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Virtual addresses; none while none is allotted.
    ClusterIp(Box<[IpAddr]>),
    /// The addresses of its endpoints.
    Headless,
    /// The addresses of endpoints that the source does not have: the names are delegated.
    HeadlessElsewhere,
    /// Another domain name.
    ExternalName(Box<str>),
    /// What can't be read: somebody else may know better.
    Unreadable,
}

/// A part of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: Key,
    /// The name of the service, in the same namespace. A slice without the label
    /// is nobody's.
    pub service: Option<Arc<str>>,
    /// The addresses of the endpoints that are ready.
    pub endpoints: Box<[Endpoint]>,
    /// How far it could be read.
    pub reading: Reading,
    /// The ports that each of the endpoints has.
    pub ports: Arc<[Port]>,
}

/// How far a slice could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// As CoreDNS reads it.
    #[default]
    Plain,
    /// CoreDNS takes some of its addresses for domain names, or for other addresses than we do.
    Odd,
    /// Not at all: somebody else may know its endpoints.
    Unreadable,
}

/// One address of an endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The endpoint's host name, if it has one of its own.
    pub hostname: Option<Box<str>>,
    /// The name of the pod behind it.
    pub pod: Option<Box<str>>,
    /// The topology zone it is in.
    pub zone: Option<Arc<str>>,
}

/// A port of a service or a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port {
    /// Its name, if it has one.
    pub name: Option<Box<str>>,
    /// The protocol in lower case: `tcp`, `udp` or `sctp`.
    pub protocol: Cow<'static, str>,
    /// Its number; none means all ports, or no port at all.
    pub number: Option<u16>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// Its addresses; none when it ended.
    pub addresses: Vec<IpAddr>,
    /// Whether it is being deleted. CoreDNS goes on answering for it until it is gone, if it knew it
    /// before.
    pub is_terminating: bool,
}

/// Something wrong with an object: what, where, why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The kind of the object.
    pub kind: &'static str,
    /// Its namespace; empty when the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The field, as a path from the object's root.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why an object could not be read.
pub type ObjectError = Problem;

impl Object {
    /// What tells it apart from others of its kind; a Namespace is in none.
    pub fn key(&self) -> Key {
        match self {
            Object::Namespace(namespace) => Key::new("", namespace.name.clone()),
            Object::Service(service) => service.key.clone(),
            Object::EndpointSlice(slice) => slice.key.clone(),
            Object::Pod(pod) => pod.key.clone(),
            Object::Fact(fact) => fact.key().clone(),
        }
    }
}

impl Objects {
    /// Puts an object in the place of the one with the same kind and key.
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

    /// Notes which headless Services have no EndpointSlice here: only the source's end tells that, and
    /// only where the source is not the API, which has the slices of all.
    pub fn note_missing_slices(&mut self) {
        let slices = self.endpoint_slices.values();
        let with_slices: BTreeSet<Key> = slices.filter_map(EndpointSlice::service_key).collect();
        for service in self.services.values_mut() {
            if service.kind == ServiceKind::Headless && !with_slices.contains(&service.key) {
                service.kind = ServiceKind::HeadlessElsewhere;
            }
        }
    }

    /// Takes out the object with the same kind and key as this one. That there was
    /// a Namespace stays known: others don't exist because of its absence.
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

impl Key {
    /// Both parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Key {
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Comes before all other keys in a namespace.
    pub(super) fn first_in(namespace: &str) -> Key {
        Key::new(namespace, "")
    }

    /// Whether it is in a namespace.
    pub(super) fn is_in(&self, namespace: &str) -> bool {
        *self.namespace == *namespace
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Service {
    /// One that is there and can't be read: what it would give is left to somebody else.
    pub fn unreadable(key: Key) -> Service {
        Service {
            key,
            kind: ServiceKind::Unreadable,
            ports: [].into(),
        }
    }
}

impl ServiceKind {
    /// Whether it is not known what stands behind the name, so that nothing about it may be denied.
    pub fn is_unknown(&self) -> bool {
        match self {
            ServiceKind::Unreadable | ServiceKind::HeadlessElsewhere => true,
            ServiceKind::ClusterIp(addresses) => addresses.is_empty(),
            ServiceKind::Headless | ServiceKind::ExternalName(_) => false,
        }
    }
}

impl EndpointSlice {
    /// One that is there and can't be read: what it would give is left to somebody else.
    pub fn unreadable(key: Key, service: Option<Arc<str>>) -> EndpointSlice {
        EndpointSlice {
            key,
            service,
            endpoints: [].into(),
            reading: Reading::Unreadable,
            ports: [].into(),
        }
    }

    /// The service it belongs to.
    pub fn service_key(&self) -> Option<Key> {
        Some(Key {
            namespace: self.key.namespace.clone(),
            name: self.service.clone()?,
        })
    }
}

impl Problem {
    /// A problem with an object that is in a namespace.
    pub(super) fn of(kind: &'static str, key: &Key, field: String, reason: String) -> Problem {
        Problem {
            kind,
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            field,
            reason,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            kind,
            namespace,
            name,
            field,
            reason,
        } = self;
        match namespace.as_str() {
            "" => write!(f, "{kind} {name}: {field}: {reason}"),
            _ => write!(f, "{kind} {namespace}/{name}: {field}: {reason}"),
        }
    }
}

impl std::error::Error for Problem {}
