//! How CoreDNS answers names outside the cluster, as routes for the resolver.
//!
//! As for names of the cluster, plugins and options on a list are understood. Questions that any
//! other text may concern go to the cluster's DNS.

mod cache;
mod forward;
mod hosts;
mod rewrite;
mod template;

use zerohop_routes::{Exclusion, NamePattern, RouteBlock, Routes};
use zerohop_zone::{Name, Rtype};

use super::blocks::{self, ServerBlock};
use super::finding::{CorefileProblem, join_for_people};
use super::kubernetes::KubernetesPlugin;
use super::parser::{Corefile, Directive};
use super::plugins;
use super::reload;
use super::zones::{parse_name, reverse_trees, zones_or_default};
use crate::coredns_config::CoreDnsConfig;

/// How CoreDNS answers names outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorefileRoutes {
    /// The routes. Empty: it isn't known how, so the cluster's DNS answers all names.
    pub routes: Routes,
    /// Sentences for operators about the questions that the cluster's DNS answers nevertheless.
    pub reasons: Vec<String>,
}

/// Reads one server block.
struct BlockReader<'a> {
    config: &'a CoreDnsConfig,
    block_zones: Vec<Name>,
    block: RouteBlock,
    reasons: Vec<String>,
}

impl CorefileRoutes {
    /// Reads a Corefile.
    pub fn read(config: &CoreDnsConfig) -> CorefileRoutes {
        match read_blocks(config) {
            Ok((blocks, reasons)) => CorefileRoutes {
                routes: Routes::new(blocks),
                reasons,
            },
            Err(problem) => CorefileRoutes {
                routes: Routes::default(),
                reasons: vec![format!(
                    "{problem}, so the cluster's DNS answers all names outside the cluster"
                )],
            },
        }
    }
}

fn read_blocks(config: &CoreDnsConfig) -> Result<(Vec<RouteBlock>, Vec<String>), CorefileProblem> {
    let corefile = Corefile::parse(config)?;
    let directives = || corefile.blocks.iter().flat_map(|block| &block.directives);
    if let Some(problem) = corefile.unread_problems().next() {
        return Err(problem);
    }
    // CoreDNS refuses the whole Corefile because of these.
    for directive in directives().filter(|directive| directive.name() == "reload") {
        reload::check_reload(directive)?;
    }
    for block in &corefile.blocks {
        plugins::check_repetitions(&block.directives)?;
    }
    if let Some(view) = directives().find(|directive| directive.name() == "view") {
        return Err((view.head).problem("`view` chooses a server block by the client"));
    }
    let blocks = corefile.blocks.iter();
    let blocks = blocks.map(|block| ServerBlock::read(block, config.ports));
    let blocks: Vec<ServerBlock<'_>> = blocks.collect::<Result<_, _>>()?;
    blocks::check_binds(&blocks)?;
    blocks::check_ports(&blocks)?;
    let mut routes = Vec::new();
    let mut reasons = Vec::new();
    for block in blocks.iter().filter(|block| block.is_for_plain_dns()) {
        let reader = BlockReader {
            config,
            block_zones: block.zones(),
            block: RouteBlock {
                zones: block.plain_zones(),
                ..RouteBlock::default()
            },
            reasons: Vec::new(),
        };
        let (route, notes) = reader.read(block.directives);
        routes.push(route);
        reasons.extend(notes);
    }
    if routes.len() > 1 {
        // CoreDNS answers DS questions in the block of the parent zone.
        for route in &mut routes {
            let names = vec![Name::root()];
            route.exclusions.push(Exclusion::Type(Rtype::DS, names));
        }
    }
    Ok((routes, reasons))
}

impl BlockReader<'_> {
    fn read(mut self, directives: &[Directive]) -> (RouteBlock, Vec<String>) {
        for directive in directives {
            if let Err(problem) = self.read_plugin(directive) {
                self.block.client_dependent.push(problem.to_string());
                self.exclude_names(&problem, vec![Name::root()]);
            }
            if ["acl", "autopath"].contains(&directive.name()) {
                let cause = format!("`{}` depends on the client", directive.name());
                let problem = directive.head.problem(cause);
                self.block.client_dependent.push(problem.to_string());
            }
        }
        (self.block, self.reasons)
    }

    /// Reads a plugin. Fails if any question in the block may depend on it.
    fn read_plugin(&mut self, directive: &Directive) -> Result<(), CorefileProblem> {
        directive.check_complete()?;
        let head = &directive.head;
        let args = head.args();
        match directive.name() {
            // These plugins monitor answers, or manage the process.
            "cancel" | "debug" | "dnstap" | "errors" | "geoip" | "health" | "log" | "loop"
            | "metadata" | "multisocket" | "pprof" | "prometheus" | "ready" | "reload" | "root"
            | "shed" | "timeouts" | "trace" => {}
            // `bufsize` only limits the size of answers over UDP, `chaos` answers queries of class
            // CH, `tls` concerns other transports, `transfer` answers AXFR and IXFR, and `nsid`
            // adds an option. `check_binds` compares the addresses of all blocks.
            "bind" | "bufsize" | "chaos" | "nsid" | "tls" | "transfer" => {}
            // It changes answers for absent names of the cluster only.
            "autopath" if args.last().is_some_and(|it| it == "@kubernetes") => {}
            // The search path in a file may have other domains.
            "autopath" if !args.is_empty() => {
                self.exclude_zones(directive, &args[..args.len() - 1])?;
            }
            "loadbalance" if args.is_empty() || args == ["round_robin"] => {
                if !directive.body.is_empty() {
                    return Err(head.problem("`loadbalance` orders the addresses of answers"));
                }
            }
            // These come after `forward`, which takes the names first.
            "erratic" | "grpc" | "nomad" | "sign" | "whoami" => {}
            "any" => self.exclude_type(Rtype::ANY, vec![Name::root()]),
            "dns64" => self.exclude_type(Rtype::AAAA, vec![Name::root()]),
            "local" => {
                let pattern = NamePattern::Prefix("localhost.".into());
                self.block.exclusions.push(Exclusion::Pattern(pattern));
                let zones = plugins::LOCAL_ZONES.iter();
                let zones = zones.filter_map(|zone| parse_name(zone).ok());
                self.block
                    .exclusions
                    .push(Exclusion::Names(zones.collect()));
            }
            "acl" | "auto" | "etcd" | "k8s_external" => self.exclude_zones(directive, args)?,
            "file" if !args.is_empty() => self.exclude_zones(directive, &args[1..])?,
            "secondary" if directive.body.iter().all(|it| it.name() != "catalog") => {
                self.exclude_zones(directive, args)?;
            }
            "kubernetes" => {
                let plugin = KubernetesPlugin::read(directive, &self.block_zones)?;
                let zones = plugin.multicluster.into_iter().map(|(_, zone)| zone);
                let zones = plugin.zones.into_iter().chain(zones);
                self.block.cluster_zones.extend(zones);
            }
            "cache" => self.block.caching = cache::read(directive, &self.block_zones)?,
            "forward" => {
                let (forward, problem) = forward::read(directive, self.config)?;
                if let Some(problem) = problem {
                    self.block.client_dependent.push(problem.to_string());
                    self.explain(&problem, std::slice::from_ref(&forward.zone));
                }
                self.block.forwards.push(forward);
            }
            "hosts" => {
                let hosts = hosts::read(directive, self.config, &self.block_zones)?;
                self.block.exclusions.extend(hosts.exclusions);
                self.block.hosts = Some(hosts.rules);
                // The plugin answers queries for PTR outside its zones too.
                self.block
                    .exclusions
                    .push(Exclusion::Type(Rtype::PTR, reverse_trees()));
            }
            "rewrite" => self.block.rewrites.extend(rewrite::read(directive)?),
            "template" => match template::read(directive, &self.block_zones)? {
                template::TemplateReading::Rule(rule) => self.block.templates.push(rule),
                template::TemplateReading::Other(exclusions) => {
                    self.block.exclusions.extend(exclusions);
                }
            },
            name => {
                let cause = format!("`{name}` is not a plugin that Zerohop understands here");
                return Err(head.problem(cause));
            }
        }
        Ok(())
    }

    /// Excludes the names in a plugin's zones.
    fn exclude_zones(
        &mut self,
        directive: &Directive,
        zones: &[String],
    ) -> Result<(), CorefileProblem> {
        let zones = zones_or_default(&directive.head, zones, &self.block_zones)?;
        let cause = format!("`{}` may answer names in its zones", directive.name());
        self.exclude_names(&directive.head.problem(cause), zones);
        Ok(())
    }

    fn exclude_names(&mut self, problem: &CorefileProblem, names: Vec<Name>) {
        self.explain(problem, &names);
        self.block.exclusions.push(Exclusion::Names(names));
    }

    /// Adds the reason why the cluster's DNS answers these names.
    fn explain(&mut self, problem: &CorefileProblem, names: &[Name]) {
        let affected = match names {
            [] => return,
            [zone] if *zone == Name::root() => "all names of its server block".to_owned(),
            names => format!("names in {}", join_for_people(names)),
        };
        let reason = format!("{problem}, so the cluster's DNS answers {affected}");
        self.reasons.push(reason);
    }

    fn exclude_type(&mut self, rtype: Rtype, names: Vec<Name>) {
        let exclusion = Exclusion::Type(rtype, names);
        self.block.exclusions.push(exclusion);
    }
}
