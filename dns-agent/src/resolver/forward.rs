//! Asking upstreams.
//!
//! Each query goes out from a socket of its own under a random ID, so that a
//! forged answer would have to guess both (RFC 5452); whatever comes back and is
//! not the answer to it is as if it had not come.

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
    counters::{Counters, bump},
    response::{Response, UpstreamQuery},
    tcp,
};

/// How long one upstream may take, for a datagram and again for a connection.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How many different questions upstreams are asked at once: each holds a socket.
pub(super) const MAX_IN_FLIGHT: usize = 512;
/// Servers that don't know our limit may send up to this many octets.
const MAX_DATAGRAM: usize = 4096;

/// How many clients' queries wait for these.
pub(super) const MAX_WAITING: usize = 4096;

/// Servers that may change while they are in use; clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Servers(Arc<RwLock<Choice>>);

/// Servers, and those that are not asked.
#[derive(Debug, Default)]
struct Choice {
    servers: Vec<SocketAddr>,
    /// This resolver's own addresses: it would ask itself.
    own: Vec<SocketAddr>,
}

impl Servers {
    /// These servers, in order of preference.
    pub fn new(servers: Vec<SocketAddr>) -> Servers {
        let own = Vec::new();
        Servers(Arc::new(RwLock::new(Choice { servers, own })))
    }

    /// Other servers from now on.
    pub fn set(&self, addresses: &[SocketAddr]) {
        let mut choice = self.0.write().unwrap_or_else(PoisonError::into_inner);
        choice.servers = addresses.to_vec();
    }

    /// Never asks these addresses, at which this resolver itself answers.
    pub fn exclude(&self, own: &[SocketAddr]) {
        let mut choice = self.0.write().unwrap_or_else(PoisonError::into_inner);
        choice.own = own.to_vec();
    }

    /// The servers of the moment.
    pub fn get(&self) -> Vec<SocketAddr> {
        self.filtered(Asked::Yes)
    }

    /// Those of them that are not asked, because they are this resolver.
    pub(super) fn excluded(&self) -> Vec<SocketAddr> {
        self.filtered(Asked::No)
    }

    fn filtered(&self, wanted: Asked) -> Vec<SocketAddr> {
        let choice = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let asked = |server: &&SocketAddr| match choice.own.contains(server) {
            true => wanted == Asked::No,
            false => wanted == Asked::Yes,
        };
        choice.servers.iter().filter(asked).copied().collect()
    }
}

/// Whether a server is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

/// Asks other servers, in the order given.
///
/// A question that is being asked is not asked again (RFC 5452 section 5): who asks the same waits for
/// the same response. So a query that comes back, because an upstream asks this resolver in turn, ends
/// here, and a loop costs one question.
#[derive(Debug)]
pub(super) struct Forwarder {
    in_flight: Arc<Semaphore>,
    waiting: Semaphore,
    open: Open,
    counters: Arc<Counters>,
}

/// The exchanges that have not ended, by what is asked of whom; each with a number, by which it is
/// told from a later one.
type Open = Arc<Mutex<HashMap<Key, (u64, WeakShared<Exchange>)>>>;

/// Who is asked, and what.
type Key = (Vec<SocketAddr>, Vec<u8>);

/// A question to upstreams, and their response.
type Exchange = BoxFuture<'static, Result<Arc<Response>, NoResponse>>;

/// The entry of an exchange, which ends with it.
struct Entry {
    open: Open,
    key: Key,
    number: u64,
}

impl Drop for Entry {
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

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResponse {
    /// There is no upstream.
    NoUpstream,
    /// The cluster's DNS would have to be asked, and its address is not known.
    Unknown,
    /// Too many queries are waiting already.
    Overloaded,
    /// No upstream gave an answer.
    Silence,
}

impl Forwarder {
    pub(super) fn new(counters: Arc<Counters>) -> Forwarder {
        Forwarder {
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            waiting: Semaphore::new(MAX_WAITING),
            open: Open::default(),
            counters,
        }
    }

    /// The first answer an upstream gives; one cut short only when no upstream
    /// gives it whole.
    pub(super) async fn ask(
        &self,
        upstreams: &[SocketAddr],
        query: &UpstreamQuery,
    ) -> Result<Arc<Response>, NoResponse> {
        if upstreams.is_empty() {
            return Err(NoResponse::NoUpstream);
        }
        let place = self.waiting.try_acquire();
        let (Ok(_place), Some(exchange)) = (place, self.exchange(upstreams, query)) else {
            bump(&self.counters.overloaded);
            return Err(NoResponse::Overloaded);
        };
        exchange.await
    }

    /// The exchange that asks this, begun now if there is none. `None`: there are too many.
    fn exchange(
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
        bump(&self.counters.forwarded);
        let entry = Entry {
            open: self.open.clone(),
            key: key.clone(),
            number: rand::random(),
        };
        let number = entry.number;
        let attempts = Attempts(self.counters.clone());
        let (upstreams, query) = (upstreams.to_vec(), query.clone());
        let exchange = async move {
            let _until_the_end = (permit, entry);
            attempts.ask_in_turn(&upstreams, &query).await.map(Arc::new)
        };
        let exchange = exchange.boxed().shared();
        if let Some(weak) = exchange.downgrade() {
            open.insert(key, (number, weak));
        }
        Some(exchange)
    }
}

/// Asks one server after the other, and counts.
struct Attempts(Arc<Counters>);

impl Attempts {
    async fn ask_in_turn(
        &self,
        upstreams: &[SocketAddr],
        query: &UpstreamQuery,
    ) -> Result<Response, NoResponse> {
        let mut truncated = None;
        for &upstream in upstreams {
            let Some(response) = self
                .attempt(upstream, ask_by_datagram(upstream, query))
                .await
            else {
                continue;
            };
            if !response.is_truncated() {
                return Ok(response);
            }
            match self
                .attempt(upstream, ask_by_connection(upstream, query))
                .await
            {
                Some(response) => return Ok(response),
                None => truncated = truncated.or(Some(response)),
            }
        }
        truncated.ok_or(NoResponse::Silence)
    }

    /// An upstream's answer, if it comes in time.
    async fn attempt(
        &self,
        upstream: SocketAddr,
        answer: impl Future<Output = io::Result<Response>>,
    ) -> Option<Response> {
        match timeout(TIMEOUT, answer).await {
            Ok(Ok(response)) => Some(response),
            Ok(Err(error)) => {
                debug!(%upstream, %error, "can't ask the upstream");
                bump(&self.0.upstream_errors);
                None
            }
            Err(_) => {
                debug!(%upstream, "the upstream did not answer in time");
                bump(&self.0.upstream_timeouts);
                None
            }
        }
    }
}

pub(super) async fn ask_by_datagram(
    upstream: SocketAddr,
    query: &UpstreamQuery,
) -> io::Result<Response> {
    let local: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(upstream).await?;
    let asked = query.with_id(rand::random());
    socket.send(&asked).await?;

    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(response) = Response::parse(&buffer[..length], &asked) {
            return Ok(response);
        }
    }
}

async fn ask_by_connection(upstream: SocketAddr, query: &UpstreamQuery) -> io::Result<Response> {
    let mut stream = TcpStream::connect(upstream).await?;
    let asked = query.with_id(rand::random());
    tcp::write_message(&mut stream, &asked).await?;
    loop {
        let message = tcp::read_message(&mut stream).await?;
        if let Some(response) = Response::parse(&message, &asked) {
            return Ok(response);
        }
    }
}
