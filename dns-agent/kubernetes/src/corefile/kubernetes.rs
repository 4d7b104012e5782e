//! The options of a `kubernetes` plugin (CoreDNS, `plugin/kubernetes/setup.go`).

use std::collections::BTreeSet;

use zerohop_zone::{AbsentNames, Name};

use super::finding::{CorefileFinding, CorefileProblem, Note, join_for_people};
use super::parser::{CorefileLine, Directive};
use super::plugins::zones_or_default;
use super::zones::{is_reverse, parse_zones, reverse_trees};
use crate::{
    EmptyServices, EndpointNames, PodMode, Selector, SelectorError, Selectors, settings::ZonalNames,
};

/// The longest TTL that CoreDNS accepts, in seconds.
const MAX_TTL: u32 = 3600;

/// A `kubernetes` plugin's zones and options. Absent options have CoreDNS's defaults.
pub(super) struct KubernetesPlugin {
    /// The plugin's line, counted from 1.
    pub(super) line: usize,
    /// The zones in their order, without repetitions.
    pub(super) zones: Vec<Name>,
    /// Zones in which names that don't exist fall through to the next plugins.
    pub(super) fallthrough: Vec<Name>,
    /// The plugin's zones with names of several clusters, each with the line of its option.
    pub(super) multicluster: Vec<(usize, Name)>,
    /// The TTL of records, in seconds.
    pub(super) ttl: u32,
    pub(super) pods: PodMode,
    pub(super) namespaces: Vec<String>,
    pub(super) selectors: Selectors,
    pub(super) empty_services: EmptyServices,
    pub(super) endpoint_names: EndpointNames,
    pub(super) zonal_names: ZonalNames,
}

impl KubernetesPlugin {
    /// Reads the plugin's lines in a server block for `block_zones`.
    pub(super) fn read(
        directive: &Directive,
        block_zones: &[Name],
    ) -> Result<KubernetesPlugin, CorefileProblem> {
        directive.check_complete()?;
        let head = &directive.head;
        let mut zones = zones_or_default(head, head.args(), block_zones)?;
        let mut seen = BTreeSet::new();
        zones.retain(|zone| seen.insert(zone.clone()));
        let mut kubernetes = KubernetesPlugin {
            line: head.number,
            zones,
            fallthrough: Vec::new(),
            multicluster: Vec::new(),
            ttl: 5,
            pods: PodMode::Disabled,
            namespaces: Vec::new(),
            selectors: Selectors::default(),
            empty_services: EmptyServices::Answered,
            endpoint_names: EndpointNames::Address,
            zonal_names: ZonalNames::Absent,
        };
        for option in &directive.body {
            let read = kubernetes.apply_option(option);
            read.map_err(|what| option.problem(what))?;
        }
        kubernetes.check_options(head)?;
        Ok(kubernetes)
    }

    /// The cluster domain that PTR records name: the first zone that CoreDNS doesn't consider a
    /// reverse zone. CoreDNS doesn't consider `in-addr.arpa` itself a reverse zone.
    pub(super) fn primary_domain(&self) -> Option<&Name> {
        let trees = reverse_trees();
        let is_below_tree = |zone: &Name| !trees.contains(zone) && is_reverse(zone);
        self.zones.iter().find(|zone| !is_below_tree(zone))
    }

    /// How names that don't exist in a zone are answered.
    pub(super) fn absence_in(&self, zone: &Name) -> AbsentNames {
        let mut fallthrough = self.fallthrough.iter();
        if fallthrough.any(|through| zone.is_at_or_below(through)) {
            return AbsentNames::Passed;
        }
        AbsentNames::Denied
    }

    /// The findings about the plugin's options and zones.
    pub(super) fn findings(&self) -> Vec<CorefileFinding> {
        let mut findings = Vec::new();
        for (line, zone) in &self.multicluster {
            let what = "`multicluster` adds Services of other clusters";
            findings.push(CorefileFinding::new(*line, what, vec![zone.clone()]));
        }
        let inside = |name: &Name| {
            let mut zones = self.zones.iter();
            zones.any(|zone| zone != name && name.is_at_or_below(zone))
        };
        let mut find = |what: &str, names: Vec<Name>| {
            findings.push(CorefileFinding::new(self.line, what, names));
        };
        let nested = self.zones.iter().filter(|zone| inside(zone));
        find(
            "a zone of `kubernetes` is inside another zone of `kubernetes`",
            nested.cloned().collect(),
        );
        let through = self.fallthrough.iter().filter(|zone| inside(zone));
        find(
            "`kubernetes` lets only some names of a zone fall through",
            through.cloned().collect(),
        );
        if reverse_trees().iter().any(inside) {
            find(
                "`kubernetes` has a zone that contains the reverse zones",
                vec![Name::root()],
            );
        }
        findings
    }

    /// The finding that PTR records point into a zone that isn't answered or isn't a cluster
    /// domain.
    pub(super) fn pointer_finding(&self) -> CorefileFinding {
        let primary = self
            .primary_domain()
            .map(Name::to_string)
            .unwrap_or_default();
        let what = format!(
            "PTR records point into {primary}, which Zerohop doesn't answer as a cluster domain"
        );
        CorefileFinding::new(self.line, what, reverse_trees())
    }

    /// Notes on how these zones of the plugin are answered.
    pub(super) fn note_zones(&self, zones: &[Name]) -> Vec<Note> {
        let mut notes = Vec::new();
        for (absent, limit) in [
            (
                AbsentNames::Denied,
                "with NXDOMAIN for names that `kubernetes` doesn't have",
            ),
            (
                AbsentNames::Passed,
                "except names that `kubernetes` doesn't have, which fall through and pass",
            ),
        ] {
            let zones: Vec<&Name> = zones
                .iter()
                .filter(|zone| self.absence_in(zone) == absent)
                .collect();
            if !zones.is_empty() {
                let text = format!("Zerohop answers {}, {limit}", join_for_people(&zones));
                notes.push(Note::new(self.line, text));
            }
        }
        notes
    }

    /// Applies an option. Of several options with one name the last one counts.
    fn apply_option(&mut self, option: &CorefileLine) -> Result<(), String> {
        let name = option.name();
        match (name, option.args()) {
            ("ttl", [seconds]) => self.ttl = parse_ttl(seconds)?,
            ("pods", [mode]) => self.pods = parse_pod_mode(mode)?,
            ("namespaces", names @ [_, ..]) => self.namespaces.extend_from_slice(names),
            ("labels", words @ [_, ..]) => self.selectors.objects = parse_selector(words)?,
            ("namespace_labels", words @ [_, ..]) => {
                self.selectors.namespaces = parse_selector(words)?;
            }
            ("endpoint_pod_names", []) => self.endpoint_names = EndpointNames::Pod,
            ("zonal", []) => self.zonal_names = ZonalNames::Answered,
            ("ignore", [what]) if what == "empty_service" => {
                self.empty_services = EmptyServices::Ignored;
            }
            ("fallthrough", []) => self.fallthrough = vec![Name::root()],
            ("fallthrough", zones) => self.fallthrough = parse_zones(zones)?,
            ("multicluster", zones) => {
                let zones = parse_zones(zones)?.into_iter();
                self.multicluster
                    .extend(zones.map(|zone| (option.number, zone)));
            }
            // These options set the rate of API requests, and how long CoreDNS waits at its start.
            (
                "startup_timeout" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight",
                [_],
            ) => {}
            ("endpoint" | "tls" | "kubeconfig", _) => {
                return Err(format!(
                    "`{name}` may lead to another API server than Zerohop's"
                ));
            }
            ("noendpoints", _) => {
                return Err("`noendpoints` removes names that Zerohop answers".to_owned());
            }
            _ => {
                return Err(format!(
                    "`{option}` is not an option that Zerohop understands"
                ));
            }
        }
        Ok(())
    }

    /// Checks the options together, as CoreDNS does. If a check fails, CoreDNS keeps its former
    /// Corefile.
    fn check_options(&self, head: &CorefileLine) -> Result<(), CorefileProblem> {
        if self.primary_domain().is_none() {
            return Err(head.problem("`kubernetes` has no cluster domain"));
        }
        if !self.namespaces.is_empty() && self.selectors.namespaces != Selector::default() {
            return Err(head.problem("`namespaces` and `namespace_labels` exclude each other"));
        }
        for (line, zone) in &self.multicluster {
            if !self.zones.contains(zone) {
                let what =
                    format!("`multicluster` is for {zone}, which is not one of the plugin's zones");
                return Err(CorefileProblem::new(*line, what));
            }
        }
        Ok(())
    }
}

fn parse_ttl(text: &str) -> Result<u32, String> {
    let ttl = text.parse().ok().filter(|ttl| *ttl <= MAX_TTL);
    ttl.ok_or_else(|| {
        format!("`{text}` is not a TTL, which is a number of seconds up to {MAX_TTL}")
    })
}

fn parse_pod_mode(text: &str) -> Result<PodMode, String> {
    match text {
        "disabled" => Ok(PodMode::Disabled),
        "insecure" => Ok(PodMode::Insecure),
        "verified" => Ok(PodMode::Verified),
        _ => Err(format!(
            "`{text}` is not a mode of `pods`, which is disabled, insecure or verified"
        )),
    }
}

fn parse_selector(words: &[String]) -> Result<Selector, String> {
    words
        .join(" ")
        .parse()
        .map_err(|error: SelectorError| error.to_string())
}
