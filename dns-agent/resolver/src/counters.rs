//! Counts the resolver's messages since it started.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use domain::base::iana::Rcode;
use serde::{Deserialize, Serialize};

use super::traffic::{CacheEntryKind, Traffic, TrafficCounts};

/// Upper bound on the servers whose losses are counted. The cluster's DNS may have new addresses
/// again and again.
const MAX_SERVERS: usize = 64;
/// Number of response codes that fit the header's four bits.
const RCODES: usize = 16;

/// Counters that all tasks of the resolver increment. They never decrease.
#[derive(Debug, Default)]
pub struct ResolverCounters {
    replies: [AtomicU64; RCODES],
    pub(super) udp_queries: AtomicU64,
    pub(super) tcp_queries: AtomicU64,
    pub(super) ignored: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) upstream_errors: AtomicU64,
    pub(super) upstream_udp_attempts: AtomicU64,
    pub(super) upstream_tcp_attempts: AtomicU64,
    pub(super) upstream_hedges: AtomicU64,
    pub(super) upstream_tcp_fallbacks: AtomicU64,
    pub(super) upstream_near_misses: AtomicU64,
    /// By server.
    upstream_timeouts: Mutex<BTreeMap<SocketAddr, u64>>,
    pub(super) queries_dropped: AtomicU64,
    pub(super) replies_dropped: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) cache_refreshes: AtomicU64,
    pub(super) cached_failures: AtomicU64,
    pub(super) stale_replies: AtomicU64,
    /// The replies in the cache now.
    pub(super) cached_replies: AtomicU64,
    /// Their memory in bytes.
    pub(super) cached_bytes: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    dnstap_dropped: AtomicU64,
    pub(super) query_lines_omitted: AtomicU64,
    pub(super) traffic: Traffic,
}

/// A snapshot of the counters. They leave out the queries of the canary, and the probes for loops
/// that are sent to upstreams. A probe that an upstream sends back is counted as a query. Of
/// [`Resolver::explain_answer`](super::Resolver::explain_answer), only the upstream queries are
/// counted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolverCounts {
    /// Replies sent, by the response code in the header (RFC 1035 section 4.1.1). An extended code
    /// counts as its lower four bits, so BADVERS counts as NOERROR.
    pub replies: BTreeMap<String, u64>,
    /// Messages received over UDP, including ignored ones.
    pub udp_queries: u64,
    /// Messages received over TCP, including ignored ones.
    pub tcp_queries: u64,
    /// Received messages that were not queries and got no reply.
    pub ignored: u64,
    /// Queries sent to upstreams, including queries for targets of aliases. A query that is sent to
    /// several upstreams, or that several clients wait for, counts once.
    pub forwarded: u64,
    /// Queries to an upstream, over UDP or TLS, that were not answered in time, by the server's
    /// address. A server is left out after 64 others.
    pub upstream_timeouts: BTreeMap<String, u64>,
    /// Queries to upstreams over UDP or TLS that were rejected or could not be sent.
    pub upstream_errors: u64,
    /// Queries sent to upstreams over UDP, each repetition included.
    pub upstream_udp_attempts: u64,
    /// Queries sent to upstreams over TCP, each repetition included.
    pub upstream_tcp_attempts: u64,
    /// Queries sent to the next upstream because the one before was late.
    pub upstream_hedges: u64,
    /// Queries sent over TCP because a message over UDP could not be used.
    pub upstream_tcp_fallbacks: u64,
    /// Messages from the address of an upstream that didn't answer the query. They may be forged.
    pub upstream_near_misses: u64,
    /// Queries over UDP without a reply, because too many of the client waited for their turns.
    pub queries_dropped: u64,
    /// Replies over UDP that could not be sent, or would have had to wait.
    pub replies_dropped: u64,
    /// Queries answered with SERVFAIL because too many client queries waited for a response, or too
    /// many upstream queries were in flight.
    pub overloaded: u64,
    /// Queries answered from the cache.
    pub cache_hits: u64,
    /// Queries forwarded to upstreams, because the cache had no reply for them.
    pub cache_misses: u64,
    /// Names that were asked for again before their reply expired.
    pub cache_refreshes: u64,
    /// Queries answered with an error because upstreams had failed a moment before.
    pub cached_failures: u64,
    /// Queries answered with expired records because upstreams were late or failed.
    pub stale_replies: u64,
    /// Replies in the cache, when the last one was stored.
    pub cached_replies: u64,
    /// The memory of these replies, in bytes.
    pub cached_bytes: u64,
    /// TCP connections closed at once because too many were open.
    pub connections_refused: u64,
    /// Messages that the dnstap collector didn't receive, because the queue was full or the
    /// collector went away.
    pub dnstap_dropped: u64,
    /// Lines of the query log that were left out, because there were too many in a second.
    pub query_lines_omitted: u64,
}

impl ResolverCounters {
    /// Counts a reply by the response code in its header.
    pub(super) fn count_reply(&self, message: &[u8]) {
        if let Some(flags) = message.get(3) {
            self.replies[usize::from(flags & 0x0f)].fetch_add(1, Relaxed);
        }
    }

    /// Counts a query that is answered from the cache, by the kind of the cache's entry.
    pub(super) fn count_cache_hit(&self, kind: CacheEntryKind) {
        increment(&self.cache_hits);
        self.traffic.cache.count_hit(kind);
    }

    /// Counts messages that the dnstap collector doesn't receive.
    pub(super) fn count_dnstap_dropped(&self, messages: u64) {
        self.dnstap_dropped.fetch_add(messages, Relaxed);
    }

    /// A snapshot of what CoreDNS's metrics count.
    pub fn traffic(&self) -> TrafficCounts {
        self.traffic.snapshot()
    }

    /// Counts a query to an upstream that was not answered in time.
    pub(super) fn count_loss(&self, server: SocketAddr) {
        let timeouts = self.upstream_timeouts.lock();
        let mut timeouts = timeouts.unwrap_or_else(PoisonError::into_inner);
        if timeouts.len() < MAX_SERVERS || timeouts.contains_key(&server) {
            *timeouts.entry(server).or_default() += 1;
        }
    }

    /// A snapshot of the counters. Response codes that were never sent are left out.
    pub fn snapshot(&self) -> ResolverCounts {
        let replies = (0u8..)
            .zip(&self.replies)
            .map(|(rcode, count)| {
                (
                    Rcode::masked_from_int(rcode).to_string(),
                    count.load(Relaxed),
                )
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        let timeouts = self.upstream_timeouts.lock();
        let timeouts = timeouts.unwrap_or_else(PoisonError::into_inner);
        let upstream_timeouts = timeouts
            .iter()
            .map(|(server, count)| (server.to_string(), *count))
            .collect();
        ResolverCounts {
            replies,
            udp_queries: self.udp_queries.load(Relaxed),
            tcp_queries: self.tcp_queries.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            upstream_timeouts,
            upstream_errors: self.upstream_errors.load(Relaxed),
            upstream_udp_attempts: self.upstream_udp_attempts.load(Relaxed),
            upstream_tcp_attempts: self.upstream_tcp_attempts.load(Relaxed),
            upstream_hedges: self.upstream_hedges.load(Relaxed),
            upstream_tcp_fallbacks: self.upstream_tcp_fallbacks.load(Relaxed),
            upstream_near_misses: self.upstream_near_misses.load(Relaxed),
            queries_dropped: self.queries_dropped.load(Relaxed),
            replies_dropped: self.replies_dropped.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            cache_misses: self.cache_misses.load(Relaxed),
            cache_refreshes: self.cache_refreshes.load(Relaxed),
            cached_failures: self.cached_failures.load(Relaxed),
            stale_replies: self.stale_replies.load(Relaxed),
            cached_replies: self.cached_replies.load(Relaxed),
            cached_bytes: self.cached_bytes.load(Relaxed),
            connections_refused: self.connections_refused.load(Relaxed),
            dnstap_dropped: self.dnstap_dropped.load(Relaxed),
            query_lines_omitted: self.query_lines_omitted.load(Relaxed),
        }
    }
}

/// Increments a counter.
pub(super) fn increment(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl fmt::Display for ResolverCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let describe = |counts: &BTreeMap<String, u64>| {
            let words: Vec<_> = counts
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            if words.is_empty() {
                "none".to_owned()
            } else {
                words.join(", ")
            }
        };
        writeln!(
            f,
            "queries    UDP {}, TCP {}, ignored {}",
            self.udp_queries, self.tcp_queries, self.ignored
        )?;
        writeln!(f, "replies    {}", describe(&self.replies))?;
        writeln!(
            f,
            "upstreams  queries {}, timed out {}, failed {}, too many at once {}",
            self.forwarded,
            self.upstream_timeouts.values().sum::<u64>(),
            self.upstream_errors,
            self.overloaded
        )?;
        writeln!(
            f,
            "cache      {} replies, {} bytes, hits {}, misses {}, refreshed {}, stale {}, failures {}",
            self.cached_replies,
            self.cached_bytes,
            self.cache_hits,
            self.cache_misses,
            self.cache_refreshes,
            self.stale_replies,
            self.cached_failures
        )?;
        writeln!(f, "refused    {} connections", self.connections_refused)
    }
}
