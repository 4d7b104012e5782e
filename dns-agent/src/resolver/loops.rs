//! Upstreams that ask this resolver in turn.
//!
//! As CoreDNS's `loop` does, each upstream is asked for a name that nobody can guess. When that name is
//! asked of this resolver, the upstream has handed the question back. The probes go out at the start,
//! and again while upstreams don't answer, which every loop comes to. Only a message to the operator
//! follows: a loop costs one question anyway ([`super::forward`]), and so a client that learnt the name
//! could do no harm with it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Resolver,
    forward::{TIMEOUT, ask_by_datagram},
    response::UpstreamQuery,
};
use crate::zone::Name;

/// How often it is looked whether there is a reason to ask again.
const INTERVAL: Duration = Duration::from_secs(10);
/// Below this no name exists (RFC 6761 section 6.4), so that a probe that doesn't come back bothers
/// no other server's data.
const PARENT: &str = "zerohop-loop.invalid";

/// The name that is asked for at the moment, and whether it came back.
#[derive(Debug, Default)]
pub(super) struct Probe {
    name: Mutex<Option<Name>>,
    came_back: AtomicBool,
    noticed: Notify,
}

impl Probe {
    /// Whether a client asks for the name: then the question has gone round.
    pub(super) fn is(&self, name: &Name) -> bool {
        let expected = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = expected.as_ref() == Some(name);
        if is_it {
            self.came_back.store(true, Relaxed);
            self.noticed.notify_one();
        }
        is_it
    }

    /// Waits until it came back.
    async fn back(&self) {
        while !self.came_back.load(Relaxed) {
            // It may have been told of an earlier one.
            self.noticed.notified().await;
        }
    }

    fn expect(&self, name: Option<Name>) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.came_back.store(false, Relaxed);
    }
}

impl Resolver {
    /// Looks for upstreams that ask this resolver in turn, and shows them, until dropped.
    pub async fn watch_for_loops(&self, mut show: impl FnMut(&[SocketAddr])) -> Infallible {
        let mut known = Vec::new();
        loop {
            let unanswered = self.counters.read().upstream_timeouts;
            let servers = self.upstreams.for_outside_names();
            let excluded = self.upstreams.excluded();
            let mut looping = excluded.clone();
            for &server in &servers {
                if self.leads_back(server).await {
                    looping.push(server);
                }
            }
            if looping != known {
                report(&looping);
                show(&looping);
                known = looping;
            }
            loop {
                sleep(INTERVAL).await;
                let is_quiet = self.counters.read().upstream_timeouts == unanswered
                    && self.upstreams.for_outside_names() == servers
                    && self.upstreams.excluded() == excluded;
                if !is_quiet || !known.is_empty() {
                    break;
                }
            }
        }
    }

    /// Whether an upstream hands questions back to this resolver.
    async fn leads_back(&self, server: SocketAddr) -> bool {
        let label = format!("{:032x}", rand::random::<u128>());
        let Ok(name) = Name::parse(&format!("{label}.{PARENT}")) else {
            return false;
        };
        let query = UpstreamQuery::probing(&name);
        self.probe.expect(Some(name));
        let answered = async {
            let asked = timeout(TIMEOUT, ask_by_datagram(server, &query)).await;
            drop(asked);
        };
        tokio::select! {
            () = answered => {}
            () = self.probe.back() => {}
        }
        let leads_back = self.probe.came_back.load(Relaxed);
        self.probe.expect(None);
        leads_back
    }
}

fn report(looping: &[SocketAddr]) {
    if looping.is_empty() {
        info!("no upstream asks this agent in turn any more");
    }
    for server in looping {
        warn!("{}", describe(*server));
    }
}

/// What an upstream that leads back means for the names that it is asked for.
pub fn describe(server: SocketAddr) -> String {
    format!(
        "the upstream {server} asks this agent in turn: names that are looked up through it get no answer; give --upstream or --cluster-dns a server that doesn't forward to this agent"
    )
}
