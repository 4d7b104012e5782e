//! For each scenario of `tests/scenarios/`, except [`NOT_HERE`]: the model of its objects gives the
//! response codes and records that the scenario requires. `tests/suites` tests the messages.

use std::{fs, path::Path, str::FromStr};

use serde_json::Value;
use zerohop_contract::{
    message::sort_rrsets,
    scenario::{SERIAL, Scenario, ScenarioQuestion},
};
use zerohop_zone::{Answer, Model, Name, Rtype, ZoneData};

use super::{name, negative_soa_text, object, record_text};
use crate::{EmptyServices, EndpointNames, Objects, PodMode, Selectors, ZoneSettings, build_model};

/// Scenarios that need other crates.
const NOT_HERE: [&str; 4] = [
    // Sizes, EDNS and flags are the resolver's.
    "rfc1035-size.scn",
    "rfc6891-edns.scn",
    "rule-2-nonstandard-queries.scn",
    // The reader of files marks headless Services without slices.
    "rule-1.03-unknown.scn",
];

#[test]
fn the_objects_of_every_scenario_make_its_records() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let mut questions = 0;
    let mut faults = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if NOT_HERE.contains(&file) {
            continue;
        }
        let scenario = Scenario::read(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{file} is not a scenario: {error:?}"));
        let model = scenario_model(&scenario);
        for question in &scenario.questions {
            let mut lines = question.count_records_as_required(reply_lines(question, &model));
            sort_rrsets(&mut lines);
            let required = record_lines(&question.reply);
            // Only rendering gives owner names the letter case of the question.
            if !lines.join("\n").eq_ignore_ascii_case(&required.join("\n")) {
                let ScenarioQuestion { line, text, .. } = question;
                faults.push(format!(
                    "{file}:{line}: ? {text}: {lines:#?}\ninstead of {required:#?}"
                ));
            }
            questions += 1;
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(questions > 200, "only {questions} questions were found");
}

/// The names of a scenario's objects. Problems with objects are ignored, because some scenarios are
/// about such objects.
fn scenario_model(scenario: &Scenario) -> Model {
    let (settings, selectors) = settings(&scenario.flags);
    let mut objects = Objects::default();
    let manifests: Vec<Value> = serde_saphyr::from_multiple(&scenario.manifests).unwrap();
    for manifest in manifests {
        // Endpoints objects make no names, because EndpointSlices have replaced them.
        if manifest["kind"] == "Endpoints" {
            continue;
        }
        let labels = manifest["metadata"]["labels"].clone();
        let labels = serde_json::from_value(labels).unwrap_or_default();
        let object = object(manifest);
        if selectors.selects(&object, &labels) {
            objects.insert(object);
        }
    }
    build_model(&objects, &settings, SERIAL).0
}

/// Converts flags of `dns-agent run`.
fn settings(flags: &[String]) -> (ZoneSettings, Selectors) {
    let mut settings = ZoneSettings::default();
    let mut selectors = Selectors::default();
    let mut cluster_domains: Vec<Name> = Vec::new();
    for flag in flags {
        let (flag_name, value) = flag.split_once('=').unwrap_or((flag, ""));
        match flag_name {
            "--cluster-domain" => cluster_domains.push(name(value)),
            "--endpoint-pod-names" => settings.endpoint_names = EndpointNames::Pod,
            "--ignore-empty-service" => settings.empty_services = EmptyServices::Ignored,
            "--labels" => selectors.objects = parse(value),
            "--namespace" => settings.namespaces.push(value.to_owned()),
            "--namespace-labels" => selectors.namespaces = parse(value),
            "--pass" => settings.passed.push(name(value)),
            "--pods" if value == "disabled" => settings.pods = PodMode::Disabled,
            "--pods" if value == "verified" => settings.pods = PodMode::Verified,
            "--reverse" => settings.reverse.push(parse(value)),
            "--serve" => settings.served_addresses.push(parse(value)),
            "--ttl" => settings.ttl = parse(value),
            // The records don't depend on the upstream.
            "--upstream" => {}
            _ => panic!("this test doesn't convert {flag}"),
        }
    }
    if !cluster_domains.is_empty() {
        settings.cluster_domains = cluster_domains;
    }
    (settings, selectors)
}

fn parse<T: FromStr<Err: std::fmt::Debug>>(value: &str) -> T {
    value
        .parse()
        .unwrap_or_else(|error| panic!("the flag's value {value:?} is invalid: {error:?}"))
}

/// The answer to a question as lines of a scenario, without those that [`record_lines`] removes.
fn reply_lines(question: &ScenarioQuestion, model: &Model) -> Vec<String> {
    // The queries to the IPv4 and to the IPv6 address have the same question.
    let query = &question.queries[0];
    let queried_name = Name::from_wire(&query.name).unwrap();
    let (rcode, answer, authority, additional) =
        match model.answer(&queried_name, Rtype::from_int(query.rtype)) {
            Answer::Data { answer, additional } => ("NOERROR", answer, None, additional),
            Answer::NoData { zone } => ("NOERROR", vec![], Some(zone), vec![]),
            Answer::NxDomain { zone } => ("NXDOMAIN", vec![], Some(zone), vec![]),
            Answer::Alias { chain, .. } => ("upstream", chain, None, vec![]),
            Answer::NoDataAtName { soa } => panic!("a Kubernetes object made {soa}"),
            Answer::NotYetKnown => ("SERVFAIL", vec![], None, vec![]),
            Answer::NotAuthoritative => ("upstream", vec![], None, vec![]),
        };
    let authority = authority.map(|zone| negative_soa_text(&model.zones()[zone]));
    let sections = [
        ("answer", answer.iter().map(record_text).collect()),
        ("authority", Vec::from_iter(authority)),
        ("additional", additional.iter().map(record_text).collect()),
    ];
    let records = sections
        .iter()
        .flat_map(|(section, lines)| lines.iter().map(move |line| format!("{section} {line}")));
    [rcode.to_owned()].into_iter().chain(records).collect()
}

/// The response code and the records of a reply in a scenario, without flags, OPT record, and the
/// target after `upstream`.
fn record_lines(reply: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = (reply.iter())
        .filter(|line| !line.starts_with("edns "))
        .cloned()
        .collect();
    if let Some((rcode, _rest)) = lines[0].clone().split_once(' ') {
        lines[0] = rcode.to_owned();
    }
    lines
}
