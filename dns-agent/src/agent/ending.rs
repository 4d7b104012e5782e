//! Whether an agent that is told to end is replaced by another or taken away.

use kube::Client;
use tracing::info;

use crate::{
    cluster::Key,
    datapath::{Ending, Persistence},
    source::kubernetes::DaemonSet,
};

/// What decides how the kernel plane ends.
#[derive(Debug)]
pub(super) enum Ends {
    /// Always so.
    Always(Ending),
    /// With this DaemonSet hooks stay, and without it they go.
    With(DaemonSet),
}

impl Ends {
    pub(super) fn new(
        persistence: Persistence,
        client: Option<Client>,
        daemon_set: Option<Key>,
    ) -> Ends {
        match (persistence, client, daemon_set) {
            (Persistence::None, ..) => Ends::Always(Ending::Detached),
            (Persistence::Pinned, Some(client), Some(key)) => {
                Ends::With(DaemonSet::new(client, key))
            }
            (Persistence::Pinned, ..) => Ends::Always(Ending::Left),
        }
    }

    /// How to end when something went wrong: nobody has taken the agent away.
    pub(super) fn by_mistake(&self) -> Ending {
        match self {
            Ends::Always(ending) => *ending,
            Ends::With(..) => Ending::Left,
        }
    }

    /// How to end when told to.
    pub(super) async fn by_order(&self) -> Ending {
        let daemon_set = match self {
            Ends::Always(ending) => return *ending,
            Ends::With(daemon_set) => daemon_set,
        };
        match daemon_set.why_taken_away().await {
            Some(reason) => {
                info!("{reason}: hooks are taken off");
                Ending::Detached
            }
            None => {
                info!("hooks are left to the next agent");
                Ending::Left
            }
        }
    }
}
