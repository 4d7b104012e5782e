//! What is known about an upstream server: its round-trip time, its recent losses, and whether it
//! answers queries with an OPT record. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// The retransmission timeout before the first measured round trip. Unbound starts with 376 ms,
/// Knot Resolver with 400 ms.
pub(super) const INITIAL_TIMEOUT: Duration = Duration::from_millis(400);
/// The shortest retransmission timeout, as in Unbound.
const MIN_TIMEOUT: Duration = Duration::from_millis(50);
/// The longest retransmission timeout. A question has 4.5 s, so a longer one leaves no time for
/// another server.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_millis(1500);
/// Number of consecutive losses after which a server is down.
const DOWN_AFTER: u32 = 2;
/// How long after it went down a server is probed.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// The longest time between two probes. It doubles after each lost probe.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a server gets no OPT record after it refused one. The server may be replaced by a
/// newer one.
const EDNS_PAUSE: Duration = Duration::from_secs(600);

/// What is known about one server.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerHealth {
    /// `None` before the first response.
    round_trip: Option<RoundTrip>,
    /// Number of losses since the last response. Losses of queries that were in flight at the same
    /// time count once.
    losses: u32,
    last_loss: Option<Instant>,
    /// Whether the last response was a refusal.
    is_refusing: bool,
    /// `None` while the server is up.
    probing: Option<Probing>,
    /// Until then, queries to the server have no OPT record.
    no_edns_until: Option<Instant>,
}

/// What a query shows about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observation {
    /// A response arrived this long after the query.
    Responded(Duration),
    /// No response arrived in time to a query sent at this instant.
    Lost(Instant),
    /// The network or the server's host reported that the server can't be reached, after a query
    /// that was sent at this instant.
    Unreachable(Instant),
    /// The server refused to answer. That says nothing about the time that an answer takes.
    Refused,
    /// The server answered a query only after the OPT record was left out.
    RefusedEdns,
}

/// Whether a query has an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EdnsUse {
    With,
    Without,
}

/// Estimates of the round-trip time (RFC 6298 section 2).
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
}

/// The probes of a server that is down.
#[derive(Clone, Copy, Debug)]
struct Probing {
    next: Instant,
    interval: Duration,
}

impl ServerHealth {
    /// Records what a query has shown.
    pub(super) fn observe(&mut self, now: Instant, observation: Observation) {
        match observation {
            Observation::Responded(sample) => {
                self.round_trip = Some(RoundTrip::updated(self.round_trip, sample));
                self.is_refusing = false;
                self.losses = 0;
                self.probing = None;
            }
            Observation::Refused => {
                self.is_refusing = true;
                self.losses = 0;
                self.probing = None;
            }
            Observation::Lost(sent) => {
                // One pause of a server makes all queries in flight late.
                if self.last_loss.is_some_and(|last| sent < last) {
                    return;
                }
                self.last_loss = Some(now);
                self.losses = self.losses.saturating_add(1);
                if self.losses >= DOWN_AFTER {
                    self.delay_probe(now);
                }
            }
            Observation::Unreachable(sent) => {
                // As for losses: all queries in flight are rejected at the same time.
                if self.is_down() && self.last_loss.is_some_and(|last| sent < last) {
                    return;
                }
                self.last_loss = Some(now);
                self.losses = self.losses.saturating_add(1).max(DOWN_AFTER);
                self.delay_probe(now);
            }
            Observation::RefusedEdns => self.no_edns_until = Some(now + EDNS_PAUSE),
        }
    }

    /// How long to wait for a response before the question moves on (RFC 6298 section 2.3).
    pub(super) fn timeout(&self) -> Duration {
        self.round_trip.map_or(INITIAL_TIMEOUT, RoundTrip::timeout)
    }

    /// How long to wait for a response before the query counts as lost: the timeout, doubled for
    /// each recent loss (RFC 6298 section 5.5). So the round trip of a server that became slower
    /// can be measured.
    pub(super) fn loss_timeout(&self) -> Duration {
        let doubled = self
            .timeout()
            .saturating_mul(2u32.saturating_pow(self.losses));
        doubled.min(MAX_TIMEOUT)
    }

    /// The expected time until a response, for comparisons of servers: the round-trip time, or
    /// after a loss the time until the next loss would be noticed. A server that refuses is behind
    /// those that answer, although refusals are fast.
    pub(super) fn expected_time(&self) -> Duration {
        match self.round_trip {
            _ if self.is_refusing => MAX_TIMEOUT,
            Some(round_trip) if self.losses == 0 => round_trip.smoothed,
            _ => self.loss_timeout(),
        }
    }

    /// Whether the server is taken for dead.
    pub(super) fn is_down(&self) -> bool {
        self.probing.is_some()
    }

    /// Whether a live question should also be sent to this server because it is down. If so, later
    /// questions are not, until the next probe is due.
    pub(super) fn take_probe(&mut self, now: Instant) -> bool {
        let Some(probing) = &mut self.probing else {
            return false;
        };
        let is_due = now >= probing.next;
        if is_due {
            probing.next = now + probing.interval;
        }
        is_due
    }

    /// Whether queries have an OPT record if the client's query has one.
    pub(super) fn edns(&self, now: Instant) -> EdnsUse {
        if self.no_edns_until.is_some_and(|end| now < end) {
            EdnsUse::Without
        } else {
            EdnsUse::With
        }
    }

    /// Schedules the next probe after a loss.
    fn delay_probe(&mut self, now: Instant) {
        let interval = self.probing.map_or(FIRST_PROBE, |probing| {
            (probing.interval * 2).min(MAX_PROBE_INTERVAL)
        });
        let next = now + interval;
        self.probing = Some(Probing { next, interval });
    }
}

impl RoundTrip {
    /// The estimates after another sample, with the gains 1/8 and 1/4.
    fn updated(before: Option<RoundTrip>, sample: Duration) -> RoundTrip {
        let Some(RoundTrip {
            smoothed,
            variation,
        }) = before
        else {
            return RoundTrip {
                smoothed: sample,
                variation: sample / 2,
            };
        };
        RoundTrip {
            smoothed: smoothed * 7 / 8 + sample / 8,
            variation: variation * 3 / 4 + smoothed.abs_diff(sample) / 4,
        }
    }

    fn timeout(self) -> Duration {
        (self.smoothed + self.variation * 4).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_timeout_follows_the_round_trip_time_within_its_bounds() {
        let now = Instant::now();
        let mut health = ServerHealth::default();
        assert_eq!(health.timeout(), ms(400));
        // The first sample: 100 ms and four times 50 ms.
        health.observe(now, Observation::Responded(ms(100)));
        assert_eq!(health.timeout(), ms(300));
        // 100 · 7/8 + 20/8 = 90; 50 · 3/4 + 80/4 = 57.5.
        health.observe(now, Observation::Responded(ms(20)));
        assert_eq!(health.timeout(), ms(320));
        for _ in 0..100 {
            health.observe(now, Observation::Responded(ms(1)));
        }
        assert_eq!(health.timeout(), ms(50));
        health.observe(now, Observation::Responded(ms(100_000)));
        assert_eq!(health.timeout(), ms(1500));
    }

    #[test]
    fn losses_of_queries_in_flight_at_the_same_time_count_once() {
        let start = Instant::now();
        let mut health = ServerHealth::default();
        for sent in [0, 1, 2] {
            health.observe(start + ms(400), Observation::Lost(start + ms(sent)));
        }
        assert!(!health.is_down());
        assert_eq!(health.loss_timeout(), ms(800));
        health.observe(start + ms(900), Observation::Lost(start + ms(500)));
        assert!(health.is_down());
        health.observe(start + ms(901), Observation::Responded(ms(401)));
        assert!(!health.is_down());
    }

    #[test]
    fn rejections_of_queries_in_flight_at_the_same_time_count_once() {
        let start = Instant::now();
        let mut health = ServerHealth::default();
        for sent in [0, 1, 2, 3] {
            health.observe(start + ms(10), Observation::Unreachable(start + ms(sent)));
        }
        assert!(!health.take_probe(start + ms(509)));
        assert!(health.take_probe(start + ms(510)));
    }

    #[test]
    fn a_server_that_refuses_comes_after_those_that_answer() {
        let now = Instant::now();
        let (mut refusing, mut answering) = (ServerHealth::default(), ServerHealth::default());
        refusing.observe(now, Observation::Responded(ms(1)));
        refusing.observe(now, Observation::Refused);
        answering.observe(now, Observation::Responded(ms(900)));
        assert!(refusing.expected_time() > answering.expected_time());
        assert!(refusing.expected_time() > ServerHealth::default().expected_time());
        refusing.observe(now, Observation::Responded(ms(1)));
        assert!(refusing.expected_time() < answering.expected_time());
    }

    #[test]
    fn a_server_that_is_down_is_probed_after_half_a_second_and_then_less_often() {
        let mut now = Instant::now();
        let mut health = ServerHealth::default();
        health.observe(now, Observation::Unreachable(now));
        let mut intervals = Vec::new();
        for _ in 0..7 {
            let before = now;
            while !health.take_probe(now) {
                now += ms(100);
            }
            assert!(!health.take_probe(now), "two probes at the same time");
            intervals.push((now - before).as_millis());
            health.observe(now, Observation::Lost(now));
        }
        assert_eq!(intervals, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn a_refused_opt_record_is_left_out_for_ten_minutes() {
        let now = Instant::now();
        let mut health = ServerHealth::default();
        assert_eq!(health.edns(now), EdnsUse::With);
        health.observe(now, Observation::RefusedEdns);
        assert_eq!(health.edns(now + ms(599_999)), EdnsUse::Without);
        assert_eq!(health.edns(now + ms(600_000)), EdnsUse::With);
    }
}
