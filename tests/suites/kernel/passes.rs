//! Packets that every program passes because of what they contain or ask for: the packet is
//! unchanged, and its outcome is counted.

use dns_common::Outcome;
use zerohop_contract::packet::{QueryEdns, QueryPacket};
use zerohop_datapath::program::HookProgram;

use super::{
    fixture::{KernelFixture, TestRunResult},
    packets::{A, PTR, SRV, TXT},
};

const WEB: &str = "web.shop.svc.cluster.local";

#[test]
fn every_pass_leaves_the_packet_unchanged_and_is_counted() {
    let mut fixture = KernelFixture::shared();
    for packet in passing_packets() {
        for program in HookProgram::ALL {
            assert_eq!(
                fixture.run_program(program, &packet.frame),
                TestRunResult::Passed(packet.outcome),
                "{}: {program:?}",
                packet.what
            );
        }
    }
}

struct PassingPacket {
    /// What is special about the packet.
    what: &'static str,
    frame: Vec<u8>,
    outcome: Outcome,
}

/// Defines the function `passing_packets` from a table. Each outcome is followed by the packets
/// that pass with it, in the form `what is special => frame`.
macro_rules! passing_packets {
    ($($outcome:ident: $($what:literal => $frame:expr,)+)+) => {
        fn passing_packets() -> Vec<PassingPacket> {
            vec![$($(PassingPacket {
                what: $what,
                frame: $frame,
                outcome: Outcome::$outcome,
            },)+)+]
        }
    };
}

passing_packets! {
    NotIp:
        "ARP" => frame(|bytes| bytes[ETHER_TYPE + 1] = 6),
        "a VLAN tag" => frame(|bytes| insert(bytes, ETHER_TYPE, &[0x81, 0x00, 0x00, 0x05])),

    Short:
        "a truncated DNS header" => frame(|bytes| bytes.truncate(50)),
        "a truncated DNS header over IPv6" => frame6(|bytes| bytes.truncate(70)),
        "a truncated message" => frame(|bytes| bytes.truncate(80)),
        "a truncated message over IPv6" => frame6(|bytes| bytes.truncate(100)),
        "an additional count without an OPT record" => message(|bytes| bytes[ADDITIONALS] = 1),

    Multicast:
        "a multicast MAC" => frame(|bytes| bytes[0] |= 1),

    IpOptions:
        "IP options" => frame(|bytes| {
            bytes[IP] = 0x46;
            insert(bytes, UDP, &[1, 1, 1, 0]);
        }),
        "IP version 5" => frame(|bytes| bytes[IP] = 0x55),

    Fragment:
        "more fragments" => frame(|bytes| bytes[IP + 6] = 0x20),
        "a later fragment" => frame(|bytes| bytes[IP + 7] = 1),

    NotUdp:
        "TCP" => frame(|bytes| bytes[IP + 9] = 6),
        "TCP over IPv6" => frame6(|bytes| bytes[IP + 6] = 6),
        "a hop-by-hop header" => frame6(|bytes| bytes[IP + 6] = 0),
        "a fragment header" => frame6(|bytes| bytes[IP + 6] = 44),

    NotServed:
        "another port" => query(|query| query.server.1 = 5353),
        "another address" => query(|query| query.server.0 = "10.96.0.11".parse().unwrap()),
        "another IPv6 address" => query6(|query| query.server.0 = "fd00:10:96::b".parse().unwrap()),

    NonstandardUdp:
        "a UDP length greater than the packet's" => frame(|bytes| bytes[UDP + 5] += 1),
        "a UDP length less than the packet's" => frame(|bytes| bytes[UDP + 5] -= 1),
        "IPv6 without a checksum" => frame6(|bytes| bytes[UDP6 + 6..UDP6 + 8].fill(0)),

    Reply:
        "a reply" => query(|query| query.bits = 0x8180),

    NonstandardHeader:
        "NOTIFY" => query(|query| query.bits = 0x2000),
        "AA in a query" => query(|query| query.bits = 0x0500),
        "TC in a query" => query(|query| query.bits = 0x0300),
        "the reserved header bit" => query(|query| query.bits = 0x0140),

    NonstandardCounts:
        "no question" => message(|bytes| bytes[QUESTIONS] = 0),
        "two questions" => message(|bytes| bytes[QUESTIONS] = 2),
        "one answer record" => message(|bytes| bytes[ANSWERS] = 1),
        "one authority record" => message(|bytes| bytes[AUTHORITIES] = 1),
        "two additional records" => message(|bytes| bytes[ADDITIONALS] = 2),

    NameLength:
        // Zeros follow the root name, because a message too short for a name of 8 bytes is `Short`.
        "the root name" => message(|bytes| replace_from(bytes, QUESTION, &[0; 20])),
        "a name of more than 255 bytes" => question(&name_of_labels(120), A),
        // The program takes the first zero byte for the end of the name, so it finds four bytes.
        "a zero byte in a label" => query_for(b"\x0aab\0defghij\x07cluster\x05local\0"),

    NonstandardName:
        "more labels than the program walks" => question(&name_of_labels(60), A),
        "a name without a terminating root label" => message(|bytes| bytes[QUESTION..].fill(b'a')),
        "a label of 64 bytes" => query_for(&label_of_64_bytes()),
        "labels that lead past the end of the name, and modulo 256 into other labels"
            => query_for(&labels_past_the_end()),
        "a compressed name" => query_for(b"\x03web\xc0\x0c\x07cluster\x05local\0"),
        "a suffix inside a label" => query_for(b"\x10xxx\x07cluster\x05local\0"),

    NonstandardClass:
        "class CH" => query(|query| query.class = 3),

    MetaType:
        "ANY" => question(WEB, ANY),
        "AXFR" => question("cluster.local", AXFR),
        "ANY for a nonexistent name" => question("absent.cluster.local", ANY),

    NonstandardEdns:
        "an additional record other than OPT" => message(|bytes| {
            bytes[ADDITIONALS] = 1;
            bytes.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        }),
        "an OPT record whose owner name is not the root" => message(|bytes| {
            bytes[ADDITIONALS] = 1;
            bytes.extend([1, b'a']);
            bytes.extend(OPT);
        }),
        "EDNS version 1" => edns(1 << 16, &[]),
        "an EDNS flag" => edns(0x4000, &[]),
        "NSID" => edns(0, &[0, 3, 0, 0]),
        "NSID with data" => edns(0, &[0, 3, 0, 1, b'x']),
        "a truncated option" => edns(0, &[0, 10]),
        "an option longer than its OPT record" => edns(0, &[0xfd, 0xe9, 0x00, 0xc8, b'a', b'b']),
        "an option one byte longer than its OPT record"
            => edns(0, &[0, 10, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]),
        "an option shorter than its OPT record"
            => edns(0, &[0, 10, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]),
        "two options" => edns(0, &[0, 10, 0, 1, 9, 0, 12, 0, 0]),

    TrailingBytes:
        "bytes after the question" => message(|bytes| bytes.push(0)),
        "bytes after the OPT record" => message_with_edns(|bytes| bytes.push(0)),
        "a second OPT record beyond the additional count"
            => message_with_edns(|bytes| bytes.extend(OPT)),

    PassMark:
        "an alias to a name outside the zone" => question("away.shop.svc.cluster.local", A),
        "another type at an alias to a name outside the zone"
            => question("away.shop.svc.cluster.local", TXT),
        "another type at an alias to a name inside the zone"
            => question("near.shop.svc.cluster.local", SRV),
        "more addresses than a record holds"
            => with_edns("throng.shop.svc.cluster.local", 1232),
        "SRV of a pod's name, because its rdata would contain the queried name"
            => question("10-244-0-9.shop.pod.cluster.local", SRV),

    BelowUnknown:
        "a pod's name that could be an IPv6 address"
            => question("fd00--9.shop.pod.cluster.local", A),
        "a pod's name of digits with a double dash"
            => question("1--2-3.shop.pod.cluster.local", A),
        "a pod's name with all eight groups of an IPv6 address"
            => question("1-2-3-4-5-6-7-8.shop.pod.cluster.local", A),

    NotAuthoritative:
        "a name outside every zone" => question("www.example.com", A),
        "another type at a reverse name outside every zone"
            => question("9.9.244.10.in-addr.arpa", A),
        "an unknown reverse name outside every zone"
            => question("8.9.244.10.in-addr.arpa", PTR),

    TooLarge:
        "an answer over 512 bytes for a client without EDNS"
            => question("crowd.shop.svc.cluster.local", A),
        "an answer over the client's EDNS size"
            => with_edns("crowd.shop.svc.cluster.local", 900),
}

const AXFR: u16 = 252;
const ANY: u16 = 255;

// Positions in a frame.
const ETHER_TYPE: usize = 12;
const IP: usize = 14;
const UDP: usize = IP + 20;
const UDP6: usize = IP + 40;

// Positions in a message: the low bytes of the section counts, and the question.
const QUESTIONS: usize = 5;
const ANSWERS: usize = 7;
const AUTHORITIES: usize = 9;
const ADDITIONALS: usize = 11;
const QUESTION: usize = 12;

/// An OPT record without options, for a payload size of 1232 bytes.
const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

/// The frame of the standard query (`web`, type A) after `edit`.
fn frame(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    edited(KernelFixture::query(WEB, A).frame(), edit)
}

/// Like [`frame`], over IPv6.
fn frame6(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    edited(KernelFixture::query6(WEB, A).frame(), edit)
}

/// A frame around the message of the standard query after `edit`. Lengths and checksums are right.
fn message(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let query = KernelFixture::query(WEB, A);
    query.frame_with(&edited(query.message(), edit))
}

/// Like [`message`], with an OPT record.
fn message_with_edns(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let query = KernelFixture::query(WEB, A).with_edns(1232, 0, &[]);
    query.frame_with(&edited(query.message(), edit))
}

fn edited(mut bytes: Vec<u8>, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    edit(&mut bytes);
    bytes
}

fn insert(bytes: &mut Vec<u8>, at: usize, inserted: &[u8]) {
    bytes.splice(at..at, inserted.iter().copied());
}

fn replace_from(bytes: &mut Vec<u8>, at: usize, rest: &[u8]) {
    bytes.truncate(at);
    bytes.extend(rest);
}

/// The frame of the standard query with other fields.
fn query(change: impl FnOnce(&mut QueryPacket)) -> Vec<u8> {
    let mut query = KernelFixture::query(WEB, A);
    change(&mut query);
    query.frame()
}

/// Like [`query`], over IPv6.
fn query6(change: impl FnOnce(&mut QueryPacket)) -> Vec<u8> {
    let mut query = KernelFixture::query6(WEB, A);
    change(&mut query);
    query.frame()
}

/// A query for a name in wire form.
fn query_for(name: &[u8]) -> Vec<u8> {
    query(|query| query.name = name.to_vec())
}

/// A query whose OPT record has these options, and this TTL field: extended RCODE, version and
/// flags (RFC 6891 section 6.1.3).
fn edns(ttl: u32, options: &[u8]) -> Vec<u8> {
    query(|query| {
        query.edns = Some(QueryEdns {
            size: 1232,
            ttl,
            options: options.to_vec(),
        });
    })
}

/// A query for a name in text form.
fn question(name: &str, rtype: u16) -> Vec<u8> {
    KernelFixture::query(name, rtype).frame()
}

/// A query for A from a client that accepts messages of `size` bytes.
fn with_edns(name: &str, size: u16) -> Vec<u8> {
    let query = KernelFixture::query(name, A);
    query.with_edns(size, 0, &[]).frame()
}

/// A name below `shop` with this number of additional labels of one byte.
fn name_of_labels(count: usize) -> String {
    format!("{}.shop.svc.cluster.local", vec!["a"; count].join("."))
}

fn label_of_64_bytes() -> Vec<u8> {
    [&[64][..], &[b'a'; 64], b"\x07cluster\x05local\0"].concat()
}

/// A name whose labels lead to byte 264, past its end. A program that kept positions in eight bits
/// would continue at byte 8, with the labels of `after_wrap`.
fn labels_past_the_end() -> Vec<u8> {
    let mut name = [b'a'; 230].to_vec();
    let lengths = [(0, 63), (64, 63), (128, 63), (192, 7), (200, 63)];
    let after_wrap = [(8, 63), (72, 63), (136, 62), (199, 30)];
    for (at, length) in lengths.into_iter().chain(after_wrap) {
        name[at] = length;
    }
    [&name[..], b"\x07cluster\x05local\0"].concat()
}
