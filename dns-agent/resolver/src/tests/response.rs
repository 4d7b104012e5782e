//! Responses of upstreams, and the replies that clients get. A rotation of 0, the last argument of
//! several functions, keeps the order of addresses.

use domain::base::iana::Rtype;
use zerohop_zone::{Answer, Rdata, Record, ZoneData, render, render_sections};

use super::{
    ANCOUNT, ARCOUNT, FLAGS, HEADER_LEN, NSCOUNT, TRUNCATED, address, model, name, opt, query,
    with_additional, with_edns, word,
};
use crate::{
    bailiwick::LocalNames,
    message::{Chase, QueryAction, respond},
    query::{Query, Transport},
    response::{CaseCheck, Reply, Response, UpstreamQuery},
};

/// The end of the question's name `example.org`, which takes 13 bytes in wire format.
const NAME_END: usize = HEADER_LEN + 13;
/// The end of that question, after two bytes of type and two of class.
const QUESTION_END: usize = NAME_END + 4;

/// Parses a client's query for an outside name. Returns the query, and the message that an upstream
/// gets, with the ID 0xabcd.
fn forward_query(bytes: &[u8]) -> (Query, Vec<u8>) {
    let QueryAction::Forward(query) = respond(bytes, &model(), Transport::Udp, 0) else {
        panic!("the query is not forwarded");
    };
    let upstream_query = UpstreamQuery::forwarding(&query).with_id(0xabcd);
    (query, upstream_query)
}

/// An upstream's response with these records. `text` is the name in the question of
/// `upstream_query`.
fn response_with(upstream_query: &[u8], text: &str, answer: Vec<Record>) -> Vec<u8> {
    let answer = Answer::Data {
        answer,
        additional: Vec::new(),
    };
    let sections = render(&name(text), &answer, &[], 0);
    let question_end = HEADER_LEN + name(text).wire().len() + 4;
    // The ID and the question are those of the query. QR, RD and RA are set.
    let mut message = upstream_query[..question_end].to_vec();
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
fn an_upstream_gets_only_the_question_and_relevant_flags() {
    let plain = query("Example.org", Rtype::A);
    let (_, upstream_query) = forward_query(&plain);
    assert_eq!(upstream_query[..2], [0xab, 0xcd]);
    assert_eq!(word(&upstream_query, FLAGS), 0x0120); // RD and, for all clients, AD
    assert_eq!(upstream_query[4..], plain[4..]);

    // DO and a COOKIE option
    let mut extended = with_additional(
        plain.clone(),
        &opt(4096, [0, 0, 0x80, 0], &[0, 10, 0, 1, 9]),
    );
    extended[3] |= 0x10; // CD
    let (_, upstream_query) = forward_query(&extended);
    assert_eq!(word(&upstream_query, FLAGS), 0x0130); // RD, AD and CD
    assert_eq!(upstream_query[12..plain.len()], plain[12..]);
    assert_eq!(
        upstream_query[plain.len()..],
        opt(1232, [0, 0, 0x80, 0], &[])
    );
}

#[test]
fn only_a_matching_response_is_accepted() {
    let (_, upstream_query) = forward_query(&query("example.org", Rtype::A));
    let good = response_with(
        &upstream_query,
        "example.org",
        vec![record("example.org", address(1))],
    );
    assert!(
        Response::parse(&good, &upstream_query).is_some(),
        "the unchanged response is refused"
    );

    let mut recased = good.clone();
    recased[13] = b'E';
    assert!(
        Response::parse(&recased, &upstream_query).is_some(),
        "a name in another case is refused"
    );

    // Byte 13 is the first letter of the name. Bytes 26 and 28 are the low bytes of type and class.
    let changes: [(&str, usize, u8); 7] = [
        ("the ID", 0, 0xff),
        ("QR", 2, 0x01),
        ("the opcode", 2, 0xa1),
        ("QDCOUNT", 5, 0),
        ("the name", 13, b'f'),
        ("the type", 26, 28),
        ("the class", 28, 3),
    ];
    for (description, offset, byte) in changes {
        let mut changed = good.clone();
        assert_ne!(changed[offset], byte, "{description} is not changed");
        changed[offset] = byte;
        assert!(
            Response::parse(&changed, &upstream_query).is_none(),
            "{description} is not checked"
        );
    }
    for length in 0..good.len() {
        assert!(
            Response::parse(&good[..length], &upstream_query).is_none(),
            "accepted when cut to {length} bytes"
        );
    }
}

/// What is asked next depends on the kind of message.
#[test]
fn a_message_from_an_upstream_is_classified() {
    let text = "example.org";
    let (_, upstream_query) = forward_query(&query(text, Rtype::A));
    let good = response_with(&upstream_query, text, vec![record(text, address(1))]);
    let kind = |change: &dyn Fn(&mut Vec<u8>), case| {
        let mut message = good.clone();
        change(&mut message);
        match Reply::read_datagram(&message, &upstream_query, case) {
            Reply::Complete(response) => response.rcode().to_string(),
            Reply::Truncated(_) => "truncated".to_owned(),
            Reply::Unreadable => "unreadable".to_owned(),
            Reply::TooLarge => "too large".to_owned(),
            Reply::NearMiss => "near miss".to_owned(),
        }
    };
    let set_rcode = |message: &mut Vec<u8>, rcode: u8| message[3] = message[3] & 0xf0 | rcode;
    let header = |rcode: u8| {
        move |message: &mut Vec<u8>| {
            message.truncate(HEADER_LEN);
            message[5] = 0;
            set_rcode(message, rcode);
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, Change<'_>, &str); 17] = [
        ("unchanged", &|_| {}, "NOERROR"),
        ("NXDOMAIN", &|it| set_rcode(it, 3), "NXDOMAIN"),
        ("SERVFAIL", &|it| set_rcode(it, 2), "SERVFAIL"),
        ("TC", &|it| it[2] |= 2, "truncated"),
        ("4,096 bytes", &|it| it.resize(4096, 0), "NOERROR"),
        ("4,097 bytes", &|it| it.resize(4097, 0), "too large"),
        ("a byte less", &|it| it.truncate(it.len() - 1), "unreadable"),
        ("header, NOERROR", &header(0), "unreadable"),
        ("header, FORMERR", &header(1), "FORMERR"),
        ("header, NXDOMAIN", &header(3), "unreadable"),
        ("header, REFUSED", &header(5), "REFUSED"),
        (
            "header with QDCOUNT",
            &|it| it.truncate(HEADER_LEN),
            "unreadable",
        ),
        ("another ID", &|it| it[1] ^= 1, "near miss"),
        ("another name", &|it| it[13] = b'f', "near miss"),
        (
            "too large, another ID",
            &|it| (it[0], _) = (!it[0], it.resize(4097, 0)),
            "near miss",
        ),
        ("half a header", &|it| it.truncate(6), "near miss"),
        ("nothing", &Vec::clear, "near miss"),
    ];
    for (description, change, expected) in cases {
        assert_eq!(kind(change, CaseCheck::Ignored), expected, "{description}");
    }
    let upper: Change<'_> = &|it| it[13] = b'E';
    assert_eq!(kind(upper, CaseCheck::Ignored), "NOERROR");
    assert_eq!(kind(upper, CaseCheck::Exact), "near miss");
}

#[test]
fn a_relayed_reply_has_the_clients_id_and_question_and_the_resolvers_opt_record() {
    let text = "example.org";
    for client in [
        query("ExAmple.org", Rtype::A),
        with_edns(query("ExAmple.org", Rtype::A), 4096),
    ] {
        let (query, upstream_query) = forward_query(&client);
        let mut bare = response_with(&upstream_query, text, vec![record(text, address(1))]);
        // Some upstreams don't preserve the casing of the name.
        bare[HEADER_LEN..NAME_END].make_ascii_lowercase();
        let with_opt = with_additional(bare.clone(), &opt(4096, [0; 4], &[0, 10, 0, 0]));
        // Records after the OPT record are removed with it.
        let with_more = with_additional(with_opt.clone(), &opt(1, [0; 4], &[]));
        for message in [bare.clone(), with_opt, with_more] {
            let reply = relay_message(&query, &upstream_query, &message);
            let end = bare.len();
            assert_eq!(reply[..2], client[..2]);
            assert_eq!(reply[2..10], bare[2..10]);
            assert_eq!(
                reply[HEADER_LEN..QUESTION_END],
                client[HEADER_LEN..QUESTION_END]
            );
            assert_eq!(reply[QUESTION_END..end], bare[QUESTION_END..]);
            // Only a client that sent an OPT record gets one.
            let expected_opt = if client.len() > QUESTION_END {
                opt(1232, [0; 4], &[])
            } else {
                Vec::new()
            };
            assert_eq!(reply[end..], expected_opt);
            // An OPT record without options has 11 bytes.
            assert_eq!(usize::from(word(&reply, ARCOUNT)), expected_opt.len() / 11);
        }
    }
}

#[test]
fn a_long_answer_is_truncated_for_the_client() {
    let (query, upstream_query) = forward_query(&query("example.org", Rtype::A));
    let records = (0..50)
        .map(|last| record("example.org", address(last)))
        .collect();
    let response = Response::parse(
        &response_with(&upstream_query, "example.org", records),
        &upstream_query,
    )
    .unwrap();
    assert!(!response.is_truncated());
    let reply = sent_message(query.relay(&response, &local_names(&model()), 0));
    // Each of the 30 addresses that fit 512 bytes takes 16 bytes.
    assert_eq!(reply.len(), QUESTION_END + 30 * 16);
    assert_eq!(word(&reply, ANCOUNT), 30);
    assert_eq!(word(&reply, FLAGS) & TRUNCATED, TRUNCATED);
}

/// The names in the zones of `data`. No cluster domain is configured.
fn local_names(data: &dyn ZoneData) -> LocalNames<'_> {
    LocalNames { data, domains: &[] }
}

#[track_caller]
fn sent_message(reply: QueryAction) -> Vec<u8> {
    match reply {
        QueryAction::Send(message) => message,
        other => panic!("not a reply: {other:?}"),
    }
}

/// The reply that the client gets to a forwarded query when an upstream sends this message.
#[track_caller]
fn relay_message(query: &Query, upstream_query: &[u8], message: &[u8]) -> Vec<u8> {
    let response = Response::parse(message, upstream_query)
        .expect("the message is not accepted as a response");
    sent_message(query.relay(&response, &local_names(&model()), 0))
}

/// The chase of `out.z`, an alias of `example.org`, and its query to an upstream.
fn start_chase() -> (Chase, Vec<u8>) {
    let QueryAction::Chase(chase) = respond(&query("out.z", Rtype::A), &model(), Transport::Udp, 0)
    else {
        panic!("the alias is not chased");
    };
    let upstream_query = UpstreamQuery::chasing(&chase).with_id(1);
    (chase, upstream_query)
}

/// The reply that the client gets to `out.z A` when an upstream responds with these records.
fn chase_reply(answer: Vec<Record>) -> Vec<u8> {
    let (chase, upstream_query) = start_chase();
    complete_chase(
        chase,
        &upstream_query,
        &response_with(&upstream_query, "example.org", answer),
    )
}

/// The reply that the client gets to a chased query when an upstream sends this message.
#[track_caller]
fn complete_chase(chase: Chase, upstream_query: &[u8], message: &[u8]) -> Vec<u8> {
    let response = Response::parse(message, upstream_query)
        .expect("the message is not accepted as a response");
    sent_message(chase.complete(Some(&response), &local_names(&model()), 0))
}

/// Checks a SERVFAIL reply that has only the CNAME of `out.z`.
#[track_caller]
fn assert_failed(message: &[u8], description: &str) {
    let mut failed = alias_reply(Vec::new());
    failed[2..4].copy_from_slice(&[0x81, 0x02]); // QR, RD, SERVFAIL
    assert_eq!(
        message, failed,
        "{description}: not SERVFAIL with only the CNAME"
    );
}

/// The expected reply to `out.z A` with these records after the alias.
fn alias_reply(mut records: Vec<Record>) -> Vec<u8> {
    records.insert(0, alias());
    let mut message = response_with(&query("out.z", Rtype::A), "out.z", records);
    // QR, AA and RD. The resolver doesn't set RA for a local alias.
    message[2..4].copy_from_slice(&[0x85, 0x00]);
    message
}

#[test]
fn the_records_of_the_target_follow_the_alias() {
    let (_, upstream_query) = start_chase();
    assert_eq!(upstream_query[2..], query("example.org", Rtype::A)[2..]);

    let found = vec![record("example.org", address(1))];
    assert_eq!(chase_reply(found.clone()), alias_reply(found));

    let link = record("example.org", Rdata::Cname(name("www.example.org")));
    let end = record("www.example.org", address(1));
    let unrelated = record("unrelated.org", address(9));
    assert_eq!(
        chase_reply(vec![end.clone(), unrelated, link.clone()]),
        alias_reply(vec![link, end])
    );
}

#[test]
fn a_negative_answer_for_the_target_is_relayed_with_the_alias() {
    for rcode in [0, 3] {
        let (chase, upstream_query) = start_chase();
        let mut denied = response_with(&upstream_query, "example.org", Vec::new());
        denied[3] |= rcode;
        let mut expected = alias_reply(Vec::new());
        expected[3] |= rcode;
        assert_eq!(complete_chase(chase, &upstream_query, &denied), expected);

        // The SOA record of the target's zone is kept, and one of another zone is dropped.
        let (chase, upstream_query) = start_chase();
        let denied = with_authority(denied, &soa("unrelated.org"));
        let denied = with_authority(denied, &soa("org"));
        let message = complete_chase(chase, &upstream_query, &denied);
        assert_eq!([word(&message, ANCOUNT), word(&message, NSCOUNT)], [1, 1]);
        // QR, AA and RD
        assert_eq!(word(&message, FLAGS), 0x8500 | u16::from(rcode));
        let sections = render_sections(&name("out.z"), [&[alias()], &[soa("org")], &[]], 0);
        assert!(message.ends_with(&sections.bytes), "{message:02x?}");
    }
}

/// RFC 2308: only a response that proves the absence of data may become a negative answer.
#[test]
fn an_upstream_failure_is_never_a_negative_answer() {
    let (unanswered, upstream_query) = start_chase();
    assert_failed(
        &sent_message(unanswered.complete(None, &local_names(&model()), 0)),
        "no response",
    );
    let nothing = response_with(&upstream_query, "example.org", Vec::new());
    let with_code = |code: u8| {
        let mut message = nothing.clone();
        message[3] |= code;
        message
    };
    let with_data = |data| vec![record("example.org", data)];
    let mut denied_data = response_with(&upstream_query, "example.org", with_data(address(1)));
    denied_data[3] |= 3;
    let mut unreadable = response_with(&upstream_query, "example.org", with_data(address(1)));
    let end = unreadable.len();
    let rdlength_low_byte = end - 5;
    unreadable[rdlength_low_byte] = 3;
    unreadable.pop();
    let referral = record("org", Rdata::Ns(name("ns.org")));
    for (description, message) in [
        ("FORMERR", with_code(1)),
        ("SERVFAIL", with_code(2)),
        ("NOTIMP", with_code(4)),
        ("REFUSED", with_code(5)),
        ("NOTAUTH", with_code(9)),
        (
            "BADVERS",
            with_additional(nothing.clone(), &opt(1232, [1, 0, 0, 0], &[])),
        ),
        ("an address of three bytes", unreadable),
        ("NXDOMAIN with an address", denied_data),
        ("a referral", with_authority(nothing.clone(), &referral)),
    ] {
        let (chase, upstream_query) = start_chase();
        assert_failed(
            &complete_chase(chase, &upstream_query, &message),
            description,
        );
    }
}

#[test]
fn a_loop_of_aliases_is_a_failure() {
    let message = chase_reply(vec![
        record("example.org", Rdata::Cname(name("a.org"))),
        record("a.org", Rdata::Cname(name("example.org"))),
    ]);
    assert_eq!([message[2], message[3]], [0x81, 2]); // QR, RD, SERVFAIL
}

#[test]
fn a_truncated_response_for_the_target_sets_tc() {
    let (chase, upstream_query) = start_chase();
    let mut truncated = response_with(&upstream_query, "example.org", Vec::new());
    truncated[2] |= 0x02;
    let message = complete_chase(chase, &upstream_query, &truncated);
    assert_eq!(word(&message, FLAGS), 0x8700); // QR, AA, TC, RD
    assert_eq!(word(&message, ANCOUNT), 1);
}

/// A TCP client can't retry over a transport with a larger limit.
#[test]
fn a_truncated_response_is_a_failure_for_a_tcp_client() {
    let over_tcp = |text| match respond(&query(text, Rtype::A), &model(), Transport::Tcp, 0) {
        QueryAction::Chase(chase) => {
            let upstream_query = UpstreamQuery::chasing(&chase).with_id(1);
            let mut truncated = response_with(&upstream_query, "example.org", Vec::new());
            truncated[2] |= 0x02;
            complete_chase(chase, &upstream_query, &truncated)
        }
        QueryAction::Forward(query) => {
            let upstream_query = UpstreamQuery::forwarding(&query).with_id(1);
            let mut truncated = response_with(&upstream_query, "example.org", Vec::new());
            truncated[2] |= 0x02;
            relay_message(&query, &upstream_query, &truncated)
        }
        other => panic!("the query needs no upstream: {other:?}"),
    };
    for text in ["out.z", "example.org"] {
        let rcode = over_tcp(text)[3] & 15;
        assert_eq!(rcode, 2, "{text} does not get SERVFAIL");
    }
}

#[test]
fn the_target_of_an_alias_is_queried_for_the_clients_type() {
    let QueryAction::Chase(chase) =
        respond(&query("out.z", Rtype::MX), &model(), Transport::Udp, 0)
    else {
        panic!("the alias is not chased");
    };
    let upstream_query = UpstreamQuery::chasing(&chase).with_id(1);
    assert_eq!(upstream_query[12..], query("example.org", Rtype::MX)[12..]);
    let mx_data = [&[0, 10][..], name("mail.example.org").wire()].concat();
    let mx = record("example.org", Rdata::Opaque(Rtype::MX, mx_data.into()));
    let message = response_with(&upstream_query, "example.org", vec![mx.clone()]);
    let message = complete_chase(chase, &upstream_query, &message);
    let sections = render_sections(&name("out.z"), [&[alias(), mx], &[], &[]], 0);
    assert!(message.ends_with(&sections.bytes), "{message:02x?}");
}

/// The CNAME record of `out.z`.
fn alias() -> Record {
    Record {
        owner: name("out.z"),
        ttl: 5,
        data: Rdata::Cname(name("example.org")),
    }
}

/// The SOA record of a zone.
fn soa(zone: &str) -> Record {
    let name = name(zone);
    let bytes = [name.wire(), name.wire(), &[0; 20]].concat();
    record(zone, Rdata::Opaque(Rtype::SOA, bytes.into()))
}

/// Adds a record to the authority section of a message without additional records.
fn with_authority(message: Vec<u8>, record: &Record) -> Vec<u8> {
    let mut message = with_additional(message, &uncompressed(record));
    message[ARCOUNT + 1] -= 1;
    message[NSCOUNT + 1] += 1;
    message
}

/// A record in wire format, without compressed names.
fn uncompressed(record: &Record) -> Vec<u8> {
    let bytes = match &record.data {
        Rdata::Opaque(_, bytes) => bytes.to_vec(),
        Rdata::Ns(host) => host.wire().to_vec(),
        other => panic!("unsupported type: {other}"),
    };
    [
        record.owner.wire(),
        &record.data.rtype().to_int().to_be_bytes(),
        &[0, 1],
        &record.ttl.to_be_bytes(),
        &(bytes.len() as u16).to_be_bytes(),
        &bytes,
    ]
    .concat()
}
