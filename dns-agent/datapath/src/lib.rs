//! The agent's side of the kernel plane.
//!
//! [`Datapath`] creates the tables, fills them from a [`ZoneData`], attaches the programs and
//! renews the lease. No other crate of the agent uses aya. A record is laid out in
//! `dns-common/src/records.rs`, built in [`records`] and read in `dns-ebpf/src/records.rs`.

#![deny(unsafe_code)]

pub mod canary;
mod detach;
pub mod explain;
pub mod foreign_programs;
pub mod grace;
mod growth;
pub mod hash_table;
mod hook_choice;
pub mod hooks;
pub mod interfaces;
pub mod lease;
pub mod limits;
#[expect(unsafe_code, reason = "mapped memory")]
pub mod memory;
mod permitted_clients;
pub mod pins;
pub mod probe;
pub mod program;
mod publication;
pub mod records;
pub mod settings;
pub mod slots;
pub mod status;
pub mod steering;
mod steering_program;
#[expect(unsafe_code, reason = "raw system calls")]
mod syscall;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipnet::IpNet;

pub use aya::include_bytes_aligned;
pub use detach::{detach, detach_filters};
use foreign_programs::{ForeignProgram, ForeignPrograms};
use grace::Rcu;
pub use growth::{Growth, GrowthStep};
pub use hook_choice::{HookChoice, Interface};
use hooks::{FailedAttachment, Hooks};
use interfaces::Device;
use lease::Clock;
pub use permitted_clients::PermittedClients;
use pins::Pins;
pub use program::ObjectFile;
use program::{EbpfObject, TableSize};
pub use publication::{KernelTables, PartialPublication, PublicationCounts, table_size};
use settings::RateLimit;
pub use status::DatapathStatus;
pub use steering_program::SteeringProgram;
use zerohop_zone::{Name, ZoneData};

/// The least number of renewals within [`DatapathConfig::stale_after`]. The lease outlasts a few
/// late or failed renewals.
const RENEWALS_PER_LEASE: u32 = 4;

/// The duration of the lease after a stop with [`StopMode::KeepHooks`]. It equals the TTL in the
/// usual Corefile of CoreDNS (`ttl 30`): clients may use an answer of CoreDNS for as long. A longer
/// lease is shortened to it.
const HANDOVER_LEASE: Duration = Duration::from_secs(30);

/// Whether hooks outlive the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Hooks are detached when the agent stops. Filters on kernels without tcx stay when the agent
    /// is killed, and pass all queries after the lease has expired.
    #[default]
    UntilAgentStops,
    /// Hooks are pinned if possible. Pinned hooks stay attached when the agent is killed, or stops
    /// with [`StopMode::KeepHooks`]. Filters on kernels without tcx stay attached without a pin.
    Pinned,
}

/// What happens to the hooks when the kernel plane stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Hooks are detached, so CoreDNS answers all queries.
    Detach,
    /// Pinned hooks, and filters on kernels without tcx, stay for the next agent and answer until
    /// the lease expires. Other hooks are detached.
    KeepHooks,
}

/// The state of the lease when [`Datapath::start`] attaches the first hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialLease {
    /// The kernel answers from the first hook on.
    Running,
    /// The kernel answers only after [`Datapath::renew_lease`].
    Ended,
}

/// The configuration of the kernel plane.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// The object file with the programs and maps.
    pub object_file: ObjectFile,
    /// Interfaces to attach to.
    pub interfaces: Vec<Interface>,
    /// Networks whose clients are answered on network cards. When it is empty, network cards get no
    /// hook.
    pub allow: Vec<IpNet>,
    /// Answers per second for each client on network cards; `None` means no limit.
    pub rate_limit: Option<NonZeroU32>,
    /// Server addresses (IP and port) at which the kernel answers queries. When it is empty, all
    /// queries pass.
    pub served_addresses: Vec<SocketAddr>,
    /// Clients that policies permit, until [`Datapath::publish_clients`] replaces them.
    pub clients: PermittedClients,
    /// The least number of names for which [`table_size`] makes room. The tables then never grow.
    /// `None`: it makes room for at least 12.5 % more names than exist, and the tables grow.
    pub capacity: Option<usize>,
    /// Duration of the lease: how long the kernel answers after the last renewal.
    pub stale_after: Duration,
    /// Whether hooks outlive the agent.
    pub persistence: Persistence,
    /// Mount point of the BPF file system. It is searched for pins of foreign programs.
    pub bpffs: PathBuf,
    /// The program that steers queries which pass, and TCP. `None`: nothing is steered.
    pub steering: Option<SteeringProgram>,
}

/// The kernel plane: tables, programs and attached hooks.
pub struct Datapath {
    config: DatapathConfig,
    hooks: Hooks,
    foreign_programs: ForeignPrograms,
    /// Foreign programs found by the last [`Datapath::reconcile`], each with its device index.
    foreign_programs_found: Vec<(u32, ForeignProgram)>,
    clock: Clock,
    /// When the lease was last renewed; before the first renewal, when the tables were created.
    renewed: Instant,
    /// When the lease ends, unless it is ended or renewed before.
    leased_until: Instant,
    /// The size of `tables`.
    size: TableSize,
    tables: KernelTables<Rcu>,
    // Dropped last, because the hooks and the tables refer to its programs and maps.
    object: EbpfObject,
}

impl Datapath {
    /// Creates and fills the tables, then attaches to all matching `devices` except those that a
    /// foreign program owns. A hook of an earlier agent stays until this agent's program replaces
    /// its program atomically; if this agent attaches nothing in its place, the hook is removed.
    /// Without `pins`, hooks can't be pinned, and hooks that this agent does not replace stay.
    ///
    /// # Errors
    ///
    /// When the object file lacks a map or program, when the kernel refuses a map, a program or a
    /// run of the lease program, when the tables can't be mapped, or when the settings can't be
    /// built. A failure to attach to a device is not an error: see
    /// [`Datapath::failed_attachments`].
    pub fn start(
        config: DatapathConfig,
        pins: Option<Pins>,
        devices: &[Device],
        data: &dyn ZoneData,
        lease: InitialLease,
    ) -> anyhow::Result<Self> {
        let size = table_size(data, config.capacity);
        let mut datapath = Datapath::with_empty_tables(config, size, pins, devices)?;
        datapath.publish_all(data)?;
        if lease == InitialLease::Running {
            datapath.renew_lease(datapath.config.stale_after)?;
        }
        datapath.reconcile(devices);
        datapath.hooks.remove_stale_hooks(devices);
        Ok(datapath)
    }

    /// Whether the tables have no room for some names, and can be replaced with larger ones.
    #[must_use]
    pub fn has_full_tables(&self) -> bool {
        self.config.capacity.is_none() && self.tables.are_full()
    }

    /// Creates empty tables, with the lease ended and no hook attached.
    fn with_empty_tables(
        config: DatapathConfig,
        size: TableSize,
        pins: Option<Pins>,
        devices: &[Device],
    ) -> anyhow::Result<Self> {
        let mut object = EbpfObject::load(config.object_file, size)?;
        for program in hooks::wanted_programs(&config.interfaces, devices) {
            object.load_program(program)?;
        }
        let mut tables = KernelTables::new(&object, size, &config, Rcu::new()?)?;
        if let Some(steering) = &config.steering {
            match object.set_steering_program(steering) {
                Ok(()) => tables.settings.set_steered_port(steering.port),
                Err(reason) => tracing::warn!(
                    "queries that the kernel passes go to the cluster's DNS, because the programs \
                     of the hooks can't call the steering program: {reason:#}"
                ),
            }
        }
        let clock = Clock::measure(&object)?;
        // The measurement leaves an expired lease, which `is_leased` would take for a valid one.
        tables.settings.end_lease();
        let rate_limit = config.rate_limit;
        tables.publish_rate_limit(rate_limit.map(|rate| RateLimit::new(rate, clock)));
        Ok(Self {
            hooks: Hooks::new(
                config.interfaces.clone(),
                config.allow.len(),
                pins,
                config.persistence,
            ),
            foreign_programs: ForeignPrograms::new(config.bpffs.clone()),
            foreign_programs_found: Vec::new(),
            clock,
            renewed: Instant::now(),
            leased_until: Instant::now(),
            size,
            tables,
            object,
            config,
        })
    }

    /// Publishes all names of `data`, and removes all other names. Records that have not changed
    /// are not written.
    ///
    /// # Errors
    ///
    /// When the settings can't be built. Then only some of the names may be published.
    pub fn publish_all(&mut self, data: &dyn ZoneData) -> anyhow::Result<PublicationCounts> {
        self.tables.publish_all(data, &mut || {})
    }

    /// Publishes `names` from `data` for at most `limit`, and removes those that `data` lacks.
    /// Returns the names that are left, which keep their old records. Unchanged records are not
    /// written. See [`KernelTables::publish_names`] for what must not have changed.
    ///
    /// # Errors
    ///
    /// When the settings can't be built. Then only some of `names` may be published.
    pub fn publish_names(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
        limit: Duration,
    ) -> anyhow::Result<PartialPublication> {
        self.tables.publish_names(data, names, limit)
    }

    /// Lets the kernel deny absent names where `data` denies them now. All names must be published.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_names`].
    pub fn finish_publication(&mut self, data: &dyn ZoneData) -> anyhow::Result<()> {
        self.tables.finish_publication(data)
    }

    /// Makes queries for `names` pass, until [`Datapath::publish_names`] publishes these names.
    ///
    /// # Errors
    ///
    /// As for [`Datapath::publish_names`].
    pub fn pass_names(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
    ) -> anyhow::Result<()> {
        self.tables.pass_names(data, names)
    }

    /// Replaces the server addresses at which the kernel answers queries.
    ///
    /// # Errors
    ///
    /// When the settings can't be built, for example because there are too many addresses. The old
    /// addresses stay.
    pub fn publish_served_addresses(
        &mut self,
        data: &dyn ZoneData,
        addresses: Vec<SocketAddr>,
    ) -> anyhow::Result<()> {
        self.tables.publish_served_addresses(data, &addresses)?;
        self.config.served_addresses = addresses;
        Ok(())
    }

    /// Replaces the clients that policies permit.
    ///
    /// # Errors
    ///
    /// When a client can't be removed from the kernel's map, or when the settings can't be built.
    pub fn publish_clients(
        &mut self,
        data: &dyn ZoneData,
        clients: PermittedClients,
    ) -> anyhow::Result<()> {
        self.tables.publish_clients(data, clients)
    }

    /// Whether the kernel may answer. A lease that was ended, or has run out, begins again only by
    /// [`Datapath::renew_lease`], because the tables may be incomplete or outdated.
    fn is_leased(&self) -> bool {
        self.tables.settings.lease() != 0 && Instant::now() < self.leased_until
    }

    /// When the lease ends, unless it is renewed. `None`: it has ended.
    #[must_use]
    pub fn leased_until(&self) -> Option<Instant> {
        self.is_leased().then_some(self.leased_until)
    }

    /// Ends the lease: the kernel passes all queries until [`Datapath::renew_lease`].
    pub fn end_lease(&mut self) {
        self.tables.settings.end_lease();
    }

    /// Lets the kernel answer for `duration` from now, which replaces the current lease.
    ///
    /// # Errors
    ///
    /// When the kernel can't run the lease program. Then the lease still ends at its earlier time.
    pub fn renew_lease(&mut self, duration: Duration) -> anyhow::Result<()> {
        if duration.is_zero() {
            self.end_lease();
            return Ok(());
        }
        let renewed = Instant::now();
        self.object.set_lease(self.clock.jiffies(duration))?;
        self.renewed = renewed;
        self.leased_until = renewed + duration;
        self.object.flush_log();
        Ok(())
    }

    /// The longest time that the agent may wait between renewals of the lease.
    #[must_use]
    pub fn renewal_interval(&self) -> Duration {
        self.config.stale_after / RENEWALS_PER_LEASE
    }

    /// Attaches to matching devices without a hook, and detaches where the hook no longer fits: see
    /// [`Hooks::reconcile`]. Publishes the hardware addresses of matching network cards, and
    /// restores removed pins.
    pub fn reconcile(&mut self, devices: &[Device]) {
        self.publish_card_addresses(devices);
        self.hooks.restore_pins();
        let mut zerohop_ids: BTreeSet<u32> = self.object.program_ids().into_iter().collect();
        zerohop_ids.extend(self.hooks.pinned_program_ids());
        self.foreign_programs_found = self
            .foreign_programs
            .find_on(self.hooks.wanted_devices(devices), &zerohop_ids);
        self.hooks
            .reconcile(&mut self.object, devices, &self.foreign_programs_found);
    }

    /// Publishes the hardware addresses of the matching network cards.
    fn publish_card_addresses(&mut self, devices: &[Device]) {
        let cards = hooks::card_addresses(&self.config.interfaces, devices);
        self.tables.publish_card_addresses(cards);
    }

    /// Whether any device has a hook.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.hooks.attached().next().is_some()
    }

    /// Matching devices to which attaching failed.
    pub fn failed_attachments(&self) -> impl Iterator<Item = &FailedAttachment> {
        self.hooks.failed()
    }

    /// Descriptions of the queries that pass because of a size limit. Names that full tables have
    /// no room for are not among them: see [`Datapath::degradations`].
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        self.tables.limits()
    }

    /// Stops the kernel plane.
    pub fn stop(&mut self, mode: StopMode) {
        match mode {
            StopMode::Detach => {
                self.tables.settings.end_lease();
                self.hooks.detach();
            }
            StopMode::KeepHooks => {
                if self.is_leased()
                    && let Err(error) = self.object.set_lease(self.clock.jiffies(HANDOVER_LEASE))
                {
                    tracing::warn!(
                        "the lease can't be set for the handover: hooks answer for at most \
                         {:?} after the last renewal, then CoreDNS answers until the next agent \
                         is ready: {error:#}",
                        self.config.stale_after
                    );
                }
                self.hooks.keep_attached();
            }
        }
    }
}
