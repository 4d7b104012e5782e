//! Finding the record of a name. `dns_common::records` describes the layout.

use dns_common::{
    Outcome,
    directory::{Bucket, DirectoryWord, WORDS},
    names::{self, MAX_WORDS, MIN_NAME, NameHash},
    records::{self, CHUNK, REACH, RecordHead},
};

use crate::{
    Tables,
    query::{NAME_MASK, ParsedQuery},
    verifier::{add_masked, forget_byte, load, load_shared},
};

/// A name in the packet that may have a record: the question's name or its parent.
pub(crate) struct NameInPacket {
    /// The address of its first byte.
    pub(crate) at: usize,
    /// Its length in bytes, root label included: [`MIN_NAME`] to 255.
    pub(crate) length: usize,
    /// Its hash.
    pub(crate) hash: NameHash,
}

/// A name that exists: it has a record, or is a computed name below one.
pub(crate) struct ExistingName {
    /// The address of the record.
    pub(crate) record: usize,
    /// The address of the name's stored answers, which are part of the record.
    pub(crate) answers: usize,
    /// The IPv4 address for the last four bytes of an answer, in network order. 0 if these bytes
    /// stay as they are.
    pub(crate) address: u32,
}

/// The address of the name's record, from which [`REACH`] bytes can be read. `None` if it has no
/// record.
#[inline(always)]
pub(crate) fn find_record<T: Tables>(
    name: &NameInPacket,
    query: &ParsedQuery<'_>,
    tables: &T,
) -> Result<Option<usize>, Outcome> {
    let word = find_word(name.hash, query.settings.directory_mask, tables)?;
    if word.record() == 0 {
        return Ok(None);
    }
    let record = record_address(word, tables)?;
    if !has_name(record, name, query.end) {
        // The record belongs to another name with the same tag. A later word may lead to this
        // name's record.
        return Err(Outcome::TagCollision);
    }
    Ok(Some(record))
}

/// The first directory word with this hash's tag in the two buckets. Its record number is 0 if
/// there is none.
#[inline(always)]
fn find_word<T: Tables>(hash: NameHash, mask: u32, tables: &T) -> Result<DirectoryWord, Outcome> {
    let first = tables.bucket(hash.bucket(mask)).ok_or(Outcome::NotReady)?;
    let found = find_in_bucket(first, hash.tag());
    // If the last word is empty, no name of this bucket stands in its second bucket.
    if found.record() != 0 || found == DirectoryWord::EMPTY {
        return Ok(found);
    }
    let second = tables
        .bucket(hash.second_bucket(mask))
        .ok_or(Outcome::NotReady)?;
    let found = find_in_bucket(second, hash.tag());
    if found.record() != 0 {
        return Ok(found);
    }
    Ok(DirectoryWord::EMPTY)
}

/// The first word with this tag. Without one, [`DirectoryWord::EMPTY`] if the last word is empty,
/// else [`DirectoryWord::OVERFLOWED`].
#[inline(always)]
fn find_in_bucket(bucket: *const Bucket, tag: u32) -> DirectoryWord {
    let mut word = DirectoryWord::EMPTY;
    let mut at = 0;
    while at < WORDS {
        // SAFETY: map elements are never freed while the program runs, and words are stored whole.
        word = DirectoryWord(unsafe { load_shared(bucket as usize + 8 * at) });
        if word.tag() == tag && word.record() != 0 {
            return word;
        }
        at += 1;
    }
    if word == DirectoryWord::EMPTY {
        return DirectoryWord::EMPTY;
    }
    DirectoryWord::OVERFLOWED
}

/// The address of a word's record. [`REACH`] bytes from it can be read.
#[inline(always)]
fn record_address<T: Tables>(word: DirectoryWord, tables: &T) -> Result<usize, Outcome> {
    let (chunk, at) = records::record_location(word.record());
    let chunk = tables.chunk(chunk).ok_or(Outcome::NotReady)?;
    let at = at as usize;
    // Never true, because every record starts at least `REACH` before the end of its chunk. The
    // check is for the verifier.
    if at > CHUNK - REACH {
        return Err(Outcome::NotReady);
    }
    Ok(add_masked::<{ CHUNK - 1 }>(chunk as usize, at))
}

/// Whether the record at the address `record` is this name's. Letter case is ignored.
#[inline(always)]
fn has_name(record: usize, name: &NameInPacket, end: usize) -> bool {
    // SAFETY: `record` and the bytes in its reach lie in a chunk, and the agent does not write to a
    // record while a directory word names it, nor in the grace period after that.
    let stored_length = unsafe { (*(record as *const RecordHead)).name_length };
    // The comparison uses a copy of the length. The verifier learns a bound for it on each path,
    // and must not apply these bounds to `name.length`, which is used after the paths have joined.
    let length = forget_byte(name.length, name.hash.0);
    if stored_length as usize != length {
        return false;
    }
    let stored = record + size_of::<RecordHead>();
    let mut at = 0;
    while at < MAX_WORDS {
        // The last word is compared below. It ends with the name and overlaps the word before it.
        if 8 * at + 8 > length {
            break;
        }
        if name.at + 8 * at + 8 > end {
            return false;
        }
        // SAFETY: just checked; and within the record's reach.
        if !is_same_word(unsafe { load(name.at + 8 * at) }, unsafe {
            load(stored + 8 * at)
        }) {
            return false;
        }
        at += 1;
    }
    let last = length - MIN_NAME;
    let tail = add_masked::<NAME_MASK>(name.at, last);
    if tail + 8 > end {
        return false;
    }
    // SAFETY: just checked; and within the record's reach.
    is_same_word(unsafe { load(tail) }, unsafe {
        load(add_masked::<NAME_MASK>(stored, last))
    })
}

/// Whether two words are equal without regard to letter case. Most clients send names in lower
/// case, so the words are compared unchanged first.
#[inline(always)]
fn is_same_word(in_packet: u64, stored: u64) -> bool {
    in_packet == stored || names::lower_case(in_packet) == stored
}
