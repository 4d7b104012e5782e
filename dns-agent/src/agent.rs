//! The running agent: its tasks, and how they hang together.
//!
//! ```text
//! files ──► follow: load ─────────────┐
//! API ──► feeds ──► follow: plan ─────┴─► writer: index, publish ──► kernel's tables, resolver
//! ```
//!
//! Only the writer publishes. A task that ends ends the agent: half an agent
//! would look alive and be wrong.

mod dns_path;
mod ending;
mod files;
mod guard;
mod in_force;
mod kernel;
mod kubernetes;
mod node_caches;
mod own_addresses;
mod plan;
mod policies;
pub mod threads;
mod writer;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, anyhow};
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    dns_path::DnsPath,
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
    config::{self, Config, Source},
    datapath::{Ending, interfaces::Changes},
    files::{MAX_SETTINGS, read_text},
    resolver::{ClusterDns, Resolver, Servers, Sockets, Upstreams, raise_file_limit},
    source::kubernetes::{PolicyScope, connect},
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
    /// What comes of the first load of the files; none when it is done, or there are no files.
    loading: Option<files::Loading>,
}

/// How an agent ends whose files can't be loaded: it has published nothing, and what an agent before
/// left stays as it is.
const UNLOADABLE: Ending = Ending::Left;

/// Why an agent ends.
#[derive(Debug)]
enum Cause {
    /// It was told to.
    Order,
    /// The files can't be loaded.
    Unloadable(anyhow::Error),
    /// A task ended.
    Task(Result<&'static str, JoinError>),
}

impl Agent {
    /// [Begins](Agent::begin), and waits until the files are loaded and served.
    ///
    /// # Errors
    /// When the files can't be loaded, there is no way to the API, or an address can't be bound.
    pub async fn start(config: Config) -> anyhow::Result<Agent> {
        let mut agent = Agent::begin(config).await?;
        match agent.load().await {
            Ok(()) => Ok(agent),
            Err(error) => {
                agent.end(UNLOADABLE).await?;
                Err(error)
            }
        }
    }

    /// Binds all addresses and starts to serve: files when they are loaded, the Kubernetes API
    /// as it comes. What speaks to the kernel gets the capabilities of the calling thread.
    ///
    /// # Errors
    /// When there is no way to the API, or an address can't be bound.
    pub async fn begin(config: Config) -> anyhow::Result<Agent> {
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

        let status = source.status();
        let upstreams = upstreams(&config);
        if let Some(cluster) = &upstreams.cluster {
            cluster.servers.exclude(&listen);
        }
        let metrics = Arc::new(Metrics::default());
        let mut writer = {
            let (config, metrics) = (config.clone(), metrics.clone());
            let cluster = upstreams.cluster.as_ref();
            let servers = cluster.map_or_else(Servers::default, |cluster| cluster.servers.clone());
            privileged("writer", move || Writer::new(&config, servers, metrics))?
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
        let mut loading = None;
        if !listen.is_empty() {
            tasks.spawn(watch_for_loops(resolver.clone(), board.clone()));
        }
        match source {
            Opened::Manifests(path) => {
                let (first, done) = oneshot::channel();
                loading = Some(done);
                let follow = files::follow(path, config.selectors, first, tell.clone(), board);
                let follow = privileged_task("files", follow)?;
                tasks.spawn(async {
                    follow.await;
                    "the source of objects"
                });
            }
            Opened::Kubernetes(client, kubernetes) => {
                let path = (!config.interfaces.is_empty()).then(|| {
                    let (path, seen) = watch::channel(DnsPath::default());
                    let scope = PolicyScope {
                        node: kubernetes.node_name.clone(),
                        dns: kubernetes.dns_service.clone(),
                    };
                    tasks.spawn(policies::follow(
                        client.clone(),
                        scope,
                        config.network_policy,
                        kubernetes::first_list_jitter(&config.bpffs),
                        tell.clone(),
                        path,
                        board.clone(),
                    ));
                    seen
                });
                tasks.spawn(kubernetes::follow(
                    client,
                    config,
                    *kubernetes,
                    path,
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
        let mut agent = Agent {
            listen,
            admin,
            tasks,
            writer,
            tell,
            ends,
            loading,
        };
        match agent.loading {
            Some(_) => info!(%admin, "the admin endpoints are there; the files are being loaded"),
            None => agent.load().await?,
        }
        Ok(agent)
    }

    /// Waits until the files, if there are any, are loaded and served.
    async fn load(&mut self) -> anyhow::Result<()> {
        if let Some(loading) = &mut self.loading {
            let loaded = loading.await.context("the source of objects failed")?;
            self.loading = None;
            loaded?;
        }
        info!(listen = ?self.listen, admin = %self.admin, "started");
        Ok(())
    }

    /// The addresses the resolver answers on, in the order of the configuration.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The address of the admin endpoints.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until `shutdown`, then ends everything in order. It ends too while the files are
    /// still being loaded.
    ///
    /// # Errors
    /// When a task ended before, or the files can't be loaded.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let loaded = match self.loading {
            None => Ok(()),
            Some(_) => tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                loaded = self.load() => loaded,
            },
        };
        let cause = match loaded {
            Err(error) => Cause::Unloadable(error),
            Ok(()) => tokio::select! {
                () = shutdown.cancelled() => Cause::Order,
                Some(ended) = self.tasks.join_next() => Cause::Task(ended),
                _ = &mut self.writer => Cause::Task(Ok("the writer")),
            },
        };
        let ending = match cause {
            Cause::Order => self.ends.by_order().await,
            Cause::Unloadable(_) => UNLOADABLE,
            Cause::Task(_) => self.ends.by_mistake(),
        };
        self.end(ending).await?;
        match cause {
            Cause::Order => {
                info!("stopped");
                Ok(())
            }
            Cause::Unloadable(error) => Err(error),
            Cause::Task(Ok(name)) => Err(anyhow!("{name} ended unexpectedly")),
            Cause::Task(Err(error)) => Err(anyhow!(error).context("a task failed")),
        }
    }

    /// Ends everything in order.
    async fn end(mut self, ending: Ending) -> anyhow::Result<()> {
        // When the writer has ended, nobody is told.
        if self.tell.send(Told::End(ending)).await.is_ok() {
            self.writer.await.context("the writer failed")?;
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}

/// A source of objects.
enum Opened {
    Manifests(PathBuf),
    Kubernetes(Client, Box<config::Kubernetes>),
}

impl Opened {
    async fn open(config: &Config) -> anyhow::Result<Opened> {
        match &config.source {
            Source::Manifests(path) => Ok(Opened::Manifests(path.clone())),
            Source::Kubernetes(kubernetes) => {
                if let Some(file) = &kubernetes.kubeconfig {
                    // kube reads whatever stands there, to its end.
                    read_text(file, MAX_SETTINGS)
                        .with_context(|| format!("can't read the kubeconfig {}", file.display()))?;
                }
                let client = connect(kubernetes.kubeconfig.as_deref()).await?;
                Ok(Opened::Kubernetes(client, Box::new(kubernetes.clone())))
            }
        }
    }

    /// What to show of it while nothing was read.
    fn status(&self) -> SourceStatus {
        match self {
            Opened::Manifests(path) => SourceStatus::Manifests(ManifestsStatus::of(path)),
            Opened::Kubernetes(..) => SourceStatus::Kubernetes(KubernetesStatus::default()),
        }
    }

    /// What decides how the agent ends.
    fn ends(&self, config: &Config) -> Ends {
        match self {
            Opened::Manifests(_) => Ends::new(config.persistence, None, None),
            Opened::Kubernetes(client, kubernetes) => Ends::new(
                config.persistence,
                Some(client.clone()),
                kubernetes.daemon_set.clone(),
            ),
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
