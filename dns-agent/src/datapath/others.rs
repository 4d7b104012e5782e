//! Other people's programs on the devices that hooks of ours are for: shown, and never replaced.
//!
//! Their numbers come from BPF_PROG_QUERY and netlink. Names of filters do too; those of other programs
//! only with CAP_SYS_ADMIN. Whose a program is, is told by its name, or by where it is pinned.

mod owner;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;

use self::owner::owner_by_name;
pub use self::owner::{Owner, owners};
use super::{
    interfaces::{Device, Filter},
    object::Program,
    syscall::{self, Direction},
};

/// How often pins are looked through for programs whose owner is unknown.
const RELOOK: Duration = Duration::from_secs(30);
/// How much of a program's name the kernel keeps.
const NAME_OCTETS: usize = 15;

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
            for (path, owner) in owner::pins(&self.bpffs) {
                let Ok(Some((id, name))) = syscall::pinned_program(&path) else {
                    continue;
                };
                if let Some(identity) = self.known.get_mut(&id) {
                    identity.owner = identity.owner.or(Some(owner));
                    identity.name = identity.name.take().or(name);
                }
            }
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

    /// Whether its name is that of a program of ours, as far as the kernel keeps it: an agent's that runs.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let Some(name) = self.name.as_deref() else {
            return false;
        };
        let kept = |ours: &'static str| ours.get(..NAME_OCTETS).unwrap_or(ours);
        Program::ALL
            .iter()
            .any(|program| program.name() == name || kept(program.name()) == name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_agents_are_known() {
        for (name, is_ours) in [
            ("zerohop_tc_peer", true),
            ("zerohop_xdp_veth", true),
            ("zerohop_xdp_vet", true),
            ("zerohop_t", false),
            ("cil_from_contai", false),
        ] {
            let other = Other {
                name: Some(name.to_owned()),
                ..other("tcx ingress", None)
            };
            assert_eq!(other.is_ours(), is_ours, "{name}");
        }
    }

    #[test]
    fn only_what_decides_for_pods_keeps_us_off_them() {
        let cilium = Some(Owner::Cilium);
        assert_eq!(other("tcx egress", cilium).enforces(), cilium);
        assert_eq!(other("xdp native", cilium).enforces(), None);
        assert_eq!(other("tcx ingress", None).enforces(), None);
        let text = other("tcx ingress", cilium).to_string();
        assert_eq!(text, "the program (number 7) of Cilium at tcx ingress");
    }

    fn other(hook: &'static str, owner: Option<Owner>) -> Other {
        Other {
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
