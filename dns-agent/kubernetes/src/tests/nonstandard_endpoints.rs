//! Nonstandard endpoints, which CoreDNS reads differently. With [`NonstandardEndpoints::Passed`],
//! the names that depend on them are delegated to CoreDNS.

use serde_json::{Value, json};
use zerohop_zone::{Model, Rtype};

use super::{answer_text, model_with, service, slice};
use crate::{EmptyServices, EndpointNames, NonstandardEndpoints, ZoneSettings};

fn settings() -> ZoneSettings {
    ZoneSettings {
        nonstandard_endpoints: NonstandardEndpoints::Passed,
        reverse: vec!["172.0.0.0/24".parse().unwrap()],
        ..ZoneSettings::default()
    }
}

/// A slice of type FQDN, with a domain name in place of an address. The name may look like an
/// address.
fn fqdn_slice(name: &str, service: &str, domain_name: &str) -> Value {
    let mut slice = slice(
        name,
        service,
        json!([{"addresses": [domain_name]}]),
        json!([{"name": "http", "port": 80}]),
    );
    slice["addressType"] = json!("FQDN");
    slice
}

fn cluster(settings: &ZoneSettings) -> Model {
    let http = json!([{"name": "http", "port": 80}]);
    let address = json!([{"addresses": ["172.0.0.1"], "hostname": "ep", "zone": "west"}]);
    let zeros = json!([{"addresses": ["172.00.0.2"]}, {"addresses": ["172.0.0.3"]}]);
    let list = json!([
        service("mixed", json!({"clusterIP": "None"})),
        slice("a", "mixed", address.clone(), http.clone()),
        fqdn_slice("b", "mixed", "www.example.com"),
        service("zeros", json!({"clusterIP": "None"})),
        slice("c", "zeros", zeros, http.clone()),
        service("web", json!({"clusterIP": "10.0.0.1", "ports": http})),
        slice("d", "web", address, http.clone()),
        fqdn_slice("e", "web", "www.example.com"),
        service("behind", json!({"clusterIP": "10.0.0.2", "ports": http})),
        fqdn_slice("f", "behind", "www.example.com"),
        service("ghost", json!({"clusterIP": "None"})),
        fqdn_slice("g", "ghost", "172.0.0.4"),
        service(
            "to-mixed",
            json!({"type": "ExternalName", "externalName": "mixed.default.svc.cluster.local"})
        ),
    ]);
    model_with(list, settings)
}

#[test]
fn srv_queries_pass_if_some_endpoints_of_a_host_have_no_port_number() {
    let shared = |address: &str| json!([{"addresses": [address], "hostname": "shared"}]);
    let other = json!([{"addresses": ["172.0.0.3"], "hostname": "other"}]);
    let list = json!([
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            shared("172.0.0.1"),
            json!([{"name": "", "protocol": "TCP"}])
        ),
        slice(
            "b",
            "db",
            shared("172.0.0.2"),
            json!([{"name": "http", "port": 80}])
        ),
        slice("c", "db", other, json!([{"name": "http", "port": 80}])),
        service(
            "web",
            json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]})
        ),
        slice("d", "web", shared("172.0.0.5"), Value::Null),
        slice(
            "e",
            "web",
            shared("172.0.0.6"),
            json!([{"name": "http", "port": 80}])
        ),
    ]);
    let model = model_with(list.clone(), &settings());
    assert_eq!(
        answer_text(&model, "shared.web.default", Rtype::SRV),
        "PASSES"
    );
    // A ClusterIP has the Service's ports, which have numbers.
    let web = "SRV 0 100 80 web.default.svc.cluster.local.";
    assert_eq!(answer_text(&model, "web.default", Rtype::SRV), web);
    for name in ["db.default", "shared.db.default"] {
        assert_eq!(answer_text(&model, name, Rtype::SRV), "PASSES", "{name}");
    }
    assert_eq!(
        answer_text(&model, "shared.db.default", Rtype::A),
        "A 172.0.0.1, A 172.0.0.2"
    );
    let answer = "SRV 0 100 80 other.db.default.svc.cluster.local.";
    assert_eq!(answer_text(&model, "other.db.default", Rtype::SRV), answer);
    // Only endpoints with a port number have SRV records for the port.
    let port = answer_text(&model, "_http._tcp.db.default", Rtype::SRV);
    assert_eq!(port.matches("SRV").count(), 2, "{port}");

    let by_default = model_with(list, &ZoneSettings::default());
    assert_ne!(answer_text(&by_default, "db.default", Rtype::SRV), "PASSES");
}

#[test]
fn every_name_of_a_headless_service_with_a_nonstandard_endpoint_passes() {
    let model = cluster(&settings());
    for question in [
        "mixed.default",
        "ep.mixed.default",
        "www-example-com.mixed.default",
        "_tcp.mixed.default",
        "_http._tcp.mixed.default",
        "http.tcp.mixed.default",
        "_._.mixed.default",
        "_zone.mixed.default",
        "pin._zone.mixed.default",
        "west.pin._zone.mixed.default",
        "east.prefer._zone.mixed.default",
        "zeros.default",
        "172-0-0-3.zeros.default",
        "172-00-0-2.zeros.default",
        "ghost.default",
        "to-mixed.default",
    ] {
        for rtype in [Rtype::A, Rtype::AAAA] {
            assert_eq!(answer_text(&model, question, rtype), "PASSES", "{question}");
        }
    }
    assert_eq!(
        answer_text(&model, "_http._udp.mixed.default", Rtype::A),
        "NXDOMAIN"
    );
    assert_eq!(
        answer_text(&model, "to-mixed.default", Rtype::CNAME),
        "CNAME mixed.default.svc.cluster.local."
    );
}

#[test]
fn below_a_cluster_ip_only_the_names_of_endpoints_pass() {
    let model = cluster(&settings());
    for (question, expected) in [
        ("web.default", "A 10.0.0.1"),
        ("_http._tcp.web.default", "A 10.0.0.1"),
        ("ep.web.default", "PASSES"),
        ("x.web.default", "PASSES"),
        ("_http._udp.web.default", "NXDOMAIN"),
    ] {
        assert_eq!(
            answer_text(&model, question, Rtype::A),
            expected,
            "{question}"
        );
    }
}

#[test]
fn pointers_of_nonstandard_endpoints_pass() {
    let model = cluster(&settings());
    for (last, expected) in [
        // Two slices with standard addresses list 172.0.0.1.
        (
            1,
            "PTR ep.web.default.svc.cluster.local., PTR ep.mixed.default.svc.cluster.local.",
        ),
        // CoreDNS reads 172.00.0.2 as a domain name.
        (2, "NXDOMAIN"),
        // 172.0.0.3 is in the same slice, and 172.0.0.4 in a slice of type FQDN.
        (3, "PASSES"),
        (4, "PASSES"),
    ] {
        let question = format!("{last}.0.0.172.in-addr.arpa.");
        assert_eq!(
            answer_text(&model, &question, Rtype::PTR),
            expected,
            "{question}"
        );
    }
}

#[test]
fn a_domain_name_counts_as_a_ready_endpoint() {
    let model = cluster(&ZoneSettings {
        empty_services: EmptyServices::Ignored,
        ..settings()
    });
    assert_eq!(
        answer_text(&model, "behind.default", Rtype::A),
        "A 10.0.0.2"
    );
}

#[test]
fn nonstandard_endpoints_are_ignored_by_default() {
    let model = cluster(&ZoneSettings::default());
    assert_eq!(
        answer_text(&model, "mixed.default", Rtype::A),
        "A 172.0.0.1"
    );
    assert_eq!(
        answer_text(&model, "zeros.default", Rtype::A),
        "A 172.0.0.3"
    );
    assert_eq!(answer_text(&model, "x.web.default", Rtype::A), "NXDOMAIN");
}

#[test]
fn names_pass_if_the_target_of_an_endpoint_has_several_labels() {
    let endpoints = json!([
        {"addresses": ["172.0.0.1"], "targetRef": {"kind": "Node", "name": "node.1"}},
        {"addresses": ["172.0.0.2"], "targetRef": {"kind": "Pod", "name": "pod"}},
    ]);
    let model = |endpoint_names| {
        let list = json!([
            service("db", json!({"clusterIP": "None"})),
            slice("a", "db", endpoints.clone(), json!([])),
        ]);
        let settings = ZoneSettings {
            endpoint_names,
            ..settings()
        };
        model_with(list, &settings)
    };
    let by_pod = model(EndpointNames::Pod);
    for question in ["db.default", "172-0-0-1.db.default", "pod.db.default"] {
        assert_eq!(
            answer_text(&by_pod, question, Rtype::A),
            "PASSES",
            "{question}"
        );
    }
    let by_address = model(EndpointNames::Address);
    assert_eq!(
        answer_text(&by_address, "172-0-0-1.db.default", Rtype::A),
        "A 172.0.0.1"
    );
}

/// CoreDNS denies such a Service, but answers the topology zones below it. So both pass.
#[test]
fn names_of_a_headless_service_without_endpoints_pass() {
    let list = json!([service("db", json!({"clusterIP": "None"}))]);
    let model = model_with(list, &settings());
    for question in ["db.default", "west.pin._zone.db.default"] {
        assert_eq!(
            answer_text(&model, question, Rtype::A),
            "PASSES",
            "{question}"
        );
    }
}
