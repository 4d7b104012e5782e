//! How NodeLocal DNSCache, in front of CoreDNS, changes the answers of zones.
//!
//! Zerohop reads the Corefile of NodeLocal DNSCache by the same rules as CoreDNS's. A server block
//! that forwards queries to the cluster's DNS, and apart from that only monitors and caches
//! answers, changes only TTLs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use zerohop_zone::Name;

use super::blocks::ServerBlock;
use super::cache::{self, TtlCap};
use super::finding::{self, CorefileFinding, CorefileProblem, Note, intersect_zones};
use super::parser::{Corefile, Directive};
use super::plugins::{self, AnsweringPlugin, PluginReader};
use crate::coredns_config::CoreDnsConfig;
use crate::node_cache::is_cluster_dns_placeholder;

/// Facts about a pod of NodeLocal DNSCache that are not in its Corefile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCacheContext {
    /// The served addresses at which the node cache may answer.
    pub bound: Vec<IpAddr>,
    /// The addresses of the cluster's DNS to which the node cache may forward queries.
    pub cluster_dns: BTreeSet<IpAddr>,
    /// The Service that the placeholder in the Corefile stands for.
    pub upstream: UpstreamService,
}

/// The Service to which NodeLocal DNSCache forwards queries for the cluster's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamService {
    /// A Service that leads to the cluster's DNS as far as Zerohop knows, or that doesn't exist.
    #[default]
    ClusterDns,
    /// A Service that leads to other servers.
    Other,
}

/// How NodeLocal DNSCache changes the answers of zones.
#[derive(Debug)]
pub struct NodeCacheEffect {
    /// Names that the node cache may answer differently from CoreDNS, with everything below them.
    pub passed: Vec<Name>,
    /// Sentences for operators that explain the effect: first those about the whole Corefile, then
    /// in the order of its lines.
    pub reasons: Vec<String>,
    caps: Vec<BlockCap>,
}

/// A TTL cap of a server block.
#[derive(Debug)]
struct BlockCap {
    cap: TtlCap,
    /// The zones for which the server block receives queries, without zones that pass.
    zones: Vec<Name>,
}

/// A server block and the zones for which it receives queries.
struct AssignedBlock<'b, 'a> {
    block: &'b ServerBlock<'a>,
    zones: Vec<Name>,
}

impl NodeCacheEffect {
    /// Reads the Corefile of NodeLocal DNSCache. `zones` are the zones that Zerohop would answer
    /// without the node cache. `ttl` is the TTL of their records in seconds, before the node cache
    /// lowers it.
    #[must_use]
    pub fn read(
        config: &CoreDnsConfig,
        zones: &[Name],
        ttl: u32,
        context: &NodeCacheContext,
    ) -> NodeCacheEffect {
        let (mut caps, mut findings) = (Vec::new(), Vec::new());
        if let Err(problem) = collect_effects(config, zones, context, &mut caps, &mut findings) {
            findings.push(CorefileFinding::about_everything(problem));
        }
        let passes = |zone: &Name| findings.iter().any(|finding| finding.covers(zone));
        for cap in &mut caps {
            cap.zones.retain(|zone| !passes(zone));
        }
        let notes = caps.iter().flat_map(|cap: &BlockCap| cap.cap_ttl(ttl).1);
        let names = findings.iter().flat_map(|finding| &finding.names);
        let passed: BTreeSet<Name> = names
            .flat_map(|name| intersect_zones(name, zones))
            .collect();
        NodeCacheEffect {
            passed: passed.into_iter().collect(),
            reasons: finding::write_reasons(&findings, zones, notes.collect()),
            caps,
        }
    }

    /// Lowers a TTL in seconds to the lowest cap of the node cache that applies to zones that don't
    /// pass.
    #[must_use]
    pub fn cap_ttl(&self, ttl: u32) -> u32 {
        let capped = self.caps.iter().map(|cap| cap.cap_ttl(ttl).0);
        capped.min().unwrap_or(ttl)
    }
}

impl BlockCap {
    fn cap_ttl(&self, ttl: u32) -> (u32, Vec<Note>) {
        cache::cap_ttl(ttl, std::slice::from_ref(&self.cap), &self.zones)
    }
}

/// Adds the effects of a Corefile on these zones to `caps` and `findings`. A `CorefileProblem`
/// makes everything pass.
fn collect_effects(
    config: &CoreDnsConfig,
    zones: &[Name],
    context: &NodeCacheContext,
    caps: &mut Vec<BlockCap>,
    findings: &mut Vec<CorefileFinding>,
) -> Result<(), CorefileProblem> {
    let corefile = Corefile::parse(config)?;
    let unread = corefile.unread_problems();
    findings.extend(unread.map(CorefileFinding::about_everything));
    let blocks = corefile.blocks.iter();
    let blocks = blocks.map(|block| ServerBlock::read(block, config.ports));
    let blocks: Vec<ServerBlock<'_>> = blocks.collect::<Result<_, _>>()?;
    let (assigned, unassigned) = assign_zones(&blocks, zones);
    if !unassigned.is_empty() {
        let cause = "no server block receives queries for these zones";
        findings.push(CorefileFinding::without_line(cause, unassigned));
    }
    for AssignedBlock { block, zones } in assigned {
        let Some(place) = block.first_place() else {
            // Not reached: a block without a key receives no queries.
            continue;
        };
        findings.extend(block.find_unserved_names(&blocks, place, &zones));
        if let Err(cause) = check_forwarding(block, context) {
            findings.push(CorefileFinding::new(place, cause, zones.clone()));
        }
        let block_zones = block.zones();
        let reader = PluginReader {
            config,
            answering: AnsweringPlugin::Forward,
            block_zones: &block_zones,
            answered: &zones,
        };
        if let Err(problem) = plugins::check_repetitions(block.directives) {
            findings.push(problem.into_finding(zones.clone()));
        }
        for directive in block.directives {
            let found = match directive.name() {
                // `check_forwarding` has checked these.
                "forward" | "bind" => Ok(Vec::new()),
                "cache" => TtlCap::read(directive, &block_zones).map(|cap| {
                    let zones = zones.clone();
                    caps.push(BlockCap { cap, zones });
                    Vec::new()
                }),
                "hosts" => reader
                    .read(directive)
                    .map(|found| add_hosts_file_finding(directive, found, &zones)),
                _ => reader.read(directive),
            };
            match found {
                Ok(found) => {
                    let restricted = found
                        .into_iter()
                        .map(|finding| finding.restricted_to(&zones));
                    findings.extend(restricted);
                }
                Err(problem) => findings.push(problem.into_finding(zones.clone())),
            }
        }
    }
    Ok(())
}

/// Assigns zones to the server blocks that receive their queries. The second list has the zones for
/// which no block receives queries.
fn assign_zones<'b, 'a>(
    blocks: &'b [ServerBlock<'a>],
    zones: &[Name],
) -> (Vec<AssignedBlock<'b, 'a>>, Vec<Name>) {
    let mut assigned: BTreeMap<usize, Vec<Name>> = BTreeMap::new();
    let mut unassigned = Vec::new();
    for zone in zones {
        let candidates = blocks.iter().enumerate();
        let candidates =
            candidates.filter_map(|(at, block)| Some((block.matched_length(zone)?, at)));
        // The block with the longest key receives the queries.
        match candidates.max() {
            Some((_, at)) => assigned.entry(at).or_default().push(zone.clone()),
            None => unassigned.push(zone.clone()),
        }
    }
    let assigned = assigned.into_iter().map(|(at, zones)| AssignedBlock {
        block: &blocks[at],
        zones,
    });
    (assigned.collect(), unassigned)
}

/// Checks that a server block answers at the served addresses and forwards only to the cluster's
/// DNS. `Err` holds the reason as a clause.
fn check_forwarding(block: &ServerBlock<'_>, context: &NodeCacheContext) -> Result<(), String> {
    let directives_named = |name: &'static str| {
        let directives = block.directives.iter();
        directives.filter(move |directive| directive.name() == name)
    };
    // An `Err` stands for an interface, whose addresses are unknown.
    let mut bound = Vec::new();
    for directive in directives_named("bind") {
        if !directive.body.is_empty() {
            return Err("`bind` has options, which Zerohop doesn't understand".to_owned());
        }
        bound.extend(
            directive
                .head
                .args()
                .iter()
                .map(|word| word.parse::<IpAddr>()),
        );
    }
    let is_bound = |address: &IpAddr| {
        let mut bound = bound.iter().flatten();
        bound.any(|bound| bound == address || bound.is_unspecified())
    };
    if !bound.is_empty() && !context.bound.iter().all(is_bound) {
        return Err("`bind` doesn't name every served address".to_owned());
    }
    let forwards: Vec<&Directive> = directives_named("forward").collect();
    let [forward] = forwards.as_slice() else {
        return Err("the server block does not have exactly one `forward`".to_owned());
    };
    if forward.check_complete().is_err() {
        return Err("`forward` includes text that Zerohop can't read".to_owned());
    }
    let to = match forward.head.args() {
        [from, to @ ..] if from == "." && !to.is_empty() => to,
        _ => return Err(format!("`{}` does not forward all names", forward.head)),
    };
    let is_cluster_dns = |word: &String| {
        if is_cluster_dns_placeholder(word) {
            context.upstream == UpstreamService::ClusterDns
        } else {
            parse_address(word).is_some_and(|address| context.cluster_dns.contains(&address))
        }
    };
    if let Some(other) = to.iter().find(|word| !is_cluster_dns(word)) {
        return Err(format!(
            "`forward` sends queries to {other}, which may not be the cluster's DNS"
        ));
    }
    let is_harmless = |name: &str| {
        matches!(
            name,
            "force_tcp"
                | "prefer_udp"
                | "expire"
                | "max_fails"
                | "max_idle_conns"
                | "max_concurrent"
                | "max_age"
                | "policy"
                | "health_check"
                | "failfast_all_unhealthy_upstreams"
        )
    };
    match forward
        .body
        .iter()
        .find(|option| !is_harmless(option.name()))
    {
        Some(option) => Err(format!(
            "`{option}` is not an option of `forward` that Zerohop understands"
        )),
        None => Ok(()),
    }
}

/// Reads an address with or without `dns://` and a port. `None` for any other word, such as
/// `tls://10.0.0.1`.
fn parse_address(word: &str) -> Option<IpAddr> {
    let word = word.strip_prefix("dns://").unwrap_or(word);
    let bare = word.trim_start_matches('[').trim_end_matches(']');
    let with_port = || word.parse::<SocketAddr>().ok();
    bare.parse()
        .ok()
        .or_else(|| with_port().map(|address| address.ip()))
}

/// Adds a finding if `hosts` names no file. The plugin then reads /etc/hosts in its container,
/// which is a copy of the node's file because NodeLocal DNSCache runs in the node's network.
fn add_hosts_file_finding(
    directive: &Directive,
    mut found: Vec<CorefileFinding>,
    zones: &[Name],
) -> Vec<CorefileFinding> {
    if directive.head.args().is_empty() {
        let cause = "`hosts` has names from the node's /etc/hosts";
        found.push(CorefileFinding::new(
            &directive.head.place,
            cause,
            zones.to_vec(),
        ));
    }
    found
}
