//! Findings about the network devices that match `--interface`.

use zerohop_datapath::{
    hooks::{PODS, Prospect, matching_devices},
    interfaces::Device,
    pins::AttachMode,
    program::HookProgram,
};

use super::{CheckVerdict, Finding, Tcx};
use crate::config::Interface;

/// A network driver, and its conditions for native XDP. Native XDP needs each packet to fit into
/// one receive buffer, which is a memory page or less, so drivers limit the MTU.
struct Driver {
    name: &'static str,
    /// The largest MTU in bytes with native XDP.
    max_mtu: u32,
    /// Another condition, as text; `None` if there is none.
    condition: Option<&'static str>,
}

const HALF_THE_QUEUES: Option<&str> = Some("at most half of its queues in use (ethtool -L)");

/// Drivers with known conditions. The values are from their sources in Linux 6.12, for pages of
/// 4 KiB.
const DRIVERS: [Driver; 7] = [
    Driver::new("ena", 3498, HALF_THE_QUEUES),
    Driver::new("gve", 2032, HALF_THE_QUEUES),
    Driver::new("i40e", 3046, None),
    Driver::new("ice", 3046, None),
    Driver::new("ixgbe", 3050, None),
    Driver::new("mlx5_core", 3498, None),
    Driver::new(
        "virtio_net",
        3506,
        Some("one more queue for each CPU, and offloads that the host allows it to switch off"),
    ),
];

/// Maximum number of names listed for devices with the same finding.
const MAX_NAMES: usize = 3;

const SUBJECT: &str = "interface";

/// Findings about matching devices. Devices with the same result share one finding.
pub(super) fn interfaces(prospects: &[(&Device, Prospect)], tcx: &Tcx) -> Vec<Finding> {
    let mut groups: Vec<(CheckVerdict, String, Vec<&str>)> = Vec::new();
    for (device, prospect) in prospects {
        let (verdict, text) = result_for(device, prospect, tcx);
        let group = groups
            .iter_mut()
            .find(|group| group.0 == verdict && group.1 == text);
        match group {
            Some((_, _, names)) => names.push(&device.name),
            None => groups.push((verdict, text, vec![&device.name])),
        }
    }
    let findings = groups.into_iter().map(|(verdict, text, names)| {
        Finding::new(SUBJECT, verdict, format!("{}: {text}", join_names(&names)))
    });
    findings.collect()
}

/// Findings for values of `--interface` that match no device.
pub(super) fn unmatched(wanted: &[Interface], devices: &[Device]) -> Vec<Finding> {
    let unmatched = wanted.iter().filter(|interface| {
        let one = std::slice::from_ref(*interface);
        matching_devices(one, devices).next().is_none()
    });
    let findings = unmatched.map(|interface| {
        let text = match interface.name.as_str() {
            PODS => "no pod's veth exists yet: the agent attaches to each one when it appears. A \
                     container sees veths only on the host's network. Pods on ipvlan, macvlan, \
                     netkit or SR-IOV have no veth, so CoreDNS answers them"
                .to_owned(),
            name => format!(
                "no device matches --interface {name} yet: the agent attaches to one when it \
                 appears; compare with `ip link`"
            ),
        };
        Finding::limited(SUBJECT, text)
    });
    findings.collect()
}

/// The finding about clients that the kernel does not answer on any interface.
pub(super) fn host_network() -> Finding {
    Finding::works(
        SUBJECT,
        "pods on the host's network and the node itself send through no veth, so CoreDNS answers \
         them and the kernel never does",
    )
}

fn result_for(device: &Device, prospect: &Prospect, tcx: &Tcx) -> (CheckVerdict, String) {
    match prospect {
        Prospect::Attached(program, modes) => result_for_hook(device, *program, modes, tcx),
        Prospect::Skipped(reason) => {
            let text = format!("skipped, so CoreDNS answers its queries: {reason}");
            (CheckVerdict::Limited, text)
        }
        Prospect::NotEthernet => {
            let text = "its packets have no Ethernet header, so no program can be attached: leave \
                        it out of --interface";
            (CheckVerdict::Fails, text.to_owned())
        }
        Prospect::UnrestrictedCard => {
            let text = "not a veth, so any host could send queries to it, and the agent won't \
                        start: give the networks of the clients to answer with --allow CIDR, or \
                        leave it out of --interface";
            (CheckVerdict::Fails, text.to_owned())
        }
    }
}

/// The result for a program that would be attached in the first accepted mode of `modes`, which is
/// never empty. [`AttachMode::Tcx`] includes the clsact filter that replaces tcx on older kernels.
/// The text of a mode says why native XDP isn't tried although the choice is `xdp`.
fn result_for_hook(
    device: &Device,
    program: HookProgram,
    modes: &[(AttachMode, Option<&str>)],
    tcx: &Tcx,
) -> (CheckVerdict, String) {
    let hook = match modes.first() {
        Some((AttachMode::Native, _)) => return result_for_native_xdp(device),
        Some((AttachMode::Generic, Some(why))) => format!("generic XDP, because {why}"),
        Some((AttachMode::Generic, None)) => "generic XDP".to_owned(),
        Some((AttachMode::Tcx, _)) | None => match tcx {
            Ok(true) => "tc by tcx".to_owned(),
            Ok(false) => "tc by clsact".to_owned(),
            Err(_) => "tc by tcx or clsact".to_owned(),
        },
    };
    let delivery = match program {
        HookProgram::TcPeer => "; answers go directly to the pod's end of the veth",
        HookProgram::Tc | HookProgram::Xdp | HookProgram::XdpVeth => "",
    };
    (CheckVerdict::Works, format!("{hook}{delivery}"))
}

/// The result for native XDP. Only an attempt to attach shows whether the driver accepts it.
fn result_for_native_xdp(device: &Device) -> (CheckVerdict, String) {
    let name = device.driver();
    let driver = DRIVERS
        .iter()
        .find(|driver| Some(driver.name) == name.as_deref());
    result_for_driver(device, name.as_deref(), driver)
}

fn result_for_driver(
    device: &Device,
    name: Option<&str>,
    driver: Option<&Driver>,
) -> (CheckVerdict, String) {
    let [receiving, sending] = device.queues;
    let description = format!(
        "{}, an MTU of {}, {receiving} receive and {sending} transmit queues",
        name.map_or_else(
            || "no driver in /sys".to_owned(),
            |name| format!("driver {name}")
        ),
        device.mtu
    );
    match driver {
        Some(driver) if device.mtu > driver.max_mtu => {
            let text = format!(
                "generic XDP, which costs more CPU ({description}): {} supports native XDP up to \
                 an MTU of {}",
                driver.name, driver.max_mtu
            );
            (CheckVerdict::Limited, text)
        }
        Some(driver) => {
            let condition = driver
                .condition
                .map_or_else(String::new, |condition| format!(" (it needs {condition})"));
            let text = format!(
                "native XDP if the driver accepts it{condition}; else generic XDP, which costs \
                 more CPU ({description})"
            );
            (CheckVerdict::Works, text)
        }
        None => {
            let text = format!(
                "native XDP if the driver accepts it, which is known only after attaching; else \
                 generic XDP, which costs more CPU ({description})"
            );
            (CheckVerdict::Works, text)
        }
    }
}

fn join_names(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(MAX_NAMES)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Driver {
    const fn new(name: &'static str, max_mtu: u32, condition: Option<&'static str>) -> Driver {
        Driver {
            name,
            max_mtu,
            condition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_too_large_for_native_xdp_is_reported() {
        // The MTU of jumbo frames on EC2, which has ena cards, is 9001. The usual MTU of Ethernet
        // is 1500.
        let card = |mtu| Device {
            index: 2,
            name: "eth0".to_owned(),
            address: None,
            mtu,
            queues: [8, 8],
            is_veth: false,
            peer_in_other_namespace: false,
            has_default_route: true,
            is_ethernet: true,
            ingress_filters: Vec::new(),
            egress_filters: Vec::new(),
            xdp_programs: Vec::new(),
        };
        let ena = DRIVERS.iter().find(|driver| driver.name == "ena");
        let (verdict, text) = result_for_driver(&card(9001), Some("ena"), ena);
        assert_eq!(verdict, CheckVerdict::Limited, "{text}");
        assert!(text.contains("up to an MTU of 3498"), "{text}");
        let (verdict, text) = result_for_driver(&card(1500), Some("ena"), ena);
        assert_eq!(verdict, CheckVerdict::Works, "{text}");
        assert!(text.contains("half of its queues"), "{text}");
        let (verdict, text) = result_for_driver(&card(9001), None, None);
        assert_eq!(verdict, CheckVerdict::Works, "{text}");
        assert!(text.contains("no driver in /sys"), "{text}");
    }
}
