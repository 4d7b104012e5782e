//! The zone skeleton: the names that exist without any object. These are the apexes, `ns.dns`,
//! `dns-version`, and `svc` and `pod`, below which Services and Pods have their names. If every
//! namespace counts as existing, the names of namespaces are computed from `svc` and `pod`.

use std::collections::BTreeSet;

use ipnet::IpNet;
use zerohop_zone::{
    AbsentNames, Apex, ComputedNames, DnssecOkQueries, MAX_LABEL, Model, ModelBuilder, Name,
    NameError, Rdata, Record, Rtype, ZoneData, reverse_zones,
};

use super::objects::Problem;
use super::settings::{
    Deviations, EndpointScope, KnownPods, NameServers, NonstandardEndpoints, PodMode, ZoneSettings,
};

/// The version of the Kubernetes DNS specification, published at `dns-version.<zone>`.
const DNS_VERSION: &[u8] = b"1.1.0";

/// The names that exist without any object, because of the settings.
#[derive(Debug)]
pub(super) struct ZoneSkeleton {
    pub(super) model: Model,
    /// The valid cluster domains, in the order of the settings.
    pub(super) domains: Vec<ClusterDomain>,
    /// [`SkeletonInputs::has_unreadable`].
    pub(super) has_unreadable: bool,
    /// Problems with settings. These settings are ignored.
    pub(super) problems: Vec<Problem>,
}

/// The fixed names of one cluster domain.
#[derive(Clone, Debug)]
pub(super) struct ClusterDomain {
    pub(super) apex: Name,
    /// `ns.dns.<zone>`: the name server of the zone if no Service is its name server.
    server: Name,
    pub(super) svc: Name,
    pub(super) pod: Name,
}

/// The inputs of the skeleton, in addition to the settings.
pub(super) struct SkeletonInputs {
    /// The Unix time of the last change.
    pub(super) serial: u32,
    /// Whether every namespace counts as existing.
    pub(super) all_namespaces_exist: bool,
    /// Whether all feeds have been listed once.
    pub(super) complete: bool,
    /// Whether some objects can't be read or have unknown addresses, so that any reverse name may
    /// exist.
    pub(super) has_unreadable: bool,
    /// For each valid cluster domain, the names of the Services that clients use as DNS servers.
    /// Empty for the first skeleton, because the valid domains are not known before it.
    pub(super) servers: Vec<BTreeSet<Name>>,
}

impl ZoneSkeleton {
    pub(super) fn new(settings: &ZoneSettings, inputs: &SkeletonInputs) -> ZoneSkeleton {
        let mut builder = ModelBuilder::new(inputs.serial);
        let mut problems = Vec::new();
        let mut domains = Vec::new();
        for name in &settings.cluster_domains {
            match add_domain(&mut builder, name, settings) {
                Ok(domain) => {
                    let servers = inputs.servers.get(domains.len());
                    add_name_servers(&mut builder, &domain, servers, settings);
                    if inputs.all_namespaces_exist {
                        add_all_namespaces(&mut builder, &domain, settings);
                    }
                    domains.push(domain);
                }
                Err(error) => {
                    problems.push(setting_problem("cluster domain", name.to_string(), error));
                }
            }
        }
        for network in &settings.reverse {
            if let Err(error) = add_reverse(&mut builder, *network, settings) {
                problems.push(setting_problem(
                    "reverse network",
                    network.to_string(),
                    error,
                ));
            }
        }
        for name in &settings.passed {
            builder.delegate(name.clone());
        }
        // With `Headless`, only CoreDNS knows the endpoints of ClusterIP Services, which may have
        // PTR records.
        let lacks_pointers =
            settings.endpoint_scope == EndpointScope::Headless || inputs.has_unreadable;
        // CoreDNS ignores additional labels in front of an IPv6 address's reverse name.
        let passes_ipv6 = settings.nonstandard_endpoints == NonstandardEndpoints::Passed;
        builder.set_absent_names(|name| {
            if settings.fallthrough_zones.contains(name)
                || lacks_pointers && is_reverse(name)
                || passes_ipv6 && is_ipv6(name)
            {
                AbsentNames::Passed
            } else if !inputs.complete {
                AbsentNames::NotYetKnown
            } else if settings.deviations == Deviations::Passed {
                AbsentNames::DeniedExceptSoa
            } else {
                AbsentNames::Denied
            }
        });
        builder.set_passed_types(|name| values_of(name, &settings.passed_types));
        builder.set_changed_answers(|name| values_of(name, &settings.changed_answers));
        // Aliases may lead from any zone into a signed one.
        builder.set_dnssec_ok(if settings.signed_zones.is_empty() {
            DnssecOkQueries::Answered
        } else {
            DnssecOkQueries::Passed
        });
        for domain in domains
            .iter()
            .filter(|domain| settings.signed_zones.contains(&domain.apex))
        {
            builder.delegate_type(domain.apex.clone(), Rtype::DNSKEY);
        }
        ZoneSkeleton {
            model: builder.build(),
            domains,
            has_unreadable: inputs.has_unreadable,
            problems,
        }
    }

    /// The apexes of all zones.
    pub(super) fn apexes(&self) -> impl Iterator<Item = Name> {
        let zones = ZoneData::zones(&self.model).iter();
        zones.map(|apex: &Apex| apex.name.clone())
    }
}

impl ClusterDomain {
    fn new(name: &Name, server: Name) -> Result<ClusterDomain, NameError> {
        Ok(ClusterDomain {
            svc: name.child(b"svc")?,
            pod: name.child(b"pod")?,
            apex: name.clone(),
            server,
        })
    }

    /// The names of a namespace: the one below `svc`, then the one below `pod`. Fails with a reason
    /// if the namespace is not a label, or if a name would be too long.
    pub(super) fn namespace_names(&self, namespace: &str) -> Result<[Name; 2], String> {
        Ok([
            label_below(&self.svc, namespace)?,
            label_below(&self.pod, namespace)?,
        ])
    }
}

/// The computed names below `<namespace>.pod`, or `None` if that name doesn't exist.
pub(super) fn computed_pod_names(settings: &ZoneSettings) -> Option<ComputedNames> {
    match (settings.pods, settings.known_pods) {
        (PodMode::Disabled, _) => None,
        (PodMode::Insecure, _) => Some(ComputedNames::Addresses(settings.ttl)),
        (PodMode::Verified, KnownPods::AllNodes) => Some(ComputedNames::Nothing),
        (PodMode::Verified, KnownPods::SomeNodes) => Some(ComputedNames::Unknown),
    }
}

/// Whether a text is a label: 1 to 63 letters, digits, `-` and `_`. A dot is rejected because it
/// would become part of the label.
pub(super) fn is_label(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Puts a label in front of a name. Fails with a reason if the label is not one ([`is_label`]), or
/// if the name would be too long.
pub(super) fn label_below(name: &Name, label: &str) -> Result<Name, String> {
    if !is_label(label) && !label.is_empty() && label.len() <= MAX_LABEL {
        return Err(format!("{label:?} is not a label of a domain name"));
    }
    name.child(label.as_bytes())
        .map_err(|error| format!("{label:?} below {name}: {error}"))
}

/// Adds a zone with `dns-version`, and adds or delegates `ns.dns`. Returns `ns.dns.<zone>`.
fn add_zone(
    builder: &mut ModelBuilder,
    name: &Name,
    settings: &ZoneSettings,
) -> Result<Name, NameError> {
    let version = name.child(b"dns-version")?;
    let apex = builder.add_zone_with_minimum(name.clone(), settings.ttl, settings.soa_minimum())?;
    let server = apex.soa.mname;
    builder.add(Record {
        owner: version,
        ttl: settings.version_ttl,
        data: Rdata::Txt(DNS_VERSION.into()),
    });
    if settings.name_servers == NameServers::Passed {
        builder.delegate(server.clone());
        return Ok(server);
    }
    builder.add_name(server.clone());
    for address in &settings.name_server_addresses {
        builder.add(Record {
            owner: server.clone(),
            ttl: settings.ttl,
            data: (*address).into(),
        });
    }
    Ok(server)
}

fn add_domain(
    builder: &mut ModelBuilder,
    name: &Name,
    settings: &ZoneSettings,
) -> Result<ClusterDomain, NameError> {
    // Fails before anything is added if a name would be too long. The name server isn't known yet,
    // so `name` takes its place.
    ClusterDomain::new(name, name.clone())?;
    let server = add_zone(builder, name, settings)?;
    let domain = ClusterDomain::new(name, server)?;
    builder.add_name(domain.svc.clone());
    builder.add_name(domain.pod.clone());
    Ok(domain)
}

fn add_name_servers(
    builder: &mut ModelBuilder,
    domain: &ClusterDomain,
    servers: Option<&BTreeSet<Name>>,
    settings: &ZoneSettings,
) {
    if settings.name_servers == NameServers::Passed {
        builder.delegate_type(domain.apex.clone(), Rtype::NS);
        return;
    }
    let servers = servers.filter(|servers| !servers.is_empty());
    let default_servers = BTreeSet::from([domain.server.clone()]);
    let servers = servers.unwrap_or(&default_servers).iter();
    builder.extend(servers.map(|server| Record {
        owner: domain.apex.clone(),
        ttl: settings.ttl,
        data: Rdata::Ns(server.clone()),
    }));
}

/// Makes every namespace exist, as computed names below `svc` and, unless pod names are disabled,
/// below `pod`. `known_pods` needs no case here: it is `SomeNodes` only with the API as source, and
/// only manifest files may lack Namespaces.
fn add_all_namespaces(builder: &mut ModelBuilder, domain: &ClusterDomain, settings: &ZoneSettings) {
    builder.set_computed_names(domain.svc.clone(), ComputedNames::Empty);
    let pods = match settings.pods {
        PodMode::Disabled => ComputedNames::Nothing,
        PodMode::Insecure => ComputedNames::EmptyThenAddresses(settings.ttl),
        PodMode::Verified => ComputedNames::Empty,
    };
    builder.set_computed_names(domain.pod.clone(), pods);
}

fn add_reverse(
    builder: &mut ModelBuilder,
    network: IpNet,
    settings: &ZoneSettings,
) -> Result<(), NameError> {
    for name in reverse_zones(network) {
        add_zone(builder, &name, settings)?;
        if settings.name_servers == NameServers::Passed {
            builder.delegate_type(name, Rtype::NS);
        }
    }
    Ok(())
}

/// What the settings have for a zone.
fn values_of<T: Copy + Ord>(zone: &Name, settings: &[(Name, BTreeSet<T>)]) -> BTreeSet<T> {
    let values = settings.iter().filter(|(name, _)| name == zone);
    values.flat_map(|(_, values)| values).copied().collect()
}

fn is_reverse(zone: &Name) -> bool {
    zerohop_zone::reverse_range(zone).is_some()
}

fn is_ipv6(zone: &Name) -> bool {
    zerohop_zone::reverse_range(zone).is_some_and(|range| range.start().is_ipv6())
}

fn setting_problem(kind: &'static str, name: String, error: NameError) -> Problem {
    Problem {
        kind,
        namespace: String::new(),
        name,
        field: "name".into(),
        reason: error.to_string(),
    }
}
