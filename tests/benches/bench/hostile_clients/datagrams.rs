//! Hostile clients that send datagrams.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use rand::{SeedableRng as _, rngs::StdRng};

use super::node::LISTEN;

/// Datagrams from these addresses in turn.
pub(super) struct DatagramFlood {
    /// The source addresses, which need not be addresses of the attacker.
    pub(super) sources: Vec<Ipv4Addr>,
    pub(super) rate: SendingRate,
    /// Makes the next message.
    pub(super) make: fn(&mut StdRng) -> Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SendingRate {
    PerSecond(u32),
    /// As fast as one thread sends.
    Highest,
}

impl DatagramFlood {
    /// Sends from the current network namespace until `is_over`. Counts the messages in `sent`.
    pub(super) fn send_until(&self, is_over: &AtomicBool, sent: &AtomicU64) -> Result<()> {
        let sockets = self.sources.iter().map(|source| open_socket(*source));
        let sockets = sockets.collect::<Result<Vec<_>>>()?;
        let mut random = StdRng::seed_from_u64(1);
        let started = Instant::now();
        for (number, socket) in (0u32..).zip(sockets.iter().cycle()) {
            if let SendingRate::PerSecond(rate) = self.rate {
                let due = started + Duration::from_secs(1) * number / rate;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            if is_over.load(Relaxed) {
                break;
            }
            // Fails when the device's queue is full: as with any flood, that datagram is lost.
            let result = socket.send(&(self.make)(&mut random));
            sent.fetch_add(u64::from(result.is_ok()), Relaxed);
        }
        Ok(())
    }
}

/// A socket with a source address that this namespace need not have.
fn open_socket(source: Ipv4Addr) -> Result<UdpSocket> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::IpTransparent, &true)?;
    bind(
        fd.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(source, 0)),
    )
    .with_context(|| format!("cannot send from {source}"))?;
    let socket = UdpSocket::from(fd);
    socket.connect(LISTEN)?;
    Ok(socket)
}
