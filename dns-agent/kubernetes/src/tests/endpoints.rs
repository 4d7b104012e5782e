//! Names of endpoints (docs/naming.md, rules 1.3 to 1.6 and 1.8), and Services without endpoints.

use serde_json::{Value, json};
use zerohop_zone::{Model, Rtype};

use super::{answer_text, ask, default_model, model_with, namespace, objects, service, slice};
use crate::{EmptyServices, NonstandardEndpoints, ZoneSettings, build_model};

fn ports() -> Value {
    json!([
        {"name": "http", "port": 80},
        {"name": "media", "port": 5004, "protocol": "UDP"},
        {"name": "signal", "port": 3868, "protocol": "SCTP"},
        {"port": 9000}
    ])
}

fn below(endpoint: &str, service: &str) -> String {
    format!("{endpoint}.{service}.default.svc.cluster.local.")
}

#[test]
fn rule_5_endpoints_of_a_cluster_ip_have_all_types() {
    let endpoints =
        json!([{"addresses": ["172.0.0.1"], "hostname": "ep"}, {"addresses": ["fd01::1"]}]);
    let model = default_model(json!([
        service(
            "web",
            json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 8080}]})
        ),
        slice("a", "web", endpoints, json!([{"name": "http", "port": 80}])),
    ]));
    let (ep, six) = (below("ep", "web"), below("fd01--1", "web"));
    for (question, rtype, data) in [
        (&ep, Rtype::A, "A 172.0.0.1"),
        (&ep, Rtype::AAAA, "NODATA"),
        (&ep, Rtype::SRV, &format!("SRV 0 100 80 {ep}")),
        (&six, Rtype::AAAA, "AAAA fd01::1"),
        (&six, Rtype::A, "NODATA"),
        (&six, Rtype::SRV, &format!("SRV 0 100 80 {six}")),
        // The Service's port, not the endpoints' port.
        (
            &below("_http._tcp", "web"),
            Rtype::SRV,
            "SRV 0 100 8080 web.default.svc.cluster.local.",
        ),
    ] {
        assert_eq!(
            answer_text(&model, question, rtype),
            data,
            "{question} {rtype}"
        );
    }
    assert_eq!(
        ask(&model, &six, Rtype::SRV).additional,
        [format!("{six} 5 IN AAAA fd01::1")]
    );
}

#[test]
fn rule_5_one_name_for_several_addresses() {
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!([
                {"addresses": ["172.0.0.1"], "hostname": "shared"},
                {"addresses": ["172.0.0.2"], "hostname": "shared"},
                // The dashed address of 172.0.0.4.
                {"addresses": ["172.0.0.3"], "hostname": "172-0-0-4"},
                {"addresses": ["172.0.0.4"]}
            ]),
            json!([{"name": "sql", "port": 5432}])
        ),
        slice(
            "b",
            "db",
            json!([{"addresses": ["fd01::1"], "hostname": "shared"}]),
            json!([{"name": "sql", "port": 5432}])
        ),
    ]));
    let shared = below("shared", "db");
    assert_eq!(
        answer_text(&model, &shared, Rtype::A),
        "A 172.0.0.1, A 172.0.0.2"
    );
    assert_eq!(answer_text(&model, &shared, Rtype::AAAA), "AAAA fd01::1");
    assert_eq!(
        answer_text(&model, &shared, Rtype::SRV),
        format!("SRV 0 33 5432 {shared}")
    );
    assert_eq!(
        answer_text(&model, &below("172-0-0-4", "db"), Rtype::A),
        "A 172.0.0.3, A 172.0.0.4"
    );
    assert_eq!(
        answer_text(&model, &below("172-0-0-3", "db"), Rtype::A),
        "NXDOMAIN"
    );
    // Five pairs with two distinct targets.
    let all = answer_text(&model, "_sql._tcp.db.default", Rtype::SRV);
    assert_eq!(all.matches("SRV 0 20 5432 ").count(), 2, "{all}");
    assert_eq!(all.matches("SRV").count(), 2, "{all}");
    assert_eq!(
        answer_text(&model, "4.0.0.172.in-addr.arpa.", Rtype::PTR),
        format!("PTR {}", below("172-0-0-4", "db"))
    );
}

#[test]
fn rule_6_additional_addresses_are_those_that_serve_the_port() {
    let sql = json!([{"name": "sql", "port": 5432}]);
    let all = json!([{"name": "sql", "port": 5432}, {"name": "admin", "port": 1}]);
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!([{"addresses": ["172.0.0.1"], "hostname": "shared"}]),
            all
        ),
        slice(
            "b",
            "db",
            json!([{"addresses": ["fd01::1"], "hostname": "shared"}]),
            sql
        ),
    ]));
    let shared = below("shared", "db");
    let additional = |question: &str| ask(&model, question, Rtype::SRV).additional;
    let four = format!("{shared} 5 IN A 172.0.0.1");
    let six = format!("{shared} 5 IN AAAA fd01::1");
    assert_eq!(
        additional(&below("_admin._tcp", "db")),
        std::slice::from_ref(&four)
    );
    assert_eq!(additional(&below("_sql._tcp", "db")), [four, six]);
}

#[test]
fn rule_6_every_protocol_has_its_label() {
    let model = default_model(json!([service(
        "web",
        json!({"clusterIP": "10.0.0.1", "ports": ports()})
    )]));
    let target = "web.default.svc.cluster.local.";
    for (port, data) in [
        ("_http._tcp", format!("SRV 0 100 80 {target}")),
        ("_media._udp", format!("SRV 0 100 5004 {target}")),
        ("_signal._sctp", format!("SRV 0 100 3868 {target}")),
        ("_http._udp", "NXDOMAIN".into()),
        ("_tcp", "NODATA".into()),
        ("_udp", "NODATA".into()),
        ("_sctp", "NODATA".into()),
        ("_9000._tcp", "NXDOMAIN".into()),
    ] {
        let question = format!("{port}.web.default");
        assert_eq!(
            answer_text(&model, &question, Rtype::SRV),
            data,
            "{question}"
        );
    }
    let all = answer_text(&model, "web.default", Rtype::SRV);
    assert_eq!(all.matches("SRV 0 25 ").count(), 4, "{all}");
}

#[test]
fn rule_8_pointers_of_one_address_in_several_services() {
    let same =
        || json!([{"addresses": ["172.0.0.1"], "hostname": "ep"}, {"addresses": ["10.0.0.1"]}]);
    let model = default_model(json!([
        service("a", json!({"clusterIP": "None"})),
        slice("a1", "a", same(), json!([])),
        slice("a2", "a", same(), ports()),
        service("b", json!({"clusterIP": "10.0.0.1"})),
        slice("b1", "b", same(), json!([])),
    ]));
    assert_eq!(
        answer_text(&model, "1.0.0.172.in-addr.arpa.", Rtype::PTR),
        format!("PTR {}, PTR {}", below("ep", "a"), below("ep", "b"))
    );
    // An address that is both a ClusterIP and an endpoint points at the Service.
    assert_eq!(
        answer_text(&model, "1.0.0.10.in-addr.arpa.", Rtype::PTR),
        "PTR b.default.svc.cluster.local."
    );
}

fn with_empty_ones(empty_services: EmptyServices) -> Model {
    let cluster_ip = |ip: &str| json!({"clusterIP": ip, "ports": ports()});
    let unready = json!([{"addresses": ["172.0.0.2"], "conditions": {"ready": false}}]);
    let list = json!([
        service("full", cluster_ip("10.0.0.1")),
        slice("a", "full", json!([{"addresses": ["172.0.0.1"]}]), ports()),
        service("bare", cluster_ip("10.0.0.2")),
        service("unready", cluster_ip("10.0.0.3")),
        slice("b", "unready", unready, ports()),
        service(
            "out",
            json!({"type": "ExternalName", "externalName": "example.org"})
        ),
    ]);
    let settings = ZoneSettings {
        empty_services,
        reverse: vec!["10.0.0.0/24".parse().unwrap()],
        ..ZoneSettings::default()
    };
    model_with(list, &settings)
}

#[test]
fn empty_services_can_be_ignored() {
    let ignored = with_empty_ones(EmptyServices::Ignored);
    for question in [
        "bare.default",
        "_http._tcp.bare.default",
        "_tcp.bare.default",
        "unready.default",
        "_http._tcp.unready.default",
    ] {
        for rtype in [Rtype::A, Rtype::SRV, Rtype::PTR] {
            assert_eq!(
                answer_text(&ignored, question, rtype),
                "NXDOMAIN",
                "{question}"
            );
        }
    }
    // CoreDNS answers PTR for a ClusterIP regardless of endpoints.
    assert_eq!(
        answer_text(&ignored, "2.0.0.10.in-addr.arpa.", Rtype::PTR),
        "PTR bare.default.svc.cluster.local."
    );
    assert_eq!(
        answer_text(&ignored, "full.default", Rtype::A),
        "A 10.0.0.1"
    );
    assert_eq!(
        answer_text(&ignored, "out.default", Rtype::A),
        "CNAME example.org. ..."
    );
    let answered = with_empty_ones(EmptyServices::Answered);
    assert_eq!(
        answer_text(&answered, "bare.default", Rtype::A),
        "A 10.0.0.2"
    );
    assert_eq!(
        answer_text(&answered, "3.0.0.10.in-addr.arpa.", Rtype::PTR),
        "PTR unready.default.svc.cluster.local."
    );
}

#[test]
fn an_endpoint_with_an_invalid_label_is_an_address_of_its_service() {
    let long = "h".repeat(64);
    let endpoints = json!([
        {"addresses": ["172.0.0.1"], "hostname": "a.b", "zone": "west"},
        {"addresses": ["172.0.0.2"], "hostname": "ep"},
        {"addresses": ["172.0.0.3"], "hostname": long},
    ]);
    let http = json!([{"name": "http", "port": 80}]);
    let all = objects(json!([
        namespace("default"),
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", endpoints, http),
    ]));
    let all_addresses = "A 172.0.0.1, A 172.0.0.2, A 172.0.0.3";
    let srv = "SRV 0 33 80 ep.db.default.svc.cluster.local.";
    for (nonstandard_endpoints, srv) in [
        (NonstandardEndpoints::Read, srv),
        (NonstandardEndpoints::Passed, "PASSES"),
    ] {
        let settings = ZoneSettings {
            nonstandard_endpoints,
            reverse: vec!["172.0.0.0/24".parse().unwrap()],
            ..ZoneSettings::default()
        };
        let (model, problems) = build_model(&all, &settings, 3);
        for question in ["db.default", "_http._tcp.db.default"] {
            assert_eq!(
                answer_text(&model, question, Rtype::A),
                all_addresses,
                "{question}"
            );
            assert_eq!(answer_text(&model, question, Rtype::SRV), srv, "{question}");
        }
        let zonal = answer_text(&model, "west.pin._zone.db.default", Rtype::A);
        assert_eq!(zonal, "A 172.0.0.1");
        assert_eq!(
            answer_text(&model, "ep.db.default", Rtype::A),
            "A 172.0.0.2"
        );
        assert_eq!(answer_text(&model, "a.b.db.default", Rtype::A), "NXDOMAIN");
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
