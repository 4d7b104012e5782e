//! The owned name space: where the kernel may say that a name does not exist, and where its tables
//! can't tell. That a zone with names that found no room is never denied is tested in `updates.rs`.

use std::collections::BTreeSet;

use dns_agent::{
    datapath::{
        Tables,
        grace::Rcu,
        object::{Object, Program, Size},
    },
    zone::{Absent, Model, ModelBuilder, Name, Rdata, Record, ZoneData as _},
};
use dns_common::Outcome;
use zerohop_tests::{
    packet::{self, Query},
    topology::{POD, SERVED},
};

use super::{
    cluster::model,
    fixture::{self, Ended, Fixture},
};

const A: u16 = 1;
const SOA: u16 = 6;

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

/// Names that exist, or may exist, though no record tells: the kernel passes or answers, but never
/// says that they don't exist.
struct NeverDenied {
    what: &'static str,
    manifests: fn() -> String,
    flags: &'static [&'static str],
    names: &'static [&'static str],
}

const NEVER_DENIED: [NeverDenied; 7] = [
    NeverDenied {
        what: "namespaces while no object says which exist",
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
        what: "the same below a parent that is too short to be looked up",
        manifests: || OBJECTS.to_owned(),
        flags: &["--cluster-domain=a", "--pods=verified"],
        names: &["anything.svc.a", "anything.pod.a"],
    },
    NeverDenied {
        what: "pods, of any address",
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
        what: "pods that are known",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &["--pods=verified"],
        names: &["10-244-0-9.shop.pod.cluster.local"],
    },
    NeverDenied {
        what: "what other software serves inside our zone, and the names above it",
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
        what: "anything, while what is passed can't be told apart",
        manifests: || [NAMESPACES, OBJECTS].concat(),
        flags: &[
            "--pass=a-name-of-more-than-sixty-four.octets-which-has-no.suffix-entry.cluster.local",
        ],
        names: &[
            "x.a-name-of-more-than-sixty-four.octets-which-has-no.suffix-entry.cluster.local",
            "absent.shop.svc.cluster.local",
        ],
    },
    NeverDenied {
        what: "other people's names",
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
fn what_may_exist_is_never_denied() {
    for case in &NEVER_DENIED {
        let mut fixture = Fixture::with(model(&(case.manifests)(), case.flags));
        for name in case.names {
            for rtype in [A, 28, 16] {
                let frame = Fixture::query(name, rtype).frame();
                let ended = fixture.run(Program::TcPeer, &frame);
                assert!(
                    !matches!(ended, Ended::Answered(Outcome::NxDomain, _)),
                    "{}: {name} {rtype}: {ended:?}",
                    case.what
                );
            }
        }
    }
}

#[test]
fn what_is_not_exposed_does_not_exist() {
    let manifests = [NAMESPACES, OBJECTS].concat();
    let mut fixture = Fixture::with(model(&manifests, &["--namespace=shop"]));
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
        let frame = Fixture::query(name, A).frame();
        let ended = fixture.run(Program::TcPeer, &frame);
        assert!(
            matches!(ended, Ended::Answered(Outcome::NxDomain, _)),
            "{name}: {ended:?}"
        );
    }
}

#[test]
fn the_soa_of_absent_names_may_be_left_to_others() {
    let mut builder = builder(1);
    builder.set_absent(|_| Absent::DeniedExceptSoa);
    let mut fixture = Fixture::with(builder.build());
    let mut end = |name: &str, rtype| {
        let frame = Fixture::query(name, rtype).frame();
        let (Ended::Answered(outcome, _) | Ended::Passed(outcome)) =
            fixture.run(Program::TcPeer, &frame);
        outcome
    };
    let absent = "absent.shop.svc.cluster.local";
    assert_eq!(end(absent, A), Outcome::NxDomain);
    assert_eq!(end(absent, SOA), Outcome::NotOwned);
    assert_eq!(end("cluster.local", SOA), Outcome::Data);
    assert_eq!(end(&service(0), SOA), Outcome::NoData);
}

#[test]
fn nothing_is_denied_before_everything_is_published() {
    const NAMES: usize = 500;
    let model = services(NAMES);
    let size = Size {
        buckets: 1024,
        chunks: 4,
    };
    let mut object = Object::load(size).unwrap();
    let mut tables = Tables::new(&object, size, &fixture::config(), Rcu::new().unwrap()).unwrap();
    object.set_lease(1_000_000).unwrap();

    let absent = Query::new(POD[0], SERVED[0], "absent.shop.svc.cluster.local", A).frame();
    let (mut turn, mut passes, mut answers) = (0, 0, 0);
    tables
        .publish(&model, &mut || {
            turn += 1;
            let (verdict, _) = object.test_run(Program::TcPeer, &absent).unwrap();
            assert_eq!(verdict, u32::MAX, "denied at step {turn}");
            // Every service once, some before and some after it is there.
            let frame = asking(turn % NAMES);
            let (verdict, out) = object.test_run(Program::TcPeer, &frame).unwrap();
            if verdict == u32::MAX {
                passes += 1;
                return;
            }
            answers += 1;
            let reply = packet::reply(&frame, &out).unwrap();
            assert_eq!(reply[3] & 15, 0, "step {turn}: {reply:02x?}");
        })
        .unwrap();
    assert!(
        passes > NAMES / 4 && answers > NAMES / 4,
        "{passes} passes, {answers} answers"
    );
    let (verdict, out) = object.test_run(Program::TcPeer, &absent).unwrap();
    assert_ne!(verdict, u32::MAX);
    assert_eq!(packet::reply(&absent, &out).unwrap()[3] & 15, 3);
}

/// Zones stand in the settings longest first, so a longer one takes the others' positions.
#[test]
fn a_zone_that_comes_first_is_not_denied_before_it_is_published() {
    const NAMES: usize = 50;
    let mut fixture = Fixture::with(services(NAMES));
    let Fixture { object, tables, .. } = &mut *fixture;
    let longer = Name::parse("a-longer-zone.cluster.example").unwrap();
    let name = longer.child(b"web").unwrap();
    let mut after = builder(NAMES);
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
    let frame = Fixture::query("web.a-longer-zone.cluster.example", A).frame();
    let mut ends = BTreeSet::new();
    let mut ask = |object: &mut Object| {
        let (verdict, out) = object.test_run(Program::TcPeer, &frame).unwrap();
        let rcode = (verdict != u32::MAX).then(|| packet::reply(&frame, &out).unwrap()[3] & 15);
        ends.insert(rcode);
        rcode
    };
    let mut progress = || {
        ask(object);
    };
    tables.publish(&after, &mut progress).unwrap();
    assert_eq!(ask(object), Some(0));
    assert!(!ends.contains(&Some(3)), "{ends:?}");
}

#[test]
fn namespaces_become_known_without_a_false_no() {
    const NAMES: usize = 100;
    let namespaces: String = (0..NAMES)
        .map(|number| {
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: n{number}}}\n---\n")
        })
        .collect();
    let mut fixture = Fixture::with(model(OBJECTS, &["--pods=verified"]));
    let Fixture { object, tables, .. } = &mut *fixture;
    let after = model(
        &[&namespaces, NAMESPACES, OBJECTS].concat(),
        &["--pods=verified"],
    );
    let mut turn = 0;
    tables
        .publish(&after, &mut || {
            // Before, every namespace exists; afterwards these still do.
            for zone in ["svc", "pod"] {
                let name = format!("n{}.{zone}.cluster.local", turn % NAMES);
                let frame = Fixture::query(&name, A).frame();
                let (verdict, out) = object.test_run(Program::TcPeer, &frame).unwrap();
                let is_no =
                    verdict != u32::MAX && packet::reply(&frame, &out).unwrap()[3] & 15 != 0;
                assert!(!is_no, "{name} at step {turn}");
            }
            turn += 1;
        })
        .unwrap();
    assert!(turn > NAMES, "{turn}");
}

fn asking(number: usize) -> Vec<u8> {
    Query::new(POD[0], SERVED[0], &service(number), A).frame()
}

fn service(number: usize) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}

fn services(count: usize) -> Model {
    builder(count).build()
}

fn builder(count: usize) -> ModelBuilder {
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
