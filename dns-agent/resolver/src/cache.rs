//! The cache of upstreams' replies, and of their failures.
//!
//! A reply is kept as a message, so that a hit costs a copy. It is never one about a local name,
//! because only queries that [`Upstreams`](super::Upstreams) sends outside of the cluster are
//! cached. Replies and failures are stored apart, so that failures of many names don't replace
//! replies.

mod failures;
mod reply;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use domain::base::iana::{OptRcode, Rtype};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};
/// The time of the cache. Tests may pause it.
pub use tokio::time::Instant;
use zerohop_routes::{CacheRules, KeptAnswers, StaleMode, StaleRules};
use zerohop_zone::{Apex, Name};

use self::failures::FailureCache;
pub use self::reply::{StoredReply, TtlSource};
use super::{
    query::Query,
    traffic::{CacheTraffic, CountedEntry},
};

/// How long a negative answer is kept at most, in seconds, if neither a setting nor a route says
/// it.
const DEFAULT_MAX_NEGATIVE_TTL: u32 = 300;
/// The share of the capacity that failures may use.
const FAILURE_SHARE: u64 = 16;
/// The memory of an entry besides its message, its key and its list of TTLs, in bytes: two
/// allocations, the counters, and the cache's own lists (quick-cache issues 17 and 91).
const ENTRY_OVERHEAD: u64 = 256;
/// The expected weight of a reply, in bytes. The cache sizes its lists with it.
const USUAL_WEIGHT: u64 = 512;
/// The parts of the cache, each with a lock. A part may exceed its share of the capacity by one
/// entry.
const SHARDS: usize = 4;

/// Limits of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// The memory for replies and failures, in bytes. 0: nothing is cached.
    pub capacity: u64,
    /// The least TTL of a record of an upstream's reply, in seconds. A lower one is raised.
    pub min_ttl: u32,
    /// The largest TTL of such a record, in seconds. A higher one is lowered.
    pub max_ttl: u32,
    /// How long a negative answer is kept at most, in seconds. The SOA record's TTL is lowered to
    /// it. `None`: as the route of the name says, or [`DEFAULT_MAX_NEGATIVE_TTL`].
    pub max_negative_ttl: Option<u32>,
    /// How long after its end a reply may be used while upstreams don't answer (RFC 8767). Zero:
    /// never.
    pub stale: Duration,
}

/// The cached replies and failures. All methods are cheap, and wait for no I/O.
pub(super) struct ReplyCache {
    settings: CacheSettings,
    /// `None` without capacity.
    stores: Option<Stores>,
    traffic: Arc<CacheTraffic>,
    known: RwLock<KnownNames>,
}

/// The zones and routes that were known when the replies were stored. A reply may have records that
/// belong to a zone that is added later, and another route may lead to other servers.
#[derive(Debug, Default, PartialEq, Eq)]
struct KnownNames {
    zones: Vec<Name>,
    /// The number of the route table.
    routes: u64,
}

/// With what a reply was made.
#[derive(Clone, Copy)]
pub(super) struct ReplyOrigin<'a> {
    /// The zones with which it was checked.
    pub(super) zones: &'a [Apex],
    /// The number of the route table.
    pub(super) routes: u64,
    /// What the route says about caching. `None`: nothing.
    pub(super) rules: Option<CacheRules>,
}

/// The limits of a reply.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    min_ttl: u32,
    max_ttl: u32,
    max_negative_ttl: u32,
    kept: KeptAnswers,
    stale: StaleRules,
}

struct Stores {
    replies: Cache<CacheKey, Arc<StoredReply>, ReplyWeighter, DefaultHashBuilder, EvictionCounter>,
    failures: FailureCache,
}

/// What the cache has for a query.
#[derive(Debug)]
pub(super) enum Found {
    /// A reply whose records have not expired.
    Fresh(Arc<StoredReply>),
    /// A reply whose records have expired. It may be used if upstreams don't answer.
    Stale(Arc<StoredReply>),
    /// A reply whose records have expired. It is used at once, and fetched again.
    StaleAtOnce(Arc<StoredReply>),
    /// A reply whose records have expired, and upstreams have just failed.
    StaleOnly(Arc<StoredReply>),
    /// Upstreams have just failed, with this response code.
    Failed(OptRcode),
    Nothing,
}

/// The identity of a query: name in lower case, type, DO and CD, and whether a route has rewritten
/// the name. The class is IN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CacheKey(Box<[u8]>);

#[derive(Clone)]
struct ReplyWeighter;

/// Counts the replies that leave the cache because others need the room.
#[derive(Clone)]
struct EvictionCounter(Arc<CacheTraffic>);

impl Default for CacheSettings {
    fn default() -> CacheSettings {
        CacheSettings {
            capacity: 16 << 20,
            min_ttl: 0,
            // As in Unbound and PowerDNS Recursor.
            max_ttl: 86_400,
            max_negative_ttl: None,
            stale: Duration::ZERO,
        }
    }
}

impl ReplyCache {
    pub(super) fn new(settings: CacheSettings, traffic: Arc<CacheTraffic>) -> ReplyCache {
        traffic.set_capacity(settings.capacity);
        let new_stores = || Stores::new(settings.capacity, traffic.clone());
        ReplyCache {
            settings,
            stores: (settings.capacity > 0).then(new_stores),
            traffic,
            known: RwLock::default(),
        }
    }

    /// What the cache has for a query.
    pub(super) fn find(&self, key: &CacheKey, now: Instant) -> Found {
        let Some(stores) = &self.stores else {
            return Found::Nothing;
        };
        let stored = stores.replies.get(key);
        if let Some(reply) = &stored
            && reply.is_fresh(now)
        {
            return Found::Fresh(reply.clone());
        }
        let stale = stored.filter(|reply| reply.age_beyond_life(now) < reply.stale().limit);
        match stale {
            Some(reply) if reply.stale().mode == StaleMode::AtOnce => Found::StaleAtOnce(reply),
            Some(reply) if stores.failures.is_recent(key, now) => Found::StaleOnly(reply),
            Some(reply) => Found::Stale(reply),
            None => {
                let failure = stores.failures.find(key, now);
                failure.map_or(Found::Nothing, Found::Failed)
            }
        }
    }

    /// Lowers and raises the TTLs of a message without an OPT record, as the settings and its route
    /// say. A message that can't be parsed may be changed in part.
    pub(super) fn limit_ttls(&self, message: &mut [u8], qtype: Rtype, rules: Option<CacheRules>) {
        reply::limit_ttls(message, qtype, &self.settings.limits(rules));
    }

    /// Lowers and raises the TTLs of a reply as the settings and its route say, and stores it if it
    /// may be stored. The reply has no OPT record.
    pub(super) fn store(
        &self,
        key: &CacheKey,
        message: &mut [u8],
        qtype: Rtype,
        now: Instant,
        origin: ReplyOrigin<'_>,
    ) {
        let limits = self.settings.limits(origin.rules);
        let reply = StoredReply::read(message, qtype, &limits, now);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if !known.is(origin.zones, origin.routes) {
            return;
        }
        let (Some(stores), Some(mut reply)) = (&self.stores, reply) else {
            return;
        };
        reply.count_until_dropped(CountedEntry::new(self.traffic.clone(), reply.kind()));
        stores.failures.forget(key);
        stores.replies.insert(key.clone(), Arc::new(reply));
    }

    /// Remembers that upstreams failed, with this response code, so that they are not asked again
    /// at once (RFC 9520).
    pub(super) fn store_failure(&self, key: &CacheKey, rcode: OptRcode, now: Instant) {
        if let Some(stores) = &self.stores {
            stores.failures.store(key, rcode, now);
        }
    }

    /// Forgets all replies if the zones and the routes are not those with which they were stored.
    pub(super) fn follow_names(&self, zones: &[Apex], routes: u64) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.is(zones, routes) {
            return;
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = KnownNames {
            zones: zones.iter().map(|zone| zone.name.clone()).collect(),
            routes,
        };
        if let Some(stores) = &self.stores {
            stores.replies.clear();
            stores.failures.clear();
        }
    }

    /// The number of replies, and their weight in bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        let replies = self.stores.as_ref().map(|stores| &stores.replies);
        replies.map_or((0, 0), |replies| (replies.len() as u64, replies.weight()))
    }
}

impl KnownNames {
    fn is(&self, zones: &[Apex], routes: u64) -> bool {
        self.routes == routes && self.zones.iter().eq(zones.iter().map(|zone| &zone.name))
    }
}

impl CacheSettings {
    /// The limits of replies about names of a route. `None`: the route says nothing about caching,
    /// or there is no route.
    pub fn limits(&self, rules: Option<CacheRules>) -> ReplyLimits {
        let native = CacheRules {
            max_ttl: self.max_ttl,
            max_negative_ttl: self.max_negative_ttl.unwrap_or(DEFAULT_MAX_NEGATIVE_TTL),
            kept: KeptAnswers::All,
            stale: None,
        };
        let rules = rules.unwrap_or(native);
        let own_stale = StaleRules {
            limit: self.stale,
            mode: StaleMode::IfUpstreamsFail,
        };
        ReplyLimits {
            min_ttl: self.min_ttl,
            max_ttl: rules.max_ttl.min(self.max_ttl),
            max_negative_ttl: (rules.max_negative_ttl)
                .min(self.max_negative_ttl.unwrap_or(u32::MAX)),
            kept: rules.kept,
            stale: rules.stale.unwrap_or(own_stale),
        }
    }
}

impl Stores {
    fn new(capacity: u64, traffic: Arc<CacheTraffic>) -> Stores {
        let for_failures = capacity / FAILURE_SHARE;
        let for_replies = capacity - for_failures;
        let options = OptionsBuilder::new()
            .weight_capacity(for_replies)
            .estimated_items_capacity((for_replies / USUAL_WEIGHT) as usize)
            .shards(SHARDS)
            .build();
        let (hasher, counter) = (DefaultHashBuilder::default(), EvictionCounter(traffic));
        // The options lack nothing, so this fails for no capacity.
        let replies = match options {
            Ok(options) => Cache::with_options(options, ReplyWeighter, hasher, counter),
            Err(_) => Cache::with(
                (for_replies / USUAL_WEIGHT) as usize,
                for_replies,
                ReplyWeighter,
                hasher,
                counter,
            ),
        };
        Stores {
            replies,
            failures: FailureCache::new(for_failures),
        }
    }
}

impl CacheKey {
    /// The identity of a query that may be answered from the cache. `None` for queries without RD,
    /// because an upstream may answer them with a referral, and for types that stand for others.
    pub(super) fn of(query: &Query) -> Option<CacheKey> {
        const META_TYPES: std::ops::RangeInclusive<u16> = 128..=255;
        let number = query.qtype.to_int();
        if !query.header.rd() || number == 0 || META_TYPES.contains(&number) {
            return None;
        }
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        // A rewritten name may be answered otherwise than the same name of a client.
        let is_rewritten = query.client_question.is_some();
        let flags =
            u8::from(dnssec_ok) | u8::from(query.header.cd()) << 1 | u8::from(is_rewritten) << 2;
        let name = query.name.wire();
        let mut key = Vec::with_capacity(name.len() + 3);
        key.extend(name.iter().map(u8::to_ascii_lowercase));
        key.extend_from_slice(&number.to_be_bytes());
        key.push(flags);
        Some(CacheKey(key.into()))
    }

    fn weight(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Lifecycle<CacheKey, Arc<StoredReply>> for EvictionCounter {
    /// What is evicted is dropped after the cache's lock is released.
    type RequestState = Vec<(CacheKey, Arc<StoredReply>)>;

    fn on_evict(&self, state: &mut Self::RequestState, key: CacheKey, reply: Arc<StoredReply>) {
        self.0.count_eviction(reply.kind());
        state.push((key, reply));
    }
}

impl Weighter<CacheKey, Arc<StoredReply>> for ReplyWeighter {
    fn weight(&self, key: &CacheKey, reply: &Arc<StoredReply>) -> u64 {
        key.weight() + reply.weight() + ENTRY_OVERHEAD
    }
}
