//! Findings about the tables and the programs, from a trial.

use std::io;

use zerohop_datapath::probe::{ExecutionMode, KernelRefusal, Trial};

use super::{
    Finding,
    kernel::KernelVersion,
    rights::{Capability, ProcessRights},
};

/// Maximum length of a refusal's text, in bytes. A verifier's log may have thousands of lines.
const SHOWN: usize = 600;

const TABLES: &str = "tables";
const PROGRAMS: &str = "programs";

pub(super) fn programs(
    kernel: &KernelVersion,
    rights: &ProcessRights,
    trial: &Result<Trial, KernelRefusal>,
) -> Vec<Finding> {
    let trial = match trial {
        Ok(trial) => trial,
        Err(refusal) => {
            let text = format!("refused: {}", why(refusal, kernel, rights));
            return vec![Finding::fails(TABLES, text)];
        }
    };
    let mut findings = vec![Finding::works(
        TABLES,
        format!(
            "{:.1} MB were made, mapped and filled, and a lease was set by the kernel's clock ({} Hz)",
            trial.memory_bytes as f64 / 1e6,
            trial.rate
        ),
    )];
    // The programs are alike, so the kernel mostly refuses them for the same reason.
    let mut refused: Vec<(String, Vec<&str>)> = Vec::new();
    let mut taken = Vec::new();
    for (name, result) in &trial.programs {
        match result {
            Ok(code) => taken.push(*code),
            Err(refusal) => {
                let why = why(refusal, kernel, rights);
                match refused.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, names)) => names.push(name),
                    None => refused.push((why, vec![name])),
                }
            }
        }
    }
    findings.extend(refused.into_iter().map(|(why, names)| {
        Finding::fails(PROGRAMS, format!("{} refused: {why}", names.join(", ")))
    }));
    if taken.is_empty() {
        return findings;
    }
    let count = format!("{} of {}", taken.len(), trial.programs.len());
    findings.push(if taken.contains(&ExecutionMode::Interpreted) {
        Finding::limited(
            PROGRAMS,
            format!(
                "the kernel accepted {count}, and each answered a query, but the kernel interprets them, which is several times \
                 slower: `sysctl -w net.core.bpf_jit_enable=1` makes it compile programs that are loaded afterwards"
            ),
        )
    } else {
        Finding::works(
            PROGRAMS,
            format!("the kernel accepted {count} and compiled them, and each answered a query"),
        )
    });
    findings
}

/// Why the kernel refused something, and what to do about it.
fn why(refusal: &KernelRefusal, kernel: &KernelVersion, rights: &ProcessRights) -> String {
    match (refusal.error, remedy(refusal, kernel, rights)) {
        // With a known remedy the verifier's log is not needed.
        (Some(error), Some(remedy)) => {
            format!("{}; {remedy}", io::Error::from_raw_os_error(error))
        }
        (None, Some(remedy)) => format!("{}; {remedy}", shortened(&refusal.reason)),
        (_, None) => format!(
            "{}; please report this, with the versions of the kernel and of the agent",
            shortened(&refusal.reason)
        ),
    }
}

fn remedy(
    refusal: &KernelRefusal,
    kernel: &KernelVersion,
    rights: &ProcessRights,
) -> Option<String> {
    let missing = rights.missing();
    let is_forbidden = refusal.error == Some(libc::EPERM);
    // The verifier returns EACCES where a program needs PERFMON.
    if !missing.is_empty() && (is_forbidden || refusal.error == Some(libc::EACCES)) {
        return Some(format!("it needs {}", missing.join(", ")));
    }
    let known = match refusal.error {
        Some(libc::ENOSYS) => "this kernel was built without CONFIG_BPF_SYSCALL",
        _ if kernel.is_too_old() => "Linux 5.10 or newer is needed",
        Some(libc::EPERM) if !rights.is_in_first_user_namespace => {
            "this process is in a user namespace, whose capabilities don't count for bpf(2): run it in the node's own \
             (hostUsers: true, no rootless container)"
        }
        Some(libc::EPERM) if kernel.locks_memory() && !rights.has(Capability::SysResource) => {
            "before Linux 5.11 tables count as locked memory, which is limited here: add the capability SYS_RESOURCE"
        }
        Some(libc::EPERM) if rights.is_filtered => {
            "the capabilities are there, so the container's seccomp profile may refuse bpf(2), as that of old containerds \
             does: set its seccompProfile to Unconfined"
        }
        Some(libc::EPERM) => {
            "the capabilities are there, so something else forbids it, such as a security module"
        }
        Some(libc::ENOMEM) => "there is not enough memory, or the container's limit is too low",
        _ => return None,
    };
    Some(known.to_owned())
}

/// The beginning and the end of a long text. The verifier's complaint is at the end.
fn shortened(reason: &str) -> String {
    let reason = reason.trim_end();
    if reason.len() <= SHOWN {
        return reason.to_owned();
    }
    let head = reason.floor_char_boundary(SHOWN / 2);
    let tail = reason.ceil_char_boundary(reason.len() - SHOWN / 2);
    format!("{} … {}", &reason[..head], &reason[tail..])
}
