//! A client of one DNS server.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use zerohop_tests::netns::NetworkNamespace;

use crate::questions::{AskedTransport, RouteQuestion};

/// Sends questions to a server.
pub(crate) struct RouteClient {
    datagrams: UdpSocket,
    server: SocketAddr,
    /// A socket whose connections begin in the network of the server.
    network: std::fs::File,
}

/// The longest time until a reply.
const LIMIT: Duration = Duration::from_secs(6);
/// The number of times that a question is sent over UDP.
const ATTEMPTS: usize = 2;

impl RouteClient {
    pub(crate) fn new(network: &NetworkNamespace, server: SocketAddr) -> Result<RouteClient> {
        let datagrams = network.enter(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(server)?;
            Ok(socket)
        })??;
        let path = format!("/run/netns/{}", network.name());
        Ok(RouteClient {
            datagrams,
            server,
            network: std::fs::File::open(path)?,
        })
    }

    /// The reply to a question.
    pub(crate) fn ask(&self, question: &RouteQuestion) -> Result<Vec<u8>> {
        match question.transport {
            AskedTransport::Udp => self.ask_over_udp(&question.message()),
            AskedTransport::Tcp => self.ask_over_tcp(question),
        }
    }

    /// The reply to a question over TCP, whatever the question's transport.
    pub(crate) fn ask_over_tcp(&self, question: &RouteQuestion) -> Result<Vec<u8>> {
        let message = question.message();
        let exchange = || -> Result<Vec<u8>> {
            let mut stream = self.connect()?;
            stream.set_read_timeout(Some(LIMIT))?;
            let length = u16::try_from(message.len())?;
            stream.write_all(&[&length.to_be_bytes(), &message[..]].concat())?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut reply = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut reply)?;
            Ok(reply)
        };
        exchange().with_context(|| format!("{} did not answer {question:?}", self.server))
    }

    fn connect(&self) -> Result<TcpStream> {
        let inside = || -> Result<TcpStream> {
            nix::sched::setns(&self.network, nix::sched::CloneFlags::CLONE_NEWNET)?;
            Ok(TcpStream::connect_timeout(&self.server, LIMIT)?)
        };
        let thread = std::thread::scope(|scope| scope.spawn(inside).join());
        thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn ask_over_udp(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut buffer = [0; 65_535];
        for _ in 0..ATTEMPTS {
            self.datagrams.send(message)?;
            let deadline = Instant::now() + LIMIT;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.datagrams.set_read_timeout(Some(left))?;
                match self.datagrams.recv(&mut buffer) {
                    Ok(length) if buffer[..length].starts_with(&message[..2]) => {
                        return Ok(buffer[..length].to_vec());
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        bail!("{} did not answer {message:02x?}", self.server)
    }
}
