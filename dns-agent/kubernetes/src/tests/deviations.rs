//! CoreDNS deviations (docs/answers.md#coredns-deviations) and the existence of names
//! (docs/naming.md, section 3).

use serde_json::json;
use zerohop_zone::{Model, Rtype};

use super::{answer_text, default_model, model_with, namespace, object, objects, service, slice};
use crate::{Deviations, Index, PodMode, ZoneSettings};

fn cluster(pods: PodMode) -> Model {
    let settings = ZoneSettings {
        pods,
        reverse: vec!["10.0.0.0/16".parse().unwrap()],
        ..ZoneSettings::default()
    };
    let http = json!([{"name": "http", "port": 80}]);
    let list = json!([
        service("web", json!({"clusterIP": "10.0.0.1", "ports": http})),
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", json!([{"addresses": ["172.0.0.1"], "hostname": "ep"}]), http),
        {
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "status": {"podIP": "10.1.0.1"}
        },
    ]);
    model_with(list, &settings)
}

#[test]
fn an_existing_name_is_never_nxdomain() {
    for pods in [PodMode::Disabled, PodMode::Insecure, PodMode::Verified] {
        let model = cluster(pods);
        for name in [
            "cluster.local.",
            "svc.cluster.local.",
            "pod.cluster.local.",
            "default",
            "dns.cluster.local.",
            "ns.dns.cluster.local.",
            "dns-version.cluster.local.",
            "web.default",
            "_tcp.web.default",
            "_http._tcp.web.default",
            "_tcp.db.default",
            "ep.db.default",
            "0.10.in-addr.arpa.",
            "0.0.10.in-addr.arpa.",
            "1.0.0.10.in-addr.arpa.",
            "dns.0.10.in-addr.arpa.",
            "ns.dns.0.10.in-addr.arpa.",
            "dns-version.0.10.in-addr.arpa.",
        ] {
            // Types of which no name here has records, and ANY, which is NODATA at every name, as
            // in CoreDNS. 65280 is for private use (RFC 6895).
            for rtype in [Rtype::HINFO, Rtype::MX, Rtype::ANY, Rtype::from_int(65280)] {
                assert_eq!(answer_text(&model, name, rtype), "NODATA", "{name} {rtype}");
            }
        }
    }
}

#[test]
fn names_with_labels_in_front_of_a_pods_label_pass_if_deviations_pass() {
    let settings = ZoneSettings {
        deviations: Deviations::Passed,
        ..ZoneSettings::default()
    };
    let mut all = objects(json!([]));
    all.insert(object(namespace("default")));
    let index = Index::from_objects(all, settings, 3);
    for (question, expected) in [
        ("10-1-0-1.default.pod.cluster.local.", "A 10.1.0.1"),
        ("x.10-1-0-1.default.pod.cluster.local.", "PASSES"),
        ("x.y.10-1-0-1.default.pod.cluster.local.", "PASSES"),
        ("x.default.pod.cluster.local.", "NXDOMAIN"),
        ("10-1-0-1.ghost.pod.cluster.local.", "NXDOMAIN"),
    ] {
        assert_eq!(
            answer_text(&index.view(), question, Rtype::A),
            expected,
            "{question}"
        );
    }
}

#[test]
fn soa_queries_for_absent_names_pass_if_deviations_pass() {
    let settings = ZoneSettings {
        deviations: Deviations::Passed,
        ..ZoneSettings::default()
    };
    let mut all = objects(json!([]));
    all.insert(object(namespace("default")));
    let index = Index::from_objects(all, settings, 3);
    for (rtype, expected) in [(Rtype::SOA, "PASSES"), (Rtype::A, "NXDOMAIN")] {
        for name in ["ghost.default", "ghost", "ghost.cluster.local."] {
            assert_eq!(
                answer_text(&index.view(), name, rtype),
                expected,
                "{name} {rtype}"
            );
        }
    }
}

#[test]
fn objects_may_be_named_like_fixed_labels() {
    let service_in = |name: &str, namespace: &str, ip: &str| {
        json!({
            "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "tcp", "port": 80}]}
        })
    };
    let model = default_model(json!([
        namespace("svc"),
        namespace("pod"),
        namespace("dns"),
        service_in("svc", "svc", "10.0.0.1"),
        service_in("pod", "svc", "10.0.0.2"),
        service_in("ns", "dns", "10.0.0.3"),
        service_in("svc", "default", "10.0.0.4"),
    ]));
    for (name, data) in [
        ("svc", "NODATA"),
        ("svc.svc", "A 10.0.0.1"),
        ("pod.svc", "A 10.0.0.2"),
        ("_tcp._tcp.svc.svc", "A 10.0.0.1"),
        ("svc.default", "A 10.0.0.4"),
        ("ns.dns", "A 10.0.0.3"),
        ("dns", "NODATA"),
        ("pod", "NODATA"),
        ("svc.pod.cluster.local.", "NODATA"),
        ("1-2-3-4.svc.pod.cluster.local.", "A 1.2.3.4"),
        ("1-2-3-4.pod.pod.cluster.local.", "A 1.2.3.4"),
        ("svc.pod", "NXDOMAIN"),
        ("ns.dns.cluster.local.", "NODATA"),
        ("x.dns.cluster.local.", "NXDOMAIN"),
        ("x.ns.dns.cluster.local.", "NXDOMAIN"),
        ("x.dns-version.cluster.local.", "NXDOMAIN"),
    ] {
        assert_eq!(answer_text(&model, name, Rtype::A), data, "{name}");
    }
}

#[test]
fn names_of_ports_without_underscores_pass_if_deviations_pass() {
    let passing = ZoneSettings {
        deviations: Deviations::Passed,
        ..ZoneSettings::default()
    };
    let ports =
        json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let list = || {
        json!([
            service("web", json!({"clusterIP": "10.0.0.1", "ports": ports})),
            service("db", json!({"clusterIP": "None"})),
            slice(
                "a",
                "db",
                json!([{"addresses": ["172.0.0.1"], "hostname": "tcp"}]),
                ports.clone()
            ),
        ])
    };
    let model = model_with(list(), &passing);
    for service in ["web.default", "db.default"] {
        for port in [
            "http.tcp",
            "_http.tcp",
            "http._tcp",
            "_._tcp",
            "_dns._",
            "_._",
            "dns.udp",
            "_",
            "udp",
        ] {
            let question = format!("{port}.{service}");
            for rtype in [Rtype::A, Rtype::SRV, Rtype::SOA] {
                assert_eq!(
                    answer_text(&model, &question, rtype),
                    "PASSES",
                    "{question} {rtype}"
                );
            }
        }
        // No port has this protocol.
        assert_eq!(
            answer_text(&model, &format!("http.sctp.{service}"), Rtype::A),
            "NXDOMAIN",
            "{service}"
        );
    }
    assert_eq!(
        answer_text(&model, "tcp.db.default", Rtype::A),
        "A 172.0.0.1"
    );
    assert_eq!(
        answer_text(&model, "_http._tcp.web.default", Rtype::A),
        "A 10.0.0.1"
    );
    let model = model_with(list(), &ZoneSettings::default());
    for port in ["http.tcp", "_http.tcp", "http._tcp", "_._tcp", "_"] {
        let question = format!("{port}.web.default");
        assert_eq!(
            answer_text(&model, &question, Rtype::A),
            "NXDOMAIN",
            "{question}"
        );
    }
}

#[test]
fn topology_zones_may_have_several_labels() {
    let endpoints = json!([
        {"addresses": ["172.0.0.1"], "zone": "West.a"},
        {"addresses": ["172.0.0.2"], "zone": "a"},
        {"addresses": ["172.0.0.2"], "zone": "b"},
    ]);
    let list = || {
        json!([
            service("db", json!({"clusterIP": "None"})),
            slice("a", "db", endpoints.clone(), json!([])),
        ])
    };
    let model = model_with(list(), &ZoneSettings::default());
    for (zone, expected) in [
        ("west.a.pin", "A 172.0.0.1"),
        ("west.a.prefer", "A 172.0.0.1"),
        // An address is in the topology zone of its last endpoint.
        ("a.pin", "NODATA"),
        ("b.pin", "A 172.0.0.2"),
        ("x.y.pin", "NXDOMAIN"),
    ] {
        let question = format!("{zone}._zone.db.default");
        assert_eq!(
            answer_text(&model, &question, Rtype::A),
            expected,
            "{question}"
        );
    }
    let mut all = objects(list());
    all.insert(object(namespace("default")));
    let passing = ZoneSettings {
        deviations: Deviations::Passed,
        ..ZoneSettings::default()
    };
    let index = Index::from_objects(all, passing, 3);
    // CoreDNS takes any number of labels as a topology zone, even if the zone has no endpoint.
    assert_eq!(
        answer_text(&index.view(), "x.y.pin._zone.db.default", Rtype::A),
        "PASSES"
    );
}
