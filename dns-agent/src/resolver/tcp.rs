//! DNS over TCP (RFC 7766): connections that carry many queries, answered as the
//! answers become ready.

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

use super::{Resolver, counters::bump, message::Transport};

/// How long a connection may be silent, and a client may take to read a reply.
const IDLE: Duration = Duration::from_secs(10);
/// How many connections are open at once on one address.
const MAX_CONNECTIONS: usize = 512;
/// How many queries of one connection are worked on at once.
const PIPELINE: usize = 32;
/// How long to wait after the system refused to accept, for it is out of
/// something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and serves them, until dropped.
pub(super) async fn serve(listener: TcpListener, resolver: Arc<Resolver>) {
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "can't accept a TCP connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            bump(&resolver.counters().connections_refused);
            continue;
        };
        let resolver = resolver.clone();
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, &resolver).await {
                debug!(%error, "a TCP connection ended");
            }
            drop(permit);
        });
        // Those that ended are forgotten.
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one connection's queries until it is closed or silent for too long.
async fn serve_connection(stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // What was read before the connection ended is still answered.
    let queries = stream::unfold(reader, |mut reader| async move {
        let query = timeout(IDLE, read_message(&mut reader)).await.ok()?.ok()?;
        Some((query, reader))
    });
    let mut replies = pin!(
        queries
            .map(|query| async move { resolver.answer(&query, Transport::Tcp).await })
            .buffer_unordered(PIPELINE)
    );
    while let Some(reply) = replies.next().await {
        if let Some(message) = reply {
            timeout(IDLE, write_message(&mut writer, &message)).await??;
        }
    }
    Ok(())
}

/// Reads a message and the two octets of its length in front.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length in front, in one piece: some clients read
/// no further than the first segment (RFC 7766 section 8).
pub(super) async fn write_message(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "a message longer than 65535 octets",
        )
    })?;
    let mut octets = Vec::with_capacity(2 + message.len());
    octets.extend_from_slice(&length.to_be_bytes());
    octets.extend_from_slice(message);
    stream.write_all(&octets).await
}
