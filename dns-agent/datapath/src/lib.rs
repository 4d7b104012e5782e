//! The agent's side of the kernel plane.
//!
//! Only this module uses aya. [`Datapath`] creates the tables, fills them from a [`ZoneData`],
//! attaches the programs and renews the lease. File names mirror `dns-common` and `dns-ebpf`: a
//! record is laid out in `dns-common/src/records.rs`, built in [`records`] and read in `dns-ebpf`.

#![deny(unsafe_code)]

pub mod canary;
mod detach;
pub mod explain;
pub mod foreign_programs;
#[expect(unsafe_code, reason = "it speaks to the kernel")]
pub mod grace;
pub mod hash_table;
mod hook_choice;
pub mod hooks;
pub mod interfaces;
pub mod lease;
pub mod limits;
#[expect(unsafe_code, reason = "it speaks to the kernel")]
pub mod memory;
pub mod pins;
pub mod probe;
pub mod program;
mod publication;
pub mod records;
pub mod settings;
pub mod slots;
pub mod status;
#[expect(unsafe_code, reason = "it speaks to the kernel")]
mod syscall;
mod veth_clients;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipnet::IpNet;

pub use aya::include_bytes_aligned;
pub use detach::{detach, detach_filters};
use foreign_programs::{ForeignProgram, ForeignPrograms};
use grace::Rcu;
pub use hook_choice::{HookChoice, Interface};
use hooks::{FailedAttachment, Hooks};
use interfaces::Device;
use lease::Clock;
use pins::Pins;
pub use program::ObjectFile;
use program::{EbpfObject, TableSize};
pub use publication::{KernelTables, PublicationCounts, table_size};
use settings::RateLimit;
pub use status::DatapathStatus;
pub use veth_clients::VethClients;
use zerohop_zone::{Name, ZoneData};

/// Renewals of the lease within [`DatapathConfig::stale_after`].
const RENEWALS_PER_LEASE: u32 = 4;

/// The lease after a stop with [`StopMode::KeepHooks`]: as long as CoreDNS's usual TTL.
const HANDOVER_LEASE: Duration = Duration::from_secs(30);

/// Whether hooks outlive the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Hooks are detached when the agent stops.
    #[default]
    None,
    /// Hooks are pinned and stay attached.
    Pinned,
}

/// What happens to the hooks when the kernel plane stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// All hooks are removed from the node.
    Detach,
    /// Hooks stay for the next agent, and answer until the lease expires.
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

/// The result of [`Datapath::grow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The present tables have room.
    Unneeded,
    /// New tables would have no more room, or are full as well.
    Useless,
    /// All names are in new tables, which the hooks now use.
    Moved,
}

/// The configuration of the kernel plane.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// The object file with the programs and maps.
    pub object_file: ObjectFile,
    /// Interfaces to attach to.
    pub interfaces: Vec<Interface>,
    /// Networks whose clients are answered on network cards.
    pub allow: Vec<IpNet>,
    /// Answers per second for each client on network cards; 0 means no limit.
    pub rate_limit: u32,
    /// Addresses and ports whose queries the kernel answers.
    pub serve: Vec<SocketAddr>,
    /// Clients answered on pods' veths until [`Datapath::publish_clients`] changes them.
    pub clients: VethClients,
    /// Number of names that the tables have room for. `None`: 12.5 % more than there are, and the
    /// tables grow.
    pub capacity: Option<usize>,
    /// Duration of the lease.
    pub stale_after: Duration,
    /// Whether hooks outlive the agent.
    pub persistence: Persistence,
    /// Mount point of the BPF file system, which is searched for pins of foreign programs.
    pub bpffs: PathBuf,
}

/// The kernel plane: tables, programs and attached hooks.
pub struct Datapath {
    config: DatapathConfig,
    hooks: Hooks,
    foreign_programs: ForeignPrograms,
    /// Foreign programs found by the last [`Datapath::reconcile`], each with its device index.
    foreign_programs_found: Vec<(u32, ForeignProgram)>,
    clock: Clock,
    renewed: Instant,
    size: TableSize,
    tables: KernelTables<Rcu>,
    // Dropped last: everything above refers to its programs and maps.
    object: EbpfObject,
}

impl Datapath {
    /// Creates and fills the tables, then attaches to all matching `devices`. Hooks of an earlier
    /// agent answer until this agent's program replaces them atomically.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the maps or the lease program.
    pub fn start(
        config: DatapathConfig,
        pins: Option<Pins>,
        devices: &[Device],
        data: &dyn ZoneData,
        lease: InitialLease,
    ) -> anyhow::Result<Self> {
        let size = table_size(data, config.capacity);
        let mut datapath = Datapath::with_filled_tables(config, size, pins, devices, data)?;
        if lease == InitialLease::Running {
            datapath.renew_lease()?;
        }
        datapath.reconcile(devices);
        datapath.hooks.remove_stale_hooks(devices);
        Ok(datapath)
    }

    /// Moves to new tables when the present ones are full or nearly full and no capacity is
    /// configured.
    ///
    /// The new tables are filled while the old ones answer. Then each hook's program is replaced
    /// atomically, as in an update of the agent. The kernel's counters start again at zero.
    /// `config` is the configuration for the new tables.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the new tables. The old ones stay in use.
    pub fn grow(
        &mut self,
        config: DatapathConfig,
        devices: &[Device],
        data: &dyn ZoneData,
    ) -> anyhow::Result<Growth> {
        if config.capacity.is_some() || !self.tables.are_nearly_full() {
            return Ok(Growth::Unneeded);
        }
        let size = table_size(data, None);
        // When names were left out, new tables of the same size also have more room, because the
        // free slots of the present ones have the wrong sizes.
        if !size.exceeds(self.size) && !self.tables.are_full() {
            return Ok(Growth::Useless);
        }
        let mut larger = Datapath::with_filled_tables(config, size, None, devices, data)?;
        if self.tables.settings.lease() != 0 {
            larger.renew_lease()?;
        }
        larger.publish_card_addresses(devices);
        // The known foreign programs were found with the old programs' IDs. The next `reconcile`
        // finds them anew.
        larger.hooks = self.hooks.move_to(&mut larger.object);
        std::mem::swap(&mut larger.foreign_programs, &mut self.foreign_programs);
        larger.foreign_programs_found = std::mem::take(&mut self.foreign_programs_found);
        *self = larger;
        Ok(if self.tables.are_full() {
            Growth::Useless
        } else {
            Growth::Moved
        })
    }

    /// Creates and fills the tables, with the lease ended and no hook attached.
    fn with_filled_tables(
        config: DatapathConfig,
        size: TableSize,
        pins: Option<Pins>,
        devices: &[Device],
        data: &dyn ZoneData,
    ) -> anyhow::Result<Self> {
        let mut object = EbpfObject::load(config.object_file, size)?;
        for program in hooks::wanted_programs(&config.interfaces, devices) {
            object.load_program(program)?;
        }
        let mut tables = KernelTables::new(&object, size, &config, Rcu::new()?)?;
        let clock = Clock::measure(&object)?;
        tables.settings.end_lease();
        tables.publish_rate_limit(RateLimit::new(config.rate_limit, clock));
        let mut datapath = Self {
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
            size,
            tables,
            object,
            config,
        };
        datapath.publish_all(data)?;
        Ok(datapath)
    }

    /// Publishes all names of `data`. Records that have not changed are not written.
    ///
    /// # Errors
    ///
    /// When the settings can't be built.
    pub fn publish_all(&mut self, data: &dyn ZoneData) -> anyhow::Result<PublicationCounts> {
        let Self {
            config,
            clock,
            renewed,
            tables,
            object,
            ..
        } = self;
        let interval = config.stale_after / RENEWALS_PER_LEASE;
        let jiffies = clock.jiffies(config.stale_after);
        // The records published so far are right, so a running lease is renewed during a long
        // round. An ended one isn't, because the tables are incomplete or out of date.
        let is_leased = tables.settings.lease() != 0;
        tables.publish_all(data, &mut || {
            if is_leased && renewed.elapsed() > interval && object.set_lease(jiffies).is_ok() {
                *renewed = Instant::now();
            }
        })
    }

    /// Publishes those of `names` that have changed in `data`.
    ///
    /// # Errors
    ///
    /// When the settings can't be built.
    pub fn publish_names(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
    ) -> anyhow::Result<PublicationCounts> {
        self.tables.publish_names(data, names)
    }

    /// Replaces the addresses whose queries the kernel answers.
    ///
    /// # Errors
    ///
    /// When there are more than the settings hold. Then the present addresses stay.
    pub fn publish_served_addresses(
        &mut self,
        data: &dyn ZoneData,
        addresses: Vec<SocketAddr>,
    ) -> anyhow::Result<()> {
        self.tables.publish_served_addresses(data, &addresses)?;
        self.config.serve = addresses;
        Ok(())
    }

    /// Replaces the clients that are answered on pods' veths.
    ///
    /// # Errors
    ///
    /// When a client can't be removed from the kernel's map, or the settings can't be built.
    pub fn publish_clients(
        &mut self,
        data: &dyn ZoneData,
        clients: VethClients,
    ) -> anyhow::Result<()> {
        self.tables.publish_clients(data, clients)
    }

    /// Makes the kernel pass all queries until the lease is renewed.
    pub fn end_lease(&mut self) {
        self.tables.settings.end_lease();
    }

    /// Lets the kernel answer for another [`DatapathConfig::stale_after`].
    ///
    /// # Errors
    ///
    /// When the kernel can't run the lease program. Then the lease expires.
    pub fn renew_lease(&mut self) -> anyhow::Result<()> {
        self.object
            .set_lease(self.clock.jiffies(self.config.stale_after))?;
        self.renewed = Instant::now();
        self.object.flush_log();
        Ok(())
    }

    /// The interval at which the agent renews the lease.
    #[must_use]
    pub fn renewal_interval(&self) -> Duration {
        self.config.stale_after / RENEWALS_PER_LEASE
    }

    /// Attaches to new devices and detaches from those that are gone or no longer match.
    pub fn reconcile(&mut self, devices: &[Device]) {
        self.publish_card_addresses(devices);
        self.hooks.restore_pins();
        let mut own: BTreeSet<u32> = self.object.program_ids().into_iter().collect();
        own.extend(self.hooks.pinned_program_ids());
        self.foreign_programs_found = self
            .foreign_programs
            .find_on(self.hooks.wanted_devices(devices), &own);
        self.hooks
            .reconcile(&mut self.object, devices, &self.foreign_programs_found);
    }

    /// Publishes the hardware addresses of the network cards that have a hook.
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

    /// Descriptions of the names and queries that pass because of a size limit of tables or
    /// settings.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        self.tables.limits()
    }

    /// Reasons why the kernel plane answers less than configured, for `/readyz` and `status`.
    #[must_use]
    pub fn degradations(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        let mut skipped = self.hooks.skipped();
        if let Some(first) = skipped.next() {
            let count = 1 + skipped.count();
            degraded.push(format!(
                "interfaces skipped: {count}; the kernel passes their queries to the cluster's DNS; {}, because {}",
                first.interface, first.reason
            ));
        } else if !self.is_attached() && self.hooks.failed().next().is_none() {
            degraded.push(
                "no interface matches --interface yet: the kernel answers no queries".to_owned(),
            );
        }
        degraded.extend(self.hooks.pinning_error().map(str::to_owned));
        let left_out = self.tables.published.left_out;
        if left_out > 0 {
            let what_next = match self.config.capacity {
                Some(_) => "give a larger --capacity, or leave it out to let the tables grow",
                None => "larger tables are made when memory allows",
            };
            let names = self.tables.usage().names;
            degraded.push(format!(
                "the tables are full: they hold {names} names and {left_out} found no room; in the zones of those, queries for names \
                 that are not found pass; {what_next}",
            ));
        }
        degraded
    }

    /// Stops the kernel plane.
    pub fn stop(&mut self, mode: StopMode) {
        match mode {
            StopMode::Detach => {
                self.tables.settings.end_lease();
                self.hooks.detach();
            }
            StopMode::KeepHooks => {
                // An ended lease stays ended, because the tables may be wrong.
                let is_leased = self.tables.settings.lease() != 0;
                if is_leased
                    && let Err(error) = self.object.set_lease(self.clock.jiffies(HANDOVER_LEASE))
                {
                    tracing::warn!(
                        "the lease can't be extended to {HANDOVER_LEASE:?}, so the kernel stops answering sooner: {error:#}"
                    );
                }
                self.hooks.keep_attached();
            }
        }
    }
}
