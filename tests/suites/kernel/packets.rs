//! Runs the loaded programs on one packet at a time, by BPF_PROG_TEST_RUN.

use aya::programs::{TestRun as _, TestRunOptions};
use dns_common::outcomes::{Hook, Outcome};
use zerohop_contract::{
    message::type_number,
    packet::{self, QueryPacket},
};
use zerohop_datapath::program::HookProgram;
use zerohop_zone::{Name, Rtype, ZoneData, render};

use super::fixture::{KernelFixture, LONG_LEASE_JIFFIES, TC_PASS, TestRunResult};

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const TXT: u16 = 16;
const AAAA: u16 = 28;
pub(super) const SRV: u16 = 33;

#[test]
fn every_program_loads() {
    let mut fixture = KernelFixture::shared();
    for program in HookProgram::ALL {
        let frame = KernelFixture::query("web.shop.svc.cluster.local", A).frame();
        let ended = fixture.run_program(program, &frame);
        assert!(
            matches!(ended, TestRunResult::Answered(Outcome::Data, _)),
            "{program:?}: {ended:?}"
        );
    }
}

/// Questions that are answered with data: a name and types.
const DATA: &str = "
    web.shop.svc.cluster.local                  A SRV
    WeB.shoP.svc.CLUSTER.local                  A
    cart.shop.svc.cluster.local                 A AAAA
    Cart.SHOP.svc.cluster.local                 AAAA
    odd1.shop.svc.cluster.local                 A
    odd22.shop.svc.cluster.local                A
    db.shop.svc.cluster.local                   A AAAA
    1.1.96.10.in-addr.arpa                      PTR
    9.9.244.10.in-addr.arpa                     PTR
    cluster.local                               SOA
    away.shop.svc.cluster.local                 CNAME
    near.shop.svc.cluster.local                 CNAME A
    near2.shop.svc.cluster.local                A
    herd.shop.svc.cluster.local                 A AAAA
    toaddress.shop.svc.cluster.local            A
    10-244-0-9.shop.pod.cluster.local           A
    0-0-0-0.shop.pod.cluster.local              A
    255-255-255-255.SHOP.pod.cluster.local      A
    east.prefer._zone.db.shop.svc.cluster.local A AAAA
";

/// Questions for existing names without records of the type, or for aliases that lead to no such
/// record: a name and types.
const NO_DATA: &str = "
    near.shop.svc.cluster.local                 AAAA
    tonothing.shop.svc.cluster.local            A
    loop.shop.svc.cluster.local                 A
    10-244-0-9.shop.pod.cluster.local           AAAA TXT
    east.pin._zone.db.shop.svc.cluster.local    A
    east.prefer._zone.db.shop.svc.cluster.local SRV
    west.prefer._zone.db.shop.svc.cluster.local AAAA
    prefer._zone.db.shop.svc.cluster.local      A
    web.shop.svc.cluster.local                  AAAA MX HTTPS
    odd22.shop.svc.cluster.local                AAAA
    shop.svc.cluster.local                      A
    svc.cluster.local                           TXT
    cluster.local                               A
    shop.pod.cluster.local                      A
    1.1.96.10.in-addr.arpa                      A
    1.96.10.in-addr.arpa                        PTR
";

/// Questions for names that do not exist: a name and types.
const NX_DOMAIN: &str = "
    below.near.shop.svc.cluster.local          A
    256-1-1-1.shop.pod.cluster.local           A
    1-1-1-1000.shop.pod.cluster.local          A
    01-1-1-1.shop.pod.cluster.local            A
    1-1-1-00.shop.pod.cluster.local            A
    1-1-1.shop.pod.cluster.local               A
    1-1-1-.shop.pod.cluster.local              A
    -1-1-1.shop.pod.cluster.local              A
    1-1-1-1-1.shop.pod.cluster.local           A
    a-b-c-d.shop.pod.cluster.local             A
    www.shop.pod.cluster.local                 A
    cafe.shop.pod.cluster.local                A
    1-1-1-1.1-1-1-1.shop.pod.cluster.local     A
    a.east.pin._zone.db.shop.svc.cluster.local A
    absent.shop.svc.cluster.local              A
    ABSENT.shop.svc.cluster.Local              AAAA
    www.example.com.shop.svc.cluster.local     A
    www.example.com.svc.cluster.local          A
    www.example.com.cluster.local              A
    x.cluster.local                            TXT
    a.b.shop.pod.cluster.local                 A
    2.1.96.10.in-addr.arpa                     PTR
";

/// The questions of the three tables above, each with its outcome.
fn answered_questions() -> Vec<(&'static str, u16, Outcome)> {
    let tables = [
        (DATA, Outcome::Data),
        (NO_DATA, Outcome::NoData),
        (NX_DOMAIN, Outcome::NxDomain),
    ];
    let mut questions = Vec::new();
    for (table, outcome) in tables {
        for line in table.lines() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else {
                continue;
            };
            questions.extend(words.map(|word| (name, type_number(word).unwrap(), outcome)));
        }
    }
    questions
}

#[test]
fn every_answer_equals_the_rendered_message() {
    let mut fixture = KernelFixture::shared();
    for (name, rtype, outcome) in answered_questions() {
        for query in [
            KernelFixture::query(name, rtype),
            KernelFixture::query6(name, rtype),
        ] {
            // The arguments of `with_edns` are payload size, DO bit and options.
            for query in [
                query.clone(),
                query.clone().with_edns(1232, 0, &[]),
                query.clone().with_edns(4096, 1, &[]),
                query
                    .clone()
                    // A cookie (RFC 7873), and padding (RFC 7830).
                    .with_edns(1232, 0, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
                query.clone().with_edns(1232, 1, &[0, 12, 0, 1, 0]),
                // RD, AD and CD; no flag.
                QueryPacket {
                    bits: 0x0130,
                    ..query.clone()
                },
                QueryPacket { bits: 0, ..query },
            ] {
                for program in HookProgram::ALL {
                    check_answer(&mut fixture, program, &query, outcome);
                }
            }
        }
    }
}

/// Checks that the answer is byte for byte the expected message, in some rotation.
fn check_answer(
    fixture: &mut KernelFixture,
    program: HookProgram,
    query: &QueryPacket,
    outcome: Outcome,
) {
    let frame = query.frame();
    let what = format!("{program:?} on {query:?}");
    let (ended, out) = match fixture.run_program(program, &frame) {
        TestRunResult::Answered(ended, out) => (ended, out),
        TestRunResult::Passed(ended) => panic!("{what} passed: {ended:?}"),
    };
    assert_eq!(ended, outcome, "{what}");
    let message = match packet::parse_reply(&frame, &out) {
        Ok(message) => message,
        Err(error) => panic!("{what}: {error}\n{out:02x?}"),
    };
    // No answer to `answered_questions` has more than four addresses.
    let possible = (0..4).map(|rotation| expected(fixture, query, outcome, rotation));
    assert!(
        possible.clone().any(|expected| expected == message),
        "{what}:\n{message:02x?}\nis none of\n{:02x?}",
        possible.collect::<Vec<_>>()
    );
}

/// The reply that the user plane would render, with this rotation of addresses.
fn expected(
    fixture: &KernelFixture,
    query: &QueryPacket,
    outcome: Outcome,
    rotation: usize,
) -> Vec<u8> {
    let name = Name::from_wire(&query.name).unwrap();
    let model = &fixture.model;
    let answer = model.answer(&name, Rtype::from_int(query.rtype));
    let sections = render(&name, &answer, model.zones(), rotation);
    let rcode = if outcome == Outcome::NxDomain { 3 } else { 0 };
    let additionals = sections.additionals + u16::from(query.edns.is_some());
    let mut message = Vec::new();
    for number in [
        query.id,
        // QR and AA are set, RD and CD copied.
        0x8400 | query.bits & 0x0110 | rcode,
        1,
        sections.answers,
        sections.authorities,
        additionals,
    ] {
        message.extend(number.to_be_bytes());
    }
    message.extend(&query.name);
    message.extend(query.rtype.to_be_bytes());
    message.extend(query.class.to_be_bytes());
    message.extend(&sections.bytes);
    if let Some(edns) = &query.edns {
        // An OPT record with a size of 1232 bytes, and the DO bit of the query.
        message.extend([0, 0, 41, 0x04, 0xd0, 0, 0]);
        message.extend((edns.ttl as u16).to_be_bytes());
        message.extend([0, 0]);
    }
    message
}

#[test]
fn every_address_comes_first_equally_often() {
    let mut fixture = KernelFixture::shared();
    let mut first = [0; 4];
    for id in 0..400 {
        let query = QueryPacket {
            id,
            ..KernelFixture::query("db.shop.svc.cluster.local", A)
        };
        let TestRunResult::Answered(_, out) =
            fixture.run_program(HookProgram::TcPeer, &query.frame())
        else {
            panic!("{query:?} passed");
        };
        // The address of the first record, after headers, question and the record's fixed fields.
        // `db` has the addresses 10.244.0.1 to 10.244.0.4.
        let at = 14 + 20 + 8 + 12 + query.name.len() + 4 + 12;
        first[usize::from(out[at + 3]) - 1] += 1;
    }
    // A quarter of the queries, within 20 %. The program spreads counted-up IDs evenly, so the
    // deviations are smaller than for random ones.
    for count in first {
        assert!((80..=120).contains(&count), "{first:?}");
    }
}

#[test]
fn a_client_with_a_large_edns_size_gets_a_large_answer() {
    let mut fixture = KernelFixture::shared();
    let query = KernelFixture::query("crowd.shop.svc.cluster.local", A).with_edns(1232, 0, &[]);
    for program in HookProgram::ALL {
        let frame = query.frame();
        let TestRunResult::Answered(Outcome::Data, out) = fixture.run_program(program, &frame)
        else {
            panic!("{program:?} did not answer {query:?} with data");
        };
        let message = packet::parse_reply(&frame, &out).unwrap();
        // `crowd` has 60 addresses.
        let possible =
            (0..60).any(|rotation| expected(&fixture, &query, Outcome::Data, rotation) == message);
        assert!(
            possible,
            "{program:?}: not the user plane's reply in any rotation: {message:02x?}"
        );
    }
}

#[test]
fn bytes_after_the_ip_packet_are_padding() {
    let mut fixture = KernelFixture::shared();
    for query in [
        KernelFixture::query("web.shop.svc.cluster.local", A),
        KernelFixture::query6("absent.svc.cluster.local", AAAA).with_edns(1232, 1, &[]),
    ] {
        for padding in [1, 7, 8, 60] {
            let frame = query.frame();
            let padded = [&frame[..], &vec![0xee; padding]].concat();
            for program in HookProgram::ALL {
                let TestRunResult::Answered(_, out) = fixture.run_program(program, &padded) else {
                    panic!("{program:?} passed {query:?} with {padding} bytes of padding");
                };
                packet::parse_reply(&frame, &out).unwrap();
            }
        }
    }
}

#[test]
fn a_zero_ipv4_udp_checksum_stays_zero_at_tc() {
    let mut fixture = KernelFixture::shared();
    let mut frame = KernelFixture::query("web.shop.svc.cluster.local", A).frame();
    // The UDP checksum, after 14 bytes of Ethernet header, 20 of IPv4 header and 6 of UDP header.
    frame[40..42].fill(0);
    let TestRunResult::Answered(_, out) = fixture.run_program(HookProgram::TcPeer, &frame) else {
        panic!("the tc program passed the query");
    };
    assert_eq!(out[40..42], [0, 0]);
    // At XDP the answer gets a checksum, which `parse_reply` checks.
    let TestRunResult::Answered(_, out) = fixture.run_program(HookProgram::XdpVeth, &frame) else {
        panic!("the XDP program passed the query");
    };
    packet::parse_reply(&frame, &out).unwrap();
}

#[test]
fn only_allowed_clients_are_answered_on_a_card() {
    let mut fixture = KernelFixture::shared();
    for (query, client) in [
        (
            KernelFixture::query("web.shop.svc.cluster.local", A),
            "192.0.2.1",
        ),
        (
            KernelFixture::query6("web.shop.svc.cluster.local", A),
            "2001:db8::1",
        ),
    ] {
        let frame = QueryPacket {
            client: client.parse().unwrap(),
            ..query
        }
        .frame();
        for program in [HookProgram::Xdp, HookProgram::Tc] {
            assert_eq!(
                fixture.run_program(program, &frame),
                TestRunResult::Passed(Outcome::NotAllowed),
                "{client} by {program:?}"
            );
        }
        for program in [HookProgram::XdpVeth, HookProgram::TcPeer] {
            let ended = fixture.run_program(program, &frame);
            assert!(
                matches!(ended, TestRunResult::Answered(..)),
                "{client} by {program:?}: {ended:?}"
            );
        }
    }
}

#[test]
fn aggregated_packets_pass() {
    let mut fixture = KernelFixture::shared();
    let frame = KernelFixture::query("web.shop.svc.cluster.local", A).frame();
    // struct __sk_buff up to `gso_size` and padding (include/uapi/linux/bpf.h, Linux 5.10). A
    // packet is aggregated if its `gso_size`, at byte 176, is not 0.
    let mut context = [0u8; 184];
    context[176..180].copy_from_slice(&1000u32.to_le_bytes());
    let before = fixture.counters();
    let program = fixture
        .object
        .loaded_tc(HookProgram::TcPeer.name())
        .unwrap();
    let result = program.test_run(TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    });
    assert_eq!(result.unwrap().return_value, TC_PASS);
    let after = fixture.counters();
    let [before, after] =
        [before, after].map(|counters| counters[Hook::Tc as usize][Outcome::Aggregated as usize]);
    assert_eq!(after, before + 1);
}

#[test]
fn nothing_is_answered_after_the_lease() {
    let mut fixture = KernelFixture::shared();
    let frame = KernelFixture::query("web.shop.svc.cluster.local", A).frame();
    fixture.object.set_lease(0).unwrap();
    for program in HookProgram::ALL {
        assert_eq!(
            fixture.run_program(program, &frame),
            TestRunResult::Passed(Outcome::LeaseStale),
            "{program:?}"
        );
    }
    fixture.object.set_lease(LONG_LEASE_JIFFIES).unwrap();
    for program in HookProgram::ALL {
        let ended = fixture.run_program(program, &frame);
        assert!(
            matches!(ended, TestRunResult::Answered(..)),
            "{program:?}: {ended:?}"
        );
    }
}
