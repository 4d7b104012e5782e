//! An upstream server whose answers are late.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use zerohop_contract::packet;
use zerohop_tests::netns::NetworkNamespace;

/// The TTL of the upstream's answers, in seconds: longer than a run.
const TTL: u32 = 3600;

/// An upstream that answers each question for an address after a delay. Stopped when dropped.
pub(super) struct DelayingUpstream {
    pub(super) address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl DelayingUpstream {
    pub(super) fn start(namespace: &NetworkNamespace, delay: Duration) -> Result<DelayingUpstream> {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let socket = namespace.enter(bind)??;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let until = is_over.clone();
        thread::spawn(move || answer_later(&socket, delay, &until));
        Ok(DelayingUpstream { address, is_over })
    }
}

impl Drop for DelayingUpstream {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

fn answer_later(socket: &UdpSocket, delay: Duration, is_over: &AtomicBool) {
    let mut waiting: VecDeque<(Instant, Vec<u8>, SocketAddr)> = VecDeque::new();
    let mut buffer = [0; 1500];
    while !is_over.load(Relaxed) {
        let pause = waiting
            .front()
            .map_or(Duration::from_millis(100), |(due, ..)| {
                due.saturating_duration_since(Instant::now())
            });
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(pause)), None);
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let address = Ipv4Addr::new(192, 0, 2, 1);
            let reply = packet::address_reply(&buffer[..length], 0x8180, TTL, address);
            waiting.extend(reply.map(|reply| (Instant::now() + delay, reply, client)));
        }
        while let Some((due, ..)) = waiting.front()
            && *due <= Instant::now()
        {
            if let Some((_, reply, client)) = waiting.pop_front() {
                let _ = socket.send_to(&reply, client);
            }
        }
    }
}
