//! The maps, and the programs at the hooks: `dns_ebpf::respond` for XDP and tc, and the program
//! that renews the lease.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "aya's macros generate undocumented items that are public for the linker only, and \
              pass contexts by value"
)]

use core::marker::PhantomData;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR,
        TC_ACT_UNSPEC, xdp_action,
    },
    helpers::generated::{
        bpf_jiffies64, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_xdp_adjust_tail,
    },
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};
use dns_common::{
    Control, Outcome, Settings, checksum,
    directory::Bucket,
    outcomes::{COUNTER_LINES, Hook, LOOPBACK_INDEX, OutcomeCounters, PacketSource},
    records::CHUNK,
    settings::{ClientKey, MAX_CLIENTS, SETTINGS_COPIES, TOKEN_BUCKETS},
};
use dns_ebpf::{
    Frame, Tables, Verdict,
    frame::{AnsweredClients, UdpChecksum},
    headers::udp,
    query::udp_header,
    respond, steering,
    verifier::{add_masked, distance, load, load_shared, store},
};

/// The number of the settings in force, and the lease. The agent and `zerohop_lease` write this
/// map, the hooks read it.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The copies of the settings. The agent writes the copies that are not in force, the hooks read
/// the one in force.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(SETTINGS_COPIES, BPF_F_MMAPABLE);

/// The directory, from hashes of names to record numbers. The agent writes it, the hooks read it.
/// The agent sets its size when it loads this object.
#[map]
static DIRECTORY: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The records. The agent writes them, the hooks read them. The agent sets the size when it loads
/// this object.
#[map]
static RECORDS: Array<[u64; CHUNK / 8]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The addresses of permitted clients, used while policies restrict DNS queries. The agent writes
/// the map, the hooks read it.
#[map]
static CLIENTS: HashMap<ClientKey, u8> = HashMap::with_max_entries(MAX_CLIENTS, BPF_F_NO_PREALLOC);

/// The token buckets of clients on network cards. Only the hooks use it.
#[map]
static TOKENS: Array<u64> = Array::with_max_entries(TOKEN_BUCKETS, 0);

/// A line of counters for each hook and packet source. The hooks write it, the agent reads it.
#[map]
static OUTCOMES: PerCpuArray<OutcomeCounters> = PerCpuArray::with_max_entries(COUNTER_LINES, 0);

/// The program that steers packets (`src/bin/steering.rs`), if the agent has loaded it. The kernel
/// empties this map when the agent ends.
#[map]
static STEERING: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The object's licence. The kernel reserves some helpers for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// XDP on a network card. Only clients in the allowed networks are answered.
#[xdp]
pub fn zerohop_xdp(context: XdpContext) -> u32 {
    answer_at_xdp::<NetworkCard>(context)
}

/// XDP on a veth, usually the host's end of a pod veth.
#[xdp]
pub fn zerohop_xdp_veth(context: XdpContext) -> u32 {
    answer_at_xdp::<PodVeth>(context)
}

/// tc ingress on the host's end of a pod veth whose peer is in another network namespace. The peer
/// receives replies directly, without a queue in between. Packets that pass may be steered.
#[classifier]
pub fn zerohop_tc_peer(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let outcome = answer_at_tc::<PodVeth>(context);
    if Verdict::from(outcome) == Verdict::Reply {
        // SAFETY: a helper that takes two numbers.
        return unsafe { bpf_redirect_peer(ingress_interface(skb), 0) as i32 };
    }
    if may_be_steered(skb, outcome) {
        // It returns only if there is no steering program.
        // SAFETY: nothing in this program is to be dropped.
        unsafe { STEERING.tail_call(&TcContext::new(skb), 0) };
    }
    TC_ACT_UNSPEC
}

/// tc ingress on any other device. Replies leave by the same device. If the settings have allowed
/// networks, only clients in them are answered.
#[classifier]
pub fn zerohop_tc(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    match answer_at_tc::<NetworkCard>(context).into() {
        // SAFETY: a helper that takes two numbers.
        Verdict::Reply => unsafe { bpf_redirect(ingress_interface(skb), 0) as i32 },
        Verdict::Pass => TC_ACT_UNSPEC,
    }
}

/// Makes the lease end after the number of jiffies in the packet's first eight bytes. Returns the
/// lower 32 bits of the current time in jiffies, or 0 if the packet is shorter. The agent runs this
/// program by BPF_PROG_TEST_RUN, because user space can't read jiffies.
#[xdp]
pub fn zerohop_lease(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + 8 > end {
        return 0;
    }
    // SAFETY: just checked.
    let jiffies: u64 = unsafe { load(start) };
    let now = Maps.now();
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: map elements are never freed while the program runs; the word is stored whole.
        unsafe { (&raw mut (*control).lease).write_volatile(now + jiffies) };
    }
    now as u32
}

/// A kind of network device, which decides who is answered there and how packets are counted.
trait DeviceKind {
    /// The clients that are answered at XDP.
    const XDP_CLIENTS: AnsweredClients;
    /// The clients that are answered at tc.
    const TC_CLIENTS: AnsweredClients;

    /// The source of packets that arrive on the interface with this index.
    fn packet_source(interface: u32) -> PacketSource;
}

/// The host's end of a pod veth. At XDP, any veth.
struct PodVeth;

impl DeviceKind for PodVeth {
    const XDP_CLIENTS: AnsweredClients = AnsweredClients::All;
    const TC_CLIENTS: AnsweredClients = AnsweredClients::All;

    #[inline(always)]
    fn packet_source(_: u32) -> PacketSource {
        PacketSource::Veths
    }
}

/// A network card, or any other device that is not a pod veth.
struct NetworkCard;

impl DeviceKind for NetworkCard {
    const XDP_CLIENTS: AnsweredClients = AnsweredClients::Allowed;
    const TC_CLIENTS: AnsweredClients = AnsweredClients::AllowedOrAll;

    #[inline(always)]
    fn packet_source(interface: u32) -> PacketSource {
        PacketSource::Device(interface)
    }
}

/// Answers at XDP. Replies leave by the interface on which the query arrived.
#[inline(always)]
fn answer_at_xdp<D: DeviceKind>(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::<D>(context, PhantomData);
    let outcome = respond(&mut frame, &Maps);
    log(&frame.0, outcome);
    // SAFETY: the context of a running program.
    let interface = unsafe { (*frame.0.ctx).ingress_ifindex };
    count::<D>(Hook::Xdp, interface, outcome);
    match outcome.into() {
        Verdict::Reply => xdp_action::XDP_TX,
        Verdict::Pass => xdp_action::XDP_PASS,
    }
}

/// Answers at tc. The caller sends the reply.
#[inline(always)]
fn answer_at_tc<D: DeviceKind>(context: TcContext) -> Outcome {
    let skb = context.skb.skb;
    // SAFETY: the context of a running program.
    let (gso_size, vlan) = unsafe { ((*skb).gso_size, (*skb).vlan_present) };
    let outcome = if vlan != 0 {
        Outcome::NotIp
    } else if gso_size != 0 {
        Outcome::Aggregated
    } else {
        let mut frame = TcFrame::<D>(context, PhantomData);
        let outcome = respond(&mut frame, &Maps);
        log(&frame.0, outcome);
        outcome
    };
    count::<D>(Hook::Tc, ingress_interface(skb), outcome);
    if outcome.is_answer() {
        // Packets on a bridge port are addressed to the bridge, so their type is not PACKET_HOST.
        // The peer receives the reply with this type, and Linux 5.10 would drop it as a packet for
        // another host.
        // SAFETY: the context of a running program.
        unsafe { bpf_skb_change_type(skb, PACKET_HOST) };
    }
    outcome
}

/// Whether the steering program has to look at a packet that passes.
#[inline(always)]
fn may_be_steered(skb: *const __sk_buff, outcome: Outcome) -> bool {
    let Some(control) = CONTROL.get_ptr(0) else {
        return false;
    };
    // SAFETY: map elements are never freed while the program runs.
    let port = unsafe { load_shared(&raw const (*control).steered_port as usize) };
    if port == 0 {
        return false;
    }
    // SAFETY: the context of a running program.
    let (start, end, length) = unsafe {
        (
            (*skb).data as usize,
            (*skb).data_end as usize,
            (*skb).len as usize,
        )
    };
    steering::may_be_steered(outcome, start, end, length, port as u16)
}

/// The index of the interface on which a packet arrived at tc.
#[inline(always)]
fn ingress_interface(skb: *const __sk_buff) -> u32 {
    // SAFETY: the context of a running program.
    unsafe { (*skb).ifindex }
}

/// The packet type of packets for this host (`PACKET_HOST` in Linux's if_packet.h).
const PACKET_HOST: u32 = 0;

/// The offset of the last counter in its line. A line's length is a power of two, so this is also a
/// mask that keeps the offset of each counter.
const LAST_COUNTER: usize = size_of::<OutcomeCounters>() - size_of::<u64>();

/// Counts one packet with this outcome.
#[inline(always)]
fn count<D: DeviceKind>(hook: Hook, interface: u32, outcome: Outcome) {
    let source = if interface == LOOPBACK_INDEX {
        PacketSource::TestRun
    } else {
        D::packet_source(interface)
    };
    if let Some(line) = OUTCOMES.get_ptr_mut(hook.line(source)) {
        let counter =
            add_masked::<LAST_COUNTER>(line as usize, outcome as usize * size_of::<u64>());
        // SAFETY: a counter in this CPU's element. No other program on this CPU writes it at the
        // same time.
        unsafe { *(counter as *mut u64) += 1 };
    }
}

/// Logs the outcome if the packet was answered, or if its outcome comes after
/// [`Outcome::NotServed`]. Traffic other than DNS has that outcome or an earlier one, except before
/// the first publication, when UDP packets have [`Outcome::NotReady`].
#[cfg(feature = "log")]
#[inline(always)]
fn log<C: aya_ebpf::EbpfContext>(context: &C, outcome: Outcome) {
    if outcome as u32 > Outcome::NotServed as u32 || outcome.is_answer() {
        aya_log_ebpf::info!(context, "outcome {}", outcome as u32);
    }
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn log<C>(_: &C, _: Outcome) {}

/// A packet at XDP.
struct XdpFrame<D>(XdpContext, PhantomData<D>);

impl<D: DeviceKind> Frame for XdpFrame<D> {
    const CLIENTS: AnsweredClients = D::XDP_CLIENTS;

    #[inline(always)]
    fn start(&self) -> usize {
        self.0.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> bool {
        let old_length = distance(self.start(), self.end());
        let change = length.wrapping_sub(old_length) as i32;
        // SAFETY: the context of a running program.
        unsafe { bpf_xdp_adjust_tail(self.0.ctx, change) == 0 }
    }

    #[inline(always)]
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum) {
        let udp = udp_header(self.start(), header);
        // Never true. The check is for the verifier.
        if udp + udp::LENGTH > self.end() {
            return;
        }
        // The checksum 0 means that there is none (RFC 768).
        let sum = match !checksum::fold(checksum.full) {
            0 => 0xffff,
            sum => sum,
        };
        // SAFETY: just checked.
        unsafe { store(udp + udp::CHECKSUM, sum) };
    }
}

/// A packet at tc ingress.
struct TcFrame<D>(TcContext, PhantomData<D>);

impl<D: DeviceKind> Frame for TcFrame<D> {
    const CLIENTS: AnsweredClients = D::TC_CLIENTS;

    #[inline(always)]
    fn start(&self) -> usize {
        self.0.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }

    #[inline(always)]
    fn resize(&mut self, length: usize) -> bool {
        // SAFETY: the context of a running program.
        unsafe { bpf_skb_change_tail(self.0.as_ptr().cast(), length as u32, 0) == 0 }
    }

    /// The field holds either a complete checksum, or the sum of the pseudo header only, which the
    /// hardware completes. A program can't see which, but the helper can: it ignores the first call
    /// if the sum is partial, and applies the second call to both. With BPF_F_MARK_MANGLED_0 it
    /// keeps a field of 0, which means that there is no checksum.
    #[inline(always)]
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum) {
        let field = (header + udp::CHECKSUM) as u32;
        let length_change = checksum::fold(checksum.length_change);
        // The new sum, minus the old field's sum (~old), minus what the second call adds.
        let change =
            checksum::fold(checksum.full + u64::from(checksum.old) + u64::from(!length_change));
        let skb = self.0.as_ptr().cast();
        // SAFETY: the context of a running program; an offset inside the packet.
        unsafe {
            bpf_l4_csum_replace(
                skb,
                field,
                0,
                u64::from(change),
                BPF_F_MARK_MANGLED_0.into(),
            );
            bpf_l4_csum_replace(
                skb,
                field,
                0,
                u64::from(length_change),
                (BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0).into(),
            );
        }
    }
}

/// The maps of this object.
struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn control(&self) -> Option<*const Control> {
        CONTROL.get_ptr(0)
    }

    #[inline(always)]
    fn settings(&self, copy: u32) -> Option<&Settings> {
        SETTINGS.get(copy)
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        DIRECTORY.get_ptr(number)
    }

    #[inline(always)]
    fn chunk(&self, number: u32) -> Option<*const u8> {
        RECORDS.get_ptr(number).map(<*const _>::cast)
    }

    #[inline(always)]
    fn permits(&self, client: &ClientKey) -> bool {
        CLIENTS.get_ptr(client).is_some()
    }

    #[inline(always)]
    fn token_bucket(&self, number: u32) -> Option<*mut u64> {
        TOKENS.get_ptr_mut(number)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_jiffies64() }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
