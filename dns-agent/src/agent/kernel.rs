//! The kernel plane as the writer drives it: there, not asked for, not yet there, or not to be had.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use dns_common::settings::MAX_SERVED;
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};

use crate::{
    admin::{
        board,
        health::{KernelCanary, KernelHealth},
        lookup::{Explain, KernelPlane},
        status::{KernelStatus, PlaneState},
    },
    config::Config,
    datapath::{
        self, Clients, Datapath, Ending, Growth, Lease, Persistence,
        hooks::{self, Failed},
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

const WAITING: &str =
    "the kernel plane waits for the first lists of objects: the cluster's DNS is asked everything";
const IDLE: &str =
    "the kernel plane has no zone to answer for: the cluster's DNS is asked everything";
const BEHIND: &str = "another agent has the hooks of this node";

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
    /// Another agent has the hooks; what is answered is known.
    Behind,
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
    /// CoreDNS may not have read the Corefile of the moment.
    Unsettled {
        /// When it surely has.
        settled: Instant,
    },
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
            Plane::Waiting(_) | Plane::Behind => true,
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
        matches!(*self.lock(), Plane::Behind)
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
                }
                *self.lock() = Plane::Behind;
                return;
            }
            Err(reason) => {
                if self.settings.persistence == Persistence::Pinned {
                    let reason = format!("hooks don't stay over a stop: {reason:#}");
                    if self.unpinned.as_ref() != Some(&reason) {
                        warn!("{reason}");
                    }
                    self.unpinned = Some(reason);
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
            Plane::Waiting(_) | Plane::Failed { .. } | Plane::Behind | Plane::Off => {}
        }
    }

    /// What keeps the agent from being ready: interfaces that no hook could be put on. Where that is so of all,
    /// the node can't, which is no reason to stop a rollout.
    pub(super) fn missing(&self) -> Vec<String> {
        match &*self.lock() {
            Plane::On(datapath) if datapath.is_attached() => unattached(datapath),
            _ => Vec::new(),
        }
    }

    /// What does not work though the agent is ready.
    pub(super) fn degraded(&self) -> Vec<String> {
        match &*self.lock() {
            Plane::Off | Plane::Waiting(_) => Vec::new(),
            Plane::Behind => vec![format!("{BEHIND}, and answers as long as it runs")],
            Plane::Failed { reason, .. } => vec![reason.clone()],
            Plane::On(datapath) => {
                let mut degraded = datapath.degraded();
                if !datapath.is_attached() {
                    degraded.extend(unattached(datapath));
                }
                if self.unserved > 0 {
                    degraded.push(format!(
                        "{} addresses of --dns-service's endpoints are not answered for: the kernel has room for {MAX_SERVED} of each family",
                        self.unserved
                    ));
                }
                degraded.extend(self.unpinned.clone());
                degraded.extend(
                    self.ungrown
                        .iter()
                        .filter_map(|ungrown| ungrown.reason.clone()),
                );
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
            // As it should be.
            Plane::Waiting(WaitsFor::Zones) => KernelHealth::On(None),
            Plane::On(datapath) => match datapath.canary(zones) {
                Ok(canary) => KernelHealth::On(canary),
                Err(reason) => KernelHealth::Failed(format!("{reason:#}")),
            },
            silent => KernelHealth::Failed(silent.why()),
        })
    }

    /// How to read its state.
    pub(super) fn reader(&self) -> board::Kernel {
        let plane = self.plane.clone();
        Box::new(move || match &*lock(&plane) {
            Plane::Off => KernelStatus::Without(PlaneState::Off),
            Plane::Waiting(WaitsFor::Lists) => KernelStatus::Without(PlaneState::Waiting),
            Plane::Waiting(WaitsFor::Zones) => KernelStatus::Without(PlaneState::Idle),
            Plane::Behind => KernelStatus::Without(PlaneState::Behind),
            Plane::Failed { .. } => KernelStatus::Without(PlaneState::Failed),
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
    fn failed(reason: String) -> Plane {
        Plane::Failed {
            reason,
            since: Instant::now(),
        }
    }

    /// Why it does not answer.
    fn why(&self) -> String {
        match self {
            Plane::Off => "no interface was asked for".to_owned(),
            Plane::Waiting(WaitsFor::Lists) => WAITING.to_owned(),
            Plane::Waiting(WaitsFor::Zones) => IDLE.to_owned(),
            Plane::Behind => format!("{BEHIND}: it answers, not this agent"),
            Plane::Failed { reason, .. } => reason.clone(),
            Plane::On(_) => "it answers".to_owned(),
        }
    }
}

fn unattached(datapath: &Datapath) -> Vec<String> {
    let failed = datapath.failed();
    let lines = failed.map(|failed| {
        let Failed {
            interface, reason, ..
        } = failed;
        format!("interface {interface} is not attached: {reason}")
    });
    lines.collect()
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
