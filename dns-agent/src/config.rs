//! The command line and the configuration file.
//!
//! Both are read into the same [`Settings`], so every flag is also a key of the
//! file, under the same name. [`Config`] is what comes out of the two together,
//! with the defaults filled in and the combinations checked.

mod cli;
mod values;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;

pub use self::cli::{
    CheckArgs, Cli, Command, DetachArgs, DumpArgs, LookupArgs, RunArgs, StatusArgs,
};
pub use self::values::{
    Capacity, Domain, Hook, Interface, MaxAge, NamespaceName, Network, NetworkPolicy, NodeIp,
    ObjectName, Passed, Pods, QueryName, QueryType, Server, Socket, StaleAfter, Ttl,
};
use self::values::{list, single};
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

/// Every setting, as given on the command line or in the file: absent means
/// "not said here".
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// A file or directory of Kubernetes objects (Namespace, Service,
    /// EndpointSlice, Pod, List; YAML or JSON), reloaded when it changes.
    /// Without any Namespace object in it, all namespaces exist.
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,

    /// Read the objects from the Kubernetes API: the cluster's that this runs
    /// in, else the kubeconfig's. What CoreDNS's Corefile says is adopted; where
    /// that isn't clear, everything passes.
    #[arg(long)]
    pub kubernetes: bool,

    /// A kubeconfig file for the Kubernetes API; implies --kubernetes.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// With --kubernetes: the EndpointSlices that are watched. With headless,
    /// names of endpoints of other services, and PTR records of endpoints, pass
    /// to the cluster's DNS [default: headless].
    #[arg(long, value_name = "WHICH")]
    pub endpoints: Option<Endpoints>,

    /// With --kubernetes: the name of this node. Its pods are watched for
    /// --network-policy: without it, no pod is answered by the kernel while any
    /// policy is about egress. For --pods verified its pods alone are watched
    /// too, and others' pass; without it all pods are. In a DaemonSet:
    /// spec.nodeName.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// With --kubernetes: the ConfigMap with CoreDNS's Corefile [default:
    /// kube-system/coredns].
    #[arg(long, value_name = "NS/NAME")]
    #[serde(deserialize_with = "single")]
    pub corefile: Option<ObjectName>,

    /// With --kubernetes: answer as these settings say where no Corefile is
    /// found. Without it everything passes then.
    #[arg(long)]
    pub trust_zone: bool,

    /// With --kubernetes: the Service of the cluster's DNS, whose ClusterIPs the
    /// kernel answers for, unless --serve is given [default:
    /// kube-system/kube-dns].
    #[arg(long, value_name = "NS/NAME")]
    #[serde(deserialize_with = "single")]
    pub dns_service: Option<ObjectName>,

    /// With --kubernetes: the kernel answers for the addresses of that Service's
    /// endpoints too. Needed where pods' queries carry them, as with Cilium's
    /// socket load balancing; elsewhere it would hide a broken CoreDNS.
    #[arg(long)]
    pub serve_dns_endpoints: bool,

    /// With --kubernetes: where the agent itself asks for names inside its zones
    /// that others know; repeatable; port 53 unless given [default: the
    /// ClusterIPs of --dns-service].
    #[arg(long, value_name = "IP[:PORT]")]
    #[serde(deserialize_with = "list")]
    pub cluster_dns: Option<Vec<Server>>,

    /// With --kubernetes: how long the kernel answers when nothing was heard
    /// from the API, 2m or more; 0: for ever [default: 15m].
    #[arg(long, value_name = "DURATION")]
    #[serde(deserialize_with = "single")]
    pub max_age: Option<MaxAge>,

    /// Leave to CoreDNS what it answers against the standards: NXDOMAIN for
    /// names without addresses that exist, and for other types at them. Needs
    /// --kubernetes.
    #[arg(long)]
    pub pass_departures: bool,

    /// A zone of cluster names; repeatable [default: cluster.local].
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "list")]
    pub cluster_domain: Option<Vec<Domain>>,

    /// A network whose reverse zone is answered with authority; repeatable.
    /// Addresses of no known object get NXDOMAIN there; elsewhere they are
    /// somebody else's to answer.
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "list")]
    pub reverse: Option<Vec<Network>>,

    /// The records' time to live in seconds, 0 to 3600 [default: 5].
    #[arg(long, value_name = "SECONDS")]
    #[serde(deserialize_with = "single")]
    pub ttl: Option<Ttl>,

    /// How names of pods (10-244-0-7.default.pod.cluster.local) are answered:
    /// never; from the name alone; or for addresses of existing pods only
    /// [default: insecure].
    #[arg(long, value_name = "MODE")]
    pub pods: Option<Pods>,

    /// A namespace to expose; repeatable [default: all].
    #[arg(long, value_name = "NS")]
    #[serde(deserialize_with = "list")]
    pub namespace: Option<Vec<NamespaceName>>,

    /// Only the namespaces whose labels match are exposed; not together with
    /// --namespace. SELECTOR is as in `kubectl get --selector`.
    #[arg(long, value_name = "SELECTOR")]
    #[serde(deserialize_with = "single")]
    pub namespace_labels: Option<Selector>,

    /// Only the Services, EndpointSlices and Pods whose own labels match make
    /// records [default: all].
    #[arg(long, value_name = "SELECTOR")]
    #[serde(deserialize_with = "single")]
    pub labels: Option<Selector>,

    /// Services with a ClusterIP, but without any ready endpoint, do not exist.
    #[arg(long)]
    pub ignore_empty_service: bool,

    /// Endpoints without a host name are called by their pod, not by their
    /// address.
    #[arg(long)]
    pub endpoint_pod_names: bool,

    /// A name inside a zone of ours that belongs to other software, with
    /// everything below it; repeatable. Such names are passed on like those
    /// outside our zones.
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "list")]
    pub pass: Option<Vec<Passed>>,

    /// An interface on which the kernel answers, and by which hook: auto, xdp,
    /// xdp-generic or tc; repeatable. NAME is a name, a shell pattern, or
    /// `pods` for every veth whose peer is in another network namespace. auto
    /// means tc on a veth and XDP elsewhere.
    #[arg(long, value_name = "NAME[=HOOK]")]
    #[serde(deserialize_with = "list")]
    pub interface: Option<Vec<Interface>>,

    /// A network of clients the kernel answers on an interface that is not a
    /// veth; repeatable.
    #[arg(long, value_name = "CIDR")]
    #[serde(deserialize_with = "list")]
    pub allow: Option<Vec<Network>>,

    /// How many queries a second of one client, an IPv4 address or an IPv6 /64,
    /// the kernel answers on an interface that is not a veth; more pass. 0: no
    /// limit [default: 1000].
    #[arg(long, value_name = "NUMBER")]
    pub rate_limit: Option<u32>,

    /// Whether the kernel answers a pod that a NetworkPolicy about egress
    /// selects only where policies provably let it ask the cluster's DNS; ignore
    /// answers every pod [default: respect].
    #[arg(long, value_name = "MODE")]
    pub network_policy: Option<NetworkPolicy>,

    /// An address whose queries the kernel answers, such as the ClusterIP of
    /// kube-dns; repeatable; port 53 unless given, IPv6 with a port in
    /// brackets.
    #[arg(long, value_name = "IP[:PORT]")]
    #[serde(deserialize_with = "list")]
    pub serve: Option<Vec<Server>>,

    /// An address the agent itself answers on, over UDP and TCP; repeatable.
    #[arg(long, value_name = "IP:PORT")]
    #[serde(deserialize_with = "list")]
    pub listen: Option<Vec<Socket>>,

    /// An address of this node, for `ns.dns.<zone>`, which is the zone's name
    /// server when no Service has one of the --serve addresses; repeatable. In
    /// a DaemonSet: status.hostIPs.
    #[arg(long, value_name = "IP")]
    #[serde(deserialize_with = "list")]
    pub node_ip: Option<Vec<NodeIp>>,

    /// A DNS server for all other names, tried in the order given; repeatable;
    /// port 53 unless given. Without one such names are refused.
    #[arg(long, value_name = "IP[:PORT]")]
    #[serde(deserialize_with = "list")]
    pub upstream: Option<Vec<Server>>,

    /// Where /readyz, /healthz and, for this machine itself, /status, /lookup
    /// and /dump are served [default: 127.0.0.1:9153].
    #[arg(long, value_name = "IP:PORT")]
    #[serde(deserialize_with = "single")]
    pub admin: Option<Socket>,

    /// How long the kernel goes on answering when the agent no longer does its
    /// work, 100ms to 1h [default: 10s].
    #[arg(long, value_name = "DURATION")]
    #[serde(deserialize_with = "single")]
    pub stale_after: Option<StaleAfter>,

    /// Leave the hooks in place when the agent ends, so that the next one takes
    /// over without a gap; they answer for 30 s more. `dns-agent detach` takes
    /// them off. Without it a stop takes everything off.
    #[arg(long)]
    pub persist: bool,

    /// Where the BPF file system is mounted, in which hooks are pinned [default:
    /// /sys/fs/bpf].
    #[arg(long, value_name = "PATH")]
    pub bpffs: Option<PathBuf>,

    /// With --persist and --kubernetes: the DaemonSet that this agent is of. A
    /// stop takes the hooks off all the same when it is gone, is being deleted,
    /// or may not be read any more: then nobody comes after.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    #[serde(deserialize_with = "single")]
    pub daemon_set: Option<ObjectName>,

    /// How many names the kernel's tables have room for [default: an eighth more
    /// than there are; the tables grow].
    #[arg(long, value_name = "NAMES")]
    #[serde(deserialize_with = "single")]
    pub capacity: Option<Capacity>,
}

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
        let serve = addresses(settings.serve);
        let finds_addresses = matches!(source, Source::Kubernetes(_));
        if !interfaces.is_empty() && serve.is_empty() && !finds_addresses {
            bail!(
                "--interface needs --serve: give the address pods send their queries to, for instance the ClusterIP of kube-dns, as --serve IP"
            );
        }
        if let Some(twice) = first_repeated(&interfaces) {
            bail!("--interface {twice} is given twice: give each interface once, with one hook");
        }
        let selectors = Selectors {
            namespaces: settings.namespace_labels.unwrap_or_default(),
            objects: settings.labels.unwrap_or_default(),
        };
        let namespaces: Vec<String> = settings
            .namespace
            .unwrap_or_default()
            .into_iter()
            .map(|NamespaceName(name)| name)
            .collect();
        if !namespaces.is_empty() && selectors.namespaces != Selector::default() {
            bail!(
                "--namespace and --namespace-labels contradict each other: name the namespaces, or select them by labels"
            );
        }
        let listen: Vec<SocketAddr> = settings
            .listen
            .unwrap_or_default()
            .into_iter()
            .map(|Socket(address)| address)
            .collect();
        let cluster_domains = match settings.cluster_domain {
            None => ZoneSettings::default().cluster_domains,
            Some(domains) => domains.into_iter().map(|Domain(name)| name).collect(),
        };
        let passed: Vec<Name> = settings
            .pass
            .unwrap_or_default()
            .into_iter()
            .map(|Passed(name)| name)
            .collect();
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
                name_server_addresses: settings
                    .node_ip
                    .unwrap_or_default()
                    .into_iter()
                    .map(|NodeIp(address)| address)
                    .collect(),
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
            listen,
            upstreams: addresses(settings.upstream),
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

impl Settings {
    /// The settings of a configuration file.
    ///
    /// # Errors
    /// When the file can't be read, isn't YAML, or has a key or value that is
    /// not a setting; the error names the line.
    pub fn read(path: &Path) -> anyhow::Result<Settings> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read the configuration file {}", path.display()))?;
        Settings::parse(&text)
            .with_context(|| format!("in the configuration file {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Settings> {
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.without_snippet()))
    }

    /// The first setting given that means nothing without the API.
    fn kubernetes_only(&self) -> Option<&'static str> {
        first_given([
            ("--endpoints", self.endpoints.is_some()),
            ("--node-name", self.node_name.is_some()),
            ("--corefile", self.corefile.is_some()),
            ("--trust-zone", self.trust_zone),
            ("--dns-service", self.dns_service.is_some()),
            ("--serve-dns-endpoints", self.serve_dns_endpoints),
            ("--cluster-dns", self.cluster_dns.is_some()),
            ("--max-age", self.max_age.is_some()),
            ("--pass-departures", self.pass_departures),
            ("--daemon-set", self.daemon_set.is_some()),
        ])
    }

    /// The first setting given that a Corefile says.
    fn corefile_says(&self) -> Option<&'static str> {
        first_given([
            ("--cluster-domain", self.cluster_domain.is_some()),
            ("--reverse", self.reverse.is_some()),
            ("--ttl", self.ttl.is_some()),
            ("--pods", self.pods.is_some()),
            ("--namespace", self.namespace.is_some()),
            ("--namespace-labels", self.namespace_labels.is_some()),
            ("--labels", self.labels.is_some()),
            ("--ignore-empty-service", self.ignore_empty_service),
            ("--endpoint-pod-names", self.endpoint_pod_names),
        ])
    }

    /// These settings, and those of `file` where these say nothing.
    fn or(self, file: Settings) -> Settings {
        Settings {
            manifests: self.manifests.or(file.manifests),
            kubernetes: self.kubernetes || file.kubernetes,
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            endpoints: self.endpoints.or(file.endpoints),
            node_name: self.node_name.or(file.node_name),
            corefile: self.corefile.or(file.corefile),
            trust_zone: self.trust_zone || file.trust_zone,
            dns_service: self.dns_service.or(file.dns_service),
            serve_dns_endpoints: self.serve_dns_endpoints || file.serve_dns_endpoints,
            cluster_dns: self.cluster_dns.or(file.cluster_dns),
            max_age: self.max_age.or(file.max_age),
            pass_departures: self.pass_departures || file.pass_departures,
            cluster_domain: self.cluster_domain.or(file.cluster_domain),
            reverse: self.reverse.or(file.reverse),
            ttl: self.ttl.or(file.ttl),
            pods: self.pods.or(file.pods),
            namespace: self.namespace.or(file.namespace),
            namespace_labels: self.namespace_labels.or(file.namespace_labels),
            labels: self.labels.or(file.labels),
            ignore_empty_service: self.ignore_empty_service || file.ignore_empty_service,
            endpoint_pod_names: self.endpoint_pod_names || file.endpoint_pod_names,
            pass: self.pass.or(file.pass),
            interface: self.interface.or(file.interface),
            allow: self.allow.or(file.allow),
            rate_limit: self.rate_limit.or(file.rate_limit),
            network_policy: self.network_policy.or(file.network_policy),
            serve: self.serve.or(file.serve),
            listen: self.listen.or(file.listen),
            node_ip: self.node_ip.or(file.node_ip),
            upstream: self.upstream.or(file.upstream),
            admin: self.admin.or(file.admin),
            stale_after: self.stale_after.or(file.stale_after),
            persist: self.persist || file.persist,
            bpffs: self.bpffs.or(file.bpffs),
            daemon_set: self.daemon_set.or(file.daemon_set),
            capacity: self.capacity.or(file.capacity),
        }
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
        cluster_dns: addresses(settings.cluster_dns.clone()),
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
    given
        .unwrap_or_default()
        .into_iter()
        .map(|Network(network)| network)
        .collect()
}

fn addresses(given: Option<Vec<Server>>) -> Vec<SocketAddr> {
    given
        .unwrap_or_default()
        .into_iter()
        .map(|Server(address)| address)
        .collect()
}

fn addresses_of(sockets: &[SocketAddr]) -> impl Iterator<Item = IpAddr> {
    sockets.iter().map(|socket| socket.ip().to_canonical())
}

fn first_given<const N: usize>(flags: [(&'static str, bool); N]) -> Option<&'static str> {
    let given = flags.into_iter().find(|(_, is_given)| *is_given);
    given.map(|(flag, _)| flag)
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
