//! Reads `hosts`, which has names with addresses in the Corefile or in a file (CoreDNS,
//! `plugin/hosts`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use zerohop_zone::{Name, reverse_name};

use super::finding::{CorefileFinding, CorefileProblem};
use super::parser::{CorefileLine, Directive};
use super::zones::{parse_name, parse_zones, reverse_trees, zones_or_default};
use crate::container_files::KnownFile;
use crate::coredns_config::CoreDnsConfig;

/// The most names of a file in the answered zones, and the most reverse names, that pass one by
/// one. The kernel's tables have room for a limited number of names that pass with all names below
/// them.
const MAX_LISTED: usize = 32;

/// Finds the names that `hosts` answers. `block_zones` are the zones of its server block, and
/// `answered` those of the plugin that answers the block's names.
pub(super) fn read_hosts(
    directive: &Directive,
    config: &CoreDnsConfig,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let head = &directive.head;
    let mut findings = Vec::new();
    let file = head.args().first().map(|path| config.file(path));
    let zones = head.args().get(1..).unwrap_or_default();
    let zones = zones_or_default(head, zones, block_zones)?;
    let mut options = directive.body.iter();
    let reverse = if options.any(|line| line.name() == "no_reverse") {
        Reverse::Off
    } else {
        Reverse::On
    };
    // Without a file argument, all reverse names pass anyway.
    let reverse_of_entries = match file {
        None => Reverse::Off,
        Some(_) => reverse,
    };
    match file {
        // Without a file argument, it reads its container's /etc/hosts, which has the pod's own
        // name and address. It answers PTR queries outside its zones too.
        None => findings.extend(reverse.finding_about_unread_file(head)),
        Some(KnownFile::Text(text)) => {
            let file = HostsText::read(text, &zones).bounded(answered);
            let cause = "`hosts` has addresses for these names in its file";
            findings.push(CorefileFinding::new(&head.place, cause, file.names));
            if reverse == Reverse::On {
                let cause = "`hosts` has names for these addresses in its file";
                findings.push(CorefileFinding::new(&head.place, cause, file.reverse));
            }
        }
        // CoreDNS keeps the names of a file that disappears.
        Some(unread @ (KnownFile::Absent | KnownFile::Unknown(_))) => {
            let reason = match unread {
                KnownFile::Unknown(reason) => reason,
                _ => "it doesn't exist now".to_owned(),
            };
            findings.extend(reverse.finding_about_unread_file(head));
            let cause = format!("`hosts` has names from a file, and {reason}");
            findings.push(CorefileFinding::new(&head.place, cause, zones.clone()));
            return Ok(findings);
        }
    }
    let mut fallthrough = Vec::new();
    for line in &directive.body {
        match (line.name(), line.args()) {
            ("fallthrough", []) => fallthrough = vec![Name::root()],
            ("fallthrough", zones) => {
                fallthrough = parse_zones(zones).map_err(|cause| line.problem(cause))?;
            }
            ("fallthrough_unsupported" | "no_reverse" | "reload" | "ttl", _) => {}
            _ => findings.extend(read_entry(line, reverse_of_entries)?),
        }
    }
    // Without `fallthrough`, the plugin answers all names in its zones.
    let is_denied = |zone: &&Name| {
        let mut through = fallthrough.iter();
        !through.any(|through| zone.is_at_or_below(through))
    };
    let denied = answered.iter().filter(is_denied).cloned().collect();
    let cause = "`hosts` answers all names in zones without `fallthrough`";
    findings.push(CorefileFinding::new(&head.place, cause, denied));
    Ok(findings)
}

/// Whether `hosts` answers PTR queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reverse {
    On,
    Off,
}

/// The names and addresses of a hosts file.
#[derive(Debug, Default)]
struct HostsText {
    names: Vec<Name>,
    /// The reverse names of the addresses.
    reverse: Vec<Name>,
}

impl Reverse {
    fn finding_about_unread_file(self, head: &CorefileLine) -> Option<CorefileFinding> {
        let cause = "`hosts` answers PTR queries for addresses in a file that Zerohop doesn't read";
        let finding = || CorefileFinding::new(&head.place, cause, reverse_trees());
        (self == Reverse::On).then(finding)
    }
}

impl HostsText {
    /// Reads a file as CoreDNS does (`plugin/hosts/hostsfile.go`): lines without an address, and
    /// names outside `zones`, are skipped.
    fn read(text: &str, zones: &[Name]) -> HostsText {
        let mut file = HostsText::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(read_address) else {
                continue;
            };
            let names = words.filter_map(|host| {
                let host = host.strip_prefix("*.").unwrap_or(host);
                // CoreDNS compares an escaped name as text, so no query has it.
                let name = parse_name(host).ok()?;
                let is_inside = zones.iter().any(|zone| name.is_at_or_below(zone));
                is_inside.then_some(name)
            });
            let before = file.names.len();
            file.names.extend(names);
            if file.names.len() > before {
                file.reverse.extend(reverse_names(address));
            }
        }
        for names in [&mut file.names, &mut file.reverse] {
            names.sort();
            names.dedup();
        }
        file
    }

    /// The names in the `answered` zones, and the reverse names. More than [`MAX_LISTED`] are
    /// replaced by whole zones.
    fn bounded(mut self, answered: &[Name]) -> HostsText {
        let zone_of = |name: &Name| answered.iter().find(|zone| name.is_at_or_below(zone));
        self.names.retain(|name| zone_of(name).is_some());
        if self.names.len() > MAX_LISTED {
            let zones = self.names.iter().filter_map(zone_of).cloned();
            let zones: BTreeSet<Name> = zones.collect();
            self.names = zones.into_iter().collect();
        }
        if self.reverse.len() > MAX_LISTED {
            self.reverse = reverse_trees();
        }
        self
    }
}

/// The names by which CoreDNS finds an address: Go doesn't distinguish an IPv4 address from the
/// same address mapped into IPv6.
fn reverse_names(address: IpAddr) -> [Name; 2] {
    let canonical = address.to_canonical();
    let mapped = match canonical {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => canonical,
    };
    [canonical, mapped].map(reverse_name)
}

/// Reads an address without its scope.
fn read_address(text: &str) -> Option<IpAddr> {
    let without_scope = text.split_once('%').map_or(text, |(address, _)| address);
    without_scope.parse().ok()
}

/// Reads an entry: an address and its names.
fn read_entry(
    line: &CorefileLine,
    reverse: Reverse,
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let text = line.name();
    let Some(address) = read_address(text) else {
        return Err(line.problem(format!(
            "`{text}` in `hosts` is neither an option nor an address"
        )));
    };
    let mut names = Vec::new();
    for host in line.args() {
        // CoreDNS treats `#` in a quoted name, and the text after it, as a comment.
        if host.contains('#') {
            return Err(line.problem(format!(
                "`{host}` in `hosts` is not a name that Zerohop understands"
            )));
        }
        // A wildcard's names are below its parent.
        let host = host.strip_prefix("*.").unwrap_or(host);
        names.push(parse_name(host).map_err(|cause| line.problem(cause))?);
    }
    let cause = "`hosts` has addresses for these names";
    let mut findings = vec![CorefileFinding::new(&line.place, cause, names)];
    if reverse == Reverse::On {
        let cause = "`hosts` has names for this address";
        let names = reverse_names(address).to_vec();
        findings.push(CorefileFinding::new(&line.place, cause, names));
    }
    Ok(findings)
}
