//! How often CoreDNS checks for a changed Corefile (CoreDNS, `plugin/reload/setup.go`).

use std::fmt;
use std::time::Duration;

use super::finding::{CorefileProblem, Loadability};
use super::parser::{Corefile, CorefileLine, Directive};
use crate::coredns_config::CoreDnsConfig;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// The interval at which `hosts` reads its file (CoreDNS, `plugin/hosts`).
const DEFAULT_HOSTS_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_JITTER: Duration = Duration::from_secs(15);
const MIN_INTERVAL: Duration = Duration::from_secs(2);
const MIN_JITTER: Duration = Duration::from_secs(1);

/// How often CoreDNS checks for a changed Corefile, according to the Corefile that it runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Periodically.
    Every {
        /// The interval, without the jitter.
        interval: Duration,
        /// The `jitter` argument or its default, limited to half the interval. CoreDNS lengthens or
        /// shortens the interval by at most half of this.
        jitter: Duration,
    },
    /// The Corefile has no `reload`, so CoreDNS doesn't check until it restarts.
    Never,
    /// Zerohop can't read the Corefile or text that it includes, so the `reload` is unknown.
    Unknown,
    /// CoreDNS refuses the Corefile, so no CoreDNS runs with it.
    Refused,
}

impl Reload {
    /// Reads the `reload` directives of all server blocks. If CoreDNS accepts all of them, returns
    /// the one with the longest period. Its period is an upper bound, because CoreDNS uses the last
    /// directive for all blocks.
    #[must_use]
    pub fn read(config: &CoreDnsConfig) -> Reload {
        let corefile = match Corefile::parse(config) {
            Ok(corefile) => corefile,
            Err(problem) if problem.loadability == Loadability::Refused => return Reload::Refused,
            Err(_) => return Reload::Unknown,
        };
        let directives = || corefile.blocks.iter().flat_map(|block| &block.directives);
        let is_import = |line: &CorefileLine| line.name() == "import";
        let mut heads = directives().map(|directive| &directive.head);
        if !corefile.imports.is_empty() || heads.any(is_import) {
            return Reload::Unknown;
        }
        let mut longest = Reload::Never;
        for directive in directives().filter(|directive| directive.name() == "reload") {
            if directive.check_complete().is_err() {
                return Reload::Unknown;
            }
            let Ok((interval, jitter)) = read_interval(directive) else {
                return Reload::Refused;
            };
            if longest
                .period()
                .is_none_or(|period| period < interval + jitter)
            {
                longest = Reload::Every { interval, jitter };
            }
        }
        longest.after_hosts_files(directives())
    }

    /// The slowest of this `reload` and those of hosts files, which CoreDNS reads at intervals of
    /// their own.
    fn after_hosts_files<'a>(self, directives: impl Iterator<Item = &'a Directive>) -> Reload {
        let mut slowest = self;
        let with_file = directives.filter(|it| it.name() == "hosts" && !it.head.args().is_empty());
        for directive in with_file {
            let own = match hosts_interval(directive) {
                Ok(interval) if interval.is_zero() => Reload::Never,
                Ok(interval) => Reload::Every {
                    interval,
                    jitter: Duration::ZERO,
                },
                Err(RefusedReload) => return Reload::Refused,
            };
            slowest = match (slowest.period(), own.period()) {
                (Some(period), Some(own_period)) if period >= own_period => slowest,
                (Some(_), _) => own,
                (None, _) => slowest,
            };
        }
        slowest
    }

    /// An upper bound on the time between two checks. `None` if CoreDNS makes no checks, if the
    /// interval is unknown, or if CoreDNS refuses the Corefile.
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
            Reload::Unknown => f.write_str("a reload that Zerohop can't read"),
            Reload::Refused => f.write_str("a text that CoreDNS refuses"),
        }
    }
}

/// Fails for a `reload` that makes CoreDNS refuse the whole Corefile, or that contains text that
/// Zerohop can't read.
pub(super) fn check_reload(directive: &Directive) -> Result<(), CorefileProblem> {
    directive.check_complete()?;
    let problem = || {
        let head = &directive.head;
        head.problem(format!("CoreDNS refuses a Corefile with `{head}`"))
    };
    read_interval(directive)
        .map(|_| ())
        .map_err(|RefusedReload| problem())
}

/// CoreDNS refuses a `reload` directive.
pub(super) struct RefusedReload;

/// Reads the interval and the jitter. CoreDNS ignores what follows in braces.
fn read_interval(directive: &Directive) -> Result<(Duration, Duration), RefusedReload> {
    let (interval, jitter) = match directive.head.args() {
        [] => (DEFAULT_INTERVAL, DEFAULT_JITTER),
        [interval] => (parse_duration(interval)?, DEFAULT_JITTER),
        [interval, jitter] => (parse_duration(interval)?, parse_duration(jitter)?),
        _ => return Err(RefusedReload),
    };
    if interval < MIN_INTERVAL || (!jitter.is_zero() && jitter < MIN_JITTER) {
        return Err(RefusedReload);
    }
    Ok((interval, jitter.min(interval / 2)))
}

/// How often CoreDNS reads the file of a `hosts` plugin. Zero: once.
fn hosts_interval(directive: &Directive) -> Result<Duration, RefusedReload> {
    let mut interval = DEFAULT_HOSTS_INTERVAL;
    for option in directive.body.iter().filter(|it| it.name() == "reload") {
        interval = match option.args() {
            [text] => parse_duration(text)?,
            _ => return Err(RefusedReload),
        };
    }
    Ok(interval)
}

/// Reads a duration in Go's notation, such as `1h30m` or `1.5s` (Go, `time.ParseDuration`).
/// Durations below zero are refused, because they are below CoreDNS's minimum.
pub(super) fn parse_duration(text: &str) -> Result<Duration, RefusedReload> {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = rest.split_at(end.ok_or(RefusedReload)?);
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, others) = unit.split_at(end.unwrap_or(unit.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(RefusedReload),
        };
        let number: f64 = number.parse().map_err(|_| RefusedReload)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| RefusedReload)?;
        total = total.checked_add(part).ok_or(RefusedReload)?;
        rest = others;
        if rest.is_empty() {
            break;
        }
    }
    if text.starts_with('-') && !total.is_zero() {
        return Err(RefusedReload);
    }
    // Go stores durations as nanoseconds in an `int64`, so the longest one is about 292 years.
    if total.as_nanos() <= i64::MAX.unsigned_abs().into() {
        Ok(total)
    } else {
        Err(RefusedReload)
    }
}
