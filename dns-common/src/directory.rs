//! The directory: from a name's hash to the number of its record.
//!
//! A bucket is one cache line of eight words. A name's word stands in one of two buckets. The
//! kernel program may load a word while the agent stores it, so two rules hold:
//!
//! * The agent publishes a word by one 64-bit release store. The kernel program loads the word once
//!   and takes the tag and the address of the record from that value. So it sees the whole record
//!   that the agent wrote before it stored the word.
//! * A word never moves inside its bucket. While a name's word stands in its second bucket, the
//!   last word of its first bucket is not empty. So look-ups may stop at an empty last word.

use bytemuck::{Pod, Zeroable};

/// Words in a bucket: 64 bytes, one cache line.
pub const WORDS: usize = 8;

/// A bucket: one cache line of directory words.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Bucket {
    /// The words. Each is the value of a [`DirectoryWord`].
    pub words: [u64; WORDS],
}

/// A word of the directory: `tag << 32 | record`, or 0 if empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryWord(pub u64);

impl DirectoryWord {
    /// An unused word.
    pub const EMPTY: Self = Self(0);

    /// An unused last word of a bucket, if names of this bucket stand in their second bucket. It is
    /// not [`Self::EMPTY`], so look-ups continue in the second bucket. Its record number is 0, so
    /// it matches no name.
    pub const OVERFLOWED: Self = Self(0xffff_ffff_0000_0000);

    /// The word of a name with this tag. `record` is the number of the name's record, never 0.
    #[inline(always)]
    #[must_use]
    pub const fn new(tag: u32, record: u32) -> Self {
        Self((tag as u64) << 32 | record as u64)
    }

    /// The tag of the name: [`crate::names::NameHash::tag`].
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The number of the record ([`crate::records::record_location`]), or 0 if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn record(self) -> u32 {
        self.0 as u32
    }
}
