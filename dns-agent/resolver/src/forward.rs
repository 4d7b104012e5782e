//! Queries to upstreams.
//!
//! Each query uses a new socket and a random ID, so that a forged response must guess the socket's
//! port and the ID (RFC 5452). Messages that don't answer the query are ignored.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tracing::debug;

use super::{
    counters::{ResolverCounters, increment},
    response::{Response, UpstreamQuery},
    tcp,
};

/// Time limit for one upstream's response over UDP, and again over TCP.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// Upper bound on concurrent upstream queries. Each holds a socket.
pub(super) const MAX_IN_FLIGHT: usize = 512;
/// Longest accepted datagram, in bytes. It exceeds the limit in the OPT record, because some
/// servers ignore that limit.
const MAX_DATAGRAM: usize = 4096;
/// Upper bound on client queries that wait for upstreams.
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

/// Queries upstream servers in the given order.
///
/// A query that is identical to one in flight is not sent again, but waits for the same response
/// (RFC 5452 section 5). Therefore a loop ends here: if an upstream forwards a query back to this
/// resolver unchanged, the resolver doesn't forward the query a second time.
#[derive(Debug)]
pub(super) struct Forwarder {
    in_flight: Arc<Semaphore>,
    waiting: Semaphore,
    open: OpenExchanges,
    counters: Arc<ResolverCounters>,
}

/// The exchanges in flight, by servers and query. A random number distinguishes an exchange from
/// later ones with the same key. An exchange is dropped when no client query waits for it any more.
type OpenExchanges = Arc<Mutex<HashMap<ExchangeKey, (u64, WeakShared<Exchange>)>>>;

/// The servers, and the query's [`UpstreamQuery::identity`].
type ExchangeKey = (Vec<SocketAddr>, Vec<u8>);

/// A running query to upstreams. Resolves to their response.
type Exchange = BoxFuture<'static, Result<Arc<Response>, NoResponse>>;

/// Removes an exchange from [`OpenExchanges`] when the exchange ends or is dropped.
struct ExchangeEntry {
    open: OpenExchanges,
    key: ExchangeKey,
    number: u64,
}

impl Drop for ExchangeEntry {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            open.remove(&self.key);
        }
    }
}

/// The reason why there is no response from upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResponse {
    /// No upstream is configured.
    NoUpstream,
    /// The cluster's DNS is responsible, and has no known address, or only addresses of this
    /// resolver.
    ClusterDnsUnknown,
    /// [`MAX_IN_FLIGHT`] upstream queries are in flight, or [`MAX_WAITING`] client queries wait.
    Overloaded,
    /// Every upstream failed, or did not respond in time.
    NoAnswer,
}

impl Forwarder {
    pub(super) fn new(counters: Arc<ResolverCounters>) -> Forwarder {
        Forwarder {
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            waiting: Semaphore::new(MAX_WAITING),
            open: OpenExchanges::default(),
            counters,
        }
    }

    /// The response of the first upstream that sends a complete one over UDP or any over TCP,
    /// whatever its response code. Without such an upstream, the first truncated response over UDP.
    pub(super) async fn query_servers(
        &self,
        upstreams: &[SocketAddr],
        query: &UpstreamQuery,
    ) -> Result<Arc<Response>, NoResponse> {
        if upstreams.is_empty() {
            return Err(NoResponse::NoUpstream);
        }
        let waiting_permit = self.waiting.try_acquire();
        let (Ok(_waiting_permit), Some(exchange)) = (
            waiting_permit,
            self.join_or_start_exchange(upstreams, query),
        ) else {
            increment(&self.counters.overloaded);
            return Err(NoResponse::Overloaded);
        };
        exchange.await
    }

    /// The exchange for this query: an exchange in flight, or a new exchange. `None`: too many
    /// exchanges are in flight.
    fn join_or_start_exchange(
        &self,
        upstreams: &[SocketAddr],
        query: &UpstreamQuery,
    ) -> Option<Shared<Exchange>> {
        let key = (upstreams.to_vec(), query.identity());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exchange) = open.get(&key).and_then(|(_, weak)| weak.upgrade()) {
            return Some(exchange);
        }
        let permit = self.in_flight.clone().try_acquire_owned().ok()?;
        increment(&self.counters.forwarded);
        let entry = ExchangeEntry {
            open: self.open.clone(),
            key: key.clone(),
            number: rand::random(),
        };
        let number = entry.number;
        let attempts = Attempts(self.counters.clone());
        let (upstreams, query) = (upstreams.to_vec(), query.clone());
        let exchange = async move {
            let _held_until_done = (permit, entry);
            attempts
                .query_in_turn(&upstreams, &query)
                .await
                .map(Arc::new)
        };
        let exchange = exchange.boxed().shared();
        if let Some(weak) = exchange.downgrade() {
            open.insert(key, (number, weak));
        }
        Some(exchange)
    }
}

/// Queries one server after the other, and counts failures.
struct Attempts(Arc<ResolverCounters>);

impl Attempts {
    /// Queries each upstream over UDP, and over TCP if its response is truncated, until one sends a
    /// complete response over UDP or any response over TCP.
    async fn query_in_turn(
        &self,
        upstreams: &[SocketAddr],
        query: &UpstreamQuery,
    ) -> Result<Response, NoResponse> {
        let mut truncated = None;
        for &upstream in upstreams {
            let Some(response) = self
                .attempt(upstream, query_over_udp(upstream, query))
                .await
            else {
                continue;
            };
            if !response.is_truncated() {
                return Ok(response);
            }
            match self
                .attempt(upstream, query_over_tcp(upstream, query))
                .await
            {
                Some(response) => return Ok(response),
                None => truncated = truncated.or(Some(response)),
            }
        }
        truncated.ok_or(NoResponse::NoAnswer)
    }

    /// The response, or `None` after an error or [`TIMEOUT`]. Counts the failure.
    async fn attempt(
        &self,
        upstream: SocketAddr,
        response: impl Future<Output = io::Result<Response>>,
    ) -> Option<Response> {
        match timeout(TIMEOUT, response).await {
            Ok(Ok(response)) => Some(response),
            Ok(Err(error)) => {
                debug!(%upstream, %error, "can't query the upstream");
                increment(&self.0.upstream_errors);
                None
            }
            Err(_) => {
                debug!(%upstream, "the upstream did not respond in time");
                increment(&self.0.upstream_timeouts);
                None
            }
        }
    }
}

/// Sends a query from a new socket, and waits for its response without a time limit.
pub(super) async fn query_over_udp(
    upstream: SocketAddr,
    query: &UpstreamQuery,
) -> io::Result<Response> {
    let local: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(upstream).await?;
    let message = query.with_id(rand::random());
    socket.send(&message).await?;

    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(response) = Response::parse(&buffer[..length], &message) {
            return Ok(response);
        }
    }
}

/// Sends a query over a new connection, and waits for its response without a time limit.
async fn query_over_tcp(upstream: SocketAddr, query: &UpstreamQuery) -> io::Result<Response> {
    let mut stream = TcpStream::connect(upstream).await?;
    let message = query.with_id(rand::random());
    tcp::write_message(&mut stream, &message).await?;
    loop {
        let received = tcp::read_message(&mut stream).await?;
        if let Some(response) = Response::parse(&received, &message) {
            return Ok(response);
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::base::iana::OptRcode;
    use tokio::net::TcpListener;
    use zerohop_zone::Name;

    use super::*;

    #[tokio::test]
    async fn a_response_over_tcp_must_have_the_id_of_the_query() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut response = tcp::read_message(&mut stream).await.unwrap();
            // QR: the message is a response.
            response[2] |= 0x80;
            // A response with another ID, and REFUSED.
            let mut wrong_response = response.clone();
            wrong_response[1] ^= 1;
            wrong_response[3] |= 5;
            for message in [&wrong_response, &response] {
                tcp::write_message(&mut stream, message).await.unwrap();
            }
        });
        let query = UpstreamQuery::probing(&Name::parse("a.example").unwrap());
        let response = query_over_tcp(upstream, &query).await.unwrap();
        assert_eq!(response.rcode(), OptRcode::NOERROR);
        server.await.unwrap();
    }
}
