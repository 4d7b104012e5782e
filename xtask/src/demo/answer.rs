//! What may come back.

use std::{collections::BTreeSet, fmt};

/// An answer, as far as the demo looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The data of all records, in whatever order they came.
    Data(BTreeSet<String>),
    /// The name exists, the type does not (RFC 2308 section 2.2).
    NoData,
    /// The name does not exist (RFC 2308 section 2.1).
    NxDomain,
    /// None of these, or not well-formed: why.
    Odd(String),
}

/// Where the answer to a question is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the cluster: its names, and the addresses of its services.
    Cluster,
    /// Outside: the agent must ask its upstream.
    Outside,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Answer::Data(data) => data
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            Answer::NoData => "NODATA".to_owned(),
            Answer::NxDomain => "NXDOMAIN".to_owned(),
            Answer::Odd(reason) => reason.clone(),
        };
        // So that a width is obeyed.
        f.pad(&text)
    }
}
