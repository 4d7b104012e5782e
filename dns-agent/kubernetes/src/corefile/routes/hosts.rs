//! Reads `hosts` for names outside the cluster (CoreDNS, `plugin/hosts`).

use zerohop_routes::{Exclusion, HostsRules, NamePattern, UnsupportedTypes};
use zerohop_zone::Name;

use super::super::finding::CorefileProblem;
use super::super::parser::{CorefileLine, Directive};
use super::super::zones::{parse_zones, zones_or_default};
use crate::container_files::KnownFile;
use crate::coredns_config::{CoreDnsConfig, PodHostsFile};

/// The TTL of records by default, in seconds.
const DEFAULT_TTL: u32 = 3600;

/// The names of a `hosts` plugin.
pub(super) struct HostsReading {
    pub(super) rules: HostsRules,
    /// The questions that the cluster's DNS answers, because CoreDNS may have other names.
    pub(super) exclusions: Vec<Exclusion>,
}

pub(super) fn read(
    directive: &Directive,
    config: &CoreDnsConfig,
    block_zones: &[Name],
) -> Result<HostsReading, CorefileProblem> {
    let head = &directive.head;
    let zones = head.args().get(1..).unwrap_or_default();
    let zones = zones_or_default(head, zones, block_zones)?;
    let mut through = Vec::new();
    let mut unsupported = UnsupportedTypes::NoData;
    let mut ttl = DEFAULT_TTL;
    let mut entries = String::new();
    for line in &directive.body {
        match (line.name(), line.args()) {
            ("fallthrough", []) => through = vec![Name::root()],
            ("fallthrough", zones) => {
                through = parse_zones(zones).map_err(|cause| line.problem(cause))?;
            }
            ("fallthrough_unsupported", []) => unsupported = UnsupportedTypes::Through,
            ("ttl", [seconds, ..]) => ttl = read_ttl(line, seconds)?,
            ("no_reverse" | "reload", _) => {}
            // CoreDNS refuses an entry after `fallthrough`.
            _ if !through.is_empty() => {
                let cause = format!("`{line}` in `hosts` follows `fallthrough`");
                return Err(line.problem(cause));
            }
            _ => {
                entries.push_str(&line.to_string());
                entries.push('\n');
            }
        }
    }
    let mut rules = HostsRules::new(zones.clone(), through, unsupported, ttl);
    let mut exclusions = Vec::new();
    match head.args().first().map(|path| config.file(path)) {
        // The container's own /etc/hosts.
        None if config.hosts_file == PodHostsFile::OfKubelet => {
            // The kubelet writes names of one label: localhost, and the pod's.
            let single = NamePattern::from_regex(r"^[^.]*\.$");
            let single = single.map_err(|cause| head.problem(cause))?;
            exclusions.push(Exclusion::Pattern(single));
        }
        Some(KnownFile::Text(text)) => rules.add_text(text),
        None => return Err(head.problem("`hosts` has the names of its container's /etc/hosts")),
        Some(KnownFile::Absent) => {
            return Err(head.problem("`hosts` has names from a file that doesn't exist now"));
        }
        Some(KnownFile::Unknown(reason)) => {
            return Err(head.problem(format!("`hosts` has names from a file, and {reason}")));
        }
    }
    rules.add_text(&entries);
    Ok(HostsReading { rules, exclusions })
}

fn read_ttl(line: &CorefileLine, text: &str) -> Result<u32, CorefileProblem> {
    let ttl = text.parse().ok();
    ttl.filter(|ttl| (1..=65535).contains(ttl))
        .ok_or_else(|| line.problem(format!("`{text}` is not a TTL")))
}
