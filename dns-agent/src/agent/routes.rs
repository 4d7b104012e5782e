//! Makes the resolver's routes: from CoreDNS's Corefile, from the operator's settings, and from the
//! node's `resolv.conf`, which stands for that of CoreDNS's pods.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};
use zerohop_kubernetes::{MAX_NODE_SERVERS, read_servers};
use zerohop_resolver::{FollowedRoutes, LiveRoutes};
use zerohop_routes::{
    CacheRules, Forward, ForwardGroup, ForwardServer, ForwardTransport, GroupTrust, KeptAnswers,
    RouteBlock, Routes,
};
use zerohop_sources::{files::read_text, path_watch::PathWatch};
use zerohop_zone::Name;

use super::followed_path::{FollowedPath, PathCheck, run_blocking};
use crate::{
    admin::{status::ResolvConfStatus, status_board::StatusBoard},
    config::{Config, OutsideNames, OutsideUpstream, StubDomain},
};

/// The file of systemd-resolved with the node's servers. A pod has it only if its directory is
/// mounted from the node.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// The file that the container runtime wrote when the agent's pod was made.
const OWN_RESOLV_CONF: &str = "/etc/resolv.conf";
/// The longest `resolv.conf` that is read, in bytes.
const MAX_RESOLV_CONF: u64 = 64 << 10;
const DNS_PORT: u16 = 53;

/// What the operator's settings say about caching where a route says nothing.
const NATIVE_CACHE: CacheRules = CacheRules {
    max_ttl: u32::MAX,
    max_negative_ttl: 300,
    kept: KeptAnswers::All,
    stale: None,
};

/// Publishes routes to the resolver whenever one of their parts changes. Clones share the parts.
#[derive(Clone, Debug)]
pub(super) struct RouteFollower(Arc<RouteSettings>);

#[derive(Debug)]
struct RouteSettings {
    live: LiveRoutes,
    /// The servers of `--upstream`. They replace those of the Corefile for all names that have no
    /// zone of their own.
    given: Option<ForwardGroup>,
    outside_names: OutsideNames,
    parts: Mutex<RouteParts>,
}

#[derive(Debug, Default)]
struct RouteParts {
    corefile: FollowedRoutes,
    node_servers: Vec<SocketAddr>,
}

impl RouteFollower {
    /// Routes by the operator's settings only.
    pub(super) fn new(config: &Config) -> RouteFollower {
        let stub_domains = config.stub_domains.iter().map(stub_block).collect();
        let given = (!config.upstreams.is_empty()).then(|| ForwardGroup {
            servers: config.upstreams.iter().map(forward_server).collect(),
            policy: config.upstream_policy,
            transport: ForwardTransport::UdpAndTcp,
            trust: GroupTrust::Given,
            origin: "--upstream".to_owned(),
        });
        RouteFollower(Arc::new(RouteSettings {
            live: LiveRoutes::new(Routes::new(stub_domains)),
            given,
            outside_names: config.outside_names,
            parts: Mutex::default(),
        }))
    }

    /// The routes for the resolver.
    pub(super) fn live(&self) -> &LiveRoutes {
        &self.0.live
    }

    /// Replaces the routes of CoreDNS or of kube-dns.
    pub(super) fn follow_cluster_dns(&self, routes: &FollowedRoutes) {
        self.update(|parts| {
            let has_changed = parts.corefile != *routes;
            if has_changed {
                parts.corefile.clone_from(routes);
            }
            has_changed
        });
    }

    /// Why only the cluster's DNS can answer its clients' questions, for people. `None`: the
    /// resolver can.
    pub(super) fn objection(&self) -> Option<String> {
        let parts = self.0.parts.lock();
        let parts = parts.unwrap_or_else(PoisonError::into_inner);
        match &parts.corefile {
            FollowedRoutes::Known(routes) => routes.client_dependence().map(str::to_owned),
            FollowedRoutes::Unknown => {
                Some("it isn't known how CoreDNS answers names outside the cluster".to_owned())
            }
            FollowedRoutes::Off if self.0.given.is_some() => None,
            FollowedRoutes::Off => {
                Some("it isn't known which servers answer names outside the cluster".to_owned())
            }
        }
    }

    fn follow_node_servers(&self, servers: Vec<IpAddr>) {
        let servers = servers.into_iter();
        let servers = servers.map(|address| SocketAddr::new(address, DNS_PORT));
        let servers = servers.collect();
        self.update(|parts| {
            parts.node_servers = servers;
            true
        });
    }

    /// Changes parts, and publishes the routes if `change` says that they have changed.
    fn update(&self, change: impl FnOnce(&mut RouteParts) -> bool) {
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut parts) || self.0.outside_names == OutsideNames::ClusterDns {
            return;
        }
        let RouteParts {
            corefile,
            node_servers,
        } = &*parts;
        self.0.live.follow(match corefile {
            FollowedRoutes::Known(routes) => {
                FollowedRoutes::Known(self.0.complete(routes, node_servers))
            }
            other => other.clone(),
        });
    }
}

impl RouteSettings {
    /// The routes with the servers of the node, and with those of `--upstream`.
    fn complete(&self, routes: &Routes, node_servers: &[SocketAddr]) -> Routes {
        let root = Name::root();
        let mut blocks = routes.blocks().to_vec();
        for group in blocks.iter_mut().flat_map(|block| &mut block.forwards) {
            let group = &mut group.group;
            *group = group.as_ref().map(|it| it.with_node_servers(node_servers));
        }
        let Some(given) = &self.given else {
            return Routes::new(blocks);
        };
        let forward = Forward {
            zone: root.clone(),
            except: Vec::new(),
            group: Some(given.clone()),
        };
        match blocks.iter_mut().find(|block| block.zones.contains(&root)) {
            Some(block) => {
                block.forwards.retain(|forward| forward.zone != root);
                block.forwards.push(forward);
            }
            None => blocks.push(RouteBlock {
                zones: vec![root.clone()],
                forwards: vec![forward],
                caching: vec![(vec![root], NATIVE_CACHE)],
                ..RouteBlock::default()
            }),
        }
        Routes::new(blocks)
    }
}

fn stub_block(stub: &StubDomain) -> RouteBlock {
    let zone = &stub.zone;
    let group = ForwardGroup {
        servers: stub.servers.iter().map(forward_server).collect(),
        policy: Default::default(),
        transport: ForwardTransport::UdpAndTcp,
        trust: GroupTrust::Given,
        origin: format!("--stub-domain {zone}"),
    };
    RouteBlock {
        zones: vec![zone.clone()],
        forwards: vec![Forward {
            zone: zone.clone(),
            except: Vec::new(),
            group: Some(group),
        }],
        caching: vec![(vec![Name::root()], NATIVE_CACHE)],
        ..RouteBlock::default()
    }
}

fn forward_server(server: &OutsideUpstream) -> ForwardServer {
    match &server.tls_name {
        None => ForwardServer::Plain(server.address),
        Some(name) => ForwardServer::Tls(server.address, name.clone()),
    }
}

/// Follows the node's `resolv.conf`, until the task is ended.
pub(super) async fn follow_resolv_conf(
    configured: Option<PathBuf>,
    routes: RouteFollower,
    board: Arc<StatusBoard>,
) {
    let path = configured.unwrap_or_else(|| {
        let systemd = PathBuf::from(SYSTEMD_RESOLV_CONF);
        match systemd.exists() {
            true => systemd,
            false => OWN_RESOLV_CONF.into(),
        }
    });
    let watch = PathWatch::new(&path)
        .inspect_err(|error| info!("{}: {error:#}", path.display()))
        .ok();
    let mut followed = FollowedPath::new(path.clone(), watch).await;
    let mut known = None;
    loop {
        let read = read(&path).await;
        if known.as_ref() != Some(&read) {
            report(&path, &read, &board);
            // The servers of a file that can't be read now stay.
            if let Ok(servers) = &read {
                routes.follow_node_servers(servers.clone());
            }
            known = Some(read);
        }
        while followed.check().await == PathCheck::Unchanged {}
    }
}

/// The servers in a file. The error is a clause.
async fn read(path: &Path) -> Result<Vec<IpAddr>, String> {
    let owned = path.to_owned();
    let text = run_blocking(move || read_text(&owned, MAX_RESOLV_CONF));
    let text = match text.await {
        Ok(text) => text.map_err(|error| format!("{error:#}"))?,
        Err(error) => return Err(format!("{error:#}")),
    };
    match read_servers(&text).as_slice() {
        [] => Err("it names no server".to_owned()),
        // The kubelet writes as many into a pod's file.
        servers => Ok(servers.iter().take(MAX_NODE_SERVERS).copied().collect()),
    }
}

fn report(path: &Path, read: &Result<Vec<IpAddr>, String>, board: &StatusBoard) {
    let (servers, problem) = match read {
        Ok(servers) => (servers.clone(), String::new()),
        Err(cause) => {
            warn!(
                "can't read the node's servers from {}: {cause}; where CoreDNS forwards to them, \
                 the agent asks the servers that it knew before, or the cluster's DNS: give \
                 --resolv-conf",
                path.display()
            );
            (Vec::new(), cause.clone())
        }
    };
    let is_copy = path == Path::new(OWN_RESOLV_CONF);
    board.update(|status| {
        status.resolver.resolv_conf = Some(ResolvConfStatus {
            path: path.to_owned(),
            servers,
            problem,
            note: match is_copy {
                true => "a copy from the start of the agent's pod, so changes are not noticed"
                    .to_owned(),
                false => String::new(),
            },
        });
    });
}
