//! What stands between us and names, and how people are told.

use std::fmt::Display;

use crate::zone::Name;

use super::node_cache::meeting;

/// How many names a reason lists.
const LISTED: usize = 4;

/// Something for which names pass.
#[derive(Debug)]
pub(super) struct Finding {
    /// The number of its line, from 1, if it stands on one.
    line: Option<usize>,
    /// A clause.
    what: String,
    /// What passes because of it, with everything below.
    pub(super) names: Vec<Name>,
}

/// Why nothing can be concluded.
#[derive(Debug)]
pub(super) struct Unclear {
    /// The number of the line that is in the way, from 1, if one is.
    line: Option<usize>,
    /// A clause.
    what: String,
    /// What CoreDNS makes of the text.
    pub(super) loading: Loading,
}

/// What CoreDNS makes of a text that Zerohop can't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loading {
    /// It may load the text.
    Possible,
    /// It refuses the text.
    Refused,
}

/// A sentence about a line.
pub(super) struct Note {
    line: Option<usize>,
    text: String,
}

impl Finding {
    pub(super) fn new(line: usize, what: impl Into<String>, names: Vec<Name>) -> Finding {
        Finding {
            line: Some(line),
            what: what.into(),
            names,
        }
    }

    /// About the text as a whole.
    pub(super) fn anywhere(what: impl Into<String>, names: Vec<Name>) -> Finding {
        Finding {
            line: None,
            what: what.into(),
            names,
        }
    }

    /// The same for what it covers of these zones only.
    pub(super) fn within(self, zones: &[Name]) -> Finding {
        let names = self.names.iter();
        Finding {
            names: names.flat_map(|name| meeting(name, zones)).collect(),
            ..self
        }
    }

    /// For which everything passes.
    pub(super) fn everything(unclear: Unclear) -> Finding {
        Finding {
            line: unclear.line,
            what: unclear.what,
            names: vec![Name::root()],
        }
    }

    /// Whether a zone passes whole.
    pub(super) fn covers(&self, zone: &Name) -> bool {
        self.names.iter().any(|name| zone.is_at_or_below(name))
    }

    /// What it means for these zones, if anything.
    fn note(&self, zones: &[Name]) -> Option<Note> {
        let (whole, rest): (Vec<&Name>, Vec<&Name>) =
            zones.iter().partition(|zone| self.covers(zone));
        let is_part = |name: &&Name| rest.iter().any(|zone| name.is_at_or_below(zone));
        let passing: Vec<&Name> = whole
            .into_iter()
            .chain(self.names.iter().filter(is_part))
            .collect();
        let consequence = match passing.as_slice() {
            _ if rest.is_empty() => "everything passes".to_owned(),
            [] => return None,
            [name] => format!("{name} passes"),
            names => format!("{} pass", listed(names)),
        };
        let text = format!("{}, so {consequence}", self.what);
        Some(Note {
            line: self.line,
            text,
        })
    }
}

impl Unclear {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Unclear {
        Unclear {
            line: Some(line),
            what: what.into(),
            loading: Loading::Possible,
        }
    }

    /// About a line for which CoreDNS refuses the text.
    pub(super) fn refused(line: usize, what: impl Into<String>) -> Unclear {
        Unclear {
            loading: Loading::Refused,
            ..Unclear::new(line, what)
        }
    }

    /// These names pass because of it.
    pub(super) fn passing(self, names: Vec<Name>) -> Finding {
        Finding {
            line: self.line,
            what: self.what,
            names,
        }
    }

    /// About the text as a whole.
    pub(super) fn anywhere(what: impl Into<String>) -> Unclear {
        Unclear {
            line: None,
            what: what.into(),
            loading: Loading::Possible,
        }
    }
}

impl Note {
    pub(super) fn new(line: usize, text: String) -> Note {
        Note {
            line: Some(line),
            text,
        }
    }
}

/// All notes and what the findings mean for these zones, as sentences in the order of lines.
pub(super) fn reasons(findings: &[Finding], zones: &[Name], mut notes: Vec<Note>) -> Vec<String> {
    notes.extend(findings.iter().filter_map(|finding| finding.note(zones)));
    notes.sort_by_key(|note| note.line);
    let sentence = |note: Note| match note.line {
        Some(line) => format!("line {line}: {}", note.text),
        None => note.text,
    };
    notes.into_iter().map(sentence).collect()
}

/// A list for people, of one thing or more.
pub(super) fn listed<T: Display>(things: &[T]) -> String {
    let texts: Vec<String> = things.iter().take(LISTED).map(T::to_string).collect();
    match (texts.as_slice(), things.len().saturating_sub(LISTED)) {
        ([only], 0) => only.clone(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (texts, more) => format!("{} and {more} more", texts.join(", ")),
    }
}
