//! The records of one service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::zone::{Below, Name, Rdata, Record, Rtype, Srv};

use super::frame::label_below;
use super::objects::{EndpointSlice, Key, Port, Problem, Reading, Service, ServiceKind};
use super::pointers::{Pointer, endpoint_name, is_odd, pointers};
use super::settings::{
    Departures, EmptyServices, Endpoints, OddEndpoints, ZonalNames, ZoneSettings,
};

/// What ports of services can be of.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// All that one service and its slices give to a model, in one cluster domain.
#[derive(Debug, Default)]
pub(super) struct Contribution {
    /// Records at and below the service's name.
    pub(super) records: Vec<Record>,
    /// Names below which more exists than is stored.
    pub(super) below: Vec<(Name, Below)>,
    /// Names of which somebody else knows more.
    pub(super) left: Vec<Name>,
    /// Types of names that are somebody else's to answer.
    pub(super) passed: Vec<(Name, Rtype)>,
    /// What the addresses are called. Which of them become PTR records only all
    /// services together can tell.
    pub(super) pointers: Vec<Pointer>,
    /// What was left out, and why.
    pub(super) problems: Vec<Problem>,
}

/// An address as one slice lists it.
struct Listed<'a> {
    address: IpAddr,
    /// What it is called below the service; none where it can have no name.
    name: Option<Name>,
    ports: &'a [Port],
    zone: Option<&'a str>,
}

/// One address with one of its ports: what a SRV record is made of.
#[derive(Clone, Copy)]
struct Pair<'a> {
    address: IpAddr,
    /// None: there is no name for a SRV record to point at.
    target: Option<&'a Name>,
    port: &'a Port,
    zone: Option<&'a str>,
}

/// The records of `service` and of the endpoints in its `slices`, below `svc`, the
/// name `svc.<zone>`. They depend on nothing else, so a change of one service is
/// this function once more.
pub(super) fn contribution(
    service: &Service,
    slices: &[&EndpointSlice],
    svc: &Name,
    settings: &ZoneSettings,
) -> Contribution {
    let mut out = Contribution::default();
    let name = service_name(&service.key, svc);
    let name = match &name {
        Ok(name) => name,
        Err(reason) => {
            out.problem(service, "metadata.name", reason.clone());
            return out;
        }
    };
    out.pointers = pointers(Some(service), slices, name, settings);
    let addresses: &[IpAddr] = match &service.kind {
        kind if kind.is_unknown() => {
            if let Err(reason) = out.leave(name, BTreeSet::from(PROTOCOLS), settings) {
                out.problem(service, "metadata.name", reason);
            }
            let reason = match kind {
                ServiceKind::ClusterIp(_) => {
                    "no address yet, so its names pass; in a manifest it must be written out"
                }
                ServiceKind::HeadlessElsewhere => {
                    "it is headless, and no EndpointSlice in the files is its own, so its names pass"
                }
                _ => return out,
            };
            out.problem(service, "spec.clusterIP", reason.into());
            return out;
        }
        ServiceKind::ExternalName(target) => {
            out.alias(service, name, target, settings.ttl);
            return out;
        }
        ServiceKind::ClusterIp(_)
            if settings.empty_services == EmptyServices::Ignored && is_empty(slices) =>
        {
            return out;
        }
        ServiceKind::ClusterIp(addresses) => addresses,
        ServiceKind::Headless | ServiceKind::HeadlessElsewhere | ServiceKind::Unreadable => &[],
    };

    let is_headless = service.kind == ServiceKind::Headless;
    let is_odd = slices.iter().any(|slice| is_odd(slice, settings));
    // Without endpoints it has no name, but every topology zone has one below it.
    let has_only_zones = settings.odd_endpoints == OddEndpoints::Passed
        && settings.zonal_names == ZonalNames::Answered
        && is_empty(slices);
    if is_headless && (is_odd || has_only_zones) {
        if let Err(reason) = out.leave(name, protocols(slices), settings) {
            out.problem(service, "metadata.name", reason);
        }
        return out;
    }
    let knows_endpoints = (is_headless || settings.endpoints == Endpoints::All) && !is_odd;
    let listed = match knows_endpoints {
        true => listed(slices, name, settings, &mut out.problems),
        false => Vec::new(),
    };
    let endpoints: Vec<Pair<'_>> = listed.iter().flat_map(Listed::pairs).collect();
    let own: Vec<Pair<'_>> = match is_headless {
        true => endpoints.clone(),
        false => addresses
            .iter()
            .flat_map(|address| pairs(*address, Some(name), &service.ports, None))
            .collect(),
    };

    out.pairs(name, &own, settings);
    for ((protocol, port), pairs) in by_port(&own) {
        match port_name(name, protocol, port) {
            Ok(owner) => out.pairs(&owner, &pairs, settings),
            Err(reason) => out.problem(service, "spec.ports", reason),
        }
    }
    for (owner, pairs) in group_by(&endpoints, |pair| pair.target) {
        out.pairs(owner, &pairs, settings);
    }
    if settings.odd_endpoints == OddEndpoints::Passed {
        out.pass_uneven(is_headless.then_some(name), &endpoints);
    }
    if !knows_endpoints {
        out.below.push((name.clone(), Below::Unknown));
    }
    if is_headless
        && settings.zonal_names == ZonalNames::Answered
        && !own.is_empty()
        && let Err(reason) = out.zonal(name, &own, settings)
    {
        out.problem(service, "metadata.name", reason);
    }
    let protocols = own.iter().map(|pair| &*pair.port.protocol);
    if settings.departures == Departures::Passed
        && let Err(reason) = out.leave_ports(name, protocols.collect())
    {
        out.problem(service, "spec.ports", reason);
    }
    out
}

/// What a service and its slices give where its own names are not there: CoreDNS makes pointers of
/// services that it doesn't answer for, and of slices without looking for their services.
pub(super) fn pointing(
    key: &Key,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    svc: &Name,
    settings: &ZoneSettings,
) -> Contribution {
    let name = service_name(key, svc);
    let pointers = name.map(|name| pointers(service, slices, &name, settings));
    Contribution {
        pointers: pointers.unwrap_or_default(),
        ..Contribution::default()
    }
}

/// The name of a service below `svc.<zone>`.
pub(super) fn service_name(key: &Key, svc: &Name) -> Result<Name, String> {
    let namespace = label_below(svc, &key.namespace)?;
    label_below(&namespace, &key.name)
}

impl Contribution {
    /// The addresses of the pairs, and a SRV record for each pair with a port and a target: a target
    /// must be a name with addresses (RFC 2782), so an endpoint without a name has none.
    /// Every pair counts for the weight, also one that another slice repeats or
    /// that has no port: so does CoreDNS.
    fn pairs(&mut self, owner: &Name, pairs: &[Pair<'_>], settings: &ZoneSettings) {
        let ttl = settings.ttl;
        let weight = weight(pairs.len());
        // CoreDNS points at a name that it doesn't have.
        let has_nameless = pairs.iter().any(|pair| pair.target.is_none());
        if has_nameless && settings.odd_endpoints == OddEndpoints::Passed {
            self.passed.push((owner.clone(), Rtype::SRV));
        }
        for pair in pairs {
            self.record(owner, ttl, pair.address.into());
            if let (Some(port), Some(target)) = (pair.port.number, pair.target) {
                let srv = Srv {
                    priority: 0,
                    weight,
                    port,
                    target: target.clone(),
                };
                self.record(owner, ttl, Rdata::Srv(srv));
            }
        }
    }

    /// Leaves SRV questions to somebody else where endpoints share a host name, and some have a port
    /// without a number. They have no SRV record there, so CoreDNS doesn't add their addresses;
    /// records don't tell them apart from others of the host. A service whose own name has its endpoints'
    /// addresses answers as they do.
    fn pass_uneven(&mut self, service: Option<&Name>, pairs: &[Pair<'_>]) {
        for (target, pairs) in group_by(pairs, |pair| pair.target) {
            let numbered = pairs.iter().filter(|pair| pair.port.number.is_some());
            let served: BTreeSet<IpAddr> = numbered.map(|pair| pair.address).collect();
            let is_served = |pair: &Pair<'_>| served.contains(&pair.address);
            if !served.is_empty() && !pairs.iter().all(is_served) {
                let names = service.into_iter().chain([target]);
                self.passed
                    .extend(names.map(|name| (name.clone(), Rtype::SRV)));
            }
        }
    }

    /// `<zone>.pin._zone.<service>` has the endpoints of a topology zone, and any
    /// other name there is empty; `<zone>.prefer._zone.<service>` has them too,
    /// and any other name there has all endpoints.
    fn zonal(
        &mut self,
        name: &Name,
        pairs: &[Pair<'_>],
        settings: &ZoneSettings,
    ) -> Result<(), String> {
        let anchor = label_below(name, "_zone")?;
        let pin = label_below(&anchor, "pin")?;
        let prefer = label_below(&anchor, "prefer")?;
        for (zone, pairs) in group_by(pairs, |pair| pair.zone) {
            // A topology zone may be several labels. One that can't be any has no name of its own.
            let below = |name: &Name| {
                let mut labels = zone.rsplit('.');
                labels.try_fold(name.clone(), |name, label| label_below(&name, label))
            };
            let (Ok(pin), Ok(prefer)) = (below(&pin), below(&prefer)) else {
                continue;
            };
            self.pairs(&pin, &pairs, settings);
            self.pairs(&prefer, &pairs, settings);
        }
        self.below.push((pin, Below::Empty));
        self.below.push((prefer, Below::Like(name.clone())));
        Ok(())
    }

    /// Leaves all names of a service to somebody else: with its ports, and by topology zone.
    fn leave(
        &mut self,
        name: &Name,
        protocols: BTreeSet<&str>,
        settings: &ZoneSettings,
    ) -> Result<(), String> {
        self.left.push(name.clone());
        self.leave_ports(name, protocols)?;
        if settings.zonal_names == ZonalNames::Answered {
            let anchor = label_below(name, "_zone")?;
            self.left.push(label_below(&anchor, "pin")?);
            self.left.push(label_below(&anchor, "prefer")?);
            self.left.push(anchor);
        }
        Ok(())
    }

    /// Leaves the names of ports to somebody else where they aren't ours. CoreDNS doesn't miss
    /// underscores, and takes `_` for any port and any protocol.
    fn leave_ports(&mut self, name: &Name, protocols: BTreeSet<&str>) -> Result<(), String> {
        for protocol in protocols {
            self.left.push(label_below(name, &format!("_{protocol}"))?);
            if !protocol.is_empty() {
                self.left.push(label_below(name, protocol)?);
            }
        }
        self.left.push(label_below(name, "_")?);
        Ok(())
    }

    fn alias(&mut self, service: &Service, name: &Name, target: &str, ttl: u32) {
        let field = "spec.externalName";
        if target.parse::<IpAddr>().is_ok() {
            let reason = format!("{target:?} is an address; an alias needs a domain name");
            return self.problem(service, field, reason);
        }
        match Name::parse(target) {
            Ok(target) => self.record(name, ttl, Rdata::Cname(target)),
            Err(error) => self.problem(service, field, format!("{target:?}: {error}")),
        }
    }

    fn record(&mut self, owner: &Name, ttl: u32, data: Rdata) {
        let owner = owner.clone();
        self.records.push(Record { owner, ttl, data });
    }

    fn problem(&mut self, service: &Service, field: &str, reason: String) {
        let problem = Problem::of("Service", &service.key, field.into(), reason);
        self.problems.push(problem);
    }
}

impl Listed<'_> {
    fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {
        pairs(self.address, self.name.as_ref(), self.ports, self.zone)
    }
}

/// The weight of each of so many SRV records.
pub(super) fn weight(count: usize) -> u16 {
    match count {
        0..=1 => 100,
        2..=100 => (100 / count) as u16,
        _ => 1,
    }
}

/// The address with each of the ports; without any, with one that has neither
/// name nor number.
fn pairs<'a>(
    address: IpAddr,
    target: Option<&'a Name>,
    ports: &'a [Port],
    zone: Option<&'a str>,
) -> impl Iterator<Item = Pair<'a>> {
    static NO_PORT: Port = Port {
        name: None,
        protocol: Cow::Borrowed(""),
        number: None,
    };
    let ports = match ports {
        [] => std::slice::from_ref(&NO_PORT),
        _ => ports,
    };
    ports.iter().map(move |port| Pair {
        address,
        target,
        port,
        zone,
    })
}

/// The protocols of the ports of all slices; any of one that can't be read.
fn protocols<'a>(slices: &[&'a EndpointSlice]) -> BTreeSet<&'a str> {
    if slices
        .iter()
        .any(|slice| slice.reading == Reading::Unreadable)
    {
        return BTreeSet::from(PROTOCOLS);
    }
    let ports = slices.iter().flat_map(|slice| slice.ports.iter());
    ports.map(|port| &*port.protocol).collect()
}

/// Whether no endpoint is ready. One that is a domain name is, to CoreDNS.
fn is_empty(slices: &[&EndpointSlice]) -> bool {
    slices
        .iter()
        .all(|slice| slice.endpoints.is_empty() && slice.reading == Reading::Plain)
}

/// The ready addresses of all slices, under the names they have below `service`. One that can have no
/// name there is an address of the service all the same.
fn listed<'a>(
    slices: &[&'a EndpointSlice],
    service: &Name,
    settings: &ZoneSettings,
    problems: &mut Vec<Problem>,
) -> Vec<Listed<'a>> {
    let mut listed = Vec::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            let name = endpoint_name(endpoint, service, settings);
            let name = name.map_err(|reason| {
                let reason = format!("{reason}, so this endpoint has no name of its own");
                let field = "endpoints".into();
                problems.push(Problem::of("EndpointSlice", &slice.key, field, reason));
            });
            listed.push(Listed {
                address: endpoint.address,
                name: name.ok(),
                ports: &slice.ports,
                zone: endpoint.zone.as_deref(),
            });
        }
    }
    listed
}

/// The pairs of each named port, by protocol and name.
fn by_port<'a>(pairs: &[Pair<'a>]) -> BTreeMap<(&'a str, &'a str), Vec<Pair<'a>>> {
    group_by(pairs, |pair| {
        let name = pair.port.name.as_deref()?;
        Some((&*pair.port.protocol, name))
    })
}

fn group_by<'a, K: Ord>(
    pairs: &[Pair<'a>],
    key: impl Fn(&Pair<'a>) -> Option<K>,
) -> BTreeMap<K, Vec<Pair<'a>>> {
    let mut groups: BTreeMap<K, Vec<Pair<'a>>> = BTreeMap::new();
    for pair in pairs {
        if let Some(key) = key(pair) {
            groups.entry(key).or_default().push(*pair);
        }
    }
    groups
}

/// `_<port>._<protocol>.<service>`.
fn port_name(service: &Name, protocol: &str, port: &str) -> Result<Name, String> {
    let protocol = label_below(service, &format!("_{protocol}"))?;
    label_below(&protocol, &format!("_{port}"))
}
