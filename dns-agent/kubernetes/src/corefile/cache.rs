//! How a `cache` plugin lowers TTLs (CoreDNS, `plugin/cache`).

use zerohop_zone::Name;

use super::finding::{CorefileProblem, Note};
use super::parser::{CorefileLine, Directive};
use super::place::Place;
use super::zones::zones_or_default;

/// CoreDNS's default caps for positive and negative answers, in seconds.
const DEFAULT_CAPS: (u32, u32) = (3600, 1800);

/// An upper bound on TTLs.
#[derive(Debug)]
pub(super) struct TtlCap {
    /// The place of the `cache` plugin.
    place: Place,
    /// The zones in which the cap applies.
    zones: Vec<Name>,
    /// The lower of the caps for positive and negative answers, because Zerohop has one TTL for
    /// both.
    seconds: u32,
}

/// The upper bounds on TTLs that `cache` has, in seconds.
pub(super) struct CacheCaps<'a> {
    /// Those of positive answers.
    pub(super) success: u32,
    /// Those of negative answers.
    pub(super) denial: u32,
    /// The zones in its arguments. Empty: those of its server block.
    pub(super) zones: &'a [String],
}

impl CacheCaps<'_> {
    /// Reads the first line, and the options `success` and `denial`.
    pub(super) fn read(directive: &Directive) -> Result<CacheCaps<'_>, CorefileProblem> {
        let head = &directive.head;
        let (mut success, mut denial) = DEFAULT_CAPS;
        let mut zones = head.args();
        // A number in front of the zones sets both caps.
        if let [first, others @ ..] = zones
            && first.parse::<i64>().is_ok()
        {
            let cap = parse_seconds(head, first)?;
            (success, denial) = (cap, cap);
            zones = others;
        }
        for option in &directive.body {
            match (option.name(), option.args()) {
                ("success", [_capacity, cap, ..]) => success = parse_seconds(option, cap)?,
                ("denial", [_capacity, cap, ..]) => denial = parse_seconds(option, cap)?,
                _ => {}
            }
        }
        Ok(CacheCaps {
            success,
            denial,
            zones,
        })
    }
}

impl TtlCap {
    /// Reads a `cache` plugin in a server block for `block_zones`.
    pub(super) fn read(
        directive: &Directive,
        block_zones: &[Name],
    ) -> Result<TtlCap, CorefileProblem> {
        directive.check_complete()?;
        let head = &directive.head;
        let CacheCaps {
            success,
            denial,
            zones,
        } = CacheCaps::read(directive)?;
        for option in &directive.body {
            match (option.name(), option.args()) {
                ("success" | "denial", [_capacity, ..]) => {}
                // These options don't lift the caps. `disable` only stops CoreDNS from storing
                // answers.
                (
                    "disable" | "keepttl" | "prefetch" | "servfail" | "serve_stale"
                    | "serve_stale_policy",
                    _,
                ) => {}
                _ => {
                    return Err(option.problem(format!(
                        "`{option}` is not an option of `cache` that Zerohop understands"
                    )));
                }
            }
        }
        Ok(TtlCap {
            place: head.place.clone(),
            zones: zones_or_default(head, zones, block_zones)?,
            seconds: success.min(denial),
        })
    }

    /// Whether the cap's zones overlap any of `zones`.
    fn applies_to(&self, zones: &[Name]) -> bool {
        let overlap = |a: &Name, b: &Name| a.is_at_or_below(b) || b.is_at_or_below(a);
        zones
            .iter()
            .any(|zone| self.zones.iter().any(|capped| overlap(capped, zone)))
    }
}

/// Lowers a TTL in seconds to the lowest cap that applies to `zones`. Returns the new TTL, and a
/// note for each applicable cap below `ttl`.
///
/// CoreDNS also raises TTLs to a minimum, by default 5 seconds. Zerohop doesn't, because CoreDNS
/// itself sends lower TTLs: unless `keepttl` is set, the TTL of a cached answer counts down to 0.
pub(super) fn cap_ttl(ttl: u32, caps: &[TtlCap], zones: &[Name]) -> (u32, Vec<Note>) {
    let mut lowest = ttl;
    let mut notes = Vec::new();
    for cap in caps
        .iter()
        .filter(|cap| cap.seconds < ttl && cap.applies_to(zones))
    {
        let text = format!(
            "`cache` caps TTLs, so TTLs are at most {} s instead of {ttl} s",
            cap.seconds
        );
        notes.push(Note::new(&cap.place, text));
        lowest = lowest.min(cap.seconds);
    }
    (lowest, notes)
}

fn parse_seconds(line: &CorefileLine, text: &str) -> Result<u32, CorefileProblem> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| line.problem(format!("`{text}` is not a number of seconds above 0")))
}
