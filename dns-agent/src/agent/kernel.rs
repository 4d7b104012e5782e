//! The kernel plane as the writer drives it: there, not asked for, not yet there, or not to be had.

mod shown;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};

use crate::{
    config::Config,
    datapath::{
        self, Clients, Datapath, Ending, Growth, Lease, Persistence, hooks,
        interfaces::{Device, Devices},
        pins::{Claim, Pins},
        settings,
    },
    zone::{Name, ZoneData},
};

/// How often to look for interfaces that came or went, whatever the kernel has told.
const LOOK: Duration = Duration::from_secs(1);

/// How long to go on without a kernel plane that could not be started, or broke.
const START_AGAIN: Duration = Duration::from_secs(60);

/// How long to go on with full tables when other ones could not be made, or had no more room.
const GROW_AGAIN: Duration = Duration::from_secs(60);

const BEHIND: &str = "another agent has the hooks of this node";

/// How long one agent hands the hooks over to the next: what ends has 30 seconds to do so, by
/// Kubernetes' default. An agent that waits longer is not ready.
const HAND_OVER: Duration = Duration::from_secs(60);

/// The kernel plane, shared with whoever asks for the status.
pub(super) struct Kernel {
    plane: Arc<Mutex<Plane>>,
    /// Where it could be attached.
    devices: Devices,
    settings: datapath::Config,
    /// How many addresses of the cluster's DNS there is no room for.
    unserved: usize,
    /// Why hooks don't stay over a stop, though they should.
    unpinned: Option<String>,
    /// The last growth that came to nothing.
    ungrown: Option<Ungrown>,
}

/// A growth that came to nothing.
struct Ungrown {
    tried: Instant,
    /// Why, if that is known.
    reason: Option<String>,
}

/// The kernel plane, or why there is none.
enum Plane {
    /// No interface was asked for.
    Off,
    /// There is nothing to answer yet.
    Waiting(WaitsFor),
    /// Another agent has the hooks, and had them then already; what is answered is known.
    Behind { since: Instant },
    /// It could not be started, or broke; the resolver serves all the same.
    Failed { reason: String, since: Instant },
    /// It answers.
    On(Box<Datapath>),
}

/// What the kernel plane waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsFor {
    /// The first lists of objects.
    Lists,
    /// A zone: CoreDNS's configuration leaves everything to CoreDNS.
    Zones,
}

/// Whether the kernel may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// What is published is right.
    Current,
    /// It may not be any more, or not yet.
    Stale(Because),
}

/// Why what is published may not be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// Not everything has been listed yet.
    Unlisted,
    /// What answers in the cluster may not answer by the configurations of the moment, or it isn't known
    /// what it answers.
    Held,
    /// The API has said nothing for `--max-age`.
    Silence,
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
            unserved: 0,
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
        *kernel.lock() = Plane::Waiting(WaitsFor::Lists);
        Ok(kernel)
    }

    /// Whether it waits for [`Kernel::start`], for the first time or again.
    pub(super) fn is_waiting(&self) -> bool {
        match &*self.lock() {
            Plane::Waiting(_) | Plane::Behind { .. } => true,
            Plane::Failed { since, .. } => since.elapsed() >= START_AGAIN,
            Plane::Off | Plane::On(_) => false,
        }
    }

    /// Says what it waits for, if it does.
    pub(super) fn waits_for(&self, what: WaitsFor) {
        if let Plane::Waiting(before) = &mut *self.lock() {
            *before = what;
        }
    }

    /// Whether all it waits for is another agent's end.
    pub(super) fn is_behind(&self) -> bool {
        matches!(*self.lock(), Plane::Behind { .. })
    }

    /// Makes the tables, fills them, and attaches the programs, unless another agent has the hooks.
    ///
    /// A node that can't is no reason not to serve: its kernel plane is degraded.
    pub(super) fn start(&mut self, data: &dyn ZoneData, trust: Trust) {
        let pins = match Pins::claim(&self.settings.bpffs) {
            Ok(Claim::Ours(pins)) => {
                self.unpinned = None;
                Some(pins)
            }
            Ok(Claim::Others) => {
                if !self.is_behind() {
                    warn!("{BEHIND}: waiting for its end");
                    let since = Instant::now();
                    *self.lock() = Plane::Behind { since };
                }
                return;
            }
            Ok(Claim::Untrusted(reason)) => {
                self.is_unpinned(&reason);
                None
            }
            Err(reason) => {
                if self.settings.persistence == Persistence::Pinned {
                    self.is_unpinned(&format!("{reason:#}"));
                }
                None
            }
        };
        let found = Handle::current().block_on(self.devices.list());
        let started = found
            .context("can't look for --interface")
            .and_then(|found| {
                let lease = match trust {
                    Trust::Current => Lease::Begins,
                    Trust::Stale(_) => Lease::IsOver,
                };
                Datapath::start(self.settings.clone(), pins, found, data, lease)
            });
        let mut plane = self.lock();
        *plane = match started {
            Ok(datapath) => Plane::On(Box::new(datapath)),
            Err(reason) => {
                let reason = format!("no kernel plane: {reason:#}");
                // It is tried again and again.
                if matches!(*plane, Plane::Failed { .. }) {
                    debug!("{reason}");
                } else {
                    error!("{reason}; every query goes the way it went before");
                }
                Plane::failed(reason)
            }
        };
    }

    /// Notes why hooks can't be pinned.
    fn is_unpinned(&mut self, reason: &str) {
        let reason = format!("hooks don't stay over a stop: {reason}");
        if self.unpinned.as_ref() != Some(&reason) {
            warn!("{reason}");
        }
        self.unpinned = Some(reason);
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

    /// Says for how many addresses of the cluster's DNS there is no room.
    pub(super) fn leaves_unserved(&mut self, count: usize) {
        self.unserved = count;
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
            *plane = Plane::failed(reason);
        }
    }

    /// Makes other tables if there is hardly room for another name. What answers goes on meanwhile.
    pub(super) fn grow(&mut self, data: &dyn ZoneData) {
        let is_recent = |ungrown: &Ungrown| ungrown.tried.elapsed() < GROW_AGAIN;
        if self.ungrown.as_ref().is_some_and(is_recent) {
            return;
        }
        let mut plane = lock(&self.plane);
        let Plane::On(datapath) = &mut *plane else {
            return;
        };
        let devices = self.devices.latest();
        let reason = match datapath.grow(self.settings.clone(), devices, data) {
            Ok(Growth::Useless) => None,
            Ok(growth) => {
                if growth == Growth::Moved {
                    info!("other tables are in the place of those that were full");
                }
                self.ungrown = None;
                return;
            }
            Err(reason) => {
                let reason = format!("other tables can't be made: {reason:#}");
                error!("{reason}; names that find no room pass");
                Some(reason)
            }
        };
        self.ungrown = Some(Ungrown {
            tried: Instant::now(),
            reason,
        });
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
            Trust::Stale(_) => datapath.end_lease(),
            Trust::Current => {
                if let Err(reason) = datapath.renew_lease() {
                    error!("{reason:#}; the kernel stops answering soon");
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
        match &mut *lock(&self.plane) {
            Plane::On(datapath) => datapath.stop(ending),
            // What an agent before left is there still.
            Plane::Waiting(_) | Plane::Failed { .. } if ending == Ending::Detached => {
                let Ok(Claim::Ours(pins)) = Pins::claim(&self.settings.bpffs) else {
                    return;
                };
                let removed = pins.remove_all().map_err(anyhow::Error::from);
                let found = Handle::current().block_on(self.devices.list());
                let filters = found.and_then(datapath::detach_filters);
                for reason in [removed.err(), filters.err()].into_iter().flatten() {
                    error!("hooks of an agent before are not all taken off: {reason:#}");
                }
            }
            Plane::Waiting(_) | Plane::Failed { .. } | Plane::Behind { .. } | Plane::Off => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plane> {
        lock(&self.plane)
    }
}

impl Plane {
    fn failed(reason: String) -> Plane {
        Plane::Failed {
            reason,
            since: Instant::now(),
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
