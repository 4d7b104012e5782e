//! Watches the configuration of the node caches (NodeLocal DNSCache) that answer at served
//! addresses on this node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::mpsc;
use zerohop_kubernetes::{
    CacheConfig, ConfigMapUpdates, DnsService, Event, Fact, Labels, NodeCacheContext, Object,
    ObjectKey, Reload, ReloadMode, UpstreamService,
};
use zerohop_kubernetes_api::{Client, KubernetesSource, ReceivedEvent, SourceHealth};

use super::{
    config_maps::{ConfigMapWatches, ConfigMapsReading},
    config_versions::{ConfigVersions, Hold, KUBELET_DELAY, RunningPods},
    dns_path::{CachePod, DnsPath, ListEvent, ListedObjects, PodStarts},
    plan::CacheCorefile,
};
use crate::config::{self, Config, DnsAddresses};

/// Maximum number of node caches that answer at served addresses on this node. A node normally has
/// one. With more than the maximum, everything passes.
const MAX_CACHES: usize = 8;

/// The interval at which a node cache checks the files that its Corefile is made from
/// (kubernetes/dns, `DefaultConfigSyncPeriod`).
const CACHE_SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// The number of events of one source that may wait. More events wait in the connections to the API
/// server.
const EVENT_QUEUE: usize = 16;

/// The node caches on this node that answer at served addresses.
pub(super) struct NodeCaches {
    client: Client,
    /// The name of this node; `None` without `--node-name`.
    node: Option<String>,
    /// The Service of the cluster's DNS.
    dns_service: ObjectKey,
    /// Whether the served addresses are those of `--serve` or those of the cluster's DNS.
    dns_addresses: DnsAddresses,
    /// The addresses of `--serve`.
    given: Vec<IpAddr>,
    /// The addresses of `--cluster-dns`.
    cluster_dns: Vec<IpAddr>,
    /// The ConfigMaps that the node caches' configurations are made from.
    config_maps: ConfigMapWatches,
    /// The Services that node caches may forward to; `None` while there are no node caches.
    services: Option<WatchedServices>,
    /// The Corefiles that each node cache may run with, by its pod.
    texts: BTreeMap<ObjectKey, ConfigVersions<String>>,
}

/// The configurations of the node caches.
#[derive(Debug, Default)]
pub(super) struct NodeCacheConfigs {
    /// The node caches whose configuration is known, by pod.
    pub(super) known: Vec<(ObjectKey, CacheCorefile)>,
    /// A hold for each node cache whose configuration is not known, or one hold if it isn't known
    /// which node caches answer, or if there are more than [`MAX_CACHES`]. During any hold the
    /// kernel passes everything.
    pub(super) unknown: Vec<Hold>,
    /// A remark for the log and the status, which changes no answer.
    pub(super) note: Option<String>,
}

/// The Services that a node cache may forward the cluster's names to.
struct WatchedServices {
    source: KubernetesSource,
    events: mpsc::Receiver<ReceivedEvent>,
    listed: ListedObjects<DnsService>,
}

impl NodeCaches {
    pub(super) fn new(
        client: Client,
        config: &Config,
        kubernetes: &config::KubernetesConfig,
        dns_service: ObjectKey,
    ) -> NodeCaches {
        let config_maps = ConfigMapWatches::new(client.clone());
        NodeCaches {
            client,
            node: kubernetes.node_name.clone(),
            dns_service,
            dns_addresses: kubernetes.dns_addresses,
            given: config.served_addresses.iter().map(SocketAddr::ip).collect(),
            cluster_dns: (kubernetes.cluster_dns.iter())
                .map(SocketAddr::ip)
                .collect(),
            config_maps,
            services: None,
            texts: BTreeMap::new(),
        }
    }

    /// The health of all sources.
    pub(super) fn health(&self) -> impl Iterator<Item = Arc<SourceHealth>> {
        let config_maps = self.config_maps.health();
        let services = self.services.iter();
        config_maps.chain(services.map(|services| services.source.health()))
    }

    /// Ready after a configuration may have changed.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.config_maps.poll_changed(context).is_ready() {
            return Poll::Ready(());
        }
        if let Some(services) = &mut self.services
            && let Poll::Ready(Some(event)) = services.events.poll_recv(context)
        {
            services.apply_event(event.event);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Adjusts the watches to the current DNS path, if it is known, and returns the configurations
    /// known now.
    pub(super) fn read_configs(&mut self, dns_path: &DnsPath) -> NodeCacheConfigs {
        let mut configs = NodeCacheConfigs::default();
        let unknown = |reason: &str| Hold {
            until: None,
            reason: reason.to_owned(),
        };
        if self.node.is_none() {
            configs.note = Some(
                "a node cache in front of CoreDNS would not be noticed, because it isn't known \
                 which pods run on this node: give the node's name as --node-name"
                    .to_owned(),
            );
            return configs;
        }
        let (Some(caches), Some(service)) = (&dns_path.caches, &dns_path.service) else {
            let reason = "it isn't known yet whether a node cache answers on this node";
            configs.unknown.push(unknown(reason));
            return configs;
        };
        let served = match (self.dns_addresses, service) {
            (DnsAddresses::Given, _) => self.given.clone(),
            (_, Some(service)) => service.addresses.to_vec(),
            (_, None) => Vec::new(),
        };
        let bound = caches.iter().map(|(key, pod)| {
            let bound = pod.cache.bound_addresses(&served);
            (key, pod, bound, self.own_addresses(key, pod, &served))
        });
        let bound: Vec<_> = bound
            .filter(|(_, _, bound, own)| !bound.is_empty() || !own.is_empty())
            .collect();
        self.watch_configs(bound.iter().map(|(key, pod, ..)| (*key, *pod)));
        if bound.len() > MAX_CACHES {
            let reason = format!(
                "{} node caches answer on this node, and the agent reads the configurations of at \
                 most {MAX_CACHES}",
                bound.len()
            );
            configs.unknown.push(unknown(&reason));
            return configs;
        }
        for (key, pod, mut bound, own) in bound {
            let name = format!("node cache {key}");
            match self.read_corefile(key, pod, service.as_ref()) {
                Ok((text, mut context)) => {
                    bound.extend(&own);
                    context.bound = bound;
                    configs.known.push((
                        key.clone(),
                        CacheCorefile {
                            name,
                            text,
                            context,
                            own_addresses: own,
                        },
                    ));
                }
                // Nothing is answered at its own addresses.
                Err(_) if bound.is_empty() => {}
                Err(reason) => {
                    let listed: Vec<String> = bound.iter().map(IpAddr::to_string).collect();
                    let listed = listed.join(", ");
                    let reason = format!(
                        "{name} answers at {listed}, and its configuration isn't known: {reason}"
                    );
                    configs.unknown.push(unknown(&reason));
                }
            }
        }
        configs
    }

    /// The addresses of a node cache at which the kernel answers beside the `served` ones:
    /// addresses that exist only on this node, of a pod that the operators of the cluster's DNS
    /// run.
    fn own_addresses(&self, key: &ObjectKey, pod: &CachePod, served: &[IpAddr]) -> Vec<IpAddr> {
        // With `--serve`, the operator decides where the kernel answers.
        if self.dns_addresses == DnsAddresses::Given || key.namespace != self.dns_service.namespace
        {
            return Vec::new();
        }
        let is_private = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unique_local(),
        };
        let own = pod.cache.own_addresses().iter().copied();
        own.filter(|address| is_private(address) && !served.contains(address))
            .collect()
    }

    /// The hold while a node cache may run with an earlier Corefile. See [`ConfigVersions::hold`].
    pub(super) fn hold(
        &mut self,
        key: &ObjectKey,
        name: &str,
        dns_path: &DnsPath,
        is_harmless: impl FnMut(&String) -> bool,
    ) -> Option<Hold> {
        let starts = cache_starts(dns_path, key);
        let texts = self.texts.get_mut(key)?;
        let hold = texts.hold(name, RunningPods::Started(&starts), is_harmless)?;
        let reason = format!("the Corefile of {name} has changed, and {}", hold.reason);
        Some(Hold { reason, ..hold })
    }

    /// Reads the Corefile of a node cache, and the servers that it may forward to. Adds the
    /// Corefile to `texts`. The error says which part isn't known.
    fn read_corefile(
        &mut self,
        key: &ObjectKey,
        pod: &CachePod,
        dns: Option<&DnsService>,
    ) -> Result<(String, NodeCacheContext), String> {
        let config = pod.cache.config.as_ref().map_err(Clone::clone)?;
        let services = self.services.as_ref();
        let services = services.and_then(|services| services.listed.known());
        let services = services.ok_or_else(|| "Services have not been listed yet".to_owned())?;
        let context = self.cache_context(key, config, services, dns);
        // `watch_configs` watches each of these ConfigMaps.
        let ConfigMapsReading {
            texts: data,
            written,
            updates,
        } = self.config_maps.read(config.config_maps())?;
        let text = config.corefile_text(&data)?;
        let reload = match (config.reload_mode, updates) {
            (ReloadMode::Never, _) | (_, ConfigMapUpdates::Never) => Reload::Never,
            (ReloadMode::ByPlugin, _) => Reload::read(&text.as_str().into()),
            // At once after it notices the change: that delay is `CACHE_SYNC_INTERVAL`, below.
            (ReloadMode::BySignal, _) => Reload::Every {
                interval: Duration::ZERO,
                jitter: Duration::ZERO,
            },
        };
        let starts = PodStarts(vec![pod.started]);
        let texts = self.texts.entry(key.clone());
        let texts =
            texts.or_insert_with(|| ConfigVersions::new(KUBELET_DELAY + CACHE_SYNC_INTERVAL));
        texts.add_version(text.clone(), reload, written, RunningPods::Started(&starts));
        Ok((text, context))
    }

    /// The servers that a node cache may forward to. The caller sets `bound`. `dns` is the Service
    /// of the cluster's DNS, if it exists. Services with the same selector count as the cluster's
    /// DNS, unless it is empty.
    fn cache_context(
        &self,
        key: &ObjectKey,
        config: &CacheConfig,
        services: &BTreeMap<ObjectKey, DnsService>,
        dns: Option<&DnsService>,
    ) -> NodeCacheContext {
        let no_labels = Labels::new();
        let selector = dns.map_or(&no_labels, |dns| &dns.selector);
        let is_like_dns = |service: &&DnsService| {
            service.key == self.dns_service
                || (!selector.is_empty() && service.selector == *selector)
        };
        let like_dns = services.values().filter(is_like_dns);
        let upstream = ObjectKey::new(&*key.namespace, &*config.upstream_service);
        let is_other = match services.get(&upstream) {
            // Two Services without a selector may lead to the same endpoints.
            Some(service) => !is_like_dns(&service) && service.selector != *selector,
            // `services` has only the namespace of the cluster's DNS. A Service that does not exist
            // leads nowhere.
            None => upstream.namespace != self.dns_service.namespace,
        };
        NodeCacheContext {
            bound: Vec::new(),
            cluster_dns: (like_dns.flat_map(|service| service.addresses.iter()))
                .chain(&self.cluster_dns)
                .copied()
                .collect(),
            upstream: if is_other {
                UpstreamService::Other
            } else {
                UpstreamService::ClusterDns
            },
        }
    }

    /// Watches the configuration of the first [`MAX_CACHES`] of these node caches, and stops all
    /// other watches.
    fn watch_configs<'a>(&mut self, caches: impl Iterator<Item = (&'a ObjectKey, &'a CachePod)>) {
        let caches: Vec<_> = caches.take(MAX_CACHES).collect();
        let configs = caches
            .iter()
            .filter_map(|(_, pod)| pod.cache.config.as_ref().ok());
        let wanted = configs.flat_map(CacheConfig::config_maps).cloned();
        self.config_maps.watch(&wanted.collect());
        self.texts
            .retain(|key, _| caches.iter().any(|(cache, _)| *cache == key));
        if caches.is_empty() {
            self.services = None;
        } else if self.services.is_none() {
            let (sender, events) = mpsc::channel(EVENT_QUEUE);
            let client = self.client.clone();
            let source = KubernetesSource::start_upstream_services(
                client,
                &self.dns_service.namespace,
                sender,
            );
            self.services = Some(WatchedServices {
                source,
                events,
                listed: ListedObjects::default(),
            });
        }
    }
}

impl WatchedServices {
    fn apply_event(&mut self, event: Event) {
        match event {
            Event::Applied {
                object: Object::Fact(Fact::Service(service)),
                ..
            } => self.listed.set(&service.key.clone(), Some(service)),
            Event::Deleted { key, .. } => self.listed.apply(ListEvent::Deleted(&key)),
            Event::ListStarted(_) => self.listed.apply(ListEvent::ListStarted),
            Event::ListEnded(_) => self.listed.apply(ListEvent::ListEnded),
            Event::Unusable { problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                self.listed.apply(ListEvent::Present(&key));
            }
            _ => {}
        }
    }
}

/// The start time of a node cache's pod; empty if the pod is gone or not known.
fn cache_starts(dns_path: &DnsPath, key: &ObjectKey) -> PodStarts {
    let pod = dns_path.caches.as_ref().and_then(|caches| caches.get(key));
    PodStarts(pod.map(|pod| pod.started).into_iter().collect())
}
