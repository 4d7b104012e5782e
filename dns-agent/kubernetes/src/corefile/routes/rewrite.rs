//! Reads rules of `rewrite` for names outside the cluster (CoreDNS, `plugin/rewrite`).

use zerohop_routes::{AfterMatch, NamePattern, NameRewrite, RewriteStep};

use super::super::finding::CorefileProblem;
use super::super::parser::Directive;
use super::super::rewrite::{final_dot, is_other_class, parse_type, rule_words};
use super::super::zones::parse_name;

/// The step that a rule is. `None`: it concerns no question of class IN. Fails if any question may
/// depend on the rule.
pub(super) fn read(directive: &Directive) -> Result<Option<RewriteStep>, CorefileProblem> {
    let head = &directive.head;
    let mut words = rule_words(directive)?;
    let mut after = AfterMatch::Stop;
    match words
        .first()
        .map(|word| word.to_ascii_lowercase())
        .as_deref()
    {
        Some("stop") => {
            words.remove(0);
        }
        Some("continue") => {
            words.remove(0);
            after = AfterMatch::Continue;
        }
        _ => {}
    }
    let Some((field, args)) = words.split_first() else {
        return Err(head.problem("`rewrite` has no rule"));
    };
    let step = match (field.to_ascii_lowercase().as_str(), args) {
        ("name", [from, to]) => read_name("exact", from, to, &[], after),
        ("name", [kind, from, to, answers @ ..]) => read_name(kind, from, to, answers, after),
        ("ttl", [from, _]) | ("rcode", [from, _, _]) => unknown_names("exact", from),
        ("ttl", [kind, from, _]) | ("rcode", [kind, from, _, _]) => unknown_names(kind, from),
        ("type", [from, _]) => parse_type(&from.to_ascii_uppercase()).map(RewriteStep::UnknownType),
        ("class", [from, _]) if is_other_class(from) => return Ok(None),
        _ => Err(format!("`{head}` is not a rule that Zerohop understands")),
    };
    step.map(Some).map_err(|cause| head.problem(cause))
}

/// Reads a rule that replaces names. `Err` holds the reason as a clause.
fn read_name(
    kind: &str,
    from: &str,
    to: &str,
    answers: &[&str],
    after: AfterMatch,
) -> Result<RewriteStep, String> {
    let kind = kind.to_ascii_lowercase();
    let to_text = || -> Box<str> { final_dot(to).into() };
    let is_auto = answers == ["answer", "auto"];
    let rule = match kind.as_str() {
        // Names in the answer are always restored.
        "exact" if is_auto || answers.is_empty() => {
            NameRewrite::Exact(parse_name(from)?, to_text())
        }
        "suffix" if is_auto => NameRewrite::Suffix(final_dot(from).into(), to_text()),
        "regex" if is_auto => NameRewrite::Regex(read_pattern(&kind, from)?, to_text()),
        // Without restored names, clients don't accept the answers.
        _ => return unknown_names(&kind, from),
    };
    Ok(RewriteStep::Name(rule, after))
}

fn unknown_names(kind: &str, from: &str) -> Result<RewriteStep, String> {
    read_pattern(&kind.to_ascii_lowercase(), from).map(RewriteStep::UnknownNames)
}

/// The names that a rule concerns. `Err` holds the reason as a clause.
fn read_pattern(kind: &str, from: &str) -> Result<NamePattern, String> {
    let text = || -> Box<str> { final_dot(from).into() };
    match kind {
        "exact" => parse_name(from).map(NamePattern::Exact),
        "prefix" => Ok(NamePattern::Prefix(text())),
        "suffix" => Ok(NamePattern::Suffix(text())),
        "substring" => Ok(NamePattern::Substring(text())),
        "regex" => NamePattern::from_regex(from)
            .map_err(|_| format!("`{from}` is not an expression that Zerohop understands")),
        _ => Err(format!(
            "`{kind}` is not a kind of names that Zerohop understands"
        )),
    }
}
