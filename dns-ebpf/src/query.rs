//! Parsing: is this packet a question for us, and which one?

use dns_common::{
    Outcome, Settings, checksum,
    names::{self, Hasher, MAX_NAME, MAX_WORDS, MIN_NAME, NameHash},
    settings::{SLOTS, Served4},
};

use crate::{
    Frame, Tables,
    clients::{admit4, admit6, is_ours, serves4, serves6},
    verifier::{distance, forget_octet, load, load_shared, offset},
};

/// Octets of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Octets of an IPv4 header without options.
pub const IPV4: usize = 20;
/// Octets of an IPv6 header.
pub const IPV6: usize = 40;
/// Octets of a UDP header.
pub const UDP: usize = 8;
/// Octets of a DNS header.
pub const DNS: usize = 12;
/// Octets of an OPT record without options (RFC 6891 section 6.1.2).
pub const OPT: usize = 11;
/// Octets of an option's code and length (RFC 6891 section 6.1.2).
const OPTION: usize = 4;
/// From the UDP header to the question's name.
pub const TO_NAME: usize = UDP + DNS;

/// The largest UDP message that is sent to anyone (RFC 9715), and what our OPT says.
pub const MAX_MESSAGE: usize = 1232;
/// The largest message for a client without EDNS (RFC 1035 section 4.2.1).
pub const PLAIN_MESSAGE: usize = 512;

/// Masks over offsets, for pointers that the verifier must be able to bound.
const LAYER4_MASK: usize = 0x3f;
pub(crate) const NAME_MASK: usize = 0xff;

const UDP_PROTOCOL: u8 = 17;
const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// Header bits that a query may have: RD, AD, CD.
const QUERY_BITS: u16 = 0x0130u16.to_be();
const QR: u16 = 0x8000u16.to_be();

/// QDCOUNT 1 and nothing else; and the same with one additional record.
const ONE_QUESTION: u64 = 0x0001_0000_0000_0000u64.to_be();
const ONE_QUESTION_ONE_ADDITIONAL: u64 = 0x0001_0000_0000_0001u64.to_be();

const CLASS_IN: u16 = 1u16.to_be();
const TYPE_OPT: u16 = 41u16.to_be();

/// DO in an OPT's TTL (RFC 3225), as it stands on the wire.
const DNSSEC_OK: u32 = 0x8000u32.to_be();

/// A question that deserves a look at the tables.
#[derive(Clone, Copy)]
pub struct Query<'t> {
    /// The address of the frame's first octet.
    pub start: usize,
    /// The address behind its last one.
    pub end: usize,
    /// From the frame's start to the UDP header: tells IPv4 from IPv6 too.
    pub layer4: usize,
    /// The UDP length.
    pub udp_length: usize,
    /// The settings in force.
    pub settings: &'t Settings,
    /// Octets of the question's name, root included: [`MIN_NAME`] to [`MAX_NAME`].
    pub name_length: usize,
    /// Its hash.
    pub hash: NameHash,
    /// The one's complement sum of its octets.
    pub name_sum: u64,
    /// The type, as it stands on the wire.
    pub rtype: u16,
    /// The ID, as it stands on the wire.
    pub id: u16,
    /// RD and CD, in their places in the header's second 16 bits.
    pub copied_bits: u16,
    /// The ports, as they stand on the wire.
    pub ports: u32,
    /// The UDP checksum.
    pub udp_checksum: u16,
    /// 0: no EDNS. Else 1 more than the OPT's TTL of the reply, as it stands on the wire.
    pub edns: u64,
    /// Octets that the client takes.
    pub limit: usize,
}

impl Query<'_> {
    /// IPv6, else IPv4.
    #[inline(always)]
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.layer4 == ETHERNET + IPV6
    }

    /// The address of the question's name.
    #[inline(always)]
    #[must_use]
    pub fn name(&self) -> usize {
        offset::<LAYER4_MASK>(self.start, self.layer4) + TO_NAME
    }
}

/// The frame's UDP header, wherever the IP version puts it.
#[inline(always)]
#[must_use]
pub fn udp_header(start: usize, layer4: usize) -> usize {
    offset::<LAYER4_MASK>(start, layer4)
}

/// Reads the packet down to the end of the message.
#[inline(always)]
pub fn parse<'t, F: Frame, T: Tables>(frame: &F, tables: &'t T) -> Result<Query<'t>, Outcome> {
    let (start, end) = (frame.start(), frame.end());
    if start + ETHERNET + IPV4 + UDP + DNS > end {
        return Err(Outcome::Short);
    }

    let layer4;
    let ip_payload;
    let settings;
    // SAFETY: the frame reaches behind the DNS header, as if it were IPv4; IPv6 is checked
    // again below.
    let ethertype: u16 = unsafe { load(start + 12) };
    if ethertype == ETHERTYPE_IPV4 {
        // SAFETY: as above.
        let (version, protocol, fragment): (u8, u8, u16) =
            unsafe { (load(start + 14), load(start + 23), load(start + 20)) };
        if protocol != UDP_PROTOCOL {
            return Err(Outcome::NotUdp);
        }
        if version != 0x45 {
            return Err(Outcome::IpOptions);
        }
        if fragment & !0x4000u16.to_be() != 0 {
            return Err(Outcome::Fragment);
        }
        // SAFETY: as above.
        let (length, address, port): (u16, u32, u16) =
            unsafe { (load(start + 16), load(start + 30), load(start + 36)) };
        settings = current_settings(tables)?;
        if !serves4(settings, Served4::new(address, port)) {
            return Err(Outcome::NotServed);
        }
        // SAFETY: as above.
        admit4::<F, T>(tables, settings, unsafe { load(start + 26) })?;
        layer4 = ETHERNET + IPV4;
        ip_payload = (u16::from_be(length) as usize).wrapping_sub(IPV4);
    } else if ethertype == ETHERTYPE_IPV6 {
        if start + ETHERNET + IPV6 + UDP + DNS > end {
            return Err(Outcome::Short);
        }
        // SAFETY: the frame reaches behind the DNS header.
        let (version, next_header): (u8, u8) = unsafe { (load(start + 14), load(start + 20)) };
        if next_header != UDP_PROTOCOL || version >> 4 != 6 {
            return Err(Outcome::NotUdp);
        }
        // SAFETY: as above.
        let (length, address, port): (u16, [u64; 2], u16) = unsafe {
            (
                load(start + 18),
                [load(start + 38), load(start + 46)],
                load(start + 56),
            )
        };
        settings = current_settings(tables)?;
        if !serves6(settings, address, port) {
            return Err(Outcome::NotServed);
        }
        // SAFETY: as above.
        let client = unsafe { [load(start + 22), load(start + 30)] };
        admit6::<F, T>(tables, settings, client)?;
        layer4 = ETHERNET + IPV6;
        ip_payload = u16::from_be(length) as usize;
    } else {
        return Err(Outcome::NotIp);
    }

    // SAFETY: the frame is longer than an Ethernet header.
    let first: u8 = unsafe { load(start) };
    if first & 1 != 0 {
        return Err(Outcome::Multicast);
    }
    if !is_ours::<F>(settings, start) {
        return Err(Outcome::Misdirected);
    }
    lease_is_fresh(tables)?;

    let length = distance(start, end);
    // The verifier need not know which of the two it is.
    let layer4 = forget_octet(layer4, length as u64);
    let udp = udp_header(start, layer4);
    if udp + TO_NAME + MIN_NAME > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked, as for all reads up to the name.
    let (ports, udp_length, udp_checksum): (u32, u16, u16) =
        unsafe { (load(udp), load(udp + 4), load(udp + 6)) };
    let udp_length = u16::from_be(udp_length) as usize;
    if udp_length != ip_payload || (udp_checksum == 0 && layer4 == ETHERNET + IPV6) {
        return Err(Outcome::OddUdp);
    }
    if layer4 + udp_length > length {
        return Err(Outcome::Short);
    }
    // SAFETY: as above.
    let (id, bits, counts): (u16, u16, u64) =
        unsafe { (load(udp + 8), load(udp + 10), load(udp + 12)) };
    if bits & QR != 0 {
        return Err(Outcome::Reply);
    }
    if bits & !QUERY_BITS != 0 {
        return Err(Outcome::OddHeader);
    }
    if counts != ONE_QUESTION && counts != ONE_QUESTION_ONE_ADDITIONAL {
        return Err(Outcome::OddCounts);
    }

    let name = read_name(udp + TO_NAME, end, settings)?;
    let behind = offset::<NAME_MASK>(udp + TO_NAME, name.length);
    if behind + 4 > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked.
    let (rtype, class): (u16, u16) = unsafe { (load(behind), load(behind + 2)) };
    if class != CLASS_IN {
        return Err(Outcome::OddClass);
    }

    // Octets of the message behind the question.
    let rest = udp_length.wrapping_sub(UDP + DNS + 4 + name.length);
    let mut edns = 0;
    let mut limit = PLAIN_MESSAGE;
    if counts == ONE_QUESTION {
        if rest != 0 {
            return Err(Outcome::TrailingOctets);
        }
    } else {
        if behind + 4 + OPT > end {
            return Err(Outcome::Short);
        }
        // SAFETY: just checked.
        let (root, opt, size, ttl, options): (u8, u16, u16, u32, u16) = unsafe {
            (
                load(behind + 4),
                load(behind + 5),
                load(behind + 7),
                load(behind + 9),
                load(behind + 13),
            )
        };
        if root != 0 || opt != TYPE_OPT || ttl & !DNSSEC_OK != 0 {
            return Err(Outcome::OddEdns);
        }
        let options = u16::from_be(options) as usize;
        if rest != OPT + options {
            return Err(Outcome::TrailingOctets);
        }
        if options != 0 && !is_one_option(behind + 4 + OPT, options, end) {
            return Err(Outcome::OddEdns);
        }
        edns = 1 + u64::from(ttl);
        let size = u16::from_be(size) as usize;
        if size > PLAIN_MESSAGE {
            limit = if size > MAX_MESSAGE {
                MAX_MESSAGE
            } else {
                size
            };
        }
    }

    Ok(Query {
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
        copied_bits: bits & 0x0110u16.to_be(),
        ports,
        udp_checksum,
        edns,
        limit,
    })
}

/// Whether the `length` octets of options at `at` are exactly one option, which fills them. Two
/// options are legal too, but only a loop over all of them could tell whether they add up.
#[inline(always)]
fn is_one_option(at: usize, length: usize, end: usize) -> bool {
    if at + OPTION > end {
        return false;
    }
    // SAFETY: just checked.
    let option: u16 = unsafe { load(at + 2) };
    length == OPTION + u16::from_be(option) as usize
}

#[inline(always)]
fn current_settings<T: Tables>(tables: &T) -> Result<&Settings, Outcome> {
    let control = tables.control().ok_or(Outcome::NotReady)?;
    // SAFETY: the control line is a map element, always there.
    let slot = unsafe { load_shared(&raw const (*control).settings as usize) };
    if slot == 0 {
        return Err(Outcome::NotReady);
    }
    tables
        .settings((slot as u32 - 1) % SLOTS)
        .ok_or(Outcome::NotReady)
}

#[inline(always)]
fn lease_is_fresh<T: Tables>(tables: &T) -> Result<(), Outcome> {
    let control = tables.control().ok_or(Outcome::NotReady)?;
    // SAFETY: as above.
    let until = unsafe { load_shared(&raw const (*control).lease as usize) };
    if until.wrapping_sub(tables.now()) as i64 <= 0 {
        return Err(Outcome::LeaseStale);
    }
    Ok(())
}

/// A name as far as it can be told without walking its labels.
pub struct ScannedName {
    /// Octets up to the first zero octet, that one included.
    pub length: usize,
    /// Over these octets.
    pub hash: NameHash,
    /// Over these octets.
    pub sum: u64,
}

/// Finds the end of the name that starts at `name`, hashing and summing as it goes.
///
/// The end is the first zero octet. That is the root in every name that the tables
/// hold, so a match proves the structure; who wants to say that a name does not exist
/// must walk its labels.
#[inline(always)]
pub fn read_name(name: usize, end: usize, settings: &Settings) -> Result<ScannedName, Outcome> {
    let key = &settings.hash_key;
    let mut hasher = Hasher::default();
    let mut sum = 0;
    let mut length = 0;
    let mut at = name;
    let mut word_number = 0;
    while word_number < MAX_WORDS {
        let word: u64 = if at + 8 > end {
            // Type and class follow the root, so in the last word of a packet four octets
            // are enough to find it in.
            if at + 4 > end {
                return Err(Outcome::OddName);
            }
            // SAFETY: just checked.
            let half: u32 = unsafe { load(at) };
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
            length = 8 * word_number + names::octets_to(zero) as usize;
            break;
        }
        hasher = hasher.add(word, u64::MAX, key.words[word_number]);
        sum = checksum::add(sum, word);
        at += 8;
        word_number += 1;
    }
    // The exits of the scan join here: one state for the verifier, whatever the length.
    let length = forget_octet(length, sum);
    if !(MIN_NAME..=MAX_NAME).contains(&length) {
        return Err(Outcome::NameLength);
    }
    Ok(ScannedName {
        length,
        hash: hasher.finish(key.finish),
        sum,
    })
}
