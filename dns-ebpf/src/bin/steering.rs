//! The programs that steer (see `docs/steering.md`): they move packets of pods into a network
//! namespace of the agent, and the replies back.
//!
//! They are an object of their own, so that their maps and the connections in the namespace stay
//! when the agent replaces the tables of `zerohop.rs` with larger ones.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "aya's macros generate undocumented items that are public for the linker only, and \
              pass contexts by value"
)]

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock,
        bpf_sock_tuple,
    },
    helpers::generated::{
        bpf_ktime_get_ns, bpf_redirect_peer, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skb_change_type, bpf_skb_pull_data, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
    },
    macros::{classifier, map},
    maps::{Array, HashMap, PerCpuArray},
    programs::TcContext,
};
use dns_common::{
    settings::ClientKey,
    steering::{MAX_STEERED, MAX_STEERED_SERVERS, SteeredPod, SteeringOutcome, SteeringTarget},
};
use dns_ebpf::{
    headers::{ethernet, ipv4, ipv6, tcp},
    steering::{self, Flow, FlowFamily, LONGEST_HEADERS, SteeringTables, TcpSocket},
    verifier::{distance, load, load_shared},
};

/// Where steered packets go, and the lease. The agent writes it, the programs read it.
#[map]
static TARGET: Array<SteeringTarget> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The addresses to which packets are steered. The values are not used. The agent writes the map,
/// the programs read it.
#[map]
static SERVED: HashMap<ClientKey, u8> =
    HashMap::with_max_entries(MAX_STEERED_SERVERS, BPF_F_NO_PREALLOC);

/// The steered pods, by address. The agent writes the map, the programs read it.
#[map]
static PODS: HashMap<ClientKey, SteeredPod> =
    HashMap::with_max_entries(MAX_STEERED, BPF_F_NO_PREALLOC);

/// A counter for each [`SteeringOutcome`]. `zerohop_steer` writes them, the agent reads them.
#[map]
static OUTCOMES: PerCpuArray<u64> = PerCpuArray::with_max_entries(SteeringOutcome::COUNT, 0);

/// The object's licence. The kernel reserves some helpers for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Moves packets of a pod for a socket in the agent's namespace there. Every other packet passes,
/// unchanged. `zerohop_tc_peer` calls it at tc ingress on the node's end of the pod's veth, and the
/// veth of the agent's canary has it at that place.
#[classifier]
pub fn zerohop_steer(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(target) = TARGET.get_ptr(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: map elements are never freed while the program runs, and a field is one word.
    let (namespace, interface, port) =
        unsafe { ((*target).namespace, (*target).interface, (*target).port) };
    let sockets = NamespaceSockets {
        skb,
        target,
        namespace,
        port,
    };
    let outcome = decide(skb, &sockets);
    if let Some(counter) = OUTCOMES.get_ptr_mut(outcome as u32) {
        // SAFETY: a counter in this CPU's element. No other program on this CPU writes it at the
        // same time.
        unsafe { *counter += 1 };
    }
    if outcome.is_steered() {
        send_to_peer(skb, interface)
    } else {
        TC_ACT_UNSPEC
    }
}

/// tc ingress on the node's end of the veth that leads into the agent's namespace: moves a reply to
/// the pod that it is for. Drops packets for any other destination, because the agent's namespace
/// sends only replies.
#[classifier]
pub fn zerohop_reply(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let (start, end) = readable(skb);
    let Some(pod) = steering::read_destination(start, end) else {
        return TC_ACT_SHOT;
    };
    match steered_pod(&pod) {
        Some(pod) => send_to_peer(skb, pod.interface),
        None => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn decide(skb: *mut __sk_buff, sockets: &NamespaceSockets) -> SteeringOutcome {
    // SAFETY: the context of a running program.
    let (vlan, interface) = unsafe { ((*skb).vlan_present, (*skb).ifindex) };
    if vlan != 0 {
        return SteeringOutcome::NotServed;
    }
    let (start, end) = readable(skb);
    let Some(flow) = steering::read(start, end) else {
        return SteeringOutcome::NotServed;
    };
    steering::decide(&flow, interface, sockets)
}

/// Sends the packet to the other end of a veth pair, without a queue in between.
#[inline(always)]
fn send_to_peer(skb: *mut __sk_buff, interface: u32) -> i32 {
    // The peer drops a packet whose hardware address made it one for another host: every packet on
    // a bridge port, and every reply, because the agent's veth does not use ARP.
    // SAFETY: the context of a running program, and helpers that take numbers.
    unsafe {
        bpf_skb_change_type(skb, PACKET_HOST);
        bpf_redirect_peer(interface, 0) as i32
    }
}

/// The packet type of packets for this host (`PACKET_HOST` in Linux's if_packet.h).
const PACKET_HOST: u32 = 0;

/// The first address of the packet, and the one after the last byte that can be accessed directly.
/// That is at least [`LONGEST_HEADERS`] bytes if the packet has them.
#[inline(always)]
fn readable(skb: *mut __sk_buff) -> (usize, usize) {
    let (start, end) = bounds(skb);
    // SAFETY: the context of a running program.
    let length = unsafe { (*skb).len } as usize;
    if distance(start, end) >= LONGEST_HEADERS || length < LONGEST_HEADERS {
        return (start, end);
    }
    // If this fails the packet is too short to read, and passes.
    // SAFETY: the context of a running program.
    unsafe { bpf_skb_pull_data(skb, LONGEST_HEADERS as u32) };
    bounds(skb)
}

#[inline(always)]
fn bounds(skb: *mut __sk_buff) -> (usize, usize) {
    // SAFETY: the context of a running program.
    unsafe { ((*skb).data as usize, (*skb).data_end as usize) }
}

/// The steered pod with an address.
#[inline(always)]
fn steered_pod(address: &ClientKey) -> Option<SteeredPod> {
    // SAFETY: the kernel may reuse an element that is removed meanwhile for another address. Then
    // at most this packet is lost, or not steered, as if its pod had just gone.
    unsafe { PODS.get(address) }.copied()
}

/// The maps of this object, and the sockets in the agent's namespace.
struct NamespaceSockets {
    skb: *mut __sk_buff,
    target: *const SteeringTarget,
    /// Its ID in the node's namespace.
    namespace: u32,
    /// The served port, in network order.
    port: u32,
}

/// Bytes of `bpf_sock_tuple` for IPv4: source address, destination address, source port,
/// destination port. IPv4 and UDP or TCP have the same fields in the same order, so the tuple of a
/// packet is a part of the packet.
const TUPLE_IPV4: usize = 12;
/// The same for IPv6.
const TUPLE_IPV6: usize = 36;

/// The states of sockets that are no connections (`TCP_TIME_WAIT` and `TCP_LISTEN` in Linux's
/// tcp_states.h).
const TIME_WAIT: u32 = 6;
const LISTENING: u32 = 10;

impl SteeringTables for NamespaceSockets {
    #[inline(always)]
    fn is_served(&self, server: &ClientKey, port: u16) -> bool {
        u32::from(port) == self.port && SERVED.get_ptr(server).is_some()
    }

    #[inline(always)]
    fn pod(&self, address: &ClientKey) -> Option<SteeredPod> {
        steered_pod(address)
    }

    #[inline(always)]
    fn is_leased(&self) -> bool {
        // SAFETY: map elements are never freed while the program runs.
        let until = unsafe { load_shared(&raw const (*self.target).lease as usize) };
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        now < until
    }

    #[inline(always)]
    fn has_udp_socket(&self, flow: &Flow) -> bool {
        let (start, end) = bounds(self.skb);
        let socket = match flow.family {
            FlowFamily::Ipv4 => {
                let tuple = start + ethernet::LENGTH + ipv4::SOURCE;
                if tuple + TUPLE_IPV4 > end {
                    return false;
                }
                self.udp_socket(tuple, TUPLE_IPV4)
            }
            FlowFamily::Ipv6 => {
                let tuple = start + ethernet::LENGTH + ipv6::SOURCE;
                if tuple + TUPLE_IPV6 > end {
                    return false;
                }
                self.udp_socket(tuple, TUPLE_IPV6)
            }
        };
        release(socket)
    }

    /// A listener takes segments of any source port, and no connection has the source port 0. So
    /// the look-up of a tuple with that port finds only listeners.
    #[inline(always)]
    fn has_listener(&self, flow: &Flow) -> bool {
        let (start, end) = bounds(self.skb);
        let socket = match flow.family {
            FlowFamily::Ipv4 => {
                let at = start + ethernet::LENGTH + ipv4::SOURCE;
                if at + TUPLE_IPV4 > end {
                    return false;
                }
                // SAFETY: just checked.
                let mut tuple: [u16; TUPLE_IPV4 / 2] = unsafe { load(at) };
                // The source port. The destination port is the last element.
                tuple[TUPLE_IPV4 / 2 - 2] = 0;
                self.tcp_socket_of(&raw const tuple as usize, TUPLE_IPV4)
            }
            FlowFamily::Ipv6 => {
                let at = start + ethernet::LENGTH + ipv6::SOURCE;
                if at + TUPLE_IPV6 > end {
                    return false;
                }
                // SAFETY: just checked.
                let mut tuple: [u16; TUPLE_IPV6 / 2] = unsafe { load(at) };
                // The source port. The destination port is the last element.
                tuple[TUPLE_IPV6 / 2 - 2] = 0;
                self.tcp_socket_of(&raw const tuple as usize, TUPLE_IPV6)
            }
        };
        release(socket)
    }

    #[inline(always)]
    fn tcp_socket(&self, flow: &Flow) -> TcpSocket {
        let (start, end) = bounds(self.skb);
        let ip = start + ethernet::LENGTH;
        match flow.family {
            FlowFamily::Ipv4 => {
                if ip + ipv4::LENGTH + tcp::LENGTH > end {
                    return TcpSocket::Nothing;
                }
                let socket = self.tcp_socket_of(ip + ipv4::SOURCE, TUPLE_IPV4);
                classify(socket, ip, ipv4::LENGTH)
            }
            FlowFamily::Ipv6 => {
                if ip + ipv6::LENGTH + tcp::LENGTH > end {
                    return TcpSocket::Nothing;
                }
                let socket = self.tcp_socket_of(ip + ipv6::SOURCE, TUPLE_IPV6);
                classify(socket, ip, ipv6::LENGTH)
            }
        }
    }
}

impl NamespaceSockets {
    /// The UDP socket of the tuple at an address. The caller releases it.
    #[inline(always)]
    fn udp_socket(&self, tuple: usize, length: usize) -> *mut bpf_sock {
        // SAFETY: the context of a running program, and a tuple of this length.
        unsafe {
            bpf_sk_lookup_udp(
                self.skb.cast(),
                tuple as *mut bpf_sock_tuple,
                length as u32,
                self.namespace.into(),
                0,
            )
        }
    }

    /// The TCP socket of the tuple at an address. The caller releases it.
    #[inline(always)]
    fn tcp_socket_of(&self, tuple: usize, length: usize) -> *mut bpf_sock {
        // SAFETY: the context of a running program, and a tuple of this length.
        unsafe {
            bpf_skc_lookup_tcp(
                self.skb.cast(),
                tuple as *mut bpf_sock_tuple,
                length as u32,
                self.namespace.into(),
                0,
            )
        }
    }
}

/// Releases a socket, if there is one. Returns whether there is one.
#[inline(always)]
fn release(socket: *mut bpf_sock) -> bool {
    if socket.is_null() {
        return false;
    }
    // SAFETY: a socket that was looked up and not yet released.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

/// Classifies and releases the socket of a segment whose IP header of `ip_length` bytes is at `ip`.
#[inline(always)]
fn classify(socket: *mut bpf_sock, ip: usize, ip_length: usize) -> TcpSocket {
    if socket.is_null() {
        return TcpSocket::Nothing;
    }
    // SAFETY: a socket that was looked up and not yet released; the caller has checked that the
    // packet has both headers.
    let found = unsafe {
        let state = (*socket).state;
        if state == TIME_WAIT {
            TcpSocket::TimeWait
        } else if state != LISTENING {
            TcpSocket::Connection
        } else if bpf_tcp_check_syncookie(
            socket.cast(),
            ip as *mut _,
            ip_length as u32,
            (ip + ip_length) as *mut _,
            tcp::LENGTH as u32,
        ) == 0
        {
            TcpSocket::Cookie
        } else {
            TcpSocket::Listener
        }
    };
    release(socket);
    found
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
