//! Which servers receive a query that the local data doesn't decide, and which queries a route
//! answers or rewrites.

use std::{fmt, net::SocketAddr, sync::Arc};

use domain::base::{header::Flags, iana::OptRcode};
use zerohop_routes::{CacheRules, FixedAnswer, Way};
use zerohop_zone::{Answer, Apex, Name, Record, Rtype, ZoneData, render_sections, reverse_range};

use super::{
    Resolver, Upstreams,
    live_routes::{GroupUse, LiveGroup, RouteTable},
    message::{QueryAction, respond_to_query},
    query::Query,
    special_names::SpecialDomain,
    upstream::ServerSet,
};

/// The servers for a query.
#[derive(Debug)]
pub(super) struct QueryDestination {
    /// `None`: the cluster's DNS is responsible for the name, and has no known address, or only
    /// addresses of this resolver.
    pub(super) servers: Option<ServerSet>,
    pub(super) place: NamePlace,
    /// The group of the name's route, if there is one. The servers are those of the group if it is
    /// used.
    pub(super) group: Option<Arc<LiveGroup>>,
    /// What the name's route says about caching. `None`: nothing.
    pub(super) cache_rules: Option<CacheRules>,
    /// The number of the route table that was used.
    pub(super) routes: u64,
}

/// How a route treats a question, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteExplanation {
    /// The routes leave it to the cluster's DNS.
    ClusterDns,
    /// This name is looked up instead.
    Rewritten(Name),
    /// It is answered without a server.
    Answered,
    /// The servers that are configured here are asked.
    Forwarded(String),
    /// It is a special-use name, and is answered without a server.
    SpecialUse(&'static SpecialDomain),
    /// The servers that are configured here have not answered from this node yet, so the cluster's
    /// DNS is asked.
    NotProven(String),
    /// One of the servers that are configured here is the cluster's DNS, so that is asked.
    ForwardedToClusterDns(String),
}

impl QueryDestination {
    /// Whether the servers are those of the name's group.
    pub(super) fn is_group_used(&self) -> bool {
        let group = self.group.as_ref();
        group.is_some_and(|group| self.servers.as_ref() == Some(&group.set))
    }
}

/// Whether a name belongs to the cluster, so that replies about it are never cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamePlace {
    Cluster,
    Outside,
}

impl Resolver {
    /// Answers a query that the local data doesn't decide if a route does so without a server, or
    /// if its name is special, and rewrites its name if a route says so. Other queries are to be
    /// forwarded.
    pub(super) fn follow_route(
        &self,
        query: Query,
        routes: &RouteTable,
        data: &dyn ZoneData,
        rotation: usize,
    ) -> QueryAction {
        let zones = data.zones();
        let rewriting = match self.upstreams.way(routes, &query, zones) {
            Some(Way::Answer(answer)) => {
                return QueryAction::Send(query.fixed_reply(&answer, rotation));
            }
            Some(Way::Rewritten(rewriting)) => rewriting,
            way => {
                let upstreams = &self.upstreams;
                let domain = upstreams.special_domain(&query.name, routes, way.as_ref(), zones);
                return match domain {
                    Some(domain) => QueryAction::Send(query.special_reply(domain, rotation)),
                    None => QueryAction::Forward(query),
                };
            }
        };
        match respond_to_query(query.rewritten(rewriting), data, rotation) {
            // A rewritten name is not rewritten again.
            QueryAction::Forward(query) => self.follow_route(query, routes, data, rotation),
            action => action,
        }
    }

    /// How a question about a name outside the local data is treated. `None` if neither a route nor
    /// the name itself says it.
    pub fn explain_route(&self, name: &Name, rtype: Rtype) -> Option<RouteExplanation> {
        let routes = self.upstreams.routes.table();
        let query = Query::of_question(name, rtype);
        let (mut way, mut special) = (None, None);
        self.data.with_data(&mut |data| {
            if data.answer(name, rtype) == Answer::NotAuthoritative {
                way = self.upstreams.way(&routes, &query, data.zones());
                let upstreams = &self.upstreams;
                special = upstreams.special_domain(name, &routes, way.as_ref(), data.zones());
            }
        });
        if let Some(domain) = special {
            return Some(RouteExplanation::SpecialUse(domain));
        }
        Some(match way? {
            Way::ClusterDns => RouteExplanation::ClusterDns,
            Way::Rewritten(rewriting) => RouteExplanation::Rewritten(rewriting.name),
            Way::Answer(_) => RouteExplanation::Answered,
            Way::Forward(forwarding) => {
                let origin = forwarding.group.origin.clone();
                let group = routes.group(forwarding.group);
                match group.map(|group| self.upstreams.group_use(group)) {
                    Some(GroupUse::Used) => RouteExplanation::Forwarded(origin),
                    Some(GroupUse::ClusterDns) => RouteExplanation::ForwardedToClusterDns(origin),
                    Some(GroupUse::NotProven) | None => RouteExplanation::NotProven(origin),
                }
            }
        })
    }
}

impl RouteExplanation {
    /// Whether records of the answer may stand in no zone, although no server was asked.
    pub fn makes_records(&self) -> bool {
        matches!(
            self,
            RouteExplanation::Rewritten(_) | RouteExplanation::Answered
        )
    }
}

impl fmt::Display for RouteExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteExplanation::ClusterDns => f.write_str(
                "the routes leave it to the cluster's DNS: `dns-agent status` says why for each \
                 server block",
            ),
            RouteExplanation::Rewritten(name) => {
                write!(f, "`rewrite` in the Corefile: {name} is looked up instead")
            }
            RouteExplanation::Answered => {
                f.write_str("`hosts` or `template` in the Corefile answers it")
            }
            RouteExplanation::Forwarded(origin) => write!(f, "forwarded by {origin}"),
            RouteExplanation::SpecialUse(domain) => domain.fmt(f),
            RouteExplanation::NotProven(origin) => write!(
                f,
                "to be forwarded by {origin}, but these servers have not answered from this node \
                 yet, so the cluster's DNS is asked"
            ),
            RouteExplanation::ForwardedToClusterDns(origin) => write!(
                f,
                "to be forwarded by {origin}, but one of these servers is the cluster's DNS, so the \
                 cluster's DNS is asked"
            ),
        }
    }
}

impl Upstreams {
    /// The servers for a query, given the local zones.
    pub(super) fn destination(&self, query: &Query, zones: &[Apex]) -> QueryDestination {
        let routes = self.routes.table();
        match self.way(&routes, query, zones) {
            Some(Way::Forward(forwarding)) => {
                let group = routes.group(forwarding.group).cloned();
                return QueryDestination {
                    servers: self.servers_of_group(group.as_deref()),
                    place: NamePlace::Outside,
                    group,
                    cache_rules: Some(forwarding.cache),
                    routes: routes.number(),
                };
            }
            // The local data and the routes answer or rewrite other names before this.
            Some(_) if self.cluster.is_some() => return self.cluster_destination(&routes),
            Some(_) | None => {}
        }
        match self.place_of(&query.name, zones) {
            NamePlace::Cluster if self.cluster.is_some() => self.cluster_destination(&routes),
            place => QueryDestination {
                servers: self.servers_for_outside_names(),
                place,
                group: None,
                cache_rules: None,
                routes: routes.number(),
            },
        }
    }

    /// How the routes answer a query, given the local zones. `None`: they don't say it.
    fn way<'a>(&self, routes: &'a RouteTable, query: &Query, zones: &[Apex]) -> Option<Way<'a>> {
        if routes.is_empty() || is_in_zone(&query.name, zones) {
            return None;
        }
        // Any name may belong to the cluster.
        if self.cluster.is_some() && zones.is_empty() && routes.known().is_none() {
            return None;
        }
        routes.way(query, self.cluster_domains())
    }

    /// The special domain of a name that the routes treat in this way, given the local zones.
    /// `None` if the operator has configured the name: by a zone at or below the domain. A zone
    /// above it, such as the root, says nothing about the name. `None` also if the routes leave the
    /// name to the cluster's DNS, because CoreDNS may have a plugin for it.
    fn special_domain(
        &self,
        name: &Name,
        routes: &RouteTable,
        way: Option<&Way<'_>>,
        zones: &[Apex],
    ) -> Option<&'static SpecialDomain> {
        let domain = SpecialDomain::of(name)?;
        let is_unclaimed = match way {
            Some(Way::Forward(forwarding)) => {
                let group = routes.group(forwarding.group);
                let leads_to_cluster_dns =
                    group.is_some_and(|group| self.group_use(group) == GroupUse::ClusterDns);
                !leads_to_cluster_dns && !forwarding.zone.is_at_or_below(&domain.name)
            }
            Some(Way::ClusterDns | Way::Rewritten(_) | Way::Answer(_)) => false,
            None => {
                let is_clusters = self.cluster.is_some() && self.outside.servers.is_empty();
                !is_clusters && self.place_of(name, zones) == NamePlace::Outside
            }
        };
        is_unclaimed.then_some(domain)
    }

    /// The servers that may lead back to this resolver, and that can be asked over UDP: those for
    /// names outside the cluster.
    pub(super) fn servers_to_probe(&self) -> Vec<SocketAddr> {
        let outside = self.servers_for_outside_names().unwrap_or_default();
        let mut servers = outside.datagram_addresses();
        servers.extend(self.routes.table().servers_to_probe());
        servers.sort();
        servers.dedup();
        servers
    }

    /// The servers of the cluster's DNS that are this resolver itself. They are never queried.
    pub(super) fn excluded_cluster_servers(&self) -> Vec<SocketAddr> {
        let cluster = self.cluster.as_ref();
        cluster.map_or_else(Vec::new, |cluster| cluster.servers.excluded())
    }

    /// The cluster's domains. Empty if no cluster DNS is configured.
    pub(super) fn cluster_domains(&self) -> &[Name] {
        self.cluster
            .as_ref()
            .map_or(&[], |cluster| &cluster.domains)
    }

    /// Whether a name belongs to the cluster, given the local zones, if no route is known.
    fn place_of(&self, name: &Name, zones: &[Apex]) -> NamePlace {
        let is_in = |suffix: &Name| name.is_at_or_below(suffix);
        let belongs_to_cluster = match &self.cluster {
            None => is_in_zone(name, zones),
            // Without local zones, any name may belong to the cluster. Any reverse name may belong
            // to a Service or a Pod.
            Some(cluster) => {
                zones.is_empty()
                    || is_in_zone(name, zones)
                    || cluster.domains.iter().any(is_in)
                    || reverse_range(name).is_some()
            }
        };
        if belongs_to_cluster {
            NamePlace::Cluster
        } else {
            NamePlace::Outside
        }
    }

    fn cluster_destination(&self, routes: &RouteTable) -> QueryDestination {
        QueryDestination {
            servers: self.cluster_servers(),
            place: NamePlace::Cluster,
            group: None,
            cache_rules: None,
            routes: routes.number(),
        }
    }

    fn cluster_servers(&self) -> Option<ServerSet> {
        let servers = self.cluster.as_ref()?.servers.usable();
        (!servers.is_empty()).then(|| ServerSet::plain(servers))
    }

    fn servers_for_outside_names(&self) -> Option<ServerSet> {
        match &self.cluster {
            Some(_) if self.outside.servers.is_empty() => self.cluster_servers(),
            _ => Some(self.outside.clone()),
        }
    }

    /// The servers of a group if it is used, and otherwise those of the cluster's DNS.
    fn servers_of_group(&self, group: Option<&LiveGroup>) -> Option<ServerSet> {
        match group.filter(|group| self.group_use(group) == GroupUse::Used) {
            Some(group) => Some(group.set.clone()),
            None => self.cluster_servers(),
        }
    }

    /// Whether a group receives queries. A group with a server of the cluster's DNS doesn't: that
    /// server is asked as the cluster's DNS.
    pub(super) fn group_use(&self, group: &LiveGroup) -> GroupUse {
        let cluster = self.cluster_servers();
        let own = self.excluded_cluster_servers();
        let of_cluster = cluster.iter().flat_map(ServerSet::addresses);
        let of_cluster: Vec<SocketAddr> = of_cluster.chain(own).collect();
        let mut servers = group.set.addresses().into_iter();
        if servers.any(|server| of_cluster.contains(&server)) {
            return GroupUse::ClusterDns;
        }
        match group.is_used() {
            true => GroupUse::Used,
            false => GroupUse::NotProven,
        }
    }
}

impl Query {
    /// The reply of a route that needs no server.
    fn fixed_reply(&self, answer: &FixedAnswer, rotation: usize) -> Vec<u8> {
        let rcode = OptRcode::masked_from_int(answer.rcode.into());
        let flags = Flags {
            aa: rcode != OptRcode::SERVFAIL,
            ..Flags::default()
        };
        let none: &[Record] = &[];
        let sections = render_sections(&self.name, [&answer.records, none, none], rotation);
        self.reply(rcode, flags, &sections, None)
    }
}

fn is_in_zone(name: &Name, zones: &[Apex]) -> bool {
    zones.iter().any(|zone| name.is_at_or_below(&zone.name))
}
