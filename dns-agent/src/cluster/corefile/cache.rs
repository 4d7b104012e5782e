//! What a `cache` plugin does to TTLs (CoreDNS, `plugin/cache`).

use crate::zone::Name;

use super::finding::{Note, Unclear};
use super::parse::{Directive, Line};
use super::plugins::zones_or;

/// CoreDNS's own caps, for what exists and for what doesn't, in seconds.
const DEFAULT_CAPS: (u32, u32) = (3600, 1800);

/// A bound for the TTLs in zones.
#[derive(Debug)]
pub(super) struct TtlCap {
    line: usize,
    zones: Vec<Name>,
    /// The lower one of those for what exists and for what doesn't.
    seconds: u32,
}

impl TtlCap {
    /// Reads the plugin's lines, in a server block for these zones.
    pub(super) fn read(directive: &Directive, block_zones: &[Name]) -> Result<TtlCap, Unclear> {
        directive.check_complete()?;
        let head = &directive.head;
        let (mut success, mut denial) = DEFAULT_CAPS;
        let mut zones = head.args();
        if let [first, others @ ..] = zones
            && first.parse::<i64>().is_ok()
        {
            let cap = seconds(head, first)?;
            (success, denial) = (cap, cap);
            zones = others;
        }
        for option in &directive.body {
            match (option.name(), option.args()) {
                ("success" | "denial", [_capacity]) => {}
                ("success", [_capacity, cap, ..]) => success = seconds(option, cap)?,
                ("denial", [_capacity, cap, ..]) => denial = seconds(option, cap)?,
                // Whether, how long and how fresh CoreDNS keeps an answer. `disable` doesn't
                // lift the cap of answers that it keeps out.
                (
                    "disable" | "keepttl" | "prefetch" | "servfail" | "serve_stale"
                    | "serve_stale_policy",
                    _,
                ) => {}
                _ => {
                    return Err(option.unclear(format!(
                        "`{option}` is no option of `cache` that Zerohop understands"
                    )));
                }
            }
        }
        Ok(TtlCap {
            line: head.number,
            zones: zones_or(head, zones, block_zones)?,
            seconds: success.min(denial),
        })
    }

    /// Whether any name can be in one of its zones and of these.
    fn concerns(&self, zones: &[Name]) -> bool {
        let meet = |a: &Name, b: &Name| a.is_at_or_below(b) || b.is_at_or_below(a);
        zones
            .iter()
            .any(|zone| self.zones.iter().any(|own| meet(own, zone)))
    }
}

/// A TTL under all these caps, as far as they concern these zones, and what was lowered.
///
/// CoreDNS also raises TTLs, of less than 5 seconds by default. A lower TTL is always right:
/// it is what an answer from the cache has a little later.
pub(super) fn capped(ttl: u32, caps: &[TtlCap], zones: &[Name]) -> (u32, Vec<Note>) {
    let mut lowest = ttl;
    let mut notes = Vec::new();
    for cap in caps
        .iter()
        .filter(|cap| cap.seconds < ttl && cap.concerns(zones))
    {
        let text = format!(
            "`cache` caps TTLs, so they are {} s instead of {ttl} s",
            cap.seconds
        );
        notes.push(Note::new(cap.line, text));
        lowest = lowest.min(cap.seconds);
    }
    (lowest, notes)
}

fn seconds(line: &Line, text: &str) -> Result<u32, Unclear> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0);
    seconds.ok_or_else(|| line.unclear(format!("`{text}` is no number of seconds above 0")))
}
