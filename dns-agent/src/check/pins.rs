//! The finding about the folder for pins.

use zerohop_datapath::{Persistence, pins::PinFolderState};

use super::{CheckRequest, Finding};

pub(super) fn pins(pin_folder: &PinFolderState, request: &CheckRequest) -> Finding {
    let bpffs = request.bpffs.display();
    match (pin_folder, request.persistence) {
        (PinFolderState::Free, _) => Finding::works(
            "bpffs",
            format!("{bpffs} can hold pins, and no agent holds the hooks"),
        ),
        (PinFolderState::Held, _) => Finding::works(
            "bpffs",
            format!(
                "{bpffs} can hold pins. An agent is running here and holds the hooks; another agent would wait until it ends"
            ),
        ),
        (PinFolderState::Unusable(reason), Persistence::None) => Finding::works(
            "bpffs",
            format!(
                "needed only with --persist, and to keep a second agent from attaching: {reason}"
            ),
        ),
        (PinFolderState::Unusable(reason), Persistence::Pinned) => Finding::limited(
            "bpffs",
            format!(
                "hooks won't outlive the agent, so the cluster's DNS answers while an agent is replaced: {reason}"
            ),
        ),
    }
}
