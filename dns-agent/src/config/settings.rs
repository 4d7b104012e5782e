//! The settings, as somebody gives them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::values::{
    Capacity, Domain, Interface, MaxAge, NamespaceName, Network, NetworkPolicy, NodeIp, ObjectName,
    Passed, Pods, Server, Socket, StaleAfter, Ttl, Upstream, list, single,
};
use crate::{
    cluster::{Endpoints, Selector},
    files,
};

/// Every setting, as given on the command line or in the file: absent means
/// "not said here".
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// A file or directory of Kubernetes objects (Namespace, Service,
    /// EndpointSlice, Pod, NetworkPolicy, List; YAML or JSON), reloaded when it
    /// changes. Without any Namespace object in it, all namespaces exist.
    #[arg(long, value_name = "PATH", help_heading = "Objects")]
    pub manifests: Option<PathBuf>,

    /// Read the objects from the Kubernetes API: the cluster's that this runs
    /// in, else the kubeconfig's. What CoreDNS's Corefile says is adopted; where
    /// that isn't clear, everything is passed on to the cluster's DNS.
    #[arg(long, help_heading = "Objects")]
    pub kubernetes: bool,

    /// A kubeconfig file for the Kubernetes API; implies --kubernetes.
    #[arg(long, value_name = "FILE", help_heading = "Objects")]
    pub kubeconfig: Option<PathBuf>,

    /// With --kubernetes: the EndpointSlices that are watched. With headless,
    /// names of endpoints of other services, and PTR records of endpoints, pass
    /// to the cluster's DNS [default: headless].
    #[arg(long, value_name = "WHICH", help_heading = "Objects")]
    pub endpoints: Option<Endpoints>,

    /// With --kubernetes: the name of this node. Its pods are watched for
    /// --network-policy: without it, no pod is answered by the kernel while any
    /// policy is about egress. For --pods verified its pods alone are watched
    /// too, and others' pass; without it all pods are. In a DaemonSet:
    /// spec.nodeName.
    #[arg(long, value_name = "NAME", help_heading = "Objects")]
    pub node_name: Option<String>,

    /// With --kubernetes: the ConfigMap with CoreDNS's Corefile [default:
    /// kube-system/coredns].
    #[arg(long, value_name = "NS/NAME", help_heading = "The cluster's DNS")]
    #[serde(deserialize_with = "single")]
    pub corefile: Option<ObjectName>,

    /// With --kubernetes: answer as these settings say where no Corefile is
    /// found. Without it everything is passed on to the cluster's DNS then.
    #[arg(long, help_heading = "The cluster's DNS")]
    pub trust_zone: bool,

    /// With --kubernetes: the Service of the cluster's DNS, whose ClusterIPs the
    /// kernel answers for, unless --serve is given [default:
    /// kube-system/kube-dns].
    #[arg(long, value_name = "NS/NAME", help_heading = "The cluster's DNS")]
    #[serde(deserialize_with = "single")]
    pub dns_service: Option<ObjectName>,

    /// With --kubernetes: the kernel answers for the addresses of that Service's
    /// endpoints too. Needed where pods' queries carry them, because something
    /// replaces a Service's address when a socket is used (socket load
    /// balancing); elsewhere it would hide a broken CoreDNS.
    #[arg(long, help_heading = "The cluster's DNS")]
    pub serve_dns_endpoints: bool,

    /// With --kubernetes: where the agent itself asks for names in its zones that
    /// it leaves to CoreDNS; repeatable; port 53 unless given [default: the
    /// ClusterIPs of --dns-service].
    #[arg(long, value_name = "IP[:PORT]", help_heading = "The cluster's DNS")]
    #[serde(deserialize_with = "list")]
    pub cluster_dns: Option<Vec<Upstream>>,

    /// With --kubernetes: how long the kernel answers when nothing was heard
    /// from the API, 2m or more; 0: for ever [default: 15m].
    #[arg(long, value_name = "DURATION", help_heading = "Objects")]
    #[serde(deserialize_with = "single")]
    pub max_age: Option<MaxAge>,

    /// Leave to CoreDNS what it answers against the standards: NXDOMAIN for
    /// names without addresses that exist, and for other types at them; NODATA
    /// for other types at an ExternalName. Needs --kubernetes.
    #[arg(long, help_heading = "The cluster's DNS")]
    pub pass_departures: bool,

    /// A zone of cluster names; repeatable [default: cluster.local].
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    #[serde(deserialize_with = "list")]
    pub cluster_domain: Option<Vec<Domain>>,

    /// A network whose reverse zone is answered with authority; repeatable.
    /// Addresses of no known object get NXDOMAIN there; elsewhere they are
    /// somebody else's to answer.
    #[arg(long, value_name = "CIDR", help_heading = "Names")]
    #[serde(deserialize_with = "list")]
    pub reverse: Option<Vec<Network>>,

    /// The records' time to live in seconds, 0 to 3600 [default: 5].
    #[arg(long, value_name = "SECONDS", help_heading = "Names")]
    #[serde(deserialize_with = "single")]
    pub ttl: Option<Ttl>,

    /// How names of pods (10-244-0-7.default.pod.cluster.local) are answered:
    /// never; from the name alone; or for addresses of existing pods only
    /// [default: insecure].
    #[arg(long, value_name = "MODE", help_heading = "Names")]
    pub pods: Option<Pods>,

    /// A namespace to expose; repeatable [default: all].
    #[arg(long, value_name = "NS", help_heading = "Objects")]
    #[serde(deserialize_with = "list")]
    pub namespace: Option<Vec<NamespaceName>>,

    /// Only the namespaces whose labels match are exposed; not together with
    /// --namespace. SELECTOR is as in `kubectl get --selector`.
    #[arg(long, value_name = "SELECTOR", help_heading = "Objects")]
    #[serde(deserialize_with = "single")]
    pub namespace_labels: Option<Selector>,

    /// Only the Services, EndpointSlices and Pods whose own labels match make
    /// records [default: all].
    #[arg(long, value_name = "SELECTOR", help_heading = "Objects")]
    #[serde(deserialize_with = "single")]
    pub labels: Option<Selector>,

    /// Services with a ClusterIP, but without any ready endpoint, do not exist.
    #[arg(long, help_heading = "Names")]
    pub ignore_empty_service: bool,

    /// Endpoints without a host name are called by their pod, not by their
    /// address.
    #[arg(long, help_heading = "Names")]
    pub endpoint_pod_names: bool,

    /// A name inside a zone of ours that belongs to other software, with
    /// everything below it; repeatable. Such names are passed on like those
    /// outside our zones.
    #[arg(long, value_name = "NAME", help_heading = "Names")]
    #[serde(deserialize_with = "list")]
    pub pass: Option<Vec<Passed>>,

    /// An interface on which the kernel answers, and by which hook: auto, xdp,
    /// xdp-generic or tc; repeatable. NAME is a name, a shell pattern, or
    /// `pods` for every veth whose peer is in another network namespace, but for
    /// one that a default route goes through. auto
    /// means tc on a veth and XDP elsewhere.
    #[arg(long, value_name = "NAME[=HOOK]", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "list")]
    pub interface: Option<Vec<Interface>>,

    /// A network of clients the kernel answers on an interface that is not a
    /// veth; repeatable.
    #[arg(long, value_name = "CIDR", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "list")]
    pub allow: Option<Vec<Network>>,

    /// How many queries a second of one client, an IPv4 address or an IPv6 /64,
    /// the kernel answers on an interface that is not a veth; more pass. 0: no
    /// limit [default: 1000].
    #[arg(long, value_name = "NUMBER", help_heading = "Kernel plane")]
    pub rate_limit: Option<u32>,

    /// Whether the kernel answers a pod that a NetworkPolicy about egress
    /// selects only where policies provably let it ask the cluster's DNS; ignore
    /// answers every pod [default: respect].
    #[arg(long, value_name = "MODE", help_heading = "Kernel plane")]
    pub network_policy: Option<NetworkPolicy>,

    /// An address whose queries the kernel answers, such as the ClusterIP of
    /// kube-dns; repeatable; port 53 unless given, IPv6 with a port in
    /// brackets.
    #[arg(long, value_name = "IP[:PORT]", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "list")]
    pub serve: Option<Vec<Server>>,

    /// An address the agent itself answers on, over UDP and TCP; repeatable.
    #[arg(long, value_name = "IP:PORT", help_heading = "User plane")]
    #[serde(deserialize_with = "list")]
    pub listen: Option<Vec<Socket>>,

    /// With --manifests: an address of this node, for `ns.dns.<zone>`, which is
    /// the zone's name server when no Service has one of the --serve addresses;
    /// repeatable.
    #[arg(long, value_name = "IP", help_heading = "Names")]
    #[serde(deserialize_with = "list")]
    pub node_ip: Option<Vec<NodeIp>>,

    /// A DNS server for all other names, tried in the order given; repeatable;
    /// port 53 unless given; a link-local IPv6 address with its interface, as in
    /// fe80::1%eth0. Not an address that the agent itself answers on. Without one the cluster's DNS is asked, with
    /// --kubernetes, and else such names are refused.
    #[arg(long, value_name = "IP[:PORT]", help_heading = "User plane")]
    #[serde(deserialize_with = "list")]
    pub upstream: Option<Vec<Upstream>>,

    /// Where /metrics, /readyz, /livez, /healthz and, for this machine itself,
    /// /status, /lookup and /dump are served [default: 127.0.0.1:9153].
    #[arg(long, value_name = "IP:PORT", help_heading = "Endpoints")]
    #[serde(deserialize_with = "single")]
    pub admin: Option<Socket>,

    /// How long the kernel goes on answering when the agent no longer does its
    /// work, 100ms to 1h [default: 10s].
    #[arg(long, value_name = "DURATION", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "single")]
    pub stale_after: Option<StaleAfter>,

    /// Leave the hooks in place when the agent ends, so that the next one takes
    /// over without a gap; they answer for 30 s more. `dns-agent detach` takes
    /// them off. Without it a stop takes everything off.
    #[arg(long, help_heading = "Kernel plane")]
    pub persist: bool,

    /// Where the BPF file system is mounted, in which hooks are pinned [default:
    /// /sys/fs/bpf].
    #[arg(long, value_name = "PATH", help_heading = "Kernel plane")]
    pub bpffs: Option<PathBuf>,

    /// With --persist and --kubernetes: the DaemonSet that this agent is of. A
    /// stop takes the hooks off all the same when it is gone, is being deleted,
    /// or may not be read any more: then nobody comes after.
    #[arg(long, value_name = "NAMESPACE/NAME", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "single")]
    pub daemon_set: Option<ObjectName>,

    /// How many names the kernel's tables have room for [default: an eighth more
    /// than there are; the tables grow].
    #[arg(long, value_name = "NAMES", help_heading = "Kernel plane")]
    #[serde(deserialize_with = "single")]
    pub capacity: Option<Capacity>,
}

impl Settings {
    /// The settings of a configuration file.
    ///
    /// # Errors
    /// When the file can't be read, isn't YAML, or has a key or value that is
    /// not a setting; the error names the line.
    pub fn read(path: &Path) -> anyhow::Result<Settings> {
        let text = files::read_text(path, files::MAX_SETTINGS)
            .with_context(|| format!("can't read the configuration file {}", path.display()))?;
        Settings::parse(&text)
            .with_context(|| format!("in the configuration file {}", path.display()))
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<Settings> {
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.without_snippet()))
    }

    /// The first setting given that means nothing without the API.
    pub(super) fn kubernetes_only(&self) -> Option<&'static str> {
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
    pub(super) fn corefile_says(&self) -> Option<&'static str> {
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
    pub(super) fn or(self, file: Settings) -> Settings {
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

fn first_given<const N: usize>(flags: [(&'static str, bool); N]) -> Option<&'static str> {
    let given = flags.into_iter().find(|(_, is_given)| *is_given);
    given.map(|(flag, _)| flag)
}
