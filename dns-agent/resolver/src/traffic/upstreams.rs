//! Queries to upstreams, by server.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    histogram::{DurationHistogram, HistogramCounts},
    rcodes::RcodeIndex,
    writers::Writers,
};

/// Upper bound on the servers that are counted. The cluster's DNS may have new addresses again and
/// again.
const MAX_SERVERS: usize = 64;
/// How long a server is remembered after the last question that it could have received, unless it
/// is configured.
const MEMORY: Duration = Duration::from_secs(3600);

/// The counters of all upstreams.
#[derive(Debug, Default)]
pub(in super::super) struct UpstreamTraffic(Mutex<HashMap<SocketAddr, UpstreamTally>>);

/// The counters of one upstream.
#[derive(Debug, Default)]
struct UpstreamTally {
    sent: u64,
    failures: u64,
    /// By [`ConnectionProtocol`] and [`ConnectionOrigin`].
    connections: [[u64; 2]; 3],
    responses: BTreeMap<RcodeIndex, DurationHistogram>,
    /// `None`: the server is configured, so it is never forgotten.
    last_candidate: Option<Instant>,
}

/// How a query was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionProtocol {
    /// A datagram from a socket of its own.
    Udp,
    /// A TCP connection.
    Tcp,
    /// A TCP connection with TLS.
    Tls,
}

/// Whether a query used a connection that was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum ConnectionOrigin {
    New,
    Reused,
}

/// A snapshot of one upstream's counters.
#[derive(Clone, Debug)]
pub struct UpstreamCounts {
    /// The server's address.
    pub server: SocketAddr,
    /// Queries sent to it, each repetition included.
    pub sent: u64,
    /// The losses and rejections after which it was down, or stayed down.
    pub failures: u64,
    /// Queries by how they were sent: on a new socket or connection, and on one that was there.
    pub connections: Vec<(ConnectionProtocol, u64, u64)>,
    /// Responses by the name of their code, with the time from the query to the response.
    pub responses: Vec<(&'static str, HistogramCounts)>,
}

impl ConnectionProtocol {
    /// All protocols.
    pub const ALL: [ConnectionProtocol; 3] = [
        ConnectionProtocol::Udp,
        ConnectionProtocol::Tcp,
        ConnectionProtocol::Tls,
    ];
}

impl UpstreamTraffic {
    /// Counts these servers from now on, and never forgets them.
    pub(in super::super) fn add_configured(&self, servers: &[SocketAddr]) {
        let mut tallies = self.lock();
        for server in servers {
            tallies.entry(*server).or_default().last_candidate = None;
        }
    }

    /// Notes the servers that a question may be sent to.
    pub(in super::super) fn note_candidates(&self, servers: impl Iterator<Item = SocketAddr>) {
        let now = Instant::now();
        let mut tallies = self.lock();
        for server in servers {
            if let Some(tally) = tallies.get_mut(&server) {
                tally.last_candidate = tally.last_candidate.map(|_| now);
                continue;
            }
            if tallies.len() >= MAX_SERVERS {
                forget(&mut tallies, now);
            }
            let tally = UpstreamTally {
                last_candidate: Some(now),
                ..UpstreamTally::default()
            };
            if tallies.len() < MAX_SERVERS {
                tallies.insert(server, tally);
            }
        }
    }

    pub(in super::super) fn count_sent(&self, server: SocketAddr) {
        self.update(server, |tally| tally.sent += 1);
    }

    /// Counts a loss or a rejection after which the server is down.
    pub(in super::super) fn count_failure(&self, server: SocketAddr) {
        self.update(server, |tally| tally.failures += 1);
    }

    pub(in super::super) fn count_connection(
        &self,
        server: SocketAddr,
        protocol: ConnectionProtocol,
        origin: ConnectionOrigin,
    ) {
        self.update(server, |tally| {
            tally.connections[protocol as usize][origin as usize] += 1;
        });
    }

    pub(in super::super) fn count_response(&self, server: SocketAddr, rcode: u16, took: Duration) {
        self.update(server, |tally| {
            let responses = tally.responses.entry(RcodeIndex::of(rcode)).or_default();
            responses.observe(took, Writers::One);
        });
    }

    pub(super) fn snapshot(&self) -> Vec<UpstreamCounts> {
        let now = Instant::now();
        let mut tallies = self.lock();
        tallies.retain(|_, tally| !tally.is_outdated(now));
        let mut counts: Vec<_> = tallies
            .iter()
            .map(|(server, tally)| tally.snapshot(*server))
            .collect();
        counts.sort_by_key(|counts| counts.server);
        counts
    }

    fn update(&self, server: SocketAddr, change: impl FnOnce(&mut UpstreamTally)) {
        if let Some(tally) = self.lock().get_mut(&server) {
            change(tally);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, UpstreamTally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room: forgets outdated servers, and the one that was not used for the longest time.
fn forget(tallies: &mut HashMap<SocketAddr, UpstreamTally>, now: Instant) {
    tallies.retain(|_, tally| !tally.is_outdated(now));
    if tallies.len() < MAX_SERVERS {
        return;
    }
    let used = tallies
        .iter()
        .filter_map(|(server, tally)| Some((tally.last_candidate?, *server)));
    if let Some((_, oldest)) = used.min() {
        tallies.remove(&oldest);
    }
}

impl UpstreamTally {
    fn is_outdated(&self, now: Instant) -> bool {
        let age = |last| now.saturating_duration_since(last);
        self.last_candidate.is_some_and(|last| age(last) >= MEMORY)
    }

    fn snapshot(&self, server: SocketAddr) -> UpstreamCounts {
        // Alert rules divide by these codes or wait for them to grow.
        let mut responses: BTreeMap<RcodeIndex, HistogramCounts> = ["NOERROR", "SERVFAIL"]
            .into_iter()
            .filter_map(|name| RcodeIndex::all().find(|rcode| rcode.name() == name))
            .map(|rcode| (rcode, DurationHistogram::default().snapshot()))
            .collect();
        for (rcode, durations) in &self.responses {
            responses.insert(*rcode, durations.snapshot());
        }
        UpstreamCounts {
            server,
            sent: self.sent,
            failures: self.failures,
            connections: ConnectionProtocol::ALL
                .map(|protocol| {
                    let [new, reused] = self.connections[protocol as usize];
                    (protocol, new, reused)
                })
                .into_iter()
                .filter(|(protocol, new, reused)| {
                    *protocol == ConnectionProtocol::Udp || new + reused > 0
                })
                .collect(),
            responses: responses
                .into_iter()
                .map(|(rcode, durations)| (rcode.name(), durations))
                .collect(),
        }
    }
}
