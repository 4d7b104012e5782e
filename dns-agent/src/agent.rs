//! The running agent: its tasks, and how they hang together.
//!
//! ```text
//! watch ──► follow: load ──► writer: build, publish ──► kernel's tables, resolver
//! ```
//!
//! Only the writer publishes. A task that ends ends the agent: half an agent
//! would look alive and be wrong.

mod kernel;
mod writer;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use anyhow::{Context, anyhow, bail};
use tokio::{
    net::TcpListener,
    task::{JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::writer::Writer;
use crate::{
    admin::{
        self,
        lookup::Known,
        status::{Board, ResolverStatus, SourceStatus, Status},
    },
    cluster::{Objects, Selectors},
    config::Config,
    resolver::{Resolver, Sockets, raise_file_limit},
    source::{
        manifests::{self, ManifestError},
        watch::Watch,
    },
};

/// What runs between start and shutdown. Each task's result is its name, for the
/// error when it ends on its own.
type Tasks = JoinSet<&'static str>;

/// A started agent.
#[derive(Debug)]
pub struct Agent {
    listen: Vec<SocketAddr>,
    admin: SocketAddr,
    tasks: Tasks,
}

impl Agent {
    /// Loads the objects, binds all addresses, and starts to serve.
    ///
    /// # Errors
    /// When the objects can't be loaded, or an address can't be bound.
    pub async fn start(config: Config) -> anyhow::Result<Agent> {
        // Watched from before it is read, so that no change falls in between.
        let watch = Watch::new(&config.manifests)
            .with_context(|| format!("can't watch {} for changes", config.manifests.display()))?;
        let objects = load(&config.manifests, &config.selectors)
            .await
            .map_err(|errors| unloadable(&errors))?;

        let sockets = config
            .listen
            .iter()
            .map(|address| Sockets::bind(*address))
            .collect::<Result<Vec<_>, _>>()?;
        let listen: Vec<_> = sockets.iter().map(Sockets::address).collect();
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

        // Making and filling the kernel's tables takes a while.
        let writer = {
            let config = config.clone();
            spawn_blocking(move || Writer::new(&config, objects)).await??
        };
        let upstreams = config.upstreams;
        let resolver = Arc::new(Resolver::new(writer.index().clone(), upstreams.clone()));
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: SourceStatus::loaded_now(&config.manifests),
            resolver: ResolverStatus {
                listen: listen.clone(),
                upstreams: upstreams.clone(),
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
            upstreams,
            kernel: writer.kernel().explainer(),
            board: board.clone(),
        });

        let mut tasks = Tasks::new();
        let (loads, loaded) = mpsc::channel();
        {
            let board = board.clone();
            tasks.spawn_blocking(move || {
                writer.run(&loaded, &board);
                "the writer"
            });
        }
        for sockets in sockets {
            resolver.serve(sockets, &mut tasks);
        }
        tasks.spawn(follow(
            watch,
            config.manifests,
            config.selectors,
            loads,
            board,
        ));
        tasks.spawn(async move {
            if let Err(error) = admin::serve(admin_listener, known).await {
                error!(%error, "the admin endpoints failed");
            }
            "the admin endpoints"
        });
        info!(?listen, %admin, "started");
        Ok(Agent {
            listen,
            admin,
            tasks,
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
        };
        // The writer can't be aborted: it ends, after its last word to the
        // kernel, when nobody is left to send it objects.
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
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

/// Loads the objects again whenever they change. Files that can't be used change
/// nothing.
async fn follow(
    mut watch: Watch,
    path: PathBuf,
    selectors: Selectors,
    loads: mpsc::Sender<Objects>,
    board: Arc<Board>,
) -> &'static str {
    loop {
        watch.changed().await;
        match load(&path, &selectors).await {
            Ok(objects) => {
                board.update(|status| status.source.loaded());
                if loads.send(objects).is_err() {
                    return "the source of objects";
                }
            }
            Err(errors) => {
                for error in &errors {
                    error!("{error}; what was loaded before is still served");
                }
                let errors = errors.iter().map(ToString::to_string).collect();
                board.update(|status| status.source.errors = errors);
            }
        }
    }
}

/// Reads files beside the runtime.
async fn load(path: &Path, selectors: &Selectors) -> Result<Objects, Vec<ManifestError>> {
    let (owned, selectors) = (path.to_owned(), selectors.clone());
    spawn_blocking(move || manifests::load(&owned, &selectors))
        .await
        .unwrap_or_else(|error| {
            Err(vec![ManifestError {
                file: path.to_owned(),
                line: None,
                reason: format!("reading failed: {error}"),
            }])
        })
}

fn unloadable(errors: &[ManifestError]) -> anyhow::Error {
    let lines: String = errors.iter().map(|error| format!("\n  {error}")).collect();
    anyhow!("can't load the manifests; mend these and start again:{lines}")
}
