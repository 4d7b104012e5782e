//! A large cluster in the tables: what the kernel says about each of its names, and about their
//! neighbours, is what the user plane says, octet by octet.

mod mix;
mod objects;
mod questions;

use std::{env, fmt::Write as _};

use dns_agent::{
    datapath::object::Program,
    resolver::message::{Reply, Transport, respond},
    zone::{Answer, Model, Name, Rtype, ZoneData},
};
use dns_common::outcomes::{Counters, Hook, Outcome};
use rand::{SeedableRng as _, rngs::StdRng};
use zerohop_tests::{
    message::Message,
    packet::{self, Query},
};

use super::{
    cluster::{is_right, model_of},
    fixture::Fixture,
};

const SEED: u64 = 20_261_124;

/// Both domains, and networks that hold a part of the addresses only.
const FLAGS: [&str; 8] = [
    "--cluster-domain=cluster.local",
    "--cluster-domain=k8s.example.org",
    "--reverse=10.96.0.0/16",
    "--reverse=10.244.0.0/20",
    "--reverse=fd00:10:96::/48",
    "--reverse=fd00:10:244::/64",
    "--ttl=7",
    "--pods=insecure",
];

/// How large the cluster is.
struct Scale {
    /// Services of the cluster whose names are all asked for.
    services: usize,
    /// Services of the smaller ones.
    fewer_services: usize,
    /// Questions there are at least.
    questions: usize,
}

impl Scale {
    /// An emulated machine gets a cluster that it can finish in its time.
    fn of_this_machine() -> Scale {
        match env::var_os("ZEROHOP_GUEST") {
            None => Scale {
                services: 2000,
                fewer_services: 200,
                questions: 200_000,
            },
            Some(_) => Scale {
                services: 60,
                fewer_services: 10,
                questions: 5000,
            },
        }
    }
}

/// What came of many questions.
#[derive(Default)]
struct Tally {
    questions: u64,
    answers: u64,
}

#[test]
fn a_large_cluster() {
    let scale = Scale::of_this_machine();
    let tally = compare("pods insecure", &FLAGS, scale.services);
    assert!(tally.questions >= scale.questions as u64);
    // Names that are too long, ANY, and aliases that lead away are some 13 of a hundred.
    assert!(tally.answers > tally.questions * 3 / 4);
}

#[test]
fn with_verified_pods() {
    let flags = [&FLAGS[..7], &["--pods=verified"]].concat();
    compare(
        "pods verified",
        &flags,
        Scale::of_this_machine().fewer_services,
    );
}

#[test]
fn without_pods() {
    let flags = [&FLAGS[..7], &["--pods=disabled"]].concat();
    compare(
        "pods disabled",
        &flags,
        Scale::of_this_machine().fewer_services,
    );
}

#[test]
fn a_realistic_mix() {
    let services = Scale::of_this_machine().services;
    let mut random = StdRng::seed_from_u64(SEED);
    let objects = objects::objects(&mut random, services);
    let mut fixture = Fixture::with(model_of(&objects, &FLAGS));
    // Weighted: questions, those for names of ours, and answers.
    let (mut all, mut ours, mut answered) = (0.0, 0.0, 0.0);
    println!(
        "{:>7} {:>9} {:>6} {:>8}  lookup",
        "weight", "questions", "ours", "answered"
    );
    for kind in &mix::KINDS {
        let queries: Vec<Query> = mix::lookups(kind, &objects, &mut random);
        let is_ours = |query: &Query| {
            let name = Name::from_wire(&query.name).unwrap();
            fixture.model.answer(&name, Rtype::from_int(query.rtype)) != Answer::NotOurs
        };
        let inside = queries.iter().filter(|query| is_ours(query)).count();
        let answers = queries
            .iter()
            .filter(|query| ask(&mut fixture, query, SEED))
            .count();
        let each = |count: usize| count as f64 / mix::LOOKUPS as f64;
        println!(
            "{:>7} {:>9.1} {:>6.1} {:>8.1}  {}",
            kind.weight,
            each(queries.len()),
            each(inside),
            each(answers),
            kind.what
        );
        let weight = f64::from(kind.weight);
        all += weight * each(queries.len());
        ours += weight * each(inside);
        answered += weight * each(answers);
    }
    println!(
        "of the mix the kernel answers {:.1} % of the questions, and {:.1} % of those for names of ours",
        100.0 * answered / all,
        100.0 * answered / ours
    );
    assert!(answered > 0.95 * ours, "{answered} of {ours}");
}

/// Asks everything about a cluster and prints what came of it.
fn compare(what: &str, flags: &[&str], services: usize) -> Tally {
    let mut random = StdRng::seed_from_u64(SEED);
    let objects = objects::objects(&mut random, services);
    let mut fixture = Fixture::with(model_of(&objects, flags));
    let questions = questions::questions(&fixture.model, &mut random);
    let before = fixture.counted();
    let mut tally = Tally::default();
    for query in &questions {
        tally.questions += 1;
        tally.answers += u64::from(ask(&mut fixture, query, SEED));
    }
    let after = fixture.counted();
    println!(
        "{what}: {} names, {} questions, {} ({:.1} %) answered by the kernel, seed {SEED}\n{}",
        fixture.model.nodes().count(),
        tally.questions,
        tally.answers,
        100.0 * tally.answers as f64 / tally.questions as f64,
        table(before, after)
    );
    tally
}

/// Asks the kernel; says whether it answered. Panics when it is wrong.
fn ask(fixture: &mut Fixture, query: &Query, seed: u64) -> bool {
    let frame = query.frame();
    let (verdict, out) = fixture.object.test_run(Program::TcPeer, &frame).unwrap();
    if verdict == u32::MAX {
        assert_eq!(out, frame, "seed {seed}: a pass changed {query:?}");
        return false;
    }
    let reply = packet::reply(&frame, &out)
        .unwrap_or_else(|error| panic!("seed {seed}: {query:?} became {out:02x?}: {error}"));
    let asked = query.message();
    assert!(
        is_right(&asked, &reply, &fixture.model),
        "seed {seed}: {}",
        difference(&asked, &reply, &fixture.model)
    );
    true
}

/// Both planes' words for who has to find the mistake.
fn difference(asked: &[u8], reply: &[u8], model: &Model) -> String {
    let expected = match respond(asked, model, Transport::Udp, 0) {
        Reply::Message(expected) => format!("{:#?}", Message::read(&expected)),
        other => format!("{other:#?}"),
    };
    format!(
        "{:#?}\nthe kernel says {:#?}\n{reply:02x?}\nthe user plane says {expected}",
        Message::read(asked),
        Message::read(reply)
    )
}

/// How many packets ended in which way.
fn table(before: [Counters; 2], after: [Counters; 2]) -> String {
    let mut table = String::new();
    for outcome in Outcome::ALL {
        let [before, after] =
            [before, after].map(|counters| counters[Hook::Tc as usize][outcome as usize]);
        let count = after - before;
        if count > 0 {
            writeln!(table, "{count:>9} {}", outcome.name()).unwrap();
        }
    }
    table
}
