//! What the benchmark runs around the kernel program (see `docs/benchmarks.md`): a generator of
//! queries, a checker of answers, and the least program that an answering one is compared with.
//!
//! Generator and checker do the same work whichever program stands between them.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "what the hooks' macros make has no docs, and is public for the linker alone"
)]

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::bpf_xdp_adjust_tail,
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};
use dns_common::checksum;
use dns_ebpf::{
    query::udp_header,
    verifier::{distance, load, store},
};

/// Words of eight octets in the longest frame.
const WORDS: usize = 24;
/// Ways in which a right answer may look: one for each address that may come first.
const VARIANTS: usize = 4;

/// What is asked. The benchmark writes, `generate` and `replay` read.
#[map]
static QUERY: Array<Query> = Array::with_max_entries(1, 0);

/// What must come back. The benchmark writes, `check` reads.
#[map]
static EXPECTED: Array<Expected> = Array::with_max_entries(1, 0);

/// What came. The programs write, the benchmark reads; everything runs on one CPU.
#[map]
static COUNTS: Array<Counts> = Array::with_max_entries(1, 0);

/// The program that `replay` goes on with.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The licence of the programs, for helpers that the kernel keeps for the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A query. Its ID, and with it the last two octets of the client's MAC, differ from frame to
/// frame. The layout is repeated in `tests/src/bin/bench/programs.rs`, as are the next two.
#[repr(C)]
pub struct Query {
    /// The frame with an ID of 0, filled up with zeros.
    octets: [u64; WORDS],
    /// Octets of the frame that `replay` makes, a multiple of eight.
    length: u64,
    /// From the frame's start to the UDP header.
    udp: u64,
    /// The UDP checksum of the frame with an ID of 0.
    sum: u64,
}

/// An answer.
#[repr(C)]
pub struct Expected {
    /// The frames that are right, with ID, UDP checksum and the last two octets of the client's MAC
    /// zero.
    octets: [[u64; WORDS]; VARIANTS],
    /// The last eight octets of each.
    last: [u64; VARIANTS],
    /// Octets of the frame.
    length: u64,
    /// From the frame's start to the UDP header.
    udp: u64,
    /// The one's complement sum of ID and UDP checksum, which is the same for every ID.
    sum: u64,
    /// The octet, and its bits, that tell which of the variants this is.
    variant_at: u64,
    variant_mask: u64,
}

/// Frames that went out, and those that came back.
#[repr(C)]
pub struct Counts {
    sent: u64,
    right: u64,
    wrong: u64,
}

/// Run with live frames on one end of a veth pair: sends a query to the other end.
///
/// A frame is used again as long as it came back, so everything in it is written, and what
/// stands behind the query is cleared: no answer can be right because an earlier one was. Frames
/// are a multiple of eight octets long.
#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    let Some(counts) = COUNTS.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: a map element, always there, used on one CPU.
    let id = unsafe {
        (*counts).sent += 1;
        (*counts).sent as u16
    };
    match write_query(&context, id) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Where the answers arrive: compares every octet, counts, drops.
#[xdp]
pub fn check(context: XdpContext) -> u32 {
    let (Some(expected), Some(counts)) = (EXPECTED.get_ptr(0), COUNTS.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: map elements, always there, used on one CPU.
    unsafe {
        if is_right(&context, &*expected) {
            (*counts).right += 1;
        } else {
            (*counts).wrong += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// The least that an answering program does: sends the frame back to where it came from.
#[xdp]
pub fn reflect(context: XdpContext) -> u32 {
    let (start, end) = (context.data(), context.data_end());
    if start + 12 > end {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: just checked.
    unsafe {
        let (destination, source): (u32, u32) = (load(start), load(start + 6));
        let (destination_end, source_end): (u16, u16) = (load(start + 4), load(start + 10));
        store(start, source);
        store(start + 4, source_end);
        store(start + 6, destination);
        store(start + 10, destination_end);
    }
    xdp_action::XDP_TX
}

/// Does nothing: what BPF_PROG_TEST_RUN and `replay` cost by themselves.
#[xdp]
pub fn nothing(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Run repeatedly over one frame: makes it a query again and goes on with the program in [`TARGET`].
#[xdp]
pub fn replay(context: XdpContext) -> u32 {
    let Some(query) = QUERY.get_ptr(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let now = distance(context.data(), context.data_end());
    // SAFETY: a map element, always there, that nobody writes to now.
    let change = unsafe { (*query).length }.wrapping_sub(now as u64) as i32;
    // SAFETY: the context of a running program.
    if unsafe { bpf_xdp_adjust_tail(context.ctx, change) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    if write_query(&context, 1).is_some() {
        // SAFETY: nothing here waits to be dropped.
        unsafe { TARGET.tail_call(&context, 0) };
    }
    // Only where there is no target.
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn write_query(context: &XdpContext, id: u16) -> Option<()> {
    let (start, end) = (context.data(), context.data_end());
    // SAFETY: a map element, always there, that nobody writes to now.
    let query = unsafe { &*QUERY.get_ptr(0)? };
    let mut at = 0;
    while at < WORDS {
        if start + 8 * at + 8 > end {
            break;
        }
        // SAFETY: just checked.
        unsafe { store(start + 8 * at, query.octets[at]) };
        at += 1;
    }

    let udp = udp_header(start, query.udp as usize);
    if udp + 10 > end || start + 12 > end {
        return None;
    }
    // RFC 1624: the sum of what changed is added to the complement of the checksum.
    let sum = match !checksum::fold(u64::from(!(query.sum as u16)) + u64::from(id)) {
        0 => 0xffff,
        sum => sum,
    };
    // SAFETY: just checked.
    unsafe {
        store(start + 10, id);
        store(udp + 6, sum);
        store(udp + 8, id);
    }
    Some(())
}

/// Whether a frame is, octet by octet, one of the expected ones, and ID, MAC and checksum agree.
#[inline(always)]
fn is_right(context: &XdpContext, expected: &Expected) -> bool {
    let (start, end) = (context.data(), context.data_end());
    let length = distance(start, end);
    if length as u64 != expected.length {
        return false;
    }
    let udp = udp_header(start, expected.udp as usize);
    let variant = udp_header(start, 0) + (expected.variant_at as usize & 0xff);
    if udp + 10 > end || start + 12 > end || variant + 1 > end {
        return false;
    }
    // SAFETY: just checked.
    let (mac, sum, id, variant): (u16, u16, u16, u8) =
        unsafe { (load(start + 4), load(udp + 6), load(udp + 8), load(variant)) };
    if mac != id || u64::from(checksum::fold(u64::from(id) + u64::from(sum))) != expected.sum {
        return false;
    }
    // SAFETY: as above. What has been checked is made equal, so that all octets can be compared.
    unsafe {
        store(start + 4, 0u16);
        store(udp + 6, 0u32);
    }

    let variant = (u64::from(variant) & expected.variant_mask) as usize & (VARIANTS - 1);
    let octets = &expected.octets[variant];
    let mut difference = 0;
    let mut at = 0;
    while at < WORDS {
        if start + 8 * at + 8 > end {
            break;
        }
        // SAFETY: just checked.
        difference |= unsafe { load::<u64>(start + 8 * at) } ^ octets[at];
        at += 1;
    }
    let last = start + ((length - 8) & 0xff);
    if last + 8 > end {
        return false;
    }
    // SAFETY: just checked.
    difference |= unsafe { load::<u64>(last) } ^ expected.last[variant];
    difference == 0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
