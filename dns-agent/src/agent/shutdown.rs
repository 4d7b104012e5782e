//! Shutdown: whether hooks stay for the next agent, or go with the agent.

use tracing::info;
use zerohop_datapath::{Persistence, StopMode};
use zerohop_kubernetes::ObjectKey;
use zerohop_kubernetes_api::{Client, DaemonSet};

/// Decides whether the hooks stay when the agent ends.
#[derive(Debug)]
pub(super) enum ShutdownPolicy {
    /// The same in every case.
    Always(StopMode),
    /// Hooks stay as long as this DaemonSet exists, and are removed when it is gone.
    WhileExists(DaemonSet),
}

impl ShutdownPolicy {
    pub(super) fn new(
        persistence: Persistence,
        client: Option<Client>,
        daemon_set: Option<ObjectKey>,
    ) -> ShutdownPolicy {
        match (persistence, client, daemon_set) {
            (Persistence::None, ..) => ShutdownPolicy::Always(StopMode::Detach),
            (Persistence::Pinned, Some(client), Some(key)) => {
                ShutdownPolicy::WhileExists(DaemonSet::new(client, key))
            }
            (Persistence::Pinned, ..) => ShutdownPolicy::Always(StopMode::KeepHooks),
        }
    }

    /// The ending after a failure: hooks stay, because the agent will be started again.
    pub(super) fn ending_after_failure(&self) -> StopMode {
        match self {
            ShutdownPolicy::Always(ending) => *ending,
            ShutdownPolicy::WhileExists(..) => StopMode::KeepHooks,
        }
    }

    /// The ending when a signal asked for it.
    pub(super) async fn ending_on_request(&self) -> StopMode {
        let daemon_set = match self {
            ShutdownPolicy::Always(ending) => return *ending,
            ShutdownPolicy::WhileExists(daemon_set) => daemon_set,
        };
        match daemon_set.removal_reason().await {
            Some(reason) => {
                info!("{reason}: removing the hooks");
                StopMode::Detach
            }
            None => {
                info!("leaving the hooks for the next agent");
                StopMode::KeepHooks
            }
        }
    }
}
