//! Well-behaved clients: they ask steadily for names of the cluster, for cached names outside it,
//! and for names outside it that are asked for once.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_tests::{netns::NetworkNamespace, udp::eventually};

use super::{
    attack_list::A,
    connections::{UnreadReplies, start_connection},
    node::{AttackedNode, LISTEN, OUTSIDE_ADDRESS, WEB_ADDRESS, WEB_SERVICE, other_addresses},
};

/// The clients of a node.
pub(super) struct WellBehavedClients<'a> {
    namespace: &'a NetworkNamespace,
}

/// What is asked, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OtherQuestion {
    Cluster,
    Cached,
    Fresh,
    ClusterOverTcp,
}

/// Counts and times of questions.
#[derive(Default)]
pub(super) struct OthersTally(BTreeMap<OtherQuestion, KindTally>);

#[derive(Default)]
struct KindTally {
    asked: usize,
    /// The time of each right answer within [`PATIENCE`].
    times: Vec<Duration>,
}

/// Questions that wait for their answers, by ID.
type WaitingQuestions = HashMap<u16, (OtherQuestion, Instant)>;

/// The time between two questions of an address: with four addresses 200 questions a second.
const INTERVAL: Duration = Duration::from_millis(20);
/// Cached names.
const CACHED_NAMES: u32 = 100;
/// An answer that takes longer is missing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time for the cache to be filled.
const LIMIT: Duration = Duration::from_secs(30);

impl WellBehavedClients<'_> {
    pub(super) fn new(node: &AttackedNode) -> WellBehavedClients<'_> {
        WellBehavedClients {
            namespace: node.others(),
        }
    }

    /// Asks for each cached name until it is answered.
    pub(super) fn fill_cache(&self) -> Result<()> {
        let address = other_addresses().next().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let socket = self.namespace.enter(|| open_socket(address))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        for number in 0..CACHED_NAMES {
            let question = OtherQuestion::Cached;
            let message = question.message(number as u16, number, address);
            let filled = eventually(LIMIT, || {
                socket.send(&message)?;
                let mut buffer = [0; 1500];
                let Ok(length) = socket.recv(&mut buffer) else {
                    return Ok(false);
                };
                let reply = &buffer[..length];
                Ok(reply[..2] == message[..2] && question.is_answered_by(reply))
            });
            ensure!(filled?, "a name is not answered before the attack");
        }
        Ok(())
    }

    /// Asks for this time, and waits for the last answers.
    pub(super) fn ask_for(&self, length: Duration) -> Result<OthersTally> {
        let tallies = thread::scope(|scope| {
            let clients: Vec<_> = other_addresses()
                .map(|address| scope.spawn(move || self.ask_from(address, length)))
                .collect();
            let tallies = clients.into_iter().map(ScopedJoinHandle::join);
            tallies.collect::<Vec<_>>()
        });
        let mut all = OthersTally::default();
        for tally in tallies {
            all.add(tally.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        ensure!(all.asked() > 0, "no question was asked");
        Ok(all)
    }

    fn ask_from(&self, address: Ipv4Addr, length: Duration) -> Result<OthersTally> {
        self.namespace.enter(|| {
            let socket = open_socket(address)?;
            thread::scope(|scope| {
                let (mut tally, mut waiting) = (OthersTally::default(), WaitingQuestions::new());
                let mut streams = Vec::new();
                let started = Instant::now();
                let mut number = 0u32;
                loop {
                    let due = INTERVAL * number;
                    let now = started.elapsed();
                    if due >= length && now >= length + PATIENCE {
                        break;
                    }
                    if due < length && now >= due {
                        let question = OtherQuestion::with_number(number);
                        tally.of(question).asked += 1;
                        if question == OtherQuestion::ClusterOverTcp {
                            streams.push(scope.spawn(move || ask_over_tcp(address)));
                        } else {
                            let asked = (question, Instant::now());
                            waiting.insert(number as u16, asked);
                            let message = question.message(number as u16, number, address);
                            // A full queue of the device is a lost query.
                            let _ = socket.send(&message);
                        }
                        number += 1;
                        continue;
                    }
                    let next = if due < length { due } else { length + PATIENCE };
                    // A time-out of zero would be without limit.
                    let pause = next.saturating_sub(now).max(Duration::from_micros(100));
                    socket.set_read_timeout(Some(pause))?;
                    tally.receive(&socket, &mut waiting);
                }
                for stream in streams {
                    let took = stream.join().unwrap_or_else(|_| bail!("a client panicked"));
                    // An error is a missing answer: the connection was closed, or waited too long.
                    let times = &mut tally.of(OtherQuestion::ClusterOverTcp).times;
                    times.extend(took.ok().filter(|took| *took <= PATIENCE));
                }
                Ok(tally)
            })
        })?
    }
}

impl OtherQuestion {
    fn with_number(number: u32) -> OtherQuestion {
        match number % 10 {
            0..3 => OtherQuestion::Cluster,
            3..6 => OtherQuestion::Cached,
            6..9 => OtherQuestion::Fresh,
            _ => OtherQuestion::ClusterOverTcp,
        }
    }

    fn message(self, id: u16, number: u32, client: Ipv4Addr) -> Vec<u8> {
        let name = match self {
            OtherQuestion::Cluster | OtherQuestion::ClusterOverTcp => WEB_SERVICE.to_owned(),
            OtherQuestion::Cached => format!("cached{}.example.com", number % CACHED_NAMES),
            OtherQuestion::Fresh => {
                format!("fresh{number}-{}.example.com", client.octets()[3])
            }
        };
        QueryPacket {
            id,
            ..QueryPacket::new(POD[0], SERVED[0], &name, A)
        }
        .message()
    }

    /// Whether a message is the right answer: without an error, and the last record has the right
    /// address.
    fn is_answered_by(self, reply: &[u8]) -> bool {
        let address = match self {
            OtherQuestion::Cluster | OtherQuestion::ClusterOverTcp => WEB_ADDRESS,
            OtherQuestion::Cached | OtherQuestion::Fresh => OUTSIDE_ADDRESS,
        };
        reply.len() > 12 && reply[3] & 0xf == 0 && reply.ends_with(&address.octets())
    }
}

impl OthersTally {
    pub(super) fn asked(&self) -> usize {
        self.0.values().map(|tally| tally.asked).sum()
    }

    pub(super) fn answered_share(&self) -> f64 {
        let answered: usize = self.0.values().map(|tally| tally.times.len()).sum();
        answered as f64 / self.asked() as f64
    }

    /// The time within which this percentage of the answers arrived; [`PATIENCE`] without answers.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let times = self.0.values().flat_map(|tally| &tally.times);
        percentile(times.copied().collect(), percent)
    }

    /// Each kind of question: answered of asked, and p99 in ms.
    pub(super) fn describe(&self) -> String {
        let kinds = self.0.iter().map(|(question, tally)| {
            let p99 = percentile(tally.times.clone(), 99).as_secs_f64() * 1e3;
            let (answered, asked) = (tally.times.len(), tally.asked);
            format!("{question:?} {answered}/{asked}, p99 {p99:.1} ms")
        });
        kinds.collect::<Vec<_>>().join("; ")
    }

    fn of(&mut self, question: OtherQuestion) -> &mut KindTally {
        self.0.entry(question).or_default()
    }

    fn add(&mut self, other: OthersTally) {
        for (question, tally) in other.0 {
            let sum = self.of(question);
            sum.asked += tally.asked;
            sum.times.extend(tally.times);
        }
    }

    /// Receives one message, or none until the socket's time-out.
    fn receive(&mut self, socket: &UdpSocket, waiting: &mut WaitingQuestions) {
        let mut buffer = [0; 1500];
        // The usual error is the time-out.
        let Ok(length) = socket.recv(&mut buffer) else {
            return;
        };
        let reply = &buffer[..length];
        let Some(&[high, low]) = reply.first_chunk() else {
            return;
        };
        let Some((question, asked)) = waiting.remove(&u16::from_be_bytes([high, low])) else {
            return;
        };
        let took = asked.elapsed();
        if took <= PATIENCE && question.is_answered_by(reply) {
            self.of(question).times.push(took);
        }
    }
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or(PATIENCE)
}

fn open_socket(address: Ipv4Addr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(address, 0))?;
    socket.connect(LISTEN)?;
    Ok(socket)
}

/// Asks on a new connection. Returns how long that took.
///
/// # Errors
///
/// If there is no right answer, or it takes much longer than [`PATIENCE`].
fn ask_over_tcp(address: Ipv4Addr) -> Result<Duration> {
    let asked = Instant::now();
    let question = OtherQuestion::ClusterOverTcp;
    let mut stream = start_connection(address, UnreadReplies::Discarded)?;
    // Writing waits for the connection.
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let message = question.message(1, 0, address);
    stream.write_all(&[&(message.len() as u16).to_be_bytes(), &message[..]].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    ensure!(question.is_answered_by(&reply), "the answer is wrong");
    Ok(asked.elapsed())
}
