//! DNS over UDP: one socket per address. Replies come from the address that was queried.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    cmsg_space,
    libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket, task::JoinSet, time::sleep};
use tracing::{debug, warn};

use super::{Resolver, message::QueryAction, query::Transport};

/// Upper bound on the length of a UDP datagram, in bytes.
const MAX_DATAGRAM: usize = 65535;
/// Delay after a failed receive, which usually means that the system is short of a resource.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket. On a wildcard address, it reports the destination address of each query.
#[derive(Debug)]
pub(super) struct UdpListener {
    socket: UdpSocket,
}

/// The return path of a reply.
#[derive(Clone, Copy, Debug)]
struct ReplyRoute {
    client: SocketAddr,
    /// The query's destination address, which becomes the reply's source address, and the index of
    /// the receiving interface (0 for IPv4). `None` on a socket that is bound to a single address.
    destination: Option<(IpAddr, u32)>,
}

/// Answers queries until dropped. Each query that needs an upstream has its own task, so that it
/// doesn't delay others. `canary` is the address of the socket from which the agent itself tests
/// this server; these queries are not counted. `None` if that socket couldn't be opened.
pub(super) async fn serve_queries(
    listener: UdpListener,
    resolver: Arc<Resolver>,
    canary: Option<SocketAddr>,
) {
    let listener = Arc::new(listener);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let (length, route) = match listener.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                warn!(
                    %error,
                    "can't receive a UDP query: clients get no reply over UDP meanwhile; \
                     the agent retries after {RECEIVE_PAUSE:?}; \
                     if this repeats, check the memory limit of the agent's pod"
                );
                sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        let query = &buffer[..length];
        let action = if Some(route.client) == canary {
            let rotation = 0;
            resolver.decide_action(query, Transport::Udp, rotation)
        } else {
            resolver.start_answer(query, Transport::Udp)
        };
        match action {
            QueryAction::Ignore => {}
            QueryAction::Send(message) => listener.send(&message, route).await,
            pending @ (QueryAction::Forward(_) | QueryAction::Chase(_)) => {
                let (listener, resolver) = (listener.clone(), resolver.clone());
                waiting.spawn(async move {
                    if let Some(message) = resolver.finish_answer(pending).await {
                        listener.send(&message, route).await;
                    }
                });
                // Finished tasks are removed from the set.
                while waiting.try_join_next().is_some() {}
            }
        }
    }
}

impl UdpListener {
    /// Binds a socket. A socket on a wildcard address also receives each query's destination
    /// address. An IPv6 socket doesn't receive IPv4.
    pub(super) fn bind(address: SocketAddr) -> io::Result<UdpListener> {
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
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(UdpListener {
            socket: UdpSocket::from_std(fd.into())?,
        })
    }

    /// The bound address, with the actual port.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for a message. Returns its length in `buffer` and the way back to its sender.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, ReplyRoute)> {
        self.socket
            .async_io(Interest::READABLE, || self.try_receive(buffer))
            .await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, ReplyRoute)> {
        let mut control = cmsg_space!(in_pktinfo, in6_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let client = received
            .address
            .as_ref()
            .and_then(socket_address)
            .ok_or_else(|| io::Error::other("the datagram has no source address"))?;
        let destination = received.cmsgs()?.find_map(|message| match message {
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
        Ok((
            received.bytes,
            ReplyRoute {
                client,
                destination,
            },
        ))
    }

    /// Sends a reply. A failure is only logged, because the client will retry.
    async fn send(&self, message: &[u8], route: ReplyRoute) {
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, || self.try_send(message, route))
            .await;
        if let Err(error) = sent {
            debug!(client = %route.client, %error, "can't send a UDP reply");
        }
    }

    fn try_send(&self, message: &[u8], route: ReplyRoute) -> io::Result<usize> {
        let slices = [IoSlice::new(message)];
        let client = SockaddrStorage::from(route.client);
        let send = |control: &[ControlMessage<'_>]| {
            sendmsg(
                self.socket.as_raw_fd(),
                &slices,
                control,
                MsgFlags::empty(),
                Some(&client),
            )
        };
        let sent = match route.destination {
            None => send(&[])?,
            Some((IpAddr::V4(destination), _)) => {
                let source = in_addr {
                    s_addr: u32::from_ne_bytes(destination.octets()),
                };
                let info = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: source,
                    ipi_addr: source,
                };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])?
            }
            Some((IpAddr::V6(destination), interface)) => {
                let info = in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: destination.octets(),
                    },
                    // Only a link-local source needs its interface. Other replies follow the route
                    // to the client.
                    ipi6_ifindex: if destination.is_unicast_link_local() {
                        interface
                    } else {
                        0
                    },
                };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])?
            }
        };
        Ok(sent)
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into())
}
