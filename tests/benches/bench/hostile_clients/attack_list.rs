//! The attacks. Many were found by attacking an earlier agent.

use std::time::Duration;

use rand::{Rng as _, RngExt as _, rngs::StdRng};
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::QueryPacket,
};

use super::{
    connections::{ConnectionLoad, UnreadReplies},
    datagrams::{DatagramFlood, SendingRate},
    node::{
        ABSENT_ZONE, LARGE_SERVICE, SILENT_ZONE, UpstreamBehavior, WEB_SERVICE, attacker_addresses,
        forged_addresses,
    },
};

/// An attack, and the upstreams of the attacked agent.
pub(super) struct HostileAttack {
    pub(super) name: &'static str,
    pub(super) upstreams: UpstreamBehavior,
    pub(super) traffic: HostileTraffic,
}

/// The traffic of hostile clients.
pub(super) enum HostileTraffic {
    Nothing,
    Datagrams(DatagramFlood),
    Connections(ConnectionLoad),
}

/// The type A (RFC 1035 section 3.2.2).
pub(super) const A: u16 = 1;
/// How often a silent client must send a query so that its connection is not closed: the resolver
/// closes it after 10 s.
const BEFORE_IDLE: Duration = Duration::from_secs(8);
/// Longer than the benchmark runs.
const NEVER: Duration = Duration::from_secs(3600);

pub(super) fn all() -> Vec<HostileAttack> {
    let mut attacks = vec![attack("no attack", HostileTraffic::Nothing)];
    attacks.extend(large_answers());
    attacks.extend(forged_sources());
    attacks.extend(held_connections());
    attacks.extend(slow_upstreams());
    attacks.extend(floods());
    attacks
}

/// A name with 5,000 endpoints.
fn large_answers() -> Vec<HostileAttack> {
    let ask = |rate| flood(rate, |random| query(random, LARGE_SERVICE));
    vec![
        attack(
            "a name with 5,000 endpoints, UDP, 50/s",
            ask(SendingRate::PerSecond(50)),
        ),
        attack(
            "a name with 5,000 endpoints, UDP, 200/s",
            ask(SendingRate::PerSecond(200)),
        ),
        attack(
            "a name with 5,000 endpoints, UDP, top rate",
            ask(SendingRate::Highest),
        ),
        attack(
            "a name with 5,000 endpoints, 4 TCP connections that pipeline",
            HostileTraffic::Connections(ConnectionLoad {
                connections: 4,
                message: framed_query(LARGE_SERVICE),
                ..ConnectionLoad::pipelining()
            }),
        ),
    ]
}

/// Replies to forged sources wait for neighbors that don't exist.
fn forged_sources() -> Vec<HostileAttack> {
    let ask = |rate, make: fn(&mut StdRng) -> Vec<u8>| {
        HostileTraffic::Datagrams(DatagramFlood {
            sources: forged_addresses().collect(),
            rate,
            make,
        })
    };
    let web = |rate| {
        ask(SendingRate::PerSecond(rate), |random| {
            query(random, WEB_SERVICE)
        })
    };
    vec![
        attack("forged sources, 120/s", web(120)),
        attack("forged sources, 500/s", web(500)),
        attack("forged sources, 5,000/s", web(5_000)),
        attack(
            "random outside names from forged sources, top rate",
            ask(SendingRate::Highest, |random| {
                random_query(random, "example.org")
            }),
        ),
    ]
}

fn held_connections() -> Vec<HostileAttack> {
    let mut long_query = framed_query(LARGE_SERVICE);
    long_query.resize(2 + 65_535, 0);
    long_query[..2].fill(0xff);
    let unread = ConnectionLoad {
        replies: UnreadReplies::Pile,
        ..ConnectionLoad::pipelining()
    };
    let connections = |load| HostileTraffic::Connections(load);
    vec![
        attack(
            "512 connections, queries of 64 KiB, replies unread",
            connections(ConnectionLoad {
                message: long_query,
                ..unread.clone()
            }),
        ),
        attack(
            "512 connections pipeline, replies unread",
            connections(ConnectionLoad {
                message: framed_query(LARGE_SERVICE),
                ..unread.clone()
            }),
        ),
        attack(
            "512 connections of 64 addresses pipeline, replies unread",
            connections(ConnectionLoad {
                message: framed_query(LARGE_SERVICE),
                sources: attacker_addresses().collect(),
                ..unread.clone()
            }),
        ),
        attack(
            "512 connections of 64 addresses pipeline names of silent servers",
            connections(ConnectionLoad {
                message: framed_query(&format!("one.{SILENT_ZONE}")),
                sources: attacker_addresses().collect(),
                ..unread
            }),
        ),
        attack(
            "512 connections, a query each every 8 s",
            connections(ConnectionLoad {
                message: framed_query(WEB_SERVICE),
                pause: BEFORE_IDLE,
                ..ConnectionLoad::pipelining()
            }),
        ),
        attack(
            "600 connections, half a query each",
            connections(ConnectionLoad {
                connections: 600,
                message: framed_query(WEB_SERVICE)[..9].to_vec(),
                pause: NEVER,
                ..ConnectionLoad::pipelining()
            }),
        ),
    ]
}

fn slow_upstreams() -> Vec<HostileAttack> {
    let silent = |rate| {
        flood(SendingRate::PerSecond(rate), |random| {
            random_query(random, SILENT_ZONE)
        })
    };
    vec![
        HostileAttack {
            upstreams: UpstreamBehavior::FirstSilent,
            ..attack("first of two upstreams silent", HostileTraffic::Nothing)
        },
        HostileAttack {
            upstreams: UpstreamBehavior::FirstSilent,
            ..attack(
                "first of two upstreams silent, random outside names, 400/s",
                flood(SendingRate::PerSecond(400), |random| {
                    random_query(random, "example.org")
                }),
            )
        },
        attack("names of silent servers, 400/s", silent(400)),
        attack("names of silent servers, 2,000/s", silent(2_000)),
        attack(
            "one name of silent servers, 2,000/s",
            flood(SendingRate::PerSecond(2_000), |random| {
                query(random, &format!("one.{SILENT_ZONE}"))
            }),
        ),
    ]
}

fn floods() -> Vec<HostileAttack> {
    let top = |make| flood(SendingRate::Highest, make);
    vec![
        attack(
            "random outside names, top rate",
            top(|random| random_query(random, "example.org")),
        ),
        attack(
            "random outside names that don't exist, top rate",
            top(|random| random_query(random, ABSENT_ZONE)),
        ),
        attack(
            "random names of the cluster, top rate",
            top(|random| random_query(random, "shop.svc.cluster.local")),
        ),
        attack(
            "queries of 5,000 bytes, top rate",
            top(|random| {
                let mut message = query(random, WEB_SERVICE);
                message.resize(5_000, 0);
                message
            }),
        ),
        attack(
            "random bytes, top rate",
            top(|random| {
                let mut message = vec![0; random.random_range(0..600)];
                random.fill_bytes(&mut message);
                message
            }),
        ),
        attack(
            "responses, top rate",
            top(|random| {
                let mut message = query(random, WEB_SERVICE);
                // QR.
                message[2] |= 0x80;
                message
            }),
        ),
    ]
}

fn attack(name: &'static str, traffic: HostileTraffic) -> HostileAttack {
    HostileAttack {
        name,
        upstreams: UpstreamBehavior::BothAnswer,
        traffic,
    }
}

/// Datagrams from the attacker's own address.
fn flood(rate: SendingRate, make: fn(&mut StdRng) -> Vec<u8>) -> HostileTraffic {
    HostileTraffic::Datagrams(DatagramFlood {
        sources: attacker_addresses().take(1).collect(),
        rate,
        make,
    })
}

/// A query with a random ID for the addresses of a name.
pub(super) fn query(random: &mut StdRng, name: &str) -> Vec<u8> {
    QueryPacket {
        id: random.random(),
        ..QueryPacket::new(POD[0], SERVED[0], name, A)
    }
    .message()
}

/// A query for a random name in a zone.
fn random_query(random: &mut StdRng, zone: &str) -> Vec<u8> {
    let label: u64 = random.random();
    query(random, &format!("r{label:x}.{zone}"))
}

/// A query with its length prefix.
pub(super) fn framed_query(name: &str) -> Vec<u8> {
    let message = QueryPacket::new(POD[0], SERVED[0], name, A).message();
    let length = message.len() as u16;
    [&length.to_be_bytes(), &message[..]].concat()
}
