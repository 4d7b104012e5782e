//! Records back to objects: where a record came from, and why there is none.
//!
//! Nothing of this is stored. The rules that made a record are applied once more, to one
//! service and one slice at a time.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::zone::{Below, Name, Rdata, Record, Rtype, reverse_name, undashed};

use super::index::Index;
use super::objects::{EndpointSlice, Key, Service, ServiceKind};
use super::service::{Contribution, contribution, pointing};
use super::settings::{EmptyServices, PodMode, ZoneSettings};
use super::view::pod_label;

/// Tells where the records of a model came from.
pub struct Provenance<'a> {
    index: &'a Index,
    settings: &'a ZoneSettings,
}

/// Where a record came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// These objects: without any of the first kind, or without all of the others, it would not
    /// be there.
    Objects(Vec<ObjectRef>),
    /// The operator's settings: it is there without any object.
    Settings,
    /// Neither: the objects have changed since the record was made.
    Unknown,
}

/// An object of the cluster.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// Its kind, such as `Service`.
    pub kind: String,
    /// Its namespace; empty when the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What a name in a cluster domain says by its form.
struct Place<'a> {
    /// `svc.<zone>`.
    svc: Name,
    /// The labels left of the zone, the last one first.
    labels: Vec<&'a [u8]>,
}

impl<'a> Provenance<'a> {
    /// Tells it for the records of an index.
    #[must_use]
    pub fn new(index: &'a Index) -> Provenance<'a> {
        Provenance {
            index,
            settings: index.settings(),
        }
    }

    /// Where a record of the model came from.
    #[must_use]
    pub fn of(&self, record: &Record) -> Origin {
        let mut objects = Vec::new();
        match &record.data {
            Rdata::Soa(_) | Rdata::Txt(_) => return Origin::Settings,
            // Pointers and name servers are made of the target's objects.
            Rdata::Ptr(target) | Rdata::Ns(target) => {
                for place in self.places(target) {
                    objects.extend(self.of_target(&place, target, record));
                }
                if objects.is_empty() && matches!(record.data, Rdata::Ns(_)) {
                    return Origin::Settings;
                }
            }
            _ => {
                for place in self.places(&record.owner) {
                    match place.labels.as_slice() {
                        [b"dns", b"ns"] => return Origin::Settings,
                        [b"svc", ..] => objects.extend(self.of_service_record(&place, record)),
                        [b"pod", namespace, label] => match self.of_pod(namespace, label) {
                            Origin::Objects(found) => objects.extend(found),
                            other => return other,
                        },
                        _ => {}
                    }
                }
            }
        }
        objects.dedup();
        if objects.is_empty() {
            return Origin::Unknown;
        }
        Origin::Objects(objects)
    }

    /// What an operator may want to know about a name that has no record of a type: what is
    /// missing, or what is in the way.
    #[must_use]
    pub fn why_empty(&self, name: &Name, rtype: Rtype) -> Vec<String> {
        let places = self.places(name);
        let mut reasons: Vec<String> = places
            .iter()
            .filter_map(|place| match place.labels.as_slice() {
                [b"svc" | b"pod", namespace, ..] if !self.exposes(namespace) => {
                    Some(self.why_hidden(&text(namespace)))
                }
                [b"svc", namespace, service, below @ ..] => {
                    Some(self.why_no_service(&key(namespace, service), below, rtype))
                }
                [b"pod", _, label] => Some(self.why_no_pod(label)),
                _ => None,
            })
            .collect();
        reasons.dedup();
        reasons
    }

    /// The name in each cluster domain that it is in.
    fn places<'n>(&self, name: &'n Name) -> Vec<Place<'n>> {
        let domains = self.settings.cluster_domains.iter();
        domains
            .filter(|domain| name.is_at_or_below(domain))
            .filter_map(|domain| {
                let count = name.labels().count() - domain.labels().count();
                let mut labels: Vec<_> = name.labels().take(count).collect();
                labels.reverse();
                let svc = domain.child(b"svc").ok()?;
                Some(Place { svc, labels })
            })
            .collect()
    }

    /// The service that a name below `svc.<zone>` belongs to, and its slices.
    fn service(&self, place: &Place<'_>) -> Option<(&'a Service, Vec<&'a EndpointSlice>)> {
        let [b"svc", namespace, service, ..] = place.labels.as_slice() else {
            return None;
        };
        let service = self.index.service(&key(namespace, service))?;
        let is_exposed = self.index.exposes(&service.key.namespace);
        is_exposed.then(|| (service, self.index.slices_of(&service.key)))
    }

    fn of_service_record(&self, place: &Place<'_>, record: &Record) -> Vec<ObjectRef> {
        let Some((service, slices)) = self.service(place) else {
            return Vec::new();
        };
        let all = contribution(service, &slices, &place.svc, self.settings);
        let owner = stored_owner(&all, &record.owner);
        let is_it = |other: &Record| other.owner == *owner && is_same(&other.data, &record.data);
        self.givers(place, |given| given.records.iter().any(is_it))
    }

    fn of_target(&self, place: &Place<'_>, target: &Name, record: &Record) -> Vec<ObjectRef> {
        match record.data {
            Rdata::Ptr(_) => self.of_pointer(place, target, record),
            _ => self.givers(place, |given| {
                given.records.iter().any(|other| other.owner == *target)
            }),
        }
    }

    /// A Service gives it alone, or its slices do, whether the service is there and answered or not.
    fn of_pointer(&self, place: &Place<'_>, target: &Name, record: &Record) -> Vec<ObjectRef> {
        let [b"svc", namespace, service, ..] = place.labels.as_slice() else {
            return Vec::new();
        };
        let key = key(namespace, service);
        let service = self.index.service(&key);
        let gives = |slices: &[&EndpointSlice]| {
            let given = pointing(&key, service, slices, &place.svc, self.settings);
            given.pointers.iter().any(|pointer| {
                pointer.target == *target && reverse_name(pointer.address) == record.owner
            })
        };
        let mut objects: Vec<ObjectRef> = service
            .map(|_| ObjectRef::new("Service", &key))
            .into_iter()
            .collect();
        if gives(&[]) {
            return objects;
        }
        let slices = self.index.slices_of(&key).into_iter();
        let slices = slices.filter(|slice| gives(&[slice]));
        objects.extend(slices.map(|slice| ObjectRef::new("EndpointSlice", &slice.key)));
        objects
    }

    /// The service, if it alone gives what is looked for; else the service, and each slice that
    /// gives it together with the service.
    fn givers(&self, place: &Place<'_>, gives: impl Fn(&Contribution) -> bool) -> Vec<ObjectRef> {
        let Some((service, slices)) = self.service(place) else {
            return Vec::new();
        };
        let with =
            |slices: &[&EndpointSlice]| contribution(service, slices, &place.svc, self.settings);
        let itself = ObjectRef::new("Service", &service.key);
        if gives(&with(&[])) {
            return vec![itself];
        }
        let slices: Vec<_> = slices
            .iter()
            .filter(|slice| gives(&with(&[slice])))
            .map(|slice| ObjectRef::new("EndpointSlice", &slice.key))
            .collect();
        if slices.is_empty() {
            return Vec::new();
        }
        [vec![itself], slices].concat()
    }

    fn of_pod(&self, namespace: &[u8], label: &[u8]) -> Origin {
        let namespace = text(namespace);
        match self.settings.pods {
            PodMode::Disabled => Origin::Unknown,
            PodMode::Insecure if self.index.knows_namespaces() => {
                Origin::Objects(vec![ObjectRef {
                    kind: "Namespace".to_owned(),
                    namespace: String::new(),
                    name: namespace,
                }])
            }
            PodMode::Insecure => Origin::Settings,
            PodMode::Verified => {
                let pods = self.index.pods().filter(|pod| {
                    let mut addresses = pod.addresses.iter();
                    pod.key.is_in(&namespace)
                        && addresses.any(|address| pod_label(*address).as_bytes() == label)
                });
                Origin::Objects(pods.map(|pod| ObjectRef::new("Pod", &pod.key)).collect())
            }
        }
    }

    fn exposes(&self, namespace: &[u8]) -> bool {
        self.index.any_namespace() || self.index.exposes(&text(namespace))
    }

    fn why_hidden(&self, namespace: &str) -> String {
        if self.index.knows_namespaces() && !self.index.has_namespace(namespace) {
            return format!(
                "no Namespace {namespace} is known, or --namespace-labels leaves it out"
            );
        }
        format!("the namespace {namespace} is not exposed: --namespace names others only")
    }

    fn why_no_service(&self, key: &Key, below: &[&[u8]], rtype: Rtype) -> String {
        let Key { namespace, name } = key;
        let Some(service) = self.index.service(key) else {
            return format!("no Service {namespace}/{name} is known, or --labels leaves it out");
        };
        let it = format!("Service {namespace}/{name}");
        let slices = self.index.slices_of(key).into_iter();
        let ready: usize = slices.map(|slice| slice.endpoints.len()).sum();
        let lacks = match rtype {
            Rtype::A => "an IPv4 address".to_owned(),
            Rtype::AAAA => "an IPv6 address".to_owned(),
            Rtype::SRV => "a port".to_owned(),
            _ => format!("a {rtype} record"),
        };
        match (&service.kind, below) {
            (ServiceKind::ExternalName(target), []) => format!("{it} is an alias of {target}"),
            (ServiceKind::ExternalName(target), _) => {
                format!("{it} is an alias of {target}, and has no names below its own")
            }
            (ServiceKind::ClusterIp(addresses), _) if addresses.is_empty() => {
                format!("{it} has no address yet")
            }
            (ServiceKind::HeadlessElsewhere, _) => {
                format!("{it} is headless, and the files have no EndpointSlice of it")
            }
            (ServiceKind::ClusterIp(_), _)
                if ready == 0 && self.settings.empty_services == EmptyServices::Ignored =>
            {
                format!("{it} has no ready endpoint (--ignore-empty-service)")
            }
            (ServiceKind::Unreadable, _) => format!("{it} can't be read"),
            (ServiceKind::Headless, _) if self.index.is_uncovered(service) => {
                format!("{it} is headless, and not all of its EndpointSlices are watched yet")
            }
            (ServiceKind::ClusterIp(_), []) => format!("{it} does not have {lacks}"),
            (ServiceKind::Headless, []) if ready == 0 => {
                format!("{it} is headless, and none of its endpoints is ready")
            }
            (ServiceKind::Headless, []) => {
                format!("{it} is headless, and none of its {ready} ready endpoints has {lacks}")
            }
            (_, [protocol @ (b"tcp" | b"udp" | b"sctp"), ..]) => format!(
                "labels of ports and protocols start with an underscore: _{}",
                text(protocol)
            ),
            _ => format!(
                "{it} is there, with {ready} ready endpoints; none of its ports and endpoints has this name and {lacks}"
            ),
        }
    }

    fn why_no_pod(&self, label: &[u8]) -> String {
        let label_text = text(label);
        match (self.settings.pods, undashed(label)) {
            (PodMode::Disabled, _) => "names of pods are not answered (--pods disabled)".to_owned(),
            (_, None) => format!("{label_text} is no address with dashes, such as 10-0-0-1"),
            (PodMode::Insecure, Some(address)) => {
                format!("{label_text} is the address {address}, which has no record of this type")
            }
            (PodMode::Verified, Some(address)) => {
                format!(
                    "no Pod of that namespace has the address {address} and a record of this type"
                )
            }
        }
    }
}

impl ObjectRef {
    fn new(kind: &str, key: &Key) -> ObjectRef {
        ObjectRef {
            kind: kind.to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        }
    }
}

/// As in `Service shop/web`.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = self;
        match namespace.as_str() {
            "" => write!(f, "{kind} {name}"),
            _ => write!(f, "{kind} {namespace}/{name}"),
        }
    }
}

/// The name under which the records of a name are stored: another one if they are computed.
fn stored_owner<'a>(given: &'a Contribution, owner: &Name) -> Cow<'a, Name> {
    let is_stored = given.records.iter().any(|record| record.owner == *owner);
    let computed = given.below.iter().find_map(|(name, below)| match below {
        Below::Like(other) if owner.parent().as_ref() == Some(name) => Some(other),
        _ => None,
    });
    match computed {
        Some(other) if !is_stored => Cow::Borrowed(other),
        _ => Cow::Owned(owner.clone()),
    }
}

/// Whether it is the same record. The weight of a SRV record depends on how many there are, so
/// one slice alone gives another one.
fn is_same(a: &Rdata, b: &Rdata) -> bool {
    match (a, b) {
        (Rdata::Srv(a), Rdata::Srv(b)) => a.port == b.port && a.target == b.target,
        _ => a == b,
    }
}

fn key(namespace: &[u8], name: &[u8]) -> Key {
    Key::new(text(namespace), text(name))
}

/// A label of an object's; names of objects are in ASCII.
fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}
