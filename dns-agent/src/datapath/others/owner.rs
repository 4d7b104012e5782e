//! Whose programs are known, and by what.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Component, Path, PathBuf},
};

use serde::Serialize;

/// How deep below the BPF file system's root, and how many files at most.
const DEPTH: usize = 6;
const FILES: usize = 4096;

/// Whose programs are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// Cilium.
    Cilium,
    /// Calico's eBPF data plane.
    Calico,
    /// The network policy agent of the AWS VPC CNI.
    Aws,
    /// libxdp's dispatcher, behind which several XDP programs may be.
    Libxdp,
}

/// Whose pins are in a BPF file system.
#[must_use]
pub fn owners(bpffs: &Path) -> BTreeSet<Owner> {
    pins(bpffs).into_iter().map(|(_, owner)| owner).collect()
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

/// Whose a program or a filter of this name is. The kernel cuts names of programs after 15 octets.
pub(super) fn owner_by_name(name: &str) -> Option<Owner> {
    // bpf_lxc.o:[from-container] is a filter of Cilium before 1.12.
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

/// Whose pins lie there: `cilium/…`, `tcx/cali…`, `tc/globals/cilium_…`, `globals/aws/…`.
fn owner_by_place(place: &Path) -> Option<Owner> {
    place.components().find_map(|component| {
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

/// The pins of known owners in a BPF file system.
pub(super) fn pins(bpffs: &Path) -> Vec<(PathBuf, Owner)> {
    let mut pins = Vec::new();
    look_through(bpffs, bpffs, DEPTH, &mut pins);
    pins
}

fn look_through(bpffs: &Path, folder: &Path, depth: usize, pins: &mut Vec<(PathBuf, Owner)>) {
    // A folder that can't be read tells nothing, and is no reason to fail.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                look_through(bpffs, &path, depth - 1, pins);
            }
            continue;
        }
        if pins.len() >= FILES {
            return;
        }
        let place = path.strip_prefix(bpffs).unwrap_or(&path);
        if let Some(owner) = owner_by_place(place) {
            pins.push((path, owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_names() {
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
    fn programs_are_known_by_their_pins() {
        for (place, owner) in [
            (
                "cilium/endpoints/7/links/cil_from_container",
                Some(Owner::Cilium),
            ),
            ("tc/globals/cilium_calls_00007", Some(Owner::Cilium)),
            ("tcx/cali1234567890a_ingress", Some(Owner::Calico)),
            ("globals/aws/programs/web_handle_ingress", Some(Owner::Aws)),
            ("zerohop/net-4026531840/tcx-7", None),
            ("laws/program", None),
        ] {
            assert_eq!(owner_by_place(Path::new(place)), owner, "{place}");
        }
    }
}
