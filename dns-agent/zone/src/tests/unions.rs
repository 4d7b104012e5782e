//! Tests of the union of several providers' zone data.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{name, record};
use crate::{
    AbsentNames, Answer, ComputedNames, ExactNames, Model, ModelBuilder, Name, NameChanges,
    NameEntry, NameOwner, Rdata, Rtype, Standing, Union, UnionMember, Window, ZoneData,
};

/// The zone `z` with a name, a name with computed names, and a delegated name; and below it the
/// zone `through.z`, whose absent names pass.
fn zones() -> Model {
    let mut builder = ModelBuilder::new(7);
    builder.add_zone(name("z"), 5).unwrap();
    builder.add_zone(name("through.z"), 5).unwrap();
    builder.set_absent_names(|zone| match *zone == name("z") {
        true => AbsentNames::Denied,
        false => AbsentNames::Passed,
    });
    builder.add(record("there.z", Rdata::A([10, 0, 0, 1].into())));
    builder.add(record("there.through.z", Rdata::A([10, 0, 0, 1].into())));
    builder.add(record("alias.z", Rdata::Cname(name("new.through.z"))));
    builder.set_computed_names(name("pods.z"), ComputedNames::Addresses(5));
    builder.set_computed_names(name("pods.through.z"), ComputedNames::Addresses(5));
    builder.set_computed_names(name("any.z"), ComputedNames::EmptyThenAddresses(5));
    builder.delegate(name("delegated.z"));
    // A reverse name outside the zones.
    let pointer = Rdata::Ptr(name("there.z"));
    builder.add(record("1.2.0.192.in-addr.arpa", pointer));
    builder.build()
}

/// Hosts with the address 192.0.2.1.
fn hosts(names: &[&str]) -> ExactNames {
    let address = [IpAddr::from([192, 0, 2, 1])];
    let entry = Arc::new(NameEntry::of_host(5, &address));
    let entries = names.iter().map(|text| (name(text), entry.clone()));
    ExactNames::new(entries.collect::<BTreeMap<_, _>>())
}

fn union<'a>(members: [(&'a dyn ZoneData, Standing); 2]) -> Union<'a> {
    let members = members.map(|(data, standing)| UnionMember {
        data: Box::new(data),
        standing,
    });
    Union::new(members.into())
}

fn answer(data: &dyn ZoneData, question: &str, rtype: Rtype) -> String {
    match data.answer(&name(question), rtype) {
        Answer::Data { answer, .. } => {
            let data = answer.iter().map(|record| match &record.data {
                Rdata::A(address) => address.to_string(),
                Rdata::Cname(target) => target.to_string(),
                other => panic!("unexpected data: {other}"),
            });
            data.collect::<Vec<_>>().join(" ")
        }
        Answer::NoData { .. } => "NODATA".to_owned(),
        Answer::NoDataAtName { .. } => "NODATA of the name".to_owned(),
        Answer::NxDomain { .. } => "NXDOMAIN".to_owned(),
        Answer::Alias { .. } => "ALIAS".to_owned(),
        Answer::NotYetKnown => "NOT YET KNOWN".to_owned(),
        Answer::NotAuthoritative => "passes".to_owned(),
    }
}

/// The names that a visit shows.
fn visited(data: &dyn ZoneData) -> Vec<String> {
    let mut names = Vec::new();
    data.visit(Window::WHOLE, &mut |name, _| names.push(name.to_string()));
    names.sort();
    names
}

const HOSTS: &[&str] = &[
    "outside",
    "there.z",
    "there.through.z",
    "new.z",
    "new.through.z",
    "below.delegated.z",
    "10-0-0-1.pods.z",
    "10-0-0-1.pods.through.z",
    "deep.one.two.z",
    "ns.any.z",
    "1.2.0.192.in-addr.arpa",
    "2.2.0.192.in-addr.arpa",
];

#[test]
fn a_name_belongs_to_the_first_provider_that_decides() {
    let (zones, hosts) = (zones(), hosts(HOSTS));
    let answered = Standing::Answered;
    let zones_first = union([(&zones, answered), (&hosts, answered)]);
    let hosts_first = union([(&hosts, answered), (&zones, answered)]);
    let zones_passed = union([(&zones, Standing::Passed), (&hosts, answered)]);
    let overriding = union([(&hosts, answered), (&zones, Standing::Passed)]);
    let host = "192.0.2.1";
    for (question, expected) in [
        ("outside", [host; 4]),
        ("there.z", ["10.0.0.1", host, "passes", host]),
        ("there.through.z", ["10.0.0.1", host, "passes", host]),
        ("new.z", ["NXDOMAIN", host, "passes", host]),
        ("new.through.z", [host, host, "passes", host]),
        ("below.delegated.z", ["passes", host, "passes", host]),
        ("10-0-0-1.pods.z", ["10.0.0.1", host, "passes", host]),
        (
            "10-0-0-2.pods.z",
            ["10.0.0.2", "10.0.0.2", "passes", "passes"],
        ),
        (
            "10-0-0-1.pods.through.z",
            ["10.0.0.1", host, "passes", host],
        ),
        ("other.z", ["NXDOMAIN", "NXDOMAIN", "passes", "passes"]),
        ("other.through.z", ["passes"; 4]),
        ("other", ["passes"; 4]),
        (
            "alias.z",
            [
                "new.through.z. 192.0.2.1",
                "new.through.z. 192.0.2.1",
                "passes",
                "passes",
            ],
        ),
        // The other names that the zone computes below a name of a host stay.
        ("ns.any.z", ["NODATA", host, "passes", host]),
        (
            "10-0-0-1.ns.any.z",
            ["10.0.0.1", "10.0.0.1", "passes", "passes"],
        ),
        ("1.2.0.192.in-addr.arpa", ["passes", host, "passes", host]),
        ("2.2.0.192.in-addr.arpa", [host; 4]),
        // Names above a name that overrides a denial exist (RFC 8020).
        ("one.two.z", ["NXDOMAIN", "NODATA", "passes", "passes"]),
        ("two.z", ["NXDOMAIN", "NODATA", "passes", "passes"]),
    ] {
        let unions = [&zones_first, &hosts_first, &zones_passed, &overriding];
        let found = unions.map(|union| answer(union, question, Rtype::A));
        assert_eq!(found, expected, "{question}");
    }
    assert_eq!(
        answer(&zones_first, "outside", Rtype::AAAA),
        "NODATA of the name"
    );
    assert_eq!(answer(&zones_first, "outside", Rtype::MX), "passes");
    // The zone's other data of an overridden name is not answered either.
    assert_eq!(answer(&hosts_first, "there.z", Rtype::MX), "passes");
}

#[test]
fn a_visit_shows_each_name_that_is_answered() {
    let (zones, hosts) = (zones(), hosts(HOSTS));
    for standings in [
        [Standing::Answered, Standing::Answered],
        [Standing::Passed, Standing::Answered],
        [Standing::Answered, Standing::Passed],
    ] {
        let [one, two] = standings;
        for union in [
            union([(&zones, one), (&hosts, two)]),
            union([(&hosts, one), (&zones, two)]),
        ] {
            let mut expected: Vec<String> =
                visited(&zones).into_iter().chain(visited(&hosts)).collect();
            expected.extend(["one.two.z.".to_owned(), "two.z.".to_owned()]);
            expected.retain(|text| union.entry(&name(text)).is_some());
            expected.sort();
            expected.dedup();
            assert_eq!(visited(&union), expected, "{standings:?}");
            union.visit(Window::WHOLE, &mut |name, entry| {
                assert_eq!(union.entry(name).as_deref(), Some(entry), "{name}");
            });
        }
    }
}

#[test]
fn a_change_may_concern_names_of_other_providers() {
    let (zones, hosts) = (zones(), hosts(HOSTS));
    let union = union([(&zones, Standing::Answered), (&hosts, Standing::Answered)]);
    let changes = |text: &str| NameChanges {
        names: [(NameOwner::new("owner"), [name(text)].into())].into(),
        everything: false,
    };
    // The name may have got computed names.
    let decided = union
        .with_decided_names(changes("pods.through.z"))
        .all_names();
    let decided: Vec<String> = decided.iter().map(Name::to_string).collect();
    assert_eq!(decided, ["pods.through.z.", "10-0-0-1.pods.through.z."]);
    // A name above a host exists only as long as no other provider has it.
    let above = union.with_decided_names(changes("two.z")).all_names();
    assert!(above.contains(&name("one.two.z")), "{above:?}");
    // Aliases of the zone may lead to the host.
    assert!(union.may_change_other_names(1, &changes("new.through.z")));
    assert!(!union.may_change_other_names(1, &changes("outside")));
    // The host is not answered anyway.
    assert!(!union.may_change_other_names(1, &changes("there.z")));
    let through = union.exact_names_in(&[name("through.z")]);
    assert!(through.contains(&name("new.through.z")) && !through.contains(&name("new.z")));
    assert!(!union.may_change_other_names(0, &changes("there.z")));
}

#[test]
fn names_that_others_decide_are_found() {
    let (zones, hosts) = (zones(), hosts(HOSTS));
    let answered = Standing::Answered;
    let outranked = union([(&zones, answered), (&hosts, answered)]).outranked_names(1);
    let answered_names = ["outside", "new.through.z", "2.2.0.192.in-addr.arpa"].map(name);
    assert_eq!(outranked.len(), HOSTS.len() - answered_names.len());
    assert!(answered_names.iter().all(|name| !outranked.contains(name)));
    let hosts_first = union([(&hosts, answered), (&zones, answered)]);
    assert_eq!(hosts_first.outranked_names(0), []);
    assert_eq!(hosts_first.outranked_names(1), []);
}

#[test]
fn zones_of_several_providers_are_merged() {
    let mut other = ModelBuilder::new(7);
    other.add_zone(name("a-longer-name"), 5).unwrap();
    other.add_zone(name("z"), 30).unwrap();
    other.add(record("only.z", Rdata::A([10, 0, 0, 9].into())));
    other.delegate(name("x.a-longer-name"));
    let (zones, other) = (zones(), other.build());
    let union = union([(&zones, Standing::Answered), (&other, Standing::Answered)]);
    let names: Vec<String> = union
        .zones()
        .iter()
        .map(|zone| zone.name.to_string())
        .collect();
    assert_eq!(names, ["a-longer-name.", "through.z.", "z."]);
    assert_eq!(union.zones()[2].soa.minimum, 5);
    // The first provider denies it.
    assert_eq!(answer(&union, "only.z", Rtype::A), "NXDOMAIN");
    assert_eq!(answer(&union, "x.a-longer-name", Rtype::A), "passes");
    assert_eq!(answer(&union, "x.delegated.z", Rtype::A), "passes");
    assert_eq!(answer(&union, "y.a-longer-name", Rtype::A), "NXDOMAIN");
}
