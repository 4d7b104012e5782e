//! The command line and the configuration file.
//!
//! Both are read into the same [`Settings`], so every flag is also a key of the
//! file, under the same name. [`Config`] is what comes out of the two together,
//! with the defaults filled in and the combinations checked.

mod cli;
mod settings;
mod values;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::bail;
use ipnet::IpNet;

pub use self::cli::{
    CheckArgs, Cli, Command, DetachArgs, DumpArgs, LookupArgs, RunArgs, StatusArgs,
};
pub use self::settings::Settings;
pub use self::values::{
    Capacity, Domain, Hook, Interface, MaxAge, NamespaceName, Network, NetworkPolicy, NodeIp,
    ObjectName, Passed, Pods, QueryName, QueryType, Server, Socket, StaleAfter, Ttl, Upstream,
};
use crate::{
    cluster::{
        Departures, EmptyServices, EndpointNames, Endpoints, Key, NameServers, OddEndpoints,
        PodMode, Selector, Selectors, ZoneSettings,
    },
    datapath::{Persistence, pins::BPFFS},
    zone::Name,
};

/// Answers a second for each client on a network card, unless told otherwise: far more than a node
/// asks, and little for whoever is to be flooded with answers.
const DEFAULT_RATE_LIMIT: u32 = 1000;

/// Where the admin endpoints listen unless told otherwise.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9153);

/// The configuration `dns-agent run` works with: complete and consistent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the objects come from.
    pub source: Source,
    /// Which objects make records.
    pub selectors: Selectors,
    /// How objects become records.
    pub zone: ZoneSettings,
    /// The interfaces on which the kernel answers; none: no kernel plane.
    pub interfaces: Vec<Interface>,
    /// The clients answered on an interface that is not a veth.
    pub allow: Vec<IpNet>,
    /// Answers a second for each client on network cards; 0: without a limit.
    pub rate_limit: u32,
    /// Whether NetworkPolicies restrict whom the kernel answers.
    pub network_policy: NetworkPolicy,
    /// The addresses whose queries the kernel answers.
    pub serve: Vec<SocketAddr>,
    /// The addresses the resolver answers on, over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The servers for names that are not ours, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// Where the admin endpoints listen.
    pub admin: SocketAddr,
    /// How long the kernel answers without a renewed lease.
    pub stale_after: Duration,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// Whether hooks stay over a stop.
    pub persistence: Persistence,
    /// The number of names to make room for in the kernel's tables; none: they
    /// grow.
    pub capacity: Option<u32>,
}

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file or directory.
    Manifests(PathBuf),
    /// The Kubernetes API.
    Kubernetes(Kubernetes),
}

/// How the Kubernetes API is used.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// The kubeconfig file, if one was named.
    pub kubeconfig: Option<PathBuf>,
    /// This node, whose pods are watched.
    pub node_name: Option<String>,
    /// The ConfigMap with CoreDNS's Corefile.
    pub corefile: Key,
    /// What to answer where there is no Corefile.
    pub without_corefile: WithoutCorefile,
    /// The Service of the cluster's DNS.
    pub dns_service: Key,
    /// For which of its addresses the kernel answers.
    pub serves: Serves,
    /// Where names inside our zones that others know are asked, if not at that Service.
    pub cluster_dns: Vec<SocketAddr>,
    /// How long the kernel answers without a word from the API; none: for ever.
    pub max_age: Option<Duration>,
    /// The DaemonSet without which hooks don't stay over a stop.
    pub daemon_set: Option<Key>,
}

/// What to answer where there is no Corefile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutCorefile {
    /// Nothing.
    Pass,
    /// What the settings say.
    Trust,
}

/// For which addresses of the cluster's DNS the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Those of `--serve`.
    Given,
    /// The Service's ClusterIPs.
    Service,
    /// The Service's ClusterIPs, and its endpoints.
    ServiceAndEndpoints,
}

impl Config {
    /// The configuration of a `run` command: its file, overlaid with its flags.
    ///
    /// # Errors
    /// When the file can't be read or parsed, a needed setting is missing, or
    /// two settings contradict each other.
    pub fn from_args(args: RunArgs) -> anyhow::Result<Config> {
        Config::new(args.settings()?)
    }

    /// Fills in the defaults and checks the settings against each other.
    ///
    /// # Errors
    /// When a needed setting is missing or two contradict each other.
    pub fn new(settings: Settings) -> anyhow::Result<Config> {
        let source = source(&settings)?;
        let interfaces = settings.interface.unwrap_or_default();
        let serve = each(settings.serve, |Server(address)| address);
        let finds_addresses = matches!(source, Source::Kubernetes(_));
        if !interfaces.is_empty() && serve.is_empty() && !finds_addresses {
            bail!(
                "--interface needs --serve: give the address pods send their queries to, for instance the ClusterIP of kube-dns, as --serve IP"
            );
        }
        if let Some(twice) = first_repeated(&interfaces) {
            bail!("--interface {twice} is given twice: give each interface once, with one hook");
        }
        let upstreams = servers(settings.upstream);
        // With --kubernetes CoreDNS is behind these addresses, and the agent's own queries don't come
        // by the kernel program.
        if !finds_addresses
            && let Some(own) = upstreams.iter().find(|upstream| serve.contains(upstream))
        {
            bail!(
                "--upstream {own} is one of the --serve addresses, which this agent answers for: give the address of a server that answers other names"
            );
        }
        let selectors = Selectors {
            namespaces: settings.namespace_labels.unwrap_or_default(),
            objects: settings.labels.unwrap_or_default(),
        };
        let namespaces = each(settings.namespace, |NamespaceName(name)| name);
        if !namespaces.is_empty() && selectors.namespaces != Selector::default() {
            bail!(
                "--namespace and --namespace-labels contradict each other: name the namespaces, or select them by labels"
            );
        }
        let cluster_domains = match settings.cluster_domain {
            None => ZoneSettings::default().cluster_domains,
            domains => each(domains, |Domain(name)| name),
        };
        let passed = each(settings.pass, |Passed(name)| name);
        // Of CoreDNS's zones nothing is known yet.
        if !finds_addresses {
            for name in &passed {
                check_passed(name, &cluster_domains)?;
            }
        }
        let empty_services = match settings.ignore_empty_service {
            true => EmptyServices::Ignored,
            false => EmptyServices::Answered,
        };
        let pods: PodMode = settings.pods.unwrap_or_default().into();
        let (name_servers, odd_endpoints, endpoints) = match &source {
            Source::Manifests(_) => (NameServers::Ours, OddEndpoints::Read, Endpoints::All),
            Source::Kubernetes(_) => {
                let endpoints = settings.endpoints.unwrap_or(Endpoints::Headless);
                (NameServers::Passed, OddEndpoints::Passed, endpoints)
            }
        };

        Ok(Config {
            source,
            selectors,
            zone: ZoneSettings {
                cluster_domains,
                reverse: networks(settings.reverse),
                ttl: settings.ttl.unwrap_or_default().0,
                pods,
                namespaces,
                passed,
                empty_services,
                endpoint_names: match settings.endpoint_pod_names {
                    true => EndpointNames::Pod,
                    false => EndpointNames::Address,
                },
                served: addresses_of(&serve).collect(),
                name_server_addresses: each(settings.node_ip, |NodeIp(address)| address),
                name_servers,
                odd_endpoints,
                endpoints,
                departures: match settings.pass_departures {
                    true => Departures::Passed,
                    false => Departures::Answered,
                },
                ..ZoneSettings::default()
            },
            interfaces,
            allow: networks(settings.allow),
            rate_limit: settings.rate_limit.unwrap_or(DEFAULT_RATE_LIMIT),
            network_policy: settings.network_policy.unwrap_or_default(),
            serve,
            listen: each(settings.listen, |Socket(address)| address),
            upstreams,
            admin: settings
                .admin
                .map_or(DEFAULT_ADMIN, |Socket(address)| address),
            stale_after: settings.stale_after.unwrap_or_default().0,
            bpffs: settings.bpffs.unwrap_or(BPFFS.into()),
            persistence: match settings.persist {
                true => Persistence::Pinned,
                false => Persistence::None,
            },
            capacity: settings.capacity.map(|Capacity(names)| names),
        })
    }
}

/// Where the objects come from.
fn source(settings: &Settings) -> anyhow::Result<Source> {
    let is_kubernetes = settings.kubernetes || settings.kubeconfig.is_some();
    match (&settings.manifests, is_kubernetes) {
        (Some(_), true) => {
            bail!("--manifests and --kubernetes are two sources of objects: give one of them")
        }
        (Some(path), false) => {
            if let Some(flag) = settings.kubernetes_only() {
                bail!("{flag} is about the Kubernetes API: give it together with --kubernetes");
            }
            Ok(Source::Manifests(path.clone()))
        }
        (None, false) => bail!(
            "no source of Kubernetes objects: give --kubernetes for the cluster's API, or --manifests PATH, a file or directory of objects in YAML or JSON"
        ),
        (None, true) => kubernetes(settings).map(Source::Kubernetes),
    }
}

fn kubernetes(settings: &Settings) -> anyhow::Result<Kubernetes> {
    let without_corefile = match settings.trust_zone {
        true => WithoutCorefile::Trust,
        false => WithoutCorefile::Pass,
    };
    if without_corefile == WithoutCorefile::Pass
        && let Some(flag) = settings.corefile_says()
    {
        bail!(
            "{flag} is taken from CoreDNS's Corefile: leave it out, or give --trust-zone to answer as the flags say where no Corefile is found"
        );
    }
    let key = |given: &Option<ObjectName>, name: &str| match given {
        Some(ObjectName(key)) => key.clone(),
        None => Key::new("kube-system", name),
    };
    let serves = match (&settings.serve, settings.serve_dns_endpoints) {
        (Some(_), true) => bail!(
            "--serve and --serve-dns-endpoints contradict each other: the one names the addresses, the other finds them"
        ),
        (Some(_), false) => Serves::Given,
        (None, true) => Serves::ServiceAndEndpoints,
        (None, false) => Serves::Service,
    };
    if settings.daemon_set.is_some() && !settings.persist {
        bail!(
            "--daemon-set says when hooks don't stay over a stop: give --persist too, or leave it out"
        );
    }
    if settings.ignore_empty_service && settings.endpoints == Some(Endpoints::Headless) {
        bail!(
            "--ignore-empty-service needs to know all endpoints: give --endpoints all, or leave it out"
        );
    }
    Ok(Kubernetes {
        kubeconfig: settings.kubeconfig.clone(),
        node_name: settings.node_name.clone(),
        corefile: key(&settings.corefile, "coredns"),
        without_corefile,
        dns_service: key(&settings.dns_service, "kube-dns"),
        serves,
        cluster_dns: servers(settings.cluster_dns.clone()),
        max_age: settings.max_age.unwrap_or_default().0,
        daemon_set: settings
            .daemon_set
            .as_ref()
            .map(|ObjectName(key)| key.clone()),
    })
}

/// A whole cluster domain can't be passed, and what is outside all of them is
/// passed anyway, but for reverse names: known addresses have one in any network.
fn check_passed(name: &Name, cluster_domains: &[Name]) -> anyhow::Result<()> {
    if let Some(domain) = cluster_domains
        .iter()
        .find(|domain| domain.is_at_or_below(name))
    {
        bail!(
            "--pass {name} would pass all of --cluster-domain {domain}: give a name below it, or leave the domain out"
        );
    }
    let is_reverse = ["in-addr.arpa", "ip6.arpa"]
        .into_iter()
        .filter_map(|suffix| Name::parse(suffix).ok())
        .any(|suffix| name.is_at_or_below(&suffix));
    let is_inside = cluster_domains
        .iter()
        .any(|domain| name.is_at_or_below(domain));
    if !is_inside && !is_reverse {
        bail!(
            "--pass {name} is below no --cluster-domain: such names are passed on anyway, leave it out"
        );
    }
    Ok(())
}

fn networks(given: Option<Vec<Network>>) -> Vec<IpNet> {
    each(given, |Network(network)| network)
}

fn servers(given: Option<Vec<Upstream>>) -> Vec<SocketAddr> {
    each(given, |Upstream(address)| address)
}

/// What is inside each value of a repeatable setting.
fn each<T, U>(given: Option<Vec<T>>, inside: impl FnMut(T) -> U) -> Vec<U> {
    given.unwrap_or_default().into_iter().map(inside).collect()
}

fn addresses_of(sockets: &[SocketAddr]) -> impl Iterator<Item = IpAddr> {
    sockets.iter().map(|socket| socket.ip().to_canonical())
}

fn first_repeated(interfaces: &[Interface]) -> Option<&str> {
    interfaces
        .iter()
        .enumerate()
        .find(|(index, interface)| {
            interfaces[..*index]
                .iter()
                .any(|other| other.name == interface.name)
        })
        .map(|(_, interface)| interface.name.as_str())
}

#[cfg(test)]
mod tests;
