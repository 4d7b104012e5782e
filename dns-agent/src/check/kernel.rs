//! Findings about the kernel: its version, BTF and tc.

use std::{fs, path::Path};

use zerohop_datapath::probe::{KernelRefusal, Trial};

use super::{Finding, Tcx};

/// The oldest tested kernel. It is the first with bpf_redirect_peer (commit 9aa1206e8f48), which
/// sends answers directly into pods.
const OLDEST: (u32, u32) = (5, 10);
/// The first kernel that charges tables to the container's memory instead of locked memory
/// (commit 80ee81e0403c).
const WITHOUT_LOCKED_MEMORY: (u32, u32) = (5, 11);

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The version of the running kernel.
#[derive(Clone, Debug)]
pub(super) struct KernelVersion {
    /// As printed by `uname -r`.
    pub(super) release: String,
    /// Major and minor number. A number that can't be read counts as 0.
    version: (u32, u32),
}

impl KernelVersion {
    pub(super) fn read() -> KernelVersion {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        KernelVersion::new(release.trim())
    }

    pub(super) fn new(release: &str) -> KernelVersion {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        KernelVersion {
            release: release.to_owned(),
            version: (number().unwrap_or(0), number().unwrap_or(0)),
        }
    }

    /// Whether the kernel is older than the oldest tested kernel.
    pub(super) fn is_too_old(&self) -> bool {
        self.version < OLDEST
    }

    /// Whether tables count as locked memory.
    pub(super) fn locks_memory(&self) -> bool {
        self.version < WITHOUT_LOCKED_MEMORY
    }
}

pub(super) fn kernel(kernel: &KernelVersion, trial: &Result<Trial, KernelRefusal>) -> Finding {
    let KernelVersion { release, .. } = kernel;
    if !kernel.is_too_old() {
        return Finding::works("kernel", format!("{release}; 5.10 or newer is needed"));
    }
    let accepts_all = trial
        .as_ref()
        .is_ok_and(|trial| trial.programs.iter().all(|(_, result)| result.is_ok()));
    if accepts_all {
        Finding::limited(
            "kernel",
            format!(
                "{release}: the kernel accepts the programs, but no kernel older than 5.10 is \
                 tested"
            ),
        )
    } else {
        Finding::fails(
            "kernel",
            format!(
                "{release}: Linux 5.10 or newer is needed, so CoreDNS answers pods' queries as \
                 without Zerohop"
            ),
        )
    }
}

/// The finding about BTF. No program needs BTF, but operators know it as a requirement of other BPF
/// software.
pub(super) fn btf() -> Finding {
    let presence = if Path::new(BTF).exists() {
        "exists"
    } else {
        "does not exist"
    };
    Finding::works(
        "BTF",
        format!(
            "{BTF} {presence}; Zerohop does not need it, because its programs read no structure \
             of the kernel"
        ),
    )
}

pub(super) fn tc(tcx: &Tcx) -> Finding {
    match tcx {
        Ok(true) => Finding::works(
            "tc",
            "the kernel has tcx: the programs run before all other tc programs, and are detached \
             when the agent dies unless they are pinned",
        ),
        Ok(false) => Finding::works(
            "tc",
            "the kernel has no tcx (new in Linux 6.6), so clsact filters of the highest \
             priority are used. The filters stay when the agent is killed, pass everything after \
             the lease has expired, and are taken over by the next agent",
        ),
        Err(reason) => Finding::limited(
            "tc",
            format!(
                "it isn't known whether the kernel has tcx: {reason}; without tcx, clsact filters \
                 are used"
            ),
        ),
    }
}
