//! Authoritative suffixes: names that the kernel denies, and names that it must pass because it
//! can't know whether they exist. `updates.rs` tests zones whose names don't fit into the tables.

use std::collections::BTreeSet;

use dns_common::Outcome;
use zerohop_contract::{
    addresses::{POD, SERVED},
    packet::{self, QueryPacket},
};
use zerohop_datapath::{
    KernelTables,
    grace::Rcu,
    program::{EbpfObject, HookProgram, TableSize},
};
use zerohop_resolver::Records;
use zerohop_routes::NamePattern;
use zerohop_zone::{
    AbsentNames, ChangedAnswers, Model, ModelBuilder, Name, Rdata, Record, Rtype, ZoneData as _,
};

use super::{
    fixture::{self, KernelFixture, TC_PASS, TestRunResult, rcode},
    models::{matches_user_plane, model, model_with_settings},
};

const A: u16 = 1;
const SOA: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const HTTPS: u16 = 65;

/// Two namespaces with a service each, and a pod.
const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.1.1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: hidden}
spec: {clusterIP: 10.96.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop}
status: {phase: Running, podIPs: [{ip: 10.244.0.9}]}
";

/// An alias of a Service.
const ALIAS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: shop}
spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}
";

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: hidden}
---
";

/// Names that exist or may exist, perhaps without a record in the tables. The kernel may pass
/// queries for them or answer them, but not with NXDOMAIN.
struct NeverDenied {
    what: &'static str,
    manifests: fn() -> String,
    flags: &'static [&'static str],
    names: &'static [&'static str],
}

const NEVER_DENIED: [NeverDenied; 7] = [
    NeverDenied {
        what: "namespaces while no Namespace object is known",
        manifests: || OBJECTS.to_owned(),
        flags: &[],
        names: &[
            "shop.svc.cluster.local",
            "anything.svc.cluster.local",
            "anything.pod.cluster.local",
            "10-244-0-9.anything.pod.cluster.local",
            "fd00--1.anything.pod.cluster.local",
        ],
    },
    NeverDenied {
        // `svc.a` has 7 bytes in wire form. The kernel looks up names of at least 8.
        what: "namespaces below a parent that is too short to be looked up",
        manifests: || OBJECTS.to_owned(),
        // With --pods=insecure the kernel would pass all absent names below `pod.a` anyway.
        flags: &["--cluster-domain=a", "--pods=verified"],
        names: &["anything.svc.a", "anything.pod.a"],
    },
    NeverDenied {
        what: "pod names of any address",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &["--pods=insecure"],
        names: &[
            "10-244-0-9.shop.pod.cluster.local",
            "192-0-2-1.shop.pod.cluster.local",
            "192-0-2-1.hidden.pod.cluster.local",
            "2001-db8--1.shop.pod.cluster.local",
            "10--0.shop.pod.cluster.local",
        ],
    },
    NeverDenied {
        what: "pod names of known pods",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &["--pods=verified"],
        names: &["10-244-0-9.shop.pod.cluster.local"],
    },
    NeverDenied {
        what: "names that --pass delegates, and the names above them",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &[
            "--pass=a.b.cluster.local",
            "--pass=x.shop.svc.cluster.local",
        ],
        names: &[
            "a.b.cluster.local",
            "c.a.b.cluster.local",
            "b.cluster.local",
            "x.shop.svc.cluster.local",
            "_http._tcp.x.shop.svc.cluster.local",
        ],
    },
    NeverDenied {
        what: "any name of a zone in which a passed suffix is too long for the settings",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &[
            "--pass=a-name-of-more-than-sixty-four.letters-which-has-no.suffix-entry.cluster.local",
        ],
        names: &[
            "x.a-name-of-more-than-sixty-four.letters-which-has-no.suffix-entry.cluster.local",
            "absent.shop.svc.cluster.local",
        ],
    },
    NeverDenied {
        what: "names outside every zone",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &["--reverse=10.96.0.0/16"],
        names: &[
            "www.example.com",
            "local",
            "notcluster.local",
            "cluster.local.example.com",
            "9.0.244.10.in-addr.arpa",
            "10.in-addr.arpa",
        ],
    },
];

#[test]
fn names_that_may_exist_are_never_denied() {
    for case in &NEVER_DENIED {
        let mut fixture = KernelFixture::with_model(model(&(case.manifests)(), case.flags));
        for name in case.names {
            for rtype in [A, AAAA, TXT] {
                let frame = KernelFixture::query(name, rtype).frame();
                let ended = fixture.run_program(HookProgram::TcPeer, &frame);
                assert!(
                    !matches!(ended, TestRunResult::Answered(Outcome::NxDomain, _)),
                    "{}: {name} {rtype} is denied: {ended:?}",
                    case.what
                );
            }
        }
    }
}

#[test]
fn namespaces_that_are_not_exposed_are_denied() {
    let manifests = [NAMESPACES, OBJECTS].concat();
    let mut fixture = KernelFixture::with_model(model(&manifests, &["--namespace=shop"]));
    for name in [
        "hidden.svc.cluster.local",
        "web.hidden.svc.cluster.local",
        "_http._tcp.web.hidden.svc.cluster.local",
        "hidden.pod.cluster.local",
        "10-244-0-9.hidden.pod.cluster.local",
        "absent.svc.cluster.local",
        "web.absent.svc.cluster.local",
        "10-244-0-9.absent.pod.cluster.local",
    ] {
        let frame = KernelFixture::query(name, A).frame();
        let ended = fixture.run_program(HookProgram::TcPeer, &frame);
        assert!(
            matches!(ended, TestRunResult::Answered(Outcome::NxDomain, _)),
            "{name} is not denied: {ended:?}"
        );
    }
}

#[test]
fn soa_queries_for_absent_names_pass_if_the_model_says_so() {
    let mut builder = builder_with_services(1);
    builder.set_absent_names(|_| AbsentNames::DeniedExceptSoa);
    let mut fixture = KernelFixture::with_model(builder.build());
    let mut outcome_of = |name: &str, rtype| {
        let frame = KernelFixture::query(name, rtype).frame();
        let (TestRunResult::Answered(outcome, _) | TestRunResult::Passed(outcome)) =
            fixture.run_program(HookProgram::TcPeer, &frame);
        outcome
    };
    let absent = "absent.shop.svc.cluster.local";
    assert_eq!(outcome_of(absent, A), Outcome::NxDomain);
    assert_eq!(outcome_of(absent, SOA), Outcome::PassSuffix);
    assert_eq!(outcome_of("cluster.local", SOA), Outcome::Data);
    assert_eq!(outcome_of(&service(0), SOA), Outcome::NoData);
}

/// As with CoreDNS's plugin `dnssec`.
#[test]
fn queries_with_the_do_bit_pass_if_a_zone_is_signed() {
    const DNSKEY: u16 = 48;
    for is_signed in [true, false] {
        let model = model_with_settings(&[NAMESPACES, OBJECTS].concat(), &[], |settings| {
            let zone = Name::parse("cluster.local").unwrap();
            settings.signed_zones = is_signed.then_some(zone).into_iter().collect();
        });
        let mut fixture = KernelFixture::with_model(model);
        let mut is_answered = |name: &str, rtype, dnssec_ok| {
            let query = KernelFixture::query(name, rtype).with_edns(1232, dnssec_ok, &[]);
            let ended = fixture.run_program(HookProgram::TcPeer, &query.frame());
            matches!(ended, TestRunResult::Answered(..))
        };
        for name in [
            "web.shop.svc.cluster.local",
            "absent.shop.svc.cluster.local",
        ] {
            assert!(is_answered(name, A, 0), "{name}");
            assert_eq!(is_answered(name, A, 1), !is_signed, "{name}");
        }
        assert_eq!(is_answered("cluster.local", DNSKEY, 0), !is_signed);
        assert!(is_answered("web.shop.svc.cluster.local", DNSKEY, 0));
    }
}

/// As with a plugin of CoreDNS that changes answers of some types, such as `template IN AAAA`.
#[test]
fn queries_for_passed_types_pass_for_all_names() {
    let manifests = [NAMESPACES, OBJECTS, ALIAS].concat();
    for flags in [&["--pods=insecure"][..], &["--pods=verified"], &[]] {
        let passed = [Rtype::AAAA, Rtype::SRV, Rtype::HTTPS];
        let model = model_with_settings(&manifests, flags, |settings| {
            let zone = Name::parse("cluster.local").unwrap();
            settings.passed_types = vec![(zone, passed.into())];
        });
        let mut names: Vec<String> = model.entries().map(|(name, _)| name.to_string()).collect();
        names.extend(
            [
                "absent.shop.svc.cluster.local",
                "web.absent.svc.cluster.local",
                "absent.cluster.local",
                "10-244-0-9.shop.pod.cluster.local",
                "10-244-0-9.absent.pod.cluster.local",
                "absent.shop.pod.cluster.local",
            ]
            .map(str::to_owned),
        );
        let mut fixture = KernelFixture::with_model(model);
        let (mut data, mut denied, mut computed) = (0, 0, 0);
        for name in &names {
            for rtype in [A, AAAA, SRV, HTTPS, SOA, TXT, MX] {
                let query = KernelFixture::query(name, rtype);
                let frame = query.frame();
                let ended = fixture.run_program(HookProgram::TcPeer, &frame);
                let is_passed = passed.iter().any(|it| it.to_int() == rtype)
                    && name.trim_end_matches('.').ends_with("cluster.local");
                let TestRunResult::Answered(outcome, out) = ended else {
                    continue;
                };
                let reply = packet::parse_reply(&frame, &out).unwrap();
                assert!(!is_passed, "{flags:?}: {name} {rtype} is answered");
                data += usize::from(outcome == Outcome::Data);
                computed += usize::from(name.starts_with("10-"));
                denied += usize::from(outcome == Outcome::NxDomain);
                let model = &fixture.model;
                assert!(
                    matches_user_plane(&query.message(), &reply, model),
                    "{flags:?}: {name} {rtype}: not the user plane's reply: {reply:02x?}"
                );
            }
        }
        assert!(
            data > 3 && denied > 3 && computed > 3,
            "{flags:?}: {data} answers, {denied} denials, {computed} replies for names of pods"
        );
    }
}

/// As with CoreDNS's `dns64` and `loadbalance weighted`. Compares with the answers of the same
/// objects that nothing changes.
#[test]
fn queries_with_changed_answers_pass() {
    const HOSTS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: both, namespace: shop}
spec: {clusterIP: 10.96.1.3, clusterIPs: [10.96.1.3, 'fd00::3'], ports: [{name: a, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec: {clusterIP: None, ports: [{name: a, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: all-1, namespace: shop, labels: {kubernetes.io/service-name: all}}
addressType: IPv4
ports: [{name: a, port: 80}]
endpoints: [{addresses: [10.244.0.10]}, {addresses: [10.244.0.11]}]
---
apiVersion: v1
kind: Service
metadata: {name: alias-of-all, namespace: shop}
spec: {type: ExternalName, externalName: all.shop.svc.cluster.local}
";
    let manifests = [NAMESPACES, OBJECTS, ALIAS, HOSTS].concat();
    let kinds = [
        ChangedAnswers::WithoutType(Rtype::AAAA),
        ChangedAnswers::SeveralAddresses,
    ];
    for flags in [&["--pods=insecure"][..], &["--pods=verified"], &[]] {
        let before = model(&manifests, flags);
        let entries = before.entries();
        let mut names: Vec<String> = entries.map(|(name, _)| name.to_string()).collect();
        let more = [
            "absent.shop.svc.cluster.local",
            "absent.cluster.local",
            "10-244-0-9.shop.pod.cluster.local",
            "10-244-0-9.absent.pod.cluster.local",
            "absent.shop.pod.cluster.local",
        ];
        names.extend(more.map(str::to_owned));
        let types = [A, AAAA, SRV, HTTPS, SOA, TXT, MX];
        let names = names.iter();
        let queries = names.flat_map(|name| types.map(|rtype| (name, rtype)));
        let queries: Vec<(&String, u16)> = queries.collect();
        let ask = |model| {
            let mut fixture = KernelFixture::with_model(model);
            let ended = queries.iter().map(|(name, rtype)| {
                let frame = KernelFixture::query(name, *rtype).frame();
                match fixture.run_program(HookProgram::TcPeer, &frame) {
                    TestRunResult::Passed(_) => None,
                    TestRunResult::Answered(outcome, reply) => {
                        Some((outcome, packet::parse_reply(&frame, &reply).unwrap()))
                    }
                }
            });
            ended.collect::<Vec<_>>()
        };
        let unchanged = ask(before);
        for kind in kinds {
            let model = || {
                model_with_settings(&manifests, flags, |settings| {
                    let zone = Name::parse("cluster.local").unwrap();
                    settings.changed_answers = vec![(zone, [kind].into())];
                })
            };
            let (user_plane, changed) = (model(), ask(model()));
            let (mut passed, mut answered) = (0, 0);
            for (((name, rtype), before), after) in queries.iter().zip(&unchanged).zip(&changed) {
                let Some((outcome, reply)) = before else {
                    assert_eq!(*after, None, "{name} {rtype}");
                    continue;
                };
                let is_denied = *outcome == Outcome::NxDomain;
                let is_answered = is_denied || !is_of_kind(reply, *rtype, kind);
                let what = format!("{flags:?} {kind:?}: {name} {rtype}");
                assert_eq!(after.is_some(), is_answered, "{what}: before: {reply:02x?}");
                let Some((_, reply)) = after else {
                    passed += 1;
                    continue;
                };
                answered += 1;
                let message = KernelFixture::query(name, *rtype).message();
                let is_same = matches_user_plane(&message, reply, &user_plane);
                assert!(is_same, "{what}: {reply:02x?}");
            }
            assert!(
                passed > 2 && answered > 50,
                "{kind:?}: {passed}, {answered}"
            );
        }
    }
}

/// Whether a reply that isn't NXDOMAIN is of this kind.
fn is_of_kind(reply: &[u8], rtype: u16, kind: ChangedAnswers) -> bool {
    let [answer, _, additional] = Records::read(reply).unwrap().sections;
    let count = |section: &[Record], wanted: &[Rtype]| {
        let records = section.iter();
        let of_type = records.filter(|record| wanted.contains(&record.data.rtype()));
        of_type.count()
    };
    match kind {
        ChangedAnswers::WithoutType(without) => {
            rtype == without.to_int() && count(&answer, &[without]) == 0
        }
        ChangedAnswers::SeveralAddresses => [answer, additional]
            .iter()
            .any(|section| count(section, &[Rtype::A, Rtype::AAAA]) > 1),
    }
}

/// CoreDNS asks itself for the target of an alias in another zone, and rewrites this query.
#[test]
fn aliases_of_rewritten_names_in_another_zone_pass() {
    const ACROSS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: across, namespace: shop}
spec: {type: ExternalName, externalName: web.shop.svc.other.local}
";
    let manifests = [NAMESPACES, OBJECTS, ACROSS].concat();
    for (pattern, is_answered) in [("^web.*other", false), ("^absent", true)] {
        let model = model_with_settings(&manifests, &[], |settings| {
            settings
                .cluster_domains
                .push(Name::parse("other.local").unwrap());
            settings.rewritten = vec![NamePattern::from_regex(pattern).unwrap()];
            settings.fallthrough_zones = settings.cluster_domains.clone();
        });
        let mut fixture = KernelFixture::with_model(model);
        let frame = KernelFixture::query("across.shop.svc.cluster.local", A).frame();
        let ended = fixture.run_program(HookProgram::TcPeer, &frame);
        let has_answer = matches!(ended, TestRunResult::Answered(Outcome::Data, _));
        assert_eq!(has_answer, is_answered, "{pattern}: {ended:?}");
    }
}

/// As with CoreDNS's `rewrite name regex`.
#[test]
fn queries_for_rewritten_names_pass() {
    let manifests = [NAMESPACES, OBJECTS, ALIAS].concat();
    for flags in [&["--pods=insecure"][..], &["--pods=verified"], &[]] {
        let pattern = NamePattern::from_regex("^(web|10-.*)\\.shop\\.").unwrap();
        let model = model_with_settings(&manifests, flags, |settings| {
            settings.rewritten = vec![pattern.clone()];
            settings.fallthrough_zones = settings.cluster_domains.clone();
        });
        let mut fixture = KernelFixture::with_model(model);
        let mut ask = |name: &str, rtype: u16| {
            let query = KernelFixture::query(name, rtype);
            let frame = query.frame();
            match fixture.run_program(HookProgram::TcPeer, &frame) {
                TestRunResult::Passed(_) => None,
                TestRunResult::Answered(outcome, out) => {
                    let reply = packet::parse_reply(&frame, &out).unwrap();
                    let model = &fixture.model;
                    assert!(
                        matches_user_plane(&query.message(), &reply, model),
                        "{name}"
                    );
                    Some(outcome)
                }
            }
        };
        for rtype in [A, AAAA, SRV, TXT] {
            for name in [
                "web.shop.svc.cluster.local",
                "WEB.shop.svc.cluster.local",
                "absent.shop.svc.cluster.local",
                "10-244-0-9.shop.pod.cluster.local",
            ] {
                assert_eq!(ask(name, rtype), None, "{flags:?}: {name} {rtype}");
            }
        }
        // CoreDNS follows aliases without rewriting.
        assert_eq!(ask("alias.shop.svc.cluster.local", A), Some(Outcome::Data));
        assert_eq!(ask("web.hidden.svc.cluster.local", A), Some(Outcome::Data));
        assert_eq!(
            ask("web.hidden.svc.cluster.local", AAAA),
            Some(Outcome::NoData)
        );
    }
}

#[test]
fn nothing_is_denied_before_everything_is_published() {
    const NAMES: usize = 500;
    let model = model_with_services(NAMES);
    let size = TableSize {
        buckets: 1024,
        chunks: 4,
    };
    let mut object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size).unwrap();
    let mut tables =
        KernelTables::new(&object, size, &fixture::config(), Rcu::new().unwrap()).unwrap();
    object.set_lease(fixture::LONG_LEASE_JIFFIES).unwrap();

    let absent = QueryPacket::new(POD[0], SERVED[0], "absent.shop.svc.cluster.local", A).frame();
    let (mut step, mut passes, mut answers) = (0, 0, 0);
    tables
        .publish_all(&model, &mut || {
            step += 1;
            let (verdict, _) = object.test_run(HookProgram::TcPeer, &absent).unwrap();
            assert_eq!(verdict, TC_PASS, "an absent name is denied at step {step}");
            // Over all steps, asks for every service: for some before, for others after it is
            // published.
            let frame = query_frame(step % NAMES);
            let (verdict, out) = object.test_run(HookProgram::TcPeer, &frame).unwrap();
            if verdict == TC_PASS {
                passes += 1;
                return;
            }
            answers += 1;
            let reply = packet::parse_reply(&frame, &out).unwrap();
            assert_eq!(rcode(&reply), 0, "step {step}: {reply:02x?}");
        })
        .unwrap();
    assert!(
        passes > NAMES / 4 && answers > NAMES / 4,
        "{passes} passes, {answers} answers"
    );
    let (verdict, out) = object.test_run(HookProgram::TcPeer, &absent).unwrap();
    assert_ne!(
        verdict, TC_PASS,
        "an absent name passed after the publication"
    );
    assert_eq!(rcode(&packet::parse_reply(&absent, &out).unwrap()), 3);
}

/// The settings list zones longest first, so a longer new zone moves the others to later positions.
#[test]
fn a_new_first_zone_is_not_denied_before_it_is_published() {
    const NAMES: usize = 50;
    let mut fixture = KernelFixture::with_model(model_with_services(NAMES));
    let KernelFixture { object, tables, .. } = &mut *fixture;
    let longer = Name::parse("a-longer-zone.cluster.example").unwrap();
    let name = longer.child(b"web").unwrap();
    let mut after = builder_with_services(NAMES);
    after.add_zone(longer, 5).unwrap();
    after.add(Record {
        owner: name.clone(),
        ttl: 5,
        data: Rdata::A([10, 96, 0, 2].into()),
    });
    let after = after.build();
    assert_eq!(
        after.zones()[0].name.to_string(),
        "a-longer-zone.cluster.example."
    );
    let frame = KernelFixture::query("web.a-longer-zone.cluster.example", A).frame();
    // The RCODE of each answer; `None` for each pass.
    let mut rcodes = BTreeSet::new();
    let mut ask = |object: &mut EbpfObject| {
        let (verdict, out) = object.test_run(HookProgram::TcPeer, &frame).unwrap();
        let rcode =
            (verdict != TC_PASS).then(|| rcode(&packet::parse_reply(&frame, &out).unwrap()));
        rcodes.insert(rcode);
        rcode
    };
    let mut progress = || {
        ask(object);
    };
    tables.publish_all(&after, &mut progress).unwrap();
    assert_eq!(ask(object), Some(0));
    assert!(!rcodes.contains(&Some(3)), "{rcodes:?}");
}

#[test]
fn existing_namespaces_are_not_denied_while_they_become_known() {
    const NAMES: usize = 100;
    let namespaces: String = (0..NAMES)
        .map(|number| {
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{number}}}\n---\n")
        })
        .collect();
    // With --pods=insecure the kernel would pass all absent names below `pod` anyway.
    let mut fixture = KernelFixture::with_model(model(OBJECTS, &["--pods=verified"]));
    let KernelFixture { object, tables, .. } = &mut *fixture;
    let after = model(
        &[&namespaces, NAMESPACES, OBJECTS].concat(),
        &["--pods=verified"],
    );
    let mut step = 0;
    tables
        .publish_all(&after, &mut || {
            // Before the publication every namespace may exist. After it, these namespaces exist.
            for subdomain in ["svc", "pod"] {
                let name = format!("n{}.{subdomain}.cluster.local", step % NAMES);
                let frame = KernelFixture::query(&name, A).frame();
                let (verdict, out) = object.test_run(HookProgram::TcPeer, &frame).unwrap();
                let is_denial =
                    verdict != TC_PASS && rcode(&packet::parse_reply(&frame, &out).unwrap()) != 0;
                assert!(!is_denial, "{name} is denied at step {step}");
            }
            step += 1;
        })
        .unwrap();
    assert!(step > NAMES, "only {step} steps for {NAMES} namespaces");
}

fn query_frame(number: usize) -> Vec<u8> {
    QueryPacket::new(POD[0], SERVED[0], &service(number), A).frame()
}

fn service(number: usize) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}

fn model_with_services(count: usize) -> Model {
    builder_with_services(count).build()
}

fn builder_with_services(count: usize) -> ModelBuilder {
    let mut builder = ModelBuilder::new(1);
    let zone = Name::parse("cluster.local").unwrap();
    builder.add_zone(zone, 5).unwrap();
    for number in 0..count {
        builder.add(Record {
            owner: Name::parse(&service(number)).unwrap(),
            ttl: 5,
            data: Rdata::A([10, 96, 0, 1].into()),
        });
    }
    builder
}
