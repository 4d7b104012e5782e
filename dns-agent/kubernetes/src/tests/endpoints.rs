//! Services with very many endpoints, and endpoints without a valid name (docs/naming.md, rules 1.5
//! and 1.6).

use serde_json::{Value, json};
use zerohop_zone::Rtype;

use super::{answer_text, default_model, namespace, objects, service, slice};
use crate::{NonstandardEndpoints, ZoneSettings, build_model};

/// Rule 1.6.
#[test]
fn the_weight_of_a_srv_record_is_at_least_1() {
    // For 120 addresses, floor(100 / 120) would be 0.
    let endpoints: Vec<Value> = (0..120)
        .map(|host| json!({"addresses": [format!("172.0.1.{host}")]}))
        .collect();
    let model = default_model(json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!(endpoints),
            json!([{"name": "http", "port": 80}])
        ),
    ]));
    let all = answer_text(&model, "_http._tcp.db.default", Rtype::SRV);
    assert_eq!(all.matches("SRV 0 1 80 ").count(), 120);
}

/// Rule 1.5.
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
    // The weight is floor(100 / 3), because the addresses without a name count too.
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
        // `a.b` and the long host name.
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
