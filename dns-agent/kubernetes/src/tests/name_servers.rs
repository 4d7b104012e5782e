//! NS records of the apex (docs/naming.md, rule 1.11).

use serde_json::{Value, json};
use zerohop_zone::{Model, Rtype, ZoneData};

use super::{answer_text, model, name, namespace, objects, reply_text, too_long_domain};
use crate::{EmptyServices, Index, NameServers, Objects, ZoneSettings, build_model};

/// A Service in the namespace `kube-system`.
fn system_service(name: &str, addresses: &[&str]) -> Value {
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
    model(&cluster_objects(), settings)
}

/// `kube-dns` and `other-dns` have a served ClusterIP, and `web` has another one. `db` has a served
/// address only as an endpoint, which makes no name server.
fn cluster_objects() -> Objects {
    objects(json!([
        namespace("kube-system"),
        system_service("kube-dns", &["10.96.0.10", "fd00::a"]),
        system_service("other-dns", &["fd00::a"]),
        system_service("web", &["10.96.0.11"]),
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
    ]))
}

#[test]
fn the_services_with_a_served_address_are_the_name_servers() {
    let model = cluster(&settings());
    let reply = reply_text(&model, "cluster.local", Rtype::NS);
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
fn an_invalid_cluster_domain_does_not_get_the_name_servers_of_the_next_one() {
    let settings = ZoneSettings {
        cluster_domains: vec![too_long_domain(), name("cluster.local")],
        ..settings()
    };
    let (model, problems) = build_model(&cluster_objects(), &settings, 3);
    assert_eq!(problems.len(), 1, "{problems:?}");
    let reply = reply_text(&model, "cluster.local", Rtype::NS);
    // `kube-dns` and `other-dns`.
    assert_eq!(reply.answer.len(), 2, "{:?}", reply.answer);
}

#[test]
fn ns_dns_is_the_name_server_if_no_answered_service_has_a_served_address() {
    let ns_dns = "NS ns.dns.cluster.local.";
    for settings in [
        // No Service has this address.
        ZoneSettings {
            served_addresses: vec!["10.96.0.12".parse().unwrap()],
            ..settings()
        },
        // The namespace of the Services isn't exposed.
        ZoneSettings {
            namespaces: vec!["default".into()],
            ..settings()
        },
        // The Services have no endpoints.
        ZoneSettings {
            empty_services: EmptyServices::Ignored,
            ..settings()
        },
    ] {
        let model = cluster(&settings);
        let answer = answer_text(&model, "cluster.local.", Rtype::NS);
        assert_eq!(answer, ns_dns, "{settings:?}");
        assert_eq!(
            reply_text(&model, "cluster.local", Rtype::NS).additional,
            ["ns.dns.cluster.local. 5 IN A 192.0.2.1"],
            "{settings:?}"
        );
    }
    // Reverse zones have no NS records.
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
    assert_eq!(view.delegated_names(), [name("ns.dns.cluster.local")]);
}
