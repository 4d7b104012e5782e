//! Finding the answer to a query: the data of a record, or a negative answer.

use core::mem::offset_of;

use dns_common::{
    Outcome,
    records::{
        ANSWERS, MAX_ANSWER_LENGTH, MAX_RECORD_LENGTH, MIN_ANSWER_LENGTH, RecordHead, StoredAnswer,
    },
};

use crate::{
    Tables, authority, computed,
    query::ParsedQuery,
    records::{NameInPacket, find_record},
    verifier::{forget_byte, load, offset},
};

/// What the reply holds after the question, without OPT.
#[derive(Clone, Copy)]
pub struct AnswerBody {
    /// [`Outcome::Data`], [`Outcome::NoData`] or [`Outcome::NxDomain`].
    pub outcome: Outcome,
    /// The RCODE, in its place in the flags of the DNS header.
    pub rcode: u16,
    /// ANCOUNT, NSCOUNT and ARCOUNT without the OPT, in network order.
    pub counts: [u16; 3],
    /// The address of the answer's bytes.
    pub bytes: usize,
    /// The number of bytes.
    pub length: usize,
    /// The one's complement sum of the bytes, including `soa_pointer` and `address`.
    pub sum: u64,
    /// The value for the compression pointers of the SOA record. 0 if the bytes hold their
    /// pointers.
    pub soa_pointer: u16,
    /// The value for the last four bytes, in network order. 0 if they stay as they are: the address
    /// 0.0.0.0 is stored as four zeros.
    pub address: u32,
}

/// A name that exists: it has a record, or is a computed name below one.
pub(crate) struct ExistingName {
    /// The address of the record.
    pub(crate) record: usize,
    /// The address of the name's stored answers, which are part of the record.
    pub(crate) answers: usize,
    /// The value for the last four bytes of an answer, in network order. 0 if they stay as they
    /// are.
    pub(crate) address: u32,
}

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
    // SAFETY: `record` and the bytes in its reach lie in a chunk, and the agent does not write to a
    // record while a directory word names it.
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
    // One state of the verifier stands for all stored answers.
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

    let stored = offset::<0x30>(existing.answers, found << 4);
    // SAFETY: one of the stored answers.
    let stored = unsafe { &*(stored as *const StoredAnswer) };
    let length = stored.length as usize;
    if !(MIN_ANSWER_LENGTH..=MAX_ANSWER_LENGTH).contains(&length) {
        return Err(Outcome::PassMark);
    }
    let first = choose_rotation(query, stored.rotations);
    let start = stored.offset as usize + first * stored.stride as usize;
    if start > MAX_RECORD_LENGTH - MIN_ANSWER_LENGTH {
        return Err(Outcome::PassMark);
    }
    Ok(AnswerBody {
        outcome: Outcome::Data,
        rcode: 0,
        counts: [stored.answers, 0, stored.additionals],
        bytes: offset::<{ MAX_RECORD_LENGTH - 1 }>(existing.record, start),
        length,
        sum: u64::from(stored.sum) + u64::from(existing.address),
        soa_pointer: 0,
        address: existing.address,
    })
}

/// Chooses one of `rotations` start positions by the query's ID and source port.
///
/// The factors of ID and port are fractions of 2⁶⁴ that are far from every ratio of small numbers.
/// So clients that count up their IDs or ports get each address equally often, as random ones do.
#[inline(always)]
fn choose_rotation(query: &ParsedQuery<'_>, rotations: u16) -> usize {
    let key = query.settings.secret;
    let id = u64::from(u16::from_be(query.id));
    let port = u64::from(u16::from_be(query.ports as u16));
    let mixed = id
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(port.wrapping_mul(0x6a09_e667_f3bc_c909))
        .wrapping_add(key);
    (((mixed >> 48) * u64::from(rotations)) >> 16) as usize
}

/// Whether a type is A or AAAA (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
#[inline(always)]
fn is_address_type(rtype: u16) -> bool {
    rtype == 1_u16.to_be() || rtype == 28_u16.to_be()
}
