//! The test cases of `cases/cases.json`: questions and the right replies.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::message::{Message, type_number};

/// The parsed file of test cases.
#[derive(Debug, Deserialize)]
pub struct Cases {
    /// Lists of Kubernetes objects, by the name of the list.
    objects: BTreeMap<String, Value>,
    /// The questions, each with its reply.
    cases: Vec<Case>,
}

/// A question, the agent's objects and flags, and the expected reply.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// The name of the list of objects.
    objects: String,
    /// The agent's flags.
    flags: Vec<String>,
    /// The question's name.
    pub name: String,
    /// The question's type.
    #[serde(rename = "type")]
    pub rtype: String,
    rcode: String,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

/// The cases that one agent answers: those with equal objects and flags.
#[derive(Debug)]
pub struct CaseGroup<'a> {
    /// The objects, as a document for `--manifests`.
    pub manifest: String,
    /// The agent's other flags.
    pub flags: &'a [String],
    /// The questions for this agent.
    pub cases: Vec<&'a Case>,
}

impl Cases {
    /// Parses the file.
    ///
    /// # Errors
    ///
    /// If the file is not in the form of [`Cases`].
    pub fn read() -> Result<Cases> {
        Ok(serde_json::from_str(include_str!(
            "../../cases/cases.json"
        ))?)
    }

    /// The number of cases.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cases.len()
    }

    /// Groups the cases by objects and flags.
    ///
    /// # Panics
    ///
    /// If a case names a list of objects that the file does not have.
    #[must_use]
    pub fn groups(&self) -> Vec<CaseGroup<'_>> {
        let mut groups: BTreeMap<_, Vec<&Case>> = BTreeMap::new();
        for case in &self.cases {
            let key = (&case.objects, &case.flags);
            groups.entry(key).or_default().push(case);
        }
        groups
            .into_iter()
            .map(|((objects, flags), cases)| CaseGroup {
                manifest:
                    json!({"apiVersion": "v1", "kind": "List", "items": self.objects[objects]})
                        .to_string(),
                flags,
                cases,
            })
            .collect()
    }
}

impl Case {
    /// The number of the question's type.
    ///
    /// # Errors
    ///
    /// If [`type_number`] does not know the type.
    pub fn type_number(&self) -> Result<u16> {
        type_number(&self.rtype)
    }

    /// Describes how a reply differs from the expected one, which also has the AA bit. Returns
    /// `None` if the reply is right. Only the RCODE, the AA bit and the sections are compared, but
    /// not the order of records inside a section and the serials of SOA records.
    #[must_use]
    pub fn describe_fault(&self, reply: &[u8]) -> Option<String> {
        let message = match Message::read(reply) {
            Ok(message) => message,
            Err(error) => {
                return Some(format!(
                    "{self}: cannot read the reply {reply:02x?}: {error:#}"
                ));
            }
        };
        let expected =
            [&self.answer, &self.authority, &self.additional].map(|records| sorted(records));
        let found = message.sections.each_ref().map(|records| sorted(records));
        let same = message.rcode() == self.rcode && found == expected;
        let is_authoritative = message.flags().contains(&"aa");
        (!same || !is_authoritative).then(|| {
            format!(
                "{self}: {:#?}\ninstead of {} with AA, and {expected:#?}",
                message.lines(),
                self.rcode
            )
        })
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.flags.join(" "), self.name, self.rtype)
    }
}

fn sorted(records: &[String]) -> Vec<String> {
    let mut records: Vec<String> = records
        .iter()
        .map(|record| without_serial(record))
        .collect();
    records.sort();
    records
}

/// A record `OWNER TTL CLASS SOA MNAME RNAME SERIAL …` with `*` as the serial. Other records stay.
fn without_serial(record: &str) -> String {
    let mut fields: Vec<_> = record.split(' ').collect();
    if fields.get(3) == Some(&"SOA") {
        fields[6] = "*";
    }
    fields.join(" ")
}
