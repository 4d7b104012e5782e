//! DNS over UDP: one socket per address, and replies that come from the address
//! that was asked.

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

use super::{
    Resolver,
    message::{Reply, Transport},
};

/// The longest datagram there is.
const MAX_DATAGRAM: usize = 65535;
/// How long to wait after the system refused to receive, for it is out of
/// something.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket that knows which of its addresses was asked.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UdpSocket,
}

/// Who asked, and where.
#[derive(Clone, Copy, Debug)]
struct Client {
    address: SocketAddr,
    /// The address asked and the interface's index; none on a socket bound to a
    /// single address.
    asked: Option<(IpAddr, u32)>,
}

/// Answers queries until dropped. What needs an upstream is finished beside the
/// loop, so that it holds up nobody. Those of the canary are not counted.
pub(super) async fn serve(listener: Listener, resolver: Arc<Resolver>, canary: Option<SocketAddr>) {
    let listener = Arc::new(listener);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let (length, client) = match listener.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "can't receive UDP queries");
                sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        let query = &buffer[..length];
        let reply = match Some(client.address) == canary {
            true => resolver.consider(query, Transport::Udp, 0),
            false => resolver.begin(query, Transport::Udp),
        };
        match reply {
            Reply::Ignore => {}
            Reply::Message(message) => listener.send(&message, client).await,
            pending @ (Reply::Forward(_) | Reply::Chase(_)) => {
                let (listener, resolver) = (listener.clone(), resolver.clone());
                waiting.spawn(async move {
                    if let Some(message) = resolver.finish(pending).await {
                        listener.send(&message, client).await;
                    }
                });
                // Those that ended are forgotten.
                while waiting.try_join_next().is_some() {}
            }
        }
    }
}

impl Listener {
    /// Binds a socket. On a wildcard address it also learns where each query was
    /// sent to; one of IPv6 leaves IPv4 to a socket of its own.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Listener> {
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
        Ok(Listener {
            socket: UdpSocket::from_std(fd.into())?,
        })
    }

    /// The address bound, with the port the system chose if it was asked to.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
        self.socket
            .async_io(Interest::READABLE, || self.try_receive(buffer))
            .await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
        let mut control = cmsg_space!(in_pktinfo, in6_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let address = received
            .address
            .as_ref()
            .and_then(socket_address)
            .ok_or_else(|| io::Error::other("a datagram without a source address"))?;
        let asked = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let asked = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                Some((asked.into(), 0))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some((
                Ipv6Addr::from(info.ipi6_addr.s6_addr).into(),
                info.ipi6_ifindex,
            )),
            _ => None,
        });
        Ok((received.bytes, Client { address, asked }))
    }

    /// Sends a reply; a client that can't be reached will have to ask again.
    async fn send(&self, message: &[u8], client: Client) {
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, || self.try_send(message, client))
            .await;
        if let Err(error) = sent {
            debug!(client = %client.address, %error, "can't send a UDP reply");
        }
    }

    fn try_send(&self, message: &[u8], client: Client) -> io::Result<usize> {
        let slices = [IoSlice::new(message)];
        let address = SockaddrStorage::from(client.address);
        let send = |control: &[ControlMessage<'_>]| {
            sendmsg(
                self.socket.as_raw_fd(),
                &slices,
                control,
                MsgFlags::empty(),
                Some(&address),
            )
        };
        let sent = match client.asked {
            None => send(&[])?,
            Some((IpAddr::V4(asked), _)) => {
                let source = in_addr {
                    s_addr: u32::from_ne_bytes(asked.octets()),
                };
                let info = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: source,
                    ipi_addr: source,
                };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])?
            }
            Some((IpAddr::V6(asked), interface)) => {
                let info = in6_pktinfo {
                    ipi6_addr: in6_addr {
                        s6_addr: asked.octets(),
                    },
                    // Only a link-local source needs its link; any other is
                    // answered wherever the route to the client leads.
                    ipi6_ifindex: if asked.is_unicast_link_local() {
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
