//! Attaches the programs to network devices, and detaches them.

mod attach;
mod matching;
mod prospect;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;

pub(super) use self::attach::remove_filters;
pub use self::matching::{
    PODS, SkippedDevice, card_addresses, check_cards_restricted, matching_devices, wanted_programs,
};
pub use self::prospect::{Prospect, prospects};
use self::{
    attach::{Attachment, Pinning},
    matching::{chosen_hook, program_for, skipped_devices},
};
use super::{
    Persistence,
    foreign_programs::ForeignProgram,
    interfaces::Device,
    pins::{Pin, Pins},
    program::{EbpfObject, HookProgram},
};
use crate::Interface;

/// The interval between attempts to attach to a device after a failure.
const RETRY: Duration = Duration::from_secs(30);

/// The hooks of this agent, and the devices without a hook.
pub struct Hooks {
    /// The values of `--interface`.
    wanted: Vec<Interface>,
    /// The number of values of `--allow`.
    allowed_networks: usize,
    /// `None` when hooks can't be pinned, and after [`Hooks::move_to`], [`Hooks::detach`] or
    /// [`Hooks::keep_attached`].
    pins: Option<Pins>,
    persistence: Persistence,
    /// Why the last [`Hooks::restore_pins`] failed; `None` when it succeeded or was never called.
    pinning_error: Option<String>,
    /// Attached programs, by the device's index.
    attached: BTreeMap<u32, Attachment>,
    /// Devices to which attaching failed, by index.
    failed: BTreeMap<u32, FailedAttachment>,
    /// Devices that are skipped because of a foreign program, by index.
    skipped: BTreeMap<u32, SkippedDevice>,
}

/// One attached program, as `status` reports it.
#[derive(Clone, Debug, Serialize)]
pub struct AttachedStatus {
    /// The device's name.
    pub interface: String,
    /// The device's index.
    pub index: u32,
    /// `xdp` or `tc`.
    pub hook: &'static str,
    /// `native`, `generic`, `tcx` or `clsact`.
    pub mode: &'static str,
    /// The program's name.
    pub program: &'static str,
    /// Whether the program stays attached when the agent is killed.
    pub outlives: bool,
    /// Why the mode isn't the preferred one, why the link isn't pinned although it should be, or
    /// that the link was taken over from an earlier agent. `None` if there is nothing to explain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A matching device to which attaching failed.
#[derive(Clone, Debug, Serialize)]
pub struct FailedAttachment {
    /// The device's name.
    pub interface: String,
    /// Why attaching failed.
    pub reason: String,
    /// When attaching was last tried.
    #[serde(skip)]
    tried: Instant,
}

impl Hooks {
    /// Starts without attached programs.
    #[must_use]
    pub fn new(
        wanted: Vec<Interface>,
        allowed_networks: usize,
        pins: Option<Pins>,
        persistence: Persistence,
    ) -> Self {
        Self {
            wanted,
            allowed_networks,
            pins,
            persistence,
            pinning_error: None,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Restores the folder of pins and each pin, if they were removed. After a failure the
    /// remaining pins count as missing and are not checked, and the next call retries. A failure is
    /// logged when its reason changes.
    pub fn restore_pins(&mut self) {
        let Some(pins) = &mut self.pins else {
            return;
        };
        let mut failure = pins.restore().err();
        for attached in self.attached.values_mut() {
            if failure.is_some() {
                attached.mark_unpinned();
                continue;
            }
            failure = attached.repin(pins).err();
        }
        let reason = failure.map(|error| {
            format!(
                "the pins of the hooks were removed and can't be restored, so CoreDNS answers \
                 while no agent runs; the agent keeps trying: {error:#}"
            )
        });
        if let Some(reason) = &reason
            && self.pinning_error.as_ref() != Some(reason)
        {
            tracing::error!("{reason}");
        }
        self.pinning_error = reason;
    }

    /// Why the last [`Hooks::restore_pins`] failed; `None` when it succeeded or was never called.
    pub fn pinning_error(&self) -> Option<&str> {
        self.pinning_error.as_deref()
    }

    /// Attaches to all matching devices without a hook, except those skipped because of a foreign
    /// program. First detaches from devices that are gone, have a new name, no longer match, are
    /// skipped or need another program. A failure to attach is retried after [`RETRY`], and logged
    /// when its reason changes. `foreign` holds the foreign programs with their device indices.
    pub fn reconcile(
        &mut self,
        object: &mut EbpfObject,
        devices: &[Device],
        foreign: &[(u32, ForeignProgram)],
    ) {
        let skipped = skipped_devices(&self.wanted, devices, foreign);
        let wanted = &self.wanted;
        let find_wanted = |index: u32, name: &str| {
            devices
                .iter()
                .find(|device| device.index == index && device.name == name)
                .filter(|device| chosen_hook(wanted, device).is_some())
        };
        let stays = |index: u32, attached: &Attachment| {
            // A veth whose peer has moved to another namespace needs another program.
            find_wanted(index, &attached.status.interface).is_some_and(|device| {
                program_for(device, attached.program.hook()) == attached.program
            }) && !skipped.contains_key(&index)
        };
        for (_, gone) in self
            .attached
            .extract_if(.., |index, attached| !stays(*index, attached))
        {
            let AttachedStatus {
                interface, program, ..
            } = gone.status.clone();
            match gone.detach() {
                Ok(()) => {
                    tracing::info!(
                        "{program} is detached from {interface}, because the interface is gone, \
                         has changed or is skipped"
                    );
                }
                Err(error) => tracing::warn!(
                    "{program} can't be detached from {interface}, so it still answers there: stop \
                     the agent and run `dns-agent detach`: {error}"
                ),
            }
        }
        self.failed.retain(|index, failed| {
            find_wanted(*index, &failed.interface).is_some() && !skipped.contains_key(index)
        });
        for (index, device) in &skipped {
            if self.skipped.get(index) != Some(device) {
                tracing::warn!(
                    "interface {} is skipped, so CoreDNS answers its queries: {}",
                    device.interface,
                    device.reason
                );
            }
        }
        self.skipped = skipped;
        let pinning = match (&self.pins, self.persistence) {
            (Some(pins), Persistence::Pinned) => Pinning::Pin(pins),
            (Some(pins), Persistence::UntilAgentStops) => Pinning::Unpin(pins),
            (None, _) => Pinning::Unavailable,
        };
        for device in devices {
            let index = device.index;
            let is_recent = |failed: &FailedAttachment| failed.tried.elapsed() < RETRY;
            if self.attached.contains_key(&index)
                || self.skipped.contains_key(&index)
                || self.failed.get(&index).is_some_and(is_recent)
            {
                continue;
            }
            let Some(choice) = chosen_hook(&self.wanted, device) else {
                continue;
            };
            // The check at the start of the agent doesn't cover cards that appear later.
            let permitted = check_cards_restricted(
                &self.wanted,
                self.allowed_networks,
                std::slice::from_ref(device),
            );
            match permitted.and_then(|()| Attachment::new(object, device, choice, pinning)) {
                Ok(attached) => {
                    let AttachedStatus { hook, mode, .. } = attached.status;
                    tracing::info!("attached to {} by {hook} ({mode})", device.name);
                    self.attached.insert(index, attached);
                    self.failed.remove(&index);
                }
                Err(error) => {
                    let failed = FailedAttachment {
                        interface: device.name.clone(),
                        reason: format!("{error:#}"),
                        tried: Instant::now(),
                    };
                    let before = self.failed.insert(index, failed.clone());
                    if before.is_none_or(|before| before.reason != failed.reason) {
                        tracing::error!(
                            "interface {} is not attached, so CoreDNS answers its queries; the \
                             next attempt is in {} s: {}",
                            device.name,
                            RETRY.as_secs(),
                            failed.reason
                        );
                    }
                }
            }
        }
    }

    /// Moves all hooks to another object, and returns them. Each program is replaced atomically
    /// with the one in `object`. If that fails, the next [`Hooks::reconcile`] attaches again.
    /// Meanwhile a pinned link keeps its old program, and any other program is detached.
    pub fn move_to(&mut self, object: &mut EbpfObject) -> Hooks {
        let mut attached = BTreeMap::new();
        for (index, before) in std::mem::take(&mut self.attached) {
            let interface = before.status.interface.clone();
            match before.replace_program(object) {
                Ok(replaced) => {
                    attached.insert(index, replaced);
                }
                Err(error) => {
                    tracing::warn!(
                        "the program on {interface} can't be replaced, so the agent attaches \
                         again: {error:#}"
                    );
                }
            }
        }
        Hooks {
            wanted: self.wanted.clone(),
            allowed_networks: self.allowed_networks,
            pins: self.pins.take(),
            persistence: self.persistence,
            pinning_error: self.pinning_error.take(),
            attached,
            failed: std::mem::take(&mut self.failed),
            skipped: std::mem::take(&mut self.skipped),
        }
    }

    /// The status of all attached programs.
    pub fn attached(&self) -> impl Iterator<Item = &AttachedStatus> {
        self.attached.values().map(|attached| &attached.status)
    }

    /// All attached programs, with their status.
    pub fn attached_programs(&self) -> impl Iterator<Item = (HookProgram, &AttachedStatus)> {
        let attached = self.attached.values();
        attached.map(|attached| (attached.program, &attached.status))
    }

    /// Matching devices to which attaching failed.
    pub fn failed(&self) -> impl Iterator<Item = &FailedAttachment> {
        self.failed.values()
    }

    /// Matching devices that are skipped because of a foreign program.
    pub fn skipped(&self) -> impl Iterator<Item = &SkippedDevice> {
        self.skipped.values()
    }

    /// The devices of `devices` that match `--interface`.
    pub fn wanted_devices<'a>(&self, devices: &'a [Device]) -> impl Iterator<Item = &'a Device> {
        matching_devices(&self.wanted, devices)
    }

    /// The IDs of programs with pinned links, including those of earlier agents.
    pub fn pinned_program_ids(&self) -> Vec<u32> {
        self.pins
            .as_ref()
            .map(Pins::program_ids)
            .unwrap_or_default()
    }

    /// Removes pinned links of earlier agents that this agent has not taken over, and earlier
    /// agents' filters on devices on which this agent has no hook.
    pub fn remove_stale_hooks(&mut self, devices: &[Device]) {
        // Without the lock on the pins, the hooks may be those of a running agent.
        let Some(pins) = &self.pins else {
            return;
        };
        let attached = &self.attached;
        let keep = |pin: Pin| {
            let attached = attached.get(&pin.device);
            attached.is_some_and(|attached| attached.status.mode == pin.mode.name())
        };
        match pins.remove_all_except(keep) {
            Ok(removed) => {
                for path in removed {
                    tracing::info!(
                        "removed an unused hook of an earlier agent: the pin {}",
                        path.display()
                    );
                }
            }
            Err(error) => tracing::warn!(
                "pins of an earlier agent can't be removed; its hooks pass all queries when \
                 their lease has expired: {error}"
            ),
        }
        for device in devices {
            if self.attached.contains_key(&device.index) {
                continue;
            }
            match remove_filters(device) {
                Ok(names) => {
                    for name in names {
                        tracing::info!(
                            "removed an unused hook of an earlier agent: the filter {name} on {}",
                            device.name
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        "filters of an earlier agent can't be removed; they pass all queries when \
                         their lease has expired: {error:#}"
                    );
                }
            }
        }
    }

    /// Detaches all programs and removes the folder of pins.
    pub fn detach(&mut self) {
        for (_, attached) in std::mem::take(&mut self.attached) {
            let interface = attached.status.interface.clone();
            if let Err(error) = attached.detach() {
                tracing::error!(
                    "the program can't be detached from {interface}; it passes all queries from \
                     now on, until `dns-agent detach` removes it: {error}"
                );
            }
        }
        if let Some(pins) = self.pins.take()
            && let Err(error) = pins.remove_all()
        {
            tracing::warn!(
                "the folder of pins can't be removed; remove it with `dns-agent detach`: {error}"
            );
        }
    }

    /// Leaves pinned links and filters attached for the next agent. Other hooks are detached.
    pub fn keep_attached(&mut self) {
        for (_, attached) in std::mem::take(&mut self.attached) {
            attached.keep_attached();
        }
        // This releases the lock.
        self.pins = None;
    }
}
