//! Several UDP sockets for one address.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::SeqCst,
};

use tokio::{task::yield_now, time::timeout};
use zerohop_zone::{Name, Rtype, build_query};

use crate::support::{PATIENCE, ResolverUnderTest, ask};

/// That one of four sockets has none of these clients has a chance of 4 × 0.75¹⁰⁰, less than 1 in
/// 10¹¹.
const CLIENTS: u16 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_several_sockets_answers() {
    let resolver = ResolverUnderTest::local(&[]);
    let mut sockets = BTreeSet::new();
    timeout(PATIENCE, async {
        while sockets.len() < 4 {
            add_sockets_at(resolver.address, &mut sockets);
            yield_now().await;
        }
    })
    .await
    .expect("fewer than four sockets");
    assert_eq!(sockets.len(), 4);
    for id in 0..CLIENTS {
        let query = build_query(id, &Name::parse("one.z").unwrap(), Rtype::A);
        // Each has a port of its own.
        let reply = ask(resolver.address, &query).await;
        // QR and AA, NOERROR, one answer record.
        assert_eq!((reply[2] & 0x84, reply[3] & 0x0f, reply[7]), (0x84, 0, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_canary_notices_a_single_receiver_that_hangs() {
    let zone = Name::parse("z").unwrap();
    for number in 0..4 {
        let resolver = ResolverUnderTest::local(&[]);
        // The second time, it asks from each receiver once.
        for _ in 0..2 {
            assert_eq!(resolver.canary.query_soa(&zone).await, Ok(()));
        }
        let counts = resolver.resolver.counters().snapshot();
        assert_eq!(counts.udp_queries, 0);
        resolver.hanging[number].store(true, SeqCst);
        let error = resolver.canary.query_soa(&zone).await.unwrap_err();
        assert!(error.contains("no reply within 1s"), "{error}");
    }
}

/// Adds the sockets that are bound to an IPv4 address and port, in this network namespace, by their
/// inodes. While sockets come and go, the kernel's table may show one twice or leave one out.
fn add_sockets_at(address: SocketAddr, sockets: &mut BTreeSet<String>) {
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let IpAddr::V4(ip) = address.ip() else {
        panic!("{address} is not of IPv4");
    };
    // The address as the processor reads its bytes.
    let ip = u32::from_ne_bytes(ip.octets());
    let bound = format!("{ip:08X}:{:04X}", address.port());
    for line in table.lines() {
        let mut columns = line.split_whitespace();
        if columns.nth(1) == Some(&bound) {
            // Seven columns lie between the local address and the inode.
            sockets.extend(columns.nth(7).map(str::to_owned));
        }
    }
}
