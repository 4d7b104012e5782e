//! What [`respond`] does with messages from clients.

use domain::base::iana::{OptRcode, Rcode, Rtype};
use zerohop_zone::{DnssecOkQueries, ModelBuilder, Rdata, Record, ZoneData, render};

use super::{
    ANCOUNT, ARCOUNT, FLAGS, HEADER_LEN, NSCOUNT, QDCOUNT, TRUNCATED, TTL, model, name, opt, query,
    with_additional, with_edns, word,
};
use crate::{
    message::{QueryAction, respond},
    query::Transport,
};

/// The end of the question for `one.z`: a header of 12 bytes, a name of 7, and the type and class.
const QUESTION_END: usize = HEADER_LEN + 7 + 4;
/// An A record of the root: 1.2.3.4.
const RECORD: &[u8] = b"\0\0\x01\0\x01\0\0\0\0\0\x04\x01\x02\x03\x04";

/// The reply to a query that needs no upstream.
#[track_caller]
fn reply(bytes: &[u8], transport: Transport) -> Vec<u8> {
    match respond(bytes, &model(), transport, 0) {
        QueryAction::Send(message) => message,
        other => panic!("not a reply: {other:?}"),
    }
}

/// Checks that a query gets an error reply: the response code, the ID, no AA and no RA, and no
/// answer and authority records.
#[track_caller]
fn check_error(bytes: &[u8], rcode: OptRcode) {
    let message = reply(bytes, Transport::Udp);
    let (low, high) = rcode.to_parts();
    assert_eq!(
        Rcode::masked_from_int(message[3]),
        low,
        "the response code of {message:02x?}"
    );
    // The OPT record is the last 11 bytes. Its extended response code is the sixth byte from the
    // end.
    if high != 0 {
        assert_eq!(
            message[message.len() - 6],
            high,
            "the extended response code of {message:02x?}"
        );
    }
    assert_eq!(message[..2], bytes[..2], "not the query's ID");
    assert_eq!(
        word(&message, FLAGS) & 0x8480,
        0x8000,
        "QR, AA or RA is wrong: {message:02x?}"
    );
    assert_eq!([word(&message, ANCOUNT), word(&message, NSCOUNT)], [0, 0]);
}

#[test]
fn an_answer_has_exactly_these_bytes() {
    let query = with_additional(
        query("oNe.Z", Rtype::A),
        &opt(4096, [0, 0, 0x80, 0], &[0, 10, 0, 1, 9]),
    );
    // The header with QR, AA and RD, the question, the A record, and the OPT record with DO.
    let expected = [
        &[0x12, 0x34, 0x85, 0x00, 0, 1, 0, 1, 0, 0, 0, 1][..],
        b"\x03oNe\x01Z\0\0\x01\0\x01",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01",
        &[0, 0, 0x29, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0],
    ]
    .concat();
    assert_eq!(reply(&query, Transport::Udp), expected);
    assert_eq!(reply(&query, Transport::Tcp), expected);
}

#[test]
fn queries_with_the_do_bit_are_forwarded_if_a_zone_is_signed() {
    for dnssec_ok in [DnssecOkQueries::Passed, DnssecOkQueries::Answered] {
        let mut builder = ModelBuilder::new(7);
        builder.add_zone(name("cluster"), TTL).unwrap();
        // A name outside all zones, as of a hosts file.
        builder.add(Record {
            owner: name("db.corp"),
            ttl: TTL,
            data: Rdata::A([192, 0, 2, 1].into()),
        });
        builder.set_dnssec_ok(dnssec_ok);
        let model = builder.build();
        for (text, flags, is_forwarded) in [
            ("absent.cluster", 0x80, dnssec_ok == DnssecOkQueries::Passed),
            ("absent.cluster", 0, false),
            ("db.corp", 0x80, false),
        ] {
            let query = with_additional(query(text, Rtype::A), &opt(4096, [0, 0, flags, 0], &[]));
            let action = respond(&query, &model, Transport::Udp, 0);
            let forwards = matches!(action, QueryAction::Forward(_));
            assert_eq!(forwards, is_forwarded, "{text} {flags:x} {dnssec_ok:?}");
        }
    }
}

#[test]
fn the_sections_of_a_reply_come_from_the_renderer() {
    let model = model();
    for (text, rtype) in [
        ("one.z", Rtype::A),
        ("two.z", Rtype::A),
        ("srv.z", Rtype::SRV),
        ("one.z", Rtype::AAAA),
        ("one.z", Rtype::ANY),
        ("nope.z", Rtype::A),
        ("z", Rtype::SOA),
    ] {
        for rotation in [0, 1, usize::MAX] {
            let request = query(text, rtype);
            let QueryAction::Send(message) = respond(&request, &model, Transport::Tcp, rotation)
            else {
                panic!("no reply for {text}");
            };
            let answer = model.answer(&name(text), rtype);
            let sections = render(&name(text), &answer, model.zones(), rotation);
            assert_eq!(message[request.len()..], sections.bytes, "{text} {rtype}");
            assert_eq!(
                [
                    word(&message, ANCOUNT),
                    word(&message, NSCOUNT),
                    word(&message, ARCOUNT)
                ],
                [sections.answers, sections.authorities, sections.additionals]
            );
            let rcode = if text == "nope.z" { 3 } else { 0 };
            assert_eq!(word(&message, FLAGS), 0x8500 | rcode, "{text} {rtype}");
        }
    }
}

#[test]
fn a_reply_copies_rd_and_cd_and_clears_other_flags() {
    for (request, answer_flags) in [
        (0x0000, 0x8400), // only QR and AA
        (0x0100, 0x8500), // RD
        (0x0010, 0x8410), // CD
        (0x0020, 0x8400), // AD
        (0x0040, 0x8400), // the reserved bit
        (0x0080, 0x8400), // RA
        (0x0600, 0x8400), // AA and TC
        (0x000f, 0x8400), // a response code
    ] {
        let mut query = query("one.z", Rtype::A);
        query[2..4].copy_from_slice(&u16::to_be_bytes(request));
        assert_eq!(
            word(&reply(&query, Transport::Udp), FLAGS),
            answer_flags,
            "the reply to the flags {request:04x}"
        );
    }
}

#[test]
fn messages_that_are_not_queries_get_no_reply() {
    let mut response = query("one.z", Rtype::A);
    response[2] |= 0x80;
    for bytes in [&[][..], &response[..11], &response] {
        assert!(
            matches!(
                respond(bytes, &model(), Transport::Udp, 0),
                QueryAction::Ignore
            ),
            "{bytes:02x?} is not ignored"
        );
    }
}

#[test]
fn notify_is_refused_and_other_opcodes_are_not_implemented() {
    for opcode in 1..16 {
        let mut query = query("one.z", Rtype::A);
        query[2] |= opcode << 3;
        let notify = 4;
        let rcode = if opcode == notify {
            OptRcode::REFUSED
        } else {
            OptRcode::NOTIMP
        };
        check_error(&query, rcode);
        assert_eq!(reply(&query, Transport::Udp)[2] >> 3 & 0xf, opcode);
    }
}

#[test]
fn wrong_record_counts_are_format_errors() {
    // No question, or one more question or record than any query may have.
    for (offset, count) in [
        (QDCOUNT, 0),
        (QDCOUNT, 2),
        (ANCOUNT, 2),
        (NSCOUNT, 2),
        (ARCOUNT, 3),
    ] {
        let mut query = query("one.z", Rtype::A);
        let low_byte = offset + 1;
        query[low_byte] = count;
        check_error(&query, OptRcode::FORMERR);
    }
    // Two additional records without an OPT record are nonstandard, and the query is answered.
    let mut query = query("one.z", Rtype::A);
    for _ in 0..2 {
        query = with_additional(query, RECORD);
    }
    assert_eq!(word(&reply(&query, Transport::Udp), ANCOUNT), 1);
    // Without its last byte, the last record is malformed.
    query.pop();
    check_error(&query, OptRcode::FORMERR);
}

#[test]
fn records_before_the_additional_section_are_errors() {
    #[track_caller]
    fn check(mut query: Vec<u8>, count_offset: usize, rcode: OptRcode) {
        query[count_offset + 1] += 1;
        query.extend_from_slice(RECORD);
        check_error(&query, rcode);
    }
    check(query("one.z", Rtype::A), ANCOUNT, OptRcode::FORMERR);
    check(query("one.z", Rtype::A), NSCOUNT, OptRcode::FORMERR);
    check(query("z", Rtype::IXFR), ANCOUNT, OptRcode::FORMERR);
    // RFC 1995 section 3, RFC 1996 section 3.7: these are well-formed, and the resolver refuses
    // their type or opcode.
    check(query("z", Rtype::IXFR), NSCOUNT, OptRcode::REFUSED);
    let mut notify = query("z", Rtype::SOA);
    notify[2] |= 4 << 3;
    check(notify, ANCOUNT, OptRcode::REFUSED);
}

#[test]
fn malformed_questions_are_format_errors() {
    let good = query("one.z", Rtype::A);
    for length in 12..good.len() {
        check_error(&good[..length], OptRcode::FORMERR);
    }
    for (label, byte) in [
        ("a pointer", 0xc0),
        ("label type 01", 0x40),
        ("label type 10", 0x80),
    ] {
        let mut query = good.clone();
        query[12] = byte;
        assert_eq!(
            Rcode::masked_from_int(reply(&query, Transport::Udp)[3]),
            Rcode::FORMERR,
            "{label}"
        );
    }
    // A pointer to the first byte of QDCOUNT, which is zero like the root name.
    let mut compressed = query("", Rtype::A);
    compressed.splice(12..13, [0xc0, 4]);
    check_error(&compressed, OptRcode::FORMERR);
    // The name is 257 bytes long, and the limit is 255 bytes.
    let long: String = "a.".repeat(128);
    check_error(&query(&long, Rtype::A), OptRcode::FORMERR);
}

#[test]
fn bytes_after_the_message_are_a_format_error() {
    for message in [
        query("one.z", Rtype::A),
        with_edns(query("one.z", Rtype::A), 1232),
        query("example.org", Rtype::A),
    ] {
        for length in [1, 20] {
            let longer = [&message[..], &vec![0; length]].concat();
            check_error(&longer, OptRcode::FORMERR);
        }
    }
}

#[test]
fn other_classes_and_transfers_are_refused() {
    for class in [0, 2, 3, 4, 254, 255] {
        let mut query = query("one.z", Rtype::A);
        *query.last_mut().unwrap() = class;
        check_error(&query, OptRcode::REFUSED);
    }
    check_error(&query("z", Rtype::AXFR), OptRcode::REFUSED);
    check_error(&query("z", Rtype::IXFR), OptRcode::REFUSED);
    check_error(&query("elsewhere.org", Rtype::AXFR), OptRcode::REFUSED);
}

#[test]
fn misplaced_opt_records_and_other_edns_versions_are_errors() {
    let plain = || query("one.z", Rtype::A);
    let versioned = with_additional(plain(), &opt(1232, [0, 1, 0, 0], &[]));
    check_error(&versioned, OptRcode::BADVERS);
    // The OPT record has version 0 and no options, and the reply has no answer.
    assert_eq!(
        reply(&versioned, Transport::Udp)[QUESTION_END..],
        [0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0]
    );

    // The owner of the OPT record is `a`, not the root, because the root's zero follows the label.
    let mut named = vec![1, b'a'];
    named.extend_from_slice(&opt(1232, [0; 4], &[]));
    check_error(&with_additional(plain(), &named), OptRcode::FORMERR);

    let mut misplaced = with_edns(plain(), 1232);
    // The OPT record is counted as an authority record.
    misplaced.swap(NSCOUNT + 1, ARCOUNT + 1);
    check_error(&misplaced, OptRcode::FORMERR);
    // The message ends one byte before the end of the OPT record.
    let mut short = with_additional(plain(), &opt(1232, [0; 4], &[0, 10, 0, 1, 9]));
    short.pop();
    check_error(&short, OptRcode::FORMERR);
}

/// RFC 6891 sections 6.1.1, 6.1.2 and 7.
#[test]
fn malformed_opt_records_get_formerr_with_an_opt_record() {
    let plain = || query("one.z", Rtype::A);
    let with_options = |options: &[u8]| with_additional(plain(), &opt(1232, [0; 4], options));
    for (description, malformed) in [
        ("one byte", with_options(&[0xff; 1])),
        ("three bytes", with_options(&[0xff; 3])),
        (
            "an option that is too long",
            with_options(&[0xfd, 0xe9, 0x00, 0xc8, b'a', b'b']),
        ),
        ("a byte after an option", with_options(&[0, 10, 0, 1, 9, 0])),
        (
            "a second option that is too long",
            with_options(&[0, 10, 0, 0, 0, 10, 0, 1]),
        ),
        ("two OPT records", with_edns(with_edns(plain(), 1232), 1232)),
    ] {
        check_error(&malformed, OptRcode::FORMERR);
        let message = reply(&malformed, Transport::Udp);
        assert_eq!(
            message[QUESTION_END..],
            opt(1232, [0; 4], &[]),
            "{description}"
        );
    }
    // Well-formed options are ignored.
    for options in [
        &[][..],
        &[0, 10, 0, 0],
        &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 10, 0, 1, 9, 0xfd, 0xe9, 0, 2, 1, 2, 0, 12, 0, 0],
    ] {
        let message = reply(&with_options(options), Transport::Udp);
        assert_eq!(word(&message, ANCOUNT), 1, "the answers to {options:02x?}");
    }
    // The options of another EDNS version are not parsed.
    let versioned = with_additional(plain(), &opt(1232, [0, 1, 0, 0], &[0xff; 3]));
    check_error(&versioned, OptRcode::BADVERS);
}

#[test]
fn answers_are_truncated_to_the_limit_of_transport_and_edns() {
    // Each of 60 addresses takes 16 bytes, after 12 bytes of header and 12 of question.
    #[track_caller]
    fn check(query: &[u8], transport: Transport, limit: usize, answers: u16) {
        let message = reply(query, transport);
        assert!(
            message.len() <= limit,
            "{} bytes, over {limit}",
            message.len()
        );
        assert_eq!(word(&message, ANCOUNT), answers, "in {limit} bytes");
        assert_eq!(word(&message, FLAGS) & TRUNCATED != 0, answers < 60);
        let opt = usize::from(word(&message, ARCOUNT)) * 11;
        assert_eq!(message.len(), 24 + usize::from(answers) * 16 + opt);
    }
    let plain = query("many.z", Rtype::A);
    check(&plain, Transport::Udp, 512, 30);
    check(&plain, Transport::Tcp, 65535, 60);
    for (size, limit, answers) in [
        (0, 512, 29),
        (511, 512, 29),
        (512, 512, 29),
        (513, 513, 29),
        (600, 600, 35),
        (1232, 1232, 60),
        (4096, 1232, 60),
        (65535, 1232, 60),
    ] {
        check(
            &with_edns(plain.clone(), size),
            Transport::Udp,
            limit,
            answers,
        );
    }
    // 60 addresses with the OPT record.
    assert_eq!(
        reply(&with_edns(plain.clone(), 1232), Transport::Udp).len(),
        995
    );
    check(&with_edns(plain, 512), Transport::Tcp, 65535, 60);
}

#[test]
fn tcp_answers_fit_the_length_prefix() {
    // Each of 5000 addresses takes 16 bytes, so all of them are longer than 65,535 bytes.
    let mut builder = ModelBuilder::new(7);
    builder.add_zone(name("z"), TTL).unwrap();
    for number in 0..5000_u32 {
        builder.add(Record {
            owner: name("huge.z"),
            ttl: TTL,
            data: Rdata::A(number.into()),
        });
    }
    let model = builder.build();
    let plain = query("huge.z", Rtype::A);
    for (query, opt) in [(plain.clone(), 0), (with_edns(plain, 1232), 11)] {
        let QueryAction::Send(message) = respond(&query, &model, Transport::Tcp, 0) else {
            panic!("the query gets no reply at once");
        };
        let answers = (65535 - 24 - opt) / 16;
        assert_eq!(usize::from(word(&message, ANCOUNT)), answers);
        assert_eq!(message.len(), 24 + 16 * answers + opt);
        assert_eq!(word(&message, FLAGS) & TRUNCATED, TRUNCATED);
        assert_eq!(usize::from(word(&message, ARCOUNT)), opt / 11);
    }
}

#[test]
fn removed_additional_records_do_not_set_tc() {
    let query = query("srv.z", Rtype::SRV);
    let whole = reply(&query, Transport::Tcp);
    assert_eq!([word(&whole, ANCOUNT), word(&whole, ARCOUNT)], [14, 14]);
    assert!(
        whole.len() > 512,
        "{} bytes fit a reply over UDP",
        whole.len()
    );
    let truncated = reply(&query, Transport::Udp);
    assert_eq!(
        [word(&truncated, ANCOUNT), word(&truncated, ARCOUNT)],
        [14, 0]
    );
    assert_eq!(word(&truncated, FLAGS), 0x8500);
    assert_eq!(truncated[12..], whole[12..truncated.len()]);
}

#[test]
fn outside_names_and_aliases_need_an_upstream() {
    let model = model();
    assert!(matches!(
        respond(&query("example.org", Rtype::A), &model, Transport::Udp, 0),
        QueryAction::Forward(_)
    ));
    let QueryAction::Chase(chase) = respond(&query("out.z", Rtype::A), &model, Transport::Udp, 0)
    else {
        panic!("the alias is not chased");
    };
    assert_eq!(chase.target, name("example.org"));
    let [link] = &chase.chain[..] else {
        panic!("{} CNAMEs instead of one", chase.chain.len());
    };
    assert_eq!(link.ttl, TTL);
    assert_eq!(link.data, Rdata::Cname(name("example.org")));
    let cname = reply(&query("out.z", Rtype::CNAME), Transport::Udp);
    assert_eq!(word(&cname, ANCOUNT), 1);
}
