//! Predicts what an agent would do with each matching device. Nothing is attached.

use super::{
    attach::modes,
    matching::{check_cards_restricted, chosen_hook, hook_of, program_for, skipped_devices},
};
use crate::Interface;
use crate::{
    foreign_programs::ForeignProgram, interfaces::Device, pins::AttachMode, program::HookProgram,
};

/// What an agent would do with a device that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// The agent would attach this program in the first of these modes that the kernel accepts. On
    /// a kernel without tcx, [`AttachMode::Tcx`] stands for a clsact filter. A text says why native
    /// XDP isn't tried although the choice is `xdp`.
    Attached(HookProgram, &'static [(AttachMode, Option<&'static str>)]),
    /// The agent would skip the device because of a foreign program. The text is the reason.
    Skipped(String),
    /// Attaching would fail, because packets have no Ethernet header.
    NotEthernet,
    /// The agent would not start, because the device is not a veth, so any host could send queries
    /// to it, and no networks of clients are allowed.
    UnrestrictedCard,
}

/// Predicts what an agent would do with each matching device. `allowed_networks` is the number of
/// values of `--allow`. `foreign` holds the foreign programs with their device indices.
#[must_use]
pub fn prospects<'a>(
    wanted: &[Interface],
    allowed_networks: usize,
    devices: &'a [Device],
    foreign: &[(u32, ForeignProgram)],
) -> Vec<(&'a Device, Prospect)> {
    let skipped = skipped_devices(wanted, devices, foreign);
    let prospect = |device: &Device| {
        let choice = chosen_hook(wanted, device)?;
        if check_cards_restricted(wanted, allowed_networks, std::slice::from_ref(device)).is_err() {
            return Some(Prospect::UnrestrictedCard);
        }
        if let Some(skipped_device) = skipped.get(&device.index) {
            return Some(Prospect::Skipped(skipped_device.reason.clone()));
        }
        if !device.is_ethernet {
            return Some(Prospect::NotEthernet);
        }
        let program = program_for(device, hook_of(choice, device));
        Some(Prospect::Attached(program, modes(device, choice)))
    };
    let all = devices.iter();
    all.filter_map(|device| Some((device, prospect(device)?)))
        .collect()
}
