//! Services of type ExternalName (docs/naming.md, rule 1.7).

use serde_json::json;
use zerohop_zone::{Answer, Model, Rtype, ZoneData};

use super::{
    answer_text, ask, build_model, default_model, model_with, name, namespace, object, objects,
    service, slice,
};
use crate::{Deviations, Index, ZoneSettings};

fn aliases() -> Model {
    let external = |target: &str| json!({"type": "ExternalName", "externalName": target});
    let mut list = vec![
        service("web", json!({"clusterIP": "10.0.0.1"})),
        service("out", external("www.example.org")),
        service("in", external("web.default.svc.cluster.local.")),
        service("in-out", external("out.default.svc.cluster.local")),
        service("gone", external("nothing.default.svc.cluster.local")),
        service("self", external("self.default.svc.cluster.local")),
        service("ping", external("pong.default.svc.cluster.local")),
        service("pong", external("ping.default.svc.cluster.local")),
        service("pod", external("1-2-3-4.default.pod.cluster.local")),
        slice(
            "out-a",
            "out",
            json!([{"addresses": ["172.0.0.1"], "hostname": "ep"}]),
            json!([]),
        ),
        service("named", external("ported.default.svc.cluster.local")),
        service(
            "ported",
            json!({"clusterIP": "10.0.0.2", "ports": [{"name": "http", "port": 80}]}),
        ),
        service("link0", external("web.default.svc.cluster.local")),
    ];
    list.extend((1..=11).map(|link| {
        let target = format!("link{}.default.svc.cluster.local", link - 1);
        service(&format!("link{link}"), external(&target))
    }));
    default_model(json!(list))
}

#[test]
fn an_alias_chain_ends_at_a_target_outside() {
    let model = aliases();
    for rtype in [Rtype::A, Rtype::AAAA] {
        assert_eq!(
            answer_text(&model, "out.default", rtype),
            "CNAME www.example.org. ..."
        );
    }
    assert_eq!(
        answer_text(&model, "out.default", Rtype::CNAME),
        "CNAME www.example.org."
    );
    // RFC 1034 section 3.6.2: a CNAME answers every type.
    for rtype in [Rtype::SRV, Rtype::TXT, Rtype::MX, Rtype::HTTPS] {
        assert_eq!(
            answer_text(&model, "out.default", rtype),
            "CNAME www.example.org. ..."
        );
    }
    assert_eq!(answer_text(&model, "out.default", Rtype::ANY), "NODATA");
    for name in ["ep.out.default", "_http._tcp.out.default"] {
        assert_eq!(answer_text(&model, name, Rtype::CNAME), "NXDOMAIN");
    }
    let Answer::Alias { chain, target } =
        model.answer(&name("in-out.default.svc.cluster.local"), Rtype::AAAA)
    else {
        panic!("an alias that leaves the zone");
    };
    assert_eq!(chain.len(), 2);
    assert_eq!(target, name("www.example.org"));
}

#[test]
fn an_alias_is_followed_inside_the_zones() {
    let model = aliases();
    assert_eq!(
        answer_text(&model, "in.default", Rtype::A),
        "CNAME web.default.svc.cluster.local., A 10.0.0.1"
    );
    assert_eq!(answer_text(&model, "in.default", Rtype::AAAA), "NODATA");
    assert_eq!(answer_text(&model, "gone.default", Rtype::A), "NODATA");
    assert_eq!(
        answer_text(&model, "gone.default", Rtype::CNAME),
        "CNAME nothing.default.svc.cluster.local."
    );
    assert_eq!(
        answer_text(&model, "pod.default", Rtype::A),
        "CNAME 1-2-3-4.default.pod.cluster.local., A 1.2.3.4"
    );
}

#[test]
fn other_types_follow_an_alias_inside_the_zones_too() {
    let model = aliases();
    let web = "CNAME web.default.svc.cluster.local.";
    assert_eq!(answer_text(&model, "in.default", Rtype::MX), web);
    assert_eq!(
        answer_text(&model, "named.default", Rtype::SRV),
        "CNAME ported.default.svc.cluster.local., SRV 0 100 80 ported.default.svc.cluster.local."
    );
    assert_eq!(
        answer_text(&model, "gone.default", Rtype::MX),
        "CNAME nothing.default.svc.cluster.local."
    );
    assert_eq!(answer_text(&model, "self.default", Rtype::MX), "NODATA");
    let Answer::Alias { chain, .. } =
        model.answer(&name("in-out.default.svc.cluster.local"), Rtype::MX)
    else {
        panic!("an alias that leaves the zone");
    };
    assert_eq!(chain.len(), 2);
}

/// CoreDNS answers NODATA for other types.
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

#[test]
fn an_alias_chain_has_at_most_eleven_links_and_no_loops() {
    let model = aliases();
    for name in ["self.default", "ping.default", "pong.default"] {
        assert_eq!(answer_text(&model, name, Rtype::A), "NODATA", "{name}");
    }
    // link10 is eleven links away from the address, link11 twelve.
    let eleven = answer_text(&model, "link10.default", Rtype::A);
    assert_eq!(eleven.matches("CNAME").count(), 11);
    assert!(eleven.ends_with(", A 10.0.0.1"));
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
        let reply = ask(&model, &format!("alias.default.svc.{domain}"), Rtype::A);
        assert_eq!(
            reply.answer,
            [
                format!("alias.default.svc.{domain}. 5 IN CNAME web.default.svc.k8s.example."),
                "web.default.svc.k8s.example. 5 IN A 10.0.0.1".into(),
            ]
        );
    }
}
