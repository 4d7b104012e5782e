//! Watches the configuration of the node caches that answer at served addresses on this node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use zerohop_kubernetes::{
    CacheConfig, ConfigMapData, ConfigMapUpdates, DnsService, Event, Fact, Labels,
    NodeCacheContext, Object, ObjectKey, Reload, ReloadMode, UpstreamService, WriteTime,
};
use zerohop_kubernetes_api::{Client, FeedActivity, KubernetesSource, SourceHealth};

use super::{
    config_versions::{ConfigVersions, Hold, KUBELET_DELAY, RunningPods},
    dns_path::{CachePod, DnsPath, ListEvent, ListedObjects, PodStarts},
    plan::CacheCorefile,
};
use crate::config::{self, Config, DnsAddresses};

/// Maximum number of node caches on a node whose configuration is read. With more, everything
/// passes.
const MAX_CACHES: usize = 8;

/// How often a node cache checks the files that its Corefile is made from (kubernetes/dns,
/// `DefaultConfigSyncPeriod`).
const CACHE_SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// Events of one source that may wait. More wait in the API server's connections.
const WAITING: usize = 16;

/// The node caches on this node that answer at served addresses.
pub(super) struct NodeCaches {
    client: Client,
    /// The name of this node; `None` without `--node-name`.
    node: Option<String>,
    dns: ObjectKey,
    serves: DnsAddresses,
    /// The addresses of `--serve` and of `--cluster-dns`.
    given: Vec<IpAddr>,
    cluster_dns: Vec<IpAddr>,
    path: watch::Receiver<DnsPath>,
    maps: BTreeMap<ObjectKey, WatchedConfigMap>,
    services: Option<WatchedServices>,
    /// The Corefiles that each node cache may run with, by its pod.
    texts: BTreeMap<ObjectKey, ConfigVersions<String>>,
}

/// The configurations of the node caches.
#[derive(Debug, Default)]
pub(super) struct NodeCacheConfigs {
    /// The node caches whose configuration is known, by pod.
    pub(super) known: Vec<(ObjectKey, CacheCorefile)>,
    /// Holds for node caches whose configuration is not known, so that everything passes.
    pub(super) unknown: Vec<Hold>,
    /// A remark for the log and the status that changes no answer.
    pub(super) note: Option<String>,
}

/// A ConfigMap that holds a part of a node cache's configuration.
struct WatchedConfigMap {
    source: KubernetesSource,
    events: mpsc::Receiver<Event>,
    /// The ConfigMap's texts: `None` before it is read, `Some(None)` if it does not exist.
    data: Option<Option<ConfigMapData>>,
    written: Option<WriteTime>,
    updates: ConfigMapUpdates,
}

/// The Services that a node cache may forward the cluster's names to.
struct WatchedServices {
    source: KubernetesSource,
    events: mpsc::Receiver<Event>,
    kept: ListedObjects<DnsService>,
}

impl NodeCaches {
    pub(super) fn new(
        client: Client,
        config: &Config,
        kubernetes: &config::KubernetesConfig,
        path: watch::Receiver<DnsPath>,
    ) -> NodeCaches {
        NodeCaches {
            client,
            node: kubernetes.node_name.clone(),
            dns: kubernetes.dns_service.clone(),
            serves: kubernetes.dns_addresses,
            given: config.serve.iter().map(SocketAddr::ip).collect(),
            cluster_dns: (kubernetes.cluster_dns.iter())
                .map(SocketAddr::ip)
                .collect(),
            path,
            maps: BTreeMap::new(),
            services: None,
            texts: BTreeMap::new(),
        }
    }

    /// The current path from this node's pods to CoreDNS.
    pub(super) fn path(&self) -> DnsPath {
        self.path.borrow().clone()
    }

    /// The health of all sources.
    pub(super) fn health(&self) -> impl Iterator<Item = Arc<SourceHealth>> {
        let maps = self.maps.values().map(|map| map.source.health());
        let services = self.services.iter();
        maps.chain(services.map(|services| services.source.health()))
    }

    /// Waits until a configuration may have changed.
    pub(super) async fn changed(&mut self) {
        let NodeCaches {
            path,
            maps,
            services,
            ..
        } = self;
        tokio::select! {
            // The sender is dropped only when the agent ends.
            Ok(()) = path.changed() => {}
            () = std::future::poll_fn(|context| poll_sources(maps, services, context)) => {}
        }
    }

    /// Adjusts the watches to the current path, and returns the configurations known now.
    pub(super) fn read_configs(&mut self) -> NodeCacheConfigs {
        let path = self.path.borrow_and_update().clone();
        let mut configs = NodeCacheConfigs::default();
        let unknown = |what: &str| Hold {
            until: None,
            reason: what.to_owned(),
        };
        if self.node.is_none() {
            configs.note = Some(
                "a node cache in front of CoreDNS would not be noticed, because it isn't known which \
                 pods run on this node; give the node's name as --node-name"
                    .to_owned(),
            );
            return configs;
        }
        let (Some(caches), Some(service)) = (&path.caches, &path.service) else {
            let what = "it isn't known yet whether a node cache answers on this node";
            configs.unknown.push(unknown(what));
            return configs;
        };
        let served = match (self.serves, service) {
            (DnsAddresses::Given, _) => self.given.clone(),
            (_, Some(service)) => service.addresses.to_vec(),
            (_, None) => Vec::new(),
        };
        let bound = caches
            .iter()
            .map(|(key, pod)| (key, pod, pod.cache.bound_addresses(&served)));
        let bound: Vec<_> = bound.filter(|(_, _, bound)| !bound.is_empty()).collect();
        self.watch_configs(bound.iter().map(|(key, pod, _)| (*key, *pod)));
        if bound.len() > MAX_CACHES {
            let what = format!("more than {MAX_CACHES} node caches answer on this node");
            configs.unknown.push(unknown(&what));
            return configs;
        }
        for (key, pod, bound) in bound {
            let name = format!("node cache {key}");
            match self.corefile(key, pod, service.as_ref()) {
                Ok((text, mut surroundings)) => {
                    surroundings.bound = bound;
                    configs.known.push((
                        key.clone(),
                        CacheCorefile {
                            name,
                            text,
                            surroundings,
                        },
                    ));
                }
                Err(reason) => {
                    let listed: Vec<String> = bound.iter().map(IpAddr::to_string).collect();
                    let listed = listed.join(", ");
                    let what = format!(
                        "{name} answers at {listed}, and what it answers isn't known: {reason}"
                    );
                    configs.unknown.push(unknown(&what));
                }
            }
        }
        configs
    }

    /// The hold while a node cache may run with an earlier Corefile.
    pub(super) fn hold(
        &mut self,
        key: &ObjectKey,
        name: &str,
        is_harmless: impl FnMut(&String) -> bool,
    ) -> Option<Hold> {
        let starts = self.starts(key);
        let texts = self.texts.get_mut(key)?;
        let hold = texts.hold(name, RunningPods::Started(&starts), is_harmless)?;
        let reason = format!("the Corefile of {name} has changed, and {}", hold.reason);
        Some(Hold { reason, ..hold })
    }

    /// The Corefile of a node cache, and the servers around it. The error says what isn't known.
    fn corefile(
        &mut self,
        key: &ObjectKey,
        pod: &CachePod,
        dns: Option<&DnsService>,
    ) -> Result<(String, NodeCacheContext), String> {
        let config = pod.cache.config.as_ref().map_err(Clone::clone)?;
        let services = self.services.as_ref();
        let services = services.and_then(|services| services.kept.known());
        let services = services.ok_or_else(|| "Services have not been listed yet".to_owned())?;
        let surroundings = self.surroundings(key, config, services, dns);
        let (mut data, mut written, mut updates) =
            (BTreeMap::new(), None, ConfigMapUpdates::Propagated);
        for map in config.config_maps() {
            let Some(config_map) = self.maps.get(map) else {
                continue;
            };
            let Some(texts) = &config_map.data else {
                return Err(config_map.why_unknown(map));
            };
            data.insert(map.clone(), texts.clone());
            written = later_write(written, config_map.written);
            if config_map.updates == ConfigMapUpdates::Never {
                updates = ConfigMapUpdates::Never;
            }
        }
        let text = config.corefile_text(&data)?;
        let reload = match (config.reload_mode, updates) {
            (ReloadMode::Never, _) | (_, ConfigMapUpdates::Never) => Reload::Never,
            (ReloadMode::ByPlugin, _) => Reload::read(&text),
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
        Ok((text, surroundings))
    }

    fn surroundings(
        &self,
        key: &ObjectKey,
        config: &CacheConfig,
        services: &BTreeMap<ObjectKey, DnsService>,
        dns: Option<&DnsService>,
    ) -> NodeCacheContext {
        let no_labels = Labels::new();
        let selector = dns.map_or(&no_labels, |dns| &dns.selector);
        let is_like_dns = |service: &&DnsService| {
            service.key == self.dns || (!selector.is_empty() && service.selector == *selector)
        };
        let like_dns = services.values().filter(is_like_dns);
        let upstream = ObjectKey::new(&*key.namespace, &*config.upstream_service);
        let is_other = match services.get(&upstream) {
            Some(service) => !is_like_dns(&service) && service.selector != *selector,
            None => upstream.namespace != self.dns.namespace,
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

    /// Watches the configuration of these node caches, and stops all other watches.
    fn watch_configs<'a>(&mut self, caches: impl Iterator<Item = (&'a ObjectKey, &'a CachePod)>) {
        let caches: Vec<_> = caches.take(MAX_CACHES).collect();
        let configs = caches
            .iter()
            .filter_map(|(_, pod)| pod.cache.config.as_ref().ok());
        let wanted: Vec<&ObjectKey> = configs.flat_map(CacheConfig::config_maps).collect();
        self.maps.retain(|key, _| wanted.contains(&key));
        for key in wanted {
            if !self.maps.contains_key(key) {
                let (sender, events) = mpsc::channel(WAITING);
                let source = KubernetesSource::start_cache_config(self.client.clone(), key, sender);
                let map = WatchedConfigMap {
                    source,
                    events,
                    data: None,
                    written: None,
                    updates: ConfigMapUpdates::Propagated,
                };
                self.maps.insert(key.clone(), map);
            }
        }
        self.texts
            .retain(|key, _| caches.iter().any(|(cache, _)| *cache == key));
        if caches.is_empty() {
            self.services = None;
        } else if self.services.is_none() {
            let (sender, events) = mpsc::channel(WAITING);
            let client = self.client.clone();
            let source =
                KubernetesSource::start_upstream_services(client, &self.dns.namespace, sender);
            self.services = Some(WatchedServices {
                source,
                events,
                kept: ListedObjects::default(),
            });
        }
    }

    fn starts(&self, key: &ObjectKey) -> PodStarts {
        let path = self.path.borrow();
        let pod = path.caches.as_ref().and_then(|caches| caches.get(key));
        PodStarts(pod.map(|pod| pod.started).into_iter().collect())
    }
}

impl WatchedConfigMap {
    fn apply_event(&mut self, event: Event) {
        match event {
            Event::CacheConfig {
                data,
                written,
                updates,
            } => {
                self.data = Some(data);
                self.written = written;
                self.updates = updates;
            }
            Event::Unusable { .. } => self.data = None,
            _ => {}
        }
    }

    /// Why the texts are not known.
    fn why_unknown(&self, key: &ObjectKey) -> String {
        let feeds = self.source.health().feeds();
        let mut errors = feeds.into_values().filter_map(|health| match health.state {
            FeedActivity::Retrying { error } => Some(error),
            _ => None,
        });
        match errors.next() {
            Some(error) => format!(
                "ConfigMap {key} can't be read: {error}; the rule needs resourceNames: [{}]",
                key.name
            ),
            None => format!("ConfigMap {key} has not been read yet"),
        }
    }
}

impl WatchedServices {
    fn apply_event(&mut self, event: Event) {
        match event {
            Event::Applied {
                object: Object::Fact(Fact::Service(service)),
                ..
            } => self.kept.set(&service.key.clone(), Some(service)),
            Event::Deleted { key, .. } => self.kept.apply(ListEvent::Deleted(&key)),
            Event::ListStarted(_) => self.kept.apply(ListEvent::ListStarted),
            Event::ListEnded(_) => self.kept.apply(ListEvent::ListEnded),
            Event::Unusable { problem, .. } => {
                let key = ObjectKey::new(&*problem.namespace, &*problem.name);
                self.kept.apply(ListEvent::Present(&key));
            }
            _ => {}
        }
    }
}

/// Applies the next event of any source.
fn poll_sources(
    maps: &mut BTreeMap<ObjectKey, WatchedConfigMap>,
    services: &mut Option<WatchedServices>,
    context: &mut Context<'_>,
) -> Poll<()> {
    for map in maps.values_mut() {
        if let Poll::Ready(Some(event)) = map.events.poll_recv(context) {
            map.apply_event(event);
            return Poll::Ready(());
        }
    }
    if let Some(services) = services
        && let Poll::Ready(Some(event)) = services.events.poll_recv(context)
    {
        services.apply_event(event);
        return Poll::Ready(());
    }
    Poll::Pending
}

/// The later of two times, either of which may be unknown.
fn later_write(a: Option<WriteTime>, b: Option<WriteTime>) -> Option<WriteTime> {
    let at = |written: &WriteTime| match written {
        WriteTime::Created(at) | WriteTime::Edited(at) => *at,
    };
    a.into_iter().chain(b).max_by_key(at)
}
