//! DNS over UDP: one or more sockets for an address, each with a server of its own. Replies come
//! from the address that was queried.

mod listener;

use std::{
    convert::Infallible,
    io, iter,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use domain::base::{Message, iana::OptRcode};
use tokio::{
    io::Interest,
    net::UdpSocket,
    runtime::Handle,
    task::{JoinSet, yield_now},
    time::sleep,
};
use tracing::warn;

pub(super) use self::listener::UdpListener;
use self::listener::{BATCH, ReceiveBuffer, ReplyRoute};
use super::{
    FinishedReply, Resolver, StartedAnswer,
    canary::CanarySources,
    compose::header_only,
    counters::increment,
    message::QueryAction,
    observers::{ObservedQuery, ObservedReply},
    query::{MAX_QUERY, Transport},
    received::ReceivedQueries,
    traffic::{QueryLabels, ReplySource, TaskTally, UdpTally},
};

/// Upper bound on a socket's received queries that wait for their turns, of which a client has a
/// share.
const MAX_RECEIVED: usize = 1024;
/// Upper bound on the batches that are received before queries are answered.
const MAX_BATCHES: usize = 32;
/// Delay after a failed receive, which usually means that the system is short of a resource.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// Receives the queries of a socket, and answers them.
pub struct UdpReceiver {
    pub(super) listener: Arc<UdpListener>,
    pub(super) resolver: Arc<Resolver>,
    /// The number of the receiver among those of its address.
    pub(super) number: usize,
    /// The addresses from which the agent itself tests the receivers; their queries aren't counted.
    pub(super) canary: Arc<CanarySources>,
    /// Counts the replies of this server.
    pub(super) tally: UdpTally,
    /// Counts the replies of the queries' own tasks.
    pub(super) task_tally: TaskTally,
    /// The runtime of the answers that wait for upstreams.
    pub(super) waiting: Handle,
}

/// Answers that were decided at the same time.
#[derive(Default)]
struct ReplyBatch {
    replies: Vec<(Vec<u8>, ReplyRoute)>,
    /// The query of each reply. `None`: it is not counted.
    queries: Vec<Option<CountedQuery>>,
    /// Whether queries became questions to upstreams.
    has_questions: bool,
}

/// A query whose reply is counted.
struct CountedQuery {
    labels: QueryLabels,
    source: ReplySource,
    observed: Option<Box<ObservedQuery>>,
    arrived: Instant,
}

/// A datagram that waits for its turn.
struct WaitingDatagram {
    /// At most [`MAX_QUERY`] bytes, or one more.
    message: Vec<u8>,
    route: ReplyRoute,
    arrived: Instant,
}

impl UdpReceiver {
    /// Answers queries until dropped. Each query that needs an upstream has its own task, so that
    /// it doesn't delay others.
    ///
    /// # Errors
    /// When the current runtime can't watch the socket.
    pub async fn serve(mut self) -> io::Result<Infallible> {
        let readiness = self.listener.readiness()?;
        let mut buffers = vec![[0; MAX_QUERY + 1]; BATCH];
        let mut received = ReceivedQueries::new(MAX_RECEIVED);
        let mut waiting = JoinSet::<()>::new();
        loop {
            let batch = match self
                .answer_batch(&readiness, &mut buffers, &mut received, &mut waiting)
                .await
            {
                Ok(batch) => batch,
                Err(error) => {
                    warn!(
                        %error,
                        "can't receive a UDP query: clients get no reply over UDP meanwhile; \
                         the agent retries after {RECEIVE_PAUSE:?}; \
                         if this repeats, check the memory limit of the agent's pod"
                    );
                    sleep(RECEIVE_PAUSE).await;
                    continue;
                }
            };
            self.send(&batch);
            if batch.has_questions {
                // Without this, a receiver that shares its CPU with the workers interrupts them for
                // nearly every query, and a question costs a third more time.
                thread::yield_now();
            }
            // Finished tasks are removed from the set.
            while waiting.try_join_next().is_some() {}
        }
    }

    /// Receives queries and answers some of them. Waits if none has been received.
    async fn answer_batch(
        &self,
        readiness: &UdpSocket,
        buffers: &mut [ReceiveBuffer],
        received: &mut ReceivedQueries<WaitingDatagram>,
        waiting: &mut JoinSet<()>,
    ) -> io::Result<ReplyBatch> {
        let mut batch = ReplyBatch::default();
        if received.is_empty() {
            let receive = || self.listener.receive(buffers);
            let datagrams = readiness.async_io(Interest::READABLE, receive).await?;
            let arrived = Instant::now();
            if datagrams.len() < buffers.len() {
                // These are all, so no client waits for its turn.
                for (buffer, (length, route)) in buffers.iter().zip(datagrams) {
                    self.answer(&buffer[..length], route, arrived, &mut batch, waiting);
                }
                return Ok(batch);
            }
            self.queue(buffers, datagrams, received, &mut batch, waiting);
        }
        // Other tasks have turns too, even if the queries never end.
        yield_now().await;
        // All that has arrived is received first, so that the socket has room for other clients.
        for _ in 0..MAX_BATCHES {
            // No datagram is left, or an error returns when no query waits any more.
            let Ok(datagrams) = self.listener.receive(buffers) else {
                break;
            };
            let is_last = datagrams.len() < buffers.len();
            self.queue(buffers, datagrams, received, &mut batch, waiting);
            if is_last {
                break;
            }
        }
        for datagram in iter::from_fn(|| received.pop()).take(BATCH) {
            let WaitingDatagram {
                message,
                route,
                arrived,
            } = datagram;
            self.answer(&message, route, arrived, &mut batch, waiting);
        }
        Ok(batch)
    }

    /// Lets queries wait for their turns. Drops queries of clients that have no place for them. The
    /// canary's query is answered at once, because no client may keep it out.
    fn queue(
        &self,
        buffers: &[ReceiveBuffer],
        datagrams: Vec<(usize, ReplyRoute)>,
        received: &mut ReceivedQueries<WaitingDatagram>,
        batch: &mut ReplyBatch,
        waiting: &mut JoinSet<()>,
    ) {
        let arrived = Instant::now();
        for (buffer, (length, route)) in buffers.iter().zip(datagrams) {
            if self.is_canary(route.client) {
                self.answer(&buffer[..length], route, arrived, batch, waiting);
                continue;
            }
            let client = route.client.ip();
            if !received.has_place(client) {
                increment(&self.resolver.counters().queries_dropped);
                continue;
            }
            let message = buffer[..length].to_vec();
            let query = WaitingDatagram {
                message,
                route,
                arrived,
            };
            received.push(client, query);
        }
    }

    /// Adds the reply to a query to the batch. A query that needs an upstream gets a task instead.
    fn answer(
        &self,
        query: &[u8],
        route: ReplyRoute,
        arrived: Instant,
        batch: &mut ReplyBatch,
        waiting: &mut JoinSet<()>,
    ) {
        let (resolver, client) = (&self.resolver, route.client.ip());
        // The tasks that this starts, such as those that refresh the cache, don't run here.
        let _tasks = self.waiting.enter();
        let is_canary = self.is_canary(route.client);
        let started = if query.len() > MAX_QUERY {
            StartedAnswer::without_wait(refuse_long_query(query), ReplySource::Refusal)
        } else if is_canary {
            let rotation = 0;
            let action = resolver.decide_action(query, Transport::Udp, rotation);
            StartedAnswer::without_wait(action, ReplySource::LocalData)
        } else {
            resolver.start_answer(query, Transport::Udp, client)
        };
        let counted = (!is_canary).then(|| CountedQuery {
            labels: QueryLabels::read(query, Transport::Udp, client),
            source: started.source,
            observed: (resolver.observers.as_ref())
                .and_then(|observers| observers.receive(query, self.listener.path(&route))),
            arrived,
        });
        match started.action {
            QueryAction::Ignore => {}
            QueryAction::Send(reply) => batch.push(reply, route, counted),
            QueryAction::Forward(_) | QueryAction::Chase(_) => {
                waiting.spawn(self.finish_later(started, route, counted));
                batch.has_questions = true;
            }
        }
    }

    fn is_canary(&self, client: SocketAddr) -> bool {
        self.canary.have(client, self.number)
    }

    /// Waits for upstreams, and sends the reply.
    fn finish_later(
        &self,
        started: StartedAnswer,
        route: ReplyRoute,
        counted: Option<CountedQuery>,
    ) -> impl Future<Output = ()> + use<> {
        let (listener, resolver) = (self.listener.clone(), self.resolver.clone());
        let (task_tally, client) = (self.task_tally.clone(), route.client.ip());
        let finish = async move {
            let Some(reply) = resolver.finish_answer(started, client).await else {
                return;
            };
            let FinishedReply { message, upstream } = reply;
            let reply = [(message, route)];
            listener.send(&reply, &resolver);
            if let Some(query) = &counted {
                let (reply, took) = (&reply[0].0, query.arrived.elapsed());
                task_tally.count(&query.labels, query.source, reply, took);
                query.observe_reply(reply, upstream, took);
            }
        };
        self.resolver.forwarder.turns.run(client, finish)
    }

    fn send(&mut self, batch: &ReplyBatch) {
        self.listener.send(&batch.replies, &self.resolver);
        let now = Instant::now();
        for ((reply, _), query) in batch.replies.iter().zip(&batch.queries) {
            if let Some(query) = query {
                let took = now.saturating_duration_since(query.arrived);
                self.tally.count(&query.labels, query.source, reply, took);
                query.observe_reply(reply, None, took);
            }
        }
    }
}

impl ReplyBatch {
    fn push(&mut self, reply: Vec<u8>, route: ReplyRoute, query: Option<CountedQuery>) {
        self.replies.push((reply, route));
        self.queries.push(query);
    }
}

/// FORMERR for a query of more than [`MAX_QUERY`] bytes.
fn refuse_long_query(query: &[u8]) -> QueryAction {
    match Message::from_slice(query) {
        Ok(message) if !message.header().qr() => {
            QueryAction::Send(header_only(message.header(), OptRcode::FORMERR))
        }
        _ => QueryAction::Ignore,
    }
}

impl CountedQuery {
    fn observe_reply(&self, message: &[u8], upstream: Option<SocketAddr>, took: Duration) {
        if let Some(observed) = &self.observed {
            observed.finish(&ObservedReply {
                labels: &self.labels,
                source: self.source,
                upstream,
                message,
                took,
            });
        }
    }
}
