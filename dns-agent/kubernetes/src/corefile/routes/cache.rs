//! Reads `cache` for names outside the cluster (CoreDNS, `plugin/cache`).

use std::time::Duration;

use zerohop_routes::{CacheRules, KeptAnswers, StaleMode, StaleRules};
use zerohop_zone::Name;

use super::super::cache::CacheCaps;
use super::super::finding::CorefileProblem;
use super::super::parser::{CorefileLine, Directive};
use super::super::reload::parse_duration;
use super::super::zones::{parse_zones, zones_or_default};

/// How long after its end a reply may be used by default.
const DEFAULT_STALE_LIMIT: Duration = Duration::from_secs(3600);

/// The rules by zones. The first entry with a name counts.
pub(super) fn read(
    directive: &Directive,
    block_zones: &[Name],
) -> Result<Vec<(Vec<Name>, CacheRules)>, CorefileProblem> {
    let head = &directive.head;
    let CacheCaps {
        success,
        denial,
        zones,
    } = CacheCaps::read(directive)?;
    let zones = zones_or_default(head, zones, block_zones)?;
    let mut stale = None;
    let (mut without_success, mut without_denial) = (Vec::new(), Vec::new());
    for option in &directive.body {
        match (option.name(), option.args()) {
            ("success" | "denial", [_capacity, ..]) => {}
            ("disable", [kind, zones @ ..]) => {
                let zones = match zones {
                    [] => vec![Name::root()],
                    zones => parse_zones(zones).map_err(|cause| option.problem(cause))?,
                };
                match kind.as_str() {
                    "success" => without_success = zones,
                    "denial" => without_denial = zones,
                    _ => return Err(unknown_option(option)),
                }
            }
            ("serve_stale", args) => stale = Some(read_stale(option, args)?),
            ("keepttl" | "prefetch" | "servfail" | "serve_stale_policy", _) => {}
            _ => return Err(unknown_option(option)),
        }
    }
    // CoreDNS lowers the TTLs of replies that it doesn't keep too.
    let rules = |kept| CacheRules {
        max_ttl: success,
        max_negative_ttl: denial,
        kept,
        stale,
    };
    let rules_in = |zone: &Name| {
        let is_off = |off: &[Name]| off.iter().any(|off| zone.is_at_or_below(off));
        rules(match (is_off(&without_success), is_off(&without_denial)) {
            (false, false) => KeptAnswers::All,
            (false, true) => KeptAnswers::Positive,
            (true, false) => KeptAnswers::Negative,
            (true, true) => KeptAnswers::None,
        })
    };
    let mut exceptions: Vec<Name> = [without_success.clone(), without_denial.clone()].concat();
    // A longer zone comes first.
    exceptions.sort_by_key(|zone| std::cmp::Reverse(zone.wire().len()));
    exceptions.dedup();
    let inside = exceptions.into_iter().filter(|exception| {
        let mut zones = zones.iter();
        zones.any(|zone| exception.is_at_or_below(zone) || zone.is_at_or_below(exception))
    });
    let mut entries: Vec<(Vec<Name>, CacheRules)> = Vec::new();
    for exception in inside {
        let within = |zone: &&Name| zone.is_at_or_below(&exception);
        let mut names: Vec<Name> = zones.iter().filter(within).cloned().collect();
        if zones.iter().any(|zone| exception.is_at_or_below(zone)) {
            names.push(exception.clone());
        }
        entries.push((names, rules_in(&exception)));
    }
    entries.push((zones, rules(KeptAnswers::All)));
    Ok(entries)
}

fn read_stale(option: &CorefileLine, args: &[String]) -> Result<StaleRules, CorefileProblem> {
    let limit = match args.first() {
        None => DEFAULT_STALE_LIMIT,
        Some(text) => parse_duration(text)
            .map_err(|_| option.problem(format!("`{text}` is not a duration")))?,
    };
    let mode = match args.get(1).map(|mode| mode.to_ascii_lowercase()).as_deref() {
        None | Some("immediate") => StaleMode::AtOnce,
        Some("verify") => StaleMode::IfUpstreamsFail,
        Some(_) => return Err(unknown_option(option)),
    };
    Ok(StaleRules { limit, mode })
}

fn unknown_option(option: &CorefileLine) -> CorefileProblem {
    option.problem(format!(
        "`{option}` is not an option of `cache` that Zerohop understands"
    ))
}
