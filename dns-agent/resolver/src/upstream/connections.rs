//! Persistent connections to upstreams, on which queries are pipelined (RFC 7766 section 6.2).
//!
//! Each connection is a task. It assigns its own IDs, because queries of several clients share it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, split},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use super::{server_set::UpstreamServer, tls::TlsClient};
use crate::{
    counters::ResolverCounters,
    dnstap::{Dnstap, QueryPath, ResolverSide, TappedQuery},
    response::{CaseCheck, Reply, UpstreamQuery},
    tcp,
    traffic::{ConnectionOrigin, ConnectionProtocol},
};

/// How long a connection without queries stays open.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Upper bound on the queries of a connection that wait for a response. Another query opens another
/// connection.
const MAX_PIPELINED: usize = 128;
/// After this time without a message, a connection with a waiting query gets no more queries. The
/// server's host may have lost the connection without closing it.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);

/// The connections to all servers.
#[derive(Debug, Default)]
pub(super) struct TcpConnections {
    by_server: Mutex<HashMap<UpstreamServer, Vec<Arc<UpstreamConnection>>>>,
    tls: Arc<TlsClient>,
    dnstap: Option<Arc<Dnstap>>,
    counters: Arc<ResolverCounters>,
}

/// An open connection, or one that is being opened.
#[derive(Debug)]
struct UpstreamConnection {
    queries: mpsc::Sender<PipelinedQuery>,
    waiting: AtomicUsize,
    /// Since when queries wait without any message from the server.
    silent_since: Mutex<Option<Instant>>,
}

/// A query on its way to the task of a connection. The task drops it if the connection fails.
struct PipelinedQuery {
    message: Vec<u8>,
    response: oneshot::Sender<Vec<u8>>,
}

/// Which connection a query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionChoice {
    Any,
    New,
}

/// Gives the queries and responses of a connection to dnstap.
struct ConnectionTap {
    dnstap: Arc<Dnstap>,
    path: QueryPath,
}

/// A query that was sent over a connection, and has no response yet.
struct UnansweredQuery {
    response: oneshot::Sender<Vec<u8>>,
    /// `None` without dnstap.
    tapped: Option<TappedQuery>,
}

/// Counts a query as waiting until dropped.
struct WaitingQuery(Arc<UpstreamConnection>);

impl TcpConnections {
    pub(super) fn new(
        tls: TlsClient,
        dnstap: Option<Arc<Dnstap>>,
        counters: Arc<ResolverCounters>,
    ) -> TcpConnections {
        TcpConnections {
            by_server: Mutex::default(),
            tls: Arc::new(tls),
            dnstap,
            counters,
        }
    }

    /// Sends a query, and waits for its response without a time limit. If a reused connection ends
    /// before the response, the query is sent once more on a new connection, because the server
    /// may close an idle connection at any time.
    ///
    /// # Errors
    /// When a new connection can't be opened or ends before the response.
    pub(super) async fn exchange(
        &self,
        server: &UpstreamServer,
        query: &UpstreamQuery,
    ) -> io::Result<Reply> {
        for choice in [ConnectionChoice::Any, ConnectionChoice::New] {
            let (waiting, origin) = self.connection(server, choice);
            self.count_use(server, origin);
            if let Some(response) = waiting.0.request(query).await {
                // Within a connection the ID only assigns responses to queries.
                let id = response
                    .first_chunk()
                    .map_or(0, |id| u16::from_be_bytes(*id));
                let sent = query.with_id(id);
                return Ok(Reply::read(&response, &sent, CaseCheck::Ignored));
            }
            if origin == ConnectionOrigin::New {
                break;
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn count_use(&self, server: &UpstreamServer, origin: ConnectionOrigin) {
        let traffic = &self.counters.traffic.upstreams;
        traffic.count_connection(server.address, protocol_of(server), origin);
    }

    /// A connection with room for a query.
    fn connection(
        &self,
        server: &UpstreamServer,
        choice: ConnectionChoice,
    ) -> (WaitingQuery, ConnectionOrigin) {
        let by_server = self.by_server.lock();
        let mut by_server = by_server.unwrap_or_else(PoisonError::into_inner);
        by_server.retain(|_, connections| {
            connections.retain(|it| !it.queries.is_closed());
            !connections.is_empty()
        });
        let connections = by_server.entry(server.clone()).or_default();
        // A connection that is left out here ends when it is idle.
        connections.retain(|connection| !connection.is_silent());
        let with_room = |it: &&Arc<UpstreamConnection>| it.waiting.load(Relaxed) < MAX_PIPELINED;
        if choice == ConnectionChoice::Any
            && let Some(connection) = connections.iter().find(with_room)
        {
            let waiting = WaitingQuery::new(connection.clone());
            return (waiting, ConnectionOrigin::Reused);
        }
        let (tls, dnstap) = (self.tls.clone(), self.dnstap.clone());
        let connection = UpstreamConnection::open(server.clone(), tls, dnstap);
        connections.push(connection.clone());
        (WaitingQuery::new(connection), ConnectionOrigin::New)
    }
}

impl UpstreamConnection {
    /// Starts the task of a connection.
    fn open(
        server: UpstreamServer,
        tls: Arc<TlsClient>,
        dnstap: Option<Arc<Dnstap>>,
    ) -> Arc<UpstreamConnection> {
        let (sender, queries) = mpsc::channel(MAX_PIPELINED);
        let connection = Arc::new(UpstreamConnection {
            queries: sender,
            waiting: AtomicUsize::new(0),
            silent_since: Mutex::default(),
        });
        let weak = Arc::downgrade(&connection);
        let watch = move |silent_since| {
            if let Some(connection) = weak.upgrade() {
                connection.set_silent_since(silent_since);
            }
        };
        tokio::spawn(async move {
            if let Err(error) = run_connection(&server, &tls, dnstap, queries, watch).await {
                let server = server.address;
                debug!(upstream = %server, %error, "the connection to the upstream has failed");
            }
        });
        connection
    }

    /// The response to a query. `None`: the connection has ended.
    async fn request(&self, query: &UpstreamQuery) -> Option<Vec<u8>> {
        let (response, received) = oneshot::channel();
        let message = query.with_id(0);
        let query = PipelinedQuery { message, response };
        self.queries.send(query).await.ok()?;
        received.await.ok()
    }

    fn is_silent(&self) -> bool {
        let since = self.silent_since.lock();
        let since = since.unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() >= SILENCE_LIMIT)
    }

    fn set_silent_since(&self, instant: Option<Instant>) {
        let since = self.silent_since.lock();
        *since.unwrap_or_else(PoisonError::into_inner) = instant;
    }
}

impl WaitingQuery {
    fn new(connection: Arc<UpstreamConnection>) -> WaitingQuery {
        connection.waiting.fetch_add(1, Relaxed);
        WaitingQuery(connection)
    }
}

impl Drop for WaitingQuery {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl ConnectionTap {
    fn new(dnstap: Arc<Dnstap>, server: &UpstreamServer, local: SocketAddr) -> ConnectionTap {
        let path = QueryPath {
            protocol: protocol_of(server),
            initiator: local,
            responder: server.address,
        };
        ConnectionTap { dnstap, path }
    }

    fn record_query(&self, query: &[u8]) -> TappedQuery {
        let (side, sent) = (ResolverSide::Forwarder, SystemTime::now());
        TappedQuery::record(&self.dnstap, side, self.path, sent, query)
    }
}

impl UnansweredQuery {
    /// Gives the response to the query's attempt, which may have ended.
    fn answer(self, response: Vec<u8>) {
        if let Some(tapped) = &self.tapped {
            tapped.record_response(SystemTime::now(), &response);
        }
        let _ = self.response.send(response);
    }

    /// Whether the query's attempt has ended.
    fn is_abandoned(&self) -> bool {
        self.response.is_closed()
    }
}

fn protocol_of(server: &UpstreamServer) -> ConnectionProtocol {
    match server.tls_name() {
        None => ConnectionProtocol::Tcp,
        Some(_) => ConnectionProtocol::Tls,
    }
}

/// Opens a connection and serves it until it is idle, or until the server closes it. Reports to
/// `watch` since when queries wait without any message from the server.
async fn run_connection(
    server: &UpstreamServer,
    tls: &TlsClient,
    dnstap: Option<Arc<Dnstap>>,
    queries: mpsc::Receiver<PipelinedQuery>,
    watch: impl Fn(Option<Instant>),
) -> io::Result<()> {
    watch(Some(Instant::now()));
    let stream = timeout(IDLE_LIMIT, TcpStream::connect(server.address)).await??;
    // A query is one write, and must not wait for others.
    stream.set_nodelay(true)?;
    let tap = match dnstap {
        None => None,
        Some(dnstap) => Some(ConnectionTap::new(dnstap, server, stream.local_addr()?)),
    };
    let Some(name) = server.tls_name() else {
        let (reader, writer) = stream.into_split();
        return serve_connection(reader, writer, tap, queries, watch).await;
    };
    let stream = timeout(IDLE_LIMIT, tls.start(name, stream)).await??;
    let (reader, writer) = split(stream);
    serve_connection(reader, writer, tap, queries, watch).await
}

async fn serve_connection(
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    tap: Option<ConnectionTap>,
    mut queries: mpsc::Receiver<PipelinedQuery>,
    watch: impl Fn(Option<Instant>),
) -> io::Result<()> {
    // Reading a message can't be cancelled halfway, so a stream does it.
    let messages = stream::unfold(reader, |mut reader| async move {
        let message = tcp::read_message(&mut reader).await;
        Some((message, reader))
    });
    let mut messages = pin!(messages);
    let mut waiting: HashMap<u16, UnansweredQuery> = HashMap::new();
    let mut idle_at = Instant::now() + IDLE_LIMIT;
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = match message {
                    Some(Ok(message)) => message,
                    // The server may close a connection without waiting queries at any time.
                    Some(Err(error)) if !waiting.is_empty() => return Err(error),
                    _ => return Ok(()),
                };
                let id = message.first_chunk().map(|id| u16::from_be_bytes(*id));
                if let Some(query) = id.and_then(|id| waiting.remove(&id)) {
                    query.answer(message);
                }
                waiting.retain(|_, query| !query.is_abandoned());
                watch((!waiting.is_empty()).then(Instant::now));
            }
            query = queries.recv() => {
                let Some(PipelinedQuery { mut message, response }) = query else { return Ok(()) };
                waiting.retain(|_, query| !query.is_abandoned());
                if waiting.is_empty() {
                    watch(Some(Instant::now()));
                }
                let mut id = rand::random();
                while waiting.contains_key(&id) {
                    id = rand::random();
                }
                message[..2].copy_from_slice(&id.to_be_bytes());
                let tapped = tap.as_ref().map(|tap| tap.record_query(&message));
                waiting.insert(id, UnansweredQuery { response, tapped });
                timeout(IDLE_LIMIT, tcp::write_message(&mut writer, &message)).await??;
            }
            () = sleep_until(idle_at) => {
                waiting.retain(|_, query| !query.is_abandoned());
                if waiting.is_empty() {
                    return Ok(());
                }
            }
        }
        idle_at = Instant::now() + IDLE_LIMIT;
    }
}

#[cfg(test)]
mod tests;
