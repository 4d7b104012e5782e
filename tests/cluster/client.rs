//! A client of one DNS server. It repeats a query that gets no reply.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Sends queries to one server: over UDP with repetitions, or once over TCP.
pub(crate) struct RetryingClient {
    socket: UdpSocket,
    server: SocketAddr,
}

/// Number of times that a query is sent over UDP before the client gives up.
const ATTEMPTS: u32 = 5;
/// The time to wait for the reply to each attempt over UDP, and for a TCP connection and each read
/// from it.
const LIMIT: Duration = Duration::from_secs(3);

impl RetryingClient {
    /// Makes a client in the machine's own network namespace.
    pub(crate) fn new(server: SocketAddr) -> Result<RetryingClient> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        RetryingClient::from_socket(socket)
    }

    /// Makes a client from a socket that is connected to the server.
    pub(crate) fn from_socket(socket: UdpSocket) -> Result<RetryingClient> {
        let server = socket.peer_addr()?;
        Ok(RetryingClient { socket, server })
    }

    /// Sends a message over UDP, up to [`ATTEMPTS`] times, until a reply arrives. Returns the
    /// reply.
    pub(crate) fn ask(&self, message: &[u8]) -> Result<Vec<u8>> {
        for _ in 0..ATTEMPTS {
            self.socket.send(message)?;
            if let Some(reply) = self.receive(message)? {
                return Ok(reply);
            }
        }
        bail!(
            "{} did not answer the query {message:02x?}, which was sent {ATTEMPTS} times",
            self.server
        )
    }

    /// Sends a message over TCP once, and returns the reply.
    pub(crate) fn ask_tcp(&self, message: &[u8]) -> Result<Vec<u8>> {
        let exchange = || {
            let mut stream = TcpStream::connect_timeout(&self.server, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let length = u16::try_from(message.len())?;
            stream.write_all(&[&length.to_be_bytes(), message].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut reply = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut reply)?;
            anyhow::Ok(reply)
        };
        exchange().with_context(|| format!("{} did not answer over TCP", self.server))
    }

    fn receive(&self, message: &[u8]) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + LIMIT;
        let mut buffer = [0; 65_535];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                // Late replies to earlier queries have other IDs, except by chance.
                Ok(length) if buffer[..length].starts_with(&message[..2]) => {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                Ok(_) => {}
                Err(error) if is_transient(error.kind()) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot receive from {}", self.server));
                }
            }
        }
    }
}

/// Whether a receive may succeed when it is repeated.
fn is_transient(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
