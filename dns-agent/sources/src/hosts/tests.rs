//! Tests of hosts files: lines, records, changes and origins.

use zerohop_zone::Answer;

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// One file `/h` with this text.
fn hosts_of(text: &str) -> HostsFiles {
    let mut hosts = HostsFiles::new(&[PathBuf::from("/h")], 5);
    hosts = hosts.with_contents(0, Some(HostsFile::parse(text.as_bytes())));
    hosts
}

/// The answer as text: the data of its records, or how it is negative.
fn answer(hosts: &HostsFiles, question: &str, rtype: Rtype) -> String {
    match hosts.zone_data().answer(&name(question), rtype) {
        Answer::Data { answer, .. } => {
            let texts = answer.iter().map(ToString::to_string);
            let data = texts.map(|text| text.rsplit(' ').next().unwrap_or_default().to_owned());
            data.collect::<Vec<_>>().join(" ")
        }
        Answer::NoDataAtName { soa } => {
            assert_eq!(soa.owner, name(question));
            "NODATA".to_owned()
        }
        Answer::NotAuthoritative => "passes".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn lines_make_records() {
    let hosts = hosts_of(
        "\u{feff}# a comment\r\n\
         10.0.0.5\tDB.corp.example db # the database\r\n\
         \n\
         fd00::5 db.corp.example.\n\
         10.0.0.6 10.0.0.7 two_addresses.corp.example\n\
         ::ffff:10.0.0.8 mapped.corp.example\n\
         0.0.0.0 blocked.example # \u{e9} and \u{20ac}\n\
         10.0.0.5 db\n",
    );
    for (question, rtype, expected) in [
        ("db.corp.example", Rtype::A, "10.0.0.5"),
        ("db.corp.example", Rtype::AAAA, "fd00::5"),
        ("db.corp.example", Rtype::MX, "passes"),
        ("db", Rtype::A, "10.0.0.5"),
        ("db", Rtype::AAAA, "NODATA"),
        ("two_addresses.corp.example", Rtype::A, "10.0.0.6 10.0.0.7"),
        ("mapped.corp.example", Rtype::A, "10.0.0.8"),
        ("mapped.corp.example", Rtype::AAAA, "NODATA"),
        ("blocked.example", Rtype::A, "0.0.0.0"),
        // A file says nothing about other names.
        ("corp.example", Rtype::A, "passes"),
        ("other.corp.example", Rtype::A, "passes"),
        ("x.db.corp.example", Rtype::A, "passes"),
        ("5.0.0.10.in-addr.arpa", Rtype::PTR, "db. db.corp.example."),
        ("5.0.0.10.in-addr.arpa", Rtype::A, "passes"),
        ("8.0.0.10.in-addr.arpa", Rtype::PTR, "mapped.corp.example."),
        ("9.0.0.10.in-addr.arpa", Rtype::PTR, "passes"),
        ("0.0.0.0.in-addr.arpa", Rtype::PTR, "passes"),
    ] {
        let found = answer(&hosts, question, rtype);
        assert_eq!(found, expected, "{question} {rtype}");
    }
    assert_eq!(hosts.problems(), BTreeSet::new());
    assert_eq!(hosts.count_names(0), 5);
}

#[test]
fn a_bad_line_is_reported_and_skipped() {
    for (line, reason) in [
        ("db 10.0.0.5", "\"db\" is not an IP address"),
        ("10.0.0.256 db", "\"10.0.0.256\" is not an IP address"),
        ("fe80::1%eth0 db", "has an interface"),
        ("10.0.0.5", "no name follows"),
        ("10.0.0.5 # db", "no name follows"),
        ("10.0.0.5 db 10.0.0.6", "10.0.0.6 comes after a name"),
        ("10.0.0.5 db *.corp", "\"*.corp\" is not a host name"),
        ("10.0.0.5 db a..b", "\"a..b\" is not a host name"),
        ("10.0.0.5 10.0.0.256 db", "\"10.0.0.256\" is neither"),
        ("10.0.0.5 10.0.0.6. db", "\"10.0.0.6.\" is neither"),
        ("10.0.0.5 .", "\".\" is not a host name"),
        ("10.0.0.5 \u{e9}t\u{e9}", "is not a host name"),
    ] {
        let hosts = hosts_of(&format!("10.0.0.1 before\n{line}\n10.0.0.2 after\n"));
        let problems = hosts.problems();
        let problem = problems.iter().next().unwrap();
        assert_eq!(problems.len(), 1, "{line}");
        assert!(problem.starts_with("hosts file /h, line 2: "), "{problem}");
        assert!(problem.contains(reason), "{line}: {problem}");
        assert_eq!(answer(&hosts, "before", Rtype::A), "10.0.0.1");
        assert_eq!(answer(&hosts, "after", Rtype::A), "10.0.0.2");
        assert_eq!(answer(&hosts, "db", Rtype::A), "passes", "{line}");
    }
    let mut hosts = HostsFiles::new(&[PathBuf::from("/h")], 5);
    hosts = hosts.with_contents(
        0,
        Some(HostsFile::parse(b"10.0.0.5 \xff\n10.0.0.6 a # \xff\n")),
    );
    assert_eq!(hosts.problems().len(), 1);
    assert_eq!(answer(&hosts, "a", Rtype::A), "10.0.0.6");
}

#[test]
fn what_a_file_may_have_is_bounded() {
    let many: String = (0..300)
        .map(|it| format!("10.0.{}.{} many\n", it / 200, it % 200))
        .collect();
    let hosts = hosts_of(&many);
    assert_eq!(
        answer(&hosts, "many", Rtype::A).split(' ').count(),
        MAX_RECORDS
    );
    let problems = hosts.problems();
    assert!(
        problems
            .iter()
            .all(|it| it.contains("more than 256 addresses")),
        "{problems:?}"
    );

    let many: String = (0..300).map(|it| format!("10.0.0.1 name-{it}\n")).collect();
    let hosts = hosts_of(&many);
    let pointers = answer(&hosts, "1.0.0.10.in-addr.arpa", Rtype::PTR);
    assert_eq!(pointers.split(' ').count(), MAX_RECORDS);

    let hosts = hosts_of(&"bad\n".repeat(1000));
    let problems = hosts.problems();
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
    assert!(
        problems.iter().any(|it| it.contains("980 more lines")),
        "{problems:?}"
    );

    let line = format!("10.0.0.1 10.0.0.2 {}\n", "a ".repeat(1 << 9));
    let hosts = hosts_of(&line.repeat(257));
    let problems = hosts.problems();
    assert!(
        problems
            .iter()
            .any(|it| it.contains("line 257: the file has more")),
        "{problems:?}"
    );
}

#[test]
fn a_reading_changes_the_names_that_differ() {
    let mut hosts = HostsFiles::new(&[PathBuf::from("/one"), PathBuf::from("/two")], 5);
    assert!(!hosts.is_complete());
    let read = |hosts: &mut HostsFiles, number, text: &str| -> Vec<String> {
        *hosts = hosts.with_contents(number, Some(HostsFile::parse(text.as_bytes())));
        let changes = hosts.take_changes();
        assert!(!changes.everything);
        changes
            .all_names()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    let first = read(&mut hosts, 0, "10.0.0.1 a\n10.0.0.2 b\n");
    assert_eq!(first.len(), 4);
    // The second file can't be read.
    hosts = hosts.with_contents(1, None);
    assert!(hosts.is_complete());
    assert_eq!(
        read(&mut hosts, 0, "10.0.0.2 b\n10.0.0.1 a # moved\n"),
        [""; 0]
    );
    assert_eq!(
        read(&mut hosts, 0, "10.0.0.3 a\n10.0.0.2 b\n"),
        ["1.0.0.10.in-addr.arpa.", "3.0.0.10.in-addr.arpa.", "a."]
    );
    // A name has the addresses of all files.
    assert_eq!(
        read(&mut hosts, 1, "10.0.0.4 a\n"),
        ["4.0.0.10.in-addr.arpa.", "a."]
    );
    assert_eq!(answer(&hosts, "a", Rtype::A), "10.0.0.3 10.0.0.4");
    // An unreadable file keeps its names.
    hosts = hosts.with_contents(1, None);
    assert!(hosts.take_changes().is_empty());
    assert_eq!(answer(&hosts, "a", Rtype::A), "10.0.0.3 10.0.0.4");
}

#[test]
fn records_come_from_lines() {
    let hosts = hosts_of("# one\n10.0.0.5 db db.corp\n10.0.0.6 db\n");
    let lines = |owner: &str, data: Rdata| {
        let record = Record {
            owner: name(owner),
            ttl: 5,
            data,
        };
        match hosts.origin_of(&record) {
            Origin::Objects(lines) => lines.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => vec![format!("{other:?}")],
        }
    };
    assert_eq!(lines("db", Rdata::A([10, 0, 0, 6].into())), ["File /h:3"]);
    assert_eq!(
        lines("5.0.0.10.in-addr.arpa", Rdata::Ptr(name("db.corp"))),
        ["File /h:2"]
    );
    assert_eq!(lines("db", Rdata::A([10, 0, 0, 7].into())), ["Unknown"]);
    let problem = hosts.outranked_problem(&name("db")).unwrap();
    assert!(problem.starts_with("File /h:2: db."), "{problem}");
}

#[test]
fn a_walk_gives_every_name_once() {
    let text: String = (0..1000).map(|it| format!("0.0.0.0 name-{it}\n")).collect();
    let hosts = hosts_of(&text);
    let mut position = WalkPosition::default();
    let mut names = BTreeSet::new();
    while let Some((found, next)) = hosts.walk(None, &position) {
        for name in found {
            assert!(names.insert(name));
        }
        position = next;
    }
    assert_eq!(names.len(), 1000);
}
