//! Reads `template` for names outside the cluster (CoreDNS, `plugin/template`).

use zerohop_routes::{Exclusion, NamePattern, TemplateRule};
use zerohop_zone::{Name, Rtype};

use super::super::finding::CorefileProblem;
use super::super::parser::Directive;
use super::super::rewrite::parse_type;
use super::super::zones::{parse_zones, zones_or_default};

/// What a template does.
pub(super) enum TemplateReading {
    Rule(TemplateRule),
    /// It does something else with these questions.
    Other(Vec<Exclusion>),
}

/// Reads a template. Fails if any question may depend on it.
pub(super) fn read(
    directive: &Directive,
    block_zones: &[Name],
) -> Result<TemplateReading, CorefileProblem> {
    let head = &directive.head;
    let [class, rtype, zones @ ..] = head.args() else {
        return Err(head.problem("`template` has no class and type"));
    };
    match class.as_str() {
        "IN" | "ANY" => {}
        // Queries of other classes are refused.
        "CH" | "CS" | "HS" | "NONE" => return Ok(TemplateReading::Other(Vec::new())),
        _ => return Err(head.problem(format!("`{class}` is not a class that Zerohop knows"))),
    }
    let rtype = match rtype.as_str() {
        "ANY" => None,
        text => Some(parse_type(text).map_err(|cause| head.problem(cause))?),
    };
    let zones = zones_or_default(head, zones, block_zones)?;
    let rule = read_rule(directive, rtype, zones.clone())?;
    Ok(rule.map_or_else(
        || TemplateReading::Other(exclude(rtype, zones)),
        TemplateReading::Rule,
    ))
}

/// The rule. `None` if it is not only a response code.
fn read_rule(
    directive: &Directive,
    rtype: Option<Rtype>,
    zones: Vec<Name>,
) -> Result<Option<TemplateRule>, CorefileProblem> {
    let mut rcode = 0;
    let mut patterns = Vec::new();
    let mut through = Vec::new();
    for option in &directive.body {
        match (option.name(), option.args()) {
            ("rcode", [code]) => match read_rcode(code) {
                Some(code) => rcode = code,
                None => return Ok(None),
            },
            ("match", expressions @ [_, ..]) => {
                for expression in expressions {
                    match NamePattern::from_regex(expression) {
                        Ok(pattern) => patterns.push(pattern),
                        Err(_) => return Ok(None),
                    }
                }
            }
            ("fallthrough", []) => through = vec![Name::root()],
            ("fallthrough", zones) => {
                through = parse_zones(zones).map_err(|cause| option.problem(cause))?;
            }
            ("upstream", _) => {}
            _ => return Ok(None),
        }
    }
    if patterns.is_empty() {
        // All names begin with nothing.
        patterns.push(NamePattern::Prefix("".into()));
    }
    Ok(Some(TemplateRule {
        zones,
        rtype,
        patterns,
        rcode,
        through,
    }))
}

/// The questions that a template with this type may answer.
fn exclude(rtype: Option<Rtype>, zones: Vec<Name>) -> Vec<Exclusion> {
    match rtype {
        None => vec![Exclusion::Names(zones)],
        Some(rtype) => vec![
            Exclusion::Type(rtype, zones.clone()),
            Exclusion::Type(Rtype::ANY, zones),
        ],
    }
}

/// Reads a response code (RFC 1035 section 4.1.1) as CoreDNS writes it.
fn read_rcode(text: &str) -> Option<u8> {
    const NAMES: [&str; 6] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
    ];
    let index = NAMES.iter().position(|name| *name == text)?;
    u8::try_from(index).ok()
}
