//! Asking upstreams.
//!
//! Each query goes out from a socket of its own under a random ID, so that a
//! forged answer would have to guess both (RFC 5452); whatever comes back and is
//! not the answer to it is as if it had not come.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
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
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many queries wait for upstreams at once: each holds a socket.
pub(super) const MAX_IN_FLIGHT: usize = 512;
/// Servers that don't know our limit may send up to this many octets.
const MAX_DATAGRAM: usize = 4096;

/// Servers that may change while they are in use; clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Servers(Arc<RwLock<Vec<SocketAddr>>>);

impl Servers {
    /// These servers, in order of preference.
    pub fn new(addresses: Vec<SocketAddr>) -> Servers {
        Servers(Arc::new(RwLock::new(addresses)))
    }

    /// Other servers from now on.
    pub fn set(&self, addresses: &[SocketAddr]) {
        let mut servers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        servers.clear();
        servers.extend(addresses);
    }

    /// The servers of the moment.
    pub fn get(&self) -> Vec<SocketAddr> {
        let servers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        servers.clone()
    }
}

/// Asks other servers, in the order given.
#[derive(Debug)]
pub(super) struct Forwarder {
    in_flight: Semaphore,
    counters: Arc<Counters>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoResponse {
    /// There is no upstream.
    NoUpstream,
    /// Too many queries are waiting already.
    Overloaded,
    /// No upstream gave an answer.
    Silence,
}

impl Forwarder {
    pub(super) fn new(counters: Arc<Counters>) -> Forwarder {
        Forwarder {
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            counters,
        }
    }

    /// The first answer an upstream gives; one cut short only when no upstream
    /// gives it whole.
    pub(super) async fn ask(
        &self,
        upstreams: &[SocketAddr],
        query: &UpstreamQuery,
    ) -> Result<Response, NoResponse> {
        if upstreams.is_empty() {
            return Err(NoResponse::NoUpstream);
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            bump(&self.counters.overloaded);
            return Err(NoResponse::Overloaded);
        };
        bump(&self.counters.forwarded);

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
                bump(&self.counters.upstream_errors);
                None
            }
            Err(_) => {
                debug!(%upstream, "the upstream did not answer in time");
                bump(&self.counters.upstream_timeouts);
                None
            }
        }
    }
}

async fn ask_by_datagram(upstream: SocketAddr, query: &UpstreamQuery) -> io::Result<Response> {
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
