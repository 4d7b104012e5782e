//! Which servers a question may be sent to, and in which order. Pure: the time and randomness are
//! arguments.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use zerohop_routes::UpstreamPolicy;

use super::{
    health::{EdnsUse, Observation, ServerHealth},
    server_set::Channel,
};

/// One question in this many is also sent to a server that is not the fastest, to measure it. Knot
/// Resolver explores as often.
const EXPLORATION: u64 = 20;
/// Upper bound on the servers that are remembered. The cluster's DNS may have new addresses again
/// and again.
const MAX_SERVERS: usize = 1024;

/// A server that a question may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) server: SocketAddr,
    /// How long to wait for a response before the question moves on.
    pub(super) timeout: Duration,
    /// How long to wait for a response before the query counts as lost.
    pub(super) loss_timeout: Duration,
    pub(super) edns: EdnsUse,
    pub(super) channel: Channel,
    pub(super) entry: CandidateEntry,
}

/// When a candidate receives the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CandidateEntry {
    /// When those before it have failed or are late.
    InOrder,
    /// At the beginning, beside the first one, to learn whether and how fast it answers.
    AtOnce,
}

/// The known servers.
#[derive(Debug, Default)]
pub(super) struct KnownServers(HashMap<SocketAddr, ServerHealth>);

/// What decides the order of servers for one question, apart from their health.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    /// A random number.
    pub(super) random: u64,
    /// The number of the question since the start.
    pub(super) turn: u64,
}

impl KnownServers {
    /// Records what a query to a server has shown. Whether the server is down now.
    pub(super) fn observe(
        &mut self,
        server: SocketAddr,
        now: Instant,
        observation: Observation,
    ) -> bool {
        if self.0.len() >= MAX_SERVERS && !self.0.contains_key(&server) {
            self.0.clear();
        }
        let health = self.0.entry(server).or_default();
        health.observe(now, observation);
        health.is_down()
    }

    /// Whether there are servers, and all of them are down.
    pub(super) fn are_all_down(&self, servers: &[SocketAddr]) -> bool {
        let is_down = |server: &SocketAddr| self.0.get(server).is_some_and(ServerHealth::is_down);
        !servers.is_empty() && servers.iter().all(is_down)
    }

    /// The servers for one question, in the order in which they receive it, over UDP and TCP. Takes
    /// the probes that are due.
    pub(super) fn candidates(
        &mut self,
        policy: UpstreamPolicy,
        servers: &[SocketAddr],
        now: Instant,
        draw: Draw,
    ) -> Vec<Candidate> {
        let mut order: Vec<SocketAddr> = Vec::new();
        for server in servers {
            if !order.contains(server) {
                order.push(*server);
            }
        }
        match policy {
            UpstreamPolicy::Fastest => order.sort_by_key(|it| self.health(*it).expected_time()),
            UpstreamPolicy::Random => shuffle(&mut order, draw.random),
            UpstreamPolicy::RoundRobin => {
                let first = remainder(draw.turn, order.len());
                order.rotate_left(first);
            }
            UpstreamPolicy::Sequential => {}
        }
        order.sort_by_key(|server| self.health(*server).is_down());
        let explored = match policy {
            UpstreamPolicy::Fastest => self.explored_server(&order, draw.random),
            _ => None,
        };
        let mut candidates: Vec<Candidate> = Vec::with_capacity(order.len());
        for (position, &server) in order.iter().enumerate() {
            let is_probe = self.0.get_mut(&server).is_some_and(|it| it.take_probe(now));
            let is_extra = position > 0 && (is_probe || explored == Some(server));
            let health = self.health(server);
            candidates.push(Candidate {
                server,
                timeout: health.timeout(),
                loss_timeout: health.loss_timeout(),
                edns: health.edns(now),
                channel: Channel::UdpAndTcp,
                entry: if is_extra {
                    CandidateEntry::AtOnce
                } else {
                    CandidateEntry::InOrder
                },
            });
        }
        candidates
    }

    /// The server that a question is also sent to, so that its round-trip time stays known. `None`
    /// for most questions.
    fn explored_server(&self, order: &[SocketAddr], random: u64) -> Option<SocketAddr> {
        if !random.is_multiple_of(EXPLORATION) {
            return None;
        }
        let others = order.get(1..)?;
        let is_up = |server: &&SocketAddr| !self.health(**server).is_down();
        let others: Vec<_> = others.iter().filter(is_up).collect();
        let index = remainder(random / EXPLORATION, others.len());
        others.get(index).map(|server| **server)
    }

    fn health(&self, server: SocketAddr) -> ServerHealth {
        self.0.get(&server).cloned().unwrap_or_default()
    }
}

/// Shuffles by a random number (Fisher and Yates).
fn shuffle(servers: &mut [SocketAddr], mut random: u64) {
    for end in (1..servers.len()).rev() {
        let choices = end + 1;
        servers.swap(end, remainder(random, choices));
        random /= choices as u64;
    }
}

/// The remainder of a division by a length. 0 if the length is 0.
fn remainder(number: u64, length: usize) -> usize {
    number
        .checked_rem(length as u64)
        .map_or(0, |it| it as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 53).into()
    }

    /// The last bytes of the candidates' addresses, in order.
    fn order(known: &mut KnownServers, policy: UpstreamPolicy, now: Instant, draw: Draw) -> String {
        let servers = [server(1), server(2), server(3)];
        let candidates = known.candidates(policy, &servers, now, draw);
        let describe = |candidate: &Candidate| {
            let text = candidate.server.to_string();
            let number = text.as_bytes()[8] as char;
            match candidate.entry {
                CandidateEntry::InOrder => format!("{number}"),
                CandidateEntry::AtOnce => format!("{number}!"),
            }
        };
        candidates.iter().map(describe).collect()
    }

    fn draw(random: u64, turn: u64) -> Draw {
        Draw { random, turn }
    }

    #[test]
    fn the_policy_orders_the_servers() {
        let now = Instant::now();
        let mut known = KnownServers::default();
        for (last, milliseconds) in [(1, 30), (2, 20), (3, 10)] {
            let round_trip = Duration::from_millis(milliseconds);
            known.observe(server(last), now, Observation::Responded(round_trip));
        }
        let mut order = |policy, draw| order(&mut known, policy, now, draw);
        assert_eq!(order(UpstreamPolicy::Fastest, draw(1, 0)), "321");
        assert_eq!(order(UpstreamPolicy::Sequential, draw(1, 1)), "123");
        let turns = [0, 1, 2, 3].map(|turn| order(UpstreamPolicy::RoundRobin, draw(1, turn)));
        assert_eq!(turns, ["123", "231", "312", "123"]);
        let mut random: Vec<_> = (0..6)
            .map(|random| order(UpstreamPolicy::Random, draw(random, 0)))
            .collect();
        random.sort();
        assert_eq!(random, ["123", "132", "213", "231", "312", "321"]);
    }

    #[test]
    fn one_question_in_twenty_measures_another_server() {
        let now = Instant::now();
        let mut known = KnownServers::default();
        let order = |random| order(&mut known, UpstreamPolicy::Fastest, now, draw(random, 0));
        let orders: Vec<_> = (0..60).map(order).collect();
        let explored: Vec<_> = orders.iter().filter(|order| *order != "123").collect();
        assert_eq!(explored, ["12!3", "123!", "12!3"]);
    }

    #[test]
    fn a_server_that_is_down_comes_last_and_is_probed() {
        let start = Instant::now();
        for policy in UpstreamPolicy::ALL {
            let mut known = KnownServers::default();
            known.observe(server(1), start, Observation::Unreachable(start));
            let mut order = |after| {
                let now = start + Duration::from_millis(after);
                order(&mut known, policy, now, draw(60_001, 0))
            };
            assert!(order(0).ends_with('1'), "{policy}");
            assert!(order(499).ends_with('1'), "{policy}");
            assert!(order(500).ends_with("1!"), "{policy}");
            assert!(order(501).ends_with('1'), "{policy}");
        }
    }
}
