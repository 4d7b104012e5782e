//! The checked cases of `tests/cases/cases.json`, answered from the model. The resolver answers
//! names outside; here only the alias chain that leads to them is checked.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::{PodMode, ZoneSettings};

use super::{ask, model, objects, sorted};

#[derive(Deserialize)]
struct CheckedCases {
    objects: BTreeMap<String, Value>,
    cases: Vec<CheckedCase>,
}

#[derive(Deserialize)]
struct CheckedCase {
    objects: String,
    flags: Vec<String>,
    name: String,
    r#type: String,
    rcode: String,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

#[test]
fn every_checked_case() {
    let file: CheckedCases =
        serde_json::from_str(include_str!("../../../../tests/cases/cases.json"))
            .expect("the cases file");
    assert_eq!(file.cases.len(), 88);
    let mut wrong = Vec::new();
    for case in &file.cases {
        let model = model(
            &objects(file.objects[&case.objects].clone()),
            &settings(&case.flags),
        );
        let rtype = case.r#type.parse().expect("a record type");
        let reply = ask(&model, &case.name, rtype);
        let same = reply.rcode == case.rcode
            && reply.answer == expected(&case.answer)
            && reply.authority == expected(&case.authority)
            && reply.additional == expected(&case.additional);
        if !same {
            wrong.push(format!(
                "{:?} {} {}: {reply:?}",
                case.flags, case.name, case.r#type
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The expected records, sorted. Serials are replaced by the model's serial, which is always 3.
fn expected(records: &[String]) -> Vec<String> {
    sorted(records.iter().map(|record| {
        let mut fields: Vec<&str> = record.split(' ').collect();
        if fields[3] == "SOA" {
            fields[6] = "3";
        }
        fields.join(" ")
    }))
}

fn settings(flags: &[String]) -> ZoneSettings {
    let mut settings = ZoneSettings::default();
    for flag in flags.chunks(2) {
        let value = flag[1].as_str();
        match flag[0].as_str() {
            "--namespace" => settings.namespaces.push(value.into()),
            "--reverse" => settings.reverse.push(value.parse().expect("a network")),
            "--pods" => {
                settings.pods = match value {
                    "disabled" => PodMode::Disabled,
                    "insecure" => PodMode::Insecure,
                    "verified" => PodMode::Verified,
                    mode => panic!("no such mode: {mode}"),
                }
            }
            flag => panic!("no such flag here: {flag}"),
        }
    }
    settings
}
