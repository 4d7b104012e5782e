//! Random and mutated packets: the kernel's answers equal the user plane's, although the planes
//! have different parsers, and a passed packet is unchanged.

use dns_common::outcomes::Hook;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use zerohop_contract::packet::{self, QueryPacket};
use zerohop_datapath::program::HookProgram;
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};
use zerohop_zone::Model;

use super::fixture::{KernelFixture, TC_PASS};

/// Number of packets for each hook.
const PACKETS: usize = 10_000;

/// A and AAAA, listed more than once because most queries have these types; PTR, SRV, TXT, SOA, NS,
/// CNAME, HTTPS, ANY, and the reserved type 0.
const TYPES: [u16; 14] = [1, 1, 1, 28, 28, 12, 33, 16, 6, 2, 5, 65, 255, 0];

#[test]
fn tc_answers_random_packets_like_the_user_plane() {
    compare_planes(HookProgram::TcPeer, 1);
}

#[test]
fn xdp_answers_random_packets_like_the_user_plane() {
    compare_planes(HookProgram::XdpVeth, 2);
}

/// Runs random packets through a program, and compares each answer with the user plane's.
fn compare_planes(program: HookProgram, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = KernelFixture::shared();
    let names: Vec<Vec<u8>> = fixture
        .model
        .entries()
        .map(|(name, _)| name.wire().to_vec())
        .collect();
    let (mut answers, mut passes) = (0, 0);
    for number in 0..PACKETS {
        let query = query(&mut random, &names);
        let mut message = query.message();
        if random.random_bool(0.3) {
            mutate(&mut random, &mut message);
        }
        let mut frame = query.frame_with(&message);
        let mutated = random.random_bool(0.2);
        if mutated {
            mutate(&mut random, &mut frame);
        }
        let (verdict, out) = fixture.object.test_run(program, &frame).unwrap();
        let what = || format!("packet {number} of seed {seed}: {frame:02x?} became {out:02x?}");
        if verdict == pass_verdict(program) {
            passes += 1;
            assert_eq!(out, frame, "a pass changed the frame: {}", what());
            continue;
        }
        answers += 1;
        // The message follows the headers of Ethernet, IPv4 (EtherType 0x0800) or IPv6, and UDP.
        let start = if frame[12] == 8 { 42 } else { 62 };
        let reply = if mutated {
            // The reply repeats mutated headers, so only the message can be compared.
            out[start..].to_vec()
        } else {
            packet::parse_reply(&frame, &out).unwrap_or_else(|error| panic!("{error}: {}", what()))
        };
        // The UDP length, without the UDP header of 8 bytes.
        let length = usize::from(u16::from_be_bytes([frame[start - 4], frame[start - 3]])) - 8;
        let asked = &frame[start..start + length];
        assert!(
            is_right(asked, &reply, &fixture.model),
            "not the user plane's reply: {}",
            what()
        );
    }
    println!("{program:?}: {answers} answers, {passes} passes, seed {seed}");
    assert!(
        answers > PACKETS / 5 && passes > PACKETS / 5,
        "too few of one kind: {answers} answers, {passes} passes"
    );
}

/// The verdict with which a program passes a packet: XDP_PASS or TC_ACT_UNSPEC.
fn pass_verdict(program: HookProgram) -> u32 {
    match program.hook() {
        Hook::Xdp => 2,
        Hook::Tc => TC_PASS,
    }
}

/// Whether `reply` is the user plane's reply to `asked`, in some rotation of addresses.
fn is_right(asked: &[u8], reply: &[u8], model: &Model) -> bool {
    // The kernel's longest answer, for `crowd`, has 60 addresses. Queries for the 120 addresses of
    // `throng` pass.
    (0..60).any(
        |rotation| match respond(asked, model, Transport::Udp, rotation) {
            QueryAction::Send(expected) => expected == reply,
            _ => false,
        },
    )
}

/// A query for a name of the model, or for a slightly different name.
fn query(random: &mut StdRng, names: &[Vec<u8>]) -> QueryPacket {
    let mut name = names[random.random_range(0..names.len())].clone();
    match random.random_range(0..8) {
        // One label added, one label removed, one letter changed.
        0 => name = [&[3, b'a', b'b', b'c'][..], &name].concat(),
        1 if name[0] != 0 => {
            name.drain(..=usize::from(name[0]));
        }
        2 if name.len() > 1 => name[1] = random.random_range(b'a'..=b'z'),
        3 => name.make_ascii_uppercase(),
        4 => {
            for byte in &mut name {
                if random.random_bool(0.5) {
                    byte.make_ascii_uppercase();
                }
            }
        }
        _ => {}
    }
    let rtype = TYPES[random.random_range(0..TYPES.len())];
    let query = if random.random_bool(0.5) {
        KernelFixture::query("", rtype)
    } else {
        KernelFixture::query6("", rtype)
    };
    let query = QueryPacket {
        id: random.random(),
        port: random.random_range(1024..=u16::MAX),
        // RD; none; RD and AD; RD and CD.
        bits: [0x0100, 0x0000, 0x0120, 0x0110][random.random_range(0..4)],
        name,
        ..query
    };
    if random.random_bool(0.5) {
        return query;
    }
    let data = vec![random.random(); random.random_range(0..40)];
    let options = match random.random_range(0..4) {
        // One option that fills the record, like dig's cookie; or bytes that may not be an option.
        0 | 1 => [&[0, 10, 0, data.len() as u8][..], &data].concat(),
        2 => data,
        _ => Vec::new(),
    };
    let size = [512, 1232, 4096, random.random()][random.random_range(0..4)];
    query.with_edns(size, random.random_range(0..2), &options)
}

/// Changes, removes or adds bytes of a message or of a frame. A frame keeps at least 54 bytes,
/// those of an Ethernet and an IPv6 header, because BPF_PROG_TEST_RUN refuses frames without
/// complete headers. Messages of up to 54 bytes are therefore not shortened here.
fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] = random.random(),
            1 | 2 => bytes[at] ^= 1 << random.random_range(0..8),
            3 => bytes[at] = bytes[at].wrapping_add(1),
            4 => bytes.truncate(at.max(54)),
            _ => bytes.extend(vec![random.random::<u8>(); random.random_range(1..20)]),
        }
    }
}
