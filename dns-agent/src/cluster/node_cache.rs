//! Node caches: pods in their node's network that answer DNS in front of CoreDNS.
//!
//! That is NodeLocal DNSCache (github.com/kubernetes/dns, `cmd/node-cache`), whatever its pods and
//! ConfigMaps are called: a container whose command has the flag `-localip`. It writes the Corefile
//! that it runs with itself, from a template in a ConfigMap and from the ConfigMap of kube-dns.

mod command;
mod files;
mod stub;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use self::command::Command;
use self::files::{File, Mounts};
use self::stub::StubConfig;
use super::objects::Key;

/// What a node cache puts in the place of words of its template.
const CLUSTER_DNS: &str = "__PILLAR__CLUSTER__DNS__";
const UPSTREAM_SERVERS: &str = "__PILLAR__UPSTREAM__SERVERS__";
const LOCAL_DNS: &str = "__PILLAR__LOCAL__DNS__";
const DNS_SERVER: &str = "__PILLAR__DNS__SERVER__";

/// How long a text may be, in bytes: as long as a ConfigMap.
const MAX_TEXT: usize = 1 << 20;

/// The data of a ConfigMap by its keys.
pub type MapData = BTreeMap<String, String>;

/// A node cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCache {
    /// Where it answers.
    pub binds: Binds,
    /// Where its configuration is; a text says why that is not known.
    pub config: Result<CacheConfig, String>,
}

/// Where a node cache answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binds {
    /// At these addresses.
    Addresses(Vec<IpAddr>),
    /// At addresses that can't be read.
    Unknown,
}

/// Where the configuration of a node cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    corefile: CorefileSource,
    /// The name of the Service that it asks for the cluster's names, in its own namespace.
    pub upstream_service: String,
    /// How it takes up another configuration.
    pub takes_up: TakesUp,
    /// The addresses as its command has them.
    local_ip: String,
}

/// Where a node cache has its Corefile from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CorefileSource {
    /// A ConfigMap holds it.
    Verbatim(MapEntry),
    /// It writes the Corefile.
    Written {
        template: MapEntry,
        /// The ConfigMap with stub domains and upstream servers.
        kube_dns: Option<Key>,
    },
}

/// A text in a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MapEntry {
    map: Key,
    key: String,
}

/// How a node cache takes up another configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesUp {
    /// As its Corefile's `reload` says.
    AsReloadSays,
    /// At once, by a signal (`-reloadwithsignal`).
    AtOnce,
    /// Never: the kubelet doesn't update a file that is mounted by `subPath`.
    Never,
}

impl NodeCache {
    /// The node cache that a Pod is, if it is one that runs, or is to run.
    #[must_use]
    pub fn of_pod(pod: &core::Pod) -> Option<NodeCache> {
        let spec = pod.spec.as_ref()?;
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if spec.host_network != Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let containers = spec.init_containers.iter().flatten();
        let containers = containers.chain(&spec.containers);
        let mut caches = containers.filter_map(|container| NodeCache::of_container(container, pod));
        let cache = caches.next()?;
        Some(match caches.next() {
            None => cache,
            Some(_) => NodeCache::unreadable("several of its containers have -localip"),
        })
    }

    /// A pod that may be a node cache, at any address.
    #[must_use]
    pub fn unreadable(reason: &str) -> NodeCache {
        NodeCache {
            binds: Binds::Unknown,
            config: Err(reason.to_owned()),
        }
    }

    /// Which of these addresses it may answer at.
    #[must_use]
    pub fn bound(&self, served: &[IpAddr]) -> Vec<IpAddr> {
        let Binds::Addresses(own) = &self.binds else {
            return served.to_vec();
        };
        let is_any = |address: &&IpAddr| {
            let mut own = own.iter();
            own.any(|own| own == *address || own.is_unspecified())
        };
        served.iter().filter(is_any).copied().collect()
    }

    fn of_container(container: &core::Container, pod: &core::Pod) -> Option<NodeCache> {
        let words = container.command.iter().chain(&container.args).flatten();
        let words: Vec<&str> = words.map(String::as_str).collect();
        let has_flag = |text: &str| text.contains("-localip");
        let mut values = container.env.iter().flatten();
        if values.any(|variable| variable.value.as_deref().is_some_and(has_flag)) {
            return Some(NodeCache::unreadable("-localip is in a variable"));
        }
        if !words.iter().copied().any(has_flag) {
            return None;
        }
        let command = Command::read(&words);
        let Some(local_ip) = command.value("localip") else {
            return Some(NodeCache::unreadable(
                "its command has no -localip that can be read",
            ));
        };
        let addresses: Result<Vec<IpAddr>, _> = local_ip.split(',').map(str::parse).collect();
        Some(match addresses {
            Ok(addresses) => NodeCache {
                binds: Binds::Addresses(addresses),
                config: CacheConfig::of_command(&command, local_ip, container, pod),
            },
            Err(_) => NodeCache::unreadable("its -localip holds what is no address"),
        })
    }
}

impl CacheConfig {
    /// The ConfigMaps that it has its configuration from.
    #[must_use]
    pub fn maps(&self) -> Vec<&Key> {
        match &self.corefile {
            CorefileSource::Verbatim(entry) => vec![&entry.map],
            CorefileSource::Written { template, kube_dns } => {
                std::iter::once(&template.map).chain(kube_dns).collect()
            }
        }
    }

    /// The Corefile that it makes of these ConfigMaps, where `None` stands for one that doesn't
    /// exist. The word for the cluster's DNS stays in it.
    ///
    /// # Errors
    /// When that isn't clear; with the reason.
    pub fn text(&self, maps: &BTreeMap<Key, Option<MapData>>) -> Result<String, String> {
        let data = |key: &Key| maps.get(key).and_then(Option::as_ref);
        let of_entry = |MapEntry { map, key }: &MapEntry| {
            let data = data(map).ok_or_else(|| format!("there is no ConfigMap {map}"))?;
            let text = data.get(key);
            text.ok_or_else(|| format!("ConfigMap {map} has no {key}"))
        };
        let text = match &self.corefile {
            CorefileSource::Verbatim(entry) => of_entry(entry)?.clone(),
            CorefileSource::Written { template, kube_dns } => {
                let kube_dns = kube_dns.as_ref().and_then(data);
                self.written(of_entry(template)?, kube_dns)?
            }
        };
        match text.len() <= MAX_TEXT {
            true => Ok(text),
            false => Err(format!("its Corefile is longer than {MAX_TEXT} bytes")),
        }
    }

    fn of_command(
        command: &Command<'_>,
        local_ip: &str,
        container: &core::Container,
        pod: &core::Pod,
    ) -> Result<CacheConfig, String> {
        let mounts = Mounts::new(container, pod);
        let flag = |name: &str, default: &'static str| match command.value(name) {
            Some(text) if text.contains("$(") => Err(format!("-{name} holds a variable")),
            Some(text) => Ok(text.to_owned()),
            None => Ok(default.to_owned()),
        };
        let conf = flag("conf", "")?;
        let base = flag("basecorefile", "/etc/coredns/Corefile.base")?;
        let kube_dns = flag("kubednscm", "/etc/kube-dns")?;
        let mut takes_up = match command.has("reloadwithsignal") {
            true => TakesUp::AtOnce,
            false => TakesUp::AsReloadSays,
        };
        let mut entry = |file: File| match file {
            File::Map { map, key, by_path } => {
                if by_path == files::ByPath::Alone {
                    takes_up = TakesUp::Never;
                }
                Ok(MapEntry { map, key })
            }
            File::Scratch => Err("its Corefile is in no ConfigMap".to_owned()),
            File::Unknown(reason) => Err(reason),
        };
        let corefile = match mounts.file(&conf) {
            File::Scratch => CorefileSource::Written {
                template: entry(mounts.file(&base))?,
                kube_dns: mounts.map(&kube_dns)?,
            },
            file => CorefileSource::Verbatim(entry(file)?),
        };
        let upstream_service = flag("upstreamsvc", "kube-dns")?;
        // node-cache takes the address from the variable that the kubelet makes of the Service
        // (`cmd/node-cache/app/cache_app.go`), which a variable of the container replaces.
        let address = format!(
            "{}_SERVICE_HOST",
            upstream_service.to_uppercase().replace('-', "_")
        );
        let mut variables = container.env.iter().flatten();
        if variables.any(|variable| variable.name == address) {
            return Err(format!("the variable {address} says what it asks"));
        }
        Ok(CacheConfig {
            corefile,
            upstream_service,
            takes_up,
            local_ip: local_ip.to_owned(),
        })
    }

    /// What node-cache writes (`cmd/node-cache/app/configmap.go`).
    fn written(&self, template: &str, kube_dns: Option<&MapData>) -> Result<String, String> {
        let StubConfig {
            stub_domains,
            upstreams,
        } = match kube_dns {
            Some(data) => StubConfig::read(data)?,
            None => StubConfig::default(),
        };
        let upstreams = match upstreams.as_slice() {
            [] => "/etc/resolv.conf".to_owned(),
            upstreams => upstreams.join(" "),
        };
        let local = self.local_ip.replace(',', " ");
        let mut text = template
            .replace(UPSTREAM_SERVERS, &upstreams)
            .replace(LOCAL_DNS, &local)
            .replace(DNS_SERVER, "");
        for (domain, servers) in stub_domains {
            let servers = servers.join(" ");
            text += &format!(
                "\n{domain}:53 {{\n    errors\n    cache 30\n    bind {local}\n    forward . {servers}\n}}\n"
            );
        }
        Ok(text)
    }
}

/// The word that stands for the Service that a node cache asks for the cluster's names.
#[must_use]
pub(super) fn is_cluster_dns(word: &str) -> bool {
    word == CLUSTER_DNS
}
