//! Which records of an upstream's response reach the client, and how chains of aliases go on.

use std::slice;

use domain::base::iana::Rtype;
use zerohop_zone::{
    ComputedNames, Model, ModelBuilder, Name, Rdata, Record, ZoneData, render_sections,
};

use super::{ANCOUNT, ARCOUNT, FLAGS, NSCOUNT, address, name, opt, query, with_additional, word};
use crate::{
    bailiwick::LocalNames,
    message::{QueryAction, respond},
    query::Transport,
    response::{Response, UpstreamQuery},
};

/// A zone `z` with an address at `one.z`, and more aliases that lead out of the zone than the
/// resolver follows for one query. Below `unknown.z` any name may exist, so queries for such names
/// go to the cluster's DNS.
fn model() -> Model {
    let mut builder = ModelBuilder::new(7);
    builder.add_zone(name("z"), 5).unwrap();
    let mut add = |owner: &str, data| {
        builder.add(Record {
            owner: name(owner),
            ttl: 5,
            data,
        });
    };
    add("one.z", address(1));
    for number in 0..9 {
        let next = format!("back-{number}.org");
        add(&format!("out-{number}.z"), cname(&next));
    }
    builder.set_computed_names(name("unknown.z"), ComputedNames::Unknown);
    builder.build()
}

fn cname(target: &str) -> Rdata {
    Rdata::Cname(name(target))
}

fn record(owner: &str, data: Rdata) -> Record {
    Record {
        owner: name(owner),
        ttl: 300,
        data,
    }
}

fn opaque(owner: &str, rtype: Rtype, bytes: &[&[u8]]) -> Record {
    record(owner, Rdata::Opaque(rtype, bytes.concat().into()))
}

fn ns(owner: &str, host: &str) -> Record {
    opaque(owner, Rtype::NS, &[name(host).wire()])
}

fn soa(owner: &str) -> Record {
    let zone = name(owner);
    opaque(owner, Rtype::SOA, &[zone.wire(), zone.wire(), &[0; 20]])
}

/// A signature: the covered type, 16 bytes of other fields, the root as the signer, and 3 bytes of
/// signature (RFC 4034 section 3.1).
fn rrsig(owner: &str, covered: Rtype) -> Record {
    let covered = covered.to_int().to_be_bytes();
    opaque(owner, Rtype::RRSIG, &[&covered, &[8; 16], &[0], &[1, 2, 3]])
}

/// An NSEC record with the root as the next name and the type A (RFC 4034 section 4.1).
fn nsec(owner: &str) -> Record {
    opaque(owner, Rtype::NSEC, &[&[0], &[0, 1, 0x40]])
}

/// The response code and sections of an upstream's response.
#[derive(Clone, Default)]
struct UpstreamMessage {
    rcode: u8,
    answer: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl UpstreamMessage {
    /// The response to a query for `name`, in wire format.
    fn to_wire(&self, upstream_query: &[u8], name: &Name) -> Vec<u8> {
        let records = [&self.answer[..], &self.authority, &self.additional];
        let sections = render_sections(name, records, 0);
        // The header and the question.
        let mut message = upstream_query[..12 + name.wire().len() + 4].to_vec();
        // QR, RD, RA and the response code.
        message[2..4].copy_from_slice(&[0x81, 0x80 | self.rcode]);
        for (offset, count) in [
            (ANCOUNT, sections.answers),
            (NSCOUNT, sections.authorities),
            (ARCOUNT, sections.additionals),
        ] {
            message[offset..offset + 2].copy_from_slice(&count.to_be_bytes());
        }
        message.extend(sections.bytes);
        message
    }
}

/// The reply to a client, and the names queried from upstreams, in order.
struct ClientExchange {
    reply: Vec<u8>,
    queried_names: Vec<Name>,
}

/// Queries the resolver for a name and type, over TCP, so that no reply is truncated. `respond_to`
/// gives the upstream's response for each name that the resolver queries.
fn run_exchange(
    text: &str,
    rtype: Rtype,
    respond_to: impl Fn(&Name) -> UpstreamMessage,
) -> ClientExchange {
    let model = model();
    let local_names = LocalNames {
        data: &model,
        domains: &[name("cluster")],
    };
    let mut queried_names = Vec::new();
    let mut action = respond(&query(text, rtype), &model, Transport::Tcp, 0);
    loop {
        assert!(
            queried_names.len() < 10,
            "too many upstream queries: {queried_names:?}"
        );
        action = match action {
            QueryAction::Send(reply) => {
                return ClientExchange {
                    reply,
                    queried_names,
                };
            }
            QueryAction::Forward(query) => {
                let upstream_query = UpstreamQuery::forwarding(&query).with_id(1);
                queried_names.push(query.name.clone());
                let message = respond_to(&query.name).to_wire(&upstream_query, &query.name);
                let response = Response::parse(&message, &upstream_query).unwrap();
                query.relay(&response, &local_names, 0)
            }
            QueryAction::Chase(chase) => {
                let upstream_query = UpstreamQuery::chasing(&chase).with_id(1);
                queried_names.push(chase.target.clone());
                let message = respond_to(&chase.target).to_wire(&upstream_query, &chase.target);
                let response = Response::parse(&message, &upstream_query).unwrap();
                chase.complete(Some(&response), &local_names, 0)
            }
            QueryAction::Ignore => panic!("the query was ignored"),
        }
    }
}

/// Checks the sections of a reply, and the second word of its header: 0x8180 is QR, RD and RA, and
/// 0x8500 is QR, AA and RD.
#[track_caller]
fn assert_sections(exchange: &ClientExchange, text: &str, flags: u16, records: [&[Record]; 3]) {
    let sections = render_sections(&name(text), records, 0);
    let counts = [ANCOUNT, NSCOUNT, ARCOUNT].map(|offset| word(&exchange.reply, offset));
    let expected_counts = [sections.answers, sections.authorities, sections.additionals];
    assert_eq!(
        counts, expected_counts,
        "the record counts of {:02x?}",
        exchange.reply
    );
    assert_eq!(
        word(&exchange.reply, FLAGS),
        flags,
        "the flags of {:02x?}",
        exchange.reply
    );
    let question_end = 12 + name(text).wire().len() + 4;
    assert_eq!(exchange.reply[question_end..], sections.bytes);
}

#[test]
fn relevant_records_are_relayed_unchanged() {
    let text = "www.example.org";
    for (rtype, upstream) in [
        (
            Rtype::A,
            UpstreamMessage {
                answer: vec![
                    record(text, cname("web.example.net")),
                    rrsig(text, Rtype::CNAME),
                    record("web.example.net", address(1)),
                    rrsig("web.example.net", Rtype::A),
                ],
                authority: vec![
                    ns("example.net", "ns.example.net"),
                    rrsig("example.net", Rtype::NS),
                    nsec("a.example.net"),
                    rrsig("a.example.net", Rtype::NSEC),
                ],
                additional: vec![
                    record("ns.example.net", address(2)),
                    rrsig("ns.example.net", Rtype::A),
                ],
                ..UpstreamMessage::default()
            },
        ),
        (
            Rtype::TXT,
            UpstreamMessage {
                rcode: 3, // NXDOMAIN
                authority: vec![
                    soa("org"),
                    rrsig("org", Rtype::SOA),
                    nsec("wide.org"),
                    opaque("0abc.org", Rtype::NSEC3, &[&[1, 0, 0, 0, 0, 0]]),
                ],
                ..UpstreamMessage::default()
            },
        ),
        (
            Rtype::A,
            UpstreamMessage {
                answer: vec![
                    opaque("org", Rtype::DNAME, &[name("net").wire()]),
                    rrsig("org", Rtype::DNAME),
                    record(text, cname("www.example.net")),
                    record("www.example.net", address(1)),
                ],
                ..UpstreamMessage::default()
            },
        ),
        (
            Rtype::MX,
            UpstreamMessage {
                answer: vec![opaque(
                    text,
                    Rtype::MX,
                    &[&[0, 5], name("mail.example.com").wire()],
                )],
                additional: vec![record("mail.example.com", address(3))],
                ..UpstreamMessage::default()
            },
        ),
        (
            Rtype::ANY,
            UpstreamMessage {
                answer: vec![record(text, address(1)), nsec(text), rrsig(text, Rtype::A)],
                ..UpstreamMessage::default()
            },
        ),
        (
            Rtype::A,
            UpstreamMessage {
                rcode: 5, // REFUSED
                ..UpstreamMessage::default()
            },
        ),
    ] {
        let exchange = run_exchange(text, rtype, |_| upstream.clone());
        let records = [
            &upstream.answer[..],
            &upstream.authority,
            &upstream.additional,
        ];
        let flags = 0x8180 | u16::from(upstream.rcode);
        assert_sections(&exchange, text, flags, records);
    }
}

#[test]
fn irrelevant_records_are_left_out() {
    let text = "www.example.org";
    let relevant = UpstreamMessage {
        answer: vec![record(text, address(1))],
        authority: vec![ns("example.org", "ns.example.org")],
        additional: vec![record("ns.example.org", address(2))],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| UpstreamMessage {
        answer: [
            &relevant.answer[..],
            &[
                record("unrelated.org", address(9)),
                record("one.z", address(6)),
                opaque(text, Rtype::TXT, &[b"\x01a"]),
            ],
        ]
        .concat(),
        authority: [
            &relevant.authority[..],
            &[
                ns("unrelated.org", "one.z"),
                ns("z", "ns.example.org"),
                soa("z"),
                record("one.z", address(6)),
                record(text, address(6)),
                nsec("one.z"),
                nsec("unrelated.org"),
            ],
        ]
        .concat(),
        additional: [
            &relevant.additional[..],
            &[
                record("unrelated.org", address(9)),
                record("one.z", address(6)),
                opaque("ns.example.org", Rtype::TXT, &[b"\x01a"]),
            ],
        ]
        .concat(),
        rcode: 0,
    });
    let records = [
        &relevant.answer[..],
        &relevant.authority,
        &relevant.additional,
    ];
    assert_sections(&exchange, text, 0x8180, records);
}

/// An upstream tries to forge addresses of local names.
#[test]
fn local_names_are_answered_from_local_data() {
    let forged = |to: &'static str| {
        move |queried: &Name| UpstreamMessage {
            answer: vec![
                record(&queried.to_string(), cname(to)),
                record(to, address(66)),
            ],
            authority: vec![ns("z", to)],
            additional: vec![record(to, address(66))],
            ..UpstreamMessage::default()
        }
    };
    let local_record = Record {
        owner: name("one.z"),
        ttl: 5,
        data: address(1),
    };
    let link = record("x.org", cname("one.z"));
    let exchange = run_exchange("x.org", Rtype::A, forged("one.z"));
    assert_sections(
        &exchange,
        "x.org",
        0x8180,
        [&[link.clone(), local_record.clone()], &[], &[]],
    );

    let alias = Record {
        owner: name("out-0.z"),
        ttl: 5,
        data: cname("back-0.org"),
    };
    let back = record("back-0.org", cname("one.z"));
    let exchange = run_exchange("out-0.z", Rtype::A, forged("one.z"));
    assert_sections(
        &exchange,
        "out-0.z",
        0x8500,
        [&[alias.clone(), back, local_record], &[], &[]],
    );

    // Nonexistent local names and types get a negative answer with the local SOA record.
    let model = model();
    let soa = model.zones()[0].negative_soa();
    for (to, rtype, rcode) in [("no.z", Rtype::A, 3), ("one.z", Rtype::AAAA, 0)] {
        let exchange = run_exchange("out-0.z", rtype, forged(to));
        let back = record("back-0.org", cname(to));
        let records = [&[alias.clone(), back][..], slice::from_ref(&soa), &[]];
        assert_sections(&exchange, "out-0.z", 0x8500 | rcode, records);
    }
}

/// An upstream is not trusted about local names that only the cluster's DNS can answer: those below
/// `unknown.z`, and those in a cluster domain without a local zone.
#[test]
fn local_names_without_local_data_are_queried_from_the_clusters_dns() {
    for local_name in ["x.unknown.z", "svc.cluster"] {
        let exchange = run_exchange("x.org", Rtype::A, |queried| {
            let answer = if *queried == name("x.org") {
                vec![
                    record("x.org", cname(local_name)),
                    record(local_name, address(66)),
                ]
            } else {
                vec![record(local_name, address(7))]
            };
            UpstreamMessage {
                answer,
                ..UpstreamMessage::default()
            }
        });
        assert_eq!(exchange.queried_names, [name("x.org"), name(local_name)]);
        let records = [
            record("x.org", cname(local_name)),
            record(local_name, address(7)),
        ];
        assert_sections(&exchange, "x.org", 0x8180, [&records, &[], &[]]);
    }
    // If the cluster's DNS was queried for the name, it is also trusted about other local names,
    // for example in the authority section.
    let text = "x.unknown.z";
    let upstream = UpstreamMessage {
        rcode: 3,
        authority: vec![soa("z")],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_sections(&exchange, text, 0x8183, [&[], &upstream.authority, &[]]);
    let srv_data = [&[0, 0, 0, 1, 0, 80][..], name("pod.z").wire()].concat();
    let upstream = UpstreamMessage {
        answer: vec![opaque(text, Rtype::SRV, &[&srv_data])],
        additional: vec![record("pod.z", address(8))],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::SRV, |_| upstream.clone());
    assert_sections(
        &exchange,
        text,
        0x8180,
        [&upstream.answer, &[], &upstream.additional],
    );
}

/// If the endpoints of a headless Service are domain names, CoreDNS returns a CNAME for each of
/// them.
#[test]
fn the_clusters_dns_is_trusted_about_local_names() {
    let text = "x.unknown.z";
    let answer = vec![
        record(text, cname("y.unknown.z")),
        record(text, cname("www.org")),
        record("y.unknown.z", address(7)),
        record("www.org", address(8)),
    ];
    let upstream = UpstreamMessage {
        answer: answer.clone(),
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_eq!(exchange.queried_names.len(), 1);
    assert_sections(&exchange, text, 0x8180, [&answer, &[], &[]]);

    // A repeated CNAME is not a loop. If the outside name leads back to a local name, the local
    // data continues the answer: the reply ends with the address of `one.z`.
    let upstream = UpstreamMessage {
        answer: vec![
            record(text, cname("www.org")),
            record(text, cname("www.org")),
            record("www.org", cname("one.z")),
        ],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_eq!(exchange.reply[exchange.reply.len() - 4..], [10, 0, 0, 1]);

    // Several CNAMEs may lead to one name, directly or not. That is not a loop.
    let answer = vec![
        record(text, cname("www.org")),
        record(text, cname("www.org")),
        record(text, cname("y.unknown.z")),
        record("y.unknown.z", cname("www.org")),
        record("www.org", address(8)),
    ];
    let upstream = UpstreamMessage {
        answer: answer.clone(),
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_sections(&exchange, text, 0x8180, [&answer, &[], &[]]);

    // The cluster's DNS is not trusted about a local name that a name outside leads to.
    let upstream = UpstreamMessage {
        answer: vec![
            record(text, cname("www.org")),
            record("www.org", cname("one.z")),
            record("one.z", address(66)),
        ],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_eq!(exchange.reply[exchange.reply.len() - 4..], [10, 0, 0, 1]);
}

/// Each name outside the zone needs an upstream query, and the resolver sends at most four of them.
#[test]
fn chains_that_alternate_between_zones_end() {
    let number = |queried: &Name| -> usize {
        let text = queried.to_string();
        text["back-".len()..][..1].parse().unwrap()
    };
    let next = |queried: &Name| UpstreamMessage {
        answer: vec![record(
            &queried.to_string(),
            cname(&format!("out-{}.z", number(queried) + 1)),
        )],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange("out-0.z", Rtype::A, next);
    assert_eq!(exchange.queried_names.len(), 4);
    // QR and RD without AA, and SERVFAIL.
    assert_eq!([exchange.reply[2], exchange.reply[3]], [0x81, 2]);
    // A loop is detected at once.
    let back = |queried: &Name| UpstreamMessage {
        answer: vec![record(&queried.to_string(), cname("out-0.z"))],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange("out-0.z", Rtype::A, back);
    assert_eq!(exchange.queried_names.len(), 1);
    assert_eq!([exchange.reply[2], exchange.reply[3]], [0x81, 2]);
}

#[test]
fn a_chain_of_too_many_cnames_gets_servfail() {
    let links = |count: usize| {
        let mut answer: Vec<Record> = (0..count)
            .map(|link| {
                record(
                    &format!("l{link}.org"),
                    cname(&format!("l{}.org", link + 1)),
                )
            })
            .collect();
        answer.push(record(&format!("l{count}.org"), address(1)));
        answer
    };
    // At most 32 names (`MAX_CHAIN_NAMES`): `back-0.org` and `l0.org` to `l30.org`.
    for (count, rcode) in [(30, 0), (31, 2)] {
        let mut answer = links(count);
        answer.insert(0, record("back-0.org", cname("l0.org")));
        let upstream = UpstreamMessage {
            answer,
            ..UpstreamMessage::default()
        };
        let exchange = run_exchange("out-0.z", Rtype::A, |_| upstream.clone());
        assert_eq!(exchange.reply[3] & 15, rcode, "{count} links");
    }
}

#[test]
fn an_upstreams_opt_record_is_not_relayed() {
    // The record of `one.z` is left out, so the reply is assembled anew instead of relaying the
    // message.
    let upstream = UpstreamMessage {
        answer: vec![record("x.org", address(1)), record("one.z", address(6))],
        ..UpstreamMessage::default()
    };
    let model = model();
    let client = with_additional(query("x.org", Rtype::A), &opt(4096, [0; 4], &[]));
    let QueryAction::Forward(query) = respond(&client, &model, Transport::Udp, 0) else {
        panic!("the query is not forwarded");
    };
    let upstream_query = UpstreamQuery::forwarding(&query).with_id(1);
    let message = upstream.to_wire(&upstream_query, &query.name);
    let message = with_additional(message, &opt(4096, [0; 4], &[0, 10, 0, 1, 7]));
    let response = Response::parse(&message, &upstream_query).unwrap();
    let local_names = LocalNames {
        data: &model,
        domains: &[],
    };
    let QueryAction::Send(reply) = query.relay(&response, &local_names, 0) else {
        panic!("the response is not relayed");
    };
    assert_eq!([word(&reply, ANCOUNT), word(&reply, ARCOUNT)], [1, 1]);
    assert!(
        reply.ends_with(&opt(1232, [0; 4], &[])),
        "the resolver's OPT record is not at the end of {reply:02x?}"
    );
}

#[test]
fn a_query_for_rrsig_gets_all_signatures() {
    let text = "www.example.org";
    let answer = vec![rrsig(text, Rtype::A), rrsig(text, Rtype::NS)];
    let upstream = UpstreamMessage {
        answer: answer.clone(),
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::RRSIG, |_| upstream.clone());
    assert_eq!(word(&exchange.reply, ANCOUNT), 2);
}

/// The type HTTPS is 65, the code of the letter `A`. Type 97, the code of the letter `a`, is
/// another type.
#[test]
fn the_identity_of_a_query_ignores_only_the_casing_of_its_name() {
    let model = model();
    let identity = |text: &str, rtype: u16| {
        let query = query(text, Rtype::from_int(rtype));
        match respond(&query, &model, Transport::Tcp, 0) {
            QueryAction::Forward(query) => UpstreamQuery::forwarding(&query).identity(),
            _ => panic!("the query is not forwarded"),
        }
    };
    assert_eq!(
        identity("www.example.org", 65),
        identity("WWW.Example.org", 65)
    );
    assert_ne!(
        identity("www.example.org", 65),
        identity("www.example.org", 97)
    );
    assert_ne!(identity("a.org", 0x4142), identity("a.org", 0x6162));
}
