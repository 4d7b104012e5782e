//! Determines from CoreDNS's Corefile which names Zerohop may answer.
//!
//! Except for CoreDNS deviations, Zerohop's answers must not differ from those of CoreDNS, so
//! Zerohop accepts only plugins and options on an allow-list. If Zerohop doesn't fully understand a
//! line, all names that the line can affect pass. If the affected names are unclear, all names
//! pass. `docs/coredns.md` describes the effect of each plugin for operators. The meaning of
//! plugins and options is taken from the source code of CoreDNS 1.14.

mod blocks;
mod cache;
mod finding;
mod hosts;
mod imports;
mod kubernetes;
mod node_cache_effect;
mod parser;
mod place;
mod plugins;
mod reload;
mod rewrite;
mod routes;
mod words;
mod zones;

use std::collections::BTreeSet;

use zerohop_routes::NamePattern;
use zerohop_zone::{AbsentNames, ChangedAnswers, Name, Rtype};

pub(crate) use imports::named_files;
pub use node_cache_effect::{NodeCacheContext, NodeCacheEffect, UpstreamService};
pub use reload::Reload;
pub use routes::CorefileRoutes;

use blocks::ServerBlock;
use cache::TtlCap;
use finding::{CorefileFinding, CorefileProblem};
use kubernetes::KubernetesPlugin;
use parser::Corefile;
use plugins::{AnsweringPlugin, PluginReader};
use rewrite::RewriteRule;
use zones::is_reverse;

use super::coredns_config::CoreDnsConfig;
use super::selectors::Selectors;
use super::settings::{EmptyServices, EndpointNames, PodMode, VERSION_TTL, ZonalNames};

/// Which names Zerohop may answer if CoreDNS runs with a given Corefile, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusions {
    /// The zones to answer and their settings. `None`: everything passes.
    pub adopted: Option<AdoptedSettings>,
    /// Sentences for operators that explain `adopted`: first those about the whole Corefile, then
    /// in the order of its lines.
    pub reasons: Vec<String>,
}

/// The zones to answer and their settings, as the Corefile defines them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedSettings {
    /// The answered zones of the `kubernetes` plugin, in its order: cluster domains and reverse
    /// zones. No zone is below another. PTR records point into the first cluster domain.
    pub zones: Vec<AdoptedZone>,
    /// Names within these zones that are delegated to CoreDNS, with everything below them.
    pub passed: Vec<Name>,
    /// For some of these zones, the types whose queries pass.
    pub passed_types: Vec<(Name, BTreeSet<Rtype>)>,
    /// For some of these zones, the answers of existing names that another plugin changes, so that
    /// the queries pass.
    pub changed_answers: Vec<(Name, BTreeSet<ChangedAnswers>)>,
    /// Those of these zones whose answers CoreDNS signs, so that queries with the DO bit pass.
    pub signed_zones: Vec<Name>,
    /// Patterns of names whose queries are rewritten, so that they pass.
    pub rewritten: Vec<NamePattern>,
    /// The TTL of records, in seconds.
    pub ttl: u32,
    /// The TTL in seconds before `cache` capped it. `None`: `cache` does not cap it.
    pub uncapped_ttl: Option<u32>,
    /// The TTL of the `dns-version` record, in seconds.
    pub version_ttl: u32,
    /// How pod names are answered.
    pub pods: PodMode,
    /// The namespaces whose names are answered. Empty: all.
    pub namespaces: Vec<String>,
    /// Label selectors of the objects that make records.
    pub selectors: Selectors,
    /// How Services with a ClusterIP, but without a ready endpoint, are answered.
    pub empty_services: EmptyServices,
    /// How an endpoint without a host name is named.
    pub endpoint_names: EndpointNames,
    /// Whether endpoints have names by topology zone.
    pub zonal_names: ZonalNames,
}

/// A zone of the `kubernetes` plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedZone {
    /// The zone's apex.
    pub name: Name,
    /// How names that don't exist in the zone are answered.
    pub absent: AbsentNames,
}

/// What Zerohop read from the server block that has the `kubernetes` plugin.
struct ServerBlockReading {
    kubernetes: KubernetesPlugin,
    /// The TTL caps of the block's `cache` plugins.
    caps: Vec<TtlCap>,
    /// The patterns of the block's `rewrite` plugins.
    rewritten: Vec<NamePattern>,
}

impl Conclusions {
    /// Concludes from a Corefile which names Zerohop may answer.
    ///
    /// CoreDNS keeps its previous Corefile if it can't load a new one. This function does not
    /// detect all such errors.
    pub fn read(config: &CoreDnsConfig) -> Conclusions {
        let mut findings = Vec::new();
        match ServerBlockReading::read(config, &mut findings) {
            Ok(reading) => reading.conclude(findings),
            Err(problem) => {
                findings.push(CorefileFinding::about_everything(problem));
                Conclusions {
                    adopted: None,
                    reasons: finding::write_reasons(&findings, &[], Vec::new()),
                }
            }
        }
    }
}

impl ServerBlockReading {
    /// Reads a Corefile, and adds the findings that make names pass to `findings`. A
    /// `CorefileProblem` makes everything pass.
    fn read(
        config: &CoreDnsConfig,
        findings: &mut Vec<CorefileFinding>,
    ) -> Result<ServerBlockReading, CorefileProblem> {
        let corefile = Corefile::parse(config)?;
        let unread = corefile.unread_problems();
        findings.extend(unread.map(CorefileFinding::about_everything));
        // CoreDNS refuses the whole Corefile because of an invalid `reload` in any block.
        let directives = corefile.blocks.iter().flat_map(|block| &block.directives);
        let reloads = directives.filter(|directive| directive.name() == "reload");
        let problems = reloads.filter_map(|directive| reload::check_reload(directive).err());
        findings.extend(problems.map(CorefileFinding::about_everything));
        let blocks = corefile.blocks.iter();
        let blocks = blocks.map(|block| ServerBlock::read(block, config.ports));
        let blocks: Vec<ServerBlock<'_>> = blocks.collect::<Result<_, _>>()?;

        let (block, directive) = blocks::find_kubernetes(&blocks)?;
        let block_zones = block.zones();
        let kubernetes = KubernetesPlugin::read(directive, &block_zones)?;
        findings.extend(kubernetes.findings());
        findings.extend(block.find_unserved_names(&blocks, &kubernetes.place, &kubernetes.zones));

        let refused = corefile.blocks.iter();
        let refused = refused.map(|block| plugins::check_repetitions(&block.directives));
        let problems = refused.chain([blocks::check_binds(&blocks)]);
        let problems = problems.filter_map(Result::err);
        findings.extend(problems.map(CorefileFinding::about_everything));
        let reader = PluginReader {
            config,
            answering: AnsweringPlugin::Kubernetes,
            block_zones: &block_zones,
            answered: &kubernetes.zones,
        };
        let (mut caps, mut rewritten) = (Vec::new(), Vec::new());
        for directive in block.directives {
            let result = match directive.name() {
                "kubernetes" => continue,
                "cache" => TtlCap::read(directive, &block_zones).map(|cap| caps.push(cap)),
                "rewrite" => RewriteRule::read(directive).map(|rule| {
                    findings.push(rule.finding());
                    rewritten.extend(rule.pattern());
                }),
                name => {
                    // The names that `local` answers.
                    let local = || NamePattern::Prefix("localhost.".into());
                    rewritten.extend((name == "local").then(local));
                    reader.read(directive).map(|found| findings.extend(found))
                }
            };
            findings.extend(result.err().map(CorefileFinding::about_everything));
        }
        Ok(ServerBlockReading {
            kubernetes,
            caps,
            rewritten,
        })
    }

    /// Applies the findings to the zones of the `kubernetes` plugin.
    fn conclude(self, mut findings: Vec<CorefileFinding>) -> Conclusions {
        let ServerBlockReading {
            kubernetes,
            caps,
            rewritten,
        } = self;
        let mut zones = answered_zones(&kubernetes.zones, &findings);
        // PTR records are answered only if the domain that they point into is answered too.
        let first_domain = zones.iter().find(|zone| !is_reverse(zone));
        if first_domain != kubernetes.primary_domain() && zones.iter().any(is_reverse) {
            findings.push(kubernetes.pointer_finding());
            zones = answered_zones(&zones, &findings);
        }
        let types_in = |zone: &Name| {
            let types = findings.iter().flat_map(|finding| finding.types_in(zone));
            types.copied().collect::<BTreeSet<Rtype>>()
        };
        // A reverse zone has nothing else to answer.
        zones.retain(|zone| !is_reverse(zone) || !types_in(zone).contains(&Rtype::PTR));
        let (ttl, mut notes) = cache::cap_ttl(kubernetes.ttl, &caps, &zones);
        // No note for `dns-version`: its cap concerns a single record.
        let (version_ttl, _) = cache::cap_ttl(VERSION_TTL, &caps, &zones);
        let absence_in = |zone: &Name| {
            let mut findings = findings.iter();
            if findings.any(|finding| finding.covers_absent_names(zone)) {
                return AbsentNames::Passed;
            }
            kubernetes.absence_in(zone)
        };
        let adopted_zones: Vec<AdoptedZone> = (zones.iter())
            .map(|name| AdoptedZone {
                name: name.clone(),
                absent: absence_in(name),
            })
            .collect();
        notes.extend(kubernetes.note_zones(&adopted_zones));
        let passed_types = by_zone(&zones, types_in);
        let changed_answers = by_zone(&zones, |zone| {
            let changed = findings.iter().filter_map(|it| it.changed_answers_in(zone));
            changed.collect()
        });
        let is_signed = |zone: &&Name| findings.iter().any(|finding| finding.signs(zone));
        let signed_zones = zones.iter().filter(is_signed).cloned().collect();
        let reasons = finding::write_reasons(&findings, &kubernetes.zones, notes);

        let is_inside = |name: &Name| zones.iter().any(|zone| name.is_at_or_below(zone));
        let passed = findings.into_iter().flat_map(CorefileFinding::into_names);
        let mut passed: Vec<Name> = passed.filter(is_inside).collect();
        passed.sort();
        passed.dedup();
        let adopted = AdoptedSettings {
            zones: adopted_zones,
            passed,
            passed_types,
            changed_answers,
            signed_zones,
            rewritten,
            ttl,
            uncapped_ttl: (kubernetes.ttl > ttl).then_some(kubernetes.ttl),
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

/// The zones for which `choose` finds something, with that.
fn by_zone<T>(zones: &[Name], choose: impl Fn(&Name) -> BTreeSet<T>) -> Vec<(Name, BTreeSet<T>)> {
    let chosen = zones.iter().map(|zone| (zone.clone(), choose(zone)));
    chosen.filter(|(_, chosen)| !chosen.is_empty()).collect()
}

/// The zones that no finding makes pass entirely.
fn answered_zones(zones: &[Name], findings: &[CorefileFinding]) -> Vec<Name> {
    let passes = |zone: &&Name| findings.iter().any(|finding| finding.covers(zone));
    zones.iter().filter(|zone| !passes(zone)).cloned().collect()
}

#[cfg(test)]
mod tests;
