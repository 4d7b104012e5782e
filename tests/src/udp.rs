//! UDP from and to the inside of a namespace.

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

use crate::netns::Namespace;

/// Asks one server and hears no other: an answer from another address than
/// the one that was asked is no answer.
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    /// Opens a socket inside `namespace`, on a port the kernel chooses.
    pub fn new(namespace: &Namespace, server: SocketAddr) -> Result<Client> {
        let open = || {
            let any: SocketAddr = match server {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(server)?;
            Ok::<_, io::Error>(socket)
        };
        let socket = namespace
            .enter(open)?
            .with_context(|| format!("in namespace {}, no way to {server}", namespace.name()))?;
        Ok(Client { socket })
    }

    /// Sends a payload and waits for what comes back; `None` if nothing does in time.
    pub fn ask(&self, payload: &[u8], limit: Duration) -> Result<Option<Vec<u8>>> {
        self.send(payload)?;
        self.receive(limit)
    }

    /// Sends a payload.
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        self.socket.send(payload).context("cannot send")?;
        Ok(())
    }

    /// Waits for a payload; `None` if none comes in time.
    pub fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; LONGEST];
        let mut left = limit;
        while !left.is_zero() {
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => return Ok(Some(buffer[..length].to_vec())),
                Err(error) if is_timeout(&error) => return Ok(None),
                // The process was stopped for a moment, as with its machine (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
            left = deadline.saturating_duration_since(Instant::now());
        }
        Ok(None)
    }

    /// The address that the answers come to.
    pub fn local_address(&self) -> Result<SocketAddr> {
        self.socket
            .local_addr()
            .context("the socket has no address")
    }
}

/// Answers inside a namespace, on a thread of its own, until dropped.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers each payload with what `reply` makes of it; `None` is no answer.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        reply: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Server> {
        let socket = namespace
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| {
                format!(
                    "in namespace {}, cannot listen on {address}",
                    namespace.name()
                )
            })?;
        Server::on(socket, reply)
    }

    /// The same on a socket that is there already.
    pub fn on(
        socket: UdpSocket,
        reply: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Result<Server> {
        // So that the thread looks now and then whether it is to end.
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&socket, &stop, &reply)
        });
        Ok(Server {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that the kernel chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the server on {} panicked", self.address);
        }
    }
}

/// Tries again until `attempt` is true; says whether it was in time.
///
/// For what the harness cannot wait for otherwise, such as a program starting.
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

/// The longest UDP payload.
const LONGEST: usize = 65_535;

fn serve(socket: &UdpSocket, stop: &AtomicBool, reply: &impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut buffer = vec![0; LONGEST];
    while !stop.load(Ordering::Relaxed) {
        // Errors are time-outs, or ports that closed before the answer came.
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
