//! The finding about AppArmor and SELinux, which may forbid what the process has capabilities for.

use std::fs;

use zerohop_datapath::{
    pins::PinFolderState,
    probe::{KernelRefusal, Trial},
};

use super::{CheckRequest, Finding};

/// What confines this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Confinement {
    /// Nothing that this process can see.
    None,
    /// A profile of AppArmor that is enforced.
    AppArmor {
        /// The profile's name.
        profile: String,
    },
    /// A type of SELinux.
    SeLinux {
        /// The type in the process's label.
        domain: String,
        /// Whether SELinux only reports what it would forbid.
        is_permissive: bool,
    },
}

const SUBJECT: &str = "confinement";

/// The types of SELinux that forbid a process nothing.
const UNCONFINED: [&str; 3] = ["spc_t", "super_t", "unconfined_t"];

impl Confinement {
    pub(super) fn read() -> Confinement {
        let label = fs::read_to_string("/proc/thread-self/attr/current").unwrap_or_default();
        let enforce = fs::read_to_string("/sys/fs/selinux/enforce").unwrap_or_default();
        Confinement::parse(&label, &enforce)
    }

    /// The confinement in the texts of `/proc/thread-self/attr/current` and
    /// `/sys/fs/selinux/enforce`. The latter is empty if it can't be read, as in most containers.
    pub(super) fn parse(label: &str, enforce: &str) -> Confinement {
        let label = label.trim_end_matches(['\0', '\n']);
        // `PROFILE (enforce)`. Other modes forbid nothing.
        if let Some(profile) = label.strip_suffix(" (enforce)") {
            let profile = profile.to_owned();
            return Confinement::AppArmor { profile };
        }
        // `USER:ROLE:TYPE:LEVEL`. Before a policy is loaded the label is `kernel`.
        let Some(domain) = label.split(':').nth(2).filter(|_| !label.contains(' ')) else {
            return Confinement::None;
        };
        Confinement::SeLinux {
            domain: domain.to_owned(),
            is_permissive: enforce.trim() == "0",
        }
    }
}

/// The finding. The checks have tried what the agent needs, so only refused trials are put down to
/// the confinement.
pub(super) fn confinement(
    confinement: &Confinement,
    trial: &Result<Trial, KernelRefusal>,
    pin_folder: &PinFolderState,
    request: &CheckRequest,
) -> Finding {
    let programs = trial.as_ref().map(|trial| &trial.programs);
    let is_loaded =
        programs.is_ok_and(|programs| programs.iter().all(|(_, result)| result.is_ok()));
    let is_pinnable = !matches!(pin_folder, PinFolderState::Unusable(_));
    match confinement {
        Confinement::None => Finding::works(
            SUBJECT,
            "neither an enforced profile of AppArmor nor a type of SELinux confines this process",
        ),
        Confinement::AppArmor { profile } if is_pinnable => Finding::works(
            SUBJECT,
            format!(
                "AppArmor's profile {profile} confines this process, and permits what was tried \
                 above"
            ),
        ),
        Confinement::AppArmor { profile } => Finding::limited(
            SUBJECT,
            format!(
                "AppArmor's profile {profile} confines this process. Profiles of containers forbid \
                 writing below /sys, and hooks can't be pinned in {}: mount the node's \
                 /sys/fs/bpf elsewhere in the container, as the manifests do, and give --bpffs",
                request.bpffs.display()
            ),
        ),
        Confinement::SeLinux { domain, .. } if UNCONFINED.contains(&domain.as_str()) => {
            Finding::works(SUBJECT, format!("SELinux's type {domain} forbids nothing"))
        }
        Confinement::SeLinux { domain, .. } if is_loaded && is_pinnable => Finding::works(
            SUBJECT,
            format!("SELinux's type {domain} permits what was tried above"),
        ),
        Confinement::SeLinux {
            domain,
            is_permissive: true,
        } => Finding::works(
            SUBJECT,
            format!(
                "SELinux is permissive, so the type {domain} forbids nothing now; the manifests \
                 set the type spc_t, which also works when it enforces"
            ),
        ),
        Confinement::SeLinux { domain, .. } => Finding::limited(
            SUBJECT,
            format!(
                "SELinux's type {domain} confines this process, and may be why something above \
                 was refused: set the container's seLinuxOptions to {{type: spc_t}}, as the \
                 manifests do; the node's audit log has each denial (`ausearch -m avc`)"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::CheckVerdict::{self, Limited, Works},
        config::RunSettings,
    };

    const SELINUX: &str = "system_u:system_r:container_t:s0:c1,c2\0";

    #[test]
    fn labels_are_read() {
        let selinux = |domain: &str, is_permissive| Confinement::SeLinux {
            domain: domain.to_owned(),
            is_permissive,
        };
        let profile = || Confinement::AppArmor {
            profile: "cri-containerd.apparmor.d".to_owned(),
        };
        for (label, enforce, expected) in [
            ("", "", Confinement::None),
            ("unconfined\n", "", Confinement::None),
            ("kernel\0", "", Confinement::None),
            ("cri-containerd.apparmor.d (enforce)\n", "", profile()),
            ("a:b:c:d (complain)\n", "", Confinement::None),
            (SELINUX, "", selinux("container_t", false)),
            (SELINUX, "0", selinux("container_t", true)),
            ("system_u:system_r:spc_t:s0", "1", selinux("spc_t", false)),
        ] {
            assert_eq!(Confinement::parse(label, enforce), expected, "{label:?}");
        }
    }

    #[test]
    fn only_what_was_refused_is_put_down_to_the_confinement() {
        let works = Ok(Trial {
            memory_bytes: 1,
            rate: 250,
            programs: Vec::new(),
        });
        let refused = Err(KernelRefusal {
            reason: "creating a map".to_owned(),
            error: Some(libc::EACCES),
        });
        let usable = PinFolderState::Free;
        let unusable = PinFolderState::Unusable("Permission denied".to_owned());
        let apparmor = "cri-containerd.apparmor.d (enforce)\n";
        let unconfined = "system_u:system_r:spc_t:s0\0";
        let cases: [(&str, _, _, CheckVerdict, &str); 7] = [
            ("", &refused, &unusable, Works, "neither"),
            (apparmor, &works, &usable, Works, "permits what was tried"),
            (apparmor, &works, &unusable, Limited, "give --bpffs"),
            (SELINUX, &works, &usable, Works, "permits what was tried"),
            (SELINUX, &refused, &usable, Limited, "{type: spc_t}"),
            (SELINUX, &works, &unusable, Limited, "{type: spc_t}"),
            (unconfined, &refused, &unusable, Works, "spc_t"),
        ];
        let request = CheckRequest::from(RunSettings::default());
        for (label, trial, pin_folder, verdict, words) in cases {
            let parsed = Confinement::parse(label, "");
            let finding = confinement(&parsed, trial, pin_folder, &request);
            assert_eq!(finding.verdict, verdict, "{label:?}: {finding}");
            assert!(finding.text.contains(words), "{label:?}: {finding}");
        }
    }
}
