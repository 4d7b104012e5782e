//! Lookups of names that the local data doesn't decide: from the cache, or from upstreams.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use domain::base::iana::OptRcode;
use tokio::time::{Instant, timeout, timeout_at};
use zerohop_zone::Name;

use super::{
    Resolver,
    bailiwick::LocalNames,
    cache::{CacheKey, Found, StoredReply, TtlSource},
    chase::Relay,
    compose::ExtendedError,
    counters::increment,
    forward::NoResponse,
    message::{Chase, QueryAction},
    query::Query,
    response::{Response, UpstreamQuery},
};

/// How long a client waits for upstreams before it gets a stale reply (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// A query to upstreams, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLookup {
    /// The queried name.
    pub name: Name,
    /// The servers, in the configured order. Empty if there is no server for the name.
    pub servers: Vec<SocketAddr>,
    /// The response code, or the failure. `None` while the query is running.
    pub outcome: Option<Result<String, NoResponse>>,
}

/// The servers for a name.
#[derive(Debug)]
pub(super) struct ServersForName {
    /// `None`: the cluster's DNS is responsible for the name, and has no known address, or only
    /// addresses of this resolver.
    pub(super) servers: Option<Vec<SocketAddr>>,
    pub(super) place: NamePlace,
}

/// Whether a name belongs to the cluster, so that replies about it are never cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamePlace {
    Cluster,
    Outside,
}

impl NamePlace {
    /// The place of a name that belongs to the cluster, or doesn't.
    pub(super) fn of(belongs_to_cluster: bool) -> NamePlace {
        match belongs_to_cluster {
            true => NamePlace::Cluster,
            false => NamePlace::Outside,
        }
    }
}

/// What a lookup of a client's query must know besides the query.
pub(super) struct LookupContext<'a> {
    /// The client whose share of the places is used.
    pub(super) client: IpAddr,
    /// As in [`respond`](super::message::respond).
    pub(super) rotation: usize,
    /// When the client stops waiting.
    pub(super) deadline: Instant,
    pub(super) cache_use: CacheUse,
    /// Each query to upstreams is appended.
    pub(super) lookups: &'a mut Vec<UpstreamLookup>,
}

/// Whether a lookup may be answered from the cache. Replies are stored either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheUse {
    Answered,
    Bypassed,
}

/// The outcome of a query to upstreams.
enum Asked {
    /// They answered: with data, or that there is none.
    Answered(QueryAction),
    /// They failed. The action tells the client so.
    Failed(QueryAction),
}

impl Resolver {
    /// Answers a query from the cache if that needs no wait. Otherwise it is to be forwarded.
    pub(super) fn answer_from_cache(self: &Arc<Self>, query: Query, client: IpAddr) -> QueryAction {
        let Some(key) = CacheKey::of(&query) else {
            return QueryAction::Forward(query);
        };
        let now = Instant::now();
        match self.cache.find(&key, now) {
            Found::Fresh(reply) => {
                increment(&self.counters.cache_hits);
                let message = reply.answer(&query, now, TtlSource::Remaining);
                if reply.count_hit(now) {
                    increment(&self.counters.cache_refreshes);
                    self.refresh(query, client);
                }
                QueryAction::Send(message)
            }
            Found::StaleOnly(reply) => QueryAction::Send(self.stale_reply(&reply, &query)),
            Found::Failed(rcode) => {
                increment(&self.counters.cached_failures);
                let error = Some(ExtendedError::CachedError);
                QueryAction::Send(query.error_reply_about(rcode, error))
            }
            Found::Stale(_) | Found::Nothing => QueryAction::Forward(query),
        }
    }

    /// Forwards a query. If there is a stale reply, the client gets it when upstreams are late or
    /// fail, and upstreams are waited for nevertheless.
    pub(super) async fn forward(
        self: &Arc<Self>,
        query: Query,
        context: &mut LookupContext<'_>,
    ) -> QueryAction {
        let Some(stale) = self.find_stale(&query) else {
            let (Asked::Answered(action) | Asked::Failed(action)) =
                self.ask_upstreams(&query, context).await;
            return action;
        };
        let asked = tokio::spawn({
            let (resolver, query) = (self.clone(), query.clone());
            let (client, rotation) = (context.client, context.rotation);
            let deadline = context.deadline;
            let cache_use = context.cache_use;
            async move {
                let lookups = &mut Vec::new();
                let mut context = LookupContext {
                    client,
                    rotation,
                    deadline,
                    cache_use,
                    lookups,
                };
                resolver.ask_upstreams(&query, &mut context).await
            }
        });
        match timeout(STALE_AFTER, asked).await {
            Ok(Ok(Asked::Answered(action))) => action,
            _ => QueryAction::Send(self.stale_reply(&stale, &query)),
        }
    }

    /// Continues a chain of CNAMEs with the records of its target, from the cache or from
    /// upstreams.
    pub(super) async fn continue_chase(
        &self,
        chase: Chase,
        context: &mut LookupContext<'_>,
    ) -> QueryAction {
        let query = Query::for_target(&chase.target, chase.query.qtype);
        let now = Instant::now();
        let key = CacheKey::of(&query);
        let cached = match &key {
            Some(key) if context.cache_use == CacheUse::Answered => self.cache.find(key, now),
            _ => Found::Nothing,
        };
        let response = match cached {
            Found::Fresh(reply) => {
                increment(&self.counters.cache_hits);
                let message = reply.copy(now, TtlSource::Remaining);
                Some(Arc::new(Response::stored(message)))
            }
            Found::Failed(_) => {
                increment(&self.counters.cached_failures);
                None
            }
            Found::StaleOnly(_) | Found::Stale(_) | Found::Nothing => {
                let upstream_query = UpstreamQuery::chasing(&chase);
                let (response, place) =
                    (self.query_upstreams(&chase.target, &upstream_query, context)).await;
                if let Ok(response) = &response
                    && place == NamePlace::Outside
                {
                    let relay = self.relay(&query, response, context.rotation);
                    self.keep(&query, relay);
                }
                response.ok()
            }
        };
        self.with_local_names(|local_names| {
            chase.complete(response.as_deref(), local_names, context.rotation)
        })
    }

    /// Asks upstreams for a name that is in the cache, and keeps the reply.
    fn refresh(self: &Arc<Self>, query: Query, client: IpAddr) {
        let resolver = self.clone();
        tokio::spawn(async move {
            let mut context = LookupContext {
                client,
                rotation: 0,
                deadline: Instant::now() + super::UPSTREAM_LIMIT,
                cache_use: CacheUse::Bypassed,
                lookups: &mut Vec::new(),
            };
            resolver.ask_upstreams(&query, &mut context).await;
        });
    }

    fn find_stale(&self, query: &Query) -> Option<Arc<StoredReply>> {
        match self.cache.find(&CacheKey::of(query)?, Instant::now()) {
            Found::Stale(reply) | Found::StaleOnly(reply) => Some(reply),
            Found::Fresh(_) | Found::Failed(_) | Found::Nothing => None,
        }
    }

    fn stale_reply(&self, reply: &StoredReply, query: &Query) -> Vec<u8> {
        increment(&self.counters.stale_replies);
        reply.answer(query, Instant::now(), TtlSource::Stale)
    }

    /// Forwards a query, and keeps the reply or the failure in the cache.
    async fn ask_upstreams(&self, query: &Query, context: &mut LookupContext<'_>) -> Asked {
        let upstream_query = UpstreamQuery::forwarding(query);
        let (response, place) = self
            .query_upstreams(&query.name, &upstream_query, context)
            .await;
        if place == NamePlace::Outside && context.cache_use == CacheUse::Answered {
            increment(&self.counters.cache_misses);
        }
        let fail = |rcode: OptRcode, error: Option<ExtendedError>| {
            Asked::Failed(QueryAction::Send(query.error_reply_about(rcode, error)))
        };
        let response = match response {
            Ok(response) => response,
            Err(NoResponse::NoUpstream) => return fail(OptRcode::REFUSED, None),
            Err(NoResponse::Overloaded) => {
                return fail(OptRcode::SERVFAIL, Some(ExtendedError::Overloaded));
            }
            Err(NoResponse::ClusterDnsUnknown) => return fail(OptRcode::SERVFAIL, None),
            Err(NoResponse::NoAnswer) => {
                self.keep_failure(query, OptRcode::SERVFAIL, place);
                let error = Some(ExtendedError::NoReachableAuthority);
                return fail(OptRcode::SERVFAIL, error);
            }
        };
        let relay = self.relay(query, &response, context.rotation);
        if !response.is_answer() {
            self.keep_failure(query, response.rcode(), place);
            return Asked::Failed(query.finish(relay));
        }
        Asked::Answered(match place {
            NamePlace::Outside => query.finish(self.keep(query, relay)),
            NamePlace::Cluster => query.finish(relay),
        })
    }

    fn relay(&self, query: &Query, response: &Response, rotation: usize) -> Relay {
        let decide = |names: &LocalNames<'_>| query.relay_whole(response, names, rotation);
        self.with_local_names(decide)
    }

    /// Stores a reply in the cache, with TTLs as the cache's settings say. Returns the reply.
    fn keep(&self, query: &Query, mut relay: Relay) -> Relay {
        if let (Relay::Whole { message, .. }, Some(key)) = (&mut relay, CacheKey::of(query)) {
            self.cache.store(&key, message, query.qtype, Instant::now());
            let (replies, bytes) = self.cache.size();
            self.counters.cached_replies.store(replies, Relaxed);
            self.counters.cached_bytes.store(bytes, Relaxed);
        }
        relay
    }

    fn keep_failure(&self, query: &Query, rcode: OptRcode, place: NamePlace) {
        if let (Some(key), NamePlace::Outside) = (CacheKey::of(query), place) {
            self.cache.store_failure(&key, rcode, Instant::now());
        }
    }

    /// Sends a query to the upstreams that are responsible for `name`, and waits for the response
    /// until the client's deadline.
    async fn query_upstreams(
        &self,
        name: &Name,
        query: &UpstreamQuery,
        context: &mut LookupContext<'_>,
    ) -> (Result<Arc<Response>, NoResponse>, NamePlace) {
        let mut found = None;
        self.data
            .with_data(&mut |data| found = Some(self.upstreams.servers_for(name, data.zones())));
        let (servers, place) = match found {
            Some(ServersForName { servers, place }) => (servers, place),
            None => (None, NamePlace::Cluster),
        };
        let index = context.lookups.len();
        context.lookups.push(UpstreamLookup {
            name: name.clone(),
            servers: servers.clone().unwrap_or_default(),
            outcome: None,
        });
        let result = match &servers {
            Some(servers) => {
                let response = self.forwarder.query_servers(servers, query, context.client);
                let response = timeout_at(context.deadline, response).await;
                response.unwrap_or(Err(NoResponse::NoAnswer))
            }
            None => Err(NoResponse::ClusterDnsUnknown),
        };
        context.lookups[index].outcome = Some(match &result {
            Ok(response) => Ok(response.rcode().to_string()),
            Err(reason) => Err(*reason),
        });
        (result, place)
    }
}
