//! Other people's programs on the devices that hooks of ours are for: shown, and never replaced.
//!
//! Their numbers come from BPF_PROG_QUERY and netlink. Names of filters do too; those of other programs
//! only with CAP_SYS_ADMIN. Whose a program is, is told by its name, or by where it is pinned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    interfaces::{Device, Filter},
    syscall::{self, Direction},
};

/// How often pins are looked through for programs whose owner is unknown.
const RELOOK: Duration = Duration::from_secs(30);
/// How deep below the BPF file system's root, and how many files at most.
const DEPTH: usize = 6;
const FILES: usize = 4096;

/// Somebody else's program on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Other {
    /// The device's name.
    pub interface: String,
    /// `xdp native`, `xdp generic`, `xdp offloaded`, `tcx ingress`, `tcx egress`, `clsact ingress` or `clsact egress`.
    pub hook: &'static str,
    /// The program's number, if the kernel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Its name, or its filter's, if we may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// A filter's priority: lower ones run first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// What tells a filter apart from others of its priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u32>,
}

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

/// What is known of programs that were seen.
#[derive(Debug)]
pub struct Others {
    bpffs: PathBuf,
    known: BTreeMap<u32, Identity>,
    /// When pins were looked through.
    looked: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Identity {
    name: Option<String>,
    owner: Option<Owner>,
}

impl Others {
    /// Nothing seen yet; pins are looked for in this BPF file system.
    #[must_use]
    pub fn new(bpffs: PathBuf) -> Self {
        Self {
            bpffs,
            known: BTreeMap::new(),
            looked: None,
        }
    }

    /// The programs on these devices that are none of `ours`.
    pub fn on<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        ours: &BTreeSet<u32>,
    ) -> Vec<(u32, Other)> {
        let mut found: Vec<(u32, Other)> = devices
            .flat_map(|device| raw(device).into_iter().map(|other| (device.index, other)))
            .filter(|(_, other)| !other.id.is_some_and(|id| ours.contains(&id)))
            .filter(|(_, other)| !other.name.as_deref().is_some_and(super::hooks::is_our_name))
            .collect();
        self.learn(&found);
        for (_, other) in &mut found {
            let identity = other.id.and_then(|id| self.known.get(&id));
            let identity = identity.cloned().unwrap_or_default();
            let named = other.name.as_deref().and_then(owner_by_name);
            other.owner = named.or(identity.owner);
            other.name = other.name.take().or(identity.name);
        }
        found
    }

    /// Finds out about programs that were not seen before, and forgets those that are gone.
    fn learn(&mut self, found: &[(u32, Other)]) {
        let ids: BTreeSet<u32> = found.iter().filter_map(|(_, other)| other.id).collect();
        self.known.retain(|id, _| ids.contains(id));
        let mut has_new = false;
        for id in ids {
            self.known.entry(id).or_insert_with(|| {
                has_new = true;
                let name = syscall::program_name(id).ok();
                let owner = name.as_deref().and_then(owner_by_name);
                Identity { name, owner }
            });
        }
        let has_unknown = found.iter().any(|(_, other)| {
            let identity = other.id.and_then(|id| self.known.get(&id));
            let named = other.name.as_deref().and_then(owner_by_name);
            named.is_none() && identity.is_some_and(|identity| identity.owner.is_none())
        });
        // What is attached may be pinned a moment later.
        let is_due = has_new || self.looked.is_none_or(|looked| looked.elapsed() >= RELOOK);
        if has_unknown && is_due {
            let mut left = FILES;
            let bpffs = self.bpffs.clone();
            look_through(&bpffs, &bpffs, DEPTH, &mut left, &mut self.known);
            self.looked = Some(Instant::now());
        }
    }
}

impl Other {
    /// Whose network policy it enforces, as far as is known: an answer of ours would be given before.
    #[must_use]
    pub fn enforces(&self) -> Option<Owner> {
        let is_tc = !self.hook.starts_with("xdp");
        self.owner.filter(|owner| is_tc && *owner != Owner::Libxdp)
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the program")?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        if let Some(id) = self.id {
            write!(f, " (number {id})")?;
        }
        if let Some(owner) = self.owner {
            write!(f, " of {owner}")?;
        }
        write!(f, " at {}", self.hook)
    }
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

/// All programs on a device, as the kernel lists them.
fn raw(device: &Device) -> Vec<Other> {
    let other = |hook, id| Other {
        interface: device.name.clone(),
        hook,
        id,
        name: None,
        owner: None,
        priority: None,
        handle: None,
    };
    let filter = |hook, filter: &Filter| Other {
        name: Some(filter.name.clone()),
        priority: Some(filter.priority),
        handle: Some(filter.handle),
        ..other(hook, filter.id)
    };
    let mut programs = Vec::new();
    programs.extend(device.xdp.iter().map(|xdp| {
        let hook = match xdp.mode {
            "native" => "xdp native",
            "generic" => "xdp generic",
            _ => "xdp offloaded",
        };
        other(hook, Some(xdp.id))
    }));
    for (hook, direction) in [
        ("tcx ingress", Direction::Ingress),
        ("tcx egress", Direction::Egress),
    ] {
        // No tcx (before Linux 6.6), or the device is gone: nothing is there then.
        let ids = syscall::tcx_programs(device.index, direction).unwrap_or_default();
        programs.extend(ids.into_iter().map(|id| other(hook, Some(id))));
    }
    programs.extend(
        device
            .filters
            .iter()
            .map(|ingress| filter("clsact ingress", ingress)),
    );
    let egress = device.egress_filters.iter();
    programs.extend(egress.map(|egress| filter("clsact egress", egress)));
    programs
}

/// Whose a program or a filter of this name is. The kernel cuts names of programs after 15 octets.
fn owner_by_name(name: &str) -> Option<Owner> {
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

/// Looks for known programs among the pins in a folder and below.
fn look_through(
    bpffs: &Path,
    folder: &Path,
    depth: usize,
    left: &mut usize,
    known: &mut BTreeMap<u32, Identity>,
) {
    // A folder that can't be read tells nothing, and is no reason to fail.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                look_through(bpffs, &path, depth - 1, left, known);
            }
            continue;
        }
        let place = path.strip_prefix(bpffs).unwrap_or(&path);
        let Some(owner) = owner_by_place(place) else {
            continue;
        };
        if *left == 0 {
            return;
        }
        *left -= 1;
        let Ok(Some((id, name))) = syscall::pinned_program(&path) else {
            continue;
        };
        if let Some(identity) = known.get_mut(&id) {
            identity.owner = identity.owner.or(Some(owner));
            identity.name = identity.name.take().or(name);
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

    #[test]
    fn only_what_decides_for_pods_keeps_us_off_them() {
        let other = |hook, owner| Other {
            interface: "veth1".to_owned(),
            hook,
            id: Some(7),
            name: None,
            owner,
            priority: None,
            handle: None,
        };
        let cilium = Some(Owner::Cilium);
        assert_eq!(other("tcx egress", cilium).enforces(), cilium);
        assert_eq!(other("xdp native", cilium).enforces(), None);
        assert_eq!(other("tcx ingress", None).enforces(), None);
        let text = other("tcx ingress", cilium).to_string();
        assert_eq!(text, "the program (number 7) of Cilium at tcx ingress");
    }
}
