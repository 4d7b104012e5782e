//! Every outcome with which a single packet can pass: the packet is unchanged, and its outcome is
//! counted.

use dns_common::Outcome;
use zerohop_contract::packet::{self, QueryPacket};
use zerohop_datapath::program::HookProgram;

use super::{
    fixture::{KernelFixture, TestRunResult},
    packets::{A, PTR, SRV, TXT},
};

const ANY: u16 = 255;

/// One case for each way to pass.
#[test]
fn every_pass_leaves_the_packet_unchanged_and_is_counted() {
    let web = || KernelFixture::query("web.shop.svc.cluster.local", A);
    let web6 = || KernelFixture::query6("web.shop.svc.cluster.local", A);
    let bent = |query: QueryPacket, bend: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = query.frame();
        bend(&mut frame);
        frame
    };
    let message = |bend: &dyn Fn(&mut Vec<u8>)| {
        let query = web();
        let mut message = query.message();
        bend(&mut message);
        query.frame_with(&message)
    };
    let options = |data: &[u8]| web().with_edns(1232, 0, data).frame();
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
            "a truncated DNS header",
            web().frame()[..50].to_vec(),
            Outcome::Short,
        ),
        (
            "a truncated DNS header over IPv6",
            web6().frame()[..70].to_vec(),
            Outcome::Short,
        ),
        (
            "a truncated message",
            web().frame()[..80].to_vec(),
            Outcome::Short,
        ),
        (
            "a truncated message over IPv6",
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
            QueryPacket {
                server: (web().server.0, 5353),
                ..web()
            }
            .frame(),
            Outcome::NotServed,
        ),
        (
            "another address",
            QueryPacket {
                server: ("10.96.0.11".parse().unwrap(), 53),
                ..web()
            }
            .frame(),
            Outcome::NotServed,
        ),
        (
            "another IPv6 address",
            QueryPacket {
                server: ("fd00:10:96::b".parse().unwrap(), 53),
                ..web6()
            }
            .frame(),
            Outcome::NotServed,
        ),
        (
            "a UDP length greater than the packet's",
            bent(web(), &|frame| frame[39] += 1),
            Outcome::NonstandardUdp,
        ),
        (
            "a UDP length less than the packet's",
            bent(web(), &|frame| frame[39] -= 1),
            Outcome::NonstandardUdp,
        ),
        (
            "IPv6 without a checksum",
            bent(web6(), &|frame| frame[60..62].fill(0)),
            Outcome::NonstandardUdp,
        ),
        (
            "a reply",
            QueryPacket {
                bits: 0x8180,
                ..web()
            }
            .frame(),
            Outcome::Reply,
        ),
        (
            "NOTIFY",
            QueryPacket {
                bits: 0x2000,
                ..web()
            }
            .frame(),
            Outcome::NonstandardHeader,
        ),
        (
            "AA in a query",
            QueryPacket {
                bits: 0x0500,
                ..web()
            }
            .frame(),
            Outcome::NonstandardHeader,
        ),
        (
            "TC in a query",
            QueryPacket {
                bits: 0x0300,
                ..web()
            }
            .frame(),
            Outcome::NonstandardHeader,
        ),
        (
            "the reserved header bit",
            QueryPacket {
                bits: 0x0140,
                ..web()
            }
            .frame(),
            Outcome::NonstandardHeader,
        ),
        (
            "no question",
            message(&|message| message[5] = 0),
            Outcome::NonstandardCounts,
        ),
        (
            "two questions",
            message(&|message| message[5] = 2),
            Outcome::NonstandardCounts,
        ),
        (
            "one answer record",
            message(&|message| message[7] = 1),
            Outcome::NonstandardCounts,
        ),
        (
            "one authority record",
            message(&|message| message[9] = 1),
            Outcome::NonstandardCounts,
        ),
        (
            "two additional records",
            message(&|message| message[11] = 2),
            Outcome::NonstandardCounts,
        ),
        (
            "the root name",
            KernelFixture::query("", A).frame_with(&[&web().message()[..12], &[0; 20]].concat()),
            Outcome::NameLength,
        ),
        (
            "a name of more than 255 bytes",
            KernelFixture::query(&of_labels(120), A).frame(),
            Outcome::NameLength,
        ),
        (
            "more labels than the program walks",
            KernelFixture::query(&of_labels(60), A).frame(),
            Outcome::NonstandardName,
        ),
        (
            "a name without a terminating root label",
            message(&|message| message[12..].fill(b'a')),
            Outcome::NonstandardName,
        ),
        (
            "a zero byte in a label",
            QueryPacket {
                name: b"\x0aab\0defghij\x07cluster\x05local\0".to_vec(),
                ..web()
            }
            .frame(),
            Outcome::NameLength,
        ),
        (
            "a label of 64 bytes",
            QueryPacket {
                name: [&[64][..], &[b'a'; 64], b"\x07cluster\x05local\0"].concat(),
                ..web()
            }
            .frame(),
            Outcome::NonstandardName,
        ),
        (
            "labels that lead past the end of the name, and 256 bytes later into other labels",
            QueryPacket {
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
            Outcome::NonstandardName,
        ),
        (
            "a compressed name",
            QueryPacket {
                name: b"\x03web\xc0\x0c\x07cluster\x05local\0".to_vec(),
                ..web()
            }
            .frame(),
            Outcome::NonstandardName,
        ),
        (
            "a suffix inside a label",
            QueryPacket {
                name: b"\x10xxx\x07cluster\x05local\0".to_vec(),
                ..web()
            }
            .frame(),
            Outcome::NonstandardName,
        ),
        (
            "class CH",
            QueryPacket { class: 3, ..web() }.frame(),
            Outcome::NonstandardClass,
        ),
        (
            "ANY",
            KernelFixture::query("web.shop.svc.cluster.local", ANY).frame(),
            Outcome::MetaType,
        ),
        (
            "AXFR",
            KernelFixture::query("cluster.local", 252).frame(),
            Outcome::MetaType,
        ),
        (
            "ANY for a nonexistent name",
            KernelFixture::query("absent.cluster.local", ANY).frame(),
            Outcome::MetaType,
        ),
        (
            "an additional record other than OPT",
            message(&|message| {
                message[11] = 1;
                message.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
            }),
            Outcome::NonstandardEdns,
        ),
        (
            "EDNS version 1",
            QueryPacket {
                edns: Some(packet::QueryEdns {
                    size: 1232,
                    ttl: 1 << 16,
                    options: vec![],
                }),
                ..web()
            }
            .frame(),
            Outcome::NonstandardEdns,
        ),
        (
            "an EDNS flag",
            QueryPacket {
                edns: Some(packet::QueryEdns {
                    size: 1232,
                    ttl: 0x4000,
                    options: vec![],
                }),
                ..web()
            }
            .frame(),
            Outcome::NonstandardEdns,
        ),
        (
            "a truncated option",
            options(&[0, 10]),
            Outcome::NonstandardEdns,
        ),
        (
            "an option longer than its OPT record",
            options(&[0xfd, 0xe9, 0x00, 0xc8, b'a', b'b']),
            Outcome::NonstandardEdns,
        ),
        (
            "an option one byte longer than its OPT record",
            options(&[0, 10, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]),
            Outcome::NonstandardEdns,
        ),
        (
            "an option shorter than its OPT record",
            options(&[0, 10, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]),
            Outcome::NonstandardEdns,
        ),
        (
            "two options",
            options(&[0, 10, 0, 1, 9, 0, 12, 0, 0]),
            Outcome::NonstandardEdns,
        ),
        (
            "an OPT record whose owner name is not the root",
            message(&|message| {
                message[11] = 1;
                message.extend([1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
            }),
            Outcome::NonstandardEdns,
        ),
        (
            "a second OPT record beyond the additional count",
            {
                let query = web().with_edns(1232, 0, &[]);
                let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
                query.frame_with(&[&query.message()[..], &opt].concat())
            },
            Outcome::TrailingBytes,
        ),
        (
            "an additional count without an OPT record",
            message(&|message| message[11] = 1),
            Outcome::Short,
        ),
        (
            "bytes after the question",
            message(&|message| message.push(0)),
            Outcome::TrailingBytes,
        ),
        (
            "bytes after the OPT record",
            {
                let query = web().with_edns(1232, 0, &[]);
                query.frame_with(&[&query.message()[..], &[0]].concat())
            },
            Outcome::TrailingBytes,
        ),
        (
            "an alias to a name outside the zone",
            KernelFixture::query("away.shop.svc.cluster.local", A).frame(),
            Outcome::PassMark,
        ),
        (
            "another type at an alias to a name outside the zone",
            KernelFixture::query("away.shop.svc.cluster.local", TXT).frame(),
            Outcome::PassMark,
        ),
        (
            "another type at an alias to a name inside the zone",
            KernelFixture::query("near.shop.svc.cluster.local", SRV).frame(),
            Outcome::PassMark,
        ),
        (
            "more addresses than a record holds",
            KernelFixture::query("throng.shop.svc.cluster.local", A)
                .with_edns(1232, 0, &[])
                .frame(),
            Outcome::PassMark,
        ),
        (
            "a pod's name that could be an IPv6 address",
            KernelFixture::query("fd00--9.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "a pod's name with two groups of dashes",
            KernelFixture::query("1--2-3.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "a pod's name with all eight groups of an IPv6 address",
            KernelFixture::query("1-2-3-4-5-6-7-8.shop.pod.cluster.local", A).frame(),
            Outcome::BelowUnknown,
        ),
        (
            "SRV of a pod's name, whose rdata has the full name",
            KernelFixture::query("10-244-0-9.shop.pod.cluster.local", SRV).frame(),
            Outcome::PassMark,
        ),
        (
            "a name outside every zone",
            KernelFixture::query("www.example.com", A).frame(),
            Outcome::NotAuthoritative,
        ),
        (
            "another type at a reverse name outside every zone",
            KernelFixture::query("9.9.244.10.in-addr.arpa", A).frame(),
            Outcome::NotAuthoritative,
        ),
        (
            "an unknown reverse name outside every zone",
            KernelFixture::query("8.9.244.10.in-addr.arpa", PTR).frame(),
            Outcome::NotAuthoritative,
        ),
        (
            "an answer over 512 bytes for a client without EDNS",
            KernelFixture::query("crowd.shop.svc.cluster.local", A).frame(),
            Outcome::TooLarge,
        ),
        (
            "an answer over the client's EDNS size",
            KernelFixture::query("crowd.shop.svc.cluster.local", A)
                .with_edns(900, 0, &[])
                .frame(),
            Outcome::TooLarge,
        ),
    ];
    let mut fixture = KernelFixture::shared();
    for (what, frame, outcome) in cases {
        for program in HookProgram::ALL {
            assert_eq!(
                fixture.run_program(program, &frame),
                TestRunResult::Passed(outcome),
                "{what}: {program:?}"
            );
        }
    }
}
