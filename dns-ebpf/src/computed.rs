//! Computed names: names without a record that exist because of their parent's record. They are the
//! names of pods and of topology zones without endpoints.

use dns_common::{Outcome, records::RecordHead};

use crate::{
    Tables,
    query::{NAME_MASK, ParsedQuery, scan_name},
    records::{ExistingName, NameInPacket, find_record},
    verifier::{add_masked, forget, load},
};

/// Bytes of a label that are read: one more than the longest IPv4 address with dashes.
const WINDOW: usize = 16;
/// Bytes of the longest IPv6 address with dashes: eight groups of four digits, seven dashes.
const MAX_ADDRESS: u64 = 39;
/// Dashes in an IPv4 address, and in an IPv6 address with all its groups.
const IPV4_DASHES: u64 = 3;
const IPV6_DASHES: u64 = 7;

/// Finds the question's name, which has no record, among the computed names of its parent. `None`
/// if it is not one of them. The query passes if that is unknown.
///
/// `first_label` is the length of the name's first label in bytes, its length byte included. It is
/// 0 if the name is a suffix: then the name takes the place of the parent, and has no record
/// either.
#[inline(always)]
pub(crate) fn find<T: Tables>(
    query: &ParsedQuery<'_>,
    first_label: usize,
    tables: &T,
) -> Result<Option<ExistingName>, Outcome> {
    let at = add_masked::<NAME_MASK>(query.name(), first_label);
    // If the parent is too short to be looked up, the query passes, because the parent may have
    // computed names.
    let scanned = scan_name(at, query.end, query.settings)?;
    let parent = NameInPacket {
        at,
        length: scanned.length,
        hash: scanned.hash,
    };
    let Some(record) = find_record(&parent, query, tables)? else {
        return Ok(None);
    };
    // SAFETY: as in `answer::find`.
    let head = unsafe { &*(record as *const RecordHead) };
    let flags = head.flags;
    if flags & RecordHead::BELOW_UNKNOWN != 0 {
        return Err(Outcome::BelowUnknown);
    }
    if flags & RecordHead::COMPUTED_NAMES == 0 {
        return Ok(None);
    }
    let address = if flags & RecordHead::COMPUTED_NAMES_ARE_ADDRESSES == 0 {
        0
    } else {
        let label = query.name() + 1;
        match read_address(label, first_label - 1, query.end, query.hash.0)? {
            Some(address) => address,
            None => return Ok(None),
        }
    };
    // As in `RecordHead::computed_answers_at`: the mask rounds down to a multiple of eight.
    let answers = add_masked::<0x1f8>(record + size_of::<RecordHead>(), parent.length + 7);
    Ok(Some(ExistingName {
        record,
        answers,
        address,
    }))
}

/// Reads the label of `length` bytes at the address `label` as an IPv4 address with dashes. Returns
/// the IPv4 address in network order.
///
/// `None` if the label is an address of neither family. A label that may be an IPv6 address makes
/// the query pass. `unknown` is any value that the verifier does not know.
///
/// The loop decides by arithmetic. If it branched for each byte, the verifier would walk every
/// combination of branches.
#[inline(always)]
fn read_address(
    label: usize,
    length: usize,
    end: usize,
    unknown: u64,
) -> Result<Option<u32>, Outcome> {
    // The shortest IPv4 address, the shortest parent, type and class together are longer than this.
    // A shorter question passes.
    if label + WINDOW > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked.
    let (mut low, mut high): (u64, u64) = unsafe { (load(label), load(label + 8)) };
    let length = forget(length as u64, unknown);

    let mut address = 0u64;
    // The current number, its digits so far, and the dashes so far.
    let (mut number, mut digits, mut dashes) = (0, 0, 0);
    // Each becomes 1 at a byte that no IPv4 address has there; at a byte that no address has; at
    // the second of two dashes in a row, which only IPv6 addresses have.
    let (mut not_ipv4, mut not_address, mut has_double_dash) = (0, 0, 0);
    let mut after_dash = 0;
    let mut at = 0;
    while at < WINDOW as u64 {
        let byte = low & 0xff;
        low = low >> 8 | high << 56;
        high >>= 8;
        // `inside` and the values named `is_…` are 0 or 1. Their negation is a mask of all bits or
        // of none.
        let inside = forget(is_less(at, length), unknown);
        let digit = byte.wrapping_sub(u64::from(b'0')) & 0xff;
        let letter = (byte | 0x20).wrapping_sub(u64::from(b'a')) & 0xff;
        let is_digit = forget(is_less(digit, 10), unknown) & inside;
        let is_letter = forget(is_less(letter, 6), unknown) & inside;
        let is_dash = forget(is_less(byte ^ u64::from(b'-'), 1), unknown) & inside;

        let no_digits = is_less(digits, 1);
        not_address |= inside ^ is_digit ^ is_letter ^ is_dash;
        has_double_dash |= is_dash & after_dash;
        // A number has digits, starts with a zero only if it is 0, and is at most 255.
        not_ipv4 |=
            is_letter | is_dash & no_digits | is_digit & (1 ^ no_digits) & is_less(number, 1);
        let more = number * 10 + digit;
        not_ipv4 |= is_digit & is_less(255, more);

        address = address << (8 * is_dash) | number & is_dash.wrapping_neg();
        // A dash starts the next number. After the end of the label nothing changes.
        number = more & is_digit.wrapping_neg() | number & (1 ^ inside).wrapping_neg();
        digits = (digits + is_digit) & (1 ^ is_dash).wrapping_neg();
        dashes += is_dash;
        after_dash = is_dash;
        at += 1;
    }
    if not_address != 0 || length > MAX_ADDRESS {
        return Ok(None);
    }
    if length < WINDOW as u64 && has_double_dash == 0 {
        if dashes == IPV4_DASHES && not_ipv4 == 0 && digits != 0 {
            let address = (address << 8 | number) as u32;
            return Ok(Some(address.to_be()));
        }
        if dashes != IPV6_DASHES {
            return Ok(None);
        }
    }
    // Long labels and labels with a double dash or seven dashes may be IPv6 addresses.
    Err(Outcome::BelowUnknown)
}

/// 1 if `a` is less than `b`, else 0. Both are below 2⁶³.
#[inline(always)]
fn is_less(a: u64, b: u64) -> u64 {
    a.wrapping_sub(b) >> 63
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// The address in the label of `length` bytes at the start of `bytes`.
    fn read(bytes: &[u8], length: usize) -> Result<Option<Ipv4Addr>, Outcome> {
        let label = bytes.as_ptr() as usize;
        let address = read_address(label, length, label + bytes.len(), 0)?;
        Ok(address.map(|address| Ipv4Addr::from(address.to_ne_bytes())))
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        #[test]
        fn labels_are_read_as_the_standard_library_reads_addresses(
            // Labels like IPv4 addresses, labels like IPv6 addresses, and labels with wrong
            // letters.
            label in "([0-9]|2[45][0-9]|[0-9]{0,4})(-([0-9]|2[45][0-9]|[0-9]{0,4})){2,4}|[0-9a-fA-F-]{1,42}|[0-9a-h-]{1,20}",
        ) {
            // Digits follow the label. They must not be read.
            let mut bytes = [b'1'; 64];
            bytes[..label.len()].copy_from_slice(label.as_bytes());
            let mut text = [0; 64];
            let mut parse_with = |separator: u8| {
                for (to, from) in text.iter_mut().zip(label.bytes()) {
                    *to = if from == b'-' { separator } else { from };
                }
                let text = core::str::from_utf8(&text[..label.len()]).unwrap();
                (text.parse::<Ipv4Addr>().ok(), text.parse::<Ipv6Addr>().ok())
            };
            let (ipv4, _) = parse_with(b'.');
            let (_, ipv6) = parse_with(b':');
            match read(&bytes, label.len()) {
                Ok(Some(address)) => proptest::prop_assert_eq!(Some(address), ipv4),
                Ok(None) => proptest::prop_assert_eq!((ipv4, ipv6), (None, None)),
                Err(outcome) => {
                    proptest::prop_assert_eq!(outcome, Outcome::BelowUnknown);
                    proptest::prop_assert_eq!(ipv4, None);
                }
            }
        }
    }

    #[test]
    fn a_packet_that_ends_too_early_passes() {
        assert_eq!(read(b"1-2-3-4", 7), Err(Outcome::Short));
    }
}
