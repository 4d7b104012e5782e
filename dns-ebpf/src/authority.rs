//! Negative answers: whether the absence of a record proves that a name does not exist, and the SOA
//! record of these answers.

use dns_common::{
    Outcome, names,
    settings::{MAX_SUFFIX_LENGTH, MAX_SUFFIXES, SOA_LENGTH, Suffix, ZoneSoa},
};

use crate::{
    query::{NAME_MASK, ParsedQuery, TO_NAME},
    reply::AnswerBody,
    verifier::{add_masked, element, forget_byte, load},
};

/// Names with this many labels before a suffix, or with more, pass. The limit leaves room for a
/// long name with a search domain appended, and for every name in ip6.arpa.
const MAX_LABELS: usize = 40;

/// NXDOMAIN (RFC 1035 section 4.1.1) in the flags of the DNS header.
const RCODE_NXDOMAIN: u16 = 3_u16.to_be();

/// NSCOUNT of a negative answer, in network order.
pub(crate) const ONE_AUTHORITY: u16 = 1_u16.to_be();

/// The suffix of a name without a record, if the absence of the record proves that the name does
/// not exist. Otherwise the query passes.
#[inline(always)]
pub(crate) fn find_authoritative_suffix(query: &ParsedQuery<'_>) -> Result<MatchedSuffix, Outcome> {
    let suffix = find_suffix(query)?;
    let passes_type = suffix.passed_types & Suffix::type_bit(u16::from_be(query.rtype)) != 0;
    if suffix.action != Suffix::AUTHORITATIVE || passes_type {
        return Err(Outcome::PassSuffix);
    }
    if is_meta_type(query.rtype) {
        return Err(Outcome::MetaType);
    }
    Ok(suffix)
}

/// The suffix in the settings with which a name ends.
pub(crate) struct MatchedSuffix {
    /// Its length in bytes, root label included.
    pub(crate) length: usize,
    /// The position in the settings of the zone whose SOA record goes into negative answers.
    pub(crate) zone: u16,
    /// What the absence of a record proves: one of the constants of [`Suffix`].
    action: u16,
    passed_types: u64,
}

/// The longest suffix in the settings with which the name ends: the first match, because the
/// settings hold longer suffixes first. The match may start inside a label, which [`check_labels`]
/// rejects.
#[inline(always)]
fn find_suffix(query: &ParsedQuery<'_>) -> Result<MatchedSuffix, Outcome> {
    let settings = query.settings;
    // Suffixes are compared backwards from the end of a window that ends with the name. Up to 74
    // bytes of headers precede the name, so the name ends before offset 0x1ff. The window of a name
    // of fewer than ten bytes would start before an IPv4 packet, so such a name passes.
    let name_end = query.layer4 + TO_NAME + query.name_length;
    if !(MAX_SUFFIX_LENGTH..=0x1ff).contains(&name_end) {
        return Err(Outcome::NotAuthoritative);
    }
    let window = add_masked::<0x1ff>(query.start, name_end - MAX_SUFFIX_LENGTH);
    // Never true, because the name lies in the packet. The check is for the verifier.
    if window + MAX_SUFFIX_LENGTH > query.end {
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
    let found = forget_byte(found, query.hash.0);
    if found >= MAX_SUFFIXES {
        return Err(Outcome::NotAuthoritative);
    }
    let suffix = element(&settings.suffixes, found);
    Ok(MatchedSuffix {
        length: suffix.length as usize,
        zone: suffix.zone,
        action: suffix.action,
        passed_types: suffix.passed_types,
    })
}

/// Whether the [`MAX_SUFFIX_LENGTH`] bytes at the address `window` end with the suffix. Letter case
/// is ignored.
#[inline(always)]
fn ends_with(window: usize, suffix: &Suffix) -> bool {
    let words = (suffix.length as usize).div_ceil(8);
    let mut back = 1;
    while back <= MAX_SUFFIX_LENGTH / 8 {
        let at = MAX_SUFFIX_LENGTH / 8 - back;
        // SAFETY: the window lies in the packet.
        let word: u64 = unsafe { load(window + 8 * at) };
        let mut difference = word ^ suffix.words[at];
        if difference != 0 {
            difference = names::lower_case(word) ^ suffix.words[at];
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

/// Checks the labels in the first `to` bytes of the question's name. The last one must end where
/// the suffix starts, at `to`.
///
/// Returns the length of the first label in bytes, its length byte included. 0 if `to` is 0.
#[inline(always)]
pub(crate) fn check_labels(query: &ParsedQuery<'_>, to: usize) -> Result<usize, Outcome> {
    let name = query.name();
    let mut at = 0;
    let mut first = 0;
    let mut label = 0;
    while label < MAX_LABELS {
        if at == to {
            return Ok(first);
        }
        let length_byte = add_masked::<NAME_MASK>(name, at);
        if length_byte + 1 > query.end {
            return Err(Outcome::NonstandardName);
        }
        // SAFETY: just checked.
        let length: u8 = unsafe { load(length_byte) };
        if length == 0 || length > 63 {
            return Err(Outcome::NonstandardName);
        }
        let next = at + length as usize + 1;
        if next > to {
            return Err(Outcome::NonstandardName);
        }
        at = forget_byte(next, query.hash.0);
        if label == 0 {
            first = at;
        }
        label += 1;
    }
    Err(Outcome::NonstandardName)
}

/// Whether the kernel program never answers queries for this type: OPT, QTYPEs, meta-types and the
/// reserved type 0 (RFC 6895 section 3.1).
#[inline(always)]
pub(crate) fn is_meta_type(rtype: u16) -> bool {
    let rtype = u16::from_be(rtype);
    rtype == 41 || rtype == 0 || (128..=255).contains(&rtype)
}

/// A negative answer: the SOA record of the zone in the authority section (RFC 2308). `outcome` is
/// [`Outcome::NoData`] or [`Outcome::NxDomain`].
#[inline(always)]
pub(crate) fn negative_answer(query: &ParsedQuery<'_>, zone: u16, outcome: Outcome) -> AnswerBody {
    let zone = element(&query.settings.zones, zone as usize);
    let pointer = ZoneSoa::pointer(zone.name_length, query.name_length as u32);
    let rcode = if outcome as u32 == Outcome::NxDomain as u32 {
        RCODE_NXDOMAIN
    } else {
        0
    };
    AnswerBody {
        outcome,
        rcode,
        counts: [0, ONE_AUTHORITY, 0],
        bytes: &raw const zone.soa as usize,
        length: SOA_LENGTH,
        // Two of the pointers start at even offsets, one at an odd one.
        sum: u64::from(zone.sum) + (u64::from(pointer) << 8) + 2 * u64::from(pointer),
        soa_pointer: pointer,
        address: 0,
    }
}
