//! Several UDP sockets for one address.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use zerohop_zone::{Name, Rtype, build_query};

use crate::support::{ResolverUnderTest, ask};

/// That one of four sockets has none of these clients has a chance of 4 × 0.75¹⁰⁰, less than 1 in
/// 10¹¹.
const CLIENTS: u16 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_several_sockets_answers() {
    let resolver = ResolverUnderTest::local(&[]);
    assert_eq!(sockets_at(resolver.address), 4);
    for id in 0..CLIENTS {
        let query = build_query(id, &Name::parse("one.z").unwrap(), Rtype::A);
        // Each has a port of its own.
        let reply = ask(resolver.address, &query).await;
        // QR and AA, NOERROR, one answer record.
        assert_eq!((reply[2] & 0x84, reply[3] & 0x0f, reply[7]), (0x84, 0, 1));
    }
}

/// The sockets that are bound to an IPv4 address and port, in this network namespace. Other tests
/// may use the port with other addresses.
fn sockets_at(address: SocketAddr) -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let IpAddr::V4(ip) = address.ip() else {
        panic!("{address} is not of IPv4");
    };
    // The address as the processor reads its bytes.
    let ip = u32::from_ne_bytes(ip.octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let addresses = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    addresses.filter(|address| **address == local).count()
}
