//! NodeLocal DNSCache (github.com/kubernetes/dns, `cmd/node-cache`): pods in their node's network
//! that answer DNS in front of CoreDNS. In this code, such a pod is a *node cache*. Its program is
//! `node-cache`.
//!
//! Zerohop detects a node cache by the flag `-localip` in a container's command, arguments or
//! variables, because its pods and ConfigMaps may have any name. A node cache usually generates its
//! Corefile from a template in a ConfigMap and from the ConfigMap of kube-dns.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::command_flags::CommandFlags;
use super::container_files::{ConfigMapData, ConfigMapTexts, FileLocation, MountForm, Mounts};
use super::coredns_config::MAX_COREFILE_LENGTH;
use super::kube_dns::StubConfig;
use super::objects::ObjectKey;

// Placeholders that a node cache replaces in its template.
const CLUSTER_DNS: &str = "__PILLAR__CLUSTER__DNS__";
const UPSTREAM_SERVERS: &str = "__PILLAR__UPSTREAM__SERVERS__";
const LOCAL_DNS: &str = "__PILLAR__LOCAL__DNS__";
const DNS_SERVER: &str = "__PILLAR__DNS__SERVER__";

/// A pod of NodeLocal DNSCache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCache {
    /// The addresses at which the node cache answers.
    pub addresses: CacheAddresses,
    /// Where the configuration of the node cache is. `Err`: why that is unknown, as a clause.
    pub config: Result<CacheConfig, String>,
}

/// The addresses at which a node cache answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheAddresses {
    /// These addresses.
    Known(Vec<IpAddr>),
    /// Unreadable addresses. The node cache may answer at any address.
    Unknown,
}

/// Where the configuration of a node cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    corefile: CorefileSource,
    /// The name of the Service to which the node cache forwards queries for the cluster's names.
    /// The Service is in the namespace of the node cache.
    pub upstream_service: String,
    /// When the node cache loads a changed configuration.
    pub reload_mode: ReloadMode,
    /// The value of `-localip`: addresses separated by commas.
    local_ip: String,
}

/// Where a node cache's Corefile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CorefileSource {
    /// A ConfigMap holds the Corefile.
    Verbatim(ConfigMapEntry),
    /// The node cache generates the Corefile.
    Generated {
        template: ConfigMapEntry,
        /// The ConfigMap with stub domains and upstream servers. `None` if none is mounted.
        kube_dns: Option<ObjectKey>,
    },
}

/// A key of a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ConfigMapEntry {
    map: ObjectKey,
    key: String,
}

/// When a node cache loads a changed configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// At the intervals of the `reload` plugin, if its Corefile has one.
    ByPlugin,
    /// At once, by a signal to itself (`-reloadwithsignal`).
    BySignal,
    /// Never after a change of the Corefile or of its template, because the kubelet doesn't update
    /// a file that is mounted by `subPath`.
    Never,
}

impl NodeCache {
    /// Reads a Pod of NodeLocal DNSCache. `None` if the Pod has ended, isn't in its node's network,
    /// or isn't a node cache.
    #[must_use]
    pub fn find_in_pod(pod: &core::Pod) -> Option<NodeCache> {
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
        let mut caches =
            containers.filter_map(|container| NodeCache::find_in_container(container, pod));
        let cache = caches.next()?;
        Some(match caches.next() {
            None => cache,
            Some(_) => NodeCache::unreadable("several of its containers have -localip"),
        })
    }

    /// A pod that may be a node cache at any address. `reason` says why its configuration is
    /// unknown, as a clause.
    #[must_use]
    pub fn unreadable(reason: &str) -> NodeCache {
        NodeCache {
            addresses: CacheAddresses::Unknown,
            config: Err(reason.to_owned()),
        }
    }

    /// The addresses of the node cache itself. Empty if they are unknown, or any address.
    #[must_use]
    pub fn own_addresses(&self) -> &[IpAddr] {
        match &self.addresses {
            CacheAddresses::Known(known) if !known.iter().any(IpAddr::is_unspecified) => known,
            CacheAddresses::Known(_) | CacheAddresses::Unknown => &[],
        }
    }

    /// The served addresses at which the node cache may answer.
    #[must_use]
    pub fn bound_addresses(&self, served: &[IpAddr]) -> Vec<IpAddr> {
        let CacheAddresses::Known(bound) = &self.addresses else {
            return served.to_vec();
        };
        let is_bound = |address: &&IpAddr| {
            let mut bound = bound.iter();
            bound.any(|bound| bound == *address || bound.is_unspecified())
        };
        served.iter().filter(is_bound).copied().collect()
    }

    fn find_in_container(container: &core::Container, pod: &core::Pod) -> Option<NodeCache> {
        let words = container.command.iter().chain(&container.args).flatten();
        let words: Vec<&str> = words.map(String::as_str).collect();
        let has_flag = |text: &str| text.contains("-localip");
        let mut values = container.env.iter().flatten();
        if values.any(|variable| variable.value.as_deref().is_some_and(has_flag)) {
            return Some(NodeCache::unreadable(
                "-localip is in an environment variable",
            ));
        }
        if !words.iter().copied().any(has_flag) {
            return None;
        }
        let command = CommandFlags::read(&words);
        let Some(local_ip) = command.value("localip") else {
            return Some(NodeCache::unreadable(
                "its command contains -localip, but not as a flag with a value",
            ));
        };
        let addresses: Result<Vec<IpAddr>, _> = local_ip.split(',').map(str::parse).collect();
        Some(match addresses {
            Ok(addresses) => NodeCache {
                addresses: CacheAddresses::Known(addresses),
                config: CacheConfig::from_command(&command, local_ip, container, pod),
            },
            Err(_) => NodeCache::unreadable("its -localip holds text that is not an address"),
        })
    }
}

impl CacheConfig {
    /// The ConfigMaps that hold the configuration.
    #[must_use]
    pub fn config_maps(&self) -> Vec<&ObjectKey> {
        match &self.corefile {
            CorefileSource::Verbatim(entry) => vec![&entry.map],
            CorefileSource::Generated { template, kube_dns } => {
                std::iter::once(&template.map).chain(kube_dns).collect()
            }
        }
    }

    /// The Corefile that the node cache runs with, given these ConfigMaps. `None` stands for a
    /// ConfigMap that doesn't exist. The placeholder for the cluster's DNS stays in the text.
    ///
    /// # Errors
    /// If the ConfigMap of the Corefile or of its template doesn't exist or lacks the key, if
    /// node-cache may refuse the ConfigMap of kube-dns, if that ConfigMap has federations, or if
    /// the Corefile is longer than 1 MiB. The error is the reason, as a clause.
    pub fn corefile_text(&self, maps: &ConfigMapTexts) -> Result<String, String> {
        let data = |key: &ObjectKey| maps.get(key).and_then(Option::as_ref);
        let entry_text = |ConfigMapEntry { map, key }: &ConfigMapEntry| {
            let data = data(map).ok_or_else(|| format!("there is no ConfigMap {map}"))?;
            let text = data.get(key);
            text.ok_or_else(|| format!("ConfigMap {map} has no {key}"))
        };
        let text = match &self.corefile {
            CorefileSource::Verbatim(entry) => entry_text(entry)?.clone(),
            CorefileSource::Generated { template, kube_dns } => {
                let kube_dns = kube_dns.as_ref().and_then(data);
                self.generate_corefile(entry_text(template)?, kube_dns.map(Arc::as_ref))?
            }
        };
        if text.len() <= MAX_COREFILE_LENGTH {
            Ok(text)
        } else {
            Err(format!(
                "its Corefile is longer than {MAX_COREFILE_LENGTH} bytes"
            ))
        }
    }

    /// Finds the configuration of a node cache by its flags, mounts and variables. `Err` holds the
    /// reason as a clause.
    fn from_command(
        command: &CommandFlags<'_>,
        local_ip: &str,
        container: &core::Container,
        pod: &core::Pod,
    ) -> Result<CacheConfig, String> {
        let mounts = Mounts::new(container, pod);
        let flag = |name: &str, default: &'static str| match command.value(name) {
            Some(text) if text.contains("$(") => Err(format!("-{name} contains a variable")),
            Some(text) => Ok(text.to_owned()),
            None => Ok(default.to_owned()),
        };
        let conf = flag("conf", "")?;
        if conf.is_empty() {
            // CoreDNS then reads `Corefile` in the working directory, which Zerohop doesn't know.
            return Err("its command has no path in -conf".to_owned());
        }
        let base = flag("basecorefile", "/etc/coredns/Corefile.base")?;
        let kube_dns = flag("kubednscm", "/etc/kube-dns")?;
        let mut reload_mode = if command.is_set("reloadwithsignal") {
            ReloadMode::BySignal
        } else {
            ReloadMode::ByPlugin
        };
        let mut config_map_entry = |file: FileLocation| match file {
            FileLocation::ConfigMap {
                map,
                key,
                mount_form,
            } => {
                if mount_form == MountForm::SingleFile {
                    reload_mode = ReloadMode::Never;
                }
                Ok(ConfigMapEntry { map, key })
            }
            // Only a template gets here: node-cache generates a Corefile in a writable place.
            FileLocation::Writable => Err(format!(
                "the template of its Corefile, {base} (-basecorefile), is not in a ConfigMap"
            )),
            FileLocation::Unknown(reason) => Err(reason),
        };
        // node-cache generates its Corefile, and writes it to the path `-conf`. If that is a file
        // of a ConfigMap, node-cache can't write it, and runs with the file as it is.
        let corefile = match mounts.locate_file(&conf) {
            FileLocation::Writable => CorefileSource::Generated {
                template: config_map_entry(mounts.locate_file(&base))?,
                kube_dns: mounts.find_config_map(&kube_dns)?,
            },
            file => CorefileSource::Verbatim(config_map_entry(file)?),
        };
        let upstream_service = flag("upstreamsvc", "kube-dns")?;
        // node-cache reads the Service's address from a variable that the kubelet sets
        // (`cmd/node-cache/app/cache_app.go`). The container's own variables override it.
        let host_variable = format!(
            "{}_SERVICE_HOST",
            upstream_service.to_uppercase().replace('-', "_")
        );
        let mut variables = container.env.iter().flatten();
        if variables.any(|variable| variable.name == host_variable) {
            return Err(format!(
                "its container sets the variable {host_variable}, so the server to which it \
                 forwards queries is unknown"
            ));
        }
        Ok(CacheConfig {
            corefile,
            upstream_service,
            reload_mode,
            local_ip: local_ip.to_owned(),
        })
    }

    /// Generates the Corefile as node-cache does (`cmd/node-cache/app/configmap.go`), with three
    /// differences. The placeholder for the cluster's DNS stays, and so does `force_tcp` if there
    /// are upstream servers. Neither changes an answer. The blocks of stub domains have port 53
    /// instead of the value of `-dns.port`, whose default is 53.
    fn generate_corefile(
        &self,
        template: &str,
        kube_dns: Option<&ConfigMapData>,
    ) -> Result<String, String> {
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

/// Whether a word is the placeholder for the Service that receives the node cache's queries for the
/// cluster's names.
#[must_use]
pub(super) fn is_cluster_dns_placeholder(word: &str) -> bool {
    word == CLUSTER_DNS
}
