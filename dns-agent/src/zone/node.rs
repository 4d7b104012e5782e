//! What is known of one name.

use std::net::IpAddr;

use super::{Name, Rdata, Rtype, Srv, undashed};

/// An existing name. It may have no data itself and exist because a name below
/// it does (an empty non-terminal, RFC 8020).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub(super) sets: Vec<RecordSet>,
    pub(super) below: Below,
    pub(super) rest: Rest,
}

/// What is said of types that a name has no data of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rest {
    /// That there is none.
    #[default]
    Denied,
    /// Nothing: they are somebody else's to answer.
    Passed,
    /// That there is none, except at an alias, where only A and AAAA are answered and other types are
    /// passed: CoreDNS departs from the standards there.
    PassedAtAlias,
}

/// The records of one owner and type (RFC 2181 §5), in canonical order. A set without
/// data is somebody else's to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordSet {
    pub(super) rtype: Rtype,
    pub(super) ttl: u32,
    pub(super) data: Vec<Rdata>,
}

/// What exists below a node without being a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Below {
    /// Nothing: a name that is not a node does not exist.
    #[default]
    Nothing,
    /// Any one label, without data.
    Empty,
    /// One label that is an address with dashes has this address, with this TTL
    /// in seconds.
    Addresses(u32),
    /// Any one label, without data, and below it as in [`Below::Addresses`].
    EmptyThenAddresses(u32),
    /// Any one label, with the data of this node.
    Like(Name),
    /// Any one label may exist or not: somebody else knows.
    Unknown,
}

impl Node {
    /// A name without data, and below it what is not stored.
    pub(crate) fn computing(below: Below) -> Node {
        Node {
            below,
            ..Node::default()
        }
    }

    /// The types that have data here, or are somebody else's to answer.
    pub fn types(&self) -> impl Iterator<Item = Rtype> {
        self.sets.iter().map(|set| set.rtype)
    }

    /// Whether the name is an alias: it has a CNAME.
    pub fn is_alias(&self) -> bool {
        self.set(Rtype::CNAME).is_some()
    }

    /// What is said of types that it has no data of.
    pub fn rest(&self) -> Rest {
        self.rest
    }

    /// The same, where somebody else answers for types that it has no data of.
    pub(crate) fn passing_rest(&self) -> Node {
        Node {
            rest: Rest::Passed,
            ..self.clone()
        }
    }

    /// The same, where CoreDNS answers for an alias's other types.
    pub(crate) fn passing_at_alias(&self) -> Node {
        let rest = match self.rest {
            Rest::Denied => Rest::PassedAtAlias,
            rest => rest,
        };
        Node {
            rest,
            ..self.clone()
        }
    }

    /// Whether it has addresses, or leads to some.
    pub(crate) fn is_host(&self) -> bool {
        [Rtype::A, Rtype::AAAA, Rtype::CNAME]
            .into_iter()
            .any(|rtype| self.set(rtype).is_some())
    }

    /// The hosts that its records point at.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Name> {
        let data = self.sets.iter().flat_map(|set| &set.data);
        data.filter_map(Rdata::host)
    }

    /// What exists below without being a node.
    pub fn below(&self) -> &Below {
        &self.below
    }

    /// Whether names below exist that are not nodes.
    pub fn below_is_computed(&self) -> bool {
        self.computed_depth() > 0
    }

    /// How many labels below this name something may exist that is not a node:
    /// 0, 1, or 2 for `pod.<zone>` while it is not known which namespaces exist.
    pub fn computed_depth(&self) -> usize {
        match self.below {
            Below::Nothing => 0,
            Below::Empty | Below::Addresses(_) | Below::Like(_) | Below::Unknown => 1,
            Below::EmptyThenAddresses(_) => 2,
        }
    }

    /// Whether nothing is known but that the name exists.
    pub(crate) fn is_bare(&self) -> bool {
        self.sets.is_empty() && self.below == Below::Nothing
    }

    /// Whether somebody else answers this type.
    pub(crate) fn passes(&self, rtype: Rtype) -> bool {
        match self.set(rtype) {
            Some(set) => set.data.is_empty(),
            // An alias has the addresses that it leads to.
            None if self.is_alias() && matches!(rtype, Rtype::A | Rtype::AAAA) => false,
            None => match self.rest {
                Rest::Denied => false,
                Rest::Passed => true,
                Rest::PassedAtAlias => self.is_alias(),
            },
        }
    }

    pub(super) fn set(&self, rtype: Rtype) -> Option<&RecordSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }
}

impl Below {
    /// The node for a name one label below that no record made. `like` finds other nodes.
    pub(crate) fn child(&self, name: &Name, like: impl Fn(&Name) -> Option<Node>) -> Node {
        let label = name.labels().next().unwrap_or_default();
        match self {
            Below::Nothing | Below::Empty | Below::Unknown => Node::default(),
            Below::EmptyThenAddresses(ttl) => Node {
                below: Below::Addresses(*ttl),
                ..Node::default()
            },
            Below::Addresses(ttl) => match undashed(label) {
                None => Node::default(),
                Some(address) => Node {
                    sets: address_data(name, address)
                        .map(|data| RecordSet::of(*ttl, data))
                        .into(),
                    ..Node::default()
                },
            },
            Below::Like(other) => Node {
                sets: like(other).map_or(Vec::new(), |node| node.sets),
                ..Node::default()
            },
        }
    }
}

impl RecordSet {
    /// A set of one record.
    pub(super) fn of(ttl: u32, data: Rdata) -> RecordSet {
        RecordSet {
            rtype: data.rtype(),
            ttl,
            data: vec![data],
        }
    }
}

/// What the name of a pod has: its address, and a SRV to itself.
pub(crate) fn address_data(owner: &Name, address: IpAddr) -> [Rdata; 2] {
    let srv = Srv {
        priority: 0,
        weight: 100,
        port: 0,
        target: owner.clone(),
    };
    [address.into(), Rdata::Srv(srv)]
}
