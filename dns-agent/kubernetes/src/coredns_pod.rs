//! Pods that run CoreDNS: where their configuration is, as far as their Pods tell.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use super::command_flags::CommandFlags;
use super::container_files::{FileLocation, Mounts};
use super::coredns_config::{ListeningPorts, PodHostsFile};
use super::kube_dns::KubeDnsServer;
use super::objects::ObjectKey;
use super::resolv_conf::PodResolvConf;

/// The Namespaces that only a cluster's operators write to. Pods elsewhere may belong to a virtual
/// cluster, whose CoreDNS reads another API server.
pub const SYSTEM_NAMESPACES: [&str; 2] = ["kube-system", "openshift-dns"];

/// Where a container finds the credentials of its Pod's service account (Kubernetes,
/// `pkg/serviceaccount`, `DefaultAPITokenMountPath`).
pub(crate) const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The environment variables from which CoreDNS takes the API server's address (client-go,
/// `rest.InClusterConfig`).
const API_SERVER_VARIABLES: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// The containers of a Pod that may answer DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsContainers {
    containers: Vec<DnsContainer>,
    /// How the Pod runs kube-dns instead of CoreDNS. `None`: it doesn't.
    pub kube_dns: Option<KubeDnsServer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DnsContainer {
    /// The UDP ports that the container's spec lists. It may receive queries at others.
    ports: Vec<u16>,
    /// `Err`: why it isn't known how the container runs CoreDNS, as a clause.
    server: Result<CoreDnsServer, String>,
}

/// How a container runs CoreDNS. Containers of Pods from the same template run it alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoreDnsServer {
    /// The Corefile's path.
    pub(crate) path: String,
    /// The ConfigMap with the Corefile, and the Corefile's key.
    pub(crate) corefile: (ObjectKey, String),
    pub(crate) mounts: Mounts,
    /// The environment variables with known values.
    pub(crate) variables: BTreeMap<String, String>,
    /// The port of server blocks without a port.
    pub(crate) default_port: u16,
    /// The port at which the container receives queries. `None`: unknown.
    pub(crate) queried_port: Option<u16>,
    /// The servers in the container's `resolv.conf`.
    pub(crate) resolv_conf: PodResolvConf,
    pub(crate) hosts_file: PodHostsFile,
}

impl DnsContainers {
    /// Reads the containers of a Pod.
    #[must_use]
    pub fn of_pod(pod: &core::Pod) -> DnsContainers {
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(|spec| {
            // An init container that is restarted runs beside the others.
            let init = spec.init_containers.iter().flatten();
            let init = init.filter(|it| it.restart_policy.as_deref() == Some("Always"));
            init.chain(&spec.containers)
        });
        let containers = containers.map(|container| DnsContainer {
            ports: udp_ports(container),
            server: CoreDnsServer::of_container(container, pod),
        });
        DnsContainers {
            containers: containers.collect(),
            kube_dns: KubeDnsServer::of_pod(pod),
        }
    }

    /// How the Pod runs CoreDNS at this UDP port.
    ///
    /// # Errors
    /// If the Pod doesn't show which container receives queries at the port, or how this container
    /// runs CoreDNS. The error is the reason, as a clause.
    pub fn server_at(&self, port: u16) -> Result<CoreDnsServer, String> {
        let listing = self.containers.iter().filter(|it| it.ports.contains(&port));
        let listing: Vec<&DnsContainer> = listing.collect();
        let container = match (listing.as_slice(), self.containers.as_slice()) {
            ([container], _) => *container,
            ([], [only]) => only,
            ([], _) => return Err(format!("none of its containers lists UDP port {port}")),
            _ => return Err(format!("several of its containers list UDP port {port}")),
        };
        let server = container.server.clone()?;
        Ok(CoreDnsServer {
            queried_port: Some(port),
            ..server
        })
    }
}

impl CoreDnsServer {
    /// A CoreDNS of which only the ConfigMap with its Corefile is known.
    #[must_use]
    pub fn with_config_map(map: ObjectKey) -> CoreDnsServer {
        CoreDnsServer {
            path: String::new(),
            corefile: (map, "Corefile".to_owned()),
            mounts: Mounts::default(),
            variables: BTreeMap::new(),
            default_port: ListeningPorts::default().default,
            queried_port: None,
            resolv_conf: PodResolvConf::default(),
            hosts_file: PodHostsFile::default(),
        }
    }

    /// The ConfigMap with the Corefile.
    #[must_use]
    pub fn corefile_map(&self) -> &ObjectKey {
        &self.corefile.0
    }

    /// Finds out how a container runs CoreDNS. `Err` holds the reason as a clause.
    fn of_container(container: &core::Container, pod: &core::Pod) -> Result<CoreDnsServer, String> {
        let name = &container.name;
        let words = container.command.iter().chain(&container.args).flatten();
        let words: Vec<&str> = words.map(String::as_str).collect();
        let command = CommandFlags::read(&words);
        let flag = |name: &str| match command.value(name) {
            Some(text) if text.contains("$(") => Err(format!("-{name} contains a variable")),
            value => Ok(value),
        };
        let path = flag("conf")?;
        let path = path.ok_or_else(|| format!("its container {name} has no path in -conf"))?;
        let port = match (flag("dns.port")?, flag("p")?) {
            (None, None) => ListeningPorts::default().default,
            (Some(port), None) | (None, Some(port)) => port
                .parse()
                .map_err(|_| format!("its container {name} has no number in -dns.port"))?,
            (Some(_), Some(_)) => return Err("it has both -dns.port and -p".to_owned()),
        };
        let mounts = Mounts::new(container, pod);
        check_api_server(container, pod, &mounts)?;
        let corefile = match mounts.locate_file(path) {
            FileLocation::ConfigMap { map, key, .. } => (map, key),
            FileLocation::Writable => {
                return Err(format!("its Corefile, {path}, is not in a ConfigMap"));
            }
            FileLocation::Unknown(reason) => return Err(reason),
        };
        let mut variables = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            // The kubelet replaces variables in the value.
            let value = variable.value.as_ref().filter(|it| !it.contains('$'));
            // The last value counts.
            match value {
                Some(value) => variables.insert(variable.name.clone(), value.clone()),
                None => variables.remove(&variable.name),
            };
        }
        Ok(CoreDnsServer {
            path: path.to_owned(),
            corefile,
            mounts,
            variables,
            default_port: port,
            queried_port: None,
            resolv_conf: PodResolvConf::of_pod(pod),
            hosts_file: PodHostsFile::of_pod(pod),
        })
    }
}

/// Checks that a container reads the API server of the cluster that runs it. Operators may let Pods
/// in [`SYSTEM_NAMESPACES`] use another address of that server. `Err` holds the reason as a clause.
fn check_api_server(
    container: &core::Container,
    pod: &core::Pod,
    mounts: &Mounts,
) -> Result<(), String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if SYSTEM_NAMESPACES.contains(&namespace) {
        return Ok(());
    }
    let mut variables = container.env.iter().flatten();
    if let Some(variable) = variables.find(|it| API_SERVER_VARIABLES.contains(&&*it.name)) {
        return Err(format!(
            "its container sets {}, so it may read another API server",
            variable.name
        ));
    }
    if container.env_from.iter().flatten().next().is_some() {
        return Err("its container takes variables from other objects (envFrom)".to_owned());
    }
    if mounts.has_service_account_token(TOKEN_DIRECTORY) {
        return Ok(());
    }
    Err(format!(
        "it isn't known that {TOKEN_DIRECTORY} holds the token of its service account"
    ))
}

/// The UDP ports that a container's spec lists.
fn udp_ports(container: &core::Container) -> Vec<u16> {
    let ports = container.ports.iter().flatten();
    let ports = ports.filter(|port| port.protocol.as_deref() == Some("UDP"));
    ports
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect()
}
