//! The finding about the folder for pins.

use zerohop_datapath::{Persistence, pins::PinFolderState};

use super::{CheckRequest, Finding};

pub(super) fn pins(pin_folder: &PinFolderState, request: &CheckRequest) -> Finding {
    let bpffs = request.bpffs.display();
    match (pin_folder, request.persistence) {
        (PinFolderState::Free, _) => Finding::works(
            "bpffs",
            format!("hooks can be pinned in {bpffs}, and no agent holds the hooks"),
        ),
        (PinFolderState::Held, _) => Finding::works(
            "bpffs",
            format!(
                "hooks can be pinned in {bpffs}. An agent is running here and holds the hooks; \
                 another agent would wait until that agent ends"
            ),
        ),
        (PinFolderState::Unusable(reason), Persistence::UntilAgentStops) => Finding::works(
            "bpffs",
            format!(
                "hooks can't be pinned, but pins are needed only with --persist, and to keep a \
                 second agent from attaching: {reason}"
            ),
        ),
        (PinFolderState::Unusable(reason), Persistence::Pinned) => Finding::limited(
            "bpffs",
            format!(
                "hooks can't be pinned, so they won't outlive the agent, and CoreDNS answers \
                 while an agent is replaced: {reason}"
            ),
        ),
    }
}
