//! Questions about every name of a model, and about similar names.

use rand::{RngExt as _, rngs::StdRng};
use zerohop_contract::packet::{QueryPacket, wire_name};
use zerohop_zone::Model;

use crate::kernel::fixture::KernelFixture;

/// A, AAAA, SRV, PTR, CNAME, TXT, SOA, NS, HTTPS, MX, ANY. A and AAAA, the most frequent, are
/// listed twice.
const TYPES: [u16; 13] = [1, 1, 28, 28, 33, 12, 5, 16, 6, 2, 65, 15, 255];

/// The longest name in wire form, in bytes (RFC 1035 section 3.1).
const MAX_NAME: usize = 255;

/// Labels to put in front of a name. Most have a meaning below some names.
const LABELS: [&str; 9] = [
    "10-244-0-9",
    "fd00-10-244--9",
    "10-244-0",
    "eu-west-1a",
    "_http._tcp",
    "_tcp",
    "pin._zone",
    "absent",
    "www.example.com",
];

/// One question for each neighbour of every name, the name itself included. All else is random.
pub(super) fn questions(model: &Model, random: &mut StdRng) -> Vec<QueryPacket> {
    let mut names: Vec<&[u8]> = model.entries().map(|(name, _)| name.wire()).collect();
    // The model is unordered. Sorted names make the questions depend only on the seed.
    names.sort_unstable();
    names
        .into_iter()
        .flat_map(|name| neighbours(name, random))
        .filter(|name| name.len() <= MAX_NAME)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|name| random_query(name, random))
        .collect()
}

/// The name itself and similar names: in other letter case, without its first label, with one byte
/// changed, and with labels in front.
fn neighbours(name: &[u8], random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut names = vec![
        name.to_vec(),
        name.to_ascii_uppercase(),
        with_random_case(name, random),
        name[usize::from(name[0]) + 1..].to_vec(),
        with_another_letter(name, random),
    ];
    for label in LABELS {
        let mut longer = wire_name(label);
        longer.pop();
        longer.extend(name);
        names.push(longer);
    }
    names
}

fn with_random_case(name: &[u8], random: &mut StdRng) -> Vec<u8> {
    name.iter()
        .map(|byte| {
            if random.random_bool(0.5) {
                byte.to_ascii_uppercase()
            } else {
                *byte
            }
        })
        .collect()
}

/// Replaces a random byte with a letter, unless it is below `-`, as most lengths of labels are.
fn with_another_letter(name: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut changed = name.to_vec();
    let at = random.random_range(0..name.len());
    if changed[at] >= b'-' {
        changed[at] = random.random_range(b'a'..=b'z');
    }
    changed
}

fn random_query(name: Vec<u8>, random: &mut StdRng) -> QueryPacket {
    let rtype = TYPES[random.random_range(0..TYPES.len())];
    let query = if random.random_bool(0.5) {
        KernelFixture::query("", rtype)
    } else {
        KernelFixture::query6("", rtype)
    };
    let query = QueryPacket {
        id: random.random(),
        port: random.random_range(1024..=u16::MAX),
        name,
        ..query
    };
    // Payload size, DO bit and options.
    match random.random_range(0..6) {
        0 => query.with_edns(512, 0, &[]),
        1 => query.with_edns(1232, random.random_range(0..2), &[]),
        2 => query.with_edns(4096, 1, &[]),
        _ => query,
    }
}
