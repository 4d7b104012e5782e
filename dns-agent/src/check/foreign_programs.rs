//! Findings about foreign programs, and about the pod network that they belong to.

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
const MAX_LISTED: usize = 10;
/// What Cilium's programs mean for an operator: what is lost, what works, and why.
const CILIUM: &str = ". While Cilium runs, every pod's veth has one, and a netkit device is no \
                      veth, so the kernel answers no pod. The resolver (--listen) works as \
                      elsewhere. Kernel answers in front of Cilium's programs would bypass its \
                      policies, its DNS rules (toFQDNs) and Hubble, so Zerohop has no setting for \
                      that";

pub(super) fn foreign_programs(
    programs: &[ForeignProgram],
    rights: &ProcessRights,
    pin_folder: &PinFolderState,
) -> Vec<Finding> {
    const SUBJECT: &str = "others";
    if programs.is_empty() {
        let text = "no BPF program of other software is on these interfaces";
        return vec![Finding::works(SUBJECT, text)];
    }
    let shown = programs.iter().take(MAX_LISTED).map(|program| {
        let text = format!("{}: {program}; Zerohop never removes it", program.interface);
        Finding::works(SUBJECT, text)
    });
    let mut findings: Vec<Finding> = shown.collect();
    let more = programs.len() - findings.len();
    if more > 0 {
        let text = format!("and {more} more; `bpftool net show` lists all programs");
        findings.push(Finding::works(SUBJECT, text));
    }
    if programs.iter().any(|program| program.name.is_none()) && !rights.has(Capability::SysAdmin) {
        let warning = match pin_folder {
            PinFolderState::Held => {
                ", so the programs listed here may be those of the running agent"
            }
            PinFolderState::Free | PinFolderState::Unusable(_) => "",
        };
        let text = format!(
            "the kernel shows the names of tcx and XDP programs only to \
             CAP_SYS_ADMIN{warning}: run this check as root on the node to see the names"
        );
        findings.push(Finding::works(SUBJECT, text));
    }
    findings
}

/// The finding about the pod network, from the owners of the foreign programs on matching devices
/// and of the pins on this node.
pub(super) fn pod_network(owners: &BTreeSet<Owner>) -> Finding {
    const SUBJECT: &str = "pod network";
    // libxdp loads XDP programs of any software, so it is no sign of a pod network.
    let networks = owners.iter().filter(|owner| **owner != Owner::Libxdp);
    let networks: Vec<String> = networks.map(Owner::to_string).collect();
    if networks.is_empty() {
        let text = "no BPF program or pin of Cilium, Calico or the AWS VPC CNI was found, so none \
                    is known to filter pods' queries";
        return Finding::works(SUBJECT, text);
    }
    let mut text = format!(
        "programs or pins of {} are on this node. Such a program may filter a pod's queries, so a \
         veth with one is skipped, and CoreDNS answers the pod",
        networks.join(" and ")
    );
    if owners.contains(&Owner::Cilium) {
        text.push_str(CILIUM);
    }
    Finding::limited(SUBJECT, text)
}
