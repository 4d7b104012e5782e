//! What CoreDNS's configuration lets us answer in front of it.
//!
//! A Corefile is read by an allow-list. What isn't fully understood makes the names that
//! it can touch pass, and everything where that isn't clear: no answer may ever differ from
//! what this CoreDNS would say. `docs/coredns.md` is the table for operators; the meaning
//! of everything is taken from CoreDNS 1.14's sources.

mod blocks;
mod cache;
mod finding;
mod kubernetes;
mod lex;
mod node_cache;
mod parse;
mod plugins;
mod reload;
mod zones;

use crate::zone::{Absent, Name};

pub use node_cache::{Filter, Surroundings, UpstreamService};
pub use reload::Reload;

use super::selector::Selectors;
use super::settings::{EmptyServices, EndpointNames, PodMode, VERSION_TTL, ZonalNames};
use blocks::Block;
use cache::TtlCap;
use finding::{Finding, Unclear};
use kubernetes::Kubernetes;
use parse::Corefile;
use zones::is_reverse;

/// What a Corefile lets us answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusions {
    /// What to answer, and how; when there is nothing, everything passes.
    pub adopted: Option<Adopted>,
    /// What was concluded and why, for people: a sentence each, in the order of the
    /// Corefile's lines, which they name.
    pub reasons: Vec<String>,
}

/// What to answer, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The zones of the `kubernetes` plugin, in its order: cluster domains, at least one,
    /// and reverse zones. None is below another, and PTR records name the first cluster
    /// domain.
    pub zones: Vec<AdoptedZone>,
    /// Names below those zones that somebody else may answer, with everything below them.
    pub passed: Vec<Name>,
    /// The TTL of records, in seconds.
    pub ttl: u32,
    /// The TTL of the version of the naming scheme, in seconds.
    pub version_ttl: u32,
    /// How names of pods are answered.
    pub pods: PodMode,
    /// The namespaces that are exposed; empty means all.
    pub namespaces: Vec<String>,
    /// The objects that make records, by their labels.
    pub selectors: Selectors,
    /// What is said of services that nobody serves.
    pub empty_services: EmptyServices,
    /// What an endpoint without a host name is called.
    pub endpoint_names: EndpointNames,
    /// Whether endpoints have names by topology zone.
    pub zonal_names: ZonalNames,
}

/// A zone of the `kubernetes` plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedZone {
    /// Its apex.
    pub name: Name,
    /// What is said of names in it that aren't there.
    pub absent: Absent,
}

/// The `kubernetes` plugin, and what changes its answers without standing in the way.
struct Reading {
    kubernetes: Kubernetes,
    caps: Vec<TtlCap>,
}

impl Conclusions {
    /// Concludes what this text lets us answer.
    ///
    /// CoreDNS goes on with the text it had before when it can't load one. Of the errors
    /// it would find, only those are noticed here that matter to the conclusions.
    pub fn read(text: &str) -> Conclusions {
        let mut findings = Vec::new();
        match Reading::of(text, &mut findings) {
            Ok(reading) => reading.conclude(findings),
            Err(unclear) => {
                findings.push(Finding::everything(unclear));
                Conclusions {
                    adopted: None,
                    reasons: finding::reasons(&findings, &[], Vec::new()),
                }
            }
        }
    }
}

impl Reading {
    /// Reads a text, and collects what stands between us and its names.
    fn of(text: &str, findings: &mut Vec<Finding>) -> Result<Reading, Unclear> {
        let corefile = Corefile::parse(text)?;
        findings.extend(
            corefile
                .unread
                .iter()
                .map(|line| Finding::everything(line.unread())),
        );
        let directives = corefile.blocks.iter().flat_map(|block| &block.directives);
        let reloads = directives.filter(|directive| directive.name() == "reload");
        let refused = reloads.filter_map(|directive| reload::check(directive).err());
        findings.extend(refused.map(Finding::everything));
        let blocks = corefile.blocks.iter().map(Block::read);
        let blocks: Vec<Block<'_>> = blocks.collect::<Result<_, _>>()?;

        let (block, directive) = blocks::only_kubernetes(&blocks)?;
        let block_zones = block.zones();
        let kubernetes = Kubernetes::read(directive, &block_zones)?;
        findings.extend(kubernetes.findings());
        findings.extend(block.lost(&blocks, kubernetes.line, &kubernetes.zones));

        let mut caps = Vec::new();
        for directive in block.directives {
            let read = match directive.name() {
                "kubernetes" => continue,
                "cache" => TtlCap::read(directive, &block_zones).map(|cap| caps.push(cap)),
                _ => plugins::findings(directive, &block_zones, &kubernetes.zones)
                    .map(|found| findings.extend(found)),
            };
            findings.extend(read.err().map(Finding::everything));
        }
        Ok(Reading { kubernetes, caps })
    }

    fn conclude(self, mut findings: Vec<Finding>) -> Conclusions {
        let Reading { kubernetes, caps } = self;
        let mut zones = left(&kubernetes.zones, &findings);
        let first = zones.iter().find(|zone| !is_reverse(zone));
        if first != kubernetes.primary() && zones.iter().any(is_reverse) {
            findings.push(kubernetes.unpointed());
            zones = left(&zones, &findings);
        }
        let (ttl, mut notes) = cache::capped(kubernetes.ttl, &caps, &zones);
        // Of all records it is the least, and not worth a sentence.
        let (version_ttl, _) = cache::capped(VERSION_TTL, &caps, &zones);
        notes.extend(kubernetes.notes(&zones));
        let reasons = finding::reasons(&findings, &kubernetes.zones, notes);

        let is_inside = |name: &Name| zones.iter().any(|zone| name.is_at_or_below(zone));
        let passed = findings.into_iter().flat_map(|finding| finding.names);
        let mut passed: Vec<Name> = passed.filter(is_inside).collect();
        passed.sort();
        passed.dedup();
        let zones: Vec<AdoptedZone> = (zones.into_iter())
            .map(|name| AdoptedZone {
                absent: kubernetes.absent(&name),
                name,
            })
            .collect();
        let adopted = Adopted {
            zones,
            passed,
            ttl,
            version_ttl,
            pods: kubernetes.pods,
            namespaces: kubernetes.namespaces,
            selectors: kubernetes.selectors,
            empty_services: kubernetes.empty_services,
            endpoint_names: kubernetes.endpoint_names,
            zonal_names: kubernetes.zonal_names,
        };
        Conclusions {
            adopted: (!adopted.zones.is_empty()).then_some(adopted),
            reasons,
        }
    }
}

/// The zones that don't pass whole.
fn left(zones: &[Name], findings: &[Finding]) -> Vec<Name> {
    let passes = |zone: &&Name| findings.iter().any(|finding| finding.covers(zone));
    zones.iter().filter(|zone| !passes(zone)).cloned().collect()
}

#[cfg(test)]
mod tests;
