//! Computes the names and records of one Service.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use zerohop_zone::{ComputedNames, Name, Rdata, Record, Rtype, Srv};

use super::objects::{
    EndpointSlice, ObjectKey, Port, Problem, Service, ServiceKind, SliceReadability,
};
use super::pointers::{Pointer, endpoint_name, is_nonstandard, service_pointers};
use super::settings::{
    Deviations, EmptyServices, EndpointScope, NonstandardEndpoints, ZonalNames, ZoneSettings,
};
use super::zone_skeleton::label_below;

/// The protocols of Service ports, in lower case.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// All names and records that one Service and its slices make in one cluster domain.
#[derive(Debug, Default)]
pub(super) struct Contribution {
    /// Records at and below the Service's name.
    pub(super) records: Vec<Record>,
    /// Names with computed names below them.
    pub(super) computed_names: Vec<(Name, ComputedNames)>,
    /// Names at which queries pass for types without data, and for absent names one label below
    /// (`ModelBuilder::delegate_remainder`).
    pub(super) delegated: Vec<Name>,
    /// Names and types for which queries pass.
    pub(super) passed_types: Vec<(Name, Rtype)>,
    /// Candidates for PTR records. Which of them become records depends on all Services together.
    pub(super) pointers: Vec<Pointer>,
    /// Parts of the objects that make no records, with the reason.
    pub(super) problems: Vec<Problem>,
}

/// An address as one slice lists it.
struct ListedAddress<'a> {
    address: IpAddr,
    /// The endpoint's name below the Service. `None` if the label is invalid or the name too long.
    name: Option<Name>,
    ports: &'a [Port],
    /// The topology zone.
    zone: Option<&'a str>,
}

/// One address with one of its ports, from which a SRV record is made.
#[derive(Clone, Copy)]
struct AddressPort<'a> {
    address: IpAddr,
    /// The name that a SRV record points at. `None` if the address has no name.
    target: Option<&'a Name>,
    port: &'a Port,
    /// The topology zone.
    zone: Option<&'a str>,
}

/// Computes the names and records of `service` and the endpoints in its `slices`. `svc` is the name
/// `svc.<zone>`. The result depends only on these arguments, so comparing the results before and
/// after a change of an object shows which names differ.
pub(super) fn contribute_service(
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
            out.add_problem(service, "metadata.name", reason.clone());
            return out;
        }
    };
    out.pointers = service_pointers(Some(service), slices, name, settings);
    let addresses: &[IpAddr] = match &service.kind {
        kind if kind.is_undetermined() => {
            if let Err(reason) = out.delegate_service(name, BTreeSet::from(PROTOCOLS), settings) {
                out.add_problem(service, "metadata.name", reason);
            }
            let reason = match kind {
                ServiceKind::ClusterIp(_) => {
                    "the Service has no address yet, so CoreDNS answers its names; \
                     if the Service is in a file, state its address there"
                }
                ServiceKind::HeadlessWithoutSlices => {
                    "the Service is headless and the files have no EndpointSlice for it, so \
                     CoreDNS answers its names; add its EndpointSlices to the files"
                }
                // The source of an unreadable Service reports it. `Index::contribution` passes an
                // unreadable Service in place of an uncovered one, and `Index::count_uncovered`
                // counts these.
                _ => return out,
            };
            out.add_problem(service, "spec.clusterIP", reason.into());
            return out;
        }
        ServiceKind::ExternalName(target) => {
            out.add_alias(service, name, target, settings.ttl);
            return out;
        }
        ServiceKind::ClusterIp(_)
            if settings.empty_services == EmptyServices::Ignored
                && has_no_ready_endpoint(slices) =>
        {
            return out;
        }
        ServiceKind::ClusterIp(addresses) => addresses,
        // The last two are undetermined, so the first arm has returned for them.
        ServiceKind::Headless | ServiceKind::HeadlessWithoutSlices | ServiceKind::Unreadable => &[],
    };

    let is_headless = service.kind == ServiceKind::Headless;
    let any_nonstandard = slices.iter().any(|slice| is_nonstandard(slice, settings));
    // CoreDNS denies a headless Service without endpoints, but answers the topology zones below it.
    let has_only_zones = settings.nonstandard_endpoints == NonstandardEndpoints::Passed
        && settings.zonal_names == ZonalNames::Answered
        && has_no_ready_endpoint(slices);
    if is_headless && (any_nonstandard || has_only_zones) {
        if let Err(reason) = out.delegate_service(name, protocols(slices), settings) {
            out.add_problem(service, "metadata.name", reason);
        }
        return out;
    }
    let knows_endpoints =
        (is_headless || settings.endpoint_scope == EndpointScope::All) && !any_nonstandard;
    let listed = if knows_endpoints {
        list_addresses(slices, name, settings, &mut out.problems)
    } else {
        Vec::new()
    };
    let endpoints: Vec<AddressPort<'_>> = listed.iter().flat_map(ListedAddress::pairs).collect();
    let service_pairs: Vec<AddressPort<'_>> = if is_headless {
        endpoints.clone()
    } else {
        addresses
            .iter()
            .flat_map(|address| pair_with_ports(*address, Some(name), &service.ports, None))
            .collect()
    };

    out.add_addresses(name, &service_pairs, settings);
    for ((protocol, port), pairs) in group_by_port(&service_pairs) {
        match port_name(name, protocol, port) {
            Ok(owner) => out.add_addresses(&owner, &pairs, settings),
            Err(reason) => out.add_problem(service, "spec.ports", reason),
        }
    }
    for (owner, pairs) in group_by(&endpoints, |pair| pair.target) {
        out.add_addresses(owner, &pairs, settings);
    }
    if settings.nonstandard_endpoints == NonstandardEndpoints::Passed {
        out.pass_partial_srv(is_headless.then_some(name), &endpoints);
    }
    if !knows_endpoints {
        out.computed_names
            .push((name.clone(), ComputedNames::Unknown));
    }
    if is_headless
        && settings.zonal_names == ZonalNames::Answered
        && !service_pairs.is_empty()
        && let Err(reason) = out.add_zonal_names(name, &service_pairs, settings)
    {
        out.add_problem(service, "metadata.name", reason);
    }
    let protocols = service_pairs.iter().map(|pair| &*pair.port.protocol);
    if settings.deviations == Deviations::Passed
        && let Err(reason) = out.delegate_port_names(name, protocols.collect())
    {
        out.add_problem(service, "spec.ports", reason);
    }
    out
}

/// Computes only the pointers of a Service. CoreDNS makes PTR records even for a Service whose own
/// names it denies, and for slices without a Service.
pub(super) fn contribute_pointers(
    key: &ObjectKey,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    svc: &Name,
    settings: &ZoneSettings,
) -> Contribution {
    let name = service_name(key, svc);
    let pointers = name.map(|name| service_pointers(service, slices, &name, settings));
    Contribution {
        pointers: pointers.unwrap_or_default(),
        ..Contribution::default()
    }
}

/// The name of a Service below `svc.<zone>`.
pub(super) fn service_name(key: &ObjectKey, svc: &Name) -> Result<Name, String> {
    let namespace = label_below(svc, &key.namespace)?;
    label_below(&namespace, &key.name)
}

impl Contribution {
    /// Adds the addresses of the pairs, and a SRV record for each pair with a port number and a
    /// target. A target must be a name with addresses (RFC 2782), so an endpoint without a name
    /// gets no SRV record. As in CoreDNS, every pair counts for the weight, including pairs that
    /// another slice repeats and pairs without a port.
    fn add_addresses(&mut self, owner: &Name, pairs: &[AddressPort<'_>], settings: &ZoneSettings) {
        let ttl = settings.ttl;
        let weight = weight(pairs.len());
        // CoreDNS makes SRV records for nameless addresses too, with a target that doesn't exist.
        let has_nameless = pairs.iter().any(|pair| pair.target.is_none());
        if has_nameless && settings.nonstandard_endpoints == NonstandardEndpoints::Passed {
            self.passed_types.push((owner.clone(), Rtype::SRV));
        }
        for pair in pairs {
            self.add_record(owner, ttl, pair.address.into());
            if let (Some(port), Some(target)) = (pair.port.number, pair.target) {
                let srv = Srv {
                    priority: 0,
                    weight,
                    port,
                    target: target.clone(),
                };
                self.add_record(owner, ttl, Rdata::Srv(srv));
            }
        }
    }

    /// Makes SRV queries for a host name pass if only some of its addresses have a port number.
    /// CoreDNS leaves the other addresses out of the additional section, but the host's records
    /// don't show which ones. If `service` is given, it names a headless Service, and SRV queries
    /// for it pass too.
    fn pass_partial_srv(&mut self, service: Option<&Name>, pairs: &[AddressPort<'_>]) {
        for (target, pairs) in group_by(pairs, |pair| pair.target) {
            let numbered = pairs.iter().filter(|pair| pair.port.number.is_some());
            let with_port: BTreeSet<IpAddr> = numbered.map(|pair| pair.address).collect();
            let has_port = |pair: &AddressPort<'_>| with_port.contains(&pair.address);
            if !with_port.is_empty() && !pairs.iter().all(has_port) {
                let names = service.into_iter().chain([target]);
                self.passed_types
                    .extend(names.map(|name| (name.clone(), Rtype::SRV)));
            }
        }
    }

    /// Adds the names for topology zones. `<topology zone>.pin._zone.<service>` and
    /// `<topology zone>.prefer._zone.<service>` have the endpoints of that topology zone. For any
    /// other label, the name below `pin` has no data, and the name below `prefer` has all
    /// endpoints.
    fn add_zonal_names(
        &mut self,
        name: &Name,
        pairs: &[AddressPort<'_>],
        settings: &ZoneSettings,
    ) -> Result<(), String> {
        let anchor = label_below(name, "_zone")?;
        let pin = label_below(&anchor, "pin")?;
        let prefer = label_below(&anchor, "prefer")?;
        for (zone, pairs) in group_by(pairs, |pair| pair.zone) {
            // A topology zone may have several labels. If one is invalid, the zone gets no name.
            let below = |name: &Name| {
                let mut labels = zone.rsplit('.');
                labels.try_fold(name.clone(), |name, label| label_below(&name, label))
            };
            let (Ok(pin), Ok(prefer)) = (below(&pin), below(&prefer)) else {
                continue;
            };
            self.add_addresses(&pin, &pairs, settings);
            self.add_addresses(&prefer, &pairs, settings);
        }
        self.computed_names.push((pin, ComputedNames::Empty));
        self.computed_names
            .push((prefer, ComputedNames::Like(name.clone())));
        Ok(())
    }

    /// Delegates all names of a Service to CoreDNS, including names of ports and topology zones.
    fn delegate_service(
        &mut self,
        name: &Name,
        protocols: BTreeSet<&str>,
        settings: &ZoneSettings,
    ) -> Result<(), String> {
        self.delegated.push(name.clone());
        self.delegate_port_names(name, protocols)?;
        if settings.zonal_names == ZonalNames::Answered {
            let anchor = label_below(name, "_zone")?;
            self.delegated.push(label_below(&anchor, "pin")?);
            self.delegated.push(label_below(&anchor, "prefer")?);
            self.delegated.push(anchor);
        }
        Ok(())
    }

    /// Delegates to CoreDNS the names of ports that have no records here. CoreDNS also answers
    /// names of ports without underscores, and accepts `_` for any port and any protocol.
    fn delegate_port_names(
        &mut self,
        name: &Name,
        protocols: BTreeSet<&str>,
    ) -> Result<(), String> {
        for protocol in protocols {
            self.delegated
                .push(label_below(name, &format!("_{protocol}"))?);
            // An address without ports has an empty protocol.
            if !protocol.is_empty() {
                self.delegated.push(label_below(name, protocol)?);
            }
        }
        self.delegated.push(label_below(name, "_")?);
        Ok(())
    }

    fn add_alias(&mut self, service: &Service, name: &Name, target: &str, ttl: u32) {
        let field = "spec.externalName";
        if target.parse::<IpAddr>().is_ok() {
            let reason = format!("{target:?} is an address; an alias needs a domain name");
            return self.add_problem(service, field, reason);
        }
        match Name::parse(target) {
            Ok(target) => self.add_record(name, ttl, Rdata::Cname(target)),
            Err(error) => self.add_problem(service, field, format!("{target:?}: {error}")),
        }
    }

    fn add_record(&mut self, owner: &Name, ttl: u32, data: Rdata) {
        let owner = owner.clone();
        self.records.push(Record { owner, ttl, data });
    }

    fn add_problem(&mut self, service: &Service, field: &str, reason: String) {
        let problem = Problem::with_key("Service", &service.key, field.into(), reason);
        self.problems.push(problem);
    }
}

impl ListedAddress<'_> {
    fn pairs(&self) -> impl Iterator<Item = AddressPort<'_>> {
        pair_with_ports(self.address, self.name.as_ref(), self.ports, self.zone)
    }
}

/// The weight of SRV records made from `count` pairs of address and port (docs/naming.md, rule
/// 1.6).
pub(super) fn weight(count: usize) -> u16 {
    match count {
        0..=1 => 100,
        2..=100 => (100 / count) as u16,
        _ => 1,
    }
}

/// Pairs the address with each port. Without ports, it is paired once with a port that has neither
/// name nor number.
fn pair_with_ports<'a>(
    address: IpAddr,
    target: Option<&'a Name>,
    ports: &'a [Port],
    zone: Option<&'a str>,
) -> impl Iterator<Item = AddressPort<'a>> {
    static NO_PORT: Port = Port {
        name: None,
        protocol: Cow::Borrowed(""),
        number: None,
    };
    let ports = match ports {
        [] => std::slice::from_ref(&NO_PORT),
        _ => ports,
    };
    ports.iter().map(move |port| AddressPort {
        address,
        target,
        port,
        zone,
    })
}

/// The protocols of the ports of all slices. All protocols if a slice can't be read.
fn protocols<'a>(slices: &[&'a EndpointSlice]) -> BTreeSet<&'a str> {
    if slices
        .iter()
        .any(|slice| slice.readability == SliceReadability::Unreadable)
    {
        return BTreeSet::from(PROTOCOLS);
    }
    let ports = slices.iter().flat_map(|slice| slice.ports.iter());
    ports.map(|port| &*port.protocol).collect()
}

/// Whether no endpoint is ready. A nonstandard or unreadable slice counts as having a ready
/// endpoint, because CoreDNS may see one.
fn has_no_ready_endpoint(slices: &[&EndpointSlice]) -> bool {
    slices
        .iter()
        .all(|slice| slice.endpoints.is_empty() && slice.readability == SliceReadability::Plain)
}

/// The ready addresses of all slices, with their names below `service`. An endpoint with an invalid
/// label is still an address of the Service; the label is reported in `problems`.
fn list_addresses<'a>(
    slices: &[&'a EndpointSlice],
    service: &Name,
    settings: &ZoneSettings,
    problems: &mut Vec<Problem>,
) -> Vec<ListedAddress<'a>> {
    let mut listed = Vec::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            let name = endpoint_name(endpoint, service, settings);
            let name = name.map_err(|reason| {
                let reason = format!("{reason}, so this endpoint has no name");
                let field = "endpoints".into();
                problems.push(Problem::with_key(
                    "EndpointSlice",
                    &slice.key,
                    field,
                    reason,
                ));
            });
            listed.push(ListedAddress {
                address: endpoint.address,
                name: name.ok(),
                ports: &slice.ports,
                zone: endpoint.zone.as_deref(),
            });
        }
    }
    listed
}

/// The pairs of each named port, keyed by protocol and port name.
fn group_by_port<'a>(
    pairs: &[AddressPort<'a>],
) -> BTreeMap<(&'a str, &'a str), Vec<AddressPort<'a>>> {
    group_by(pairs, |pair| {
        let name = pair.port.name.as_deref()?;
        Some((&*pair.port.protocol, name))
    })
}

/// Groups pairs by their key. Pairs without a key are left out.
fn group_by<'a, K: Ord>(
    pairs: &[AddressPort<'a>],
    key: impl Fn(&AddressPort<'a>) -> Option<K>,
) -> BTreeMap<K, Vec<AddressPort<'a>>> {
    let mut groups: BTreeMap<K, Vec<AddressPort<'a>>> = BTreeMap::new();
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
