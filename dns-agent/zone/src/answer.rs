//! Zone data, and the function that answers questions from it.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::apex::soa_of_name;
use super::name_entry::{RrSet, address_data};
use super::{
    AbsentNames, Apex, ChangedAnswers, ComputedNames, DnssecOkQueries, Name, NameEntry, OtherTypes,
    Rdata, Record, Rtype, Window, reverse_range, undashed,
};

/// The largest number of CNAMEs that one answer follows, as in CoreDNS.
const MAX_LINKS: usize = 11;

/// The most addresses of hosts that are compared with those of an answer's owner. If there are
/// more, the answer has no additional records.
const MAX_EXAMINED: usize = 4096;

/// All names of the agent's zones, from which both planes answer.
///
/// Implementors provide zones and entries. The default methods turn them into answers.
pub trait ZoneData {
    /// Cluster domains and reverse zones, longest name first.
    fn zones(&self) -> &[Apex];

    /// Names delegated to CoreDNS, each with all names below it. They are in zones, but have no
    /// entries. Queries for them pass.
    fn delegated_names(&self) -> &[Name];

    /// The entry of a name. `None` for computed names without an entry of their own, for delegated
    /// names and for names that don't exist. RRsets that don't fit `window` may be cut.
    fn entry_within(&self, name: &Name, window: Window) -> Option<Arc<NameEntry>>;

    /// The entry of a name, with all records.
    fn entry(&self, name: &Name) -> Option<Arc<NameEntry>> {
        self.entry_within(name, Window::WHOLE)
    }

    /// Whether a name with an entry has this address.
    fn has_address(&self, name: &Name, address: IpAddr) -> bool {
        let data = Rdata::from(address);
        let entry = self.entry_within(name, Window::WHOLE.for_type(data.rtype()));
        entry.is_some_and(|entry| entry.records_have(&data))
    }

    /// Calls `see` once for each name with an entry, in no particular order. RRsets that don't fit
    /// `window` may be cut. Reverse names of known addresses may be outside all zones.
    fn visit(&self, window: Window, see: &mut dyn FnMut(&Name, &NameEntry));

    /// The suffixes below which queries for names that are not in the kernel's tables must pass:
    /// names with computed names more than one label deep, and [`ZoneData::delegated_names`]. An
    /// implementation may add others.
    fn pass_suffixes(&self) -> BTreeSet<Name> {
        let mut suffixes: BTreeSet<Name> = self.delegated_names().iter().cloned().collect();
        self.visit(Window::EXISTENCE, &mut |name, entry| {
            if entry.computed_depth() > 1 {
                suffixes.insert(name.clone());
            }
        });
        suffixes
    }

    /// Whether queries for a name pass, although aliases of the name in its zone are answered. The
    /// name may have an entry.
    fn passes_queries(&self, _name: &Name) -> bool {
        false
    }

    /// Whether a name outside all zones may be known now, or after changes of objects. An
    /// implementation that has no cheap answer looks the name up.
    fn may_know(&self, name: &Name) -> bool {
        self.entry_within(name, Window::EXISTENCE).is_some()
    }

    /// The names that are known one by one, and the names above them, that are one or two labels
    /// below `name`, where computed names may be. Empty for data with zones.
    fn exact_names_below(&self, _name: &Name) -> &[Name] {
        &[]
    }

    /// Whether a name that is known one by one is below `name`. Always false for data with zones.
    fn has_exact_name_below(&self, _name: &Name) -> bool {
        false
    }

    /// Answers a question of class IN with all records.
    fn answer(&self, name: &Name, rtype: Rtype) -> Answer {
        self.answer_within(name, rtype, Window::WHOLE)
    }

    /// Answers a question of class IN. An answer that is longer than `window` may be cut, but never
    /// so far that it would fit.
    fn answer_within(&self, name: &Name, rtype: Rtype, window: Window) -> Answer {
        let answer = self.unchanged_answer(name, rtype, window);
        let is_changed = |changed: &ChangedAnswers| answer.is_among(changed, rtype);
        if self.changed_answers_of(name).iter().any(is_changed) {
            return Answer::NotAuthoritative;
        }
        answer
    }

    /// The answer to a question of class IN that no other software has changed.
    #[doc(hidden)]
    fn unchanged_answer(&self, name: &Name, rtype: Rtype, window: Window) -> Answer {
        if self.passes_type(name, rtype) || self.passes_queries(name) {
            return Answer::NotAuthoritative;
        }
        // The additional records of other types depend on the owner's addresses.
        let window = match rtype {
            Rtype::A | Rtype::AAAA => window.for_type(rtype),
            _ => window,
        };
        let Some(found) = self.find_name(name, window) else {
            return self.absent_answer(name, rtype);
        };
        if found.delegates_type(rtype) {
            return Answer::NotAuthoritative;
        }
        if let Some(link) = found.alias()
            && rtype != Rtype::CNAME
            && !is_meta(rtype)
        {
            return self.follow_alias(name, link, rtype, window);
        }
        let answer = found.records(name, rtype);
        if answer.is_empty() {
            let alone = found.soa_of_name(name);
            return alone.map_or_else(
                || self.no_data_answer(name),
                |soa| Answer::NoDataAtName { soa },
            );
        }
        let additional = self.additional_records(name, &found, &answer, window);
        Answer::Data { answer, additional }
    }

    /// The zone that a name belongs to, as an index into [`ZoneData::zones`]: the one with the
    /// longest apex at or above the name. `None` for [delegated names](ZoneData::delegated_names)
    /// and for names outside all zones.
    fn zone_of(&self, name: &Name) -> Option<usize> {
        if self.is_delegated(name) {
            return None;
        }
        self.zones()
            .iter()
            .position(|zone| name.is_at_or_below(&zone.name))
    }

    /// Whether a name is at or below a [delegated name](ZoneData::delegated_names). An
    /// implementation may delegate others too.
    fn is_delegated(&self, name: &Name) -> bool {
        let mut delegated = self.delegated_names().iter();
        delegated.any(|delegated| name.is_at_or_below(delegated))
    }

    /// Finds the data of a name: its entry, or the data of a computed name.
    #[doc(hidden)]
    fn find_name(&self, name: &Name, window: Window) -> Option<NameData> {
        if let Some(entry) = self.entry_within(name, window) {
            return Some(NameData::Entry(entry));
        }
        // There are no computed names at or below delegated names.
        if self.is_delegated(name) {
            return None;
        }
        let label = name.labels().next()?;
        let parent = name.parent()?;
        // Of an entry above, only the computed names are used.
        let empty = Window::EXISTENCE;
        if let Some(parent) = self.entry_within(&parent, empty) {
            return match &parent.computed_names {
                ComputedNames::Nothing => None,
                ComputedNames::Empty | ComputedNames::EmptyThenAddresses(_) => {
                    Some(NameData::Empty)
                }
                ComputedNames::Addresses(ttl) => NameData::address(label, *ttl),
                ComputedNames::Like(other) => self.entry_within(other, window).map(NameData::Entry),
                ComputedNames::Unknown => Some(NameData::Unknown),
            };
        }
        // The parent has no entry, but may be a computed name, below which others are computed.
        match self.entry_within(&parent.parent()?, empty)?.computed_names {
            ComputedNames::EmptyThenAddresses(ttl) => NameData::address(label, ttl),
            _ => None,
        }
    }

    /// The answers that other software changes at a name, in its own zone or in one that an alias
    /// leads to.
    fn changed_answers_of(&self, name: &Name) -> BTreeSet<ChangedAnswers> {
        let zones = self.zones().iter();
        let changed = zones.flat_map(|zone| zone.changed_answers.iter().copied());
        let changed: BTreeSet<ChangedAnswers> = changed.collect();
        // In most data the set is empty, so that the name's zone need not be searched.
        if changed.is_empty() || !self.is_in_zones(name) {
            return BTreeSet::new();
        }
        changed
    }

    /// Whether a name is in a zone. Reverse names may be in a zone without an apex.
    #[doc(hidden)]
    fn is_in_zones(&self, name: &Name) -> bool {
        self.zone_of(name).is_some() || reverse_range(name).is_some()
    }

    /// Whether queries with the DO bit pass at a name, because a zone is signed: that of the name,
    /// or one that an alias leads to.
    fn passes_dnssec_ok(&self, name: &Name) -> bool {
        let mut zones = self.zones().iter();
        // In most data no zone is signed, so that the name's zone need not be searched.
        zones.any(|zone| zone.dnssec_ok == DnssecOkQueries::Passed) && self.is_in_zones(name)
    }

    /// Whether queries for this type pass in the name's zone.
    fn passes_type(&self, name: &Name, rtype: Rtype) -> bool {
        // In most data no zone passes the type, so that the name's zone need not be searched.
        let mut zones = self.zones().iter();
        if !zones.any(|zone| zone.passed_types.contains(&rtype)) {
            return false;
        }
        let zone = self.zone_of(name);
        zone.is_some_and(|zone| self.zones()[zone].passed_types.contains(&rtype))
    }

    /// The answer for an absent name.
    #[doc(hidden)]
    fn absent_answer(&self, name: &Name, rtype: Rtype) -> Answer {
        let Some(zone) = self.zone_of(name) else {
            return Answer::NotAuthoritative;
        };
        match self.zones()[zone].absent_names {
            AbsentNames::DeniedExceptSoa if rtype == Rtype::SOA => Answer::NotAuthoritative,
            AbsentNames::Denied | AbsentNames::DeniedExceptSoa => Answer::NxDomain { zone },
            AbsentNames::Passed => Answer::NotAuthoritative,
            AbsentNames::NotYetKnown => Answer::NotYetKnown,
        }
    }

    /// Follows CNAMEs from `owner` while they stay in the zones (RFC 1034 section 3.6.2). `link`
    /// has the target and the TTL of the CNAME of `owner`. If the chain leads to a delegated name
    /// or out of the zones, the answer is [`Answer::Alias`]. If queries for the type pass at a name
    /// in the chain, this query passes, too. If the chain leads to an absent name that isn't
    /// denied, the answer is that of [`ZoneData::absent_answer`].
    ///
    /// If the end of the chain does not exist or has no data of the type, the answer has these
    /// CNAMEs:
    /// * For A and AAAA, the CNAMEs up to the last one that crosses into another zone, as in
    ///   CoreDNS. If no CNAME crosses, the answer is NODATA.
    /// * For other types, all CNAMEs. This is a CoreDNS deviation: CoreDNS answers NODATA.
    ///
    /// A chain that is too long, such as a loop, is answered as if the type were A or AAAA.
    #[doc(hidden)]
    fn follow_alias(
        &self,
        owner: &Name,
        link: (Name, u32),
        rtype: Rtype,
        window: Window,
    ) -> Answer {
        let mut chain = Vec::new();
        // The number of CNAMEs up to the last one that crosses into another zone.
        let mut crossing = 0;
        let (mut at, mut link) = (owner.clone(), link);
        for _ in 0..MAX_LINKS {
            let (target, ttl) = link;
            chain.push(Record {
                owner: at,
                ttl,
                data: Rdata::Cname(target.clone()),
            });
            let zone = self.zone_of(&target);
            if zone.is_none() {
                return Answer::Alias { chain, target };
            }
            if self.passes_type(&target, rtype) {
                return Answer::NotAuthoritative;
            }
            if zone != self.zone_of(&chain[chain.len() - 1].owner) {
                // CoreDNS asks itself for a target in another zone, but not in the same zone.
                if self.passes_queries(&target) {
                    return Answer::NotAuthoritative;
                }
                crossing = chain.len();
            }
            let Some(found) = self.find_name(&target, window) else {
                match self.absent_answer(&target, rtype) {
                    Answer::NxDomain { .. } => {
                        return self.alias_without_data(owner, chain, crossing, rtype);
                    }
                    // The target may exist, or its queries pass.
                    answer => return answer,
                }
            };
            if found.delegates_type(rtype) {
                return Answer::NotAuthoritative;
            }
            if let Some(next) = found.alias() {
                (at, link) = (target, next);
                continue;
            }
            let data = found.records(&target, rtype);
            if data.is_empty() {
                return self.alias_without_data(owner, chain, crossing, rtype);
            }
            let additional = self.additional_records(&target, &found, &data, window);
            chain.extend(data);
            return Answer::Data {
                answer: chain,
                additional,
            };
        }
        self.alias_links(owner, chain, crossing)
    }

    /// The answer for an alias whose chain ends without data of the type. `crossing` is the number
    /// of CNAMEs up to the last one that crosses into another zone.
    #[doc(hidden)]
    fn alias_without_data(
        &self,
        owner: &Name,
        chain: Vec<Record>,
        crossing: usize,
        rtype: Rtype,
    ) -> Answer {
        let kept = match rtype {
            Rtype::A | Rtype::AAAA => crossing,
            _ => chain.len(),
        };
        self.alias_links(owner, chain, kept)
    }

    /// The answer with the first `kept` CNAMEs of a chain. If `kept` is 0, the answer is that of
    /// [`ZoneData::no_data_answer`].
    #[doc(hidden)]
    fn alias_links(&self, owner: &Name, mut chain: Vec<Record>, kept: usize) -> Answer {
        chain.truncate(kept);
        if chain.is_empty() {
            return self.no_data_answer(owner);
        }
        Answer::Data {
            answer: chain,
            additional: Vec::new(),
        }
    }

    /// NODATA for an existing name in a zone. While the lists of objects are incomplete, the answer
    /// is [`Answer::NotYetKnown`], as for absent names.
    #[doc(hidden)]
    fn no_data_answer(&self, name: &Name) -> Answer {
        match self.zone_of(name) {
            Some(zone) if self.zones()[zone].absent_names == AbsentNames::NotYetKnown => {
                Answer::NotYetKnown
            }
            Some(zone) => Answer::NoData { zone },
            // For reverse names outside the zones, only PTR records are answered.
            None => Answer::NotAuthoritative,
        }
    }

    /// The addresses of the hosts named in an answer, each host once.
    ///
    /// `found` has the data of `owner`, the owner of the answer. If the owner has addresses, an SRV
    /// target adds only addresses that the owner has too, because the target's other addresses
    /// don't serve the port.
    #[doc(hidden)]
    fn additional_records(
        &self,
        owner: &Name,
        found: &NameData,
        answer: &[Record],
        window: Window,
    ) -> Vec<Record> {
        let mut seen = HashSet::new();
        let mut additional = Vec::new();
        let mut examined = 0;
        // An answer that doesn't fit has no additional records.
        if answer.iter().map(Record::least_bytes).sum::<usize>() > window.bytes {
            return additional;
        }
        for record in answer {
            // A message that is too long loses all its additional records.
            if additional.len() > window.bytes / Window::MIN_ADDRESS_RECORD {
                break;
            }
            let Some(host) = record.data.host().filter(|host| seen.insert(*host)) else {
                continue;
            };
            // The addresses are cut only after the unwanted ones are left out.
            let is_limited = matches!(record.data, Rdata::Srv(_)) && found.has_addresses();
            let bytes = if is_limited {
                MAX_EXAMINED * Window::MIN_ADDRESS_RECORD
            } else {
                window.bytes
            };
            for rtype in [Rtype::A, Rtype::AAAA] {
                let window = Window { bytes, ..window }.for_type(rtype);
                let Some(host_found) = self.find_name(host, window) else {
                    continue;
                };
                // Such a name may change without a change of the names that refer to it.
                if host_found.is_known_alone() {
                    continue;
                }
                let addresses = host_found.records(host, rtype);
                examined += addresses.len();
                if is_limited && examined > MAX_EXAMINED {
                    return Vec::new();
                }
                let addresses = addresses.into_iter();
                let is_wanted = |it: &Record| !is_limited || self.owner_has(owner, found, &it.data);
                additional.extend(addresses.filter(is_wanted));
            }
        }
        additional
    }

    /// Whether an owner with the data `found` has this address. `found` may be cut.
    #[doc(hidden)]
    fn owner_has(&self, owner: &Name, found: &NameData, address: &Rdata) -> bool {
        if found.has_data(address) {
            return true;
        }
        // The owner may be a computed name, which has the data of another name.
        let stored = match found {
            NameData::Entry(_) => self.name_with_entry(owner),
            NameData::Empty | NameData::Address { .. } | NameData::Unknown => None,
        };
        stored.is_some_and(|stored| match address {
            Rdata::A(address) => self.has_address(&stored, (*address).into()),
            Rdata::Aaaa(address) => self.has_address(&stored, (*address).into()),
            _ => false,
        })
    }

    /// The name whose entry has the data of `name`: the name itself, or the name in
    /// [`ComputedNames::Like`].
    #[doc(hidden)]
    fn name_with_entry(&self, name: &Name) -> Option<Name> {
        let window = Window::EXISTENCE;
        if self.entry_within(name, window).is_some() {
            return Some(name.clone());
        }
        match &self.entry_within(&name.parent()?, window)?.computed_names {
            ComputedNames::Like(other) => Some(other.clone()),
            _ => None,
        }
    }
}

impl<T: ZoneData + ?Sized> ZoneData for &T {
    fn zones(&self) -> &[Apex] {
        (**self).zones()
    }

    fn delegated_names(&self) -> &[Name] {
        (**self).delegated_names()
    }

    fn entry_within(&self, name: &Name, window: Window) -> Option<Arc<NameEntry>> {
        (**self).entry_within(name, window)
    }

    fn has_address(&self, name: &Name, address: IpAddr) -> bool {
        (**self).has_address(name, address)
    }

    fn visit(&self, window: Window, see: &mut dyn FnMut(&Name, &NameEntry)) {
        (**self).visit(window, see);
    }

    fn pass_suffixes(&self) -> BTreeSet<Name> {
        (**self).pass_suffixes()
    }

    fn is_delegated(&self, name: &Name) -> bool {
        (**self).is_delegated(name)
    }

    fn passes_queries(&self, name: &Name) -> bool {
        (**self).passes_queries(name)
    }

    fn may_know(&self, name: &Name) -> bool {
        (**self).may_know(name)
    }

    fn exact_names_below(&self, name: &Name) -> &[Name] {
        (**self).exact_names_below(name)
    }

    fn has_exact_name_below(&self, name: &Name) -> bool {
        (**self).has_exact_name_below(name)
    }
}

/// Read access to zone data that changes.
pub trait LiveZoneData: Send + Sync {
    /// Calls `see` with the current data. Changes wait until `see` returns.
    fn with_data(&self, see: &mut dyn FnMut(&dyn ZoneData));
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Data, or only CNAMEs if their chain ends without data: see `ZoneData::follow_alias`. The
    /// records of an RRset are in canonical order; the renderer rotates addresses.
    Data {
        /// The answer section: the CNAMEs that were followed, then the data. Without data, the last
        /// CNAMEs may be left out.
        answer: Vec<Record>,
        /// The additional section: addresses of the hosts named in the answer section.
        additional: Vec<Record>,
    },
    /// The name exists, but has no data of the type (RFC 2308 §2.2).
    NoData {
        /// The zone whose SOA record is in the answer: an index into [`ZoneData::zones`].
        zone: usize,
    },
    /// The name is known alone, not as a name of a zone, and has no address of the queried family
    /// (RFC 2308 §2.2). Nothing is said about any other name.
    NoDataAtName {
        /// A SOA record whose owner is the name itself, so that the answer may be cached.
        soa: Record,
    },
    /// Neither the name nor anything below it exists (RFC 2308 §2.1, RFC 8020).
    NxDomain {
        /// The zone whose SOA record is in the answer: an index into [`ZoneData::zones`].
        zone: usize,
    },
    /// CNAMEs that lead out of the zones or to a delegated name. The resolver queries an upstream
    /// for `target` and appends its answer.
    Alias {
        /// The CNAMEs, in order.
        chain: Vec<Record>,
        /// The target of the last CNAME.
        target: Name,
    },
    /// The name or type is absent, but may exist, because the lists of objects are incomplete.
    NotYetKnown,
    /// The query passes, because the name, or its data of this type, is outside the zones or
    /// delegated, because CoreDNS may know it (for example [`AbsentNames::Passed`]), or because of
    /// a CoreDNS deviation.
    NotAuthoritative,
}

impl Answer {
    /// Whether this answer to a query for `rtype` is of a kind that other software changes. An
    /// alias that leads out of the zones is, because its end is not known.
    fn is_among(&self, changed: &ChangedAnswers, rtype: Rtype) -> bool {
        let (answer, additional) = match self {
            Answer::Data { answer, additional } => (&answer[..], &additional[..]),
            Answer::NoData { .. } | Answer::NoDataAtName { .. } => (&[][..], &[][..]),
            Answer::Alias { .. } => {
                return match changed {
                    ChangedAnswers::WithoutType(without) => *without == rtype,
                    ChangedAnswers::SeveralAddresses => true,
                };
            }
            Answer::NxDomain { .. } | Answer::NotYetKnown | Answer::NotAuthoritative => {
                return false;
            }
        };
        let is_address = |record: &&Record| matches!(record.data, Rdata::A(_) | Rdata::Aaaa(_));
        match changed {
            ChangedAnswers::WithoutType(without) => {
                let mut records = answer.iter();
                *without == rtype && !records.any(|record| record.data.rtype() == rtype)
            }
            ChangedAnswers::SeveralAddresses => [answer, additional]
                .iter()
                .any(|section| section.iter().filter(is_address).count() > 1),
        }
    }
}

/// The data of an existing name.
#[doc(hidden)]
#[derive(Debug)]
pub enum NameData {
    /// The data of an entry, of this name or of the name in [`ComputedNames::Like`].
    Entry(Arc<NameEntry>),
    /// A computed name without data.
    Empty,
    /// A computed name whose first label is a dashed address. It has the data of [`address_data`].
    Address { address: IpAddr, ttl: u32 },
    /// A computed name that may exist. All queries for it pass.
    Unknown,
}

impl NameData {
    fn address(label: &[u8], ttl: u32) -> Option<NameData> {
        undashed(label).map(|address| NameData::Address { address, ttl })
    }

    fn rrset(&self, rtype: Rtype) -> Option<&RrSet> {
        match self {
            NameData::Entry(entry) => entry.rrset(rtype),
            _ => None,
        }
    }

    /// Whether queries for this type pass.
    fn delegates_type(&self, rtype: Rtype) -> bool {
        match self {
            NameData::Unknown => true,
            NameData::Entry(entry) => entry.delegates_type(rtype),
            NameData::Empty | NameData::Address { .. } => false,
        }
    }

    /// Whether the name is known alone, not as a name of a zone: [`OtherTypes::Unknown`].
    fn is_known_alone(&self) -> bool {
        matches!(self, NameData::Entry(entry) if entry.other_types == OtherTypes::Unknown)
    }

    /// The SOA record of a negative answer of a name that is known alone.
    fn soa_of_name(&self, name: &Name) -> Option<Record> {
        match self {
            NameData::Entry(entry) if self.is_known_alone() => {
                let ttl = entry.rrsets.first().map_or(0, |set| set.ttl);
                Some(soa_of_name(name, ttl))
            }
            _ => None,
        }
    }

    /// The target and the TTL of the name's CNAME.
    fn alias(&self) -> Option<(Name, u32)> {
        let set = self.rrset(Rtype::CNAME)?;
        match set.data.first() {
            Some(Rdata::Cname(target)) => Some((target.clone(), set.ttl)),
            _ => None,
        }
    }

    /// Whether the name has addresses, or queries for an address type pass by
    /// [`ModelBuilder::delegate_type`](crate::ModelBuilder::delegate_type).
    fn has_addresses(&self) -> bool {
        match self {
            NameData::Address { .. } => true,
            _ => [Rtype::A, Rtype::AAAA]
                .into_iter()
                .any(|rtype| self.rrset(rtype).is_some()),
        }
    }

    /// Whether the name has this data.
    fn has_data(&self, data: &Rdata) -> bool {
        match self {
            NameData::Address { address, .. } => *data == Rdata::from(*address),
            NameData::Entry(entry) => entry.records_have(data),
            NameData::Empty | NameData::Unknown => false,
        }
    }

    /// The records of one type, owned by `owner`. Empty if there are none.
    fn records(&self, owner: &Name, rtype: Rtype) -> Vec<Record> {
        let record = |ttl, data| Record {
            owner: owner.clone(),
            ttl,
            data,
        };
        if let NameData::Address { address, ttl } = *self {
            return address_data(owner, address)
                .into_iter()
                .filter(|data| data.rtype() == rtype)
                .map(|data| record(ttl, data))
                .collect();
        }
        self.rrset(rtype).map_or_else(Vec::new, |set| {
            let data = set.data.iter();
            data.map(|data| record(set.ttl, data.clone())).collect()
        })
    }
}

/// Whether a type is a meta-type, a QTYPE or the reserved type 0, and so never the type of stored
/// data (RFC 6895 section 3.1).
fn is_meta(rtype: Rtype) -> bool {
    rtype == Rtype::OPT || matches!(rtype.to_int(), 0 | 128..=255)
}
