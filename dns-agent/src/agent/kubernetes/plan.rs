//! The plan: which objects to read from the Kubernetes API and how to answer. It is computed from
//! the operator's settings, CoreDNS's Corefile and the node caches' Corefiles.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use zerohop_kubernetes::{
    AdoptedSettings, Conclusions, CoreDnsConfig, CoreDnsServer, CorefileRoutes, EmptyServices,
    EndpointScope, KnownPods, NodeCacheContext, NodeCacheEffect, ObjectKey, PodMode, Selectors,
    ZoneSettings,
};
use zerohop_kubernetes_api::{PodScope, SourceOptions};
use zerohop_resolver::FollowedRoutes;
use zerohop_zone::{AbsentNames, Name, reverse_network, reverse_range, reverse_zones};

use super::coredns_configs::{CorefileVersion, missing_corefile};
use crate::config::{Config, DnsAddresses, KubernetesConfig, WithoutCorefile};

/// The objects to read and the way to answer.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// How objects become records. Everything passes if the settings have no zone.
    pub(super) settings: ZoneSettings,
    /// The objects to read from the API; `None` in a plan of [`Plan::pass_everything`].
    pub(super) options: Option<SourceOptions>,
    /// Conclusions from the Corefiles and their reasons, for the log and the status.
    pub(super) reasons: Vec<String>,
    /// How names outside the cluster are answered.
    pub(super) routes: FollowedRoutes,
}

/// Where the cluster's DNS is.
pub(super) struct DnsPlacement<'a> {
    pub(super) kubernetes: &'a KubernetesConfig,
    /// The Service.
    pub(super) service: &'a ObjectKey,
}

/// The Corefile of a node cache that answers at a served address.
#[derive(Clone, Debug)]
pub(super) struct CacheCorefile {
    /// The node cache's name in messages.
    pub(super) name: String,
    pub(super) text: String,
    /// The addresses at which the node cache answers, and the servers that it forwards to.
    pub(super) context: NodeCacheContext,
    /// Addresses at which the kernel would not answer without the node cache.
    pub(super) own_addresses: Vec<IpAddr>,
}

impl CacheCorefile {
    /// Whether queries reach the node cache only at its own addresses.
    fn is_at_own_addresses(&self) -> bool {
        let mut bound = self.context.bound.iter();
        bound.all(|address| self.own_addresses.contains(address))
    }
}

impl Plan {
    /// The plan for the cluster's DNS `dns`, whose pods run CoreDNS with these configurations,
    /// behind these node caches. A configuration is `None` if there is no Corefile.
    pub(super) fn new(
        config: &Config,
        dns: &DnsPlacement<'_>,
        corefiles: &BTreeMap<CoreDnsServer, CorefileVersion>,
        caches: &[CacheCorefile],
    ) -> Plan {
        let mut plans = (corefiles.iter())
            .map(|(server, corefile)| Plan::for_coredns(config, dns, server, corefile.as_ref()));
        let plan = match plans.next() {
            None => Plan::without_corefile(
                config,
                dns,
                &format!(
                    "no pod is known that runs CoreDNS for Service {}",
                    dns.service
                ),
                "if another Service is the cluster's DNS, give --dns-service",
            ),
            Some(first) => plans.fold(first, Plan::agreed_with),
        };
        caches.iter().fold(plan, Plan::behind_node_cache)
    }

    /// The plan for pods that run with two configurations: what differs passes.
    fn agreed_with(mut self, other: Plan) -> Plan {
        if self.routes != other.routes {
            let note = "CoreDNS's pods answer names outside the cluster by different Corefiles, so \
                        the cluster's DNS answers them";
            self.reasons.push(note.to_owned());
            self.routes = FollowedRoutes::Unknown;
        }
        if self.answers_like(&other) {
            return self;
        }
        let note = "CoreDNS's pods run with different Corefiles, so what differs passes".to_owned();
        let mut reasons = [vec![note], self.reasons, other.reasons].concat();
        let mut heard = BTreeSet::new();
        reasons.retain(|reason| heard.insert(reason.clone()));
        let (ours, mut theirs) = (&mut self.settings, other.settings);
        let soa_minimum = ours.soa_minimum().min(theirs.soa_minimum());
        // PTR records point into the first domain.
        if ours.cluster_domains.first() != theirs.cluster_domains.first() {
            ours.reverse.clear();
            ours.pointer_suffixes.clear();
        }
        retain_shared(&mut ours.cluster_domains, &theirs.cluster_domains);
        retain_shared(&mut ours.reverse, &theirs.reverse);
        retain_shared(&mut ours.pointer_suffixes, &theirs.pointer_suffixes);
        // With more of these, more passes.
        add_missing(&mut ours.passed, theirs.passed);
        add_missing(&mut ours.fallthrough_zones, theirs.fallthrough_zones);
        add_missing(&mut ours.rewritten, theirs.rewritten);
        add_missing(&mut ours.passed_types, theirs.passed_types);
        add_missing(&mut ours.changed_answers, theirs.changed_answers);
        add_missing(&mut ours.signed_zones, theirs.signed_zones);
        ours.set_ttl(ours.ttl.min(theirs.ttl), soa_minimum);
        ours.version_ttl = ours.version_ttl.min(theirs.version_ttl);
        theirs = ZoneSettings {
            cluster_domains: ours.cluster_domains.clone(),
            reverse: ours.reverse.clone(),
            pointer_suffixes: ours.pointer_suffixes.clone(),
            passed: ours.passed.clone(),
            fallthrough_zones: ours.fallthrough_zones.clone(),
            rewritten: ours.rewritten.clone(),
            passed_types: ours.passed_types.clone(),
            changed_answers: ours.changed_answers.clone(),
            signed_zones: ours.signed_zones.clone(),
            ttl: ours.ttl,
            uncapped_ttl: ours.uncapped_ttl,
            version_ttl: ours.version_ttl,
            ..theirs
        };
        let is_alike = *ours == theirs && self.options == other.options;
        if is_alike && !ours.cluster_domains.is_empty() {
            return Plan { reasons, ..self };
        }
        let reason = "the Corefiles have no zone and options in common, so everything passes";
        reasons.push(reason.to_owned());
        Plan {
            routes: self.routes,
            ..Plan::pass_everything(&self.settings, reasons)
        }
    }

    /// The node caches that count. One at its own addresses counts only if it makes no names pass:
    /// otherwise queries to these addresses pass, and nothing else.
    pub(super) fn counted_caches(
        &self,
        mut caches: Vec<(ObjectKey, CacheCorefile)>,
    ) -> Vec<(ObjectKey, CacheCorefile)> {
        caches.retain(|(_, cache)| {
            let behind = self.clone().behind_node_cache(cache);
            !cache.is_at_own_addresses() || behind.settings.passed == self.settings.passed
        });
        caches
    }

    /// Whether another plan leads to the same answers.
    pub(super) fn answers_like(&self, other: &Plan) -> bool {
        self.settings == other.settings && self.options == other.options
    }

    /// This plan, adapted to a node cache in front of CoreDNS. The same objects are read, even if
    /// the node cache makes their names pass, because the node cache may come and go with its pod.
    fn behind_node_cache(mut self, cache: &CacheCorefile) -> Plan {
        let settings = &mut self.settings;
        let reverse = settings.reverse.iter().copied().flat_map(reverse_zones);
        let zones = settings.cluster_domains.iter().cloned();
        let mut zones: Vec<Name> = zones
            .chain(settings.pointer_suffixes.iter().cloned())
            .chain(reverse)
            .collect();
        zones.sort();
        zones.dedup();
        if zones.is_empty() {
            return self;
        }
        let effect = NodeCacheEffect::read(
            &cache.text.as_str().into(),
            &zones,
            settings.ttl,
            &cache.context,
        );
        settings.set_ttl(effect.cap_ttl(settings.ttl), settings.soa_minimum());
        settings.version_ttl = effect.cap_ttl(settings.version_ttl);
        settings.passed.extend(effect.passed);
        settings.passed.sort();
        settings.passed.dedup();
        let reasons = effect.reasons.iter();
        self.reasons
            .extend(reasons.map(|reason| format!("{}: {reason}", cache.name)));
        self
    }

    /// The plan for CoreDNS with one configuration, without node caches.
    fn for_coredns(
        config: &Config,
        dns: &DnsPlacement<'_>,
        server: &CoreDnsServer,
        corefile: Option<&CoreDnsConfig>,
    ) -> Plan {
        let Some(corefile) = corefile else {
            let missing = missing_corefile(server);
            let advice = "name another ConfigMap with --corefile";
            return Plan::without_corefile(config, dns, &missing, advice);
        };
        let Conclusions { adopted, reasons } = Conclusions::read(corefile);
        let outside = CorefileRoutes::read(corefile);
        let reasons = reasons.into_iter().chain(outside.reasons);
        let reasons = reasons
            .map(|reason| format!("Corefile: {reason}"))
            .collect();
        let routes = match outside.routes.is_empty() {
            true => FollowedRoutes::Unknown,
            false => FollowedRoutes::Known(outside.routes),
        };
        let Some(adopted) = adopted else {
            return Plan {
                routes,
                ..Plan::pass_everything(&config.zone, reasons)
            };
        };
        let selectors = adopted.selectors.clone();
        Plan {
            reasons,
            routes,
            ..Plan::from_settings(
                adopt_coredns_settings(&config.zone, adopted),
                selectors,
                dns,
            )
        }
    }

    /// The plan without a Corefile. `missing` and `advice` are clauses for people.
    fn without_corefile(
        config: &Config,
        dns: &DnsPlacement<'_>,
        missing: &str,
        advice: &str,
    ) -> Plan {
        match dns.kubernetes.without_corefile {
            WithoutCorefile::Trust => Plan {
                reasons: vec![format!(
                    "{missing}, so the agent answers by its own settings, because --trust-zone is \
                     given"
                )],
                ..Plan::from_settings(config.zone.clone(), config.selectors.clone(), dns)
            },
            WithoutCorefile::Pass => Plan::pass_everything(
                &config.zone,
                vec![format!(
                    "{missing}, so it isn't known what CoreDNS answers, and everything passes: \
                     {advice}, or give --trust-zone"
                )],
            ),
        }
    }

    fn from_settings(
        mut settings: ZoneSettings,
        selectors: Selectors,
        dns: &DnsPlacement<'_>,
    ) -> Plan {
        let kubernetes = dns.kubernetes;
        // Without all endpoints it isn't known whether a Service has any.
        if settings.empty_services == EmptyServices::Ignored {
            settings.endpoint_scope = EndpointScope::All;
        }
        let pods = (settings.pods == PodMode::Verified).then(|| match &kubernetes.node_name {
            Some(node) => PodScope::Node(node.clone()),
            None => PodScope::All,
        });
        // `known_pods` matters only with `PodMode::Verified`.
        settings.known_pods = match pods {
            Some(PodScope::Node(_)) => KnownPods::SomeNodes,
            _ => KnownPods::AllNodes,
        };
        let serves_endpoints = kubernetes.dns_addresses == DnsAddresses::ServiceAndEndpoints;
        let options = SourceOptions {
            endpoints: settings.endpoint_scope,
            selectors,
            pods,
            dns: serves_endpoints.then(|| dns.service.clone()),
            ..SourceOptions::default()
        };
        Plan {
            settings,
            options: Some(options),
            reasons: Vec::new(),
            routes: FollowedRoutes::Off,
        }
    }

    /// A plan without zones, so that everything passes.
    fn pass_everything(operator_settings: &ZoneSettings, reasons: Vec<String>) -> Plan {
        Plan {
            settings: ZoneSettings {
                cluster_domains: Vec::new(),
                reverse: Vec::new(),
                pointer_suffixes: Vec::new(),
                passed: Vec::new(),
                ..operator_settings.clone()
            },
            options: None,
            reasons,
            routes: FollowedRoutes::Unknown,
        }
    }
}

fn retain_shared<T: PartialEq>(ours: &mut Vec<T>, theirs: &[T]) {
    ours.retain(|value| theirs.contains(value));
}

fn add_missing<T: PartialEq>(ours: &mut Vec<T>, theirs: Vec<T>) {
    let missing: Vec<T> = theirs
        .into_iter()
        .filter(|value| !ours.contains(value))
        .collect();
    ours.extend(missing);
}

/// The operator's settings, overridden by the settings of CoreDNS's Corefile. Names that either
/// of them delegates pass.
fn adopt_coredns_settings(
    operator_settings: &ZoneSettings,
    adopted: AdoptedSettings,
) -> ZoneSettings {
    let AdoptedSettings {
        zones,
        passed,
        passed_types,
        changed_answers,
        signed_zones,
        rewritten,
        ttl,
        uncapped_ttl,
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
        .filter(|zone| zone.absent == AbsentNames::Denied)
        .map(|zone| &zone.name)
        .collect();
    // CoreDNS also answers names of Services and pods below its reverse zones. The agent does not,
    // so these names pass. In the other reverse zones all absent names pass anyway.
    let below_reverse = denied
        .iter()
        .flat_map(|zone| [zone.child(b"svc"), zone.child(b"pod")])
        .flatten();
    let passing = domains
        .iter()
        .filter(|zone| zone.absent == AbsentNames::Passed);
    ZoneSettings {
        passed: (operator_settings.passed.iter().cloned())
            .chain(passed)
            .chain(below_reverse)
            .collect(),
        reverse: denied
            .iter()
            .filter_map(|zone| reverse_network(zone))
            .collect(),
        pointer_suffixes: reverse.iter().map(|zone| zone.name.clone()).collect(),
        passed_types,
        changed_answers,
        signed_zones,
        rewritten,
        fallthrough_zones: passing.map(|zone| zone.name.clone()).collect(),
        cluster_domains: domains.into_iter().map(|zone| zone.name).collect(),
        ttl,
        uncapped_ttl,
        version_ttl,
        pods,
        namespaces,
        empty_services,
        endpoint_names,
        zonal_names,
        ..operator_settings.clone()
    }
}
