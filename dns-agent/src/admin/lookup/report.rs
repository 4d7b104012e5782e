//! The output of `dns-agent lookup`, as JSON (see docs/lookup.md) and as text.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};
use zerohop_zone::ObjectRef;

/// The answer to a question, and its origin.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Lookup {
    /// The queried name, absolute and in lower case.
    pub name: String,
    /// The queried type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The response code; `None` when the resolver still waited for an upstream after 4.5 seconds.
    pub rcode: Option<String>,
    /// Whether the answer is authoritative.
    pub aa: bool,
    /// The answer section. Clients get its addresses in a rotating order.
    pub answer: Vec<RecordReport>,
    /// The authority section.
    pub authority: Vec<RecordReport>,
    /// The additional section.
    pub additional: Vec<RecordReport>,
    /// Which plane answers a client without EDNS.
    pub plane: AnsweringPlane,
    /// Why the kernel does not answer a client without EDNS; `None` when it answers.
    pub why: Option<String>,
    /// The kernel program's outcome.
    pub kernel: KernelReport,
    /// Whether a query that the kernel passes is steered to this agent's resolver, and why not.
    /// `None` if the kernel answers, or nothing is to be steered.
    #[serde(default)]
    pub steering: Option<String>,
    /// The upstreams for the question, and then those for the targets of aliases, without
    /// repetitions. Those for one name are in order of preference: each is queried only if those
    /// before it send no complete response. Empty when no upstream is needed, or none is known.
    pub upstreams: Vec<SocketAddr>,
    /// How the routes for names outside the cluster treat the question. `None` if none is known, or
    /// if the name is in a zone.
    #[serde(default)]
    pub route: Option<String>,
    /// Remarks, such as the results of forwarding.
    pub notes: Vec<String>,
}

/// A record, and its origin.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RecordReport {
    /// The record as a line of a zone file.
    pub record: String,
    /// The objects that the record is made from.
    pub objects: Vec<ObjectRef>,
    /// Whether the record comes from settings and not from objects.
    pub settings: bool,
    /// Whether the record is from an upstream's response.
    #[serde(default)]
    pub upstream: bool,
    /// Whether a route has made the record, from `hosts` or by restoring a rewritten name.
    #[serde(default)]
    pub route: bool,
}

/// The plane that answers.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AnsweringPlane {
    /// The kernel program.
    Kernel,
    /// The agent's resolver, also if it queries an upstream for the target of an alias.
    Agent,
    /// An upstream, which the agent's resolver queries for the name itself.
    Upstream,
    /// Neither plane: the query goes to its destination, as without Zerohop.
    #[serde(rename = "none")]
    Neither,
}

/// The kernel program's treatment of a query.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct KernelReport {
    /// Whether the kernel program receives queries.
    pub state: KernelState,
    /// The outcome's name for a client without EDNS; `None` when the kernel plane does not run.
    pub outcome: Option<String>,
    /// The outcome's name for a client with EDNS, if the answer is too large without EDNS.
    pub outcome_edns: Option<String>,
}

/// The state of the kernel plane.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelState {
    /// No `--interface` is given.
    Off,
    /// The kernel plane does not run: it failed, waits for its first lists or for another agent to
    /// end, or has no zone.
    Failed,
    /// The program is attached to no interface.
    Unattached,
    /// The program is attached to at least one interface.
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
            // `why` explains the kernel program's outcome.
            kernel: _,
            steering,
            upstreams,
            route,
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
            for group in records.chunk_by(|a, b| a.origin() == b.origin()) {
                for record in group {
                    write_line(f, label, &record.record)?;
                }
                write_line(f, "", &group[0].origin())?;
            }
        }
        write_line(f, "plane", plane.name())?;
        if let Some(why) = why {
            write_line(f, "why", why)?;
        }
        if let Some(steering) = steering {
            write_line(f, "steering", steering)?;
        }
        if let Some(route) = route {
            write_line(f, "route", route)?;
        }
        for upstream in upstreams {
            write_line(f, "upstream", &upstream.to_string())?;
        }
        notes
            .iter()
            .try_for_each(|note| write_line(f, "note", note))
    }
}

impl RecordReport {
    fn origin(&self) -> String {
        let objects: Vec<String> = self.objects.iter().map(ToString::to_string).collect();
        if self.upstream {
            return "  from the upstream".to_owned();
        }
        if self.route {
            return "  from the Corefile".to_owned();
        }
        match (objects.as_slice(), self.settings) {
            (_, true) => "  from the settings".to_owned(),
            ([], false) => "  from unknown objects, which may have just changed".to_owned(),
            (objects, false) => format!("  from {}", objects.join(", ")),
        }
    }
}

impl AnsweringPlane {
    fn name(self) -> &'static str {
        match self {
            AnsweringPlane::Kernel => "kernel",
            AnsweringPlane::Agent => "agent",
            AnsweringPlane::Upstream => "upstream, through the agent",
            AnsweringPlane::Neither => "none",
        }
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    writeln!(f, "{label:<10} {text}")
}
