//! UDP sockets that receive and send several datagrams with a system call.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    num::NonZero,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg,
        SockFlag, SockType, SockaddrStorage, bind, recvmmsg, sendmmsg, setsockopt, socket, sockopt,
    },
};
use tokio::sync::watch;
use tracing::debug;

use crate::{
    Resolver,
    counters::increment,
    observers::ClientPath,
    query::{MAX_QUERY, Transport},
};

/// Upper bound on the datagrams that one system call receives or sends.
pub(super) const BATCH: usize = 32;
/// The bytes that wait in all sockets of an address to be read; the kernel doubles this. With the
/// usual 208 KiB, a burst of 300 queries loses some.
const RECEIVE_BUFFERS: usize = 4 << 20;
/// The bytes that wait in all sockets of an address to be sent; the kernel doubles this. Replies to
/// clients without a neighbor wait for 3 s while it is looked up, at most 208 KiB for each
/// (`unres_qlen_bytes`). So replies to all addresses of a /24 network leave room for others.
const SEND_BUFFERS: usize = 32 << 20;

/// A buffer for one query. One byte more than a query may have shows that it is too long.
pub(super) type ReceiveBuffer = [u8; MAX_QUERY + 1];

/// The bytes that may wait in a socket.
#[derive(Clone, Copy)]
struct BufferSizes {
    receive: usize,
    send: usize,
}

/// A bound socket. On a wildcard address, it reports the destination address of each query.
#[derive(Debug)]
pub(in super::super) struct UdpListener {
    socket: UdpSocket,
    /// The bound address, with the actual port.
    address: SocketAddr,
    /// How many datagrams the kernel has dropped because this socket was full, as far as known.
    dropped: AtomicU32,
    /// The same of all sockets of the address.
    overflows: Arc<Overflows>,
}

/// Counts the datagrams that the kernel has dropped because sockets of an address were full.
/// Receivers are told of a change.
pub(in super::super) type Overflows = watch::Sender<u64>;

/// What the kernel says about a datagram.
struct DatagramOrigin {
    route: ReplyRoute,
    /// How many datagrams it has dropped before, because the socket was full (`SO_RXQ_OVFL`). The
    /// number wraps. `None`: none.
    dropped: Option<u32>,
}

/// The return path of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyRoute {
    pub(super) client: SocketAddr,
    /// The query's destination address, which becomes the reply's source address, and the index of
    /// the receiving interface (0 for IPv4). `None` on a socket that is bound to a single address.
    destination: Option<(IpAddr, u32)>,
}

impl UdpListener {
    /// Binds sockets that share an address. The kernel always gives the queries of one client port
    /// to the same socket. A socket on a wildcard address also receives each query's destination
    /// address. An IPv6 socket doesn't receive IPv4.
    pub(in super::super) fn bind(
        address: SocketAddr,
        sockets: NonZero<usize>,
    ) -> io::Result<Vec<Self>> {
        // The first socket is not shared while it is bound, so that it fails if another process
        // has the address.
        let buffers = BufferSizes {
            receive: RECEIVE_BUFFERS / sockets,
            send: SEND_BUFFERS / sockets,
        };
        let overflows = Arc::new(Overflows::default());
        let first = UdpListener::open(address, buffers)?;
        let first = UdpListener::bind_one(first, address, &overflows)?;
        let mut listeners = Vec::from([first]);
        for _ in 1..sockets.get() {
            let next = UdpListener::open(address, buffers)?;
            let first = &listeners[0];
            setsockopt(&first.socket, sockopt::ReusePort, &true)?;
            setsockopt(&next, sockopt::ReusePort, &true)?;
            let next = UdpListener::bind_one(next, first.address, &overflows)?;
            listeners.push(next);
        }
        Ok(listeners)
    }

    /// Opens a socket for an address.
    fn open(address: SocketAddr, buffers: BufferSizes) -> io::Result<OwnedFd> {
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
        setsockopt(&fd, sockopt::RxqOvfl, &1)?;
        buffers.set(&fd)?;
        Ok(fd)
    }

    fn bind_one(
        fd: OwnedFd,
        address: SocketAddr,
        overflows: &Arc<Overflows>,
    ) -> io::Result<UdpListener> {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        let socket = UdpSocket::from(fd);
        let address = socket.local_addr()?;
        Ok(UdpListener {
            socket,
            address,
            dropped: AtomicU32::new(0),
            overflows: overflows.clone(),
        })
    }

    /// Counts the datagrams that the kernel has dropped because sockets of the address were full.
    pub(in super::super) fn overflows(&self) -> &Arc<Overflows> {
        &self.overflows
    }

    /// Takes notice of the kernel's counter of dropped datagrams.
    fn note_dropped(&self, dropped: u32) {
        let new = dropped.wrapping_sub(self.dropped.swap(dropped, Relaxed));
        if new > 0 {
            self.overflows.send_modify(|count| *count += u64::from(new));
        }
    }

    /// The bound address, with the actual port.
    pub(in super::super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses of a query that came this way.
    pub(super) fn path(&self, route: &ReplyRoute) -> ClientPath {
        let (ip, port) = (self.address.ip(), self.address.port());
        let ip = route.destination.map_or(ip, |(destination, _)| destination);
        ClientPath {
            transport: Transport::Udp,
            client: route.client,
            server: SocketAddr::new(ip, port),
        }
    }

    /// A handle with which the current runtime learns that the socket has messages.
    pub(super) fn readiness(&self) -> io::Result<tokio::net::UdpSocket> {
        tokio::net::UdpSocket::from_std(self.socket.try_clone()?)
    }

    /// Receives messages, or fails if there is none. Returns the length in its buffer and the way
    /// back to the sender of each.
    pub(super) fn receive(
        &self,
        buffers: &mut [ReceiveBuffer],
    ) -> io::Result<Vec<(usize, ReplyRoute)>> {
        let control = cmsg_space!(in_pktinfo, in6_pktinfo, u32);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, Some(control));
        let buffers = buffers.iter_mut();
        let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None)?;
        let routes = received.map(|message| {
            let DatagramOrigin { route, dropped } = DatagramOrigin::of(&message)?;
            if let Some(dropped) = dropped {
                self.note_dropped(dropped);
            }
            Ok((message.bytes, route))
        });
        routes.collect()
    }

    /// Sends replies, or drops them: clients will retry. A reply never waits, because replies to
    /// clients that don't exist fill the socket's buffer while their neighbors are looked up.
    pub(super) fn send(&self, replies: &[(Vec<u8>, ReplyRoute)], resolver: &Resolver) {
        // One system call has one source address.
        let same_source = |one: &(Vec<u8>, ReplyRoute), other: &(Vec<u8>, ReplyRoute)| {
            one.1.destination == other.1.destination
        };
        for group in replies.chunk_by(same_source) {
            for mut batch in group.chunks(BATCH) {
                while let [first, rest @ ..] = batch {
                    match self.try_send(batch, first.1.destination) {
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

impl BufferSizes {
    /// Sets the sizes. Beyond `rmem_max` and `wmem_max`, which are 208 KiB by default, only a
    /// thread with CAP_NET_ADMIN may set them. Otherwise the kernel lowers them.
    fn set(self, socket: &OwnedFd) -> nix::Result<()> {
        setsockopt(socket, sockopt::RcvBufForce, &self.receive)
            .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &self.receive))?;
        setsockopt(socket, sockopt::SndBufForce, &self.send)
            .or_else(|_| setsockopt(socket, sockopt::SndBuf, &self.send))
    }
}

impl DatagramOrigin {
    fn of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> io::Result<DatagramOrigin> {
        let client = message
            .address
            .as_ref()
            .and_then(socket_address)
            .ok_or_else(|| io::Error::other("a datagram has no source address"))?;
        let (mut destination, mut dropped) = (None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    // `ipi_spec_dst` is the local address; `ipi_addr` may be a broadcast address.
                    // The interface is not needed, because the reply follows the route to the
                    // client.
                    let local = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    destination = Some((local.into(), 0));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let local = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    destination = Some((local.into(), info.ipi6_ifindex));
                }
                ControlMessageOwned::RxqOvfl(count) => dropped = Some(count),
                _ => {}
            }
        }
        let route = ReplyRoute {
            client,
            destination,
        };
        Ok(DatagramOrigin { route, dropped })
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into())
}
