//! Where hooks are pinned.

use super::{Asked, Finding};
use crate::datapath::{Persistence, pins::Place};

pub(super) fn pins(place: &Place, asked: &Asked) -> Finding {
    let bpffs = asked.bpffs.display();
    match (place, asked.persistence) {
        (Place::Free, _) => Finding::works(
            "bpffs",
            format!("{bpffs} can hold pins, and no agent has the hooks"),
        ),
        (Place::Held, _) => Finding::works(
            "bpffs",
            format!(
                "{bpffs} can hold pins. An agent is running here and has the hooks; another one would wait for its end"
            ),
        ),
        (Place::Unusable(reason), Persistence::None) => Finding::works(
            "bpffs",
            format!("needed only with --persist, and to keep a second agent off: {reason}"),
        ),
        (Place::Unusable(reason), Persistence::Pinned) => Finding::limited(
            "bpffs",
            format!(
                "hooks won't stay over a stop, so the cluster's DNS answers while an agent is replaced: {reason}"
            ),
        ),
    }
}
