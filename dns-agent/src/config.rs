//! The command line and the configuration file.
//!
//! `settings` declares each setting once. Each setting is a flag and a key of the file, with the
//! same name. `given` combines the flags with the file; flags take precedence. [`Config`] checks
//! the settings against each other.

mod cli;
mod declaration;
mod file;
mod given;
mod settings;
mod values;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::bail;
use ipnet::IpNet;

pub use self::cli::{
    AgentAddress, AgentCommand, CheckArgs, Cli, DetachArgs, DumpArgs, LookupArgs, RunArgs,
    StatusArgs,
};
pub use self::given::GivenSettings;
pub use self::settings::RunSettings;
pub use self::values::{
    Capacity, Cidr, DelegatedName, DnstapSocket, Domain, HookChoice, Interface, ListenAddress,
    MaxAge, NamespaceName, NetworkPolicy, NodeIp, ObjectName, OutsideNames, OutsideUpstream,
    PodsSetting, ProbeSetting, QueryClasses, QueryName, QuerySample, QueryType, ServedAddress,
    StaleAfter, Steer, StubDomain, Ttl, Upstream,
};
use zerohop_datapath::Persistence;
use zerohop_kubernetes::{
    Deviations, EmptyServices, EndpointNames, EndpointScope, NameServers, NonstandardEndpoints,
    ObjectKey, PodMode, Selector, Selectors, ZoneSettings,
};
use zerohop_resolver::{CacheSettings, NameCase, QueryLogSettings};
use zerohop_routes::UpstreamPolicy;
use zerohop_zone::Name;

/// The most hosts files. Each is read by a thread of its own.
const MAX_HOSTS_FILES: usize = 16;

/// The most probes. Each has a path and metrics of its own.
const MAX_PROBES: usize = 16;

/// See [`KubernetesConfig::dns_settle_time`]. A rollout or a restart of an API server usually takes
/// less time.
const DNS_SETTLE_TIME: Duration = Duration::from_mins(1);

/// The complete and consistent configuration of `dns-agent run`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source of objects.
    pub source: SourceConfig,
    /// Selectors of the objects that make records. With `--kubernetes`, those of CoreDNS's
    /// Corefile, if there is one, replace them.
    pub selectors: Selectors,
    /// How objects become records. With `--kubernetes`, CoreDNS's Corefile replaces some of these
    /// settings.
    pub zone: ZoneSettings,
    /// The hosts files.
    pub hosts: Vec<PathBuf>,
    /// Whether names of the hosts files replace names of the cluster.
    pub hosts_precedence: HostsPrecedence,
    /// The TTL of the records of hosts files, in seconds.
    pub hosts_ttl: u32,
    /// The interfaces on which the kernel answers. If empty, there is no kernel plane.
    pub interfaces: Vec<Interface>,
    /// Networks whose clients the kernel answers on interfaces that are not veths. If empty, the
    /// agent does not start if such an interface matches `interfaces`.
    pub allow: Vec<IpNet>,
    /// The number of queries per second that the kernel answers for each client on interfaces that
    /// are not veths. All IPv6 addresses of a /64 count as one client. 0 means no limit.
    pub rate_limit: u32,
    /// Whether NetworkPolicies restrict which pods the kernel answers.
    pub network_policy: NetworkPolicy,
    /// Server addresses (IP and port) at which the kernel answers queries, from `--serve`. If
    /// empty, [`KubernetesConfig::dns_addresses`] says which.
    pub served_addresses: Vec<SocketAddr>,
    /// Addresses and ports on which the resolver answers, over UDP and TCP. If empty, it answers no
    /// client.
    pub listen: Vec<SocketAddr>,
    /// Whether queries that the kernel passes go to this agent's resolver.
    pub steer: Steer,
    /// The upstream servers for names outside the agent's zones, in the given order. If empty, the
    /// resolver queries the cluster's DNS with `--kubernetes`, and otherwise answers REFUSED.
    pub upstreams: Vec<OutsideUpstream>,
    /// The order in which several upstream servers are queried.
    pub upstream_policy: UpstreamPolicy,
    /// The servers for the names in a zone.
    pub stub_domains: Vec<StubDomain>,
    /// How names outside the cluster are answered.
    pub outside_names: OutsideNames,
    /// The node's `resolv.conf`. `None`: the agent looks for it.
    pub resolv_conf: Option<PathBuf>,
    /// Limits of the cache of upstreams' replies.
    pub cache: CacheSettings,
    /// The case of names in queries to upstreams.
    pub upstream_case: NameCase,
    /// The address of the admin endpoints.
    pub admin: SocketAddr,
    /// The probes. Their labels differ.
    pub probes: Vec<ProbeSetting>,
    /// Which queries are logged. `None`: none.
    pub query_log: Option<QueryLogSettings>,
    /// The Unix socket of the dnstap collector. `None`: there is no collector.
    pub dnstap: Option<PathBuf>,
    /// The duration of the kernel plane's lease: how long the kernel answers after the agent has
    /// stopped working.
    pub stale_after: Duration,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// Whether hooks outlive the agent.
    pub persistence: Persistence,
    /// The number of names that the kernel's tables have room for. `None`: the tables grow.
    pub capacity: Option<u32>,
}

/// Which names count if a hosts file and the cluster decide about the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostsPrecedence {
    /// Those of the cluster.
    Below,
    /// Those of the hosts file.
    Above,
}

/// The source of objects.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A file or directory.
    Manifests(PathBuf),
    /// The Kubernetes API.
    Kubernetes(KubernetesConfig),
}

/// How the Kubernetes API is used.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// The kubeconfig file, if configured.
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node, whose pods are watched; `None` without `--node-name`.
    pub node_name: Option<String>,
    /// The ConfigMap with CoreDNS's Corefile. `None`: CoreDNS's pods show it.
    pub corefile: Option<ObjectKey>,
    /// What the agent answers when there is no Corefile.
    pub without_corefile: WithoutCorefile,
    /// The Service of the cluster's DNS. `None`: the agent finds it.
    pub dns_service: Option<ObjectKey>,
    /// How long CoreDNS must not be proven behind a Service before another one is tried, and proven
    /// behind a preferred one before that one is taken.
    pub dns_settle_time: Duration,
    /// The addresses of the cluster's DNS at which the kernel answers queries.
    pub dns_addresses: DnsAddresses,
    /// The servers of the cluster's DNS that the resolver queries for names delegated to CoreDNS
    /// and, without upstreams, for names outside the zones. If empty, the ClusterIPs of
    /// the Service of the cluster's DNS.
    pub cluster_dns: Vec<SocketAddr>,
    /// How long the kernel answers after the API server last sent something, such as a bookmark,
    /// for the feed that has been silent longest. `None`: without limit.
    pub max_age: Option<Duration>,
    /// The DaemonSet of this agent. If it is gone at a shutdown, is being deleted or can't be read
    /// any more, hooks are removed in spite of `--persist`.
    pub daemon_set: Option<ObjectKey>,
}

/// What the agent answers when there is no Corefile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutCorefile {
    /// Nothing: all queries pass.
    Pass,
    /// The zones that the settings name.
    Trust,
}

/// The addresses of the cluster's DNS at which the kernel answers queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsAddresses {
    /// The addresses of `--serve`.
    Given,
    /// The Service's ClusterIPs.
    Service,
    /// The Service's ClusterIPs and the addresses of its endpoints.
    ServiceAndEndpoints,
}

impl Config {
    /// The configuration for these arguments. Flags override the settings of the file.
    ///
    /// # Errors
    /// When the file can't be read or parsed, a value is invalid, a required setting is missing, or
    /// two settings contradict each other.
    pub fn from_args(args: RunArgs) -> anyhow::Result<Config> {
        Config::new(args.settings()?)
    }

    /// Fills in the defaults that depend on other settings, and checks the settings against each
    /// other.
    ///
    /// # Errors
    /// When a required setting is missing, or two settings contradict each other.
    pub fn new(settings: RunSettings) -> anyhow::Result<Config> {
        let source = object_source(&settings)?;
        let cache = cache_settings(&settings)?;
        let interfaces = settings.interface;
        let served_addresses = unwrap_each(settings.serve, |ServedAddress(address)| address);
        let is_kubernetes = matches!(source, SourceConfig::Kubernetes(_));
        if !interfaces.is_empty() && served_addresses.is_empty() && !is_kubernetes {
            bail!(
                "--interface needs --serve: give the address that pods send their queries to, such \
                 as the ClusterIP of kube-dns, as --serve IP"
            );
        }
        if let Some(twice) = first_repeated(interfaces.iter().map(|it| &it.name)) {
            bail!("--interface {twice} is given twice: give each interface once, with one hook");
        }
        let upstreams = settings.upstream;
        // With --kubernetes, CoreDNS answers at these addresses, and the agent's own queries bypass
        // the kernel program.
        if !is_kubernetes
            && let Some(served) = (upstreams.iter().map(|upstream| upstream.address))
                .find(|upstream| served_addresses.contains(upstream))
        {
            bail!(
                "--upstream {served} is one of the --serve addresses, at which this agent answers: \
                 give the address of a server that answers other names"
            );
        }
        let selectors = Selectors {
            namespaces: settings.namespace_labels.unwrap_or_default(),
            objects: settings.labels.unwrap_or_default(),
        };
        let namespaces = unwrap_each(settings.namespace, |NamespaceName(name)| name);
        if !namespaces.is_empty() && selectors.namespaces != Selector::default() {
            bail!(
                "--namespace and --namespace-labels contradict each other: name the namespaces, or \
                 select them by labels"
            );
        }
        let cluster_domains = unwrap_each(settings.cluster_domain, |Domain(name)| name);
        let passed = unwrap_each(settings.pass, |DelegatedName(name)| name);
        // With --kubernetes, the Corefile names the zones, and it isn't known yet.
        if !is_kubernetes {
            for name in &passed {
                check_delegated_name(name, &cluster_domains)?;
            }
        }
        let empty_services = if settings.ignore_empty_service {
            EmptyServices::Ignored
        } else {
            EmptyServices::Answered
        };
        let endpoint_names = if settings.endpoint_pod_names {
            EndpointNames::Pod
        } else {
            EndpointNames::Address
        };
        let deviations = if settings.pass_deviations {
            Deviations::Passed
        } else {
            Deviations::Answered
        };
        let upstream_case = if settings.upstream_random_case {
            NameCase::Random
        } else {
            NameCase::Unchanged
        };
        let hosts_precedence = if settings.hosts_override {
            HostsPrecedence::Above
        } else {
            HostsPrecedence::Below
        };
        if settings.hosts_override && settings.hosts.is_empty() {
            bail!(
                "--hosts-override has an effect only with --hosts: give --hosts FILE too, or leave \
                 --hosts-override out"
            );
        }
        if settings.hosts.len() > MAX_HOSTS_FILES {
            bail!(
                "--hosts is given {} times, and at most {MAX_HOSTS_FILES} files are read: put \
                 names of several files into one",
                settings.hosts.len()
            );
        }
        if let Some(twice) = first_repeated(&settings.hosts) {
            let twice = twice.display();
            bail!("--hosts {twice} is given twice: give each file once");
        }
        check_probes(&settings.probe)?;
        let persistence = if settings.persist {
            Persistence::Pinned
        } else {
            Persistence::UntilAgentStops
        };
        let pods: PodMode = settings.pods.into();
        let (name_servers, nonstandard_endpoints, endpoint_scope) = match &source {
            SourceConfig::Manifests(_) => (
                NameServers::Answered,
                NonstandardEndpoints::Read,
                EndpointScope::All,
            ),
            SourceConfig::Kubernetes(_) => {
                // The agent's `Plan` changes this to `All` if empty Services are ignored.
                let scope = settings.endpoints.unwrap_or(EndpointScope::Headless);
                (NameServers::Passed, NonstandardEndpoints::Passed, scope)
            }
        };

        Ok(Config {
            source,
            selectors,
            zone: ZoneSettings {
                cluster_domains,
                reverse: networks(settings.reverse),
                ttl: settings.ttl.0,
                pods,
                namespaces,
                passed,
                empty_services,
                endpoint_names,
                served_addresses: ip_addresses(&served_addresses).collect(),
                name_server_addresses: unwrap_each(settings.node_ip, |NodeIp(address)| address),
                name_servers,
                nonstandard_endpoints,
                endpoint_scope,
                deviations,
                ..ZoneSettings::default()
            },
            hosts: settings.hosts,
            hosts_precedence,
            hosts_ttl: settings.ttl.0,
            interfaces,
            allow: networks(settings.allow),
            rate_limit: settings.rate_limit,
            network_policy: settings.network_policy,
            served_addresses,
            listen: unwrap_each(settings.listen, |ListenAddress(address)| address),
            upstreams,
            upstream_policy: settings.upstream_policy,
            stub_domains: settings.stub_domain,
            steer: settings.steer,
            outside_names: settings.outside_names,
            resolv_conf: settings.resolv_conf,
            cache,
            upstream_case,
            admin: settings.admin.0,
            probes: settings.probe,
            query_log: settings
                .log_queries
                .map(|QueryClasses(classes)| QueryLogSettings {
                    classes,
                    sample: settings.log_queries_sample.0,
                }),
            dnstap: settings.dnstap.map(|DnstapSocket(path)| path),
            stale_after: settings.stale_after.0,
            bpffs: settings.bpffs,
            persistence,
            capacity: settings.capacity.map(|Capacity(names)| names),
        })
    }
}

/// Refuses too many probes, and labels that are given twice.
fn check_probes(probes: &[ProbeSetting]) -> anyhow::Result<()> {
    if probes.len() > MAX_PROBES {
        bail!(
            "--probe is given {} times: give at most {MAX_PROBES} probes",
            probes.len()
        );
    }
    if let Some(twice) = first_repeated(probes.iter().map(|it| &it.label)) {
        bail!("two --probe have the label {twice}: give each probe a label of its own");
    }
    Ok(())
}

fn cache_settings(settings: &RunSettings) -> anyhow::Result<CacheSettings> {
    let (min_ttl, max_ttl) = (settings.cache_min_ttl.0, settings.cache_max_ttl.0);
    if min_ttl > max_ttl {
        bail!("--cache-min-ttl {min_ttl} is more than --cache-max-ttl {max_ttl}: give a lower one");
    }
    Ok(CacheSettings {
        capacity: settings.cache_size.0,
        min_ttl,
        max_ttl,
        max_negative_ttl: settings.cache_max_negative_ttl.map(|ttl| ttl.0),
        stale: settings.serve_stale.0,
    })
}

/// The source of objects.
fn object_source(settings: &RunSettings) -> anyhow::Result<SourceConfig> {
    let is_kubernetes = settings.kubernetes || settings.kubeconfig.is_some();
    match (&settings.manifests, is_kubernetes) {
        (Some(_), true) => {
            bail!("--manifests and --kubernetes are two sources of objects: give only one of them")
        }
        (Some(path), false) => {
            if let Some(flag) = settings.first_with_kubernetes {
                bail!("--{flag} is about the Kubernetes API: give it together with --kubernetes");
            }
            Ok(SourceConfig::Manifests(path.clone()))
        }
        (None, false) => bail!(
            "no source of Kubernetes objects: give --kubernetes for the cluster's API, or \
             --manifests PATH, a file or directory of objects in YAML or JSON"
        ),
        (None, true) => kubernetes_config(settings).map(SourceConfig::Kubernetes),
    }
}

fn kubernetes_config(settings: &RunSettings) -> anyhow::Result<KubernetesConfig> {
    let without_corefile = if settings.trust_zone {
        WithoutCorefile::Trust
    } else {
        WithoutCorefile::Pass
    };
    if without_corefile == WithoutCorefile::Pass
        && let Some(flag) = settings.first_without_corefile
    {
        bail!(
            "--{flag} is taken from CoreDNS's Corefile: leave it out, or give --trust-zone to \
             answer by the flags when no Corefile is found"
        );
    }
    let dns_addresses = match (settings.serve.is_empty(), settings.serve_dns_endpoints) {
        (false, true) => {
            bail!("--serve and --serve-dns-endpoints contradict each other: give only one of them")
        }
        (false, false) => DnsAddresses::Given,
        (true, true) => DnsAddresses::ServiceAndEndpoints,
        (true, false) => DnsAddresses::Service,
    };
    if settings.daemon_set.is_some() && !settings.persist {
        bail!(
            "--daemon-set has an effect only with --persist: give --persist too, or leave \
             --daemon-set out"
        );
    }
    if settings.ignore_empty_service && settings.endpoints == Some(EndpointScope::Headless) {
        bail!(
            "--ignore-empty-service needs all endpoints: give --endpoints all, or leave \
             --ignore-empty-service out"
        );
    }
    Ok(KubernetesConfig {
        kubeconfig: settings.kubeconfig.clone(),
        node_name: settings.node_name.clone(),
        corefile: given_key(settings.corefile.as_ref()),
        without_corefile,
        dns_service: given_key(settings.dns_service.as_ref()),
        dns_settle_time: DNS_SETTLE_TIME,
        dns_addresses,
        cluster_dns: upstream_addresses(settings.cluster_dns.clone()),
        max_age: settings.max_age.0,
        daemon_set: given_key(settings.daemon_set.as_ref()),
    })
}

fn given_key(given: Option<&ObjectName>) -> Option<ObjectKey> {
    given.map(|ObjectName(key)| key.clone())
}

/// Refuses to delegate a whole cluster domain. Refuses names outside all cluster domains, because
/// they pass anyway. Reverse names are accepted, because the agent answers the reverse names of its
/// objects in any network.
fn check_delegated_name(name: &Name, cluster_domains: &[Name]) -> anyhow::Result<()> {
    if let Some(domain) = cluster_domains
        .iter()
        .find(|domain| domain.is_at_or_below(name))
    {
        bail!(
            "--pass {name} would pass all of --cluster-domain {domain}: give a name below it, or \
             leave the domain out"
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
            "--pass {name} is below no --cluster-domain: queries for such names pass anyway, so \
             leave it out"
        );
    }
    Ok(())
}

fn networks(given: Vec<Cidr>) -> Vec<IpNet> {
    unwrap_each(given, |Cidr(network)| network)
}

fn upstream_addresses(given: Vec<Upstream>) -> Vec<SocketAddr> {
    unwrap_each(given, |Upstream(address)| address)
}

/// Unwraps each value of a repeatable setting.
fn unwrap_each<T, U>(given: Vec<T>, unwrap: impl FnMut(T) -> U) -> Vec<U> {
    given.into_iter().map(unwrap).collect()
}

fn ip_addresses(sockets: &[SocketAddr]) -> impl Iterator<Item = IpAddr> {
    sockets.iter().map(|socket| socket.ip().to_canonical())
}

fn first_repeated<T: Ord>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    values.into_iter().find_map(|value| seen.replace(value))
}

#[cfg(test)]
mod tests;
