use domain::base::iana::Rtype;

use super::{address, model, name, opt, query, with_additional, with_edns, word};
use crate::{
    resolver::{
        bailiwick::OwnNames,
        message::{Chase, Query, Reply, Transport, respond},
        response::{Response, UpstreamQuery},
    },
    zone::{Answer, Rdata, Record, ZoneData, render, render_sections},
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
            let relayed = relayed(&query, &asked, &reply);
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
    let relayed = said(query.relay(&response, &own(&model()), 0));
    assert_eq!(relayed.len(), 29 + 30 * 16);
    assert_eq!(word(&relayed, 6), 30);
    assert_eq!(word(&relayed, 2) & 0x0200, 0x0200);
}

/// The names of the model.
fn own(data: &dyn ZoneData) -> OwnNames<'_> {
    OwnNames { data, domains: &[] }
}

#[track_caller]
fn said(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::Message(message) => message,
        other => panic!("no message but {other:?}"),
    }
}

/// What the client gets of an upstream's message.
#[track_caller]
fn relayed(query: &Query, asked: &[u8], message: &[u8]) -> Vec<u8> {
    let response = Response::parse(message, asked).expect("no response");
    said(query.relay(&response, &own(&model()), 0))
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
    completed(chase, &asked, &answered(&asked, "example.org", answer))
}

/// What the client gets of an upstream's message about a target.
#[track_caller]
fn completed(chase: Chase, asked: &[u8], message: &[u8]) -> Vec<u8> {
    let response = Response::parse(message, asked).expect("no response");
    said(chase.complete(Some(&response), &own(&model()), 0))
}

/// Checks a reply that says nothing but SERVFAIL, with the CNAME of `out.z`.
#[track_caller]
fn assert_failed(message: &[u8], what: &str) {
    let mut failed = expected(Vec::new());
    failed[2..4].copy_from_slice(&[0x81, 0x02]);
    assert_eq!(message, failed, "{what}");
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
fn what_an_upstream_denies_is_denied_behind_the_alias() {
    for rcode in [0, 3] {
        // The zone's SOA record says for how long; one of another zone says nothing.
        let (chase, asked) = chase();
        let mut denied = answered(&asked, "example.org", Vec::new());
        denied[3] |= rcode;
        let mut right = expected(Vec::new());
        right[3] |= rcode;
        assert_eq!(completed(chase, &asked, &denied), right);

        let (chase, asked) = self::chase();
        let denied = with_authority(denied, &soa("stranger.org"));
        let denied = with_authority(denied, &soa("org"));
        let message = completed(chase, &asked, &denied);
        assert_eq!([word(&message, 6), word(&message, 8)], [1, 1]);
        assert_eq!(word(&message, 2), 0x8500 | u16::from(rcode));
        let sections = render_sections(&name("out.z"), [&[link()], &[soa("org")], &[]], 0);
        assert!(message.ends_with(&sections.bytes), "{message:02x?}");
    }
}

/// RFC 2308: only a server that knows it may say that there is no such data.
#[test]
fn a_failure_is_never_a_denial() {
    let (silent, asked) = chase();
    assert_failed(&said(silent.complete(None, &own(&model()), 0)), "silence");
    let nothing = answered(&asked, "example.org", Vec::new());
    let with_code = |code: u8| {
        let mut message = nothing.clone();
        message[3] |= code;
        message
    };
    let here = |data| vec![record("example.org", data)];
    let mut denied_data = answered(&asked, "example.org", here(address(1)));
    denied_data[3] |= 3;
    let mut unreadable = answered(&asked, "example.org", here(address(1)));
    let end = unreadable.len();
    unreadable[end - 5] = 3;
    unreadable.pop();
    let referral = record("org", Rdata::Ns(name("ns.org")));
    for (what, message) in [
        ("FORMERR", with_code(1)),
        ("SERVFAIL", with_code(2)),
        ("NOTIMP", with_code(4)),
        ("REFUSED", with_code(5)),
        ("NOTAUTH", with_code(9)),
        (
            "BADVERS",
            with_additional(nothing.clone(), &opt(1232, [1, 0, 0, 0], &[])),
        ),
        ("an address of three octets", unreadable),
        ("an address at a name that doesn't exist", denied_data),
        ("a referral", with_authority(nothing.clone(), &referral)),
    ] {
        let (chase, asked) = chase();
        assert_failed(&completed(chase, &asked, &message), what);
    }
}

#[test]
fn a_loop_of_aliases_is_a_failure() {
    let message = chased(vec![
        record("example.org", Rdata::Cname(name("a.org"))),
        record("a.org", Rdata::Cname(name("example.org"))),
    ]);
    assert_eq!([message[2], message[3]], [0x81, 2]);
}

#[test]
fn a_truncated_target_truncates_the_answer() {
    let (chase, asked) = chase();
    let mut cut = answered(&asked, "example.org", Vec::new());
    cut[2] |= 0x02;
    let message = completed(chase, &asked, &cut);
    assert_eq!(word(&message, 2), 0x8700);
    assert_eq!(word(&message, 6), 1);
}

/// By TCP there is nothing to ask again for.
#[test]
fn a_truncated_answer_is_a_failure_over_tcp() {
    let over_tcp = |text| match respond(&query(text, Rtype::A), &model(), Transport::Tcp, 0) {
        Reply::Chase(chase) => {
            let asked = UpstreamQuery::chasing(&chase).with_id(1);
            let mut cut = answered(&asked, "example.org", Vec::new());
            cut[2] |= 0x02;
            completed(chase, &asked, &cut)
        }
        Reply::Forward(query) => {
            let asked = UpstreamQuery::forwarding(&query).with_id(1);
            let mut cut = answered(&asked, "example.org", Vec::new());
            cut[2] |= 0x02;
            relayed(&query, &asked, &cut)
        }
        other => panic!("{other:?}"),
    };
    for text in ["out.z", "example.org"] {
        assert_eq!(over_tcp(text)[3] & 15, 2, "{text}");
    }
}

#[test]
fn other_types_of_an_alias_are_asked_for_too() {
    let Reply::Chase(chase) = respond(&query("out.z", Rtype::MX), &model(), Transport::Udp, 0)
    else {
        panic!("not chased");
    };
    let asked = UpstreamQuery::chasing(&chase).with_id(1);
    assert_eq!(asked[12..], query("example.org", Rtype::MX)[12..]);
    let exchange = [&[0, 10][..], name("mail.example.org").wire()].concat();
    let exchange = record("example.org", Rdata::Opaque(Rtype::MX, exchange.into()));
    let message = answered(&asked, "example.org", vec![exchange.clone()]);
    let message = completed(chase, &asked, &message);
    let sections = render_sections(&name("out.z"), [&[link(), exchange], &[], &[]], 0);
    assert!(message.ends_with(&sections.bytes), "{message:02x?}");
}

/// The CNAME of `out.z`.
fn link() -> Record {
    Record {
        owner: name("out.z"),
        ttl: 5,
        data: Rdata::Cname(name("example.org")),
    }
}

/// The SOA record of a zone.
fn soa(zone: &str) -> Record {
    let name = name(zone);
    let octets = [name.wire(), name.wire(), &[0; 20]].concat();
    record(zone, Rdata::Opaque(Rtype::SOA, octets.into()))
}

/// Adds a record to the authority section of a message without additional records.
fn with_authority(message: Vec<u8>, record: &Record) -> Vec<u8> {
    let mut message = with_additional(message, &uncompressed(record));
    message[11] -= 1;
    message[9] += 1;
    message
}

/// A record in wire form, without compressed names.
fn uncompressed(record: &Record) -> Vec<u8> {
    let octets = match &record.data {
        Rdata::Opaque(_, octets) => octets.to_vec(),
        Rdata::Ns(host) => host.wire().to_vec(),
        other => panic!("not written here: {other}"),
    };
    [
        record.owner.wire(),
        &record.data.rtype().to_int().to_be_bytes(),
        &[0, 1],
        &record.ttl.to_be_bytes(),
        &(octets.len() as u16).to_be_bytes(),
        &octets,
    ]
    .concat()
}
