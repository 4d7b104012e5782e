//! Turning the packet into the reply. Only this module and the hooks write to packets.

use dns_common::{
    Outcome, checksum,
    records::{MAX_ANSWER_LENGTH, MIN_ANSWER_LENGTH},
    settings::SOA_POINTERS,
};

use crate::{
    Frame,
    frame::UdpChecksum,
    headers::{dns, ethernet, ipv4, ipv6, opt, question, udp},
    query::{CLASS_IN, NAME_MASK, ParsedQuery, TO_NAME, udp_header},
    verifier::{add_masked, load, store},
};

/// The TTL or hop limit of replies.
const HOPS: u8 = 64;

/// The flags QR and AA.
const REPLY_FLAGS: u16 = 0x8400_u16.to_be();

const ONE_QUESTION: u16 = 1_u16.to_be();
/// What the OPT record adds to ARCOUNT, in network order.
const ONE_ADDITIONAL: u64 = 1_u16.to_be() as u64;
const PROTOCOL_UDP: u16 = 17_u16.to_be();

/// The first eight bytes of the reply's OPT record: root, type, payload size 1232, and three bytes
/// of the TTL, which are written later.
const OPT_HEAD: u64 = 0x0000_2904_d000_0000_u64.to_be();
/// The one's complement sum of [`OPT_HEAD`].
const OPT_HEAD_SUM: u64 = checksum::add(0, OPT_HEAD);

/// The mask for offsets in an answer, see [`add_masked`].
const ANSWER_MASK: usize = MAX_ANSWER_LENGTH - 1;

/// What the reply holds after the question, without the OPT record.
#[derive(Clone, Copy)]
pub struct AnswerBody {
    /// [`Outcome::Data`], [`Outcome::NoData`] or [`Outcome::NxDomain`].
    pub outcome: Outcome,
    /// The RCODE, in its place in the flags of the DNS header.
    pub rcode: u16,
    /// ANCOUNT, NSCOUNT and ARCOUNT without the OPT record, in network order.
    pub counts: [u16; 3],
    /// The address of the answer's bytes.
    pub bytes: usize,
    /// The length of the answer in bytes.
    pub length: usize,
    /// The one's complement sum of the bytes, including `soa_pointer` and `address`.
    pub sum: u64,
    /// The value of the compression pointers in the SOA record of a negative answer, in network
    /// order. 0 in other answers, which are stored with their pointers.
    pub soa_pointer: u16,
    /// The IPv4 address for the last four bytes, in network order. 0 if these bytes stay as they
    /// are. For the address 0.0.0.0 they are zeros already.
    pub address: u32,
}

/// Turns the query's packet into the reply with this answer.
///
/// Returns the outcome of the answer. If the reply is too long or the packet can't be resized,
/// returns [`Outcome::TooLarge`] or [`Outcome::NoRoom`], and the packet is unchanged.
#[inline(always)]
pub fn write<F: Frame>(frame: &mut F, query: &ParsedQuery<'_>, answer: &AnswerBody) -> Outcome {
    let has_opt = query.edns != 0;
    let opt_length = if has_opt { opt::LENGTH } else { 0 };
    let message_length =
        dns::LENGTH + query.name_length + question::LENGTH + answer.length + opt_length;
    if message_length > query.limit {
        return Outcome::TooLarge;
    }
    if !frame.resize(query.layer4 + udp::LENGTH + message_length) {
        return Outcome::NoRoom;
    }

    let (start, end) = (frame.start(), frame.end());
    let udp = udp_header(start, query.layer4);
    let after_question =
        add_masked::<NAME_MASK>(udp + TO_NAME, query.name_length) + question::LENGTH;
    let last = add_masked::<ANSWER_MASK>(after_question, answer.length - MIN_ANSWER_LENGTH);
    // None of these conditions is ever true, because the frame now has the length of the reply,
    // which is longer than the longest headers. The checks are for the verifier.
    if start + ethernet::LENGTH + ipv6::LENGTH > end
        || udp + TO_NAME > end
        || after_question + MIN_ANSWER_LENGTH > end
        || last + MIN_ANSWER_LENGTH + opt_length > end
    {
        return Outcome::NoRoom;
    }

    let udp_length = udp::LENGTH + message_length;
    let addresses = reverse_direction(start, query, udp_length);

    let flags = REPLY_FLAGS | query.copied_flags | answer.rcode;
    let [answers, authorities, additionals] = answer.counts;
    let additionals = u64::from(additionals) + if has_opt { ONE_ADDITIONAL } else { 0 };
    let counts = u64::from(ONE_QUESTION)
        | u64::from(answers) << 16
        | u64::from(authorities) << 32
        | additionals << 48;
    let header = udp + udp::LENGTH;
    // SAFETY: the frame extends past the headers, as checked above.
    unsafe {
        store(udp + udp::PORTS, query.ports.rotate_left(16));
        store(udp + udp::DATAGRAM_LENGTH, (udp_length as u16).to_be());
        store(header + dns::FLAGS, flags);
        store(header + dns::COUNTS, counts);
    }

    copy_answer(answer, after_question, last, end);
    // The sum of everything after the question's name.
    let mut after_name = u64::from(query.rtype) + u64::from(CLASS_IN) + answer.sum;
    if has_opt {
        let at = last + MIN_ANSWER_LENGTH;
        let ttl = query.edns - 1;
        // The verifier of Linux 6.1 has forgotten that the check above included the OPT record.
        // The end is read again, because LLVM would remove a check of the same value.
        if at + opt::LENGTH > frame.end() {
            return Outcome::NoRoom;
        }
        // SAFETY: just checked.
        unsafe {
            store(at, OPT_HEAD);
            store(at + opt::TTL, ttl as u32);
            store(at + opt::OPTIONS_LENGTH, 0_u16);
        }
        // The TTL starts at an odd byte of the OPT record.
        let sum = OPT_HEAD_SUM + (ttl << 8);
        // A sum at an odd offset is shifted by eight bits, see `checksum`.
        after_name += checksum::add(0, sum) << (8 * (answer.length & 1));
    }

    // The UDP length counts twice: in the pseudo header and in the UDP header.
    let new_length = u64::from((udp_length as u16).to_be());
    let full = addresses
        + u64::from(PROTOCOL_UDP)
        + 2 * new_length
        + checksum::add(u64::from(query.id) + u64::from(flags), counts)
        + u64::from(query.ports)
        + query.name_sum
        + (after_name << (8 * (query.name_length & 1)));
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

/// Swaps the Ethernet and IP addresses, and sets length and TTL in the IP header. Returns the one's
/// complement sum of the IP addresses.
#[inline(always)]
fn reverse_direction(start: usize, query: &ParsedQuery<'_>, udp_length: usize) -> u64 {
    let (destination, source) = (start + ethernet::DESTINATION, start + ethernet::SOURCE);
    // SAFETY: the caller checked that the frame holds the longest headers.
    unsafe {
        let (old_destination, old_source): (u32, u32) = (load(destination), load(source));
        let (old_destination_end, old_source_end): (u16, u16) =
            (load(destination + 4), load(source + 4));
        store(destination, old_source);
        store(destination + 4, old_source_end);
        store(source, old_destination);
        store(source + 4, old_destination_end);
    }

    let ip = start + ethernet::LENGTH;
    if query.is_ipv6() {
        let (source, destination) = (ip + ipv6::SOURCE, ip + ipv6::DESTINATION);
        // SAFETY: as above.
        unsafe {
            let old_source: [u64; 2] = [load(source), load(source + 8)];
            let old_destination: [u64; 2] = [load(destination), load(destination + 8)];
            store(source, old_destination[0]);
            store(source + 8, old_destination[1]);
            store(destination, old_source[0]);
            store(destination + 8, old_source[1]);
            store(ip + ipv6::PAYLOAD_LENGTH, (udp_length as u16).to_be());
            store(ip + ipv6::HOP_LIMIT, HOPS);
            let sum = checksum::add(checksum::add(0, old_source[0]), old_source[1]);
            return checksum::add(checksum::add(sum, old_destination[0]), old_destination[1]);
        }
    }

    // SAFETY: as above.
    unsafe {
        let addresses: u64 = load(ip + ipv4::SOURCE);
        store(ip + ipv4::SOURCE, addresses.rotate_left(32));
        // Length and TTL change, so the header checksum is updated (RFC 1624).
        let new_length = ((udp_length + ipv4::LENGTH) as u16).to_be();
        let old_length: u16 = load(ip + ipv4::TOTAL_LENGTH);
        // These two bytes are the TTL and the protocol.
        let old_hops: u16 = load(ip + ipv4::TTL);
        let new_hops = old_hops & 0xff00 | u16::from(HOPS);
        let old_sum: u16 = load(ip + ipv4::CHECKSUM);
        let sum = u64::from(!old_sum)
            + u64::from(!old_length)
            + u64::from(new_length)
            + u64::from(!old_hops)
            + u64::from(new_hops);
        store(ip + ipv4::TOTAL_LENGTH, new_length);
        store(ip + ipv4::TTL, new_hops);
        store(ip + ipv4::CHECKSUM, !checksum::fold(sum));
        checksum::add(0, addresses)
    }
}

/// Copies the answer to the address `to`. `last` is the address to which its last 16 bytes go, and
/// `end` is the address after the frame.
///
/// The first and the last 16 bytes are copied first, and may overlap. The bytes between follow, 16
/// at a time.
#[inline(always)]
fn copy_answer(answer: &AnswerBody, to: usize, last: usize, end: usize) {
    let from = answer.bytes;
    // SAFETY: an answer has at least 16 bytes, and the caller checked that the frame holds them.
    // The tables hold `MAX_ANSWER_LENGTH` bytes from an answer's start, or the whole SOA record.
    unsafe {
        copy_16_bytes(from, to);
        copy_16_bytes(
            add_masked::<ANSWER_MASK>(from, answer.length - MIN_ANSWER_LENGTH),
            last,
        );
        // Only an answer of one A record, 16 bytes, has an address, so nothing overwrites it below.
        if answer.address != 0 {
            store(last + MIN_ANSWER_LENGTH - 4, answer.address);
        }
    }
    let mut at = 16;
    while at < MAX_ANSWER_LENGTH {
        if at + 16 >= answer.length || to + at + 16 > end {
            break;
        }
        // SAFETY: just checked.
        unsafe { copy_16_bytes(from + at, to + at) };
        at += 16;
    }
    if answer.soa_pointer != 0 {
        let [owner, mname, rname] = SOA_POINTERS;
        // Never true, because the frame has the length of the reply. The check is for the verifier.
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
/// 16 bytes are readable at the address `from` and writable at the address `to`.
#[inline(always)]
unsafe fn copy_16_bytes(from: usize, to: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let (head, tail): (u64, u64) = (load(from), load(from + 8));
        store(to, head);
        store(to + 8, tail);
    }
}
