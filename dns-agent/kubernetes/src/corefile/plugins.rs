//! How other plugins change the answers of `kubernetes`.
//!
//! An allow-list: a plugin that isn't in it may answer anything, so everything passes.

use std::net::IpAddr;

use zerohop_zone::Name;

use super::finding::{CorefileFinding, CorefileProblem};
use super::parser::{CorefileLine, Directive};
use super::zones::{parse_name, parse_zones, reverse_trees};

/// The findings about a plugin in the server block of `kubernetes`. `block_zones` are the zones of
/// the server block, `answered` the zones of `kubernetes`.
pub(super) fn read_plugin(
    directive: &Directive,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    directive.check_complete()?;
    let head = &directive.head;
    let args = head.args();
    match directive.name() {
        // These plugins monitor answers, or manage the process.
        "errors" | "health" | "log" | "loop" | "prometheus" | "ready" | "reload" => Ok(Vec::new()),
        // `forward` runs after `kubernetes`, for names that pass anyway.
        "forward" => Ok(Vec::new()),
        // `bufsize` shortens answers over UDP and changes none over TCP.
        "bufsize" => Ok(Vec::new()),
        // `transfer` answers AXFR and IXFR, which always pass.
        "transfer" => Ok(Vec::new()),
        "loadbalance" => read_loadbalance(directive),
        "hosts" => read_hosts(directive, block_zones, answered),
        "rewrite" => read_rewrite(directive),
        "template" if args.len() >= 2 => zones_finding(head, &args[2..], block_zones),
        "file" if !args.is_empty() => zones_finding(head, &args[1..], block_zones),
        "auto" | "etcd" | "k8s_external" => zones_finding(head, args, block_zones),
        // A catalog adds zones.
        "secondary"
            if directive
                .body
                .iter()
                .all(|option| option.name() != "catalog") =>
        {
            zones_finding(head, args, block_zones)
        }
        name => Err(head.problem(format!(
            "`{name}` is not a plugin that Zerohop understands here"
        ))),
    }
}

/// Accepts `round_robin` only: shuffled addresses are the same answer, weighted or preferred ones
/// aren't.
fn read_loadbalance(directive: &Directive) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let head = &directive.head;
    let is_round_robin = match head.args() {
        [] => true,
        [policy] => policy == "round_robin",
        _ => false,
    };
    if !is_round_robin || !directive.body.is_empty() {
        return Err(head.problem("`loadbalance` does more than `round_robin`"));
    }
    Ok(Vec::new())
}

/// The finding about a plugin that may answer any name in its zones.
fn zones_finding(
    head: &CorefileLine,
    zones: &[String],
    block_zones: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let names = zones_or_default(head, zones, block_zones)?;
    let what = format!("`{}` may answer names in its zones", head.name());
    Ok(vec![CorefileFinding::new(head.number, what, names)])
}

/// The zones in a plugin's arguments, or `block_zones` if there are none.
pub(super) fn zones_or_default(
    head: &CorefileLine,
    zones: &[String],
    block_zones: &[Name],
) -> Result<Vec<Name>, CorefileProblem> {
    match zones {
        [] => Ok(block_zones.to_vec()),
        zones => parse_zones(zones).map_err(|what| head.problem(what)),
    }
}

/// Reads names with addresses in the Corefile, or in a file (CoreDNS, `plugin/hosts`).
fn read_hosts(
    directive: &Directive,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let head = &directive.head;
    let mut findings = Vec::new();
    // `hosts` answers PTR queries whatever its zones are. Without a file argument it reads its
    // container's /etc/hosts, which has the pod's own address.
    if directive
        .body
        .iter()
        .all(|line| line.name() != "no_reverse")
    {
        let what = "`hosts` answers for the addresses in a file that Zerohop doesn't read";
        findings.push(CorefileFinding::new(head.number, what, reverse_trees()));
    }
    if let [file, zones @ ..] = head.args() {
        let what = format!("`hosts` has names from {file}, which Zerohop doesn't read");
        let zones = zones_or_default(head, zones, block_zones)?;
        findings.push(CorefileFinding::new(head.number, what, zones));
        return Ok(findings);
    }
    let mut fallthrough = Vec::new();
    for line in &directive.body {
        match (line.name(), line.args()) {
            ("fallthrough", []) => fallthrough = vec![Name::root()],
            ("fallthrough", zones) => {
                fallthrough = parse_zones(zones).map_err(|what| line.problem(what))?;
            }
            ("fallthrough_unsupported" | "no_reverse" | "reload" | "ttl", _) => {}
            _ => findings.push(read_hosts_entry(line)?),
        }
    }
    let denied = |zone: &&Name| {
        !fallthrough
            .iter()
            .any(|through| zone.is_at_or_below(through))
    };
    let denied = answered.iter().filter(denied).cloned().collect();
    let what = "`hosts` answers all names in zones that it has no `fallthrough` for";
    findings.push(CorefileFinding::new(head.number, what, denied));
    Ok(findings)
}

/// Reads an address and its names.
fn read_hosts_entry(line: &CorefileLine) -> Result<CorefileFinding, CorefileProblem> {
    let address = line.name();
    let without_scope = address
        .split_once('%')
        .map_or(address, |(address, _)| address);
    if without_scope.parse::<IpAddr>().is_err() {
        return Err(line.problem(format!(
            "`{address}` in `hosts` is neither an option nor an address"
        )));
    }
    let mut names = Vec::new();
    for host in line.args() {
        // CoreDNS reads the rest of a quoted name as a comment.
        if host.contains('#') {
            return Err(line.problem(format!(
                "`{host}` in `hosts` is not a name that Zerohop understands"
            )));
        }
        let host = host.strip_prefix("*.").unwrap_or(host);
        names.push(parse_name(host).map_err(|what| line.problem(what))?);
    }
    Ok(CorefileFinding::new(
        line.number,
        "`hosts` has addresses for these names",
        names,
    ))
}

/// Reads rules for single names and for suffixes (CoreDNS, `plugin/rewrite`). Queries for the
/// replacement name itself are answered as without the rule.
fn read_rewrite(directive: &Directive) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let head = &directive.head;
    let mut rule: Vec<&str> = head.args().iter().map(String::as_str).collect();
    if rule.len() < 2 {
        let words = directive.body.iter().flat_map(CorefileLine::words);
        rule.extend(words.map(String::as_str));
    } else if !directive.body.is_empty() {
        return Err(head.problem("`rewrite` has both a rule and a block"));
    }
    let rule = rule
        .iter()
        .map(|word| word.to_ascii_lowercase())
        .collect::<Vec<_>>();
    let mut rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    if let Some("stop" | "continue") = rule.first().copied() {
        rule.remove(0);
    }
    let names = match rule.as_slice() {
        ["name", from, _to] | ["name", "exact", from, _to, ..] => parse_name(from),
        ["name", "suffix", from, _to, ..] => parse_suffix(from),
        _ => {
            return Err(head.problem(format!("`{head}` is not a rule that Zerohop understands")));
        }
    };
    let names = vec![names.map_err(|what| head.problem(what))?];
    Ok(vec![CorefileFinding::new(
        head.number,
        "`rewrite` replaces the name in the query",
        names,
    )])
}

/// The name above all names that end with a text. The text may begin within a label:
/// `my-svc.cluster.local` also ends with `svc.cluster.local`. This holds for a text with a leading
/// dot too, because a label may contain a dot.
fn parse_suffix(text: &str) -> Result<Name, String> {
    let name = parse_name(text.strip_prefix('.').unwrap_or(text))?;
    Ok(name.parent().unwrap_or(name))
}
