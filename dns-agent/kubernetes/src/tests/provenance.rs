//! Origins of records, and explanations of absent records.

use serde_json::{Value, json};
use zerohop_zone::{Answer, ObjectRef, Origin, Record, Rtype, ZoneData};

use super::{absolute, model, name, namespace, objects, service, slice};
use crate::{Index, Objects, PodMode, Provenance, ZoneSettings};

/// A cluster with Services of several kinds. `db` has two slices, which share an endpoint.
fn cluster() -> Objects {
    let http = json!([{"name": "http", "port": 80}]);
    let endpoint = |address: &str, host: &str| {
        json!({
            "addresses": [address],
            "hostname": host,
            "zone": "eu",
            "targetRef": {"kind": "Pod", "name": host}
        })
    };
    let db_slice = |name: &str, endpoints: Value| slice(name, "db", endpoints, http.clone());
    objects(json!([
        namespace("default"),
        service("web", json!({"clusterIP": "10.0.0.1", "ports": http})),
        service("db", json!({"clusterIP": "None"})),
        service("idle", json!({"clusterIP": "None"})),
        service(
            "out",
            json!({"type": "ExternalName", "externalName": "example.org"})
        ),
        db_slice(
            "a",
            json!([
                endpoint("172.0.0.1", "one"),
                endpoint("172.0.0.2", "two")
            ])
        ),
        db_slice("b", json!([endpoint("172.0.0.2", "two"), {"addresses": ["172.0.0.3"]}])),
        slice("w", "web", json!([{"addresses": ["172.0.0.9"], "hostname": "ep"}]), http.clone()),
        {
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "status": {"podIP": "10.1.0.1"}
        },
    ]))
}

fn settings() -> ZoneSettings {
    ZoneSettings {
        reverse: vec!["10.0.0.0/16".parse().unwrap()],
        ..ZoneSettings::default()
    }
}

/// The origin of each record in the answer and additional sections, as text.
fn origins(settings: &ZoneSettings, question: &str, rtype: Rtype) -> Vec<String> {
    let objects = cluster();
    let model = model(&objects, settings);
    let index = Index::from_objects(objects, settings.clone(), 3);
    let provenance = Provenance::new(&index);
    let records = match model.answer(&name(&absolute(question)), rtype) {
        Answer::Data { answer, additional } => [answer, additional].concat(),
        Answer::Alias { chain, .. } => chain,
        other => panic!("{question} has no records: {other:?}"),
    };
    records
        .iter()
        .map(|record| match provenance.origin_of(record) {
            Origin::Objects(objects) => objects_text(&objects),
            Origin::Settings => "settings".to_owned(),
            Origin::Unknown => panic!("{record} has no origin"),
        })
        .collect()
}

fn objects_text(objects: &[ObjectRef]) -> String {
    let objects: Vec<_> = objects.iter().map(ToString::to_string).collect();
    objects.join(", ")
}

#[test]
fn records_of_services_come_from_the_service_and_the_slices_with_the_endpoint() {
    let a = "Service default/db, EndpointSlice default/a";
    let b = "Service default/db, EndpointSlice default/b";
    let both = "Service default/db, EndpointSlice default/a, EndpointSlice default/b";
    let web = "Service default/web";
    for (question, rtype, expected) in [
        ("web.default", Rtype::A, &[web][..]),
        ("web.default", Rtype::SRV, &[web, web]),
        ("_http._tcp.web.default", Rtype::SRV, &[web, web]),
        (
            "ep.web.default",
            Rtype::A,
            &["Service default/web, EndpointSlice default/w"],
        ),
        ("db.default", Rtype::A, &[a, both, b]),
        ("two.db.default", Rtype::A, &[both]),
        ("172-0-0-3.db.default", Rtype::A, &[b]),
        ("one.db.default", Rtype::SRV, &[a, a]),
        // The weights depend on both slices, but only a slice with the endpoint is an origin.
        ("db.default", Rtype::SRV, &[a, both, b, a, both, b]),
        ("out.default", Rtype::A, &["Service default/out"]),
        // The endpoints with a topology zone are in `eu`, so the names of `eu` are stored and the
        // name of `us` is computed.
        ("eu.pin._zone.db.default", Rtype::A, &[a, both]),
        ("eu.prefer._zone.db.default", Rtype::A, &[a, both]),
        ("us.prefer._zone.db.default", Rtype::A, &[a, both, b]),
    ] {
        assert_eq!(
            origins(&settings(), question, rtype),
            expected,
            "{question} {rtype}"
        );
    }
}

#[test]
fn pointers_come_from_services_or_slices() {
    for (question, expected) in [
        ("1.0.0.10.in-addr.arpa.", "Service default/web"),
        (
            "3.0.0.172.in-addr.arpa.",
            "Service default/db, EndpointSlice default/b",
        ),
        (
            "9.0.0.172.in-addr.arpa.",
            "Service default/web, EndpointSlice default/w",
        ),
    ] {
        let origins = origins(&settings(), question, Rtype::PTR);
        assert_eq!(origins, [expected], "{question}");
    }
}

#[test]
fn records_without_objects_come_from_the_settings() {
    let settings = ZoneSettings {
        name_server_addresses: vec!["10.9.9.9".parse().unwrap()],
        ..settings()
    };
    for (question, rtype) in [
        ("cluster.local.", Rtype::SOA),
        ("cluster.local.", Rtype::NS),
        ("dns-version.cluster.local.", Rtype::TXT),
        ("ns.dns.cluster.local.", Rtype::A),
        ("0.10.in-addr.arpa.", Rtype::SOA),
    ] {
        let origins = origins(&settings, question, rtype);
        assert!(
            !origins.is_empty() && origins.iter().all(|origin| origin == "settings"),
            "{question} {rtype}: {origins:?}"
        );
    }
}

#[test]
fn pod_names_come_from_pods_or_namespaces() {
    let with = |pods| ZoneSettings { pods, ..settings() };
    let question = "10-1-0-1.default.pod.cluster.local.";
    for (pods, expected) in [
        (PodMode::Insecure, "Namespace default"),
        (PodMode::Verified, "Pod default/p"),
    ] {
        assert_eq!(origins(&with(pods), question, Rtype::A), [expected]);
    }
}

#[test]
fn every_stored_record_has_an_origin_in_every_domain() {
    let settings = ZoneSettings {
        cluster_domains: vec![name("cluster.local"), name("inner.cluster.local")],
        pods: PodMode::Verified,
        ..settings()
    };
    let objects = cluster();
    let model = model(&objects, &settings);
    let index = Index::from_objects(objects, settings.clone(), 3);
    let provenance = Provenance::new(&index);
    let mut seen = 0;
    for (owner, entry) in model.entries() {
        for rtype in entry.types() {
            let records = match model.answer(owner, rtype) {
                Answer::Data { answer, .. } => answer,
                Answer::NoData { .. } => continue,
                other => panic!("{owner} {rtype} has no data: {other:?}"),
            };
            for record in records {
                assert_ne!(provenance.origin_of(&record), Origin::Unknown, "{record}");
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} records were found");
}

#[test]
fn a_record_that_no_object_makes_has_an_unknown_origin() {
    let (objects, settings) = (cluster(), settings());
    let index = Index::from_objects(objects, settings.clone(), 3);
    let provenance = Provenance::new(&index);
    for (owner, address) in [
        ("web.default", [10, 0, 0, 2]),
        ("db.default", [172, 0, 0, 4]),
        ("ghost.default", [10, 0, 0, 1]),
        ("web.hidden", [10, 0, 0, 1]),
    ] {
        let record = Record {
            owner: name(&absolute(owner)),
            ttl: 5,
            data: zerohop_zone::Rdata::A(address.into()),
        };
        assert_eq!(provenance.origin_of(&record), Origin::Unknown, "{record}");
    }
}

#[test]
fn the_absence_of_a_record_is_explained() {
    let objects = cluster();
    let reason = |settings: &ZoneSettings, question: &str, rtype| {
        Provenance::new(&Index::from_objects(objects.clone(), settings.clone(), 3))
            .reasons_for_absence(&name(&absolute(question)), rtype)
            .join("\n")
    };
    let settings = settings();
    for (question, rtype, expected) in [
        ("web.hidden", Rtype::A, "no Namespace hidden"),
        ("ghost.default", Rtype::A, "no Service default/ghost"),
        ("web.default", Rtype::AAAA, "not have an IPv6 address"),
        ("idle.default", Rtype::A, "none of its endpoints is ready"),
        // The endpoint in both slices counts twice.
        ("db.default", Rtype::AAAA, "none of its 4 ready endpoints"),
        ("x.out.default", Rtype::A, "alias of example.org"),
        ("http.tcp.web.default", Rtype::SRV, "underscore: _tcp"),
        ("three.db.default", Rtype::A, "with 4 ready endpoints"),
        (
            "_x._tcp.web.default",
            Rtype::SRV,
            "none of its ports or known endpoints",
        ),
        (
            "pod-0.default.pod.cluster.local.",
            Rtype::A,
            "not a dashed address",
        ),
        ("cluster.local.", Rtype::A, ""),
        ("example.org.", Rtype::A, ""),
    ] {
        let reason = reason(&settings, question, rtype);
        assert!(reason.contains(expected), "{question} {rtype}: {reason}");
        assert_eq!(
            reason.is_empty(),
            expected.is_empty(),
            "the reason for {question} {rtype}: {reason:?}"
        );
    }

    let settings = ZoneSettings {
        namespaces: vec!["shop".to_owned()],
        ..settings
    };
    let reason = reason(&settings, "web.default", Rtype::A);
    assert!(reason.contains("--namespace"), "{reason}");
}
