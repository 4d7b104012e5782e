//! Failures of upstreams (RFC 9520).

use std::time::Duration;

use domain::base::iana::OptRcode;
use quick_cache::{Weighter, sync::Cache};
use tokio::time::Instant;

use super::{CacheKey, ENTRY_OVERHEAD};

/// How long the first failure of a question is kept. RFC 9520 section 3.2 asks for at least 1 s.
const FIRST_LIFE: Duration = Duration::from_secs(1);
/// How long a repeated failure is kept at most. CoreDNS keeps each for 5 s.
const MAX_LIFE: Duration = Duration::from_secs(5);
/// A failure this long after the end of the last one counts as the first again.
const MEMORY: Duration = Duration::from_secs(30);

/// How long after a failure a stale reply is used without asking upstreams (RFC 8767 section 5).
const STALE_RECHECK: Duration = Duration::from_secs(30);

/// The questions that upstreams have just failed to answer.
pub(super) struct FailureCache {
    failures: Cache<CacheKey, CachedFailure, FailureWeighter>,
}

#[derive(Clone, Copy)]
struct CachedFailure {
    rcode: OptRcode,
    since: Instant,
    until: Instant,
    life: Duration,
}

#[derive(Clone)]
struct FailureWeighter;

impl FailureCache {
    /// `capacity` is in bytes.
    pub(super) fn new(capacity: u64) -> FailureCache {
        let count = capacity / ENTRY_OVERHEAD;
        FailureCache {
            failures: Cache::with_weighter(count as usize, capacity, FailureWeighter),
        }
    }

    /// The response code of the last failure, unless it is too long ago.
    pub(super) fn find(&self, key: &CacheKey, now: Instant) -> Option<OptRcode> {
        let failure = self.failures.get(key)?;
        (now < failure.until).then_some(failure.rcode)
    }

    /// Whether a stale reply is used without asking upstreams.
    pub(super) fn is_recent(&self, key: &CacheKey, now: Instant) -> bool {
        let failure = self.failures.get(key);
        failure.is_some_and(|failure| now < failure.since + STALE_RECHECK)
    }

    /// Stores a failure. Each repetition is kept for twice as long as the one before. While one is
    /// kept, another is none: each client that waited for it reports it.
    pub(super) fn store(&self, key: &CacheKey, rcode: OptRcode, now: Instant) {
        let before = self.failures.get(key);
        if before.is_some_and(|failure| now < failure.until) {
            return;
        }
        let before = before.filter(|failure| now < failure.until + MEMORY);
        let life = before.map_or(FIRST_LIFE, |failure| (failure.life * 2).min(MAX_LIFE));
        let until = now + life;
        let failure = CachedFailure {
            rcode,
            since: now,
            until,
            life,
        };
        self.failures.insert(key.clone(), failure);
    }

    pub(super) fn clear(&self) {
        self.failures.clear();
    }

    pub(super) fn forget(&self, key: &CacheKey) {
        self.failures.remove(key);
    }
}

impl Weighter<CacheKey, CachedFailure> for FailureWeighter {
    fn weight(&self, key: &CacheKey, _: &CachedFailure) -> u64 {
        key.weight() + ENTRY_OVERHEAD
    }
}
