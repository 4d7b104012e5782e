//! A forger that knows the server, the port and the question (RFC 5452).

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

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

/// The server receives each query over UDP, and its answer is slower than the forger. The test's
/// server is also the forger, because it knows all that a forger may know.
#[tokio::test]
async fn a_forger_with_all_ids_has_one_attempt() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = socket.local_addr().unwrap();
    let listener = TcpListener::bind(server).await.unwrap();
    let counters = Arc::new(ResolverCounters::default());
    let pool = UpstreamPool::new(UpstreamPolicy::Fastest, None, counters.clone());
    let forge = async {
        let mut query = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut query).await.unwrap();
            let mut forged = address_response(&query[..length], [6, 6, 6, 6]);
            let first: u16 = rand::random();
            for number in 0..FORGED {
                forged[..2].copy_from_slice(&first.wrapping_add(number).to_be_bytes());
                // The resolver closes the socket at the first one.
                if socket.send_to(&forged, client).await.is_err() {
                    break;
                }
            }
        }
    };
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
            pool.ask(&[server], &query, |response| given = response)
                .await;
            let message = given.expect("no response").message().to_vec();
            if message.ends_with(&[6; 4]) {
                accepted += 1;
            }
        }
        accepted
    };
    let accepted = tokio::select! {
        () = forge => unreachable!("the forger never ends"),
        () = answer => unreachable!("the server never ends"),
        accepted = ask => accepted,
        () = sleep(PATIENCE) => panic!("questions are not answered over TCP at once"),
    };
    assert!(
        accepted <= 1,
        "{accepted} of {RUNS} forged responses are accepted"
    );
    let counts = counters.snapshot();
    let moved = (counts.upstream_near_misses, counts.upstream_tcp_fallbacks);
    assert_eq!(moved, ((RUNS - accepted) as u64, (RUNS - accepted) as u64));
}
