//! The directory: from a name's hash to its record.
//!
//! A bucket is one cache line of eight words; a name stands in one of two buckets. The
//! words are the only thing that readers and the writer touch at the same time:
//!
//! * A word is published by one 64-bit release store. A reader takes it by one 64-bit
//!   load and derives tag and record from that value, so it sees the record as it was
//!   when the word was stored.
//! * A word never moves inside its bucket, and its last word is empty only when no name
//!   had to go from this bucket to its second one: a miss may stop there.

use bytemuck::{Pod, Zeroable};

/// Words in a bucket: 64 octets, a cache line.
pub const WORDS: usize = 8;

/// One bucket.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Bucket {
    /// See [`Word`].
    pub words: [u64; WORDS],
}

/// What a directory word says: `tag << 32 | record`, 0 when empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// Nothing stands here.
    pub const EMPTY: Self = Self(0);

    /// Nothing stands here, but names that belong here stand in their second bucket.
    /// No record has number 0, so no name can match it.
    pub const OVERFLOWED: Self = Self(0xffff_ffff_0000_0000);

    /// The word for a record, by its number (never 0).
    #[inline(always)]
    #[must_use]
    pub const fn new(tag: u32, record: u32) -> Self {
        Self((tag as u64) << 32 | record as u64)
    }

    /// See [`crate::names::NameHash::tag`].
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The record's number; see [`crate::records::place`]. 0: none.
    #[inline(always)]
    #[must_use]
    pub const fn record(self) -> u32 {
        self.0 as u32
    }
}
