//! Names of Services and endpoints (docs/naming.md, rules 1.1 and 1.3 to 1.6), and names by
//! topology zone (rule 1.10).

use serde_json::{Value, json};
use zerohop_zone::{Model, Rtype};

use super::{answer_text, ask, default_model, model_with, service, slice};
use crate::{EndpointNames, ZoneSettings};

fn http() -> Value {
    json!([{"name": "http", "port": 80}])
}

/// A ClusterIP Service with one endpoint, and a headless Service with three.
fn shop() -> Model {
    default_model(json!([
        service("web", json!({"clusterIP": "10.0.0.1", "ports": http()})),
        slice(
            "web-a",
            "web",
            json!([{"addresses": ["172.0.0.9"], "hostname": "ep1a"}]),
            http()
        ),
        service("db", json!({"clusterIP": "None", "ports": http()})),
        slice(
            "db-a",
            "db",
            json!([
                {"addresses": ["172.0.0.1"], "zone": "west-a"},
                {"addresses": ["172.0.0.2"], "zone": "west-b"},
                {"addresses": ["172.0.0.3"], "zone": "west-b", "hostname": "third"}
            ]),
            http()
        ),
    ]))
}

#[test]
fn rule_1_only_these_shapes_exist() {
    let model = shop();
    for shape in [
        "svc.cluster.local.",
        "pod.cluster.local.",
        "default",
        "default.pod.cluster.local.",
        "web.default",
        "ep1a.web.default",
        "_http._tcp.web.default",
        "west-a.pin._zone.db.default",
        "1-2-3-4.default.pod.cluster.local.",
    ] {
        assert_ne!(answer_text(&model, shape, Rtype::A), "NXDOMAIN", "{shape}");
    }
    for shape in [
        "other.cluster.local.",
        "x.ep1a.web.default",
        "_http._tcp.ep1a.web.default",
        "x._http._tcp.web.default",
        "_https._tcp.web.default",
        "_http._udp.web.default",
        "_http.web.default",
        "http.tcp.web.default",
        "http._tcp.web.default",
        "_http.tcp.web.default",
        "x.west-a.pin._zone.db.default",
        "x.1-2-3-4.default.pod.cluster.local.",
        "web.default.cluster.local.",
    ] {
        assert_eq!(answer_text(&model, shape, Rtype::A), "NXDOMAIN", "{shape}");
    }
    assert_eq!(answer_text(&model, "www.example.org.", Rtype::A), "PASSES");
    assert_eq!(answer_text(&model, "local.", Rtype::SOA), "PASSES");
}

#[test]
fn rule_3_a_cluster_ip_answers_without_endpoints() {
    let model = default_model(json!([service(
        "web",
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]})
    )]));
    assert_eq!(answer_text(&model, "web.default", Rtype::A), "A 10.0.0.1");
    assert_eq!(
        answer_text(&model, "web.default", Rtype::AAAA),
        "AAAA fd00::1"
    );
    assert_eq!(answer_text(&model, "WEB.Default", Rtype::A), "A 10.0.0.1");
}

#[test]
fn rule_3_a_headless_service_has_its_ready_addresses_once() {
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!([{"addresses": ["172.0.0.2", "172.0.0.1"]}]),
            json!([])
        ),
        slice("b", "db", json!([{"addresses": ["172.0.0.2"]}]), http()),
        service("idle", json!({"clusterIP": "None", "ports": http()})),
        slice(
            "c",
            "idle",
            json!([{"addresses": ["172.0.0.3"], "conditions": {"ready": false}}]),
            http()
        ),
    ]));
    assert_eq!(
        answer_text(&model, "db.default", Rtype::A),
        "A 172.0.0.1, A 172.0.0.2"
    );
    assert_eq!(answer_text(&model, "db.default", Rtype::AAAA), "NODATA");
    for name in [
        "idle.default",
        "172-0-0-3.idle.default",
        "_http._tcp.idle.default",
        "x.pin._zone.idle.default",
    ] {
        assert_eq!(answer_text(&model, name, Rtype::A), "NXDOMAIN", "{name}");
    }
}

#[test]
fn rule_4_ready_is_true_or_absent() {
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!([
                {"addresses": ["172.0.0.1"]},
                {"addresses": ["172.0.0.2"], "conditions": {}},
                {"addresses": ["172.0.0.3"], "conditions": {"ready": true, "serving": false, "terminating": true}},
                {"addresses": ["172.0.0.4"], "conditions": {"ready": false, "serving": true}}
            ]),
            json!([])
        ),
    ]));
    assert_eq!(
        answer_text(&model, "db.default", Rtype::A),
        "A 172.0.0.1, A 172.0.0.2, A 172.0.0.3"
    );
}

#[test]
fn rule_5_labels_of_endpoints() {
    let long = "p".repeat(64);
    let list = json!([
        service("web", json!({"clusterIP": "10.0.0.1"})),
        slice(
            "a",
            "web",
            json!([
                {"addresses": ["172.0.0.1"], "hostname": "Host", "targetRef": {"name": "pod-1"}},
                {"addresses": ["172.0.0.2"], "targetRef": {"name": "pod-2"}},
                {"addresses": ["172.0.0.3"], "targetRef": {"name": long}},
                {"addresses": ["172.0.0.4"], "targetRef": {"name": "dotted.pod"}},
                {"addresses": ["10::"]},
                {"addresses": ["10::1"]}
            ]),
            json!([])
        ),
    ]);
    let named_by = |endpoint_names| {
        let settings = ZoneSettings {
            endpoint_names,
            ..ZoneSettings::default()
        };
        model_with(list.clone(), &settings)
    };
    let model = named_by(EndpointNames::Address);
    for (endpoint, data) in [
        ("host", "A 172.0.0.1"),
        ("172-0-0-2", "A 172.0.0.2"),
        ("172-0-0-3", "A 172.0.0.3"),
        ("172-0-0-1", "NXDOMAIN"),
        ("pod-2", "NXDOMAIN"),
    ] {
        assert_eq!(
            answer_text(&model, &format!("{endpoint}.web.default"), Rtype::A),
            data
        );
    }
    assert_eq!(
        answer_text(&model, "10--0.web.default", Rtype::AAAA),
        "AAAA 10::"
    );
    assert_eq!(
        answer_text(&model, "10--1.web.default", Rtype::AAAA),
        "AAAA 10::1"
    );

    let model = named_by(EndpointNames::Pod);
    for (endpoint, data) in [
        ("host", "A 172.0.0.1"),
        ("pod-1", "NXDOMAIN"),
        ("pod-2", "A 172.0.0.2"),
        ("172-0-0-2", "NXDOMAIN"),
        ("172-0-0-3", "A 172.0.0.3"),
        ("172-0-0-4", "A 172.0.0.4"),
    ] {
        assert_eq!(
            answer_text(&model, &format!("{endpoint}.web.default"), Rtype::A),
            data
        );
    }
}

#[test]
fn rule_6_srv_of_a_cluster_ip() {
    let model = default_model(json!([
        service(
            "web",
            json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ports": [
                {"name": "http", "port": 80},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"port": 9000}
            ]})
        ),
        service("bare", json!({"clusterIP": "10.0.0.2"})),
    ]));
    let target = "web.default.svc.cluster.local.";
    assert_eq!(
        answer_text(&model, "_http._tcp.web.default", Rtype::SRV),
        format!("SRV 0 50 80 {target}")
    );
    assert_eq!(
        answer_text(&model, "_dns._udp.web.default", Rtype::SRV),
        format!("SRV 0 50 53 {target}")
    );
    assert_eq!(
        answer_text(&model, "web.default", Rtype::SRV),
        format!("SRV 0 16 53 {target}, SRV 0 16 80 {target}, SRV 0 16 9000 {target}")
    );
    assert_eq!(
        ask(&model, &format!("_http._tcp.{target}"), Rtype::SRV).additional,
        [
            format!("{target} 5 IN A 10.0.0.1"),
            format!("{target} 5 IN AAAA fd00::1")
        ]
    );
    // Three ports of one target: its two addresses appear once.
    assert_eq!(ask(&model, target, Rtype::SRV).additional.len(), 2);
    assert_eq!(
        answer_text(&model, "_http._tcp.web.default", Rtype::A),
        "A 10.0.0.1"
    );
    assert_eq!(
        answer_text(&model, "_http._tcp.web.default", Rtype::AAAA),
        "AAAA fd00::1"
    );
    assert_eq!(answer_text(&model, "bare.default", Rtype::SRV), "NODATA");
}

#[test]
fn rule_6_srv_of_a_headless_service_and_its_endpoints() {
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!([
                {"addresses": ["172.0.0.1"]},
                {"addresses": ["172.0.0.2", "172.0.0.3"], "hostname": "twin"}
            ]),
            json!([{"name": "sql", "port": 5432}, {"name": "any"}])
        ),
        slice(
            "b",
            "db",
            json!([{"addresses": ["172.0.0.4"]}]),
            json!([{"name": "sql", "port": 5433}])
        ),
    ]));
    let below = |endpoint: &str| format!("{endpoint}.db.default.svc.cluster.local.");
    // Four pairs of address and port; two of them share the target `twin`.
    assert_eq!(
        answer_text(&model, "_sql._tcp.db.default", Rtype::SRV),
        format!(
            "SRV 0 25 5432 {}, SRV 0 25 5432 {}, SRV 0 25 5433 {}",
            below("twin"),
            below("172-0-0-1"),
            below("172-0-0-4")
        )
    );
    assert_eq!(
        ask(&model, "_sql._tcp.db.default.svc.cluster.local", Rtype::SRV)
            .additional
            .len(),
        4
    );
    assert_eq!(
        answer_text(&model, "twin.db.default", Rtype::SRV),
        format!("SRV 0 25 5432 {}", below("twin"))
    );
    assert_eq!(
        answer_text(&model, "_sql._tcp.db.default", Rtype::A),
        "A 172.0.0.1, A 172.0.0.2, A 172.0.0.3, A 172.0.0.4"
    );
    // A port without a number has addresses, but no SRV record.
    assert_eq!(
        answer_text(&model, "_any._tcp.db.default", Rtype::SRV),
        "NODATA"
    );
    assert_eq!(
        answer_text(&model, "_any._tcp.db.default", Rtype::A),
        "A 172.0.0.1, A 172.0.0.2, A 172.0.0.3"
    );
}

#[test]
fn rule_6_weights_never_reach_zero() {
    let endpoints: Vec<Value> = (0..120)
        .map(|host| json!({"addresses": [format!("172.0.1.{host}")]}))
        .collect();
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", json!(endpoints), http()),
    ]));
    let all = answer_text(&model, "_http._tcp.db.default", Rtype::SRV);
    assert_eq!(all.matches("SRV 0 1 80 ").count(), 120);
}

#[test]
fn rule_6_two_services_of_one_ip_keep_their_names_apart() {
    let model = default_model(json!([
        service("a", json!({"clusterIP": "10.0.0.1", "ports": http()})),
        service("b", json!({"clusterIP": "10.0.0.1", "ports": http()})),
    ]));
    assert_eq!(
        answer_text(&model, "b.default", Rtype::SRV),
        "SRV 0 100 80 b.default.svc.cluster.local."
    );
}

#[test]
fn rule_10_zonal_names() {
    let model = shop();
    let zonal = |question: &str, rtype| answer_text(&model, &format!("{question}.default"), rtype);
    for (question, data) in [
        ("west-a.pin._zone.db", "A 172.0.0.1"),
        ("west-b.pin._zone.db", "A 172.0.0.2, A 172.0.0.3"),
        ("west-c.pin._zone.db", "NODATA"),
        ("WEST-A.Prefer._zone.db", "A 172.0.0.1"),
        ("west-b.prefer._zone.db", "A 172.0.0.2, A 172.0.0.3"),
        (
            "west-c.prefer._zone.db",
            "A 172.0.0.1, A 172.0.0.2, A 172.0.0.3",
        ),
        ("west-a.other._zone.db", "NXDOMAIN"),
        ("west-a.pin._zone.web", "NXDOMAIN"),
        ("west-a.pin._zone.ghost", "NXDOMAIN"),
        ("west.a.pin._zone.db", "NXDOMAIN"),
        ("pin._zone.db", "NODATA"),
        ("_zone.db", "NODATA"),
    ] {
        assert_eq!(zonal(question, Rtype::A), data, "{question}");
    }
    assert_eq!(zonal("west-c.prefer._zone.db", Rtype::TXT), "NODATA");
    assert_eq!(
        zonal("west-b.pin._zone.db", Rtype::SRV),
        "SRV 0 50 80 third.db.default.svc.cluster.local., \
         SRV 0 50 80 172-0-0-2.db.default.svc.cluster.local."
    );
    let all = zonal("west-c.prefer._zone.db", Rtype::SRV);
    assert_eq!(all.matches("SRV 0 33 80 ").count(), 3);
    assert_eq!(
        ask(
            &model,
            "west-c.prefer._zone.db.default.svc.cluster.local",
            Rtype::SRV
        )
        .additional
        .len(),
        3
    );
}
