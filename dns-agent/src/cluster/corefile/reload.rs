//! How often CoreDNS looks for another Corefile (CoreDNS, `plugin/reload/setup.go`).

use std::fmt;
use std::time::Duration;

use super::finding::{Loading, Unclear};
use super::parse::{Corefile, Directive, Line};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_JITTER: Duration = Duration::from_secs(15);
const MIN_INTERVAL: Duration = Duration::from_secs(2);
const MIN_JITTER: Duration = Duration::from_secs(1);

/// How often a CoreDNS that runs with a Corefile looks for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Again and again.
    Every {
        /// The interval, without the jitter.
        interval: Duration,
        /// By how much the interval may be longer. CoreDNS adds at most half of this.
        jitter: Duration,
    },
    /// The text has no `reload`: CoreDNS keeps it until it is started again.
    Never,
    /// The text brings in other text, which may have a `reload` of its own.
    Unknown,
    /// CoreDNS refuses the text, so no CoreDNS runs with it.
    Refused,
}

impl Reload {
    /// Reads the `reload` of all server blocks. CoreDNS has one interval for all of them, that of
    /// the last block; here the longest counts.
    #[must_use]
    pub fn read(text: &str) -> Reload {
        let corefile = match Corefile::parse(text) {
            Ok(corefile) => corefile,
            Err(unclear) if unclear.loading == Loading::Refused => return Reload::Refused,
            Err(_) => return Reload::Unknown,
        };
        let directives = || corefile.blocks.iter().flat_map(|block| &block.directives);
        let is_import = |line: &Line| line.name() == "import";
        let mut heads = directives().map(|directive| &directive.head);
        if corefile.unread.iter().any(is_import) || heads.any(is_import) {
            return Reload::Unknown;
        }
        let mut longest = Reload::Never;
        for directive in directives().filter(|directive| directive.name() == "reload") {
            if directive.check_complete().is_err() {
                return Reload::Unknown;
            }
            let Ok((interval, jitter)) = interval(directive) else {
                return Reload::Refused;
            };
            if longest
                .period()
                .is_none_or(|period| period < interval + jitter)
            {
                longest = Reload::Every { interval, jitter };
            }
        }
        longest
    }

    /// The longest time after which CoreDNS looks again; none where no such time is known.
    #[must_use]
    pub fn period(&self) -> Option<Duration> {
        match self {
            Reload::Every { interval, jitter } => Some(*interval + *jitter),
            Reload::Never | Reload::Unknown | Reload::Refused => None,
        }
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reload::Every { interval, jitter } => {
                let (interval, jitter) = (
                    humantime::format_duration(*interval),
                    humantime::format_duration(*jitter),
                );
                write!(f, "reload {interval}, jitter {jitter}")
            }
            Reload::Never => f.write_str("no reload"),
            Reload::Unknown => f.write_str("a reload that Zerohop can't see"),
            Reload::Refused => f.write_str("a text that CoreDNS refuses"),
        }
    }
}

/// Fails for a `reload` for which CoreDNS refuses the whole Corefile.
pub(super) fn check(directive: &Directive) -> Result<(), Unclear> {
    directive.check_complete()?;
    let what = || {
        let head = &directive.head;
        head.unclear(format!("CoreDNS refuses a Corefile with `{head}`"))
    };
    interval(directive).map(|_| ()).map_err(|Refused| what())
}

/// CoreDNS refuses the directive.
struct Refused;

/// The interval and the jitter.
fn interval(directive: &Directive) -> Result<(Duration, Duration), Refused> {
    // CoreDNS takes an opening brace for an argument.
    if !directive.body.is_empty() {
        return Err(Refused);
    }
    let (interval, jitter) = match directive.head.args() {
        [] => (DEFAULT_INTERVAL, DEFAULT_JITTER),
        [interval] => (duration(interval)?, DEFAULT_JITTER),
        [interval, jitter] => (duration(interval)?, duration(jitter)?),
        _ => return Err(Refused),
    };
    if interval < MIN_INTERVAL || (!jitter.is_zero() && jitter < MIN_JITTER) {
        return Err(Refused);
    }
    Ok((interval, jitter.min(interval / 2)))
}

/// A duration in Go's spelling, such as `1h30m` or `1.5s` (Go, `time.ParseDuration`). One below
/// zero is refused: CoreDNS refuses all of those too, since they are below its minimum.
fn duration(text: &str) -> Result<Duration, Refused> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    while {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = rest.split_at(end.ok_or(Refused)?);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, others) = unit.split_at(end.unwrap_or(unit.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(Refused),
        };
        let number: f64 = number.parse().map_err(|_| Refused)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| Refused)?;
        total = total.checked_add(part).ok_or(Refused)?;
        rest = others;
        !rest.is_empty()
    } {}
    // Go's durations end at about 292 years.
    match total.as_nanos() <= i64::MAX.unsigned_abs().into() {
        true => Ok(total),
        false => Err(Refused),
    }
}
