//! A pod that looks names up one after another, and checks the replies.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use zerohop_contract::addresses::SERVED;
use zerohop_tests::{netns::NetworkNamespace, udp::UdpClient};

use super::dns::{Answerer, LOOKED_UP, PodQuestion};

/// A thread that looks names up until it is stopped, at most 2,000 a second. Each lookup begins
/// after the previous one has ended.
pub(super) struct LookupLoad {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<LookupTally>>,
}

/// The selection of names to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupMix {
    /// Names of the cluster, and for a tenth of the lookups a name outside of it.
    All,
    /// Only names of the cluster.
    OfTheCluster,
}

/// Counts of lookups.
#[derive(Debug, Default)]
pub(super) struct LookupTally {
    pub(super) asked: usize,
    /// Lookups with a right reply from the kernel.
    pub(super) by_kernel: usize,
    /// Lookups without a reply within [`PATIENCE`], or with an ICMP error. (glibc would wait for
    /// five seconds and ask again.)
    failed: usize,
    /// Lookups with a right reply later than [`SLOW`].
    slow: usize,
    /// The longest time until a right reply.
    slowest: Duration,
    /// Descriptions of wrong replies.
    pub(super) wrong: Vec<String>,
}

/// The planned time between the starts of two lookups.
const INTERVAL: Duration = Duration::from_micros(500);
const SLOW: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// The served IPv4 address.
pub(super) fn served_address() -> SocketAddr {
    SocketAddr::new(SERVED[0], 53)
}

impl LookupLoad {
    pub(super) fn start(pod: &NetworkNamespace, mix: LookupMix) -> LookupLoad {
        let client = UdpClient::new(pod, served_address()).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let is_over = is_over.clone();
            move || look_up(&client, mix, &is_over)
        });
        LookupLoad {
            is_over,
            thread: Some(thread),
        }
    }

    pub(super) fn stop(mut self) -> LookupTally {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Stops the thread, even if the test panics.
impl Drop for LookupLoad {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl LookupTally {
    pub(super) fn assert_none_failed(&self) {
        assert_eq!(
            self.failed, 0,
            "{} of {} lookups got an ICMP error or no reply within {PATIENCE:?}",
            self.failed, self.asked
        );
    }
}

/// Prints table cells: lookups, percentage from the kernel, failed, wrong, over 100 ms, slowest in
/// ms.
impl fmt::Display for LookupTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} | {:.1} % | {} | {} | {} | {:.1}",
            self.asked,
            100.0 * self.by_kernel as f64 / self.asked.max(1) as f64,
            self.failed,
            self.wrong.len(),
            self.slow,
            self.slowest.as_secs_f64() * 1e3
        )
    }
}

fn look_up(client: &UdpClient, mix: LookupMix, is_over: &AtomicBool) -> LookupTally {
    let mut tally = LookupTally::default();
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let question = choose_question(tally.asked, mix);
        let asked = Instant::now();
        tally.asked += 1;
        let query = question.message(tally.asked as u16);
        client.send(&query).unwrap();
        let reply = receive_reply(client, &query, asked);
        let took = asked.elapsed();
        match reply.map(|reply| question.check_reply(&query, &reply)) {
            None => tally.failed += 1,
            Some(Ok(by)) => {
                tally.by_kernel += usize::from(by == Answerer::Kernel);
                tally.slow += usize::from(took > SLOW);
                tally.slowest = tally.slowest.max(took);
            }
            Some(Err(wrong)) => tally.wrong.push(wrong),
        }
        // Of the lookups that a delay prevented, the thread makes up for at most one.
        next = (next + INTERVAL).max(asked);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    tally
}

/// Receives the reply with the ID of the query, which was sent at `asked`. `None`: no reply within
/// [`PATIENCE`], or an ICMP error.
fn receive_reply(client: &UdpClient, query: &[u8], asked: Instant) -> Option<Vec<u8>> {
    loop {
        let left = PATIENCE.checked_sub(asked.elapsed())?;
        match client.receive(left) {
            Ok(Some(reply)) if reply[..2] == query[..2] => return Some(reply),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Chooses the question of the lookup with this number.
fn choose_question(number: usize, mix: LookupMix) -> PodQuestion {
    let which = (number / 10) as u16 % LOOKED_UP;
    match number % 10 {
        0..6 => PodQuestion::Service(which),
        6..8 => PodQuestion::NoData(which),
        8 if mix == LookupMix::All => PodQuestion::Outside,
        _ => PodQuestion::NotThere(which),
    }
}
