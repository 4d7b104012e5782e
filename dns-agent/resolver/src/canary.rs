//! A test query that checks that the resolver answers on its addresses.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket},
    time::Duration,
};

use tokio::{net::UdpSocket, sync::Mutex, time::timeout};
use zerohop_zone::{Name, Rtype, build_query};

/// Time limit for the reply.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Queries one of the resolver's addresses, to check that it answers.
#[derive(Debug)]
pub struct Canary {
    /// The address that the server listens on. May be a wildcard address.
    listen: SocketAddr,
    /// The client's socket, or why it couldn't be opened.
    client: Result<CanaryClient, String>,
}

#[derive(Debug)]
struct CanaryClient {
    /// The socket's address. The server recognises canary queries by it and doesn't count them.
    source: SocketAddr,
    /// The lock admits one query at a time.
    socket: Mutex<UdpSocket>,
}

impl Canary {
    /// A canary for the server that listens on this address.
    pub(super) fn new(listen: SocketAddr) -> Canary {
        let client = CanaryClient::new(listen);
        Canary {
            listen,
            client: client.map_err(|error| format!("can't be queried: {error}")),
        }
    }

    /// The address that the queried server listens on.
    pub fn server_address(&self) -> SocketAddr {
        self.listen
    }

    /// The source address of canary queries. `None` if the socket couldn't be opened.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        self.client.as_ref().ok().map(|client| client.source)
    }

    /// Queries the SOA record of a local zone, which always exists.
    ///
    /// # Errors
    /// When the server can't be queried, sends no reply within a second, or sends a reply other
    /// than NOERROR with one answer record. The error is a clause about the server.
    pub async fn query_soa(&self, zone: &Name) -> Result<(), String> {
        let client = self.client.as_ref().map_err(String::clone)?;
        let socket = client.socket.lock().await;
        let id: u16 = rand::random();
        let query = build_query(id, zone, Rtype::SOA);
        let exchange = async {
            socket.send(&query).await?;
            let mut reply = [0; 512];
            // Replies to earlier queries may arrive late.
            loop {
                let length = socket.recv(&mut reply).await?;
                if reply[..length].starts_with(&id.to_be_bytes()) {
                    return Ok(reply[..length].to_vec());
                }
            }
        };
        let exchanged: io::Result<Vec<u8>> = timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| format!("sends no reply within {TIMEOUT:?}"))?;
        let reply = exchanged.map_err(|error| format!("can't be queried: {error}"))?;
        match reply.get(2..8) {
            // QR is set, the code is NOERROR, and ANCOUNT is 1 (RFC 1035 section 4.1.1).
            Some([flags, code, _, _, 0, 1]) if flags & 0x80 != 0 && code & 0x0f == 0 => Ok(()),
            _ => Err(format!(
                "does not answer {zone} SOA with NOERROR and one record; the reply is {reply:02x?}"
            )),
        }
    }
}

impl CanaryClient {
    fn new(listen: SocketAddr) -> io::Result<CanaryClient> {
        // A server on the wildcard address listens on the loopback address too.
        let mut server = listen;
        if server.ip().is_unspecified() {
            server.set_ip(match server {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let socket = match server {
            SocketAddr::V4(_) => StdSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            SocketAddr::V6(_) => StdSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        };
        // Connecting also chooses the socket's address, which is `source` below.
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(CanaryClient {
            source: socket.local_addr()?,
            socket: Mutex::new(UdpSocket::from_std(socket)?),
        })
    }
}
