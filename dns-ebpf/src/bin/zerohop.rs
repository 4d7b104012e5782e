//! The hooks: `dns_ebpf::respond` for XDP and tc, and the lease's clock.
//!
//! Every map is here, with who writes it and who reads it.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "what the hooks' macros make has no docs, and is public for the linker alone"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_MARK_MANGLED_0, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_PSEUDO_HDR, TC_ACT_UNSPEC,
        xdp_action,
    },
    helpers::generated::{
        bpf_jiffies64, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_xdp_adjust_tail,
    },
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use dns_common::{
    Control, Outcome, Settings, checksum,
    directory::Bucket,
    outcomes::{Counters, Hook, LINES, LOOPBACK, Source},
    records::CHUNK,
    settings::{ClientKey, MAX_CLIENTS, SLOTS, TOKEN_BUCKETS},
};
use dns_ebpf::{
    Frame, Tables,
    frame::{Clients, UdpChecksum},
    query::UDP,
    respond,
    verifier::{distance, load, offset, store},
};

/// Which settings count, and until when we answer. The agent and `lease` write, the hooks
/// read.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The agent writes the copies that no reader looks at.
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(SLOTS, BPF_F_MMAPABLE);

/// The agent writes and sets the size when it loads this object.
#[map]
static DIRECTORY: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The agent writes and sets the size when it loads this object.
#[map]
static RECORDS: Array<[u64; CHUNK / 8]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The addresses of pods that may ask, while policies restrict who may. The agent writes, the hooks
/// look whether an address is there.
#[map]
static CLIENTS: HashMap<ClientKey, u8> = HashMap::with_max_entries(MAX_CLIENTS, BPF_F_NO_PREALLOC);

/// How full the buckets of clients on network cards are: the hooks' own.
#[map]
static TOKENS: Array<u64> = Array::with_max_entries(TOKEN_BUCKETS, 0);

/// The hooks write, the agent reads: a line of counters for each hook and source.
#[map]
static OUTCOMES: PerCpuArray<Counters> = PerCpuArray::with_max_entries(LINES, 0);

/// The object's licence: the kernel lets only GPL-compatible programs call some helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// XDP on a network card: clients of the allowed networks are answered.
#[xdp]
pub fn zerohop_xdp(context: XdpContext) -> u32 {
    xdp::<{ CARD }>(context)
}

/// XDP on a host veth.
#[xdp]
pub fn zerohop_xdp_veth(context: XdpContext) -> u32 {
    xdp::<{ VETH }>(context)
}

/// tc ingress on a host veth whose peer is in another namespace: answers appear at the peer
/// as if they had just been received, without a queue between.
#[classifier]
pub fn zerohop_tc_peer(context: TcContext) -> i32 {
    let Some(interface) = tc::<{ VETH }>(context) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect_peer(interface, 0) as i32 }
}

/// tc ingress on any other device: answers are sent out of it. Where networks are allowed, only
/// their clients are answered.
#[classifier]
pub fn zerohop_tc(context: TcContext) -> i32 {
    let Some(interface) = tc::<{ CARD }>(context) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(interface, 0) as i32 }
}

/// Lets the hooks answer for as many jiffies as the packet's first eight octets say.
/// The agent runs it by BPF_PROG_TEST_RUN, since user space can't read jiffies. Returns them.
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
        // SAFETY: a map element, always there; the word is stored whole.
        unsafe { (&raw mut (*control).lease).write_volatile(now + jiffies) };
    }
    now as u32
}

/// Kinds of device.
const VETH: bool = true;
const CARD: bool = false;

/// Answers go out where the query came in.
#[inline(always)]
fn xdp<const DEVICE: bool>(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::<DEVICE>(context);
    let outcome = respond(&mut frame, &Maps);
    log(&frame.0, outcome);
    // SAFETY: the context of a running program.
    let interface = unsafe { (*frame.0.ctx).ingress_ifindex };
    count::<DEVICE>(Hook::Xdp, interface, outcome);
    if outcome.is_answer() {
        return xdp_action::XDP_TX;
    }
    xdp_action::XDP_PASS
}

/// Answers at tc; the device to send the answer to, or `None` to pass.
#[inline(always)]
fn tc<const DEVICE: bool>(context: TcContext) -> Option<u32> {
    let skb = context.skb.skb;
    // SAFETY: the context of a running program.
    let (gso_size, vlan, interface) =
        unsafe { ((*skb).gso_size, (*skb).vlan_present, (*skb).ifindex) };
    let outcome = if vlan != 0 {
        Outcome::NotIp
    } else if gso_size != 0 {
        Outcome::Aggregated
    } else {
        let mut frame = TcFrame::<DEVICE>(context);
        let outcome = respond(&mut frame, &Maps);
        log(&frame.0, outcome);
        outcome
    };
    count::<DEVICE>(Hook::Tc, interface, outcome);
    if !outcome.is_answer() {
        return None;
    }
    // A bridge port's packets are addressed to the bridge: without this the answer, which
    // goes up the stack from here, would count as somebody else's (on 5.10).
    // SAFETY: the context of a running program, and PACKET_HOST.
    unsafe { bpf_skb_change_type(skb, 0) };
    Some(interface)
}

/// The offset of the last counter in its line: all bits of an offset.
const LAST_COUNTER: usize = size_of::<Counters>() - size_of::<u64>();

#[inline(always)]
fn count<const DEVICE: bool>(hook: Hook, interface: u32, outcome: Outcome) {
    let source = if interface == LOOPBACK {
        Source::TestRun
    } else if DEVICE == VETH {
        Source::Veths
    } else {
        Source::Device(interface)
    };
    if let Some(line) = OUTCOMES.get_ptr_mut(hook.line(source)) {
        let counter = offset::<LAST_COUNTER>(line as usize, outcome as usize * size_of::<u64>());
        // SAFETY: this CPU's element, always there, and a counter in it; nothing else on this CPU
        // writes it now.
        unsafe { *(counter as *mut u64) += 1 };
    }
}

/// Says how a packet ended, unless it was nobody's question.
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

struct XdpFrame<const DEVICE: bool>(XdpContext);

impl<const DEVICE: bool> Frame for XdpFrame<DEVICE> {
    const CLIENTS: Clients = if DEVICE == VETH {
        Clients::All
    } else {
        Clients::Allowed
    };

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
        let now = distance(self.start(), self.end());
        let change = length.wrapping_sub(now) as i32;
        // SAFETY: the context of a running program.
        unsafe { bpf_xdp_adjust_tail(self.0.ctx, change) == 0 }
    }

    #[inline(always)]
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum) {
        let udp = dns_ebpf::query::udp_header(self.start(), header);
        if udp + UDP > self.end() {
            return;
        }
        // 0 would say that there is none (RFC 768).
        let sum = match !checksum::fold(checksum.full) {
            0 => 0xffff,
            sum => sum,
        };
        // SAFETY: just checked.
        unsafe { store(udp + 6, sum) };
    }
}

struct TcFrame<const DEVICE: bool>(TcContext);

impl<const DEVICE: bool> Frame for TcFrame<DEVICE> {
    const CLIENTS: Clients = if DEVICE == VETH {
        Clients::All
    } else {
        Clients::AllowedOrAll
    };

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

    /// The field holds either a finished sum or only the pseudo header's, for hardware to
    /// finish, and a program can't see which. The helper can: the first call is ignored in the second
    /// case, the second is for both.
    #[inline(always)]
    fn set_udp_checksum(&mut self, header: usize, checksum: UdpChecksum) {
        let field = header as u32 + 6;
        let length_change = checksum::fold(checksum.length_change);
        // From the old field, ~old, to the new sum less what the second call adds.
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

struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn control(&self) -> Option<*const Control> {
        CONTROL.get_ptr(0)
    }

    #[inline(always)]
    fn settings(&self, slot: u32) -> Option<&Settings> {
        SETTINGS.get(slot)
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
    fn tokens(&self, number: u32) -> Option<*mut u64> {
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
