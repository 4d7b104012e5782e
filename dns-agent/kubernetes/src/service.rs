//! The rules that make DNS names of a Service.
//!
//! A name is computed when it is needed, from the Service and the endpoints that the name stands
//! for. The result depends only on these objects and the settings.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use zerohop_zone::{ComputedNames, MAX_LABEL, Name, NameEntry, Rdata, Rtype, Srv, Window, dashed};

use super::endpoints::{
    EndpointGroup, EndpointLabel, EndpointReader, Family, MAX_PAIRS, Member, ServiceEndpoints,
    SliceChange,
};
use super::objects::{ObjectKey, Port, Problem, Service, ServiceKind};
use super::settings::{
    Deviations, EmptyServices, EndpointScope, NonstandardEndpoints, ZonalNames, ZoneSettings,
};
use super::zone_skeleton::{is_label, label_below};

/// The protocols of Service ports, in lower case.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// A group with at least this many pairs of an endpoint and a port gives its SRV records the weight
/// 1: see [`weight`].
const MANY_PAIRS: usize = 101;

/// The most problems of one Service's endpoints that are reported one by one.
const MAX_ENDPOINT_PROBLEMS: usize = 5;

/// The most endpoints of a Service whose hosts are searched for one with a port number for only
/// some of its addresses. A larger Service is taken to have such a host if some of its slices have
/// port numbers and others don't, because a question must not read all endpoints.
const MAX_COMPARED_PORTS: usize = 64;

/// The longest topology zone with names, in bytes: a name has 255 bytes, of which `_zone` and
/// `prefer` take 13, the root label 1 and the length of the first label 1.
const MAX_ZONE: usize = 240;

/// The length of a record's fields after its owner and before its data, in bytes.
const FIXED_FIELDS: usize = 10;
/// The length of a compression pointer, in bytes.
const POINTER: usize = 2;
/// The length of priority, weight and port in an SRV record, in bytes.
const SRV_NUMBERS: usize = 6;

/// The names of one Service in one cluster domain.
pub(super) struct NamesOfService<'a> {
    service: &'a Service,
    endpoints: &'a ServiceEndpoints,
    settings: &'a ZoneSettings,
    /// The name of the Service.
    name: Name,
    shape: Shape,
}

/// Which names a Service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// None.
    Nothing,
    /// The Service's name is an alias.
    Alias,
    /// All names are delegated to CoreDNS, with those of ports of these protocols.
    Delegated(BTreeSet<String>),
    /// The names of addresses and ports.
    Records(Knowledge),
}

/// Which addresses a Service's names have, and whether its endpoints have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// A headless Service: those of its endpoints, which have names.
    Headless,
    /// ClusterIPs. The endpoints have names too.
    ClusterIp,
    /// ClusterIPs. Names of endpoints may exist, so they pass.
    ClusterIpOnly,
}

/// Whether all slices of a Service are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SliceCoverage {
    Whole,
    Partial,
}

/// The labels of a name below a Service, from right to left.
type LabelPath = Vec<String>;

impl Shape {
    /// The shape of a Service's names. `coverage`: whether all slices of the Service are watched.
    pub(super) fn of(
        service: &Service,
        endpoints: &ServiceEndpoints,
        coverage: SliceCoverage,
        settings: &ZoneSettings,
    ) -> Shape {
        let is_headless = service.kind == ServiceKind::Headless;
        let exceeds_bound = endpoints.exceeds_bound();
        let is_uncovered = is_headless && coverage == SliceCoverage::Partial;
        if service.kind.is_undetermined() || is_uncovered || is_headless && exceeds_bound {
            return Shape::Delegated(all_protocols());
        }
        if let ServiceKind::ExternalName(_) = service.kind {
            return Shape::Alias;
        }
        if !is_headless
            && settings.empty_services == EmptyServices::Ignored
            && endpoints.has_none_ready()
        {
            return Shape::Nothing;
        }
        let knows_endpoints = !endpoints.has_nonstandard() && !exceeds_bound;
        if !is_headless {
            return Shape::Records(match settings.endpoint_scope {
                EndpointScope::All if knows_endpoints => Knowledge::ClusterIp,
                EndpointScope::All | EndpointScope::Headless => Knowledge::ClusterIpOnly,
            });
        }
        // CoreDNS denies a headless Service without endpoints, but answers the topology zones below
        // it.
        let has_only_zones = settings.nonstandard_endpoints == NonstandardEndpoints::Passed
            && settings.zonal_names == ZonalNames::Answered
            && endpoints.has_none_ready();
        if !knows_endpoints || has_only_zones {
            return Shape::Delegated(slice_protocols(endpoints));
        }
        Shape::Records(Knowledge::Headless)
    }
}

impl<'a> NamesOfService<'a> {
    /// The names of a Service below `svc`, the name `svc.<zone>`.
    ///
    /// # Errors
    /// The reason why the Service can't have a name.
    pub(super) fn new(
        service: &'a Service,
        endpoints: &'a ServiceEndpoints,
        coverage: SliceCoverage,
        svc: &Name,
        settings: &'a ZoneSettings,
    ) -> Result<NamesOfService<'a>, String> {
        Ok(NamesOfService {
            name: service_name(&service.key, svc)?,
            shape: Shape::of(service, endpoints, coverage, settings),
            service,
            endpoints,
            settings,
        })
    }

    /// The entry of the name with these labels below the Service's name, from right to left. `None`
    /// if the name doesn't exist, or is a computed name.
    pub(super) fn entry(&self, labels: &[&str], window: Window) -> Option<NameEntry> {
        match &self.shape {
            Shape::Nothing => None,
            Shape::Alias if labels.is_empty() => {
                let mut entry = NameEntry::default();
                let target = self.alias_target()?.ok()?;
                entry.add_rrset(self.settings.ttl, vec![Rdata::Cname(target)]);
                Some(entry)
            }
            Shape::Alias => None,
            Shape::Delegated(protocols) => {
                let protocols = protocols.iter().map(String::as_str);
                let zonal = self.settings.zonal_names == ZonalNames::Answered
                    && matches!(labels, ["_zone"] | ["_zone", "pin" | "prefer"]);
                let is_delegated =
                    labels.is_empty() || zonal || is_delegated_port(labels, protocols);
                is_delegated.then(|| {
                    let mut entry = NameEntry::default();
                    entry.delegate_remainder();
                    entry
                })
            }
            Shape::Records(knowledge) => self.record_entry(*knowledge, labels, window),
        }
    }

    /// Whether the name with these labels has this address.
    pub(super) fn has_address(&self, labels: &[&str], address: IpAddr) -> bool {
        let Shape::Records(knowledge) = self.shape else {
            return false;
        };
        let reader = self.endpoints.reader(self.settings);
        let zone = zone_text(labels);
        match self.group(knowledge, labels, &zone, &reader) {
            Some(EndpointGroup::All | EndpointGroup::Port { .. })
                if knowledge != Knowledge::Headless =>
            {
                self.cluster_ips().contains(&address)
            }
            Some(group) => reader.has_address(group, address),
            // An empty non-terminal in the place of a computed name has that name's data.
            None => {
                matches!(labels, ["_zone", "prefer", _])
                    && has_zone_below(&zone, &reader)
                    && reader.has_address(EndpointGroup::All, address)
            }
        }
    }

    /// All names with entries.
    pub(super) fn names(&self) -> BTreeSet<Name> {
        let mut all: BTreeSet<LabelPath> = BTreeSet::from([LabelPath::new()]);
        match &self.shape {
            Shape::Nothing => all.clear(),
            Shape::Alias => {}
            Shape::Delegated(protocols) => {
                all.extend(delegated_ports(protocols.iter().map(String::as_str)));
                if self.settings.zonal_names == ZonalNames::Answered {
                    add_zonal_labels(std::iter::empty(), &mut all);
                }
            }
            Shape::Records(knowledge) => {
                let reader = self.endpoints.reader(self.settings);
                self.add_port_labels(&[], &mut all);
                for ports in self.port_lists(*knowledge) {
                    self.add_port_labels(&ports, &mut all);
                }
                if knowledge.knows_endpoints() {
                    all.extend(reader.labels().filter_map(label_text).map(|it| vec![it]));
                }
                if self.has_zonal_names(*knowledge) {
                    add_zonal_labels(reader.zones(), &mut all);
                }
            }
        }
        self.existing_names(all)
    }

    /// The names whose entries, or whose additional records, may differ after a change of a slice.
    /// The shape must be the same before and after the change.
    pub(super) fn names_changed_by(&self, change: &SliceChange) -> BTreeSet<Name> {
        let Shape::Records(knowledge) = self.shape else {
            return BTreeSet::new();
        };
        if !knowledge.knows_endpoints() {
            return BTreeSet::new();
        }
        let reader = self.endpoints.reader(self.settings);
        let mut all = BTreeSet::new();
        let mut zones = BTreeSet::new();
        // The lists of ports whose labels were added.
        let mut lists = HashSet::new();
        let parts = [
            (&change.removed, &change.old_ports),
            (&change.added, &change.new_ports),
        ];
        for (endpoints, ports) in parts {
            if knowledge == Knowledge::Headless && !endpoints.is_empty() {
                all.insert(LabelPath::new());
                self.add_port_labels(ports, &mut all);
            }
            for endpoint in endpoints {
                zones.extend(endpoint.zone.as_deref());
                let label = EndpointLabel::of(endpoint, self.settings);
                let Some(label) = label_text(label) else {
                    continue;
                };
                if !all.insert(vec![label.clone()]) || knowledge != Knowledge::Headless {
                    continue;
                }
                // Names whose SRV records point at the label have its addresses in their answers.
                for other in reader.members(EndpointGroup::Label(&label)) {
                    zones.extend(other.endpoint.zone.as_deref());
                    if lists.insert(other.ports.as_ptr()) {
                        self.add_port_labels(other.ports, &mut all);
                    }
                }
            }
        }
        // The names for topology zones come and go with the first endpoint.
        if knowledge == Knowledge::Headless && self.settings.zonal_names == ZonalNames::Answered {
            add_zonal_labels(zones.into_iter(), &mut all);
            // Computed names below `prefer`, and empty non-terminals in their place, have the data
            // of the Service's name.
            let nested = reader.zones().filter(|zone| zone.contains('.'));
            for zone in nested {
                let first = zone.rsplit('.').next().unwrap_or_default();
                all.insert(["_zone", "prefer", first].map(str::to_owned).into());
            }
        }
        self.names_of(all)
    }

    /// Parts of the objects that make no records, with the reason.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |field: &str, reason: String| {
            let field = field.to_owned();
            problems.push(Problem::with_key(
                "Service",
                &self.service.key,
                field,
                reason,
            ));
        };
        match (&self.shape, &self.service.kind) {
            (_, ServiceKind::ClusterIp(addresses)) if addresses.is_empty() => report(
                "spec.clusterIP",
                "the Service has no address yet, so CoreDNS answers its names; \
                 if the Service is in a file, state its address there"
                    .to_owned(),
            ),
            (_, ServiceKind::HeadlessWithoutSlices) => report(
                "spec.clusterIP",
                "the Service is headless and the files have no EndpointSlice for it, so \
                 CoreDNS answers its names; add its EndpointSlices to the files"
                    .to_owned(),
            ),
            // The source of an unreadable Service reports it, and `Index::count_uncovered` counts
            // the Services whose slices are not all watched.
            (_, ServiceKind::Unreadable) => {}
            (Shape::Alias, _) => {
                if let Some(Err(reason)) = self.alias_target() {
                    report("spec.externalName", reason);
                }
            }
            (Shape::Delegated(_), _) if self.endpoints.exceeds_bound() => report(
                "spec.ports",
                format!(
                    "the Service's endpoints and ports make {} SRV records, and an answer holds \
                     at most {MAX_PAIRS}, so CoreDNS answers its names; give it fewer ports or \
                     endpoints",
                    self.endpoints.count_pairs()
                ),
            ),
            (Shape::Records(knowledge), _) => {
                for reason in self.invalid_ports(*knowledge) {
                    report("spec.ports", reason);
                }
                let reader = self.endpoints.reader(self.settings);
                if knowledge.knows_endpoints() && reader.has_port_out_of_range(EndpointGroup::All) {
                    report(
                        "spec.ports",
                        "an EndpointSlice of the Service has a port number that is out of range, \
                         so CoreDNS answers the SRV queries that depend on it"
                            .to_owned(),
                    );
                }
                if knowledge.knows_endpoints() {
                    problems.extend(self.endpoint_problems());
                }
            }
            (Shape::Nothing | Shape::Delegated(_), _) => {}
        }
        // All fixed labels below the Service are shorter than this one.
        if self.shape != Shape::Nothing
            && let Err(reason) = label_below(&self.name, "_sctp")
        {
            let field = "metadata.name".to_owned();
            problems.push(Problem::with_key(
                "Service",
                &self.service.key,
                field,
                reason,
            ));
        }
        problems
    }

    /// The entry of a name with records, or of a name that exists because of others.
    fn record_entry(
        &self,
        knowledge: Knowledge,
        labels: &[&str],
        window: Window,
    ) -> Option<NameEntry> {
        if !labels.iter().all(|label| is_label(label)) {
            return None;
        }
        let reader = self.endpoints.reader(self.settings);
        let mut entry = NameEntry::default();
        let mut exists = false;
        let zone = zone_text(labels);
        if let Some(group) = self.group(knowledge, labels, &zone, &reader) {
            self.add_group(&mut entry, knowledge, group, &reader, window);
            exists = true;
        }
        if labels.is_empty() && knowledge == Knowledge::ClusterIpOnly {
            entry.set_computed_names(ComputedNames::Unknown);
            exists = true;
        }
        if self.has_zonal_names(knowledge) {
            match labels {
                ["_zone"] => exists = true,
                ["_zone", "pin"] => {
                    entry.set_computed_names(ComputedNames::Empty);
                    exists = true;
                }
                ["_zone", "prefer"] => {
                    entry.set_computed_names(ComputedNames::Like(self.name.clone()));
                    exists = true;
                }
                ["_zone", kind @ ("pin" | "prefer"), _, ..] if !exists => {
                    exists = has_zone_below(&zone, &reader);
                    // An empty non-terminal in the place of a computed name has its data.
                    if exists && *kind == "prefer" && labels.len() == 3 {
                        self.add_group(&mut entry, knowledge, EndpointGroup::All, &reader, window);
                    }
                }
                _ => {}
            }
        }
        if self.settings.deviations == Deviations::Passed {
            // CoreDNS also answers names of ports without underscores, and accepts `_` for any port
            // and any protocol.
            if let [label] = labels
                && (*label == "_"
                    || self.has_protocol(knowledge, label.strip_prefix('_').unwrap_or(label)))
            {
                entry.delegate_remainder();
                exists = true;
            }
            exists |= labels.is_empty();
        }
        if let [protocol] = labels {
            exists |= self.has_named_port(knowledge, protocol);
        }
        exists.then_some(entry)
    }

    /// The endpoints or ClusterIPs that the name with these labels stands for, unless there are
    /// none. `zone` is the text of a topology zone in the labels: see [`zone_text`].
    fn group<'l>(
        &self,
        knowledge: Knowledge,
        labels: &'l [&'l str],
        zone: &'l str,
        reader: &EndpointReader<'_>,
    ) -> Option<EndpointGroup<'l>> {
        match labels {
            [] => {
                let group = EndpointGroup::All;
                self.has_addresses(knowledge, group, reader)
                    .then_some(group)
            }
            [label] => {
                let group = EndpointGroup::Label(label);
                (knowledge.knows_endpoints() && reader.has_members(group)).then_some(group)
            }
            [protocol, name] => {
                let group = EndpointGroup::Port {
                    protocol: protocol.strip_prefix('_')?,
                    name: name.strip_prefix('_')?,
                };
                self.has_addresses(knowledge, group, reader)
                    .then_some(group)
            }
            ["_zone", "pin" | "prefer", ..] if self.has_zonal_names(knowledge) => {
                let group = EndpointGroup::Zone(zone);
                reader.has_members(group).then_some(group)
            }
            _ => None,
        }
    }

    /// Whether the Service's name, or the name of a port, has addresses.
    fn has_addresses(
        &self,
        knowledge: Knowledge,
        group: EndpointGroup<'_>,
        reader: &EndpointReader<'_>,
    ) -> bool {
        match knowledge {
            Knowledge::Headless => reader.has_members(group),
            Knowledge::ClusterIp | Knowledge::ClusterIpOnly => {
                group == EndpointGroup::All
                    || self.service.ports.iter().any(|port| group.has_port(port))
            }
        }
    }

    /// Adds the addresses of a group to a name, and an SRV record for each pair with a port number
    /// and a target. A target must be a name with addresses (RFC 2782), so an endpoint without a
    /// name gets no SRV record.
    fn add_group(
        &self,
        entry: &mut NameEntry,
        knowledge: Knowledge,
        group: EndpointGroup<'_>,
        reader: &EndpointReader<'_>,
        window: Window,
    ) {
        let ttl = self.settings.ttl;
        let has_cluster_ips = knowledge != Knowledge::Headless
            && matches!(group, EndpointGroup::All | EndpointGroup::Port { .. });
        if has_cluster_ips {
            let addresses = self.cluster_ips().iter().copied().map(Rdata::from);
            let (v4, v6) = addresses.partition(|data| data.rtype() == Rtype::A);
            entry.add_rrset(ttl, v4);
            entry.add_rrset(ttl, v6);
            if window.needs(Rtype::SRV) {
                entry.add_rrset(ttl, self.cluster_ip_srv(group));
            }
            return;
        }
        for (family, rtype, length) in [(Family::V4, Rtype::A, 4), (Family::V6, Rtype::AAAA, 16)] {
            let count = window.count_records(rtype, POINTER + FIXED_FIELDS + length);
            let addresses = reader.addresses(group, family, count, window.rotation);
            entry.add_rrset(ttl, addresses.into_iter().map(Rdata::from).collect());
        }
        if !window.needs(Rtype::SRV) {
            return;
        }
        if self.passes_srv(knowledge, group, reader) {
            entry.delegate_type(Rtype::SRV);
        } else {
            entry.add_rrset(ttl, self.endpoint_srv(group, reader, window));
        }
    }

    /// The SRV records of ClusterIPs: one for each port.
    fn cluster_ip_srv(&self, group: EndpointGroup<'_>) -> Vec<Rdata> {
        let ports = self.service.ports.iter();
        let ports: Vec<&Port> = ports.filter(|port| group.has_port(port)).collect();
        let weight = weight(self.cluster_ips().len() * ports.len());
        let numbers = ports.iter().filter_map(|port| port.number.valid());
        let records = numbers.map(|port| {
            Rdata::Srv(Srv {
                priority: 0,
                weight,
                port,
                target: self.name.clone(),
            })
        });
        records.collect()
    }

    /// The SRV records of endpoints: one for each pair of a port number and a name. As in CoreDNS,
    /// every pair counts for the weight, including pairs that another slice repeats and pairs
    /// without a port.
    fn endpoint_srv(
        &self,
        group: EndpointGroup<'_>,
        reader: &EndpointReader<'_>,
        window: Window,
    ) -> Vec<Rdata> {
        // The target is not compressed (RFC 2782), and has a label of at least one byte.
        let target = 2 + self.name.wire().len();
        let record = POINTER + FIXED_FIELDS + SRV_NUMBERS + target;
        let may_be_too_long = self.may_be_too_long();
        let has_name =
            |label: EndpointLabel<'_>| !may_be_too_long || label.name_below(&self.name).is_ok();
        let count = window.count_records(Rtype::SRV, record);
        let pairs = reader.srv_pairs(group, count, &has_name);
        let weight = weight(reader.count_pairs(group, MANY_PAIRS));
        let records = pairs.into_iter().filter_map(|(port, label)| {
            Some(Rdata::Srv(Srv {
                priority: 0,
                weight,
                port,
                target: label.name_below(&self.name).ok()?,
            }))
        });
        records.collect()
    }

    /// Whether SRV queries for a name of endpoints pass to CoreDNS.
    /// * CoreDNS makes SRV records for an endpoint without a name too, with a target that doesn't
    ///   exist.
    /// * CoreDNS makes some port of a number that is out of range.
    /// * CoreDNS leaves the addresses without a port number out of the additional section. The
    ///   host's records don't show which addresses have one.
    fn passes_srv(
        &self,
        knowledge: Knowledge,
        group: EndpointGroup<'_>,
        reader: &EndpointReader<'_>,
    ) -> bool {
        if self.settings.nonstandard_endpoints != NonstandardEndpoints::Passed {
            return false;
        }
        if reader.has_unnamed(group)
            || self.has_too_long_name(group, reader)
            || reader.has_port_out_of_range(group)
        {
            return true;
        }
        match group {
            EndpointGroup::Label(_) => has_partial_ports(group, reader),
            EndpointGroup::All => knowledge == Knowledge::Headless && self.has_partial_host(reader),
            EndpointGroup::Port { .. } | EndpointGroup::Zone(_) => false,
        }
    }

    /// Whether a host may have addresses with and without a port number.
    fn has_partial_host(&self, reader: &EndpointReader<'_>) -> bool {
        if !self.endpoints.has_mixed_ports() {
            return false;
        }
        if self.endpoints.count() > MAX_COMPARED_PORTS {
            return true;
        }
        let mut labels = reader.labels().filter_map(label_text);
        labels.any(|label| has_partial_ports(EndpointGroup::Label(&label), reader))
    }

    /// Whether the name of an endpoint in a group would be too long.
    fn has_too_long_name(&self, group: EndpointGroup<'_>, reader: &EndpointReader<'_>) -> bool {
        self.may_be_too_long()
            && reader.members(group).iter().any(|member| {
                let label = EndpointLabel::of(member.endpoint, self.settings);
                label.name_below(&self.name).is_err()
            })
    }

    /// Whether two labels of 63 bytes don't fit below the Service's name.
    fn may_be_too_long(&self) -> bool {
        let child = self.name.child(&[b'a'; MAX_LABEL]);
        child
            .and_then(|child| child.child(&[b'a'; MAX_LABEL]))
            .is_err()
    }

    /// Endpoints without a name, as problems of their slices.
    fn endpoint_problems(&self) -> Vec<Problem> {
        let reader = self.endpoints.reader(self.settings);
        let too_long = self
            .may_be_too_long()
            .then(|| reader.members(EndpointGroup::All));
        let unnamed = too_long.into_iter().flatten().chain(reader.unnamed());
        let reasons = unnamed.filter_map(|member| {
            let label = EndpointLabel::of(member.endpoint, self.settings);
            let reason = label.name_below(&self.name).err()?;
            let key = ObjectKey::new(self.service.key.namespace.clone(), member.slice);
            let reason = format!("{reason}, so this endpoint has no name");
            let field = "endpoints".to_owned();
            Some(Problem::with_key("EndpointSlice", &key, field, reason))
        });
        reasons.take(MAX_ENDPOINT_PROBLEMS).collect()
    }

    /// Why names of ports are not labels.
    fn invalid_ports(&self, knowledge: Knowledge) -> BTreeSet<String> {
        let may_be_too_long = self.may_be_too_long();
        let lists = self.port_lists(knowledge);
        let ports = lists.iter().flat_map(|ports| ports.iter());
        let names = ports.filter_map(|port| {
            let labels = port_labels(port)?;
            let is_valid = !may_be_too_long && labels.iter().all(|label| is_label(label));
            (!is_valid).then(|| name_below(&self.name, &labels).err())?
        });
        names.take(MAX_ENDPOINT_PROBLEMS).collect()
    }

    /// Whether a port with a valid name has this protocol label, such as `_tcp`.
    fn has_named_port(&self, knowledge: Knowledge, protocol: &str) -> bool {
        let Some(protocol) = protocol.strip_prefix('_') else {
            return false;
        };
        let lists = self.port_lists(knowledge);
        let mut ports = lists.iter().flat_map(|ports| ports.iter());
        ports.any(|port| {
            port.protocol.eq_ignore_ascii_case(protocol)
                && port_labels(port).is_some_and(|labels| labels.iter().all(|it| is_label(it)))
        })
    }

    /// The lists of ports of the addresses that the Service's name has.
    fn port_lists(&self, knowledge: Knowledge) -> Vec<Arc<[Port]>> {
        match knowledge {
            Knowledge::Headless => self.endpoints.used_port_lists(),
            Knowledge::ClusterIp | Knowledge::ClusterIpOnly => vec![self.service.ports.clone()],
        }
    }

    /// Whether the addresses that the Service's name has have a port of this protocol.
    fn has_protocol(&self, knowledge: Knowledge, protocol: &str) -> bool {
        match knowledge {
            Knowledge::Headless => self.endpoints.has_protocol(protocol),
            Knowledge::ClusterIp | Knowledge::ClusterIpOnly => {
                let mut ports = self.service.ports.iter();
                ports.any(|port| port.protocol.eq_ignore_ascii_case(protocol))
            }
        }
    }

    /// Adds the labels of the names that exist because of these ports.
    fn add_port_labels(&self, ports: &[Port], all: &mut BTreeSet<LabelPath>) {
        for port in ports {
            if let Some(labels) = port_labels(port) {
                all.insert(labels[..1].to_vec());
                all.insert(labels);
            }
        }
        if self.settings.deviations == Deviations::Passed {
            all.extend(delegated_ports(ports.iter().map(|port| &*port.protocol)));
        }
    }

    /// Whether the Service has names for topology zones: `<topology zone>.pin._zone.<service>` and
    /// `<topology zone>.prefer._zone.<service>` have the endpoints of that topology zone. For any
    /// other label, the name below `pin` has no data, and the name below `prefer` has all
    /// endpoints.
    fn has_zonal_names(&self, knowledge: Knowledge) -> bool {
        knowledge == Knowledge::Headless
            && self.settings.zonal_names == ZonalNames::Answered
            && self.endpoints.count() > 0
    }

    /// The target of an alias, or why it is not a name.
    fn alias_target(&self) -> Option<Result<Name, String>> {
        let ServiceKind::ExternalName(target) = &self.service.kind else {
            return None;
        };
        if target.parse::<IpAddr>().is_ok() {
            let reason = format!("{target:?} is an address; an alias needs a domain name");
            return Some(Err(reason));
        }
        Some(Name::parse(target).map_err(|error| format!("{target:?}: {error}")))
    }

    fn cluster_ips(&self) -> &'a [IpAddr] {
        match &self.service.kind {
            ServiceKind::ClusterIp(addresses) => addresses,
            _ => &[],
        }
    }

    /// The names with these labels that have entries.
    fn existing_names(&self, all: BTreeSet<LabelPath>) -> BTreeSet<Name> {
        let existing = all.into_iter().filter(|labels| {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            self.entry(&labels, Window::EXISTENCE).is_some()
        });
        self.names_of(existing)
    }

    /// The names with these labels, unless they are too long.
    fn names_of(&self, all: impl IntoIterator<Item = LabelPath>) -> BTreeSet<Name> {
        let names = all.into_iter();
        names
            .filter_map(|labels| name_below(&self.name, &labels).ok())
            .collect()
    }
}

impl Knowledge {
    /// Whether the endpoints are known.
    fn knows_endpoints(self) -> bool {
        self != Knowledge::ClusterIpOnly
    }
}

/// The name of a Service below `svc.<zone>`.
pub(super) fn service_name(key: &ObjectKey, svc: &Name) -> Result<Name, String> {
    let namespace = label_below(svc, &key.namespace)?;
    label_below(&namespace, &key.name)
}

/// The weight of SRV records made from `count` pairs of address and port (docs/naming.md, rule
/// 1.6).
pub(super) fn weight(count: usize) -> u16 {
    match count {
        0..=1 => 100,
        2..MANY_PAIRS => (100 / count) as u16,
        _ => 1,
    }
}

/// The name with these labels below another one, from right to left.
fn name_below(name: &Name, labels: &[String]) -> Result<Name, String> {
    let mut labels = labels.iter();
    labels.try_fold(name.clone(), |name, label| label_below(&name, label))
}

/// The label of an endpoint as text, in lower case. `None` if the endpoint has no name.
fn label_text(label: EndpointLabel<'_>) -> Option<String> {
    match label {
        EndpointLabel::Text(text) => Some(text.to_ascii_lowercase()),
        EndpointLabel::Address(address) => Some(dashed(address)),
        EndpointLabel::Invalid(_) => None,
    }
}

/// The labels of a port: `_<protocol>`, then `_<name>`. `None` for a port without a name.
fn port_labels(port: &Port) -> Option<LabelPath> {
    let name = port.name.as_ref()?;
    Some(vec![format!("_{}", port.protocol), format!("_{name}")])
}

/// The protocols of the ports of all slices. All protocols if a slice can't be read.
fn slice_protocols(endpoints: &ServiceEndpoints) -> BTreeSet<String> {
    if endpoints.has_unreadable() {
        return all_protocols();
    }
    let lists = endpoints.all_port_lists();
    let ports = lists.iter().flat_map(|ports| ports.iter());
    ports.map(|port| port.protocol.to_string()).collect()
}

fn all_protocols() -> BTreeSet<String> {
    PROTOCOLS.map(str::to_owned).into()
}

/// Whether queries for a name with this label, and for names below it, pass: CoreDNS also answers
/// names of ports without underscores, and accepts `_` for any port and any protocol.
fn is_delegated_port<'p>(labels: &[&str], mut protocols: impl Iterator<Item = &'p str>) -> bool {
    let [label] = labels else {
        return false;
    };
    *label == "_"
        || protocols.any(|protocol| {
            let without = label.strip_prefix('_').unwrap_or(label);
            without.eq_ignore_ascii_case(protocol)
        })
}

/// The labels for which [`is_delegated_port`] is true.
fn delegated_ports<'p>(protocols: impl Iterator<Item = &'p str>) -> BTreeSet<LabelPath> {
    let named = protocols.flat_map(|protocol| [format!("_{protocol}"), protocol.to_owned()]);
    named
        .chain(["_".to_owned()])
        .map(|label| vec![label])
        .collect()
}

/// The topology zone in the labels `_zone`, `pin` or `prefer`, and the zone's labels, from right to
/// left. A topology zone may have several labels.
fn zone_text(labels: &[&str]) -> String {
    let zone = labels.get(2..).unwrap_or_default().iter().rev();
    zone.copied().collect::<Vec<_>>().join(".")
}

/// Whether a topology zone has labels in front of `zone`.
fn has_zone_below(zone: &str, reader: &EndpointReader<'_>) -> bool {
    let mut zones = reader.zones();
    zones.any(|other| {
        let front = other.strip_suffix(zone).and_then(|it| it.strip_suffix('.'));
        front.is_some() && is_zone(other)
    })
}

/// Whether a topology zone can be part of a name: all its labels are valid, and it is not longer
/// than a name.
fn is_zone(zone: &str) -> bool {
    zone.len() <= MAX_ZONE && zone.split('.').all(is_label)
}

/// Adds the labels of the names that exist because of these topology zones.
fn add_zonal_labels<'z>(zones: impl Iterator<Item = &'z str>, all: &mut BTreeSet<LabelPath>) {
    all.insert(vec!["_zone".to_owned()]);
    for kind in ["pin", "prefer"] {
        all.insert(vec!["_zone".to_owned(), kind.to_owned()]);
    }
    for zone in zones {
        if !is_zone(zone) {
            continue;
        }
        for kind in ["pin", "prefer"] {
            let mut labels = vec!["_zone".to_owned(), kind.to_owned()];
            for label in zone.rsplit('.') {
                labels.push(label.to_owned());
                all.insert(labels.clone());
            }
        }
    }
}

/// Whether only some addresses of a group have a port with a number.
fn has_partial_ports(group: EndpointGroup<'_>, reader: &EndpointReader<'_>) -> bool {
    let members = reader.members(group);
    let has_number = |member: &&Member<'_>| {
        let mut ports = member.ports.iter();
        ports.any(|port| port.number.valid().is_some())
    };
    let with_number = members.iter().filter(has_number);
    let with_number: BTreeSet<IpAddr> = with_number.map(|it| it.endpoint.address).collect();
    let is_without = |member: &Member<'_>| !with_number.contains(&member.endpoint.address);
    !with_number.is_empty() && members.iter().any(is_without)
}
