//! The declaration of all settings of `dns-agent run`.
//!
//! A setting is declared once, as a field of [`RunSettings`]: its name, type and unit, default,
//! documentation, and where it has an effect. The flags, the keys of the configuration file, the
//! texts of `--help` and `docs/configuration.md` are all read from these fields by `declaration`.

use std::path::PathBuf;

use clap::Args;
use zerohop_datapath::pins::BPFFS;
use zerohop_kubernetes::{EndpointScope, Selector};
use zerohop_routes::UpstreamPolicy;

use super::values::{
    CacheSize, CacheTtl, Capacity, Cidr, DelegatedName, DnstapSocket, Domain, Interface,
    ListenAddress, MaxAge, NamespaceName, NetworkPolicy, NodeIp, ObjectName, OutsideNames,
    OutsideUpstream, PodsSetting, ProbeSetting, QueryClasses, QuerySample, ServeStale,
    ServedAddress, StaleAfter, Steer, StubDomain, Ttl, Upstream,
};

/// The default of `--admin`: where the admin endpoints of an agent listen, and where the other
/// commands look for them.
pub(super) const DEFAULT_ADMIN: &str = "127.0.0.1:9153";

/// Group of the settings that need the Kubernetes API.
pub(super) const WITH_KUBERNETES: &str = "with-kubernetes";

/// Group of the settings that a Corefile replaces.
pub(super) const WITHOUT_COREFILE: &str = "without-corefile";

/// Group of the settings that have an effect in `dns-agent check` too.
pub(super) const CHECKED: &str = "checked";

/// The values of all settings, with defaults filled in. An empty list or `None` means that a
/// setting without a fixed default is not given.
///
/// The fields are in the order of `--help`, and their comments are its texts. `declaration` adds to
/// a text whether the setting is repeatable and which flags it needs. clap adds a fixed default;
/// any other default is described at the end of the comment, as `[default: …]`.
#[derive(Args, Clone, Debug)]
pub struct RunSettings {
    /// A file or directory of Kubernetes objects (Namespace, Service,
    /// EndpointSlice, Pod, NetworkPolicy, List; YAML or JSON), reloaded when it
    /// changes. Without any Namespace object in it, all namespaces exist.
    #[arg(long, help_heading = "Objects", value_name = "PATH")]
    pub manifests: Option<PathBuf>,

    /// Read the objects from the Kubernetes API of the cluster that the agent
    /// runs in, or else of the kubeconfig. The configuration of zones is taken
    /// from CoreDNS's Corefile. If that can't be read or understood, all queries
    /// pass to the cluster's DNS.
    #[arg(long, help_heading = "Objects", group = CHECKED)]
    pub kubernetes: bool,

    /// A kubeconfig file for the Kubernetes API; implies --kubernetes.
    #[arg(long, help_heading = "Objects", value_name = "FILE", group = CHECKED)]
    pub kubeconfig: Option<PathBuf>,

    /// The EndpointSlices to watch: all, or only those of headless Services. With
    /// headless, queries for the names of other Services' endpoints, and for PTR
    /// records of endpoints, pass to the cluster's DNS [default: headless, or all
    /// if empty Services are ignored].
    #[arg(long, help_heading = "Objects", value_name = "WHICH", group = WITH_KUBERNETES)]
    pub endpoints: Option<EndpointScope>,

    /// The name of this node; in a DaemonSet, spec.nodeName. The node's pods are
    /// watched for --network-policy and for a NodeLocal DNSCache. Without the
    /// name, the kernel answers no pod while any NetworkPolicy restricts egress or
    /// queries to the cluster's DNS, and a NodeLocal DNSCache is not noticed. With
    /// `pods verified`, only this node's pods are watched, and queries for the
    /// names of other pods pass; without the name, all pods are watched.
    #[arg(long, help_heading = "Objects", value_name = "NODE", group = WITH_KUBERNETES)]
    pub node_name: Option<String>,

    /// How long the kernel answers after the last message from the API server, 2m
    /// or more; 0 means without limit.
    #[arg(long, help_heading = "Objects", value_name = "DURATION", group = WITH_KUBERNETES)]
    #[arg(default_value = "15m")]
    pub max_age: MaxAge,

    /// A namespace whose objects make records [default: all].
    #[arg(long, help_heading = "Objects", value_name = "NAMESPACE", group = WITHOUT_COREFILE)]
    pub namespace: Vec<NamespaceName>,

    /// Only objects in namespaces whose labels match make records; not together
    /// with --namespace. SELECTOR is as in `kubectl get --selector` [default:
    /// all].
    #[arg(long, help_heading = "Objects", value_name = "SELECTOR", group = WITHOUT_COREFILE)]
    pub namespace_labels: Option<Selector>,

    /// Only the Services, EndpointSlices and Pods whose own labels match make
    /// records [default: all].
    #[arg(long, help_heading = "Objects", value_name = "SELECTOR", group = WITHOUT_COREFILE)]
    pub labels: Option<Selector>,

    /// The ConfigMap with CoreDNS's Corefile [default: the one that CoreDNS's pods
    /// mount].
    #[arg(
        long,
        help_heading = "The cluster's DNS",
        value_name = "NAMESPACE/NAME"
    )]
    #[arg(group = WITH_KUBERNETES)]
    pub corefile: Option<ObjectName>,

    /// If no Corefile is found, answer by the agent's own settings. Without this
    /// switch, all queries then pass to the cluster's DNS.
    #[arg(long, help_heading = "The cluster's DNS", group = WITH_KUBERNETES)]
    pub trust_zone: bool,

    /// The Service of the cluster's DNS. The kernel answers queries to its
    /// ClusterIPs, and to node caches (NodeLocal DNSCache), unless --serve is given
    /// [default: one with UDP port 53, which the agent finds].
    #[arg(
        long,
        help_heading = "The cluster's DNS",
        value_name = "NAMESPACE/NAME"
    )]
    #[arg(group = WITH_KUBERNETES)]
    pub dns_service: Option<ObjectName>,

    /// The kernel also answers queries to the endpoints of the Service of the
    /// cluster's DNS.
    /// Needed with socket load balancing, which replaces the Service's address
    /// with an endpoint's before a query leaves the pod. Elsewhere it would hide
    /// a broken CoreDNS.
    #[arg(long, help_heading = "The cluster's DNS", groups = [WITH_KUBERNETES, CHECKED])]
    pub serve_dns_endpoints: bool,

    /// A server that the agent itself queries for names that it delegates to
    /// CoreDNS [default: the ClusterIPs of that Service].
    #[arg(long, help_heading = "The cluster's DNS", value_name = "IP[:PORT]")]
    #[arg(group = WITH_KUBERNETES)]
    pub cluster_dns: Vec<Upstream>,

    /// Pass queries that CoreDNS answers against the standards, for example with
    /// NXDOMAIN for a type that an existing name does not have. The full list is
    /// in docs/kubernetes.md.
    #[arg(long, help_heading = "The cluster's DNS", group = WITH_KUBERNETES)]
    // The name before the first release.
    #[arg(alias = "pass-departures")]
    pub pass_deviations: bool,

    /// A cluster domain.
    #[arg(
        long,
        help_heading = "Names",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    #[arg(groups = [WITHOUT_COREFILE, CHECKED])]
    pub cluster_domain: Vec<Domain>,

    /// A network whose reverse zone is authoritative. There, addresses without a
    /// known object get NXDOMAIN; in other networks their queries pass.
    #[arg(long, help_heading = "Names", value_name = "CIDR")]
    #[arg(groups = [WITHOUT_COREFILE, CHECKED])]
    pub reverse: Vec<Cidr>,

    /// The records' time to live, 0 to 3600 seconds.
    #[arg(
        long,
        help_heading = "Names",
        value_name = "SECONDS",
        default_value = "5"
    )]
    #[arg(group = WITHOUT_COREFILE)]
    pub ttl: Ttl,

    /// How pods' names (10-244-0-7.default.pod.cluster.local) are answered:
    /// disabled, not at all; insecure, from the name alone; verified, only for
    /// addresses of existing pods.
    #[arg(
        long,
        help_heading = "Names",
        value_name = "MODE",
        default_value = "insecure"
    )]
    #[arg(group = WITHOUT_COREFILE)]
    pub pods: PodsSetting,

    /// Treat Services with a ClusterIP, but without a ready endpoint, as
    /// non-existent.
    #[arg(long, help_heading = "Names", group = WITHOUT_COREFILE)]
    pub ignore_empty_service: bool,

    /// Name endpoints without a host name by their pod instead of their address.
    #[arg(long, help_heading = "Names", group = WITHOUT_COREFILE)]
    pub endpoint_pod_names: bool,

    /// A name inside one of the agent's zones that other software answers, with
    /// all names below it. Queries for these names pass, like those for names
    /// outside the zones.
    #[arg(long, help_heading = "Names", value_name = "DOMAIN", group = CHECKED)]
    pub pass: Vec<DelegatedName>,

    /// A hosts file (hosts(5)) with names to answer besides those of the cluster,
    /// read again when it changes. A name of a line gets its addresses, and each
    /// address a PTR record; queries for other types and for other names pass. A
    /// name that the cluster has or denies is not answered from the file, and
    /// `dns-agent status` says so.
    #[arg(long, help_heading = "Names", value_name = "FILE")]
    pub hosts: Vec<PathBuf>,

    /// The names of --hosts replace names of the cluster.
    #[arg(long, help_heading = "Names")]
    pub hosts_override: bool,

    /// With --manifests: an address of this node for `ns.dns.<zone>`, the zone's
    /// name server if no Service has one of the --serve addresses.
    #[arg(long, help_heading = "Names", value_name = "IP")]
    pub node_ip: Vec<NodeIp>,

    /// An interface on which the kernel answers, and the hook to use: auto, xdp,
    /// xdp-generic or tc. NAME is a name, a shell pattern, or `pods` for all
    /// veths whose peer is in another network namespace, except one that a
    /// default route uses. auto means tc on a veth and XDP elsewhere.
    #[arg(long, help_heading = "Kernel plane", value_name = "NAME[=HOOK]", group = CHECKED)]
    pub interface: Vec<Interface>,

    /// A network whose clients the kernel answers on interfaces that are not
    /// veths. Needed if --interface matches such an interface.
    #[arg(long, help_heading = "Kernel plane", value_name = "CIDR", group = CHECKED)]
    pub allow: Vec<Cidr>,

    /// The number of queries per second that the kernel answers for one client,
    /// an IPv4 address or an IPv6 /64, on interfaces that are not veths. Further
    /// queries pass. 0 means no limit.
    // The default is far more than a node needs, but too little to flood a victim whose address an
    // attacker uses as the source of queries.
    #[arg(
        long,
        help_heading = "Kernel plane",
        value_name = "QUERIES",
        default_value = "1000"
    )]
    pub rate_limit: u32,

    /// respect: the kernel answers a pod only if the NetworkPolicies provably
    /// allow it to query the cluster's DNS. ignore: the kernel answers every pod.
    #[arg(
        long,
        help_heading = "Kernel plane",
        value_name = "MODE",
        default_value = "respect"
    )]
    pub network_policy: NetworkPolicy,

    /// A server address at which the kernel answers queries, such as the
    /// ClusterIP of kube-dns. An IPv6 address with a port needs brackets.
    #[arg(long, help_heading = "Kernel plane", value_name = "IP[:PORT]", group = CHECKED)]
    pub serve: Vec<ServedAddress>,

    /// How long the kernel answers after the agent has stopped working, 100ms to
    /// 1h.
    #[arg(
        long,
        help_heading = "Kernel plane",
        value_name = "DURATION",
        default_value = "10s"
    )]
    pub stale_after: StaleAfter,

    /// Keep the hooks attached when the agent stops, so that the next agent takes
    /// over without a gap. They answer for 30 s more. `dns-agent detach` removes
    /// them. Without this switch, an agent that stops removes its hooks.
    #[arg(long, help_heading = "Kernel plane", group = CHECKED)]
    pub persist: bool,

    /// The mount point of the BPF file system in which hooks are pinned.
    #[arg(long, help_heading = "Kernel plane", value_name = "PATH", default_value = BPFFS)]
    #[arg(group = CHECKED)]
    pub bpffs: PathBuf,

    /// With --persist: the DaemonSet of this agent. An agent that stops removes
    /// its hooks in spite of --persist if the DaemonSet is gone, is being
    /// deleted, or can no longer be read with the agent's rights, because no
    /// agent will follow.
    #[arg(long, help_heading = "Kernel plane", value_name = "NAMESPACE/NAME")]
    #[arg(groups = [WITH_KUBERNETES, CHECKED])]
    pub daemon_set: Option<ObjectName>,

    /// The number of names that the kernel's tables have room for [default:
    /// 12.5 % more than there are; the tables grow].
    #[arg(long, help_heading = "Kernel plane", value_name = "NAMES")]
    pub capacity: Option<Capacity>,

    /// An address on which the agent itself answers, over UDP and TCP.
    #[arg(long, help_heading = "User plane", value_name = "IP:PORT", group = CHECKED)]
    pub listen: Vec<ListenAddress>,

    /// An upstream DNS server for all other names. Of several servers, the next one
    /// is queried too when the first one is late or fails. A link-local IPv6 address
    /// needs its interface, as in fe80::1%eth0. The server must not be an address
    /// that the agent itself answers on. tls://IP#NAME queries a server over TLS only,
    /// at port 853 unless a port is given; NAME is the name in its certificate, which
    /// must be signed by an authority that the system trusts. Without this setting,
    /// the agent queries the cluster's DNS with --kubernetes, and otherwise refuses
    /// such queries.
    #[arg(long, help_heading = "User plane", value_name = "SERVER")]
    pub upstream: Vec<OutsideUpstream>,

    /// Whether queries that the kernel passes, and DNS over TCP, go from pods to this
    /// agent's resolver instead of the cluster's DNS: auto (where that is possible and
    /// safe), or off. It needs the capability SYS_ADMIN at the start.
    #[arg(long, help_heading = "User plane", value_name = "WHEN", group = CHECKED)]
    #[arg(value_enum, default_value_t = Steer::Auto)]
    pub steer: Steer,

    /// The order in which several upstream servers are queried: fastest (by measured
    /// round-trip time), random, round_robin, or sequential (in the given order). A
    /// server that doesn't answer comes last.
    #[arg(long, help_heading = "User plane", value_name = "ORDER")]
    #[arg(default_value_t = UpstreamPolicy::Fastest)]
    pub upstream_policy: UpstreamPolicy,

    /// Send names to upstream servers in random upper and lower case, which a forger
    /// of responses must guess too. A server that doesn't repeat the case is asked
    /// over TCP.
    #[arg(long, help_heading = "User plane")]
    pub upstream_random_case: bool,

    /// Servers for the names in a zone, such as corp.example=10.0.0.2,10.0.0.3. The
    /// servers have the form of --upstream, and count before the Corefile's.
    #[arg(long, help_heading = "User plane", value_name = "ZONE=SERVERS")]
    pub stub_domain: Vec<StubDomain>,

    /// How names outside the cluster are answered: corefile (as CoreDNS's Corefile
    /// says: forward, cache, hosts, template and rewrite; --upstream replaces the
    /// servers for all other names), or cluster-dns (by --upstream, or by the
    /// cluster's DNS).
    #[arg(long, help_heading = "User plane", value_name = "HOW", group = WITH_KUBERNETES)]
    #[arg(value_enum, default_value_t = OutsideNames::Corefile)]
    pub outside_names: OutsideNames,

    /// The node's resolv.conf, which stands for that of CoreDNS's pods. Give a file in
    /// a directory that is mounted from the node, so that changes are followed
    /// [default: /run/systemd/resolve/resolv.conf if it exists, else /etc/resolv.conf,
    /// a copy from the start of the agent's pod].
    #[arg(long, help_heading = "User plane", value_name = "FILE", group = WITH_KUBERNETES)]
    pub resolv_conf: Option<PathBuf>,

    /// The memory for upstreams' replies, in bytes, such as 16Mi. 0 turns the cache
    /// off. Replies about names of the cluster are never cached.
    #[arg(
        long,
        help_heading = "User plane",
        value_name = "BYTES",
        default_value = "16Mi"
    )]
    pub cache_size: CacheSize,

    /// The least TTL of a record of an upstream, in seconds. A lower one is raised.
    #[arg(
        long,
        help_heading = "User plane",
        value_name = "SECONDS",
        default_value = "0"
    )]
    pub cache_min_ttl: CacheTtl,

    /// The largest TTL of a record of an upstream, in seconds. A higher one is
    /// lowered.
    #[arg(
        long,
        help_heading = "User plane",
        value_name = "SECONDS",
        default_value = "86400"
    )]
    pub cache_max_ttl: CacheTtl,

    /// How long the answer that a name or its records don't exist is kept at most,
    /// in seconds [default: as the Corefile says for the name, else 300].
    #[arg(long, help_heading = "User plane", value_name = "SECONDS")]
    pub cache_max_negative_ttl: Option<CacheTtl>,

    /// How long after its end a reply may be used while upstreams don't answer
    /// (RFC 8767), such as 1h. 0: never.
    #[arg(
        long,
        help_heading = "User plane",
        value_name = "DURATION",
        default_value = "0"
    )]
    pub serve_stale: ServeStale,

    /// The address of the admin endpoints: /metrics, /readyz, /livez, /healthz,
    /// /healthcheck and, for clients on this machine only, /status, /lookup and
    /// /dump.
    #[arg(long, help_heading = "Endpoints", value_name = "IP:PORT", default_value = DEFAULT_ADMIN)]
    pub admin: ListenAddress,

    /// A question to ask a DNS server every 5 seconds, or every SECONDS (1 to
    /// 3600). SERVER is an IP[:PORT], and TYPE is A, AAAA, SRV or ANY, which is
    /// used if none is given. /healthcheck/LABEL is 200 while the last reply had
    /// NOERROR and a record, else 503. As in kube-dns's sidecar; at most 16.
    #[arg(long, help_heading = "Endpoints")]
    #[arg(value_name = "LABEL,SERVER,NAME[,SECONDS][,TYPE]")]
    pub probe: Vec<ProbeSetting>,

    /// Log the agent's own answers to clients by class: success, denial (NXDOMAIN, or
    /// no records), error (SERVFAIL, REFUSED and others), slow (500 ms or more), or
    /// all. At most 100 lines a second are written. Answers of the kernel are not
    /// logged [default: none].
    #[arg(long, help_heading = "Endpoints", value_name = "CLASS[,CLASS]")]
    pub log_queries: Option<QueryClasses>,

    /// Log one of this number of the queries that --log-queries selects.
    #[arg(
        long,
        help_heading = "Endpoints",
        value_name = "N",
        default_value = "1"
    )]
    pub log_queries_sample: QuerySample,

    /// Send the DNS messages that the agent itself exchanges with clients and with
    /// upstream servers to a dnstap collector, which listens at this Unix socket, as
    /// in unix:/run/dnstap.sock. Answers of the kernel are not sent. Messages that
    /// the collector doesn't read in time are dropped and counted [default: none].
    #[arg(long, help_heading = "Endpoints", value_name = "unix:PATH")]
    pub dnstap: Option<DnstapSocket>,

    /// The first given setting of the group [`WITH_KUBERNETES`], in the order of the declaration.
    /// Set by `GivenSettings::parse`. A switch that is off does not count.
    #[arg(skip)]
    pub(crate) first_with_kubernetes: Option<&'static str>,

    /// As `first_with_kubernetes`, for the group [`WITHOUT_COREFILE`].
    #[arg(skip)]
    pub(crate) first_without_corefile: Option<&'static str>,
}
