//! Look-ups in the endpoints of a Service. Each reads only what its caller needs.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::group::EndpointGroup;
use super::label::{EndpointLabel, address_of_label, compare_labels};
use super::ports::PortTable;
use super::sorted::SortedEndpoints;
use super::{ServiceEndpoints, SliceSummary, StoredEndpoints};
use crate::objects::{Endpoint, Port, PortNumber};
use crate::settings::ZoneSettings;

/// The addresses of one IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The endpoints of a Service with their sorted lists.
pub(crate) struct EndpointReader<'a> {
    endpoints: &'a ServiceEndpoints,
    sorted: Cow<'a, SortedEndpoints>,
    summary: Cow<'a, SliceSummary>,
    settings: &'a ZoneSettings,
}

/// An endpoint with what its slice says of it.
#[derive(Clone, Copy)]
pub(crate) struct Member<'r> {
    pub(crate) endpoint: &'r Endpoint,
    pub(crate) ports: &'r [Port],
    /// The name of the slice.
    pub(crate) slice: &'r str,
    pub(crate) is_nonstandard: bool,
}

/// Endpoints in a list that is sorted by address, or by label and then by address.
struct Part<'r> {
    numbers: &'r [u32],
    condition: Condition<'r>,
}

/// Which endpoints of a list belong to a group.
#[derive(Clone, Copy, Default)]
struct Condition<'r> {
    /// If not `None`, only endpoints with one of these lists of ports, by the list's address.
    port_lists: Option<&'r HashSet<*const Port>>,
    naming: Naming,
}

/// Which endpoints are read, by their labels.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Naming {
    #[default]
    Any,
    /// Only endpoints whose label is their dashed address.
    ByAddress,
}

impl ServiceEndpoints {
    /// The endpoints for look-ups.
    pub(crate) fn reader<'a>(&'a self, settings: &'a ZoneSettings) -> EndpointReader<'a> {
        let sorted = match &self.index {
            Some(index) => Cow::Borrowed(&index.sorted),
            None => Cow::Owned(SortedEndpoints::of_all(&self.stored, settings)),
        };
        EndpointReader {
            endpoints: self,
            sorted,
            summary: self.summary(),
            settings,
        }
    }
}

impl<'a> EndpointReader<'a> {
    /// The different addresses of a group: all of them, or `count` if there are more. In the second
    /// case `rotation` chooses the first one.
    pub(crate) fn addresses(
        &self,
        group: EndpointGroup<'_>,
        family: Family,
        count: usize,
        rotation: usize,
    ) -> Vec<IpAddr> {
        let mut found = Vec::new();
        let lists = self.lists_with(group);
        for part in self.parts(group, &lists) {
            let numbers = self.of_family(part.numbers, family);
            let start = match numbers.len() {
                length if length > count => rotation % length,
                _ => 0,
            };
            let (last, first) = numbers.split_at(start);
            let before = found.len();
            for mut rest in [first, last] {
                while let [number, following @ ..] = rest
                    && found.len() - before < count
                {
                    rest = following;
                    if self.has(*number, &part.condition) {
                        let address = self.endpoint(*number).address;
                        found.push(address);
                        rest = self.after_address(following, address);
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether an endpoint of a group has this address.
    pub(crate) fn has_address(&self, group: EndpointGroup<'_>, address: IpAddr) -> bool {
        let lists = self.lists_with(group);
        self.parts(group, &lists).iter().any(|part| {
            let mut numbers = self.with_address(part.numbers, address).iter();
            numbers.any(|number| self.has(*number, &part.condition))
        })
    }

    /// The endpoints with this address.
    pub(crate) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = Member<'a>> {
        let numbers = self.with_address(&self.sorted.by_address, address);
        numbers.iter().map(|number| self.member(*number))
    }

    /// The different pairs of a port number and the label of an endpoint with this port: all of
    /// them, or `count` if there are more. Of a group of endpoints with a port, only this port
    /// counts. Endpoints for whose label `has_name` is false don't count.
    pub(crate) fn srv_pairs(
        &self,
        group: EndpointGroup<'_>,
        count: usize,
        has_name: &dyn Fn(EndpointLabel<'_>) -> bool,
    ) -> HashSet<(u16, EndpointLabel<'a>)> {
        let mut pairs = HashSet::new();
        let mut before = None;
        let lists = self.lists_with(group);
        let all_lists = self.summary.port_lists.iter();
        let lists_by_address: HashMap<*const Port, &PortTable> = all_lists
            .map(|list| (list.table.ports.as_ptr(), &*list.table))
            .collect();
        // Most endpoints have the same ports.
        let mut ports_before: *const Port = std::ptr::null();
        let mut numbers: Vec<u16> = Vec::new();
        for part in self.parts_by_label(group, &lists) {
            for number in part.numbers {
                let label = self.label(*number).canonical();
                let ports = self.stored().ports_of(*number).as_ptr();
                // Endpoints with equal labels are neighbours.
                if before.replace((label, ports)) == Some((label, ports))
                    || matches!(label, EndpointLabel::Invalid(_))
                    || !self.has(*number, &part.condition)
                    || !has_name(label)
                {
                    continue;
                }
                if std::mem::replace(&mut ports_before, ports) != ports {
                    let list = lists_by_address.get(&ports);
                    numbers = list.map_or_else(Vec::new, |list| port_numbers(list, group, count));
                }
                for number in &numbers {
                    if pairs.len() >= count {
                        return pairs;
                    }
                    pairs.insert((*number, label));
                }
            }
        }
        pairs
    }

    /// The number of pairs of an endpoint and a port in a group, but at most about `limit`. An
    /// endpoint without ports counts as one pair. Of a group of endpoints with a port, only this
    /// port counts.
    pub(crate) fn count_pairs(&self, group: EndpointGroup<'_>, limit: usize) -> usize {
        let lists = self.summary.port_lists.iter();
        match group {
            EndpointGroup::All => self.endpoints.count_pairs(),
            EndpointGroup::Port { .. } => lists
                .map(|list| list.endpoints * list.table.ports_of(group).len())
                .sum(),
            EndpointGroup::Label(_) | EndpointGroup::Zone(_) => {
                let members = self.first_members(group, limit).into_iter();
                members.map(|member| member.ports.len().max(1)).sum()
            }
        }
    }

    /// The endpoints of a group.
    pub(crate) fn members(&self, group: EndpointGroup<'_>) -> Vec<Member<'a>> {
        self.first_members(group, usize::MAX)
    }

    /// The first endpoints of a group, at most `count`.
    fn first_members(&self, group: EndpointGroup<'_>, count: usize) -> Vec<Member<'a>> {
        let lists = self.lists_with(group);
        if lists.as_ref().is_some_and(HashSet::is_empty) {
            return Vec::new();
        }
        let parts = self.parts(group, &lists);
        let numbers = parts.iter().flat_map(|part| {
            let numbers = part.numbers.iter();
            numbers.filter(|number| self.has(**number, &part.condition))
        });
        numbers
            .take(count)
            .map(|number| self.member(*number))
            .collect()
    }

    /// Whether a group has an endpoint.
    pub(crate) fn has_members(&self, group: EndpointGroup<'_>) -> bool {
        !self.first_members(group, 1).is_empty()
    }

    /// The endpoints without a name, because their host names are not labels.
    pub(crate) fn unnamed(&self) -> impl Iterator<Item = Member<'a>> {
        let numbers = self.sorted.unnamed.iter();
        numbers.map(|number| self.member(*number))
    }

    /// Whether an endpoint of a group has no name, because its host name is not a label.
    pub(crate) fn has_unnamed(&self, group: EndpointGroup<'_>) -> bool {
        if self.sorted.unnamed.is_empty() {
            return false;
        }
        let lists = self.lists_with(group);
        self.unnamed().any(|member| match group {
            EndpointGroup::All => true,
            EndpointGroup::Port { .. } => lists
                .as_ref()
                .is_none_or(|lists| lists.contains(&member.ports.as_ptr())),
            EndpointGroup::Label(_) => false,
            EndpointGroup::Zone(zone) => member.endpoint.zone.as_deref() == Some(zone),
        })
    }

    /// Whether a port of a group's endpoints has a number that is out of range. Of a group of
    /// endpoints with a port, only this port counts.
    pub(crate) fn has_port_out_of_range(&self, group: EndpointGroup<'_>) -> bool {
        let used = self.summary.used_lists();
        let odd = used.filter(|list| list.table.has_number_out_of_range);
        let mut odd = odd.filter(|list| {
            let mut ports = list.table.ports_of(group).into_iter();
            ports.any(|port| port.number == PortNumber::OutOfRange)
        });
        match group {
            EndpointGroup::All | EndpointGroup::Port { .. } => odd.next().is_some(),
            EndpointGroup::Label(_) | EndpointGroup::Zone(_) => {
                let odd: HashSet<_> = odd.map(|list| list.table.ports.as_ptr()).collect();
                if odd.is_empty() {
                    return false;
                }
                let mut members = self.members(group).into_iter();
                members.any(|member| odd.contains(&member.ports.as_ptr()))
            }
        }
    }

    /// The different labels of the endpoints.
    pub(crate) fn labels(&self) -> impl Iterator<Item = EndpointLabel<'a>> {
        let mut before = None;
        let parts = self.parts_by_label(EndpointGroup::All, &None);
        let numbers = parts.into_iter().flat_map(move |part| {
            let numbers = part.numbers.iter();
            numbers.filter(move |number| self.has(**number, &part.condition))
        });
        let labels = numbers.map(|number| self.label(*number));
        labels.filter(move |label| before.replace(*label) != Some(*label))
    }

    /// The different topology zones of the endpoints.
    pub(crate) fn zones(&self) -> impl Iterator<Item = &'a str> {
        let mut rest = &self.sorted.by_zone[..];
        std::iter::from_fn(move || {
            let zone = self.endpoint(*rest.first()?).zone.as_deref()?;
            let is_here = |number: &u32| self.endpoint(*number).zone.as_deref() <= Some(zone);
            rest = &rest[rest.partition_point(is_here)..];
            Some(zone)
        })
    }

    /// The lists with the endpoints of a group, each sorted by address.
    fn parts<'r>(
        &'r self,
        group: EndpointGroup<'_>,
        lists: &'r Option<HashSet<*const Port>>,
    ) -> Vec<Part<'r>> {
        match group {
            EndpointGroup::All => vec![self.part(&self.sorted.by_address)],
            EndpointGroup::Port { .. } => vec![Part {
                numbers: &self.sorted.by_address,
                condition: Condition {
                    port_lists: lists.as_ref(),
                    ..Condition::default()
                },
            }],
            EndpointGroup::Label(label) => {
                let labelled = self.with_label(label);
                let mut parts = vec![self.part(labelled)];
                if let Some(address) = address_of_label(label) {
                    parts.push(Part {
                        numbers: self.with_address(&self.sorted.by_address, address),
                        condition: Condition {
                            naming: Naming::ByAddress,
                            ..Condition::default()
                        },
                    });
                }
                parts
            }
            EndpointGroup::Zone(zone) => {
                let zone_of = |number: &u32| self.endpoint(*number).zone.as_deref();
                let all = &self.sorted.by_zone;
                let first = all.partition_point(|number| zone_of(number) < Some(zone));
                let rest = &all[first..];
                let end = rest.partition_point(|number| zone_of(number) <= Some(zone));
                vec![self.part(&rest[..end])]
            }
        }
    }

    /// The lists with the endpoints of a group. In each, endpoints with equal labels are neighbours
    /// if the group is not a topology zone.
    fn parts_by_label<'r>(
        &'r self,
        group: EndpointGroup<'_>,
        lists: &'r Option<HashSet<*const Port>>,
    ) -> Vec<Part<'r>> {
        match group {
            EndpointGroup::All | EndpointGroup::Port { .. } => {
                let condition = Condition {
                    port_lists: lists.as_ref(),
                    ..Condition::default()
                };
                let by_address = Condition {
                    naming: Naming::ByAddress,
                    ..condition
                };
                vec![
                    Part {
                        numbers: &self.sorted.by_label,
                        condition,
                    },
                    Part {
                        numbers: &self.sorted.by_address,
                        condition: by_address,
                    },
                ]
            }
            EndpointGroup::Label(_) | EndpointGroup::Zone(_) => self.parts(group, lists),
        }
    }

    /// The lists of ports that have the port of a group, by their addresses. `None` if all have it,
    /// which is usual, because most Services have only one list.
    fn lists_with(&self, group: EndpointGroup<'_>) -> Option<HashSet<*const Port>> {
        let EndpointGroup::Port { .. } = group else {
            return None;
        };
        let lists = &self.summary.port_lists;
        let used = self.summary.used_lists();
        let with_port = used.filter(|list| !list.table.ports_of(group).is_empty());
        let with_port: HashSet<_> = with_port.map(|list| list.table.ports.as_ptr()).collect();
        (with_port.len() < lists.len()).then_some(with_port)
    }

    fn part<'r>(&self, numbers: &'r [u32]) -> Part<'r> {
        Part {
            numbers,
            condition: Condition::default(),
        }
    }

    fn has(&self, number: u32, condition: &Condition<'_>) -> bool {
        let has_ports = condition
            .port_lists
            .is_none_or(|lists| lists.contains(&self.stored().ports_of(number).as_ptr()));
        let is_named = || match condition.naming {
            Naming::Any => true,
            Naming::ByAddress => matches!(self.label(number), EndpointLabel::Address(_)),
        };
        has_ports && is_named()
    }

    /// The endpoints with a label that is not the dashed address.
    fn with_label(&self, label: &str) -> &[u32] {
        let compare = |number: &u32| match self.label(*number) {
            EndpointLabel::Text(other) => compare_labels(other, label),
            EndpointLabel::Address(_) | EndpointLabel::Invalid(_) => std::cmp::Ordering::Less,
        };
        let all = &self.sorted.by_label;
        let first = all.partition_point(|number| compare(number).is_lt());
        let rest = &all[first..];
        &rest[..rest.partition_point(|number| compare(number).is_le())]
    }

    /// The endpoints with an address, in a list that is sorted by address.
    fn with_address<'r>(&self, numbers: &'r [u32], address: IpAddr) -> &'r [u32] {
        let address_of = |number: &u32| self.endpoint(*number).address;
        let first = numbers.partition_point(|number| address_of(number) < address);
        let rest = &numbers[first..];
        &rest[..rest.partition_point(|number| address_of(number) <= address)]
    }

    /// The endpoints after those with this address, which are the first ones if there are any.
    fn after_address<'r>(&self, numbers: &'r [u32], address: IpAddr) -> &'r [u32] {
        // Most endpoints have different addresses, so the next one is compared first.
        match numbers.first() {
            Some(number) if self.endpoint(*number).address == address => {
                let is_here = |number: &u32| self.endpoint(*number).address == address;
                &numbers[numbers.partition_point(is_here)..]
            }
            _ => numbers,
        }
    }

    /// The endpoints of one IP version, in a list that is sorted by address.
    fn of_family<'r>(&self, numbers: &'r [u32], family: Family) -> &'r [u32] {
        // All IPv4 addresses sort before all IPv6 addresses.
        let end_of_v4 = |number: &u32| self.endpoint(*number).address.is_ipv4();
        let (v4, v6) = numbers.split_at(numbers.partition_point(end_of_v4));
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    fn member(&self, number: u32) -> Member<'a> {
        let slice = self.stored().slice_of(number);
        Member {
            endpoint: self.endpoint(number),
            ports: &slice.ports,
            slice: &slice.name,
            is_nonstandard: slice.is_nonstandard,
        }
    }

    fn label(&self, number: u32) -> EndpointLabel<'a> {
        EndpointLabel::of(self.endpoint(number), self.settings)
    }

    fn endpoint(&self, number: u32) -> &'a Endpoint {
        self.endpoints.stored.endpoint(number)
    }

    fn stored(&self) -> &'a StoredEndpoints {
        &self.endpoints.stored
    }
}

/// The different numbers, at most `count`, of the ports of a group in a list.
fn port_numbers(list: &PortTable, group: EndpointGroup<'_>, count: usize) -> Vec<u16> {
    let ports = list.ports_of(group).into_iter();
    let numbers: BTreeSet<u16> = ports.filter_map(|port| port.number.valid()).collect();
    numbers.into_iter().take(count).collect()
}
