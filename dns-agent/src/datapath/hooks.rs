//! Attaching the programs to network devices, and taking them off again.

mod attach;
mod choice;
mod prospect;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

pub(super) use self::attach::{is_our_name, remove_filters};
pub use self::choice::{LeftAlone, PODS, check, hardware, matching, programs};
pub use self::prospect::{Prospect, prospects};
use self::{
    attach::{Attached, Pinning},
    choice::{choice, leave_alone, program_on},
};
use super::{
    Persistence,
    interfaces::Device,
    object::{Object, Program},
    others::Other,
    pins::{Pin, Pins},
};
use crate::config::Interface;

/// How long a device that could not be attached to is left alone.
const RETRY: Duration = Duration::from_secs(30);

/// What is attached where.
pub struct Hooks {
    wanted: Vec<Interface>,
    /// Networks of clients that are answered on network cards.
    allowed: usize,
    pins: Option<Pins>,
    persistence: Persistence,
    /// Why pins that are gone can't be made again.
    unpinned: Option<String>,
    attached: BTreeMap<u32, Attached>,
    /// Devices where attaching failed: their names and why.
    failed: BTreeMap<u32, Failed>,
    /// Devices that somebody else's program keeps us off.
    left_alone: BTreeMap<u32, LeftAlone>,
}

/// One attached program, for `status`.
#[derive(Clone, Debug, Serialize)]
pub struct AttachedStatus {
    /// The device's name.
    pub interface: String,
    /// The device's number.
    pub index: u32,
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// How: `native`, `generic`, `tcx` or `clsact`.
    pub mode: &'static str,
    /// The program's name.
    pub program: &'static str,
    /// Whether it stays when the agent is killed.
    pub outlives: bool,
    /// Why it is so, if that isn't plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One device that matches, but that no program could be attached to.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The device's name.
    pub interface: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(skip)]
    tried: Instant,
}

impl Hooks {
    /// Nothing attached yet.
    #[must_use]
    pub fn new(
        wanted: Vec<Interface>,
        allowed: usize,
        pins: Option<Pins>,
        persistence: Persistence,
    ) -> Self {
        Self {
            wanted,
            allowed,
            pins,
            persistence,
            unpinned: None,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            left_alone: BTreeMap::new(),
        }
    }

    /// Makes the folder of the pins again where it was removed, and each pin. What fails is logged
    /// once for each reason, and tried again the next time.
    pub fn restore_pins(&mut self) {
        let Some(pins) = &mut self.pins else {
            return;
        };
        let mut wrong = pins.restore().err();
        for attached in self.attached.values_mut() {
            if wrong.is_some() {
                attached.is_not_pinned();
                continue;
            }
            wrong = attached.repin(pins).err();
        }
        let reason = wrong.map(|error| {
            format!(
                "pins are gone, so hooks don't stay over a stop, and can't be made again: {error:#}"
            )
        });
        if let Some(reason) = &reason
            && self.unpinned.as_ref() != Some(reason)
        {
            tracing::error!("{reason}");
        }
        self.unpinned = reason;
    }

    /// Why pins that are gone can't be made again.
    pub fn unpinned(&self) -> Option<&str> {
        self.unpinned.as_deref()
    }

    /// Attaches to every device that matches and has no program of ours yet, and forgets those
    /// that are gone. What fails is logged once for each reason, and tried again
    /// after [`RETRY`]. `others` are the programs of other people, with the numbers of their devices.
    pub fn reconcile(&mut self, object: &mut Object, devices: &[Device], others: &[(u32, Other)]) {
        let left_alone = leave_alone(&self.wanted, devices, others);
        let wanted = &self.wanted;
        let find = |index: u32, name: &str| {
            devices
                .iter()
                .find(|device| device.index == index && device.name == name)
                .filter(|device| choice(wanted, device).is_some())
        };
        let stays = |index: u32, attached: &Attached| {
            // A peer that moved to another namespace wants another program.
            find(index, &attached.status.interface).is_some_and(|device| {
                program_on(device, attached.program.hook()) == attached.program
            }) && !left_alone.contains_key(&index)
        };
        for (_, gone) in self
            .attached
            .extract_if(.., |index, attached| !stays(*index, attached))
        {
            let AttachedStatus {
                interface, program, ..
            } = gone.status.clone();
            match gone.take_off() {
                Ok(()) => {
                    tracing::info!(
                        "{interface} is gone, another, or somebody else's: {program} taken off"
                    );
                }
                Err(error) => tracing::warn!("{interface}: {program} can't be taken off: {error}"),
            }
        }
        self.failed.retain(|index, failed| {
            find(*index, &failed.interface).is_some() && !left_alone.contains_key(index)
        });
        for (index, left) in &left_alone {
            if self.left_alone.get(index) != Some(left) {
                tracing::warn!("{} is left alone: {}", left.interface, left.reason);
            }
        }
        self.left_alone = left_alone;
        let pinning = match (&self.pins, self.persistence) {
            (Some(pins), Persistence::Pinned) => Pinning::Kept(pins),
            (Some(pins), Persistence::None) => Pinning::Released(pins),
            (None, _) => Pinning::Nowhere,
        };
        for device in devices {
            let index = device.index;
            let is_recent = |failed: &Failed| failed.tried.elapsed() < RETRY;
            if self.attached.contains_key(&index)
                || self.left_alone.contains_key(&index)
                || self.failed.get(&index).is_some_and(is_recent)
            {
                continue;
            }
            let Some(choice) = choice(&self.wanted, device) else {
                continue;
            };
            // A card may come later than the check at the start.
            let may = check(&self.wanted, self.allowed, std::slice::from_ref(device));
            match may.and_then(|()| Attached::new(object, device, choice, pinning)) {
                Ok(attached) => {
                    let AttachedStatus { hook, mode, .. } = attached.status;
                    tracing::info!("{}: attached by {hook} ({mode})", device.name);
                    self.attached.insert(index, attached);
                    self.failed.remove(&index);
                }
                Err(error) => {
                    let failed = Failed {
                        interface: device.name.clone(),
                        reason: format!("{error:#}"),
                        tried: Instant::now(),
                    };
                    let before = self.failed.insert(index, failed.clone());
                    if before.is_none_or(|before| before.reason != failed.reason) {
                        tracing::error!("{}: not attached: {}", device.name, failed.reason);
                    }
                }
            }
        }
    }

    /// Puts the programs of another object in the place of those that are attached, each at one stroke. Where that fails
    /// nothing is attached: the next [`Hooks::reconcile`] tries again.
    pub fn move_to(&mut self, object: &mut Object) -> Hooks {
        let mut attached = BTreeMap::new();
        for (index, before) in std::mem::take(&mut self.attached) {
            let interface = before.status.interface.clone();
            match before.replaced(object) {
                Ok(replaced) => {
                    attached.insert(index, replaced);
                }
                Err(error) => {
                    tracing::warn!("{interface}: the program can't be replaced: {error:#}");
                }
            }
        }
        Hooks {
            wanted: self.wanted.clone(),
            allowed: self.allowed,
            pins: self.pins.take(),
            persistence: self.persistence,
            unpinned: self.unpinned.take(),
            attached,
            failed: std::mem::take(&mut self.failed),
            left_alone: std::mem::take(&mut self.left_alone),
        }
    }

    /// What is attached.
    pub fn attached(&self) -> impl Iterator<Item = &AttachedStatus> {
        self.attached.values().map(|attached| &attached.status)
    }

    /// The programs that are attached, and to what.
    pub fn running(&self) -> impl Iterator<Item = (Program, &AttachedStatus)> {
        let attached = self.attached.values();
        attached.map(|attached| (attached.program, &attached.status))
    }

    /// What matches, but is not attached.
    pub fn failed(&self) -> impl Iterator<Item = &Failed> {
        self.failed.values()
    }

    /// What matches, but is somebody else's.
    pub fn left_alone(&self) -> impl Iterator<Item = &LeftAlone> {
        self.left_alone.values()
    }

    /// The devices that match.
    pub fn wanted<'a>(&self, devices: &'a [Device]) -> impl Iterator<Item = &'a Device> {
        matching(&self.wanted, devices)
    }

    /// The numbers of the programs that an agent before has pinned links of.
    pub fn pinned_programs(&self) -> Vec<u32> {
        self.pins.as_ref().map(Pins::programs).unwrap_or_default()
    }

    /// Takes off what an agent before left where nothing is wanted now.
    pub fn take_off_others(&mut self, devices: &[Device]) {
        let Some(pins) = &self.pins else {
            return;
        };
        let attached = &self.attached;
        let keep = |pin: Pin| {
            let attached = attached.get(&pin.index);
            attached.is_some_and(|attached| attached.status.mode == pin.mode.name())
        };
        match pins.keep(keep) {
            Ok(removed) => {
                for path in removed {
                    tracing::info!("taken off, nothing wants it any more: {}", path.display());
                }
            }
            Err(error) => tracing::warn!("pins of an agent before can't be removed: {error}"),
        }
        for device in devices {
            if self.attached.contains_key(&device.index) {
                continue;
            }
            match remove_filters(device) {
                Ok(names) => {
                    for name in names {
                        tracing::info!(
                            "taken off, nothing wants it any more: {}: {name}",
                            device.name
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!("filters of an agent before can't be removed: {error:#}");
                }
            }
        }
    }

    /// Takes everything off.
    pub fn detach(&mut self) {
        for (_, attached) in std::mem::take(&mut self.attached) {
            let interface = attached.status.interface.clone();
            if let Err(error) = attached.take_off() {
                tracing::error!("{interface}: the program can't be taken off: {error}");
            }
        }
        if let Some(pins) = self.pins.take()
            && let Err(error) = pins.remove_all()
        {
            tracing::warn!("the folder of the pins can't be removed: {error}");
        }
    }

    /// Leaves everything as it is, for the next agent.
    pub fn leave(&mut self) {
        for (_, attached) in std::mem::take(&mut self.attached) {
            attached.leave();
        }
        self.pins = None;
    }
}
