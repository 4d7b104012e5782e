//! Answers, and where they come from.

use std::{collections::BTreeSet, fmt};

/// The parts of an answer that the demo checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DemoAnswer {
    /// The rdata of all records, without their order.
    Data(BTreeSet<String>),
    /// The name exists, the type does not (RFC 2308 section 2.2).
    NoData,
    /// The name does not exist (RFC 2308 section 2.1).
    NxDomain,
    /// Any other reply, or a malformed one; the reason.
    Unexpected(String),
}

/// The source of the answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerSource {
    /// The cluster: its names, and the reverse names of its Services.
    Cluster,
    /// The upstream, which the agent must ask.
    Outside,
}

impl fmt::Display for DemoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            DemoAnswer::Data(data) => data
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            DemoAnswer::NoData => "NODATA".to_owned(),
            DemoAnswer::NxDomain => "NXDOMAIN".to_owned(),
            DemoAnswer::Unexpected(reason) => reason.clone(),
        };
        // `pad` applies a width in the format.
        f.pad(&text)
    }
}
