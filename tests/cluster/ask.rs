//! Questions to one server, until it has answered.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Asks one server over UDP.
pub(crate) struct Asker {
    socket: UdpSocket,
    server: SocketAddr,
}

/// How often a question is sent. Whoever is slow gets another one, as from any client.
const ATTEMPTS: u32 = 5;
/// How long an answer may take each time.
const LIMIT: Duration = Duration::from_secs(3);

impl Asker {
    /// From the machine's own namespace.
    pub(crate) fn new(server: SocketAddr) -> Result<Asker> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Asker::on(socket)
    }

    /// On a socket that hears one server alone.
    pub(crate) fn on(socket: UdpSocket) -> Result<Asker> {
        let server = socket.peer_addr()?;
        Ok(Asker { socket, server })
    }

    /// The reply to a message.
    pub(crate) fn ask(&self, message: &[u8]) -> Result<Vec<u8>> {
        for _ in 0..ATTEMPTS {
            self.socket.send(message)?;
            if let Some(reply) = self.receive(message)? {
                return Ok(reply);
            }
        }
        bail!("{} did not answer {message:02x?}", self.server)
    }

    /// The reply to a message over TCP.
    pub(crate) fn ask_tcp(&self, message: &[u8]) -> Result<Vec<u8>> {
        let reply = || {
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
        reply().with_context(|| format!("{} did not answer over TCP", self.server))
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
                // Answers to earlier questions may come late.
                Ok(length) if buffer[..length].starts_with(&message[..2]) => {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                Ok(_) => {}
                Err(error) if is_for_now(error.kind()) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("no word from {}", self.server));
                }
            }
        }
    }
}

/// Whether it is worth waiting on.
fn is_for_now(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
