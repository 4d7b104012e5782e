//! PTR records and reverse zones (dns-rules.md, section 1, rule 8).

use serde_json::json;

use crate::cluster::ZoneSettings;
use crate::zone::{Model, Rtype, ZoneData};

use super::{ask, model_with, name, say, service, slice};

fn reverse(networks: &[&str]) -> Model {
    let settings = ZoneSettings {
        reverse: networks
            .iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        ..ZoneSettings::default()
    };
    let twice = json!([{"addresses": ["10.96.0.9", "10.96.0.1", "fd00::9"], "hostname": "ep"}]);
    let list = json!([
        service("web", json!({"clusterIPs": ["10.96.0.1", "fd00::1"]})),
        service("web-too", json!({"clusterIP": "10.96.0.1"})),
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", twice.clone(), json!([])),
        slice("b", "db", twice.clone(), json!([])),
        slice("c", "web", twice, json!([])),
        slice(
            "orphan",
            "gone",
            json!([{"addresses": ["10.96.0.8"]}]),
            json!([])
        ),
    ]);
    model_with(list, &settings)
}

#[test]
fn a_cluster_ip_is_its_service_and_nothing_else() {
    let model = reverse(&[]);
    let web = "PTR web.default.svc.cluster.local.";
    assert_eq!(say(&model, "1.0.96.10.in-addr.arpa.", Rtype::PTR), web);
    let v6 = format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(say(&model, &v6, Rtype::PTR), web);
}

#[test]
fn another_address_is_every_endpoint_once() {
    assert_eq!(
        say(&reverse(&[]), "9.0.96.10.in-addr.arpa.", Rtype::PTR),
        "PTR ep.db.default.svc.cluster.local., PTR ep.web.default.svc.cluster.local."
    );
}

#[test]
fn pointers_are_made_of_slices_whose_service_has_none_of_their_endpoints() {
    let external = json!({"type": "ExternalName", "externalName": "example.org"});
    let addresses = json!([{"addresses": ["10.244.0.1"]}]);
    let model = model_with(
        json!([
            service("db", json!({"clusterIP": "None"})),
            service("out", external),
            slice("a", "db", addresses.clone(), json!([])),
            slice("b", "out", addresses.clone(), json!([])),
            slice("c", "gone", addresses, json!([])),
        ]),
        &ZoneSettings::default(),
    );
    let target = |service| format!("PTR 10-244-0-1.{service}.default.svc.cluster.local.");
    assert_eq!(
        say(&model, "1.0.244.10.in-addr.arpa.", Rtype::PTR),
        ["db", "out", "gone"].map(target).join(", ")
    );
    assert_eq!(say(&model, "gone.default", Rtype::A), "NXDOMAIN");
    assert_eq!(say(&model, "10-244-0-1.gone.default", Rtype::A), "NXDOMAIN");
}

#[test]
fn outside_a_reverse_zone_only_the_pointers_are_ours() {
    let model = reverse(&[]);
    for (question, rtype) in [
        ("1.0.96.10.in-addr.arpa.", Rtype::A),
        ("1.0.96.10.in-addr.arpa.", Rtype::ANY),
        ("0.96.10.in-addr.arpa.", Rtype::PTR),
        ("7.0.96.10.in-addr.arpa.", Rtype::PTR),
        ("x.1.0.96.10.in-addr.arpa.", Rtype::PTR),
        ("in-addr.arpa.", Rtype::SOA),
    ] {
        assert_eq!(
            say(&model, question, rtype),
            "NOT OURS",
            "{question} {rtype}"
        );
    }
    let pointer = name("1.0.96.10.in-addr.arpa");
    assert_eq!(model.zone_of(&pointer), None);
    assert!(model.nodes().any(|(name, _)| *name == pointer));
    assert!(
        model
            .nodes()
            .all(|(name, _)| *name != pointer.parent().unwrap())
    );
}

#[test]
fn inside_a_reverse_zone_the_rest_does_not_exist() {
    let model = reverse(&["10.96.0.0/12", "fd00::/8"]);
    assert_eq!(model.zones().len(), 1 + 16 + 1);
    for (question, data) in [
        (
            "1.0.96.10.in-addr.arpa.",
            "PTR web.default.svc.cluster.local.",
        ),
        ("0.96.10.in-addr.arpa.", "NODATA"),
        ("96.10.in-addr.arpa.", "NODATA"),
        ("111.10.in-addr.arpa.", "NODATA"),
        ("7.0.96.10.in-addr.arpa.", "NXDOMAIN"),
        ("1.96.10.in-addr.arpa.", "NXDOMAIN"),
        ("1.1.111.10.in-addr.arpa.", "NXDOMAIN"),
        ("x.1.0.96.10.in-addr.arpa.", "NXDOMAIN"),
        ("1.1.112.10.in-addr.arpa.", "NOT OURS"),
        ("1.1.95.10.in-addr.arpa.", "NOT OURS"),
        ("10.in-addr.arpa.", "NOT OURS"),
        ("0.0.d.f.ip6.arpa.", "NODATA"),
        ("1.0.d.f.ip6.arpa.", "NXDOMAIN"),
        ("e.f.ip6.arpa.", "NOT OURS"),
    ] {
        assert_eq!(say(&model, question, Rtype::PTR), data, "{question}");
    }
    let gone = ask(&model, "7.0.111.10.in-addr.arpa", Rtype::PTR);
    assert_eq!(
        gone.authority,
        ["111.10.in-addr.arpa. 5 IN SOA ns.dns.111.10.in-addr.arpa. \
          hostmaster.111.10.in-addr.arpa. 3 7200 1800 86400 5"]
    );
}

#[test]
fn a_network_said_twice_is_one_zone_and_a_longer_one_inside_wins() {
    let model = reverse(&["10.96.0.0/16", "10.96.0.0/16", "10.96.0.0/24"]);
    assert_eq!(model.zones().len(), 3);
    let zone = |question: &str| {
        let zone = model.zone_of(&name(question)).expect("a zone");
        model.zones()[zone].name.to_string()
    };
    assert_eq!(zone("1.0.96.10.in-addr.arpa"), "0.96.10.in-addr.arpa.");
    assert_eq!(zone("1.1.96.10.in-addr.arpa"), "96.10.in-addr.arpa.");
}
