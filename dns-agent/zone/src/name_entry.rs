//! The entry of a name: its RRsets, and the computed names below it.

use std::net::IpAddr;

use super::{Name, Rdata, Rtype, Srv, undashed};

/// The data of an existing name. A name without data is answered as an empty non-terminal
/// (RFC 8020).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameEntry {
    pub(super) rrsets: Vec<RrSet>,
    pub(super) computed_names: ComputedNames,
    pub(super) other_types: OtherTypes,
}

/// How queries for types without data at a name are answered. This does not apply to A and AAAA at
/// an alias, because the alias has the addresses of its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherTypes {
    /// With NODATA, or at an alias from its target.
    #[default]
    Denied,
    /// The queries pass.
    Passed,
    /// With NODATA. But at an alias the queries pass, because of a CoreDNS deviation.
    PassedAtAlias,
    /// Only the addresses of the name are known: A and AAAA are answered with
    /// [`Answer::NoDataAtName`](crate::Answer::NoDataAtName), and the other queries pass.
    Unknown,
}

/// An RRset: the records of one owner and type (RFC 2181 §5), in canonical order. Queries for an
/// RRset without data pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RrSet {
    pub(super) rtype: Rtype,
    pub(super) ttl: u32,
    pub(super) data: Vec<Rdata>,
}

/// The computed names below a name, which exist without entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ComputedNames {
    /// No computed names.
    #[default]
    Nothing,
    /// Any one label, without data.
    Empty,
    /// One label that is a dashed address, with that address as data. The field is the TTL in
    /// seconds.
    Addresses(u32),
    /// Any one label, without data. Below each, names as in [`ComputedNames::Addresses`].
    EmptyThenAddresses(u32),
    /// Any one label, with the same data as this other name.
    Like(Name),
    /// Any one label may exist. Queries for such names pass.
    Unknown,
}

impl NameEntry {
    /// An entry without data, with computed names below it.
    pub fn with_computed_names(computed_names: ComputedNames) -> NameEntry {
        NameEntry {
            computed_names,
            ..NameEntry::default()
        }
    }

    /// The entry of a host of which only the addresses are known, such as one in a hosts file.
    /// There must be at least one address. `ttl` is in seconds.
    #[must_use]
    pub fn of_host(ttl: u32, addresses: &[IpAddr]) -> NameEntry {
        let mut entry = NameEntry {
            other_types: OtherTypes::Unknown,
            ..NameEntry::default()
        };
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|it| it.is_ipv4());
        for family in [v4, v6] {
            entry.add_rrset(ttl, family.into_iter().map(Rdata::from).collect());
        }
        entry
    }

    /// Adds an RRset, unless `data` is empty. Puts the records into canonical order, without
    /// duplicates. The entry must have no RRset of this type yet.
    pub fn add_rrset(&mut self, ttl: u32, mut data: Vec<Rdata>) {
        let Some(first) = data.first() else {
            return;
        };
        let rtype = first.rtype();
        data.sort_unstable();
        data.dedup();
        self.rrsets.push(RrSet { rtype, ttl, data });
    }

    /// Makes queries for one type pass. Data of this type is removed.
    pub fn delegate_type(&mut self, rtype: Rtype) {
        self.rrsets.retain(|set| set.rtype != rtype);
        self.rrsets.push(RrSet {
            rtype,
            ttl: 0,
            data: Vec::new(),
        });
    }

    /// Sets the computed names below the name.
    pub fn set_computed_names(&mut self, computed_names: ComputedNames) {
        self.computed_names = computed_names;
    }

    /// Makes queries pass for types without data, and for names one label below without an entry.
    pub fn delegate_remainder(&mut self) {
        self.computed_names = ComputedNames::Unknown;
        self.other_types = OtherTypes::Passed;
    }

    /// The types that have data, and those delegated by [`ModelBuilder::delegate_type`].
    ///
    /// [`ModelBuilder::delegate_type`]: crate::ModelBuilder::delegate_type
    pub fn types(&self) -> impl Iterator<Item = Rtype> {
        self.rrsets.iter().map(|set| set.rtype)
    }

    /// The data of all records.
    pub fn data(&self) -> impl Iterator<Item = &Rdata> {
        self.rrsets.iter().flat_map(|set| &set.data)
    }

    /// Whether the name is an alias: it has a CNAME.
    pub fn is_alias(&self) -> bool {
        self.rrset(Rtype::CNAME).is_some()
    }

    /// How queries for types without data are answered.
    pub fn other_types(&self) -> OtherTypes {
        self.other_types
    }

    /// A copy of this entry that makes queries for types without data pass.
    pub fn delegating_other_types(&self) -> NameEntry {
        NameEntry {
            other_types: OtherTypes::Passed,
            ..self.clone()
        }
    }

    /// A copy of this entry that makes queries for types without data, other than A and AAAA, pass
    /// if the name is an alias. See [`OtherTypes::PassedAtAlias`].
    pub fn delegating_types_at_alias(&self) -> NameEntry {
        let other_types = match self.other_types {
            OtherTypes::Denied => OtherTypes::PassedAtAlias,
            other_types => other_types,
        };
        NameEntry {
            other_types,
            ..self.clone()
        }
    }

    /// Whether the name has addresses, or is an alias, or an address type is delegated by
    /// [`ModelBuilder::delegate_type`].
    ///
    /// [`ModelBuilder::delegate_type`]: crate::ModelBuilder::delegate_type
    pub fn is_host(&self) -> bool {
        [Rtype::A, Rtype::AAAA, Rtype::CNAME]
            .into_iter()
            .any(|rtype| self.rrset(rtype).is_some())
    }

    /// The hosts that NS and SRV records of this name refer to.
    pub fn hosts(&self) -> impl Iterator<Item = &Name> {
        self.data().filter_map(Rdata::host)
    }

    /// The computed names below this name.
    pub fn computed_names(&self) -> &ComputedNames {
        &self.computed_names
    }

    /// Whether there are computed names below this name.
    pub fn has_computed_names(&self) -> bool {
        self.computed_depth() > 0
    }

    /// The largest number of labels that computed names have below this name: 0, 1, or 2. It is 2
    /// for `pod.<zone>` with `--pods insecure` if every namespace is taken to exist.
    pub fn computed_depth(&self) -> usize {
        match self.computed_names {
            ComputedNames::Nothing => 0,
            ComputedNames::Empty
            | ComputedNames::Addresses(_)
            | ComputedNames::Like(_)
            | ComputedNames::Unknown => 1,
            ComputedNames::EmptyThenAddresses(_) => 2,
        }
    }

    /// Whether the name has neither RRsets nor computed names.
    pub fn is_bare(&self) -> bool {
        self.rrsets.is_empty() && self.computed_names == ComputedNames::Nothing
    }

    /// Whether queries for this type pass.
    pub fn delegates_type(&self, rtype: Rtype) -> bool {
        match self.rrset(rtype) {
            Some(set) => set.data.is_empty(),
            // An alias has the addresses of its target.
            None if self.is_alias() && matches!(rtype, Rtype::A | Rtype::AAAA) => false,
            None => match self.other_types {
                OtherTypes::Denied => false,
                OtherTypes::Passed => true,
                OtherTypes::PassedAtAlias => self.is_alias(),
                OtherTypes::Unknown => !matches!(rtype, Rtype::A | Rtype::AAAA),
            },
        }
    }

    /// Whether the records of this entry, which may be cut, have this data.
    pub fn records_have(&self, data: &Rdata) -> bool {
        // Data of an RRset is sorted.
        (self.rrset(data.rtype())).is_some_and(|set| set.data.binary_search(data).is_ok())
    }

    pub(super) fn rrset(&self, rtype: Rtype) -> Option<&RrSet> {
        self.rrsets.iter().find(|set| set.rtype == rtype)
    }
}

impl ComputedNames {
    /// The entry of `name`, a computed name one label below. A computed name gets an entry when
    /// names below it have entries or are delegated. Below [`ComputedNames::Unknown`] it is
    /// answered like any name that exists only because of names below it. `like` finds the entry of
    /// the name in [`ComputedNames::Like`].
    pub fn child_entry(&self, name: &Name, like: impl Fn(&Name) -> Option<NameEntry>) -> NameEntry {
        let label = name.labels().next().unwrap_or_default();
        match self {
            ComputedNames::Nothing | ComputedNames::Empty | ComputedNames::Unknown => {
                NameEntry::default()
            }
            ComputedNames::EmptyThenAddresses(ttl) => NameEntry {
                computed_names: ComputedNames::Addresses(*ttl),
                ..NameEntry::default()
            },
            ComputedNames::Addresses(ttl) => match undashed(label) {
                None => NameEntry::default(),
                Some(address) => NameEntry {
                    rrsets: address_data(name, address)
                        .map(|data| RrSet::with_record(*ttl, data))
                        .into(),
                    ..NameEntry::default()
                },
            },
            ComputedNames::Like(other) => NameEntry {
                rrsets: like(other).map_or(Vec::new(), |entry| entry.rrsets),
                ..NameEntry::default()
            },
        }
    }
}

impl RrSet {
    /// An RRset of one record.
    pub(super) fn with_record(ttl: u32, data: Rdata) -> RrSet {
        RrSet {
            rtype: data.rtype(),
            ttl,
            data: vec![data],
        }
    }
}

/// The data of a pod's name: the pod's address, and an SRV record with the name itself as target.
/// Weight 100 and port 0 are those of CoreDNS (docs/naming.md, rule 1.9).
pub fn address_data(owner: &Name, address: IpAddr) -> [Rdata; 2] {
    let srv = Srv {
        priority: 0,
        weight: 100,
        port: 0,
        target: owner.clone(),
    };
    [address.into(), Rdata::Srv(srv)]
}
