//! The kernel plane as the writer drives it: there, not asked for, not yet there, or not to be had.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};

use crate::{
    admin::{
        health::{KernelCanary, KernelHealth},
        lookup::{Explain, KernelPlane},
        status::{self, KernelStatus},
    },
    config::Config,
    datapath::{
        self, Clients, Datapath, Ending, Persistence, hooks,
        interfaces::{Device, Devices},
        pins::{Claim, Pins},
        settings,
    },
    zone::{Name, ZoneData},
};

/// How often to look for interfaces that came or went, whatever the kernel has told.
const LOOK: Duration = Duration::from_secs(1);

/// How long to go on with full tables when larger ones could not be made.
const GROW_AGAIN: Duration = Duration::from_secs(60);

const WAITING: &str = "the kernel plane waits for the first lists of objects: everything passes";
const BEHIND: &str = "another agent has the hooks of this node";

/// The kernel plane, shared with whoever asks for the status.
pub(super) struct Kernel {
    plane: Arc<Mutex<Plane>>,
    /// Where it could be attached.
    devices: Devices,
    settings: datapath::Config,
    bpffs: PathBuf,
    /// Why hooks don't stay over a stop, though they should.
    unpinned: Option<String>,
    /// When larger tables could not be made, and why.
    ungrown: Option<(Instant, String)>,
}

/// The kernel plane, or why there is none.
enum Plane {
    /// No interface was asked for.
    Off,
    /// It is not yet known what to answer.
    Waiting,
    /// Another agent has the hooks; what is answered is known.
    Behind,
    /// It could not be started; the resolver serves all the same.
    Failed(String),
    /// It answers.
    On(Box<Datapath>),
}

/// Whether the kernel may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// What is published is right.
    Current,
    /// It may not be any more, or not yet.
    Stale,
}

impl Kernel {
    /// A kernel plane that waits for [`Kernel::start`], if one is asked for, and answers these clients
    /// until it is told otherwise.
    ///
    /// # Errors
    /// When it would answer strangers on a network card.
    pub(super) fn new(config: &Config, clients: &Clients) -> anyhow::Result<Kernel> {
        let settings = datapath::Config {
            interfaces: config.interfaces.clone(),
            allow: config.allow.clone(),
            rate_limit: config.rate_limit,
            serve: config.serve.clone(),
            clients: clients.clone(),
            capacity: config.capacity.map(|names| names as usize),
            stale_after: config.stale_after,
            persistence: config.persistence,
            bpffs: config.bpffs.clone(),
        };
        let mut kernel = Kernel {
            plane: Arc::new(Mutex::new(Plane::Off)),
            devices: Devices::default(),
            settings,
            bpffs: config.bpffs.clone(),
            unpinned: None,
            ungrown: None,
        };
        if config.interfaces.is_empty() {
            return Ok(kernel);
        }
        settings::check(&config.serve, &config.allow)?;
        let found = Handle::current()
            .block_on(kernel.devices.list())
            .context("can't look for --interface")?;
        hooks::check(&config.interfaces, config.allow.len(), found)?;
        *kernel.lock() = Plane::Waiting;
        Ok(kernel)
    }

    /// Whether it waits for [`Kernel::start`].
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.lock(), Plane::Waiting | Plane::Behind)
    }

    /// Whether all it waits for is another agent's end.
    pub(super) fn is_behind(&self) -> bool {
        matches!(*self.lock(), Plane::Behind)
    }

    /// Makes the tables, fills them, and attaches the programs, unless another agent has the hooks.
    ///
    /// A node that can't is no reason not to serve: its kernel plane is degraded.
    pub(super) fn start(&mut self, data: &dyn ZoneData) {
        let pins = match Pins::claim(&self.bpffs) {
            Ok(Claim::Ours(pins)) => Some(pins),
            Ok(Claim::Others) => {
                if !self.is_behind() {
                    warn!("{BEHIND}: waiting for its end");
                }
                *self.lock() = Plane::Behind;
                return;
            }
            Err(reason) => {
                if self.settings.persistence == Persistence::Pinned {
                    let reason = format!("hooks don't stay over a stop: {reason:#}");
                    warn!("{reason}");
                    self.unpinned = Some(reason);
                }
                None
            }
        };
        let found = Handle::current().block_on(self.devices.list());
        let started = found
            .context("can't look for --interface")
            .and_then(|found| Datapath::start(self.settings.clone(), pins, found, data));
        *self.lock() = match started {
            Ok(datapath) => Plane::On(Box::new(datapath)),
            Err(reason) => {
                let reason = format!("no kernel plane: {reason:#}");
                error!("{reason}; every query goes the way it went before");
                Plane::Failed(reason)
            }
        };
    }

    /// How long the writer may wait for objects before its next [`Kernel::tick`].
    pub(super) fn interval(&self) -> Duration {
        match &*self.lock() {
            Plane::On(datapath) => datapath.renewal_interval().min(LOOK),
            _ => LOOK,
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

    /// Answers for these addresses from now on.
    pub(super) fn serve(&mut self, data: &dyn ZoneData, addresses: &[SocketAddr]) {
        if self.settings.serve == addresses {
            return;
        }
        info!(?addresses, "the kernel answers for these addresses");
        self.settings.serve = addresses.to_vec();
        self.write(|datapath| datapath.serve(data, addresses.to_vec()));
    }

    /// The addresses that the kernel answers for.
    pub(super) fn served(&self) -> &[SocketAddr] {
        &self.settings.serve
    }

    /// Answers only these clients on pods' veths from now on.
    pub(super) fn admit(&mut self, data: &dyn ZoneData, clients: &Clients) {
        if self.settings.clients == *clients {
            return;
        }
        self.settings.clients = clients.clone();
        self.write(|datapath| datapath.admit(data, clients.clone()));
    }

    /// Writes the tables. When that fails the kernel plane is taken down, since they are not
    /// what they should be.
    fn write(&mut self, write: impl FnOnce(&mut Datapath) -> anyhow::Result<()>) {
        let mut plane = self.lock();
        let Plane::On(datapath) = &mut *plane else {
            return;
        };
        if let Err(reason) = write(datapath) {
            datapath.stop(Ending::Detached);
            let reason = format!("the kernel's tables can't be written: {reason:#}");
            error!("{reason}; the kernel plane is off");
            *plane = Plane::Failed(reason);
        }
    }

    /// Makes larger tables if there is hardly room for another name. What answers goes on meanwhile.
    pub(super) fn grow(&mut self, data: &dyn ZoneData) {
        let is_recent = |(tried, _): &(Instant, String)| tried.elapsed() < GROW_AGAIN;
        if self.ungrown.as_ref().is_some_and(is_recent) {
            return;
        }
        let mut plane = lock(&self.plane);
        let Plane::On(datapath) = &mut *plane else {
            return;
        };
        let devices = self.devices.latest();
        self.ungrown = match datapath.grow(self.settings.clone(), devices, data) {
            Ok(has_grown) => {
                if has_grown {
                    info!("larger tables are in the place of those that were full");
                }
                None
            }
            Err(reason) => {
                let reason = format!("larger tables can't be made: {reason:#}");
                error!("{reason}; names that find no room pass");
                Some((Instant::now(), reason))
            }
        };
    }

    /// Renews the lease or ends it, and looks for interfaces.
    pub(super) fn tick(&mut self, trust: Trust) {
        if !matches!(*self.lock(), Plane::On(_)) {
            return;
        }
        // Nobody waits for the lock meanwhile.
        let found = Handle::current().block_on(self.devices.list());
        let Plane::On(datapath) = &mut *lock(&self.plane) else {
            return;
        };
        match trust {
            Trust::Stale => datapath.end_lease(),
            Trust::Current => {
                if let Err(reason) = datapath.renew_lease() {
                    error!("{reason:#}; the kernel stops to answer soon");
                }
            }
        }
        reconcile(datapath, found);
    }

    /// Attaches to devices that came, forgets those that went, and leaves those to others that are theirs.
    pub(super) fn look(&mut self) {
        self.devices.forget_filters();
        let found = Handle::current().block_on(self.devices.list());
        if let Plane::On(datapath) = &mut *lock(&self.plane) {
            reconcile(datapath, found);
        }
    }

    /// Makes the kernel pass everything, until a tick says otherwise.
    pub(super) fn pass(&mut self) {
        if let Plane::On(datapath) = &mut *self.lock() {
            datapath.end_lease();
        }
    }

    /// Ends the kernel plane.
    pub(super) fn stop(&mut self, ending: Ending) {
        match &mut *self.lock() {
            Plane::On(datapath) => datapath.stop(ending),
            // What an agent before left is there still.
            Plane::Waiting | Plane::Failed(_) if ending == Ending::Detached => {
                if let Ok(Claim::Ours(pins)) = Pins::claim(&self.bpffs)
                    && let Err(reason) = pins.remove_all()
                {
                    error!("hooks of an agent before can't be taken off: {reason}");
                }
            }
            Plane::Waiting | Plane::Failed(_) | Plane::Behind | Plane::Off => {}
        }
    }

    /// What keeps the agent from being ready.
    pub(super) fn missing(&self) -> Vec<String> {
        let Plane::On(datapath) = &*self.lock() else {
            return Vec::new();
        };
        datapath
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
        match &*self.lock() {
            Plane::Off | Plane::Waiting => Vec::new(),
            Plane::Behind => vec![format!("{BEHIND}, and answers as long as it runs")],
            Plane::Failed(reason) => vec![reason.clone()],
            Plane::On(datapath) => {
                let mut degraded = datapath.degraded();
                degraded.extend(self.unpinned.clone());
                degraded.extend(self.ungrown.iter().map(|(_, reason)| reason.clone()));
                if self.settings.serve.is_empty() {
                    degraded.push(
                        "the kernel answers for no address: --dns-service is no Service with a ClusterIP and a UDP port"
                            .to_owned(),
                    );
                }
                degraded
            }
        }
    }

    /// How to ask it about a question.
    pub(super) fn explainer(&self) -> Explain {
        let plane = self.plane.clone();
        Box::new(move |name, rtype| match &*lock(&plane) {
            Plane::Off => KernelPlane::Off,
            Plane::On(datapath) => KernelPlane::On(datapath.explain(name, rtype)),
            silent => KernelPlane::Failed(silent.why()),
        })
    }

    /// How to see whether it answers.
    pub(super) fn canary(&self) -> KernelCanary {
        let plane = self.plane.clone();
        Box::new(move |zones| match &mut *lock(&plane) {
            Plane::Off => KernelHealth::Off,
            Plane::On(datapath) => match datapath.canary(zones) {
                Ok(canary) => KernelHealth::On(canary),
                Err(reason) => KernelHealth::Failed(format!("{reason:#}")),
            },
            silent => KernelHealth::Failed(silent.why()),
        })
    }

    /// How to read its state.
    pub(super) fn reader(&self) -> status::Kernel {
        let plane = self.plane.clone();
        Box::new(move || match &*lock(&plane) {
            Plane::Off => KernelStatus::Off,
            Plane::Waiting => KernelStatus::Waiting,
            Plane::Behind => KernelStatus::Behind,
            Plane::Failed(_) => KernelStatus::Failed,
            Plane::On(datapath) => match datapath.status() {
                Ok(status) => KernelStatus::On(Box::new(status)),
                Err(reason) => KernelStatus::Unreadable(format!("{reason:#}")),
            },
        })
    }

    fn lock(&self) -> MutexGuard<'_, Plane> {
        lock(&self.plane)
    }
}

impl Plane {
    /// Why it does not answer.
    fn why(&self) -> String {
        match self {
            Plane::Off => "no interface was asked for".to_owned(),
            Plane::Waiting => WAITING.to_owned(),
            Plane::Behind => format!("{BEHIND}: it answers, not this agent"),
            Plane::Failed(reason) => reason.clone(),
            Plane::On(_) => "it answers".to_owned(),
        }
    }
}

fn reconcile(datapath: &mut Datapath, found: anyhow::Result<&[Device]>) {
    match found {
        Ok(devices) => datapath.reconcile(devices),
        Err(reason) => warn!("can't look for interfaces: {reason:#}"),
    }
}

/// A writer that panicked has ended the agent, so nobody sees what it left behind.
fn lock(plane: &Mutex<Plane>) -> MutexGuard<'_, Plane> {
    plane.lock().unwrap_or_else(PoisonError::into_inner)
}
