//! Life cycle of the kernel plane: off, waiting, behind another agent, running or failed.
//!
//! The kernel program answers only while its *lease* is valid. The publisher renews the lease as
//! long as the published data is current.

mod status;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{runtime::Handle, sync::watch};
use tracing::{debug, error, info, warn};
use zerohop_datapath as datapath;
use zerohop_datapath::{
    Datapath, Growth, GrowthStep, InitialLease, Persistence, SteeringProgram, StopMode, hooks,
    interfaces::{Device, Devices},
    pins::{Claim, Pins},
    settings,
};
use zerohop_zone::{Name, ZoneData};

use super::{permitted_queries::PermittedQueries, steering::SteeringInputs};
use crate::{KERNEL_OBJECT, config::Config};

/// The longest interval between scans for interfaces while the kernel plane runs. A shorter
/// interval of lease renewals, and the kernel's notifications, cause additional scans.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// The time between attempts to start a kernel plane that failed.
const RESTART_DELAY: Duration = Duration::from_secs(60);

/// The time between attempts to grow nearly full tables, after an attempt that gained no room.
const REGROWTH_DELAY: Duration = Duration::from_secs(60);

const HOOKS_HELD_ELSEWHERE: &str = "another agent holds the hooks of this node";

/// The longest time that a takeover of the hooks from another agent normally takes: twice the 30
/// seconds that Kubernetes by default gives a pod to end. An agent that waits longer is not ready.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The kernel plane. The publisher drives it on its own thread, because the methods block; the
/// admin endpoints read its status through the lock.
pub(super) struct KernelPlane {
    lifecycle: Arc<Mutex<KernelLifecycle>>,
    /// The network devices of the last scan.
    devices: Devices,
    settings: datapath::DatapathConfig,
    /// The number of addresses of the cluster's DNS that do not fit into the settings. 0 with
    /// `--serve`.
    unserved_count: usize,
    /// Why hooks can't be pinned and don't outlive the agent; `None` when they can be pinned.
    /// Without `--persist`, the only reason noted is a folder of pins that can't be trusted.
    unpinned_reason: Option<String>,
    /// The larger tables that are being filled; `None` if the tables don't grow now.
    growth: Option<Growth>,
    /// The last attempt to grow the tables, if it failed or gained too little room.
    failed_growth: Option<FailedGrowth>,
    /// What policies permit.
    permitted: PermittedQueries,
    /// What the steering task follows.
    steering_inputs: watch::Sender<SteeringInputs>,
}

/// An attempt to grow the tables that failed, or gained too little room.
struct FailedGrowth {
    attempted: Instant,
    /// The error; `None` when new tables would not have been larger, or are full, too.
    reason: Option<String>,
}

/// The state of the kernel plane.
enum KernelLifecycle {
    /// No `--interface` is given.
    Off,
    /// The kernel plane waits for the condition.
    Waiting(StartCondition),
    /// The conditions are met, but another agent holds the hooks. This agent first noticed that at
    /// `since`.
    Behind { since: Instant },
    /// The kernel plane could not be started, or its tables could not be written. CoreDNS still
    /// answers.
    Failed { reason: String, since: Instant },
    /// The tables exist. Programs are attached to the matching interfaces, except those where
    /// attaching failed and those that foreign programs own.
    On(Box<Datapath>),
}

/// The condition for starting the kernel plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartCondition {
    /// The first lists of objects must be complete, and each feed of facts for NetworkPolicies must
    /// have received its first list or failed.
    Lists,
    /// There must be a zone. There is none, for example, while CoreDNS's configuration delegates
    /// everything to CoreDNS.
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
    /// CoreDNS or a node cache may still run with an older configuration, or its configuration is
    /// not known.
    Held,
    /// A change that was received `--stale-after` ago, or earlier, is not published yet.
    Unpublished,
    /// A feed of objects, of CoreDNS's Corefile, or of what node caches depend on has received
    /// nothing from the API for `--max-age`.
    Silence,
}

impl KernelPlane {
    /// A kernel plane that waits for [`KernelPlane::start`], or that is off without `--interface`.
    /// It answers `clients` until [`KernelPlane::set_clients`], and gives packets that may be
    /// steered to `steering`.
    ///
    /// # Errors
    /// When the addresses of `--serve` or the networks of `--allow` don't fit into the settings,
    /// when network devices can't be read, or when any client on a network card would be answered.
    pub(super) fn new(
        config: &Config,
        clients: &PermittedQueries,
        steering: Option<SteeringProgram>,
    ) -> anyhow::Result<KernelPlane> {
        let settings = datapath::DatapathConfig {
            object_file: KERNEL_OBJECT,
            interfaces: config.interfaces.clone(),
            allow: config.allow.clone(),
            rate_limit: NonZeroU32::new(config.rate_limit),
            served_addresses: config.served_addresses.clone(),
            clients: clients.udp.clone(),
            capacity: config.capacity.map(|names| names as usize),
            stale_after: config.stale_after,
            persistence: config.persistence,
            bpffs: config.bpffs.clone(),
            steering,
        };
        let mut kernel = KernelPlane {
            lifecycle: Arc::new(Mutex::new(KernelLifecycle::Off)),
            devices: Devices::default(),
            settings,
            unserved_count: 0,
            unpinned_reason: None,
            growth: None,
            failed_growth: None,
            permitted: clients.clone(),
            steering_inputs: watch::Sender::default(),
        };
        if config.interfaces.is_empty() {
            return Ok(kernel);
        }
        settings::check_counts(&config.served_addresses, &config.allow)?;
        let scan = Handle::current()
            .block_on(kernel.devices.list())
            .context("the network devices can't be read, so --interface can't be checked")?;
        hooks::check_cards_restricted(&config.interfaces, config.allow.len(), scan)?;
        *kernel.lock_lifecycle() = KernelLifecycle::Waiting(StartCondition::Lists);
        Ok(kernel)
    }

    /// What the steering task follows.
    pub(super) fn steering_inputs(&self) -> watch::Receiver<SteeringInputs> {
        self.steering_inputs.subscribe()
    }

    /// Tells the steering task what has changed.
    fn update_steering(&self) {
        let leased_until = match &*self.lock_lifecycle() {
            KernelLifecycle::On(datapath) => datapath.leased_until(),
            _ => None,
        };
        let inputs = SteeringInputs {
            served_addresses: self.settings.served_addresses.clone(),
            permitted: self.permitted.clone(),
            leased_until,
        };
        self.steering_inputs.send_if_modified(|known| {
            let has_changed = *known != inputs;
            *known = inputs;
            has_changed
        });
    }

    /// Whether [`KernelPlane::start`] may be called, for the first time or again, when the
    /// [`StartCondition`]s are met.
    pub(super) fn is_ready_to_start(&self) -> bool {
        match &*self.lock_lifecycle() {
            KernelLifecycle::Waiting(_) | KernelLifecycle::Behind { .. } => true,
            KernelLifecycle::Failed { since, .. } => since.elapsed() >= RESTART_DELAY,
            KernelLifecycle::Off | KernelLifecycle::On(_) => false,
        }
    }

    /// Whether the tables exist.
    pub(super) fn is_running(&self) -> bool {
        matches!(*self.lock_lifecycle(), KernelLifecycle::On(_))
    }

    /// Sets the condition for starting, if the kernel plane waits for one.
    pub(super) fn set_start_condition(&self, condition: StartCondition) {
        if let KernelLifecycle::Waiting(before) = &mut *self.lock_lifecycle() {
            *before = condition;
        }
    }

    /// Whether the kernel plane waits only for another agent to end.
    pub(super) fn is_behind_another_agent(&self) -> bool {
        matches!(*self.lock_lifecycle(), KernelLifecycle::Behind { .. })
    }

    /// Creates and fills the tables and attaches the programs, unless another agent holds the
    /// hooks.
    ///
    /// A failure is not an error of the agent, because CoreDNS still answers.
    /// [`KernelPlane::degraded`] reports it.
    pub(super) fn start(&mut self, data: &dyn ZoneData, freshness: Freshness) {
        let pins = match Pins::claim(&self.settings.bpffs) {
            Ok(Claim::Claimed(pins)) => {
                self.unpinned_reason = None;
                Some(pins)
            }
            Ok(Claim::HeldByAnotherAgent) => {
                if !self.is_behind_another_agent() {
                    warn!(
                        "{HOOKS_HELD_ELSEWHERE}: this agent takes the hooks over when that agent \
                         ends"
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
        let scan = scan.context("the network devices can't be read");
        let started = scan.and_then(|scan| {
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
                let reason = format!(
                    "the kernel plane can't be started, so CoreDNS answers pods' queries as \
                     without Zerohop; the agent tries again every {} s, and `dns-agent check` \
                     tests this node: {reason:#}",
                    RESTART_DELAY.as_secs()
                );
                // Attempts repeat, so only the first failure is an error in the log.
                if matches!(*plane, KernelLifecycle::Failed { .. }) {
                    debug!("{reason}");
                } else {
                    error!("{reason}");
                }
                KernelLifecycle::failed(reason)
            }
        };
    }

    /// Remembers why hooks can't be pinned.
    fn note_unpinned(&mut self, reason: &str) {
        let reason =
            format!("hooks can't be pinned, so CoreDNS answers while no agent runs: {reason}");
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
        // The larger tables have been filled with other names.
        self.growth = None;
        self.write_tables(|datapath| {
            datapath.end_growth();
            let published = datapath.publish_all(data)?;
            info!(?published, "all names were written to the kernel's tables");
            Ok(())
        });
    }

    /// Writes these names of `data` to the tables for at most `limit`. Returns the names that are
    /// left. Only these names, and those left before, may have changed since the last publication.
    pub(super) fn publish_names(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
        limit: Duration,
    ) -> BTreeSet<Name> {
        let mut left = BTreeSet::new();
        self.note_changes(names);
        self.write_tables(|datapath| {
            let publication = datapath.publish_names(data, names, limit)?;
            debug!(
                published = ?publication.published,
                left = publication.left.len(),
                "changed names were written to the kernel's tables"
            );
            left = publication.left;
            Ok(())
        });
        left
    }

    /// Lets the kernel deny absent names where `data` denies them now. All names must be published.
    pub(super) fn finish_publication(&mut self, data: &dyn ZoneData) {
        self.write_tables(|datapath| datapath.finish_publication(data));
    }

    /// Makes queries for these names pass, until they are published.
    pub(super) fn pass_names(&mut self, data: &dyn ZoneData, names: &BTreeSet<Name>) {
        self.note_changes(names);
        self.write_tables(|datapath| datapath.pass_names(data, names));
    }

    /// Records that names of the current tables change, so that larger tables get them too.
    fn note_changes(&mut self, names: &BTreeSet<Name>) {
        if let Some(growth) = &mut self.growth {
            growth.note_changes(names);
        }
    }

    /// Replaces the server addresses at which the kernel answers queries.
    pub(super) fn set_served_addresses(&mut self, data: &dyn ZoneData, addresses: &[SocketAddr]) {
        if self.settings.served_addresses == addresses {
            return;
        }
        info!(
            ?addresses,
            "while the kernel plane runs, the kernel answers queries at these addresses"
        );
        self.settings.served_addresses = addresses.to_vec();
        self.write_tables(|datapath| datapath.publish_served_addresses(data, addresses.to_vec()));
        self.update_steering();
    }

    /// Sets how many addresses of the cluster's DNS do not fit into the settings.
    pub(super) fn set_unserved_count(&mut self, count: usize) {
        self.unserved_count = count;
    }

    /// `--stale-after`: the longest time from a change to the last answer without it.
    pub(super) fn stale_after(&self) -> Duration {
        self.settings.stale_after
    }

    /// The server addresses (IP and port) at which the kernel answers queries.
    pub(super) fn served_addresses(&self) -> &[SocketAddr] {
        &self.settings.served_addresses
    }

    /// Replaces the permitted clients.
    pub(super) fn set_clients(&mut self, data: &dyn ZoneData, permitted: &PermittedQueries) {
        if self.permitted == *permitted {
            return;
        }
        self.permitted = permitted.clone();
        // At once, because the tables may take time.
        self.update_steering();
        let clients = &permitted.udp;
        if self.settings.clients == *clients {
            return;
        }
        self.settings.clients = clients.clone();
        self.write_tables(|datapath| datapath.publish_clients(data, clients.clone()));
    }

    /// Runs a write to the tables. If the write fails, the kernel plane is stopped, because the
    /// contents of the tables are unknown.
    fn write_tables(&mut self, write: impl FnOnce(&mut Datapath) -> anyhow::Result<()>) {
        let mut plane = lock(&self.lifecycle);
        let KernelLifecycle::On(datapath) = &mut *plane else {
            return;
        };
        if let Err(reason) = write(datapath) {
            self.growth = None;
            datapath.stop(StopMode::Detach);
            let reason = format!(
                "the kernel's tables can't be written, so the hooks are removed and CoreDNS \
                 answers; the agent starts the kernel plane again in {} s: {reason:#}",
                RESTART_DELAY.as_secs()
            );
            error!("{reason}");
            *plane = KernelLifecycle::failed(reason);
        }
    }

    /// Whether the tables have no room for some names, and may be replaced with larger ones now.
    pub(super) fn has_full_tables(&self) -> bool {
        if self.has_recent_failed_growth() {
            return false;
        }
        match &*self.lock_lifecycle() {
            KernelLifecycle::On(datapath) => datapath.has_full_tables(),
            _ => false,
        }
    }

    /// Whether an attempt within [`REGROWTH_DELAY`] failed or gained too little room.
    fn has_recent_failed_growth(&self) -> bool {
        let growth = self.failed_growth.as_ref();
        growth.is_some_and(|growth| growth.attempted.elapsed() < REGROWTH_DELAY)
    }

    /// Begins to replace tables that are nearly full with larger ones (if names were left out, with
    /// new ones of the same size or larger), unless an attempt within [`REGROWTH_DELAY`] failed or
    /// gained too little room.
    pub(super) fn begin_growth(&mut self, data: &dyn ZoneData) {
        if self.growth.is_some() || self.has_recent_failed_growth() {
            return;
        }
        let growth = match &mut *self.lock_lifecycle() {
            KernelLifecycle::On(datapath) => datapath.begin_growth(data),
            _ => None,
        };
        if growth.is_none() {
            self.failed_growth = None;
        }
        self.growth = growth;
    }

    /// Whether larger tables are being filled.
    pub(super) fn is_growing(&self) -> bool {
        self.growth.is_some()
    }

    /// Fills larger tables for about `limit`, and moves to them when they have all names. The
    /// current tables answer meanwhile. `passed_names` gives the names that pass until they are
    /// published.
    pub(super) fn continue_growth(
        &mut self,
        data: &dyn ZoneData,
        passed_names: &dyn Fn() -> BTreeSet<Name>,
        limit: Duration,
    ) {
        let Some(mut growth) = self.growth.take() else {
            return;
        };
        let mut plane = lock(&self.lifecycle);
        let KernelLifecycle::On(datapath) = &mut *plane else {
            return;
        };
        let devices = self.devices.latest();
        let config = &self.settings;
        let step =
            datapath.continue_growth(&mut growth, config, devices, data, passed_names, limit);
        let reason = match step {
            Ok(GrowthStep::Unfinished) => {
                self.growth = Some(growth);
                return;
            }
            Ok(GrowthStep::Moved) => {
                info!("larger tables have replaced tables that were nearly full");
                self.failed_growth = None;
                return;
            }
            Ok(GrowthStep::NotLarger | GrowthStep::MovedButFull) => None,
            Err(reason) => {
                let reason = format!(
                    "larger tables can't be created, so CoreDNS answers the names that do not \
                     fit; the agent tries again every {} s: {reason:#}",
                    REGROWTH_DELAY.as_secs()
                );
                error!("{reason}");
                Some(reason)
            }
        };
        datapath.end_growth();
        self.failed_growth = Some(FailedGrowth {
            attempted: Instant::now(),
            reason,
        });
    }

    /// If the kernel plane runs: renews or ends the lease, attaches to the devices that match now,
    /// and detaches from the others. `lease` is how long the kernel may answer from the published
    /// data if the data is current.
    pub(super) fn tick(&mut self, freshness: Freshness, lease: Duration) {
        match &mut *self.lock_lifecycle() {
            KernelLifecycle::On(datapath) => update_lease(datapath, freshness, lease),
            _ => return,
        }
        self.update_steering();
        self.scan_devices();
    }

    /// Lists the devices, attaches to those that match now, and detaches from the others. The list
    /// is made without the lock, so that status readers need not wait for it.
    fn scan_devices(&mut self) {
        let scan = Handle::current().block_on(self.devices.list());
        if let KernelLifecycle::On(datapath) = &mut *lock(&self.lifecycle) {
            reconcile(datapath, scan);
        }
    }

    /// Reads the devices and their filters again, and attaches and detaches as
    /// [`KernelPlane::tick`] does.
    pub(super) fn rescan_devices(&mut self) {
        self.devices.forget_filters();
        self.scan_devices();
    }

    /// Ends the lease, so that the kernel passes all queries until [`KernelPlane::tick`] renews it.
    pub(super) fn pass_everything(&mut self) {
        if let KernelLifecycle::On(datapath) = &mut *self.lock_lifecycle() {
            datapath.end_lease();
        }
        self.update_steering();
    }

    /// Stops the kernel plane.
    pub(super) fn stop(&mut self, mode: StopMode) {
        match &mut *lock(&self.lifecycle) {
            KernelLifecycle::On(datapath) => datapath.stop(mode),
            // Hooks that an earlier agent left may still be attached.
            KernelLifecycle::Waiting(_) | KernelLifecycle::Failed { .. }
                if mode == StopMode::Detach =>
            {
                let Ok(Claim::Claimed(pins)) = Pins::claim(&self.settings.bpffs) else {
                    return;
                };
                let removed = pins.remove_all().map_err(anyhow::Error::from);
                let scan = Handle::current().block_on(self.devices.list());
                let filters = scan.and_then(datapath::detach_filters);
                for reason in [removed.err(), filters.err()].into_iter().flatten() {
                    error!(
                        "hooks of an earlier agent can't be removed and answer until their lease \
                         ends: {reason:#}; remove them with `dns-agent detach`"
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

/// Renews the lease if the published data is current, and ends it otherwise.
fn update_lease(datapath: &mut Datapath, freshness: Freshness, lease: Duration) {
    match freshness {
        Freshness::Stale(_) => datapath.end_lease(),
        Freshness::Current => {
            if let Err(reason) = datapath.renew_lease(lease) {
                error!(
                    "the lease can't be renewed, so CoreDNS answers all queries after it \
                     expires; the agent keeps trying: {reason:#}"
                );
            }
        }
    }
}

fn reconcile(datapath: &mut Datapath, scan: anyhow::Result<&[Device]>) {
    match scan {
        Ok(devices) => datapath.reconcile(devices),
        Err(reason) => warn!(
            "the network devices can't be read, so CoreDNS answers queries on new interfaces; \
             the agent keeps trying: {reason:#}"
        ),
    }
}

/// Locks the field alone, so that a caller can use the other fields of [`KernelPlane`] meanwhile.
/// Ignores poisoning: a publisher that panicked ends the agent, so its state is no longer used.
fn lock(plane: &Mutex<KernelLifecycle>) -> MutexGuard<'_, KernelLifecycle> {
    plane.lock().unwrap_or_else(PoisonError::into_inner)
}
