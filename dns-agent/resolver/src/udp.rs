//! DNS over UDP: one or more sockets for an address, each with a task that receives. Replies come
//! from the address that was queried.

use std::{
    io::{self, IoSlice, IoSliceMut},
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    num::NonZero,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::base::{Message, iana::OptRcode};
use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg,
        SockFlag, SockType, SockaddrStorage, bind, recvmmsg, sendmmsg, setsockopt, socket, sockopt,
    },
};
use tokio::{
    io::Interest,
    net::UdpSocket,
    task::{JoinSet, coop::consume_budget},
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    FinishedReply, Resolver, StartedAnswer,
    compose::header_only,
    counters::increment,
    message::QueryAction,
    observers::{ClientPath, ObservedQuery, ObservedReply},
    query::{MAX_QUERY, Transport},
    received::ReceivedQueries,
    traffic::{QueryLabels, ReplySource, TaskTally, UdpTally},
};

/// Upper bound on the datagrams that one system call receives or sends.
const BATCH: usize = 32;
/// Upper bound on received queries that wait for their turns, of which a client has a share.
const MAX_RECEIVED: usize = 1024;
/// Upper bound on the batches that are received before queries are answered.
const MAX_BATCHES: usize = 32;
/// The bytes that wait in a socket to be read. With the usual 208 KiB, a burst of 300 queries loses
/// some.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The bytes that wait in a socket to be sent; the kernel doubles this. Replies to clients without
/// a neighbor wait for 3 s while it is looked up, at most 208 KiB for each (`unres_qlen_bytes`).
/// So replies to all addresses of a /24 network leave room for others.
const SEND_BUFFER: usize = 32 << 20;
/// Delay after a failed receive, which usually means that the system is short of a resource.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket. On a wildcard address, it reports the destination address of each query.
#[derive(Debug)]
pub(super) struct UdpListener {
    socket: UdpSocket,
    /// The bound address, with the actual port.
    address: SocketAddr,
}

/// The return path of a reply.
#[derive(Clone, Copy, Debug)]
struct ReplyRoute {
    client: SocketAddr,
    /// The query's destination address, which becomes the reply's source address, and the index of
    /// the receiving interface (0 for IPv4). `None` on a socket that is bound to a single address.
    destination: Option<(IpAddr, u32)>,
}

/// A query whose reply is counted.
struct CountedQuery {
    labels: QueryLabels,
    source: ReplySource,
    observed: Option<Box<ObservedQuery>>,
    arrived: Instant,
}

/// A datagram that waits for its turn.
struct WaitingDatagram {
    /// At most [`MAX_QUERY`] bytes, or one more.
    message: Vec<u8>,
    route: ReplyRoute,
    arrived: Instant,
}

/// Answers queries until dropped. Each query that needs an upstream has its own task, so that it
/// doesn't delay others. `canary` is the address of the socket from which the agent itself tests
/// this server; these queries are not counted. `None` if that socket couldn't be opened. `tally`
/// counts replies of this task, and `task_tally` counts those of the queries' own tasks.
pub(super) async fn serve_queries(
    listener: UdpListener,
    resolver: Arc<Resolver>,
    canary: Option<SocketAddr>,
    mut tally: UdpTally,
    task_tally: TaskTally,
) {
    let listener = Arc::new(listener);
    let mut waiting = JoinSet::new();
    // One byte more shows that a query is too long.
    let mut buffers = vec![[0; MAX_QUERY + 1]; BATCH];
    let mut received = ReceivedQueries::new(MAX_RECEIVED);
    loop {
        if let Err(error) = listener
            .receive(&mut buffers, &mut received, &resolver)
            .await
        {
            warn!(
                %error,
                "can't receive a UDP query: clients get no reply over UDP meanwhile; \
                 the agent retries after {RECEIVE_PAUSE:?}; \
                 if this repeats, check the memory limit of the agent's pod"
            );
            sleep(RECEIVE_PAUSE).await;
        }
        let mut replies = Vec::new();
        // The queries of the replies that are counted.
        let mut counted: Vec<Option<CountedQuery>> = Vec::new();
        let batch: Vec<WaitingDatagram> = iter::from_fn(|| received.pop()).take(BATCH).collect();
        for WaitingDatagram {
            message: query,
            route,
            arrived,
        } in batch
        {
            let client = route.client.ip();
            let started = if query.len() > MAX_QUERY {
                StartedAnswer::without_wait(refuse_long_query(&query), ReplySource::Refusal)
            } else if Some(route.client) == canary {
                let rotation = 0;
                let action = resolver.decide_action(&query, Transport::Udp, rotation);
                StartedAnswer::without_wait(action, ReplySource::LocalData)
            } else {
                resolver.start_answer(&query, Transport::Udp, client)
            };
            let source = started.source;
            let labels = (Some(route.client) != canary)
                .then(|| QueryLabels::read(&query, Transport::Udp, client));
            let observed = match (&resolver.observers, labels) {
                (Some(observers), Some(_)) => observers.receive(&query, listener.path(&route)),
                _ => None,
            };
            let counted_query = labels.map(|labels| CountedQuery {
                labels,
                source,
                observed,
                arrived,
            });
            match started.action {
                QueryAction::Ignore => {}
                QueryAction::Send(message) => {
                    replies.push((message, route));
                    counted.push(counted_query);
                }
                pending @ (QueryAction::Forward(_) | QueryAction::Chase(_)) => {
                    let started = StartedAnswer {
                        action: pending,
                        ..started
                    };
                    let (listener, resolver) = (listener.clone(), resolver.clone());
                    let task_tally = task_tally.clone();
                    waiting.spawn(async move {
                        if let Some(reply) = resolver.finish_answer(started, client).await {
                            let FinishedReply { message, upstream } = reply;
                            let reply = [(message, route)];
                            listener.send(&reply, &resolver);
                            if let Some(query) = &counted_query {
                                let (reply, took) = (&reply[0].0, arrived.elapsed());
                                task_tally.count(&query.labels, source, reply, took);
                                query.observe_reply(reply, upstream, took);
                            }
                        }
                    });
                }
            }
        }
        listener.send(&replies, &resolver);
        for ((reply, _), counted) in replies.iter().zip(&counted) {
            if let Some(query) = counted {
                let took = query.arrived.elapsed();
                tally.count(&query.labels, query.source, reply, took);
                query.observe_reply(reply, None, took);
            }
        }
        // Finished tasks are removed from the set.
        while waiting.try_join_next().is_some() {}
    }
}

/// Sets the sizes of the socket's buffers. Beyond `rmem_max` and `wmem_max`, which are 208 KiB by
/// default, only a thread with CAP_NET_ADMIN may set them. Otherwise the kernel lowers them.
fn set_buffer_sizes(socket: &OwnedFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER))
}

/// FORMERR for a query of more than [`MAX_QUERY`] bytes.
fn refuse_long_query(query: &[u8]) -> QueryAction {
    match Message::from_slice(query) {
        Ok(message) if !message.header().qr() => {
            QueryAction::Send(header_only(message.header(), OptRcode::FORMERR))
        }
        _ => QueryAction::Ignore,
    }
}

impl UdpListener {
    /// Binds sockets that share an address. The kernel always gives the queries of one client port
    /// to the same socket. A socket on a wildcard address also receives each query's destination
    /// address. An IPv6 socket doesn't receive IPv4.
    pub(super) fn bind(address: SocketAddr, sockets: NonZero<usize>) -> io::Result<Vec<Self>> {
        // The first socket is not shared while it is bound, so that it fails if another process
        // has the address.
        let first = UdpListener::open(address)?;
        let first = UdpListener::bind_one(first, address)?;
        let mut listeners = Vec::from([first]);
        for _ in 1..sockets.get() {
            let next = UdpListener::open(address)?;
            let first = &listeners[0];
            setsockopt(&first.socket, sockopt::ReusePort, &true)?;
            setsockopt(&next, sockopt::ReusePort, &true)?;
            listeners.push(UdpListener::bind_one(next, first.address)?);
        }
        Ok(listeners)
    }

    /// Opens a socket for an address.
    fn open(address: SocketAddr) -> io::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Datagram, flags, None)?;
        if address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        set_buffer_sizes(&fd)?;
        Ok(fd)
    }

    fn bind_one(fd: OwnedFd, address: SocketAddr) -> io::Result<UdpListener> {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        let socket = UdpSocket::from_std(fd.into())?;
        let address = socket.local_addr()?;
        Ok(UdpListener { socket, address })
    }

    /// The bound address, with the actual port.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses of a query that came this way.
    fn path(&self, route: &ReplyRoute) -> ClientPath {
        let (ip, port) = (self.address.ip(), self.address.port());
        let ip = route.destination.map_or(ip, |(destination, _)| destination);
        ClientPath {
            transport: Transport::Udp,
            client: route.client,
            server: SocketAddr::new(ip, port),
        }
    }

    /// Receives what has arrived, so that the socket's buffer has room for other clients. Waits if
    /// no query has been received. Drops queries of clients that have no place for them.
    async fn receive(
        &self,
        buffers: &mut [[u8; MAX_QUERY + 1]],
        received: &mut ReceivedQueries<WaitingDatagram>,
        resolver: &Resolver,
    ) -> io::Result<()> {
        // Lets other tasks run when the queries never end.
        consume_budget().await;
        for _ in 0..MAX_BATCHES {
            let batch = if received.is_empty() {
                let receive = || self.try_receive(buffers);
                self.socket.async_io(Interest::READABLE, receive).await?
            } else {
                let receive = || self.try_receive(buffers);
                match self.socket.try_io(Interest::READABLE, receive) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    batch => batch?,
                }
            };
            let is_last = batch.len() < buffers.len();
            let arrived = Instant::now();
            for (buffer, (length, route)) in buffers.iter().zip(batch) {
                let client = route.client.ip();
                if !received.has_place(client) {
                    increment(&resolver.counters().queries_dropped);
                    continue;
                }
                let message = buffer[..length].to_vec();
                let query = WaitingDatagram {
                    message,
                    route,
                    arrived,
                };
                received.push(client, query);
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }

    fn try_receive(
        &self,
        buffers: &mut [[u8; MAX_QUERY + 1]],
    ) -> io::Result<Vec<(usize, ReplyRoute)>> {
        let control = cmsg_space!(in_pktinfo, in6_pktinfo);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(control));
        let buffers = buffers.iter_mut();
        let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None)?;
        let routes = received.map(|message| Ok((message.bytes, ReplyRoute::of(&message)?)));
        routes.collect()
    }

    /// Sends replies, or drops them: clients will retry. A reply never waits, because replies to
    /// clients that don't exist fill the socket's buffer while their neighbors are looked up.
    fn send(&self, replies: &[(Vec<u8>, ReplyRoute)], resolver: &Resolver) {
        // One system call has one source address.
        let same_source = |one: &(Vec<u8>, ReplyRoute), other: &(Vec<u8>, ReplyRoute)| {
            one.1.destination == other.1.destination
        };
        for group in replies.chunk_by(same_source) {
            for mut batch in group.chunks(BATCH) {
                while let [first, rest @ ..] = batch {
                    let send = || self.try_send(batch, first.1.destination);
                    match self.socket.try_io(Interest::WRITABLE, send) {
                        Ok(sent) => batch = &batch[sent.clamp(1, batch.len())..],
                        Err(error) => {
                            increment(&resolver.counters().replies_dropped);
                            debug!(client = %first.1.client, %error, "can't send a UDP reply");
                            batch = rest;
                        }
                    }
                }
            }
        }
    }

    /// Sends replies with this source. Returns how many were sent. An error is about the first one.
    fn try_send(
        &self,
        replies: &[(Vec<u8>, ReplyRoute)],
        source: Option<(IpAddr, u32)>,
    ) -> io::Result<usize> {
        let (slices, clients): (Vec<_>, Vec<_>) = replies
            .iter()
            .map(|(message, route)| {
                let client = SockaddrStorage::from(route.client);
                ([IoSlice::new(message)], Some(client))
            })
            .unzip();
        let send = |control: &[ControlMessage<'_>], space: Option<Vec<u8>>| {
            let mut headers = MultiHeaders::preallocate(replies.len(), space);
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            sendmmsg(fd, &mut headers, &slices, &clients, control, flags).map(Iterator::count)
        };
        let sent = match source {
            None => send(&[], None)?,
            Some((IpAddr::V4(source), _)) => {
                let source = in_addr {
                    s_addr: u32::from_ne_bytes(source.octets()),
                };
                let info = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: source,
                    ipi_addr: source,
                };
                let space = cmsg_space!(in_pktinfo);
                send(&[ControlMessage::Ipv4PacketInfo(&info)], Some(space))?
            }
            Some((IpAddr::V6(source), interface)) => {
                let info = in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: source.octets(),
                    },
                    // Only a link-local source needs its interface. Other replies follow the route
                    // to the client.
                    ipi6_ifindex: if source.is_unicast_link_local() {
                        interface
                    } else {
                        0
                    },
                };
                let space = cmsg_space!(in6_pktinfo);
                send(&[ControlMessage::Ipv6PacketInfo(&info)], Some(space))?
            }
        };
        Ok(sent)
    }
}

impl CountedQuery {
    fn observe_reply(&self, message: &[u8], upstream: Option<SocketAddr>, took: Duration) {
        if let Some(observed) = &self.observed {
            observed.finish(&ObservedReply {
                labels: &self.labels,
                source: self.source,
                upstream,
                message,
                took,
            });
        }
    }
}

impl ReplyRoute {
    fn of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> io::Result<ReplyRoute> {
        let client = message
            .address
            .as_ref()
            .and_then(socket_address)
            .ok_or_else(|| io::Error::other("a datagram has no source address"))?;
        let destination = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                // `ipi_spec_dst` is the local address; `ipi_addr` may be a broadcast address. The
                // interface is not needed, because the reply follows the route to the client.
                let destination = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                Some((destination.into(), 0))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some((
                Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
                info.ipi6_ifindex,
            )),
            _ => None,
        });
        Ok(ReplyRoute {
            client,
            destination,
        })
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into())
}
