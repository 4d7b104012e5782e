//! Findings about the rights of this process.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use zerohop_datapath::probe::{KernelRefusal, Trial};

use super::{Finding, Tcx, kernel::KernelVersion};

/// A capability, with its bit number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    NetBindService = 10,
    NetAdmin = 12,
    SysAdmin = 21,
    SysResource = 24,
    Perfmon = 38,
    Bpf = 39,
}

/// The rights of this process.
#[derive(Clone, Debug)]
pub(super) struct ProcessRights {
    /// The effective capabilities, one bit each.
    effective: u64,
    /// Whether a seccomp filter restricts system calls.
    pub(super) is_filtered: bool,
    /// Whether the process is in the initial user namespace, where capabilities count for the
    /// whole machine.
    pub(super) is_in_first_user_namespace: bool,
    /// The first port that a process may use without the capability NET_BIND_SERVICE.
    pub(super) first_free_port: u16,
    /// The number of bytes of memory that the process may lock; `None` means no limit. 0 if the
    /// limit can't be read.
    lockable: Option<u64>,
}

impl ProcessRights {
    pub(super) fn read() -> ProcessRights {
        // Each thread has its own capabilities.
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let uid_map = fs::read_to_string("/proc/thread-self/uid_map").unwrap_or_default();
        let port = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let mut rights = ProcessRights::parse(&status, &uid_map);
        let port = port.ok().and_then(|text| text.trim().parse().ok());
        rights.first_free_port = port.unwrap_or(rights.first_free_port);
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
        rights.lockable = (limit != RLIM_INFINITY).then_some(limit);
        rights
    }

    /// The rights in the texts of `/proc/thread-self/status` and `uid_map`. The first free port is
    /// Linux's default, and lockable memory has no limit.
    pub(super) fn parse(status: &str, uid_map: &str) -> ProcessRights {
        let field = |name: &str| {
            let mut lines = status.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.trim()))
        };
        let effective = field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
        ProcessRights {
            effective: effective.unwrap_or_default(),
            // SECCOMP_MODE_FILTER.
            is_filtered: field("Seccomp:") == Some("2"),
            // The initial namespace maps all user IDs to themselves.
            is_in_first_user_namespace: uid_map.split_whitespace().eq(["0", "0", "4294967295"]),
            first_free_port: 1024,
            lockable: None,
        }
    }

    pub(super) fn has(&self, capability: Capability) -> bool {
        self.effective & (1 << capability as u64) != 0
    }

    /// The missing capabilities that the kernel plane needs.
    pub(super) fn missing_capabilities(&self) -> Vec<&'static str> {
        // SYS_ADMIN includes BPF and PERFMON (Linux 5.8, `bpf_capable` and `perfmon_capable`).
        let is_admin = self.has(Capability::SysAdmin);
        let mut missing = Vec::new();
        if !is_admin && !self.has(Capability::Bpf) {
            missing.push("BPF");
        }
        if !self.has(Capability::NetAdmin) {
            missing.push("NET_ADMIN");
        }
        if !is_admin && !self.has(Capability::Perfmon) {
            missing.push("PERFMON");
        }
        missing
    }
}

pub(super) fn rights(rights: &ProcessRights, tcx: &Tcx) -> Finding {
    let missing = rights.missing_capabilities();
    // SYS_ADMIN suffices for tcx links, but not for clsact filters.
    if missing == ["NET_ADMIN"] && rights.has(Capability::SysAdmin) && matches!(tcx, Ok(true)) {
        return Finding::works(
            "rights",
            "the process has the capability SYS_ADMIN, which includes BPF and PERFMON; with tcx \
             NET_ADMIN is not needed",
        );
    }
    if missing.is_empty() {
        return Finding::works(
            "rights",
            "the process has the capabilities BPF, NET_ADMIN and PERFMON",
        );
    }
    Finding::fails(
        "rights",
        format!(
            "the process has no {}: add this to the container's capabilities, or run as root",
            missing.join(", ")
        ),
    )
}

/// The finding about the limit of locked memory. `None` where tables don't count as locked memory,
/// where there is no limit, where SYS_RESOURCE lets aya raise it, and if the kernel refused the
/// tables, which is a finding of its own.
pub(super) fn locked_memory(
    kernel: &KernelVersion,
    rights: &ProcessRights,
    trial: &Result<Trial, KernelRefusal>,
) -> Option<Finding> {
    let limit = rights.lockable?;
    let trial = trial.as_ref().ok()?;
    if !kernel.locks_memory() || rights.has(Capability::SysResource) {
        return None;
    }
    Some(Finding::limited(
        "memory",
        format!(
            "before Linux 5.11 tables count as locked memory, which is limited to {} MB: the \
             tables of this check fit ({} MB), but larger tables may not: add the capability \
             SYS_RESOURCE",
            limit / 1_000_000,
            trial.memory_bytes / 1_000_000
        ),
    ))
}
