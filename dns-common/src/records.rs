//! Records: everything the kernel needs to answer for one existing name.
//!
//! ```text
//!   0 ┌ name_len flags slot zone too_large hash
//!  16 │ answers: three of 16 octets
//!  64 ├ name, filled up to a multiple of eight with zeros
//!     ├ with the flag CHILDREN: the children's answers, three of 16 octets
//!     ├ the answers' octets, each as it follows the question
//!     └ filled up to a multiple of 64
//! ```
//!
//! *Children* are names one label below that have no record of their own, and all have the same
//! answers: what those octets say does not depend on the child's name, which is the question's.
//!
//! Records lie in *chunks* (elements of a BPF array) at multiples of [`GRANULE`]; a
//! record's number is its granule's, counted over all chunks. Number 0 is never used.

use bytemuck::{Pod, Zeroable};

use crate::names::MAX_NAME;

/// Records start at multiples of this many octets: a cache line.
pub const GRANULE: usize = 64;

/// Octets in a chunk, the element of the BPF array that holds records.
pub const CHUNK: usize = 1 << 18;

/// Granules in a chunk.
pub const CHUNK_GRANULES: u32 = (CHUNK / GRANULE) as u32;

/// The longest record.
pub const MAX_RECORD: usize = 4096;

/// How far the kernel may look from a record's start, as its verifier bounds it: an offset
/// below [`MAX_RECORD`], behind it a length below [`MAX_ANSWER`], and there 16 octets. No record
/// starts nearer than this to the end of its chunk.
pub const REACH: usize = (MAX_RECORD + MAX_ANSWER + 16).next_multiple_of(GRANULE);

/// The longest answer, in octets behind the question, without OPT. A power of two, as
/// [`MAX_RECORD`], so that the kernel can mask lengths and offsets.
pub const MAX_ANSWER: usize = 1024;

/// The shortest answer: any resource record with a compressed owner and four octets of data.
pub const MIN_ANSWER: usize = 16;

/// Answers of a name that the record can hold; further types get
/// [`Record::OTHER_TYPES_PASS`].
pub const ANSWERS: usize = 3;

/// Where a record's number leads: the chunk, and the octet in it.
#[inline(always)]
#[must_use]
pub const fn place(number: u32) -> (u32, u32) {
    (
        number / CHUNK_GRANULES,
        number % CHUNK_GRANULES * GRANULE as u32,
    )
}

/// The head of a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Record {
    /// Octets of the name, root included.
    pub name_len: u16,
    /// See the constants below.
    pub flags: u8,
    /// The size of the slot that the record lies in; only the writer knows what it means.
    pub slot: u8,
    /// Position in [`crate::Settings::zones`] of the zone whose SOA goes with NODATA, or
    /// [`Record::NO_ZONE`].
    pub zone: u16,
    /// Answers that found no room here; only the writer counts them.
    pub too_large: u16,
    /// The name's hash, so that the writer need not work it out again.
    pub hash: u64,
    /// By type; unused ones are zero.
    pub answers: [Answer; ANSWERS],
}

impl Record {
    /// The agent must answer every question for this name.
    pub const PASS: u8 = 1;
    /// The agent must answer for the types that are not in [`Record::answers`].
    pub const OTHER_TYPES_PASS: u8 = 2;
    /// Names exist below this one that have no record.
    pub const BELOW_UNKNOWN: u8 = 4;
    /// Every name one label below exists; what children without a record have stands behind the
    /// name ([`Record::children_at`]).
    pub const CHILDREN: u8 = 8;
    /// With [`Record::CHILDREN`]: only those exist that are an address with dashes. An IPv4 address
    /// replaces the last four octets of the answer, which are zero; what could be an IPv6 address
    /// is the agent's to answer.
    pub const CHILDREN_ARE_ADDRESSES: u8 = 16;
    /// The name is an alias: the agent must answer for the types that are not in
    /// [`Record::answers`], except A and AAAA, of which there are none at the alias's end.
    pub const ALIAS: u8 = 32;

    /// The name lies in no zone of ours.
    pub const NO_ZONE: u16 = u16::MAX;

    /// Where the children's answers are, if there are any; else where the answers' octets start.
    #[must_use]
    pub const fn children_at(name_len: usize) -> usize {
        size_of::<Self>() + name_len.next_multiple_of(8)
    }
}

const _: () = assert!(size_of::<Record>() == GRANULE);
const _: () = assert!(
    Record::children_at(MAX_NAME) + ANSWERS * size_of::<Answer>() + MAX_ANSWER <= MAX_RECORD
);

/// The answer for one type.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Answer {
    /// The type, as it stands on the wire. 0: none here.
    pub rtype: u16,
    /// Octets from the record's start to the answer's.
    pub offset: u16,
    /// Octets of the answer, [`MIN_ANSWER`] to [`MAX_ANSWER`]; 0: the agent must answer this type.
    pub length: u16,
    /// From how many places the answer may start, each giving another order of its addresses. An
    /// answer that is n addresses and nothing else is stored as 2n−1 records and may start at the
    /// first n; any other with n addresses is stored n times. 1 when there is one order.
    pub rotations: u16,
    /// Octets from one such place to the next; even.
    pub stride: u16,
    /// ANCOUNT, as it stands on the wire.
    pub answers: u16,
    /// ARCOUNT without the OPT, as it stands on the wire.
    pub additionals: u16,
    /// The folded one's complement sum of the answer's octets. It does not change with the rotation,
    /// since a stride is even.
    pub sum: u16,
}
