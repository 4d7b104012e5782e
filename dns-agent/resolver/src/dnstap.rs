//! Sends the DNS messages of clients and of upstreams to a collector, as dnstap (dnstap.info).
//!
//! [`message`] encodes a DNS message with its addresses and times as protobuf. [`queue`] holds
//! encoded messages up to a limit, and drops the messages beyond it. [`collector`] connects to the
//! collector's Unix socket, and sends what waits in the queue. [`frames`] has the frames of the
//! stream. Only `collector` waits for the collector.
//!
//! Answers of the kernel plane don't reach this process, so they are not sent.

mod collector;
mod frames;
mod message;
mod queue;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::timeout};

use self::{
    message::{DnstapMessage, MessageKind, encode_origin},
    queue::FrameQueue,
};
use super::{counters::ResolverCounters, traffic::ConnectionProtocol};

/// How long the end of the agent waits until the collector has received what waits in the queue.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The collector, and what tells it where the messages come from.
#[derive(Clone, Debug)]
pub struct DnstapSettings {
    /// The collector's Unix stream socket.
    pub socket: PathBuf,
    /// The name of this node. `None`: not known, so the messages have no identity.
    pub identity: Option<String>,
    /// The name and version of this program.
    pub version: String,
}

/// Queues messages for the collector.
#[derive(Debug)]
pub(super) struct Dnstap {
    socket: PathBuf,
    /// The encoded fields that all messages share.
    origin: Vec<u8>,
    queue: FrameQueue,
    /// Notified when the stream is to end.
    closing: Notify,
    /// Notified when the stream has ended.
    closed: Notify,
}

/// The two ends of a query, and its transport.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryPath {
    pub(super) protocol: ConnectionProtocol,
    /// The sender of the query.
    pub(super) initiator: SocketAddr,
    /// The receiver of the query.
    pub(super) responder: SocketAddr,
}

/// Whether this process receives a query or sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResolverSide {
    /// A client sent the query to this process.
    Client,
    /// This process sent the query to an upstream.
    Forwarder,
}

/// A query that is queued for the collector, and whose response is not queued yet.
#[derive(Clone, Debug)]
pub(super) struct TappedQuery {
    dnstap: Arc<Dnstap>,
    side: ResolverSide,
    path: QueryPath,
    sent: SystemTime,
}

/// The stream of messages to the collector.
#[derive(Clone, Debug)]
pub struct DnstapStream(Arc<Dnstap>);

impl Dnstap {
    pub(super) fn new(settings: &DnstapSettings, counters: Arc<ResolverCounters>) -> Dnstap {
        Dnstap {
            socket: settings.socket.clone(),
            origin: encode_origin(settings.identity.as_deref(), &settings.version),
            queue: FrameQueue::new(counters),
            closing: Notify::new(),
            closed: Notify::new(),
        }
    }
}

impl DnstapStream {
    pub(super) fn new(dnstap: Arc<Dnstap>) -> DnstapStream {
        DnstapStream(dnstap)
    }

    /// Sends messages to the collector until [`DnstapStream::close`] is called. Connects again when
    /// the collector goes away.
    pub async fn run(&self) {
        collector::deliver(&self.0.socket, &self.0.queue, &self.0.closing).await;
        self.0.closed.notify_one();
    }

    /// Ends the stream after the messages that wait. Waits for 1 s at most.
    pub async fn close(&self) {
        self.0.closing.notify_one();
        // A collector that doesn't read must not delay the end of the agent.
        let _ = timeout(CLOSE_LIMIT, self.0.closed.notified()).await;
    }
}

impl TappedQuery {
    /// Queues a query that was received, or that is about to be sent.
    pub(super) fn record(
        dnstap: &Arc<Dnstap>,
        side: ResolverSide,
        path: QueryPath,
        sent: SystemTime,
        query: &[u8],
    ) -> TappedQuery {
        let tapped = TappedQuery {
            dnstap: dnstap.clone(),
            side,
            path,
            sent,
        };
        let kind = match side {
            ResolverSide::Client => MessageKind::ClientQuery,
            ResolverSide::Forwarder => MessageKind::ForwarderQuery,
        };
        tapped.push(kind, None, query);
        tapped
    }

    /// Queues the response to the query.
    pub(super) fn record_response(&self, received: SystemTime, response: &[u8]) {
        let kind = match self.side {
            ResolverSide::Client => MessageKind::ClientResponse,
            ResolverSide::Forwarder => MessageKind::ForwarderResponse,
        };
        self.push(kind, Some(received), response);
    }

    fn push(&self, kind: MessageKind, response_time: Option<SystemTime>, bytes: &[u8]) {
        let message = DnstapMessage {
            kind,
            path: self.path,
            query_time: self.sent,
            response_time,
            bytes,
        };
        let dnstap = &self.dnstap;
        dnstap.queue.push(&message.encode_frame(&dnstap.origin));
    }
}

#[cfg(test)]
mod tests;
