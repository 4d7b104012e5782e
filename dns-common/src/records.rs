//! Records: everything the kernel needs to answer for one existing name.
//!
//! ```text
//!   0 ┌ name_len flags slot zone hash
//!  16 │ answers: three of 16 octets
//!  64 ├ name, filled up to a multiple of eight with zeros
//!     ├ the answers' octets, each as it follows the question
//!     └ filled up to a multiple of 64
//! ```
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
    /// Fills up to a multiple of eight.
    pub reserved: u16,
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

    /// The name lies in no zone of ours.
    pub const NO_ZONE: u16 = u16::MAX;

    /// Where the answers' octets start.
    #[must_use]
    pub const fn answers_at(name_len: usize) -> usize {
        size_of::<Self>() + name_len.next_multiple_of(8)
    }
}

const _: () = assert!(size_of::<Record>() == GRANULE);
const _: () = assert!(Record::answers_at(MAX_NAME) + MAX_ANSWER <= MAX_RECORD);

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
    /// n when the answer is n records of one length in any order: then 2n−1 of them are
    /// stored, and the answer may start at any of the first n. Else 1.
    pub rotations: u16,
    /// Octets from one such record to the next.
    pub stride: u16,
    /// ANCOUNT, as it stands on the wire.
    pub answers: u16,
    /// ARCOUNT without the OPT, as it stands on the wire.
    pub additionals: u16,
    /// The folded one's complement sum of the answer's octets. It does not change with the rotation,
    /// since a stride is even.
    pub sum: u16,
}
