//! The kernel plane as the writer drives it: there, not asked for, or not to be had.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};

use crate::{
    admin::{
        lookup::{Explain, KernelPlane},
        status,
    },
    config::Config,
    datapath::{self, Datapath, hooks, interfaces::Devices, settings},
    zone::{Name, ZoneData},
};

/// How often to look for interfaces that came or went.
const LOOK: Duration = Duration::from_secs(1);

/// The kernel plane, or why there is none.
pub(super) enum Kernel {
    /// No interface was asked for.
    Off,
    /// It could not be started; the resolver serves all the same.
    Failed(String),
    /// It answers.
    On {
        /// Shared with whoever asks for the status.
        datapath: Arc<Mutex<Datapath>>,
        /// Where it could be attached.
        devices: Devices,
    },
}

impl Kernel {
    /// Makes and fills the tables, and attaches the programs.
    ///
    /// A node that can't is no reason not to serve: its kernel plane is degraded.
    ///
    /// # Errors
    /// When it would answer strangers on a network card.
    pub(super) fn start(config: &Config, data: &dyn ZoneData) -> anyhow::Result<Kernel> {
        if config.interfaces.is_empty() {
            return Ok(Kernel::Off);
        }
        settings::check(&config.serve, &config.allow)?;
        let mut devices = Devices::default();
        let found = Handle::current()
            .block_on(devices.list())
            .context("can't look for --interface")?;
        hooks::check(&config.interfaces, config.allow.len(), found)?;
        let settings = datapath::Config {
            interfaces: config.interfaces.clone(),
            allow: config.allow.clone(),
            serve: config.serve.clone(),
            capacity: config.capacity.map(|names| names as usize),
            stale_after: config.stale_after,
        };
        match Datapath::start(settings, found, data) {
            Ok(datapath) => Ok(Kernel::On {
                datapath: Arc::new(Mutex::new(datapath)),
                devices,
            }),
            Err(reason) => {
                let reason = format!("no kernel plane: {reason:#}");
                error!("{reason}; every query goes the way it went before");
                Ok(Kernel::Failed(reason))
            }
        }
    }

    /// How long the writer may wait for objects before its next [`Kernel::tick`].
    pub(super) fn interval(&self) -> Duration {
        match self {
            Kernel::Off | Kernel::Failed(_) => LOOK,
            Kernel::On { datapath, .. } => lock(datapath).renewal_interval().min(LOOK),
        }
    }

    /// Brings the tables to all of `data`.
    pub(super) fn publish(&mut self, data: &dyn ZoneData) {
        self.write(|datapath| {
            let published = datapath.publish(data)?;
            info!(?published, "wrote the kernel's tables");
            Ok(())
        });
    }

    /// Brings the tables to `data`, of which only these names may have changed.
    pub(super) fn update(&mut self, data: &dyn ZoneData, names: &BTreeSet<Name>) {
        self.write(|datapath| {
            let published = datapath.update(data, names)?;
            debug!(?published, "updated the kernel's tables");
            Ok(())
        });
    }

    /// Writes the tables. When that fails the kernel plane is taken down, since they are not
    /// what they should be.
    fn write(&mut self, write: impl FnOnce(&mut Datapath) -> anyhow::Result<()>) {
        let Kernel::On { datapath, .. } = self else {
            return;
        };
        let written = write(&mut lock(datapath));
        if let Err(reason) = written {
            lock(datapath).stop();
            let reason = format!("the kernel's tables can't be written: {reason:#}");
            error!("{reason}; the kernel plane is off");
            *self = Kernel::Failed(reason);
        }
    }

    /// Renews the lease and looks for interfaces.
    pub(super) fn tick(&mut self) {
        let Kernel::On { datapath, devices } = self else {
            return;
        };
        if let Err(reason) = lock(datapath).renew_lease() {
            error!("{reason:#}; the kernel stops to answer soon");
        }
        match Handle::current().block_on(devices.list()) {
            Ok(devices) => lock(datapath).reconcile(devices),
            Err(reason) => warn!("can't look for interfaces: {reason:#}"),
        }
    }

    /// Takes every hook off.
    pub(super) fn stop(&mut self) {
        if let Kernel::On { datapath, .. } = self {
            lock(datapath).stop();
        }
    }

    /// What keeps the agent from being ready.
    pub(super) fn missing(&self) -> Vec<String> {
        let Kernel::On { datapath, .. } = self else {
            return Vec::new();
        };
        lock(datapath)
            .failed()
            .map(|failed| {
                format!(
                    "interface {} is not attached: {}",
                    failed.interface, failed.reason
                )
            })
            .collect()
    }

    /// What does not work though the agent is ready.
    pub(super) fn degraded(&self) -> Vec<String> {
        match self {
            Kernel::Off => Vec::new(),
            Kernel::Failed(reason) => vec![reason.clone()],
            Kernel::On { datapath, .. } => lock(datapath).degraded(),
        }
    }

    /// How to ask it about a question.
    pub(super) fn explainer(&self) -> Explain {
        match self {
            Kernel::Off => Box::new(|_, _| KernelPlane::Off),
            Kernel::Failed(reason) => {
                let reason = reason.clone();
                Box::new(move |_, _| KernelPlane::Failed(reason.clone()))
            }
            Kernel::On { datapath, .. } => {
                let datapath = datapath.clone();
                Box::new(move |name, rtype| KernelPlane::On(lock(&datapath).explain(name, rtype)))
            }
        }
    }

    /// How to read its state.
    pub(super) fn reader(&self) -> status::Kernel {
        let Kernel::On { datapath, .. } = self else {
            return Box::new(|| None);
        };
        let datapath = datapath.clone();
        Box::new(move || {
            let status = lock(&datapath).status();
            match status {
                Ok(status) => serde_json::to_value(status).ok(),
                Err(reason) => Some(format!("can't be read: {reason:#}").into()),
            }
        })
    }
}

/// A writer that panicked has ended the agent, so nobody sees what it left behind.
fn lock(datapath: &Mutex<Datapath>) -> MutexGuard<'_, Datapath> {
    datapath.lock().unwrap_or_else(PoisonError::into_inner)
}
