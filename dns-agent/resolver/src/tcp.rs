//! DNS over TCP (RFC 7766). A connection carries many queries, and replies are sent as they become
//! ready.

use std::{io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use domain::base::{Message, iana::OptRcode};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Resolver,
    compose::header_only,
    counters::increment,
    query::{MAX_QUERY, Transport},
    shares::{Share, Shares},
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

/// What the connections of a listening address share.
struct ConnectionLimits {
    places: Shares,
    bytes: Shares,
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

/// Accepts and serves connections until dropped.
pub(super) async fn serve_connections(listener: TcpListener, resolver: Arc<Resolver>) {
    let mut connections = JoinSet::new();
    let limits = Arc::new(ConnectionLimits {
        places: Shares::new(MAX_CONNECTIONS),
        bytes: Shares::new(MAX_WAITING_BYTES),
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
        let (resolver, limits) = (resolver.clone(), limits.clone());
        connections.spawn(async move {
            let served = serve_connection(stream, client.ip(), &resolver, &limits.bytes);
            if let Err(error) = served.await {
                debug!(%client, %error, "a TCP connection is closed");
            }
            drop(place);
        });
        // Finished tasks are removed from the set.
        while connections.try_join_next().is_some() {}
    }
}

/// Answers a connection's queries until the client closes its side, no complete query arrives for
/// [`IDLE_TIMEOUT`], or reading or writing fails. While a reply waits to be written, nothing is
/// read.
///
/// # Errors
/// When a reply can't be written, a query is too long, or too many bytes of the client wait.
async fn serve_connection(
    stream: TcpStream,
    client: IpAddr,
    resolver: &Arc<Resolver>,
    bytes: &Shares,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // The stream of queries ends without an error, so that queries already read are answered.
    let queries = stream::unfold(Some(reader), |reader| {
        let bytes = bytes.clone();
        async move {
            let mut reader = reader?;
            let read = read_query(&mut reader, client, &bytes);
            let query = timeout(IDLE_TIMEOUT, read).await.ok()?.ok()?;
            let reader = matches!(query, ReceivedQuery::Whole(_)).then_some(reader);
            Some((query, reader))
        }
    });
    let mut replies = pin!(
        queries
            .map(|query| async move { answer_query(query, client, resolver, bytes).await })
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
    client: IpAddr,
    shares: &Shares,
) -> io::Result<ReceivedQuery> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        let mut start = vec![0; MAX_QUERY];
        stream.read_exact(&mut start).await?;
        return Ok(ReceivedQuery::TooLong(start));
    }
    let share = shares.take(client, length).ok_or_else(too_much_waits)?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let _share = share;
    Ok(ReceivedQuery::Whole(WaitingMessage { bytes, _share }))
}

async fn answer_query(
    query: ReceivedQuery,
    client: IpAddr,
    resolver: &Arc<Resolver>,
    shares: &Shares,
) -> io::Result<Option<WaitingMessage>> {
    let reply = match &query {
        ReceivedQuery::Whole(query) => {
            let answer = resolver.answer_message(&query.bytes, Transport::Tcp, client);
            answer.await
        }
        ReceivedQuery::TooLong(start) => Message::from_slice(start)
            .ok()
            .map(|message: &Message<[u8]>| header_only(message.header(), OptRcode::FORMERR)),
    };
    let Some(bytes) = reply else {
        return Ok(None);
    };
    let _share = shares
        .take(client, bytes.len())
        .ok_or_else(too_much_waits)?;
    Ok(Some(WaitingMessage { bytes, _share }))
}

fn too_much_waits() -> io::Error {
    io::Error::other("too many bytes of queries and replies of this client wait")
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
