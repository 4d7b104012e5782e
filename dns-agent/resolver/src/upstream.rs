//! Asks upstream servers one question, and gives the best response.
//!
//! [`race`] decides which server is asked next, when, and over which transport. [`selection`]
//! orders the servers by what [`health`] knows about them. These three are pure. [`udp`] and
//! [`connections`] send and receive. [`UpstreamPool`] connects them.

mod connections;
mod health;
mod race;
mod selection;
mod server_set;
mod tls;
mod udp;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use domain::base::iana::OptRcode;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tracing::debug;

pub use self::server_set::{ServerSet, UpstreamServer};
pub(crate) use self::udp::open_socket;
use self::{
    connections::TcpConnections,
    health::{EdnsUse, Observation},
    race::{AttemptEnd, AttemptNumber, ErrorCode, QuerySending, Race, RaceStep, SendReason},
    selection::{Candidate, Draw, KnownServers},
    tls::TlsClient,
};
use crate::{
    counters::{ResolverCounters, increment},
    dnstap::Dnstap,
    query::Transport,
    response::{CaseCheck, NoResponse, Reply, Response, UpstreamQuery},
    traffic::{ConnectionOrigin, ConnectionProtocol},
};

/// Upper bound on the sockets of queries over UDP. A question that no server answers holds several,
/// because a late response still counts.
const MAX_SOCKETS: usize = 2048;

/// The upstream servers' state, and the ways to reach them.
#[derive(Debug)]
pub(super) struct UpstreamPool {
    case: NameCase,
    known: Mutex<KnownServers>,
    connections: TcpConnections,
    /// One permit for each socket of a query over UDP.
    sockets: Semaphore,
    /// Receives the queries and responses. `None`: there is no collector.
    dnstap: Option<Arc<Dnstap>>,
    /// Number of questions since the start.
    questions: AtomicU64,
    counters: Arc<ResolverCounters>,
}

/// The case of the letters of a queried name. The client's reply has the client's letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameCase {
    /// As in the client's query.
    #[default]
    Unchanged,
    /// Random. A response over UDP must repeat the letters.
    Random,
}

impl UpstreamPool {
    pub(super) fn new(
        case: NameCase,
        dnstap: Option<Arc<Dnstap>>,
        counters: Arc<ResolverCounters>,
    ) -> UpstreamPool {
        let tls = TlsClient::default();
        UpstreamPool {
            connections: TcpConnections::new(tls, dnstap.clone(), counters.clone()),
            case,
            known: Mutex::default(),
            sockets: Semaphore::new(MAX_SOCKETS),
            dnstap,
            questions: AtomicU64::new(0),
            counters,
        }
    }

    /// A pool that trusts other certificate authorities.
    #[cfg(test)]
    fn with_tls(tls: TlsClient, counters: Arc<ResolverCounters>) -> UpstreamPool {
        UpstreamPool {
            connections: TcpConnections::new(tls, None, counters.clone()),
            ..UpstreamPool::new(NameCase::Unchanged, None, counters)
        }
    }

    /// Asks the servers, and calls `give` once, with the best response, or without one after
    /// [`race::QUESTION_LIMIT`]. Ends later, when the attempts in flight have measured their
    /// servers.
    pub(super) async fn ask(
        &self,
        set: &ServerSet,
        query: &UpstreamQuery,
        give: impl FnOnce(Result<Response, NoResponse>),
    ) {
        let candidates = self.candidates(set, query);
        let mut race = Race::new(now(), &candidates);
        let mut running = FuturesUnordered::new();
        let mut best: Option<(AttemptNumber, Response)> = None;
        let mut give = Some(give);
        // What the lack of a response says.
        let mut failure = NoResponse::NoAnswer;
        loop {
            for step in race.take_steps() {
                match step {
                    RaceStep::Send(sending) => {
                        let server = candidates[sending.candidate].server;
                        self.count_sending(server, sending);
                        let server = set.servers.iter().find(|it| it.address == server);
                        running.extend(server.map(|it| self.attempt(it, query, sending)));
                    }
                    RaceStep::Observe(candidate, observation) => {
                        self.observe(candidates[candidate].server, observation);
                    }
                    RaceStep::Finish(result) => {
                        let response = best
                            .take_if(|(number, _)| Some(*number) == result)
                            .map(|(_, response)| response);
                        if let Some(give) = give.take() {
                            give(response.ok_or(failure));
                        }
                    }
                }
            }
            let Some(wake) = race.next_wake() else {
                return;
            };
            tokio::select! {
                // A response that has arrived counts, even if this task waited for its turn.
                biased;
                Some((number, end, response)) = running.next() => {
                    if end == AttemptEnd::NotSent {
                        failure = NoResponse::Overloaded;
                    }
                    race.end_attempt(now(), number, end);
                    if race.best_attempt() == Some(number) {
                        best = response.map(|response| (number, response));
                    }
                }
                () = sleep_until(wake.into()) => race.wake(now()),
            }
        }
    }

    /// The servers in the order of the policy, with what is known about them.
    fn candidates(&self, set: &ServerSet, query: &UpstreamQuery) -> Vec<Candidate> {
        let draw = Draw {
            random: rand::random(),
            turn: self.questions.fetch_add(1, Relaxed),
        };
        let traffic = &self.counters.traffic;
        let addresses = set.addresses();
        traffic.upstreams.note_candidates(addresses.iter().copied());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.are_all_down(&addresses) {
            increment(&traffic.all_down);
        }
        let mut candidates = known.candidates(set.policy, &addresses, now(), draw);
        for candidate in &mut candidates {
            let server = (set.servers.iter()).find(|it| it.address == candidate.server);
            candidate.channel = server.map_or(candidate.channel, |it| set.channel(it));
            if !query.has_opt() {
                candidate.edns = EdnsUse::Without;
            }
        }
        candidates
    }

    /// Remembers and counts what a query has shown about a server.
    fn observe(&self, server: SocketAddr, observation: Observation) {
        match observation {
            Observation::Lost(_) => self.counters.count_loss(server),
            Observation::Unreachable(_) => increment(&self.counters.upstream_errors),
            Observation::Responded(_) | Observation::Refused | Observation::RefusedEdns => {}
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_down = known.observe(server, now(), observation);
        drop(known);
        if is_down
            && matches!(
                observation,
                Observation::Lost(_) | Observation::Unreachable(_)
            )
        {
            self.counters.traffic.upstreams.count_failure(server);
        }
    }

    fn count_sending(&self, server: SocketAddr, sending: QuerySending) {
        self.counters.traffic.upstreams.count_sent(server);
        increment(match sending.transport {
            Transport::Udp => &self.counters.upstream_udp_attempts,
            Transport::Tcp => &self.counters.upstream_tcp_attempts,
        });
        match sending.reason {
            SendReason::Hedge => increment(&self.counters.upstream_hedges),
            SendReason::OverTcp => increment(&self.counters.upstream_tcp_fallbacks),
            SendReason::Start
            | SendReason::Resend
            | SendReason::Failover
            | SendReason::WithoutEdns => {}
        }
    }

    /// Sends one query, and classifies what arrives.
    async fn attempt(
        &self,
        server: &UpstreamServer,
        query: &UpstreamQuery,
        sending: QuerySending,
    ) -> (AttemptNumber, AttemptEnd, Option<Response>) {
        let without_opt;
        let query = match sending.edns {
            EdnsUse::With => query,
            EdnsUse::Without => {
                without_opt = query.without_opt();
                &without_opt
            }
        };
        let sent = now();
        let result = match sending.transport {
            Transport::Udp => self.exchange_datagrams(server.address, query).await,
            Transport::Tcp => self.connections.exchange(server, query).await.map(Some),
        };
        if let Ok(Some(Reply::Complete(response) | Reply::Truncated(response))) = &result {
            let (rcode, took) = (response.rcode().to_int(), now() - sent);
            self.counters
                .traffic
                .upstreams
                .count_response(server.address, rcode, took);
        }
        let (end, response) = self.classify(server.address, result);
        let response = response.map(|response| response.sent_by(server.address));
        (sending.attempt, end, response)
    }

    /// Sends a query over UDP, and waits for a message without a time limit. `None`: this host has
    /// no socket for it.
    ///
    /// # Errors
    /// When the server can't be reached.
    async fn exchange_datagrams(
        &self,
        server: SocketAddr,
        query: &UpstreamQuery,
    ) -> io::Result<Option<Reply>> {
        let (Ok(_permit), Ok(socket)) = (self.sockets.try_acquire(), open_socket(server).await)
        else {
            return Ok(None);
        };
        let traffic = &self.counters.traffic.upstreams;
        traffic.count_connection(server, ConnectionProtocol::Udp, ConnectionOrigin::New);
        let id = rand::random();
        let (message, check) = match self.case {
            NameCase::Unchanged => (query.with_id(id), CaseCheck::Ignored),
            NameCase::Random => {
                let query = query.clone().with_case(rand::random());
                (query.with_id(id), CaseCheck::Exact)
            }
        };
        udp::exchange(socket, server, &message, check, self.dnstap.as_ref())
            .await
            .map(Some)
    }

    /// How an attempt ended, and its response, if one can be given to a client.
    fn classify(
        &self,
        server: SocketAddr,
        result: io::Result<Option<Reply>>,
    ) -> (AttemptEnd, Option<Response>) {
        match result {
            Ok(Some(Reply::Complete(response))) if response.records().is_none() => {
                (AttemptEnd::Unusable, None)
            }
            Ok(Some(Reply::Complete(response))) => (end_of(&response), Some(response)),
            Ok(Some(Reply::Truncated(response))) => (AttemptEnd::Truncated, Some(response)),
            Ok(Some(Reply::Unreadable | Reply::TooLarge)) => (AttemptEnd::Unusable, None),
            Ok(None) => {
                debug!(upstream = %server, "no socket for a query");
                increment(&self.counters.upstream_errors);
                (AttemptEnd::NotSent, None)
            }
            Ok(Some(Reply::NearMiss)) => {
                debug!(upstream = %server, "a message doesn't answer the query");
                increment(&self.counters.upstream_near_misses);
                (AttemptEnd::NearMiss, None)
            }
            Err(error) => {
                debug!(upstream = %server, %error, "can't query the upstream");
                (AttemptEnd::Failed, None)
            }
        }
    }
}

/// Sends a query over UDP, and waits for any message without a time limit.
///
/// # Errors
/// When the server can't be reached, or this host lacks a resource.
pub(super) async fn send_probe(server: SocketAddr, query: &UpstreamQuery) -> io::Result<()> {
    let socket = open_socket(server).await?;
    let message = query.with_id(rand::random());
    udp::exchange(socket, server, &message, CaseCheck::Ignored, None)
        .await
        .map(drop)
}

/// The end of an attempt that received a complete response.
fn end_of(response: &Response) -> AttemptEnd {
    match response.rcode() {
        OptRcode::NOERROR | OptRcode::NXDOMAIN => AttemptEnd::Answer,
        OptRcode::SERVFAIL => AttemptEnd::Error(ErrorCode::ServFail),
        OptRcode::REFUSED => AttemptEnd::Error(ErrorCode::Refused),
        OptRcode::FORMERR | OptRcode::NOTIMP => AttemptEnd::Error(ErrorCode::NotUnderstood),
        _ => AttemptEnd::Error(ErrorCode::Other),
    }
}

/// The current time. Tests may pause it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod forgery;
#[cfg(test)]
mod tests;
