//! DNS over TCP (RFC 7766). A connection carries many queries, and replies are sent as they become
//! ready.

use std::{io, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Resolver, counters::increment, query::Transport};

/// Time limit for the next query to arrive, and for the client to accept a reply.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound on open connections per listening address.
const MAX_CONNECTIONS: usize = 512;
/// Upper bound on concurrent queries of one connection.
const MAX_CONCURRENT_QUERIES: usize = 32;
/// Delay after a failed accept, which usually means that the system is short of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves connections until dropped.
pub(super) async fn serve_connections(listener: TcpListener, resolver: Arc<Resolver>) {
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
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
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            // Dropping the stream closes the connection.
            increment(&resolver.counters().connections_refused);
            continue;
        };
        let resolver = resolver.clone();
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, &resolver).await {
                debug!(%error, "can't write a TCP reply, so the connection is closed");
            }
            drop(permit);
        });
        // Finished tasks are removed from the set.
        while connections.try_join_next().is_some() {}
    }
}

/// Answers a connection's queries until the client closes its side, no complete query arrives for
/// [`IDLE_TIMEOUT`], or reading or writing fails.
async fn serve_connection(stream: TcpStream, resolver: &Arc<Resolver>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // The stream of queries ends without an error, so that queries already read are answered.
    let queries = stream::unfold(reader, |mut reader| async move {
        let query = timeout(IDLE_TIMEOUT, read_message(&mut reader))
            .await
            .ok()?
            .ok()?;
        Some((query, reader))
    });
    let mut replies = pin!(
        queries
            .map(|query| async move { resolver.answer_message(&query, Transport::Tcp).await })
            .buffer_unordered(MAX_CONCURRENT_QUERIES)
    );
    while let Some(reply) = replies.next().await {
        if let Some(message) = reply {
            timeout(IDLE_TIMEOUT, write_message(&mut writer, &message)).await??;
        }
    }
    Ok(())
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
