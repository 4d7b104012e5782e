//! The endpoints of one Service, and the look-ups that its names need.
//!
//! A Service may have tens of thousands of endpoints in many slices. A question about one of its
//! names must not read all of them, and a change of a slice must not sort all of them again. So a
//! large Service has an index: lists of the endpoints' numbers, sorted by address, by label and by
//! topology zone, and counts of its slices. They are lists and not maps, because memory counts. A
//! small Service has no index, because making one for a question costs less than its memory.

mod group;
mod label;
mod ports;
mod reader;
mod sorted;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

pub(crate) use self::group::EndpointGroup;
pub(crate) use self::label::EndpointLabel;
use self::label::is_nonstandard;
use self::ports::PortTable;
pub(crate) use self::reader::{EndpointReader, Family, Member};
use self::sorted::SortedEndpoints;
use super::objects::{Endpoint, EndpointSlice, ObjectKey, Port, SliceReadability};
use super::settings::ZoneSettings;

/// A Service with at most this many endpoints, and at most this many slices, has no
/// [`EndpointIndex`], unless it has many ports.
const MAX_SMALL: usize = 16;

/// A Service with more pairs of an endpoint and a port has an [`EndpointIndex`].
const MAX_SMALL_PAIRS: usize = 256;

/// The most pairs of an endpoint and a port with which a Service has names of endpoints: the
/// largest number of records that the counts of a message can hold (16 bits, RFC 1035 section
/// 4.1.1).
pub(crate) const MAX_PAIRS: usize = 65_535;

/// The slices of one Service, and their endpoints.
#[derive(Debug, Default)]
pub(crate) struct ServiceEndpoints {
    stored: StoredEndpoints,
    /// `None` for a small Service: see [`MAX_SMALL`].
    index: Option<Box<EndpointIndex>>,
}

/// Slices and endpoints by number. An object keeps its number until it is removed, and then another
/// one may get it.
#[derive(Debug, Default)]
struct StoredEndpoints {
    endpoints: Vec<Option<StoredEndpoint>>,
    slices: Vec<Option<StoredSlice>>,
}

/// What is kept in addition for a large Service.
#[derive(Debug)]
struct EndpointIndex {
    sorted: SortedEndpoints,
    summary: SliceSummary,
    /// The numbers of endpoints that are free.
    free: Vec<u32>,
}

/// Counts of a Service's slices.
#[derive(Clone, Debug, Default)]
struct SliceSummary {
    /// The different lists of ports.
    port_lists: Vec<PortList>,
    /// The number of slices whose endpoints' names are delegated to CoreDNS.
    nonstandard: usize,
    /// The number of slices that can't be read.
    unreadable: usize,
}

#[derive(Debug)]
struct StoredEndpoint {
    endpoint: Endpoint,
    /// The number of the endpoint's slice.
    slice: u32,
}

#[derive(Debug)]
struct StoredSlice {
    name: Arc<str>,
    /// Slices with equal ports share one list.
    ports: Arc<[Port]>,
    readability: SliceReadability,
    /// Whether the names of the slice's endpoints are delegated to CoreDNS.
    is_nonstandard: bool,
    /// The numbers of the slice's endpoints.
    members: Box<[u32]>,
}

/// How the endpoints of a new version of a slice relate to those of the stored version.
#[derive(Debug)]
struct MemberMatch {
    /// The numbers of the stored endpoints that the new version has too.
    kept: Vec<u32>,
    /// The numbers of the stored endpoints that the new version lacks.
    removed: Vec<u32>,
    /// The positions in the new version of the endpoints that are not stored.
    added: Vec<usize>,
}

/// A list of ports, and the number of slices and endpoints that have it.
#[derive(Clone, Debug)]
struct PortList {
    table: Arc<PortTable>,
    slices: usize,
    endpoints: usize,
}

/// The endpoints that a new version of a slice removes and adds. An endpoint that differs in any
/// way, or whose ports differ, is removed and added.
#[derive(Debug, Default)]
pub(crate) struct SliceChange {
    pub(crate) removed: Vec<Endpoint>,
    /// The ports of the removed endpoints.
    pub(crate) old_ports: Arc<[Port]>,
    pub(crate) added: Vec<Endpoint>,
    /// The ports of the added endpoints.
    pub(crate) new_ports: Arc<[Port]>,
}

impl ServiceEndpoints {
    /// No slices.
    pub(crate) const NONE: &ServiceEndpoints = &ServiceEndpoints {
        stored: StoredEndpoints {
            endpoints: Vec::new(),
            slices: Vec::new(),
        },
        index: None,
    };

    /// The endpoints of these slices.
    pub(crate) fn from_slices(
        slices: impl IntoIterator<Item = EndpointSlice>,
        settings: &ZoneSettings,
    ) -> ServiceEndpoints {
        let mut endpoints = ServiceEndpoints::default();
        for slice in slices {
            endpoints.add_slice(slice, settings);
        }
        endpoints
    }

    /// Whether there is no slice.
    pub(crate) fn has_no_slice(&self) -> bool {
        self.stored.slices.iter().all(Option::is_none)
    }

    /// The number of endpoints.
    pub(crate) fn count(&self) -> usize {
        match &self.index {
            Some(index) => self.stored.endpoints.len() - index.free.len(),
            None => self.iter().count(),
        }
    }

    /// The number of pairs of an endpoint and a port. An endpoint without ports counts as one.
    pub(crate) fn count_pairs(&self) -> usize {
        let summary = self.summary();
        let lists = summary.port_lists.iter();
        lists
            .map(|list| list.endpoints * list.table.ports.len().max(1))
            .sum()
    }

    /// Whether there are more than [`MAX_PAIRS`] pairs.
    pub(crate) fn exceeds_bound(&self) -> bool {
        self.count_pairs() > MAX_PAIRS
    }

    /// Whether the names of some endpoints are delegated to CoreDNS: see [`is_nonstandard`].
    pub(crate) fn has_nonstandard(&self) -> bool {
        self.summary().nonstandard > 0
    }

    /// Whether a slice can't be read.
    pub(crate) fn has_unreadable(&self) -> bool {
        self.summary().unreadable > 0
    }

    /// Whether no endpoint is ready. A nonstandard or unreadable slice counts as having a ready
    /// endpoint, because CoreDNS may see one.
    pub(crate) fn has_none_ready(&self) -> bool {
        let mut slices = self.stored.slices.iter().flatten();
        self.count() == 0 && slices.all(|slice| slice.readability == SliceReadability::Plain)
    }

    /// The different lists of ports of the slices.
    pub(crate) fn all_port_lists(&self) -> Vec<Arc<[Port]>> {
        let summary = self.summary();
        let lists = summary.port_lists.iter();
        lists.map(|list| list.table.ports.clone()).collect()
    }

    /// The different lists of ports that endpoints have.
    pub(crate) fn used_port_lists(&self) -> Vec<Arc<[Port]>> {
        let summary = self.summary();
        let used = summary.used_lists();
        used.map(|list| list.table.ports.clone()).collect()
    }

    /// Whether endpoints have a port of this protocol. Letter case is ignored.
    pub(crate) fn has_protocol(&self, protocol: &str) -> bool {
        let summary = self.summary();
        let mut used = summary.used_lists();
        used.any(|list| {
            let mut protocols = list.table.protocols();
            protocols.any(|it| it.eq_ignore_ascii_case(protocol))
        })
    }

    /// Whether some lists of ports that endpoints have hold numbers, and others don't.
    pub(crate) fn has_mixed_ports(&self) -> bool {
        let summary = self.summary();
        summary.used_lists().any(|list| list.table.has_number)
            && summary.used_lists().any(|list| !list.table.has_number)
    }

    /// The endpoints, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        let stored = self.stored.endpoints.iter().flatten();
        stored.map(|stored| &stored.endpoint)
    }

    /// The slices as objects, sorted by name. `key` is the key of the Service.
    pub(crate) fn slices(&self, key: &ObjectKey) -> Vec<EndpointSlice> {
        let numbers = 0..self.stored.slices.len() as u32;
        let mut slices: Vec<EndpointSlice> = numbers
            .filter_map(|number| self.slice(number, key))
            .collect();
        slices.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        slices
    }

    /// The slice with this number, as an object. `key` is the key of the Service.
    pub(crate) fn slice(&self, number: u32, key: &ObjectKey) -> Option<EndpointSlice> {
        let slice = self.stored.slices.get(number as usize)?.as_ref()?;
        Some(EndpointSlice {
            key: ObjectKey {
                namespace: key.namespace.clone(),
                name: slice.name.clone(),
            },
            service: Some(key.name.clone()),
            endpoints: self.stored.members_of(slice).cloned().collect(),
            readability: slice.readability,
            ports: slice.ports.clone(),
        })
    }

    /// Whether the stored slice with this number equals `slice`, apart from the order of endpoints.
    pub(crate) fn has_slice(&self, number: u32, slice: &EndpointSlice) -> bool {
        let Some(Some(stored)) = self.stored.slices.get(number as usize) else {
            return false;
        };
        stored.ports == slice.ports
            && stored.readability == slice.readability
            && self.stored.match_members(stored, slice).is_same()
    }

    /// Adds a slice. Returns its number and the change.
    pub(crate) fn add_slice(
        &mut self,
        slice: EndpointSlice,
        settings: &ZoneSettings,
    ) -> (u32, SliceChange) {
        let slices = &mut self.stored.slices;
        let free = slices.iter().position(Option::is_none);
        let number = free.unwrap_or(slices.len());
        if free.is_none() {
            // Most Services have one slice, so spare capacity would waste memory.
            if slices.is_empty() {
                slices.reserve_exact(1);
            }
            slices.push(None);
        }
        let change = self.replace_slice(number as u32, slice, settings);
        (number as u32, change)
    }

    /// Stores a new version of the slice with this number.
    pub(crate) fn replace_slice(
        &mut self,
        number: u32,
        slice: EndpointSlice,
        settings: &ZoneSettings,
    ) -> SliceChange {
        let is_nonstandard = is_nonstandard(slice.readability, slice.endpoints.iter(), settings);
        let old = self.stored.slices[number as usize].take();
        let matching = match &old {
            Some(old) if old.ports == slice.ports && old.is_nonstandard == is_nonstandard => {
                self.stored.match_members(old, &slice)
            }
            _ => MemberMatch {
                kept: Vec::new(),
                removed: old.iter().flat_map(|old| &old.members).copied().collect(),
                added: (0..slice.endpoints.len()).collect(),
            },
        };
        let mut old_ports = slice.ports.clone();
        if let Some(old) = old {
            if let Some(index) = &mut self.index {
                index.summary.remove_slice(&old);
            }
            old_ports = old.ports;
        }
        let removed = self.remove_endpoints(&matching.removed, settings);

        let mut free = self.free_numbers();
        let mut members = matching.kept;
        let mut added = Vec::with_capacity(matching.added.len());
        members.reserve_exact(matching.added.len());
        if self.index.is_none() {
            // Most Services have few endpoints, so spare capacity would waste memory.
            self.stored.endpoints.reserve_exact(matching.added.len());
        }
        for at in matching.added {
            let endpoint = slice.endpoints[at].clone();
            added.push(endpoint.clone());
            let endpoint = StoredEndpoint {
                endpoint,
                slice: number,
            };
            members.push(self.store_endpoint(endpoint, &mut free));
        }
        let first_added = members.len() - added.len();
        let arrived = members[first_added..].to_vec();
        let stored = StoredSlice {
            name: slice.key.name,
            ports: slice.ports,
            readability: slice.readability,
            is_nonstandard,
            members: members.into(),
        };
        let stored = match &mut self.index {
            Some(index) => index.summary.add_slice(stored),
            None => self.stored.share_ports(stored),
        };
        let new_ports = stored.ports.clone();
        self.stored.slices[number as usize] = Some(stored);
        self.update_index(&arrived, settings);
        SliceChange {
            removed,
            old_ports,
            added,
            new_ports,
        }
    }

    /// Removes the slice with this number.
    pub(crate) fn remove_slice(&mut self, number: u32, settings: &ZoneSettings) -> SliceChange {
        let Some(old) = self.stored.slices[number as usize].take() else {
            return SliceChange::default();
        };
        if let Some(index) = &mut self.index {
            index.summary.remove_slice(&old);
        }
        let removed = self.remove_endpoints(&old.members, settings);
        self.update_index(&[], settings);
        SliceChange {
            removed,
            old_ports: old.ports,
            ..SliceChange::default()
        }
    }

    /// Derives again what depends on the settings.
    pub(crate) fn update_settings(&mut self, settings: &ZoneSettings) {
        let endpoints = &self.stored.endpoints;
        for slice in self.stored.slices.iter_mut().flatten() {
            let members = slice.members.iter();
            let members = members.filter_map(|number| endpoints[*number as usize].as_ref());
            let members = members.map(|stored| &stored.endpoint);
            slice.is_nonstandard = is_nonstandard(slice.readability, members, settings);
        }
        self.index = None;
        self.update_index(&[], settings);
    }

    fn is_small(&self) -> bool {
        let slices = self.stored.slices.iter().flatten();
        let pairs = slices.map(|slice| slice.members.len().max(1) * slice.ports.len());
        self.stored.slices.len() <= MAX_SMALL
            && self.count() <= MAX_SMALL
            && pairs.sum::<usize>() <= MAX_SMALL_PAIRS
    }

    fn summary(&self) -> Cow<'_, SliceSummary> {
        match &self.index {
            Some(index) => Cow::Borrowed(&index.summary),
            None => Cow::Owned(SliceSummary::of_all(&self.stored)),
        }
    }

    /// The numbers that are free, for a Service without an index.
    fn free_numbers(&self) -> Vec<u32> {
        if self.index.is_some() {
            return Vec::new();
        }
        let endpoints = self.stored.endpoints.iter().enumerate();
        let free = endpoints.filter(|(_, endpoint)| endpoint.is_none());
        free.map(|(number, _)| number as u32).collect()
    }

    /// Stores an endpoint. `free` has the free numbers of a Service without an index.
    fn store_endpoint(&mut self, endpoint: StoredEndpoint, free: &mut Vec<u32>) -> u32 {
        let endpoints = &mut self.stored.endpoints;
        let free = match &mut self.index {
            Some(index) => index.free.pop(),
            None => free.pop(),
        };
        let number = free.map_or(endpoints.len(), |number| number as usize);
        if number == endpoints.len() {
            endpoints.push(None);
        }
        endpoints[number] = Some(endpoint);
        number as u32
    }

    /// Removes endpoints, also from the sorted lists.
    fn remove_endpoints(&mut self, numbers: &[u32], settings: &ZoneSettings) -> Vec<Endpoint> {
        if let Some(index) = &mut self.index {
            for number in numbers {
                index.sorted.remove(*number, &self.stored, settings);
            }
            index.free.extend(numbers);
        }
        let numbers = numbers.iter();
        let taken = numbers.filter_map(|number| self.stored.endpoints[*number as usize].take());
        taken.map(|stored| stored.endpoint).collect()
    }

    /// Adds stored endpoints to the sorted lists. Creates or drops the index as the size of the
    /// Service requires.
    fn update_index(&mut self, added: &[u32], settings: &ZoneSettings) {
        if self.is_small() {
            if self.index.take().is_some() {
                self.stored.compact();
            }
            return;
        }
        if let Some(index) = &mut self.index {
            for number in added {
                index.sorted.insert(*number, &self.stored, settings);
            }
            return;
        }
        let free = self.free_numbers();
        let mut summary = SliceSummary::default();
        for slice in &mut self.stored.slices {
            *slice = slice.take().map(|slice| summary.add_slice(slice));
        }
        self.index = Some(Box::new(EndpointIndex {
            sorted: SortedEndpoints::of_all(&self.stored, settings),
            summary,
            free,
        }));
    }
}

impl SliceSummary {
    /// The counts of all stored slices.
    fn of_all(stored: &StoredEndpoints) -> SliceSummary {
        let mut summary = SliceSummary::default();
        for slice in stored.slices.iter().flatten() {
            summary.count_slice(slice);
        }
        summary
    }

    /// The different lists of ports that endpoints have.
    fn used_lists(&self) -> impl Iterator<Item = &PortList> {
        self.port_lists.iter().filter(|list| list.endpoints > 0)
    }

    /// Adds a slice. Returns it with the shared list of its ports.
    fn add_slice(&mut self, slice: StoredSlice) -> StoredSlice {
        let ports = self.count_slice(&slice);
        StoredSlice { ports, ..slice }
    }

    /// Adds a slice to the counts. Returns the list of ports that equals the slice's.
    fn count_slice(&mut self, slice: &StoredSlice) -> Arc<[Port]> {
        self.nonstandard += usize::from(slice.is_nonstandard);
        self.unreadable += usize::from(slice.readability == SliceReadability::Unreadable);
        let at = self.find_list(&slice.ports).unwrap_or_else(|| {
            self.port_lists.push(PortList {
                table: Arc::new(PortTable::new(slice.ports.clone())),
                slices: 0,
                endpoints: 0,
            });
            self.port_lists.len() - 1
        });
        let list = &mut self.port_lists[at];
        list.slices += 1;
        list.endpoints += slice.members.len();
        list.table.ports.clone()
    }

    fn remove_slice(&mut self, slice: &StoredSlice) {
        self.nonstandard -= usize::from(slice.is_nonstandard);
        self.unreadable -= usize::from(slice.readability == SliceReadability::Unreadable);
        let Some(at) = self.find_list(&slice.ports) else {
            return;
        };
        let list = &mut self.port_lists[at];
        list.slices -= 1;
        list.endpoints -= slice.members.len();
        if list.slices == 0 {
            self.port_lists.swap_remove(at);
        }
    }

    /// The position of a list of ports. Lists that are the same need not be compared.
    fn find_list(&self, ports: &Arc<[Port]>) -> Option<usize> {
        let lists = &self.port_lists;
        let is_same = |list: &PortList| Arc::ptr_eq(&list.table.ports, ports);
        let is_equal = |list: &PortList| list.table.ports == *ports;
        (lists.iter().position(is_same)).or_else(|| lists.iter().position(is_equal))
    }
}

impl StoredEndpoints {
    /// The endpoint with this number, which must be in use.
    fn endpoint(&self, number: u32) -> &Endpoint {
        &self.stored(number).endpoint
    }

    /// The ports of an endpoint: those of its slice.
    fn ports_of(&self, number: u32) -> &Arc<[Port]> {
        &self.slice_of(number).ports
    }

    fn slice_of(&self, number: u32) -> &StoredSlice {
        let slice = self.slices[self.stored(number).slice as usize].as_ref();
        slice.expect("an endpoint's slice is stored")
    }

    fn stored(&self, number: u32) -> &StoredEndpoint {
        let stored = self.endpoints[number as usize].as_ref();
        stored.expect("lists hold only numbers of stored endpoints")
    }

    fn members_of<'a>(&'a self, slice: &'a StoredSlice) -> impl Iterator<Item = &'a Endpoint> {
        slice.members.iter().map(|number| self.endpoint(*number))
    }

    /// Removes the free numbers of endpoints. The numbers of slices don't change.
    fn compact(&mut self) {
        let mut endpoints = Vec::new();
        for slice in self.slices.iter_mut().flatten() {
            for member in &mut slice.members {
                let stored = self.endpoints[*member as usize].take();
                *member = endpoints.len() as u32;
                endpoints.push(stored);
            }
        }
        endpoints.shrink_to_fit();
        self.endpoints = endpoints;
    }

    /// A slice with the list of ports of another slice that has equal ones, if there is any.
    fn share_ports(&self, slice: StoredSlice) -> StoredSlice {
        let mut others = self.slices.iter().flatten();
        match others.find(|other| other.ports == slice.ports) {
            Some(other) => StoredSlice {
                ports: other.ports.clone(),
                ..slice
            },
            None => slice,
        }
    }

    /// Finds the endpoints that two versions of a slice have in common.
    fn match_members(&self, old: &StoredSlice, new: &EndpointSlice) -> MemberMatch {
        let mut found = MemberMatch {
            kept: Vec::new(),
            removed: Vec::new(),
            added: Vec::new(),
        };
        let mut stored = old.members.to_vec();
        stored.sort_unstable_by_key(|number| self.endpoint(*number));
        let mut positions: Vec<usize> = (0..new.endpoints.len()).collect();
        positions.sort_unstable_by_key(|at| &new.endpoints[*at]);
        let (mut stored, mut positions) = (
            stored.into_iter().peekable(),
            positions.into_iter().peekable(),
        );
        while let (Some(number), Some(at)) = (stored.peek(), positions.peek()) {
            match self.endpoint(*number).cmp(&new.endpoints[*at]) {
                Ordering::Less => found.removed.extend(stored.next()),
                Ordering::Greater => found.added.extend(positions.next()),
                Ordering::Equal => {
                    found.kept.extend(stored.next());
                    positions.next();
                }
            }
        }
        found.removed.extend(stored);
        found.added.extend(positions);
        found
    }
}

impl MemberMatch {
    fn is_same(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }
}
