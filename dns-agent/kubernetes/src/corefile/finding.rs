//! Findings that make names pass, and their wording for people.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use zerohop_zone::{ChangedAnswers, Name, Rtype};

use super::place::Place;

/// The most names that a reason lists.
const MAX_LISTED_NAMES: usize = 4;

/// Why some names pass.
#[derive(Debug)]
pub(super) struct CorefileFinding {
    /// `None`: the Corefile as a whole.
    place: Option<Place>,
    /// The cause, as a clause.
    cause: String,
    /// The names that pass because of the cause, with everything below them.
    pub(super) names: Vec<Name>,
    scope: FindingScope,
}

/// Which queries for a finding's names pass.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FindingScope {
    All,
    /// Those for names that don't exist.
    AbsentNames,
    /// Those for these types.
    Types(BTreeSet<Rtype>),
    /// Those for names that exist, with such an answer.
    Answers(ChangedAnswers),
    /// Those with the DO bit.
    DnssecOk,
}

/// Why Zerohop can't draw conclusions from a line, or from the whole Corefile.
#[derive(Debug)]
pub(super) struct CorefileProblem {
    /// `None`: the Corefile as a whole.
    place: Option<Place>,
    /// The cause, as a clause.
    cause: String,
    /// Whether CoreDNS can load the Corefile. Only `Reload::read` uses this, for problems from
    /// `Corefile::parse`. All other problems have `Possible`, even if CoreDNS refuses the Corefile.
    pub(super) loadability: Loadability,
}

/// Whether CoreDNS can load a Corefile that has a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loadability {
    /// CoreDNS may load it, as far as Zerohop checks.
    Possible,
    /// CoreDNS refuses it for certain.
    Refused,
}

/// A sentence about a Corefile line.
pub(super) struct Note {
    /// `None`: the Corefile as a whole.
    place: Option<Place>,
    text: String,
}

impl CorefileFinding {
    pub(super) fn new(
        place: &Place,
        cause: impl Into<String>,
        names: Vec<Name>,
    ) -> CorefileFinding {
        CorefileFinding {
            place: Some(place.clone()),
            cause: cause.into(),
            names,
            scope: FindingScope::All,
        }
    }

    /// A finding that makes names pass only if they don't exist.
    pub(super) fn about_absent_names(
        place: &Place,
        cause: impl Into<String>,
        names: Vec<Name>,
    ) -> CorefileFinding {
        CorefileFinding {
            scope: FindingScope::AbsentNames,
            ..CorefileFinding::new(place, cause, names)
        }
    }

    /// A finding that makes queries for these types pass.
    pub(super) fn about_types(
        place: &Place,
        cause: impl Into<String>,
        names: Vec<Name>,
        types: impl IntoIterator<Item = Rtype>,
    ) -> CorefileFinding {
        CorefileFinding {
            scope: FindingScope::Types(types.into_iter().collect()),
            ..CorefileFinding::new(place, cause, names)
        }
    }

    /// A finding that makes queries for names that exist pass, if their answers are of this kind.
    pub(super) fn about_answers(
        place: &Place,
        cause: impl Into<String>,
        names: Vec<Name>,
        changed: ChangedAnswers,
    ) -> CorefileFinding {
        CorefileFinding {
            scope: FindingScope::Answers(changed),
            ..CorefileFinding::new(place, cause, names)
        }
    }

    /// A finding that makes queries with the DO bit pass.
    pub(super) fn about_dnssec_ok(
        place: &Place,
        cause: impl Into<String>,
        names: Vec<Name>,
    ) -> CorefileFinding {
        CorefileFinding {
            scope: FindingScope::DnssecOk,
            ..CorefileFinding::new(place, cause, names)
        }
    }

    /// A finding about the Corefile as a whole.
    pub(super) fn without_line(cause: impl Into<String>, names: Vec<Name>) -> CorefileFinding {
        CorefileFinding {
            place: None,
            cause: cause.into(),
            names,
            scope: FindingScope::All,
        }
    }

    /// Restricts the finding to names in these zones, for which all queries pass.
    pub(super) fn restricted_to(self, zones: &[Name]) -> CorefileFinding {
        let names = self.names.iter();
        CorefileFinding {
            names: names
                .flat_map(|name| intersect_zones(name, zones))
                .collect(),
            scope: FindingScope::All,
            ..self
        }
    }

    /// The finding that everything passes because of a problem.
    pub(super) fn about_everything(problem: CorefileProblem) -> CorefileFinding {
        CorefileFinding {
            place: problem.place,
            cause: problem.cause,
            names: vec![Name::root()],
            scope: FindingScope::All,
        }
    }

    /// Whether the finding makes this whole zone pass.
    pub(super) fn covers(&self, zone: &Name) -> bool {
        let mut names = self.names.iter();
        self.scope == FindingScope::All && names.any(|name| zone.is_at_or_below(name))
    }

    /// Whether the finding makes the absent names of this zone pass, or some of them.
    pub(super) fn covers_absent_names(&self, zone: &Name) -> bool {
        self.scope == FindingScope::AbsentNames && self.concerns(zone)
    }

    /// The answers that the finding makes pass in this zone, or in a part of it.
    pub(super) fn changed_answers_in(&self, zone: &Name) -> Option<ChangedAnswers> {
        match self.scope {
            FindingScope::Answers(changed) if self.concerns(zone) => Some(changed),
            _ => None,
        }
    }

    /// Whether the finding makes queries with the DO bit pass in this zone, or in a part of it.
    pub(super) fn signs(&self, zone: &Name) -> bool {
        self.scope == FindingScope::DnssecOk && self.concerns(zone)
    }

    /// The types whose queries the finding makes pass in this zone, or in a part of it.
    pub(super) fn types_in(&self, zone: &Name) -> &BTreeSet<Rtype> {
        const NONE: &BTreeSet<Rtype> = &BTreeSet::new();
        match &self.scope {
            FindingScope::Types(types) if self.concerns(zone) => types,
            FindingScope::All
            | FindingScope::AbsentNames
            | FindingScope::Types(_)
            | FindingScope::Answers(_)
            | FindingScope::DnssecOk => NONE,
        }
    }

    /// The names for which all queries pass.
    pub(super) fn into_names(self) -> Vec<Name> {
        match self.scope {
            FindingScope::All => self.names,
            FindingScope::AbsentNames
            | FindingScope::Types(_)
            | FindingScope::Answers(_)
            | FindingScope::DnssecOk => Vec::new(),
        }
    }

    /// Whether this zone, or a part of it, is among the names.
    fn concerns(&self, zone: &Name) -> bool {
        let mut names = self.names.iter();
        names.any(|name| zone.is_at_or_below(name) || name.is_at_or_below(zone))
    }

    /// The sentence that says which names of these zones pass. `None` if none do. If all zones pass
    /// entirely, or `zones` is empty, the sentence says that everything passes.
    fn note_for_zones(&self, zones: &[Name]) -> Option<Note> {
        match &self.scope {
            FindingScope::All => {}
            FindingScope::AbsentNames => {
                return self.note_for_queries(zones, "names that don't exist");
            }
            FindingScope::Answers(ChangedAnswers::WithoutType(rtype)) => {
                let queries = format!("queries for {rtype} of names without such records");
                return self.note_for_queries(zones, &queries);
            }
            FindingScope::Answers(ChangedAnswers::SeveralAddresses) => {
                let queries = "queries whose answers have several addresses";
                return self.note_for_queries(zones, queries);
            }
            FindingScope::DnssecOk => {
                return self.note_for_queries(zones, "queries with the DO bit");
            }
            FindingScope::Types(types) => {
                let types: Vec<&Rtype> = types.iter().collect();
                let types = join_for_people(&types);
                return self.note_for_queries(zones, &format!("queries for {types}"));
            }
        }
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
            names => format!("{} pass", join_for_people(names)),
        };
        let text = format!("{}, so {consequence}", self.cause);
        Some(Note {
            place: self.place.clone(),
            text,
        })
    }
}

impl CorefileFinding {
    /// The sentence that says in which of these zones some queries pass. `None` if in none.
    fn note_for_queries(&self, zones: &[Name], queries: &str) -> Option<Note> {
        let zones: Vec<&Name> = zones.iter().filter(|zone| self.concerns(zone)).collect();
        (!zones.is_empty()).then(|| Note {
            place: self.place.clone(),
            text: format!(
                "{}, so {queries} in {} pass",
                self.cause,
                join_for_people(&zones)
            ),
        })
    }
}

impl CorefileProblem {
    pub(super) fn new(place: &Place, cause: impl Into<String>) -> CorefileProblem {
        CorefileProblem {
            place: Some(place.clone()),
            cause: cause.into(),
            loadability: Loadability::Possible,
        }
    }

    /// A problem for which CoreDNS's parser certainly refuses the Corefile too. If this isn't
    /// certain, use [`CorefileProblem::new`], because a refused Corefile counts as one with which
    /// no CoreDNS runs.
    pub(super) fn refused(place: &Place, cause: impl Into<String>) -> CorefileProblem {
        CorefileProblem {
            loadability: Loadability::Refused,
            ..CorefileProblem::new(place, cause)
        }
    }

    /// The finding that these names pass because of this problem.
    pub(super) fn into_finding(self, names: Vec<Name>) -> CorefileFinding {
        CorefileFinding {
            place: self.place.clone(),
            cause: self.cause,
            names,
            scope: FindingScope::All,
        }
    }

    /// A problem with the Corefile as a whole.
    pub(super) fn without_line(cause: impl Into<String>) -> CorefileProblem {
        CorefileProblem {
            place: None,
            cause: cause.into(),
            loadability: Loadability::Possible,
        }
    }
}

/// The sentence, with its place.
impl Display for CorefileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.cause)
    }
}

impl Note {
    pub(super) fn new(place: &Place, text: String) -> Note {
        Note {
            place: Some(place.clone()),
            text,
        }
    }
}

/// Writes notes and findings as sentences: first those about the whole Corefile, then ordered by
/// line. Findings that make no part of `zones` pass are left out. `zones` may be empty if all
/// findings are about everything.
pub(super) fn write_reasons(
    findings: &[CorefileFinding],
    zones: &[Name],
    mut notes: Vec<Note>,
) -> Vec<String> {
    notes.extend(
        findings
            .iter()
            .filter_map(|finding| finding.note_for_zones(zones)),
    );
    notes.sort_by(|one, other| one.place.cmp(&other.place));
    let sentence = |note: Note| match note.place {
        Some(place) => format!("{place}: {}", note.text),
        None => note.text,
    };
    notes.into_iter().map(sentence).collect()
}

/// Writes a list for people: `a, b and c`. Items after the first [`MAX_LISTED_NAMES`] are only
/// counted. `items` must not be empty.
pub(super) fn join_for_people<T: Display>(items: &[T]) -> String {
    let texts: Vec<String> = items
        .iter()
        .take(MAX_LISTED_NAMES)
        .map(T::to_string)
        .collect();
    match (
        texts.as_slice(),
        items.len().saturating_sub(MAX_LISTED_NAMES),
    ) {
        ([only], 0) => only.clone(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (texts, more) => format!("{} and {more} more", texts.join(", ")),
    }
}

/// The parts of `zones` at or below a name: whole zones, or the name itself if it is inside a zone.
/// Empty if there are none. No zone may be below another.
pub(super) fn intersect_zones(name: &Name, zones: &[Name]) -> Vec<Name> {
    let covered = zones.iter().filter(|zone| zone.is_at_or_below(name));
    let mut covered: Vec<Name> = covered.cloned().collect();
    if covered.is_empty() && zones.iter().any(|zone| name.is_at_or_below(zone)) {
        covered.push(name.clone());
    }
    covered
}
