//! Finding the answer: a record for the name, or the proof that there is none.

use core::mem::offset_of;

use dns_common::{
    Outcome,
    directory::{Bucket, WORDS, Word},
    names::{self, MAX_WORDS, MIN_NAME, NameHash},
    records::{self, ANSWERS, CHUNK, MAX_ANSWER, MAX_RECORD, MIN_ANSWER, REACH, Record},
    settings::{MAX_SUFFIXES, SOA_LEN, Zone},
};

use crate::{
    Tables, children,
    query::{NAME_MASK, Query},
    suffixes,
    verifier::{forget_octet, load, load_shared, offset},
};

/// RCODE 3 (RFC 1035 section 4.1.1) in the header's second 16 bits.
const NXDOMAIN: u16 = 3u16.to_be();

const ONE: u16 = 1u16.to_be();

/// What goes behind the question.
#[derive(Clone, Copy)]
pub struct Answer {
    /// [`Outcome::Data`], [`Outcome::NoData`] or [`Outcome::NxDomain`].
    pub outcome: Outcome,
    /// RCODE, in its place in the header's second 16 bits.
    pub rcode: u16,
    /// ANCOUNT, NSCOUNT and ARCOUNT (without the OPT), as they stand on the wire.
    pub counts: [u16; 3],
    /// The address of its octets.
    pub octets: usize,
    /// How many there are.
    pub length: usize,
    /// Their one's complement sum, pointers included.
    pub sum: u64,
    /// What to write over the SOA's pointers; 0: nothing, they are in their places.
    pub soa_pointer: u16,
    /// What to write over the last four octets; 0: nothing, which may be the address 0.0.0.0.
    pub address: u32,
}

/// A name in the packet that may have a record: the question's, or its parent.
pub(crate) struct Asked {
    /// The address of its first octet.
    pub(crate) at: usize,
    /// Octets, root included: [`MIN_NAME`] to [`names::MAX_NAME`].
    pub(crate) length: usize,
    /// Its hash.
    pub(crate) hash: NameHash,
}

/// A name that exists.
pub(crate) struct Existing {
    /// The address of the record that speaks for it.
    pub(crate) record: usize,
    /// The address of its answers, which lie in that record.
    pub(crate) answers: usize,
    /// What goes over the last four octets of an answer, as it stands on the wire; 0: nothing.
    pub(crate) address: u32,
}

/// Finds the answer to a query, or says why it passes.
#[inline(always)]
pub fn find<T: Tables>(query: &Query<'_>, tables: &T) -> Result<Answer, Outcome> {
    let asked = Asked {
        at: query.name(),
        length: query.name_length,
        hash: query.hash,
    };
    let existing = match find_record(&asked, query, tables)? {
        Some(record) => Existing {
            record,
            answers: record + offset_of!(Record, answers),
            address: 0,
        },
        None => {
            let suffix = suffixes::owned(query)?;
            let first_label = suffixes::walk(query, query.name_length - suffix.length)?;
            match children::find(query, first_label, tables)? {
                Some(child) => child,
                None => return Ok(soa(query, suffix.zone, Outcome::NxDomain)),
            }
        }
    };
    // SAFETY: `record` and what it reaches lie in a chunk, and a record that a
    // directory word names is not written to.
    let head = unsafe { &*(existing.record as *const Record) };
    if head.flags & Record::PASS != 0 {
        return Err(Outcome::PassMark);
    }

    let mut found = ANSWERS;
    let mut at = 0;
    while at < ANSWERS {
        // SAFETY: the type is an answer's first field; and as above.
        let rtype: u16 = unsafe { load(existing.answers + at * size_of::<records::Answer>()) };
        if rtype == query.rtype {
            found = at;
            break;
        }
        at += 1;
    }
    // One state for the verifier, whichever answer it is.
    let found = forget_octet(found, query.hash.0);
    if found >= ANSWERS {
        if is_meta(query.rtype) {
            return Err(Outcome::MetaType);
        }
        if head.flags & Record::OTHER_TYPES_PASS != 0
            || (head.flags & Record::ALIAS != 0 && !is_address(query.rtype))
        {
            return Err(Outcome::PassMark);
        }
        if head.zone == Record::NO_ZONE {
            return Err(Outcome::NotOwned);
        }
        return Ok(soa(query, head.zone, Outcome::NoData));
    }

    let answer = offset::<0x30>(existing.answers, found << 4);
    // SAFETY: one of the answers.
    let answer = unsafe { &*(answer as *const records::Answer) };
    let length = answer.length as usize;
    if !(MIN_ANSWER..=MAX_ANSWER).contains(&length) {
        return Err(Outcome::PassMark);
    }
    let first = rotation(query, answer.rotations);
    let start = answer.offset as usize + first * answer.stride as usize;
    if start > MAX_RECORD - MIN_ANSWER {
        return Err(Outcome::PassMark);
    }
    Ok(Answer {
        outcome: Outcome::Data,
        rcode: 0,
        counts: [answer.answers, 0, answer.additionals],
        octets: offset::<{ MAX_RECORD - 1 }>(existing.record, start),
        length,
        sum: u64::from(answer.sum) + u64::from(existing.address),
        soa_pointer: 0,
        address: existing.address,
    })
}

/// The address of a name's record, if it has one.
#[inline(always)]
pub(crate) fn find_record<T: Tables>(
    asked: &Asked,
    query: &Query<'_>,
    tables: &T,
) -> Result<Option<usize>, Outcome> {
    let word = find_word(asked.hash, query.settings.directory_mask, tables)?;
    if word.record() == 0 {
        return Ok(None);
    }
    let record = record(word, tables)?;
    if !is_named(record, asked, query.end) {
        // Another name with this one's tag, and its own record may stand behind it.
        return Err(Outcome::TagCollision);
    }
    Ok(Some(record))
}

/// Which of `n` records comes first.
///
/// Each of ID and port steps through the circle by a ratio that no small fraction
/// comes near, so counting clients get a fair share of each address as well as random ones.
#[inline(always)]
fn rotation(query: &Query<'_>, n: u16) -> usize {
    let key = query.settings.secret;
    let id = u64::from(u16::from_be(query.id));
    let port = u64::from(u16::from_be(query.ports as u16));
    let mixed = id
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(port.wrapping_mul(0x6a09_e667_f3bc_c909))
        .wrapping_add(key);
    (((mixed >> 48) * u64::from(n)) >> 16) as usize
}

/// The directory word for a hash; one without a record if there is none.
#[inline(always)]
fn find_word<T: Tables>(hash: NameHash, mask: u32, tables: &T) -> Result<Word, Outcome> {
    let first = tables.bucket(hash.bucket(mask)).ok_or(Outcome::NotReady)?;
    let found = find_in(first, hash.tag());
    // An empty last word says that no name had to go to its second bucket.
    if found.record() != 0 || found == Word::EMPTY {
        return Ok(found);
    }
    let second = tables
        .bucket(hash.second_bucket(mask))
        .ok_or(Outcome::NotReady)?;
    let found = find_in(second, hash.tag());
    if found.record() != 0 {
        return Ok(found);
    }
    Ok(Word::EMPTY)
}

/// The word with this tag; else the last word's emptiness: [`Word::EMPTY`] or
/// [`Word::OVERFLOWED`].
#[inline(always)]
fn find_in(bucket: *const Bucket, tag: u32) -> Word {
    let mut word = Word::EMPTY;
    let mut at = 0;
    while at < WORDS {
        // SAFETY: a map element, always there, its words are stored whole.
        word = Word(unsafe { load_shared(bucket as usize + 8 * at) });
        if word.tag() == tag && word.record() != 0 {
            return word;
        }
        at += 1;
    }
    if word == Word::EMPTY {
        return Word::EMPTY;
    }
    Word::OVERFLOWED
}

/// The address of the record that a word names; [`REACH`] octets from it can be read.
#[inline(always)]
fn record<T: Tables>(word: Word, tables: &T) -> Result<usize, Outcome> {
    let (chunk, at) = records::place(word.record());
    let chunk = tables.chunk(chunk).ok_or(Outcome::NotReady)?;
    let at = at as usize;
    if at > CHUNK - REACH {
        return Err(Outcome::NotReady);
    }
    Ok(offset::<{ CHUNK - 1 }>(chunk as usize, at))
}

/// Whether the record is the one for this name, letter case aside.
#[inline(always)]
fn is_named(record: usize, asked: &Asked, end: usize) -> bool {
    // SAFETY: as in `find`.
    let name_len = unsafe { (*(record as *const Record)).name_len };
    // What the verifier learns of a length while names are compared holds only for one of many ways
    // through it; it is not to learn it of the one that is used later.
    let length = forget_octet(asked.length, asked.hash.0);
    if name_len as usize != length {
        return false;
    }
    let stored = record + size_of::<Record>();
    let mut at = 0;
    while at < MAX_WORDS {
        // The last word reaches back into the one before it, so that it ends with the name.
        if 8 * at + 8 > length {
            break;
        }
        if asked.at + 8 * at + 8 > end {
            return false;
        }
        // SAFETY: just checked; and within the record's reach.
        if !same_word(unsafe { load(asked.at + 8 * at) }, unsafe {
            load(stored + 8 * at)
        }) {
            return false;
        }
        at += 1;
    }
    let last = length - MIN_NAME;
    let tail = offset::<NAME_MASK>(asked.at, last);
    if tail + 8 > end {
        return false;
    }
    // SAFETY: just checked; and within the record's reach.
    same_word(unsafe { load(tail) }, unsafe {
        load(offset::<NAME_MASK>(stored, last))
    })
}

/// Compares raw first: most clients ask in lower case.
#[inline(always)]
fn same_word(asked: u64, stored: u64) -> bool {
    asked == stored || names::lower(asked) == stored
}

/// RFC 6895 section 3.1: OPT, the QTYPEs and meta types, and the reserved 0.
#[inline(always)]
pub(crate) fn is_meta(rtype: u16) -> bool {
    let rtype = u16::from_be(rtype);
    rtype == 41 || rtype == 0 || (128..=255).contains(&rtype)
}

/// A and AAAA (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
#[inline(always)]
fn is_address(rtype: u16) -> bool {
    rtype == 1u16.to_be() || rtype == 28u16.to_be()
}

/// A negative answer: the zone's SOA record in the authority section (RFC 2308).
#[inline(always)]
fn soa(query: &Query<'_>, zone: u16, outcome: Outcome) -> Answer {
    let settings = query.settings;
    let zone = element(&settings.zones, zone as usize);
    let pointer = Zone::pointer(zone.name_len, query.name_length as u32);
    let rcode = if outcome as u32 == Outcome::NxDomain as u32 {
        NXDOMAIN
    } else {
        0
    };
    Answer {
        outcome,
        rcode,
        counts: [0, ONE, 0],
        octets: &raw const zone.soa as usize,
        length: SOA_LEN,
        // Two of the pointers start at even offsets, one at an odd one.
        sum: u64::from(zone.sum) + (u64::from(pointer) << 8) + 2 * u64::from(pointer),
        soa_pointer: pointer,
        address: 0,
    }
}

/// The element at a position, the position masked, not checked: see [`offset`].
#[inline(always)]
pub(crate) fn element<T>(array: &[T; MAX_SUFFIXES], at: usize) -> &T {
    let at = offset::<{ MAX_SUFFIXES - 1 }>(0, at) * size_of::<T>();
    // SAFETY: the mask leaves only positions inside the array.
    unsafe { &*((array.as_ptr() as usize + at) as *const T) }
}
