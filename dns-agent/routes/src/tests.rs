//! The ways of questions, by a table of blocks.

use std::time::Duration;

use zerohop_zone::{Name, Rdata, Rtype};

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

/// A group with a server of this last byte, for all names.
fn forward(last: u8) -> Forward {
    Forward {
        zone: Name::root(),
        except: Vec::new(),
        group: Some(ForwardGroup {
            servers: vec![ForwardServer::Plain(([192, 0, 2, last], 53).into())],
            policy: UpstreamPolicy::Fastest,
            transport: ForwardTransport::UdpAndTcp,
            trust: GroupTrust::Given,
            origin: String::new(),
        }),
    }
}

fn block(zones: &[&str]) -> RouteBlock {
    RouteBlock {
        zones: names(zones),
        forwards: vec![forward(zones.len() as u8)],
        ..RouteBlock::default()
    }
}

/// The way of a question, as a word.
fn describe(way: &Way<'_>) -> String {
    match way {
        Way::ClusterDns => "cluster".to_owned(),
        Way::Rewritten(rewriting) => format!("= {}", rewriting.name),
        Way::Answer(answer) => {
            let data = |record: &Record| match &record.data {
                Rdata::A(address) => address.to_string(),
                Rdata::Aaaa(address) => address.to_string(),
                other => format!("{other:?}"),
            };
            let records: Vec<String> = answer.records.iter().map(data).collect();
            format!("{} {}", answer.rcode, records.join(" "))
        }
        Way::Forward(forwarding) => {
            let addresses = forwarding.group.addresses();
            let addresses: Vec<String> = addresses.map(|it| it.to_string()).collect();
            addresses.join(" ")
        }
    }
}

#[track_caller]
fn check(routes: &Routes, cases: &[(&str, Rtype, &str)]) {
    for (text, rtype, expected) in cases {
        let way = routes.way(&name(text), *rtype);
        assert_eq!(describe(&way).trim(), *expected, "{text} {rtype}");
    }
}

fn one(last: u8) -> String {
    format!("192.0.2.{last}:53")
}

#[test]
fn a_name_belongs_to_the_block_with_the_longest_zone() {
    let routes = Routes::new(vec![
        block(&["corp.example", "a.b.corp.example", "x.test"]),
        block(&["."]),
        block(&["b.corp.example", "10.in-addr.arpa"]),
        // Of equal zones the first one counts.
        block(&["corp.example"]),
    ]);
    let (three, root, two) = (one(3), one(1), one(2));
    check(
        &routes,
        &[
            ("corp.example", Rtype::A, &three),
            ("www.corp.example", Rtype::A, &three),
            ("b.corp.example", Rtype::A, &two),
            ("x.b.corp.example", Rtype::A, &two),
            ("x.a.b.corp.example", Rtype::A, &three),
            ("xcorp.example", Rtype::A, &root),
            (".", Rtype::NS, &root),
            ("1.2.3.10.in-addr.arpa", Rtype::PTR, &two),
        ],
    );
    let stub_only = Routes::new(vec![block(&["corp.example"])]);
    check(&stub_only, &[("example.org", Rtype::A, "cluster")]);
}

#[test]
fn excluded_questions_go_to_the_cluster_dns() {
    let mut excluding = block(&["."]);
    excluding.cluster_zones = names(&["cluster.local"]);
    excluding.exclusions = vec![
        Exclusion::Names(names(&["other.example"])),
        Exclusion::Pattern(NamePattern::Prefix("localhost.".into())),
        Exclusion::Type(Rtype::AAAA, names(&["six.example"])),
    ];
    let server = one(1);
    check(
        &Routes::new(vec![excluding]),
        &[
            ("web.cluster.local", Rtype::A, "cluster"),
            ("x.other.example", Rtype::A, "cluster"),
            // CoreDNS may write this name in another way than the pattern.
            ("a\\@b.example", Rtype::A, "cluster"),
            ("localhost.example", Rtype::A, "cluster"),
            ("a.six.example", Rtype::AAAA, "cluster"),
            ("a.six.example", Rtype::A, &server),
            ("a.example", Rtype::AAAA, &server),
        ],
    );
}

#[test]
fn entries_of_forward_take_names_in_their_order() {
    let mut several = block(&["."]);
    let first = Forward {
        zone: name("example"),
        except: names(&["b.example"]),
        ..forward(7)
    };
    several.forwards = vec![first];
    check(
        &Routes::new(vec![several.clone()]),
        &[
            ("a.example", Rtype::A, &one(7)),
            ("example", Rtype::A, &one(7)),
            ("x.b.example", Rtype::A, "cluster"),
            ("example.org", Rtype::A, "cluster"),
        ],
    );
    // CoreDNS ignores an exception for the zone itself.
    let mut itself = several.clone();
    itself.forwards[0].except = names(&["example"]);
    check(
        &Routes::new(vec![itself]),
        &[
            ("example", Rtype::A, &one(7)),
            ("a.example", Rtype::A, "cluster"),
        ],
    );
    several.forwards.push(forward(8));
    check(
        &Routes::new(vec![several]),
        &[
            ("x.b.example", Rtype::A, &one(8)),
            ("a.example", Rtype::A, &one(7)),
        ],
    );
}

#[test]
fn the_longest_configured_zone_leads_to_the_servers() {
    let mut several = block(&["example"]);
    let below = Forward {
        zone: name("b.example"),
        ..forward(7)
    };
    several.forwards.insert(0, below);
    let routes = Routes::new(vec![several, block(&[".", "x.test"])]);
    for (text, expected) in [
        ("a.example", "example"),
        ("a.b.example", "b.example"),
        ("a.x.test", "x.test"),
        ("a.test", "."),
    ] {
        let Way::Forward(forwarding) = routes.way(&name(text), Rtype::A) else {
            panic!("{text} is not forwarded");
        };
        assert_eq!(*forwarding.zone, name(expected), "{text}");
    }
}

#[test]
fn unknown_servers_are_those_of_the_cluster_dns() {
    let mut unknown = block(&["."]);
    unknown.forwards[0].group = None;
    unknown.templates = vec![TemplateRule {
        zones: names(&["."]),
        rtype: Some(Rtype::AAAA),
        patterns: vec![NamePattern::Prefix("".into())],
        rcode: 0,
        through: Vec::new(),
    }];
    // Rules before the servers count.
    check(
        &Routes::new(vec![unknown]),
        &[
            ("a.example", Rtype::A, "cluster"),
            ("a.example", Rtype::AAAA, "0"),
        ],
    );
}

#[test]
fn templates_answer_with_a_response_code() {
    let rule = |rtype, patterns: &[&str], rcode, through: &[&str]| TemplateRule {
        zones: names(&["example"]),
        rtype,
        patterns: (patterns.iter())
            .map(|it| NamePattern::from_regex(it).unwrap())
            .collect(),
        rcode,
        through: names(through),
    };
    let mut templates = block(&["."]);
    templates.templates = vec![
        rule(Some(Rtype::AAAA), &[""], 0, &[]),
        rule(None, &[r"^(?:[^.]+\.){4,}example\.$"], 3, &["example"]),
        rule(Some(Rtype::MX), &["^mail"], 5, &[]),
    ];
    let server = one(1);
    check(
        &Routes::new(vec![templates]),
        &[
            ("a.example", Rtype::AAAA, "0"),
            ("a.b.c.d.example", Rtype::A, "3"),
            ("b.c.d.example", Rtype::A, &server),
            ("mail.example", Rtype::MX, "5"),
            // Without `fallthrough`, no pattern means SERVFAIL.
            ("web.example", Rtype::MX, "2"),
            ("a.example", Rtype::ANY, "cluster"),
            ("a.example.org", Rtype::AAAA, &server),
        ],
    );
}

#[test]
fn hosts_have_addresses() {
    let mut rules = HostsRules::new(
        names(&["example"]),
        names(&["through.example"]),
        UnsupportedTypes::NoData,
        3600,
    );
    rules.add_text(
        "10.0.0.1 a.example A.example. # a comment\n\
         ::ffff:10.0.0.2 a.example\n\
         fd00::1%eth0 a.example\n\
         nonsense b.example\n\
         10.0.0.3 outside.test *.wild.example\n",
    );
    rules.add_text("10.0.0.9 a.example\n10.0.0.8 x.wild.example");
    let mut hosts = block(&["."]);
    hosts.hosts = Some(rules);
    let cache = CacheRules {
        max_ttl: 30,
        ..CacheRules::OFF
    };
    hosts.caching = vec![(names(&["."]), cache)];
    let routes = Routes::new(vec![hosts]);
    let server = one(1);
    check(
        &routes,
        &[
            (
                "a.example",
                Rtype::A,
                "0 10.0.0.1 10.0.0.1 10.0.0.2 10.0.0.9",
            ),
            ("a.example", Rtype::AAAA, "0 fd00::1"),
            ("a.example", Rtype::MX, "0"),
            ("a.example", Rtype::PTR, &server),
            ("b.example", Rtype::A, "2"),
            ("b.example", Rtype::PTR, &server),
            ("x.through.example", Rtype::A, &server),
            ("outside.test", Rtype::A, &server),
            ("y.wild.example", Rtype::A, "0 10.0.0.3"),
            ("x.wild.example", Rtype::A, "0 10.0.0.3 10.0.0.8"),
            ("z.y.wild.example", Rtype::A, "2"),
        ],
    );
    let Way::Answer(answer) = routes.way(&name("a.example"), Rtype::A) else {
        panic!("not an answer");
    };
    assert!(answer.records.iter().all(|record| record.ttl == 30));
}

#[test]
fn names_are_rewritten_and_restored() {
    let exact = |from: &str, to: &str, after| {
        RewriteStep::Name(NameRewrite::Exact(name(from), to.into()), after)
    };
    let suffix = NameRewrite::Suffix(".old.example.".into(), ".svc.cluster.local.".into());
    let pattern = NamePattern::from_regex(r"^([^.]+)\.([^.]+)\.apps\.example\.$").unwrap();
    let regex = NameRewrite::Regex(pattern, "{2}-{1}.svc.cluster.local.".into());
    let mut rewriting = block(&["."]);
    rewriting.rewrites = vec![
        RewriteStep::UnknownNames(NamePattern::Prefix("odd.".into())),
        exact("a.example", "b.example.", AfterMatch::Continue),
        exact("b.example", "web.shop.svc.cluster.local.", AfterMatch::Stop),
        RewriteStep::Name(suffix, AfterMatch::Stop),
        RewriteStep::Name(regex, AfterMatch::Stop),
        RewriteStep::UnknownType(Rtype::MX),
        exact("other.example", "x.stub.example.", AfterMatch::Stop),
    ];
    let routes = Routes::new(vec![rewriting, block(&["stub.example", "x.y"])]);
    let server = one(1);
    check(
        &routes,
        &[
            ("a.example", Rtype::A, "= web.shop.svc.cluster.local."),
            ("b.example", Rtype::A, "= web.shop.svc.cluster.local."),
            ("x.y.old.example", Rtype::A, "= x.y.svc.cluster.local."),
            ("old.example", Rtype::A, &server),
            (
                "one.two.apps.example",
                Rtype::A,
                "= two-one.svc.cluster.local.",
            ),
            ("odd.example", Rtype::A, "cluster"),
            ("c.example", Rtype::MX, "cluster"),
            ("c.example", Rtype::A, &server),
            // CoreDNS looks the new name up in the same server block.
            ("other.example", Rtype::A, "cluster"),
        ],
    );
    let restored = |asked: &str, found: &str| {
        let asked = name(asked);
        let Way::Rewritten(rewriting) = routes.way(&asked, Rtype::A) else {
            panic!("{asked} is not rewritten");
        };
        rewriting.restore(&name(found)).to_string()
    };
    for (asked, found, expected) in [
        ("a.example", "web.shop.svc.cluster.local", "a.example."),
        ("a.example", "x.web.shop.svc.cluster.local", "x.a.example."),
        (
            "a.example",
            "xweb.shop.svc.cluster.local",
            "xweb.shop.svc.cluster.local.",
        ),
        ("x.y.old.example", "z.svc.cluster.local", "z.old.example."),
        ("x.y.old.example", "z.other", "z.other."),
        (
            "one.two.apps.example",
            "two-one.svc.cluster.local",
            "one.two.apps.example.",
        ),
        (
            "one.two.apps.example",
            "three.svc.cluster.local",
            "three.svc.cluster.local.",
        ),
    ] {
        assert_eq!(restored(asked, found), expected, "{asked}: {found}");
    }
}

#[test]
fn the_first_entry_with_a_name_says_how_it_is_cached() {
    let mut caching = block(&["."]);
    let rules = |max_ttl| CacheRules {
        max_ttl,
        max_negative_ttl: 30,
        kept: KeptAnswers::Positive,
        stale: Some(StaleRules {
            limit: Duration::from_secs(60),
            mode: StaleMode::AtOnce,
        }),
    };
    caching.caching = vec![
        (names(&["short.example"]), rules(5)),
        (names(&["example"]), rules(30)),
    ];
    let routes = Routes::new(vec![caching]);
    let cached = |text: &str| match routes.way(&name(text), Rtype::A) {
        Way::Forward(forwarding) => forwarding.cache,
        other => panic!("{other:?}"),
    };
    assert_eq!(cached("a.short.example"), rules(5));
    assert_eq!(cached("a.example"), rules(30));
    assert_eq!(cached("example.org"), CacheRules::OFF);
}

#[test]
fn the_nodes_servers_take_their_place_in_a_group() {
    let mut group = forward(1).group.unwrap();
    group.servers.insert(0, ForwardServer::NodeResolvConf);
    let node = [([192, 0, 2, 8], 53).into(), ([192, 0, 2, 9], 53).into()];
    let addresses: Vec<_> = group.with_node_servers(&node).addresses().collect();
    assert_eq!(addresses, [node[0], node[1], ([192, 0, 2, 1], 53).into()]);
}
