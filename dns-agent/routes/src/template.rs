//! Rules that answer questions with a response code (CoreDNS, `plugin/template`).

use zerohop_zone::{Name, Rtype};

use crate::{is_within, name_pattern::NamePattern};

/// A rule that answers questions with a response code and no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRule {
    /// The zones of the names.
    pub zones: Vec<Name>,
    /// The type. `None`: all types.
    pub rtype: Option<Rtype>,
    /// The rule applies to names with one of these patterns.
    pub patterns: Vec<NamePattern>,
    /// The response code.
    pub rcode: u8,
    /// In these zones, names without a pattern go on to the next rule. Other names without a
    /// pattern get SERVFAIL.
    pub through: Vec<Name>,
}

/// What the rules say about a question.
pub(super) enum TemplateDecision {
    /// They say nothing.
    Next,
    /// The answer's response code.
    Answer(u8),
    /// A question for all types may concern several rules.
    Unknown,
}

/// SERVFAIL (RFC 1035 section 4.1.1).
const SERVFAIL: u8 = 2;

/// Applies rules in their order.
pub(super) fn decide(rules: &[TemplateRule], name: &Name, rtype: Rtype) -> TemplateDecision {
    for rule in rules.iter().filter(|rule| is_within(name, &rule.zones)) {
        if rtype == Rtype::ANY {
            return TemplateDecision::Unknown;
        }
        if rule.rtype.is_some_and(|expected| expected != rtype) {
            continue;
        }
        if rule.patterns.iter().any(|pattern| pattern.matches(name)) {
            return TemplateDecision::Answer(rule.rcode);
        }
        if !is_within(name, &rule.through) {
            return TemplateDecision::Answer(SERVFAIL);
        }
    }
    TemplateDecision::Next
}
