//! Tests of the wire form, which is parsed with the `domain` crate.
//!
//! The last two arguments of `render` are the zones, which only negative answers need, and the
//! rotation.

use domain::base::iana::Class;
use domain::base::name::ToName;
use domain::base::{Message, ParsedRecord};
use domain::rdata::{A, Aaaa, Cname, Ns, Ptr, Soa as ParsedSoa, Srv as ParsedSrv, Txt};
use proptest::prelude::*;

use crate::{Answer, Apex, Name, Rdata, Record, Rtype, Sections, Soa, Srv, ZoneData, render};

use super::{model, name, record};

/// Parses the three sections of a message that has `question` and the rendered `sections`.
pub(crate) fn parse(question: &Name, sections: &Sections) -> [Vec<Record>; 3] {
    // ID 0, the flags QR and AA, and one question.
    let mut message = vec![0, 0, 0x84, 0, 0, 1];
    for count in [sections.answers, sections.authorities, sections.additionals] {
        message.extend(count.to_be_bytes());
    }
    message.extend(question.wire());
    // Type A, class IN.
    message.extend([0, 1, 0, 1]);
    message.extend(&sections.bytes);

    let message = Message::from_octets(message).unwrap();
    let answer = message.answer().unwrap();
    let authority = answer.next_section().unwrap().unwrap();
    let additional = authority.next_section().unwrap().unwrap();
    let mut end = additional;
    assert!(
        end.by_ref().all(|record| record.is_ok()),
        "a record of the additional section can't be parsed"
    );
    assert_eq!(
        end.pos(),
        message.as_slice().len(),
        "the message must end after its last record"
    );
    [answer, authority, additional].map(|section| {
        section
            .map(|record| read_record(&record.unwrap()))
            .collect()
    })
}

fn read_record(record: &ParsedRecord<'_, Vec<u8>>) -> Record {
    assert_eq!(record.class(), Class::IN);
    macro_rules! data {
        ($type:ty) => {
            record.to_record::<$type>().unwrap().unwrap().into_data()
        };
    }
    let data = match record.rtype() {
        Rtype::A => Rdata::A(data!(A).addr()),
        Rtype::AAAA => Rdata::Aaaa(data!(Aaaa).addr()),
        Rtype::CNAME => Rdata::Cname(read_name(data!(Cname<_>).cname())),
        Rtype::NS => Rdata::Ns(read_name(data!(Ns<_>).nsdname())),
        Rtype::PTR => Rdata::Ptr(read_name(data!(Ptr<_>).ptrdname())),
        Rtype::SOA => {
            let soa = data!(ParsedSoa<_>);
            Rdata::Soa(Soa {
                mname: read_name(soa.mname()),
                rname: read_name(soa.rname()),
                serial: soa.serial().into_int(),
                refresh: soa.refresh().as_secs(),
                retry: soa.retry().as_secs(),
                expire: soa.expire().as_secs(),
                minimum: soa.minimum().as_secs(),
            })
        }
        Rtype::SRV => {
            let srv = data!(ParsedSrv<_>);
            Rdata::Srv(Srv {
                priority: srv.priority(),
                weight: srv.weight(),
                port: srv.port(),
                target: read_name(srv.target()),
            })
        }
        Rtype::TXT => Rdata::Txt(data!(Txt<_>).text::<Vec<u8>>().into()),
        rtype => panic!("the agent writes no {rtype} records"),
    };
    Record {
        owner: read_name(&record.owner()),
        ttl: record.ttl().as_secs(),
        data,
    }
}

fn read_name(name: &impl ToName) -> Name {
    Name::from_wire(name.to_vec().as_slice()).unwrap()
}

fn data(answer: Vec<Record>, additional: Vec<Record>) -> Answer {
    Answer::Data { answer, additional }
}

/// An apex with the serial 7 and TTLs of 5 s.
fn apex(zone: &str) -> Apex {
    Apex::new(name(zone), 7, 5, 5).unwrap()
}

#[test]
fn names_are_compressed_against_the_question() {
    let question = name("web.z");
    let address = record("web.z", Rdata::A([10, 0, 0, 1].into()));
    let sections = render(&question, &data(vec![address], vec![]), &[], 0);
    let bytes = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1];
    assert_eq!(sections.bytes, bytes);
    assert_eq!(
        (sections.answers, sections.authorities, sections.additionals),
        (1, 0, 0)
    );

    // The last bytes are RDLENGTH and the target. The target's parent is in the question, at 12
    // plus the four bytes of the label "web".
    let alias = record("web.z", Rdata::Cname(name("db.z")));
    let sections = render(&question, &data(vec![alias], vec![]), &[], 0);
    assert_eq!(sections.bytes[10..], [0, 5, 2, b'd', b'b', 0xc0, 16]);
}

#[test]
fn srv_targets_are_not_compressed_but_later_names_point_into_them() {
    let question = name("_a._b.web.z");
    let srv = Rdata::Srv(Srv {
        priority: 0,
        weight: 100,
        port: 80,
        target: name("ep.web.z"),
    });
    let additional = record("ep.web.z", Rdata::A([10, 0, 0, 1].into()));
    let answer = data(vec![record("_a._b.web.z", srv)], vec![additional]);
    let sections = render(&question, &answer, &[], 0);
    assert_eq!(sections.bytes[18..28], *b"\x02ep\x03web\x01z\0");
    // 12 bytes of header, 13 of name and 4 of type and class, 18 up to the target.
    assert_eq!(sections.bytes[28..30], [0xc0, 12 + 13 + 4 + 18]);
    assert_eq!((sections.answers, sections.additionals), (1, 1));
}

#[test]
fn negative_answers_always_have_54_bytes() {
    let zones = [apex("cluster.local"), apex("z")];
    // The SOA record has 12 bytes up to its data, names of 9 and 13 bytes, and 20 bytes of numbers.
    // MNAME and RNAME end with a pointer to the zone's name, even if the question also contains
    // `ns.dns` or `hostmaster`. `at` is the offset of the zone's name in the question: 12 plus the
    // labels before it.
    for (question, zone, at) in [
        ("a.svc.cluster.local", 0, 12 + 6),
        ("cluster.local", 0, 12),
        ("ns.dns.cluster.local", 0, 12 + 7),
        ("hostmaster.cluster.local", 0, 12 + 11),
        ("a.ns.dns.cluster.local", 0, 12 + 9),
        ("ns.dns.z", 1, 12 + 7),
    ] {
        for answer in [Answer::NoData { zone }, Answer::NxDomain { zone }] {
            let question = name(question);
            let sections = render(&question, &answer, &zones, 3);
            assert_eq!(sections.bytes.len(), 54, "{question}");
            assert_eq!(sections.bytes[..2], [0xc0, at], "{question}");
            assert_eq!(
                sections.bytes[12..21],
                [&b"\x02ns\x03dns\xc0"[..], &[at]].concat()
            );
            let [answers, authority, additional] = parse(&question, &sections);
            assert_eq!((answers, additional), (vec![], vec![]));
            assert_eq!(
                authority,
                [Record {
                    owner: zones[zone].name.clone(),
                    ttl: zones[zone].negative_ttl,
                    data: Rdata::Soa(zones[zone].soa.clone()),
                }]
            );
        }
    }
}

#[test]
fn only_addresses_of_the_answer_section_are_rotated() {
    let addresses = |owner: &str, lasts: &[u8]| -> Vec<Record> {
        let data = |last: &u8| Rdata::A([10, 0, 0, *last].into());
        lasts.iter().map(|last| record(owner, data(last))).collect()
    };
    let mut answer = vec![
        record("q.z", Rdata::Cname(name("r.z"))),
        record("r.z", Rdata::Cname(name("s.z"))),
    ];
    answer.extend(addresses("s.z", &[1, 2, 3]));
    let additional = addresses("t.z", &[4, 5]);
    let question = name("q.z");
    for (rotation, turned) in [
        (0, [1, 2, 3]),
        (1, [2, 3, 1]),
        (5, [3, 1, 2]),
        // A multiple of 3.
        (usize::MAX, [1, 2, 3]),
    ] {
        let both = data(answer.clone(), additional.clone());
        let [shown, _, more] = parse(&question, &render(&question, &both, &[], rotation));
        assert_eq!(shown[..2], answer[..2]);
        assert_eq!(shown[2..], addresses("s.z", &turned), "rotation {rotation}");
        assert_eq!(more, additional);
    }
}

#[test]
fn alias_chains_and_empty_answers_are_rendered() {
    let question = name("q.z");
    let chain = vec![record("q.z", Rdata::Cname(name("www.example.org")))];
    let alias = Answer::Alias {
        chain: chain.clone(),
        target: name("www.example.org"),
    };
    assert_eq!(
        parse(&question, &render(&question, &alias, &[], 1))[0],
        chain
    );
    let nothing = render(&question, &Answer::NotAuthoritative, &[], 1);
    assert_eq!((nothing.answers, nothing.bytes), (0, vec![]));
}

#[test]
fn names_beyond_the_reach_of_pointers_are_not_compressed() {
    let question = name("q.z");
    // Each name occurs twice. The second one is compressed if a pointer can hold the offset of the
    // first.
    let target = |host: u32| name(&format!("host-{host}.far-{host}.example"));
    let many: Vec<Record> = (0..2000)
        .map(|index| record("q.z", Rdata::Ptr(target(index / 2))))
        .collect();
    let sections = render(&question, &data(many.clone(), vec![]), &[], 0);
    assert!(
        sections.bytes.len() > 0x4000,
        "every offset fits into a pointer"
    );
    assert_eq!(parse(&question, &sections)[0], many);
}

fn any_name() -> impl Strategy<Value = Name> {
    let label = prop::sample::select(vec!["a", "b", "web", "ns", "dns", "z", "hostmaster"]);
    prop::collection::vec(label, 0..5).prop_map(|labels| {
        labels.iter().fold(name("z"), |name, label| {
            name.child(label.as_bytes()).unwrap()
        })
    })
}

fn any_data() -> impl Strategy<Value = Rdata> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|bytes| Rdata::A(bytes.into())),
        any::<[u8; 16]>().prop_map(|bytes| Rdata::Aaaa(bytes.into())),
        any_name().prop_map(Rdata::Cname),
        any_name().prop_map(Rdata::Ns),
        any_name().prop_map(Rdata::Ptr),
        any_name().prop_map(|name| Rdata::Soa(Apex::new(name, 9, 5, 5).unwrap().soa)),
        (any::<[u16; 3]>(), any_name()).prop_map(|([priority, weight, port], target)| {
            Rdata::Srv(Srv {
                priority,
                weight,
                port,
                target,
            })
        }),
        prop::collection::vec(any::<u8>(), 0..=255).prop_map(|text| Rdata::Txt(text.into())),
    ]
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    // A TTL has 31 bits (RFC 2181 §8).
    let record = (any_name(), 0..i32::MAX as u32, any_data())
        .prop_map(|(owner, ttl, data)| Record { owner, ttl, data });
    prop::collection::vec(record, 0..12)
}

proptest! {
    #[test]
    fn rendered_records_are_read_back(
        question in any_name(),
        answer in any_records(),
        additional in any_records(),
    ) {
        let sections = render(&question, &data(answer.clone(), additional.clone()), &[], 0);
        prop_assert_eq!(parse(&question, &sections), [answer, vec![], additional]);
    }
}

#[test]
fn the_soa_of_an_answer_is_read_back() {
    let model = model([]);
    let question = name("z");
    let answer = model.answer(&question, Rtype::SOA);
    let [records, ..] = parse(&question, &render(&question, &answer, model.zones(), 0));
    assert_eq!(
        records,
        [record("z", Rdata::Soa(model.zones()[0].soa.clone()))]
    );
}
