//! Turning the packet round: the only place that writes to it.

use dns_common::{
    Outcome, checksum,
    records::{MAX_ANSWER, MIN_ANSWER},
    settings::SOA_POINTERS,
};

use crate::{
    Frame,
    frame::UdpChecksum,
    lookup::Answer,
    query::{DNS, ETHERNET, IPV6, NAME_MASK, OPT, Query, TO_NAME, UDP, udp_header},
    verifier::{load, offset, store},
};

/// TTL and hop limit of an answer.
const HOPS: u8 = 64;

/// QR and AA in the header's second 16 bits.
const ANSWER_BITS: u16 = 0x8400u16.to_be();

/// Our OPT up to its TTL: root, type, size 1232.
const OPT_HEAD: u64 = 0x0000_2904_d000_0000u64.to_be();
/// The sum of the octets of [`OPT_HEAD`].
const OPT_HEAD_SUM: u64 = checksum::add(0, OPT_HEAD);

/// A mask over offsets in an answer, see [`offset`].
const ANSWER_MASK: usize = MAX_ANSWER - 1;

/// Writes the answer into the query's packet.
#[inline(always)]
pub fn write<F: Frame>(frame: &mut F, query: &Query<'_>, answer: &Answer) -> Outcome {
    let has_opt = query.edns != 0;
    let opt = if has_opt { OPT } else { 0 };
    let message = DNS + query.name_length + 4 + answer.length + opt;
    if message > query.limit {
        return Outcome::TooLarge;
    }
    if !frame.resize(query.layer4 + UDP + message) {
        return Outcome::NoRoom;
    }

    let (start, end) = (frame.start(), frame.end());
    let udp = udp_header(start, query.layer4);
    let behind = offset::<NAME_MASK>(udp + TO_NAME, query.name_length) + 4;
    let last = offset::<ANSWER_MASK>(behind, answer.length - MIN_ANSWER);
    // None of this can be so: the frame has just been made as long as the reply, which is
    // longer than the largest headers. The verifier wants to see it all the same.
    if start + ETHERNET + IPV6 > end
        || udp + TO_NAME > end
        || behind + MIN_ANSWER > end
        || last + MIN_ANSWER + opt > end
    {
        return Outcome::NoRoom;
    }

    let udp_length = UDP + message;
    let addresses = turn_round(start, query, udp_length);

    let bits = ANSWER_BITS | query.copied_bits | answer.rcode;
    let [answers, authorities, additionals] = answer.counts;
    let counts = u64::from(1u16.to_be())
        | u64::from(answers) << 16
        | u64::from(authorities) << 32
        | (u64::from(additionals) + if has_opt { 0x0100 } else { 0 }) << 48;
    // SAFETY: the frame reaches as far, as checked above; this and all writes below.
    unsafe {
        store(udp, query.ports.rotate_left(16));
        store(udp + 4, (udp_length as u16).to_be());
        store(udp + 10, bits);
        store(udp + 12, counts);
    }

    copy(answer, behind, last, end);
    let mut behind_name = u64::from(query.rtype) + u64::from(1u16.to_be()) + answer.sum;
    if has_opt {
        let at = last + MIN_ANSWER;
        let ttl = query.edns - 1;
        // Once more, for verifiers that have forgotten (6.1) that there was an OPT when the
        // frame's length was checked; LLVM may not see that it is the same end.
        if at + OPT > frame.end() {
            return Outcome::NoRoom;
        }
        // SAFETY: as above.
        unsafe {
            store(at, OPT_HEAD);
            store(at + 5, ttl as u32);
            store(at + 9, 0u16);
        }
        // The TTL starts at an odd octet of the OPT.
        let sum = OPT_HEAD_SUM + (ttl << 8);
        behind_name += checksum::add(0, sum) << (8 * (answer.length & 1));
    }

    let new_length = u64::from((udp_length as u16).to_be());
    let full = addresses
        + u64::from(17u16.to_be())
        + 2 * new_length
        + checksum::add(u64::from(query.id) + u64::from(bits), counts)
        + u64::from(query.ports)
        + query.name_sum
        + (behind_name << (8 * (query.name_length & 1)));
    frame.set_udp_checksum(
        query.layer4,
        UdpChecksum {
            full,
            old: query.udp_checksum,
            length_change: new_length + u64::from(!(query.udp_length as u16).to_be()),
        },
    );
    answer.outcome
}

/// Swaps MAC and IP addresses and sets the IP header's length and TTL. Gives the one's
/// complement sum of the IP addresses.
#[inline(always)]
fn turn_round(start: usize, query: &Query<'_>, udp_length: usize) -> u64 {
    // SAFETY: the caller checked that the frame holds the largest headers.
    unsafe {
        let (destination, source): (u32, u32) = (load(start), load(start + 6));
        let (destination_end, source_end): (u16, u16) = (load(start + 4), load(start + 10));
        store(start, source);
        store(start + 4, source_end);
        store(start + 6, destination);
        store(start + 10, destination_end);
    }

    if query.is_ipv6() {
        // SAFETY: as above.
        unsafe {
            let source: [u64; 2] = [load(start + 22), load(start + 30)];
            let destination: [u64; 2] = [load(start + 38), load(start + 46)];
            store(start + 22, destination[0]);
            store(start + 30, destination[1]);
            store(start + 38, source[0]);
            store(start + 46, source[1]);
            store(start + 18, (udp_length as u16).to_be());
            store(start + 21, HOPS);
            let sum = checksum::add(checksum::add(0, source[0]), source[1]);
            return checksum::add(checksum::add(sum, destination[0]), destination[1]);
        }
    }

    // SAFETY: as above.
    unsafe {
        let addresses: u64 = load(start + 26);
        store(start + 26, addresses.rotate_left(32));
        // The header's checksum changes with the length and with the TTL (RFC 1624).
        let new_length = ((udp_length + 20) as u16).to_be();
        let old_length: u16 = load(start + 16);
        let old_hops: u16 = load(start + 22);
        let new_hops = old_hops & 0xff00 | u16::from(HOPS);
        let old_sum: u16 = load(start + 24);
        let sum = u64::from(!old_sum)
            + u64::from(!old_length)
            + u64::from(new_length)
            + u64::from(!old_hops)
            + u64::from(new_hops);
        store(start + 16, new_length);
        store(start + 22, new_hops);
        store(start + 24, !checksum::fold(sum));
        checksum::add(0, addresses)
    }
}

/// Copies the answer behind the question: its first 16 octets, its last 16 (which may
/// overlap them), and 16 at a time between.
#[inline(always)]
fn copy(answer: &Answer, to: usize, last: usize, end: usize) {
    let from = answer.octets;
    // SAFETY: an answer has at least 16 octets, and the caller checked that the frame holds
    // them; the tables hold `MAX_ANSWER` octets behind an answer's start, or the whole SOA.
    unsafe {
        copy16(from, to);
        copy16(
            offset::<ANSWER_MASK>(from, answer.length - MIN_ANSWER),
            last,
        );
        if answer.address != 0 {
            store(last + MIN_ANSWER - 4, answer.address);
        }
    }
    let mut at = 16;
    while at < MAX_ANSWER {
        if at + 16 >= answer.length || to + at + 16 > end {
            break;
        }
        // SAFETY: just checked.
        unsafe { copy16(from + at, to + at) };
        at += 16;
    }
    if answer.soa_pointer != 0 {
        let [owner, mname, rname] = SOA_POINTERS;
        if to + rname + 2 > end {
            return;
        }
        // SAFETY: just checked.
        unsafe {
            store(to + owner, answer.soa_pointer);
            store(to + mname, answer.soa_pointer);
            store(to + rname, answer.soa_pointer);
        }
    }
}

/// # Safety
///
/// 16 octets are readable at `from` and writable at `to`.
#[inline(always)]
unsafe fn copy16(from: usize, to: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (head, tail): (u64, u64) = (load(from), load(from + 8));
        store(to, head);
        store(to + 8, tail);
    }
}
