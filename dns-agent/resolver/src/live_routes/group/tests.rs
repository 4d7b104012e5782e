//! When a group counts.

use zerohop_routes::{ForwardServer, ForwardTransport, UpstreamPolicy};

use super::*;

fn group(trust: GroupTrust) -> LiveGroup {
    LiveGroup::new(&ForwardGroup {
        servers: vec![ForwardServer::Plain(([192, 0, 2, 1], 53).into())],
        policy: UpstreamPolicy::Fastest,
        transport: ForwardTransport::UdpAndTcp,
        trust,
        origin: "the test".to_owned(),
    })
    .unwrap()
}

fn question(text: &str) -> ProofQuestion {
    (Name::parse(text).unwrap(), Rtype::A)
}

fn fail(group: &LiveGroup, name: &str) {
    group.record_outcome(question(name), &Err(NoResponse::NoAnswer));
}

#[test]
fn different_questions_must_fail() {
    let given = group(GroupTrust::Given);
    let group = group(GroupTrust::AfterAnswer);
    assert!(!group.is_used());
    group.record_answer();
    for _ in 0..10 {
        fail(&group, "a.example");
    }
    fail(&group, "b.example");
    assert!(group.is_used());
    // An answer in between.
    group.record_answer();
    fail(&group, "c.example");
    fail(&group, "d.example");
    group.record_outcome(question("e.example"), &Err(NoResponse::Overloaded));
    assert!(group.is_used());
    fail(&group, "e.example");
    assert!(!group.is_used());
    for name in ["a.example", "b.example", "c.example", "d.example"] {
        fail(&given, name);
    }
    assert!(given.is_used());
}

#[test]
fn attempts_ask_the_newest_questions_and_pause_longer_each_time() {
    let group = group(GroupTrust::AfterAnswer);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(group.take_questions(start), ProofDue::No);
    for name in [
        "a.example",
        "b.example",
        "c.example",
        "d.example",
        "d.example",
    ] {
        assert!(group.want_proof(&question(name).0, Rtype::A));
    }
    let newest = ["b.example", "c.example", "d.example"].map(question);
    assert_eq!(group.take_questions(start), ProofDue::Now(newest.to_vec()));
    // While the attempt runs.
    assert!(!group.want_proof(&question("e.example").0, Rtype::A));
    assert_eq!(group.take_questions(at(4)), ProofDue::No);
    let mut now = 4;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        group.end_attempt(at(now));
        group.want_proof(&question("e.example").0, Rtype::A);
        assert_eq!(group.take_questions(at(now)), ProofDue::At(at(now + pause)));
        now += pause;
        let expected = vec![question("e.example")];
        assert_eq!(group.take_questions(at(now)), ProofDue::Now(expected));
    }
    group.record_answer();
    group.end_attempt(at(now));
    group.want_proof(&question("e.example").0, Rtype::A);
    assert_eq!(group.take_questions(at(now)), ProofDue::No);
}
