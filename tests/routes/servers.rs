//! The scripted upstream servers: sockets in a network namespace of their own.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context as _, Result};
use zerohop_tests::netns::NetworkNamespace;

use crate::script::{QueryTransport, Reliability, ServerScript};

/// The servers. They run until the process ends.
const SERVERS: [ScriptedServer; 8] = [
    ScriptedServer::new([203, 0, 113, 1], 1, Reliability::Partial),
    ScriptedServer::new([203, 0, 113, 2], 1, Reliability::Full),
    ScriptedServer::new([203, 0, 113, 11], 2, Reliability::Full),
    ScriptedServer::new([203, 0, 113, 12], 3, Reliability::Full),
    ScriptedServer {
        transports: ServerTransports::Tcp,
        ..ScriptedServer::new([203, 0, 113, 13], 4, Reliability::Full)
    },
    ScriptedServer::new([203, 0, 113, 14], 2, Reliability::Full),
    ScriptedServer::new([203, 0, 113, 15], 3, Reliability::Full),
    ScriptedServer::new([203, 0, 113, 21], 5, Reliability::Full),
];
const DNS_PORT: u16 = 53;

/// A server, and where it is.
struct ScriptedServer {
    address: Ipv4Addr,
    transports: ServerTransports,
    script: ServerScript,
}

/// Over what a server answers.
enum ServerTransports {
    UdpAndTcp,
    Tcp,
}

impl ScriptedServer {
    const fn new(address: [u8; 4], group: u8, reliability: Reliability) -> ScriptedServer {
        let [a, b, c, d] = address;
        ScriptedServer {
            address: Ipv4Addr::new(a, b, c, d),
            transports: ServerTransports::UdpAndTcp,
            script: ServerScript { group, reliability },
        }
    }
}

/// Starts all servers.
pub(crate) fn start_servers(namespace: &NetworkNamespace) -> Result<()> {
    for place in SERVERS {
        let address = SocketAddr::from((place.address, DNS_PORT));
        namespace.ip(&[&format!("address add {}/32 dev lo", place.address)])?;
        let script = place.script;
        if matches!(place.transports, ServerTransports::UdpAndTcp) {
            let socket = namespace.enter(|| UdpSocket::bind(address))?;
            let socket = socket.with_context(|| format!("cannot bind {address}"))?;
            thread::spawn(move || serve_datagrams(&socket, script));
        }
        let listener = namespace.enter(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("cannot listen at {address}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The end of a connection is no failure.
                thread::spawn(move || serve_connection(stream, script).ok());
            }
        });
    }
    Ok(())
}

fn serve_datagrams(socket: &UdpSocket, script: ServerScript) {
    let mut buffer = [0; 4096];
    loop {
        // A rejected reply shows up here.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(reply) = script.respond(&buffer[..length], QueryTransport::Udp) {
            socket.send_to(&reply, client).ok();
        }
    }
}

fn serve_connection(mut stream: TcpStream, script: ServerScript) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        let Some(reply) = script.respond(&query, QueryTransport::Tcp) else {
            return Ok(());
        };
        let length = (reply.len() as u16).to_be_bytes();
        stream.write_all(&[&length[..], &reply].concat())?;
    }
}
