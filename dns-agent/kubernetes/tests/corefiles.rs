//! What is answered with the Corefiles of `tests/corefiles`.

#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::json;
use zerohop_contract::{corefile_shapes::CorefileShape, platforms::Answers};
use zerohop_kubernetes::{Conclusions, ConfigMapTexts, DnsContainers, ObjectKey};
use zerohop_zone::AbsentNames;

/// At most one of this many shapes that CoreDNS runs with may make everything pass.
const ONE_OF: usize = 20;

/// The conclusions of an agent that finds CoreDNS with this shape's ConfigMaps.
fn conclude(shape: &CorefileShape) -> Conclusions {
    let pod = json!({
        "metadata": {"namespace": "kube-system", "name": "coredns"},
        "spec": {
            "containers": [{
                "name": "coredns",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}],
                "volumeMounts": [
                    {"name": "config", "mountPath": "/etc/coredns"},
                    {"name": "custom", "mountPath": "/etc/coredns/custom"},
                ],
            }],
            "volumes": [
                {"name": "config", "configMap": {"name": "coredns"}},
                {"name": "custom", "configMap": {"name": "coredns-custom", "optional": true}},
            ],
        },
    });
    let containers = DnsContainers::of_pod(&serde_json::from_value(pod).unwrap());
    let server = containers.server_at(53).unwrap();
    let key = |name: &str| ObjectKey::new("kube-system", name);
    let custom = Some(&shape.custom).filter(|custom| !custom.is_empty());
    let maps = ConfigMapTexts::from([
        (key("coredns"), Some(Arc::new(shape.coredns.clone()))),
        (key("coredns-custom"), custom.cloned().map(Arc::new)),
    ]);
    Conclusions::read(&server.read_config(&maps).unwrap().unwrap())
}

/// What the kernel answers of the cluster domain.
fn answers(conclusions: &Conclusions) -> Answers {
    let Some(adopted) = &conclusions.adopted else {
        return Answers::Nothing;
    };
    let mut zones = adopted.zones.iter();
    match zones.find(|zone| zone.name.to_string() == "cluster.local.") {
        None => Answers::Nothing,
        Some(zone) if zone.absent == AbsentNames::Passed => Answers::Existing,
        Some(_) => Answers::Most,
    }
}

#[test]
fn each_shape_is_answered_as_its_file_says() {
    for shape in CorefileShape::all() {
        let conclusions = conclude(&shape);
        let reasons = &conclusions.reasons;
        let file = format!("{}/{}", shape.kind.folder(), shape.file);
        assert_eq!(answers(&conclusions), shape.answers, "{file}: {reasons:#?}");
        if shape.answers != Answers::Nothing {
            continue;
        }
        let is_reason = |reason: &String| reason.contains(&shape.reason);
        let is_given = !shape.reason.is_empty() && reasons.iter().any(is_reason);
        assert!(is_given, "{file}: {reasons:#?} instead of {}", shape.reason);
    }
}

#[test]
fn at_most_one_in_twenty_makes_everything_pass() {
    let shapes = CorefileShape::all();
    let run: Vec<_> = shapes.iter().filter(|it| !it.is_obsolete()).collect();
    let passing = run.iter().filter(|it| it.answers == Answers::Nothing);
    let passing: Vec<&str> = passing.map(|shape| shape.file.as_str()).collect();
    assert_eq!(run.len(), 35 + 16);
    assert!(passing.len() * ONE_OF <= run.len(), "{passing:?}");
}

#[test]
fn obsolete_options_are_the_reason_why_everything_passes() {
    for shape in CorefileShape::all() {
        if !shape.is_obsolete() {
            continue;
        }
        let Conclusions { adopted, reasons } = conclude(&shape);
        assert_eq!(adopted, None, "{}", shape.file);
        let reason = "`upstream` is an option that CoreDNS removed in version 1.7";
        let is_named = |it: &String| it.contains(reason);
        assert!(reasons.iter().any(is_named), "{}: {reasons:#?}", shape.file);
    }
}
