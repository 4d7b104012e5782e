//! Every address takes its turn in the first place, whatever IDs and ports clients choose: 10,000
//! queries bring each of n addresses to the front 10,000/n times, give or take a fifth.

use std::{collections::BTreeMap, env, fmt::Write as _};

use dns_agent::{
    datapath::object::Program,
    resolver::message::{Reply, Transport, respond},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use zerohop_tests::{
    message::Message,
    packet::{self, Query},
};

use super::{cluster::model, fixture::Fixture};

const A: u16 = 1;
const SEED: u64 = 3;

/// Chooses ID and port of a client's query, from its number.
type Choose = fn(u16, &mut StdRng) -> (u16, u16);

const CLIENTS: [(&str, Choose); 5] = [
    ("random IDs", |_, random| (random.random(), 40_000)),
    ("counting IDs", |number, _| (number, 40_000)),
    ("one ID, random ports", |_, random| {
        (7, random.random_range(1024..=u16::MAX))
    }),
    ("one ID, counting ports", |number, _| (7, 32_768 + number)),
    ("counting IDs and ports", |number, _| {
        (number, 32_768 + number)
    }),
];

/// Numbers of addresses, and queries for each. In an emulated machine fewer of both, but enough for
/// the fifth to be six standard deviations.
fn scale() -> (&'static [usize], u16) {
    match env::var_os("ZEROHOP_GUEST") {
        None => (&[2, 3, 7, 12], 10_000),
        Some(_) => (&[3], 2000),
    }
}

#[test]
fn in_the_kernel() {
    let (counts, queries) = scale();
    let mut fixture = Fixture::with(model(&manifests(counts), &[]));
    for &count in counts {
        for (client, choose) in CLIENTS {
            let mut random = StdRng::seed_from_u64(SEED);
            let mut first = BTreeMap::new();
            for number in 0..queries {
                let (id, port) = choose(number, &mut random);
                let query = Query {
                    id,
                    port,
                    ..Fixture::query(&service(count), A)
                };
                let reply = answer(&mut fixture, &query).expect("an answer of the kernel's");
                *first.entry(first_address(&reply)).or_default() += 1;
            }
            check(client, count, queries, &first);
        }
    }
}

#[test]
fn behind_an_alias() {
    let (counts, queries) = scale();
    let mut fixture = Fixture::with(model(&manifests(counts), &[]));
    let count = counts[0];
    let mut first = BTreeMap::new();
    for number in 0..queries {
        let query = Query {
            id: number,
            ..Fixture::query("alias.shop.svc.cluster.local", A)
        };
        let reply = answer(&mut fixture, &query).expect("an answer of the kernel's");
        *first.entry(first_address(&reply)).or_default() += 1;
    }
    check("behind an alias", count, queries, &first);
}

#[test]
fn in_the_user_plane() {
    let (counts, queries) = scale();
    let fixture = Fixture::with(model(&manifests(counts), &[]));
    for &count in counts {
        let query = Fixture::query(&service(count), A);
        let mut first = BTreeMap::new();
        for _ in 0..queries {
            let reply = by_the_user_plane(&query, &fixture);
            *first.entry(first_address(&reply)).or_default() += 1;
        }
        check("user plane", count, queries, &first);
    }
}

/// The kernel's answer, if it gives one.
fn answer(fixture: &mut Fixture, query: &Query) -> Option<Vec<u8>> {
    let frame = query.frame();
    let (verdict, out) = fixture.object.test_run(Program::TcPeer, &frame).unwrap();
    (verdict != u32::MAX).then(|| packet::reply(&frame, &out).unwrap())
}

/// The user plane's, turned as the resolver turns it.
fn by_the_user_plane(query: &Query, fixture: &Fixture) -> Vec<u8> {
    let rotation = rand::random_range(..usize::MAX);
    match respond(&query.message(), &fixture.model, Transport::Udp, rotation) {
        Reply::Message(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn first_address(reply: &[u8]) -> String {
    let message = Message::read(reply).unwrap();
    let mut records = message.sections[0].iter();
    let address = records.find_map(|record| record.split_once(" IN A "));
    address.expect("an address").1.to_owned()
}

fn check(what: &str, count: usize, queries: u16, first: &BTreeMap<String, u32>) {
    println!("{what}, {count} addresses: {:?}", first.values());
    let fair = f64::from(queries) / count as f64;
    assert_eq!(first.len(), count, "{what}: {first:?}");
    for (address, times) in first {
        let share = f64::from(*times) / fair;
        assert!(
            (0.8..=1.2).contains(&share),
            "{what}: {address} of {count} was first {times} times of {queries}: {first:?}"
        );
    }
}

fn service(count: usize) -> String {
    format!("of-{count}.shop.svc.cluster.local")
}

/// A headless service for each number of addresses, and an alias of the first.
fn manifests(counts: &[usize]) -> String {
    let mut text = format!(
        "
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: alias, namespace: shop}}
spec: {{type: ExternalName, externalName: {}}}
",
        service(counts[0])
    );
    for count in counts {
        let endpoints: Vec<String> = (1..=*count)
            .map(|last| format!("{{addresses: [10.244.{count}.{last}]}}"))
            .collect();
        write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: of-{count}, namespace: shop}}
spec: {{clusterIP: None}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {{name: of-{count}, namespace: shop, labels: {{kubernetes.io/service-name: of-{count}}}}}
endpoints: [{}]
",
            endpoints.join(", ")
        )
        .unwrap();
    }
    text
}
