//! A client that asks at a rate, whether or not answers come, and measures how long they take.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use zerohop_tests::netns::NetworkNamespace;

/// Sockets of the client.
const SOCKETS: usize = 16;
/// How long the client waits for the last answers.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The answers to questions that were asked at a rate.
pub(super) struct PacedAnswers {
    pub(super) sent: usize,
    /// How long each answer took, the shortest first.
    latencies: Vec<Duration>,
}

/// A socket, and when its questions were sent.
struct PacedSocket {
    socket: UdpSocket,
    /// By the question's ID. `None`: it is not asked, or was answered.
    sent: Vec<Option<Instant>>,
    next_id: u16,
}

impl PacedAnswers {
    /// Asks `questions` in turn, `rate` in a second. The client never sleeps, so it needs a CPU of
    /// its own.
    pub(super) fn measure(
        namespace: &NetworkNamespace,
        server: SocketAddr,
        questions: &[Vec<u8>],
        rate: f64,
        duration: Duration,
    ) -> Result<PacedAnswers> {
        let connect = || (0..SOCKETS).map(|_| PacedSocket::connect(server)).collect();
        let mut sockets: Vec<PacedSocket> = namespace.enter(|| -> Result<_> { connect() })??;
        let mut answers = PacedAnswers {
            sent: 0,
            latencies: Vec::new(),
        };
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            if elapsed > duration + LAST_ANSWERS {
                break;
            }
            let due = (elapsed.min(duration).as_secs_f64() * rate) as usize;
            while answers.sent < due {
                let question = &questions[answers.sent % questions.len()];
                sockets[answers.sent % SOCKETS].ask(question)?;
                answers.sent += 1;
            }
            for socket in &mut sockets {
                socket.take_answers(&mut answers.latencies);
            }
        }
        answers.latencies.sort();
        Ok(answers)
    }

    /// The share of questions that were answered.
    pub(super) fn answered(&self) -> f64 {
        self.latencies.len() as f64 / self.sent as f64
    }

    /// The time within which this share of the answers came.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let index = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

impl PacedSocket {
    fn connect(server: SocketAddr) -> Result<PacedSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(PacedSocket {
            socket,
            sent: vec![None; usize::from(u16::MAX) + 1],
            next_id: 0,
        })
    }

    /// Sends a question with the next ID.
    fn ask(&mut self, question: &[u8]) -> Result<()> {
        let mut message = question.to_vec();
        let id = message.first_chunk_mut().context("no question")?;
        *id = self.next_id.to_be_bytes();
        self.sent[usize::from(self.next_id)] = Some(Instant::now());
        // A question that can't be sent counts as one without an answer.
        let _ = self.socket.send(&message);
        self.next_id = self.next_id.wrapping_add(1);
        Ok(())
    }

    fn take_answers(&mut self, latencies: &mut Vec<Duration>) {
        let mut buffer = [0; 512];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let Some(id) = buffer[..length].first_chunk() else {
                continue;
            };
            let sent = self.sent[usize::from(u16::from_be_bytes(*id))].take();
            latencies.extend(sent.map(|sent| sent.elapsed()));
        }
    }
}
