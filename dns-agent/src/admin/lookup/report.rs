//! What `dns-agent lookup` prints, as JSON (see docs/lookup.md) and for people.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::cluster::ObjectRef;

/// The answer to a question, and where it comes from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Lookup {
    /// The name asked for, absolute and in lower case.
    pub name: String,
    /// The type asked for.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The response code; none when no upstream has answered yet.
    pub rcode: Option<String>,
    /// Whether the answer is authoritative.
    pub aa: bool,
    /// The answer section. Addresses take turns in it.
    pub answer: Vec<RecordReport>,
    /// The authority section.
    pub authority: Vec<RecordReport>,
    /// The additional section.
    pub additional: Vec<RecordReport>,
    /// Who answers a client without EDNS.
    pub plane: Plane,
    /// Why the kernel does not; none when it does.
    pub why: Option<String>,
    /// What the kernel program does with the question.
    pub kernel: KernelReport,
    /// The servers that were asked for what is not ours; empty when none was.
    pub upstreams: Vec<SocketAddr>,
    /// What else there is to say, for people.
    pub notes: Vec<String>,
}

/// A record, and what it is made of.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RecordReport {
    /// The record as a line of a zone file.
    pub record: String,
    /// The objects that it is made of.
    pub objects: Vec<ObjectRef>,
    /// Whether it is there because of settings alone, without any object.
    pub settings: bool,
    /// Whether an upstream said it.
    #[serde(default)]
    pub upstream: bool,
}

/// Who answers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// The kernel program.
    Kernel,
    /// The agent's resolver.
    Agent,
    /// An upstream, through the agent's resolver.
    Upstream,
    /// Neither: the query goes where it went without Zerohop.
    None,
}

/// What the kernel program does with the question.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct KernelReport {
    /// Whether it gets the question at all.
    pub state: KernelState,
    /// The outcome's name, for a client without EDNS; none without tables.
    pub outcome: Option<String>,
    /// The same for a client with EDNS, when the answer is too large without.
    pub outcome_edns: Option<String>,
}

/// The state of the kernel plane.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelState {
    /// Not asked for.
    Off,
    /// It could not be started.
    Failed,
    /// Attached nowhere.
    Unattached,
    /// Attached.
    On,
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lookup {
            name,
            rtype,
            rcode,
            aa,
            answer,
            authority,
            additional,
            plane,
            why,
            // What is to be said of it is in `why`.
            kernel: _,
            upstreams,
            notes,
        } = self;
        let rcode = rcode.as_deref().unwrap_or("no answer yet");
        let authoritative = if *aa { ", authoritative" } else { "" };
        writeln!(f, "{name} {rtype}: {rcode}{authoritative}")?;
        for (label, records) in [
            ("answer", answer),
            ("authority", authority),
            ("additional", additional),
        ] {
            for same in records.chunk_by(|a, b| a.origin() == b.origin()) {
                for record in same {
                    line(f, label, &record.record)?;
                }
                line(f, "", &same[0].origin())?;
            }
        }
        line(f, "plane", plane.name())?;
        if let Some(why) = why {
            line(f, "why", why)?;
        }
        for upstream in upstreams {
            line(f, "upstream", &upstream.to_string())?;
        }
        notes.iter().try_for_each(|note| line(f, "note", note))
    }
}

impl RecordReport {
    fn origin(&self) -> String {
        let objects: Vec<String> = self.objects.iter().map(ToString::to_string).collect();
        if self.upstream {
            return "  from the upstream".to_owned();
        }
        match (objects.as_slice(), self.settings) {
            (_, true) => "  from the settings".to_owned(),
            ([], false) => "  from objects that have just changed".to_owned(),
            (objects, false) => format!("  from {}", objects.join(", ")),
        }
    }
}

impl Plane {
    fn name(self) -> &'static str {
        match self {
            Plane::Kernel => "kernel",
            Plane::Agent => "agent",
            Plane::Upstream => "upstream, through the agent",
            Plane::None => "none",
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    writeln!(f, "{label:<10} {text}")
}
