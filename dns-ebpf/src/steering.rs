//! The decision whether a packet of a pod is steered into the agent's network namespace.
//!
//! No header is changed. The kernel's socket table is the only memory of connections: a connection
//! that began in the agent's namespace stays there, and one that began elsewhere never enters it.

use dns_common::{
    Outcome,
    settings::{ClientKey, ipv4_client_key},
    steering::{SteeredPod, SteeringOutcome},
};

use crate::{
    headers::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_IS_FRAGMENT, IPV4_WITHOUT_OPTIONS, PROTOCOL_UDP,
        ethernet, ipv4, ipv6, tcp, udp,
    },
    verifier::{distance, load},
};

/// A UDP datagram or TCP segment, without IP options and not fragmented.
#[derive(Clone, Copy)]
pub struct Flow {
    /// The version of IP, which decides where the headers are.
    pub family: FlowFamily,
    /// The source address.
    pub client: ClientKey,
    /// The destination address.
    pub server: ClientKey,
    /// The destination port, in network order.
    pub port: u16,
    segment: SegmentKind,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What the IP packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SegmentKind {
    Datagram,
    /// A TCP segment with SYN and without ACK.
    Opening,
    /// A TCP segment with FIN.
    Closing,
    /// Any other TCP segment.
    Later,
}

/// The socket in the agent's namespace to which a TCP segment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpSocket {
    /// No socket.
    Nothing,
    /// A listener that has sent no SYN cookie which this segment confirms.
    Listener,
    /// A listener that has sent the SYN cookie which this segment confirms.
    Cookie,
    /// What is left of a connection that the agent has closed: TIME_WAIT, or FIN_WAIT2 without a
    /// process, for which the kernel has the same kind of socket.
    TimeWait,
    /// Any other connection, also one that is not yet established.
    Connection,
}

/// What the decision needs: the agent's tables, and the sockets in its namespace.
pub trait SteeringTables {
    /// Whether pods' queries to this address and port (in network order) may be steered.
    fn is_served(&self, server: &ClientKey, port: u16) -> bool;

    /// The steered pod with this address.
    fn pod(&self, address: &ClientKey) -> Option<SteeredPod>;

    /// Whether the lease is valid.
    fn is_leased(&self) -> bool;

    /// Whether a UDP socket takes the datagram.
    fn has_udp_socket(&self, flow: &Flow) -> bool;

    /// Whether a TCP socket listens on the segment's destination.
    fn has_listener(&self, flow: &Flow) -> bool;

    /// The TCP socket to which a segment other than an opening one belongs.
    fn tcp_socket(&self, flow: &Flow) -> TcpSocket;
}

/// Decides about a packet that arrived from a pod on `interface`.
#[inline(always)]
pub fn decide<T: SteeringTables>(flow: &Flow, interface: u32, tables: &T) -> SteeringOutcome {
    if !tables.is_served(&flow.server, flow.port) {
        return SteeringOutcome::NotServed;
    }
    let Some(pod) = tables.pod(&flow.client) else {
        return SteeringOutcome::NotThePod;
    };
    // The reply goes to the interface of the source address. With this check it goes to the pod
    // that sent the packet, even if that pod forged the address.
    if pod.interface != interface {
        return SteeringOutcome::NotThePod;
    }
    let protocol = match flow.segment {
        SegmentKind::Datagram => SteeredPod::UDP,
        SegmentKind::Opening => SteeredPod::TCP,
        // The kernel's socket table decides about connections.
        SegmentKind::Closing | SegmentKind::Later => 0,
    };
    if protocol != 0 {
        if pod.new_flows & protocol == 0 {
            return SteeringOutcome::NotPermitted;
        }
        if pod.new_flows & SteeredPod::UNLEASED == 0 && !tables.is_leased() {
            return SteeringOutcome::LeaseStale;
        }
    }
    match flow.segment {
        SegmentKind::Datagram if tables.has_udp_socket(flow) => SteeringOutcome::Datagram,
        // Not the socket of the same ports: one in TIME_WAIT can't accept the next connection if
        // the listener is closed.
        SegmentKind::Opening if tables.has_listener(flow) => SteeringOutcome::Opening,
        SegmentKind::Closing | SegmentKind::Later => match tables.tcp_socket(flow) {
            TcpSocket::Connection => SteeringOutcome::Connection,
            TcpSocket::Cookie => SteeringOutcome::Cookie,
            // It waits only for the client's FIN. Other segments may belong to a connection of the
            // same ports that began elsewhere meanwhile.
            TcpSocket::TimeWait if flow.segment == SegmentKind::Closing => {
                SteeringOutcome::Connection
            }
            // The connection began elsewhere, if it exists.
            TcpSocket::TimeWait | TcpSocket::Listener | TcpSocket::Nothing => {
                SteeringOutcome::NoSocket
            }
        },
        SegmentKind::Datagram | SegmentKind::Opening => SteeringOutcome::NoSocket,
    }
}

/// Whether a packet that passes may be one for the agent's resolver: a query that the tables don't
/// answer, or a segment of a TCP connection to the steered port. `outcome` says why the packet
/// passes, `length` is its whole length, and `port` is in network order.
///
/// The programs of `src/bin/zerohop.rs` decide by this function which packets the steering program
/// sees. So it takes little time for all others.
#[inline(always)]
#[must_use]
pub fn may_be_steered(
    outcome: Outcome,
    start: usize,
    end: usize,
    length: usize,
    port: u16,
) -> bool {
    if outcome.is_for_resolver() {
        return true;
    }
    match outcome {
        // Several segments may be aggregated into one packet.
        Outcome::NotUdp | Outcome::Aggregated => is_tcp_to(port, start, end),
        // The headers may be in a part of the packet that can't be accessed directly.
        Outcome::Short => distance(start, end) < LONGEST_HEADERS && length >= LONGEST_HEADERS,
        _ => false,
    }
}

/// Whether a frame between two addresses is a TCP segment to a port, in network order.
#[inline(always)]
fn is_tcp_to(port: u16, start: usize, end: usize) -> bool {
    let ip = start + ethernet::LENGTH;
    if ip + ipv4::LENGTH + tcp::LENGTH > end {
        return false;
    }
    // SAFETY: just checked.
    let ethertype: u16 = unsafe { load(start + ethernet::TYPE) };
    let (protocol, destination): (u8, u16) = match ethertype {
        // SAFETY: the frame extends past the ports of a packet over IPv4, as checked above.
        ETHERTYPE_IPV4 => unsafe {
            (
                load(ip + ipv4::PROTOCOL),
                load(ip + ipv4::LENGTH + tcp::DESTINATION_PORT),
            )
        },
        ETHERTYPE_IPV6 => {
            if ip + ipv6::LENGTH + tcp::LENGTH > end {
                return false;
            }
            // SAFETY: just checked.
            unsafe {
                (
                    load(ip + ipv6::NEXT_HEADER),
                    load(ip + ipv6::LENGTH + tcp::DESTINATION_PORT),
                )
            }
        }
        _ => return false,
    };
    protocol == PROTOCOL_TCP && destination == port
}

/// The number of bytes from which [`read`] reads the longest headers: IPv6 and TCP.
pub const LONGEST_HEADERS: usize = ethernet::LENGTH + ipv6::LENGTH + tcp::LENGTH;

/// Reads the headers of a frame between two addresses. `None` if the frame isn't UDP or TCP over
/// IP, or if it is a fragment, has IP options, or is too short.
///
/// With [`FlowFamily::Ipv4`] the frame has at least 42 bytes for UDP and 54 for TCP. With
/// [`FlowFamily::Ipv6`] these are 62 and 74.
#[inline(always)]
pub fn read(start: usize, end: usize) -> Option<Flow> {
    let ip = start + ethernet::LENGTH;
    if ip + ipv4::LENGTH + udp::LENGTH > end {
        return None;
    }
    // SAFETY: just checked.
    let ethertype: u16 = unsafe { load(start + ethernet::TYPE) };
    match ethertype {
        ETHERTYPE_IPV4 => {
            // SAFETY: the frame extends past the UDP header of a packet over IPv4.
            let (version, protocol, fragment): (u8, u8, u16) = unsafe {
                (
                    load(ip + ipv4::VERSION),
                    load(ip + ipv4::PROTOCOL),
                    load(ip + ipv4::FRAGMENT),
                )
            };
            if version != IPV4_WITHOUT_OPTIONS || fragment & IPV4_IS_FRAGMENT != 0 {
                return None;
            }
            let transport = ip + ipv4::LENGTH;
            let segment = read_segment(transport, end, protocol)?;
            // SAFETY: as above.
            let (client, server, port): (u32, u32, u16) = unsafe {
                (
                    load(ip + ipv4::SOURCE),
                    load(ip + ipv4::DESTINATION),
                    load(transport + udp::DESTINATION_PORT),
                )
            };
            Some(Flow {
                family: FlowFamily::Ipv4,
                client: ipv4_client_key(client),
                server: ipv4_client_key(server),
                port,
                segment,
            })
        }
        ETHERTYPE_IPV6 => {
            let transport = ip + ipv6::LENGTH;
            if transport + udp::LENGTH > end {
                return None;
            }
            // SAFETY: the frame extends past the UDP header, as just checked.
            let protocol: u8 = unsafe { load(ip + ipv6::NEXT_HEADER) };
            let segment = read_segment(transport, end, protocol)?;
            // SAFETY: as above.
            let (client, server, port): (ClientKey, ClientKey, u16) = unsafe {
                (
                    load(ip + ipv6::SOURCE),
                    load(ip + ipv6::DESTINATION),
                    load(transport + udp::DESTINATION_PORT),
                )
            };
            Some(Flow {
                family: FlowFamily::Ipv6,
                client,
                server,
                port,
                segment,
            })
        }
        _ => None,
    }
}

/// Reads the destination address of an IP packet in a frame between two addresses. The packet may
/// be a fragment.
#[inline(always)]
pub fn read_destination(start: usize, end: usize) -> Option<ClientKey> {
    let ip = start + ethernet::LENGTH;
    if ip + ipv4::LENGTH > end {
        return None;
    }
    // SAFETY: just checked.
    let ethertype: u16 = unsafe { load(start + ethernet::TYPE) };
    match ethertype {
        ETHERTYPE_IPV4 => {
            // SAFETY: just checked.
            let address = unsafe { load(ip + ipv4::DESTINATION) };
            Some(ipv4_client_key(address))
        }
        ETHERTYPE_IPV6 if ip + ipv6::LENGTH <= end => {
            // SAFETY: just checked.
            Some(unsafe { load(ip + ipv6::DESTINATION) })
        }
        _ => None,
    }
}

/// Reads the kind of a segment whose first 8 bytes are in the frame. `None` if it is neither UDP
/// nor TCP, or if the TCP header is not whole.
#[inline(always)]
fn read_segment(transport: usize, end: usize, protocol: u8) -> Option<SegmentKind> {
    match protocol {
        PROTOCOL_UDP => Some(SegmentKind::Datagram),
        PROTOCOL_TCP => {
            if transport + tcp::LENGTH > end {
                return None;
            }
            // SAFETY: just checked.
            let flags: u8 = unsafe { load(transport + tcp::FLAGS) };
            if flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
                Some(SegmentKind::Opening)
            } else if flags & tcp::FIN != 0 {
                Some(SegmentKind::Closing)
            } else {
                Some(SegmentKind::Later)
            }
        }
        _ => None,
    }
}

const PROTOCOL_TCP: u8 = 6;

#[cfg(test)]
mod tests;
