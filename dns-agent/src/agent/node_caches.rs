//! Follows the configuration of the node caches that answer at served addresses on this node.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use kube::Client;
use tokio::sync::{mpsc, watch};

use super::{
    dns_path::{CachePod, DnsPath, Kept, Starts, Step},
    in_force::{Hold, KUBELET, Pods, Texts},
    plan::CacheCorefile,
};
use crate::{
    cluster::{
        CacheConfig, DnsService, Fact, Key, Labels, MapData, Object, Reload, Surroundings, TakesUp,
        UpstreamService,
    },
    config::{self, Config, Serves},
    source::{
        Event, Updates, Written,
        kubernetes::{Health, Kubernetes, State},
    },
};

/// More node caches that answer at served addresses of one node are not read: everything passes.
const MAX_CACHES: usize = 8;

/// How often a node cache looks at the files that its Corefile is made from (kubernetes/dns,
/// `DefaultConfigSyncPeriod`).
const SYNC: Duration = Duration::from_secs(10);

/// Events of a ConfigMap, or of Services, that wait.
const WAITING: usize = 16;

/// Node caches on this node, as far as they answer at served addresses.
pub(super) struct NodeCaches {
    client: Client,
    /// The name of this node, if it is known.
    node: Option<String>,
    dns: Key,
    serves: Serves,
    /// The addresses of `--serve` and of `--cluster-dns`.
    given: Vec<IpAddr>,
    cluster_dns: Vec<IpAddr>,
    path: watch::Receiver<DnsPath>,
    maps: BTreeMap<Key, Map>,
    services: Option<Services>,
    /// The texts of each node cache, by its pod.
    texts: BTreeMap<Key, Texts<String>>,
}

/// What is known of node caches.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Those whose configuration is known.
    pub(super) read: Vec<(Key, CacheCorefile)>,
    /// Why everything passes: what isn't known of others.
    pub(super) unknown: Vec<Hold>,
    /// What isn't known and changes nothing, for people.
    pub(super) note: Option<String>,
}

/// A ConfigMap with configuration.
struct Map {
    source: Kubernetes,
    events: mpsc::Receiver<Event>,
    /// Its texts, or that it doesn't exist; none before that is known.
    data: Option<Option<MapData>>,
    written: Option<Written>,
    updates: Updates,
}

/// The Services that a node cache may ask for the cluster's names.
struct Services {
    source: Kubernetes,
    events: mpsc::Receiver<Event>,
    kept: Kept<DnsService>,
}

impl NodeCaches {
    pub(super) fn new(
        client: Client,
        config: &Config,
        kubernetes: &config::Kubernetes,
        path: watch::Receiver<DnsPath>,
    ) -> NodeCaches {
        NodeCaches {
            client,
            node: kubernetes.node_name.clone(),
            dns: kubernetes.dns_service.clone(),
            serves: kubernetes.serves,
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

    /// What stands between this node's pods and CoreDNS.
    pub(super) fn path(&self) -> DnsPath {
        self.path.borrow().clone()
    }

    /// How the reading goes.
    pub(super) fn health(&self) -> impl Iterator<Item = Arc<Health>> {
        let maps = self.maps.values().map(|map| map.source.health());
        let services = self.services.iter();
        maps.chain(services.map(|services| services.source.health()))
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&mut self) {
        let NodeCaches {
            path,
            maps,
            services,
            ..
        } = self;
        tokio::select! {
            // The other side ends with the agent.
            Ok(()) = path.changed() => {}
            () = std::future::poll_fn(|context| poll(maps, services, context)) => {}
        }
    }

    /// Reads what is to be read with the path of this moment, and says what is known.
    pub(super) fn known(&mut self) -> Known {
        let path = self.path.borrow_and_update().clone();
        let mut known = Known::default();
        let unknown = |what: &str| Hold {
            until: None,
            reason: what.to_owned(),
        };
        if self.node.is_none() {
            known.note = Some(
                "a node cache in front of CoreDNS is not noticed: which pods are on this node isn't \
                 known; give its name as --node-name"
                    .to_owned(),
            );
            return known;
        }
        let (Some(caches), Some(service)) = (&path.caches, &path.service) else {
            let what = "it isn't known yet whether a node cache answers on this node";
            known.unknown.push(unknown(what));
            return known;
        };
        let served = match (self.serves, service) {
            (Serves::Given, _) => self.given.clone(),
            (_, Some(service)) => service.addresses.to_vec(),
            (_, None) => Vec::new(),
        };
        let bound = caches
            .iter()
            .map(|(key, pod)| (key, pod, pod.cache.bound(&served)));
        let bound: Vec<_> = bound.filter(|(_, _, bound)| !bound.is_empty()).collect();
        self.follow(bound.iter().map(|(key, pod, _)| (*key, *pod)));
        if bound.len() > MAX_CACHES {
            let what = format!("more than {MAX_CACHES} node caches answer on this node");
            known.unknown.push(unknown(&what));
            return known;
        }
        for (key, pod, bound) in bound {
            let name = format!("node cache {key}");
            match self.corefile(key, pod, service.as_ref()) {
                Ok((text, mut around)) => {
                    around.bound = bound;
                    known
                        .read
                        .push((key.clone(), CacheCorefile { name, text, around }));
                }
                Err(reason) => {
                    let listed: Vec<String> = bound.iter().map(IpAddr::to_string).collect();
                    let listed = listed.join(", ");
                    let what = format!(
                        "{name} answers at {listed}, and what it answers isn't known: {reason}"
                    );
                    known.unknown.push(unknown(&what));
                }
            }
        }
        known
    }

    /// Until when a node cache may answer by a text of before.
    pub(super) fn hold(
        &mut self,
        key: &Key,
        name: &str,
        is_harmless: impl FnMut(&String) -> bool,
    ) -> Option<Hold> {
        let starts = self.starts(key);
        let texts = self.texts.get_mut(key)?;
        let hold = texts.hold(name, Pods::Started(&starts), is_harmless)?;
        let reason = format!("the Corefile of {name} has changed, and {}", hold.reason);
        Some(Hold { reason, ..hold })
    }

    /// The Corefile of a node cache, and what is known of what it asks.
    fn corefile(
        &mut self,
        key: &Key,
        pod: &CachePod,
        dns: Option<&DnsService>,
    ) -> Result<(String, Surroundings), String> {
        let config = pod.cache.config.as_ref().map_err(Clone::clone)?;
        let services = self.services.as_ref();
        let services = services.and_then(|services| services.kept.known());
        let services = services.ok_or_else(|| "Services have not been listed yet".to_owned())?;
        let around = self.around(key, config, services, dns);
        let (mut data, mut written, mut updates) = (BTreeMap::new(), None, Updates::Brought);
        for map in config.maps() {
            let Some(read) = self.maps.get(map) else {
                continue;
            };
            let Some(texts) = &read.data else {
                return Err(read.trouble(map));
            };
            data.insert(map.clone(), texts.clone());
            written = later(written, read.written);
            if read.updates == Updates::Never {
                updates = Updates::Never;
            }
        }
        let text = config.text(&data)?;
        let reload = match (config.takes_up, updates) {
            (TakesUp::Never, _) | (_, Updates::Never) => Reload::Never,
            (TakesUp::AsReloadSays, _) => Reload::read(&text),
            (TakesUp::AtOnce, _) => Reload::Every {
                interval: Duration::ZERO,
                jitter: Duration::ZERO,
            },
        };
        let starts = Starts(vec![pod.started]);
        let texts = self.texts.entry(key.clone());
        let texts = texts.or_insert_with(|| Texts::new(KUBELET + SYNC));
        texts.put(text.clone(), reload, written, Pods::Started(&starts));
        Ok((text, around))
    }

    fn around(
        &self,
        key: &Key,
        config: &CacheConfig,
        services: &BTreeMap<Key, DnsService>,
        dns: Option<&DnsService>,
    ) -> Surroundings {
        let no_labels = Labels::new();
        let selector = dns.map_or(&no_labels, |dns| &dns.selector);
        let is_like_dns = |service: &&DnsService| {
            service.key == self.dns || (!selector.is_empty() && service.selector == *selector)
        };
        let like_dns = services.values().filter(is_like_dns);
        let upstream = Key::new(&*key.namespace, &*config.upstream_service);
        let is_other = match services.get(&upstream) {
            Some(service) => !is_like_dns(&service) && service.selector != *selector,
            None => upstream.namespace != self.dns.namespace,
        };
        Surroundings {
            bound: Vec::new(),
            cluster_dns: (like_dns.flat_map(|service| service.addresses.iter()))
                .chain(&self.cluster_dns)
                .copied()
                .collect(),
            upstream: match is_other {
                true => UpstreamService::Other,
                false => UpstreamService::ClusterDns,
            },
        }
    }

    /// Reads the configuration of these node caches, and no other.
    fn follow<'a>(&mut self, caches: impl Iterator<Item = (&'a Key, &'a CachePod)>) {
        let caches: Vec<_> = caches.take(MAX_CACHES).collect();
        let configs = caches
            .iter()
            .filter_map(|(_, pod)| pod.cache.config.as_ref().ok());
        let wanted: Vec<&Key> = configs.flat_map(CacheConfig::maps).collect();
        self.maps.retain(|key, _| wanted.contains(&key));
        for key in wanted {
            if !self.maps.contains_key(key) {
                let (sender, events) = mpsc::channel(WAITING);
                let source = Kubernetes::start_cache_config(self.client.clone(), key, sender);
                let map = Map {
                    source,
                    events,
                    data: None,
                    written: None,
                    updates: Updates::Brought,
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
            let source = Kubernetes::start_upstream_services(client, &self.dns.namespace, sender);
            self.services = Some(Services {
                source,
                events,
                kept: Kept::default(),
            });
        }
    }

    fn starts(&self, key: &Key) -> Starts {
        let path = self.path.borrow();
        let pod = path.caches.as_ref().and_then(|caches| caches.get(key));
        Starts(pod.map(|pod| pod.started).into_iter().collect())
    }
}

impl Map {
    fn event(&mut self, event: Event) {
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

    /// Why its texts are not known.
    fn trouble(&self, key: &Key) -> String {
        let feeds = self.source.health().feeds();
        let mut errors = feeds.into_values().filter_map(|health| match health.state {
            State::Retrying { error } => Some(error),
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

impl Services {
    fn event(&mut self, event: Event) {
        match event {
            Event::Applied {
                object: Object::Fact(Fact::Service(service)),
                ..
            } => self.kept.set(&service.key.clone(), Some(service)),
            Event::Deleted { key, .. } => self.kept.step(Step::Gone(&key)),
            Event::Listing(_) => self.kept.step(Step::Listing),
            Event::Listed(_) => self.kept.step(Step::End),
            Event::Unusable { problem, .. } => {
                let key = Key::new(&*problem.namespace, &*problem.name);
                self.kept.step(Step::Seen(&key));
            }
            _ => {}
        }
    }
}

/// Takes the next event of any of these.
fn poll(
    maps: &mut BTreeMap<Key, Map>,
    services: &mut Option<Services>,
    context: &mut Context<'_>,
) -> Poll<()> {
    for map in maps.values_mut() {
        if let Poll::Ready(Some(event)) = map.events.poll_recv(context) {
            map.event(event);
            return Poll::Ready(());
        }
    }
    if let Some(services) = services
        && let Poll::Ready(Some(event)) = services.events.poll_recv(context)
    {
        services.event(event);
        return Poll::Ready(());
    }
    Poll::Pending
}

/// The later one of two times, of which one may not be known.
fn later(a: Option<Written>, b: Option<Written>) -> Option<Written> {
    let at = |written: &Written| match written {
        Written::Made(at) | Written::Edited(at) => *at,
    };
    a.into_iter().chain(b).max_by_key(at)
}
