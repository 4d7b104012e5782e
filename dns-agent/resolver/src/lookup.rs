//! Lookups of names that the local data doesn't decide: from the cache, or from upstreams.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use domain::base::iana::OptRcode;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use zerohop_zone::{Name, ZoneData};

use super::{
    Resolver, UPSTREAM_LIMIT,
    bailiwick::LocalNames,
    cache::{CacheKey, Found, ReplyOrigin, StoredReply, TtlSource},
    chase::Relay,
    compose::ExtendedError,
    counters::increment,
    message::{Chase, QueryAction},
    query::Query,
    random_rotation,
    response::{NoResponse, Response, UpstreamQuery},
    routing::{NamePlace, QueryDestination},
    traffic::CacheEntryKind,
    upstream::ServerSet,
};

/// How long a client waits for upstreams before it gets a stale reply (RFC 8767 section 5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// Upper bound on the targets of aliases in a chain that routes rewrite.
const MAX_REWRITTEN_TARGETS: usize = 4;

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

/// What a lookup of a client's query must know besides the query.
pub(super) struct LookupContext<'a> {
    /// The client whose share of the places is used.
    pub(super) client: IpAddr,
    /// As in [`respond`](super::message::respond).
    pub(super) rotation: usize,
    /// When the client stops waiting.
    pub(super) deadline: Instant,
    pub(super) cache_use: CacheUse,
    /// How many more targets of aliases may lead to a route that rewrites them.
    pub(super) rewritten_targets_left: usize,
    /// The upstream that has sent the last response, if that is known.
    pub(super) upstream: Option<SocketAddr>,
    /// Each query to upstreams is appended.
    pub(super) lookups: &'a mut Vec<UpstreamLookup>,
}

impl LookupContext<'_> {
    /// The context of a query that has just arrived, with a random rotation.
    pub(super) fn new(
        client: IpAddr,
        cache_use: CacheUse,
        lookups: &mut Vec<UpstreamLookup>,
    ) -> LookupContext<'_> {
        LookupContext {
            client,
            rotation: random_rotation(),
            deadline: Instant::now() + UPSTREAM_LIMIT,
            cache_use,
            rewritten_targets_left: MAX_REWRITTEN_TARGETS,
            upstream: None,
            lookups,
        }
    }
}

/// Whether a lookup may be answered from the cache. Replies are stored either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheUse {
    Answered,
    Bypassed,
}

/// What upstreams have responded, and how they were chosen.
struct AskedServers {
    result: Result<Arc<Response>, NoResponse>,
    place: NamePlace,
    /// The number of the route table by which they were chosen.
    routes: u64,
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
                self.counters.count_cache_hit(reply.kind());
                let message = reply.answer(&query, now, TtlSource::Remaining);
                if reply.count_hit(now) {
                    increment(&self.counters.cache_refreshes);
                    self.refresh(query, client);
                }
                QueryAction::Send(message)
            }
            Found::StaleOnly(reply) => {
                self.counters.traffic.cache.count_hit(reply.kind());
                QueryAction::Send(self.stale_reply(&reply, &query))
            }
            Found::StaleAtOnce(reply) => {
                self.counters.traffic.cache.count_hit(reply.kind());
                let message = self.stale_reply(&reply, &query);
                self.refresh(query, client);
                QueryAction::Send(message)
            }
            Found::Failed(rcode) => {
                increment(&self.counters.cached_failures);
                self.counters
                    .traffic
                    .cache
                    .count_hit(CacheEntryKind::Denial);
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
        let Some(stale) = self.find_stale(&query, context.cache_use) else {
            let (Asked::Answered(action) | Asked::Failed(action)) =
                self.ask_upstreams(&query, context).await;
            return action;
        };
        let asked = self.ask_in_background(query.clone(), context.client, context.cache_use);
        let Some(asked) = asked else {
            return QueryAction::Send(self.stale_reply(&stale, &query));
        };
        match timeout(STALE_AFTER, asked).await {
            Ok(Ok(Asked::Answered(action))) => action,
            _ => QueryAction::Send(self.stale_reply(&stale, &query)),
        }
    }

    /// The reply to a query that may not wait for upstreams, because too many queries of the client
    /// wait already.
    pub(super) fn refuse_to_wait(&self, action: QueryAction) -> QueryAction {
        let error = error_about(NoResponse::Overloaded);
        match action {
            QueryAction::Forward(query) => {
                let message = match self.find_stale(&query, CacheUse::Answered) {
                    Some(stale) => self.stale_reply(&stale, &query),
                    None => query.error_reply_about(OptRcode::SERVFAIL, error),
                };
                QueryAction::Send(message)
            }
            QueryAction::Chase(chase) => match self.complete_from_cache(chase) {
                QueryAction::Chase(mut chase) => {
                    chase.error = error;
                    chase.servfail()
                }
                action => action,
            },
            QueryAction::Send(_) | QueryAction::Ignore => action,
        }
    }

    /// Continues a chain of CNAMEs with the records of its target if they are in the cache.
    fn complete_from_cache(&self, chase: Chase) -> QueryAction {
        let now = Instant::now();
        let query = chase.query.for_target(&chase.target);
        let found = CacheKey::of(&query).map(|key| self.cache.find(&key, now));
        let (reply, ttl) = match found {
            Some(Found::Fresh(reply)) => (reply, TtlSource::Remaining),
            Some(Found::Stale(reply) | Found::StaleOnly(reply) | Found::StaleAtOnce(reply)) => {
                (reply, TtlSource::Stale)
            }
            Some(Found::Failed(_) | Found::Nothing) | None => return QueryAction::Chase(chase),
        };
        let response = Response::stored(reply.copy(now, ttl));
        let rotation = random_rotation();
        self.with_local_names(|names| chase.complete(Some(&response), names, rotation))
    }

    /// Continues a chain of CNAMEs with the records of its target, from the cache or from
    /// upstreams.
    pub(super) async fn continue_chase(
        self: &Arc<Self>,
        mut chase: Chase,
        context: &mut LookupContext<'_>,
    ) -> QueryAction {
        let query = chase.query.for_target(&chase.target);
        let response = match self.follow_target(query, context).await {
            Ok(response) => Some(response),
            Err(error) => {
                chase.error = error;
                None
            }
        };
        self.with_local_names(|local_names| {
            chase.complete(response.as_deref(), local_names, context.rotation)
        })
    }

    /// Looks up the target of an alias by its route.
    ///
    /// # Errors
    /// As for [`Resolver::look_up_target`].
    async fn follow_target(
        self: &Arc<Self>,
        query: Query,
        context: &mut LookupContext<'_>,
    ) -> Result<Arc<Response>, Option<ExtendedError>> {
        let routes = self.upstreams.routes.table();
        let mut query = Some(query);
        let mut action = QueryAction::Ignore;
        self.data.with_data(&mut |data: &dyn ZoneData| {
            if let Some(query) = query.take() {
                action = self.follow_route(query, &routes, data, context.rotation);
            }
        });
        match action {
            QueryAction::Forward(query) if query.client_question.is_none() => {
                self.look_up_target(&query, context).await
            }
            QueryAction::Send(message) => read_reply(&message),
            action => {
                // A chain of rewritten targets may be endless.
                context.rewritten_targets_left =
                    (context.rewritten_targets_left.checked_sub(1)).ok_or(None)?;
                let message = Box::pin(self.run_action(action, context)).await;
                read_reply(&message.ok_or(None)?)
            }
        }
    }

    /// Looks up the target of an alias.
    ///
    /// # Errors
    /// If there is no response, with what a SERVFAIL reply says about that.
    async fn look_up_target(
        self: &Arc<Self>,
        query: &Query,
        context: &mut LookupContext<'_>,
    ) -> Result<Arc<Response>, Option<ExtendedError>> {
        let now = Instant::now();
        let found = match CacheKey::of(query) {
            Some(key) if context.cache_use == CacheUse::Answered => self.cache.find(&key, now),
            _ => Found::Nothing,
        };
        let stored = |reply: &StoredReply, ttl| Arc::new(Response::stored(reply.copy(now, ttl)));
        let stale = match found {
            Found::Fresh(reply) => {
                self.counters.count_cache_hit(reply.kind());
                if reply.count_hit(now) {
                    increment(&self.counters.cache_refreshes);
                    self.refresh(query.clone(), context.client);
                }
                return Ok(stored(&reply, TtlSource::Remaining));
            }
            Found::StaleOnly(reply) => {
                increment(&self.counters.stale_replies);
                self.counters.traffic.cache.count_hit(reply.kind());
                return Ok(stored(&reply, TtlSource::Stale));
            }
            Found::StaleAtOnce(reply) => {
                increment(&self.counters.stale_replies);
                self.counters.traffic.cache.count_hit(reply.kind());
                self.refresh(query.clone(), context.client);
                return Ok(stored(&reply, TtlSource::Stale));
            }
            Found::Failed(_) => {
                increment(&self.counters.cached_failures);
                self.counters
                    .traffic
                    .cache
                    .count_hit(CacheEntryKind::Denial);
                return Err(Some(ExtendedError::CachedError));
            }
            Found::Stale(reply) => Some(reply),
            Found::Nothing => None,
        };
        let asked = self.ask_for_target(query, context);
        let Some(stale) = stale else {
            return asked.await;
        };
        match timeout(STALE_AFTER, asked).await {
            Ok(Ok(response)) if response.is_answer() => return Ok(response),
            Ok(_) => {}
            // Keeps the response when it arrives.
            Err(_) => self.refresh(query.clone(), context.client),
        }
        increment(&self.counters.stale_replies);
        Ok(stored(&stale, TtlSource::Stale))
    }

    /// Asks upstreams for the target of an alias, and keeps the reply or the failure in the cache.
    async fn ask_for_target(
        &self,
        query: &Query,
        context: &mut LookupContext<'_>,
    ) -> Result<Arc<Response>, Option<ExtendedError>> {
        let upstream_query = UpstreamQuery::forwarding(query);
        let AskedServers {
            result,
            place,
            routes,
        } = self.query_upstreams(query, &upstream_query, context).await;
        let response = result.map_err(|reason| {
            if reason == NoResponse::NoAnswer {
                self.keep_failure(query, OptRcode::SERVFAIL, place);
            }
            error_about(reason)
        })?;
        if !response.is_answer() {
            self.keep_failure(query, response.rcode(), place);
            return Ok(response);
        }
        let relay = self.relay(query, &response, context.rotation);
        Ok(match self.keep(query, relay, routes) {
            Relay::Whole { message, .. } => Arc::new(Response::stored(message)),
            Relay::Unusable | Relay::Other(_) => response,
        })
    }

    /// Asks upstreams for a name that is in the cache, and keeps the reply, unless too many queries
    /// of the client wait.
    fn refresh(self: &Arc<Self>, query: Query, client: IpAddr) {
        drop(self.ask_in_background(query, client, CacheUse::Bypassed));
    }

    /// Forwards a query in a task, so that the reply is kept even if no client waits for it. The
    /// task has a place of its own. `None`: too many queries of the client wait.
    fn ask_in_background(
        self: &Arc<Self>,
        query: Query,
        client: IpAddr,
        cache_use: CacheUse,
    ) -> Option<JoinHandle<Asked>> {
        let place = self.forwarder.take_place(client)?;
        let resolver = self.clone();
        let ask = async move {
            // The place is held until the reply is kept.
            let _place = place;
            let lookups = &mut Vec::new();
            let mut context = LookupContext::new(client, cache_use, lookups);
            resolver.ask_upstreams(&query, &mut context).await
        };
        Some(tokio::spawn(self.forwarder.turns.run(client, ask)))
    }

    fn find_stale(&self, query: &Query, cache_use: CacheUse) -> Option<Arc<StoredReply>> {
        if cache_use == CacheUse::Bypassed {
            return None;
        }
        match self.cache.find(&CacheKey::of(query)?, Instant::now()) {
            Found::Stale(reply) | Found::StaleOnly(reply) | Found::StaleAtOnce(reply) => {
                Some(reply)
            }
            Found::Fresh(_) | Found::Failed(_) | Found::Nothing => None,
        }
    }

    fn stale_reply(&self, reply: &StoredReply, query: &Query) -> Vec<u8> {
        increment(&self.counters.stale_replies);
        reply.answer(query, Instant::now(), TtlSource::Stale)
    }

    /// The query that upstreams receive. The cluster's DNS rewrites names itself, so it receives
    /// what the client has sent: it might rewrite a rewritten name once more.
    fn query_for_upstreams<'a>(&self, query: &'a Query) -> Cow<'a, Query> {
        let Some(unrewritten) = query.unrewritten() else {
            return Cow::Borrowed(query);
        };
        let mut found = None;
        self.data.with_data(&mut |data| {
            found = Some(self.upstreams.destination(query, data.zones()));
        });
        match found {
            Some(destination) if !destination.is_group_used() => {
                if let Some(group) = &destination.group {
                    let routes = &self.upstreams.routes;
                    routes.want_proof(group, &query.name, query.qtype);
                }
                Cow::Owned(unrewritten)
            }
            _ => Cow::Borrowed(query),
        }
    }

    /// Forwards a query, and keeps the reply or the failure in the cache.
    async fn ask_upstreams(&self, query: &Query, context: &mut LookupContext<'_>) -> Asked {
        let query = &*self.query_for_upstreams(query);
        let upstream_query = UpstreamQuery::forwarding(query);
        let AskedServers {
            result,
            place,
            routes,
        } = self.query_upstreams(query, &upstream_query, context).await;
        if place == NamePlace::Outside && context.cache_use == CacheUse::Answered {
            increment(&self.counters.cache_misses);
        }
        let fail = |rcode: OptRcode, error: Option<ExtendedError>| {
            Asked::Failed(QueryAction::Send(query.error_reply_about(rcode, error)))
        };
        let response = match result {
            Ok(response) => response,
            Err(NoResponse::NoUpstream) => return fail(OptRcode::REFUSED, None),
            Err(reason) => {
                if reason == NoResponse::NoAnswer {
                    self.keep_failure(query, OptRcode::SERVFAIL, place);
                }
                return fail(OptRcode::SERVFAIL, error_about(reason));
            }
        };
        if !response.is_answer() {
            self.keep_failure(query, response.rcode(), place);
            return Asked::Failed(query.finish(self.relay(query, &response, context.rotation)));
        }
        let relay = self.relay(query, &response, context.rotation);
        match self.keep(query, relay, routes) {
            // Whether the response can be used may depend on the client's transport, so the failure
            // is not kept.
            Relay::Unusable => Asked::Failed(query.finish(Relay::Unusable)),
            relay => Asked::Answered(query.finish(relay)),
        }
    }

    fn relay(&self, query: &Query, response: &Response, rotation: usize) -> Relay {
        let decide = |names: &LocalNames<'_>| query.relay_whole(response, names, rotation);
        self.with_local_names(decide)
    }

    /// Stores a reply in the cache, with TTLs as the cache's settings say, unless its name belongs
    /// to the cluster by now, or there are other routes than those by which upstreams were chosen.
    /// Returns the reply.
    fn keep(&self, query: &Query, mut relay: Relay, routes: u64) -> Relay {
        let Relay::Whole {
            message,
            extended_rcode: 0,
        } = &mut relay
        else {
            return relay;
        };
        let Some(key) = CacheKey::of(query) else {
            return relay;
        };
        self.data.with_data(&mut |data| {
            let zones = data.zones();
            let destination = self.upstreams.destination(query, zones);
            if destination.place == NamePlace::Outside {
                let rules = destination.cache_rules;
                let origin = ReplyOrigin {
                    zones,
                    routes,
                    rules,
                };
                let now = Instant::now();
                self.cache.store(&key, message, query.qtype, now, origin);
            }
        });
        let (replies, bytes) = self.cache.size();
        self.counters.cached_replies.store(replies, Relaxed);
        self.counters.cached_bytes.store(bytes, Relaxed);
        relay
    }

    fn keep_failure(&self, query: &Query, rcode: OptRcode, place: NamePlace) {
        if let (Some(key), NamePlace::Outside) = (CacheKey::of(query), place) {
            self.cache.store_failure(&key, rcode, Instant::now());
        }
    }

    /// Sends the upstream query for a query to the servers that are responsible for its name, and
    /// waits for the response until the client's deadline.
    async fn query_upstreams(
        &self,
        query: &Query,
        upstream_query: &UpstreamQuery,
        context: &mut LookupContext<'_>,
    ) -> AskedServers {
        let mut found = None;
        self.data.with_data(&mut |data| {
            found = Some(self.upstreams.destination(query, data.zones()));
        });
        let Some(destination) = found else {
            return AskedServers {
                result: Err(NoResponse::ClusterDnsUnknown),
                place: NamePlace::Cluster,
                routes: 0,
            };
        };
        let is_group_used = destination.is_group_used();
        let QueryDestination {
            servers,
            place,
            group,
            cache_rules,
            routes,
        } = destination;
        let index = context.lookups.len();
        let addresses = servers.as_ref().map(ServerSet::addresses);
        context.lookups.push(UpstreamLookup {
            name: query.name.clone(),
            servers: addresses.unwrap_or_default(),
            outcome: None,
        });
        if let Some(group) = &group
            && !group.is_used()
        {
            let live = &self.upstreams.routes;
            live.want_proof(group, &query.name, query.qtype);
        }
        let result = match &servers {
            Some(servers) => {
                let response =
                    (self.forwarder).query_servers(servers, upstream_query, context.client);
                let response = timeout_at(context.deadline, response).await;
                // A client that has stopped waiting says nothing about the servers.
                if let (Some(group), true, Ok(result)) = (&group, is_group_used, &response) {
                    group.record_outcome((query.name.clone(), query.qtype), result);
                }
                response.unwrap_or(Err(NoResponse::NoAnswer))
            }
            None => Err(NoResponse::ClusterDnsUnknown),
        };
        context.upstream = result.as_ref().ok().and_then(|it| it.server());
        context.lookups[index].outcome = Some(match &result {
            Ok(response) => Ok(response.rcode().to_string()),
            Err(reason) => Err(*reason),
        });
        // Replies that are not kept have these TTLs too.
        let limited = |response: Arc<Response>| {
            let mut message = response.message().to_vec();
            self.cache
                .limit_ttls(&mut message, query.qtype, cache_rules);
            Arc::new(response.with_message(message))
        };
        AskedServers {
            result: match place {
                NamePlace::Cluster => result,
                NamePlace::Outside => result.map(limited),
            },
            place,
            routes,
        }
    }
}

/// Reads a reply of this resolver, which may have an OPT record.
fn read_reply(message: &[u8]) -> Result<Arc<Response>, Option<ExtendedError>> {
    let response = Response::of_reply(message).ok_or(None)?;
    Ok(Arc::new(response))
}

/// What a SERVFAIL reply says about the lack of a response.
fn error_about(reason: NoResponse) -> Option<ExtendedError> {
    match reason {
        NoResponse::Overloaded => Some(ExtendedError::Overloaded),
        NoResponse::NoAnswer => Some(ExtendedError::NoReachableAuthority),
        NoResponse::NoUpstream | NoResponse::ClusterDnsUnknown => None,
    }
}
