//! Generated clusters: questions for every name, and for similar names. Each answer of the kernel
//! equals the user plane's byte for byte, in some rotation of addresses.

mod mix;
mod objects;
mod questions;

use std::{env, fmt::Write as _};

use dns_common::outcomes::{Hook, Outcome, OutcomeCounters};
use rand::{SeedableRng as _, rngs::StdRng};
use zerohop_contract::{message::Message, packet, packet::QueryPacket};
use zerohop_datapath::program::HookProgram;
use zerohop_resolver::{
    message::{QueryAction, respond},
    query::Transport,
};
use zerohop_zone::{Answer, Model, Name, Rtype, ZoneData};

use super::{
    fixture::{KernelFixture, TC_PASS},
    models::{matches_user_plane, model_of_objects},
};

/// The seed of the generated objects and questions.
const SEED: u64 = 20_261_124;

/// Two cluster domains, and reverse networks that hold only some of the addresses. Two tests
/// replace the last flag.
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

/// The size of the generated clusters.
struct ClusterScale {
    /// Services of the large cluster.
    services: usize,
    /// Services of the smaller clusters.
    fewer_services: usize,
    /// The least number of questions about the large cluster.
    questions: usize,
}

impl ClusterScale {
    /// The scale for this machine: smaller in an emulated one.
    fn of_this_machine() -> ClusterScale {
        match env::var_os("ZEROHOP_GUEST") {
            None => ClusterScale {
                services: 2000,
                fewer_services: 200,
                questions: 200_000,
            },
            Some(_) => ClusterScale {
                services: 60,
                fewer_services: 10,
                questions: 5000,
            },
        }
    }
}

/// Counts of questions and of answers by the kernel.
#[derive(Default)]
struct QuestionTally {
    questions: u64,
    answers: u64,
}

#[test]
fn the_kernel_answers_as_the_user_plane_in_a_large_cluster() {
    let scale = ClusterScale::of_this_machine();
    let tally = compare_planes("pods insecure", &FLAGS, scale.services);
    assert!(
        tally.questions >= scale.questions as u64,
        "only {} questions",
        tally.questions
    );
    // About 10 % pass, most of them for type ANY or for names outside the zones.
    assert!(
        tally.answers > tally.questions * 3 / 4,
        "the kernel answered only {} of {} questions",
        tally.answers,
        tally.questions
    );
}

#[test]
fn the_kernel_answers_as_the_user_plane_with_verified_pods() {
    let flags = [&FLAGS[..7], &["--pods=verified"]].concat();
    compare_planes(
        "pods verified",
        &flags,
        ClusterScale::of_this_machine().fewer_services,
    );
}

#[test]
fn the_kernel_answers_as_the_user_plane_without_pods() {
    let flags = [&FLAGS[..7], &["--pods=disabled"]].concat();
    compare_planes(
        "pods disabled",
        &flags,
        ClusterScale::of_this_machine().fewer_services,
    );
}

#[test]
fn the_kernel_answers_95_percent_of_a_realistic_mix() {
    let services = ClusterScale::of_this_machine().services;
    let mut random = StdRng::seed_from_u64(SEED);
    let objects = objects::generate_objects(&mut random, services);
    let mut fixture = KernelFixture::with_model(model_of_objects(&objects, &FLAGS));
    // Weighted counts: all questions, questions for names in the zones, and the kernel's answers.
    let (mut all, mut in_zones, mut answered) = (0.0, 0.0, 0.0);
    println!(
        "{:>7} {:>9} {:>8} {:>8}  lookup",
        "weight", "questions", "in zones", "answered"
    );
    for kind in &mix::KINDS {
        let queries: Vec<QueryPacket> = mix::lookups(kind, &objects, &mut random);
        let is_in_zones = |query: &QueryPacket| {
            let name = Name::from_wire(&query.name).unwrap();
            fixture.model.answer(&name, Rtype::from_int(query.rtype)) != Answer::NotAuthoritative
        };
        let inside = queries.iter().filter(|query| is_in_zones(query)).count();
        let answers = queries
            .iter()
            .filter(|query| ask_kernel(&mut fixture, query, SEED))
            .count();
        let per_lookup = |count: usize| count as f64 / mix::LOOKUPS as f64;
        println!(
            "{:>7} {:>9.1} {:>8.1} {:>8.1}  {}",
            kind.weight,
            per_lookup(queries.len()),
            per_lookup(inside),
            per_lookup(answers),
            kind.what
        );
        let weight = f64::from(kind.weight);
        all += weight * per_lookup(queries.len());
        in_zones += weight * per_lookup(inside);
        answered += weight * per_lookup(answers);
    }
    println!(
        "the kernel answers {:.1} % of all questions, and {:.1} % of the questions for names in the zones",
        100.0 * answered / all,
        100.0 * answered / in_zones
    );
    assert!(
        answered > 0.95 * in_zones,
        "the kernel answers less than 95 % of the questions for names in the zones"
    );
}

/// Asks the kernel all questions about a generated cluster, and checks its answers. Prints and
/// returns the numbers of questions and answers.
fn compare_planes(what: &str, flags: &[&str], services: usize) -> QuestionTally {
    let mut random = StdRng::seed_from_u64(SEED);
    let objects = objects::generate_objects(&mut random, services);
    let mut fixture = KernelFixture::with_model(model_of_objects(&objects, flags));
    let questions = questions::questions(&fixture.model, &mut random);
    let before = fixture.counters();
    let mut tally = QuestionTally::default();
    for query in &questions {
        tally.questions += 1;
        tally.answers += u64::from(ask_kernel(&mut fixture, query, SEED));
    }
    let after = fixture.counters();
    println!(
        "{what}: {} names, {} questions, {} ({:.1} %) answered by the kernel, seed {SEED}\n{}",
        fixture.model.entries().count(),
        tally.questions,
        tally.answers,
        100.0 * tally.answers as f64 / tally.questions as f64,
        outcome_table(before, after)
    );
    tally
}

/// Asks the kernel, and returns whether it answered. Panics if the answer is wrong.
fn ask_kernel(fixture: &mut KernelFixture, query: &QueryPacket, seed: u64) -> bool {
    let frame = query.frame();
    let (verdict, out) = fixture
        .object
        .test_run(HookProgram::TcPeer, &frame)
        .unwrap();
    if verdict == TC_PASS {
        assert_eq!(out, frame, "seed {seed}: a pass changed {query:?}");
        return false;
    }
    let reply = packet::parse_reply(&frame, &out)
        .unwrap_or_else(|error| panic!("seed {seed}: {query:?} became {out:02x?}: {error}"));
    let asked = query.message();
    assert!(
        matches_user_plane(&asked, &reply, &fixture.model),
        "seed {seed}: {}",
        format_replies(&asked, &reply, &fixture.model)
    );
    true
}

/// Formats the replies of both planes for the message of a failed test; the user plane's with
/// rotation 0, which need not be the kernel's.
fn format_replies(asked: &[u8], reply: &[u8], model: &Model) -> String {
    let expected = match respond(asked, model, Transport::Udp, 0) {
        QueryAction::Send(expected) => format!("{:#?}", Message::read(&expected)),
        other => format!("{other:#?}"),
    };
    format!(
        "{:#?}\nthe kernel replied {:#?}\n{reply:02x?}\nthe user plane replied {expected}",
        Message::read(asked),
        Message::read(reply)
    )
}

/// A table of the number of packets at tc by outcome.
fn outcome_table(before: [OutcomeCounters; 2], after: [OutcomeCounters; 2]) -> String {
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
