//! Shutdown: whether the hooks stay for the next agent, or are detached.

use tracing::info;
use zerohop_datapath::{Persistence, StopMode};
use zerohop_kubernetes::ObjectKey;
use zerohop_kubernetes_api::{Client, DaemonSet};

/// Decides whether the hooks stay when the agent ends.
#[derive(Debug)]
pub(super) enum ShutdownPolicy {
    /// The kernel plane always stops in this mode.
    Always(StopMode),
    /// At a requested shutdown, hooks are detached if this DaemonSet is gone, is being deleted or
    /// may not be read any more, and stay otherwise. After a failure they always stay.
    WhileExists(DaemonSet),
}

impl ShutdownPolicy {
    pub(super) fn new(
        persistence: Persistence,
        client: Option<Client>,
        daemon_set: Option<ObjectKey>,
    ) -> ShutdownPolicy {
        match (persistence, client, daemon_set) {
            (Persistence::UntilAgentStops, ..) => ShutdownPolicy::Always(StopMode::Detach),
            (Persistence::Pinned, Some(client), Some(key)) => {
                ShutdownPolicy::WhileExists(DaemonSet::new(client, key))
            }
            (Persistence::Pinned, _, _) => ShutdownPolicy::Always(StopMode::KeepHooks),
        }
    }

    /// The stop mode after a task has failed: pinned hooks stay, because the agent will be started
    /// again.
    pub(super) fn stop_mode_after_failure(&self) -> StopMode {
        match self {
            ShutdownPolicy::Always(stop_mode) => *stop_mode,
            ShutdownPolicy::WhileExists(_) => StopMode::KeepHooks,
        }
    }

    /// The stop mode after a requested shutdown, such as by a signal.
    pub(super) async fn stop_mode_on_request(&self) -> StopMode {
        let daemon_set = match self {
            ShutdownPolicy::Always(stop_mode) => return *stop_mode,
            ShutdownPolicy::WhileExists(daemon_set) => daemon_set,
        };
        match daemon_set.removal_reason().await {
            Some(reason) => {
                info!("{reason}: the hooks are removed, and CoreDNS answers all queries");
                StopMode::Detach
            }
            None => {
                info!("pinned hooks stay for the next agent, and answer until their lease ends");
                StopMode::KeepHooks
            }
        }
    }
}
