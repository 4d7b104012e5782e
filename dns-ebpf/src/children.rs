//! Names that exist because their parent's record says so: names of pods, and zonal names.

use dns_common::{Outcome, records::Record};

use crate::{
    Tables,
    lookup::{Asked, Existing, find_record},
    query::{NAME_MASK, Query, read_name},
    verifier::{forget, load, offset},
};

/// Octets of a label that are looked at: one more than the longest IPv4 address has.
const WINDOW: usize = 16;
/// The longest label that is an IPv6 address: eight groups of four digits, seven dashes.
const MAX_ADDRESS: u64 = 39;
/// Dashes in an IPv4 address, and in an IPv6 address with all its groups.
const IPV4_DASHES: u64 = 3;
const IPV6_DASHES: u64 = 7;

/// What a name without a record has from its parent; `None` when it does not exist.
///
/// `first_label` is the octets of the name's first label, its length octet included.
#[inline(always)]
pub(crate) fn find<T: Tables>(
    query: &Query<'_>,
    first_label: usize,
    tables: &T,
) -> Result<Option<Existing>, Outcome> {
    let at = offset::<NAME_MASK>(query.name(), first_label);
    // A parent too short to be looked up may speak for its children all the same.
    let scanned = read_name(at, query.end, query.settings)?;
    let parent = Asked {
        at,
        length: scanned.length,
        hash: scanned.hash,
    };
    let Some(record) = find_record(&parent, query, tables)? else {
        return Ok(None);
    };
    // SAFETY: as in `lookup::find`.
    let head = unsafe { &*(record as *const Record) };
    let flags = head.flags;
    if flags & Record::BELOW_UNKNOWN != 0 {
        return Err(Outcome::BelowUnknown);
    }
    if flags & Record::CHILDREN == 0 {
        return Ok(None);
    }
    let address = if flags & Record::CHILDREN_ARE_ADDRESSES == 0 {
        0
    } else {
        let label = query.name() + 1;
        match read_address(label, first_label - 1, query.end, query.hash.0)? {
            Some(address) => address,
            None => return Ok(None),
        }
    };
    // `Record::children_at`, its multiple of eight by the mask.
    let answers = offset::<0x1f8>(record + size_of::<Record>(), parent.length + 7);
    Ok(Some(Existing {
        record,
        answers,
        address,
    }))
}

/// The IPv4 address, as it stands on the wire, that a label of `length` octets is.
///
/// `None`: it is no address of either family. Passes when it could be one of IPv6. `stranger` is any
/// value that the verifier does not know.
///
/// Every octet takes the same way through the loop, all decisions are arithmetic: a branch here
/// is a branch in each round, and the verifier would follow every label there is.
#[inline(always)]
fn read_address(
    label: usize,
    length: usize,
    end: usize,
    stranger: u64,
) -> Result<Option<u32>, Outcome> {
    // An address, a parent long enough to be looked up, type and class are more than this.
    if label + WINDOW > end {
        return Err(Outcome::Short);
    }
    // SAFETY: just checked.
    let (mut low, mut high): (u64, u64) = unsafe { (load(label), load(label + 8)) };
    let length = forget(length as u64, stranger);

    let mut address = 0u64;
    // The number being read, how many digits it has so far, and how many dashes there were.
    let (mut number, mut digits, mut dashes) = (0, 0, 0);
    // Anything but 0: no IPv4 address; no address; an address of IPv6, if any.
    let (mut odd, mut foreign, mut doubled) = (0, 0, 0);
    let mut after_dash = 0;
    let mut at = 0;
    while at < WINDOW as u64 {
        let octet = low & 0xff;
        low = low >> 8 | high << 56;
        high >>= 8;
        // Each of these is 0 or 1.
        let inside = forget(is_less(at, length), stranger);
        let digit = octet.wrapping_sub(u64::from(b'0')) & 0xff;
        let letter = (octet | 0x20).wrapping_sub(u64::from(b'a')) & 0xff;
        let is_digit = forget(is_less(digit, 10), stranger) & inside;
        let is_letter = forget(is_less(letter, 6), stranger) & inside;
        let is_dash = forget(is_less(octet ^ u64::from(b'-'), 1), stranger) & inside;

        let no_digits = is_less(digits, 1);
        foreign |= inside ^ is_digit ^ is_letter ^ is_dash;
        doubled |= is_dash & after_dash;
        // A number has digits, does not start with a zero unless it is one, and fits an octet.
        odd |= is_letter | is_dash & no_digits | is_digit & (1 ^ no_digits) & is_less(number, 1);
        let more = number * 10 + digit;
        odd |= is_digit & is_less(255, more);

        address = address << (8 * is_dash) | number & is_dash.wrapping_neg();
        // A dash starts the next number, and nothing changes behind the label.
        number = more & is_digit.wrapping_neg() | number & (1 ^ inside).wrapping_neg();
        digits = (digits + is_digit) & (1 ^ is_dash).wrapping_neg();
        dashes += is_dash;
        after_dash = is_dash;
        at += 1;
    }
    if foreign != 0 || length > MAX_ADDRESS {
        return Ok(None);
    }
    if length < WINDOW as u64 && doubled == 0 {
        if dashes == IPV4_DASHES && odd == 0 && digits != 0 {
            let address = (address << 8 | number) as u32;
            return Ok(Some(address.to_be()));
        }
        if dashes != IPV6_DASHES {
            return Ok(None);
        }
    }
    Err(Outcome::BelowUnknown)
}

/// 1 if `a` is less than `b`, else 0; both are below 2⁶³.
#[inline(always)]
fn is_less(a: u64, b: u64) -> u64 {
    a.wrapping_sub(b) >> 63
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// What is read of a label that stands at the start of these octets.
    fn read(octets: &[u8], length: usize) -> Result<Option<Ipv4Addr>, Outcome> {
        let label = octets.as_ptr() as usize;
        let address = read_address(label, length, label + octets.len(), 0)?;
        Ok(address.map(|address| Ipv4Addr::from(address.to_ne_bytes())))
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        #[test]
        fn an_address_is_what_the_standard_library_reads(
            label in "([0-9]|2[45][0-9]|[0-9]{0,4})(-([0-9]|2[45][0-9]|[0-9]{0,4})){2,4}|[0-9a-fA-F-]{1,42}|[0-9a-h-]{1,20}",
        ) {
            // What follows a label is never part of it.
            let mut octets = [b'1'; 64];
            octets[..label.len()].copy_from_slice(label.as_bytes());
            let mut text = [0; 64];
            let mut spelt = |separator: u8| {
                for (to, from) in text.iter_mut().zip(label.bytes()) {
                    *to = if from == b'-' { separator } else { from };
                }
                let text = core::str::from_utf8(&text[..label.len()]).unwrap();
                (text.parse::<Ipv4Addr>().ok(), text.parse::<Ipv6Addr>().ok())
            };
            let (ipv4, _) = spelt(b'.');
            let (_, ipv6) = spelt(b':');
            match read(&octets, label.len()) {
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
