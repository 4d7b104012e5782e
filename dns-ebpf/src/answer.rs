//! Finding the answer to a query: stored data, or a negative answer.

use core::mem::offset_of;

use dns_common::{
    Outcome,
    records::{
        ANSWERS, MAX_ANSWER_LENGTH, MAX_RECORD_LENGTH, MIN_ANSWER_LENGTH, RecordHead, StoredAnswer,
    },
};

use crate::{
    Tables, authority,
    authority::ONE_AUTHORITY,
    computed,
    query::ParsedQuery,
    records::{ExistingName, NameInPacket, find_record},
    reply::AnswerBody,
    verifier::{add_masked, forget_byte, load},
};

/// Finds the answer to a query.
#[inline(always)]
pub fn find<T: Tables>(query: &ParsedQuery<'_>, tables: &T) -> Result<AnswerBody, Outcome> {
    let name = NameInPacket {
        at: query.name(),
        length: query.name_length,
        hash: query.hash,
    };
    let existing = match find_record(&name, query, tables)? {
        Some(record) => ExistingName {
            record,
            answers: record + offset_of!(RecordHead, answers),
            address: 0,
        },
        None => {
            let suffix = authority::find_authoritative_suffix(query)?;
            let first_label = authority::check_labels(query, query.name_length - suffix.length)?;
            match computed::find(query, first_label, tables)? {
                Some(computed) => computed,
                None => {
                    return Ok(authority::negative_answer(
                        query,
                        suffix.zone,
                        Outcome::NxDomain,
                    ));
                }
            }
        }
    };
    // For a computed name this is its parent's record. The name is in the parent's zone, and the
    // flags that are read here can only make its queries pass.
    // SAFETY: `record` and the bytes in its reach lie in a chunk, and the agent does not write to a
    // record while a directory word names it, nor in the grace period after that.
    let head = unsafe { &*(existing.record as *const RecordHead) };
    if head.flags & RecordHead::PASS != 0 {
        return Err(Outcome::PassMark);
    }

    let mut found = ANSWERS;
    let mut at = 0;
    while at < ANSWERS {
        // SAFETY: the type is the first field of a stored answer; and as above.
        let rtype: u16 = unsafe { load(existing.answers + at * size_of::<StoredAnswer>()) };
        if rtype == query.rtype {
            found = at;
            break;
        }
        at += 1;
    }
    // From here on, one verifier state stands for all stored answers.
    let found = forget_byte(found, query.hash.0);
    if found >= ANSWERS {
        if authority::is_meta_type(query.rtype) {
            return Err(Outcome::MetaType);
        }
        if head.flags & RecordHead::OTHER_TYPES_PASS != 0
            || (head.flags & RecordHead::ALIAS != 0 && !is_address_type(query.rtype))
        {
            return Err(Outcome::PassMark);
        }
        if head.zone == RecordHead::NO_ZONE {
            return Err(Outcome::NotAuthoritative);
        }
        return Ok(authority::negative_answer(
            query,
            head.zone,
            Outcome::NoData,
        ));
    }

    // Stored answers have 16 bytes, so their offsets are 0, 0x10 and 0x20.
    let stored = add_masked::<0x30>(existing.answers, found << 4);
    // SAFETY: one of the stored answers.
    let stored = unsafe { &*(stored as *const StoredAnswer) };
    // The length is 0 if queries for this type pass, and in unused elements, which a query for the
    // type 0 finds.
    let length = stored.length as usize;
    if !(MIN_ANSWER_LENGTH..=MAX_ANSWER_LENGTH).contains(&length) {
        return Err(Outcome::PassMark);
    }
    let first = choose_rotation(query, stored.rotations);
    let start = stored.offset as usize + first * stored.stride as usize;
    // Answers lie inside their record, so this is never true. If a record were wrong, the mask
    // below would silently move `start`, so the query passes.
    if start > MAX_RECORD_LENGTH - MIN_ANSWER_LENGTH {
        return Err(Outcome::PassMark);
    }
    let (outcome, authorities) = match stored.answers {
        0 => (Outcome::NoData, ONE_AUTHORITY),
        _ => (Outcome::Data, 0),
    };
    Ok(AnswerBody {
        outcome,
        rcode: 0,
        counts: [stored.answers, authorities, stored.additionals],
        bytes: add_masked::<{ MAX_RECORD_LENGTH - 1 }>(existing.record, start),
        length,
        sum: u64::from(stored.sum) + u64::from(existing.address),
        soa_pointer: 0,
        address: existing.address,
    })
}

/// Chooses one of `rotations` start positions by the secret and the query's ID and source port.
///
/// The factors of ID and port are the fractional parts of the golden ratio and of √2, times 2⁶⁴.
/// Multiples of such numbers spread evenly. So all addresses come first about equally often, even
/// if a client counts up its IDs or ports.
#[inline(always)]
fn choose_rotation(query: &ParsedQuery<'_>, rotations: u16) -> usize {
    let secret = query.settings.secret;
    let id = u64::from(u16::from_be(query.id));
    // The source port is the lower half of the ports.
    let port = u64::from(u16::from_be(query.ports as u16));
    let mixed = id
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(port.wrapping_mul(0x6a09_e667_f3bc_c909))
        .wrapping_add(secret);
    (((mixed >> 48) * u64::from(rotations)) >> 16) as usize
}

/// Whether a type is A or AAAA (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
#[inline(always)]
fn is_address_type(rtype: u16) -> bool {
    rtype == 1_u16.to_be() || rtype == 28_u16.to_be()
}
