//! What the writer knows of the Kubernetes API: what is to be read there, and whether that is still right.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Because, Trust};
use crate::{
    cluster::{Feed, Key, ZoneSettings},
    config::{Kubernetes, Serves},
    resolver::Servers,
    source::kubernetes::Health,
};

/// How long CoreDNS may go on with a Corefile that was changed: the kubelet takes up to a minute and
/// a half to bring it into the pods, and CoreDNS's `reload` looks for it every 30 seconds, give or take
/// half of that.
const RELOAD: Duration = Duration::from_secs(150);

/// What the writer knows of the Kubernetes API.
pub(super) struct Api {
    pub(super) dns_service: Key,
    pub(super) serves: Serves,
    max_age: Option<Duration>,
    /// Where the resolver asks, if it was not told.
    pub(super) cluster_dns: Option<Servers>,
    pub(super) health: Vec<Arc<Health>>,
    pub(super) feeds: BTreeSet<Feed>,
    /// Feeds whose first list is still to come.
    pub(super) awaited: BTreeSet<Feed>,
    in_force: Option<InForce>,
}

/// What the operator and CoreDNS want, for the time being.
struct InForce {
    settings: ZoneSettings,
    /// When CoreDNS has surely read the same Corefile.
    settled: Instant,
}

/// Whether a plan says the same as the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// It does, or it is the first.
    Same,
    /// It does not.
    Other,
}

impl Api {
    /// One of which nothing is known yet.
    pub(super) fn new(kubernetes: &Kubernetes, cluster_dns: Servers) -> Api {
        Api {
            dns_service: kubernetes.dns_service.clone(),
            serves: kubernetes.serves,
            max_age: kubernetes.max_age,
            cluster_dns: kubernetes.cluster_dns.is_empty().then_some(cluster_dns),
            health: Vec::new(),
            feeds: BTreeSet::new(),
            awaited: BTreeSet::new(),
            in_force: None,
        }
    }

    /// Follows what is wanted from now on, which somebody may have changed then: other settings, or other
    /// objects from other feeds.
    pub(super) fn follow(
        &mut self,
        settings: &ZoneSettings,
        changed: Option<SystemTime>,
        feeds: Option<&BTreeSet<Feed>>,
    ) -> Followed {
        let now = Instant::now();
        let (followed, settled) = match &self.in_force {
            None => (Followed::Same, now + unsettled(changed)),
            Some(before) if before.settings == *settings && feeds.is_none() => {
                (Followed::Same, before.settled)
            }
            Some(_) => (Followed::Other, now + RELOAD),
        };
        self.in_force = Some(InForce {
            settings: settings.clone(),
            settled,
        });
        followed
    }

    /// Whether what was read, all of it, is still right.
    pub(super) fn trusted(&self) -> Trust {
        let settled = self.in_force.as_ref().map(|it| it.settled);
        if let Some(settled) = settled.filter(|settled| Instant::now() < *settled) {
            return Trust::Stale(Because::Unsettled { settled });
        }
        let Some(max_age) = self.max_age else {
            return Trust::Current;
        };
        let is_fresh = |health: &Arc<Health>| health.age().is_some_and(|age| age <= max_age);
        match self.health.iter().all(is_fresh) {
            true => Trust::Current,
            false => Trust::Stale(Because::Silence),
        }
    }
}

/// How long CoreDNS may go on without a change that was made before this agent. Clocks that differ make
/// it longer or shorter, but never longer than after a change that was seen.
fn unsettled(changed: Option<SystemTime>) -> Duration {
    let since = changed.map(|changed| changed.elapsed().unwrap_or_default());
    since.map_or(Duration::ZERO, |since| RELOAD.saturating_sub(since))
}
