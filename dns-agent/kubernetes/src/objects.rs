//! Kubernetes objects, reduced to the fields that decide DNS answers.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Identifies an object among all objects of its kind. Many structures store the same key, so the
/// strings are shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The object's namespace; empty for kinds without namespaces, such as Namespace, and if the
    /// object's metadata can't be read.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The Namespace's name.
    pub name: Arc<str>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// What the Service's name resolves to.
    pub kind: ServiceKind,
    /// The Service's ports. Services with equal lists share one allocation.
    pub ports: Arc<[Port]>,
}

/// What a Service's name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Virtual addresses. Empty until the API server has allocated one, or if a manifest file
    /// states none.
    ClusterIp(Box<[IpAddr]>),
    /// The addresses of the Service's endpoints.
    Headless,
    /// The addresses of endpoints, but the manifest files have no EndpointSlice for the Service.
    /// The names are delegated to CoreDNS.
    HeadlessWithoutSlices,
    /// Another domain name.
    ExternalName(Box<str>),
    /// The object can't be read. The names are delegated to CoreDNS, which may be able to read it.
    /// The index also substitutes this kind for a headless Service whose slices are not all
    /// watched.
    Unreadable,
}

/// An EndpointSlice: some of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// The name of the Service, in the same namespace. `None` if the slice has no label
    /// `kubernetes.io/service-name`.
    pub service: Option<Arc<str>>,
    /// The addresses of the ready endpoints, without those that CoreDNS reads as domain names.
    pub endpoints: Box<[Endpoint]>,
    /// Whether Zerohop and CoreDNS read the slice alike.
    pub readability: SliceReadability,
    /// The ports of every endpoint.
    pub ports: Arc<[Port]>,
}

/// Whether Zerohop and CoreDNS read a slice alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SliceReadability {
    /// Zerohop and CoreDNS read every address alike.
    #[default]
    Plain,
    /// Some address is a domain name, or is not in canonical spelling, so that CoreDNS may read it
    /// differently.
    Nonstandard,
    /// The slice can't be read. The names that depend on it are delegated to CoreDNS.
    Unreadable,
}

/// One address of a Service's endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The endpoint's host name, if the slice gives one.
    pub hostname: Option<Box<str>>,
    /// The name of the endpoint's target, usually a Pod.
    pub pod: Option<Box<str>>,
    /// The topology zone of the address, in lower case. If several endpoints of a slice have the
    /// address, it is the zone of the last one that has a zone.
    pub zone: Option<Arc<str>>,
}

/// A port of a Service or an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Port {
    /// The port's name, if it has one.
    pub name: Option<Box<str>>,
    /// The protocol in lower case, such as `tcp`, `udp` or `sctp`.
    pub protocol: Cow<'static, str>,
    /// The port's number.
    pub number: PortNumber,
}

/// The number of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PortNumber {
    /// The slice gives no number. The port makes no SRV record.
    #[default]
    Absent,
    /// A number from 0 to 65535.
    Valid(u16),
    /// Another number. The API server accepts it in an EndpointSlice, and CoreDNS answers with some
    /// port. So SRV queries for the names with this port pass.
    OutOfRange,
}

impl PortNumber {
    /// The number, if it is valid.
    #[must_use]
    pub fn valid(self) -> Option<u16> {
        match self {
            PortNumber::Valid(number) => Some(number),
            PortNumber::Absent | PortNumber::OutOfRange => None,
        }
    }
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Pod's addresses. Empty if the Pod has none yet, has ended, or is lost with its node.
    pub addresses: Vec<IpAddr>,
    /// Whether the Pod is being deleted. A CoreDNS server that stored the Pod earlier answers its
    /// name until the Pod is gone; other CoreDNS servers don't.
    pub is_terminating: bool,
}

/// A problem with a field of an object, or with a setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The kind of the object, such as `Service`, or of the setting, such as `cluster domain`.
    pub kind: &'static str,
    /// The object's namespace; empty for a kind without namespaces, and if it can't be read.
    pub namespace: String,
    /// The object's name; empty if it can't be read.
    pub name: String,
    /// The field, as a path from the object's root. Empty or `.` if the problem concerns the whole
    /// object.
    pub field: String,
    /// Why the field is rejected.
    pub reason: String,
}

/// Why an object could not be read.
pub type ObjectError = Problem;

impl ObjectKey {
    /// The key with this namespace and name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> ObjectKey {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The lowest key of a namespace.
    pub(super) fn first_in(namespace: &str) -> ObjectKey {
        ObjectKey::new(namespace, "")
    }

    /// Whether the object is in this namespace.
    pub(super) fn is_in(&self, namespace: &str) -> bool {
        *self.namespace == *namespace
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Service {
    /// A placeholder for a Service that can't be read. It delegates the Service's names to CoreDNS.
    pub fn unreadable(key: ObjectKey) -> Service {
        Service {
            key,
            kind: ServiceKind::Unreadable,
            ports: [].into(),
        }
    }
}

impl ServiceKind {
    /// Whether the Service's addresses are unknown, so that none of its names may be denied.
    pub fn is_undetermined(&self) -> bool {
        match self {
            ServiceKind::Unreadable | ServiceKind::HeadlessWithoutSlices => true,
            ServiceKind::ClusterIp(addresses) => addresses.is_empty(),
            ServiceKind::Headless | ServiceKind::ExternalName(_) => false,
        }
    }
}

impl EndpointSlice {
    /// A placeholder for a slice that can't be read. It delegates the names that depend on the
    /// slice to CoreDNS.
    pub fn unreadable(key: ObjectKey, service: Option<Arc<str>>) -> EndpointSlice {
        EndpointSlice {
            key,
            service,
            endpoints: [].into(),
            readability: SliceReadability::Unreadable,
            ports: [].into(),
        }
    }

    /// The Service that the slice belongs to.
    pub fn service_key(&self) -> Option<ObjectKey> {
        Some(ObjectKey {
            namespace: self.key.namespace.clone(),
            name: self.service.clone()?,
        })
    }
}

impl Problem {
    /// A problem with the object of this kind and key.
    pub(super) fn with_key(
        kind: &'static str,
        key: &ObjectKey,
        field: String,
        reason: String,
    ) -> Problem {
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
        match (namespace.as_str(), name.as_str()) {
            (_, "") => write!(f, "a {kind} without a readable name: ")?,
            ("", name) => write!(f, "{kind} {name}: ")?,
            (namespace, name) => write!(f, "{kind} {namespace}/{name}: ")?,
        }
        match field.as_str() {
            // The path of the object itself.
            "" | "." => f.write_str(reason),
            field => write!(f, "{field}: {reason}"),
        }
    }
}

impl std::error::Error for Problem {}
