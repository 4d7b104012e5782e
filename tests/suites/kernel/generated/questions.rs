//! Questions about every name of a model, and about names that are nearly one.

use dns_agent::zone::Model;
use rand::{RngExt as _, rngs::StdRng};
use zerohop_tests::packet::{Query, wire};

use crate::kernel::fixture::Fixture;

/// A, AAAA, SRV, PTR, CNAME, TXT, SOA, NS, HTTPS, MX, ANY; what clients ask most, twice.
const TYPES: [u16; 13] = [1, 1, 28, 28, 33, 12, 5, 16, 6, 2, 65, 15, 255];

/// The longest name (RFC 1035 section 3.1).
const LONGEST: usize = 255;

/// What may stand in front of a name: labels that mean something there, and one that doesn't.
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

/// Every name with all its neighbours, each asked once, in an order of the seed's.
pub(super) fn questions(model: &Model, random: &mut StdRng) -> Vec<Query> {
    let mut names: Vec<&[u8]> = model.nodes().map(|(name, _)| name.wire()).collect();
    // The model has no order, the seed is to tell everything.
    names.sort_unstable();
    names
        .into_iter()
        .flat_map(|name| neighbours(name, random))
        .filter(|name| name.len() <= LONGEST)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|name| query(name, random))
        .collect()
}

/// The name, and what is nearly it.
fn neighbours(name: &[u8], random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut names = vec![
        name.to_vec(),
        name.to_ascii_uppercase(),
        in_any_case(name, random),
        name[usize::from(name[0]) + 1..].to_vec(),
        with_another_letter(name, random),
    ];
    for label in LABELS {
        let mut longer = wire(label);
        longer.pop();
        longer.extend(name);
        names.push(longer);
    }
    names
}

fn in_any_case(name: &[u8], random: &mut StdRng) -> Vec<u8> {
    name.iter()
        .map(|octet| match random.random_bool(0.5) {
            true => octet.to_ascii_uppercase(),
            false => *octet,
        })
        .collect()
}

/// The name with one character changed, in any of its labels.
fn with_another_letter(name: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut changed = name.to_vec();
    let at = random.random_range(0..name.len());
    if changed[at] >= b'-' {
        changed[at] = random.random_range(b'a'..=b'z');
    }
    changed
}

fn query(name: Vec<u8>, random: &mut StdRng) -> Query {
    let rtype = TYPES[random.random_range(0..TYPES.len())];
    let query = match random.random_bool(0.5) {
        true => Fixture::query("", rtype),
        false => Fixture::query6("", rtype),
    };
    let query = Query {
        id: random.random(),
        port: random.random_range(1024..=u16::MAX),
        name,
        ..query
    };
    match random.random_range(0..6) {
        0 => query.with_edns(512, 0, &[]),
        1 => query.with_edns(1232, random.random_range(0..2), &[]),
        2 => query.with_edns(4096, 1, &[]),
        _ => query,
    }
}
