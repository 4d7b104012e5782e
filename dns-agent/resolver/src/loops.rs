//! Finds upstreams that forward queries back to this resolver.
//!
//! Like CoreDNS's `loop` plugin, the resolver sends a query for a random name to each upstream that
//! serves names outside the cluster. If this resolver then receives a query for that name, the
//! upstream has forwarded it back. Probes are sent at the start, after upstream timeouts (every
//! loop causes timeouts), after a change of the upstreams, and repeatedly while a loop is known.
//!
//! A detected loop is reported to the operator, and a group of servers that leads back isn't used
//! ([`super::live_routes`]). Nothing more is done, because [`super::forward`] ends each loop.
//! Therefore a client that learns the probe's name can only cause a wrong report.

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
use zerohop_zone::Name;

use super::{Resolver, response::UpstreamQuery, upstream::send_probe};

/// How long to wait for a probe to return.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Interval between checks whether to probe again.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The parent of probe names. Names below `invalid` never exist (RFC 6761 section 6.4), so a probe
/// gets no data from other servers.
const PROBE_PARENT: &str = "zerohop-loop.invalid";

/// The name of the current probe, and whether the probe has returned.
#[derive(Debug, Default)]
pub(super) struct LoopProbe {
    /// `None` while no probe is in flight.
    name: Mutex<Option<Name>>,
    has_returned: AtomicBool,
    returned: Notify,
    /// Held while a server is probed.
    turn: tokio::sync::Mutex<()>,
}

/// Whether a loop probe asks for this name, that of this agent or of another one.
pub(super) fn is_probe_name(name: &Name) -> bool {
    let parent = PROBE_PARENT.split('.').map(str::as_bytes);
    name.labels().skip(1).eq(parent)
}

impl LoopProbe {
    /// Whether `name` is the current probe's name. If so, records that the probe has returned.
    pub(super) fn detect(&self, name: &Name) -> bool {
        let expected = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let is_probe = expected.as_ref() == Some(name);
        if is_probe {
            self.has_returned.store(true, Relaxed);
            self.returned.notify_one();
        }
        is_probe
    }

    /// Waits until the probe has returned.
    async fn wait_for_return(&self) {
        while !self.has_returned.load(Relaxed) {
            // The notification may be for an earlier probe.
            self.returned.notified().await;
        }
    }

    /// Starts a probe for `name`, or ends the probe if `name` is `None`.
    fn set_name(&self, name: Option<Name>) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.has_returned.store(false, Relaxed);
    }
}

impl Resolver {
    /// Probes for upstreams that forward queries back to this resolver, until dropped. Calls
    /// `publish` after each change, with these upstreams and with the servers of the cluster's DNS
    /// that are addresses of this resolver.
    pub async fn watch_for_loops(&self, mut publish: impl FnMut(&[SocketAddr])) -> Infallible {
        let mut known = Vec::new();
        loop {
            let timeouts = self.counters.snapshot().upstream_timeouts;
            let servers = self.upstreams.servers_to_probe();
            let excluded = self.upstreams.excluded_cluster_servers();
            // The cluster's DNS at an address of this resolver needs no probe: it is a loop.
            let mut looping = excluded.clone();
            for &server in &servers {
                if self.leads_back(server).await {
                    looping.push(server);
                }
            }
            if looping != known {
                log_loops(&looping);
                publish(&looping);
                known = looping;
            }
            loop {
                sleep(CHECK_INTERVAL).await;
                let is_changed = self.counters.snapshot().upstream_timeouts != timeouts
                    || self.upstreams.servers_to_probe() != servers
                    || self.upstreams.excluded_cluster_servers() != excluded;
                let has_loops = !known.is_empty();
                if is_changed || has_loops {
                    break;
                }
            }
        }
    }

    /// Probes whether an upstream forwards queries back to this resolver.
    pub(super) async fn leads_back(&self, server: SocketAddr) -> bool {
        let _turn = self.probe.turn.lock().await;
        let label = format!("{:032x}", rand::random::<u128>());
        // The name is well-formed, so parsing can't fail.
        let Ok(name) = Name::parse(&format!("{label}.{PROBE_PARENT}")) else {
            return false;
        };
        let query = UpstreamQuery::probing(&name);
        self.probe.set_name(Some(name));
        let exchange = timeout(PROBE_LIMIT, send_probe(server, &query));
        tokio::select! {
            // Any response or failure ends the probe.
            _ = exchange => {}
            () = self.probe.wait_for_return() => {}
        }
        let leads_back = self.probe.has_returned.load(Relaxed);
        self.probe.set_name(None);
        leads_back
    }
}

fn log_loops(looping: &[SocketAddr]) {
    if looping.is_empty() {
        info!("no upstream leads back to this agent any more");
    }
    for server in looping {
        warn!("{}", describe_loop(*server));
    }
}

/// Describes an upstream that forwards back to this resolver, or is this resolver, for the
/// operator.
pub fn describe_loop(server: SocketAddr) -> String {
    format!(
        "the upstream {server} leads back to this agent: \
         names resolved through it get no answer; \
         give --upstream or --cluster-dns a server that doesn't forward to this agent"
    )
}
