//! What the plugins beside `kubernetes` do to its answers, as far as that is understood.
//!
//! An allow-list: what isn't in it may answer anything, and so everything passes.

use std::net::IpAddr;

use crate::zone::Name;

use super::finding::{Finding, Unclear};
use super::parse::{Directive, Line};
use super::zones::{name, reverse_trees, zones_of};

/// What there is to say of a plugin in the server block of `kubernetes`, which is for
/// `block_zones`, while the zones of `kubernetes` are `answered`.
pub(super) fn findings(
    directive: &Directive,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<Finding>, Unclear> {
    directive.check_complete()?;
    let head = &directive.head;
    let args = head.args();
    match directive.name() {
        // They watch, or look after the process.
        "errors" | "health" | "log" | "loop" | "prometheus" | "ready" | "reload" => Ok(Vec::new()),
        // It is asked after `kubernetes`, for names that pass anyway.
        "forward" => Ok(Vec::new()),
        // Shorter answers over UDP, and the same over TCP.
        "bufsize" => Ok(Vec::new()),
        // AXFR and IXFR, which always pass.
        "transfer" => Ok(Vec::new()),
        "loadbalance" => loadbalance(directive),
        "hosts" => hosts(directive, block_zones, answered),
        "rewrite" => rewrite(directive),
        "template" if args.len() >= 2 => zones_finding(head, &args[2..], block_zones),
        "file" if !args.is_empty() => zones_finding(head, &args[1..], block_zones),
        "auto" | "etcd" | "k8s_external" => zones_finding(head, args, block_zones),
        // A catalog names more zones.
        "secondary"
            if directive
                .body
                .iter()
                .all(|option| option.name() != "catalog") =>
        {
            zones_finding(head, args, block_zones)
        }
        name => Err(head.unclear(format!(
            "`{name}` is no plugin that Zerohop understands here"
        ))),
    }
}

/// Shuffled addresses are the same answer, weighted or preferred ones are not.
fn loadbalance(directive: &Directive) -> Result<Vec<Finding>, Unclear> {
    let head = &directive.head;
    let is_round_robin = match head.args() {
        [] => true,
        [policy] => policy == "round_robin",
        _ => false,
    };
    if !is_round_robin || !directive.body.is_empty() {
        return Err(head.unclear("`loadbalance` does more than `round_robin`"));
    }
    Ok(Vec::new())
}

/// A plugin that may answer everything in its zones.
fn zones_finding(
    head: &Line,
    zones: &[String],
    block_zones: &[Name],
) -> Result<Vec<Finding>, Unclear> {
    let names = zones_or(head, zones, block_zones)?;
    let what = format!("`{}` may answer names in its zones", head.name());
    Ok(vec![Finding::new(head.number, what, names)])
}

pub(super) fn zones_or(
    head: &Line,
    zones: &[String],
    block_zones: &[Name],
) -> Result<Vec<Name>, Unclear> {
    match zones {
        [] => Ok(block_zones.to_vec()),
        zones => zones_of(zones).map_err(|what| head.unclear(what)),
    }
}

/// Names with addresses in the Corefile, or in a file (CoreDNS, `plugin/hosts`).
fn hosts(
    directive: &Directive,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<Finding>, Unclear> {
    let head = &directive.head;
    let mut findings = Vec::new();
    // Addresses are answered for whatever the zones are. Without another file it reads its
    // container's /etc/hosts, which has the pod's own address.
    if directive
        .body
        .iter()
        .all(|line| line.name() != "no_reverse")
    {
        let what = "`hosts` answers for the addresses in a file that Zerohop doesn't read";
        findings.push(Finding::new(head.number, what, reverse_trees()));
    }
    if let [file, zones @ ..] = head.args() {
        let what = format!("`hosts` has names from {file}, which Zerohop doesn't read");
        let zones = zones_or(head, zones, block_zones)?;
        findings.push(Finding::new(head.number, what, zones));
        return Ok(findings);
    }
    let mut fallthrough = Vec::new();
    for line in &directive.body {
        match (line.name(), line.args()) {
            ("fallthrough", []) => fallthrough = vec![Name::root()],
            ("fallthrough", zones) => {
                fallthrough = zones_of(zones).map_err(|what| line.unclear(what))?;
            }
            ("fallthrough_unsupported" | "no_reverse" | "reload" | "ttl", _) => {}
            _ => findings.push(hosts_entry(line)?),
        }
    }
    let denied = |zone: &&Name| {
        !fallthrough
            .iter()
            .any(|through| zone.is_at_or_below(through))
    };
    let denied = answered.iter().filter(denied).cloned().collect();
    let what = "`hosts` answers all names in zones that it has no `fallthrough` for";
    findings.push(Finding::new(head.number, what, denied));
    Ok(findings)
}

/// An address and its names.
fn hosts_entry(line: &Line) -> Result<Finding, Unclear> {
    let address = line.name();
    let without_scope = address
        .split_once('%')
        .map_or(address, |(address, _)| address);
    if without_scope.parse::<IpAddr>().is_err() {
        return Err(line.unclear(format!(
            "`{address}` in `hosts` is neither an option nor an address"
        )));
    }
    let mut names = Vec::new();
    for host in line.args() {
        // A quoted one: CoreDNS takes what is behind it for a comment.
        if host.contains('#') {
            return Err(line.unclear(format!(
                "`{host}` in `hosts` is no name that Zerohop understands"
            )));
        }
        let host = host.strip_prefix("*.").unwrap_or(host);
        names.push(name(host).map_err(|what| line.unclear(what))?);
    }
    Ok(Finding::new(
        line.number,
        "`hosts` has addresses of its own",
        names,
    ))
}

/// Rules for single names and for suffixes: what they ask for instead is answered as ever
/// when it is asked for itself (CoreDNS, `plugin/rewrite`).
fn rewrite(directive: &Directive) -> Result<Vec<Finding>, Unclear> {
    let head = &directive.head;
    let mut rule: Vec<&str> = head.args().iter().map(String::as_str).collect();
    if rule.len() < 2 {
        let words = directive.body.iter().flat_map(Line::words);
        rule.extend(words.map(String::as_str));
    } else if !directive.body.is_empty() {
        return Err(head.unclear("`rewrite` has both a rule and a block"));
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
        ["name", from, _to] | ["name", "exact", from, _to, ..] => name(from),
        ["name", "suffix", from, _to, ..] => suffix(from),
        _ => {
            return Err(head.unclear(format!("`{head}` is no rule that Zerohop understands")));
        }
    };
    let names = vec![names.map_err(|what| head.unclear(what))?];
    Ok(vec![Finding::new(
        head.number,
        "`rewrite` asks for other names instead",
        names,
    )])
}

/// Above all names that end with a text, which may begin within a label: `svc.cluster.local`
/// is also an end of `my-svc.cluster.local`. Behind a dot it may, too: in a label with a dot.
fn suffix(text: &str) -> Result<Name, String> {
    let name = name(text.strip_prefix('.').unwrap_or(text))?;
    Ok(name.parent().unwrap_or(name))
}
