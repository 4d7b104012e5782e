//! The names that are there without any Service or Pod: zones, their name servers, and the names
//! that all others stand below.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::zone::{
    Absent, Apex, Below, Model, ModelBuilder, Name, NameError, Rdata, Record, Rtype, ZoneData,
    reverse_zones,
};

use super::objects::Problem;
use super::settings::{
    Departures, Endpoints, KnownPods, NameServers, OddEndpoints, PodMode, ZoneSettings,
};

/// The version of the cluster's naming scheme.
const DNS_VERSION: &[u8] = b"1.1.0";

/// What the settings alone say.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) model: Model,
    pub(super) domains: Vec<Domain>,
    /// Settings that make no sense.
    pub(super) problems: Vec<Problem>,
}

/// The names of one cluster domain that all others stand below.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) apex: Name,
    /// Its name server, if no service is one.
    server: Name,
    pub(super) svc: Name,
    pub(super) pod: Name,
}

/// What the frame needs to know of the objects.
pub(super) struct Known {
    /// The Unix time of the last change.
    pub(super) serial: u32,
    /// Whether every namespace exists.
    pub(super) any_namespace: bool,
    /// Whether everything has been told once.
    pub(super) complete: bool,
    /// Whether objects can't be read, so that addresses may have names that nobody told.
    pub(super) has_unreadable: bool,
    /// For each domain the names of the services that are asked by the cluster's clients.
    pub(super) servers: Vec<BTreeSet<Name>>,
}

impl Frame {
    pub(super) fn new(settings: &ZoneSettings, known: &Known) -> Frame {
        let mut builder = ModelBuilder::new(known.serial);
        let mut problems = Vec::new();
        let mut domains = Vec::new();
        for (index, name) in settings.cluster_domains.iter().enumerate() {
            match add_domain(&mut builder, name, settings) {
                Ok(domain) => {
                    let servers = known.servers.get(index);
                    add_name_servers(&mut builder, &domain, servers, settings);
                    if known.any_namespace {
                        add_any_namespace(&mut builder, &domain, settings);
                    }
                    domains.push(domain);
                }
                Err(error) => problems.push(setting("cluster domain", name.to_string(), error)),
            }
        }
        for network in &settings.reverse {
            if let Err(error) = add_reverse(&mut builder, *network, settings) {
                problems.push(setting("reverse network", network.to_string(), error));
            }
        }
        for name in &settings.passed {
            builder.pass(name.clone());
        }
        builder.set_absent(|name| match settings.falls_through.contains(name) {
            true => Absent::Passed,
            // Somebody else knows the endpoints' pointers.
            _ if settings.endpoints == Endpoints::Headless && is_reverse(name) => Absent::Passed,
            _ if known.has_unreadable && is_reverse(name) => Absent::Passed,
            // CoreDNS gives a name with labels in front of an IPv6 address the address's pointer.
            _ if settings.odd_endpoints == OddEndpoints::Passed && is_ipv6(name) => Absent::Passed,
            _ if !known.complete => Absent::NotYetKnown,
            _ if settings.departures == Departures::Passed => Absent::DeniedExceptSoa,
            _ => Absent::Denied,
        });
        Frame {
            model: builder.build(),
            domains,
            problems,
        }
    }

    /// The apexes of all zones.
    pub(super) fn apexes(&self) -> impl Iterator<Item = Name> {
        let zones = ZoneData::zones(&self.model).iter();
        zones.map(|apex: &Apex| apex.name.clone())
    }
}

impl Domain {
    fn new(name: &Name, server: Name) -> Result<Domain, NameError> {
        Ok(Domain {
            svc: name.child(b"svc")?,
            pod: name.child(b"pod")?,
            apex: name.clone(),
            server,
        })
    }

    /// The names that a namespace makes exist.
    pub(super) fn of_namespace(&self, namespace: &str) -> Result<[Name; 2], String> {
        Ok([
            label_below(&self.svc, namespace)?,
            label_below(&self.pod, namespace)?,
        ])
    }
}

/// What is below `<namespace>.pod`, if there is such a name.
pub(super) fn below_pods(settings: &ZoneSettings) -> Option<Below> {
    match (settings.pods, settings.known_pods) {
        (PodMode::Disabled, _) => None,
        (PodMode::Insecure, _) => Some(Below::Addresses(settings.ttl)),
        (PodMode::Verified, KnownPods::All) => Some(Below::Nothing),
        (PodMode::Verified, KnownPods::Some) => Some(Below::Unknown),
    }
}

/// The name with a label of an object's in front of it. Only what can stand in a
/// Kubernetes name may stand there, and underscores: a dot would not be a new
/// label, but part of one.
pub(super) fn label_below(name: &Name, label: &str) -> Result<Name, String> {
    if !label
        .bytes()
        .all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_')
    {
        return Err(format!("{label:?} is not a label of a domain name"));
    }
    name.child(label.as_bytes())
        .map_err(|error| format!("{label:?} below {name}: {error}"))
}

/// A zone, its name server, and the version of the naming scheme.
fn add_zone(
    builder: &mut ModelBuilder,
    name: &Name,
    settings: &ZoneSettings,
) -> Result<Name, NameError> {
    let version = name.child(b"dns-version")?;
    let server = builder.add_zone(name.clone(), settings.ttl)?.soa.mname;
    builder.add(Record {
        owner: version,
        ttl: settings.version_ttl,
        data: Rdata::Txt(DNS_VERSION.into()),
    });
    if settings.name_servers == NameServers::Passed {
        builder.pass(server.clone());
        return Ok(server);
    }
    builder.exists(server.clone());
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
) -> Result<Domain, NameError> {
    // Nothing is added of a domain whose names become too long.
    Domain::new(name, name.clone())?;
    let server = add_zone(builder, name, settings)?;
    let domain = Domain::new(name, server)?;
    builder.exists(domain.svc.clone());
    builder.exists(domain.pod.clone());
    Ok(domain)
}

fn add_name_servers(
    builder: &mut ModelBuilder,
    domain: &Domain,
    servers: Option<&BTreeSet<Name>>,
    settings: &ZoneSettings,
) {
    if settings.name_servers == NameServers::Passed {
        builder.pass_type(domain.apex.clone(), Rtype::NS);
        return;
    }
    let servers = servers.filter(|servers| !servers.is_empty());
    let own = BTreeSet::from([domain.server.clone()]);
    let servers = servers.unwrap_or(&own).iter();
    builder.extend(servers.map(|server| Record {
        owner: domain.apex.clone(),
        ttl: settings.ttl,
        data: Rdata::Ns(server.clone()),
    }));
}

fn add_any_namespace(builder: &mut ModelBuilder, domain: &Domain, settings: &ZoneSettings) {
    builder.compute_below(domain.svc.clone(), Below::Empty);
    let pods = match settings.pods {
        PodMode::Disabled => Below::Nothing,
        PodMode::Insecure => Below::EmptyThenAddresses(settings.ttl),
        PodMode::Verified => Below::Empty,
    };
    builder.compute_below(domain.pod.clone(), pods);
}

fn add_reverse(
    builder: &mut ModelBuilder,
    network: IpNet,
    settings: &ZoneSettings,
) -> Result<(), NameError> {
    for name in reverse_zones(network) {
        add_zone(builder, &name, settings)?;
        if settings.name_servers == NameServers::Passed {
            builder.pass_type(name, Rtype::NS);
        }
    }
    Ok(())
}

fn is_reverse(zone: &Name) -> bool {
    crate::zone::reverse_range(zone).is_some()
}

fn is_ipv6(zone: &Name) -> bool {
    crate::zone::reverse_range(zone).is_some_and(|range| range.start().is_ipv6())
}

fn setting(kind: &'static str, name: String, error: NameError) -> Problem {
    Problem {
        kind,
        namespace: String::new(),
        name,
        field: "name".into(),
        reason: error.to_string(),
    }
}
