//! Each of n addresses comes first in one nth of the replies, within 20 %. In the kernel this holds
//! for clients whose IDs or ports are random or count up.

use std::{collections::BTreeMap, env, fmt::Write as _};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use zerohop_contract::{message::Message, packet, packet::QueryPacket};
use zerohop_datapath::program::HookProgram;
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};

use super::{
    fixture::{KernelFixture, TC_PASS},
    models::model,
};

const A: u16 = 1;
const SEED: u64 = 3;

/// Chooses the ID and the source port of a client's query with this number.
type ChooseIdAndPort = fn(u16, &mut StdRng) -> (u16, u16);

const CLIENTS: [(&str, ChooseIdAndPort); 5] = [
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

/// Numbers of addresses to test, and the number of queries for each. A guest may be emulated, so it
/// tests fewer. 20 % is always at least six standard deviations.
fn scale() -> (&'static [usize], u16) {
    match env::var_os("ZEROHOP_GUEST") {
        None => (&[2, 3, 7, 12], 10_000),
        Some(_) => (&[3], 2000),
    }
}

#[test]
fn the_kernel_rotates_addresses_evenly() {
    let (counts, queries) = scale();
    let mut fixture = KernelFixture::with_model(model(&manifests(counts), &[]));
    for &count in counts {
        for (client, choose) in CLIENTS {
            let mut random = StdRng::seed_from_u64(SEED);
            let mut first = BTreeMap::new();
            for number in 0..queries {
                let (id, port) = choose(number, &mut random);
                let query = QueryPacket {
                    id,
                    port,
                    ..KernelFixture::query(&service(count), A)
                };
                let reply =
                    answer_of_kernel(&mut fixture, &query).expect("the kernel passed the query");
                *first.entry(first_address(&reply)).or_default() += 1;
            }
            check_shares(client, count, queries, &first);
        }
    }
}

#[test]
fn the_kernel_rotates_addresses_behind_an_alias_evenly() {
    let (counts, queries) = scale();
    let mut fixture = KernelFixture::with_model(model(&manifests(counts), &[]));
    let count = counts[0];
    let mut first = BTreeMap::new();
    for number in 0..queries {
        let query = QueryPacket {
            id: number,
            ..KernelFixture::query("alias.shop.svc.cluster.local", A)
        };
        let reply = answer_of_kernel(&mut fixture, &query).expect("the kernel passed the query");
        *first.entry(first_address(&reply)).or_default() += 1;
    }
    check_shares("behind an alias", count, queries, &first);
}

#[test]
fn the_user_plane_rotates_addresses_evenly() {
    let (counts, queries) = scale();
    let fixture = KernelFixture::with_model(model(&manifests(counts), &[]));
    for &count in counts {
        let query = KernelFixture::query(&service(count), A);
        let mut first = BTreeMap::new();
        for _ in 0..queries {
            let reply = answer_of_user_plane(&query, &fixture);
            *first.entry(first_address(&reply)).or_default() += 1;
        }
        check_shares("user plane", count, queries, &first);
    }
}

/// The kernel's answer. `None`: the query passed.
fn answer_of_kernel(fixture: &mut KernelFixture, query: &QueryPacket) -> Option<Vec<u8>> {
    let frame = query.frame();
    let (verdict, out) = fixture
        .object
        .test_run(HookProgram::TcPeer, &frame)
        .unwrap();
    (verdict != TC_PASS).then(|| packet::parse_reply(&frame, &out).unwrap())
}

/// The user plane's answer, with a random rotation as in the resolver.
fn answer_of_user_plane(query: &QueryPacket, fixture: &KernelFixture) -> Vec<u8> {
    let rotation = rand::random_range(..usize::MAX);
    match respond(&query.message(), &fixture.model, Transport::Udp, rotation) {
        QueryAction::Send(reply) => reply,
        other => panic!("the user plane does not answer {query:?}: {other:?}"),
    }
}

fn first_address(reply: &[u8]) -> String {
    let message = Message::read(reply).unwrap();
    let mut records = message.sections[0].iter();
    let address = records.find_map(|record| record.split_once(" IN A "));
    address.expect("the reply has no A record").1.to_owned()
}

/// Checks that each of `count` addresses came first equally often, within 20 %.
fn check_shares(what: &str, count: usize, queries: u16, first: &BTreeMap<String, u32>) {
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

/// A headless service for each number of addresses, and an alias to the first.
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
