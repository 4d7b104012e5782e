//! The one task that publishes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::kernel::Kernel;

use crate::{
    admin::{
        lookup::Published,
        status::{Board, ZoneStatus},
    },
    cluster::{self, Objects, Problem, ZoneSettings},
    config::Config,
    zone::Model,
};

/// Builds models of objects and publishes them to both planes.
pub(super) struct Writer {
    settings: ZoneSettings,
    /// What is wrong with the published objects; said once each.
    problems: BTreeSet<Problem>,
    models: watch::Sender<Arc<Model>>,
    /// The same models, with the objects they were built of.
    published: watch::Sender<Published>,
    kernel: Kernel,
}

impl Writer {
    /// Publishes a first model, and gives the resolver's end of it.
    ///
    /// # Errors
    /// When the kernel plane would answer strangers.
    pub(super) fn new(
        config: &Config,
        objects: Objects,
    ) -> anyhow::Result<(Writer, watch::Receiver<Arc<Model>>)> {
        let (model, problems) = cluster::build(&objects, &config.zone, serial_after(0));
        let kernel = Kernel::start(config, &model)?;
        let model = Arc::new(model);
        let (models, receiver) = watch::channel(model.clone());
        let objects = Arc::new(objects);
        let mut writer = Writer {
            settings: config.zone.clone(),
            problems: BTreeSet::new(),
            models,
            published: watch::Sender::new(Published { model, objects }),
            kernel,
        };
        writer.note(problems);
        Ok((writer, receiver))
    }

    /// The kernel plane, to be shown.
    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The published models and their objects.
    pub(super) fn published(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }

    /// Publishes what is loaded, until nobody is left who loads; then takes the kernel
    /// plane down.
    ///
    /// The lease is renewed here and nowhere else, after everything that was waiting has
    /// been published: so it is fresh only while this works.
    pub(super) fn run(mut self, loaded: &Receiver<Objects>, board: &Board) {
        loop {
            let mut next = match loaded.recv_timeout(self.kernel.interval()) {
                Ok(objects) => Some(objects),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // Only the newest counts: what changes faster than it can be published must
            // not keep the lease from being renewed.
            while let Ok(newer) = loaded.try_recv() {
                next = Some(newer);
            }
            if let Some(objects) = next {
                self.publish(objects);
                self.show(board);
            }
            self.kernel.tick();
            self.show_kernel(board);
        }
        self.kernel.stop();
    }

    /// Publishes a model of these objects, if they are others than before.
    fn publish(&mut self, objects: Objects) {
        if is_same(&objects, &self.published.borrow().objects) {
            debug!("loaded again, and nothing changed");
            return;
        }
        let serial = serial_after(self.models.borrow().serial());
        let (model, problems) = cluster::build(&objects, &self.settings, serial);
        self.note(problems);
        let model = Arc::new(model);
        self.models.send_replace(model.clone());
        self.published.send_replace(Published {
            model: model.clone(),
            objects: Arc::new(objects),
        });
        self.kernel.publish(&model);
        info!(serial, "published the changed objects");
    }

    /// Says what is wrong with objects, if it has not been said before.
    fn note(&mut self, problems: Vec<Problem>) {
        let problems: BTreeSet<_> = problems.into_iter().collect();
        for problem in problems.difference(&self.problems) {
            warn!("{problem}; it is left out");
        }
        self.problems = problems;
    }

    /// Puts up what is published.
    pub(super) fn show(&self, board: &Board) {
        let model = self.models.borrow().clone();
        let zones = model
            .zones()
            .iter()
            .map(|zone| ZoneStatus {
                name: zone.name.to_string(),
                serial: zone.soa.serial,
            })
            .collect();
        let names = model.nodes().count();
        let problems = self.problems.iter().map(ToString::to_string).collect();
        board.update(|status| {
            status.zones = zones;
            status.names = names;
            status.source.problems = problems;
        });
        self.show_kernel(board);
    }

    fn show_kernel(&self, board: &Board) {
        let (missing, degraded) = (self.kernel.missing(), self.kernel.degraded());
        board.update(|status| {
            status.missing = missing;
            status.degraded = degraded;
        });
    }
}

/// The serial of a change: the time of day in Unix seconds, and more than the one
/// before.
fn serial_after(previous: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    u32::try_from(now)
        .unwrap_or(u32::MAX)
        .max(previous.saturating_add(1))
}

/// Whether the same model would come of both.
fn is_same(a: &Objects, b: &Objects) -> bool {
    let Objects {
        namespaces,
        services,
        endpoint_slices,
        pods,
        namespaces_known,
    } = a;
    *namespaces == b.namespaces
        && *services == b.services
        && *endpoint_slices == b.endpoint_slices
        && *pods == b.pods
        && *namespaces_known == b.namespaces_known
}
