use std::slice;

use domain::base::iana::Rtype;
use zerohop_zone::{
    ComputedNames, Model, ModelBuilder, Name, Rdata, Record, ZoneData, render_sections,
};

use super::{address, name, opt, query, with_additional, word};
use crate::{
    bailiwick::LocalNames,
    message::{QueryAction, respond},
    query::Transport,
    response::{Response, UpstreamQuery},
};

/// A zone `z` with an address at `one.z`, an alias of it, aliases that lead out of the zone, and a
/// subtree that is delegated to the cluster's DNS.
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
    add("in.z", cname("one.z"));
    for number in 0..9 {
        let next = format!("back-{number}.org");
        add(&format!("out-{number}.z"), cname(&next));
    }
    builder.set_computed_names(name("theirs.z"), ComputedNames::Unknown);
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

fn rrsig(owner: &str, covered: Rtype) -> Record {
    let covered = covered.to_int().to_be_bytes();
    opaque(owner, Rtype::RRSIG, &[&covered, &[8; 16], &[0], &[1, 2, 3]])
}

fn nsec(owner: &str) -> Record {
    opaque(owner, Rtype::NSEC, &[&[0], &[0, 1, 0x40]])
}

/// The response code and sections of an upstream's message.
#[derive(Clone, Default)]
struct UpstreamMessage {
    rcode: u8,
    answer: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl UpstreamMessage {
    fn message(&self, upstream_query: &[u8], question: &Name) -> Vec<u8> {
        let records = [&self.answer[..], &self.authority, &self.additional];
        let sections = render_sections(question, records, 0);
        let mut message = upstream_query[..12 + question.wire().len() + 4].to_vec();
        message[2..4].copy_from_slice(&[0x81, 0x80 | self.rcode]);
        for (at, count) in [
            (6, sections.answers),
            (8, sections.authorities),
            (10, sections.additionals),
        ] {
            message[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        message.extend(sections.bytes);
        message
    }
}

/// A client's reply, and the names queried from upstreams, in order.
struct ClientExchange {
    reply: Vec<u8>,
    questions: Vec<Name>,
}

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
    let mut questions = Vec::new();
    let mut reply = respond(&query(text, rtype), &model, Transport::Tcp, 0);
    loop {
        assert!(
            questions.len() < 10,
            "too many upstream queries: {questions:?}"
        );
        reply = match reply {
            QueryAction::Send(reply) => return ClientExchange { reply, questions },
            QueryAction::Forward(query) => {
                let upstream_query = UpstreamQuery::forwarding(&query).with_id(1);
                questions.push(query.name.clone());
                let message = respond_to(&query.name).message(&upstream_query, &query.name);
                let response = Response::parse(&message, &upstream_query).unwrap();
                query.relay(&response, &local_names, 0)
            }
            QueryAction::Chase(chase) => {
                let upstream_query = UpstreamQuery::chasing(&chase).with_id(1);
                questions.push(chase.target.clone());
                let message = respond_to(&chase.target).message(&upstream_query, &chase.target);
                let response = Response::parse(&message, &upstream_query).unwrap();
                chase.complete(Some(&response), &local_names, 0)
            }
            QueryAction::Ignore => panic!("ignored"),
        }
    }
}

/// Checks the sections of a reply.
#[track_caller]
fn assert_sections(exchange: &ClientExchange, text: &str, flags: u16, records: [&[Record]; 3]) {
    let sections = render_sections(&name(text), records, 0);
    let counts = [6, 8, 10].map(|at| word(&exchange.reply, at));
    let right = [sections.answers, sections.authorities, sections.additionals];
    assert_eq!(counts, right, "{:02x?}", exchange.reply);
    assert_eq!(word(&exchange.reply, 2), flags, "{:02x?}", exchange.reply);
    let behind = 12 + name(text).wire().len() + 4;
    assert_eq!(exchange.reply[behind..], sections.bytes);
}

/// Responses that a forwarder should relay unchanged.
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
                rcode: 3,
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
                rcode: 5,
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
    let right = UpstreamMessage {
        answer: vec![record(text, address(1))],
        authority: vec![ns("example.org", "ns.example.org")],
        additional: vec![record("ns.example.org", address(2))],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| UpstreamMessage {
        answer: [
            &right.answer[..],
            &[
                record("stranger.org", address(9)),
                record("one.z", address(6)),
                opaque(text, Rtype::TXT, &[b"\x01a"]),
            ],
        ]
        .concat(),
        authority: [
            &right.authority[..],
            &[
                ns("stranger.org", "one.z"),
                ns("z", "ns.example.org"),
                soa("z"),
                record("one.z", address(6)),
                record(text, address(6)),
                nsec("one.z"),
                nsec("stranger.org"),
            ],
        ]
        .concat(),
        additional: [
            &right.additional[..],
            &[
                record("stranger.org", address(9)),
                record("one.z", address(6)),
                opaque("ns.example.org", Rtype::TXT, &[b"\x01a"]),
            ],
        ]
        .concat(),
        rcode: 0,
    });
    let records = [&right.answer[..], &right.authority, &right.additional];
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

/// The names are queried again from the cluster's DNS.
#[test]
fn delegated_names_of_the_cluster_are_queried() {
    for delegated in ["x.theirs.z", "svc.cluster"] {
        let exchange = run_exchange("x.org", Rtype::A, |queried| {
            let answer = if *queried == name("x.org") {
                vec![
                    record("x.org", cname(delegated)),
                    record(delegated, address(66)),
                ]
            } else {
                vec![record(delegated, address(7))]
            };
            UpstreamMessage {
                answer,
                ..UpstreamMessage::default()
            }
        });
        assert_eq!(exchange.questions, [name("x.org"), name(delegated)]);
        let records = [
            record("x.org", cname(delegated)),
            record(delegated, address(7)),
        ];
        assert_sections(&exchange, "x.org", 0x8180, [&records, &[], &[]]);
    }
    // The whole response of the cluster's DNS is trusted if it was queried for the name.
    let text = "x.theirs.z";
    let upstream = UpstreamMessage {
        rcode: 3,
        authority: vec![soa("z")],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_sections(&exchange, text, 0x8183, [&[], &upstream.authority, &[]]);
    let target = [&[0, 0, 0, 1, 0, 80][..], name("pod.z").wire()].concat();
    let upstream = UpstreamMessage {
        answer: vec![opaque(text, Rtype::SRV, &[&target])],
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

/// CoreDNS gives a headless Service whose endpoints are domain names a CNAME for each.
#[test]
fn the_clusters_dns_is_trusted_about_the_clusters_names() {
    let text = "x.theirs.z";
    let answer = vec![
        record(text, cname("y.theirs.z")),
        record(text, cname("www.org")),
        record("y.theirs.z", address(7)),
        record("www.org", address(8)),
    ];
    let upstream = UpstreamMessage {
        answer: answer.clone(),
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::A, |_| upstream.clone());
    assert_eq!(exchange.questions.len(), 1);
    assert_sections(&exchange, text, 0x8180, [&answer, &[], &[]]);

    // It is not trusted if a name outside leads to the local name.
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

/// Each time the chain leaves the zone costs an upstream query, and there are at most four.
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
    assert_eq!(exchange.questions.len(), 4);
    assert_eq!([exchange.reply[2], exchange.reply[3]], [0x81, 2]);
    // A loop is detected at once.
    let back = |queried: &Name| UpstreamMessage {
        answer: vec![record(&queried.to_string(), cname("out-0.z"))],
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange("out-0.z", Rtype::A, back);
    assert_eq!(exchange.questions.len(), 1);
    assert_eq!([exchange.reply[2], exchange.reply[3]], [0x81, 2]);
}

#[test]
fn a_long_chain_fails() {
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
    for (count, rcode) in [(30, 0), (40, 2)] {
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
    let upstream = UpstreamMessage {
        answer: vec![record("x.org", address(1)), record("one.z", address(6))],
        ..UpstreamMessage::default()
    };
    let model = model();
    let client = with_additional(query("x.org", Rtype::A), &opt(4096, [0; 4], &[]));
    let QueryAction::Forward(query) = respond(&client, &model, Transport::Udp, 0) else {
        panic!("not forwarded");
    };
    let upstream_query = UpstreamQuery::forwarding(&query).with_id(1);
    let message = upstream.message(&upstream_query, &query.name);
    let message = with_additional(message, &opt(4096, [0; 4], &[0, 10, 0, 1, 7]));
    let response = Response::parse(&message, &upstream_query).unwrap();
    let local_names = LocalNames {
        data: &model,
        domains: &[],
    };
    let QueryAction::Send(reply) = query.relay(&response, &local_names, 0) else {
        panic!("no message");
    };
    assert_eq!([word(&reply, 6), word(&reply, 10)], [1, 1]);
    assert!(reply.ends_with(&opt(1232, [0; 4], &[])));
}

#[test]
fn queries_for_signatures_get_signatures() {
    let text = "www.example.org";
    let answer = vec![rrsig(text, Rtype::A), rrsig(text, Rtype::NS)];
    let upstream = UpstreamMessage {
        answer: answer.clone(),
        ..UpstreamMessage::default()
    };
    let exchange = run_exchange(text, Rtype::RRSIG, |_| upstream.clone());
    assert_eq!(word(&exchange.reply, 6), 2);
}

/// HTTPS is type 65, the code of the letter A. Type 97, the code of a, is another type.
#[test]
fn identities_ignore_the_casing_of_names() {
    let model = model();
    let identity = |text: &str, rtype: u16| {
        let query = query(text, Rtype::from_int(rtype));
        match respond(&query, &model, Transport::Tcp, 0) {
            QueryAction::Forward(query) => UpstreamQuery::forwarding(&query).identity(),
            _ => panic!("not forwarded"),
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
