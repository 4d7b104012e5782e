//! One query over UDP.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use tokio::net::UdpSocket;

use crate::{
    dnstap::{Dnstap, QueryPath, ResolverSide, TappedQuery},
    response::{CaseCheck, MAX_DATAGRAM, Reply},
    traffic::ConnectionProtocol,
};

/// A socket for one query. Its port is new, so that a forger must guess the port (RFC 5452 section
/// 9.2), and connected, so that only messages from the server's address and port arrive.
///
/// # Errors
/// When this host lacks a resource.
pub(crate) async fn open_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(local).await
}

/// Sends a message from a new socket, and waits for one message without a time limit. Whatever
/// arrives ends the query, so a forger has one attempt. `dnstap` receives both messages.
///
/// # Errors
/// When the server can't be reached.
pub(super) async fn exchange(
    socket: UdpSocket,
    server: SocketAddr,
    message: &[u8],
    case: CaseCheck,
    dnstap: Option<&Arc<Dnstap>>,
) -> io::Result<Reply> {
    socket.connect(server).await?;
    let tapped = match dnstap {
        None => None,
        Some(dnstap) => {
            let path = QueryPath {
                protocol: ConnectionProtocol::Udp,
                initiator: socket.local_addr()?,
                responder: server,
            };
            let (side, sent) = (ResolverSide::Forwarder, SystemTime::now());
            Some(TappedQuery::record(dnstap, side, path, sent, message))
        }
    };
    socket.send(message).await?;
    // A longer datagram fills the last byte too.
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    let length = socket.recv(&mut buffer).await?;
    if let Some(tapped) = tapped {
        tapped.record_response(SystemTime::now(), &buffer[..length]);
    }
    Ok(Reply::read_datagram(&buffer[..length], message, case))
}
