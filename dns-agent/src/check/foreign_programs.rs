//! Findings about foreign programs, and about the pods' network that they belong to.

use std::collections::BTreeSet;

use zerohop_datapath::{
    foreign_programs::{ForeignProgram, Owner},
    pins::PinFolderState,
};

use super::{
    Finding,
    rights::{Capability, ProcessRights},
};

/// Maximum number of programs listed. A node may have hundreds of pods with the same programs.
const SHOWN: usize = 10;

pub(super) fn foreign_programs(
    programs: &[ForeignProgram],
    rights: &ProcessRights,
    pin_folder: &PinFolderState,
) -> Vec<Finding> {
    const SUBJECT: &str = "others";
    if programs.is_empty() {
        let text = "no other BPF program is on these interfaces";
        return vec![Finding::works(SUBJECT, text)];
    }
    let shown = programs.iter().take(SHOWN).map(|program| {
        let text = format!("{}: {program}; it stays where it is", program.interface);
        Finding::works(SUBJECT, text)
    });
    let mut findings: Vec<Finding> = shown.collect();
    let more = programs.len() - findings.len();
    if more > 0 {
        let text = format!("and {more} more; `bpftool net show` has them all");
        findings.push(Finding::works(SUBJECT, text));
    }
    if programs.iter().any(|program| program.name.is_none()) && !rights.has(Capability::SysAdmin) {
        let indistinguishable = match pin_folder {
            PinFolderState::Held => {
                ", so programs of the running agent can't be told from foreign ones"
            }
            PinFolderState::Free | PinFolderState::Unusable(_) => "",
        };
        let text = format!(
            "the kernel shows names of tcx and XDP programs only to CAP_SYS_ADMIN{indistinguishable}: run this check as root on the \
             node to see them"
        );
        findings.push(Finding::works(SUBJECT, text));
    }
    findings
}

/// The finding about the pods' network, from its programs and pins.
pub(super) fn pod_network(owners: &BTreeSet<Owner>) -> Finding {
    const SUBJECT: &str = "pod network";
    let deciding = owners.iter().filter(|owner| **owner != Owner::Libxdp);
    let deciding: Vec<String> = deciding.map(Owner::to_string).collect();
    if deciding.is_empty() {
        let text = "no BPF program or pin of Cilium, Calico or the AWS VPC CNI is here; such a program could filter pods' queries";
        return Finding::works(SUBJECT, text);
    }
    let text = format!(
        "programs or pins of {} are here. A pod's veth with such a program is left alone, because the program may filter the pod's \
         queries: the pod uses the cluster's DNS",
        deciding.join(" and ")
    );
    Finding::limited(SUBJECT, text)
}
