//! The user plane: DNS over UDP and TCP, from the same model as the kernel's
//! tables, with upstreams for everything else.
//!
//! [`message::respond`] decides, without sockets or time. `udp` and `tcp` carry
//! queries to it and replies back. `forward` asks upstreams, `response` reads what they say,
//! `bailiwick` leaves out what doesn't belong to the question, and `chase` makes the client's answer
//! of the rest. `loops` looks for upstreams that lead back here. `compose` puts messages together.
//!
//! `message`, `response`, `bailiwick` and `chase` are pure and read what strangers send: they are public so that
//! fuzzing reaches them.

pub mod bailiwick;
mod canary;
mod chase;
mod compose;
mod counters;
mod forward;
pub mod loops;
pub mod message;
pub mod response;
mod tcp;
mod udp;

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Context;
use domain::base::iana::OptRcode;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinSet,
};

pub(crate) use self::response::Records;
use self::{
    bailiwick::OwnNames,
    counters::bump,
    forward::Forwarder,
    loops::Probe,
    message::{Reply, Transport, respond},
    response::{Response, UpstreamQuery},
};
pub use self::{
    canary::Canary,
    counters::{Counters, Counts},
    forward::{NoResponse, Servers},
    message::is_transfer,
};
use crate::zone::{self, Apex, Live, Name, Rtype, reverse_range};

/// How many connections wait to be accepted.
const BACKLOG: u32 = 1024;
/// How often to look for a port that is free for both UDP and TCP.
const PORT_ATTEMPTS: usize = 16;

/// Answers queries.
pub struct Resolver {
    /// What is answered; the agent's writer changes it.
    data: Arc<dyn Live>,
    upstreams: Upstreams,
    forwarder: Forwarder,
    probe: Probe,
    counters: Arc<Counters>,
}

/// A question that upstreams were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consulted {
    /// The name asked for.
    pub name: Name,
    /// The servers, in order of preference; none when there is no server to ask.
    pub servers: Vec<SocketAddr>,
    /// The response code of the answer, or why there is none; none while it is waited for.
    pub outcome: Option<Result<String, NoResponse>>,
}

/// Who is asked for names that aren't there.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The servers for names outside the cluster, in order of preference.
    pub others: Vec<SocketAddr>,
    /// The cluster's own DNS.
    pub cluster: Option<ClusterDns>,
}

/// The cluster's own DNS, which knows names of the cluster that we don't.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    /// The cluster's domains, whether or not there is a zone of ours for them.
    pub domains: Vec<Name>,
    /// Its servers. While there are none, names of the cluster get SERVFAIL: other servers
    /// would deny them.
    pub servers: Servers,
}

/// Bound sockets, for UDP and TCP on the same address and port.
#[derive(Debug)]
pub struct Sockets {
    address: SocketAddr,
    udp: udp::Listener,
    tcp: TcpListener,
    canary: Arc<Canary>,
}

impl Resolver {
    /// A resolver that answers from `data` and asks `upstreams` for names that aren't
    /// there.
    pub fn new(data: Arc<dyn Live>, upstreams: Upstreams) -> Resolver {
        let counters = Arc::new(Counters::default());
        Resolver {
            data,
            upstreams,
            forwarder: Forwarder::new(counters.clone()),
            probe: Probe::default(),
            counters,
        }
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Adds the tasks that serve these sockets to `tasks`, each with its name as
    /// result. They end only when aborted.
    pub fn serve(self: &Arc<Self>, sockets: Sockets, tasks: &mut JoinSet<&'static str>) {
        let (resolver, udp, canary) = (self.clone(), sockets.udp, sockets.canary.source());
        tasks.spawn(async move {
            udp::serve(udp, resolver, canary).await;
            "the UDP server"
        });
        let (resolver, tcp) = (self.clone(), sockets.tcp);
        tasks.spawn(async move {
            tcp::serve(tcp, resolver).await;
            "the TCP server"
        });
    }

    /// The reply to a message, if it gets one.
    pub async fn answer(&self, octets: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let reply = self.begin(octets, transport);
        self.finish(reply).await
    }

    /// What to do about a message, as far as that is known without waiting.
    fn begin(&self, octets: &[u8], transport: Transport) -> Reply {
        bump(match transport {
            Transport::Udp => &self.counters.udp_queries,
            Transport::Tcp => &self.counters.tcp_queries,
        });
        let rotation = rand::random_range(..usize::MAX);
        let reply = self.consider(octets, transport, rotation);
        match &reply {
            Reply::Message(message) => self.counters.reply(message),
            Reply::Ignore => bump(&self.counters.ignored),
            Reply::Forward(_) | Reply::Chase(_) => {}
        }
        reply
    }

    /// The same, and nothing is counted.
    fn consider(&self, octets: &[u8], transport: Transport, rotation: usize) -> Reply {
        let mut reply = Reply::Ignore;
        self.data
            .look(&mut |data| reply = respond(octets, data, transport, rotation));
        match reply {
            Reply::Forward(query) if self.probe.is(&query.name) => {
                Reply::Message(query.error(OptRcode::REFUSED))
            }
            reply => reply,
        }
    }

    /// The reply to a client's question, over a transport that holds it all; notes who is asked.
    /// Queries and replies are not counted, questions to upstreams are.
    pub async fn explain(
        &self,
        name: &Name,
        rtype: Rtype,
        consulted: &mut Vec<Consulted>,
    ) -> Vec<u8> {
        let octets = zone::query(rand::random(), name, rtype);
        let reply = self.consider(&octets, Transport::Tcp, 0);
        let message = self.pursue(reply, 0, consulted).await;
        message.unwrap_or_default()
    }

    /// Waits for what upstreams have to say, where they are asked.
    async fn finish(&self, reply: Reply) -> Option<Vec<u8>> {
        let rotation = rand::random_range(..usize::MAX);
        let message = self.pursue(reply, rotation, &mut Vec::new()).await?;
        self.counters.reply(&message);
        Some(message)
    }

    /// Asks upstreams until there is a message, and notes who was asked.
    async fn pursue(
        &self,
        mut reply: Reply,
        rotation: usize,
        consulted: &mut Vec<Consulted>,
    ) -> Option<Vec<u8>> {
        loop {
            reply = match reply {
                Reply::Ignore => return None,
                Reply::Message(message) => return Some(message),
                Reply::Forward(query) => {
                    let asked = UpstreamQuery::forwarding(&query);
                    match self.ask(&query.name, &asked, consulted).await {
                        Ok(response) => self.with_own(|own| query.relay(&response, own, rotation)),
                        Err(NoResponse::NoUpstream) => {
                            Reply::Message(query.error(OptRcode::REFUSED))
                        }
                        Err(_) => Reply::Message(query.error(OptRcode::SERVFAIL)),
                    }
                }
                Reply::Chase(chase) => {
                    let asked = UpstreamQuery::chasing(&chase);
                    let response = self.ask(&chase.target, &asked, consulted).await.ok();
                    self.with_own(|own| chase.complete(response.as_deref(), own, rotation))
                }
            }
        }
    }

    /// Asks for a name where it is known.
    async fn ask(
        &self,
        name: &Name,
        query: &UpstreamQuery,
        consulted: &mut Vec<Consulted>,
    ) -> Result<Arc<Response>, NoResponse> {
        let mut servers = None;
        self.data
            .look(&mut |data| servers = self.upstreams.of(name, data.zones()));
        let known = servers.is_some();
        let servers = servers.unwrap_or_default();
        let number = consulted.len();
        consulted.push(Consulted {
            name: name.clone(),
            servers: servers.clone(),
            outcome: None,
        });
        let result = match known {
            true => self.forwarder.ask(&servers, query).await,
            false => Err(NoResponse::Unknown),
        };
        consulted[number].outcome = Some(match &result {
            Ok(response) => Ok(response.rcode().to_string()),
            Err(reason) => Err(*reason),
        });
        result
    }

    /// Makes a reply with the data of the moment.
    fn with_own(&self, make: impl FnOnce(&OwnNames<'_>) -> Reply) -> Reply {
        let domains = self.upstreams.domains();
        let (mut make, mut reply) = (Some(make), Reply::Ignore);
        self.data.look(&mut |data| {
            if let Some(make) = make.take() {
                reply = make(&OwnNames { data, domains });
            }
        });
        reply
    }
}

impl Upstreams {
    /// Who is asked for names outside the cluster.
    fn for_outside_names(&self) -> Vec<SocketAddr> {
        match &self.cluster {
            Some(cluster) if self.others.is_empty() => cluster.servers.get(),
            _ => self.others.clone(),
        }
    }

    /// Servers of the cluster's DNS that are not asked, because they are this resolver.
    fn excluded(&self) -> Vec<SocketAddr> {
        let cluster = self.cluster.as_ref();
        cluster.map_or_else(Vec::new, |cluster| cluster.servers.excluded())
    }

    /// The cluster's domains, if the cluster has a DNS of its own.
    fn domains(&self) -> &[Name] {
        self.cluster
            .as_ref()
            .map_or(&[], |cluster| &cluster.domains)
    }

    /// Who is asked for a name, with these zones of ours; none: the cluster's DNS, whose address
    /// is not known.
    fn of(&self, name: &Name, zones: &[Apex]) -> Option<Vec<SocketAddr>> {
        let Some(cluster) = &self.cluster else {
            return Some(self.others.clone());
        };
        let zones_are_unknown = zones.is_empty();
        let mut zones = zones.iter().map(|zone| &zone.name).chain(&cluster.domains);
        // Without a zone of ours it isn't known which domains are the cluster's.
        let is_the_clusters = zones_are_unknown
            || zones.any(|zone| name.is_at_or_below(zone))
            || reverse_range(name).is_some();
        if !is_the_clusters && !self.others.is_empty() {
            return Some(self.others.clone());
        }
        Some(cluster.servers.get()).filter(|servers| !servers.is_empty())
    }
}

/// Lets this process have as many sockets open as its hard limit allows: each
/// waiting query and each connection needs one, and the usual soft limit of 1024
/// is made for `select`.
///
/// # Errors
/// When the system refuses.
pub fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

impl Sockets {
    /// Binds an address for UDP and TCP; with port 0, to one that is free for
    /// both.
    ///
    /// # Errors
    /// When the address can't be bound; says what may be done about it.
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
                "can't listen on {address}: is the address this machine's, the port free, and this process allowed to use it?"
            )
        })
    }

    fn try_bind(address: SocketAddr) -> io::Result<Sockets> {
        let udp = udp::Listener::bind(address)?;
        let address = udp.local_addr()?;
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Sockets {
            address,
            udp,
            tcp: socket.listen(BACKLOG)?,
            canary: Arc::new(Canary::new(address)),
        })
    }

    /// Who asks these sockets, to see that they answer.
    pub fn canary(&self) -> &Arc<Canary> {
        &self.canary
    }

    /// The address bound, with its port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests;
