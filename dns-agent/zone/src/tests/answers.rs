//! Answers of a model, before rendering.

use crate::{Answer, ComputedNames, ModelBuilder, Rdata, Rtype, ZoneData};

use super::{model, name, record};

fn a(last: u8) -> Rdata {
    Rdata::A([10, 0, 0, last].into())
}

#[test]
fn an_rrset_is_in_canonical_order_without_duplicates() {
    let model = model([
        record("a.z", a(3)),
        record("a.z", a(1)),
        record("a.z", a(3)),
        record("a.z", a(2)),
    ]);
    let Answer::Data { answer, additional } = model.answer(&name("A.Z"), Rtype::A) else {
        panic!("the answer for A.Z is not data");
    };
    assert_eq!(answer, [1, 2, 3].map(|last| record("a.z", a(last))));
    assert_eq!(additional, []);
}

#[test]
fn names_between_a_name_and_its_apex_exist() {
    let model = model([record("a.b.c.z", a(1)), record("out.y", a(1))]);
    let no_data = Answer::NoData { zone: 0 };
    let nx_domain = Answer::NxDomain { zone: 0 };
    for (question, rtype, answer) in [
        ("b.c.z", Rtype::A, &no_data),
        ("c.z", Rtype::A, &no_data),
        ("z", Rtype::A, &no_data),
        ("a.b.c.z", Rtype::TXT, &no_data),
        ("x.a.b.c.z", Rtype::A, &nx_domain),
        ("x.c.z", Rtype::A, &nx_domain),
        ("y", Rtype::A, &Answer::NotAuthoritative),
        ("x.y", Rtype::A, &Answer::NotAuthoritative),
        ("out.y", Rtype::AAAA, &Answer::NotAuthoritative),
        // Ends with the letter z, but not with the label.
        ("az", Rtype::A, &Answer::NotAuthoritative),
        (".", Rtype::NS, &Answer::NotAuthoritative),
    ] {
        assert_eq!(&model.answer(&name(question), rtype), answer, "{question}");
    }
    let mut names: Vec<String> = model.entries().map(|(name, _)| name.to_string()).collect();
    names.sort_unstable();
    // Nothing is added above `out.y`, which is in no zone.
    assert_eq!(names, ["a.b.c.z.", "b.c.z.", "c.z.", "out.y.", "z."]);
}

#[test]
fn an_entry_lists_its_types() {
    let alias = Rdata::Cname(name("elsewhere"));
    let model = model([record("a.z", a(1)), record("alias.z", alias)]);
    let entry = |wanted: &str| {
        let wanted = name(wanted);
        let mut entries = model.entries();
        entries.find(|(name, _)| **name == wanted).unwrap().1
    };
    assert_eq!(entry("a.z").types().collect::<Vec<_>>(), [Rtype::A]);
    assert!(!entry("a.z").is_alias());
    assert_eq!(entry("alias.z").types().collect::<Vec<_>>(), [Rtype::CNAME]);
    assert!(entry("alias.z").is_alias());
    assert_eq!(entry("z").types().collect::<Vec<_>>(), [Rtype::SOA]);
}

#[test]
fn computed_names_are_answered() {
    let mut builder = ModelBuilder::new(7);
    builder.add_zone(name("z"), 5).unwrap();
    builder.add(record("a.z", a(1)));
    builder.set_computed_names(name("empty.z"), ComputedNames::Empty);
    builder.set_computed_names(name("like.z"), ComputedNames::Like(name("a.z")));
    // The numbers are TTLs.
    builder.set_computed_names(name("ip.z"), ComputedNames::Addresses(9));
    builder.set_computed_names(name("any.z"), ComputedNames::EmptyThenAddresses(9));
    let model = builder.build();
    let kind = |question: &str| match model.answer(&name(question), Rtype::A) {
        Answer::Data { answer, .. } => {
            assert_eq!(answer[0].owner, name(question));
            "data"
        }
        Answer::NoData { .. } => "no data",
        Answer::NxDomain { .. } => "no name",
        other => panic!("{question} has the answer {other:?}"),
    };
    for (question, expected) in [
        ("x.empty.z", "no data"),
        ("y.x.empty.z", "no name"),
        ("x.like.z", "data"),
        ("y.x.like.z", "no name"),
        ("1-2-3-4.ip.z", "data"),
        ("x.ip.z", "no name"),
        ("x.1-2-3-4.ip.z", "no name"),
        ("x.any.z", "no data"),
        ("1-2-3-4.x.any.z", "data"),
        ("x.x.any.z", "no name"),
        ("1-2-3-4.x.empty.z", "no name"),
    ] {
        assert_eq!(kind(question), expected, "{question}");
    }
}
