//! Selects the devices that get a program, and the program and hook for each.

use std::collections::{BTreeMap, BTreeSet};

use crate::{HookChoice as Choice, Interface};
use anyhow::bail;
use dns_common::outcomes::Hook;
use serde::Serialize;
use zerohop_steering::is_agent_device;

use crate::{
    foreign_programs::ForeignProgram,
    interfaces::{Device, HardwareAddress},
    program::HookProgram,
};

/// The name that stands for all pods' veths, in `--interface` and in metrics.
pub const PODS: &str = "pods";

/// A matching device that is skipped because a foreign program owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedDevice {
    /// The device's name.
    pub interface: String,
    /// Which foreign program prevents attaching, and why.
    pub reason: String,
}

/// The matching devices that are skipped because of a foreign program, by index.
///
/// A CNI's tc programs on a pod's veth may enforce network policy, and an answer of a hook would
/// bypass them. A second XDP program can't be attached, because a device has room for one.
pub(super) fn skipped_devices(
    wanted: &[Interface],
    devices: &[Device],
    foreign: &[(u32, ForeignProgram)],
) -> BTreeMap<u32, SkippedDevice> {
    let mut skipped = BTreeMap::new();
    for device in devices {
        let Some(choice) = chosen_hook(wanted, device) else {
            continue;
        };
        let is_xdp = hook_of(choice, device) == Hook::Xdp;
        let mut on_device = foreign.iter().filter(|(index, _)| *index == device.index);
        let reason = on_device.find_map(|(_, program)| {
            if device.is_veth && program.policy_owner().is_some() {
                let reason = format!(
                    "{program} may filter the pod's queries, and Zerohop's answers would bypass it"
                );
                return Some(reason);
            }
            let is_in_the_way = is_xdp && program.hook.starts_with("xdp");
            is_in_the_way.then(|| {
                format!("{program} is attached, and a device can have only one XDP program")
            })
        });
        if let Some(reason) = reason {
            let interface = device.name.clone();
            skipped.insert(device.index, SkippedDevice { interface, reason });
        }
    }
    skipped
}

/// Checks that hooks are attached only to veths if no networks are allowed. On another device XDP
/// would answer no client, and tc any host that policies permit.
///
/// # Errors
///
/// When a device that is not a veth would get a hook, and no network of clients is allowed.
pub fn check_cards_restricted(
    wanted: &[Interface],
    allowed_networks: usize,
    devices: &[Device],
) -> anyhow::Result<()> {
    if allowed_networks > 0 {
        return Ok(());
    }
    for device in devices.iter().filter(|device| !device.is_veth) {
        if chosen_hook(wanted, device).is_some() {
            bail!(
                "--interface matches {}, which is not a veth, so any host could send queries to \
                 it: give the networks of the clients to answer with --allow CIDR, or leave {0} \
                 out of --interface",
                device.name
            );
        }
    }
    Ok(())
}

/// The hardware addresses of the devices that get a program for network cards
/// ([`HookProgram::is_for_cards`]). Such a program answers only packets to one of these addresses.
pub fn card_addresses(wanted: &[Interface], devices: &[Device]) -> Vec<HardwareAddress> {
    let cards = devices.iter().filter_map(|device| {
        let program = wanted_programs(wanted, std::slice::from_ref(device)).next()?;
        device.address.filter(|_| program.is_for_cards())
    });
    let addresses: BTreeSet<_> = cards.collect();
    addresses.into_iter().collect()
}

/// The program of each matching device.
pub fn wanted_programs(
    wanted: &[Interface],
    devices: &[Device],
) -> impl Iterator<Item = HookProgram> {
    devices.iter().filter_map(|device| {
        let hook = hook_of(chosen_hook(wanted, device)?, device);
        Some(program_for(device, hook))
    })
}

/// The hook at which a device gets its program.
pub(super) fn hook_of(choice: Choice, device: &Device) -> Hook {
    match choice {
        Choice::Tc => Hook::Tc,
        Choice::Auto if device.is_veth => Hook::Tc,
        Choice::Auto | Choice::Xdp | Choice::XdpGeneric => Hook::Xdp,
    }
}

/// The right program for a device and hook.
pub(super) fn program_for(device: &Device, hook: Hook) -> HookProgram {
    match hook {
        Hook::Xdp if device.is_veth => HookProgram::XdpVeth,
        Hook::Xdp => HookProgram::Xdp,
        // A redirect to the peer inside one namespace would be dropped.
        Hook::Tc if device.is_veth && device.peer_in_other_namespace => HookProgram::TcPeer,
        Hook::Tc => HookProgram::Tc,
    }
}

/// The devices that match any of the wanted interfaces.
pub fn matching_devices<'a>(
    wanted: &[Interface],
    devices: &'a [Device],
) -> impl Iterator<Item = &'a Device> {
    devices
        .iter()
        .filter(|device| chosen_hook(wanted, device).is_some())
}

/// The hook that the first matching value of `--interface` requests. `None` when no value matches
/// the device.
pub(super) fn chosen_hook(wanted: &[Interface], device: &Device) -> Option<Choice> {
    // What arrives there comes from the agent.
    if is_agent_device(&device.name) {
        return None;
    }
    wanted
        .iter()
        .find(|interface| match interface.name.as_str() {
            // A veth with the default route is the uplink of a node that is itself a container.
            PODS => device.is_veth && device.peer_in_other_namespace && !device.has_default_route,
            pattern => matches_pattern(pattern.as_bytes(), device.name.as_bytes()),
        })
        .map(|interface| interface.hook)
}

/// Matches a shell pattern: `*` stands for any bytes, `?` for one byte.
fn matches_pattern(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            (0..=name.len()).any(|skipped| matches_pattern(rest, &name[skipped..]))
        }
        (Some((b'?', pattern)), Some((_, name))) => matches_pattern(pattern, name),
        (Some((expected, pattern)), Some((byte, name))) => {
            expected == byte && matches_pattern(pattern, name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
