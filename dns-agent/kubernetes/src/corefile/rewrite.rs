//! Rules of `rewrite` (CoreDNS, `plugin/rewrite`). A rule doesn't change the answers to queries for
//! the replacement.

use zerohop_routes::NamePattern;
use zerohop_zone::{Name, Rtype};

use super::finding::{CorefileFinding, CorefileProblem};
use super::parser::{CorefileLine, Directive};
use super::place::Place;
use super::zones::parse_name;

/// A rule that replaces a part of some queries, or of their answers.
pub(super) struct RewriteRule {
    place: Place,
    /// What the rule replaces, as in "replaces …".
    replaced: &'static str,
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
    /// Those of classes that Zerohop never answers.
    OtherClass,
}

impl RewriteRule {
    /// Reads a rule. Fails if Zerohop can't tell which queries it concerns.
    pub(super) fn read(directive: &Directive) -> Result<RewriteRule, CorefileProblem> {
        let head = &directive.head;
        let words = rule_words(directive)?;
        let is_word = |at: usize, accepted: &[&str]| {
            // CoreDNS ignores letter case in these words.
            let word = words.get(at).map(|word| word.to_ascii_lowercase());
            word.is_some_and(|word| accepted.contains(&word.as_str()))
        };
        let at = usize::from(is_word(0, &["stop", "continue"]));
        let field = words.get(at).map(|word| word.to_ascii_lowercase());
        let field = field.unwrap_or_default();
        let (replaced, queries) = match (field.as_str(), &words[(at + 1).min(words.len())..]) {
            ("name", [from, _to]) => (NAME, read_names("exact", from)),
            ("name", [kind, from, _to, ..]) => (NAME, read_names(kind, from)),
            ("ttl", [from, ttl]) if is_ttl(ttl) => (TTL, read_names("exact", from)),
            ("ttl", [kind, from, ttl]) if is_ttl(ttl) => (TTL, read_names(kind, from)),
            ("rcode", [from, old, new]) if is_rcode(old) && is_rcode(new) => {
                (RCODE, read_names("exact", from))
            }
            ("rcode", [kind, from, old, new]) if is_rcode(old) && is_rcode(new) => {
                (RCODE, read_names(kind, from))
            }
            ("type", [from, _to]) => ("the type in the query", read_rewritten_type(from)),
            ("class", [from, to]) if is_other_class(from) && is_class(to) => {
                ("the class in the query", Ok(RewrittenQueries::OtherClass))
            }
            _ => {
                let cause = format!("`{head}` is not a rule that Zerohop understands");
                return Err(head.problem(cause));
            }
        };
        Ok(RewriteRule {
            place: head.place.clone(),
            replaced,
            queries: queries.map_err(|cause| head.problem(cause))?,
        })
    }

    /// The finding about the rule, without the names that have its pattern.
    pub(super) fn finding(&self) -> CorefileFinding {
        let RewriteRule {
            place, replaced, ..
        } = self;
        let cause = format!("`rewrite` replaces {replaced}");
        match &self.queries {
            RewrittenQueries::Name(name) => CorefileFinding::new(place, cause, vec![name.clone()]),
            RewrittenQueries::Pattern(_) => {
                let cause = format!("{cause} for names that have a pattern, which pass");
                CorefileFinding::about_absent_names(place, cause, vec![Name::root()])
            }
            RewrittenQueries::Type(rtype) => {
                CorefileFinding::about_types(place, cause, vec![Name::root()], [*rtype])
            }
            RewrittenQueries::OtherClass => CorefileFinding::new(place, cause, Vec::new()),
        }
    }

    /// The pattern of the names that the rule concerns, if it has one.
    pub(super) fn pattern(&self) -> Option<NamePattern> {
        match &self.queries {
            RewrittenQueries::Pattern(pattern) => Some(pattern.clone()),
            RewrittenQueries::Name(_)
            | RewrittenQueries::Type(_)
            | RewrittenQueries::OtherClass => None,
        }
    }
}

const NAME: &str = "the name in the query";
const TTL: &str = "the TTL of answers";
const RCODE: &str = "the RCODE of answers";

/// The words of a rule.
pub(super) fn rule_words(directive: &Directive) -> Result<Vec<&str>, CorefileProblem> {
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
    Ok(words)
}

/// A name's text as CoreDNS compares it: in lower case, with a final dot.
pub(super) fn final_dot(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.ends_with('.') {
        true => text,
        false => format!("{text}."),
    }
}

/// Reads which names a rule concerns. `Err` holds the reason as a clause.
fn read_names(kind: &str, from: &str) -> Result<RewrittenQueries, String> {
    let text = || -> Box<str> { final_dot(from).into() };
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

/// Reads the type of a rule. CoreDNS ignores its letter case. `Err` holds the reason as a clause.
fn read_rewritten_type(text: &str) -> Result<RewrittenQueries, String> {
    parse_type(&text.to_ascii_uppercase()).map(RewrittenQueries::Type)
}

/// Whether CoreDNS accepts a TTL, or a range of TTLs such as `30-60`, `30-` and `-60`.
fn is_ttl(text: &str) -> bool {
    let number = parse_digits;
    match text.split_once('-') {
        None => number(text).is_some(),
        Some(("", "")) => false,
        Some(("", highest)) => number(highest).is_some(),
        Some((lowest, "")) => number(lowest).is_some_and(|lowest| lowest <= i32::MAX as u32),
        Some((lowest, highest)) => {
            let (lowest, highest) = (number(lowest), number(highest));
            lowest.is_some() && highest.is_some() && lowest <= highest
        }
    }
}

/// A number without a sign.
fn parse_digits(text: &str) -> Option<u32> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok())?
}

/// Whether CoreDNS accepts an RCODE: a number, or one of these names.
fn is_rcode(text: &str) -> bool {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
        "NXRRSET", "NOTAUTH", "NOTZONE",
    ];
    let is_number = parse_digits(text).is_some_and(|number| number <= 23);
    is_number || NAMES.contains(&text.to_ascii_uppercase().as_str())
}

/// Whether CoreDNS accepts a class.
fn is_class(text: &str) -> bool {
    is_other_class(text) || text.eq_ignore_ascii_case("IN")
}

/// Whether CoreDNS accepts a class, and Zerohop answers no query of this class.
pub(super) fn is_other_class(text: &str) -> bool {
    const OTHERS: [&str; 5] = ["ANY", "CH", "CS", "HS", "NONE"];
    OTHERS.contains(&text.to_ascii_uppercase().as_str())
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
