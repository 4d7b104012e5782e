//! What a `kubernetes` plugin is told (CoreDNS, `plugin/kubernetes/setup.go`).

use std::collections::BTreeSet;

use crate::cluster::{EmptyServices, EndpointNames, PodMode, Selector, SelectorError, Selectors};
use crate::zone::Name;

use super::finding::{Finding, Note, Unclear, listed};
use super::parse::{Directive, Line};
use super::plugins::zones_or;
use super::zones::{is_reverse, reverse_trees, zones_of};
use crate::cluster::settings::ZonalNames;
use crate::zone::Absent;

/// The longest TTL that CoreDNS takes, in seconds.
const MAX_TTL: u32 = 3600;

/// A `kubernetes` plugin's zones and options; before any of them, CoreDNS's defaults.
pub(super) struct Kubernetes {
    /// The number of its line.
    pub(super) line: usize,
    /// In their order.
    pub(super) zones: Vec<Name>,
    /// At and below these, names that it doesn't have are left to the next plugins.
    pub(super) fallthrough: Vec<Name>,
    /// Zones of its own in which it answers for several clusters, by the line that says so.
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

impl Kubernetes {
    /// Reads the plugin's lines, in a server block for these zones.
    pub(super) fn read(directive: &Directive, block_zones: &[Name]) -> Result<Kubernetes, Unclear> {
        directive.check_complete()?;
        let head = &directive.head;
        let mut zones = zones_or(head, head.args(), block_zones)?;
        let mut seen = BTreeSet::new();
        zones.retain(|zone| seen.insert(zone.clone()));
        let mut kubernetes = Kubernetes {
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
            let read = kubernetes.option(option);
            read.map_err(|what| option.unclear(what))?;
        }
        kubernetes.check(head)?;
        Ok(kubernetes)
    }

    /// The cluster domain that PTR records name: the first zone but those that CoreDNS takes
    /// for reverse ones. To it `in-addr.arpa` itself is none.
    pub(super) fn primary(&self) -> Option<&Name> {
        let trees = reverse_trees();
        let is_below_tree = |zone: &Name| !trees.contains(zone) && is_reverse(zone);
        self.zones.iter().find(|zone| !is_below_tree(zone))
    }

    /// What is said of names that it doesn't have.
    pub(super) fn absent(&self, zone: &Name) -> Absent {
        let mut fallthrough = self.fallthrough.iter();
        if fallthrough.any(|through| zone.is_at_or_below(through)) {
            return Absent::Passed;
        }
        Absent::Denied
    }

    /// What passes for its own options and zones.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (line, zone) in &self.multicluster {
            let what = "`multicluster` asks for Services of other clusters";
            findings.push(Finding::new(*line, what, vec![zone.clone()]));
        }
        let inside = |name: &Name| {
            let mut zones = self.zones.iter();
            zones.any(|zone| zone != name && name.is_at_or_below(zone))
        };
        let mut find =
            |what: &str, names: Vec<Name>| findings.push(Finding::new(self.line, what, names));
        let nested = self.zones.iter().filter(|zone| inside(zone));
        find(
            "a zone of `kubernetes` is inside another",
            nested.cloned().collect(),
        );
        let through = self.fallthrough.iter().filter(|zone| inside(zone));
        find(
            "`kubernetes` lets only some names of a zone fall through",
            through.cloned().collect(),
        );
        if reverse_trees().iter().any(inside) {
            find(
                "`kubernetes` has a zone that reverse zones are in",
                vec![Name::root()],
            );
        }
        findings
    }

    /// That PTR records point into a zone which isn't answered, or isn't a cluster domain.
    pub(super) fn unpointed(&self) -> Finding {
        let primary = self.primary().map(Name::to_string).unwrap_or_default();
        let what = format!("PTR records point into {primary}, which is no cluster domain of ours");
        Finding::new(self.line, what, reverse_trees())
    }

    /// What these zones of it are answered with.
    pub(super) fn notes(&self, zones: &[Name]) -> Vec<Note> {
        let mut notes = Vec::new();
        for (absent, end) in [
            (Absent::Denied, "doesn't exist"),
            (Absent::Passed, "falls through and passes"),
        ] {
            let zones: Vec<&Name> = zones
                .iter()
                .filter(|zone| self.absent(zone) == absent)
                .collect();
            if !zones.is_empty() {
                let text = format!(
                    "answers for {}; what `kubernetes` doesn't have there {end}",
                    listed(&zones)
                );
                notes.push(Note::new(self.line, text));
            }
        }
        notes
    }

    /// Takes an option; of several with one name the last counts.
    fn option(&mut self, option: &Line) -> Result<(), String> {
        let name = option.name();
        match (name, option.args()) {
            ("ttl", [seconds]) => self.ttl = ttl(seconds)?,
            ("pods", [mode]) => self.pods = pod_mode(mode)?,
            ("namespaces", names @ [_, ..]) => self.namespaces.extend_from_slice(names),
            ("labels", words @ [_, ..]) => self.selectors.objects = selector(words)?,
            ("namespace_labels", words @ [_, ..]) => self.selectors.namespaces = selector(words)?,
            ("endpoint_pod_names", []) => self.endpoint_names = EndpointNames::Pod,
            ("zonal", []) => self.zonal_names = ZonalNames::Answered,
            ("ignore", [what]) if what == "empty_service" => {
                self.empty_services = EmptyServices::Ignored;
            }
            ("fallthrough", []) => self.fallthrough = vec![Name::root()],
            ("fallthrough", zones) => self.fallthrough = zones_of(zones)?,
            ("multicluster", zones) => {
                let zones = zones_of(zones)?.into_iter();
                self.multicluster
                    .extend(zones.map(|zone| (option.number, zone)));
            }
            // How the API server is asked, and how long CoreDNS waits for it.
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
                return Err("`noendpoints` leaves out what Zerohop answers".to_owned());
            }
            _ => {
                return Err(format!("`{option}` is no option that Zerohop understands"));
            }
        }
        Ok(())
    }

    /// What CoreDNS checks at the end. It doesn't load a text that fails, and goes on with
    /// the one it had before.
    fn check(&self, head: &Line) -> Result<(), Unclear> {
        if self.primary().is_none() {
            return Err(head.unclear("`kubernetes` has no cluster domain"));
        }
        if !self.namespaces.is_empty() && self.selectors.namespaces != Selector::default() {
            return Err(head.unclear("`namespaces` and `namespace_labels` exclude each other"));
        }
        for (line, zone) in &self.multicluster {
            if !self.zones.contains(zone) {
                let what =
                    format!("`multicluster` is for {zone}, which is none of the plugin's zones");
                return Err(Unclear::new(*line, what));
            }
        }
        Ok(())
    }
}

fn ttl(text: &str) -> Result<u32, String> {
    let ttl = text.parse().ok().filter(|ttl| *ttl <= MAX_TTL);
    ttl.ok_or_else(|| format!("`{text}` is no TTL: it is a number of seconds up to {MAX_TTL}"))
}

fn pod_mode(text: &str) -> Result<PodMode, String> {
    match text {
        "disabled" => Ok(PodMode::Disabled),
        "insecure" => Ok(PodMode::Insecure),
        "verified" => Ok(PodMode::Verified),
        _ => Err(format!(
            "`{text}` is no mode of `pods`: they are disabled, insecure and verified"
        )),
    }
}

fn selector(words: &[String]) -> Result<Selector, String> {
    words
        .join(" ")
        .parse()
        .map_err(|error: SelectorError| error.to_string())
}
