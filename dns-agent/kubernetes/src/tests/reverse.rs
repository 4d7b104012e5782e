//! PTR records and reverse zones (docs/naming.md, rule 1.8).

use serde_json::json;
use zerohop_zone::{Model, Name, Rtype, ZoneData};

use super::{answer_text, model_with, name, reply_text, service, slice};
use crate::ZoneSettings;

/// A model with reverse zones for these networks.
fn reverse_model(networks: &[&str]) -> Model {
    let settings = ZoneSettings {
        reverse: networks
            .iter()
            .map(|network| network.parse().unwrap())
            .collect(),
        ..ZoneSettings::default()
    };
    let endpoints = json!([{"addresses": ["10.96.0.9", "10.96.0.1", "fd00::9"], "hostname": "ep"}]);
    let list = json!([
        service("web", json!({"clusterIPs": ["10.96.0.1", "fd00::1"]})),
        service("web-too", json!({"clusterIP": "10.96.0.1"})),
        service("db", json!({"clusterIP": "None"})),
        slice("a", "db", endpoints.clone(), json!([])),
        slice("b", "db", endpoints.clone(), json!([])),
        slice("c", "web", endpoints, json!([])),
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
fn only_ptr_queries_are_answered_outside_reverse_zones() {
    let model = reverse_model(&[]);
    for (question, rtype) in [
        ("1.0.96.10.in-addr.arpa.", Rtype::A),
        ("1.0.96.10.in-addr.arpa.", Rtype::ANY),
        ("0.96.10.in-addr.arpa.", Rtype::PTR),
        ("7.0.96.10.in-addr.arpa.", Rtype::PTR),
        ("x.1.0.96.10.in-addr.arpa.", Rtype::PTR),
        ("in-addr.arpa.", Rtype::SOA),
    ] {
        assert_eq!(
            answer_text(&model, question, rtype),
            "PASSES",
            "{question} {rtype}"
        );
    }
    let pointer = name("1.0.96.10.in-addr.arpa");
    assert_eq!(model.zone_of(&pointer), None);
    let has_entry = |wanted: &Name| model.entries().any(|(name, _)| name == wanted);
    assert!(has_entry(&pointer), "{pointer} has no entry");
    let parent = pointer.parent().unwrap();
    assert!(!has_entry(&parent), "{parent} has an entry");
}

#[test]
fn absent_names_in_a_reverse_zone_are_denied() {
    let model = reverse_model(&["10.96.0.0/12", "fd00::/8"]);
    // The cluster domain, `96.10` to `111.10` in `in-addr.arpa`, and `d.f.ip6.arpa`.
    assert_eq!(model.zones().len(), 1 + 16 + 1);
    for (question, data) in [
        // The ClusterIP of `web` and `web-too` has one PTR record, although endpoints have the
        // address too.
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
        ("1.1.112.10.in-addr.arpa.", "PASSES"),
        ("1.1.95.10.in-addr.arpa.", "PASSES"),
        ("10.in-addr.arpa.", "PASSES"),
        ("0.0.d.f.ip6.arpa.", "NODATA"),
        ("1.0.d.f.ip6.arpa.", "NXDOMAIN"),
        ("e.f.ip6.arpa.", "PASSES"),
    ] {
        assert_eq!(
            answer_text(&model, question, Rtype::PTR),
            data,
            "{question}"
        );
    }
    let denied = reply_text(&model, "7.0.111.10.in-addr.arpa", Rtype::PTR);
    assert_eq!(
        denied.authority,
        ["111.10.in-addr.arpa. 5 IN SOA ns.dns.111.10.in-addr.arpa. \
          hostmaster.111.10.in-addr.arpa. 3 7200 1800 86400 5"]
    );
}

#[test]
fn a_repeated_network_is_one_zone_and_the_longest_prefix_wins() {
    let model = reverse_model(&["10.96.0.0/16", "10.96.0.0/16", "10.96.0.0/24"]);
    // The cluster domain, `96.10.in-addr.arpa` and `0.96.10.in-addr.arpa`.
    assert_eq!(model.zones().len(), 3);
    let zone = |question: &str| {
        let zone = model.zone_of(&name(question)).expect("a zone");
        model.zones()[zone].name.to_string()
    };
    assert_eq!(zone("1.0.96.10.in-addr.arpa"), "0.96.10.in-addr.arpa.");
    assert_eq!(zone("1.1.96.10.in-addr.arpa"), "96.10.in-addr.arpa.");
}
