//! DNS over TCP (RFC 7766). A connection carries many queries, and replies are sent as they become
//! ready.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use domain::base::{Message, iana::OptRcode};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    FinishedReply, Resolver,
    compose::header_only,
    counters::increment,
    observers::{ClientPath, ObservedReply},
    query::{MAX_QUERY, Transport},
    shares::{ClientTurns, Share, Shares},
    traffic::{QueryLabels, ReplySource, TaskTally},
};

/// Time limit for the next query to arrive, and for the client to accept a reply.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound on open connections per listening address, of which a client has a share.
const MAX_CONNECTIONS: usize = 512;
/// Upper bound on concurrent queries of one connection.
const MAX_CONCURRENT_QUERIES: usize = 32;
/// Upper bound on the bytes of queries and replies of a listening address's connections that wait,
/// of which a client has a share.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// Delay after a failed accept, which usually means that the system is short of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts the connections of a listening address, and answers their queries.
pub struct TcpServer {
    pub(super) listener: TcpListener,
    pub(super) resolver: Arc<Resolver>,
    /// Counts the replies.
    pub(super) tally: TaskTally,
}

/// The clients that may have connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdmittedClients {
    /// All clients.
    #[default]
    All,
    /// Those with these addresses.
    Only(Arc<BTreeSet<IpAddr>>),
}

/// What the connections of a listening address share.
struct ConnectionLimits {
    places: Shares,
    bytes: Shares,
    turns: ClientTurns,
}

/// A client, and what its connections share with each other and with those of other clients.
#[derive(Clone)]
struct ConnectedClient {
    address: IpAddr,
    /// The addresses of the connection. `None`: its queries are not observed.
    observed_path: Option<ClientPath>,
    bytes: Shares,
    turns: Arc<Semaphore>,
    tally: TaskTally,
}

/// A message that waits to be answered or to be written.
struct WaitingMessage {
    bytes: Vec<u8>,
    _share: Share,
}

/// What a client sent.
enum ReceivedQuery {
    Whole(WaitingMessage),
    /// The first bytes of a message of more than [`MAX_QUERY`] bytes, at least a header.
    TooLong(Vec<u8>),
}

impl TcpServer {
    /// Accepts and serves the connections of all clients until dropped.
    pub async fn serve(self) -> Infallible {
        let (_all, admitted) = watch::channel(AdmittedClients::All);
        self.serve_admitted(admitted).await
    }

    /// As [`TcpServer::serve`], but only while the clients are admitted. When a client is not any
    /// more, its connections end after the replies to the queries that were read. Each connection
    /// has a clone of `admitted`.
    pub async fn serve_admitted(self, admitted: watch::Receiver<AdmittedClients>) -> Infallible {
        let TcpServer {
            listener,
            resolver,
            tally,
        } = self;
        let mut connections = JoinSet::new();
        let limits = Arc::new(ConnectionLimits {
            places: Shares::new(MAX_CONNECTIONS),
            bytes: Shares::new(MAX_WAITING_BYTES),
            turns: ClientTurns::default(),
        });
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(
                        %error,
                        "can't accept a TCP connection: new clients get no reply over TCP meanwhile; \
                         the agent retries after {ACCEPT_PAUSE:?}; \
                         if this repeats, raise the limit on open files"
                    );
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = limits.places.take(client.ip(), 1) else {
                // Dropping the stream closes the connection.
                increment(&resolver.counters().connections_refused);
                continue;
            };
            let (resolver, limits, tally) = (resolver.clone(), limits.clone(), tally.clone());
            let admitted = admitted.clone();
            connections.spawn(async move {
                let connected = ConnectedClient {
                    address: client.ip(),
                    observed_path: observed_path(&stream, client, &resolver),
                    bytes: limits.bytes.clone(),
                    turns: limits.turns.of(client.ip()),
                    tally,
                };
                let served = serve_connection(stream, &connected, &resolver, admitted);
                if let Err(error) = served.await {
                    debug!(%client, %error, "a TCP connection is closed");
                }
                drop(place);
            });
            // Finished tasks are removed from the set.
            while connections.try_join_next().is_some() {}
        }
    }
}

impl AdmittedClients {
    fn admit(&self, client: IpAddr) -> bool {
        match self {
            AdmittedClients::All => true,
            AdmittedClients::Only(clients) => clients.contains(&client),
        }
    }
}

/// Waits until the client is not admitted, or the sender is dropped.
async fn excluded(mut admitted: watch::Receiver<AdmittedClients>, client: IpAddr) {
    // The result only says which of the two has happened.
    let _ = admitted.wait_for(|admitted| !admitted.admit(client)).await;
}

/// The addresses of a connection if its queries are observed.
fn observed_path(
    stream: &TcpStream,
    client: SocketAddr,
    resolver: &Resolver,
) -> Option<ClientPath> {
    resolver.observers.as_ref()?;
    Some(ClientPath {
        transport: Transport::Tcp,
        client,
        // Fails only if the connection has ended already.
        server: stream.local_addr().ok()?,
    })
}

/// Answers a connection's queries until the client closes its side or is not admitted any more, no
/// complete query arrives for [`IDLE_TIMEOUT`], or reading or writing fails. While a reply waits to
/// be written, nothing is read.
///
/// # Errors
/// When a reply can't be written, a query is too long, or too many bytes of the client wait.
async fn serve_connection(
    stream: TcpStream,
    client: &ConnectedClient,
    resolver: &Arc<Resolver>,
    admitted: watch::Receiver<AdmittedClients>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // The stream of queries ends without an error, so that queries already read are answered.
    let queries = stream::unfold(Some(reader), |reader| {
        let (client, admitted) = (client.clone(), admitted.clone());
        async move {
            let mut reader = reader?;
            let read = read_query(&mut reader, &client);
            let query = tokio::select! {
                read = timeout(IDLE_TIMEOUT, read) => read.ok()?.ok()?,
                () = excluded(admitted, client.address) => return None,
            };
            let reader = matches!(query, ReceivedQuery::Whole(_)).then_some(reader);
            Some((query, reader))
        }
    });
    let mut replies = pin!(
        queries
            .map(|query| async move { answer_query(query, client, resolver).await })
            .buffer_unordered(MAX_CONCURRENT_QUERIES)
    );
    while let Some(reply) = replies.next().await {
        if let Some(message) = reply? {
            timeout(IDLE_TIMEOUT, write_message(&mut writer, &message.bytes)).await??;
        }
    }
    Ok(())
}

/// Reads a query, if the client may have its bytes wait.
async fn read_query(
    stream: &mut (impl AsyncRead + Unpin),
    client: &ConnectedClient,
) -> io::Result<ReceivedQuery> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        let mut start = vec![0; MAX_QUERY];
        stream.read_exact(&mut start).await?;
        return Ok(ReceivedQuery::TooLong(start));
    }
    let _share = client.take_bytes(length)?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(ReceivedQuery::Whole(WaitingMessage { bytes, _share }))
}

async fn answer_query(
    query: ReceivedQuery,
    client: &ConnectedClient,
    resolver: &Arc<Resolver>,
) -> io::Result<Option<WaitingMessage>> {
    let arrived = Instant::now();
    let (ReceivedQuery::Whole(WaitingMessage { bytes, .. }) | ReceivedQuery::TooLong(bytes)) =
        &query;
    let labels = QueryLabels::read(bytes, Transport::Tcp, client.address);
    let observed = match (&resolver.observers, client.observed_path) {
        (Some(observers), Some(path)) => observers.receive(bytes, path),
        _ => None,
    };
    let (reply, source) = match &query {
        ReceivedQuery::Whole(query) => {
            let turn = client.turns.acquire().await;
            let started = resolver.start_answer(&query.bytes, Transport::Tcp, client.address);
            // With the turn held, the client's other queries wait until other clients have had
            // turns.
            yield_now().await;
            drop(turn);
            let source = started.source;
            let reply = resolver.finish_answer(started, client.address).await;
            (reply, source)
        }
        ReceivedQuery::TooLong(start) => {
            let message: Option<&Message<[u8]>> = Message::from_slice(start).ok();
            let refuse = |message: &Message<[u8]>| header_only(message.header(), OptRcode::FORMERR);
            let reply = message.map(refuse).map(|message| FinishedReply {
                message,
                upstream: None,
            });
            (reply, ReplySource::Refusal)
        }
    };
    let Some(FinishedReply {
        message: bytes,
        upstream,
    }) = reply
    else {
        return Ok(None);
    };
    let took = arrived.elapsed();
    client.tally.count(&labels, source, &bytes, took);
    if let Some(observed) = observed {
        observed.finish(&ObservedReply {
            labels: &labels,
            source,
            upstream,
            message: &bytes,
            took,
        });
    }
    let _share = client.take_bytes(bytes.len())?;
    Ok(Some(WaitingMessage { bytes, _share }))
}

impl ConnectedClient {
    /// # Errors
    /// When too many bytes of the client wait.
    fn take_bytes(&self, count: usize) -> io::Result<Share> {
        let share = self.bytes.take(self.address, count);
        share.ok_or_else(|| io::Error::other("too many bytes of queries and replies wait"))
    }
}

/// Reads a message with its two-byte length prefix.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length prefix in one write, because some clients read only the first
/// segment (RFC 7766 section 8).
pub(super) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the message is longer than 65535 bytes",
        )
    })?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    // TLS may hold bytes back.
    stream.flush().await
}
