//! All names there are, and the one function that answers a question from them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Name, NameError, Rdata, Record, Rtype, Soa, Srv, undashed};

/// How many CNAMEs one answer may follow: as many as CoreDNS does.
const MAX_LINKS: usize = 11;

/// The longest TTL of a SOA record, in seconds.
const MAX_SOA_TTL: u32 = 300;

/// All names there are in our zones: what answers are made of, for both planes.
///
/// Who holds the names says [`ZoneData::node`]; the questions are answered here, by one function.
pub trait ZoneData {
    /// Cluster domains and reverse zones, longest name first.
    fn zones(&self) -> &[Apex];

    /// Names inside our zones that are somebody else's, with everything below
    /// them: no node is there, and no zone says anything about them.
    fn passed(&self) -> &[Name];

    /// What is known of a name that exists.
    fn node(&self, name: &Name) -> Option<Arc<Node>>;

    /// Shows every name that exists once, in no order. A name outside all zones can be
    /// among them: the reverse name of an address of ours in a network we have no
    /// authority for.
    fn visit(&self, see: &mut dyn FnMut(&Name, &Node));

    /// Names more than one label below which something may exist that is not a node,
    /// and those that are [passed](ZoneData::passed).
    fn deep_names(&self) -> BTreeSet<Name> {
        let mut deep: BTreeSet<Name> = self.passed().iter().cloned().collect();
        self.visit(&mut |name, node| {
            if node.computed_depth() > 1 {
                deep.insert(name.clone());
            }
        });
        deep
    }

    /// Answers a question of class IN.
    fn answer(&self, name: &Name, rtype: Rtype) -> Answer {
        let Some(found) = self.find(name) else {
            return self.absent(name);
        };
        if found.is_passed(rtype) {
            return Answer::NotOurs;
        }
        if let Some(link) = found.alias()
            && matches!(rtype, Rtype::A | Rtype::AAAA)
        {
            return self.follow(name, link, rtype);
        }
        let answer = found.records(name, rtype);
        if answer.is_empty() {
            return self.no_data(name);
        }
        let additional = self.additional(&found, &answer);
        Answer::Data { answer, additional }
    }

    /// The zone a name belongs to, as an index into [`ZoneData::zones`]: the
    /// longest apex at or above the name. A name that is [passed](ZoneData::passed)
    /// has none.
    fn zone_of(&self, name: &Name) -> Option<usize> {
        if self.is_passed(name) {
            return None;
        }
        self.zones()
            .iter()
            .position(|zone| name.is_at_or_below(&zone.name))
    }

    /// Whether a name is [passed](ZoneData::passed).
    fn is_passed(&self, name: &Name) -> bool {
        let mut passed = self.passed().iter();
        passed.any(|passed| name.is_at_or_below(passed))
    }

    /// What is known of a name, itself or by what is above it.
    #[doc(hidden)]
    fn find(&self, name: &Name) -> Option<Found> {
        if let Some(node) = self.node(name) {
            return Some(Found::Node(node));
        }
        // Not even what a node above would compute.
        if self.is_passed(name) {
            return None;
        }
        let label = name.labels().next()?;
        let parent = name.parent()?;
        if let Some(parent) = self.node(&parent) {
            return match &parent.below {
                Below::Nothing => None,
                Below::Empty | Below::EmptyThenAddresses(_) => Some(Found::Empty),
                Below::Addresses(ttl) => Found::address(label, *ttl),
                Below::Like(other) => self.node(other).map(Found::Node),
                Below::Unknown => Some(Found::Unknown),
            };
        }
        match self.node(&parent.parent()?)?.below {
            Below::EmptyThenAddresses(ttl) => Found::address(label, ttl),
            _ => None,
        }
    }

    /// What is said of a name that is not there.
    #[doc(hidden)]
    fn absent(&self, name: &Name) -> Answer {
        let Some(zone) = self.zone_of(name) else {
            return Answer::NotOurs;
        };
        match self.zones()[zone].absent {
            Absent::Denied => Answer::NxDomain { zone },
            Absent::Passed => Answer::NotOurs,
            Absent::NotYetKnown => Answer::NotYetKnown,
        }
    }

    /// Follows CNAMEs from `owner`, whose own is `link`, as far as they stay
    /// inside our zones. A chain without the asked data at its end is no data,
    /// without the CNAMEs; so is one too long, and with it every loop. Where others know
    /// the rest of the chain, the whole answer is theirs.
    #[doc(hidden)]
    fn follow(&self, owner: &Name, link: (Name, u32), rtype: Rtype) -> Answer {
        let mut chain = Vec::new();
        let (mut at, mut link) = (owner.clone(), link);
        for _ in 0..MAX_LINKS {
            let (target, ttl) = link;
            chain.push(Record {
                owner: at,
                ttl,
                data: Rdata::Cname(target.clone()),
            });
            if self.zone_of(&target).is_none() {
                return Answer::Alias { chain, target };
            }
            let Some(found) = self.find(&target) else {
                match self.absent(&target) {
                    Answer::NxDomain { .. } => break,
                    others => return others,
                }
            };
            if found.is_passed(rtype) {
                return Answer::NotOurs;
            }
            if let Some(next) = found.alias() {
                (at, link) = (target, next);
                continue;
            }
            let data = found.records(&target, rtype);
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

    #[doc(hidden)]
    fn no_data(&self, name: &Name) -> Answer {
        match self.zone_of(name) {
            Some(zone) => Answer::NoData { zone },
            // Of the reverse names outside our zones only the PTR is ours.
            None => Answer::NotOurs,
        }
    }

    /// The addresses of the hosts named in an answer, each host once. Where the name with SRV records
    /// has addresses of its own, they are those that the records are about: a host may have more,
    /// which don't serve this port.
    #[doc(hidden)]
    fn additional(&self, found: &Found, answer: &[Record]) -> Vec<Record> {
        let mut seen = HashSet::new();
        let mut additional = Vec::new();
        for record in answer {
            let Some(host) = record.data.host().filter(|host| seen.insert(*host)) else {
                continue;
            };
            let Some(host_found) = self.find(host) else {
                continue;
            };
            for rtype in [Rtype::A, Rtype::AAAA] {
                let addresses = host_found.records(host, rtype).into_iter();
                let is_meant = |address: &Record| match record.data {
                    Rdata::Srv(_) if found.is_host() => found.has(&address.data),
                    _ => true,
                };
                additional.extend(addresses.filter(is_meant));
            }
        }
        additional
    }
}

/// Zone data that changes, as those see it who only read.
pub trait Live: Send + Sync {
    /// Shows the data of the moment. It doesn't change while it is looked at, so whoever looks
    /// keeps changes waiting.
    fn look(&self, see: &mut dyn FnMut(&dyn ZoneData));
}

/// Every name with its data, stored. Immutable once built, and shared as `Arc<Model>`.
#[derive(Debug, Default)]
pub struct Model {
    pub(super) zones: Vec<Apex>,
    pub(super) nodes: HashMap<Name, Arc<Node>>,
    pub(super) passed: Vec<Name>,
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
    /// What is said of names that are not there.
    pub absent: Absent,
}

/// What is said of names that are not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Absent {
    /// That they do not exist.
    #[default]
    Denied,
    /// Nothing: somebody else may know them.
    Passed,
    /// That nobody can know yet: not everything that makes names has been told.
    NotYetKnown,
}

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
    /// The name is not there, but may be: not everything has been told yet.
    NotYetKnown,
    /// The name, or its data of this type, is not ours: pass it on.
    NotOurs,
}

/// What is known of one existing name.
#[doc(hidden)]
#[derive(Debug)]
pub enum Found {
    Node(Arc<Node>),
    Empty,
    Address { address: IpAddr, ttl: u32 },
    Unknown,
}

impl Model {
    /// All that `data` shows, stored.
    pub fn of(data: &dyn ZoneData) -> Model {
        let mut nodes = HashMap::new();
        data.visit(&mut |name, node| {
            nodes.insert(name.clone(), Arc::new(node.clone()));
        });
        Model {
            zones: data.zones().to_vec(),
            nodes,
            passed: data.passed().to_vec(),
        }
    }

    /// Every name that exists, as in [`ZoneData::visit`].
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.nodes.iter().map(|(name, node)| (name, &**node))
    }
}

impl Live for Model {
    fn look(&self, see: &mut dyn FnMut(&dyn ZoneData)) {
        see(self);
    }
}

impl ZoneData for Model {
    fn zones(&self) -> &[Apex] {
        &self.zones
    }

    fn passed(&self) -> &[Name] {
        &self.passed
    }

    fn node(&self, name: &Name) -> Option<Arc<Node>> {
        self.nodes.get(name).cloned()
    }

    fn visit(&self, see: &mut dyn FnMut(&Name, &Node)) {
        for (name, node) in &self.nodes {
            see(name, node);
        }
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
            absent: Absent::default(),
        })
    }
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

    fn set(&self, rtype: Rtype) -> Option<&RecordSet> {
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

impl Found {
    fn address(label: &[u8], ttl: u32) -> Option<Found> {
        undashed(label).map(|address| Found::Address { address, ttl })
    }

    fn set(&self, rtype: Rtype) -> Option<&RecordSet> {
        match self {
            Found::Node(node) => node.set(rtype),
            _ => None,
        }
    }

    /// Whether somebody else answers this type.
    fn is_passed(&self, rtype: Rtype) -> bool {
        match self {
            Found::Unknown => true,
            Found::Node(node) => match node.set(rtype) {
                Some(set) => set.data.is_empty(),
                // An alias answers more types than it has data of.
                None => node.rest == Rest::Passed && !node.is_alias(),
            },
            Found::Empty | Found::Address { .. } => false,
        }
    }

    /// The target of the CNAME here, and its TTL.
    fn alias(&self) -> Option<(Name, u32)> {
        let set = self.set(Rtype::CNAME)?;
        match set.data.first() {
            Some(Rdata::Cname(target)) => Some((target.clone(), set.ttl)),
            _ => None,
        }
    }

    /// Whether it has addresses.
    fn is_host(&self) -> bool {
        match self {
            Found::Address { .. } => true,
            _ => [Rtype::A, Rtype::AAAA]
                .into_iter()
                .any(|rtype| self.set(rtype).is_some()),
        }
    }

    /// Whether these data are here.
    fn has(&self, data: &Rdata) -> bool {
        match self {
            Found::Address { address, .. } => *data == Rdata::from(*address),
            // Sets are in order.
            _ => (self.set(data.rtype())).is_some_and(|set| set.data.binary_search(data).is_ok()),
        }
    }

    /// The records of one type, owned by `owner`; none when there is no such type.
    fn records(&self, owner: &Name, rtype: Rtype) -> Vec<Record> {
        let record = |ttl, data| Record {
            owner: owner.clone(),
            ttl,
            data,
        };
        if let Found::Address { address, ttl } = *self {
            return address_data(owner, address)
                .into_iter()
                .filter(|data| data.rtype() == rtype)
                .map(|data| record(ttl, data))
                .collect();
        }
        self.set(rtype).map_or_else(Vec::new, |set| {
            let data = set.data.iter();
            data.map(|data| record(set.ttl, data.clone())).collect()
        })
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
