//! Parsing a packet into a [`ParsedQuery`].

use dns_common::{
    Outcome, Settings, checksum,
    names::{self, MAX_NAME, MAX_WORDS, MIN_NAME, NameHash, NameHasher},
};

use crate::{
    Frame, Tables, admission,
    headers::{self, Headers, dns, ethernet, ipv6, opt, question, udp},
    verifier::{add_masked, distance, forget_byte, load},
};

/// Bytes from the start of the UDP header to the question's name.
pub const TO_NAME: usize = udp::LENGTH + dns::LENGTH;

/// Bytes of the longest UDP message that is sent to any client (DNS Flag Day 2020), and the payload
/// size in the OPT record of replies.
pub const MAX_MESSAGE: usize = 1232;
/// Bytes of the longest message to a client without EDNS (RFC 1035 section 4.2.1).
pub const PLAIN_MESSAGE: usize = 512;

/// Masks for offsets, so that the verifier can bound pointers.
const LAYER4_MASK: usize = 0x3f;
pub(crate) const NAME_MASK: usize = 0xff;

/// The flags that a query may have: RD, AD and CD.
const QUERY_FLAGS: u16 = 0x0130_u16.to_be();
/// The flags that a reply copies from the query: RD and CD (RFC 1035 section 4.1.1, RFC 4035
/// section 3.2.2).
const COPIED_FLAGS: u16 = 0x0110_u16.to_be();
/// The flag QR, which is set in replies.
const QR: u16 = 0x8000_u16.to_be();

/// QDCOUNT is 1, the other counts are 0.
const ONE_QUESTION: u64 = 0x0001_0000_0000_0000_u64.to_be();
/// QDCOUNT and ARCOUNT are 1, the other counts are 0.
const ONE_QUESTION_ONE_ADDITIONAL: u64 = 0x0001_0000_0000_0001_u64.to_be();

pub(crate) const CLASS_IN: u16 = 1_u16.to_be();
const TYPE_OPT: u16 = 41_u16.to_be();

/// The option with which a client asks a server for its identifier (RFC 5001), in network order.
const NSID: u16 = 3_u16.to_be();

/// A query that the tables may answer. Its client is admitted and its message is well-formed,
/// except that the labels of its name have not been checked.
#[derive(Clone, Copy)]
pub struct ParsedQuery<'t> {
    /// The address of the frame's first byte.
    pub start: usize,
    /// The address after the frame's last byte that can be accessed directly.
    pub end: usize,
    /// Bytes from the frame's start to the UDP header. It differs for IPv4 and IPv6.
    pub layer4: usize,
    /// The length of UDP header and message in bytes.
    pub udp_length: usize,
    /// The settings in force.
    pub settings: &'t Settings,
    /// Bytes of the question's name, root label included: [`MIN_NAME`] to 255.
    pub name_length: usize,
    /// The hash of the name.
    pub hash: NameHash,
    /// The one's complement sum of the name's bytes.
    pub name_sum: u64,
    /// The type, in network order.
    pub rtype: u16,
    /// The ID, in network order.
    pub id: u16,
    /// The flags RD and CD, in their places in the DNS header.
    pub copied_flags: u16,
    /// The source and the destination port, in network order.
    pub ports: u32,
    /// The UDP checksum, in network order. 0 if there is none, which only IPv4 allows.
    pub udp_checksum: u16,
    /// 0 if the query has no EDNS. Otherwise 1 plus the TTL of the reply's OPT record in network
    /// order. A single word, because the verifier would treat an `Option` as two states.
    pub edns: u64,
    /// The maximum length of the reply's message in bytes: the client's limit, but at most
    /// [`MAX_MESSAGE`].
    pub limit: usize,
}

impl ParsedQuery<'_> {
    /// Whether the packet is IPv6. Otherwise it is IPv4.
    #[inline(always)]
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.layer4 == ethernet::LENGTH + ipv6::LENGTH
    }

    /// The address of the question's name.
    #[inline(always)]
    #[must_use]
    pub fn name(&self) -> usize {
        udp_header(self.start, self.layer4) + TO_NAME
    }
}

/// The address of the UDP header that starts `layer4` bytes after `start`.
#[inline(always)]
#[must_use]
pub fn udp_header(start: usize, layer4: usize) -> usize {
    add_masked::<LAYER4_MASK>(start, layer4)
}

/// Parses the packet in three steps: headers, admission, message.
#[inline(always)]
pub fn parse<'t, F: Frame, T: Tables>(
    frame: &F,
    tables: &'t T,
) -> Result<ParsedQuery<'t>, Outcome> {
    let headers = headers::read(frame)?;
    let settings = admission::admit::<F, T>(&headers, tables)?;
    read_message(&headers, settings)
}

/// Reads the UDP header and the DNS message.
#[inline(always)]
fn read_message<'t>(headers: &Headers, settings: &'t Settings) -> Result<ParsedQuery<'t>, Outcome> {
    let (start, end) = (headers.start, headers.end);
    let length = distance(start, end);
    // From here on, one verifier state stands for both IP versions.
    let layer4 = forget_byte(headers.layer4, length as u64);
    let udp = udp_header(start, layer4);
    if udp + TO_NAME + MIN_NAME > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked, for all loads up to the name.
    let (ports, udp_length, udp_checksum): (u32, u16, u16) = unsafe {
        (
            load(udp + udp::PORTS),
            load(udp + udp::DATAGRAM_LENGTH),
            load(udp + udp::CHECKSUM),
        )
    };
    let udp_length = u16::from_be(udp_length) as usize;
    if udp_length != headers.ip_payload {
        return Err(Outcome::NonstandardUdp);
    }
    // The checksum is tested first, because comparing `layer4` makes the verifier learn the value
    // again in the branch where it is equal. In this order, that branch ends here. In the other
    // order, it would continue for packets with a checksum, and the verifier would walk the rest
    // of the program once for each IP version.
    if udp_checksum == 0 && layer4 == ethernet::LENGTH + ipv6::LENGTH {
        return Err(Outcome::NonstandardUdp);
    }
    if layer4 + udp_length > length {
        return Err(Outcome::Short);
    }

    let message = udp + udp::LENGTH;
    // SAFETY: as above.
    let (id, flags, counts): (u16, u16, u64) = unsafe {
        (
            load(message + dns::ID),
            load(message + dns::FLAGS),
            load(message + dns::COUNTS),
        )
    };
    if flags & QR != 0 {
        return Err(Outcome::Reply);
    }
    if flags & !QUERY_FLAGS != 0 {
        return Err(Outcome::NonstandardHeader);
    }
    if counts != ONE_QUESTION && counts != ONE_QUESTION_ONE_ADDITIONAL {
        return Err(Outcome::NonstandardCounts);
    }

    let name = scan_name(udp + TO_NAME, end, settings)?;
    let after_name = add_masked::<NAME_MASK>(udp + TO_NAME, name.length);
    if after_name + question::LENGTH > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked.
    let (rtype, class): (u16, u16) = unsafe {
        (
            load(after_name + question::TYPE),
            load(after_name + question::CLASS),
        )
    };
    if class != CLASS_IN {
        return Err(Outcome::NonstandardClass);
    }

    // Bytes of the message after the question. If the message ends inside the question, this wraps
    // and is no valid length.
    let rest = udp_length.wrapping_sub(TO_NAME + question::LENGTH + name.length);
    let mut edns = 0;
    let mut limit = PLAIN_MESSAGE;
    if counts == ONE_QUESTION {
        if rest != 0 {
            return Err(Outcome::TrailingBytes);
        }
    } else {
        let opt = read_opt(after_name + question::LENGTH, rest, end, settings)?;
        edns = 1 + u64::from(opt.ttl);
        // A smaller size counts as 512 (RFC 6891 section 6.2.3).
        if opt.payload_size > PLAIN_MESSAGE {
            limit = if opt.payload_size > MAX_MESSAGE {
                MAX_MESSAGE
            } else {
                opt.payload_size
            };
        }
    }

    Ok(ParsedQuery {
        start,
        end,
        layer4,
        udp_length,
        settings,
        name_length: name.length,
        hash: name.hash,
        name_sum: name.sum,
        rtype,
        id,
        copied_flags: flags & COPIED_FLAGS,
        ports,
        udp_checksum,
        edns,
        limit,
    })
}

/// The fields of an OPT record.
struct QueryOpt {
    /// In network order. Only the DO bit may be set.
    ttl: u32,
    /// The UDP payload size of the client in bytes.
    payload_size: usize,
}

/// Reads the OPT record at the address `at`. It must fill the last `length` bytes of the message.
#[inline(always)]
fn read_opt(
    at: usize,
    length: usize,
    end: usize,
    settings: &Settings,
) -> Result<QueryOpt, Outcome> {
    if at + opt::LENGTH > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked.
    let (name, rtype, payload_size, ttl, options): (u8, u16, u16, u32, u16) = unsafe {
        (
            load(at + opt::NAME),
            load(at + opt::TYPE),
            load(at + opt::PAYLOAD_SIZE),
            load(at + opt::TTL),
            load(at + opt::OPTIONS_LENGTH),
        )
    };
    if name != 0 || rtype != TYPE_OPT || ttl & !settings.edns_flags != 0 {
        return Err(Outcome::NonstandardEdns);
    }
    let options = u16::from_be(options) as usize;
    if length != opt::LENGTH + options {
        return Err(Outcome::TrailingBytes);
    }
    if options != 0 && !is_ignored_option(at + opt::LENGTH, options, end) {
        return Err(Outcome::NonstandardEdns);
    }
    Ok(QueryOpt {
        ttl,
        payload_size: u16::from_be(payload_size) as usize,
    })
}

/// Whether the `length` bytes of options at the address `at` are exactly one option, and the option
/// changes no answer. Several options are legal too, but checking their lengths would take a loop.
/// Queries with NSID pass, because CoreDNS's identifier may be asked for.
#[inline(always)]
fn is_ignored_option(at: usize, length: usize, end: usize) -> bool {
    if at + opt::OPTION_HEADER > end {
        return false;
    }
    // SAFETY: just checked.
    let (code, option): (u16, u16) =
        unsafe { (load(at + opt::OPTION_CODE), load(at + opt::OPTION_LENGTH)) };
    code != NSID && length == opt::OPTION_HEADER + u16::from_be(option) as usize
}

/// A name up to its first zero byte. Its labels have not been checked.
pub struct ScannedName {
    /// Bytes up to the first zero byte, this byte included.
    pub length: usize,
    /// The hash of these bytes.
    pub hash: NameHash,
    /// The one's complement sum of these bytes.
    pub sum: u64,
}

/// Finds the first zero byte of the name at the address `name`, and computes hash and sum.
///
/// Names in the tables are well-formed. So if a name in the tables equals the scanned name, the
/// labels of the scanned name are well-formed too. If no name in the tables equals it,
/// [`crate::authority`] checks the labels before the query is answered.
#[inline(always)]
pub fn scan_name(name: usize, end: usize, settings: &Settings) -> Result<ScannedName, Outcome> {
    let key = &settings.hash_key;
    let mut hasher = NameHasher::default();
    let mut sum = 0;
    let mut length = 0;
    let mut at = name;
    let mut word_number = 0;
    while word_number < MAX_WORDS {
        let word: u64 = if at + 8 > end {
            // At most seven bytes are left. In a complete question, type and class (four bytes)
            // follow the root label, so the root label is among the next three. One load of four
            // bytes covers these. `read_message` rejects a question that is not complete.
            if at + 4 > end {
                return Err(Outcome::NonstandardName);
            }
            // SAFETY: just checked.
            let half: u32 = unsafe { load(at) };
            // The missing bytes are filled with ones, so that no zero byte is found in them.
            u64::from(half) | !0xffff_ffff
        } else {
            // SAFETY: just checked.
            unsafe { load(at) }
        };
        let zero = names::first_zero(word);
        if zero != 0 {
            let mask = names::mask_to(zero);
            hasher = hasher.add(word, mask, key.words[word_number]);
            sum = checksum::add(sum, word & mask);
            length = 8 * word_number + names::bytes_to(zero) as usize;
            break;
        }
        hasher = hasher.add(word, u64::MAX, key.words[word_number]);
        sum = checksum::add(sum, word);
        at += 8;
        word_number += 1;
    }
    // The exits of the loop join here, so that one verifier state stands for every length. A length
    // of 256 becomes 0. So the value is at most 255, and never exceeds the upper bound, 256.
    let length = forget_byte(length, sum);
    if !(MIN_NAME..=MAX_NAME).contains(&length) {
        return Err(Outcome::NameLength);
    }
    Ok(ScannedName {
        length,
        hash: hasher.finish(key.finish),
        sum,
    })
}
