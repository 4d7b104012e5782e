//! Tests that need no sockets: queries, replies, responses, and their records.

mod bailiwick;
mod message;
mod response;

use std::net::Ipv4Addr;

use domain::base::iana::Rtype;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};
use zerohop_zone::{Model, ModelBuilder, Name, Rdata, Record, Srv};

// Byte offsets of the 16-bit words of a header, its length in bytes, and TC in the word FLAGS (RFC
// 1035 section 4.1.1).
const FLAGS: usize = 2;
const QDCOUNT: usize = 4;
const ANCOUNT: usize = 6;
const NSCOUNT: usize = 8;
const ARCOUNT: usize = 10;
const HEADER_LEN: usize = 12;
const TRUNCATED: u16 = 0x0200;

/// The TTL of the local records.
const TTL: u32 = 5;

/// A zone `z`: single, several and many addresses, SRV records with their hosts, and an alias that
/// leads out of the zone. The addresses of `many.z` don't fit 512 bytes. The SRV records of `srv.z`
/// fit 512 bytes, but not together with the addresses of their hosts.
fn model() -> Model {
    let mut builder = ModelBuilder::new(7); // the serial of the zone
    builder.add_zone(name("z"), TTL).unwrap();
    let mut add = |owner: &str, data| {
        builder.add(Record {
            owner: name(owner),
            ttl: TTL,
            data,
        });
    };
    add("one.z", address(1));
    add("two.z", address(1));
    add("two.z", address(2));
    for last in 0..60 {
        add("many.z", address(last));
    }
    for host in 0..14 {
        let target = name(&format!("host-{host}.z"));
        add(&format!("host-{host}.z"), address(host));
        add(
            "srv.z",
            Rdata::Srv(Srv {
                priority: 0,
                weight: 1,
                port: 80,
                target,
            }),
        );
    }
    add("out.z", Rdata::Cname(name("example.org")));
    builder.build()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address(last: u8) -> Rdata {
    Rdata::A(Ipv4Addr::new(10, 0, 0, last))
}

/// A query with ID 0x1234, RD set, and one question of class IN.
fn query(name: &str, rtype: Rtype) -> Vec<u8> {
    let ([client, _], [server, _]) = (POD, SERVED);
    QueryPacket::new(client, server, name, rtype.to_int()).message()
}

/// Adds a record in wire format to the additional section.
fn with_additional(mut message: Vec<u8>, record: &[u8]) -> Vec<u8> {
    message[ARCOUNT + 1] += 1;
    message.extend_from_slice(record);
    message
}

/// An OPT record in wire format. `ttl` holds the extended response code, the version and the flags.
fn opt(size: u16, ttl: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 41];
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&ttl);
    bytes.extend_from_slice(&(options.len() as u16).to_be_bytes());
    bytes.extend_from_slice(options);
    bytes
}

/// Adds an OPT record with this UDP payload size and without options.
fn with_edns(message: Vec<u8>, size: u16) -> Vec<u8> {
    with_additional(message, &opt(size, [0; 4], &[]))
}

/// The 16-bit word at a byte offset of a message's header.
fn word(message: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([message[offset], message[offset + 1]])
}
