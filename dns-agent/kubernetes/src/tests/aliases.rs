//! Services of type ExternalName (docs/naming.md, rule 1.7).

use serde_json::json;
use zerohop_zone::Rtype;

use super::{
    answer_text, build_model, default_model, model_with, name, namespace, object, objects,
    reply_text, service,
};
use crate::{Deviations, Index, ZoneSettings};

/// At an alias, CoreDNS answers NODATA for types other than A, AAAA and CNAME, although the CNAME
/// answers every type (RFC 1034 section 3.6.2).
#[test]
fn other_types_of_an_alias_pass_if_deviations_pass() {
    let settings = ZoneSettings {
        deviations: Deviations::Passed,
        ..ZoneSettings::default()
    };
    let external = |target: &str| json!({"type": "ExternalName", "externalName": target});
    let mut all = objects(json!([
        service("web", json!({"clusterIP": "10.0.0.1"})),
        service("out", external("www.example.org")),
        service("in", external("web.default.svc.cluster.local.")),
    ]));
    all.insert(object(namespace("default")));
    let index = Index::from_objects(all, settings, 3);
    let web = "CNAME web.default.svc.cluster.local.";
    for (name, rtype, expected) in [
        ("out.default", Rtype::A, "CNAME www.example.org. ..."),
        ("out.default", Rtype::CNAME, "CNAME www.example.org."),
        ("out.default", Rtype::TXT, "PASSES"),
        ("in.default", Rtype::A, &format!("{web}, A 10.0.0.1")),
        ("in.default", Rtype::AAAA, "NODATA"),
        ("in.default", Rtype::TXT, "PASSES"),
        ("web.default", Rtype::TXT, "NODATA"),
    ] {
        assert_eq!(
            answer_text(&index.view(), name, rtype),
            expected,
            "{name} {rtype}"
        );
    }
}

/// The limit is CoreDNS's: `MAX_LINKS` of the crate `zerohop-zone`.
#[test]
fn an_alias_chain_has_at_most_eleven_links() {
    let link = |number: u32, target: &str| {
        let target = format!("{target}.default.svc.cluster.local");
        let external = json!({"type": "ExternalName", "externalName": target});
        service(&format!("link{number}"), external)
    };
    let mut list = vec![
        service("web", json!({"clusterIP": "10.0.0.1"})),
        link(0, "web"),
    ];
    list.extend((1..=11).map(|number| link(number, &format!("link{}", number - 1))));
    let model = default_model(json!(list));
    // link10 is eleven links away from the address, link11 twelve.
    let eleven = answer_text(&model, "link10.default", Rtype::A);
    assert_eq!(eleven.matches("CNAME").count(), 11, "{eleven}");
    assert!(eleven.ends_with(", A 10.0.0.1"), "{eleven}");
    assert_eq!(answer_text(&model, "link11.default", Rtype::A), "NODATA");
}

#[test]
fn an_invalid_target_is_a_problem() {
    for (target, reason) in [
        (
            "10.0.0.1",
            "spec.externalName: \"10.0.0.1\" is an address; an alias needs a domain name",
        ),
        (
            "a..b",
            "spec.externalName: \"a..b\": a label must not be empty",
        ),
    ] {
        let mut all = objects(json!([
            service(
                "bad",
                json!({"type": "ExternalName", "externalName": target})
            ),
            service("web", json!({"clusterIP": "10.0.0.1"})),
        ]));
        all.insert(object(namespace("default")));
        let (model, problems) = build_model(&all, &ZoneSettings::default(), 3);
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, [format!("Service default/bad: {reason}")]);
        assert_eq!(answer_text(&model, "bad.default", Rtype::A), "NXDOMAIN");
        assert_eq!(answer_text(&model, "web.default", Rtype::A), "A 10.0.0.1");
    }
}

#[test]
fn a_target_in_another_cluster_domain_is_followed() {
    let settings = ZoneSettings {
        cluster_domains: vec![name("cluster.local"), name("k8s.example")],
        ..ZoneSettings::default()
    };
    let external = json!({"type": "ExternalName", "externalName": "WEB.default.svc.k8s.example"});
    let list = json!([
        service("alias", external),
        service("web", json!({"clusterIP": "10.0.0.1"})),
    ]);
    let model = model_with(list, &settings);
    for domain in ["cluster.local", "k8s.example"] {
        let reply = reply_text(&model, &format!("alias.default.svc.{domain}"), Rtype::A);
        assert_eq!(
            reply.answer,
            [
                format!("alias.default.svc.{domain}. 5 IN CNAME web.default.svc.k8s.example."),
                "web.default.svc.k8s.example. 5 IN A 10.0.0.1".into(),
            ]
        );
    }
}
