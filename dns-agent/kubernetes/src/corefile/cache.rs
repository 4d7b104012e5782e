//! How a `cache` plugin lowers TTLs (CoreDNS, `plugin/cache`).

use zerohop_zone::Name;

use super::finding::{CorefileProblem, Note};
use super::parser::{CorefileLine, Directive};
use super::plugins::zones_or_default;

/// CoreDNS's default caps of positive and of negative answers, in seconds.
const DEFAULT_CAPS: (u32, u32) = (3600, 1800);

/// An upper bound of the TTLs in zones.
#[derive(Debug)]
pub(super) struct TtlCap {
    line: usize,
    zones: Vec<Name>,
    /// The lower one of the caps of positive and of negative answers.
    seconds: u32,
}

impl TtlCap {
    /// Reads the plugin's lines in a server block for `block_zones`.
    pub(super) fn read(
        directive: &Directive,
        block_zones: &[Name],
    ) -> Result<TtlCap, CorefileProblem> {
        directive.check_complete()?;
        let head = &directive.head;
        let (mut success, mut denial) = DEFAULT_CAPS;
        let mut zones = head.args();
        if let [first, others @ ..] = zones
            && first.parse::<i64>().is_ok()
        {
            let cap = parse_seconds(head, first)?;
            (success, denial) = (cap, cap);
            zones = others;
        }
        for option in &directive.body {
            match (option.name(), option.args()) {
                ("success" | "denial", [_capacity]) => {}
                ("success", [_capacity, cap, ..]) => success = parse_seconds(option, cap)?,
                ("denial", [_capacity, cap, ..]) => denial = parse_seconds(option, cap)?,
                // These options decide whether, how long and how fresh CoreDNS keeps an answer.
                // `disable` doesn't lift the cap of the answers that it excludes.
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
            line: head.number,
            zones: zones_or_default(head, zones, block_zones)?,
            seconds: success.min(denial),
        })
    }

    /// Whether any name can be both in one of the cap's zones and in one of `zones`.
    fn applies_to(&self, zones: &[Name]) -> bool {
        let overlap = |a: &Name, b: &Name| a.is_at_or_below(b) || b.is_at_or_below(a);
        zones
            .iter()
            .any(|zone| self.zones.iter().any(|own| overlap(own, zone)))
    }
}

/// Lowers `ttl` to the caps that apply to `zones`. Returns the lower TTL, and a note for each cap
/// below `ttl`.
///
/// CoreDNS also raises TTLs that are below 5 seconds by default. A lower TTL is always right,
/// because a cached answer has it a little later.
pub(super) fn cap_ttl(ttl: u32, caps: &[TtlCap], zones: &[Name]) -> (u32, Vec<Note>) {
    let mut lowest = ttl;
    let mut notes = Vec::new();
    for cap in caps
        .iter()
        .filter(|cap| cap.seconds < ttl && cap.applies_to(zones))
    {
        let text = format!(
            "`cache` caps TTLs, so TTLs are {} s instead of {ttl} s",
            cap.seconds
        );
        notes.push(Note::new(cap.line, text));
        lowest = lowest.min(cap.seconds);
    }
    (lowest, notes)
}

fn parse_seconds(line: &CorefileLine, text: &str) -> Result<u32, CorefileProblem> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| line.problem(format!("`{text}` is not a number of seconds above 0")))
}
