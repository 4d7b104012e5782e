use domain::base::iana::Rtype;

use super::{address, model, name, opt, query, with_additional, with_edns, word};
use crate::{
    resolver::{
        message::{Chase, Query, Reply, Transport, respond},
        response::{Response, UpstreamQuery},
    },
    zone::{Answer, Rdata, Record, ZoneData, render},
};

/// A client's query for another's name, and what an upstream is asked for it.
fn forwarded(octets: &[u8]) -> (Query, Vec<u8>) {
    let Reply::Forward(query) = respond(octets, &model(), Transport::Udp, 0) else {
        panic!("not forwarded");
    };
    let asked = UpstreamQuery::forwarding(&query).with_id(0xabcd);
    (query, asked)
}

/// The reply an upstream would give with these records.
fn answered(asked: &[u8], text: &str, answer: Vec<Record>) -> Vec<u8> {
    let answer = Answer::Data {
        answer,
        additional: Vec::new(),
    };
    let sections = render(&name(text), &answer, &[], 0);
    let question_end = 12 + name(text).wire().len() + 4;
    let mut message = asked[..question_end].to_vec();
    message[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, sections.answers as u8, 0, 0, 0, 0]);
    message.extend_from_slice(&sections.bytes);
    message
}

fn record(owner: &str, data: Rdata) -> Record {
    Record {
        owner: name(owner),
        ttl: 300,
        data,
    }
}

#[test]
fn an_upstream_is_asked_only_what_concerns_it() {
    let plain = query("Example.org", Rtype::A);
    let (_, asked) = forwarded(&plain);
    assert_eq!(asked[..2], [0xab, 0xcd]);
    assert_eq!(asked[2..], plain[2..]);

    let mut odd = with_additional(
        plain.clone(),
        &opt(4096, [0, 0, 0x80, 0], &[0, 10, 0, 1, 9]),
    );
    odd[3] |= 0x30; // AD and CD
    let (_, asked) = forwarded(&odd);
    assert_eq!(word(&asked, 2), 0x0130);
    assert_eq!(asked[12..plain.len()], plain[12..]);
    assert_eq!(asked[plain.len()..], opt(1232, [0, 0, 0x80, 0], &[]));
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let (_, asked) = forwarded(&query("example.org", Rtype::A));
    let good = answered(
        &asked,
        "example.org",
        vec![record("example.org", address(1))],
    );
    assert!(Response::parse(&good, &asked).is_some());

    let mut recased = good.clone();
    recased[13] = b'E';
    assert!(Response::parse(&recased, &asked).is_some());

    let changes: [(&str, usize, u8); 7] = [
        ("the ID", 0, 0xff),
        ("QR", 2, 0x01),
        ("the opcode", 2, 0xa1),
        ("QDCOUNT", 5, 0),
        ("the name", 13, b'f'),
        ("the type", 26, 28),
        ("the class", 28, 3),
    ];
    for (what, offset, octet) in changes {
        let mut changed = good.clone();
        assert_ne!(changed[offset], octet, "{what} is not changed");
        changed[offset] = octet;
        assert!(
            Response::parse(&changed, &asked).is_none(),
            "{what} is not looked at"
        );
    }
    for length in 0..good.len() {
        assert!(
            Response::parse(&good[..length], &asked).is_none(),
            "cut to {length}"
        );
    }
}

#[test]
fn the_client_gets_its_own_id_question_and_opt() {
    let text = "example.org";
    for client in [
        query("ExAmple.org", Rtype::A),
        with_edns(query("ExAmple.org", Rtype::A), 4096),
    ] {
        let (query, asked) = forwarded(&client);
        let mut bare = answered(&asked, text, vec![record(text, address(1))]);
        bare[12..25].make_ascii_lowercase();
        let with_opt = with_additional(bare.clone(), &opt(4096, [0; 4], &[0, 10, 0, 0]));
        // What stands behind the OPT record goes with it.
        let with_more = with_additional(with_opt.clone(), &opt(1, [0; 4], &[]));
        for reply in [bare.clone(), with_opt, with_more] {
            let relayed = query.relay(Response::parse(&reply, &asked).unwrap());
            let end = bare.len();
            assert_eq!(relayed[..2], client[..2]);
            assert_eq!(relayed[2..10], bare[2..10]);
            assert_eq!(relayed[12..29], client[12..29]);
            assert_eq!(relayed[29..end], bare[29..]);
            let own_opt = if client.len() > 29 {
                opt(1232, [0; 4], &[])
            } else {
                Vec::new()
            };
            assert_eq!(relayed[end..], own_opt);
            assert_eq!(usize::from(word(&relayed, 10)), own_opt.len() / 11);
        }
    }
}

#[test]
fn a_long_answer_is_cut_for_the_client() {
    let (query, asked) = forwarded(&query("example.org", Rtype::A));
    let records = (0..50)
        .map(|last| record("example.org", address(last)))
        .collect();
    let response = Response::parse(&answered(&asked, "example.org", records), &asked).unwrap();
    assert!(!response.is_truncated());
    let relayed = query.relay(response);
    assert_eq!(relayed.len(), 29 + 30 * 16);
    assert_eq!(word(&relayed, 6), 30);
    assert_eq!(word(&relayed, 2) & 0x0200, 0x0200);
}

/// The chase of `out.z`, an alias of `example.org`.
fn chase() -> (Chase, Vec<u8>) {
    let Reply::Chase(chase) = respond(&query("out.z", Rtype::A), &model(), Transport::Udp, 0)
    else {
        panic!("not chased");
    };
    let asked = UpstreamQuery::chasing(&chase).with_id(1);
    (chase, asked)
}

/// The reply to `out.z A` after an upstream gave these records.
fn chased(answer: Vec<Record>) -> Vec<u8> {
    let (chase, asked) = chase();
    let response = Response::parse(&answered(&asked, "example.org", answer), &asked).unwrap();
    chase.complete(Some(&response), &model(), 0)
}

/// The message that answers `out.z A` with these records after the alias.
fn expected(mut records: Vec<Record>) -> Vec<u8> {
    records.insert(
        0,
        Record {
            owner: name("out.z"),
            ttl: 5,
            data: Rdata::Cname(name("example.org")),
        },
    );
    let mut message = answered(&query("out.z", Rtype::A), "out.z", records);
    message[2..4].copy_from_slice(&[0x85, 0x00]);
    message
}

#[test]
fn a_chased_target_follows_its_alias() {
    let (_, asked) = chase();
    assert_eq!(asked[2..], query("example.org", Rtype::A)[2..]);

    let found = vec![record("example.org", address(1))];
    assert_eq!(chased(found.clone()), expected(found));

    let link = record("example.org", Rdata::Cname(name("www.example.org")));
    let end = record("www.example.org", address(1));
    let stranger = record("stranger.org", address(9));
    assert_eq!(
        chased(vec![end.clone(), stranger, link.clone()]),
        expected(vec![link, end])
    );
}

#[test]
fn a_chase_without_data_leaves_the_alias_alone() {
    assert_eq!(chased(Vec::new()), expected(Vec::new()));
    let (chase, asked) = chase();
    let mut denied = answered(&asked, "example.org", Vec::new());
    denied[3] |= 3;
    let response = Response::parse(&denied, &asked).unwrap();
    assert_eq!(
        chase.complete(Some(&response), &model(), 0),
        expected(Vec::new())
    );
}

#[test]
fn a_chase_without_a_reply_is_no_data() {
    let (chase, _) = chase();
    let message = chase.complete(None, &model(), 0);
    let model = model();
    let sections = render(
        &name("out.z"),
        &Answer::NoData { zone: 0 },
        model.zones(),
        0,
    );
    assert_eq!(word(&message, 2), 0x8500);
    assert_eq!([word(&message, 6), word(&message, 8)], [0, 1]);
    assert_eq!(
        message[message.len() - sections.bytes.len()..],
        sections.bytes
    );
}

#[test]
fn a_loop_of_aliases_ends() {
    let message = chased(vec![
        record("example.org", Rdata::Cname(name("a.org"))),
        record("a.org", Rdata::Cname(name("example.org"))),
    ]);
    // The alias itself, and each link once.
    assert_eq!(word(&message, 6), 3);
}

#[test]
fn a_truncated_target_truncates_the_answer() {
    let (chase, asked) = chase();
    let mut cut = answered(&asked, "example.org", Vec::new());
    cut[2] |= 0x02;
    let response = Response::parse(&cut, &asked).unwrap();
    let message = chase.complete(Some(&response), &model(), 0);
    assert_eq!(word(&message, 2), 0x8700);
    assert_eq!(word(&message, 6), 1);
}
