//! Random and mutated packets: what the kernel answers is what the user plane answers, which has
//! another parser; what it does not answer is what went in.

use dns_agent::{
    datapath::object::Program,
    resolver::message::{Reply, Transport, respond},
    zone::Model,
};
use dns_common::outcomes::Hook;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use zerohop_tests::packet::{self, Query};

use super::fixture::Fixture;

/// Packets for each hook.
const PACKETS: usize = 10_000;

const TYPES: [u16; 14] = [1, 1, 1, 28, 28, 12, 33, 16, 6, 2, 5, 65, 255, 0];

#[test]
fn at_tc() {
    compare(Program::TcPeer, 1);
}

#[test]
fn by_xdp() {
    compare(Program::XdpVeth, 2);
}

fn compare(program: Program, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::shared();
    let names: Vec<Vec<u8>> = fixture
        .model
        .nodes()
        .map(|(name, _)| name.wire().to_vec())
        .collect();
    let (mut answers, mut passes) = (0, 0);
    for number in 0..PACKETS {
        let query = query(&mut random, &names);
        let mut message = query.message();
        if random.random_bool(0.3) {
            mutate(&mut random, &mut message);
        }
        let mut frame = query.frame_of(&message);
        let bent = random.random_bool(0.2);
        if bent {
            mutate(&mut random, &mut frame);
        }
        let (verdict, out) = fixture.object.test_run(program, &frame).unwrap();
        let what = || format!("packet {number} of seed {seed}: {frame:02x?} became {out:02x?}");
        if verdict == pass(program) {
            passes += 1;
            assert_eq!(out, frame, "{}", what());
            continue;
        }
        answers += 1;
        let start = if frame[12] == 8 { 42 } else { 62 };
        let reply = if bent {
            // A bent header stays bent: only the message can be compared.
            out[start..].to_vec()
        } else {
            packet::reply(&frame, &out).unwrap_or_else(|error| panic!("{error}: {}", what()))
        };
        let length = usize::from(u16::from_be_bytes([frame[start - 4], frame[start - 3]])) - 8;
        let asked = &frame[start..start + length];
        assert!(is_right(asked, &reply, &fixture.model), "{}", what());
    }
    println!("{program:?}: {answers} answers, {passes} passes, seed {seed}");
    assert!(answers > PACKETS / 5 && passes > PACKETS / 5);
}

fn pass(program: Program) -> u32 {
    match program.hook() {
        Hook::Xdp => 2,
        Hook::Tc => u32::MAX,
    }
}

fn is_right(asked: &[u8], reply: &[u8], model: &Model) -> bool {
    (0..64).any(
        |rotation| match respond(asked, model, Transport::Udp, rotation) {
            Reply::Message(expected) => expected == reply,
            _ => false,
        },
    )
}

/// A query for a name of the model, or for a neighbour of one.
fn query(random: &mut StdRng, names: &[Vec<u8>]) -> Query {
    let mut name = names[random.random_range(0..names.len())].clone();
    match random.random_range(0..8) {
        // A label more, a label less, a letter changed.
        0 => name = [&[3, b'a', b'b', b'c'][..], &name].concat(),
        1 if name[0] != 0 => {
            name.drain(..=usize::from(name[0]));
        }
        2 if name.len() > 1 => name[1] = random.random_range(b'a'..=b'z'),
        3 => name.make_ascii_uppercase(),
        4 => {
            for octet in &mut name {
                if random.random_bool(0.5) {
                    octet.make_ascii_uppercase();
                }
            }
        }
        _ => {}
    }
    let rtype = TYPES[random.random_range(0..TYPES.len())];
    let query = if random.random_bool(0.5) {
        Fixture::query("", rtype)
    } else {
        Fixture::query6("", rtype)
    };
    let query = Query {
        id: random.random(),
        port: random.random_range(1024..=u16::MAX),
        bits: [0x0100, 0x0000, 0x0120, 0x0110][random.random_range(0..4)],
        name,
        ..query
    };
    if random.random_bool(0.5) {
        return query;
    }
    let octets = vec![random.random(); random.random_range(0..40)];
    let options = match random.random_range(0..4) {
        // An option that fills the record, as dig's cookie; and what may be none.
        0 | 1 => [&[0, 10, 0, octets.len() as u8][..], &octets].concat(),
        2 => octets,
        _ => Vec::new(),
    };
    let size = [512, 1232, 4096, random.random()][random.random_range(0..4)];
    query.with_edns(size, random.random_range(0..2), &options)
}

/// Changes a few octets, or cuts some off (BPF_PROG_TEST_RUN wants whole IP headers), or
/// adds some.
fn mutate(random: &mut StdRng, octets: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..octets.len());
        match random.random_range(0..6) {
            0 => octets[at] = random.random(),
            1 | 2 => octets[at] ^= 1 << random.random_range(0..8),
            3 => octets[at] = octets[at].wrapping_add(1),
            4 => octets.truncate(at.max(54)),
            _ => octets.extend(vec![random.random::<u8>(); random.random_range(1..20)]),
        }
    }
}
