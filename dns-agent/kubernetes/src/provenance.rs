//! The objects that a record was made from, and the reasons why a record is absent.
//!
//! Provenance is not stored. The rules that made a record are applied again, to one Service at a
//! time.

use std::collections::BTreeSet;

use zerohop_zone::{
    Name, NameEntry, ObjectRef, Origin, Rdata, Record, Rtype, Window, reverse_range, undashed,
};

use super::endpoints::{EndpointLabel, ServiceEndpoints};
use super::index::Index;
use super::names::pod_label;
use super::objects::{EndpointSlice, ObjectKey, Service, ServiceKind};
use super::service::{NamesOfService, SliceCoverage, service_name};
use super::settings::{EmptyServices, PodMode, ZoneSettings};

/// Finds the objects behind the records of an index.
pub struct Provenance<'a> {
    index: &'a Index,
    settings: &'a ZoneSettings,
}

/// A name in a cluster domain, split into labels.
struct SplitName<'a> {
    /// `svc.<zone>`.
    svc: Name,
    /// The labels left of the zone, from right to left.
    labels: Vec<&'a [u8]>,
}

impl<'a> Provenance<'a> {
    /// Provenance of the records that `index` makes.
    #[must_use]
    pub fn new(index: &'a Index) -> Provenance<'a> {
        Provenance {
            index,
            settings: index.settings(),
        }
    }

    /// Finds the origin of a record.
    #[must_use]
    pub fn origin_of(&self, record: &Record) -> Origin {
        let mut objects = Vec::new();
        match &record.data {
            Rdata::Soa(_) | Rdata::Txt(_) => return Origin::Settings,
            // PTR and NS records are made from the objects of their target.
            Rdata::Ptr(target) | Rdata::Ns(target) => {
                for split in self.split_in_domains(target) {
                    objects.extend(self.target_objects(&split, target, record));
                }
                // Without such objects, the name server is `ns.dns.<zone>`.
                if objects.is_empty() && matches!(record.data, Rdata::Ns(_)) {
                    return Origin::Settings;
                }
            }
            _ => {
                for split in self.split_in_domains(&record.owner) {
                    match split.labels.as_slice() {
                        [b"dns", b"ns"] => return Origin::Settings,
                        [b"svc", ..] => objects.extend(self.service_record_objects(&split, record)),
                        [b"pod", namespace, label] => match self.pod_origin(namespace, label) {
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

    /// Explains to an operator why a name has no record of a type. At most one reason for each
    /// cluster domain that the name is in; empty if there is nothing to explain.
    #[must_use]
    pub fn reasons_for_absence(&self, name: &Name, rtype: Rtype) -> Vec<String> {
        let splits = self.split_in_domains(name);
        let mut reasons: Vec<String> = splits
            .iter()
            .filter_map(|split| match split.labels.as_slice() {
                [b"svc" | b"pod", namespace, ..] if !self.exposes_label(namespace) => {
                    Some(self.why_namespace_is_hidden(&text(namespace)))
                }
                [b"svc", namespace, service, below @ ..] => {
                    Some(self.why_service_lacks_record(&key(namespace, service), below, rtype))
                }
                [b"pod", _, label] => Some(self.why_pod_lacks_record(label)),
                _ => None,
            })
            .collect();
        reasons.dedup();
        reasons
    }

    /// Splits a name once for each cluster domain that it is in.
    fn split_in_domains<'n>(&self, name: &'n Name) -> Vec<SplitName<'n>> {
        let domains = self.settings.cluster_domains.iter();
        domains
            .filter(|domain| name.is_at_or_below(domain))
            .filter_map(|domain| {
                let count = name.labels().count() - domain.labels().count();
                let mut labels: Vec<_> = name.labels().take(count).collect();
                labels.reverse();
                let svc = domain.child(b"svc").ok()?;
                Some(SplitName { svc, labels })
            })
            .collect()
    }

    /// The Service that a name below `svc.<zone>` belongs to. `None` if the Service is absent or
    /// its namespace isn't exposed.
    fn service(&self, split: &SplitName<'_>) -> Option<&'a Service> {
        let [b"svc", namespace, service, ..] = split.labels.as_slice() else {
            return None;
        };
        let service = self.index.service(&key(namespace, service))?;
        let is_exposed = self.index.exposes(&service.key.namespace);
        is_exposed.then_some(service)
    }

    fn service_record_objects(&self, split: &SplitName<'_>, record: &Record) -> Vec<ObjectRef> {
        self.contributing_objects(split, |entry| {
            let mut data = entry.data();
            data.any(|other| is_equal_except_weight(other, &record.data))
        })
    }

    fn target_objects(
        &self,
        split: &SplitName<'_>,
        target: &Name,
        record: &Record,
    ) -> Vec<ObjectRef> {
        match record.data {
            Rdata::Ptr(_) => self.pointer_objects(split, target, record),
            _ => self.contributing_objects(split, |entry| entry.data().next().is_some()),
        }
    }

    /// The objects that make a PTR record. For a ClusterIP, only the Service. For an endpoint, the
    /// slices that list it, and the Service if it exists; slices make PTR records even if their
    /// Service is absent or not exposed. If the record isn't made, the Service is returned all the
    /// same.
    fn pointer_objects(
        &self,
        split: &SplitName<'_>,
        target: &Name,
        record: &Record,
    ) -> Vec<ObjectRef> {
        let [b"svc", namespace, service, ..] = split.labels.as_slice() else {
            return Vec::new();
        };
        let key = key(namespace, service);
        let service = self.index.service(&key);
        let mut objects: Vec<ObjectRef> = service
            .map(|_| object_ref("Service", &key))
            .into_iter()
            .collect();
        let (Ok(name), Some(range)) =
            (service_name(&key, &split.svc), reverse_range(&record.owner))
        else {
            return objects;
        };
        let address = *range.start();
        if let Some(ServiceKind::ClusterIp(own)) = service.map(|service| &service.kind)
            && own.contains(&address)
            && name == *target
        {
            return objects;
        }
        let endpoints = self.index.endpoints(&key);
        let reader = endpoints.map(|endpoints| endpoints.reader(self.settings));
        let members = reader.iter().flat_map(|reader| reader.at_address(address));
        let slices = members.filter(|member| {
            let label = EndpointLabel::of(member.endpoint, self.settings);
            label.name_below(&name).as_ref() == Ok(target)
        });
        let slices: BTreeSet<&str> = slices.map(|member| member.slice).collect();
        let slices = slices.into_iter().map(|slice| {
            let key = ObjectKey::new(key.namespace.clone(), slice);
            object_ref("EndpointSlice", &key)
        });
        objects.extend(slices);
        objects
    }

    /// The objects that make a record of the name in `split`. `has_record` tests whether an entry
    /// has the record. If the Service makes the record without slices, only the Service is
    /// returned; otherwise, the Service and each slice with which it makes the record. Empty if the
    /// record isn't made.
    fn contributing_objects(
        &self,
        split: &SplitName<'_>,
        has_record: impl Fn(&NameEntry) -> bool,
    ) -> Vec<ObjectRef> {
        let Some(service) = self.service(split) else {
            return Vec::new();
        };
        let below = split.labels.get(3..).unwrap_or_default();
        let below: Result<Vec<&str>, _> = below
            .iter()
            .map(|label| std::str::from_utf8(label))
            .collect();
        let Ok(below) = below else {
            return Vec::new();
        };
        let makes_record = |slice: Option<EndpointSlice>| {
            let (settings, coverage) = (self.settings, SliceCoverage::Whole);
            let endpoints = ServiceEndpoints::from_slices(slice, settings);
            let names = NamesOfService::new(service, &endpoints, coverage, &split.svc, settings);
            let entry = names.ok().and_then(|names| stored_entry(&names, &below));
            entry.is_some_and(|entry| has_record(&entry))
        };
        let service_ref = object_ref("Service", &service.key);
        if makes_record(None) {
            return vec![service_ref];
        }
        let slices = self
            .index
            .endpoints(&service.key)
            .map(|it| it.slices(&service.key));
        let slices: Vec<_> = slices
            .into_iter()
            .flatten()
            .filter_map(|slice| {
                let slice_ref = object_ref("EndpointSlice", &slice.key);
                makes_record(Some(slice)).then_some(slice_ref)
            })
            .collect();
        if slices.is_empty() {
            return Vec::new();
        }
        [vec![service_ref], slices].concat()
    }

    fn pod_origin(&self, namespace: &[u8], label: &[u8]) -> Origin {
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
                Origin::Objects(pods.map(|pod| object_ref("Pod", &pod.key)).collect())
            }
        }
    }

    fn exposes_label(&self, namespace: &[u8]) -> bool {
        self.index.any_namespace() || self.index.exposes(&text(namespace))
    }

    fn why_namespace_is_hidden(&self, namespace: &str) -> String {
        if self.index.knows_namespaces() && !self.index.has_namespace(namespace) {
            return format!(
                "there is no Namespace {namespace}, or --namespace-labels (or `namespace_labels` \
                 in CoreDNS's Corefile) doesn't select it"
            );
        }
        format!(
            "the namespace {namespace} is not exposed: --namespace (or `namespaces` in CoreDNS's \
             Corefile) does not list it"
        )
    }

    fn why_service_lacks_record(&self, key: &ObjectKey, below: &[&[u8]], rtype: Rtype) -> String {
        let ObjectKey { namespace, name } = key;
        let Some(service) = self.index.service(key) else {
            return format!(
                "there is no Service {namespace}/{name}, or --labels (or `labels` in CoreDNS's \
                 Corefile) doesn't select it"
            );
        };
        let subject = format!("Service {namespace}/{name}");
        let ready = self.index.endpoints(key).map_or(0, ServiceEndpoints::count);
        let missing = match rtype {
            Rtype::A => "an IPv4 address".to_owned(),
            Rtype::AAAA => "an IPv6 address".to_owned(),
            Rtype::SRV => "a port".to_owned(),
            _ => format!("a {rtype} record"),
        };
        match (&service.kind, below) {
            (ServiceKind::ExternalName(target), []) => format!(
                "{subject} is an alias of {target}, which leads to no such record or is not a \
                 valid domain name"
            ),
            (ServiceKind::ExternalName(target), _) => {
                format!("{subject} is an alias of {target}, so no names exist below it")
            }
            (ServiceKind::ClusterIp(addresses), _) if addresses.is_empty() => {
                format!("{subject} has no address yet, so CoreDNS answers its names")
            }
            (ServiceKind::HeadlessWithoutSlices, _) => format!(
                "{subject} is headless, and the files have no EndpointSlice for it, so CoreDNS \
                 answers its names"
            ),
            (ServiceKind::ClusterIp(_), _)
                if ready == 0 && self.settings.empty_services == EmptyServices::Ignored =>
            {
                format!(
                    "{subject} has no ready endpoint, so its names don't exist \
                     (--ignore-empty-service, or `ignore empty_service` in CoreDNS's Corefile)"
                )
            }
            (ServiceKind::Unreadable, _) => {
                format!("{subject} can't be read, so CoreDNS answers its names")
            }
            (ServiceKind::Headless, _) if self.index.is_uncovered(service) => format!(
                "{subject} is headless, and not all of its EndpointSlices are watched yet, so \
                 CoreDNS answers its names"
            ),
            (ServiceKind::ClusterIp(_), []) => format!("{subject} does not have {missing}"),
            (ServiceKind::Headless, []) if ready == 0 => {
                format!("{subject} is headless, and none of its endpoints is ready")
            }
            (ServiceKind::Headless, []) => format!(
                "{subject} is headless, and none of its {ready} ready endpoints has {missing}"
            ),
            (_, [protocol @ (b"tcp" | b"udp" | b"sctp"), ..]) => format!(
                "labels of ports and protocols start with an underscore: _{}",
                text(protocol)
            ),
            // The Service's endpoints may not be watched, so their number isn't stated.
            (ServiceKind::ClusterIp(_), _) => format!(
                "{subject} exists, but none of its ports or known endpoints has this name and \
                 {missing}"
            ),
            _ => format!(
                "{subject} exists with {ready} ready endpoints, but none of its ports or \
                 endpoints has this name and {missing}"
            ),
        }
    }

    fn why_pod_lacks_record(&self, label: &[u8]) -> String {
        let label_text = text(label);
        match (self.settings.pods, undashed(label)) {
            (PodMode::Disabled, _) => "names of pods don't exist, because --pods (or `pods` in \
                                       CoreDNS's Corefile) is disabled"
                .to_owned(),
            (_, None) => format!("{label_text} is not a dashed address such as 10-0-0-1"),
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

fn object_ref(kind: &str, key: &ObjectKey) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
    }
}

/// The entry with the records of the name with these labels below a Service. A computed name for a
/// topology zone has those of the Service's name.
fn stored_entry(names: &NamesOfService<'_>, labels: &[&str]) -> Option<NameEntry> {
    let own = names.entry(labels, Window::WHOLE);
    match labels {
        ["_zone", "prefer", _] if own.is_none() => names.entry(&[], Window::WHOLE),
        _ => own,
    }
}

/// Whether the records are equal apart from the weight of SRV records. The weight depends on the
/// number of endpoints and ports, so it differs if only one of several slices contributes. The
/// priority is always 0.
fn is_equal_except_weight(a: &Rdata, b: &Rdata) -> bool {
    match (a, b) {
        (Rdata::Srv(a), Rdata::Srv(b)) => a.port == b.port && a.target == b.target,
        _ => a == b,
    }
}

fn key(namespace: &[u8], name: &[u8]) -> ObjectKey {
    ObjectKey::new(text(namespace), text(name))
}

/// A label as text. Invalid UTF-8 becomes U+FFFD, which no object's name contains.
fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}
