//! A forger that knows the server, its port and the question of each query to it, and that sends a
//! response with each of the 65,536 IDs before the server answers (RFC 5452).

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_resolver::{
    CacheSettings, Resolver, ResolverCounts, ServerSet, Upstreams, query::Transport,
};
use zerohop_tests::netns::NetworkNamespace;
use zerohop_zone::Providers;

/// The runs in which one forged response may be accepted.
const RUNS_FOR_ONE: usize = 1000;
const FORGED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 6);
const REAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// QR, RD and RA.
const RESPONSE_BITS: u16 = 0x8180;
const A: u16 = 1;

/// What happened in all runs.
#[derive(Default)]
struct ForgeryResult {
    /// The runs in which the client received the forged address.
    accepted: usize,
    /// The runs in which the question then went over TCP, and the client received the real address.
    moved_to_tcp: usize,
    /// How long the forger sent, in each run.
    floods: Vec<Duration>,
}

/// Attacks `runs` questions, one after another, and prints what became of them.
///
/// # Errors
///
/// If more forged responses are accepted than one of [`RUNS_FOR_ONE`], or a question whose forged
/// responses are not accepted doesn't go over TCP.
pub(crate) fn measure(runs: usize) -> Result<()> {
    let namespace = NetworkNamespace::new("forger")?;
    let mut result = namespace.enter(|| attack(runs))??;
    result.floods.sort_unstable();
    let median = result.floods[result.floods.len() / 2];
    println!("{runs:>10} questions, each with 65,536 forged responses");
    println!("{:>10} forged responses accepted", result.accepted);
    println!("{:>10} questions moved to TCP", result.moved_to_tcp);
    println!("{median:>10.1?} for all IDs of a question, median");
    let allowed = runs.div_ceil(RUNS_FOR_ONE);
    ensure!(
        result.accepted <= allowed,
        "at most {allowed} forged responses may be accepted"
    );
    ensure!(
        result.accepted + result.moved_to_tcp == runs,
        "some questions neither received a forged response nor moved to TCP"
    );
    Ok(())
}

fn attack(runs: usize) -> Result<ForgeryResult> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = socket.local_addr()?;
    let listener = TcpListener::bind(server)?;
    // Both threads end with the process.
    let (sent, floods) = mpsc::channel();
    thread::spawn(move || forge(&socket, &sent));
    thread::spawn(move || serve(&listener));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let resolver = Arc::new(resolver(server));
    let mut result = ForgeryResult::default();
    for id in 0..runs {
        let before = resolver.counters().snapshot();
        let address = runtime.block_on(ask(&resolver, id as u16))?;
        let after = resolver.counters().snapshot();
        // The next question waits, so that the forger is as fast with it.
        result
            .floods
            .push(floods.recv().context("the forger has ended")?);
        match address {
            FORGED => result.accepted += 1,
            REAL if has_moved_to_tcp(&before, &after) => result.moved_to_tcp += 1,
            // The end of a reply without an answer is not an address.
            other => println!("question {id}: neither; the reply ends with {other}"),
        }
    }
    Ok(result)
}

fn has_moved_to_tcp(before: &ResolverCounts, after: &ResolverCounts) -> bool {
    after.upstream_near_misses > before.upstream_near_misses
        && after.upstream_tcp_fallbacks > before.upstream_tcp_fallbacks
}

/// A resolver without a cache, which asks this server.
fn resolver(server: SocketAddr) -> Resolver {
    let upstreams = Upstreams {
        outside: ServerSet::plain([server]),
        ..Upstreams::default()
    };
    let no_cache = CacheSettings {
        capacity: 0,
        ..CacheSettings::default()
    };
    Resolver::new(Arc::new(Providers::new(Vec::new())), upstreams, no_cache)
}

/// The address that a client receives.
async fn ask(resolver: &Arc<Resolver>, id: u16) -> Result<Ipv4Addr> {
    let query = QueryPacket {
        id,
        ..QueryPacket::new(POD[0], SERVED[0], "bank.example", A)
    };
    let client = Ipv4Addr::LOCALHOST.into();
    let query = query.message();
    let reply = resolver.answer_message(&query, Transport::Tcp, client);
    let reply = reply.await.context("no reply")?;
    let address = reply.last_chunk::<4>().context("an empty reply")?;
    Ok((*address).into())
}

/// Sends responses with all IDs, from a random one on, and then the real response, to each query.
/// Reports how long the forged ones took. The server's own socket sends them, because a forger
/// knows its address and port.
fn forge(socket: &UdpSocket, sent: &mpsc::Sender<Duration>) {
    let mut query = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut query) {
        let query = &query[..length];
        let response = |address| packet::address_reply(query, RESPONSE_BITS, 300, address);
        let (Some(mut forged), Some(real)) = (response(FORGED), response(REAL)) else {
            return;
        };
        let start = Instant::now();
        let first: u16 = rand::random();
        for number in 0..=u16::MAX {
            forged[..2].copy_from_slice(&first.wrapping_add(number).to_be_bytes());
            // The resolver closes its socket at the first one.
            socket.send_to(&forged, client).ok();
        }
        let duration = start.elapsed();
        socket.send_to(&real, client).ok();
        if sent.send(duration).is_err() {
            return;
        }
    }
}

/// Answers queries over TCP. Each connection has a thread, because the resolver may open another
/// one while an earlier one is idle.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || answer_connection(stream));
    }
}

fn answer_connection(mut stream: TcpStream) -> Option<()> {
    let mut length = [0; 2];
    loop {
        stream.read_exact(&mut length).ok()?;
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query).ok()?;
        let reply = packet::address_reply(&query, RESPONSE_BITS, 300, REAL)?;
        let length = (reply.len() as u16).to_be_bytes();
        stream.write_all(&[&length[..], &reply].concat()).ok()?;
    }
}
