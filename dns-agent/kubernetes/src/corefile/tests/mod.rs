//! Conclusions from Corefiles.

mod blocks;
mod distributions;
mod kubernetes;
mod node_cache;
mod plugins;
mod properties;
mod reload;
mod routes;
mod text;

use zerohop_zone::Name;

use super::{
    AbsentNames, AdoptedSettings, AdoptedZone, Conclusions, NodeCacheContext, NodeCacheEffect,
    Reload, UpstreamService, ZonalNames,
};
use crate::{EmptyServices, EndpointNames, PodMode, Selectors};

/// A server block like the one in kubeadm's default Corefile, with additional lines from line 7.
fn corefile_with(lines: &str) -> String {
    format!(
        ".:53 {{
    log
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }}
    {lines}
}}
"
    )
}

fn read_text(text: &str) -> Conclusions {
    Conclusions::read(&text.into())
}

fn read_reload(text: &str) -> Reload {
    Reload::read(&text.into())
}

/// The settings adopted from kubeadm's default Corefile, but with this TTL. Its `cache 30` caps
/// `version_ttl`.
fn kubeadm_settings(ttl: u32) -> AdoptedSettings {
    AdoptedSettings {
        zones: vec![
            zone("cluster.local", AbsentNames::Denied),
            zone("in-addr.arpa", AbsentNames::Passed),
            zone("ip6.arpa", AbsentNames::Passed),
        ],
        passed: Vec::new(),
        passed_types: Vec::new(),
        changed_answers: Vec::new(),
        signed_zones: Vec::new(),
        rewritten: Vec::new(),
        ttl,
        uncapped_ttl: None,
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

/// The answered zones, then the names in these zones that pass, each after a minus. `nothing` if
/// everything passes.
fn answered(text: &str) -> String {
    let Some(adopted) = read_text(text).adopted else {
        return "nothing".to_owned();
    };
    let zones = adopted.zones.iter().map(|zone| zone.name.to_string());
    let passed = adopted.passed.iter().map(|name| format!("-{name}"));
    zones.chain(passed).collect::<Vec<_>>().join(" ")
}

/// The only reason why everything passes.
fn refusal(text: &str) -> String {
    let Conclusions { adopted, reasons } = read_text(text);
    assert_eq!(adopted, None, "{text}");
    assert_eq!(reasons.len(), 1, "not exactly one reason: {reasons:#?}");
    reasons.concat()
}
