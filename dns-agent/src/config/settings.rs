//! The settings as given on the command line or in the file.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use zerohop_kubernetes::{EndpointScope, Selector};
use zerohop_sources::files;

use super::values::{
    Capacity, Cidr, DelegatedName, Domain, Interface, ListenAddress, MaxAge, NamespaceName,
    NetworkPolicy, NodeIp, ObjectName, PodsSetting, ServedAddress, StaleAfter, Ttl, Upstream,
    parse_list, parse_value,
};

/// All settings of the command line or of the file. `None` and `false`: not given there. The
/// comments of fields are the texts of `--help`.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunSettings {
    /// A file or directory of Kubernetes objects (Namespace, Service,
    /// EndpointSlice, Pod, NetworkPolicy, List; YAML or JSON), reloaded when it
    /// changes. Without any Namespace object in it, all namespaces exist.
    #[arg(long, value_name = "PATH", help_heading = "Objects")]
    pub manifests: Option<PathBuf>,

    /// Read the objects from the Kubernetes API of the cluster that the agent
    /// runs in, or else of the kubeconfig. The configuration of zones is taken
    /// from CoreDNS's Corefile. If that can't be read or understood, all queries
    /// pass to the cluster's DNS.
    #[arg(long, help_heading = "Objects")]
    pub kubernetes: bool,

    /// A kubeconfig file for the Kubernetes API; implies --kubernetes.
    #[arg(long, value_name = "FILE", help_heading = "Objects")]
    pub kubeconfig: Option<PathBuf>,

    /// With --kubernetes: the EndpointSlices to watch. With headless, queries
    /// for the endpoints' names of other Services, and for PTR records of
    /// endpoints, pass to the cluster's DNS [default: headless].
    #[arg(long, value_name = "WHICH", help_heading = "Objects")]
    pub endpoints: Option<EndpointScope>,

    /// With --kubernetes: the name of this node; in a DaemonSet, spec.nodeName.
    /// The node's pods are watched for --network-policy; without the name, the
    /// kernel answers no pod while any NetworkPolicy is about egress. With
    /// --pods verified, too, only this node's pods are watched and the names of
    /// other pods pass; without the name, all pods are watched.
    #[arg(long, value_name = "NAME", help_heading = "Objects")]
    pub node_name: Option<String>,

    /// With --kubernetes: the ConfigMap with CoreDNS's Corefile [default:
    /// kube-system/coredns].
    #[arg(long, value_name = "NS/NAME", help_heading = "The cluster's DNS")]
    #[serde(deserialize_with = "parse_value")]
    pub corefile: Option<ObjectName>,

    /// With --kubernetes: if no Corefile is found, answer by these settings.
    /// Without this flag, all queries then pass to the cluster's DNS.
    #[arg(long, help_heading = "The cluster's DNS")]
    pub trust_zone: bool,

    /// With --kubernetes: the Service of the cluster's DNS. The kernel answers
    /// queries to its ClusterIPs, unless --serve is given [default:
    /// kube-system/kube-dns].
    #[arg(long, value_name = "NS/NAME", help_heading = "The cluster's DNS")]
    #[serde(deserialize_with = "parse_value")]
    pub dns_service: Option<ObjectName>,

    /// With --kubernetes: the kernel also answers queries to the endpoints of
    /// that Service. Needed with socket load balancing, which replaces the
    /// Service's address by an endpoint's before a query leaves the pod.
    /// Elsewhere it would hide a broken CoreDNS.
    #[arg(long, help_heading = "The cluster's DNS")]
    pub serve_dns_endpoints: bool,

    /// With --kubernetes: a server that the agent itself queries for names that
    /// it delegates to CoreDNS; repeatable; port 53 unless given [default: the
    /// ClusterIPs of --dns-service].
    #[arg(long, value_name = "IP[:PORT]", help_heading = "The cluster's DNS")]
    #[serde(deserialize_with = "parse_list")]
    pub cluster_dns: Option<Vec<Upstream>>,

    /// With --kubernetes: how long the kernel answers after the last message
    /// from the API server, 2m or more; 0 means without limit [default: 15m].
    #[arg(long, value_name = "DURATION", help_heading = "Objects")]
    #[serde(deserialize_with = "parse_value")]
    pub max_age: Option<MaxAge>,

    /// Pass queries that CoreDNS answers against the standards: NXDOMAIN for
    /// existing names without addresses, and for other types at them; NODATA
    /// for other types at an ExternalName. Needs --kubernetes.
    #[arg(long = "pass-departures", help_heading = "The cluster's DNS")]
    #[serde(rename = "pass-departures")]
    pub pass_deviations: bool,

    /// A cluster domain; repeatable [default: cluster.local].
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    #[serde(deserialize_with = "parse_list")]
    pub cluster_domain: Option<Vec<Domain>>,

    /// A network whose reverse zone is authoritative; repeatable. There,
    /// addresses without a known object get NXDOMAIN; in other networks their
    /// queries pass.
    #[arg(long, value_name = "CIDR", help_heading = "Names")]
    #[serde(deserialize_with = "parse_list")]
    pub reverse: Option<Vec<Cidr>>,

    /// The records' time to live in seconds, 0 to 3600 [default: 5].
    #[arg(long, value_name = "SECONDS", help_heading = "Names")]
    #[serde(deserialize_with = "parse_value")]
    pub ttl: Option<Ttl>,

    /// How pods' names (10-244-0-7.default.pod.cluster.local) are answered:
    /// disabled, not at all; insecure, from the name alone; verified, only for
    /// addresses of existing pods [default: insecure].
    #[arg(long, value_name = "MODE", help_heading = "Names")]
    pub pods: Option<PodsSetting>,

    /// A namespace whose objects make records; repeatable [default: all].
    #[arg(long, value_name = "NS", help_heading = "Objects")]
    #[serde(deserialize_with = "parse_list")]
    pub namespace: Option<Vec<NamespaceName>>,

    /// Only objects in namespaces whose labels match make records; not together
    /// with --namespace. SELECTOR is as in `kubectl get --selector`.
    #[arg(long, value_name = "SELECTOR", help_heading = "Objects")]
    #[serde(deserialize_with = "parse_value")]
    pub namespace_labels: Option<Selector>,

    /// Only the Services, EndpointSlices and Pods whose own labels match make
    /// records [default: all].
    #[arg(long, value_name = "SELECTOR", help_heading = "Objects")]
    #[serde(deserialize_with = "parse_value")]
    pub labels: Option<Selector>,

    /// Treat Services with a ClusterIP, but without a ready endpoint, as
    /// non-existent.
    #[arg(long, help_heading = "Names")]
    pub ignore_empty_service: bool,

    /// Name endpoints without a host name by their pod instead of their address.
    #[arg(long, help_heading = "Names")]
    pub endpoint_pod_names: bool,

    /// A name inside one of the agent's zones that other software answers, with
    /// all names below it; repeatable. Queries for these names pass, like those
    /// for names outside the zones.
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    #[serde(deserialize_with = "parse_list")]
    pub pass: Option<Vec<DelegatedName>>,

    /// An interface on which the kernel answers, and the hook to use: auto, xdp,
    /// xdp-generic or tc; repeatable. NAME is a name, a shell pattern, or `pods`
    /// for all veths whose peer is in another network namespace, except one that
    /// a default route uses. auto means tc on a veth and XDP elsewhere.
    #[arg(long, value_name = "NAME[=HOOK]", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "parse_list")]
    pub interface: Option<Vec<Interface>>,

    /// A network whose clients the kernel answers on interfaces that are not
    /// veths; repeatable.
    #[arg(long, value_name = "CIDR", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "parse_list")]
    pub allow: Option<Vec<Cidr>>,

    /// The number of queries per second that the kernel answers for one client,
    /// an IPv4 address or an IPv6 /64, on interfaces that are not veths. Further
    /// queries pass. 0 means no limit [default: 1000].
    #[arg(long, value_name = "NUMBER", help_heading = "Kernel plane")]
    pub rate_limit: Option<u32>,

    /// respect: the kernel answers a pod that an egress NetworkPolicy selects
    /// only if the policies provably allow it to query the cluster's DNS.
    /// ignore: the kernel answers every pod [default: respect].
    #[arg(long, value_name = "MODE", help_heading = "Kernel plane")]
    pub network_policy: Option<NetworkPolicy>,

    /// An address whose queries the kernel answers, such as the ClusterIP of
    /// kube-dns; repeatable; port 53 unless given, IPv6 with a port in
    /// brackets.
    #[arg(long, value_name = "IP[:PORT]", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "parse_list")]
    pub serve: Option<Vec<ServedAddress>>,

    /// An address on which the agent itself answers, over UDP and TCP;
    /// repeatable.
    #[arg(long, value_name = "IP:PORT", help_heading = "User plane")]
    #[serde(deserialize_with = "parse_list")]
    pub listen: Option<Vec<ListenAddress>>,

    /// With --manifests: an address of this node for `ns.dns.<zone>`, the zone's
    /// name server if no Service has one of the --serve addresses; repeatable.
    #[arg(long, value_name = "IP", help_heading = "Names")]
    #[serde(deserialize_with = "parse_list")]
    pub node_ip: Option<Vec<NodeIp>>,

    /// An upstream DNS server for all other names; repeatable, tried in the
    /// order given; port 53 unless given; a link-local IPv6 address with its
    /// interface, as in fe80::1%eth0. It must not be an address that the agent
    /// itself answers on. Without one, the agent queries the cluster's DNS with
    /// --kubernetes, and otherwise refuses such queries.
    #[arg(long, value_name = "IP[:PORT]", help_heading = "User plane")]
    #[serde(deserialize_with = "parse_list")]
    pub upstream: Option<Vec<Upstream>>,

    /// The address of the admin endpoints: /metrics, /readyz, /livez, /healthz
    /// and, for clients on this machine only, /status, /lookup and /dump
    /// [default: 127.0.0.1:9153].
    #[arg(long, value_name = "IP:PORT", help_heading = "Endpoints")]
    #[serde(deserialize_with = "parse_value")]
    pub admin: Option<ListenAddress>,

    /// How long the kernel answers after the agent has stopped working, 100ms to
    /// 1h [default: 10s].
    #[arg(long, value_name = "DURATION", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "parse_value")]
    pub stale_after: Option<StaleAfter>,

    /// Keep the hooks attached when the agent stops, so that the next agent takes
    /// over without a gap. They answer for 30 s more. `dns-agent detach` removes
    /// them. Without this flag, an agent that stops removes its hooks.
    #[arg(long, help_heading = "Kernel plane")]
    pub persist: bool,

    /// The mount point of the BPF file system in which hooks are pinned [default:
    /// /sys/fs/bpf].
    #[arg(long, value_name = "PATH", help_heading = "Kernel plane")]
    pub bpffs: Option<PathBuf>,

    /// With --persist and --kubernetes: the DaemonSet of this agent. An agent
    /// that stops removes its hooks in spite of --persist if the DaemonSet is
    /// gone, is being deleted, or can no longer be read with the agent's rights,
    /// because no agent will follow.
    #[arg(long, value_name = "NAMESPACE/NAME", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "parse_value")]
    pub daemon_set: Option<ObjectName>,

    /// The number of names that the kernel's tables have room for [default:
    /// 12.5 % more than there are; the tables grow].
    #[arg(long, value_name = "NAMES", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "parse_value")]
    pub capacity: Option<Capacity>,
}

impl RunSettings {
    /// Reads the settings of a configuration file.
    ///
    /// # Errors
    /// When the file can't be read, isn't YAML, or has an unknown key or an invalid value. The
    /// error names the line.
    pub fn read(path: &Path) -> anyhow::Result<RunSettings> {
        let text = files::read_text(path, files::MAX_SETTINGS)
            .with_context(|| format!("can't read the configuration file {}", path.display()))?;
        RunSettings::parse(&text)
            .with_context(|| format!("in the configuration file {}", path.display()))
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<RunSettings> {
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.without_snippet()))
    }

    /// The first given flag that needs the Kubernetes API.
    pub(super) fn first_kubernetes_setting(&self) -> Option<&'static str> {
        first_given([
            ("--endpoints", self.endpoints.is_some()),
            ("--node-name", self.node_name.is_some()),
            ("--corefile", self.corefile.is_some()),
            ("--trust-zone", self.trust_zone),
            ("--dns-service", self.dns_service.is_some()),
            ("--serve-dns-endpoints", self.serve_dns_endpoints),
            ("--cluster-dns", self.cluster_dns.is_some()),
            ("--max-age", self.max_age.is_some()),
            ("--pass-departures", self.pass_deviations),
            ("--daemon-set", self.daemon_set.is_some()),
        ])
    }

    /// The first given flag whose value is taken from a Corefile.
    pub(super) fn first_corefile_setting(&self) -> Option<&'static str> {
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

    /// These settings, completed by those of `file`.
    pub(super) fn overlay(self, file: RunSettings) -> RunSettings {
        RunSettings {
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
            pass_deviations: self.pass_deviations || file.pass_deviations,
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

fn first_given<const N: usize>(flags: [(&'static str, bool); N]) -> Option<&'static str> {
    let given = flags.into_iter().find(|(_, is_given)| *is_given);
    given.map(|(flag, _)| flag)
}
