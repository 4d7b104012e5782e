//! Clients that ask over connections which they keep.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_tests::netns::NetworkNamespace;

use super::{
    is_full_length,
    load::{Source, answer},
};

/// Clients with a connection each, which ask every 50 ms.
pub(super) struct StreamLoad {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<StreamTally>>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(super) struct StreamTally {
    answers: usize,
    /// Connections that ended before an answer.
    ended: usize,
    /// Connections on which no answer came, and no end, for [`patience`].
    hung: usize,
    /// Connections that could not be opened again at once.
    refused: usize,
}

/// The stand-in for the cluster's DNS over TCP.
pub(super) struct StandIn {
    is_over: Arc<AtomicBool>,
    address: SocketAddr,
    namespace_name: String,
    thread: Option<JoinHandle<()>>,
}

const CLIENTS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(50);

impl StreamLoad {
    pub(super) fn start(pod: &NetworkNamespace) -> StreamLoad {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let is_over = is_over.clone();
            let ask = move || keep_asking(number, &is_over);
            // The new thread inherits the network namespace.
            pod.enter(|| thread::spawn(ask)).unwrap()
        };
        StreamLoad {
            threads: (0..CLIENTS).map(client).collect(),
            is_over,
        }
    }

    pub(super) fn stop(mut self) -> StreamTally {
        self.is_over.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads).into_iter();
        let tallies = threads.map(|thread| thread.join().unwrap());
        tallies.fold(StreamTally::default(), |sum, tally| sum.with(&tally))
    }
}

/// Stops the threads, even if the test panics.
impl Drop for StreamLoad {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl StreamTally {
    fn with(mut self, other: &StreamTally) -> StreamTally {
        self.answers += other.answers;
        self.ended += other.ended;
        self.hung += other.hung;
        self.refused += other.refused;
        self
    }

    pub(super) fn assert_retries_succeeded(&self) {
        assert!(
            self.answers > CLIENTS,
            "only {} answers over TCP",
            self.answers
        );
        assert_eq!(
            self.refused, 0,
            "connections were not opened again: {self:?}"
        );
    }

    pub(super) fn assert_ended_or_went_on(&self) {
        assert_eq!(
            self.hung, 0,
            "connections neither ended nor went on: {self:?}"
        );
    }
}

/// Prints table cells: answers over TCP, connections that ended, connections that hung.
impl fmt::Display for StreamTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} | {} | {}", self.answers, self.ended, self.hung)
    }
}

/// The longest time for an answer or for the end of the connection. It is long beside other tests.
fn patience() -> Duration {
    Duration::from_secs(if is_full_length() { 1 } else { 20 })
}

/// Asks on a connection, and opens another one whenever it ends.
fn keep_asking(client: usize, is_over: &AtomicBool) -> StreamTally {
    let mut tally = StreamTally::default();
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect_timeout(&served(), patience()) else {
            tally.refused += 1;
            continue;
        };
        stream.set_read_timeout(Some(patience())).unwrap();
        while !is_over.load(Ordering::Relaxed) {
            number += 1;
            let asked = Instant::now();
            match ask(&mut stream, &format!("t{client}-{number}.example.com")) {
                Ok(()) => tally.answers += 1,
                Err(_) if asked.elapsed() > patience() => {
                    tally.hung += 1;
                    break;
                }
                Err(_) => {
                    tally.ended += 1;
                    break;
                }
            }
            thread::sleep(INTERVAL);
        }
    }
    tally
}

fn served() -> SocketAddr {
    SocketAddr::new(SERVED[0], 53)
}

fn ask(stream: &mut TcpStream, name: &str) -> io::Result<()> {
    let message = QueryPacket::new(POD[0], SERVED[0], name, 1).message();
    write_message(stream, &message)?;
    read_message(stream).map(drop)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&length[..], message].concat())
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

impl StandIn {
    /// Answers on an address of the node until it is dropped.
    pub(super) fn start(node: &NetworkNamespace, address: SocketAddr) -> StandIn {
        let listener = node.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        listener.set_nonblocking(true).unwrap();
        let thread = thread::spawn({
            let is_over = is_over.clone();
            move || accept(&listener, &is_over)
        });
        StandIn {
            is_over,
            address,
            namespace_name: node.name().to_owned(),
            thread: Some(thread),
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|it| it.join().is_err()) {
            eprintln!(
                "the stand-in at {} in {} failed",
                self.address, self.namespace_name
            );
        }
    }
}

fn accept(listener: &TcpListener, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                thread::spawn(move || {
                    stream.set_nonblocking(false).ok();
                    while let Ok(query) = read_message(&mut stream) {
                        let reply = answer(&query, Source::ClusterDns).unwrap_or_default();
                        if write_message(&mut stream, &reply).is_err() {
                            break;
                        }
                    }
                });
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}
