//! Findings about the tables and the programs, from a trial on this kernel.

use std::io;

use zerohop_datapath::probe::{ExecutionMode, KernelRefusal, Trial};

use super::{
    Finding,
    kernel::KernelVersion,
    rights::{Capability, ProcessRights},
};

/// Maximum length of a refusal's text in bytes, apart from the mark of what is left out. A
/// verifier's log may have thousands of lines.
const MAX_REFUSAL: usize = 600;

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
            let text = format!(
                "the kernel refused the tables: {}",
                explain_refusal(refusal, kernel, rights)
            );
            return vec![Finding::fails(TABLES, text)];
        }
    };
    let mut findings = vec![Finding::works(
        TABLES,
        format!(
            "{:.1} MB were created, mapped and filled, and a lease was set by the kernel's clock \
             ({} Hz)",
            trial.memory_bytes as f64 / 1e6,
            trial.rate
        ),
    )];
    // The programs are similar, so the kernel usually refuses all of them for the same reason.
    let mut refused: Vec<(String, Vec<&str>)> = Vec::new();
    let mut accepted = Vec::new();
    for (name, result) in &trial.programs {
        match result {
            Ok(execution) => accepted.push(*execution),
            Err(refusal) => {
                let reason = explain_refusal(refusal, kernel, rights);
                match refused.iter_mut().find(|(other, _)| *other == reason) {
                    Some((_, names)) => names.push(name),
                    None => refused.push((reason, vec![name])),
                }
            }
        }
    }
    findings.extend(refused.into_iter().map(|(reason, names)| {
        Finding::fails(
            PROGRAMS,
            format!("the kernel refused {}: {reason}", names.join(", ")),
        )
    }));
    if accepted.is_empty() {
        return findings;
    }
    let count = format!("{} of {}", accepted.len(), trial.programs.len());
    findings.push(if accepted.contains(&ExecutionMode::Interpreted) {
        Finding::limited(
            PROGRAMS,
            format!(
                "the kernel accepted {count}, and each answered a query, but the kernel \
                 interprets them, which is several times slower: let it compile programs with \
                 `sysctl -w net.core.bpf_jit_enable=1`, and restart the agent"
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

/// Why the kernel refused an operation, and what to do.
fn explain_refusal(
    refusal: &KernelRefusal,
    kernel: &KernelVersion,
    rights: &ProcessRights,
) -> String {
    match (refusal.error, remedy(refusal, kernel, rights)) {
        // With a known remedy the verifier's log is not needed.
        (Some(error), Some(remedy)) => {
            format!("{}; {remedy}", io::Error::from_raw_os_error(error))
        }
        (None, Some(remedy)) => format!("{}; {remedy}", shortened(&refusal.reason)),
        (_, None) => format!(
            "{}; please report this message with the versions of the kernel and of the agent",
            shortened(&refusal.reason)
        ),
    }
}

/// The probable cause and what to do; `None` if no cause is known.
fn remedy(
    refusal: &KernelRefusal,
    kernel: &KernelVersion,
    rights: &ProcessRights,
) -> Option<String> {
    let missing = rights.missing_capabilities();
    let is_forbidden = refusal.error == Some(libc::EPERM);
    // The verifier returns EACCES where a program needs PERFMON.
    if !missing.is_empty() && (is_forbidden || refusal.error == Some(libc::EACCES)) {
        return Some(format!(
            "add the capabilities {}, or run as root",
            missing.join(", ")
        ));
    }
    let known = match refusal.error {
        Some(libc::ENOSYS) => {
            "this kernel was built without CONFIG_BPF_SYSCALL: use another kernel"
        }
        _ if kernel.is_too_old() => "Linux 5.10 or newer is needed",
        Some(libc::EPERM) if !rights.is_in_first_user_namespace => {
            "this process is in a user namespace, and capabilities in user namespaces don't count \
             for bpf(2): run it in the node's user namespace (hostUsers: true, no rootless \
             container)"
        }
        Some(libc::EPERM) if kernel.locks_memory() && !rights.has(Capability::SysResource) => {
            "before Linux 5.11 tables count as locked memory, which may be limited here: add the \
             capability SYS_RESOURCE"
        }
        Some(libc::EPERM) if rights.is_filtered => {
            "the process has the capabilities, so the container's seccomp profile may refuse \
             bpf(2), as the default profile of old versions of containerd does: set the \
             container's seccompProfile to Unconfined"
        }
        Some(libc::EPERM) => {
            "the process has the capabilities, so a security module may forbid the operation: see \
             its audit log"
        }
        Some(libc::ENOMEM) => "there is not enough memory: raise the container's memory limit",
        _ => return None,
    };
    Some(known.to_owned())
}

/// The beginning and the end of a long text. The verifier's complaint is at the end.
fn shortened(reason: &str) -> String {
    let reason = reason.trim_end();
    if reason.len() <= MAX_REFUSAL {
        return reason.to_owned();
    }
    let head = reason.floor_char_boundary(MAX_REFUSAL / 2);
    let tail = reason.ceil_char_boundary(reason.len() - MAX_REFUSAL / 2);
    format!("{} … {}", &reason[..head], &reason[tail..])
}
