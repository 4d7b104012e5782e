//! The path from this node's pods to CoreDNS, as read from the Kubernetes API: NodeLocal DNSCache
//! on this node, the Service of the cluster's DNS, and the start times of its pods.
//!
//! The events come from the feeds of facts for NetworkPolicies ([`super::policy_feeds`]), so the
//! objects need no watches of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use zerohop_kubernetes::{
    CoreDnsServer, DnsService, DnsSlice, Event, Fact, Feed, KubeDnsServer, NodeCache, Object,
    ObjectKey, PolicyPod, Port,
};

/// The path from this node's pods to CoreDNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DnsPath {
    /// The node caches of this node, by pod; `None` before the pods of this node are listed, and
    /// without `--node-name`.
    pub(super) caches: Option<BTreeMap<ObjectKey, CachePod>>,
    /// The Service of the cluster's DNS: `None` before it is listed, `Some(None)` if it does not
    /// exist or has never been readable.
    pub(super) service: Option<Option<DnsService>>,
    /// The start times of that Service's pods that have started and not ended; `None` while its
    /// pods are not listed. The pods of a Service without a selector can't be known: if the
    /// selector was removed, the start times are empty; if the Service never had one, they stay
    /// `None`.
    pub(super) starts: Option<PodStarts>,
    /// The pods of that Service, and its ready endpoints that are no such pods. `None` while the
    /// Service, its endpoints or its pods are not listed. Empty if the Service doesn't exist.
    pub(super) servers: Option<Vec<ServerPod>>,
}

/// A server of the cluster's DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerPod {
    /// The pod or, if it isn't known, the endpoint, in messages.
    pub(super) name: String,
    /// As [`CachePod::started`].
    pub(super) started: Option<SystemTime>,
    pub(super) readiness: Readiness,
    /// `Err`: why it isn't known how the pod answers DNS, as a clause.
    pub(super) server: Result<CoreDnsServer, String>,
    /// How the pod runs kube-dns instead of CoreDNS, if it does.
    pub(super) kube_dns: Option<KubeDnsServer>,
}

/// Whether a pod gets queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It is a ready endpoint.
    Ready,
    /// It may become ready again, with the configuration that it has now.
    Unready,
}

/// The pod of a node cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CachePod {
    pub(super) cache: NodeCache,
    /// When the pod's longest-running container was started; `None` while no container runs, or if
    /// the status lacks a time.
    pub(super) started: Option<SystemTime>,
}

/// The start times of the pods that run with a configuration; `None` for a pod of which no
/// container runs, or whose status lacks the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodStarts(pub(super) Vec<Option<SystemTime>>);

/// Computes the path from events.
#[derive(Debug, Default)]
pub(super) struct DnsPathObserver {
    caches: ListedObjects<CachePod>,
    services: ListedObjects<DnsService>,
    /// `None`: the slice can't be read.
    slices: ListedObjects<Option<DnsSlice>>,
    /// The pods that have addresses.
    dns_pods: ListedObjects<PolicyPod>,
}

/// The objects of one feed, by key.
#[derive(Debug)]
pub(super) struct ListedObjects<T> {
    objects: BTreeMap<ObjectKey, T>,
    /// Objects that the current list has not reported yet.
    not_yet_listed: BTreeSet<ObjectKey>,
    /// Whether any list has ended since the start or the last [`ListEvent::Reset`].
    listed: ListState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListState {
    #[default]
    Never,
    AtLeastOnce,
}

impl ServerPod {
    /// The server in a pod that receives queries at this port. `None`: the port is unknown.
    fn of_pod(pod: &PolicyPod, readiness: Readiness, port: Option<u16>) -> ServerPod {
        let containers = pod.dns_containers.as_deref();
        let server = match (containers, port) {
            (Some(containers), Some(port)) => containers.server_at(port),
            _ => Err("its port is unknown".to_owned()),
        };
        ServerPod {
            name: format!("Pod {}", pod.key),
            started: pod.started,
            readiness,
            server,
            kube_dns: containers.and_then(|containers| containers.kube_dns.clone()),
        }
    }

    /// A ready server of which nothing is known. `reason` is a clause.
    fn unknown(name: String, reason: String) -> ServerPod {
        ServerPod {
            name,
            started: None,
            readiness: Readiness::Ready,
            server: Err(reason),
            kube_dns: None,
        }
    }
}

impl PodStarts {
    /// Whether there is a pod, and every pod is known to have started at this time or later.
    pub(super) fn all_since(&self, time: SystemTime) -> bool {
        let is_since = |start: &Option<SystemTime>| start.is_some_and(|start| start >= time);
        !self.0.is_empty() && self.0.iter().all(is_since)
    }

    /// Whether any pod is known to have started before this time.
    pub(super) fn any_before(&self, time: SystemTime) -> bool {
        self.0.iter().flatten().any(|start| *start < time)
    }
}

impl DnsPathObserver {
    /// Applies an event of a feed. Returns whether the path may have changed.
    pub(super) fn apply_event(&mut self, event: &Event) -> bool {
        let may_change = self.concerns_path(event);
        self.apply(event);
        may_change
    }

    /// Whether an event may change the path. Most events are about other pods of this node, or
    /// about policies.
    fn concerns_path(&self, event: &Event) -> bool {
        let is_known_cache = |key: &ObjectKey| self.caches.contains(key);
        match event {
            Event::Applied {
                feed: Feed::Clients,
                object: Object::Fact(Fact::Pod(pod)),
                ..
            } => pod.node_cache.is_some() || is_known_cache(&pod.key),
            Event::Deleted {
                feed: Feed::Clients,
                key,
            } => is_known_cache(key),
            Event::Applied { feed, .. }
            | Event::Deleted { feed, .. }
            | Event::Unusable { feed, .. }
            | Event::ListStarted(feed)
            | Event::ListEnded(feed) => matches!(
                feed,
                Feed::Clients | Feed::DnsService | Feed::DnsEndpoints | Feed::DnsPods
            ),
            Event::Covered(..) | Event::ConfigMap { .. } => false,
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::ListStarted(feed) => self.apply_list_event(*feed, ListStarted),
            Event::ListEnded(feed) => self.apply_list_event(*feed, ListEnded),
            Event::Deleted { feed, key } => self.apply_list_event(*feed, Deleted(key)),
            Event::Unusable { feed, problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                match feed {
                    Feed::DnsEndpoints => self.slices.set(&key, Some(None)),
                    _ => self.apply_list_event(*feed, Present(&key)),
                }
            }
            Event::Applied {
                feed,
                object: Object::Fact(fact),
                ..
            } => self.apply_fact(*feed, fact),
            Event::Applied { .. } | Event::Covered(..) | Event::ConfigMap { .. } => {}
        }
    }

    /// Drops a feed's objects because the feed selects other objects from now on. The objects are
    /// unknown until the next list has ended.
    pub(super) fn reset_feed(&mut self, feed: Feed) {
        self.apply_list_event(feed, Reset);
    }

    /// The current path.
    pub(super) fn path(&self) -> DnsPath {
        let services = self.services.known();
        // The feed selects one Service by its name.
        let service = services.map(|services| services.values().next().cloned());
        let pods = self.dns_pods.known();
        DnsPath {
            caches: self.caches.known().cloned(),
            service,
            starts: pods.map(|pods| PodStarts(pods.values().map(|pod| pod.started).collect())),
            servers: self.servers(),
        }
    }

    /// See [`DnsPath::servers`].
    fn servers(&self) -> Option<Vec<ServerPod>> {
        let Some(service) = self.services.known()?.values().next() else {
            return Some(Vec::new());
        };
        let (slices, pods) = (self.slices.known()?, self.dns_pods.known()?);
        let Some(port) = service.dns_port() else {
            return Some(Vec::new());
        };
        let mut servers = Vec::new();
        let mut ready: BTreeMap<IpAddr, u16> = BTreeMap::new();
        for (key, slice) in slices {
            let Some(slice) = slice else {
                servers.push(ServerPod::unknown(
                    format!("EndpointSlice {key}"),
                    "it can't be read".to_owned(),
                ));
                continue;
            };
            let is_target = |other: &&Port| other.protocol == "udp" && other.name == port.name;
            for target in slice.ports.iter().filter(is_target) {
                let Some(number) = target.number.valid() else {
                    continue;
                };
                ready.extend(slice.addresses.iter().map(|address| (*address, number)));
            }
        }
        // A pod that isn't ready has the port of the others.
        let mut numbers = ready.values();
        let usual = numbers
            .next()
            .filter(|first| numbers.all(|other| other == *first));
        let usual = usual.copied();
        for pod in pods.values() {
            let number = pod
                .addresses
                .iter()
                .find_map(|address| ready.remove(address));
            // A pod has an address of each family.
            for address in &pod.addresses {
                ready.remove(address);
            }
            servers.push(match number {
                Some(number) => ServerPod::of_pod(pod, Readiness::Ready, Some(number)),
                None => ServerPod::of_pod(pod, Readiness::Unready, usual),
            });
        }
        servers.extend(ready.keys().map(|address| {
            let reason = format!(
                "it is not the address of a Pod that Service {} selects",
                service.key
            );
            ServerPod::unknown(format!("the endpoint {address}"), reason)
        }));
        Some(servers)
    }

    fn apply_fact(&mut self, feed: Feed, fact: &Fact) {
        match (feed, fact) {
            (Feed::Clients, Fact::Pod(pod)) => {
                let PolicyPod {
                    key,
                    started,
                    node_cache,
                    ..
                } = pod;
                let cache = node_cache.as_deref().map(|cache| CachePod {
                    cache: cache.clone(),
                    started: *started,
                });
                self.caches.set(key, cache);
            }
            (Feed::DnsPods, Fact::Pod(pod)) => {
                // A pod that has ended, or has not started yet, has no addresses.
                let has_address = !pod.addresses.is_empty();
                self.dns_pods
                    .set(&pod.key, has_address.then(|| pod.clone()));
            }
            (Feed::DnsEndpoints, Fact::Slice(slice)) => {
                self.slices.set(&slice.key, Some(Some(slice.clone())));
            }
            (Feed::DnsService, Fact::Service(service)) => {
                self.services.set(&service.key, Some(service.clone()));
            }
            _ => {}
        }
    }

    fn apply_list_event(&mut self, feed: Feed, event: ListEvent<'_>) {
        match feed {
            Feed::Clients => self.caches.apply(event),
            Feed::DnsService => self.services.apply(event),
            Feed::DnsEndpoints => self.slices.apply(event),
            Feed::DnsPods => self.dns_pods.apply(event),
            _ => {}
        }
    }
}

/// An event of a feed, without the object.
#[derive(Clone, Copy)]
pub(super) enum ListEvent<'a> {
    /// A list has started.
    ListStarted,
    /// The list has ended: objects that it did not report are gone.
    ListEnded,
    /// An object was deleted.
    Deleted(&'a ObjectKey),
    /// An object exists but can't be read. Its previous value stays.
    Present(&'a ObjectKey),
    /// The feed selects other objects from now on.
    Reset,
}
use ListEvent::{Deleted, ListEnded, ListStarted, Present, Reset};

impl<T> ListedObjects<T> {
    /// Sets the value of an object; `None` when the object has no value, such as a pod that is not
    /// a node cache.
    pub(super) fn set(&mut self, key: &ObjectKey, value: Option<T>) {
        self.not_yet_listed.remove(key);
        match value {
            Some(value) => self.objects.insert(key.clone(), value),
            None => self.objects.remove(key),
        };
    }

    /// Applies an event of the feed.
    pub(super) fn apply(&mut self, event: ListEvent<'_>) {
        match event {
            ListStarted => self.not_yet_listed = self.objects.keys().cloned().collect(),
            ListEnded => {
                for key in std::mem::take(&mut self.not_yet_listed) {
                    self.objects.remove(&key);
                }
                self.listed = ListState::AtLeastOnce;
            }
            Deleted(key) => {
                self.objects.remove(key);
            }
            Present(key) => {
                self.not_yet_listed.remove(key);
            }
            Reset => *self = ListedObjects::default(),
        }
    }

    /// Whether there is an object with this key.
    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.objects.contains_key(key)
    }

    /// The number of objects.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// The objects, whether listed or not.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    /// All objects; `None` before the first list has ended, and again after [`ListEvent::Reset`].
    pub(super) fn known(&self) -> Option<&BTreeMap<ObjectKey, T>> {
        (self.listed == ListState::AtLeastOnce).then_some(&self.objects)
    }
}

impl<T> Default for ListedObjects<T> {
    fn default() -> Self {
        ListedObjects {
            objects: BTreeMap::new(),
            not_yet_listed: BTreeSet::new(),
            listed: ListState::default(),
        }
    }
}

#[cfg(test)]
mod tests;
