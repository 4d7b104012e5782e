//! The options of a `kubernetes` plugin (CoreDNS, `plugin/kubernetes/setup.go`).

use std::collections::BTreeSet;

use zerohop_zone::{AbsentNames, Name};

use super::AdoptedZone;
use super::finding::{CorefileFinding, CorefileProblem, Note, join_for_people};
use super::parser::{CorefileLine, Directive};
use super::place::Place;
use super::zones::{is_reverse, parse_zones, reverse_trees, zones_or_default};
use crate::{
    EmptyServices, EndpointNames, PodMode, Selector, SelectorError, Selectors, settings::ZonalNames,
};

/// The longest TTL that CoreDNS accepts, in seconds.
const MAX_TTL: u32 = 3600;

/// A `kubernetes` plugin's zones and options. Absent options have CoreDNS's defaults.
pub(super) struct KubernetesPlugin {
    pub(super) place: Place,
    /// The zones in the order of the arguments, without duplicates.
    pub(super) zones: Vec<Name>,
    /// Zones in which queries for absent names fall through to the next plugins.
    pub(super) fallthrough: Vec<Name>,
    /// The zones that contain names of several clusters, each with the place of its option.
    pub(super) multicluster: Vec<(Place, Name)>,
    /// The TTL of records, in seconds.
    pub(super) ttl: u32,
    pub(super) pods: PodMode,
    /// The namespaces whose names are answered. Empty: all.
    pub(super) namespaces: Vec<String>,
    pub(super) selectors: Selectors,
    pub(super) empty_services: EmptyServices,
    pub(super) endpoint_names: EndpointNames,
    pub(super) zonal_names: ZonalNames,
}

impl KubernetesPlugin {
    /// Reads a `kubernetes` plugin in a server block for `block_zones`.
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
            place: head.place.clone(),
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
            read.map_err(|cause| option.problem(cause))?;
        }
        kubernetes.check_options(head)?;
        Ok(kubernetes)
    }

    /// The zone that PTR records point into: the first one that CoreDNS doesn't consider a reverse
    /// zone. CoreDNS doesn't consider `in-addr.arpa` and `ip6.arpa` themselves reverse zones.
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
        for (place, zone) in &self.multicluster {
            let cause = "`multicluster` adds Services of other clusters";
            findings.push(CorefileFinding::new(place, cause, vec![zone.clone()]));
        }
        let is_inside_zone = |name: &Name| {
            let mut zones = self.zones.iter();
            zones.any(|zone| zone != name && name.is_at_or_below(zone))
        };
        let mut add_finding = |cause: &str, names: Vec<Name>| {
            findings.push(CorefileFinding::new(&self.place, cause, names));
        };
        let nested = self.zones.iter().filter(|zone| is_inside_zone(zone));
        add_finding(
            "a zone of `kubernetes` is inside another zone of `kubernetes`",
            nested.cloned().collect(),
        );
        let partial = self.fallthrough.iter().filter(|zone| is_inside_zone(zone));
        add_finding(
            "`kubernetes` lets only some names of a zone fall through",
            partial.cloned().collect(),
        );
        if reverse_trees().iter().any(is_inside_zone) {
            add_finding(
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
        let cause = format!(
            "PTR records point into {primary}, which Zerohop doesn't answer as a cluster domain"
        );
        CorefileFinding::new(&self.place, cause, reverse_trees())
    }

    /// Notes on how these zones of the plugin are answered.
    pub(super) fn note_zones(&self, zones: &[AdoptedZone]) -> Vec<Note> {
        let mut notes = Vec::new();
        for (absent, limit) in [
            (
                AbsentNames::Denied,
                "with NXDOMAIN for names that `kubernetes` doesn't have",
            ),
            (
                AbsentNames::Passed,
                "except names that `kubernetes` doesn't have, which pass",
            ),
        ] {
            let zones = zones.iter().filter(|zone| zone.absent == absent);
            let zones: Vec<&Name> = zones.map(|zone| &zone.name).collect();
            if !zones.is_empty() {
                let text = format!("Zerohop answers {}, {limit}", join_for_people(&zones));
                notes.push(Note::new(&self.place, text));
            }
        }
        notes
    }

    /// Applies an option. An option replaces an earlier one of the same name, but `namespaces` adds
    /// to it. `multicluster` adds to it too, although CoreDNS uses only the last one, because this
    /// only makes more names pass. `Err` holds the reason as a clause.
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
            ("ignore", [ignored]) if ignored == "empty_service" => {
                self.empty_services = EmptyServices::Ignored;
            }
            ("fallthrough", []) => self.fallthrough = vec![Name::root()],
            ("fallthrough", zones) => self.fallthrough = parse_zones(zones)?,
            ("multicluster", zones) => {
                let zones = parse_zones(zones)?.into_iter();
                self.multicluster
                    .extend(zones.map(|zone| (option.place.clone(), zone)));
            }
            // These options limit API requests, and how long CoreDNS waits when it starts.
            (
                "startup_timeout" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight",
                [_],
            ) => {}
            ("endpoint" | "tls" | "kubeconfig", _) => {
                return Err(format!(
                    "`{name}` may make CoreDNS read another API server than Zerohop does"
                ));
            }
            // The answers of the versions that have these options are not compared.
            ("upstream" | "resyncperiod", _) => {
                return Err(format!(
                    "`{name}` is an option that CoreDNS removed in version 1.7"
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

    /// Checks combinations of options, as the setup of CoreDNS's plugin does.
    fn check_options(&self, head: &CorefileLine) -> Result<(), CorefileProblem> {
        if self.primary_domain().is_none() {
            return Err(head.problem("`kubernetes` has no cluster domain"));
        }
        if !self.namespaces.is_empty() && self.selectors.namespaces != Selector::default() {
            return Err(head.problem("`namespaces` and `namespace_labels` can't be combined"));
        }
        for (place, zone) in &self.multicluster {
            if !self.zones.contains(zone) {
                let cause =
                    format!("`multicluster` is for {zone}, which is not one of the plugin's zones");
                return Err(CorefileProblem::new(place, cause));
            }
        }
        Ok(())
    }
}

fn parse_ttl(text: &str) -> Result<u32, String> {
    let ttl = text.parse().ok().filter(|ttl| *ttl <= MAX_TTL);
    ttl.ok_or_else(|| format!("`{text}` is not a TTL from 0 to {MAX_TTL} seconds"))
}

fn parse_pod_mode(text: &str) -> Result<PodMode, String> {
    match text {
        "disabled" => Ok(PodMode::Disabled),
        "insecure" => Ok(PodMode::Insecure),
        "verified" => Ok(PodMode::Verified),
        _ => Err(format!(
            "`{text}` is not one of the `pods` modes disabled, insecure and verified"
        )),
    }
}

fn parse_selector(words: &[String]) -> Result<Selector, String> {
    words
        .join(" ")
        .parse()
        .map_err(|error: SelectorError| error.to_string())
}
