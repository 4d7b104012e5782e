//! Names that the operator delegates to CoreDNS (`--pass`, `passed` in the settings).

use serde_json::json;
use zerohop_zone::{Model, Rtype, ZoneData};

use super::{absolute, answer_text, model, model_with, name, objects, service, slice};
use crate::{Objects, ZoneSettings, build_model};

fn settings(passed: &[&str]) -> ZoneSettings {
    ZoneSettings {
        passed: passed.iter().map(|text| name(text)).collect(),
        reverse: vec!["10.96.0.0/15".parse().unwrap()],
        ..ZoneSettings::default()
    }
}

fn cluster(passed: &[&str]) -> Model {
    let external = |target: &str| json!({"type": "ExternalName", "externalName": target});
    let list = json!([
        service("web", json!({"clusterIP": "10.96.0.1"})),
        service(
            "legacy",
            json!({"clusterIP": "10.96.5.1", "ports": [{"port": 80}]})
        ),
        service("old", external("x.legacy.default.svc.cluster.local")),
        service("db", json!({"clusterIP": "None"})),
        slice(
            "a",
            "db",
            json!([{"addresses": ["172.0.0.1"], "zone": "west"}]),
            json!([])
        ),
    ]);
    model_with(list, &settings(passed))
}

#[test]
fn queries_for_a_passed_name_and_names_below_it_pass() {
    let model = cluster(&[
        "legacy.default.svc.cluster.local",
        "a.b.cluster.local",
        "5.96.10.in-addr.arpa",
    ]);
    for question in [
        "legacy.default",
        "LEGACY.Default",
        "x.legacy.default",
        "_http._tcp.legacy.default",
        "a.b.cluster.local.",
        "svc.a.b.cluster.local.",
        "1.5.96.10.in-addr.arpa.",
        "2.5.96.10.in-addr.arpa.",
        "5.96.10.in-addr.arpa.",
    ] {
        for rtype in [Rtype::A, Rtype::SOA, Rtype::PTR, Rtype::ANY] {
            assert_eq!(answer_text(&model, question, rtype), "PASSES", "{question}");
        }
        assert_eq!(
            model.zone_of(&name(&absolute(question))),
            None,
            "{question}"
        );
    }
    assert_eq!(answer_text(&model, "b.cluster.local.", Rtype::A), "NODATA");
    assert_eq!(
        answer_text(&model, "ab.cluster.local.", Rtype::A),
        "NXDOMAIN"
    );
    assert_eq!(answer_text(&model, "xlegacy.default", Rtype::A), "NXDOMAIN");
    assert_eq!(answer_text(&model, "web.default", Rtype::A), "A 10.96.0.1");
    // The target of the alias is delegated.
    assert_eq!(
        answer_text(&model, "old.default", Rtype::A),
        "CNAME x.legacy.default.svc.cluster.local. ..."
    );
    assert_eq!(
        answer_text(&model, "1.6.96.10.in-addr.arpa.", Rtype::PTR),
        "NXDOMAIN"
    );
    for (name, _) in model.entries() {
        for passed in model.delegated_names() {
            assert!(
                !name.is_at_or_below(passed),
                "{name} has an entry, but {passed} passes"
            );
        }
    }
}

#[test]
fn a_passed_name_does_not_change_computed_names_above_it() {
    let passed = [
        "x.1-2-3-4.default.pod.cluster.local",
        "5-6-7-8.default.pod.cluster.local",
        "x.east.prefer._zone.db.default.svc.cluster.local",
        "x.east.pin._zone.db.default.svc.cluster.local",
    ];
    let model = cluster(&passed);
    for (question, data) in [
        ("x.1-2-3-4.default.pod.cluster.local.", "PASSES"),
        ("1-2-3-4.default.pod.cluster.local.", "A 1.2.3.4"),
        ("1-2-3-5.default.pod.cluster.local.", "A 1.2.3.5"),
        ("5-6-7-8.default.pod.cluster.local.", "PASSES"),
        ("east.prefer._zone.db.default", "A 172.0.0.1"),
        ("east.pin._zone.db.default", "NODATA"),
    ] {
        assert_eq!(answer_text(&model, question, Rtype::A), data, "{question}");
    }
    // The SRV record of a Pod's name has port 0 (docs/naming.md, rule 1.9).
    assert_eq!(
        answer_text(&model, "1-2-3-4.default.pod.cluster.local.", Rtype::SRV),
        "SRV 0 100 0 1-2-3-4.default.pod.cluster.local."
    );

    // Without Namespace objects every namespace counts as existing.
    let settings = settings(&["x.any.pod.cluster.local", "any.svc.cluster.local"]);
    let model = model_without_objects(&settings);
    for (question, data) in [
        ("any.pod.cluster.local.", "NODATA"),
        ("x.any.pod.cluster.local.", "PASSES"),
        ("1-2-3-4.any.pod.cluster.local.", "A 1.2.3.4"),
        ("any", "PASSES"),
        ("other", "NODATA"),
    ] {
        assert_eq!(answer_text(&model, question, Rtype::A), data, "{question}");
    }
}

fn model_without_objects(settings: &ZoneSettings) -> Model {
    model(&objects(json!([])), settings)
}

#[test]
fn reverse_zones_and_pointers_outside_zones_can_be_passed() {
    let model = model_without_objects(&settings(&["97.10.in-addr.arpa"]));
    // The cluster domain and `96.10.in-addr.arpa`. Names outside all zones pass without delegation.
    assert_eq!(model.zones().len(), 2);
    assert_eq!(model.delegated_names(), []);
    assert_eq!(
        answer_text(&model, "97.10.in-addr.arpa.", Rtype::SOA),
        "PASSES"
    );
    assert_eq!(
        answer_text(&model, "1.96.10.in-addr.arpa.", Rtype::A),
        "NXDOMAIN"
    );

    let model = cluster(&["172.in-addr.arpa"]);
    assert_eq!(
        answer_text(&model, "1.0.0.172.in-addr.arpa.", Rtype::PTR),
        "PASSES"
    );
    let model = cluster(&[]);
    assert_ne!(
        answer_text(&model, "1.0.0.172.in-addr.arpa.", Rtype::PTR),
        "PASSES"
    );
}

#[test]
fn nested_passed_names_are_reduced_to_the_outer_one() {
    let settings = settings(&["x.y.cluster.local", "y.cluster.local", "Y.cluster.local."]);
    let (model, _) = build_model(&Objects::default(), &settings, 3);
    assert_eq!(model.delegated_names(), [name("y.cluster.local")]);
}
