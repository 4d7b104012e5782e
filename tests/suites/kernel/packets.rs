//! The loaded programs, one packet at a time, by BPF_PROG_TEST_RUN.

use aya::programs::{TestRun as _, TestRunOptions};
use dns_agent::{
    datapath::object::{Outcomes, Program},
    zone::{Name, Rtype, render},
};
use dns_common::outcomes::{Hook, Outcome};
use zerohop_tests::packet::{self, Query};

use super::fixture::{Ended, Fixture};

const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const HTTPS: u16 = 65;
const ANY: u16 = 255;

#[test]
fn every_program_loads() {
    let mut fixture = Fixture::shared();
    for program in Program::ALL {
        let frame = Fixture::query("web.shop.svc.cluster.local", A).frame();
        assert!(matches!(
            fixture.run(program, &frame),
            Ended::Answered(Outcome::Data, _)
        ));
    }
}

#[test]
fn answers() {
    let mut fixture = Fixture::shared();
    for (name, rtype, outcome) in [
        ("web.shop.svc.cluster.local", A, Outcome::Data),
        ("WeB.shoP.svc.CLUSTER.local", A, Outcome::Data),
        ("cart.shop.svc.cluster.local", A, Outcome::Data),
        ("cart.shop.svc.cluster.local", AAAA, Outcome::Data),
        ("Cart.SHOP.svc.cluster.local", AAAA, Outcome::Data),
        ("odd1.shop.svc.cluster.local", A, Outcome::Data),
        ("odd22.shop.svc.cluster.local", A, Outcome::Data),
        ("db.shop.svc.cluster.local", A, Outcome::Data),
        ("db.shop.svc.cluster.local", AAAA, Outcome::Data),
        ("web.shop.svc.cluster.local", SRV, Outcome::Data),
        ("1.1.96.10.in-addr.arpa", PTR, Outcome::Data),
        ("9.9.244.10.in-addr.arpa", PTR, Outcome::Data),
        ("cluster.local", SOA, Outcome::Data),
        ("web.shop.svc.cluster.local", AAAA, Outcome::NoData),
        ("odd22.shop.svc.cluster.local", AAAA, Outcome::NoData),
        ("web.shop.svc.cluster.local", MX, Outcome::NoData),
        ("web.shop.svc.cluster.local", HTTPS, Outcome::NoData),
        ("shop.svc.cluster.local", A, Outcome::NoData),
        ("svc.cluster.local", TXT, Outcome::NoData),
        ("cluster.local", A, Outcome::NoData),
        ("shop.pod.cluster.local", A, Outcome::NoData),
        ("1.1.96.10.in-addr.arpa", A, Outcome::NoData),
        ("1.96.10.in-addr.arpa", PTR, Outcome::NoData),
        ("absent.shop.svc.cluster.local", A, Outcome::NxDomain),
        ("ABSENT.shop.svc.cluster.Local", AAAA, Outcome::NxDomain),
        (
            "www.example.com.shop.svc.cluster.local",
            A,
            Outcome::NxDomain,
        ),
        ("www.example.com.svc.cluster.local", A, Outcome::NxDomain),
        ("www.example.com.cluster.local", A, Outcome::NxDomain),
        ("x.cluster.local", TXT, Outcome::NxDomain),
        ("a.b.shop.pod.cluster.local", A, Outcome::NxDomain),
        ("2.1.96.10.in-addr.arpa", PTR, Outcome::NxDomain),
    ] {
        for query in [Fixture::query(name, rtype), Fixture::query6(name, rtype)] {
            for query in [
                query.clone(),
                query.clone().with_edns(1232, 0, &[]),
                query.clone().with_edns(4096, 1, &[]),
                query
                    .clone()
                    .with_edns(1232, 0, &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
                query.clone().with_edns(1232, 1, &[0, 12, 0, 1, 0]),
                Query {
                    bits: 0x0130,
                    ..query.clone()
                },
                Query { bits: 0, ..query },
            ] {
                for program in Program::ALL {
                    check_answer(&mut fixture, program, &query, outcome);
                }
            }
        }
    }
}

/// An answer is, octet by octet, a message made by the book with some rotation.
fn check_answer(fixture: &mut Fixture, program: Program, query: &Query, outcome: Outcome) {
    let frame = query.frame();
    let what = format!("{program:?} on {query:?}");
    let Ended::Answered(ended, out) = fixture.run(program, &frame) else {
        panic!("{what}: {:?}", fixture.run(program, &frame));
    };
    assert_eq!(ended, outcome, "{what}");
    let message = match packet::reply(&frame, &out) {
        Ok(message) => message,
        Err(error) => panic!("{what}: {error}\n{out:02x?}"),
    };
    let possible = (0..4).map(|rotation| expected(fixture, query, outcome, rotation));
    assert!(
        possible.clone().any(|expected| expected == message),
        "{what}:\n{message:02x?}\nis none of\n{:02x?}",
        possible.collect::<Vec<_>>()
    );
}

fn expected(fixture: &Fixture, query: &Query, outcome: Outcome, rotation: usize) -> Vec<u8> {
    let name = Name::from_wire(&query.name).unwrap();
    let model = &fixture.model;
    let answer = model.answer(&name, Rtype::from_int(query.rtype));
    let sections = render(&name, &answer, model.zones(), rotation);
    let rcode = if outcome == Outcome::NxDomain { 3 } else { 0 };
    let additionals = sections.additionals + u16::from(query.edns.is_some());
    let mut message = Vec::new();
    for number in [
        query.id,
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
        message.extend([0, 0, 41, 0x04, 0xd0, 0, 0]);
        message.extend((edns.ttl as u16).to_be_bytes());
        message.extend([0, 0]);
    }
    message
}

#[test]
fn every_address_takes_its_turn() {
    let mut fixture = Fixture::shared();
    let mut first = [0; 4];
    for id in 0..400 {
        let query = Query {
            id,
            ..Fixture::query("db.shop.svc.cluster.local", A)
        };
        let Ended::Answered(_, out) = fixture.run(Program::TcPeer, &query.frame()) else {
            panic!("{query:?} passed");
        };
        // The address of the first record: behind headers, question and the record's head.
        let at = 14 + 20 + 8 + 12 + query.name.len() + 4 + 12;
        first[usize::from(out[at + 3]) - 1] += 1;
    }
    for count in first {
        assert!((80..=120).contains(&count), "{first:?}");
    }
}

/// One line for each way to pass.
#[test]
fn passes() {
    let web = || Fixture::query("web.shop.svc.cluster.local", A);
    let web6 = || Fixture::query6("web.shop.svc.cluster.local", A);
    let bent = |query: Query, bend: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = query.frame();
        bend(&mut frame);
        frame
    };
    let message = |bend: &dyn Fn(&mut Vec<u8>)| {
        let query = web();
        let mut message = query.message();
        bend(&mut message);
        query.frame_of(&message)
    };
    let long = format!("{}.shop.svc.cluster.local", vec!["a"; 60].join("."));
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("ARP", bent(web(), &|frame| frame[13] = 6), Outcome::NotIp),
        (
            "a VLAN tag",
            bent(web(), &|frame| {
                frame.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
            }),
            Outcome::NotIp,
        ),
        (
            "half a header",
            web().frame()[..50].to_vec(),
            Outcome::Short,
        ),
        (
            "half an IPv6 header",
            web6().frame()[..70].to_vec(),
            Outcome::Short,
        ),
        (
            "half a message",
            web().frame()[..80].to_vec(),
            Outcome::Short,
        ),
        (
            "half a message over IPv6",
            web6().frame()[..100].to_vec(),
            Outcome::Short,
        ),
        (
            "a multicast MAC",
            bent(web(), &|frame| frame[0] |= 1),
            Outcome::Multicast,
        ),
        (
            "IP options",
            bent(web(), &|frame| {
                frame[14] = 0x46;
                frame.splice(34..34, [1, 1, 1, 0]);
            }),
            Outcome::IpOptions,
        ),
        (
            "IP version 5",
            bent(web(), &|frame| frame[14] = 0x55),
            Outcome::IpOptions,
        ),
        (
            "more fragments",
            bent(web(), &|frame| frame[20] = 0x20),
            Outcome::Fragment,
        ),
        (
            "a later fragment",
            bent(web(), &|frame| frame[21] = 1),
            Outcome::Fragment,
        ),
        ("TCP", bent(web(), &|frame| frame[23] = 6), Outcome::NotUdp),
        (
            "TCP over IPv6",
            bent(web6(), &|frame| frame[20] = 6),
            Outcome::NotUdp,
        ),
        (
            "a hop-by-hop header",
            bent(web6(), &|frame| frame[20] = 0),
            Outcome::NotUdp,
        ),
        (
            "a fragment header",
            bent(web6(), &|frame| frame[20] = 44),
            Outcome::NotUdp,
        ),
        (
            "another port",
            Query {
                server: (web().server.0, 5353),
                ..web()
            }
            .frame(),
            Outcome::NotServed,
        ),
        (
            "another address",
            Query {
                server: ("10.96.0.11".parse().unwrap(), 53),
                ..web()
            }
            .frame(),
            Outcome::NotServed,
        ),
        (
            "another IPv6 address",
            Query {
                server: ("fd00:10:96::b".parse().unwrap(), 53),
                ..web6()
            }
            .frame(),
            Outcome::NotServed,
        ),
        (
            "a UDP length that is too long",
            bent(web(), &|frame| frame[39] += 1),
            Outcome::OddUdp,
        ),
        (
            "a UDP length that is too short",
            bent(web(), &|frame| frame[39] -= 1),
            Outcome::OddUdp,
        ),
        (
            "IPv6 without a checksum",
            bent(web6(), &|frame| frame[60..62].fill(0)),
            Outcome::OddUdp,
        ),
        (
            "a reply",
            Query {
                bits: 0x8180,
                ..web()
            }
            .frame(),
            Outcome::Reply,
        ),
        (
            "NOTIFY",
            Query {
                bits: 0x2000,
                ..web()
            }
            .frame(),
            Outcome::OddHeader,
        ),
        (
            "AA in a query",
            Query {
                bits: 0x0500,
                ..web()
            }
            .frame(),
            Outcome::OddHeader,
        ),
        (
            "TC in a query",
            Query {
                bits: 0x0300,
                ..web()
            }
            .frame(),
            Outcome::OddHeader,
        ),
        (
            "the reserved bit",
            Query {
                bits: 0x0140,
                ..web()
            }
            .frame(),
            Outcome::OddHeader,
        ),
        (
            "no question",
            message(&|message| message[5] = 0),
            Outcome::OddCounts,
        ),
        (
            "two questions",
            message(&|message| message[5] = 2),
            Outcome::OddCounts,
        ),
        (
            "an answer",
            message(&|message| message[7] = 1),
            Outcome::OddCounts,
        ),
        (
            "an authority",
            message(&|message| message[9] = 1),
            Outcome::OddCounts,
        ),
        (
            "two additionals",
            message(&|message| message[11] = 2),
            Outcome::OddCounts,
        ),
        (
            "the root",
            Fixture::query("", A).frame_of(&[&web().message()[..12], &[0; 20]].concat()),
            Outcome::NameLength,
        ),
        (
            "a long name",
            Fixture::query(&long, A).frame(),
            Outcome::NameLength,
        ),
        (
            "a name without end",
            message(&|message| message[12..].fill(b'a')),
            Outcome::OddName,
        ),
        (
            "a zero octet in a label",
            Query {
                name: b"\x0aab\0defghij\x07cluster\x05local\0".to_vec(),
                ..web()
            }
            .frame(),
            Outcome::NameLength,
        ),
        (
            "a label of 64 octets",
            Query {
                name: [&[64][..], &[b'a'; 64], b"\x07cluster\x05local\0"].concat(),
                ..web()
            }
            .frame(),
            Outcome::OddName,
        ),
        (
            "a compressed name",
            Query {
                name: b"\x03web\xc0\x0c\x07cluster\x05local\0".to_vec(),
                ..web()
            }
            .frame(),
            Outcome::OddName,
        ),
        (
            "a suffix inside a label",
            Query {
                name: b"\x10xxx\x07cluster\x05local\0".to_vec(),
                ..web()
            }
            .frame(),
            Outcome::OddName,
        ),
        (
            "class CH",
            Query { class: 3, ..web() }.frame(),
            Outcome::OddClass,
        ),
        (
            "ANY",
            Fixture::query("web.shop.svc.cluster.local", ANY).frame(),
            Outcome::MetaType,
        ),
        (
            "AXFR",
            Fixture::query("cluster.local", 252).frame(),
            Outcome::MetaType,
        ),
        (
            "ANY of no name",
            Fixture::query("absent.cluster.local", ANY).frame(),
            Outcome::MetaType,
        ),
        (
            "an additional that is no OPT",
            message(&|message| {
                message[11] = 1;
                message.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
            }),
            Outcome::OddEdns,
        ),
        (
            "EDNS version 1",
            Query {
                edns: Some(packet::Edns {
                    size: 1232,
                    ttl: 1 << 16,
                    options: vec![],
                }),
                ..web()
            }
            .frame(),
            Outcome::OddEdns,
        ),
        (
            "an EDNS flag",
            Query {
                edns: Some(packet::Edns {
                    size: 1232,
                    ttl: 0x4000,
                    options: vec![],
                }),
                ..web()
            }
            .frame(),
            Outcome::OddEdns,
        ),
        (
            "octets behind the question",
            message(&|message| message.push(0)),
            Outcome::TrailingOctets,
        ),
        (
            "octets behind the OPT",
            {
                let query = web().with_edns(1232, 0, &[]);
                query.frame_of(&[&query.message()[..], &[0]].concat())
            },
            Outcome::TrailingOctets,
        ),
        (
            "an alias that leads away",
            Fixture::query("away.shop.svc.cluster.local", A).frame(),
            Outcome::PassMark,
        ),
        (
            "more addresses than a record holds",
            Fixture::query("throng.shop.svc.cluster.local", A)
                .with_edns(1232, 0, &[])
                .frame(),
            Outcome::PassMark,
        ),
        (
            "a pod's name",
            Fixture::query("10-244-0-9.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "another zone",
            Fixture::query("www.example.com", A).frame(),
            Outcome::NotOwned,
        ),
        (
            "another type where only the PTR is ours",
            Fixture::query("9.9.244.10.in-addr.arpa", A).frame(),
            Outcome::NotOwned,
        ),
        (
            "an unknown PTR",
            Fixture::query("8.9.244.10.in-addr.arpa", PTR).frame(),
            Outcome::NotOwned,
        ),
        (
            "more than 512 octets for a client without EDNS",
            Fixture::query("crowd.shop.svc.cluster.local", A).frame(),
            Outcome::TooLarge,
        ),
        (
            "more than the client's EDNS size",
            Fixture::query("crowd.shop.svc.cluster.local", A)
                .with_edns(900, 0, &[])
                .frame(),
            Outcome::TooLarge,
        ),
    ];
    let mut fixture = Fixture::shared();
    for (what, frame, outcome) in cases {
        for program in Program::ALL {
            assert_eq!(
                fixture.run(program, &frame),
                Ended::Passed(outcome),
                "{what}: {program:?}"
            );
        }
    }
}

#[test]
fn a_large_answer_for_who_takes_it() {
    let mut fixture = Fixture::shared();
    let query = Fixture::query("crowd.shop.svc.cluster.local", A).with_edns(1232, 0, &[]);
    for program in Program::ALL {
        let frame = query.frame();
        let Ended::Answered(Outcome::Data, out) = fixture.run(program, &frame) else {
            panic!("{program:?} passed");
        };
        let message = packet::reply(&frame, &out).unwrap();
        let possible =
            (0..60).any(|rotation| expected(&fixture, &query, Outcome::Data, rotation) == message);
        assert!(possible, "{message:02x?}");
    }
}

#[test]
fn octets_behind_the_ip_packet_are_padding() {
    let mut fixture = Fixture::shared();
    for query in [
        Fixture::query("web.shop.svc.cluster.local", A),
        Fixture::query6("absent.svc.cluster.local", AAAA).with_edns(1232, 1, &[]),
    ] {
        for padding in [1, 7, 8, 60] {
            let frame = query.frame();
            let padded = [&frame[..], &vec![0xee; padding]].concat();
            for program in Program::ALL {
                let Ended::Answered(_, out) = fixture.run(program, &padded) else {
                    panic!("{program:?} passed {query:?} with {padding} octets of padding");
                };
                packet::reply(&frame, &out).unwrap();
            }
        }
    }
}

#[test]
fn an_ipv4_checksum_of_zero_stays_one_at_tc() {
    let mut fixture = Fixture::shared();
    let mut frame = Fixture::query("web.shop.svc.cluster.local", A).frame();
    frame[40..42].fill(0);
    let Ended::Answered(_, out) = fixture.run(Program::TcPeer, &frame) else {
        panic!("passed");
    };
    assert_eq!(out[40..42], [0, 0]);
    let Ended::Answered(_, out) = fixture.run(Program::XdpVeth, &frame) else {
        panic!("passed");
    };
    packet::reply(&frame, &out).unwrap();
}

#[test]
fn only_allowed_clients_are_answered_on_a_card() {
    let mut fixture = Fixture::shared();
    for (query, client) in [
        (Fixture::query("web.shop.svc.cluster.local", A), "192.0.2.1"),
        (
            Fixture::query6("web.shop.svc.cluster.local", A),
            "2001:db8::1",
        ),
    ] {
        let frame = Query {
            client: client.parse().unwrap(),
            ..query
        }
        .frame();
        for program in [Program::Xdp, Program::Tc] {
            assert_eq!(
                fixture.run(program, &frame),
                Ended::Passed(Outcome::NotAllowed)
            );
        }
        for program in [Program::XdpVeth, Program::TcPeer] {
            assert!(matches!(fixture.run(program, &frame), Ended::Answered(..)));
        }
    }
}

#[test]
fn what_segmentation_offload_put_together_passes() {
    let mut fixture = Fixture::shared();
    let frame = Fixture::query("web.shop.svc.cluster.local", A).frame();
    // struct __sk_buff up to `gso_size` and padding (include/uapi/linux/bpf.h, Linux 5.10).
    let mut context = [0u8; 184];
    context[176..180].copy_from_slice(&1000u32.to_le_bytes());
    let before = fixture.object.outcomes().unwrap();
    let program = fixture.object.tc(Program::TcPeer.name()).unwrap();
    let result = program.test_run(TestRunOptions {
        data_in: Some(&frame),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    });
    assert_eq!(result.unwrap().return_value, u32::MAX);
    let after = fixture.object.outcomes().unwrap();
    let aggregated = |outcomes: &Outcomes| outcomes.get(Hook::Tc, Outcome::Aggregated);
    assert_eq!(aggregated(&after), aggregated(&before) + 1);
}

#[test]
fn nothing_is_answered_after_the_lease() {
    let mut fixture = Fixture::shared();
    let frame = Fixture::query("web.shop.svc.cluster.local", A).frame();
    fixture.object.set_lease(0).unwrap();
    for program in Program::ALL {
        assert_eq!(
            fixture.run(program, &frame),
            Ended::Passed(Outcome::LeaseStale)
        );
    }
    fixture.object.set_lease(1_000_000).unwrap();
    for program in Program::ALL {
        assert!(matches!(fixture.run(program, &frame), Ended::Answered(..)));
    }
}
