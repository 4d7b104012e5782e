//! Routes that change while the resolver runs, and groups of servers that count only after they
//! have answered from here.
//!
//! CoreDNS may reach servers that this node doesn't reach, or that don't answer this node. So the
//! cluster's DNS answers the names of a group until the group has answered a question, and again
//! after several questions in succession without an answer.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinSet};
use tracing::{info, warn};
use zerohop_routes::{ForwardGroup, GroupTrust, Routes, Way};
use zerohop_zone::{Name, Rtype};

use super::{
    Resolver,
    loops::describe_loop,
    query::Query,
    response::{NoResponse, Response, UpstreamQuery},
    upstream::ServerSet,
};

/// A group that has answered doesn't count any more after this many questions in succession without
/// an answer.
const MAX_FAILURES: u32 = 3;

/// Routes that may change while in use. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct LiveRoutes(Arc<SharedRoutes>);

#[derive(Debug, Default)]
struct SharedRoutes {
    table: RwLock<Arc<RouteTable>>,
    /// Notified when a question for an unproven group has arrived.
    is_proof_wanted: Notify,
}

/// The routes, and the state of their groups.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    /// Those that the operator has given. They come first, and their groups count at once.
    configured: Routes,
    /// Those that CoreDNS has.
    followed: Routes,
    groups: HashMap<ForwardGroup, Arc<LiveGroup>>,
    /// Each table has another number.
    number: u64,
}

/// A group of servers in use.
#[derive(Debug)]
pub(super) struct LiveGroup {
    pub(super) set: ServerSet,
    trust: GroupTrust,
    origin: String,
    has_answered: AtomicBool,
    /// Questions in succession without an answer.
    failures: AtomicU32,
    proof: Mutex<GroupProof>,
}

/// Whether a group that has not answered yet is asked a question.
#[derive(Debug, Default)]
enum GroupProof {
    #[default]
    NotWanted,
    /// This question has arrived for the group.
    Wanted(Name, Rtype),
    /// The group is being asked.
    Running,
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
    /// The cluster's DNS receives them, because the group has not answered yet.
    NotProven,
}

impl LiveRoutes {
    /// Routes that the operator has given.
    pub fn new(configured: Routes) -> LiveRoutes {
        let routes = LiveRoutes::default();
        routes.replace(|before| (configured, before.followed.clone()));
        routes
    }

    /// Replaces the routes that CoreDNS has. Groups that stay keep their state.
    pub fn follow(&self, followed: Routes) {
        self.replace(|before| (before.configured.clone(), followed));
    }

    /// The groups, in the order of the routes.
    pub fn status(&self) -> Vec<GroupStatus> {
        let table = self.table();
        let routes = [&table.configured, &table.followed];
        let groups = routes.into_iter().flat_map(Routes::groups);
        let groups = groups.filter_map(|group| table.groups.get(group));
        let status = |group: &Arc<LiveGroup>| GroupStatus {
            servers: group.set.addresses(),
            origin: group.origin.clone(),
            state: match group.is_proven() {
                true => GroupUse::Used,
                false => GroupUse::NotProven,
            },
        };
        groups.map(status).collect()
    }

    pub(super) fn table(&self) -> Arc<RouteTable> {
        let table = self.0.table.read();
        table.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a question for an unproven group has arrived.
    pub(super) async fn wait_for_unproven(&self) {
        self.0.is_proof_wanted.notified().await;
    }

    /// Remembers a question for a group that has not answered yet.
    pub(super) fn want_proof(&self, group: &LiveGroup, name: &Name, rtype: Rtype) {
        let mut proof = group.lock_proof();
        if matches!(*proof, GroupProof::NotWanted) {
            *proof = GroupProof::Wanted(name.clone(), rtype);
            self.0.is_proof_wanted.notify_one();
        }
    }

    fn replace(&self, routes: impl FnOnce(&RouteTable) -> (Routes, Routes)) {
        let table = self.0.table.write();
        let mut table = table.unwrap_or_else(PoisonError::into_inner);
        let (configured, followed) = routes(&table);
        if (&configured, &followed) == (&table.configured, &table.followed) {
            return;
        }
        let mut groups = HashMap::new();
        for routes in [&configured, &followed] {
            for group in routes.groups() {
                let Some(live) = LiveGroup::new(group) else {
                    continue;
                };
                let mut known = table.groups.values();
                let known = known.find(|known| known.set == live.set);
                if known.is_some_and(|known| known.is_proven()) {
                    live.has_answered.store(true, Relaxed);
                }
                groups.insert(group.clone(), Arc::new(live));
            }
        }
        *table = Arc::new(RouteTable {
            configured,
            followed,
            groups,
            number: table.number + 1,
        });
    }
}

impl Resolver {
    /// Asks groups that have not answered yet the questions that arrive for them, until dropped.
    pub async fn prove_groups(self: &Arc<Self>) -> Infallible {
        let mut proofs = JoinSet::new();
        loop {
            let table = self.upstreams.routes.table();
            for (group, name, rtype) in table.take_unproven() {
                let resolver = self.clone();
                proofs.spawn(async move {
                    resolver.prove(&group, &name, rtype).await;
                    *group.lock_proof() = GroupProof::NotWanted;
                });
            }
            self.upstreams.routes.wait_for_unproven().await;
            while proofs.try_join_next().is_some() {}
        }
    }

    async fn prove(&self, group: &LiveGroup, name: &Name, rtype: Rtype) {
        for server in group.set.datagram_addresses() {
            if self.leads_back(server).await {
                warn!("{}", describe_loop(server));
                return;
            }
        }
        let query = UpstreamQuery::asking(name, rtype);
        let client = Ipv4Addr::LOCALHOST.into();
        let result = self.forwarder.query_servers(&group.set, &query, client);
        group.record_outcome(&result.await);
    }
}

impl RouteTable {
    /// Whether nothing is known about any name.
    pub(super) fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.followed.is_empty()
    }

    /// The number of the table, which no earlier table had.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the routes of CoreDNS are known.
    pub(super) fn knows_coredns(&self) -> bool {
        !self.followed.is_empty()
    }

    /// How a query is answered that the local data doesn't decide.
    pub(super) fn way(&self, query: &Query) -> Way<'_> {
        let (name, rtype) = (&query.name, query.qtype);
        let routes = if self.configured.has_block_for(name) {
            &self.configured
        } else {
            &self.followed
        };
        match &query.client_question {
            None => routes.way(name, rtype),
            Some(_) => routes.way_after_rewriting(name, rtype),
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

    /// Takes the questions that have arrived for groups that have not answered yet.
    fn take_unproven(&self) -> Vec<(Arc<LiveGroup>, Name, Rtype)> {
        let with_question = self.groups.values().filter_map(|group| {
            let mut proof = group.lock_proof();
            match std::mem::replace(&mut *proof, GroupProof::Running) {
                GroupProof::Wanted(name, rtype) => Some((group.clone(), name, rtype)),
                other => {
                    *proof = other;
                    None
                }
            }
        });
        with_question.collect()
    }
}

impl LiveGroup {
    /// `None` if a server's name is not the name of a certificate.
    fn new(group: &ForwardGroup) -> Option<LiveGroup> {
        let set = ServerSet::of_group(group);
        let set = set.inspect_err(|error| warn!("{}: {error:#}", group.origin));
        Some(LiveGroup {
            set: set.ok()?,
            trust: group.trust,
            origin: group.origin.clone(),
            has_answered: AtomicBool::new(group.trust == GroupTrust::Given),
            failures: AtomicU32::new(0),
            proof: Mutex::default(),
        })
    }

    pub(super) fn is_proven(&self) -> bool {
        self.has_answered.load(Relaxed)
    }

    /// Records how a question to the group has ended.
    pub(super) fn record_outcome(&self, result: &Result<Arc<Response>, NoResponse>) {
        match result {
            Ok(response) if response.is_answer() => self.record_answer(),
            Err(NoResponse::NoAnswer) => self.record_failure(),
            // The servers are reached, or were not asked.
            Ok(_) | Err(_) => {}
        }
    }

    /// Records that the group has answered a question.
    fn record_answer(&self) {
        self.failures.store(0, Relaxed);
        if !self.has_answered.swap(true, Relaxed) {
            let servers = self.describe_servers();
            info!(
                "{}: {servers} answers from this node, so the agent asks it and no longer the \
                 cluster's DNS for its names",
                self.origin
            );
        }
    }

    /// Records that the group has not answered a question in time.
    fn record_failure(&self) {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let may_end = self.trust == GroupTrust::AfterAnswer;
        if may_end && failures >= MAX_FAILURES && self.has_answered.swap(false, Relaxed) {
            let servers = self.describe_servers();
            warn!(
                "{}: {servers} has not answered {failures} questions in succession, so the \
                 cluster's DNS is asked for its names until it answers again",
                self.origin
            );
        }
    }

    fn lock_proof(&self) -> MutexGuard<'_, GroupProof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe_servers(&self) -> String {
        let servers = self.set.addresses();
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        servers.join(", ")
    }
}
