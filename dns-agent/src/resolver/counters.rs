//! What the resolver has done since it started.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use domain::base::iana::Rcode;
use serde::{Deserialize, Serialize};

/// Response codes that fit the header: four bits.
const RCODES: usize = 16;

/// Counts of events, each only ever growing.
#[derive(Debug, Default)]
pub struct Counters {
    replies: [AtomicU64; RCODES],
    /// Queries that came as datagrams.
    pub(super) udp_queries: AtomicU64,
    /// Queries that came over a connection.
    pub(super) tcp_queries: AtomicU64,
    /// Messages that were no query and got no reply.
    pub(super) ignored: AtomicU64,
    /// Queries sent on to an upstream, aliases' targets included.
    pub(super) forwarded: AtomicU64,
    /// Upstreams that did not answer in time.
    pub(super) upstream_timeouts: AtomicU64,
    /// Upstreams that could not be spoken to.
    pub(super) upstream_errors: AtomicU64,
    /// Queries answered with SERVFAIL because too many waited for an upstream.
    pub(super) overloaded: AtomicU64,
    /// Connections closed at once because too many were open.
    pub(super) connections_refused: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Replies sent, by the header's response code (RFC 1035 section 4.1.1).
    /// An extended code shows as its lower four bits: BADVERS as NOERROR.
    pub replies: BTreeMap<String, u64>,
    /// Queries that came as datagrams.
    pub udp_queries: u64,
    /// Queries that came over a connection.
    pub tcp_queries: u64,
    /// Messages that were no query and got no reply.
    pub ignored: u64,
    /// Queries sent on to an upstream, aliases' targets included.
    pub forwarded: u64,
    /// Upstreams that did not answer in time.
    pub upstream_timeouts: u64,
    /// Upstreams that could not be spoken to.
    pub upstream_errors: u64,
    /// Queries answered with SERVFAIL because too many waited for an upstream.
    pub overloaded: u64,
    /// Connections closed at once because too many were open.
    pub connections_refused: u64,
}

impl Counters {
    /// Counts a reply by the response code in its header.
    pub(super) fn reply(&self, message: &[u8]) {
        if let Some(flags) = message.get(3) {
            self.replies[usize::from(flags & 0x0f)].fetch_add(1, Relaxed);
        }
    }

    /// The counts now; response codes never given are left out.
    pub fn read(&self) -> Counts {
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
        Counts {
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

/// Adds one.
pub(super) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
