//! All names there are, and the one function that answers a question from them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{Name, NameError, Rdata, Record, Rtype, Soa, Srv, undashed};

/// How many CNAMEs one answer may follow.
const MAX_LINKS: usize = 10;

/// The longest TTL of a SOA record, in seconds.
const MAX_SOA_TTL: u32 = 300;

/// Every name with its data. Immutable once built, and shared as `Arc<Model>`.
#[derive(Debug)]
pub struct Model {
    pub(super) zones: Vec<Apex>,
    pub(super) nodes: HashMap<Name, Node>,
    pub(super) serial: u32,
}

/// A zone: a cluster domain or a reverse zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apex {
    /// The zone's name.
    pub name: Name,
    /// Its SOA data; the primary server is `ns.dns.<name>`, the mailbox
    /// `hostmaster.<name>`.
    pub soa: Soa,
    /// The TTL of the SOA record in an answer, in seconds.
    pub ttl: u32,
    /// The TTL of the SOA record in a negative answer: how long "no" may be kept,
    /// in seconds (RFC 2308 §5).
    pub negative_ttl: u32,
}

/// An existing name. It may have no data itself and exist because a name below
/// it does (an empty non-terminal, RFC 8020).
#[derive(Debug, Default)]
pub struct Node {
    pub(super) sets: Vec<RecordSet>,
    pub(super) below: Below,
}

/// The records of one owner and type (RFC 2181 §5), in canonical order.
#[derive(Debug)]
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
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Data, in canonical order (the renderer rotates addresses).
    Data {
        /// The answer section: CNAMEs of ours that were followed, then the data.
        answer: Vec<Record>,
        /// The additional section: addresses of the hosts named in the answer.
        additional: Vec<Record>,
    },
    /// The name exists, the type does not (RFC 2308 §2.2).
    NoData {
        /// The zone whose SOA says so: an index into [`Model::zones`].
        zone: usize,
    },
    /// Neither the name nor anything below it exists (RFC 2308 §2.1, RFC 8020).
    NxDomain {
        /// The zone whose SOA says so: an index into [`Model::zones`].
        zone: usize,
    },
    /// CNAMEs inside our data that leave it: ask the upstream for `target` and
    /// append its answer.
    Alias {
        /// The CNAMEs, in order.
        chain: Vec<Record>,
        /// What the last of them names.
        target: Name,
    },
    /// The name is not ours: pass it on.
    NotOurs,
}

/// What is known of one existing name.
enum Found<'a> {
    Node(&'a Node),
    Empty,
    Address { address: IpAddr, ttl: u32 },
}

impl Model {
    /// Answers a question of class IN.
    pub fn answer(&self, name: &Name, rtype: Rtype) -> Answer {
        let Some(found) = self.find(name) else {
            return match self.zone_of(name) {
                Some(zone) => Answer::NxDomain { zone },
                None => Answer::NotOurs,
            };
        };
        if let Some(link) = found.alias()
            && matches!(rtype, Rtype::A | Rtype::AAAA)
        {
            return self.follow(name, link, rtype);
        }
        let answer = found.records(name, rtype);
        if answer.is_empty() {
            return self.no_data(name);
        }
        let additional = self.additional(&answer);
        Answer::Data { answer, additional }
    }

    /// Cluster domains and reverse zones, longest name first.
    pub fn zones(&self) -> &[Apex] {
        &self.zones
    }

    /// The zone a name belongs to, as an index into [`Model::zones`]: the
    /// longest apex at or above the name.
    pub fn zone_of(&self, name: &Name) -> Option<usize> {
        self.zones
            .iter()
            .position(|zone| name.is_at_or_below(&zone.name))
    }

    /// Every name that exists, in no order. A name outside all zones can be among
    /// them: the reverse name of an address of ours in a network we have no
    /// authority for.
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.nodes.iter()
    }

    /// What is known of a name that is stored.
    pub fn node(&self, name: &Name) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The serial of all zones (RFC 1035 §3.3.13).
    pub fn serial(&self) -> u32 {
        self.serial
    }

    fn find(&self, name: &Name) -> Option<Found<'_>> {
        if let Some(node) = self.nodes.get(name) {
            return Some(Found::Node(node));
        }
        let label = name.labels().next()?;
        let mut ancestors = name.suffixes().skip(1).map(|wire| self.nodes.get(wire));
        if let Some(parent) = ancestors.next()? {
            return match &parent.below {
                Below::Nothing => None,
                Below::Empty | Below::EmptyThenAddresses(_) => Some(Found::Empty),
                Below::Addresses(ttl) => Found::address(label, *ttl),
                Below::Like(other) => self.nodes.get(other).map(Found::Node),
            };
        }
        match ancestors.next()??.below {
            Below::EmptyThenAddresses(ttl) => Found::address(label, ttl),
            _ => None,
        }
    }

    /// Follows CNAMEs from `owner`, whose own is `link`, as far as they stay
    /// inside our zones. A chain without the asked data at its end is no data,
    /// without the CNAMEs; so is one too long, and with it every loop.
    fn follow(&self, owner: &Name, link: (&Name, u32), rtype: Rtype) -> Answer {
        let mut chain = Vec::new();
        let (mut at, mut link) = (owner, link);
        for _ in 0..MAX_LINKS {
            let (target, ttl) = link;
            chain.push(Record {
                owner: at.clone(),
                ttl,
                data: Rdata::Cname(target.clone()),
            });
            if self.zone_of(target).is_none() {
                let target = target.clone();
                return Answer::Alias { chain, target };
            }
            let Some(found) = self.find(target) else {
                break;
            };
            if let Some(next) = found.alias() {
                (at, link) = (target, next);
                continue;
            }
            let data = found.records(target, rtype);
            if data.is_empty() {
                break;
            }
            chain.extend(data);
            let additional = Vec::new();
            return Answer::Data {
                answer: chain,
                additional,
            };
        }
        self.no_data(owner)
    }

    fn no_data(&self, name: &Name) -> Answer {
        match self.zone_of(name) {
            Some(zone) => Answer::NoData { zone },
            // Of the reverse names outside our zones only the PTR is ours.
            None => Answer::NotOurs,
        }
    }

    /// The addresses of the hosts named in an answer, each host once.
    fn additional(&self, answer: &[Record]) -> Vec<Record> {
        let mut seen = HashSet::new();
        let mut additional = Vec::new();
        for host in answer.iter().filter_map(|record| record.data.host()) {
            if !seen.insert(host) {
                continue;
            }
            if let Some(found) = self.find(host) {
                additional.extend(found.records(host, Rtype::A));
                additional.extend(found.records(host, Rtype::AAAA));
            }
        }
        additional
    }
}

impl Apex {
    /// The apex of a zone whose records have a TTL of `ttl` seconds. Fails when the
    /// names in the SOA become too long.
    pub(super) fn new(name: Name, serial: u32, ttl: u32) -> Result<Apex, NameError> {
        let soa = Soa {
            mname: name.child(b"dns")?.child(b"ns")?,
            rname: name.child(b"hostmaster")?,
            serial,
            refresh: 7200,
            retry: 1800,
            expire: 86400,
            minimum: ttl,
        };
        let ttl = ttl.min(MAX_SOA_TTL);
        Ok(Apex {
            name,
            soa,
            ttl,
            negative_ttl: ttl,
        })
    }
}

impl Node {
    /// The types that have data here.
    pub fn types(&self) -> impl Iterator<Item = Rtype> {
        self.sets.iter().map(|set| set.rtype)
    }

    /// Whether the name is an alias: it has a CNAME.
    pub fn is_alias(&self) -> bool {
        self.set(Rtype::CNAME).is_some()
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
            Below::Empty | Below::Addresses(_) | Below::Like(_) => 1,
            Below::EmptyThenAddresses(_) => 2,
        }
    }

    fn set(&self, rtype: Rtype) -> Option<&RecordSet> {
        self.sets.iter().find(|set| set.rtype == rtype)
    }
}

impl<'a> Found<'a> {
    fn address(label: &[u8], ttl: u32) -> Option<Found<'a>> {
        undashed(label).map(|address| Found::Address { address, ttl })
    }

    /// The target of the CNAME here, and its TTL.
    fn alias(&self) -> Option<(&'a Name, u32)> {
        let Found::Node(node) = self else {
            return None;
        };
        let set = node.set(Rtype::CNAME)?;
        match set.data.first() {
            Some(Rdata::Cname(target)) => Some((target, set.ttl)),
            _ => None,
        }
    }

    /// The records of one type, owned by `owner`; none when there is no such type.
    fn records(&self, owner: &Name, rtype: Rtype) -> Vec<Record> {
        let record = |ttl, data| Record {
            owner: owner.clone(),
            ttl,
            data,
        };
        match *self {
            Found::Empty => Vec::new(),
            Found::Node(node) => match node.set(rtype) {
                None => Vec::new(),
                Some(set) => set
                    .data
                    .iter()
                    .map(|data| record(set.ttl, data.clone()))
                    .collect(),
            },
            Found::Address { address, ttl } => address_data(owner, address)
                .into_iter()
                .filter(|data| data.rtype() == rtype)
                .map(|data| record(ttl, data))
                .collect(),
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
