//! All names there are, and the one function that answers a question from them.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::node::{RecordSet, address_data};
use super::{Absent, Apex, Below, Name, Node, Rdata, Record, Rtype, undashed};

/// How many CNAMEs one answer may follow: as many as CoreDNS does.
const MAX_LINKS: usize = 11;

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
            return self.absent(name, rtype);
        };
        if found.is_passed(rtype) {
            return Answer::NotOurs;
        }
        if let Some(link) = found.alias()
            && rtype != Rtype::CNAME
            && !is_meta(rtype)
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
    fn absent(&self, name: &Name, rtype: Rtype) -> Answer {
        let Some(zone) = self.zone_of(name) else {
            return Answer::NotOurs;
        };
        match self.zones()[zone].absent {
            Absent::DeniedExceptSoa if rtype == Rtype::SOA => Answer::NotOurs,
            Absent::Denied | Absent::DeniedExceptSoa => Answer::NxDomain { zone },
            Absent::Passed => Answer::NotOurs,
            Absent::NotYetKnown => Answer::NotYetKnown,
        }
    }

    /// Follows CNAMEs from `owner`, whose own is `link`, as far as they stay
    /// inside our zones (RFC 1034 section 3.6.2). Where others know the rest of the chain, the whole
    /// answer is theirs.
    ///
    /// A chain without addresses at its end is no data, without the CNAMEs, as CoreDNS answers; but
    /// the CNAMEs into another zone are given, as those that lead out are. Of a chain without data of
    /// another type all CNAMEs are given. One that is too long, and with it every loop, is no data.
    #[doc(hidden)]
    fn follow(&self, owner: &Name, link: (Name, u32), rtype: Rtype) -> Answer {
        let mut chain = Vec::new();
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
            if zone != self.zone_of(&chain[chain.len() - 1].owner) {
                crossing = chain.len();
            }
            let Some(found) = self.find(&target) else {
                match self.absent(&target, rtype) {
                    Answer::NxDomain { .. } => {
                        return self.without_data(owner, chain, crossing, rtype);
                    }
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
                return self.without_data(owner, chain, crossing, rtype);
            }
            let additional = self.additional(&found, &data);
            chain.extend(data);
            return Answer::Data {
                answer: chain,
                additional,
            };
        }
        self.links(owner, chain, crossing)
    }

    /// What is said of an alias at whose end there is no data of the type. The first `crossing` links
    /// lead into another zone.
    #[doc(hidden)]
    fn without_data(
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
        self.links(owner, chain, kept)
    }

    /// The first `kept` links of an alias; none: no data.
    #[doc(hidden)]
    fn links(&self, owner: &Name, mut chain: Vec<Record>, kept: usize) -> Answer {
        chain.truncate(kept);
        if chain.is_empty() {
            return self.no_data(owner);
        }
        Answer::Data {
            answer: chain,
            additional: Vec::new(),
        }
    }

    /// That a name has no data of a type, which is a denial too: nothing is denied before all is known.
    #[doc(hidden)]
    fn no_data(&self, name: &Name) -> Answer {
        match self.zone_of(name) {
            Some(zone) if self.zones()[zone].absent == Absent::NotYetKnown => Answer::NotYetKnown,
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
            Found::Node(node) => node.passes(rtype),
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

/// Whether a type is one of questions, not of data (RFC 6895 section 3.1).
fn is_meta(rtype: Rtype) -> bool {
    rtype == Rtype::OPT || matches!(rtype.to_int(), 0 | 128..=255)
}
