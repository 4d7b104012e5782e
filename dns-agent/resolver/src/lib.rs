//! The user plane: DNS over UDP and TCP. It answers from the same data as the kernel's tables. If
//! the data doesn't decide the answer, it queries upstreams.
//!
//! [`query`] parses queries. [`message::respond`] decides what to do with a query. `udp` and `tcp`
//! read queries and write replies. `lookup` looks names up that the data doesn't decide: in
//! `cache`, or through `forward`, which passes queries to `upstream`, which asks the servers.
//! [`response`] builds these queries and parses the responses, and `records` reads
//! their records. `special_names` answers special-use names. [`bailiwick`] drops records that
//! don't belong to the question, and `chase` turns the rest into the client's answer. [`loops`]
//! finds upstreams that forward queries back to this resolver. `canary` tests whether the resolver
//! answers, and `server_probe` whether another server does. `counters` counts its messages, and
//! `traffic` counts what CoreDNS's metrics count. `compose` builds replies. `observers` gives the
//! messages of clients to `dnstap`, which sends them to a collector, and to `query_log`.
//!
//! `query`, `message`, `response`, `bailiwick`, `chase` and `restore` handle untrusted input
//! without I/O, time or randomness, and so do the replies in `cache`, whose time is an argument.
//! Their entry points are public so that the fuzz targets can call them.

#![forbid(unsafe_code)]

pub mod bailiwick;
pub mod cache;
mod canary;
pub mod chase;
mod compose;
mod counters;
mod dnstap;
mod forward;
mod live_routes;
mod lookup;
pub mod loops;
pub mod message;
mod observers;
pub mod query;
mod query_log;
mod received;
mod records;
pub mod response;
mod restore;
mod routing;
mod server_probe;
mod shares;
mod special_names;
mod tcp;
mod traffic;
mod udp;
mod upstream;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use domain::base::iana::OptRcode;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::Handle,
    sync::watch,
};

use self::{
    bailiwick::LocalNames,
    cache::ReplyCache,
    counters::increment,
    forward::Forwarder,
    lookup::{CacheUse, LookupContext},
    loops::LoopProbe,
    message::{QueryAction, respond},
    observers::Observers,
    query::Transport,
    shares::Share,
    udp::UdpListener,
    upstream::UpstreamPool,
};
pub use self::{
    cache::CacheSettings,
    canary::Canary,
    counters::{ResolverCounters, ResolverCounts},
    dnstap::{DnstapSettings, DnstapStream},
    forward::UpstreamServers,
    live_routes::{FollowedRoutes, GroupStatus, GroupUse, LiveRoutes},
    lookup::UpstreamLookup,
    observers::ObserverSettings,
    query::{is_nxname, is_transfer},
    query_log::{QueryClass, QueryLogSettings},
    routing::RouteExplanation,
    server_probe::{ProbeFailure, probe_server},
    special_names::SpecialDomain,
    tcp::{AdmittedClients, TcpServer},
    traffic::{
        AddressFamily, CacheEntryKind, CacheTrafficCounts, ConnectionProtocol, DnsServerCounts,
        HistogramCounts, ReplySource, TrafficCounts, TrafficZone, UpstreamCounts,
    },
    udp::UdpReceiver,
    upstream::{NameCase, ServerSet, UpstreamServer},
};
pub use self::{records::Records, response::NoResponse};
use zerohop_zone as zone;
use zerohop_zone::{LiveZoneData, Name, Rtype};

/// Upper bound on the connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// The time for all upstream queries that one client query leads to. Clients repeat a query, or
/// give up, after 5 s.
const UPSTREAM_LIMIT: Duration = Duration::from_millis(4500);
/// Upper bound on the UDP sockets of an address. One worker answers more than 100,000 queries a
/// second.
const MAX_UDP_SOCKETS: usize = 4;
/// Number of attempts to find a port that is free for both UDP and TCP.
const PORT_ATTEMPTS: usize = 16;

/// Answers queries from local data, and forwards the others to upstreams.
pub struct Resolver {
    /// The data to answer from. The agent's publisher changes it.
    data: Arc<dyn LiveZoneData>,
    upstreams: Upstreams,
    forwarder: Forwarder,
    cache: ReplyCache,
    probe: LoopProbe,
    /// `None`: no query is observed.
    observers: Option<Observers>,
    counters: Arc<ResolverCounters>,
}

/// The upstream servers.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The servers for names outside the cluster. Empty: the cluster's DNS receives these queries
    /// too; without a cluster DNS, they get REFUSED.
    pub outside: ServerSet,
    /// The cluster's DNS. `None`: not configured, so `outside` receives all queries.
    pub cluster: Option<ClusterDns>,
    /// How names outside the cluster are answered instead, if that is known.
    pub routes: LiveRoutes,
    /// The letters of the name in queries over UDP.
    pub case: NameCase,
}

/// The cluster's DNS, which knows names of the cluster that the local zones don't have.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    /// The cluster's domains, whether or not a local zone exists for them.
    pub domains: Vec<Name>,
    /// The servers of the cluster's DNS. While none is [usable](UpstreamServers::usable), queries
    /// for names of the cluster get SERVFAIL, because other servers would answer NXDOMAIN.
    pub servers: UpstreamServers,
}

/// Bound sockets, for UDP and TCP on the same address and port. UDP has as many sockets as the
/// runtime has workers, at most [`MAX_UDP_SOCKETS`], so that several CPUs answer.
#[derive(Debug)]
pub struct Sockets {
    address: SocketAddr,
    /// At least one.
    udp: Vec<UdpListener>,
    tcp: TcpListener,
    canary: Arc<Canary>,
}

/// The servers of an address. A receiver should have a thread of its own: then no other work, such
/// as that of questions to upstreams, delays it.
pub struct AddressServers {
    /// One for each UDP socket.
    pub udp: Vec<UdpReceiver>,
    /// For all connections.
    pub tcp: TcpServer,
}

/// The first step of an answer.
struct StartedAnswer {
    action: QueryAction,
    /// The part of the resolver that makes the reply.
    source: ReplySource,
    /// The place of a query that waits for upstreams.
    _place: Option<Share>,
}

/// A reply to a client.
struct FinishedReply {
    message: Vec<u8>,
    /// The upstream that has sent the last response that the reply is made of, if that is known.
    upstream: Option<SocketAddr>,
}

impl StartedAnswer {
    /// An answer without a place, because it doesn't wait for upstreams.
    fn without_wait(action: QueryAction, source: ReplySource) -> StartedAnswer {
        StartedAnswer {
            action,
            source,
            _place: None,
        }
    }
}

impl Resolver {
    /// A resolver that answers from `data`, and forwards queries for other names to `upstreams`.
    pub fn new(
        data: Arc<dyn LiveZoneData>,
        upstreams: Upstreams,
        cache: CacheSettings,
    ) -> Resolver {
        Resolver::observed(data, upstreams, cache, &ObserverSettings::default())
    }

    /// As [`Resolver::new`], with observers of the queries.
    pub fn observed(
        data: Arc<dyn LiveZoneData>,
        upstreams: Upstreams,
        cache: CacheSettings,
        observers: &ObserverSettings,
    ) -> Resolver {
        let counters = Arc::new(ResolverCounters::default());
        let configured = upstreams.outside.addresses();
        counters.traffic.upstreams.add_configured(&configured);
        let observers = Observers::new(observers, &counters);
        let dnstap = observers.as_ref().and_then(Observers::dnstap).cloned();
        let pool = UpstreamPool::new(upstreams.case, dnstap, counters.clone());
        Resolver {
            data,
            forwarder: Forwarder::new(pool, counters.clone()),
            upstreams,
            cache: ReplyCache::new(cache, counters.traffic.cache.clone()),
            probe: LoopProbe::default(),
            observers,
            counters,
        }
    }

    /// The resolver's counters.
    pub fn counters(&self) -> &Arc<ResolverCounters> {
        &self.counters
    }

    /// Servers for the queries that these sockets receive. Answers that wait for upstreams have
    /// tasks on the current runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn servers(self: &Arc<Self>, sockets: Sockets) -> AddressServers {
        let traffic = &self.counters.traffic;
        let (udp_tallies, tally) = traffic.add_server(sockets.address, sockets.udp.len());
        let udp = sockets.udp.into_iter().zip(udp_tallies).enumerate();
        let udp = udp.map(|(number, (listener, udp_tally))| UdpReceiver {
            listener: Arc::new(listener),
            resolver: self.clone(),
            number,
            canary: sockets.canary.sources().clone(),
            tally: udp_tally,
            task_tally: tally.clone(),
            waiting: Handle::current(),
        });
        AddressServers {
            udp: udp.collect(),
            tcp: TcpServer {
                listener: sockets.tcp,
                resolver: self.clone(),
                tally: tally.clone(),
            },
        }
    }

    /// The number of queries that wait for upstreams.
    pub fn waiting_queries(&self) -> usize {
        self.forwarder.waiting_queries()
    }

    /// The stream to the dnstap collector. `None`: there is no collector.
    pub fn dnstap(&self) -> Option<DnstapStream> {
        let dnstap = self.observers.as_ref()?.dnstap()?;
        Some(DnstapStream::new(dnstap.clone()))
    }

    /// The reply to a message. `None` if the message gets no reply.
    pub async fn answer_message(
        self: &Arc<Self>,
        bytes: &[u8],
        transport: Transport,
        client: IpAddr,
    ) -> Option<Vec<u8>> {
        let started = self.start_answer(bytes, transport, client);
        let reply = self.finish_answer(started, client).await?;
        Some(reply.message)
    }

    /// Decides what to do with a message, and which part of the resolver makes the reply. Counts
    /// the message, and a reply that needs no upstream. Doesn't wait. So the number of answers that
    /// are started and not finished is limited, however many messages arrive.
    fn start_answer(
        self: &Arc<Self>,
        bytes: &[u8],
        transport: Transport,
        client: IpAddr,
    ) -> StartedAnswer {
        increment(match transport {
            Transport::Udp => &self.counters.udp_queries,
            Transport::Tcp => &self.counters.tcp_queries,
        });
        let (mut action, source) = match self.decide_action(bytes, transport, random_rotation()) {
            QueryAction::Forward(query) => {
                let action = self.answer_from_cache(query, client);
                let source = ReplySource::of_cache_action(&action);
                (action, source)
            }
            action => {
                let source = ReplySource::of_local_action(&action);
                (action, source)
            }
        };
        let mut place = None;
        if matches!(action, QueryAction::Forward(_) | QueryAction::Chase(_)) {
            place = self.forwarder.take_place(client);
            if place.is_none() {
                increment(&self.counters.overloaded);
                action = self.refuse_to_wait(action);
            }
        }
        match &action {
            QueryAction::Send(message) => self.counters.count_reply(message),
            QueryAction::Ignore => increment(&self.counters.ignored),
            QueryAction::Forward(_) | QueryAction::Chase(_) => {}
        }
        StartedAnswer {
            action,
            source,
            _place: place,
        }
    }

    /// Decides what to do with a message without counting it. `rotation` is as in [`respond`].
    fn decide_action(&self, bytes: &[u8], transport: Transport, rotation: usize) -> QueryAction {
        let routes = self.upstreams.routes.table();
        let mut action = QueryAction::Ignore;
        self.data.with_data(&mut |data| {
            self.cache.follow_names(data.zones(), routes.number());
            action = match respond(bytes, data, transport, rotation) {
                // An upstream has forwarded this resolver's loop probe back.
                QueryAction::Forward(query) if self.probe.detect(&query.name) => {
                    QueryAction::Send(query.error_reply(OptRcode::REFUSED))
                }
                QueryAction::Forward(query) => self.follow_route(query, &routes, data, rotation),
                action => action,
            };
        });
        action
    }

    /// The reply to a question, with the limits of TCP, as if nothing were in the cache. Appends
    /// each upstream query to `lookups`. Only the upstream queries are counted.
    pub async fn explain_answer(
        self: &Arc<Self>,
        name: &Name,
        rtype: Rtype,
        lookups: &mut Vec<UpstreamLookup>,
    ) -> Vec<u8> {
        let bytes = zone::build_query(rand::random(), name, rtype);
        // With rotation 0, the addresses keep the order of the data.
        let action = self.decide_action(&bytes, Transport::Tcp, 0);
        let client = Ipv4Addr::LOCALHOST.into();
        let mut context = LookupContext {
            rotation: 0,
            ..LookupContext::new(client, CacheUse::Bypassed, lookups)
        };
        let message = self.run_action(action, &mut context).await;
        // A well-formed query always gets a reply.
        message.unwrap_or_default()
    }

    /// Carries out the action of [`Resolver::start_answer`], and counts the reply if it needs an
    /// upstream.
    async fn finish_answer(
        self: &Arc<Self>,
        started: StartedAnswer,
        client: IpAddr,
    ) -> Option<FinishedReply> {
        // The place is held until the reply is ready.
        let StartedAnswer { action, _place, .. } = started;
        // `start_answer` has counted this reply.
        if let QueryAction::Send(message) = action {
            return Some(FinishedReply {
                message,
                upstream: None,
            });
        }
        let lookups = &mut Vec::new();
        let mut context = LookupContext::new(client, CacheUse::Answered, lookups);
        let message = self.run_action(action, &mut context).await?;
        self.counters.count_reply(&message);
        Some(FinishedReply {
            message,
            upstream: context.upstream,
        })
    }

    /// Looks names up until there is a reply. `None` if the message gets no reply.
    async fn run_action(
        self: &Arc<Self>,
        mut action: QueryAction,
        context: &mut LookupContext<'_>,
    ) -> Option<Vec<u8>> {
        loop {
            action = match action {
                QueryAction::Ignore => return None,
                QueryAction::Send(message) => return Some(message),
                QueryAction::Forward(query) => self.forward(query, context).await,
                QueryAction::Chase(chase) => self.continue_chase(chase, context).await,
            }
        }
    }

    /// Calls `decide` with the current local names.
    fn with_local_names<T: Default>(&self, decide: impl FnOnce(&LocalNames<'_>) -> T) -> T {
        let domains = self.upstreams.cluster_domains();
        // `with_data` takes an `FnMut`, and calls it once.
        let (mut decide, mut decided) = (Some(decide), T::default());
        self.data.with_data(&mut |data| {
            if let Some(decide) = decide.take() {
                decided = decide(&LocalNames { data, domains });
            }
        });
        decided
    }
}

/// A random `rotation` for [`respond`]. The `rand` crate has no distribution of all `usize` values.
fn random_rotation() -> usize {
    rand::random_range(..usize::MAX)
}

/// Raises the soft limit on open files to the hard limit, because each upstream query and each
/// connection needs a socket. The usual soft limit of 1024 protects programs that call `select`,
/// and the agent doesn't call it.
///
/// # Errors
/// When the limit can't be read or raised.
pub fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

impl Sockets {
    /// Binds an address for UDP and TCP. Port 0 selects a port that is free for both.
    ///
    /// # Errors
    /// When the address can't be bound for UDP and TCP. The error says what to check.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Sockets> {
        let attempts = if address.port() == 0 {
            PORT_ATTEMPTS
        } else {
            1
        };
        let mut bound = Sockets::try_bind(address);
        for _ in 1..attempts {
            if bound.is_ok() {
                break;
            }
            bound = Sockets::try_bind(address);
        }
        bound.with_context(|| {
            format!(
                "can't listen on {address}: check that this machine has the address, \
                 that no other process uses the port, and that the agent may bind it \
                 (ports below 1024 need CAP_NET_BIND_SERVICE)"
            )
        })
    }

    fn try_bind(address: SocketAddr) -> io::Result<Sockets> {
        let workers = Handle::current().metrics().num_workers();
        let sockets = NonZero::new(workers.min(MAX_UDP_SOCKETS)).unwrap_or(NonZero::<usize>::MIN);
        let udp = UdpListener::bind(address, sockets)?;
        let address = udp[0].address();
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if address.is_ipv6() {
            // As for UDP, an IPv6 socket doesn't receive IPv4.
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        // A restarted agent must not wait for connections in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Sockets {
            address,
            udp,
            tcp: socket.listen(BACKLOG)?,
            canary: Arc::new(Canary::new(address, sockets.get())),
        })
    }

    /// The canary that queries these sockets.
    pub fn canary(&self) -> &Arc<Canary> {
        &self.canary
    }

    /// A canary that queries these sockets at one of their addresses, instead of
    /// [`Sockets::canary`]. The receivers recognise only the clients of one of them.
    pub fn canary_at(&self, server: SocketAddr) -> Canary {
        self.canary.at(server)
    }

    /// Reports each time the kernel has dropped datagrams because one of the UDP sockets was full.
    /// The value is their number.
    pub fn overflows(&self) -> watch::Receiver<u64> {
        // There is at least one, and they share the counter.
        self.udp[0].overflows().subscribe()
    }

    /// The bound address, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests;
