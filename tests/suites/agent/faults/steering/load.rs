//! Lookups of names outside the cluster, as the resolvers of glibc, musl and Go make them.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_tests::netns::NetworkNamespace;

/// A thread that begins 2,000 lookups a second until it is stopped. Each asks for the IPv4 and the
/// IPv6 address of a name that was not asked for before.
pub(super) struct OutsideLoad {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<OutsideTally>>,
}

/// Counts of lookups.
#[derive(Debug, Default)]
pub(super) struct OutsideTally {
    lookups: usize,
    /// Questions that the cluster's DNS answered.
    by_cluster_dns: usize,
    /// Questions without an answer in time, which were repeated or given up.
    pub(super) lost: usize,
    /// Lookups whose questions were not answered, though they were repeated.
    failed: usize,
    slowest: Duration,
}

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    ClusterDns,
    Outside,
}

/// How a resolver repeats a question.
#[derive(Clone, Copy)]
struct Manner {
    /// The time for an answer.
    wait: Duration,
    /// Whether both questions of a lookup have the same source port.
    ports: SourcePorts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SourcePorts {
    Shared,
    /// One for each question.
    Each,
}

/// glibc (`RES_TIMEOUT`), musl (a timeout of 5 s divided by two attempts), and Go's resolver
/// (`dnsConfig.timeout`).
const MANNERS: [Manner; 3] = [
    Manner {
        wait: Duration::from_secs(5),
        ports: SourcePorts::Shared,
    },
    Manner {
        wait: Duration::from_millis(2500),
        ports: SourcePorts::Shared,
    },
    Manner {
        wait: Duration::from_secs(5),
        ports: SourcePorts::Each,
    },
];
/// How often all three ask.
const ATTEMPTS: usize = 2;
/// The time between two lookups.
const INTERVAL: Duration = Duration::from_micros(500);

/// A name for single questions of the tests.
pub(super) const PROBE: &str = "probe.example.com";
const A: u16 = 1;
const AAAA: u16 = 28;
/// QR, RD and RA (RFC 1035 section 4.1.1).
const REPLY_FLAGS: u16 = 0x8180;
const FROM_CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const FROM_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The bit AA, by which the cluster's DNS marks empty answers.
const AUTHORITATIVE: u8 = 4;

/// The answer of a server to any question.
pub(super) fn answer(query: &[u8], source: Source) -> Option<Vec<u8>> {
    let (mark, address) = match source {
        Source::ClusterDns => (u16::from(AUTHORITATIVE) << 8, FROM_CLUSTER_DNS),
        Source::Outside => (0, FROM_OUTSIDE),
    };
    match packet::question_type(query)? {
        A => packet::address_reply(query, REPLY_FLAGS | mark, 30, address),
        _ => packet::empty_reply(query, REPLY_FLAGS | mark),
    }
}

/// Whether the cluster's DNS sent an answer.
pub(super) fn is_from_cluster_dns(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & AUTHORITATIVE != 0)
}

impl OutsideLoad {
    pub(super) fn start(pod: &NetworkNamespace) -> OutsideLoad {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        let look_up = move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(look_names_up(&stop))
        };
        // The new thread inherits the network namespace.
        let thread = pod.enter(|| thread::spawn(look_up));
        OutsideLoad {
            is_over,
            thread: Some(thread.unwrap()),
        }
    }

    /// Stops, and waits for the lookups that have begun.
    pub(super) fn stop(mut self) -> OutsideTally {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Stops the thread, even if the test panics.
impl Drop for OutsideLoad {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl OutsideTally {
    pub(super) fn assert_none_failed(&self) {
        // With 100 lookups or fewer the load hardly ran.
        assert!(self.lookups > 100, "only {} lookups", self.lookups);
        assert_eq!(self.failed, 0, "of {} lookups failed", self.lookups);
    }
}

/// Prints table cells: lookups, questions that the cluster's DNS answered, lost questions, failed
/// lookups, slowest in ms.
impl fmt::Display for OutsideTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} | {} | {} | {} | {:.1}",
            self.lookups,
            self.by_cluster_dns,
            self.lost,
            self.failed,
            self.slowest.as_secs_f64() * 1e3
        )
    }
}

async fn look_names_up(is_over: &AtomicBool) -> OutsideTally {
    let tally = Arc::new(Mutex::new(OutsideTally::default()));
    let mut lookups = JoinSet::new();
    let mut next = Instant::now();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let manner = MANNERS[number % MANNERS.len()];
        let name = format!("n{number}.example.com");
        let tally = tally.clone();
        lookups.spawn(async move { look_up(&name, manner, &tally).await });
        while lookups.try_join_next().is_some() {}
        number += 1;
        // A delayed thread doesn't make up for more than one lookup.
        next = (next + INTERVAL).max(Instant::now());
        sleep_until(next).await;
    }
    while lookups.join_next().await.is_some() {}
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut tally)
}

/// Looks a name up as a resolver does.
async fn look_up(name: &str, manner: Manner, tally: &Mutex<OutsideTally>) {
    let began = Instant::now();
    let mut missing = vec![A, AAAA];
    for _ in 0..ATTEMPTS {
        let groups = match manner.ports {
            SourcePorts::Shared => vec![missing.clone()],
            SourcePorts::Each => missing.iter().map(|rtype| vec![*rtype]).collect(),
        };
        let deadline = Instant::now() + manner.wait;
        missing.clear();
        let mut by_cluster_dns = 0;
        for group in groups {
            // The second socket waits after the first one, up to the same moment.
            let asked = ask(name, group.clone(), deadline).await;
            let (left, answered) = asked.unwrap_or((group, 0));
            missing.extend(left);
            by_cluster_dns += answered;
        }
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.by_cluster_dns += by_cluster_dns;
        tally.lost += missing.len();
        if missing.is_empty() {
            break;
        }
    }
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.lookups += 1;
    tally.failed += usize::from(!missing.is_empty());
    tally.slowest = tally.slowest.max(began.elapsed());
}

/// Asks for these types from one socket. Returns those without an answer, and how many the
/// cluster's DNS answered. An ICMP error ends the attempt.
async fn ask(name: &str, mut types: Vec<u16>, deadline: Instant) -> io::Result<(Vec<u16>, usize)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(SocketAddr::new(SERVED[0], 53)).await?;
    for rtype in &types {
        let query = QueryPacket {
            id: *rtype,
            ..QueryPacket::new(POD[0], SERVED[0], name, *rtype)
        };
        socket.send(&query.message()).await?;
    }
    let mut by_cluster_dns = 0;
    let mut reply = [0; 512];
    while !types.is_empty() {
        let Ok(Ok(length)) = timeout_at(deadline, socket.recv(&mut reply)).await else {
            break;
        };
        let reply = &reply[..length];
        let before = types.len();
        types.retain(|rtype| !reply.starts_with(&rtype.to_be_bytes()));
        by_cluster_dns += usize::from(types.len() < before && is_from_cluster_dns(reply));
    }
    Ok((types, by_cluster_dns))
}
