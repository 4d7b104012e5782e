//! Pods that run kube-dns, and how they answer names outside the cluster (kubernetes/dns,
//! `cmd/kube-dns`, `pkg/dnsmasq`).

mod config;

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1 as core;
use zerohop_routes::{
    CacheRules, Forward, ForwardGroup, ForwardServer, ForwardTransport, GroupTrust, KeptAnswers,
    RouteBlock, Routes, UpstreamPolicy,
};
use zerohop_zone::{Name, reverse_zones};

pub(crate) use self::config::StubConfig;
use super::command_flags::CommandFlags;
use super::container_files::{ConfigMapData, Mounts};
use super::objects::ObjectKey;
use super::resolv_conf::PodResolvConf;

const DNS_PORT: u16 = 53;
/// The cluster's domain without `--domain`.
const DEFAULT_DOMAIN: &str = "cluster.local";

/// kube-dns's dnsmasq keeps records until their TTLs end, and no negative answers
/// (`--no-negcache`).
const CACHE: CacheRules = CacheRules {
    max_ttl: u32::MAX,
    max_negative_ttl: u32::MAX,
    kept: KeptAnswers::Positive,
    stale: None,
};

/// How a Pod runs kube-dns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeDnsServer {
    /// The ConfigMap with its configuration. It need not exist. `Err`: why it isn't known, as a
    /// clause.
    config_map: Result<ObjectKey, String>,
    domain: Name,
    resolv_conf: PodResolvConf,
}

impl KubeDnsServer {
    /// Reads a Pod. `None` if no container runs kube-dns, as far as its arguments tell.
    pub(crate) fn of_pod(pod: &core::Pod) -> Option<KubeDnsServer> {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut servers = containers.filter_map(|container| {
            let words = container.command.iter().chain(&container.args).flatten();
            let words: Vec<&str> = words.map(String::as_str).collect();
            let flags = CommandFlags::read(&words);
            // Only kube-dns has both.
            let directory = flags.value("config-dir")?;
            flags.value("dns-port")?;
            let domain = Name::parse(flags.value("domain").unwrap_or(DEFAULT_DOMAIN)).ok()?;
            let map = Mounts::new(container, pod).find_config_map(directory);
            Some(KubeDnsServer {
                config_map: map.and_then(|map| {
                    map.ok_or_else(|| format!("{directory} is not a ConfigMap of its pod"))
                }),
                domain,
                resolv_conf: PodResolvConf::of_pod(pod),
            })
        });
        servers.next()
    }

    /// The ConfigMap with the configuration.
    ///
    /// # Errors
    /// If it isn't known. The error is the reason, as a clause.
    pub fn config_map(&self) -> Result<&ObjectKey, &str> {
        self.config_map.as_ref().map_err(String::as_str)
    }

    /// How names outside the cluster are answered with this configuration. `None`: the ConfigMap
    /// doesn't exist, so the defaults count.
    ///
    /// # Errors
    /// If kube-dns may refuse any part, because it then keeps its previous configuration, or if its
    /// servers aren't known. The error is the reason, as a clause.
    pub fn routes(&self, data: Option<&ConfigMapData>) -> Result<Routes, String> {
        let config = data.map_or_else(|| Ok(StubConfig::default()), StubConfig::read)?;
        let mut blocks = Vec::new();
        for (domain, servers) in &config.stub_domains {
            let zone = Name::parse(domain)
                .map_err(|error| format!("the stub domain {domain} is not a name ({error})"))?;
            let servers = read_servers(servers);
            blocks.push(block(&zone, servers, "stubDomains"));
        }
        let upstreams = if !config.upstreams.is_empty() {
            read_servers(&config.upstreams)
        } else {
            match &self.resolv_conf {
                PodResolvConf::Node => vec![ForwardServer::NodeResolvConf],
                PodResolvConf::Servers(servers) => servers.iter().map(plain).collect(),
                PodResolvConf::Unknown(reason) => return Err(reason.clone()),
            }
        };
        let [v4, v6] = [
            ipnet::Ipv4Net::default().into(),
            ipnet::Ipv6Net::default().into(),
        ];
        let own = [
            vec![self.domain.clone()],
            reverse_zones(v4),
            reverse_zones(v6),
        ]
        .concat();
        blocks.push(block(&Name::root(), upstreams, "upstreamNameservers"));
        // dnsmasq takes the longest domain, so these count below a stub domain too.
        blocks.push(RouteBlock {
            zones: own.clone(),
            cluster_zones: own,
            ..RouteBlock::default()
        });
        Ok(Routes::new(blocks))
    }
}

fn block(zone: &Name, servers: Vec<ForwardServer>, key: &str) -> RouteBlock {
    RouteBlock {
        zones: vec![zone.clone()],
        forwards: vec![Forward {
            zone: zone.clone(),
            except: Vec::new(),
            group: Some(ForwardGroup {
                servers,
                policy: UpstreamPolicy::Fastest,
                transport: ForwardTransport::UdpAndTcp,
                trust: GroupTrust::AfterAnswer,
                origin: format!("kube-dns, {key}, {zone}"),
            }),
        }],
        caching: vec![(vec![Name::root()], CACHE)],
        ..RouteBlock::default()
    }
}

/// Reads addresses, each with or without a port, that [`StubConfig::read`] has checked.
fn read_servers(texts: &[String]) -> Vec<ForwardServer> {
    let read = |text: &String| -> Option<SocketAddr> {
        let without_port = || Some(SocketAddr::new(text.parse().ok()?, DNS_PORT));
        text.parse().ok().or_else(without_port)
    };
    let addresses = texts.iter().filter_map(read);
    addresses.map(ForwardServer::Plain).collect()
}

fn plain(address: &IpAddr) -> ForwardServer {
    ForwardServer::Plain(SocketAddr::new(*address, DNS_PORT))
}

#[cfg(test)]
mod tests;
