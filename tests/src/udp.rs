//! UDP clients and servers inside a namespace, and [`eventually`], which waits for a condition.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::netns::NetworkNamespace;

/// A client of one server. Packets from any other address are ignored.
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// Opens a socket inside `namespace`, on a port that the kernel chooses.
    pub fn new(namespace: &NetworkNamespace, server: SocketAddr) -> Result<UdpClient> {
        let open = || {
            let any: SocketAddr = match server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(server)?;
            Ok::<_, io::Error>(socket)
        };
        let socket = namespace.enter(open)?.with_context(|| {
            format!(
                "in namespace {}, cannot connect to {server}",
                namespace.name()
            )
        })?;
        Ok(UdpClient { socket })
    }

    /// Sends a payload and waits for a reply, which may be a late one to an earlier payload.
    /// `None`: no reply came within `limit`.
    pub fn ask(&self, payload: &[u8], limit: Duration) -> Result<Option<Vec<u8>>> {
        self.send(payload)?;
        self.receive(limit)
    }

    /// Sends a payload to the server.
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        self.socket.send(payload).context("cannot send")?;
        Ok(())
    }

    /// Waits for a payload from the server. `None`: none came within `limit`.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; MAX_PAYLOAD];
        let mut left = limit;
        while !left.is_zero() {
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Ok(Some(buffer[..length].to_vec())),
                Err(error) if is_timeout(&error) => return Ok(None),
                // Stopping and continuing the process interrupts the call (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
            left = deadline.saturating_duration_since(Instant::now());
        }
        Ok(None)
    }

    /// The local address, which replies are sent to.
    pub fn local_address(&self) -> Result<SocketAddr> {
        self.socket
            .local_addr()
            .context("the socket has no address")
    }
}

/// A server inside a namespace, on its own thread; stopped when dropped.
pub struct UdpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// Listens on `address` and answers each payload with the result of `reply`. `None`: it sends
    /// no answer.
    pub fn start(
        namespace: &NetworkNamespace,
        address: SocketAddr,
        reply: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<UdpServer> {
        let socket = namespace
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| {
                format!(
                    "in namespace {}, cannot listen on {address}",
                    namespace.name()
                )
            })?;
        UdpServer::on_socket(socket, reply)
    }

    /// Starts a server on an open socket.
    pub fn on_socket(
        socket: UdpSocket,
        reply: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<UdpServer> {
        // With a time-out the thread checks `stop` every 20 ms.
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || answer_queries(&socket, &stop, &reply)
        });
        Ok(UdpServer {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// The listening address. Port 0 is replaced by the port that the kernel chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the server on {} panicked", self.address);
        }
    }
}

/// Repeats `attempt` until it returns true. Returns false if that takes longer than `limit`.
///
/// For conditions without an event to wait for, such as the start of a program. Attempts follow
/// each other without a pause, because some tests measure how soon a condition holds.
pub fn eventually(limit: Duration, mut attempt: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while !attempt()? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::yield_now();
    }
    Ok(true)
}

/// No UDP payload is longer than this, in bytes.
const MAX_PAYLOAD: usize = 65_535;

fn answer_queries(
    socket: &UdpSocket,
    stop: &AtomicBool,
    reply: &impl Fn(&[u8]) -> Option<Vec<u8>>,
) {
    let mut buffer = vec![0; MAX_PAYLOAD];
    while !stop.load(Ordering::Relaxed) {
        // The usual error is the time-out that `on_socket` sets.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(answer) = reply(&buffer[..length]) {
            socket.send_to(&answer, client).ok();
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
