//! Every way to pass that one packet can show: the packet leaves as it came, and the outcome says why.

use dns_agent::datapath::object::Program;
use dns_common::Outcome;
use zerohop_tests::packet::{self, Query};

use super::{
    fixture::{Ended, Fixture},
    packets::{A, PTR, SRV, TXT},
};

const ANY: u16 = 255;

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
    let options = |octets: &[u8]| web().with_edns(1232, 0, octets).frame();
    let of_labels = |count| format!("{}.shop.svc.cluster.local", vec!["a"; count].join("."));
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
            "a name longer than names can be",
            Fixture::query(&of_labels(120), A).frame(),
            Outcome::NameLength,
        ),
        (
            "more labels than are walked",
            Fixture::query(&of_labels(60), A).frame(),
            Outcome::OddName,
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
            "labels that lead past the end, and 256 octets later into other ones",
            Query {
                name: {
                    let mut name = [b'a'; 230].to_vec();
                    let lengths = [(0, 63), (64, 63), (128, 63), (192, 7), (200, 63)];
                    let seen_next = [(8, 63), (72, 63), (136, 62), (199, 30)];
                    for (at, length) in lengths.into_iter().chain(seen_next) {
                        name[at] = length;
                    }
                    [&name[..], b"\x07cluster\x05local\0"].concat()
                },
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
        ("half an option", options(&[0, 10]), Outcome::OddEdns),
        (
            "an option that is longer than its record",
            options(&[0xfd, 0xe9, 0x00, 0xc8, b'a', b'b']),
            Outcome::OddEdns,
        ),
        (
            "an option that is one octet longer than its record",
            options(&[0, 10, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]),
            Outcome::OddEdns,
        ),
        (
            "an option that is shorter than its record",
            options(&[0, 10, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]),
            Outcome::OddEdns,
        ),
        (
            "two options",
            options(&[0, 10, 0, 1, 9, 0, 12, 0, 0]),
            Outcome::OddEdns,
        ),
        (
            "an OPT record of another name than the root",
            message(&|message| {
                message[11] = 1;
                message.extend([1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
            }),
            Outcome::OddEdns,
        ),
        (
            "a second OPT record that isn't counted",
            {
                let query = web().with_edns(1232, 0, &[]);
                let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
                query.frame_of(&[&query.message()[..], &opt].concat())
            },
            Outcome::TrailingOctets,
        ),
        (
            "an OPT record that is counted and missing",
            message(&|message| message[11] = 1),
            Outcome::Short,
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
            "another type of an alias that leads away",
            Fixture::query("away.shop.svc.cluster.local", TXT).frame(),
            Outcome::PassMark,
        ),
        (
            "another type of an alias that leads to a name of ours",
            Fixture::query("near.shop.svc.cluster.local", SRV).frame(),
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
            "a pod's name that could be an IPv6 address",
            Fixture::query("fd00--9.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "one with three dashes",
            Fixture::query("1--2-3.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "one with all groups",
            Fixture::query("1-2-3-4-5-6-7-8.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "the SRV of a pod's name, which holds the name in full",
            Fixture::query("10-244-0-9.shop.pod.cluster.local", SRV).frame(),
            Outcome::PassMark,
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
