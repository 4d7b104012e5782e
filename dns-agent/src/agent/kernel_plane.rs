//! Life cycle of the kernel plane: off, waiting, behind another agent, running or failed.

mod status;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};
use zerohop_datapath as datapath;
use zerohop_datapath::{
    Datapath, Growth, InitialLease, Persistence, StopMode, VethClients, hooks,
    interfaces::{Device, Devices},
    pins::{Claim, Pins},
    settings,
};
use zerohop_zone::{Name, ZoneData};

use crate::{KERNEL_OBJECT, config::Config};

/// How often to scan for interfaces, besides the kernel's notifications.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait before another attempt to start a kernel plane that failed.
const RESTART_DELAY: Duration = Duration::from_secs(60);

/// How long to wait before another attempt to grow full tables.
const REGROWTH_DELAY: Duration = Duration::from_secs(60);

const HOOKS_HELD_ELSEWHERE: &str = "another agent holds the hooks of this node";

/// How long the takeover of the hooks from another agent may last. By default Kubernetes gives a
/// pod 30 seconds to end. An agent that waits longer than this is not ready.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The kernel plane. The publisher drives it; the admin endpoints read its status through the lock.
pub(super) struct KernelPlane {
    lifecycle: Arc<Mutex<KernelLifecycle>>,
    /// The network devices of the last scan.
    devices: Devices,
    settings: datapath::DatapathConfig,
    /// Addresses of the cluster's DNS that do not fit into the settings.
    unserved_count: usize,
    /// Why hooks can't be pinned, so that they don't outlive the agent.
    unpinned_reason: Option<String>,
    /// The last growth that failed or had no effect.
    failed_growth: Option<FailedGrowth>,
}

/// An attempt to grow the tables that failed or had no effect.
struct FailedGrowth {
    attempted: Instant,
    /// The error; `None` when larger tables would have had no more room.
    reason: Option<String>,
}

/// The state of the kernel plane.
enum KernelLifecycle {
    /// No `--interface` is given.
    Off,
    /// There is nothing to answer yet.
    Waiting(StartCondition),
    /// There is something to answer, but another agent holds the hooks, at least since `since`.
    Behind { since: Instant },
    /// It could not be started, or broke. The user plane answers all the same.
    Failed { reason: String, since: Instant },
    /// The tables are there and the programs are attached.
    On(Box<Datapath>),
}

/// The condition for starting the kernel plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartCondition {
    /// The first lists of objects.
    Lists,
    /// A zone: CoreDNS's configuration delegates everything to CoreDNS.
    Zones,
}

/// Whether the kernel may answer from the published data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// The published data is current.
    Current,
    /// The published data may be incomplete or outdated.
    Stale(StaleReason),
}

/// Why the kernel may not answer from the published data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleReason {
    /// Not all lists are complete yet.
    Unlisted,
    /// CoreDNS or a node cache may still run with another configuration than the current one, or
    /// its configuration is not known.
    Held,
    /// Nothing was received from the API for `--max-age`.
    Silence,
}

impl KernelPlane {
    /// A kernel plane that waits for [`KernelPlane::start`], or that is off without `--interface`.
    /// It answers `clients` until [`KernelPlane::set_clients`].
    ///
    /// # Errors
    /// When it would answer any client on a network card.
    pub(super) fn new(config: &Config, clients: &VethClients) -> anyhow::Result<KernelPlane> {
        let settings = datapath::DatapathConfig {
            object_file: KERNEL_OBJECT,
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
        let mut kernel = KernelPlane {
            lifecycle: Arc::new(Mutex::new(KernelLifecycle::Off)),
            devices: Devices::default(),
            settings,
            unserved_count: 0,
            unpinned_reason: None,
            failed_growth: None,
        };
        if config.interfaces.is_empty() {
            return Ok(kernel);
        }
        settings::check_counts(&config.serve, &config.allow)?;
        let scan = Handle::current()
            .block_on(kernel.devices.list())
            .context("can't look for --interface")?;
        hooks::check_cards_restricted(&config.interfaces, config.allow.len(), scan)?;
        *kernel.lock_lifecycle() = KernelLifecycle::Waiting(StartCondition::Lists);
        Ok(kernel)
    }

    /// Whether [`KernelPlane::start`] may be called, for the first time or again.
    pub(super) fn is_ready_to_start(&self) -> bool {
        match &*self.lock_lifecycle() {
            KernelLifecycle::Waiting(_) | KernelLifecycle::Behind { .. } => true,
            KernelLifecycle::Failed { since, .. } => since.elapsed() >= RESTART_DELAY,
            KernelLifecycle::Off | KernelLifecycle::On(_) => false,
        }
    }

    /// Sets what the kernel plane waits for, if it waits.
    pub(super) fn set_start_condition(&self, what: StartCondition) {
        if let KernelLifecycle::Waiting(before) = &mut *self.lock_lifecycle() {
            *before = what;
        }
    }

    /// Whether it waits only for another agent to end.
    pub(super) fn is_behind_another_agent(&self) -> bool {
        matches!(*self.lock_lifecycle(), KernelLifecycle::Behind { .. })
    }

    /// Makes and fills the tables and attaches the programs, unless another agent holds the hooks.
    ///
    /// A failure is no error, because the user plane still answers. The kernel plane is degraded
    /// then.
    pub(super) fn start(&mut self, data: &dyn ZoneData, freshness: Freshness) {
        let pins = match Pins::claim(&self.settings.bpffs) {
            Ok(Claim::Claimed(pins)) => {
                self.unpinned_reason = None;
                Some(pins)
            }
            Ok(Claim::HeldByAnotherAgent) => {
                if !self.is_behind_another_agent() {
                    warn!(
                        "{HOOKS_HELD_ELSEWHERE}: this agent takes them over when the other one ends"
                    );
                    let since = Instant::now();
                    *self.lock_lifecycle() = KernelLifecycle::Behind { since };
                }
                return;
            }
            Ok(Claim::Untrusted(reason)) => {
                self.note_unpinned(&reason);
                None
            }
            Err(reason) => {
                if self.settings.persistence == Persistence::Pinned {
                    self.note_unpinned(&format!("{reason:#}"));
                }
                None
            }
        };
        let scan = Handle::current().block_on(self.devices.list());
        let started = scan.context("can't look for --interface").and_then(|scan| {
            let lease = match freshness {
                Freshness::Current => InitialLease::Running,
                Freshness::Stale(_) => InitialLease::Ended,
            };
            Datapath::start(self.settings.clone(), pins, scan, data, lease)
        });
        let mut plane = self.lock_lifecycle();
        *plane = match started {
            Ok(datapath) => KernelLifecycle::On(Box::new(datapath)),
            Err(reason) => {
                let reason = format!("no kernel plane: {reason:#}");
                // Attempts repeat, so only the first failure is an error in the log.
                if matches!(*plane, KernelLifecycle::Failed { .. }) {
                    debug!("{reason}");
                } else {
                    error!("{reason}; pods' queries go to the cluster's DNS as without Zerohop");
                }
                KernelLifecycle::failed(reason)
            }
        };
    }

    /// Remembers why hooks can't be pinned.
    fn note_unpinned(&mut self, reason: &str) {
        let reason = format!(
            "hooks can't be pinned, so the cluster's DNS answers while no agent runs: {reason}"
        );
        if self.unpinned_reason.as_ref() != Some(&reason) {
            warn!("{reason}");
        }
        self.unpinned_reason = Some(reason);
    }

    /// How long the publisher may wait for messages before the next [`KernelPlane::tick`].
    pub(super) fn interval(&self) -> Duration {
        match &*self.lock_lifecycle() {
            KernelLifecycle::On(datapath) => datapath.renewal_interval().min(RESCAN_INTERVAL),
            _ => RESCAN_INTERVAL,
        }
    }

    /// Writes all names of `data` to the tables.
    pub(super) fn publish_all_names(&mut self, data: &dyn ZoneData) {
        self.write_tables(|datapath| {
            let published = datapath.publish_all(data)?;
            info!(?published, "wrote the kernel's tables");
            Ok(())
        });
    }

    /// Writes these names of `data` to the tables; no other name has changed.
    pub(super) fn publish_names(&mut self, data: &dyn ZoneData, names: &BTreeSet<Name>) {
        self.write_tables(|datapath| {
            let published = datapath.publish_names(data, names)?;
            debug!(?published, "updated the kernel's tables");
            Ok(())
        });
    }

    /// Answers queries to these addresses from now on.
    pub(super) fn set_served_addresses(&mut self, data: &dyn ZoneData, addresses: &[SocketAddr]) {
        if self.settings.serve == addresses {
            return;
        }
        info!(
            ?addresses,
            "the kernel now answers queries to these addresses"
        );
        self.settings.serve = addresses.to_vec();
        self.write_tables(|datapath| datapath.publish_served_addresses(data, addresses.to_vec()));
    }

    /// Sets how many addresses of the cluster's DNS do not fit into the settings.
    pub(super) fn set_unserved_count(&mut self, count: usize) {
        self.unserved_count = count;
    }

    /// The addresses whose queries the kernel answers.
    pub(super) fn served_addresses(&self) -> &[SocketAddr] {
        &self.settings.serve
    }

    /// Answers only these clients on pods' veths from now on.
    pub(super) fn set_clients(&mut self, data: &dyn ZoneData, clients: &VethClients) {
        if self.settings.clients == *clients {
            return;
        }
        self.settings.clients = clients.clone();
        self.write_tables(|datapath| datapath.publish_clients(data, clients.clone()));
    }

    /// Runs a write to the tables. If the write fails the kernel plane is stopped, because the
    /// tables' contents are unknown.
    fn write_tables(&mut self, write: impl FnOnce(&mut Datapath) -> anyhow::Result<()>) {
        let mut plane = self.lock_lifecycle();
        let KernelLifecycle::On(datapath) = &mut *plane else {
            return;
        };
        if let Err(reason) = write(datapath) {
            datapath.stop(StopMode::Detach);
            let reason = format!("the kernel's tables can't be written: {reason:#}");
            error!("{reason}; the kernel plane is off, and pods' queries go to the cluster's DNS");
            *plane = KernelLifecycle::failed(reason);
        }
    }

    /// Replaces tables that are nearly full by larger ones. The old tables answer meanwhile.
    pub(super) fn grow_tables(&mut self, data: &dyn ZoneData) {
        let is_recent = |ungrown: &FailedGrowth| ungrown.attempted.elapsed() < REGROWTH_DELAY;
        if self.failed_growth.as_ref().is_some_and(is_recent) {
            return;
        }
        let mut plane = lock(&self.lifecycle);
        let KernelLifecycle::On(datapath) = &mut *plane else {
            return;
        };
        let devices = self.devices.latest();
        let reason = match datapath.grow(self.settings.clone(), devices, data) {
            Ok(Growth::Useless) => None,
            Ok(growth) => {
                if growth == Growth::Moved {
                    info!("larger tables have replaced those that were nearly full");
                }
                self.failed_growth = None;
                return;
            }
            Err(reason) => {
                let reason = format!("larger tables can't be made: {reason:#}");
                error!("{reason}; names that do not fit pass to the cluster's DNS");
                Some(reason)
            }
        };
        self.failed_growth = Some(FailedGrowth {
            attempted: Instant::now(),
            reason,
        });
    }

    /// Renews or ends the lease, and attaches to the devices that match now.
    pub(super) fn tick(&mut self, freshness: Freshness) {
        if !matches!(*self.lock_lifecycle(), KernelLifecycle::On(_)) {
            return;
        }
        // The scan runs without the lock, so that status readers need not wait for it.
        let scan = Handle::current().block_on(self.devices.list());
        let KernelLifecycle::On(datapath) = &mut *lock(&self.lifecycle) else {
            return;
        };
        match freshness {
            Freshness::Stale(_) => datapath.end_lease(),
            Freshness::Current => {
                if let Err(reason) = datapath.renew_lease() {
                    error!(
                        "{reason:#}; when the lease ends, pods' queries go to the cluster's DNS"
                    );
                }
            }
        }
        reconcile(datapath, scan);
    }

    /// Scans for devices: attaches to new ones, forgets those that are gone, and detaches from
    /// those that a foreign program owns by now.
    pub(super) fn rescan_devices(&mut self) {
        self.devices.forget_filters();
        let scan = Handle::current().block_on(self.devices.list());
        if let KernelLifecycle::On(datapath) = &mut *lock(&self.lifecycle) {
            reconcile(datapath, scan);
        }
    }

    /// Ends the lease, so that the kernel passes everything until the next tick.
    pub(super) fn pass_everything(&mut self) {
        if let KernelLifecycle::On(datapath) = &mut *self.lock_lifecycle() {
            datapath.end_lease();
        }
    }

    /// Stops the kernel plane.
    pub(super) fn stop(&mut self, ending: StopMode) {
        match &mut *lock(&self.lifecycle) {
            KernelLifecycle::On(datapath) => datapath.stop(ending),
            // Hooks that an earlier agent left are still attached.
            KernelLifecycle::Waiting(_) | KernelLifecycle::Failed { .. }
                if ending == StopMode::Detach =>
            {
                let Ok(Claim::Claimed(pins)) = Pins::claim(&self.settings.bpffs) else {
                    return;
                };
                let removed = pins.remove_all().map_err(anyhow::Error::from);
                let scan = Handle::current().block_on(self.devices.list());
                let filters = scan.and_then(datapath::detach_filters);
                for reason in [removed.err(), filters.err()].into_iter().flatten() {
                    error!(
                        "some hooks of an earlier agent are still attached: {reason:#}; remove them with `dns-agent detach`"
                    );
                }
            }
            KernelLifecycle::Waiting(_)
            | KernelLifecycle::Failed { .. }
            | KernelLifecycle::Behind { .. }
            | KernelLifecycle::Off => {}
        }
    }

    fn lock_lifecycle(&self) -> MutexGuard<'_, KernelLifecycle> {
        lock(&self.lifecycle)
    }
}

impl KernelLifecycle {
    fn failed(reason: String) -> KernelLifecycle {
        KernelLifecycle::Failed {
            reason,
            since: Instant::now(),
        }
    }
}

fn reconcile(datapath: &mut Datapath, scan: anyhow::Result<&[Device]>) {
    match scan {
        Ok(devices) => datapath.reconcile(devices),
        Err(reason) => warn!("can't look for interfaces: {reason:#}"),
    }
}

/// Ignores poisoning: a publisher that panicked ends the agent, so its state is not used any more.
fn lock(plane: &Mutex<KernelLifecycle>) -> MutexGuard<'_, KernelLifecycle> {
    plane.lock().unwrap_or_else(PoisonError::into_inner)
}
