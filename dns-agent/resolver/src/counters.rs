//! Counts the resolver's messages since it started.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use domain::base::iana::Rcode;
use serde::{Deserialize, Serialize};

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
    pub(super) upstream_timeouts: AtomicU64,
    pub(super) upstream_errors: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) connections_refused: AtomicU64,
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
    /// Attempts to query an upstream that timed out.
    pub upstream_timeouts: u64,
    /// Attempts to query an upstream that failed with a network error.
    pub upstream_errors: u64,
    /// Queries answered with SERVFAIL because too many client queries waited for a response, or too
    /// many upstream queries were in flight.
    pub overloaded: u64,
    /// TCP connections closed at once because too many were open.
    pub connections_refused: u64,
}

impl ResolverCounters {
    /// Counts a reply by the response code in its header.
    pub(super) fn count_reply(&self, message: &[u8]) {
        if let Some(flags) = message.get(3) {
            self.replies[usize::from(flags & 0x0f)].fetch_add(1, Relaxed);
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
        ResolverCounts {
            replies,
            udp_queries: self.udp_queries.load(Relaxed),
            tcp_queries: self.tcp_queries.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            upstream_timeouts: self.upstream_timeouts.load(Relaxed),
            upstream_errors: self.upstream_errors.load(Relaxed),
            overloaded: self.overloaded.load(Relaxed),
            connections_refused: self.connections_refused.load(Relaxed),
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
            self.forwarded, self.upstream_timeouts, self.upstream_errors, self.overloaded
        )?;
        writeln!(f, "refused    {} connections", self.connections_refused)
    }
}
