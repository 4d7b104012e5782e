//! The programs of the benchmark (see `docs/benchmarks.md`): a generator of queries, a checker of
//! replies, and the bare reflector that the kernel program is compared with.
//!
//! Generator and checker do the same work for every program under test.

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
    bindings::xdp_action,
    helpers::generated::bpf_xdp_adjust_tail,
    macros::{map, xdp},
    maps::{Array, ProgramArray},
    programs::XdpContext,
};
use dns_common::checksum;
use dns_ebpf::{
    query::udp_header,
    verifier::{add_masked, distance, load, store},
};

/// Words of eight bytes in the longest frame of a query or a reply.
const WORDS: usize = 24;
/// The maximum number of correct variants of a reply: one for each address that may come first. A
/// power of two, so that a mask bounds the number of a variant for the verifier.
const VARIANTS: usize = 4;

/// The query. The benchmark writes it, `generate` and `replay` read it.
#[map]
static QUERY: Array<QueryTemplate> = Array::with_max_entries(1, 0);

/// The expected reply. The benchmark writes it, `check` reads it.
#[map]
static EXPECTED: Array<ExpectedReply> = Array::with_max_entries(1, 0);

/// Counts of frames. The programs write them, the benchmark reads them. Everything runs on one CPU.
#[map]
static COUNTS: Array<BenchCounts> = Array::with_max_entries(1, 0);

/// The program that `replay` continues with.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// The object's licence. The kernel reserves some helpers for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A query. Its ID and the last two bytes of the client's MAC address are equal. `generate` counts
/// them up from frame to frame, and `check` requires that they come back equal.
/// `tests/benches/bench/programs.rs` repeats the layout of this struct and the next two.
#[repr(C)]
pub struct QueryTemplate {
    /// The frame with the ID 0, padded with zeros.
    words: [u64; WORDS],
    /// The length of the frame in bytes. A multiple of eight.
    length: u64,
    /// Bytes from the frame's start to the UDP header.
    udp: u64,
    /// The UDP checksum of the frame with the ID 0.
    sum: u64,
}

/// A correct reply.
#[repr(C)]
pub struct ExpectedReply {
    /// The correct frames. ID, UDP checksum and the last two bytes of the client's MAC address are
    /// zero.
    words: [[u64; WORDS]; VARIANTS],
    /// The last eight bytes of each, because the length of a reply may be no multiple of eight.
    last: [u64; VARIANTS],
    /// Bytes of the frame.
    length: u64,
    /// Bytes from the frame's start to the UDP header.
    udp: u64,
    /// The one's complement sum of ID and UDP checksum. It is the same for every ID.
    sum: u64,
    /// The offset of the byte that tells which variant a frame is.
    variant_at: u64,
    /// The bits of this byte that are the number of the variant.
    variant_mask: u64,
}

/// Counts of frames: queries sent, replies that were correct, and replies that were not.
#[repr(C)]
pub struct BenchCounts {
    sent: u64,
    right: u64,
    wrong: u64,
}

/// Sends a query to the other end of a veth pair. The benchmark runs it with live frames
/// (`BPF_F_TEST_XDP_LIVE_FRAMES`).
///
/// The kernel reuses frames with the length and the bytes that they came back with. So the whole
/// frame is written, with zeros after the query. Otherwise the bytes of an earlier reply could make
/// a later one look correct. The length of a query's frame is a multiple of eight, because the
/// frame is written in whole words.
#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    let Some(counts) = COUNTS.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: map elements are never freed while the program runs, and this one is used on one CPU.
    let id = unsafe {
        (*counts).sent += 1;
        (*counts).sent as u16
    };
    match write_query(&context, id) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Compares every byte of a reply, counts the reply and drops it.
#[xdp]
pub fn check(context: XdpContext) -> u32 {
    let (Some(expected), Some(counts)) = (EXPECTED.get_ptr(0), COUNTS.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: map elements are never freed while the program runs, and these are used on one CPU.
    unsafe {
        if is_correct(&context, &*expected) {
            (*counts).right += 1;
        } else {
            (*counts).wrong += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// The bare reflector: swaps the MAC addresses and sends the frame back.
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

/// Does nothing. With it as the target, `replay` measures the cost of BPF_PROG_TEST_RUN and of
/// itself.
#[xdp]
pub fn nothing(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Turns the frame into the query again, with the ID 1, and continues with the program in
/// [`TARGET`]. The benchmark runs it repeatedly over one frame.
#[xdp]
pub fn replay(context: XdpContext) -> u32 {
    let Some(query) = QUERY.get_ptr(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let old_length = distance(context.data(), context.data_end());
    // SAFETY: map elements are never freed while the program runs, and the benchmark does not write
    // now.
    let change = unsafe { (*query).length }.wrapping_sub(old_length as u64) as i32;
    // SAFETY: the context of a running program.
    if unsafe { bpf_xdp_adjust_tail(context.ctx, change) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    if write_query(&context, 1).is_some() {
        // SAFETY: this function owns nothing that must be dropped.
        unsafe { TARGET.tail_call(&context, 0) };
    }
    // Reached only if the query could not be written, or if the map has no target.
    xdp_action::XDP_ABORTED
}

/// Writes the query with this ID into the frame.
#[inline(always)]
fn write_query(context: &XdpContext, id: u16) -> Option<()> {
    let (start, end) = (context.data(), context.data_end());
    // SAFETY: map elements are never freed while the program runs, and the benchmark does not write
    // now.
    let query = unsafe { &*QUERY.get_ptr(0)? };
    let mut at = 0;
    while at < WORDS {
        if start + 8 * at + 8 > end {
            break;
        }
        // SAFETY: just checked.
        unsafe { store(start + 8 * at, query.words[at]) };
        at += 1;
    }

    let udp = udp_header(start, query.udp as usize);
    if udp + 10 > end || start + 12 > end {
        return None;
    }
    // The sum of the change is added to the complement of the checksum (RFC 1624).
    let sum = match !checksum::fold(u64::from(!(query.sum as u16)) + u64::from(id)) {
        0 => 0xffff,
        sum => sum,
    };
    // The last two bytes of the client's MAC address, the UDP checksum and the ID.
    // SAFETY: just checked.
    unsafe {
        store(start + 10, id);
        store(udp + 6, sum);
        store(udp + 8, id);
    }
    Some(())
}

/// Whether a frame is equal to one of the expected ones, and its ID, MAC address and checksum
/// agree.
#[inline(always)]
fn is_correct(context: &XdpContext, expected: &ExpectedReply) -> bool {
    let (start, end) = (context.data(), context.data_end());
    let length = distance(start, end);
    if length as u64 != expected.length {
        return false;
    }
    let udp = udp_header(start, expected.udp as usize);
    // A frame has at most 192 bytes, 8 * WORDS, so the mask changes no offset in it.
    let variant = add_masked::<0xff>(start, expected.variant_at as usize);
    if udp + 10 > end || start + 12 > end || variant + 1 > end {
        return false;
    }
    // The fields that `write_query` sets. The client's MAC address is the destination of a reply.
    // SAFETY: just checked.
    let (mac, sum, id, variant): (u16, u16, u16, u8) =
        unsafe { (load(start + 4), load(udp + 6), load(udp + 8), load(variant)) };
    if mac != id || u64::from(checksum::fold(u64::from(id) + u64::from(sum))) != expected.sum {
        return false;
    }
    // The fields checked above become zero, as in the expected frames.
    // SAFETY: as above.
    unsafe {
        store(start + 4, 0u16);
        store(udp + 6, 0u32);
    }

    let variant = (u64::from(variant) & expected.variant_mask) as usize & (VARIANTS - 1);
    let words = &expected.words[variant];
    let mut difference = 0;
    let mut at = 0;
    while at < WORDS {
        if start + 8 * at + 8 > end {
            break;
        }
        // SAFETY: just checked.
        difference |= unsafe { load::<u64>(start + 8 * at) } ^ words[at];
        at += 1;
    }
    let last = add_masked::<0xff>(start, length - 8);
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
