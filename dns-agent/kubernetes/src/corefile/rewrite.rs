//! Rules of `rewrite` (CoreDNS, `plugin/rewrite`). A rule doesn't change the answers to queries for
//! the replacement.

use zerohop_zone::{Name, Rtype};

use super::finding::{CorefileFinding, CorefileProblem};
use super::parser::{CorefileLine, Directive};
use super::place::Place;
use super::zones::parse_name;
use crate::name_pattern::NamePattern;

/// A rule that replaces a part of some queries.
pub(super) struct RewriteRule {
    place: Place,
    queries: RewrittenQueries,
}

/// The queries that a rule concerns.
enum RewrittenQueries {
    /// Those for this name and, as a precaution, for all names below it.
    Name(Name),
    /// Those for names with a pattern.
    Pattern(NamePattern),
    /// Those for this type.
    Type(Rtype),
}

impl RewriteRule {
    /// Reads a rule. Fails if Zerohop can't tell which queries it concerns.
    pub(super) fn read(directive: &Directive) -> Result<RewriteRule, CorefileProblem> {
        directive.check_complete()?;
        let head = &directive.head;
        let mut words: Vec<&str> = head.args().iter().map(String::as_str).collect();
        // If the first line has at most one argument, such as `stop`, the rule is in the braces.
        if words.len() < 2 {
            let body = directive.body.iter().flat_map(CorefileLine::words);
            words.extend(body.map(String::as_str));
        } else if !directive.body.is_empty() {
            return Err(head.problem("`rewrite` has both a rule and a block"));
        }
        let is_word = |at: usize, accepted: &[&str]| {
            // CoreDNS ignores letter case in these words.
            let word = words.get(at).map(|word| word.to_ascii_lowercase());
            word.is_some_and(|word| accepted.contains(&word.as_str()))
        };
        let at = usize::from(is_word(0, &["stop", "continue"]));
        let (is_name, is_type) = (is_word(at, &["name"]), is_word(at, &["type"]));
        let queries = match &words[(at + 1).min(words.len())..] {
            [from, _to] if is_name => parse_name(from).map(RewrittenQueries::Name),
            [kind, from, _to, ..] if is_name => read_name_rule(kind, from),
            // CoreDNS ignores letter case here.
            [from, _to] if is_type => {
                parse_type(&from.to_ascii_uppercase()).map(RewrittenQueries::Type)
            }
            _ => Err(format!("`{head}` is not a rule that Zerohop understands")),
        };
        let queries = queries.map_err(|cause| head.problem(cause))?;
        Ok(RewriteRule {
            place: head.place.clone(),
            queries,
        })
    }

    /// The finding about the rule, without the names that have its pattern.
    pub(super) fn finding(&self) -> CorefileFinding {
        match &self.queries {
            RewrittenQueries::Name(name) => {
                let cause = "`rewrite` replaces the name in the query";
                CorefileFinding::new(&self.place, cause, vec![name.clone()])
            }
            RewrittenQueries::Pattern(_) => {
                let cause = "`rewrite` replaces names that have a pattern, which pass";
                CorefileFinding::about_absent_names(&self.place, cause, vec![Name::root()])
            }
            RewrittenQueries::Type(rtype) => {
                let cause = "`rewrite` replaces the type in the query";
                CorefileFinding::about_types(&self.place, cause, vec![Name::root()], [*rtype])
            }
        }
    }

    /// The pattern of the names that the rule concerns, if it has one.
    pub(super) fn pattern(&self) -> Option<NamePattern> {
        match &self.queries {
            RewrittenQueries::Pattern(pattern) => Some(pattern.clone()),
            RewrittenQueries::Name(_) | RewrittenQueries::Type(_) => None,
        }
    }
}

/// Reads a rule for names of a kind. `Err` holds the reason as a clause.
fn read_name_rule(kind: &str, from: &str) -> Result<RewrittenQueries, String> {
    // CoreDNS compares names with a final dot, and adds one to this text too.
    let text = || -> Box<str> {
        let text = from.to_ascii_lowercase();
        match text.ends_with('.') {
            true => text.into(),
            false => format!("{text}.").into(),
        }
    };
    match kind.to_ascii_lowercase().as_str() {
        "exact" => parse_name(from).map(RewrittenQueries::Name),
        "suffix" => parse_suffix(from).map(RewrittenQueries::Name),
        "prefix" => Ok(RewrittenQueries::Pattern(NamePattern::Prefix(text()))),
        "substring" => Ok(RewrittenQueries::Pattern(NamePattern::Substring(text()))),
        "regex" => NamePattern::from_regex(from)
            .map(RewrittenQueries::Pattern)
            .map_err(|_| format!("`{from}` is not an expression that Zerohop understands")),
        _ => Err(format!(
            "`{kind}` is not a kind of names that Zerohop understands"
        )),
    }
}

/// Reads a type as CoreDNS writes it. `Err` holds the reason as a clause.
pub(super) fn parse_type(text: &str) -> Result<Rtype, String> {
    let known: Option<Rtype> = text.parse().ok();
    // CoreDNS knows neither `aaaa` nor `TYPE28`.
    let known = known.filter(|known| known.to_string() == text);
    known.ok_or_else(|| format!("`{text}` is not a type that Zerohop knows"))
}

/// The parent of the name in `text`, because names that end with `text` may be its siblings:
/// `my-svc.cluster.local` ends with `svc.cluster.local`. This also applies if `text` has a leading
/// dot, because a label may contain a dot.
fn parse_suffix(text: &str) -> Result<Name, String> {
    let name = parse_name(text.strip_prefix('.').unwrap_or(text))?;
    Ok(name.parent().unwrap_or(name))
}
