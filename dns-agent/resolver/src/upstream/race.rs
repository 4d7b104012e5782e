//! The course of one question: which server is asked next, when, over which transport, and which
//! response is given. Pure: the time is an argument, and the caller sends and receives.
//!
//! The rules stand in `docs/resolver.md`, and the files of `scenarios/` show them.

use std::time::{Duration, Instant};

use super::{
    health::{EdnsUse, MAX_TIMEOUT, Observation},
    selection::{Candidate, CandidateEntry},
    server_set::Channel,
};
use crate::query::Transport;

/// The time for a question. Clients repeat a query, or give up, after 5 s, and `dns-agent lookup`
/// waits for 4.5 s.
pub(super) const QUESTION_LIMIT: Duration = Duration::from_millis(4400);
/// The longest wait before the next server receives the question too. So a server that usually
/// takes a second, and is dead now, costs a client less than half a second.
const MAX_HEDGE_DELAY: Duration = Duration::from_millis(400);
/// The shortest time between two queries for one question to the same server. A recursive server
/// that answers most questions in a millisecond needs hundreds for others.
const MIN_RESEND_DELAY: Duration = Duration::from_millis(400);
/// Upper bound on the queries for one question to one server over one transport (RFC 9520 section
/// 3.1).
pub(super) const MAX_SENDS: u8 = 3;
/// Upper bound on the queries for one question to all servers. Each may need a socket.
pub(super) const MAX_ATTEMPTS: usize = 16;
/// Number of network errors after which a server gets no more queries for the question. The second
/// query is for a server that is restarting.
const MAX_FAILURES: u8 = 2;

/// One question in progress.
#[derive(Debug)]
pub(super) struct Race {
    deadline: Instant,
    contenders: Vec<Contender>,
    attempts: Vec<Attempt>,
    /// When the next server receives the question. `None`: no server is left, or one is left only
    /// if an attempt fails.
    moves_on: Option<Instant>,
    /// The best response so far that is not an answer, and its attempt.
    fallback: Option<(Shortfall, AttemptNumber)>,
    /// Number of servers that responded with an error.
    refusals: u8,
    /// The attempt whose response is given. `None` before the end, or if there is no response.
    result: Option<AttemptNumber>,
    phase: RacePhase,
    steps: Vec<RaceStep>,
}

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RaceStep {
    /// Send a query. The caller reports its [`AttemptEnd`].
    Send(QuerySending),
    /// Remember what a query has shown about a candidate.
    Observe(usize, Observation),
    /// The question is decided: the response of this attempt is given. `None`: there is no
    /// response. Attempts may go on, because they measure their servers.
    Finish(Option<AttemptNumber>),
}

/// The number of an attempt within its race.
pub(super) type AttemptNumber = usize;

/// A query to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuerySending {
    pub(super) attempt: AttemptNumber,
    /// The index of the candidate.
    pub(super) candidate: usize,
    pub(super) transport: Transport,
    pub(super) edns: EdnsUse,
    pub(super) reason: SendReason,
}

/// Why a query is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendReason {
    /// The first query, or a measurement beside it.
    Start,
    /// The server before is late.
    Hedge,
    /// A query to the same server was lost.
    Resend,
    /// The server before gave no answer.
    Failover,
    /// A response over UDP can't be used, and TCP may give a better one.
    OverTcp,
    /// The server refused an OPT record.
    WithoutEdns,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    /// NOERROR or NXDOMAIN, complete.
    Answer,
    /// A response with another code.
    Error(ErrorCode),
    /// A response with TC.
    Truncated,
    /// A response that can't be read, or that is too large for a datagram.
    Unusable,
    /// A message that doesn't answer the query, though it came from the server's address. It may
    /// be forged.
    NearMiss,
    /// A network error, or a closed connection.
    Failed,
    /// The query was not sent, because this host lacks a resource such as a socket.
    NotSent,
}

/// A response code that is neither NOERROR nor NXDOMAIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCode {
    ServFail,
    Refused,
    /// FORMERR or NOTIMP: the server may not know OPT records (RFC 6891 section 7).
    NotUnderstood,
    Other,
}

/// How a response falls short of an answer. A later variant is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shortfall {
    OtherError,
    NotUnderstood,
    Refused,
    ServFail,
    Truncated,
}

/// Whether a server is asked this question over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UdpTrust {
    Trusted,
    /// A near miss arrived. So a forger has one attempt for each server.
    Suspect,
    /// The server is asked over TLS only.
    Unused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RacePhase {
    Running,
    /// The result is known. Attempts go on until they are answered or lost.
    Measuring,
}

/// A candidate, and what happened to it in this race.
#[derive(Debug)]
struct Contender {
    candidate: Candidate,
    udp_sends: u8,
    tcp_sends: u8,
    failures: u8,
    edns: EdnsUse,
    udp: UdpTrust,
    /// The transport of the next query, if both are possible.
    next_transport: Transport,
    eligibility: Eligibility,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eligibility {
    InRace,
    /// Its response is not an answer, so it receives no more queries for this question, and no
    /// other query to it is waited for.
    Out,
}

/// A query that was sent.
#[derive(Debug)]
struct Attempt {
    contender: usize,
    transport: Transport,
    edns: EdnsUse,
    sent: Instant,
    lost_at: Instant,
    state: AttemptState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttemptState {
    Waiting,
    /// It is late. A response still counts.
    Lost,
    Ended,
}

impl Race {
    /// Starts a question. Without candidates, it has no response.
    pub(super) fn new(now: Instant, candidates: &[Candidate]) -> Race {
        let contenders = candidates.iter().map(|candidate| Contender {
            candidate: *candidate,
            udp_sends: 0,
            tcp_sends: 0,
            failures: 0,
            edns: candidate.edns,
            udp: match candidate.channel {
                Channel::UdpAndTcp => UdpTrust::Trusted,
                Channel::Stream => UdpTrust::Unused,
            },
            next_transport: Transport::Udp,
            eligibility: Eligibility::InRace,
        });
        let mut race = Race {
            deadline: now + QUESTION_LIMIT,
            contenders: contenders.collect(),
            attempts: Vec::new(),
            moves_on: None,
            fallback: None,
            refusals: 0,
            result: None,
            phase: RacePhase::Running,
            steps: Vec::new(),
        };
        let [_, others @ ..] = candidates else {
            race.finish_with_fallback();
            return race;
        };
        let timeout = race.timeout(0, race.transport_for(0));
        race.send(now, 0, race.transport_for(0), SendReason::Start);
        for (index, other) in (1..).zip(others) {
            let has_room = race.attempts.len() < MAX_ATTEMPTS;
            if other.entry == CandidateEntry::AtOnce && has_room {
                race.send(now, index, race.transport_for(index), SendReason::Start);
            }
        }
        race.schedule(now, timeout);
        race
    }

    /// The steps since the last call.
    pub(super) fn take_steps(&mut self) -> Vec<RaceStep> {
        std::mem::take(&mut self.steps)
    }

    /// When to call [`Race::wake`]. `None`: the race is over, and what its attempts still receive
    /// doesn't matter.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let losses = self.waiting().map(|attempt| attempt.lost_at);
        match self.phase {
            RacePhase::Running => losses.chain(self.moves_on).chain([self.deadline]).min(),
            RacePhase::Measuring => losses.min(),
        }
    }

    /// The attempt whose response is given, or may still be given. Other responses are not needed.
    pub(super) fn best_attempt(&self) -> Option<AttemptNumber> {
        match self.phase {
            RacePhase::Running => self.fallback.map(|(_, number)| number),
            RacePhase::Measuring => self.result,
        }
    }

    /// Reports that time has passed.
    pub(super) fn wake(&mut self, now: Instant) {
        for index in 0..self.attempts.len() {
            let attempt = &mut self.attempts[index];
            if attempt.state == AttemptState::Waiting && attempt.lost_at <= now {
                attempt.state = AttemptState::Lost;
                let lost = Observation::Lost(attempt.sent);
                self.observe_main(index, lost);
            }
        }
        if self.phase == RacePhase::Measuring {
            return;
        }
        if now >= self.deadline {
            self.finish_with_fallback();
        } else if self.moves_on.is_some_and(|time| time <= now) {
            self.move_on(now, SendReason::Hedge);
        } else {
            self.finish_if_nothing_is_left(now);
        }
    }

    /// Reports how an attempt ended. Ignored after a near miss of the same server over UDP.
    pub(super) fn end_attempt(&mut self, now: Instant, number: AttemptNumber, end: AttemptEnd) {
        let attempt = &mut self.attempts[number];
        if attempt.state == AttemptState::Ended {
            return;
        }
        attempt.state = AttemptState::Ended;
        let (index, transport, edns) = (attempt.contender, attempt.transport, attempt.edns);
        let sent = attempt.sent;
        match end {
            AttemptEnd::Failed => self.observe_main(number, Observation::Unreachable(sent)),
            AttemptEnd::Error(ErrorCode::Refused) => {
                self.observe_main(number, Observation::Refused);
            }
            // The message may come from another host than the server.
            AttemptEnd::NearMiss | AttemptEnd::NotSent => {}
            _ => self.observe_main(number, Observation::Responded(now - sent)),
        }
        if self.phase == RacePhase::Measuring {
            return;
        }
        match end {
            AttemptEnd::Answer => {
                if edns != self.contenders[index].candidate.edns {
                    self.steps
                        .push(RaceStep::Observe(index, Observation::RefusedEdns));
                }
                self.finish(Some(number));
            }
            AttemptEnd::Truncated if transport == Transport::Udp => {
                self.keep_fallback(Shortfall::Truncated, number);
                self.ask_over_tcp(now, index);
            }
            AttemptEnd::Unusable if transport == Transport::Udp => self.ask_over_tcp(now, index),
            AttemptEnd::NearMiss if transport == Transport::Udp => {
                self.distrust_udp(index);
                self.ask_over_tcp(now, index);
            }
            AttemptEnd::Error(ErrorCode::NotUnderstood)
                if edns == EdnsUse::With && self.can_send(index, transport) =>
            {
                self.contenders[index].edns = EdnsUse::Without;
                self.send_main(now, index, transport, SendReason::WithoutEdns);
            }
            AttemptEnd::Error(code) => {
                self.keep_fallback(Shortfall::of(code), number);
                // A server may answer several queries.
                if self.contenders[index].eligibility == Eligibility::InRace {
                    self.refusals = self.refusals.saturating_add(1);
                }
                self.exclude(now, index);
            }
            AttemptEnd::Truncated => {
                self.keep_fallback(Shortfall::Truncated, number);
                self.exclude(now, index);
            }
            AttemptEnd::Unusable | AttemptEnd::NearMiss => self.exclude(now, index),
            AttemptEnd::Failed | AttemptEnd::NotSent => self.count_failure(now, index, transport),
        }
    }

    /// Sends the question again over TCP to a server whose response over UDP can't be used. If that
    /// is not possible, the question moves on.
    fn ask_over_tcp(&mut self, now: Instant, index: usize) {
        self.contenders[index].next_transport = Transport::Tcp;
        let is_asked =
            (self.waiting()).any(|it| it.contender == index && it.transport == Transport::Tcp);
        if is_asked {
            return;
        }
        if self.can_send(index, Transport::Tcp) {
            self.send_main(now, index, Transport::Tcp, SendReason::OverTcp);
        } else {
            self.exclude(now, index);
        }
    }

    /// Ends all queries over UDP to a server. What they still receive doesn't count, because each
    /// of them would be another chance for a forger.
    fn distrust_udp(&mut self, index: usize) {
        self.contenders[index].udp = UdpTrust::Suspect;
        for attempt in &mut self.attempts {
            if attempt.contender == index && attempt.transport == Transport::Udp {
                attempt.state = AttemptState::Ended;
            }
        }
    }

    /// Excludes a server from this race, and moves on.
    fn exclude(&mut self, now: Instant, index: usize) {
        self.contenders[index].eligibility = Eligibility::Out;
        self.continue_after_failure(now);
    }

    /// Counts a network error, and moves on.
    fn count_failure(&mut self, now: Instant, index: usize, transport: Transport) {
        let contender = &mut self.contenders[index];
        contender.failures += 1;
        contender.next_transport = match transport {
            Transport::Udp => Transport::Tcp,
            Transport::Tcp => Transport::Udp,
        };
        self.continue_after_failure(now);
    }

    /// After an attempt that gave no answer: asks a new server at once, unless the next server has
    /// the question already. Servers that had the question receive it again only in time.
    fn continue_after_failure(&mut self, now: Instant) {
        let is_answer_expected = self.waiting().any(|attempt| {
            let contender = &self.contenders[attempt.contender];
            contender.eligibility == Eligibility::InRace
                && contender.candidate.entry == CandidateEntry::InOrder
        });
        if !is_answer_expected && self.next_new().is_some() {
            self.move_on(now, SendReason::Failover);
        } else {
            self.finish_if_nothing_is_left(now);
        }
    }

    /// Sends the question to the next server. Without a next server, waits for the attempts.
    fn move_on(&mut self, now: Instant, reason: SendReason) {
        self.moves_on = None;
        if let Some(index) = self.next_new() {
            let transport = self.transport_for(index);
            self.send_main(now, index, transport, reason);
        } else if let Some((index, transport)) = self.next_resend() {
            self.send_main(now, index, transport, SendReason::Resend);
        } else {
            self.finish_if_nothing_is_left(now);
        }
    }

    /// The next server that did not receive the question yet. After an error, one more server
    /// receives it, and after two, none.
    fn next_new(&self) -> Option<usize> {
        if self.refusals > 1 || self.attempts.len() >= MAX_ATTEMPTS {
            return None;
        }
        let mut new = self.contenders.iter().enumerate();
        new.find(|(_, it)| it.may_receive() && it.sends() == 0)
            .map(|(index, _)| index)
    }

    /// The server that receives the question again, and the transport: the one with the fewest
    /// queries. `None` also if a response is at hand that is not an answer.
    fn next_resend(&self) -> Option<(usize, Transport)> {
        if self.fallback.is_some() {
            return None;
        }
        let possible = (0..self.contenders.len()).filter(|&index| {
            let can_send =
                self.can_send(index, Transport::Tcp) || self.can_send(index, Transport::Udp);
            self.contenders[index].may_receive() && can_send
        });
        let index = possible.min_by_key(|&index| self.contenders[index].sends())?;
        Some((index, self.transport_for(index)))
    }

    /// The transport of the next query to a server: UDP twice, then TCP and UDP in turn. A network
    /// that loses datagrams may not lose segments, which the kernel sends again.
    fn transport_for(&self, index: usize) -> Transport {
        let contender = &self.contenders[index];
        if !self.can_send(index, Transport::Udp) {
            return Transport::Tcp;
        }
        if !self.can_send(index, Transport::Tcp) {
            return Transport::Udp;
        }
        if contender.udp_sends >= contender.tcp_sends + 2 {
            return Transport::Tcp;
        }
        contender.next_transport
    }

    /// Sends a query, and schedules when the question moves on.
    fn send_main(&mut self, now: Instant, index: usize, transport: Transport, reason: SendReason) {
        let timeout = self.timeout(index, transport);
        self.send(now, index, transport, reason);
        self.schedule(now, timeout);
    }

    /// Schedules when the question moves on after a query with this timeout.
    fn schedule(&mut self, now: Instant, timeout: Duration) {
        let delay = if self.next_new().is_some() {
            timeout.min(MAX_HEDGE_DELAY)
        } else {
            timeout.max(MIN_RESEND_DELAY)
        };
        self.moves_on = Some(now + delay);
    }

    fn send(&mut self, now: Instant, index: usize, transport: Transport, reason: SendReason) {
        let attempt = self.attempts.len();
        let timeout = self.timeout(index, transport);
        let contender = &mut self.contenders[index];
        match transport {
            Transport::Udp => contender.udp_sends += 1,
            Transport::Tcp => contender.tcp_sends += 1,
        }
        let patience = timeout.max(contender.candidate.loss_timeout);
        self.attempts.push(Attempt {
            contender: index,
            transport,
            edns: contender.edns,
            sent: now,
            lost_at: now + patience,
            state: AttemptState::Waiting,
        });
        self.steps.push(RaceStep::Send(QuerySending {
            attempt,
            candidate: index,
            transport,
            edns: contender.edns,
            reason,
        }));
    }

    /// How long to wait for a response to a query: the server's timeout, doubled for each query
    /// without a response (RFC 6298 section 5.5). It is doubled for TCP, whose first round trip
    /// opens a connection, unless it was measured over TLS.
    fn timeout(&self, index: usize, transport: Transport) -> Duration {
        let candidate = &self.contenders[index].candidate;
        let trips = match (candidate.channel, transport) {
            (Channel::UdpAndTcp, Transport::Tcp) => 2,
            _ => 1,
        };
        let is_unanswered =
            |it: &&Attempt| it.contender == index && it.state != AttemptState::Ended;
        let unanswered = self.attempts.iter().filter(is_unanswered).count() as u32;
        let timeout = candidate.timeout * trips * 2u32.pow(unanswered);
        timeout.min(MAX_TIMEOUT)
    }

    /// Finishes if no attempt can give an answer any more. While a response is at hand, late
    /// attempts are waited for only until the question would move on.
    fn finish_if_nothing_is_left(&mut self, now: Instant) {
        let is_in_race = |attempt: &Attempt| {
            self.contenders[attempt.contender].eligibility == Eligibility::InRace
        };
        let is_waiting = self.waiting().any(is_in_race);
        let is_late =
            |attempt: &Attempt| attempt.state == AttemptState::Lost && is_in_race(attempt);
        let are_late_ones_waited_for = self.fallback.is_none() || self.moves_on.is_some();
        let hope = is_waiting || are_late_ones_waited_for && self.attempts.iter().any(is_late);
        let next = self.next_new().is_some() || self.next_resend().is_some();
        let pause_end = now + MIN_RESEND_DELAY;
        if !hope && !next {
            self.finish_with_fallback();
        } else if next && (!hope || self.moves_on.is_none()) {
            let scheduled = self.moves_on.unwrap_or(pause_end);
            self.moves_on = Some(scheduled.min(pause_end));
        }
    }

    fn finish_with_fallback(&mut self) {
        self.finish(self.fallback.map(|(_, number)| number));
    }

    fn finish(&mut self, result: Option<AttemptNumber>) {
        self.phase = RacePhase::Measuring;
        self.result = result;
        self.steps.push(RaceStep::Finish(result));
    }

    /// Keeps a response if it is better than the one at hand.
    fn keep_fallback(&mut self, shortfall: Shortfall, number: AttemptNumber) {
        if self.fallback.is_none_or(|(best, _)| shortfall > best) {
            self.fallback = Some((shortfall, number));
        }
    }

    /// Records what an attempt over the server's main transport shows about it. TCP may be closed
    /// at a server that answers over UDP, and its first round trip opens a connection.
    fn observe_main(&mut self, number: AttemptNumber, observation: Observation) {
        let attempt = &self.attempts[number];
        let main = match self.contenders[attempt.contender].candidate.channel {
            Channel::UdpAndTcp => Transport::Udp,
            Channel::Stream => Transport::Tcp,
        };
        if attempt.transport == main {
            self.steps
                .push(RaceStep::Observe(attempt.contender, observation));
        }
    }

    /// Whether the limits permit another query to a server.
    fn can_send(&self, index: usize, transport: Transport) -> bool {
        self.attempts.len() < MAX_ATTEMPTS && self.contenders[index].can_send(transport)
    }

    /// The attempts that are neither ended nor lost.
    fn waiting(&self) -> impl Iterator<Item = &Attempt> {
        let attempts = self.attempts.iter();
        attempts.filter(|attempt| attempt.state == AttemptState::Waiting)
    }
}

impl Contender {
    /// Whether the server may receive another query.
    fn may_receive(&self) -> bool {
        self.eligibility == Eligibility::InRace && self.failures < MAX_FAILURES
    }

    /// Number of queries to the server.
    fn sends(&self) -> u8 {
        self.udp_sends + self.tcp_sends
    }

    fn can_send(&self, transport: Transport) -> bool {
        match transport {
            Transport::Udp => self.udp == UdpTrust::Trusted && self.udp_sends < MAX_SENDS,
            Transport::Tcp => self.tcp_sends < MAX_SENDS,
        }
    }
}

impl Shortfall {
    fn of(code: ErrorCode) -> Shortfall {
        match code {
            ErrorCode::ServFail => Shortfall::ServFail,
            ErrorCode::Refused => Shortfall::Refused,
            ErrorCode::NotUnderstood => Shortfall::NotUnderstood,
            ErrorCode::Other => Shortfall::OtherError,
        }
    }
}
