//! Which devices get a program, which one, and which are left alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use dns_common::outcomes::Hook;
use serde::Serialize;

use crate::{
    config::{Hook as Choice, Interface},
    datapath::{
        interfaces::{Device, HardwareAddress},
        object::Program,
        others::Other,
    },
};

/// The word that stands for every pod's veth, in `--interface` and in numbers.
pub const PODS: &str = "pods";

/// One device that matches, but has a program that ours must not come before, or can't be beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    /// The device's name.
    pub interface: String,
    /// Whose program it is, and what it is there for.
    pub reason: String,
}

/// The devices that match, but that other people's programs keep us off.
///
/// A CNI's programs on a pod's veth decide what the pod may ask, and an answer of ours would
/// be given before they are asked. And a device has room for one XDP program.
pub(super) fn leave_alone(
    wanted: &[Interface],
    devices: &[Device],
    others: &[(u32, Other)],
) -> BTreeMap<u32, LeftAlone> {
    let mut left_alone = BTreeMap::new();
    for device in devices {
        let Some(choice) = choice(wanted, device) else {
            continue;
        };
        let is_xdp = hook_of(choice, device) == Hook::Xdp;
        let mut here = others.iter().filter(|(index, _)| *index == device.index);
        let reason = here.find_map(|(_, other)| {
            if device.is_veth && other.enforces().is_some() {
                let reason =
                    format!("{other} decides what the pod may ask, and would come after ours");
                return Some(reason);
            }
            let is_in_the_way = is_xdp && other.hook.starts_with("xdp");
            is_in_the_way.then(|| format!("{other} is there, and a device has room for one"))
        });
        if let Some(reason) = reason {
            let interface = device.name.clone();
            left_alone.insert(device.index, LeftAlone { interface, reason });
        }
    }
    left_alone
}

/// Refuses settings that would answer anybody's queries on a network card.
///
/// # Errors
///
/// When a device that is no veth would get a hook and no client network is allowed.
pub fn check(wanted: &[Interface], allowed: usize, devices: &[Device]) -> anyhow::Result<()> {
    if allowed > 0 {
        return Ok(());
    }
    for device in devices.iter().filter(|device| !device.is_veth) {
        if choice(wanted, device).is_some() {
            bail!(
                "--interface: {} is no veth, and on a network card anybody could ask: say which clients are \
                 answered with --allow CIDR",
                device.name
            );
        }
    }
    Ok(())
}

/// The hardware addresses of the devices on which only their own packets are answered: all but pods'
/// veths.
pub fn hardware(wanted: &[Interface], devices: &[Device]) -> Vec<HardwareAddress> {
    let wanting = devices.iter().filter_map(|device| {
        let program = programs(wanted, std::slice::from_ref(device)).next()?;
        device.address.filter(|_| program.is_for_cards())
    });
    let addresses: BTreeSet<_> = wanting.collect();
    addresses.into_iter().collect()
}

/// The programs that the devices want.
pub fn programs(wanted: &[Interface], devices: &[Device]) -> impl Iterator<Item = Program> {
    devices.iter().filter_map(|device| {
        let hook = hook_of(choice(wanted, device)?, device);
        Some(program_on(device, hook))
    })
}

/// Where a device gets its program.
pub(super) fn hook_of(choice: Choice, device: &Device) -> Hook {
    match choice {
        Choice::Tc => Hook::Tc,
        Choice::Auto if device.is_veth => Hook::Tc,
        Choice::Auto | Choice::Xdp | Choice::XdpGeneric => Hook::Xdp,
    }
}

/// The program that is right for a device.
pub(super) fn program_on(device: &Device, hook: Hook) -> Program {
    match hook {
        Hook::Xdp if device.is_veth => Program::XdpVeth,
        Hook::Xdp => Program::Xdp,
        // A redirect to the peer inside one namespace would be dropped.
        Hook::Tc if device.is_veth && device.peer_is_elsewhere => Program::TcPeer,
        Hook::Tc => Program::Tc,
    }
}

/// The devices that match.
pub fn matching<'a>(
    wanted: &[Interface],
    devices: &'a [Device],
) -> impl Iterator<Item = &'a Device> {
    devices
        .iter()
        .filter(|device| choice(wanted, device).is_some())
}

/// How a device is to be attached, by the first of the wanted interfaces that matches.
pub(super) fn choice(wanted: &[Interface], device: &Device) -> Option<Choice> {
    wanted
        .iter()
        .find(|interface| match interface.name.as_str() {
            PODS => device.is_veth && device.peer_is_elsewhere && !device.is_default_route,
            pattern => matches(pattern.as_bytes(), device.name.as_bytes()),
        })
        .map(|interface| interface.hook)
}

/// Shell patterns: `*` any octets, `?` one octet.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skipped| matches(rest, &name[skipped..])),
        (Some((b'?', pattern)), Some((_, name))) => matches(pattern, name),
        (Some((expected, pattern)), Some((octet, name))) => {
            expected == octet && matches(pattern, name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
