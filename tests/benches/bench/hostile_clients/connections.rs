//! TCP connections of hostile and of well-behaved clients.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    },
};

use super::node::{LISTEN, attacker_addresses};

/// Connections that are open all the time. One that the resolver closes is opened again.
#[derive(Clone)]
pub(super) struct ConnectionLoad {
    pub(super) connections: usize,
    /// The source addresses in turn.
    pub(super) sources: Vec<Ipv4Addr>,
    /// The bytes that each connection sends again and again.
    pub(super) message: Vec<u8>,
    /// The time from the start of a message to that of the next one. Zero: messages follow each
    /// other.
    pub(super) pause: Duration,
    pub(super) replies: UnreadReplies,
}

/// The replies that arrive at a hostile client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadReplies {
    /// The client reads and ignores them.
    Discarded,
    /// The client never reads them, and its receive buffer is as small as possible.
    Pile,
}

/// One connection of a [`ConnectionLoad`].
struct HostileConnection {
    source: Ipv4Addr,
    /// `None`: not open.
    stream: Option<TcpStream>,
    /// The number of bytes of the message that have been written.
    written: usize,
    /// When the next message, or the next attempt to connect, may begin.
    next: Instant,
}

/// The pause before a connection that the resolver has closed is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a turn of all connections in which none could send.
const IDLE_PAUSE: Duration = Duration::from_millis(1);

impl ConnectionLoad {
    /// 512 connections that send as much as the resolver reads.
    pub(super) fn pipelining() -> ConnectionLoad {
        ConnectionLoad {
            connections: 512,
            sources: attacker_addresses().take(1).collect(),
            message: Vec::new(),
            pause: Duration::ZERO,
            replies: UnreadReplies::Discarded,
        }
    }

    /// Holds the connections, from the current network namespace, until `is_over`. Counts the
    /// messages in `sent`.
    pub(super) fn hold_until(&self, is_over: &AtomicBool, sent: &AtomicU64) -> Result<()> {
        let sources = self.sources.iter().cycle().take(self.connections);
        let mut connections: Vec<_> = sources
            .map(|source| HostileConnection::of(*source))
            .collect();
        while !is_over.load(Relaxed) {
            let mut before = 0;
            for connection in &mut connections {
                before += connection.advance(self, sent)?;
            }
            if before == 0 {
                thread::sleep(IDLE_PAUSE);
            }
        }
        Ok(())
    }
}

impl HostileConnection {
    fn of(source: Ipv4Addr) -> HostileConnection {
        HostileConnection {
            source,
            stream: None,
            written: 0,
            next: Instant::now(),
        }
    }

    /// Connects, writes and reads without waiting. Returns the number of bytes written.
    fn advance(&mut self, load: &ConnectionLoad, sent: &AtomicU64) -> Result<usize> {
        let now = Instant::now();
        let Some(stream) = &mut self.stream else {
            if now >= self.next {
                self.stream = Some(start_connection(self.source, load.replies)?);
            }
            return Ok(0);
        };
        let result = match load.replies {
            UnreadReplies::Discarded => stream.read(&mut [0; 65_536]),
            UnreadReplies::Pile => Err(ErrorKind::WouldBlock.into()),
        };
        let is_closed = match result {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        let result = match self.written {
            _ if is_closed => Err(ErrorKind::ConnectionReset.into()),
            0 if now < self.next => return Ok(0),
            written => stream.write(&load.message[written..]),
        };
        match result {
            Ok(count) => {
                self.written += count;
                if self.written == load.message.len() {
                    sent.fetch_add(1, Relaxed);
                    self.written = 0;
                    self.next = now + load.pause;
                }
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(_) => {
                *self = HostileConnection {
                    next: now + RECONNECT_PAUSE,
                    ..HostileConnection::of(self.source)
                };
                Ok(0)
            }
        }
    }
}

/// Starts to connect to the resolver. The stream doesn't wait.
pub(super) fn start_connection(source: Ipv4Addr, replies: UnreadReplies) -> Result<TcpStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    if replies == UnreadReplies::Pile {
        // The kernel raises the size to its least one.
        setsockopt(&fd, sockopt::RcvBuf, &0)?;
    }
    bind(
        fd.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(source, 0)),
    )
    .with_context(|| format!("cannot connect from {source}"))?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(LISTEN)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
        Err(error) => bail!("cannot connect from {source}: {error}"),
    }
}
