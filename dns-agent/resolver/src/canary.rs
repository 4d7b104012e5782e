//! Test queries that check that the resolver answers on its addresses.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket},
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{net::UdpSocket, sync::Mutex, time::timeout};
use zerohop_zone::{Name, Rtype, build_query};

/// Queries one of the resolver's addresses, to check that it answers.
///
/// The kernel chooses the socket that receives a query by the client's port. So the canary has
/// several clients, and keeps one for each receiver.
#[derive(Debug)]
pub struct Canary {
    /// The address that the server listens on. May be a wildcard address.
    listen: SocketAddr,
    /// The number of UDP sockets of the address.
    receivers: usize,
    sources: Arc<CanarySources>,
    /// At most one for each receiver between the queries. The lock admits one query at a time.
    clients: Mutex<Vec<CanaryClient>>,
}

/// The addresses of a canary's clients. The receivers recognise canary queries by them, and don't
/// count them.
#[derive(Debug, Default)]
pub(super) struct CanarySources {
    /// The IP address of all clients. Set by the first one.
    ip: OnceLock<IpAddr>,
    by_client: RwLock<Vec<CanarySource>>,
}

#[derive(Debug)]
struct CanarySource {
    client: SocketAddr,
    /// The number of the receiver of the client's queries. Set by the first query.
    receiver: OnceLock<usize>,
}

#[derive(Debug)]
struct CanaryClient {
    source: SocketAddr,
    socket: UdpSocket,
}

/// Time limit for the reply.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often as many clients as receivers are added, until each receiver has one. With four
/// receivers, the chance that one has none after that is less than 1 in 10⁷.
const MAX_ROUNDS: usize = 16;

impl Canary {
    /// A canary for the server that listens on this address with this number of UDP sockets.
    pub(super) fn new(listen: SocketAddr, receivers: usize) -> Canary {
        Canary {
            listen,
            receivers,
            sources: Arc::default(),
            clients: Mutex::default(),
        }
    }

    /// A canary that takes the place of this one, and queries the same sockets at another address.
    pub fn at(&self, server: SocketAddr) -> Canary {
        self.sources.forget_clients();
        Canary {
            listen: server,
            receivers: self.receivers,
            sources: self.sources.clone(),
            clients: Mutex::default(),
        }
    }

    /// The address that the queried server listens on.
    pub fn server_address(&self) -> SocketAddr {
        self.listen
    }

    /// The addresses that canary queries come from.
    pub(super) fn sources(&self) -> &Arc<CanarySources> {
        &self.sources
    }

    /// Queries the SOA record of a local zone, which always exists, from each receiver.
    ///
    /// # Errors
    /// When the server can't be queried, a receiver sends no reply within a second, or a reply is
    /// not NOERROR with one answer record. The error is a clause about the server.
    pub async fn query_soa(&self, zone: &Name) -> Result<(), String> {
        let mut clients = self.clients.lock().await;
        let mut asked = 0;
        for _ in 0..MAX_ROUNDS {
            if clients.len() < self.receivers {
                for _ in 0..self.receivers {
                    let client = CanaryClient::open(self.listen, &self.sources);
                    clients.push(client.map_err(|error| format!("can't be queried: {error}"))?);
                }
            }
            let queries = clients[asked..].iter().map(|client| client.query_soa(zone));
            for answered in join_all(queries).await {
                answered?;
            }
            let kept = self.sources.keep_one_for_each_receiver();
            clients.retain(|client| kept.contains(&client.source));
            if clients.len() == self.receivers {
                break;
            }
            asked = clients.len();
        }
        Ok(())
    }
}

impl CanarySources {
    /// Whether a client is the canary's, as this receiver of its query sees it.
    pub(super) fn have(&self, client: SocketAddr, receiver: usize) -> bool {
        if self.ip.get() != Some(&client.ip()) {
            return false;
        }
        let sources = self
            .by_client
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let source = sources.iter().find(|source| source.client == client);
        source.is_some_and(|source| {
            // The first one counts, and the kernel always chooses the same one.
            let _ = source.receiver.set(receiver);
            true
        })
    }

    /// Adds a client before its first query.
    fn add(&self, client: SocketAddr) -> io::Result<()> {
        if *self.ip.get_or_init(|| client.ip()) != client.ip() {
            let message = format!("the kernel now chooses the source address {}", client.ip());
            return Err(io::Error::other(message));
        }
        let source = CanarySource {
            client,
            receiver: OnceLock::new(),
        };
        let mut sources = self
            .by_client
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        sources.push(source);
        Ok(())
    }

    fn forget_clients(&self) {
        let mut sources = self
            .by_client
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        sources.clear();
    }

    /// Removes clients whose receivers have another one. Returns those that are left.
    fn keep_one_for_each_receiver(&self) -> Vec<SocketAddr> {
        let mut sources = self
            .by_client
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut receivers = Vec::new();
        sources.retain(|source| {
            let receiver = source.receiver.get();
            let is_first = !receivers.contains(&receiver.copied());
            receivers.push(receiver.copied());
            is_first && receiver.is_some()
        });
        sources.iter().map(|source| source.client).collect()
    }
}

impl CanaryClient {
    fn open(listen: SocketAddr, sources: &CanarySources) -> io::Result<CanaryClient> {
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
        // Connecting also chooses the socket's address.
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let source = socket.local_addr()?;
        let socket = UdpSocket::from_std(socket)?;
        sources.add(source)?;
        Ok(CanaryClient { source, socket })
    }

    async fn query_soa(&self, zone: &Name) -> Result<(), String> {
        let id: u16 = rand::random();
        let query = build_query(id, zone, Rtype::SOA);
        let exchange = async {
            self.socket.send(&query).await?;
            let mut reply = [0; 512];
            // Replies to earlier queries may arrive late.
            loop {
                let length = self.socket.recv(&mut reply).await?;
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
