//! The checked cases of `cases/cases.json`: questions and what is right.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::message::{Message, type_number};

/// The file.
#[derive(Debug, Deserialize)]
pub struct Cases {
    /// Lists of objects by name.
    objects: BTreeMap<String, Value>,
    /// The questions.
    cases: Vec<Case>,
}

/// A question, what the agent was told, and the reply.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// The name of the objects.
    objects: String,
    /// The agent's flags.
    flags: Vec<String>,
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    #[serde(rename = "type")]
    pub rtype: String,
    rcode: String,
    answer: Vec<String>,
    authority: Vec<String>,
    additional: Vec<String>,
}

/// The cases of one agent.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The objects, as a document that `--manifests` takes.
    pub manifest: String,
    /// The agent's other flags.
    pub flags: &'a [String],
    /// What it is asked.
    pub cases: Vec<&'a Case>,
}

impl Cases {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When it is not in the form above.
    pub fn read() -> Result<Cases> {
        Ok(serde_json::from_str(include_str!("../cases/cases.json"))?)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cases.len()
    }

    /// The cases by the agents that they need.
    #[must_use]
    pub fn setups(&self) -> Vec<Setup<'_>> {
        let mut setups: BTreeMap<_, Vec<&Case>> = BTreeMap::new();
        for case in &self.cases {
            let setup = (&case.objects, &case.flags);
            setups.entry(setup).or_default().push(case);
        }
        setups
            .into_iter()
            .map(|((objects, flags), cases)| Setup {
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
    /// The question's type.
    ///
    /// # Errors
    ///
    /// When the file has a type that nobody knows.
    pub fn type_number(&self) -> Result<u16> {
        type_number(&self.rtype)
    }

    /// What is wrong with a reply, if anything. The order inside a section is not compared, nor
    /// are the serials of SOA records.
    #[must_use]
    pub fn fault(&self, reply: &[u8]) -> Option<String> {
        let message = match Message::read(reply) {
            Ok(message) => message,
            Err(error) => return Some(format!("{self}: {error:#}: {reply:02x?}")),
        };
        let expected =
            [&self.answer, &self.authority, &self.additional].map(|records| sorted(records));
        let found = message.sections.each_ref().map(|records| sorted(records));
        let same = message.rcode() == self.rcode && found == expected;
        let is_ours = message.flags().contains(&"aa");
        (!same || !is_ours).then(|| {
            format!(
                "{self}: {:#?}\ninstead of {} {expected:#?}",
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

fn without_serial(record: &str) -> String {
    let mut fields: Vec<_> = record.split(' ').collect();
    if fields.get(3) == Some(&"SOA") {
        fields[6] = "*";
    }
    fields.join(" ")
}
