//! The cache as CoreDNS's metrics see it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The kinds of entries that CoreDNS's metrics distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheEntryKind {
    /// A reply with records in its answer section.
    Success,
    /// NXDOMAIN, a reply without records in its answer section, or a failure.
    Denial,
}

impl CacheEntryKind {
    /// Both kinds.
    pub const ALL: [CacheEntryKind; 2] = [CacheEntryKind::Success, CacheEntryKind::Denial];

    /// The kind of a reply with NOERROR or NXDOMAIN.
    pub(in super::super) fn of(message: &[u8]) -> CacheEntryKind {
        // The low four bits of the flags are the response code, and ANCOUNT follows QDCOUNT.
        const NXDOMAIN: u8 = 3;
        match message {
            [_, _, _, flags, _, _, high, low, ..]
                if flags & 0xf != NXDOMAIN && (*high, *low) != (0, 0) =>
            {
                CacheEntryKind::Success
            }
            _ => CacheEntryKind::Denial,
        }
    }
}

/// Counters of the cache, by [`CacheEntryKind`].
#[derive(Debug, Default)]
pub(in super::super) struct CacheTraffic {
    entries: [AtomicU64; 2],
    hits: [AtomicU64; 2],
    evictions: [AtomicU64; 2],
    /// In bytes.
    capacity: AtomicU64,
}

/// A snapshot of the cache's counters. Each array has the order of [`CacheEntryKind::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheTrafficCounts {
    /// The replies in the cache now.
    pub entries: [u64; 2],
    /// Queries answered from the cache without a wait for upstreams.
    pub hits: [u64; 2],
    /// Replies that left the cache because others needed the room.
    pub evictions: [u64; 2],
    /// The memory for replies and failures, in bytes. 0: nothing is cached.
    pub capacity: u64,
}

/// Counts a reply as an entry of the cache until dropped.
#[derive(Debug)]
pub(in super::super) struct CountedEntry {
    counts: Arc<CacheTraffic>,
    kind: CacheEntryKind,
}

impl CountedEntry {
    pub(in super::super) fn new(counts: Arc<CacheTraffic>, kind: CacheEntryKind) -> CountedEntry {
        counts.entries[kind as usize].fetch_add(1, Relaxed);
        CountedEntry { counts, kind }
    }
}

impl Drop for CountedEntry {
    fn drop(&mut self) {
        self.counts.entries[self.kind as usize].fetch_sub(1, Relaxed);
    }
}

impl CacheTraffic {
    pub(in super::super) fn set_capacity(&self, bytes: u64) {
        self.capacity.store(bytes, Relaxed);
    }

    pub(in super::super) fn count_hit(&self, kind: CacheEntryKind) {
        self.hits[kind as usize].fetch_add(1, Relaxed);
    }

    pub(in super::super) fn count_eviction(&self, kind: CacheEntryKind) {
        self.evictions[kind as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn snapshot(&self) -> CacheTrafficCounts {
        let read = |counters: &[AtomicU64; 2]| [0, 1].map(|index| counters[index].load(Relaxed));
        CacheTrafficCounts {
            entries: read(&self.entries),
            hits: read(&self.hits),
            evictions: read(&self.evictions),
            capacity: self.capacity.load(Relaxed),
        }
    }
}
