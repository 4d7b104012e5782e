//! Absence: under which suffixes a name without a record does not exist.

use dns_common::{
    Outcome, names,
    settings::{MAX_SUFFIX, MAX_SUFFIXES, Suffix},
};

use crate::{
    lookup::{element, is_meta},
    query::{NAME_MASK, Query, TO_NAME},
    verifier::{forget_octet, load, offset},
};

/// Labels walked before a suffix: enough for a search list behind a long name, and for
/// every name in ip6.arpa.
const MAX_LABELS: usize = 40;

/// SOA (RFC 1035 section 3.2.2), as it stands on the wire.
const SOA: u16 = 6u16.to_be();

/// The suffix of a name without a record, if its absence from the tables means something.
#[inline(always)]
pub(crate) fn owned(query: &Query<'_>) -> Result<MatchedSuffix, Outcome> {
    let suffix = suffix_of(query)?;
    let is_owned = match suffix.action {
        Suffix::OWN => true,
        Suffix::OWN_EXCEPT_SOA => query.rtype != SOA,
        _ => false,
    };
    if !is_owned {
        return Err(Outcome::NotOwned);
    }
    if is_meta(query.rtype) {
        return Err(Outcome::MetaType);
    }
    Ok(suffix)
}

/// The end of a name, as the settings know it.
pub(crate) struct MatchedSuffix {
    /// Octets, root included.
    pub(crate) length: usize,
    /// Position in the settings of the zone whose SOA goes with a no.
    pub(crate) zone: u16,
    action: u16,
}

/// The longest suffix in the settings that the name ends with.
///
/// Whether it starts at a label's start is not known yet.
#[inline(always)]
fn suffix_of(query: &Query<'_>) -> Result<MatchedSuffix, Outcome> {
    let settings = query.settings;
    // Suffixes are compared from the far end of a window that ends with the name. There
    // are at least 54 octets before the name, so the window starts inside the packet.
    let back = query.layer4 + TO_NAME + query.name_length;
    if !(MAX_SUFFIX..=0x1ff).contains(&back) {
        return Err(Outcome::NotOwned);
    }
    let window = offset::<0x1ff>(query.start, back - MAX_SUFFIX);
    if window + MAX_SUFFIX > query.end {
        return Err(Outcome::Short);
    }
    let count = settings.suffix_count as usize;
    let mut found = MAX_SUFFIXES;
    let mut at = 0;
    while at < MAX_SUFFIXES {
        if at >= count {
            break;
        }
        let suffix = &settings.suffixes[at];
        if (suffix.length as usize) <= query.name_length && ends_with(window, suffix) {
            found = at;
            break;
        }
        at += 1;
    }
    let found = forget_octet(found, query.hash.0);
    if found >= MAX_SUFFIXES {
        return Err(Outcome::NotOwned);
    }
    let suffix = element(&settings.suffixes, found);
    Ok(MatchedSuffix {
        length: suffix.length as usize,
        zone: suffix.zone,
        action: suffix.action,
    })
}

#[inline(always)]
fn ends_with(window: usize, suffix: &Suffix) -> bool {
    let words = (suffix.length as usize).div_ceil(8);
    let mut back = 1;
    while back <= MAX_SUFFIX / 8 {
        let at = MAX_SUFFIX / 8 - back;
        // SAFETY: the window lies in the packet.
        let asked: u64 = unsafe { load(window + 8 * at) };
        let mut difference = asked ^ suffix.words[at];
        if difference != 0 {
            difference = names::lower(asked) ^ suffix.words[at];
        }
        if back == words {
            return difference & suffix.mask == 0;
        }
        if difference != 0 {
            return false;
        }
        back += 1;
    }
    false
}

/// Walks the labels before the suffix, which must start where one of them ends. Gives the
/// octets of the first label, its length octet included.
#[inline(always)]
pub(crate) fn walk(query: &Query<'_>, to: usize) -> Result<usize, Outcome> {
    let name = query.name();
    let mut at = 0;
    let mut first = 0;
    let mut label = 0;
    while label < MAX_LABELS {
        if at == to {
            return Ok(first);
        }
        let octet = offset::<NAME_MASK>(name, at);
        if octet + 1 > query.end {
            return Err(Outcome::OddName);
        }
        // SAFETY: just checked.
        let length: u8 = unsafe { load(octet) };
        if length == 0 || length > 63 {
            return Err(Outcome::OddName);
        }
        let next = at + length as usize + 1;
        if next > to {
            return Err(Outcome::OddName);
        }
        at = forget_octet(next, query.hash.0);
        if label == 0 {
            first = at;
        }
        label += 1;
    }
    Err(Outcome::OddName)
}
