//! Routes that change while the resolver runs, and groups of servers that count only after they
//! have answered from here.
//!
//! CoreDNS may reach servers that this node doesn't reach, or that don't answer this node. So the
//! cluster's DNS answers the names of a group until the group has answered a question, and again
//! after several questions in succession without an answer.

mod group;

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use zerohop_routes::{ForwardGroup, Routes, Way};
use zerohop_zone::{Name, Rtype};

pub(super) use self::group::LiveGroup;
use self::group::{ProofDue, ProofQuestion};
use super::{Resolver, query::Query, response::UpstreamQuery};

/// Routes that may change while in use. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LiveRoutes(Arc<SharedRoutes>);

#[derive(Debug, Default)]
struct SharedRoutes {
    table: RwLock<Arc<RouteTable>>,
    /// Notified when a question for a group that isn't used has arrived.
    is_proof_wanted: Notify,
}

/// The routes, and the state of their groups.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    /// Those that the operator has given. They come first, and their groups are used at once.
    configured: Routes,
    followed: FollowedRoutes,
    groups: HashMap<ForwardGroup, Arc<LiveGroup>>,
    /// Each table with other routes has another number.
    number: u64,
}

/// The routes that CoreDNS has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FollowedRoutes {
    /// They are not followed.
    #[default]
    Off,
    /// They are followed, and aren't known now: the cluster's DNS answers.
    Unknown,
    /// These.
    Known(Routes),
}

/// A group of servers, for people.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// The servers.
    pub servers: Vec<SocketAddr>,
    /// Where the group is configured.
    pub origin: String,
    /// Whether it receives queries.
    pub state: GroupUse,
}

/// Whether a group of servers receives queries.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupUse {
    /// It receives them.
    Used,
    /// The cluster's DNS receives them, because the group has not answered from here.
    NotProven,
    /// The cluster's DNS receives them, because one of the servers is the cluster's DNS itself.
    ClusterDns,
}

/// Groups that are to be asked.
#[derive(Default)]
struct DueProofs {
    now: Vec<(Arc<LiveGroup>, Vec<ProofQuestion>)>,
    /// When the next one is due. `None`: not before another question arrives.
    next: Option<Instant>,
}

impl LiveRoutes {
    /// Routes that the operator has given.
    pub fn new(configured: Routes) -> LiveRoutes {
        let routes = LiveRoutes::default();
        routes.replace(configured, FollowedRoutes::Off);
        routes
    }

    /// Replaces the routes that CoreDNS has. Groups that stay keep their state.
    pub fn follow(&self, followed: FollowedRoutes) {
        self.replace(self.table().configured.clone(), followed);
    }

    pub(super) fn table(&self) -> Arc<RouteTable> {
        let table = self.0.table.read();
        table.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers a question for a group that isn't used.
    pub(super) fn want_proof(&self, group: &LiveGroup, name: &Name, rtype: Rtype) {
        if group.want_proof(name, rtype) {
            self.0.is_proof_wanted.notify_one();
        }
    }

    fn replace(&self, configured: Routes, followed: FollowedRoutes) {
        let before = self.table();
        let is_same = (&before.configured, &before.followed) == (&configured, &followed);
        let mut table = RouteTable {
            configured,
            followed,
            groups: HashMap::new(),
            // Only places in the Corefile may differ.
            number: before.number + u64::from(!is_same),
        };
        let mut groups = HashMap::new();
        for group in table.route_groups() {
            let Some(new) = LiveGroup::new(group) else {
                continue;
            };
            let mut known = before.groups.values();
            let known = known.find(|known| (&known.set, known.trust) == (&new.set, new.trust));
            let live = known.cloned().unwrap_or_else(|| Arc::new(new));
            groups.insert(group.clone(), live);
        }
        table.groups = groups;
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

impl Resolver {
    /// The groups of servers, in the order of the routes.
    pub fn route_groups(&self) -> Vec<GroupStatus> {
        let table = self.upstreams.routes.table();
        let status = |group: &ForwardGroup| {
            let live = table.groups.get(group)?;
            Some(GroupStatus {
                servers: live.set.addresses(),
                origin: group.origin.clone(),
                state: self.upstreams.group_use(live),
            })
        };
        table.route_groups().filter_map(status).collect()
    }

    /// Asks groups that aren't used the questions that arrive for them, until dropped.
    pub async fn prove_groups(self: &Arc<Self>) -> Infallible {
        let mut proofs = JoinSet::new();
        let routes = &self.upstreams.routes;
        loop {
            let due = routes.table().take_due_proofs(Instant::now());
            for (group, questions) in due.now {
                let resolver = self.clone();
                proofs.spawn(async move {
                    resolver.prove(&group, questions).await;
                    group.end_attempt(Instant::now());
                });
            }
            let next = async {
                match due.next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = routes.0.is_proof_wanted.notified() => {}
                () = next => {}
                // Another question may have arrived meanwhile.
                Some(_) = proofs.join_next() => {}
            }
        }
    }

    async fn prove(&self, group: &LiveGroup, questions: Vec<ProofQuestion>) {
        for server in group.set.datagram_addresses() {
            if self.leads_back(server).await {
                return;
            }
        }
        let client = Ipv4Addr::LOCALHOST.into();
        let proofs = questions.into_iter().map(async |(name, rtype)| {
            let query = UpstreamQuery::asking(&name, rtype);
            let result = self.forwarder.query_servers(&group.set, &query, client);
            group.record_outcome((name, rtype), &result.await);
        });
        join_all(proofs).await;
    }
}

impl RouteTable {
    /// Whether no route says anything about any name.
    pub(super) fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.followed == FollowedRoutes::Off
    }

    /// The number of the table. No earlier table with other routes had it.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The routes of CoreDNS, if they are known.
    pub(super) fn known(&self) -> Option<&Routes> {
        match &self.followed {
            FollowedRoutes::Known(routes) => Some(routes),
            FollowedRoutes::Off | FollowedRoutes::Unknown => None,
        }
    }

    /// How a query is answered that the local data doesn't decide. `None`: no route says it.
    /// `cluster_domains` are the cluster's domains as far as the settings say.
    pub(super) fn way(&self, query: &Query, cluster_domains: &[Name]) -> Option<Way<'_>> {
        let name = &query.name;
        if let Some(zone) = self.configured.zone_of(name) {
            let known = self.known().map_or(&[][..], Routes::cluster_zones);
            let mut own = known.iter().chain(cluster_domains);
            // A zone above the cluster's domain doesn't take the cluster's names.
            let is_clusters = own.any(|own| name.is_at_or_below(own) && own.is_at_or_below(zone));
            return Some(match is_clusters {
                true => Way::ClusterDns,
                false => way_in(&self.configured, query),
            });
        }
        match &self.followed {
            FollowedRoutes::Off => None,
            FollowedRoutes::Unknown => Some(Way::ClusterDns),
            FollowedRoutes::Known(routes) => Some(way_in(routes, query)),
        }
    }

    /// A group in use. `None` if it can't be used.
    pub(super) fn group(&self, group: &ForwardGroup) -> Option<&Arc<LiveGroup>> {
        self.groups.get(group)
    }

    /// The servers that may lead back to this resolver, and that can be asked over UDP.
    pub(super) fn servers_to_probe(&self) -> Vec<SocketAddr> {
        let groups = self.groups.values();
        groups.flat_map(|it| it.set.datagram_addresses()).collect()
    }

    fn route_groups(&self) -> impl Iterator<Item = &ForwardGroup> {
        let followed = self.known().into_iter().flat_map(Routes::groups);
        self.configured.groups().chain(followed)
    }

    fn take_due_proofs(&self, now: Instant) -> DueProofs {
        let mut due = DueProofs::default();
        for group in self.groups.values() {
            match group.take_questions(now) {
                ProofDue::No => {}
                ProofDue::Now(questions) => due.now.push((group.clone(), questions)),
                ProofDue::At(time) => {
                    due.next = Some(due.next.map_or(time, |next| next.min(time)));
                }
            }
        }
        due
    }
}

fn way_in<'a>(routes: &'a Routes, query: &Query) -> Way<'a> {
    match &query.client_question {
        None => routes.way(&query.name, query.qtype),
        Some(_) => routes.way_after_rewriting(&query.name, query.qtype),
    }
}
