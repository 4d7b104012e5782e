//! NS records of the apex (dns-rules.md, section 1, rule 11).

use serde_json::{Value, json};

use crate::cluster::{EmptyServices, Index, NameServers, Objects, ZoneSettings};
use crate::zone::{Model, Rtype, ZoneData};

use super::{ask, model, name, namespace, objects, say};

fn dns(name: &str, addresses: &[&str]) -> Value {
    json!({
        "kind": "Service", "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"clusterIPs": addresses}
    })
}

fn settings() -> ZoneSettings {
    ZoneSettings {
        served: vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()],
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
    // The SOA record names the agent's own all the same.
    assert_eq!(
        say(&model, "ns.dns.cluster.local.", Rtype::A),
        "A 192.0.2.1"
    );
}

#[test]
fn each_domain_has_its_own_names_for_them() {
    let model = cluster(&ZoneSettings {
        cluster_domains: vec![name("cluster.local"), name("k8s.example")],
        served: vec!["10.96.0.10".parse().unwrap()],
        ..ZoneSettings::default()
    });
    for domain in ["cluster.local.", "k8s.example."] {
        assert_eq!(
            say(&model, domain, Rtype::NS),
            format!("NS kube-dns.kube-system.svc.{domain}")
        );
    }
}

#[test]
fn without_such_a_service_it_is_the_agents_own_name() {
    let own = "NS ns.dns.cluster.local.";
    for other in [
        ZoneSettings {
            served: vec!["10.96.0.12".parse().unwrap()],
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
        assert_eq!(say(&model, "cluster.local.", Rtype::NS), own);
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
    assert_eq!(say(&model, "96.10.in-addr.arpa.", Rtype::NS), "NODATA");
}

#[test]
fn those_of_somebody_else_are_passed_by_the_index_and_by_a_model_of_it() {
    let settings = ZoneSettings {
        name_servers: NameServers::Passed,
        ..ZoneSettings::default()
    };
    let index = Index::of(Objects::default(), settings, 3);
    for name in ["ns.dns.cluster.local.", "x.ns.dns.cluster.local."] {
        for rtype in [Rtype::A, Rtype::TXT] {
            assert_eq!(say(&index.view(), name, rtype), "NOT OURS", "{name}");
            let stored = Model::of(&index.view());
            assert_eq!(say(&stored, name, rtype), "NOT OURS", "{name}");
        }
    }
    let view = index.view();
    assert_eq!(say(&view, "cluster.local.", Rtype::NS), "NOT OURS");
    assert_eq!(say(&view, "dns.cluster.local.", Rtype::A), "NODATA");
    assert_eq!(view.passed().len(), 1);
}
