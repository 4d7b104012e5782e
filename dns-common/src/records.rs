//! A record: what the kernel needs to answer queries for one existing name.
//!
//! ```text
//!   0 ┌ name_length flags slot zone too_large hash
//!  16 │ three stored answers of 16 bytes
//!  64 ├ the name, padded with zeros to a multiple of eight bytes
//!     ├ with the flag COMPUTED_NAMES: the three stored answers of computed names
//!     ├ the bytes of the answers, each as it follows the question
//!     └ padding to a multiple of 64
//! ```
//!
//! *Computed names* are names one label below the record's name, without a record of their own: the
//! names of pods, and topology zones without endpoints. They can share their stored answers,
//! because the owner in an answer is a pointer to the name in the question. In an answer for a pod,
//! the kernel program fills in the IPv4 address.
//!
//! Records lie in *chunks*, the elements of a BPF array, at multiples of [`GRANULE`]. The number of
//! a record is the number of its first granule, counted over all chunks. Number 0 is never used.

use bytemuck::{Pod, Zeroable};

use crate::names::MAX_NAME;

/// Records start at multiples of this many bytes: one cache line.
pub const GRANULE: usize = 64;

/// Bytes in a chunk, the element of the BPF array of records.
pub const CHUNK: usize = 1 << 18;

/// Granules in a chunk.
pub const CHUNK_GRANULES: u32 = (CHUNK / GRANULE) as u32;

/// Bytes of the longest record.
pub const MAX_RECORD_LENGTH: usize = 4096;

/// Bytes from a record's start that the verifier lets the kernel program read: the start of an
/// answer, below [`MAX_RECORD_LENGTH`], plus an offset in the answer, below [`MAX_ANSWER_LENGTH`],
/// plus the 16 bytes that are read there. Every record starts at least this far before the end of
/// its chunk.
pub const REACH: usize = (MAX_RECORD_LENGTH + MAX_ANSWER_LENGTH + 16).next_multiple_of(GRANULE);

/// Bytes of the longest stored answer: all that follows the question, without OPT. A power of two,
/// like [`MAX_RECORD_LENGTH`], so that the kernel program can mask lengths and offsets.
pub const MAX_ANSWER_LENGTH: usize = 1024;

/// Bytes of the shortest answer that is stored: a resource record with a compressed owner and four
/// bytes of rdata. Queries with shorter answers pass.
pub const MIN_ANSWER_LENGTH: usize = 16;

/// The maximum number of stored answers of a name, and separately of the computed names below it.
/// The record of a name with more types has [`RecordHead::OTHER_TYPES_PASS`].
pub const ANSWERS: usize = 3;

/// The location of a record by its number: the chunk, and the offset in it in bytes.
#[inline(always)]
#[must_use]
pub const fn record_location(number: u32) -> (u32, u32) {
    (
        number / CHUNK_GRANULES,
        number % CHUNK_GRANULES * GRANULE as u32,
    )
}

/// The head of a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RecordHead {
    /// Bytes of the name, root label included.
    pub name_length: u16,
    /// Any of the flags below.
    pub flags: u8,
    /// The index of the size of the slot that holds the record. Only the agent uses it.
    pub slot: u8,
    /// Position in [`crate::Settings::zones`] of the zone whose SOA record goes into NODATA
    /// answers, or [`RecordHead::NO_ZONE`].
    pub zone: u16,
    /// The number of types with data whose answer is not in the record, so that their queries pass.
    /// Only the agent uses it.
    pub too_large: u16,
    /// The hash of the name. Only the agent uses it, to find the first bucket of a directory word.
    pub hash: u64,
    /// The stored answers, one for each type. Unused elements are zero.
    pub answers: [StoredAnswer; ANSWERS],
}

impl RecordHead {
    /// Every query for this name and for its computed names passes. The agent does not use
    /// this flag at present.
    pub const PASS: u8 = 1;
    /// Queries for types without a stored answer pass, for this name and for its computed names.
    pub const OTHER_TYPES_PASS: u8 = 2;
    /// Names without a record may exist one label below, so queries for such names pass.
    pub const BELOW_UNKNOWN: u8 = 4;
    /// Every name one label below exists, also without a record, unless
    /// [`RecordHead::COMPUTED_NAMES_ARE_ADDRESSES`] is set. The stored answers of names without a
    /// record are at [`RecordHead::computed_answers_at`].
    pub const COMPUTED_NAMES: u8 = 8;
    /// With [`RecordHead::COMPUTED_NAMES`]: names without a record exist only if their label is an
    /// address with dashes. The IPv4 address in the label replaces the last four bytes of the
    /// answer, which are stored as zeros. Queries for names whose label may be an IPv6 address
    /// pass.
    pub const COMPUTED_NAMES_ARE_ADDRESSES: u8 = 16;
    /// The name is an alias. Queries for types without a stored answer pass, except A and AAAA: if
    /// they are not stored, the target of the alias has none, which is NODATA.
    pub const ALIAS: u8 = 32;

    /// The name is in no zone of [`crate::Settings::zones`].
    pub const NO_ZONE: u16 = u16::MAX;

    /// Offset in bytes of the stored answers of computed names. In a record without
    /// [`RecordHead::COMPUTED_NAMES`] the bytes of the answers start here.
    #[must_use]
    pub const fn computed_answers_at(name_length: usize) -> usize {
        size_of::<Self>() + name_length.next_multiple_of(8)
    }
}

const _: () = assert!(size_of::<RecordHead>() == GRANULE);
const _: () = assert!(
    RecordHead::computed_answers_at(MAX_NAME)
        + ANSWERS * size_of::<StoredAnswer>()
        + MAX_ANSWER_LENGTH
        <= MAX_RECORD_LENGTH
);

/// Describes the answer for one type.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct StoredAnswer {
    /// The type, in network order. 0 if this answer is unused.
    pub rtype: u16,
    /// Bytes from the record's start to the answer.
    pub offset: u16,
    /// Bytes of the answer, [`MIN_ANSWER_LENGTH`] to [`MAX_ANSWER_LENGTH`]. 0 if queries for this
    /// type pass.
    pub length: u16,
    /// The number of positions at which the answer may start, each with another order of its
    /// addresses. 1 if there is only one order. An answer that consists of n address records is
    /// stored as 2n−1 records and may start at the first n. Any other answer with n addresses in
    /// its answer section is stored n times.
    pub rotations: u16,
    /// Bytes from one start position to the next. Even.
    pub stride: u16,
    /// ANCOUNT, in network order. If it is 0, the answer is NODATA, and consists of a SOA record in
    /// the authority section.
    pub answers: u16,
    /// ARCOUNT without the OPT, in network order.
    pub additionals: u16,
    /// The folded one's complement sum of the answer's bytes. It is the same for every start
    /// position, because the stride is even, and the addresses move by an even number of bytes.
    pub sum: u16,
}
