//! Other people's programs, and what of the pods' network is known by them.

use std::collections::BTreeSet;

use super::{
    Finding,
    rights::{Capability, Rights},
};
use crate::datapath::{
    others::{Other, Owner},
    pins::Place,
};

/// How many programs are shown: nodes may have hundreds of pods with the same ones.
const SHOWN: usize = 10;

pub(super) fn others(others: &[Other], rights: &Rights, place: &Place) -> Vec<Finding> {
    const SUBJECT: &str = "others";
    if others.is_empty() {
        let text = "no other BPF program is on these interfaces";
        return vec![Finding::works(SUBJECT, text)];
    }
    let shown = others.iter().take(SHOWN).map(|other| {
        let text = format!("{}: {other}; it stays where it is", other.interface);
        Finding::works(SUBJECT, text)
    });
    let mut findings: Vec<Finding> = shown.collect();
    let more = others.len() - findings.len();
    if more > 0 {
        let text = format!("and {more} more; `bpftool net show` has them all");
        findings.push(Finding::works(SUBJECT, text));
    }
    if others.iter().any(|other| other.name.is_none()) && !rights.has(Capability::SysAdmin) {
        let may_be_ours = match place {
            Place::Held => ", and those of the running agent can't be told from others",
            Place::Free | Place::Unusable(_) => "",
        };
        let text = format!(
            "the kernel tells names of tcx and XDP programs only to CAP_SYS_ADMIN{may_be_ours}: run this check as root on the \
             node to see them"
        );
        findings.push(Finding::works(SUBJECT, text));
    }
    findings
}

/// What is known of the pods' network by its programs and pins.
pub(super) fn network(owners: &BTreeSet<Owner>) -> Finding {
    const SUBJECT: &str = "pod network";
    let deciding = owners.iter().filter(|owner| **owner != Owner::Libxdp);
    let deciding: Vec<String> = deciding.map(Owner::to_string).collect();
    if deciding.is_empty() {
        let text = "no BPF program or pin of Cilium, Calico or the AWS VPC CNI is here, which would decide what pods may ask";
        return Finding::works(SUBJECT, text);
    }
    let text = format!(
        "programs or pins of {} are here. Where such a program is on a pod's veth it decides what the pod may ask, so the veth is \
         left alone: its pods keep the cluster's DNS",
        deciding.join(" and ")
    );
    Finding::limited(SUBJECT, text)
}
