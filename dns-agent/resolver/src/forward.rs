//! Queries of clients that need an upstream.
//!
//! Equal queries share one question to the upstreams, and the number of questions and of waiting
//! clients is limited. [`UpstreamPool`] asks the servers.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;

use super::{
    counters::{ResolverCounters, increment},
    response::{NoResponse, Response, UpstreamQuery},
    shares::{ClientTurns, Share, Shares},
    upstream::{ServerSet, UpstreamPool},
};

/// Upper bound on concurrent questions to upstreams, of which a client has a share.
pub(super) const MAX_IN_FLIGHT: usize = 512;
/// Upper bound on client queries that wait for upstreams, of which a client has a share.
pub(super) const MAX_WAITING: usize = 4096;

/// A list of upstream servers that may change while in use. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct UpstreamServers(Arc<RwLock<ServerList>>);

/// Servers, and the addresses to exclude from them.
#[derive(Debug, Default)]
struct ServerList {
    servers: Vec<SocketAddr>,
    /// The addresses that this resolver listens on. They are excluded because the resolver would
    /// query itself.
    own_addresses: Vec<SocketAddr>,
}

impl UpstreamServers {
    /// A list of these servers, in order of preference.
    pub fn new(servers: Vec<SocketAddr>) -> UpstreamServers {
        let own_addresses = Vec::new();
        UpstreamServers(Arc::new(RwLock::new(ServerList {
            servers,
            own_addresses,
        })))
    }

    /// Replaces the servers.
    pub fn set(&self, addresses: &[SocketAddr]) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        list.servers = addresses.to_vec();
    }

    /// Excludes the addresses that this resolver listens on.
    pub fn exclude(&self, own_addresses: &[SocketAddr]) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        list.own_addresses = own_addresses.to_vec();
    }

    /// The current servers without the excluded ones.
    pub fn usable(&self) -> Vec<SocketAddr> {
        self.filtered_servers(ServerFilter::Usable)
    }

    /// The current servers that are excluded, because they are addresses of this resolver.
    pub(super) fn excluded(&self) -> Vec<SocketAddr> {
        self.filtered_servers(ServerFilter::Excluded)
    }

    fn filtered_servers(&self, wanted: ServerFilter) -> Vec<SocketAddr> {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |server: &&SocketAddr| {
            if list.own_addresses.contains(server) {
                wanted == ServerFilter::Excluded
            } else {
                wanted == ServerFilter::Usable
            }
        };
        list.servers.iter().filter(is_wanted).copied().collect()
    }
}

/// Selects servers by whether they are excluded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ServerFilter {
    Usable,
    Excluded,
}

/// Queries upstream servers for clients.
///
/// A query that is identical to one in flight is not sent again, but waits for the same response
/// (RFC 5452 section 5). Therefore a loop ends here: if an upstream forwards a query back to this
/// resolver unchanged, the resolver doesn't forward the query a second time.
#[derive(Debug)]
pub(super) struct Forwarder {
    in_flight: Shares,
    waiting: Shares,
    /// For the exchanges, each in the turns of the client that started it, and for the tasks of
    /// queries over UDP that wait for them.
    pub(super) turns: ClientTurns,
    open: OpenExchanges,
    pool: Arc<UpstreamPool>,
    counters: Arc<ResolverCounters>,
}

/// The exchanges in flight, by servers and query. Each is a task, so it goes on when no client
/// waits for it any more.
type OpenExchanges = Arc<Mutex<HashMap<ExchangeKey, Shared<Exchange>>>>;

/// The servers, and the query's [`UpstreamQuery::identity`].
type ExchangeKey = (ServerSet, Vec<u8>);

/// A running query to upstreams. Resolves to their response.
type Exchange = BoxFuture<'static, Result<Arc<Response>, NoResponse>>;

/// Removes an exchange from [`OpenExchanges`] when the exchange ends or is dropped.
struct ExchangeEntry {
    open: OpenExchanges,
    key: ExchangeKey,
}

impl Drop for ExchangeEntry {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.key);
    }
}

impl Forwarder {
    pub(super) fn new(pool: UpstreamPool, counters: Arc<ResolverCounters>) -> Forwarder {
        Forwarder {
            in_flight: Shares::new(MAX_IN_FLIGHT),
            waiting: Shares::new(MAX_WAITING),
            turns: ClientTurns::default(),
            open: OpenExchanges::default(),
            pool: Arc::new(pool),
            counters,
        }
    }

    /// The first response with NOERROR or NXDOMAIN. Without such a response, the best one: a
    /// truncated one, or else one with an error code.
    pub(super) async fn query_servers(
        &self,
        upstreams: &ServerSet,
        query: &UpstreamQuery,
        client: IpAddr,
    ) -> Result<Arc<Response>, NoResponse> {
        if upstreams.servers.is_empty() {
            return Err(NoResponse::NoUpstream);
        }
        let Some(exchange) = self.join_or_start_exchange(upstreams, query, client) else {
            increment(&self.counters.overloaded);
            return Err(NoResponse::Overloaded);
        };
        exchange.await
    }

    /// A place for a client's query, to be held until its reply is ready. `None`: too many queries
    /// of the client wait.
    pub(super) fn take_place(&self, client: IpAddr) -> Option<Share> {
        self.waiting.take(client, 1)
    }

    /// The number of queries that have places.
    pub(super) fn waiting_queries(&self) -> usize {
        self.waiting.held()
    }

    /// The exchange for this query: an exchange in flight, or a new exchange. `None`: too many
    /// exchanges of the client are in flight.
    fn join_or_start_exchange(
        &self,
        upstreams: &ServerSet,
        query: &UpstreamQuery,
        client: IpAddr,
    ) -> Option<Shared<Exchange>> {
        let key = (upstreams.clone(), query.identity());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exchange) = open.get(&key) {
            return Some(exchange.clone());
        }
        let share = self.in_flight.take(client, 1)?;
        increment(&self.counters.forwarded);
        let entry = ExchangeEntry {
            open: self.open.clone(),
            key: key.clone(),
        };
        let (sender, result) = oneshot::channel();
        let give = move |result: Result<Response, NoResponse>| {
            // A later query must not join an exchange that has ended.
            drop(entry);
            // The clients may have gone away.
            let _ = sender.send(result.map(Arc::new));
        };
        let (pool, upstreams, query) = (self.pool.clone(), upstreams.clone(), query.clone());
        let exchange = async move { result.await.unwrap_or(Err(NoResponse::NoAnswer)) };
        let exchange = exchange.boxed().shared();
        open.insert(key, exchange.clone());
        // A runtime that is shut down drops the task at once, and `entry` locks the map.
        drop(open);
        let ask = async move {
            // Measurements after the response hold sockets too.
            let _held_until_done = share;
            pool.ask(&upstreams, &query, give).await;
        };
        tokio::spawn(self.turns.run(client, ask));
        Some(exchange)
    }
}
