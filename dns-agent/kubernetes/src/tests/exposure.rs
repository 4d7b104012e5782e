//! Which names exist: of namespaces, of Pods, at apexes, in several cluster domains, and of objects
//! with invalid names (docs/naming.md, rules 1.2, 1.9, 1.11 and 1.13).

use serde_json::json;
use zerohop_zone::{Model, Rtype, ZoneData};

use super::{
    answer_text, build_model, default_model, model, model_with, name, namespace, object, objects,
    reply_text, service, slice, too_long_domain,
};
use crate::{KnownPods, Objects, PodMode, ZoneSettings};

fn pod(name: &str, addresses: &[&str], phase: &str) -> serde_json::Value {
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "status": {"phase": phase, "podIPs": addresses}
    })
}

#[test]
fn every_namespace_exists_if_there_are_no_namespace_objects() {
    let list = json!([service("web", json!({"clusterIP": "10.0.0.1"}))]);
    let with = |settings: &ZoneSettings| model(&objects(list.clone()), settings);
    let open = with(&ZoneSettings::default());
    for (name, data) in [
        ("web.default", "A 10.0.0.1"),
        ("default", "NODATA"),
        ("any", "NODATA"),
        ("web.any", "NXDOMAIN"),
        ("x.web.any", "NXDOMAIN"),
        ("any.pod.cluster.local.", "NODATA"),
        ("1-2-3-4.any.pod.cluster.local.", "A 1.2.3.4"),
        ("1-2-3-4.default.pod.cluster.local.", "A 1.2.3.4"),
        ("blah.any.pod.cluster.local.", "NXDOMAIN"),
        ("x.1-2-3-4.any.pod.cluster.local.", "NXDOMAIN"),
    ] {
        assert_eq!(answer_text(&open, name, Rtype::A), data, "{name}");
    }
    // The computed names below `svc` are namespaces. Those below `pod` are namespaces, and
    // addresses below these.
    let depth = |model: &Model, wanted: &str| {
        let wanted = name(wanted);
        let mut entries = model.entries();
        entries
            .find(|(name, _)| **name == wanted)
            .map(|(_, entry)| entry.computed_depth())
    };
    assert_eq!(depth(&open, "svc.cluster.local"), Some(1));
    assert_eq!(depth(&open, "pod.cluster.local"), Some(2));
    assert_eq!(depth(&open, "default.pod.cluster.local"), Some(1));

    let disabled = with(&ZoneSettings {
        pods: PodMode::Disabled,
        ..ZoneSettings::default()
    });
    assert_eq!(
        answer_text(&disabled, "any.pod.cluster.local.", Rtype::A),
        "NXDOMAIN"
    );
    let verified = with(&ZoneSettings {
        pods: PodMode::Verified,
        ..ZoneSettings::default()
    });
    assert_eq!(
        answer_text(&verified, "any.pod.cluster.local.", Rtype::A),
        "NODATA"
    );
    assert_eq!(
        answer_text(&verified, "1-2-3-4.any.pod.cluster.local.", Rtype::A),
        "NXDOMAIN"
    );

    // Listed namespaces exist even without objects.
    let listed = with(&ZoneSettings {
        namespaces: vec!["other".into()],
        ..ZoneSettings::default()
    });
    assert_eq!(answer_text(&listed, "other", Rtype::A), "NODATA");
    assert_eq!(answer_text(&listed, "default", Rtype::A), "NXDOMAIN");
    assert_eq!(answer_text(&listed, "web.default", Rtype::A), "NXDOMAIN");
}

#[test]
fn no_pod_is_denied_if_only_some_pods_are_known() {
    let settings = ZoneSettings {
        pods: PodMode::Verified,
        known_pods: KnownPods::SomeNodes,
        ..ZoneSettings::default()
    };
    let pods = json!([pod("p", &["10.240.0.1"], "Running")]);
    let model = model_with(pods, &settings);
    for (question, data) in [
        ("10-240-0-1.default", "A 10.240.0.1"),
        ("10-240-0-2.default", "PASSES"),
        ("no-address.default", "PASSES"),
        ("x.10-240-0-2.default", "NXDOMAIN"),
        ("default", "NODATA"),
        ("10-240-0-1.ghost", "NXDOMAIN"),
    ] {
        let question = format!("{question}.pod.cluster.local.");
        assert_eq!(answer_text(&model, &question, Rtype::A), data, "{question}");
    }
}

/// Rule 1.13.
#[test]
fn a_ttl_of_0_is_valid() {
    let settings = ZoneSettings {
        ttl: 0,
        ..ZoneSettings::default()
    };
    let list = json!([service("web", json!({"clusterIP": "10.0.0.1"}))]);
    let model = model_with(list, &settings);
    for (question, record) in [
        ("web.default.svc.cluster.local", "A 10.0.0.1"),
        ("1-2-3-4.default.pod.cluster.local", "A 1.2.3.4"),
    ] {
        assert_eq!(
            reply_text(&model, question, Rtype::A).answer,
            [format!("{question}. 0 IN {record}")]
        );
    }
    let denied = reply_text(&model, "ghost.default.svc.cluster.local", Rtype::A).authority;
    assert!(
        denied[0].starts_with("cluster.local. 0 IN SOA"),
        "{denied:?}"
    );
    assert!(denied[0].ends_with(" 7200 1800 86400 0"), "{denied:?}");
}

#[test]
fn a_cache_caps_the_ttl_and_not_the_minimum() {
    let mut settings = ZoneSettings::default();
    settings.set_ttl(5, 30);
    let model = model_with(json!([]), &settings);
    let denied = reply_text(&model, "ghost.default.svc.cluster.local", Rtype::A).authority;
    let apex = reply_text(&model, "cluster.local", Rtype::SOA).answer;
    for soa in [&denied[0], &apex[0]] {
        assert!(soa.starts_with("cluster.local. 5 IN SOA"), "{soa}");
        assert!(soa.ends_with(" 7200 1800 86400 30"), "{soa}");
    }
    settings.set_ttl(30, 30);
    assert_eq!((settings.uncapped_ttl, settings.soa_minimum()), (None, 30));
}

/// Rule 1.11.
#[test]
fn the_name_server_has_the_configured_addresses() {
    let settings = ZoneSettings {
        name_server_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        reverse: vec!["10.0.0.0/16".parse().unwrap()],
        ..ZoneSettings::default()
    };
    let model = model_with(json!([]), &settings);
    assert_eq!(
        answer_text(&model, "ns.dns.cluster.local.", Rtype::A),
        "A 192.0.2.1"
    );
    assert_eq!(
        answer_text(&model, "ns.dns.cluster.local.", Rtype::AAAA),
        "AAAA 2001:db8::1"
    );
    assert_eq!(
        answer_text(&model, "ns.dns.0.10.in-addr.arpa.", Rtype::A),
        "A 192.0.2.1"
    );
    assert_eq!(
        reply_text(&model, "cluster.local", Rtype::NS).additional,
        [
            "ns.dns.cluster.local. 5 IN A 192.0.2.1",
            "ns.dns.cluster.local. 5 IN AAAA 2001:db8::1"
        ]
    );
}

#[test]
fn every_cluster_domain_has_all_names_and_ptr_records_point_into_the_first() {
    let settings = ZoneSettings {
        cluster_domains: vec![
            name("cluster.local"),
            name("a.b.cluster.local"),
            name("k8s.example"),
        ],
        ..ZoneSettings::default()
    };
    let endpoints = json!([{"addresses": ["172.0.0.1"], "hostname": "ep"}]);
    let list = json!([
        service("web", json!({"clusterIP": "10.0.0.1"})),
        slice("a", "web", endpoints, json!([])),
    ]);
    let model = model_with(list, &settings);
    for domain in ["cluster.local.", "a.b.cluster.local.", "k8s.example."] {
        assert_eq!(
            answer_text(&model, &format!("web.default.svc.{domain}"), Rtype::A),
            "A 10.0.0.1",
            "{domain}"
        );
        let denied = reply_text(&model, &format!("x.svc.{domain}"), Rtype::A);
        assert!(denied.authority[0].starts_with(domain), "{denied:?}");
    }
    // A name between the outer zone and the inner zone.
    assert_eq!(answer_text(&model, "b.cluster.local.", Rtype::A), "NODATA");
    assert_eq!(answer_text(&model, "example.", Rtype::A), "PASSES");
    assert_eq!(
        answer_text(&model, "1.0.0.10.in-addr.arpa.", Rtype::PTR),
        "PTR web.default.svc.cluster.local."
    );
    assert_eq!(
        answer_text(&model, "1.0.0.172.in-addr.arpa.", Rtype::PTR),
        "PTR ep.web.default.svc.cluster.local."
    );
    // Zones are in order, longest name first.
    let lengths: Vec<usize> = model
        .zones()
        .iter()
        .map(|zone| zone.name.wire().len())
        .collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
}

#[test]
fn invalid_names_are_problems_and_the_rest_is_built() {
    let long = "n".repeat(64);
    let all = objects(json!([
        namespace("default"),
        namespace("not.one"),
        service(&long, json!({"clusterIP": "10.0.0.1"})),
        service("pending", json!({"type": "ClusterIP"})),
        service("web", json!({"clusterIP": "10.0.0.2"})),
        slice(
            "a",
            "web",
            json!([{"addresses": ["172.0.0.1"], "hostname": "a.b"}]),
            json!([])
        ),
    ]));
    let settings = ZoneSettings {
        cluster_domains: vec![name("cluster.local"), too_long_domain()],
        ..ZoneSettings::default()
    };
    let (model, problems) = build_model(&all, &settings, 3);
    let problem_text = |kind: &str| {
        problems
            .iter()
            .find(|problem| problem.kind == kind)
            .unwrap_or_else(|| panic!("no problem of a {kind}: {problems:?}"))
            .to_string()
    };
    assert_eq!(
        problem_text("Namespace"),
        "Namespace not.one: metadata.name: \"not.one\" is not a label of a domain name"
    );
    assert_eq!(
        problem_text("EndpointSlice"),
        "EndpointSlice default/a: endpoints: \"a.b\" is not a label of a domain name, \
         so this endpoint has no name"
    );
    let services: Vec<&str> = problems
        .iter()
        .filter(|problem| problem.kind == "Service")
        .map(|problem| problem.field.as_str())
        .collect();
    // The name of one Service is too long for a label, and `pending` has no address.
    assert!(services.contains(&"metadata.name"), "{services:?}");
    assert!(services.contains(&"spec.clusterIP"), "{services:?}");
    assert_eq!(answer_text(&model, "web.default", Rtype::A), "A 10.0.0.2");
}

#[test]
fn a_cluster_domain_that_is_too_long_for_names_below_it_is_a_problem() {
    let settings = ZoneSettings {
        cluster_domains: vec![too_long_domain(), name("cluster.local")],
        ..ZoneSettings::default()
    };
    let (model, problems) = build_model(&Objects::default(), &settings, 3);
    let kinds: Vec<&str> = problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, ["cluster domain"]);
    assert_eq!(model.zones().len(), 1);
}

#[test]
fn an_object_replaces_the_previous_object_with_its_key() {
    let mut all = objects(json!([service("web", json!({"clusterIP": "10.0.0.1"}))]));
    all.insert(object(service("web", json!({"clusterIP": "10.0.0.2"}))));
    assert_eq!(
        answer_text(
            &model(&all, &ZoneSettings::default()),
            "web.default",
            Rtype::A
        ),
        "A 10.0.0.2"
    );
}

#[test]
fn the_default_settings_make_one_zone() {
    assert_eq!(default_model(json!([])).zones().len(), 1);
}
