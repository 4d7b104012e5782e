//! Routes of a cluster whose DNS is kube-dns: from its ConfigMap.

use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Poll},
};

use zerohop_kubernetes::KubeDnsServer;
use zerohop_kubernetes_api::{Client, SourceHealth};
use zerohop_routes::Routes;

use super::{
    config_maps::ConfigMapWatches,
    dns_path::{DnsPath, Readiness},
};

/// Follows the ConfigMap of kube-dns while the pods of the DNS Service run it.
pub(super) struct KubeDnsConfig {
    maps: ConfigMapWatches,
    /// How the pods that were ready last run kube-dns.
    last: Option<KubeDnsServer>,
}

/// How kube-dns answers names outside the cluster.
#[derive(Debug, Default)]
pub(super) struct KubeDnsReading {
    /// `None`: the pods don't run kube-dns, or its configuration isn't known.
    pub(super) routes: Option<Routes>,
    /// Sentences for operators.
    pub(super) reasons: Vec<String>,
}

impl KubeDnsConfig {
    pub(super) fn new(client: Client) -> KubeDnsConfig {
        KubeDnsConfig {
            maps: ConfigMapWatches::new(client),
            last: None,
        }
    }

    /// The health of all sources.
    pub(super) fn health(&self) -> impl Iterator<Item = Arc<SourceHealth>> {
        self.maps.health()
    }

    /// Ready after the ConfigMap may have changed.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.maps.poll_changed(context)
    }

    /// Adjusts the watch to the current pods, and reads the configuration. Nothing is known unless
    /// all ready pods run kube-dns alike.
    pub(super) fn read(&mut self, path: &DnsPath) -> KubeDnsReading {
        if has_ready_pod(path) {
            self.last = common_server(path);
        }
        let Some(server) = self.last.clone() else {
            self.maps.watch(&BTreeSet::new());
            return KubeDnsReading::default();
        };
        let answers = "the cluster's DNS, kube-dns, answers all names outside the cluster";
        let routes = self.read_routes(&server);
        let reason = match &routes {
            Ok(_) => {
                "the cluster's DNS is kube-dns: names outside the cluster are answered as its \
                      ConfigMap says"
                    .to_owned()
            }
            Err(reason) => format!("{reason}, so {answers}"),
        };
        KubeDnsReading {
            routes: routes.ok(),
            reasons: vec![reason],
        }
    }

    fn read_routes(&mut self, server: &KubeDnsServer) -> Result<Routes, String> {
        let map = server.config_map().map_err(str::to_owned)?;
        self.maps.watch(&BTreeSet::from([map.clone()]));
        let reading = self.maps.read([map]).map_err(String::from)?;
        let data = reading.texts.get(map).and_then(Option::as_ref);
        server.routes(data.map(Arc::as_ref))
    }
}

fn has_ready_pod(path: &DnsPath) -> bool {
    let mut servers = path.servers.iter().flatten();
    servers.any(|server| server.readiness == Readiness::Ready)
}

/// How all ready pods run kube-dns. `None` if one doesn't, or if they differ.
fn common_server(path: &DnsPath) -> Option<KubeDnsServer> {
    let servers = path.servers.as_ref()?.iter();
    let mut ready = servers.filter(|server| server.readiness == Readiness::Ready);
    let first = ready.next()?.kube_dns.as_ref()?;
    let is_same = |server: Option<&KubeDnsServer>| server == Some(first);
    ready
        .all(|server| is_same(server.kube_dns.as_ref()))
        .then(|| first.clone())
}
