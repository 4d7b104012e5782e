//! A pod that looks names up, one after another, and checks what it hears.

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

use zerohop_tests::{netns::Namespace, topology::SERVED, udp::Client};

use super::dns::{By, LOOKED_UP, Question};

/// Lookups that go on until they are stopped: 2,000 a second, each after the answer to the one before.
pub(super) struct Load {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tally>>,
}

/// Which names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// A tenth are names outside of the cluster.
    All,
    /// None are.
    OfTheCluster,
}

/// What came of the lookups.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) asked: usize,
    pub(super) by_kernel: usize,
    /// Nothing within [`PATIENCE`]. A resolver would wait for five seconds, and then ask again.
    failed: usize,
    /// Answered, but not within [`SLOW`].
    slow: usize,
    slowest: Duration,
    pub(super) wrong: Vec<String>,
}

const INTERVAL: Duration = Duration::from_micros(500);
const SLOW: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);

/// Where pods ask.
pub(super) fn served() -> SocketAddr {
    SocketAddr::new(SERVED[0], 53)
}

impl Load {
    pub(super) fn start(pod: &Namespace, mix: Mix) -> Load {
        let client = Client::new(pod, served()).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let is_over = is_over.clone();
            move || look_up(&client, mix, &is_over)
        });
        Load {
            is_over,
            thread: Some(thread),
        }
    }

    pub(super) fn stop(mut self) -> Tally {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Also when what is done meanwhile panics.
impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    pub(super) fn assert_none_failed(&self) {
        assert_eq!(self.failed, 0, "{self}");
    }
}

/// Cells of a table: lookups, from the kernel, failed, wrong, over 100 ms, the slowest in ms.
impl fmt::Display for Tally {
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

fn look_up(client: &Client, mix: Mix, is_over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let question = nth(tally.asked, mix);
        let asked = Instant::now();
        tally.asked += 1;
        let query = question.message(tally.asked as u16);
        client.send(&query).unwrap();
        let heard = hear(client, &query, asked);
        let took = asked.elapsed();
        match heard.map(|reply| question.check(&query, &reply)) {
            None => tally.failed += 1,
            Some(Ok(by)) => {
                tally.by_kernel += usize::from(by == By::Kernel);
                tally.slow += usize::from(took > SLOW);
                tally.slowest = tally.slowest.max(took);
            }
            Some(Err(wrong)) => tally.wrong.push(wrong),
        }
        // Time that was lost is not made up for.
        next = (next + INTERVAL).max(asked);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    tally
}

/// The reply with the query's ID. Nobody listening is an error to the socket, and no reply.
fn hear(client: &Client, query: &[u8], asked: Instant) -> Option<Vec<u8>> {
    loop {
        let left = PATIENCE.checked_sub(asked.elapsed())?;
        match client.receive(left.max(Duration::from_millis(1))) {
            Ok(Some(reply)) if reply[..2] == query[..2] => return Some(reply),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

fn nth(number: usize, mix: Mix) -> Question {
    let which = (number / 10) as u16 % LOOKED_UP;
    match number % 10 {
        0..6 => Question::Service(which),
        6..8 => Question::NoData(which),
        8 if mix == Mix::All => Question::Outside,
        _ => Question::NotThere(which),
    }
}
