//! The publisher's side of the hash table: directory and records.
//!
//! The publisher changes the table in *rounds*. A full round puts every name that exists, and its
//! sweep removes the others. A partial round puts and removes only some names.
//!
//! Readers take no lock, so the order of stores matters. A record is complete before the directory
//! word that refers to it is stored. A slot is written again only after a grace period has passed
//! since the last word that referred to it was overwritten.

use std::sync::atomic::{AtomicU64, Ordering};

use dns_common::{
    directory::{DirectoryWord, WORDS},
    names::{HashKey, NameHash, hash, other_bucket},
    records::{CHUNK, GRANULE, RecordHead},
};

use super::{
    grace::Grace,
    memory::Memory,
    slots::{Slot, SlotAllocator},
};

/// Bytes of a bucket.
const BUCKET_BYTES: usize = WORDS * 8;
/// The number of 64-bit words in a record's head.
const HEAD_WORDS: usize = size_of::<RecordHead>() / 8;
/// The last word of a bucket. It is never empty while a name of the bucket is in its second bucket:
/// a look-up that finds it empty does not read the second bucket.
const LAST_WORD: usize = WORDS - 1;
/// The largest number of words moved in a round. Each move costs a grace period of some
/// milliseconds. More than a few moves are needed only in a directory with more names than it was
/// sized for.
const MAX_MOVES_PER_ROUND: u32 = 64;
/// The number of retired slots after which the table waits for a grace period, to free them
/// together. So a round waits about once for this many replaced records, unless slots run out.
const RETIRED_BATCH: usize = 4096;

/// The hash table of names, with its single writer.
pub struct HashTable<G> {
    directory: Memory,
    records: Memory,
    key: HashKey,
    /// The number of buckets, minus 1.
    mask: u32,
    slots: SlotAllocator,
    /// For each bucket, the number of its names that are in their second bucket.
    overflowed: Vec<u32>,
    /// Slots that no directory word refers to. Readers may still read them.
    retired: Vec<Slot>,
    /// A bit for each directory word: whether its name was put since
    /// [`HashTable::begin_full_round`].
    kept: Vec<u64>,
    /// The number of names in the table.
    names: usize,
    /// The number of names with answers that don't fit into their records.
    too_large: usize,
    /// The number of words that may still be moved in this round.
    moves_left: u32,
    grace: G,
}

/// The result of a successful [`HashTable::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The name had the same record, byte by byte.
    Unchanged,
    /// The name had another record.
    Replaced,
    /// The name is new.
    Inserted,
}

/// Why there is no room for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFull {
    /// No slot for the record is free.
    Records,
    /// Both buckets of the name are full, and no name can move out of them: the other buckets of
    /// their names are full too, or this round has reached its limit of moves.
    Directory,
}

/// The usage of directory and records. The field names in JSON are part of the `/status` endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TableUsage {
    /// The number of names in the directory.
    pub names: usize,
    /// The number of names with answers that don't fit into their records. Queries for these
    /// answers pass.
    pub names_too_large: usize,
    /// The number of words in the directory, used or free.
    pub words: usize,
    /// Bytes in allocated slots.
    #[serde(rename = "record_octets")]
    pub record_bytes: usize,
    /// Bytes of record space.
    #[serde(rename = "record_octets_capacity")]
    pub record_bytes_capacity: usize,
    /// Bytes of shared memory of directory and records.
    #[serde(rename = "memory_octets")]
    pub memory_bytes: usize,
}

/// A directory word and its place.
#[derive(Clone, Copy)]
struct DirectoryEntry {
    bucket: u32,
    /// The position in the bucket.
    at: usize,
    word: DirectoryWord,
}

impl<G: Grace> HashTable<G> {
    /// An empty table over zeroed memory. The number of buckets in `directory` must be a power of
    /// two. `records` must consist of whole chunks.
    #[must_use]
    pub fn new(directory: Memory, records: Memory, key: HashKey, grace: G) -> Self {
        let buckets = directory.bytes() / BUCKET_BYTES;
        assert!(
            buckets.is_power_of_two(),
            "the directory has {buckets} buckets, not a power of two"
        );
        Self {
            mask: buckets as u32 - 1,
            slots: SlotAllocator::new((records.bytes() / CHUNK) as u32),
            overflowed: vec![0; buckets],
            retired: Vec::new(),
            kept: vec![0; (buckets * WORDS).div_ceil(64)],
            names: 0,
            too_large: 0,
            moves_left: MAX_MOVES_PER_ROUND,
            directory,
            records,
            key,
            grace,
        }
    }

    /// Buckets in the directory, minus 1.
    #[must_use]
    pub fn directory_mask(&self) -> u32 {
        self.mask
    }

    /// The memory of the directory, and that of the records.
    pub(super) fn memory(&self) -> [&Memory; 2] {
        [&self.directory, &self.records]
    }

    /// The table's usage.
    #[must_use]
    pub fn usage(&self) -> TableUsage {
        let (used, capacity) = self.slots.usage();
        TableUsage {
            names: self.names,
            names_too_large: self.too_large,
            words: self.directory.bytes() / 8,
            record_bytes: used,
            record_bytes_capacity: capacity,
            memory_bytes: self.directory.bytes() + self.records.bytes(),
        }
    }

    /// Waits for a grace period, then frees the retired slots.
    pub fn wait_for_readers(&mut self) {
        self.grace.wait();
        for slot in self.retired.drain(..) {
            self.slots.free_slot(slot);
        }
    }

    /// Starts a full round. The [`sweep`](Self::sweep) at its end removes all names that have not
    /// been [`put`](Self::put) since.
    pub fn begin_full_round(&mut self) {
        self.begin_partial_round();
        self.kept.fill(0);
    }

    /// Starts a partial round, which has no sweep.
    pub fn begin_partial_round(&mut self) {
        self.moves_left = MAX_MOVES_PER_ROUND;
    }

    /// Removes all names that were not put since [`begin_full_round`](Self::begin_full_round).
    /// Returns their number.
    pub fn sweep(&mut self) -> usize {
        let mut removed = 0;
        for position in 0..self.directory.words().len() {
            if self.kept[position / 64] & 1 << (position % 64) != 0 {
                continue;
            }
            let (bucket, at) = ((position / WORDS) as u32, position % WORDS);
            let word = self.word(bucket, at);
            if word.record() != 0 {
                self.remove_entry(DirectoryEntry { bucket, at, word });
                removed += 1;
            }
        }
        removed
    }

    /// Publishes a record. `record` has the layout of [`dns_common::records`], padded to whole
    /// words, and contains the name, which has at most [`MAX_NAME`](dns_common::names::MAX_NAME)
    /// bytes. This function sets the fields `hash` and `slot` of the head of a record that it
    /// writes.
    ///
    /// # Errors
    ///
    /// When there is no room. Then the table has not changed, and the name keeps its old record.
    pub fn put(&mut self, record: &mut [u8]) -> Result<PutOutcome, TableFull> {
        let name_length = usize::from(head(record).name_length);
        let name = &record[size_of::<RecordHead>()..][..name_length];
        let Some(hash) = hash(name, &self.key) else {
            // Not reached: only a name of more than `MAX_NAME` bytes has no hash.
            return Err(TableFull::Directory);
        };
        let found = self.find(name, hash);
        if let Some(found) = found
            && self.is_same(found, record, hash)
        {
            self.mark_kept(found);
            return Ok(PutOutcome::Unchanged);
        }

        let slot = self.take_slot(record.len())?;
        self.write_record(slot, record, hash);
        let word = DirectoryWord::new(hash.tag(), slot.number);
        let too_large = usize::from(head(record).too_large > 0);
        if let Some(found) = found {
            self.store_word(found.bucket, found.at, word);
            self.too_large -= self.too_large_count(found.word);
            self.too_large += too_large;
            self.retire_slot(found.word);
            self.mark_kept(found);
            return Ok(PutOutcome::Replaced);
        }
        let Some((bucket, at)) = self.make_room(hash) else {
            self.slots.free_slot(slot);
            return Err(TableFull::Directory);
        };
        self.store_word(bucket, at, word);
        if bucket != hash.bucket(self.mask) {
            self.overflowed[hash.bucket(self.mask) as usize] += 1;
        }
        self.names += 1;
        self.too_large += too_large;
        self.mark_kept(DirectoryEntry { bucket, at, word });
        Ok(PutOutcome::Inserted)
    }

    /// Whether a name has a record, and names without records may exist below it.
    #[must_use]
    pub fn has_computed_names(&self, name: &[u8]) -> bool {
        let Some(found) = hash(name, &self.key).and_then(|hash| self.find(name, hash)) else {
            return false;
        };
        let flags = self.read_head(found.word.record()).flags;
        flags & (RecordHead::BELOW_UNKNOWN | RecordHead::COMPUTED_NAMES) != 0
    }

    /// Removes a name. Returns whether it was present.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let Some(found) = hash(name, &self.key).and_then(|hash| self.find(name, hash)) else {
            return false;
        };
        self.remove_entry(found);
        true
    }

    fn take_slot(&mut self, bytes: usize) -> Result<Slot, TableFull> {
        if self.retired.len() >= RETIRED_BATCH {
            self.wait_for_readers();
        }
        if let Some(slot) = self.slots.allocate(bytes) {
            return Ok(slot);
        }
        if !self.retired.is_empty() {
            self.wait_for_readers();
        }
        self.slots.allocate(bytes).ok_or(TableFull::Records)
    }

    /// Finds a place for the word of a name with this hash. If both buckets are full, another
    /// name's word is copied to its other bucket; the place then still holds the old word, which
    /// the caller overwrites. `None` when no name can be moved, or the round has no moves left.
    fn make_room(&mut self, hash: NameHash) -> Option<(u32, usize)> {
        let buckets = [hash.bucket(self.mask), hash.second_bucket(self.mask)];
        for bucket in buckets {
            if let Some(at) = self.free_word(bucket) {
                return Some((bucket, at));
            }
        }
        if self.moves_left == 0 {
            return None;
        }
        for bucket in buckets {
            for at in 0..WORDS {
                let word = self.word(bucket, at);
                let other = other_bucket(bucket, word.tag(), self.mask);
                if other == bucket || word.record() == 0 {
                    continue;
                }
                let Some(free) = self.free_word(other) else {
                    continue;
                };
                self.moves_left -= 1;
                self.move_word(DirectoryEntry { bucket, at, word }, (other, free));
                return Some((bucket, at));
            }
        }
        None
    }

    /// Copies a word to its name's other bucket, and waits until every reader sees it there. After
    /// that, the caller may overwrite the old word.
    fn move_word(&mut self, from: DirectoryEntry, (other, free): (u32, usize)) {
        let primary = NameHash(self.read_head(from.word.record()).hash).bucket(self.mask);
        if primary == from.bucket {
            self.overflowed[primary as usize] += 1;
        }
        self.store_word(other, free, from.word);
        self.copy_kept_mark(from, (other, free));
        self.wait_for_readers();
        if primary == other {
            self.release_overflow(primary);
        }
    }

    /// Decrements the number of names of bucket `primary` that are in their second bucket. At 0, a
    /// look-up need not read the second bucket, so the mark in the last word is removed.
    fn release_overflow(&mut self, primary: u32) {
        let overflowed = &mut self.overflowed[primary as usize];
        *overflowed -= 1;
        if *overflowed == 0 && self.word(primary, LAST_WORD) == DirectoryWord::OVERFLOWED {
            self.store_word(primary, LAST_WORD, DirectoryWord::EMPTY);
        }
    }

    fn free_word(&self, bucket: u32) -> Option<usize> {
        (0..WORDS).find(|at| self.word(bucket, *at).record() == 0)
    }

    fn find(&self, name: &[u8], hash: NameHash) -> Option<DirectoryEntry> {
        let buckets = [hash.bucket(self.mask), hash.second_bucket(self.mask)];
        for bucket in buckets {
            for at in 0..WORDS {
                let word = self.word(bucket, at);
                if word.tag() == hash.tag() && word.record() != 0 && self.is_named(word, name) {
                    return Some(DirectoryEntry { bucket, at, word });
                }
            }
        }
        None
    }

    /// Empties a word and retires its slot.
    fn remove_entry(&mut self, found: DirectoryEntry) {
        let DirectoryEntry { bucket, at, word } = found;
        let primary = NameHash(self.read_head(word.record()).hash).bucket(self.mask);
        if primary != bucket {
            self.release_overflow(primary);
        }
        let empty = if at == LAST_WORD && self.overflowed[bucket as usize] > 0 {
            DirectoryWord::OVERFLOWED
        } else {
            DirectoryWord::EMPTY
        };
        self.store_word(bucket, at, empty);
        self.too_large -= self.too_large_count(word);
        self.retire_slot(word);
        self.names -= 1;
    }

    /// 1 if the name has answers that don't fit into the record, else 0.
    fn too_large_count(&self, word: DirectoryWord) -> usize {
        usize::from(self.read_head(word.record()).too_large > 0)
    }

    fn retire_slot(&mut self, word: DirectoryWord) {
        let size = self.read_head(word.record()).slot;
        self.retired.push(SlotAllocator::slot(word.record(), size));
    }

    fn write_record(&mut self, slot: Slot, record: &mut [u8], hash: NameHash) {
        let head: &mut RecordHead =
            bytemuck::from_bytes_mut(&mut record[..size_of::<RecordHead>()]);
        head.hash = hash.0;
        head.slot = slot.size_index();
        let words = &self.records.words()[slot.number as usize * GRANULE / 8..];
        for (word, bytes) in words.iter().zip(record.chunks_exact(8)) {
            word.store(word_from_bytes(bytes), Ordering::Relaxed);
        }
    }

    fn is_same(&self, found: DirectoryEntry, record: &[u8], hash: NameHash) -> bool {
        let stored = self.read_head(found.word.record());
        let same_head = RecordHead {
            hash: hash.0,
            slot: stored.slot,
            ..head(record)
        };
        if stored != same_head {
            return false;
        }
        let words = &self.record_words(found.word)[HEAD_WORDS..];
        let bytes = record[size_of::<RecordHead>()..].chunks_exact(8);
        words
            .iter()
            .zip(bytes)
            .all(|(word, bytes)| word.load(Ordering::Relaxed) == word_from_bytes(bytes))
    }

    fn is_named(&self, word: DirectoryWord, name: &[u8]) -> bool {
        if usize::from(self.read_head(word.record()).name_length) != name.len() {
            return false;
        }
        let words = &self.record_words(word)[HEAD_WORDS..];
        words.iter().zip(name.chunks(8)).all(|(word, bytes)| {
            word.load(Ordering::Relaxed).to_le_bytes()[..bytes.len()] == *bytes
        })
    }

    fn record_words(&self, word: DirectoryWord) -> &[AtomicU64] {
        &self.records.words()[word.record() as usize * GRANULE / 8..]
    }

    fn read_head(&self, number: u32) -> RecordHead {
        let words = &self.records.words()[number as usize * GRANULE / 8..];
        let head: [u64; HEAD_WORDS] = std::array::from_fn(|at| words[at].load(Ordering::Relaxed));
        bytemuck::cast(head)
    }

    fn word(&self, bucket: u32, at: usize) -> DirectoryWord {
        DirectoryWord(self.directory.words()[bucket as usize * WORDS + at].load(Ordering::Relaxed))
    }

    fn store_word(&self, bucket: u32, at: usize, word: DirectoryWord) {
        self.directory.words()[bucket as usize * WORDS + at].store(word.0, Ordering::Release);
    }

    fn mark_kept(&mut self, found: DirectoryEntry) {
        let position = found.bucket as usize * WORDS + found.at;
        self.kept[position / 64] |= 1 << (position % 64);
    }

    /// Copies the mark of a moved word to its new place.
    fn copy_kept_mark(&mut self, from: DirectoryEntry, (bucket, at): (u32, usize)) {
        let position = from.bucket as usize * WORDS + from.at;
        let to = bucket as usize * WORDS + at;
        let bit = self.kept[position / 64] >> (position % 64) & 1;
        self.kept[to / 64] = self.kept[to / 64] & !(1 << (to % 64)) | bit << (to % 64);
    }
}

/// The head of a record that is being built.
fn head(record: &[u8]) -> RecordHead {
    bytemuck::pod_read_unaligned(&record[..size_of::<RecordHead>()])
}

/// The word that consists of these bytes, at most eight, in little-endian order.
fn word_from_bytes(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}
