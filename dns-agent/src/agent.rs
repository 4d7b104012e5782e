//! The running agent: its tasks and their connections.
//!
//! ```text
//! manifests ─────► reader ──────┐
//! Kubernetes API ► readers ─────┼─► intakes ─► publisher ──► kernel plane's tables
//! hosts files ───► reader ──────┘                  └──────► providers' names ──► resolver
//! ```
//!
//! A *reader* is a task that reads objects of one origin, and sends them to its *intake*
//! ([`intake`]). The publisher owns the intakes, and lets them apply objects to their providers.
//! Only the publisher changes the providers and the tables.
//!
//! The agent stops when any task ends, because an agent with a missing task would look healthy and
//! answer from outdated data.

mod client_policy;
mod followed_path;
mod hosts;
mod intake;
mod kernel_plane;
mod kubernetes;
mod manifests;
mod own_addresses;
mod permitted_queries;
mod probes;
mod publisher;
mod routes;
mod shutdown;
mod steering;
pub mod threads;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, RwLock},
};

use anyhow::{Context, anyhow};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zerohop_datapath::{StopMode, interfaces::DeviceChanges};
use zerohop_kubernetes::Index;
use zerohop_kubernetes_api::{Client, connect};
use zerohop_resolver::{
    AddressServers, ClusterDns, DnstapSettings, DnstapStream, ObserverSettings, Resolver,
    ServerSet, Sockets, UdpReceiver, UpstreamServer, UpstreamServers, Upstreams, raise_file_limit,
};
use zerohop_sources::files::{MAX_SETTINGS, read_text};

pub use self::steering::SteeringPreparation;
use self::{
    hosts::HostsIntake,
    intake::{Intake, Wake},
    kubernetes::{KubernetesIntake, KubernetesReaders, KubernetesSender},
    manifests::{ManifestsIntake, ManifestsSender},
    publisher::{Publisher, PublisherInbox, PublisherMessage, PublisherSender},
    routes::RouteFollower,
    shutdown::ShutdownPolicy,
    steering::{SocketWatch, Steering, SteeringEnd},
    threads::{run_privileged, spawn_privileged_task, spawn_unprivileged_task},
};
use crate::{
    admin,
    admin::metrics::Metrics,
    admin::probes::ProbeStates,
    admin::state::AdminState,
    admin::status::{
        KubernetesStatus, ManifestsStatus, ResolverStatus, SourceStatus, Status, SteeringStatus,
    },
    admin::status_board::StatusBoard,
    config::{self, Config, HostsPrecedence, OutsideUpstream, SourceConfig},
};

/// The tasks that run until shutdown. A task that ends on its own returns its name for the error
/// message.
type Tasks = JoinSet<&'static str>;

/// A started agent.
#[derive(Debug)]
pub struct Agent {
    listen: Vec<SocketAddr>,
    admin: SocketAddr,
    dnstap: Option<DnstapStream>,
    tasks: Tasks,
    /// Completes when the publisher ends. The publisher is not in `tasks`, because a shutdown
    /// aborts the tasks, and the publisher must stop the kernel plane before it ends.
    publisher_end: oneshot::Receiver<()>,
    publisher_messages: PublisherSender,
    shutdown_policy: ShutdownPolicy,
    /// Receives the result of the first load of the manifests. `None` after that load, and without
    /// manifests.
    first_load: Option<manifests::FirstLoad>,
    /// `None` if nothing is steered.
    steering_end: Option<SteeringEnd>,
}

/// How the kernel plane stops when the manifests can't be loaded. This agent has published nothing,
/// so the hooks of an earlier agent may stay.
const STOP_MODE_IF_UNLOADABLE: StopMode = StopMode::KeepHooks;

/// Why the agent ends.
#[derive(Debug)]
enum EndCause {
    /// The caller of [`Agent::run`] cancelled the token, for example because of a signal.
    Requested,
    /// The manifests can't be loaded.
    Unloadable(anyhow::Error),
    /// A task ended on its own.
    TaskEnded(Result<&'static str, JoinError>),
}

impl Agent {
    /// Starts the agent as [`Agent::spawn`] does, without steering, and waits until the manifests
    /// are loaded and published.
    ///
    /// # Errors
    /// As for [`Agent::spawn`], and when the manifests can't be loaded.
    pub async fn start(config: Config) -> anyhow::Result<Agent> {
        let mut agent = Agent::spawn(config, SteeringPreparation::Off).await?;
        match agent.finish_first_load().await {
            Ok(()) => Ok(agent),
            Err(error) => {
                agent.stop(STOP_MODE_IF_UNLOADABLE).await?;
                Err(error)
            }
        }
    }

    /// Binds all addresses and spawns all tasks, without waiting for the first objects. Threads
    /// that make privileged system calls inherit the capabilities of the calling thread.
    ///
    /// # Errors
    /// * The kubeconfig can't be read, or the API's address or credentials can't be determined.
    /// * An address can't be bound, or an upstream is the agent itself.
    /// * The kernel plane refuses its settings, for example because any client on a network card
    ///   would be answered, or the network devices can't be read.
    /// * A thread can't be started.
    pub async fn spawn(config: Config, steering: SteeringPreparation) -> anyhow::Result<Agent> {
        let source = OpenedSource::open(&config).await?;
        let sockets = config
            .listen
            .iter()
            .map(|address| Sockets::bind(*address))
            .collect::<Result<Vec<_>, _>>()?;
        let listen: Vec<_> = sockets.iter().map(Sockets::address).collect();
        own_addresses::check_upstreams(&config, &listen)?;
        let resolver_canaries = sockets.iter().map(Sockets::canary).cloned().collect();
        let admin_listener = TcpListener::bind(config.admin).await.with_context(|| {
            format!(
                "can't listen on {} for the admin endpoints: give a free address of this machine \
                 as --admin",
                config.admin
            )
        })?;
        let admin = admin_listener.local_addr()?;
        if config.interfaces.is_empty() && listen.is_empty() {
            warn!(
                "this agent answers no queries, because neither --interface nor --listen is \
                 given: give one of them"
            );
        }
        if config.interfaces.is_empty() && !config.served_addresses.is_empty() {
            warn!("--serve has no effect without --interface: give --interface too");
        }

        if let Err(error) = raise_file_limit() {
            warn!(
                %error,
                "the limit of open files can't be raised, so fewer queries can wait for upstreams \
                 at the same time"
            );
        }

        let source_status = source.status();
        let shutdown_policy = source.shutdown_policy(&config);
        let routes = RouteFollower::new(&config);
        let upstreams = upstreams(&config, &routes)?;
        if let Some(cluster) = &upstreams.cluster {
            cluster.servers.exclude(&listen);
        }
        let metrics = Arc::new(Metrics::default());
        let wake = Wake::default();
        let cluster = upstreams.cluster.as_ref();
        let servers =
            cluster.map_or_else(UpstreamServers::default, |cluster| cluster.servers.clone());
        let (source, intake) = source.connect(&config, servers, &wake);
        let mut intakes = vec![intake];
        let mut hosts_sender = None;
        if !config.hosts.is_empty() {
            let (sender, intake) = HostsIntake::new(&config, &wake);
            hosts_sender = Some(sender);
            // The providers are in the order of their precedence.
            match config.hosts_precedence {
                HostsPrecedence::Above => intakes.insert(0, Box::new(intake)),
                HostsPrecedence::Below => intakes.push(Box::new(intake)),
            }
        }
        let (mut steering_status, mut prepared) = match steering {
            SteeringPreparation::Off => (SteeringStatus::default(), None),
            SteeringPreparation::Unavailable(reason) => {
                info!("pods' queries are not steered to this agent's resolver: {reason}");
                (SteeringStatus::unavailable(reason), None)
            }
            SteeringPreparation::Ready(prepared) => (SteeringStatus::default(), Some(prepared)),
        };
        let mut publisher = {
            let (config, metrics) = (config.clone(), metrics.clone());
            let program = prepared.as_ref().map(|prepared| prepared.program());
            let program = program.transpose().unwrap_or_else(|error| {
                prepared = None;
                steering_status = SteeringStatus::unavailable(format!("{error:#}"));
                None
            });
            let start = move || Publisher::new(&config, intakes, metrics, program);
            let publisher = run_privileged("publisher", start)?.await;
            publisher.context("the publisher failed")??
        };
        let providers = publisher.providers().clone();
        let steering_inputs = publisher.kernel_plane().steering_inputs();
        let resolver = Arc::new(Resolver::observed(
            Arc::new(providers.clone()),
            upstreams,
            config.cache,
            &observer_settings(&config),
        ));
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: source_status,
            resolver: ResolverStatus {
                listen: listen.clone(),
                upstreams: config.upstreams.iter().map(|it| it.address).collect(),
                ..ResolverStatus::default()
            },
            steering: steering_status,
            ..Status::default()
        };
        let board = Arc::new(StatusBoard::new(
            status,
            resolver.clone(),
            publisher.kernel_plane().status_reader(),
        ));
        publisher.update_board(&board);
        let labels = config.probes.iter().map(|probe| probe.label.clone());
        let probe_states = Arc::new(ProbeStates::new(labels));
        let admin_state = Arc::new(AdminState {
            providers: providers.clone(),
            listen: listen.clone(),
            resolver: resolver.clone(),
            explain_kernel: publisher.kernel_plane().explainer(),
            kernel_canary: publisher.kernel_plane().canary(),
            resolver_canaries,
            board: board.clone(),
            metrics,
            probes: probe_states.clone(),
        });

        let mut tasks = Tasks::new();
        let (publisher_messages, mut inbox) = PublisherInbox::new(&wake);
        let publisher_end = {
            let board = board.clone();
            run_privileged("publisher", move || publisher.run(&mut inbox, &board))?
        };
        if !config.interfaces.is_empty() {
            tasks.spawn(watch_devices(publisher_messages.clone()));
        }
        for sockets in sockets {
            spawn_servers(resolver.servers(sockets), &mut tasks)?;
        }
        let mut first_load = None;
        if !listen.is_empty() || prepared.is_some() {
            tasks.spawn(watch_for_loops(resolver.clone(), board.clone()));
            tasks.spawn(prove_groups(resolver.clone()));
        }
        let mut steering_end = None;
        if let Some(mut prepared) = prepared {
            let sockets = prepared.take_sockets();
            let watch = SocketWatch::new(&sockets);
            let data = Arc::new(providers.clone());
            let steering = Steering::new(
                *prepared,
                watch,
                steering_inputs,
                data,
                resolver.clone(),
                routes.clone(),
                board.clone(),
            );
            for sockets in sockets {
                let AddressServers { udp, tcp } = resolver.servers(sockets);
                spawn_receivers(udp, &mut tasks)?;
                let admitted = steering.admitted();
                // `match` without arms: the call never returns.
                tasks.spawn(async { match tcp.serve_admitted(admitted).await {} });
            }
            let (steer, end) = steering.into_task();
            let steer = spawn_privileged_task("steering", steer)?;
            tasks.spawn(async {
                steer.await;
                "the steering task"
            });
            steering_end = Some(end);
        }
        let dnstap = resolver.dnstap();
        if let Some(dnstap) = dnstap.clone() {
            tasks.spawn(send_dnstap(dnstap));
        }
        for (number, path) in config.hosts.iter().enumerate() {
            let Some(sender) = hosts_sender.clone() else {
                break;
            };
            let follow = hosts::follow(number, path.clone(), sender);
            let follow = spawn_privileged_task("files", follow)?;
            tasks.spawn(async {
                follow.await;
                "the reader of a hosts file"
            });
        }
        for (probe, state) in config.probes.iter().zip(probe_states.iter()) {
            let probing = probes::probe(probe.clone(), state.clone());
            // `match` without arms: the task never ends on its own.
            tasks.spawn(async { match probing.await {} });
        }
        match source {
            ConnectedSource::Manifests(path, sender) => {
                let (first, done) = oneshot::channel();
                first_load = Some(done);
                let follow = manifests::follow(path, config.selectors, first, sender, board);
                let follow = spawn_privileged_task("files", follow)?;
                tasks.spawn(async {
                    follow.await;
                    "the reader of the manifests"
                });
            }
            ConnectedSource::Kubernetes(client, kubernetes, sender) => {
                let path = config.resolv_conf.clone();
                let follow = routes::follow_resolv_conf(path, routes.clone(), board.clone());
                let follow = spawn_privileged_task("files", follow)?;
                tasks.spawn(async {
                    follow.await;
                    "the reader of resolv.conf"
                });
                let readers = KubernetesReaders {
                    config,
                    kubernetes: *kubernetes,
                    board,
                    routes,
                };
                readers.spawn(client, &sender, &mut tasks);
            }
        }
        let endpoints = spawn_privileged_task("admin", async move {
            admin::serve(admin_listener, admin_state).await;
        })?;
        tasks.spawn(async {
            endpoints.await;
            "the admin endpoints"
        });
        let mut agent = Agent {
            listen,
            admin,
            dnstap,
            tasks,
            publisher_end,
            publisher_messages,
            shutdown_policy,
            first_load,
            steering_end,
        };
        match agent.first_load {
            Some(_) => info!(%admin, "the admin endpoints are up; the manifests are being loaded"),
            None => agent.finish_first_load().await?,
        }
        Ok(agent)
    }

    /// Waits until the manifests are loaded and published; without manifests, not at all. Then logs
    /// that the agent has started.
    async fn finish_first_load(&mut self) -> anyhow::Result<()> {
        if let Some(first_load) = &mut self.first_load {
            let loaded = first_load
                .await
                .context("the reader of the manifests failed")?;
            self.first_load = None;
            loaded?;
        }
        info!(listen = ?self.listen, admin = %self.admin, "started");
        Ok(())
    }

    /// The addresses that the resolver listens on, in the order of the configuration.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// The address of the admin endpoints.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Runs until `shutdown` is cancelled or the agent fails, then stops everything in order. It
    /// may be called while the manifests are still being loaded.
    ///
    /// # Errors
    /// When a task or the publisher ended on its own, or the manifests can't be loaded.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let loaded = match self.first_load {
            None => Ok(()),
            Some(_) => tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                loaded = self.finish_first_load() => loaded,
            },
        };
        let cause = match loaded {
            Err(error) => EndCause::Unloadable(error),
            Ok(()) => tokio::select! {
                () = shutdown.cancelled() => EndCause::Requested,
                Some(ended) = self.tasks.join_next() => EndCause::TaskEnded(ended),
                _ = &mut self.publisher_end => EndCause::TaskEnded(Ok("the publisher")),
            },
        };
        let stop_mode = match cause {
            EndCause::Requested => self.shutdown_policy.stop_mode_on_request().await,
            EndCause::Unloadable(_) => STOP_MODE_IF_UNLOADABLE,
            EndCause::TaskEnded(_) => self.shutdown_policy.stop_mode_after_failure(),
        };
        self.stop(stop_mode).await?;
        match cause {
            EndCause::Requested => {
                info!("stopped");
                Ok(())
            }
            EndCause::Unloadable(error) => Err(error),
            EndCause::TaskEnded(Ok(name)) => Err(anyhow!(
                "{name} ended unexpectedly, so the agent stops: start it again, and report this \
                 with the log"
            )),
            EndCause::TaskEnded(Err(error)) => Err(anyhow!(error).context(
                "a task failed, so the agent stops: start it again, and report this with the log",
            )),
        }
    }

    /// Stops everything in order: steering first, then the publisher with the kernel plane, then
    /// the stream to the dnstap collector, then all tasks.
    async fn stop(mut self, stop_mode: StopMode) -> anyhow::Result<()> {
        if let Some(steering) = self.steering_end {
            steering.drain().await;
        }
        // Sending fails when the publisher has ended already.
        if self
            .publisher_messages
            .send(PublisherMessage::Shutdown(stop_mode))
            .await
            .is_ok()
        {
            self.publisher_end.await.context("the publisher failed")?;
        }
        if let Some(dnstap) = &self.dnstap {
            dnstap.close().await;
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}

/// A source of objects whose configuration has been checked.
enum OpenedSource {
    Manifests(PathBuf),
    Kubernetes(Client, Box<config::KubernetesConfig>),
}

impl OpenedSource {
    async fn open(config: &Config) -> anyhow::Result<OpenedSource> {
        match &config.source {
            SourceConfig::Manifests(path) => Ok(OpenedSource::Manifests(path.clone())),
            SourceConfig::Kubernetes(kubernetes) => {
                if let Some(file) = &kubernetes.kubeconfig {
                    // Checked first, because kube would read a FIFO or an endless file to its end.
                    read_text(file, MAX_SETTINGS)
                        .with_context(|| format!("can't read the kubeconfig {}", file.display()))?;
                }
                let client = connect(kubernetes.kubeconfig.as_deref()).await?;
                Ok(OpenedSource::Kubernetes(
                    client,
                    Box::new(kubernetes.clone()),
                ))
            }
        }
    }

    /// The status of the source before any object is read.
    fn status(&self) -> SourceStatus {
        match self {
            OpenedSource::Manifests(path) => {
                SourceStatus::Manifests(ManifestsStatus::not_loaded(path))
            }
            OpenedSource::Kubernetes(..) => SourceStatus::Kubernetes(KubernetesStatus::default()),
        }
    }

    /// Makes the intake of the source, which has received nothing. `cluster_dns` are the resolver's
    /// servers of the cluster's DNS.
    fn connect(
        self,
        config: &Config,
        cluster_dns: UpstreamServers,
        wake: &Wake,
    ) -> (ConnectedSource, Box<dyn Intake>) {
        let index = Arc::new(RwLock::new(Index::new(config.zone.clone(), 0)));
        match self {
            OpenedSource::Manifests(path) => {
                let (sender, intake) = ManifestsIntake::new(config, index, wake);
                (ConnectedSource::Manifests(path, sender), Box::new(intake))
            }
            OpenedSource::Kubernetes(client, kubernetes) => {
                let (sender, intake) =
                    KubernetesIntake::new(config, &kubernetes, index, cluster_dns, wake);
                let source = ConnectedSource::Kubernetes(client, kubernetes, sender);
                (source, Box::new(intake))
            }
        }
    }

    /// The policy that decides whether hooks stay when the agent ends.
    fn shutdown_policy(&self, config: &Config) -> ShutdownPolicy {
        match self {
            // Without the API no DaemonSet can be read.
            OpenedSource::Manifests(_) => ShutdownPolicy::new(config.persistence, None, None),
            OpenedSource::Kubernetes(client, kubernetes) => ShutdownPolicy::new(
                config.persistence,
                Some(client.clone()),
                kubernetes.daemon_set.clone(),
            ),
        }
    }
}

/// A source of objects whose intake the publisher has.
enum ConnectedSource {
    Manifests(PathBuf, ManifestsSender),
    Kubernetes(Client, Box<config::KubernetesConfig>, KubernetesSender),
}

/// The servers that the resolver forwards to.
///
/// # Errors
/// When servers over TLS are configured, and their names are invalid or no certificate authority is
/// found.
fn upstreams(config: &Config, routes: &RouteFollower) -> anyhow::Result<Upstreams> {
    let cluster = match &config.source {
        SourceConfig::Manifests(_) => None,
        SourceConfig::Kubernetes(kubernetes) => Some(ClusterDns {
            domains: config.zone.cluster_domains.clone(),
            servers: UpstreamServers::new(kubernetes.cluster_dns.clone()),
        }),
    };
    let server_set = |servers: &[OutsideUpstream]| {
        let servers = servers.iter().map(|server| match &server.tls_name {
            None => Ok(UpstreamServer::plain(server.address)),
            Some(name) => UpstreamServer::over_tls(server.address, name),
        });
        let set = ServerSet {
            servers: servers.collect::<anyhow::Result<_>>()?,
            policy: config.upstream_policy,
            ..ServerSet::default()
        };
        set.check_authorities()?;
        anyhow::Ok(set)
    };
    for stub in &config.stub_domains {
        server_set(&stub.servers)
            .with_context(|| format!("can't use --stub-domain {}", stub.zone))?;
    }
    Ok(Upstreams {
        outside: server_set(&config.upstreams).context("can't use --upstream tls://")?,
        cluster,
        routes: routes.live().clone(),
        case: config.upstream_case,
    })
}

/// Who observes the resolver's queries.
fn observer_settings(config: &Config) -> ObserverSettings {
    let identity = match &config.source {
        SourceConfig::Manifests(_) => None,
        SourceConfig::Kubernetes(kubernetes) => kubernetes.node_name.clone(),
    };
    let dnstap = config.dnstap.clone().map(|socket| DnstapSettings {
        socket,
        identity,
        version: concat!("Zerohop ", env!("CARGO_PKG_VERSION")).to_owned(),
    });
    ObserverSettings {
        dnstap,
        query_log: config.query_log.clone(),
    }
}

/// Runs the servers of an address. Those that receive over UDP have threads of their own, so that
/// no other work delays them.
fn spawn_servers(servers: AddressServers, tasks: &mut Tasks) -> io::Result<()> {
    let AddressServers { udp, tcp } = servers;
    spawn_receivers(udp, tasks)?;
    // `match` without arms: the call never returns.
    tasks.spawn(async { match tcp.serve().await {} });
    Ok(())
}

/// Runs servers that receive over UDP.
fn spawn_receivers(servers: Vec<UdpReceiver>, tasks: &mut Tasks) -> io::Result<()> {
    for server in servers {
        let serve = async {
            // `let Err`: the call returns only an error.
            let Err(error) = server.serve().await;
            error!(%error, "the UDP server can't wait for queries");
        };
        let serve = spawn_unprivileged_task("udp", serve)?;
        tasks.spawn(async {
            serve.await;
            "the UDP server"
        });
    }
    Ok(())
}

/// Sends messages to the dnstap collector until the agent stops.
async fn send_dnstap(dnstap: DnstapStream) -> &'static str {
    dnstap.run().await;
    // The other tasks end later.
    std::future::pending().await
}

/// Asks groups of servers that have not answered yet.
async fn prove_groups(resolver: Arc<Resolver>) -> &'static str {
    // `match` without arms: the call never returns.
    match resolver.prove_groups().await {}
}

/// Reports upstreams that forward queries back to this agent, and servers of the cluster's DNS that
/// are addresses of this agent.
async fn watch_for_loops(resolver: Arc<Resolver>, board: Arc<StatusBoard>) -> &'static str {
    let report =
        |servers: &[SocketAddr]| board.update(|status| status.resolver.loops = servers.to_vec());
    // `match` without arms: the call never returns.
    match resolver.watch_for_loops(report).await {}
}

/// Notifies the publisher of changed network devices. If the kernel sends no notifications, this
/// task waits forever: the agent still works, because the publisher scans for devices every second.
async fn watch_devices(publisher_messages: PublisherSender) -> &'static str {
    match DeviceChanges::listen() {
        Ok(mut changes) => {
            while changes.next().await.is_some()
                && publisher_messages
                    .send(PublisherMessage::DevicesChanged)
                    .await
                    .is_ok()
            {}
        }
        Err(error) => warn!("can't subscribe to the kernel's notifications: {error:#}"),
    }
    warn!(
        "the kernel does not report changes of network devices: for up to a second CoreDNS \
         answers the queries of new pods"
    );
    std::future::pending().await
}
