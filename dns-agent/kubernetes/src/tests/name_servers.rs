//! NS records of the apex (docs/naming.md, rule 1.11).

use serde_json::{Value, json};
use zerohop_zone::{Model, Rtype, ZoneData};

use super::{answer_text, ask, model, namespace, objects};
use crate::{EmptyServices, Index, NameServers, Objects, ZoneSettings};

fn dns(name: &str, addresses: &[&str]) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"clusterIPs": addresses}
    })
}

fn settings() -> ZoneSettings {
    ZoneSettings {
        served_addresses: vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()],
        name_server_addresses: vec!["192.0.2.1".parse().unwrap()],
        ..ZoneSettings::default()
    }
}

fn cluster(settings: &ZoneSettings) -> Model {
    let list = json!([
        namespace("kube-system"),
        dns("kube-dns", &["10.96.0.10", "fd00::a"]),
        dns("other-dns", &["fd00::a"]),
        dns("web", &["10.96.0.11"]),
        {
            "kind": "Service", "metadata": {"name": "db", "namespace": "kube-system"},
            "spec": {"clusterIP": "None"}
        },
        {
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "db-a", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "db"}
            },
            "endpoints": [{"addresses": ["10.96.0.10"]}]
        },
    ]);
    model(&objects(list), settings)
}

#[test]
fn the_services_with_a_served_address_are_the_name_servers() {
    let model = cluster(&settings());
    let reply = ask(&model, "cluster.local", Rtype::NS);
    let server = |name: &str| format!("{name}.kube-system.svc.cluster.local.");
    assert_eq!(
        reply.answer,
        [
            format!("cluster.local. 5 IN NS {}", server("kube-dns")),
            format!("cluster.local. 5 IN NS {}", server("other-dns")),
        ]
    );
    assert_eq!(
        reply.additional,
        [
            format!("{} 5 IN A 10.96.0.10", server("kube-dns")),
            format!("{} 5 IN AAAA fd00::a", server("kube-dns")),
            format!("{} 5 IN AAAA fd00::a", server("other-dns")),
        ]
    );
    // `ns.dns`, which the SOA record names, still has its address.
    assert_eq!(
        answer_text(&model, "ns.dns.cluster.local.", Rtype::A),
        "A 192.0.2.1"
    );
}

#[test]
fn without_such_a_service_the_name_server_is_ns_dns() {
    let own = "NS ns.dns.cluster.local.";
    for other in [
        ZoneSettings {
            served_addresses: vec!["10.96.0.12".parse().unwrap()],
            ..settings()
        },
        ZoneSettings {
            namespaces: vec!["default".into()],
            ..settings()
        },
        ZoneSettings {
            empty_services: EmptyServices::Ignored,
            ..settings()
        },
    ] {
        let model = cluster(&other);
        assert_eq!(answer_text(&model, "cluster.local.", Rtype::NS), own);
        assert_eq!(
            ask(&model, "cluster.local", Rtype::NS).additional,
            ["ns.dns.cluster.local. 5 IN A 192.0.2.1"]
        );
    }
    let reverse = ZoneSettings {
        reverse: vec!["10.96.0.0/16".parse().unwrap()],
        ..settings()
    };
    let model = cluster(&reverse);
    assert_eq!(
        answer_text(&model, "96.10.in-addr.arpa.", Rtype::NS),
        "NODATA"
    );
}

#[test]
fn passed_name_servers_pass_in_the_index_and_in_a_stored_model() {
    let settings = ZoneSettings {
        name_servers: NameServers::Passed,
        ..ZoneSettings::default()
    };
    let index = Index::from_objects(Objects::default(), settings, 3);
    for name in ["ns.dns.cluster.local.", "x.ns.dns.cluster.local."] {
        for rtype in [Rtype::A, Rtype::TXT] {
            assert_eq!(answer_text(&index.view(), name, rtype), "PASSES", "{name}");
            let stored = Model::from_zone_data(&index.view());
            assert_eq!(answer_text(&stored, name, rtype), "PASSES", "{name}");
        }
    }
    let view = index.view();
    assert_eq!(answer_text(&view, "cluster.local.", Rtype::NS), "PASSES");
    assert_eq!(answer_text(&view, "dns.cluster.local.", Rtype::A), "NODATA");
    assert_eq!(view.delegated_names().len(), 1);
}
