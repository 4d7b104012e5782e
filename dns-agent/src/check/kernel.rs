//! The kernel itself: how old it is, and what it has.

use std::{fs, path::Path};

use super::{Finding, Tcx};
use crate::datapath::probe::{Refusal, Trial};

/// The oldest kernel that is tested. It brought bpf_redirect_peer (commit 9aa1206e8f48), which carries the
/// answers into pods.
const OLDEST: (u32, u32) = (5, 10);
/// From this one on tables are charged to the container's memory and not to locked memory
/// (commit 3ac1f01b43b6).
const WITHOUT_LOCKED_MEMORY: (u32, u32) = (5, 11);

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Which kernel runs.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    version: (u32, u32),
}

impl Kernel {
    pub(super) fn read() -> Kernel {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Kernel::new(release.trim())
    }

    pub(super) fn new(release: &str) -> Kernel {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        Kernel {
            release: release.to_owned(),
            version: (number().unwrap_or(0), number().unwrap_or(0)),
        }
    }

    /// Whether it is older than any that is tested.
    pub(super) fn is_too_old(&self) -> bool {
        self.version < OLDEST
    }

    /// Whether tables count as locked memory.
    pub(super) fn locks_memory(&self) -> bool {
        self.version < WITHOUT_LOCKED_MEMORY
    }
}

pub(super) fn kernel(kernel: &Kernel, trial: &Result<Trial, Refusal>) -> Finding {
    let Kernel { release, .. } = kernel;
    if !kernel.is_too_old() {
        return Finding::works("kernel", format!("{release}; 5.10 or newer is needed"));
    }
    let takes_all = trial
        .as_ref()
        .is_ok_and(|trial| trial.programs.iter().all(|(_, taken)| taken.is_ok()));
    match takes_all {
        true => Finding::limited(
            "kernel",
            format!("{release}: it takes the programs, though nothing older than 5.10 is tested"),
        ),
        false => Finding::fails(
            "kernel",
            format!(
                "{release}: Linux 5.10 or newer is needed; every query goes the way it went before"
            ),
        ),
    }
}

/// What a kernel without BTF would lack: nothing, as a test shows on every kernel.
pub(super) fn btf() -> Finding {
    let there = match Path::new(BTF).exists() {
        true => "is there",
        false => "is not there",
    };
    Finding::works(
        "BTF",
        format!(
            "{BTF} {there}; nothing needs it, since the programs read no structure of the kernel's own"
        ),
    )
}

pub(super) fn tc(tcx: &Tcx) -> Finding {
    match tcx {
        Ok(true) => Finding::works(
            "tc",
            "by tcx links: before all other programs, and off when the agent dies unless they are pinned",
        ),
        Ok(false) => Finding::works(
            "tc",
            "no tcx, which Linux has from 6.6 on: by clsact filters of the highest priority. They stay when the agent is \
             killed, and let everything pass once the lease has run out; the next agent takes them over",
        ),
        Err(reason) => Finding::limited(
            "tc",
            format!(
                "whether there is tcx is not known ({reason}); without it clsact filters are used"
            ),
        ),
    }
}
