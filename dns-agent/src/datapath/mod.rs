//! The kernel plane: the agent's side of it.
//!
//! The only module that knows aya. [`Datapath`] makes the tables, fills them from a
//! [`ZoneData`], attaches the programs and renews the lease. Its file names are those of
//! `dns-common` and `dns-ebpf`: a record is laid out in `dns-common/src/records.rs`, built in
//! [`records`] and read in `dns-ebpf/src/lookup.rs`.

pub mod canary;
mod clients;
mod detach;
pub mod explain;
pub mod grace;
pub mod hooks;
pub mod interfaces;
pub mod lease;
pub mod limits;
pub mod memory;
pub mod object;
pub mod others;
pub mod pins;
pub mod probe;
pub mod records;
pub mod settings;
pub mod slots;
pub mod status;
mod syscall;
pub mod table;
mod tables;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipnet::IpNet;

pub use clients::Clients;
pub use detach::{detach, detach_filters};
pub use status::Status;
pub use tables::{Published, Tables, size};

use crate::{
    config::Interface,
    zone::{Name, ZoneData},
};
use grace::Rcu;
use hooks::{Failed, Hooks};
use interfaces::Device;
use lease::Clock;
use object::{Object, Size};
use others::{Other, Others};
use pins::Pins;
use settings::Limit;

/// How often the lease is renewed before it runs out.
const RENEWALS: u32 = 4;

/// How long the kernel goes on answering after a stop that leaves the hooks to the next agent:
/// CoreDNS's usual TTL.
const LEFT: Duration = Duration::from_secs(30);

/// Whether hooks stay over a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// They go with the agent.
    #[default]
    None,
    /// They are pinned, and stay.
    Pinned,
}

/// How the kernel plane ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is left on the node.
    Detached,
    /// Hooks and answers stay for the next agent, for as long as the lease lasts.
    Left,
}

/// Whether the kernel answers as soon as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// From the first hook on.
    Begins,
    /// When it is renewed.
    IsOver,
}

/// What came of [`Datapath::grow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// There is room.
    Unneeded,
    /// There is no more room than before.
    Useless,
    /// Everything has found room in other tables.
    Moved,
}

/// What the kernel plane is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where hooks go.
    pub interfaces: Vec<Interface>,
    /// Clients answered on network cards.
    pub allow: Vec<IpNet>,
    /// Answers a second for each client on network cards; 0: without a limit.
    pub rate_limit: u32,
    /// What the kernel answers for.
    pub serve: Vec<SocketAddr>,
    /// Who is answered on pods' veths at first.
    pub clients: Clients,
    /// Room for how many names; `None`: for somewhat more than there are, and the tables grow.
    pub capacity: Option<usize>,
    /// How long the kernel answers without hearing from the agent.
    pub stale_after: Duration,
    /// Whether hooks stay over a stop.
    pub persistence: Persistence,
    /// The BPF file system, where other people's programs are pinned.
    pub bpffs: PathBuf,
}

/// The tables, the programs, and what they are attached to.
pub struct Datapath {
    config: Config,
    hooks: Hooks,
    others: Others,
    /// Other people's programs as of the last look, with the numbers of their devices.
    others_found: Vec<(u32, Other)>,
    clock: Clock,
    renewed: Instant,
    size: Size,
    tables: Tables<Rcu>,
    // Dropped last: the programs and maps that everything above is about.
    object: Object,
}

impl Datapath {
    /// Makes the tables, fills them, and attaches to every one of `devices` that matches. What an agent
    /// before left there answers until then, and is replaced at one stroke.
    ///
    /// # Errors
    ///
    /// When the kernel refuses maps or the lease's program.
    pub fn start(
        config: Config,
        pins: Option<Pins>,
        devices: &[Device],
        data: &dyn ZoneData,
        lease: Lease,
    ) -> anyhow::Result<Self> {
        let size = size(data, config.capacity);
        let mut datapath = Datapath::filled(config, size, pins, devices, data)?;
        if lease == Lease::Begins {
            datapath.renew_lease()?;
        }
        datapath.reconcile(devices);
        datapath.hooks.take_off_others(devices);
        Ok(datapath)
    }

    /// Moves to other tables if there is no room left, or hardly any, and nobody has said how large they are to be. They
    /// are filled beside those that answer, and then the programs are replaced as by an update of the agent: each at one
    /// stroke. `config` is what it is by now. What the kernel counted begins at zero again.
    ///
    /// # Errors
    ///
    /// When the kernel refuses larger ones: everything is as it was.
    pub fn grow(
        &mut self,
        config: Config,
        devices: &[Device],
        data: &dyn ZoneData,
    ) -> anyhow::Result<Growth> {
        if config.capacity.is_some() || !self.tables.need_room() {
            return Ok(Growth::Unneeded);
        }
        let size = size(data, None);
        // Where names were left out even tables of the same size have more room: what is free in these is in
        // slots of the wrong sizes.
        if !size.exceeds(self.size) && !self.tables.are_full() {
            return Ok(Growth::Useless);
        }
        let mut larger = Datapath::filled(config, size, None, devices, data)?;
        if self.tables.publisher.lease() != 0 {
            larger.renew_lease()?;
        }
        larger.receive(devices);
        // Whose programs are where was looked up before, when ours had other numbers: what is in the way is found out
        // by the next look.
        larger.hooks = self.hooks.move_to(&mut larger.object);
        std::mem::swap(&mut larger.others, &mut self.others);
        larger.others_found = std::mem::take(&mut self.others_found);
        *self = larger;
        Ok(match self.tables.are_full() {
            true => Growth::Useless,
            false => Growth::Moved,
        })
    }

    /// Tables with everything in them, but without a lease, and with nothing attached.
    fn filled(
        config: Config,
        size: Size,
        pins: Option<Pins>,
        devices: &[Device],
        data: &dyn ZoneData,
    ) -> anyhow::Result<Self> {
        let mut object = Object::load(size)?;
        for program in hooks::programs(&config.interfaces, devices) {
            object.ensure(program)?;
        }
        let mut tables = Tables::new(&object, size, &config, Rcu::new()?)?;
        let clock = Clock::measure(&object)?;
        tables.publisher.end_lease();
        tables.limit(Limit::new(config.rate_limit, clock));
        let mut datapath = Self {
            hooks: Hooks::new(
                config.interfaces.clone(),
                config.allow.len(),
                pins,
                config.persistence,
            ),
            others: Others::new(config.bpffs.clone()),
            others_found: Vec::new(),
            clock,
            renewed: Instant::now(),
            size,
            tables,
            object,
            config,
        };
        datapath.publish(data)?;
        Ok(datapath)
    }

    /// Brings the tables to all of `data`; only what differs is written.
    ///
    /// # Errors
    ///
    /// When the settings can't be built.
    pub fn publish(&mut self, data: &dyn ZoneData) -> anyhow::Result<Published> {
        let Self {
            config,
            clock,
            renewed,
            tables,
            object,
            ..
        } = self;
        let interval = config.stale_after / RENEWALS;
        let jiffies = clock.jiffies(config.stale_after);
        // What has been published so far is right, so a long round is no reason to stop answering. But who had no
        // lease before gets none by that: its first round has only begun, or it isn't right any more.
        let is_leased = tables.publisher.lease() != 0;
        tables.publish(data, &mut || {
            if is_leased && renewed.elapsed() > interval && object.set_lease(jiffies).is_ok() {
                *renewed = Instant::now();
            }
        })
    }

    /// Brings the tables to `data`, of which only these names may have changed.
    ///
    /// # Errors
    ///
    /// When the settings can't be built.
    pub fn update(
        &mut self,
        data: &dyn ZoneData,
        names: &BTreeSet<Name>,
    ) -> anyhow::Result<Published> {
        self.tables.update(data, names)
    }

    /// Answers for other addresses from now on.
    ///
    /// # Errors
    ///
    /// When there are more than the kernel program looks through; nothing has changed then.
    pub fn serve(&mut self, data: &dyn ZoneData, addresses: Vec<SocketAddr>) -> anyhow::Result<()> {
        self.tables.serve(data, &addresses)?;
        self.config.serve = addresses;
        Ok(())
    }

    /// Answers only these clients on pods' veths from now on.
    ///
    /// # Errors
    ///
    /// When the kernel keeps a client that is not among them, or the settings can't be built.
    pub fn admit(&mut self, data: &dyn ZoneData, clients: Clients) -> anyhow::Result<()> {
        self.tables.admit(data, clients)
    }

    /// Makes the kernel pass everything, until the lease is renewed.
    pub fn end_lease(&mut self) {
        self.tables.publisher.end_lease();
    }

    /// Lets the kernel answer for another [`Config::stale_after`].
    ///
    /// # Errors
    ///
    /// When the kernel can't run the lease's program; the lease runs out then.
    pub fn renew_lease(&mut self) -> anyhow::Result<()> {
        self.object
            .set_lease(self.clock.jiffies(self.config.stale_after))?;
        self.renewed = Instant::now();
        self.object.flush_log();
        Ok(())
    }

    /// How often the lease is to be renewed.
    #[must_use]
    pub fn renewal_interval(&self) -> Duration {
        self.config.stale_after / RENEWALS
    }

    /// Attaches to devices that came, and forgets those that went.
    pub fn reconcile(&mut self, devices: &[Device]) {
        self.receive(devices);
        self.hooks.restore_pins();
        let mut ours: BTreeSet<u32> = self.object.programs().into_iter().collect();
        ours.extend(self.hooks.pinned_programs());
        self.others_found = self.others.on(self.hooks.wanted(devices), &ours);
        self.hooks
            .reconcile(&mut self.object, devices, &self.others_found);
    }

    /// Follows which hardware addresses are the cards'.
    fn receive(&mut self, devices: &[Device]) {
        let cards = hooks::hardware(&self.config.interfaces, devices);
        self.tables.receive(cards);
    }

    /// Whether any device has a hook.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.hooks.attached().next().is_some()
    }

    /// Devices that match, but have no hook.
    pub fn failed(&self) -> impl Iterator<Item = &Failed> {
        self.hooks.failed()
    }

    /// What passes because the tables or the settings hold only so much of it, each with its bound.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        self.tables.limits()
    }

    /// What keeps the kernel plane from being whole, though the agent serves.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        let mut left_alone = self.hooks.left_alone();
        if let Some(first) = left_alone.next() {
            let count = 1 + left_alone.count();
            degraded.push(format!(
                "interfaces left alone: {count}, where the kernel answers nobody; {}, because {}",
                first.interface, first.reason
            ));
        } else if !self.is_attached() && self.hooks.failed().next().is_none() {
            degraded
                .push("no interface matches --interface yet: the kernel answers nobody".to_owned());
        }
        degraded.extend(self.hooks.unpinned().map(str::to_owned));
        let left_out = self.tables.published.left_out;
        if left_out > 0 {
            let what_next = match self.config.capacity {
                Some(_) => "give a larger --capacity, or none: then the tables grow",
                None => "other ones are made when there is memory for them",
            };
            let names = self.tables.fill().names;
            degraded.push(format!(
                "the tables are full: {left_out} names have no room beside {names}, and their zones pass what is not found; {what_next}",
            ));
        }
        degraded
    }

    /// Ends the kernel plane.
    pub fn stop(&mut self, ending: Ending) {
        match ending {
            Ending::Detached => {
                self.tables.publisher.end_lease();
                self.hooks.detach();
            }
            Ending::Left => {
                // What must not answer now must not answer then.
                let is_leased = self.tables.publisher.lease() != 0;
                if is_leased && let Err(error) = self.object.set_lease(self.clock.jiffies(LEFT)) {
                    tracing::warn!("the lease is not prolonged: {error:#}");
                }
                self.hooks.leave();
            }
        }
    }
}
