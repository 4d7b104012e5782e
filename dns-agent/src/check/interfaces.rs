//! The network devices that match, and what would become of each.

use super::{Finding, Tcx, Verdict};
use crate::{
    config::Interface,
    datapath::{
        hooks::{PODS, Prospect, matching},
        interfaces::Device,
        object::Program,
        pins::Mode,
    },
};

/// What is known of a driver's native XDP, which needs a packet to lie in one page.
struct Driver {
    name: &'static str,
    /// The largest MTU it takes it with.
    mtu: u32,
    /// What it wants besides.
    wants: Option<&'static str>,
}

const HALF: Option<&str> = Some("at most half of its queues in use (ethtool -L)");

/// As their sources say (Linux 6.12), with pages of 4 KiB.
const DRIVERS: [Driver; 7] = [
    Driver::new("ena", 3498, HALF),
    Driver::new("gve", 2032, HALF),
    Driver::new("i40e", 3046, None),
    Driver::new("ice", 3046, None),
    Driver::new("ixgbe", 3050, None),
    Driver::new("mlx5_core", 3498, None),
    Driver::new(
        "virtio_net",
        3506,
        Some("a queue more for each CPU, and offloads that the host lets it switch off"),
    ),
];

/// How many names are shown of devices that are alike.
const SHOWN: usize = 3;

const SUBJECT: &str = "interface";

/// Devices that are alike make one finding.
pub(super) fn interfaces(prospects: &[(&Device, Prospect)], tcx: &Tcx) -> Vec<Finding> {
    let mut alike: Vec<(Verdict, String, Vec<&str>)> = Vec::new();
    for (device, prospect) in prospects {
        let (verdict, text) = told(device, prospect, tcx);
        let same = alike
            .iter_mut()
            .find(|(known, said, _)| *known == verdict && *said == text);
        match same {
            Some((_, _, names)) => names.push(&device.name),
            None => alike.push((verdict, text, vec![&device.name])),
        }
    }
    let findings = alike.into_iter().map(|(verdict, text, names)| {
        Finding::new(SUBJECT, verdict, format!("{}: {text}", listed(&names)))
    });
    findings.collect()
}

/// What of `--interface` no device matches.
pub(super) fn unmatched(wanted: &[Interface], devices: &[Device]) -> Vec<Finding> {
    let unmatched = wanted.iter().filter(|interface| {
        let one = std::slice::from_ref(*interface);
        matching(one, devices).next().is_none()
    });
    let findings = unmatched.map(|interface| {
        let text = match interface.name.as_str() {
            PODS => "no pod's veth is here yet: each is attached as it comes. In a container they are seen only on the host's \
                     network. Pods on ipvlan, macvlan, netkit or SR-IOV have none, and keep the cluster's DNS"
                .to_owned(),
            name => format!("{name}: no device is called so yet: it is attached when it comes"),
        };
        Finding::limited(SUBJECT, text)
    });
    findings.collect()
}

/// Who is not answered by the kernel, whatever the interfaces are.
pub(super) fn uncrossed() -> Finding {
    Finding::works(
        SUBJECT,
        "pods on the host's network, and the node itself, cross no veth: the kernel never answers them, and they keep the \
         cluster's DNS",
    )
}

fn told(device: &Device, prospect: &Prospect, tcx: &Tcx) -> (Verdict, String) {
    match prospect {
        Prospect::Attached(program, modes) => attached(device, *program, modes, tcx),
        Prospect::LeftAlone(reason) => {
            let text = format!("left alone, and its queries go the way they went before: {reason}");
            (Verdict::Limited, text)
        }
        Prospect::NotEthernet => {
            let text = "its packets have no Ethernet header, so nothing can be attached: leave it out of --interface";
            (Verdict::Fails, text.to_owned())
        }
        Prospect::Open => {
            let text = "no veth, so anybody could ask there and the agent won't start: say which clients are answered with \
                        --allow CIDR, or leave it out of --interface";
            (Verdict::Fails, text.to_owned())
        }
    }
}

fn attached(
    device: &Device,
    program: Program,
    modes: &[(Mode, Option<&str>)],
    tcx: &Tcx,
) -> (Verdict, String) {
    let way = match modes.first() {
        Some((Mode::Native, _)) => return native(device),
        Some((Mode::Generic, Some(why))) => format!("generic XDP, since {why}"),
        Some((Mode::Generic, None)) => "generic XDP".to_owned(),
        Some((Mode::Tcx, _)) | None => match tcx {
            Ok(true) => "tc by tcx".to_owned(),
            Ok(false) => "tc by clsact".to_owned(),
            Err(_) => "tc by tcx or clsact".to_owned(),
        },
    };
    let rest = match program {
        Program::TcPeer => ", answers go straight to its other end",
        Program::Tc | Program::Xdp | Program::XdpVeth => "",
    };
    (Verdict::Works, format!("{way}{rest}"))
}

/// Whether a driver takes native XDP, it says only when it is attached.
fn native(device: &Device) -> (Verdict, String) {
    let name = device.driver();
    let known = DRIVERS
        .iter()
        .find(|driver| Some(driver.name) == name.as_deref());
    verdict_of_native(device, name.as_deref(), known)
}

fn verdict_of_native(
    device: &Device,
    name: Option<&str>,
    known: Option<&Driver>,
) -> (Verdict, String) {
    let [receiving, sending] = device.queues;
    let seen = format!(
        "{}, an MTU of {}, {receiving} receive and {sending} transmit queues",
        name.map_or_else(
            || "no driver in /sys".to_owned(),
            |name| format!("driver {name}")
        ),
        device.mtu
    );
    match known {
        Some(driver) if device.mtu > driver.mtu => {
            let text = format!(
                "generic XDP, which costs more CPU ({seen}): {} takes native XDP up to an MTU of {}",
                driver.name, driver.mtu
            );
            (Verdict::Limited, text)
        }
        Some(driver) => {
            let wants = driver
                .wants
                .map_or_else(String::new, |wants| format!(", which wants {wants}"));
            let text = format!(
                "native XDP if the driver takes it{wants}; else generic XDP, which costs more CPU ({seen})"
            );
            (Verdict::Works, text)
        }
        None => {
            let text = format!(
                "native XDP if the driver takes it, which shows when it is attached; else generic XDP, which costs \
                                more CPU ({seen})"
            );
            (Verdict::Works, text)
        }
    }
}

fn listed(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Driver {
    const fn new(name: &'static str, mtu: u32, wants: Option<&'static str>) -> Driver {
        Driver { name, mtu, wants }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_whose_mtu_is_too_large_is_told() {
        let card = |mtu| Device {
            index: 2,
            name: "eth0".to_owned(),
            address: None,
            mtu,
            queues: [8, 8],
            is_veth: false,
            peer_is_elsewhere: false,
            is_default_route: true,
            is_ethernet: true,
            filters: Vec::new(),
            egress_filters: Vec::new(),
            xdp: Vec::new(),
        };
        let ena = DRIVERS.iter().find(|driver| driver.name == "ena");
        let (verdict, text) = verdict_of_native(&card(9001), Some("ena"), ena);
        assert_eq!(verdict, Verdict::Limited);
        assert!(text.contains("up to an MTU of 3498"), "{text}");
        let (verdict, text) = verdict_of_native(&card(1500), Some("ena"), ena);
        assert_eq!(verdict, Verdict::Works);
        assert!(text.contains("half of its queues"), "{text}");
        let (verdict, text) = verdict_of_native(&card(9001), None, None);
        assert_eq!(verdict, Verdict::Works);
        assert!(text.contains("no driver in /sys"), "{text}");
    }
}
