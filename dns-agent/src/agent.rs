//! The running agent: its tasks, and how they hang together.
//!
//! ```text
//! files ──► follow: load ─────────────┐
//! API ──► feeds ──► follow: plan ─────┴─► writer: index, publish ──► kernel's tables, resolver
//! ```
//!
//! Only the writer publishes. A task that ends ends the agent: half an agent
//! would look alive and be wrong.

mod ending;
mod guard;
mod kernel;
mod kubernetes;
mod own_addresses;
mod plan;
mod policies;
pub mod threads;
mod writer;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    ending::Ends,
    threads::{privileged, privileged_task},
    writer::{Told, Writer},
};
use crate::{
    admin::{
        self,
        board::Board,
        lookup::Known,
        metrics::Metrics,
        status::{KubernetesStatus, ManifestsStatus, ResolverStatus, SourceStatus, Status},
    },
    cluster::{Objects, Selectors},
    config::{self, Config, NetworkPolicy, Source},
    datapath::interfaces::Changes,
    resolver::{ClusterDns, Resolver, Servers, Sockets, Upstreams, raise_file_limit},
    source::{
        kubernetes::{PolicyScope, connect},
        manifests::{self, ManifestError},
        watch::Watch,
    },
};

/// What is told and waits for the writer.
const WAITING: usize = 1024;

/// What runs between start and shutdown. Each task's result is its name, for the
/// error when it ends on its own.
type Tasks = JoinSet<&'static str>;

/// A started agent.
#[derive(Debug)]
pub struct Agent {
    listen: Vec<SocketAddr>,
    admin: SocketAddr,
    tasks: Tasks,
    /// Not among the others, which are aborted: it has the last word to the kernel.
    writer: oneshot::Receiver<()>,
    tell: mpsc::Sender<Told>,
    ends: Ends,
}

impl Agent {
    /// Binds all addresses and starts to serve: files when they are loaded, the Kubernetes API
    /// as it comes. What speaks to the kernel gets the capabilities of the calling thread.
    ///
    /// # Errors
    /// When the files can't be loaded, there is no way to the API, or an address can't be bound.
    pub async fn start(config: Config) -> anyhow::Result<Agent> {
        let source = Opened::open(&config).await?;
        let sockets = config
            .listen
            .iter()
            .map(|address| Sockets::bind(*address))
            .collect::<Result<Vec<_>, _>>()?;
        let listen: Vec<_> = sockets.iter().map(Sockets::address).collect();
        own_addresses::check(&config, &listen)?;
        let canaries = sockets.iter().map(Sockets::canary).cloned().collect();
        let admin_listener = TcpListener::bind(config.admin).await.with_context(|| {
            format!("can't listen on {} for the admin endpoints: give a free address of this machine as --admin", config.admin)
        })?;
        let admin = admin_listener.local_addr()?;
        if config.interfaces.is_empty() && listen.is_empty() {
            warn!("nobody is answered: neither --interface nor --listen is given");
        }
        if config.interfaces.is_empty() && !config.serve.is_empty() {
            warn!("--serve has no effect without --interface");
        }

        if let Err(error) = raise_file_limit() {
            warn!(%error, "can't raise the limit of open files: few queries can wait for upstreams at once");
        }

        let (status, objects, source) = source.split();
        let upstreams = upstreams(&config);
        if let Some(cluster) = &upstreams.cluster {
            cluster.servers.exclude(&listen);
        }
        let metrics = Arc::new(Metrics::default());
        // Making and filling the kernel's tables takes a while.
        let mut writer = {
            let (config, metrics) = (config.clone(), metrics.clone());
            let cluster = upstreams.cluster.as_ref();
            let servers = cluster.map_or_else(Servers::default, |cluster| cluster.servers.clone());
            let start = move || -> anyhow::Result<Writer> {
                let mut writer = Writer::new(&config, servers, metrics)?;
                if let Some(objects) = objects {
                    writer.load(objects);
                }
                Ok(writer)
            };
            privileged("writer", start)?
                .await
                .context("the writer failed")??
        };
        let resolver = Arc::new(Resolver::new(writer.index().clone(), upstreams));
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: status,
            resolver: ResolverStatus {
                listen: listen.clone(),
                upstreams: config.upstreams.clone(),
                ..ResolverStatus::default()
            },
            ..Status::default()
        };
        let board = Arc::new(Board::new(
            status,
            resolver.counters().clone(),
            writer.kernel().reader(),
        ));
        writer.show(&board);
        let known = Arc::new(Known {
            index: writer.index().clone(),
            listen: listen.clone(),
            resolver: resolver.clone(),
            kernel: writer.kernel().explainer(),
            kernel_canary: writer.kernel().canary(),
            canaries,
            board: board.clone(),
            metrics,
        });

        let mut tasks = Tasks::new();
        let (tell, mut told) = mpsc::channel(WAITING);
        let ends = source.ends(&config);
        let writer = {
            let board = board.clone();
            privileged("writer", move || writer.run(&mut told, &board))?
        };
        if !config.interfaces.is_empty() {
            tasks.spawn(watch_devices(tell.clone()));
        }
        for sockets in sockets {
            resolver.serve(sockets, &mut tasks);
        }
        if !listen.is_empty() {
            tasks.spawn(watch_for_loops(resolver.clone(), board.clone()));
        }
        match source {
            Following::Manifests(watch, path) => {
                let follow = follow(watch, path, config.selectors, tell.clone(), board);
                let follow = privileged_task("files", follow)?;
                tasks.spawn(async {
                    follow.await;
                    "the source of objects"
                });
            }
            Following::Kubernetes(client, kubernetes) => {
                if !config.interfaces.is_empty() && config.network_policy == NetworkPolicy::Respect
                {
                    let scope = PolicyScope {
                        node: kubernetes.node_name.clone(),
                        dns: kubernetes.dns_service.clone(),
                    };
                    tasks.spawn(policies::follow(
                        client.clone(),
                        scope,
                        kubernetes::first_list_jitter(&config.bpffs),
                        tell.clone(),
                        board.clone(),
                    ));
                }
                tasks.spawn(kubernetes::follow(
                    client,
                    config,
                    *kubernetes,
                    tell.clone(),
                    board,
                ));
            }
        }
        let endpoints = privileged_task("admin", async move {
            admin::serve(admin_listener, known).await;
        })?;
        tasks.spawn(async {
            endpoints.await;
            "the admin endpoints"
        });
        info!(?listen, %admin, "started");
        Ok(Agent {
            listen,
            admin,
            tasks,
            writer,
            tell,
            ends,
        })
    }

    /// The addresses the resolver answers on, in the order of the configuration.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The address of the admin endpoints.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until `shutdown`, then ends everything in order.
    ///
    /// # Errors
    /// When a task ended before.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let ended = tokio::select! {
            () = shutdown.cancelled() => None,
            ended = self.tasks.join_next() => ended,
            _ = &mut self.writer => Some(Ok("the writer")),
        };
        let ending = match &ended {
            None => self.ends.by_order().await,
            Some(_) => self.ends.by_mistake(),
        };
        // When the writer has ended, nobody is told.
        if self.tell.send(Told::End(ending)).await.is_ok() {
            self.writer.await.context("the writer failed")?;
        }
        self.tasks.shutdown().await;
        match ended {
            None => {
                info!("stopped");
                Ok(())
            }
            Some(Ok(name)) => bail!("{name} ended unexpectedly"),
            Some(Err(error)) => Err(anyhow!(error).context("a task failed")),
        }
    }
}

/// A source that is there.
enum Opened {
    Manifests(Watch, PathBuf, Objects),
    Kubernetes(Client, Box<config::Kubernetes>),
}

/// A source to be followed.
enum Following {
    Manifests(Watch, PathBuf),
    Kubernetes(Client, Box<config::Kubernetes>),
}

impl Following {
    /// What decides how the agent ends.
    fn ends(&self, config: &Config) -> Ends {
        match self {
            Following::Manifests(..) => Ends::new(config.persistence, None, None),
            Following::Kubernetes(client, kubernetes) => Ends::new(
                config.persistence,
                Some(client.clone()),
                kubernetes.daemon_set.clone(),
            ),
        }
    }
}

impl Opened {
    async fn open(config: &Config) -> anyhow::Result<Opened> {
        match &config.source {
            Source::Manifests(path) => {
                // Watched from before it is read, so that no change falls in between.
                let watch = Watch::new(path)
                    .with_context(|| format!("can't watch {} for changes", path.display()))?;
                let objects = load(path, &config.selectors)
                    .await
                    .map_err(|errors| unloadable(&errors))?;
                Ok(Opened::Manifests(watch, path.clone(), objects))
            }
            Source::Kubernetes(kubernetes) => {
                let client = connect(kubernetes.kubeconfig.as_deref()).await?;
                Ok(Opened::Kubernetes(client, Box::new(kubernetes.clone())))
            }
        }
    }

    /// What to show of it, what is known already, and what is to come.
    fn split(self) -> (SourceStatus, Option<Objects>, Following) {
        match self {
            Opened::Manifests(watch, path, objects) => {
                let status = SourceStatus::Manifests(ManifestsStatus::loaded_now(&path));
                (status, Some(objects), Following::Manifests(watch, path))
            }
            Opened::Kubernetes(client, kubernetes) => {
                let status = SourceStatus::Kubernetes(KubernetesStatus::default());
                (status, None, Following::Kubernetes(client, kubernetes))
            }
        }
    }
}

/// Who the resolver asks.
fn upstreams(config: &Config) -> Upstreams {
    let cluster = match &config.source {
        Source::Manifests(_) => None,
        Source::Kubernetes(kubernetes) => Some(ClusterDns {
            domains: config.zone.cluster_domains.clone(),
            servers: Servers::new(kubernetes.cluster_dns.clone()),
        }),
    };
    Upstreams {
        others: config.upstreams.clone(),
        cluster,
    }
}

/// Shows upstreams that ask this agent in turn.
async fn watch_for_loops(resolver: Arc<Resolver>, board: Arc<Board>) -> &'static str {
    let show = |servers: &[SocketAddr]| board.update(|all| all.resolver.loops = servers.to_vec());
    match resolver.watch_for_loops(show).await {}
}

/// Tells the writer of network devices that come and go. It looks for them now and then anyway, so
/// that no way to be told is no reason to end.
async fn watch_devices(tell: mpsc::Sender<Told>) -> &'static str {
    match Changes::listen() {
        Ok(mut changes) => {
            while changes.next().await.is_some() && tell.send(Told::Devices).await.is_ok() {}
        }
        Err(error) => warn!("{error:#}"),
    }
    warn!(
        "changes of network devices are not told any more: new pods are found up to a second later"
    );
    std::future::pending().await
}

/// Loads the objects again whenever they change. Files that can't be used change
/// nothing.
async fn follow(
    mut watch: Watch,
    path: PathBuf,
    selectors: Selectors,
    tell: mpsc::Sender<Told>,
    board: Arc<Board>,
) {
    loop {
        watch.changed().await;
        let loaded = load(&path, &selectors).await;
        let status = match &loaded {
            Ok(_) => ManifestsStatus::loaded_now(&path),
            Err(errors) => {
                for error in errors {
                    error!("{error}; what was loaded before is still served");
                }
                ManifestsStatus {
                    errors: errors.iter().map(ToString::to_string).collect(),
                    ..board.manifests()
                }
            }
        };
        board.update(|all| all.source = SourceStatus::Manifests(status));
        if let Ok(objects) = loaded
            && tell.send(Told::Objects(objects)).await.is_err()
        {
            return;
        }
    }
}

/// Reads files beside the runtime.
async fn load(path: &Path, selectors: &Selectors) -> Result<Objects, Vec<ManifestError>> {
    let (owned, selectors) = (path.to_owned(), selectors.clone());
    let failed = |error: &dyn std::fmt::Display| {
        Err(vec![ManifestError {
            file: path.to_owned(),
            line: None,
            reason: format!("reading failed: {error}"),
        }])
    };
    match privileged("files", move || manifests::load(&owned, &selectors)) {
        Ok(loading) => loading.await.unwrap_or_else(|error| failed(&error)),
        Err(error) => failed(&error),
    }
}

fn unloadable(errors: &[ManifestError]) -> anyhow::Error {
    let lines: String = errors.iter().map(|error| format!("\n  {error}")).collect();
    anyhow!("can't load the manifests; mend these and start again:{lines}")
}
