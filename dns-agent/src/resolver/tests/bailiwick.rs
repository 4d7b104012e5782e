use std::slice;

use domain::base::iana::Rtype;

use super::{address, name, opt, query, with_additional, word};
use crate::{
    resolver::{
        bailiwick::OwnNames,
        message::{Reply, Transport, respond},
        response::{Response, UpstreamQuery},
    },
    zone::{Below, Model, ModelBuilder, Name, Rdata, Record, ZoneData, render_sections},
};

/// A zone `z` with an address at `one.z`, an alias of it, aliases that lead out, and one name that
/// the cluster's DNS answers for.
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
    builder.compute_below(name("theirs.z"), Below::Unknown);
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

fn opaque(owner: &str, rtype: Rtype, octets: &[&[u8]]) -> Record {
    record(owner, Rdata::Opaque(rtype, octets.concat().into()))
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

/// An upstream's message: its header's second word, and its sections.
#[derive(Clone, Default)]
struct Said {
    rcode: u8,
    answer: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
}

impl Said {
    fn message(&self, asked: &[u8], question: &Name) -> Vec<u8> {
        let records = [&self.answer[..], &self.authority, &self.additional];
        let sections = render_sections(question, records, 0);
        let mut message = asked[..12 + question.wire().len() + 4].to_vec();
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

/// What a client gets that asks this, and each upstream question with what is said to it in turn.
struct Asked {
    reply: Vec<u8>,
    questions: Vec<Name>,
}

fn ask(text: &str, rtype: Rtype, said: impl Fn(&Name) -> Said) -> Asked {
    let model = model();
    let own = OwnNames {
        data: &model,
        domains: &[name("cluster")],
    };
    let mut questions = Vec::new();
    let mut reply = respond(&query(text, rtype), &model, Transport::Tcp, 0);
    loop {
        assert!(questions.len() < 10, "asked without end: {questions:?}");
        reply = match reply {
            Reply::Message(reply) => return Asked { reply, questions },
            Reply::Forward(query) => {
                let asked = UpstreamQuery::forwarding(&query).with_id(1);
                questions.push(query.name.clone());
                let message = said(&query.name).message(&asked, &query.name);
                let response = Response::parse(&message, &asked).unwrap();
                query.relay(&response, &own, 0)
            }
            Reply::Chase(chase) => {
                let asked = UpstreamQuery::chasing(&chase).with_id(1);
                questions.push(chase.target.clone());
                let message = said(&chase.target).message(&asked, &chase.target);
                let response = Response::parse(&message, &asked).unwrap();
                chase.complete(Some(&response), &own, 0)
            }
            Reply::Ignore => panic!("ignored"),
        }
    }
}

/// Checks the sections of a reply.
#[track_caller]
fn assert_sections(asked: &Asked, text: &str, flags: u16, records: [&[Record]; 3]) {
    let sections = render_sections(&name(text), records, 0);
    let counts = [6, 8, 10].map(|at| word(&asked.reply, at));
    let right = [sections.answers, sections.authorities, sections.additionals];
    assert_eq!(counts, right, "{:02x?}", asked.reply);
    assert_eq!(word(&asked.reply, 2), flags, "{:02x?}", asked.reply);
    let behind = 12 + name(text).wire().len() + 4;
    assert_eq!(asked.reply[behind..], sections.bytes);
}

/// What a forwarder hands on.
#[test]
fn what_belongs_to_the_question_is_relayed_as_it_came() {
    let text = "www.example.org";
    for (rtype, said) in [
        (
            Rtype::A,
            Said {
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
                ..Said::default()
            },
        ),
        (
            Rtype::TXT,
            Said {
                rcode: 3,
                authority: vec![
                    soa("org"),
                    rrsig("org", Rtype::SOA),
                    nsec("wide.org"),
                    opaque("0abc.org", Rtype::NSEC3, &[&[1, 0, 0, 0, 0, 0]]),
                ],
                ..Said::default()
            },
        ),
        (
            Rtype::A,
            Said {
                answer: vec![
                    opaque("org", Rtype::DNAME, &[name("net").wire()]),
                    rrsig("org", Rtype::DNAME),
                    record(text, cname("www.example.net")),
                    record("www.example.net", address(1)),
                ],
                ..Said::default()
            },
        ),
        (
            Rtype::MX,
            Said {
                answer: vec![opaque(
                    text,
                    Rtype::MX,
                    &[&[0, 5], name("mail.example.com").wire()],
                )],
                additional: vec![record("mail.example.com", address(3))],
                ..Said::default()
            },
        ),
        (
            Rtype::ANY,
            Said {
                answer: vec![record(text, address(1)), nsec(text), rrsig(text, Rtype::A)],
                ..Said::default()
            },
        ),
        (
            Rtype::A,
            Said {
                rcode: 5,
                ..Said::default()
            },
        ),
    ] {
        let asked = ask(text, rtype, |_| said.clone());
        let records = [&said.answer[..], &said.authority, &said.additional];
        let flags = 0x8180 | u16::from(said.rcode);
        assert_sections(&asked, text, flags, records);
    }
}

#[test]
fn what_does_not_belong_to_the_question_is_left_out() {
    let text = "www.example.org";
    let right = Said {
        answer: vec![record(text, address(1))],
        authority: vec![ns("example.org", "ns.example.org")],
        additional: vec![record("ns.example.org", address(2))],
        ..Said::default()
    };
    let asked = ask(text, Rtype::A, |_| Said {
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
    assert_sections(&asked, text, 0x8180, records);
}

/// `v1.good.svc.cluster.local A 6.6.6.6` as an upstream would like to have it.
#[test]
fn names_of_ours_come_from_our_data() {
    let forged = |to: &'static str| {
        move |asked: &Name| Said {
            answer: vec![
                record(&asked.to_string(), cname(to)),
                record(to, address(66)),
            ],
            authority: vec![ns("z", to)],
            additional: vec![record(to, address(66))],
            ..Said::default()
        }
    };
    let ours = Record {
        owner: name("one.z"),
        ttl: 5,
        data: address(1),
    };
    let link = record("x.org", cname("one.z"));
    let asked = ask("x.org", Rtype::A, forged("one.z"));
    assert_sections(
        &asked,
        "x.org",
        0x8180,
        [&[link.clone(), ours.clone()], &[], &[]],
    );

    let alias = Record {
        owner: name("out-0.z"),
        ttl: 5,
        data: cname("back-0.org"),
    };
    let back = record("back-0.org", cname("one.z"));
    let asked = ask("out-0.z", Rtype::A, forged("one.z"));
    assert_sections(
        &asked,
        "out-0.z",
        0x8500,
        [&[alias.clone(), back, ours], &[], &[]],
    );

    // What is not there, is not there: with our SOA record.
    let model = model();
    let soa = model.zones()[0].negative_soa();
    for (to, rtype, rcode) in [("no.z", Rtype::A, 3), ("one.z", Rtype::AAAA, 0)] {
        let asked = ask("out-0.z", rtype, forged(to));
        let back = record("back-0.org", cname(to));
        let records = [&[alias.clone(), back][..], slice::from_ref(&soa), &[]];
        assert_sections(&asked, "out-0.z", 0x8500 | rcode, records);
    }
}

/// They are asked for themselves, where they are known.
#[test]
fn names_of_the_cluster_that_we_leave_to_others_are_asked_for() {
    for theirs in ["x.theirs.z", "svc.cluster"] {
        let asked = ask("x.org", Rtype::A, |asked| match *asked == name("x.org") {
            true => Said {
                answer: vec![record("x.org", cname(theirs)), record(theirs, address(66))],
                ..Said::default()
            },
            false => Said {
                answer: vec![record(theirs, address(7))],
                ..Said::default()
            },
        });
        assert_eq!(asked.questions, [name("x.org"), name(theirs)]);
        let records = [record("x.org", cname(theirs)), record(theirs, address(7))];
        assert_sections(&asked, "x.org", 0x8180, [&records, &[], &[]]);
    }
    // The cluster's DNS says all about a name that it is asked for.
    let text = "x.theirs.z";
    let said = Said {
        rcode: 3,
        authority: vec![soa("z")],
        ..Said::default()
    };
    let asked = ask(text, Rtype::A, |_| said.clone());
    assert_sections(&asked, text, 0x8183, [&[], &said.authority, &[]]);
    let target = [&[0, 0, 0, 1, 0, 80][..], name("pod.z").wire()].concat();
    let said = Said {
        answer: vec![opaque(text, Rtype::SRV, &[&target])],
        additional: vec![record("pod.z", address(8))],
        ..Said::default()
    };
    let asked = ask(text, Rtype::SRV, |_| said.clone());
    assert_sections(&asked, text, 0x8180, [&said.answer, &[], &said.additional]);
}

/// CoreDNS gives a headless Service whose endpoints are domain names a CNAME for each.
#[test]
fn the_clusters_dns_is_believed_about_the_clusters_names() {
    let text = "x.theirs.z";
    let answer = vec![
        record(text, cname("y.theirs.z")),
        record(text, cname("www.org")),
        record("y.theirs.z", address(7)),
        record("www.org", address(8)),
    ];
    let said = Said {
        answer: answer.clone(),
        ..Said::default()
    };
    let asked = ask(text, Rtype::A, |_| said.clone());
    assert_eq!(asked.questions.len(), 1);
    assert_sections(&asked, text, 0x8180, [&answer, &[], &[]]);

    // But not where another server's name leads to them.
    let said = Said {
        answer: vec![
            record(text, cname("www.org")),
            record("www.org", cname("one.z")),
            record("one.z", address(66)),
        ],
        ..Said::default()
    };
    let asked = ask(text, Rtype::A, |_| said.clone());
    assert_eq!(asked.reply[asked.reply.len() - 4..], [10, 0, 0, 1]);
}

/// Out and back again, and out: each way is a question, and there are four at most.
#[test]
fn chains_that_lead_out_and_back_end() {
    let number = |asked: &Name| -> usize {
        let text = asked.to_string();
        text["back-".len()..][..1].parse().unwrap()
    };
    let next = |asked: &Name| Said {
        answer: vec![record(
            &asked.to_string(),
            cname(&format!("out-{}.z", number(asked) + 1)),
        )],
        ..Said::default()
    };
    let asked = ask("out-0.z", Rtype::A, next);
    assert_eq!(asked.questions.len(), 4);
    assert_eq!([asked.reply[2], asked.reply[3]], [0x81, 2]);
    // A circle is noticed at once.
    let back = |asked: &Name| Said {
        answer: vec![record(&asked.to_string(), cname("out-0.z"))],
        ..Said::default()
    };
    let asked = ask("out-0.z", Rtype::A, back);
    assert_eq!(asked.questions.len(), 1);
    assert_eq!([asked.reply[2], asked.reply[3]], [0x81, 2]);
}

#[test]
fn a_chain_that_is_long_ends() {
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
        let said = Said {
            answer,
            ..Said::default()
        };
        let asked = ask("out-0.z", Rtype::A, |_| said.clone());
        assert_eq!(asked.reply[3] & 15, rcode, "{count} links");
    }
}

#[test]
fn an_upstreams_opt_record_stays_behind() {
    let said = Said {
        answer: vec![record("x.org", address(1)), record("one.z", address(6))],
        ..Said::default()
    };
    let model = model();
    let client = with_additional(query("x.org", Rtype::A), &opt(4096, [0; 4], &[]));
    let Reply::Forward(query) = respond(&client, &model, Transport::Udp, 0) else {
        panic!("not forwarded");
    };
    let asked = UpstreamQuery::forwarding(&query).with_id(1);
    let message = said.message(&asked, &query.name);
    let message = with_additional(message, &opt(4096, [0; 4], &[0, 10, 0, 1, 7]));
    let response = Response::parse(&message, &asked).unwrap();
    let own = OwnNames {
        data: &model,
        domains: &[],
    };
    let Reply::Message(reply) = query.relay(&response, &own, 0) else {
        panic!("no message");
    };
    assert_eq!([word(&reply, 6), word(&reply, 10)], [1, 1]);
    assert!(reply.ends_with(&opt(1232, [0; 4], &[])));
}

#[test]
fn signatures_are_given_to_those_who_ask_for_them() {
    let text = "www.example.org";
    let answer = vec![rrsig(text, Rtype::A), rrsig(text, Rtype::NS)];
    let said = Said {
        answer: answer.clone(),
        ..Said::default()
    };
    let asked = ask(text, Rtype::RRSIG, |_| said.clone());
    assert_eq!(word(&asked.reply, 6), 2);
}

/// HTTPS is type 65, which is a letter: 97 is another type.
#[test]
fn questions_are_the_same_but_for_the_casing_of_their_names() {
    let model = model();
    let identity = |text: &str, rtype: u16| {
        let query = query(text, Rtype::from_int(rtype));
        match respond(&query, &model, Transport::Tcp, 0) {
            Reply::Forward(query) => UpstreamQuery::forwarding(&query).identity(),
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
