//! A question that nobody asked, to see that the resolver answers on its addresses.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket},
    time::Duration,
};

use tokio::{net::UdpSocket, sync::Mutex, time::timeout};

use crate::zone::{Name, Rtype, query};

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client of our own, at one of the resolver's addresses.
#[derive(Debug)]
pub struct Canary {
    listen: SocketAddr,
    /// Or why there is none.
    client: Result<Client, String>,
}

#[derive(Debug)]
struct Client {
    /// Where its questions come from: so the server knows them, and counts none.
    source: SocketAddr,
    /// One question at a time.
    socket: Mutex<UdpSocket>,
}

impl Canary {
    /// A client of the server that listens there.
    pub(super) fn new(listen: SocketAddr) -> Canary {
        let client = Client::new(listen);
        Canary {
            listen,
            client: client.map_err(|error| format!("can't be asked: {error}")),
        }
    }

    /// The address whose server it asks.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where its questions come from.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        self.client.as_ref().ok().map(|client| client.source)
    }

    /// Asks for the SOA record of one of our zones, which is always there.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn ask(&self, zone: &Name) -> Result<(), String> {
        let client = self.client.as_ref().map_err(String::clone)?;
        let socket = client.socket.lock().await;
        let id: u16 = rand::random();
        let query = query(id, zone, Rtype::SOA);
        let exchange = async {
            socket.send(&query).await?;
            let mut reply = [0; 512];
            // Answers to earlier questions may come late.
            loop {
                let length = socket.recv(&mut reply).await?;
                if reply[..length].starts_with(&id.to_be_bytes()) {
                    return Ok(reply[..length].to_vec());
                }
            }
        };
        let exchanged: io::Result<Vec<u8>> = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| format!("gives no answer within {PATIENCE:?}"))?;
        let reply = exchanged.map_err(|error| format!("can't be asked: {error}"))?;
        match reply.get(2..8) {
            // QR, NOERROR, and an answer (RFC 1035 section 4.1.1).
            Some([flags, code, _, _, 0, 1]) if flags & 0x80 != 0 && code & 0x0f == 0 => Ok(()),
            _ => Err(format!("gives another answer: {reply:02x?}")),
        }
    }
}

impl Client {
    fn new(listen: SocketAddr) -> io::Result<Client> {
        let mut asked = listen;
        if asked.ip().is_unspecified() {
            asked.set_ip(match asked {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let socket = match asked {
            SocketAddr::V4(_) => StdSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            SocketAddr::V6(_) => StdSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        };
        socket.connect(asked)?;
        socket.set_nonblocking(true)?;
        Ok(Client {
            source: socket.local_addr()?,
            socket: Mutex::new(UdpSocket::from_std(socket)?),
        })
    }
}
