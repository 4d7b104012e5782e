//! Foreign programs: BPF programs of other software on matching devices. They are reported, and
//! never replaced.
//!
//! Program IDs come from BPF_PROG_QUERY and netlink. The names of filters come from netlink.
//! Reading the names of tcx and XDP programs needs CAP_SYS_ADMIN, or a pin of the program itself. A
//! program's owner is derived from its name or its pin.

mod owner;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;

use self::owner::owner_by_name;
pub use self::owner::{Owner, pin_owners};
use super::{
    interfaces::{Device, TcFilter},
    program::{HookProgram, is_zerohop_name},
    syscall::{self, Direction},
};

/// The interval between searches of the pins while the owner of a program is unknown. Any new
/// program then causes a search at once.
const PIN_SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// The length, in bytes, of the longest program name that the kernel accepts. Loaders truncate
/// longer names.
const KERNEL_NAME_BYTES: usize = 15;

/// A foreign program on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignProgram {
    /// The device's name.
    pub interface: String,
    /// `xdp native`, `xdp generic`, `xdp offloaded`, `tcx ingress`, `tcx egress`, `clsact ingress`
    /// or `clsact egress`.
    pub hook: &'static str,
    /// The program's ID, if the kernel reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The name of the program or filter, if this process may read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program's owner; `None` when neither the name nor a pin identifies it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// A filter's priority; `None` for other programs. Filters with lower numbers run first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// A filter's handle, which is unique within its priority; `None` for other programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u32>,
}

/// Finds foreign programs and remembers their names and owners.
#[derive(Debug)]
pub struct ForeignPrograms {
    /// The mount point of the BPF file system that is searched for pins.
    bpffs: PathBuf,
    /// What is known about each program, by its ID.
    identities: BTreeMap<u32, Identity>,
    /// When the pins were last searched; `None` before the first search.
    pins_scanned: Option<Instant>,
}

/// The name and owner of a program, as far as they are known.
#[derive(Clone, Debug, Default)]
struct Identity {
    name: Option<String>,
    owner: Option<Owner>,
}

impl ForeignPrograms {
    /// Starts without known programs. `bpffs` is searched for pins.
    #[must_use]
    pub fn new(bpffs: PathBuf) -> Self {
        Self {
            bpffs,
            identities: BTreeMap::new(),
            pins_scanned: None,
        }
    }

    /// Finds the foreign programs on `devices`, each with its device index. `zerohop_ids` holds the
    /// IDs of Zerohop's programs. Filters with the name of a Zerohop program are left out too.
    pub fn find_on<'a>(
        &mut self,
        devices: impl Iterator<Item = &'a Device>,
        zerohop_ids: &BTreeSet<u32>,
    ) -> Vec<(u32, ForeignProgram)> {
        let mut found: Vec<(u32, ForeignProgram)> = devices
            .flat_map(|device| {
                programs_on(device)
                    .into_iter()
                    .map(|program| (device.index, program))
            })
            .filter(|(_, program)| !program.id.is_some_and(|id| zerohop_ids.contains(&id)))
            .filter(|(_, program)| !program.name.as_deref().is_some_and(is_zerohop_name))
            .collect();
        self.identify_programs(&found);
        for (_, program) in &mut found {
            let identity = program.id.and_then(|id| self.identities.get(&id));
            let identity = identity.cloned().unwrap_or_default();
            let named = program.name.as_deref().and_then(owner_by_name);
            program.owner = named.or(identity.owner);
            program.name = program.name.take().or(identity.name);
        }
        found
    }

    /// Looks up names and owners of new programs, searches the pins for programs of unknown owner,
    /// and forgets programs that are gone.
    fn identify_programs(&mut self, found: &[(u32, ForeignProgram)]) {
        let ids: BTreeSet<u32> = found.iter().filter_map(|(_, program)| program.id).collect();
        self.identities.retain(|id, _| ids.contains(id));
        let mut has_new = false;
        for id in ids {
            self.identities.entry(id).or_insert_with(|| {
                has_new = true;
                let name = syscall::program_name(id).ok();
                let owner = name.as_deref().and_then(owner_by_name);
                Identity { name, owner }
            });
        }
        let has_unknown = found.iter().any(|(_, program)| {
            let identity = program.id.and_then(|id| self.identities.get(&id));
            let named = program.name.as_deref().and_then(owner_by_name);
            named.is_none() && identity.is_some_and(|identity| identity.owner.is_none())
        });
        // A program may be pinned after it is attached, so the search is repeated.
        let is_due = has_new
            || self
                .pins_scanned
                .is_none_or(|scanned| scanned.elapsed() >= PIN_SCAN_INTERVAL);
        if has_unknown && is_due {
            for (path, owner) in owner::owned_pins(&self.bpffs) {
                let Ok(Some((id, name))) = syscall::pinned_program(&path) else {
                    continue;
                };
                if let Some(identity) = self.identities.get_mut(&id) {
                    identity.owner = identity.owner.or(Some(owner));
                    identity.name = identity.name.take().or(name);
                }
            }
            self.pins_scanned = Some(Instant::now());
        }
    }
}

impl ForeignProgram {
    /// The owner of a program that may enforce a network policy, which an answer from a hook would
    /// bypass: any tc program of a known owner other than libxdp. `None` for all other programs.
    #[must_use]
    pub fn policy_owner(&self) -> Option<Owner> {
        let is_tc = !self.hook.starts_with("xdp");
        self.owner.filter(|owner| is_tc && *owner != Owner::Libxdp)
    }

    /// Whether the name is that of a Zerohop program, in full or truncated by the loader. This
    /// recognises programs of another agent, whose IDs the caller of [`ForeignPrograms::find_on`]
    /// may not know.
    #[must_use]
    pub fn is_zerohop(&self) -> bool {
        let Some(name) = self.name.as_deref() else {
            return false;
        };
        let truncated = |full: &'static str| full.get(..KERNEL_NAME_BYTES).unwrap_or(full);
        HookProgram::ALL
            .iter()
            .any(|program| program.name() == name || truncated(program.name()) == name)
    }
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the program")?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        if let Some(id) = self.id {
            write!(f, " (ID {id})")?;
        }
        if let Some(owner) = self.owner {
            write!(f, " of {owner}")?;
        }
        write!(f, " at {}", self.hook)
    }
}

/// All programs on a device, without their owners.
fn programs_on(device: &Device) -> Vec<ForeignProgram> {
    let program = |hook, id| ForeignProgram {
        interface: device.name.clone(),
        hook,
        id,
        name: None,
        owner: None,
        priority: None,
        handle: None,
    };
    let filter = |hook, filter: &TcFilter| ForeignProgram {
        name: Some(filter.name.clone()),
        priority: Some(filter.priority),
        handle: Some(filter.handle),
        ..program(hook, filter.id)
    };
    let mut programs = Vec::new();
    programs.extend(device.xdp_programs.iter().map(|xdp| {
        let hook = match xdp.mode {
            "native" => "xdp native",
            "generic" => "xdp generic",
            _ => "xdp offloaded",
        };
        program(hook, Some(xdp.id))
    }));
    for (hook, direction) in [
        ("tcx ingress", Direction::Ingress),
        ("tcx egress", Direction::Egress),
    ] {
        // An error usually means that there are no programs: the kernel has no tcx (before Linux
        // 6.6), it is one of the first with tcx and none is attached, or the device is gone. With
        // neither CAP_NET_ADMIN nor CAP_SYS_ADMIN, the programs stay unknown.
        let ids = syscall::tcx_programs(device.index, direction).unwrap_or_default();
        programs.extend(ids.into_iter().map(|id| program(hook, Some(id))));
    }
    programs.extend(
        device
            .ingress_filters
            .iter()
            .map(|ingress| filter("clsact ingress", ingress)),
    );
    let egress = device.egress_filters.iter();
    programs.extend(egress.map(|egress| filter("clsact egress", egress)));
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zerohop_programs_are_recognised_by_name() {
        for (name, is_zerohop) in [
            ("zerohop_tc_peer", true),
            ("zerohop_xdp_veth", true),
            ("zerohop_xdp_vet", true),
            ("zerohop_t", false),
            ("cil_from_contai", false),
        ] {
            let program = ForeignProgram {
                name: Some(name.to_owned()),
                ..foreign_program("tcx ingress", None)
            };
            assert_eq!(program.is_zerohop(), is_zerohop, "{name}");
        }
    }

    #[test]
    fn only_tc_programs_of_known_owners_enforce_policy() {
        let cilium = Some(Owner::Cilium);
        assert_eq!(foreign_program("tcx egress", cilium).policy_owner(), cilium);
        assert_eq!(foreign_program("xdp native", cilium).policy_owner(), None);
        assert_eq!(foreign_program("tcx ingress", None).policy_owner(), None);
        let text = foreign_program("tcx ingress", cilium).to_string();
        assert_eq!(text, "the program (ID 7) of Cilium at tcx ingress");
    }

    fn foreign_program(hook: &'static str, owner: Option<Owner>) -> ForeignProgram {
        ForeignProgram {
            interface: "veth1".to_owned(),
            hook,
            id: Some(7),
            name: None,
            owner,
            priority: None,
            handle: None,
        }
    }
}
