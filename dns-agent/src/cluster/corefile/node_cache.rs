//! What a node cache in front of CoreDNS changes about the answers of zones.
//!
//! Its Corefile is read by the rules for CoreDNS's. A server block changes nothing if it forwards to
//! the cluster's DNS and beside that only watches and caches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::cluster::node_cache::is_cluster_dns;
use crate::zone::Name;

use super::blocks::Block;
use super::cache::{self, TtlCap};
use super::finding::{self, Finding, Note, Unclear};
use super::parse::{Corefile, Directive, Line};
use super::plugins;

/// What is known around a node cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The served addresses that it binds.
    pub bound: Vec<IpAddr>,
    /// The addresses of the cluster's DNS that it may ask.
    pub cluster_dns: BTreeSet<IpAddr>,
    /// Whether the Service that it asks for the cluster's names is the cluster's DNS.
    pub upstream: UpstreamService,
}

/// Whether the Service that a node cache asks for the cluster's names is the cluster's DNS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamService {
    /// It is, as far as is known.
    #[default]
    ClusterDns,
    /// It has other pods.
    Other,
}

/// What a node cache changes about the answers of zones.
#[derive(Debug)]
pub struct Filter {
    /// Names that it may answer otherwise, with everything below them.
    pub passed: Vec<Name>,
    /// What was concluded and why, for people.
    pub reasons: Vec<String>,
    caps: Vec<BlockCap>,
}

/// The cap of a server block, for the zones that it is asked for and that don't pass.
#[derive(Debug)]
struct BlockCap {
    cap: TtlCap,
    zones: Vec<Name>,
}

/// The zones that one server block is asked for.
struct Asked<'b, 'a> {
    block: &'b Block<'a>,
    zones: Vec<Name>,
}

impl Filter {
    /// Reads the Corefile of a node cache, for zones that CoreDNS answers. `ttl` is that of records.
    #[must_use]
    pub fn read(text: &str, zones: &[Name], ttl: u32, around: &Surroundings) -> Filter {
        let (mut caps, mut findings) = (Vec::new(), Vec::new());
        if let Err(unclear) = collect(text, zones, around, &mut caps, &mut findings) {
            findings.push(Finding::everything(unclear));
        }
        let passes = |zone: &Name| findings.iter().any(|finding| finding.covers(zone));
        for cap in &mut caps {
            cap.zones.retain(|zone| !passes(zone));
        }
        let notes = caps.iter().flat_map(|cap: &BlockCap| cap.capped(ttl).1);
        let names = findings.iter().flat_map(|finding| &finding.names);
        let passed: BTreeSet<Name> = names.flat_map(|name| meeting(name, zones)).collect();
        Filter {
            passed: passed.into_iter().collect(),
            reasons: finding::reasons(&findings, zones, notes.collect()),
            caps,
        }
    }

    /// A TTL under the caps of its caches.
    #[must_use]
    pub fn capped(&self, ttl: u32) -> u32 {
        let capped = self.caps.iter().map(|cap| cap.capped(ttl).0);
        capped.min().unwrap_or(ttl)
    }
}

impl BlockCap {
    fn capped(&self, ttl: u32) -> (u32, Vec<Note>) {
        cache::capped(ttl, std::slice::from_ref(&self.cap), &self.zones)
    }
}

/// Collects what a text does to these zones.
fn collect(
    text: &str,
    zones: &[Name],
    around: &Surroundings,
    caps: &mut Vec<BlockCap>,
    findings: &mut Vec<Finding>,
) -> Result<(), Unclear> {
    let corefile = Corefile::parse(text)?;
    let unread = corefile.unread.iter().map(Line::unread);
    findings.extend(unread.map(Finding::everything));
    let blocks = corefile.blocks.iter().map(Block::read);
    let blocks: Vec<Block<'_>> = blocks.collect::<Result<_, _>>()?;
    let (asked, unasked) = assigned(&blocks, zones);
    if !unasked.is_empty() {
        let what = "no server block is asked for the names in it";
        findings.push(Finding::anywhere(what, unasked));
    }
    for Asked { block, zones } in asked {
        let Some(line) = block.line() else {
            continue;
        };
        findings.extend(block.lost(&blocks, line, &zones));
        if let Err(what) = asks_cluster_dns(block, around) {
            findings.push(Finding::new(line, what, zones.clone()));
        }
        let block_zones = block.zones();
        for directive in block.directives {
            let found = match directive.name() {
                "forward" | "bind" => Ok(Vec::new()),
                "cache" => TtlCap::read(directive, &block_zones).map(|cap| {
                    let zones = zones.clone();
                    caps.push(BlockCap { cap, zones });
                    Vec::new()
                }),
                "hosts" => plugins::findings(directive, &block_zones, &zones)
                    .map(|found| with_hosts_file(directive, found, &zones)),
                _ => plugins::findings(directive, &block_zones, &zones),
            };
            match found {
                Ok(found) => findings.extend(found.into_iter().map(|it| it.within(&zones))),
                Err(unclear) => findings.push(unclear.passing(zones.clone())),
            }
        }
    }
    Ok(())
}

/// Which server blocks are asked for zones, and the zones that no block is asked for.
fn assigned<'b, 'a>(blocks: &'b [Block<'a>], zones: &[Name]) -> (Vec<Asked<'b, 'a>>, Vec<Name>) {
    let mut asked: BTreeMap<usize, Vec<Name>> = BTreeMap::new();
    let mut unasked = Vec::new();
    for zone in zones {
        let candidates = blocks.iter().enumerate();
        let candidates = candidates.filter_map(|(at, block)| Some((block.depth(zone)?, at)));
        match candidates.max() {
            Some((_, at)) => asked.entry(at).or_default().push(zone.clone()),
            None => unasked.push(zone.clone()),
        }
    }
    let asked = asked.into_iter().map(|(at, zones)| Asked {
        block: &blocks[at],
        zones,
    });
    (asked.collect(), unasked)
}

/// Whether a server block answers at the addresses, and asks the cluster's DNS and nothing else; if
/// not, why.
fn asks_cluster_dns(block: &Block<'_>, around: &Surroundings) -> Result<(), String> {
    let named = |name: &'static str| {
        let directives = block.directives.iter();
        directives.filter(move |directive| directive.name() == name)
    };
    let mut bound = Vec::new();
    for directive in named("bind") {
        if !directive.body.is_empty() {
            return Err("`bind` has options".to_owned());
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
    if !bound.is_empty() && !around.bound.iter().all(is_bound) {
        return Err("`bind` doesn't name every address that is answered at".to_owned());
    }
    let forwards: Vec<&Directive> = named("forward").collect();
    let [forward] = forwards.as_slice() else {
        return Err("not exactly one `forward` leads to the cluster's DNS".to_owned());
    };
    if forward.check_complete().is_err() {
        return Err(format!(
            "`{}` brings in text that Zerohop can't see",
            forward.head
        ));
    }
    let to = match forward.head.args() {
        [from, to @ ..] if from == "." && !to.is_empty() => to,
        _ => return Err(format!("`{}` is not for all names", forward.head)),
    };
    let is_known = |word: &String| match is_cluster_dns(word) {
        true => around.upstream == UpstreamService::ClusterDns,
        false => address(word).is_some_and(|address| around.cluster_dns.contains(&address)),
    };
    if let Some(other) = to.iter().find(|word| !is_known(word)) {
        return Err(format!(
            "`forward` asks {other}, which isn't known to be the cluster's DNS"
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
            "`{option}` is no option of `forward` that is understood"
        )),
        None => Ok(()),
    }
}

/// An address with or without a port.
fn address(word: &str) -> Option<IpAddr> {
    let word = word.strip_prefix("dns://").unwrap_or(word);
    let bare = word.trim_start_matches('[').trim_end_matches(']');
    let with_port = || word.parse::<SocketAddr>().ok();
    bare.parse()
        .ok()
        .or_else(|| with_port().map(|address| address.ip()))
}

/// `hosts` without a file reads the file of its container, which is the node's here.
fn with_hosts_file(directive: &Directive, mut found: Vec<Finding>, zones: &[Name]) -> Vec<Finding> {
    if directive.head.args().is_empty() {
        let what = "`hosts` has names from the node's /etc/hosts";
        found.push(Finding::new(directive.head.number, what, zones.to_vec()));
    }
    found
}

/// What of these zones a name covers: zones, or itself.
pub(super) fn meeting(name: &Name, zones: &[Name]) -> Vec<Name> {
    let covered = zones.iter().filter(|zone| zone.is_at_or_below(name));
    let mut covered: Vec<Name> = covered.cloned().collect();
    if covered.is_empty() && zones.iter().any(|zone| name.is_at_or_below(zone)) {
        covered.push(name.clone());
    }
    covered
}
