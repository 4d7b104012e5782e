//! What to read from the Kubernetes API and how to answer, as the operator and CoreDNS's Corefile
//! want it.

use crate::{
    cluster::{
        Adopted, Conclusions, EmptyServices, Endpoints, Filter, KnownPods, PodMode, Selectors,
        Surroundings, ZoneSettings,
    },
    config::{Config, Kubernetes, Serves, WithoutCorefile},
    source::kubernetes::{Options, PodScope},
    zone::{Absent, Name, reverse_network, reverse_range, reverse_zones},
};

/// What to read and how to answer.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// How objects become records. Without any zone everything passes.
    pub(super) settings: ZoneSettings,
    /// What to read; nothing when everything passes.
    pub(super) options: Option<Options>,
    /// What was concluded and why, for people.
    pub(super) reasons: Vec<String>,
}

/// The configuration of a node cache that answers at a served address.
#[derive(Clone, Debug)]
pub(super) struct CacheCorefile {
    /// What to call the node cache.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) around: Surroundings,
}

impl Plan {
    /// The plan with this Corefile of CoreDNS's, or where there is none, and with node caches in
    /// front of CoreDNS.
    pub(super) fn new(
        config: &Config,
        kubernetes: &Kubernetes,
        corefile: Option<&str>,
        caches: &[CacheCorefile],
    ) -> Plan {
        let plan = Plan::of_coredns(config, kubernetes, corefile);
        caches.iter().fold(plan, Plan::behind)
    }

    /// Whether another plan leads to the same answers.
    pub(super) fn answers_like(&self, other: &Plan) -> bool {
        self.settings == other.settings && self.options == other.options
    }

    /// The plan with a node cache in front of it. What passes because of that is still read, since a
    /// node cache comes and goes with its pod.
    fn behind(mut self, cache: &CacheCorefile) -> Plan {
        let settings = &mut self.settings;
        let reverse = settings.reverse.iter().copied().flat_map(reverse_zones);
        let zones = settings.cluster_domains.iter().cloned();
        let mut zones: Vec<Name> = zones
            .chain(settings.pointers.iter().cloned())
            .chain(reverse)
            .collect();
        zones.sort();
        zones.dedup();
        if zones.is_empty() {
            return self;
        }
        let filter = Filter::read(&cache.text, &zones, settings.ttl, &cache.around);
        settings.ttl = filter.capped(settings.ttl);
        settings.version_ttl = filter.capped(settings.version_ttl);
        settings.passed.extend(filter.passed);
        settings.passed.sort();
        settings.passed.dedup();
        let reasons = filter.reasons.iter();
        self.reasons
            .extend(reasons.map(|reason| format!("{}: {reason}", cache.name)));
        self
    }

    /// The plan with CoreDNS alone.
    fn of_coredns(config: &Config, kubernetes: &Kubernetes, corefile: Option<&str>) -> Plan {
        let name = format!(
            "ConfigMap {}/{}",
            kubernetes.corefile.namespace, kubernetes.corefile.name
        );
        let Some(text) = corefile else {
            return match kubernetes.without_corefile {
                WithoutCorefile::Trust => Plan {
                    reasons: vec![format!(
                        "{name} has no Corefile: answering as the settings say (--trust-zone)"
                    )],
                    ..Plan::of(config.zone.clone(), config.selectors.clone(), kubernetes)
                },
                WithoutCorefile::Pass => Plan::nothing(
                    &config.zone,
                    vec![format!(
                        "{name} has no Corefile, so it isn't known what CoreDNS answers: everything passes; name another with --corefile, or give --trust-zone"
                    )],
                ),
            };
        };
        let Conclusions { adopted, reasons } = Conclusions::read(text);
        let reasons = reasons
            .into_iter()
            .map(|reason| format!("Corefile: {reason}"))
            .collect();
        let Some(adopted) = adopted else {
            return Plan::nothing(&config.zone, reasons);
        };
        let selectors = adopted.selectors.clone();
        Plan {
            reasons,
            ..Plan::of(adopt(&config.zone, adopted), selectors, kubernetes)
        }
    }

    fn of(mut settings: ZoneSettings, selectors: Selectors, kubernetes: &Kubernetes) -> Plan {
        // Whether nobody serves a service only all endpoints can tell.
        if settings.empty_services == EmptyServices::Ignored {
            settings.endpoints = Endpoints::All;
        }
        let pods = (settings.pods == PodMode::Verified).then(|| match &kubernetes.node_name {
            Some(node) => PodScope::Node(node.clone()),
            None => PodScope::All,
        });
        settings.known_pods = match pods {
            Some(PodScope::Node(_)) => KnownPods::Some,
            _ => KnownPods::All,
        };
        let serves_endpoints = kubernetes.serves == Serves::ServiceAndEndpoints;
        let options = Options {
            endpoints: settings.endpoints,
            selectors,
            pods,
            dns: serves_endpoints.then(|| kubernetes.dns_service.clone()),
            ..Options::default()
        };
        Plan {
            settings,
            options: Some(options),
            reasons: Vec::new(),
        }
    }

    /// The plan to let everything pass.
    fn nothing(base: &ZoneSettings, reasons: Vec<String>) -> Plan {
        Plan {
            settings: ZoneSettings {
                cluster_domains: Vec::new(),
                reverse: Vec::new(),
                pointers: Vec::new(),
                passed: Vec::new(),
                ..base.clone()
            },
            options: None,
            reasons,
        }
    }
}

/// The operator's settings, with what CoreDNS's say.
fn adopt(base: &ZoneSettings, adopted: Adopted) -> ZoneSettings {
    let Adopted {
        zones,
        passed,
        ttl,
        version_ttl,
        pods,
        namespaces,
        selectors: _,
        empty_services,
        endpoint_names,
        zonal_names,
    } = adopted;
    let (reverse, domains): (Vec<_>, Vec<_>) = zones
        .into_iter()
        .partition(|zone| reverse_range(&zone.name).is_some());
    let denied: Vec<_> = reverse
        .iter()
        .filter(|zone| zone.absent == Absent::Denied)
        .map(|zone| &zone.name)
        .collect();
    // CoreDNS has the names of services and pods below its reverse zones too.
    let doubles = denied
        .iter()
        .flat_map(|zone| [zone.child(b"svc"), zone.child(b"pod")])
        .flatten();
    let passing = domains.iter().filter(|zone| zone.absent == Absent::Passed);
    ZoneSettings {
        passed: (base.passed.iter().cloned())
            .chain(passed)
            .chain(doubles)
            .collect(),
        reverse: denied
            .iter()
            .filter_map(|zone| reverse_network(zone))
            .collect(),
        pointers: reverse.iter().map(|zone| zone.name.clone()).collect(),
        falls_through: passing.map(|zone| zone.name.clone()).collect(),
        cluster_domains: domains.into_iter().map(|zone| zone.name).collect(),
        ttl,
        version_ttl,
        pods,
        namespaces,
        empty_services,
        endpoint_names,
        zonal_names,
        ..base.clone()
    }
}
