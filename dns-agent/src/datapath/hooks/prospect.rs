//! What would become of each device, told without touching any.

use super::{
    attach::modes,
    choice::{check, choice, hook_of, leave_alone, program_on},
};
use crate::{
    config::Interface,
    datapath::{interfaces::Device, object::Program, others::Other, pins::Mode},
};

/// What an agent would do with a device that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It would attach this program, in the first of these ways that the kernel takes, each with the reason
    /// why it is not another one.
    Attached(Program, &'static [(Mode, Option<&'static str>)]),
    /// Another one's program is there, for this reason in the way.
    LeftAlone(String),
    /// Its packets have no Ethernet header: attaching would fail.
    NotEthernet,
    /// The agent would not start, since anybody could ask there.
    Open,
}

/// What would become of each device that matches. `allowed` is the number of networks whose clients are
/// answered on network cards; `others` are the programs of other people, with the numbers of their devices.
#[must_use]
pub fn prospects<'a>(
    wanted: &[Interface],
    allowed: usize,
    devices: &'a [Device],
    others: &[(u32, Other)],
) -> Vec<(&'a Device, Prospect)> {
    let left_alone = leave_alone(wanted, devices, others);
    let prospect = |device: &Device| {
        let choice = choice(wanted, device)?;
        if check(wanted, allowed, std::slice::from_ref(device)).is_err() {
            return Some(Prospect::Open);
        }
        if let Some(left) = left_alone.get(&device.index) {
            return Some(Prospect::LeftAlone(left.reason.clone()));
        }
        if !device.is_ethernet {
            return Some(Prospect::NotEthernet);
        }
        let program = program_on(device, hook_of(choice, device));
        Some(Prospect::Attached(program, modes(device, choice)))
    };
    let matching = devices.iter();
    matching
        .filter_map(|device| Some((device, prospect(device)?)))
        .collect()
}
