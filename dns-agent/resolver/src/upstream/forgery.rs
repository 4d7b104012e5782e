//! A forger that knows the server, the port and the question (RFC 5452).

use std::{net::Ipv4Addr, sync::Arc, thread, time::Duration};

use tokio::{
    net::{TcpListener, UdpSocket},
    time::sleep,
};
use zerohop_zone::Name;

use super::*;
use crate::tcp;

/// The number of questions that are attacked.
const RUNS: usize = 1000;
/// The number of forged responses to each question. The socket of a query doesn't exist any more
/// when the second one arrives, so a forger gains nothing by sending all 65,536.
const FORGED: u16 = 64;
/// After this time the test fails. Each question takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(60);

/// The response to a query, with this address of `a.example`.
fn address_response(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut message = query.to_vec();
    // QR.
    message[2] |= 0x80;
    // ANCOUNT.
    message[7] = 1;
    // A pointer to the question's name, A, IN, a TTL of 300 and four bytes.
    message.extend(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04");
    message.extend(address);
    message
}

/// Sockets for UDP and TCP at the same port of the loopback.
async fn bind_server() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Another test may listen at this port over TCP.
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
}

/// Sends forged responses to each query, until an empty datagram arrives.
fn forge_responses(socket: &std::net::UdpSocket) {
    let mut query = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut query).unwrap();
        if length == 0 {
            return;
        }
        let mut forged = address_response(&query[..length], [6, 6, 6, 6]);
        let first: u16 = rand::random();
        for number in 0..FORGED {
            forged[..2].copy_from_slice(&first.wrapping_add(number).to_be_bytes());
            // The resolver closes its socket at the first one.
            let _ = socket.send_to(&forged, client);
        }
    }
}

/// The server receives each query over UDP, and its answer is slower than the forger. The test's
/// server is also the forger, because it knows all that a forger may know.
#[tokio::test]
async fn a_forger_with_all_ids_has_one_attempt() {
    let (socket, listener) = bind_server().await;
    let server = socket.local_addr().unwrap();
    let socket = socket.into_std().unwrap();
    socket.set_nonblocking(false).unwrap();
    let forger = thread::spawn(move || forge_responses(&socket));
    let counters = Arc::new(ResolverCounters::default());
    let pool = UpstreamPool::new(NameCase::Unchanged, None, counters.clone());
    let answer = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Ok(query) = tcp::read_message(&mut stream).await {
                let response = address_response(&query, [192, 0, 2, 1]);
                tcp::write_message(&mut stream, &response).await.unwrap();
            }
        }
    };
    let ask = async {
        let mut accepted = 0;
        let query = UpstreamQuery::probing(&Name::parse("a.example").unwrap());
        for _ in 0..RUNS {
            let mut given = None;
            pool.ask(&ServerSet::plain([server]), &query, |response| {
                given = response.ok();
            })
            .await;
            let message = given.expect("no response").message().to_vec();
            if message.ends_with(&[6; 4]) {
                accepted += 1;
            }
        }
        accepted
    };
    let accepted = tokio::select! {
        () = answer => unreachable!("the server never ends"),
        accepted = ask => accepted,
        () = sleep(PATIENCE) => panic!("questions are not answered over TCP at once"),
    };
    let stop = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stop.send_to(&[], server).await.unwrap();
    forger.join().unwrap();
    assert!(
        accepted <= 1,
        "{accepted} of {RUNS} forged responses are accepted"
    );
    let counts = counters.snapshot();
    let others = (RUNS - accepted) as u64;
    let (near_misses, over_tcp) = (counts.upstream_near_misses, counts.upstream_tcp_attempts);
    assert!(near_misses >= others, "{near_misses} near misses");
    assert!(over_tcp >= others, "{over_tcp} queries over TCP");
}

/// The server repeats the case of the first query, and answers the second one in lower case.
#[tokio::test]
async fn a_response_over_udp_must_repeat_random_case() {
    let (socket, listener) = bind_server().await;
    let server = socket.local_addr().unwrap();
    let counters = Arc::new(ResolverCounters::default());
    let pool = UpstreamPool::new(NameCase::Random, None, counters.clone());
    let name = Name::parse(&"a".repeat(63)).unwrap();
    let query = UpstreamQuery::probing(&name);
    let serve = async {
        let mut names = Vec::new();
        for is_repeated in [true, false] {
            let mut query = [0; 512];
            let (length, client) = socket.recv_from(&mut query).await.unwrap();
            // The name begins after the header and the length of its label.
            names.push(query[13..76].to_vec());
            if !is_repeated {
                query.make_ascii_lowercase();
            }
            let response = address_response(&query[..length], [192, 0, 2, 1]);
            socket.send_to(&response, client).await.unwrap();
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        let query = tcp::read_message(&mut stream).await.unwrap();
        names.push(query[13..76].to_vec());
        let response = address_response(&query, [192, 0, 2, 2]);
        tcp::write_message(&mut stream, &response).await.unwrap();
        names
    };
    let ask = async {
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let give = |response: Result<Response, NoResponse>| {
                addresses.push(response.unwrap().message().last().copied().unwrap());
            };
            pool.ask(&ServerSet::plain([server]), &query, give).await;
        }
        addresses
    };
    let (names, addresses) = tokio::join!(serve, ask);
    assert_eq!(addresses, [1, 2], "by UDP, then by TCP");
    assert_ne!(names[0], names[1], "the case is not random");
    assert_eq!(names[2], [b'a'; 63], "the case of a query over TCP");
    assert_eq!(counters.snapshot().upstream_near_misses, 1);
}
