//! Conclusions from Corefiles.

mod blocks;
mod distributions;
mod kubernetes;
mod node_cache;
mod plugins;
mod properties;
mod reload;
mod text;

use zerohop_zone::Name;

use super::{
    AbsentNames, AdoptedSettings, AdoptedZone, Conclusions, NodeCacheContext, NodeCacheEffect,
    UpstreamService, ZonalNames,
};
use crate::{EmptyServices, EndpointNames, PodMode, Selectors};

/// The server block of kubeadm's default, with additional lines.
fn with(lines: &str) -> String {
    format!(
        ".:53 {{
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }}
    {lines}
}}
"
    )
}

/// The settings adopted from kubeadm's default, which has `cache 30`.
fn standard(ttl: u32) -> AdoptedSettings {
    AdoptedSettings {
        zones: vec![
            zone("cluster.local", AbsentNames::Denied),
            zone("in-addr.arpa", AbsentNames::Passed),
            zone("ip6.arpa", AbsentNames::Passed),
        ],
        passed: Vec::new(),
        ttl,
        version_ttl: 30,
        pods: PodMode::Insecure,
        namespaces: Vec::new(),
        selectors: Selectors::default(),
        empty_services: EmptyServices::Answered,
        endpoint_names: EndpointNames::Address,
        zonal_names: ZonalNames::Absent,
    }
}

fn zone(text: &str, absent: AbsentNames) -> AdoptedZone {
    AdoptedZone {
        name: name(text),
        absent,
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// The zones that are answered, then the names in them that pass, each after a minus.
fn answered(text: &str) -> String {
    let Some(adopted) = Conclusions::read(text).adopted else {
        return "nothing".to_owned();
    };
    let zones = adopted.zones.iter().map(|zone| zone.name.to_string());
    let passed = adopted.passed.iter().map(|name| format!("-{name}"));
    zones.chain(passed).collect::<Vec<_>>().join(" ")
}

/// The only reason because of which nothing is answered.
fn refusal(text: &str) -> String {
    let Conclusions { adopted, reasons } = Conclusions::read(text);
    assert_eq!(adopted, None, "{text}");
    assert_eq!(reasons.len(), 1, "{reasons:#?}");
    reasons.concat()
}
