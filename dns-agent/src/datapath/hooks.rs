//! Attaching the programs to network devices, and taking them off again.

mod attach;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::bail;
use dns_common::outcomes::Hook;
use serde::Serialize;

pub(super) use self::attach::remove_filters;
use self::attach::{Attached, Pinning};
use super::{
    Persistence,
    interfaces::{Device, HardwareAddress},
    object::{Object, Program},
    pins::{Pin, Pins},
};
use crate::config::{Hook as Choice, Interface};

/// How long a device that could not be attached to is left alone.
const RETRY: Duration = Duration::from_secs(30);

/// The word that stands for every pod's veth.
const PODS: &str = "pods";

/// What is attached where.
pub struct Hooks {
    wanted: Vec<Interface>,
    /// Networks of clients that are answered on network cards.
    allowed: usize,
    pins: Option<Pins>,
    persistence: Persistence,
    attached: BTreeMap<u32, Attached>,
    /// Devices where attaching failed: their names and why.
    failed: BTreeMap<u32, Failed>,
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
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Attaches to every device that matches and has no program of ours yet, and forgets those
    /// that are gone. What fails is logged once for each reason, and tried again
    /// after [`RETRY`].
    pub fn reconcile(&mut self, object: &mut Object, devices: &[Device]) {
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
            })
        };
        for (_, gone) in self
            .attached
            .extract_if(.., |index, attached| !stays(*index, attached))
        {
            let AttachedStatus {
                interface, program, ..
            } = gone.status.clone();
            match gone.take_off() {
                Ok(()) => tracing::info!("{interface} is gone or another: {program} taken off"),
                Err(error) => tracing::warn!("{interface}: {program} can't be taken off: {error}"),
            }
        }
        self.failed
            .retain(|index, failed| find(*index, &failed.interface).is_some());
        let pinning = match (&self.pins, self.persistence) {
            (Some(pins), Persistence::Pinned) => Pinning::Kept(pins),
            (Some(pins), Persistence::None) => Pinning::Released(pins),
            (None, _) => Pinning::Nowhere,
        };
        for device in devices {
            let index = device.index;
            let is_recent = |failed: &Failed| failed.tried.elapsed() < RETRY;
            if self.attached.contains_key(&index) || self.failed.get(&index).is_some_and(is_recent)
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

    /// Takes off what an agent before left where nothing is wanted now.
    pub fn take_off_others(&mut self) {
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
        let hook = match choice(wanted, device)? {
            Choice::Tc => Hook::Tc,
            Choice::Auto if device.is_veth => Hook::Tc,
            Choice::Auto | Choice::Xdp | Choice::XdpGeneric => Hook::Xdp,
        };
        Some(program_on(device, hook))
    })
}

/// The program that is right for a device.
fn program_on(device: &Device, hook: Hook) -> Program {
    match hook {
        Hook::Xdp if device.is_veth => Program::XdpVeth,
        Hook::Xdp => Program::Xdp,
        // A redirect to the peer inside one namespace would be dropped.
        Hook::Tc if device.is_veth && device.peer_is_elsewhere => Program::TcPeer,
        Hook::Tc => Program::Tc,
    }
}

/// How a device is to be attached, by the first of the wanted interfaces that matches.
fn choice(wanted: &[Interface], device: &Device) -> Option<Choice> {
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
mod tests {
    use super::*;

    fn device(name: &str) -> Device {
        Device {
            index: 1,
            name: name.to_owned(),
            address: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            queues: [1, 1],
            is_veth: true,
            peer_is_elsewhere: true,
            is_default_route: false,
            is_ethernet: true,
            filters: Vec::new(),
        }
    }

    fn interface(name: &str, hook: Choice) -> Interface {
        Interface {
            name: name.to_owned(),
            hook,
        }
    }

    #[test]
    fn shell_patterns() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("veth*", "veth", true),
            ("veth*", "vethab12", true),
            ("*0", "eth0", true),
            ("e?h0", "eth0", true),
            ("e?h0", "eh0", false),
            ("*a*b", "xaayb", true),
            ("", "eth0", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} on {name}"
            );
        }
    }

    #[test]
    fn the_first_match_decides() {
        let wanted = [
            interface("veth1", Choice::Xdp),
            interface("veth*", Choice::Tc),
        ];
        assert_eq!(choice(&wanted, &device("veth1")), Some(Choice::Xdp));
        assert_eq!(choice(&wanted, &device("veth2")), Some(Choice::Tc));
        assert_eq!(choice(&wanted, &device("eth0")), None);
    }

    #[test]
    fn pods_are_veths_that_lead_elsewhere() {
        let wanted = [interface(PODS, Choice::Auto)];
        let pod = device("veth1");
        assert_eq!(choice(&wanted, &pod), Some(Choice::Auto));
        let own = Device {
            is_default_route: true,
            ..pod.clone()
        };
        let here = Device {
            peer_is_elsewhere: false,
            ..pod.clone()
        };
        let card = Device {
            is_veth: false,
            ..pod
        };
        for other in [own, here, card] {
            assert_eq!(choice(&wanted, &other), None, "{other:?}");
        }
    }

    #[test]
    fn cards_have_hardware_addresses_that_are_ours() {
        let wanted = [interface("*", Choice::Auto)];
        let card = Device {
            address: Some([2, 0, 0, 0, 0, 9]),
            is_veth: false,
            ..device("eth0")
        };
        let tunnel = Device {
            address: None,
            ..card.clone()
        };
        // Two ports of one bridge may have its address.
        let devices = [device("veth1"), card.clone(), tunnel, card];
        assert_eq!(hardware(&wanted, &devices), [[2, 0, 0, 0, 0, 9]]);
        let none = [interface("veth*", Choice::Auto)];
        assert!(hardware(&none, &devices).is_empty());
    }

    #[test]
    fn a_card_needs_allowed_clients() {
        let card = Device {
            is_veth: false,
            ..device("eth0")
        };
        let wanted = [interface("eth*", Choice::Auto)];
        assert!(check(&wanted, 0, std::slice::from_ref(&card)).is_err());
        assert!(check(&wanted, 1, &[card]).is_ok());
        assert!(check(&wanted, 0, &[device("eth0")]).is_ok());
    }
}
