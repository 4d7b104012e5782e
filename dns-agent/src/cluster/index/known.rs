//! What an index knows of objects.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Index, PodCount};
use crate::cluster::frame::Domain;
use crate::cluster::objects::{EndpointSlice, Key, Pod, Port, Service, ServiceKind};
use crate::cluster::service::{Contribution, contribution, pointing};

impl Index {
    /// Where a service answers UDP: its ClusterIPs, and its endpoints as far as they are known.
    #[must_use]
    pub fn dns_addresses(&self, key: &Key) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let Some(service) = self.service(key) else {
            return (Vec::new(), Vec::new());
        };
        let own = match &service.kind {
            ServiceKind::ClusterIp(addresses) => sockets(addresses, &service.ports),
            _ => Vec::new(),
        };
        let slices = self.slices_of(key).into_iter();
        let endpoints = slices.flat_map(|slice| {
            let endpoints = slice.endpoints.iter();
            endpoints.flat_map(|endpoint| sockets(&[endpoint.address], &slice.ports))
        });
        let endpoints: BTreeSet<SocketAddr> = endpoints.collect();
        (own, endpoints.into_iter().collect())
    }

    /// What stands behind a service's name; none for an unknown service.
    #[must_use]
    pub fn service_kind(&self, key: &Key) -> Option<&ServiceKind> {
        self.service(key).map(|service| &service.kind)
    }

    /// Whether a namespace is exposed.
    pub(in crate::cluster) fn exposes(&self, namespace: &str) -> bool {
        let listed = &self.settings.namespaces;
        let is_listed = listed.is_empty() || listed.iter().any(|name| name == namespace);
        if self.namespaces_known {
            return is_listed && self.namespaces.contains_key(namespace);
        }
        match listed.is_empty() {
            // Those that objects are in; that others exist too is said above them.
            true => self.has_objects(namespace),
            false => is_listed,
        }
    }

    /// Whether every namespace exists.
    pub(in crate::cluster) fn any_namespace(&self) -> bool {
        !self.namespaces_known && self.settings.namespaces.is_empty()
    }

    /// Whether the Namespaces told are all there are.
    pub(in crate::cluster) fn knows_namespaces(&self) -> bool {
        self.namespaces_known
    }

    /// Whether a Namespace was told.
    pub(in crate::cluster) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The exposed namespaces that are known.
    pub(in crate::cluster) fn exposed_namespaces(&self) -> BTreeSet<&str> {
        let listed = self.settings.namespaces.iter().map(String::as_str);
        let told = self.namespaces.keys().map(|name| &**name);
        let services = self.services.keys().map(|key| &*key.namespace);
        let pods = self.pods.keys().map(|key| &*key.namespace);
        let slices = self.slices_of.keys().map(|key| &*key.namespace);
        let of_objects = services.chain(slices).chain(pods);
        let all: BTreeSet<&str> = listed.chain(told).chain(of_objects).collect();
        all.into_iter().filter(|name| self.exposes(name)).collect()
    }

    /// A Service.
    pub(in crate::cluster) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key).map(|told| &told.object)
    }

    /// Whether a Service's names depend on its slices, and some of these may not be watched.
    pub(in crate::cluster) fn is_uncovered(&self, service: &Service) -> bool {
        service.kind == ServiceKind::Headless && !self.coverage.has(&service.key.name)
    }

    /// How many Services are delegated to CoreDNS because not all of their slices are watched yet.
    #[must_use]
    pub fn count_uncovered(&self) -> usize {
        let services = self.services.values().map(|told| &told.object);
        services
            .filter(|service| self.is_uncovered(service))
            .count()
    }

    /// All Services.
    pub(in crate::cluster) fn services(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// The slices of a Service.
    pub(in crate::cluster) fn slices_of(&self, service: &Key) -> Vec<&EndpointSlice> {
        let names = self.slices_of.get(service).into_iter().flatten();
        let slices = names.filter_map(|name| {
            self.slices.get(&Key {
                namespace: service.namespace.clone(),
                name: name.clone(),
            })
        });
        slices.map(|told| &told.object).collect()
    }

    /// All Pods.
    pub(in crate::cluster) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|told| &told.object)
    }

    /// The addresses of pods of exposed namespaces.
    pub(in crate::cluster) fn pod_addresses(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let addresses = self.pod_addresses.keys();
        addresses
            .map(|(namespace, address)| (&**namespace, *address))
            .filter(|(namespace, _)| self.exposes(namespace))
    }

    /// How many pods of a namespace have an address.
    pub(in crate::cluster) fn count_pods(&self, namespace: &str, address: IpAddr) -> PodCount {
        let count = self.pod_addresses.get(&(namespace.into(), address));
        count.copied().unwrap_or_default()
    }

    /// Whether the addresses of a namespace lead to names in it. CoreDNS asks only whether it is
    /// listed, where there is a list: names that it denies may have pointers.
    pub(in crate::cluster) fn points_into(&self, namespace: &str) -> bool {
        self.settings.namespaces.is_empty() || self.exposes(namespace)
    }

    /// What a Service and its slices give to a domain; none when they are not there, or leave no trace.
    pub(in crate::cluster) fn contribution(
        &self,
        key: &Key,
        domain: &Domain,
    ) -> Option<Contribution> {
        let (service, slices) = (self.service(key), self.slices_of(key));
        let (svc, settings) = (&domain.svc, &self.settings);
        match service {
            Some(service) if self.exposes(&key.namespace) && self.is_uncovered(service) => {
                let delegated = Service::unreadable(key.clone());
                Some(contribution(&delegated, &[], svc, settings))
            }
            Some(service) if self.exposes(&key.namespace) => {
                Some(contribution(service, &slices, svc, settings))
            }
            None if slices.is_empty() => None,
            _ if self.points_into(&key.namespace) => {
                Some(pointing(key, service, &slices, svc, settings))
            }
            _ => None,
        }
    }
}

/// The addresses with each of the UDP ports.
fn sockets(addresses: &[IpAddr], ports: &[Port]) -> Vec<SocketAddr> {
    let numbers = ports.iter().filter(|port| port.protocol == "udp");
    let numbers = numbers.filter_map(|port| port.number);
    numbers
        .flat_map(|number| {
            let addresses = addresses.iter();
            addresses.map(move |address| SocketAddr::new(*address, number))
        })
        .collect()
}
