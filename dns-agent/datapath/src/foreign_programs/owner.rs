//! The known owners of foreign programs, recognised by the names of programs and pins.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Component, Path, PathBuf},
};

use serde::Serialize;

/// The levels of folders below the mount point that are searched for pins. The deepest known pins,
/// those of Cilium's endpoints, are in the fourth; the other two are spare.
const MAX_DEPTH: usize = 6;
/// The largest number of pins that a search returns, because [`super`] opens each of them.
const MAX_PINS: usize = 4096;

/// Software whose BPF programs are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// Cilium.
    Cilium,
    /// Calico's eBPF data plane.
    Calico,
    /// The network policy agent of the AWS VPC CNI.
    Aws,
    /// libxdp's dispatcher, which may run several XDP programs.
    Libxdp,
}

/// The known owners that have pins in a BPF file system. Pins of libxdp are not recognised.
#[must_use]
pub fn pin_owners(bpffs: &Path) -> BTreeSet<Owner> {
    owned_pins(bpffs)
        .into_iter()
        .map(|(_, owner)| owner)
        .collect()
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::Cilium => "Cilium",
            Owner::Calico => "Calico",
            Owner::Aws => "the AWS VPC CNI",
            Owner::Libxdp => "libxdp",
        })
    }
}

/// The owner of a program or filter by its name. Loaders truncate names of programs to 15
/// bytes.
pub(super) fn owner_by_name(name: &str) -> Option<Owner> {
    // bpf_lxc.o:[from-container] is a filter of Cilium before version 1.12.
    let is_cilium = name.starts_with("cil_")
        || name.starts_with("cilium")
        || ["bpf_lxc.o", "bpf_host.o", "bpf_netdev"]
            .iter()
            .any(|object| name.contains(object));
    if is_cilium {
        return Some(Owner::Cilium);
    }
    // cali_tc_preamble and calico_from_workload_ep, among others.
    if name.starts_with("cali_") || name.starts_with("calico_") {
        return Some(Owner::Calico);
    }
    match name {
        "handle_ingress" | "handle_egress" => Some(Owner::Aws),
        "xdp_dispatcher" => Some(Owner::Libxdp),
        _ => None,
    }
}

/// The owner of a pin by its path: `cilium/…`, `tc/globals/cilium_…`, `tcx/eth0_ingress`,
/// `netkit/cali…_egress`, `globals/aws/…`.
fn owner_by_pin(path: &Path) -> Option<Owner> {
    if is_calico_link(path) {
        return Some(Owner::Calico);
    }
    path.components().find_map(|component| {
        let Component::Normal(name) = component else {
            return None;
        };
        let name = name.to_str()?;
        match name {
            "aws" => Some(Owner::Aws),
            _ if name.starts_with("cilium") => Some(Owner::Cilium),
            _ if name.starts_with("cali") => Some(Owner::Calico),
            _ => None,
        }
    })
}

/// Whether the path is that of a link's pin of Calico: `tcx/DEVICE_HOOK` or `netkit/DEVICE_HOOK`.
/// The device's name begins with `cali` only where Calico's CNI plugin named it: with the AWS VPC
/// CNI it begins with `eni`.
fn is_calico_link(path: &Path) -> bool {
    let components: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let ["tcx" | "netkit", link] = components[..] else {
        return false;
    };
    link.ends_with("_ingress") || link.ends_with("_egress")
}

/// The pins of known owners in a BPF file system.
pub(super) fn owned_pins(bpffs: &Path) -> Vec<(PathBuf, Owner)> {
    let mut pins = Vec::new();
    collect_pins(bpffs, bpffs, MAX_DEPTH, &mut pins);
    pins
}

fn collect_pins(bpffs: &Path, folder: &Path, depth: usize, pins: &mut Vec<(PathBuf, Owner)>) {
    // Folders that can't be read are ignored.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                collect_pins(bpffs, &path, depth - 1, pins);
            }
            continue;
        }
        if pins.len() >= MAX_PINS {
            return;
        }
        let relative = path.strip_prefix(bpffs).unwrap_or(&path);
        if let Some(owner) = owner_by_pin(relative) {
            pins.push((path, owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_recognised_by_program_names() {
        for (name, owner) in [
            ("cil_from_container-lxcb16c490a744c", Some(Owner::Cilium)),
            ("cil_from_contai", Some(Owner::Cilium)),
            ("cilium-lxc1234", Some(Owner::Cilium)),
            ("bpf_lxc.o:[from-container]", Some(Owner::Cilium)),
            ("cali_tc_preambl", Some(Owner::Calico)),
            ("calico_from_workload_ep", Some(Owner::Calico)),
            ("handle_ingress", Some(Owner::Aws)),
            ("xdp_dispatcher", Some(Owner::Libxdp)),
            ("handle_ingress_of_mine", None),
            ("council", None),
            ("caliber", None),
            ("", None),
        ] {
            assert_eq!(owner_by_name(name), owner, "{name}");
        }
    }

    #[test]
    fn owners_are_recognised_by_pins() {
        for (path, owner) in [
            (
                "cilium/endpoints/7/links/cil_from_container",
                Some(Owner::Cilium),
            ),
            ("tc/globals/cilium_calls_00007", Some(Owner::Cilium)),
            ("tc/globals/cali_v4_ct4", Some(Owner::Calico)),
            ("tcx/cali1234567890a_ingress", Some(Owner::Calico)),
            ("tcx/eni1234567890a_egress", Some(Owner::Calico)),
            ("netkit/cali1234567890a_ingress", Some(Owner::Calico)),
            ("netkit/azv1234567_egress", Some(Owner::Calico)),
            ("tc/globals/cali_p_nk_ing2", Some(Owner::Calico)),
            ("tcx/probe", None),
            ("netkit/mine/eth0_ingress", None),
            ("mine/tcx/eth0_ingress", None),
            ("globals/aws/programs/web_handle_ingress", Some(Owner::Aws)),
            (
                "globals/aws/maps/web-default_egress_pod_state_map",
                Some(Owner::Aws),
            ),
            (
                "globals/aws/maps/global_aws_conntrack_map",
                Some(Owner::Aws),
            ),
            ("zerohop/net-4026531840/tcx-7", None),
            ("laws/program", None),
        ] {
            assert_eq!(owner_by_pin(Path::new(path)), owner, "{path}");
        }
    }
}
