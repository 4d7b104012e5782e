//! The configuration of a CoreDNS: its Corefile, and what the Corefile refers to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;

use super::container_files::{KnownFile, KnownFiles};
use super::resolv_conf::PodResolvConf;

/// The port of plain DNS if a server block's key has no port (CoreDNS, flag `-dns.port`).
pub(crate) const DEFAULT_PORT: u16 = 53;

/// The longest Corefile that Zerohop reads, in bytes: the size limit of a ConfigMap.
pub(crate) const MAX_COREFILE_LENGTH: usize = 1 << 20;

/// The configuration of a CoreDNS: its Corefile, and what the Corefile refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreDnsConfig {
    /// The Corefile's text.
    pub corefile: String,
    /// The Corefile's path in its container. `None`: unknown, and so are the files that it names by
    /// relative paths.
    pub(crate) path: Option<String>,
    /// The other files of its container.
    pub(crate) files: KnownFiles,
    /// Environment variables with known values. Others may exist.
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) ports: ListeningPorts,
    /// The servers in its container's `resolv.conf`.
    pub(crate) resolv_conf: PodResolvConf,
    pub(crate) hosts_file: PodHostsFile,
}

/// What a container's `/etc/hosts` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodHostsFile {
    /// What the kubelet writes: `localhost` and the pod's name.
    OfKubelet,
    /// Zerohop can't tell.
    #[default]
    Unknown,
}

/// The ports of plain DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListeningPorts {
    /// The port of server blocks without a port.
    pub(crate) default: u16,
    /// The port at which queries to the cluster's DNS arrive. `None`: unknown.
    pub(crate) queried: Option<u16>,
}

impl CoreDnsConfig {
    /// The file at a path, as a plugin of CoreDNS reads it.
    pub(crate) fn file(&self, path: &str) -> KnownFile<'_> {
        self.files.read(path)
    }

    /// The value of an environment variable. `None`: unknown.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

impl PodHostsFile {
    /// The kubelet adds `hostAliases`, and gives a pod in the node's network the node's file.
    pub(crate) fn of_pod(pod: &core::Pod) -> PodHostsFile {
        let Some(spec) = &pod.spec else {
            return PodHostsFile::Unknown;
        };
        let has_aliases = spec.host_aliases.iter().flatten().next().is_some();
        match has_aliases || spec.host_network == Some(true) {
            true => PodHostsFile::Unknown,
            false => PodHostsFile::OfKubelet,
        }
    }
}

/// A Corefile by itself. The files, variables and ports are unknown.
impl<T: Into<String>> From<T> for CoreDnsConfig {
    fn from(corefile: T) -> CoreDnsConfig {
        CoreDnsConfig {
            corefile: corefile.into(),
            ..CoreDnsConfig::default()
        }
    }
}

impl Default for ListeningPorts {
    fn default() -> ListeningPorts {
        ListeningPorts {
            default: DEFAULT_PORT,
            queried: None,
        }
    }
}
