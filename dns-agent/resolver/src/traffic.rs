//! Counts what CoreDNS's metrics count: replies to clients by their labels, the cache, and queries
//! to upstreams. `docs/metrics.md` has the metrics.
//!
//! Nothing here is keyed by what packets contain, so the memory is bounded. A reply to a client
//! costs a few additions in fixed arrays ([`queries`]), without a lock. Queries to upstreams cost a
//! system call anyway, so their counters are behind a lock ([`upstreams`]).

mod cache_entries;
mod histogram;
mod queries;
mod rcodes;
mod upstreams;
mod writers;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use self::queries::ServerTraffic;
pub use self::{
    cache_entries::{CacheEntryKind, CacheTrafficCounts},
    histogram::HistogramCounts,
    queries::{AddressFamily, DnsServerCounts, ReplySource, TrafficZone},
    upstreams::{ConnectionProtocol, UpstreamCounts},
};
pub(super) use self::{
    cache_entries::{CacheTraffic, CountedEntry},
    queries::{QueryLabels, TaskTally, UdpTally},
    upstreams::{ConnectionOrigin, UpstreamTraffic},
};

/// The counters behind CoreDNS's metrics.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// By listening address, in the order in which the servers were started.
    servers: Mutex<Vec<(SocketAddr, Arc<ServerTraffic>)>>,
    pub(super) upstreams: UpstreamTraffic,
    pub(super) cache: Arc<CacheTraffic>,
    /// Questions for which all servers were down.
    pub(super) all_down: AtomicU64,
}

/// A snapshot of the counters behind CoreDNS's metrics.
#[derive(Clone, Debug, Default)]
pub struct TrafficCounts {
    /// The listening addresses, in the order of the configuration.
    pub servers: Vec<DnsServerCounts>,
    /// The upstreams that are configured, or that were used within the last hour.
    pub upstreams: Vec<UpstreamCounts>,
    /// The cache.
    pub cache: CacheTrafficCounts,
    /// Questions for which all servers were down, so that one of them was asked nevertheless.
    pub all_down: u64,
}

impl Traffic {
    /// Counters for the replies of a server that listens on this address: those of each task that
    /// receives over UDP, and those of all its other tasks.
    pub(super) fn add_server(
        &self,
        address: SocketAddr,
        udp_tasks: usize,
    ) -> (Vec<UdpTally>, TaskTally) {
        let server = Arc::new(ServerTraffic::new(udp_tasks));
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.push((address, server.clone()));
        let udp = (0..udp_tasks).map(|task| UdpTally::new(server.clone(), task));
        (udp.collect(), TaskTally::new(server))
    }

    /// A snapshot of the counters.
    pub(super) fn snapshot(&self) -> TrafficCounts {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        TrafficCounts {
            servers: servers
                .iter()
                .map(|(address, server)| server.snapshot(*address))
                .collect(),
            upstreams: self.upstreams.snapshot(),
            cache: self.cache.snapshot(),
            all_down: self.all_down.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
