//! Look-ups in the stored objects.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Index, PodCount};
use crate::endpoints::{EndpointGroup, ServiceEndpoints};
use crate::objects::{ObjectKey, Pod, Port, Problem, Service, ServiceKind};
use crate::service::{NamesOfService, SliceCoverage, service_name};
use crate::zone_skeleton::ClusterDomain;

impl Index {
    /// The UDP socket addresses of a Service: first of its ClusterIPs, then of its known endpoints.
    /// Both lists are empty for an unknown Service.
    #[must_use]
    pub fn dns_addresses(&self, key: &ObjectKey) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let Some(service) = self.service(key) else {
            return (Vec::new(), Vec::new());
        };
        let own = match &service.kind {
            ServiceKind::ClusterIp(addresses) => sockets(addresses, &service.ports),
            _ => Vec::new(),
        };
        let endpoints = self.endpoints(key);
        let reader = endpoints.map(|endpoints| endpoints.reader(&self.settings));
        let members = reader
            .iter()
            .flat_map(|reader| reader.members(EndpointGroup::All));
        let endpoints = members.flat_map(|it| sockets(&[it.endpoint.address], it.ports));
        let endpoints: BTreeSet<SocketAddr> = endpoints.collect();
        (own, endpoints.into_iter().collect())
    }

    /// The kind of a Service. `None` for an unknown Service.
    #[must_use]
    pub fn service_kind(&self, key: &ObjectKey) -> Option<&ServiceKind> {
        self.service(key).map(|service| &service.kind)
    }

    /// Whether a namespace is exposed (docs/naming.md, rule 1.2).
    pub(crate) fn exposes(&self, namespace: &str) -> bool {
        let listed = &self.settings.namespaces;
        let is_listed = listed.is_empty() || listed.iter().any(|name| name == namespace);
        if self.namespaces_known {
            return is_listed && self.namespaces.contains_key(namespace);
        }
        if listed.is_empty() {
            // The zone skeleton computes the names of namespaces without objects.
            self.has_objects(namespace)
        } else {
            is_listed
        }
    }

    /// Whether every namespace counts as existing.
    pub(crate) fn any_namespace(&self) -> bool {
        !self.namespaces_known && self.settings.namespaces.is_empty()
    }

    /// Whether the stored Namespaces are all that exist.
    pub(crate) fn knows_namespaces(&self) -> bool {
        self.namespaces_known
    }

    /// Whether this Namespace object is stored.
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The exposed namespaces that settings or objects name.
    pub(crate) fn exposed_namespaces(&self) -> BTreeSet<&str> {
        let listed = self.settings.namespaces.iter().map(String::as_str);
        let stored = self.namespaces.keys().map(|name| &**name);
        let services = self.services.keys().map(|key| &*key.namespace);
        let pods = self.pods.keys().map(|key| &*key.namespace);
        let of_objects = services.chain(pods);
        let all: BTreeSet<&str> = listed.chain(stored).chain(of_objects).collect();
        all.into_iter().filter(|name| self.exposes(name)).collect()
    }

    /// The stored Service with this key.
    pub(crate) fn service(&self, key: &ObjectKey) -> Option<&Service> {
        Some(&self.services.get(key)?.object.as_ref()?.object)
    }

    /// Whether a Service is headless and some of its slices may not be watched.
    pub(crate) fn is_uncovered(&self, service: &Service) -> bool {
        service.kind == ServiceKind::Headless && !self.coverage.covers(&service.key.name)
    }

    /// Number of Services delegated to CoreDNS because not all of their slices are watched yet.
    #[must_use]
    pub fn count_uncovered(&self) -> usize {
        let services = self.stored_services();
        services
            .filter(|service| self.is_uncovered(service))
            .count()
    }

    /// The keys of all Services, and of Services that don't exist but have slices.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// The endpoints of a Service. `None` if neither the Service nor a slice of it exists.
    pub(crate) fn endpoints(&self, service: &ObjectKey) -> Option<&ServiceEndpoints> {
        let state = self.services.get(service)?;
        Some(state.endpoints.as_deref().unwrap_or(ServiceEndpoints::NONE))
    }

    /// All Pods.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|stored| &stored.object)
    }

    /// The namespace and the address of each Pod in an exposed namespace, without duplicates.
    pub(crate) fn pod_addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let addresses = self.pod_addresses.keys();
        addresses
            .map(|(namespace, address)| (&**namespace, *address))
            .filter(|(namespace, _)| self.exposes(namespace))
    }

    /// Number of Pods of a namespace with this address.
    pub(crate) fn count_pods(&self, namespace: &str, address: IpAddr) -> PodCount {
        let count = self.pod_addresses.get(&(namespace.into(), address));
        count.copied().unwrap_or_default()
    }

    /// Whether addresses of a namespace's Services have PTR records. If the settings list
    /// namespaces, the namespace must be exposed. If they list none, CoreDNS makes PTR records even
    /// for names that it denies.
    pub(crate) fn points_into(&self, namespace: &str) -> bool {
        self.settings.namespaces.is_empty() || self.exposes(namespace)
    }

    /// The names of a Service in a cluster domain. `None` if the Service doesn't exist, is not
    /// exposed, or can't have a name.
    pub(crate) fn service_names(
        &self,
        key: &ObjectKey,
        domain: &ClusterDomain,
    ) -> Option<NamesOfService<'_>> {
        let service = self.service(key)?;
        if !self.exposes(&key.namespace) {
            return None;
        }
        let coverage = self.slice_coverage(service);
        let (endpoints, settings) = (self.endpoints(key)?, &self.settings);
        NamesOfService::new(service, endpoints, coverage, &domain.svc, settings).ok()
    }

    /// Problems of a Service and its slices in a cluster domain.
    pub(crate) fn service_problems(&self, key: &ObjectKey, domain: &ClusterDomain) -> Vec<Problem> {
        let Some(service) = self.service(key).filter(|_| self.exposes(&key.namespace)) else {
            return Vec::new();
        };
        match service_name(key, &domain.svc) {
            Ok(_) => {
                let names = self.service_names(key, domain);
                names.map_or_else(Vec::new, |names| names.problems())
            }
            Err(reason) => {
                let field = "metadata.name".to_owned();
                vec![Problem::with_key("Service", &service.key, field, reason)]
            }
        }
    }

    /// Whether all slices of a Service are watched.
    pub(crate) fn slice_coverage(&self, service: &Service) -> SliceCoverage {
        if self.is_uncovered(service) {
            SliceCoverage::Partial
        } else {
            SliceCoverage::Whole
        }
    }
}

/// The addresses combined with each UDP port.
fn sockets(addresses: &[IpAddr], ports: &[Port]) -> Vec<SocketAddr> {
    let numbers = ports.iter().filter(|port| port.protocol == "udp");
    let numbers = numbers.filter_map(|port| port.number.valid());
    numbers
        .flat_map(|number| {
            let addresses = addresses.iter();
            addresses.map(move |address| SocketAddr::new(*address, number))
        })
        .collect()
}
