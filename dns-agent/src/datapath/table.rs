//! The writer's side of directory and records.
//!
//! Readers take no lock, so the order of stores is everything: a record is complete before
//! the directory word that names it is stored, and a slot is written again only after a grace
//! period has passed since the last word that named it was overwritten.

use std::sync::atomic::{AtomicU64, Ordering};

use dns_common::{
    directory::{WORDS, Word},
    names::{HashKey, MAX_NAME, NameHash, hash, other_bucket},
    records::{CHUNK, GRANULE, Record},
};

use super::{
    grace::Grace,
    memory::Memory,
    slots::{Slot, Slots},
};

/// Octets of a bucket.
const BUCKET: usize = WORDS * 8;
/// Words of a record's head.
const HEAD: usize = size_of::<Record>() / 8;
/// The bucket's word that stays non-empty while names of the bucket stand in their second one.
const LAST: usize = WORDS - 1;
/// Words moved in a round at most. Each costs a grace period, some milliseconds, and only a directory
/// that is fuller than it was made for needs more than a few.
const MOVES: u32 = 64;
/// Retired slots that are worth a grace period.
const BATCH: usize = 4096;

/// Directory and records, as their one writer sees them.
pub struct Table<G> {
    directory: Memory,
    records: Memory,
    key: HashKey,
    mask: u32,
    slots: Slots,
    /// For each bucket, how many of its names stand in their second bucket.
    overflowed: Vec<u32>,
    /// Slots that readers may still look at.
    retired: Vec<Slot>,
    /// A bit for each directory word: put since [`Table::begin`].
    kept: Vec<u64>,
    names: usize,
    /// Those of them with answers that found no room in their records.
    too_large: usize,
    /// Words that may yet be moved in this round.
    moves_left: u32,
    grace: G,
}

/// What [`Table::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The record was there already, octet by octet.
    Unchanged,
    /// Another record for the name was there.
    Replaced,
    /// The name is new.
    Inserted,
}

/// There is no room for a record or for its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// No free slot of its size or a larger one.
    Records,
    /// Both buckets are full, and so are those that their names could go to; or too many words have been
    /// moved in this round.
    Directory,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fill {
    /// Names in the directory.
    pub names: usize,
    /// Those of them with answers that their records can't hold, and that pass.
    pub names_too_large: usize,
    /// Words in the directory.
    pub words: usize,
    /// Octets of records in use, by the size of their slots.
    pub record_octets: usize,
    /// Octets there are for records.
    pub record_octets_capacity: usize,
    /// Octets of shared memory in all.
    pub memory_octets: usize,
}

/// Where a name stands.
#[derive(Clone, Copy)]
struct Found {
    bucket: u32,
    at: usize,
    word: Word,
}

impl<G: Grace> Table<G> {
    /// An empty table over zeroed memory. Both sizes are whole buckets and chunks; the number of
    /// buckets is a power of two.
    #[must_use]
    pub fn new(directory: Memory, records: Memory, key: HashKey, grace: G) -> Self {
        let buckets = directory.octets() / BUCKET;
        assert!(buckets.is_power_of_two(), "{buckets} buckets");
        Self {
            mask: buckets as u32 - 1,
            slots: Slots::new((records.octets() / CHUNK) as u32),
            overflowed: vec![0; buckets],
            retired: Vec::new(),
            kept: vec![0; (buckets * WORDS).div_ceil(64)],
            names: 0,
            too_large: 0,
            moves_left: MOVES,
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

    /// The directory's memory, and the records'.
    pub(super) fn memories(&self) -> [&Memory; 2] {
        [&self.directory, &self.records]
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let (record_octets, record_octets_capacity) = self.slots.fill();
        Fill {
            names: self.names,
            names_too_large: self.too_large,
            words: self.directory.octets() / 8,
            record_octets,
            record_octets_capacity,
            memory_octets: self.directory.octets() + self.records.octets(),
        }
    }

    /// Waits until no reader knows what was there before, and frees what was retired.
    pub fn wait_for_readers(&mut self) {
        self.grace.wait();
        for slot in self.retired.drain(..) {
            self.slots.give_back(slot);
        }
    }

    /// Starts a round: names that are not [`put`](Self::put) before [`sweep`](Self::sweep)
    /// are removed there.
    pub fn begin(&mut self) {
        self.begin_update();
        self.kept.fill(0);
    }

    /// Starts a round without a sweep.
    pub fn begin_update(&mut self) {
        self.moves_left = MOVES;
    }

    /// Removes every name that was not put since [`begin`](Self::begin); says how many.
    pub fn sweep(&mut self) -> usize {
        let mut removed = 0;
        for position in 0..self.directory.words().len() {
            if self.kept[position / 64] & 1 << (position % 64) != 0 {
                continue;
            }
            let (bucket, at) = ((position / WORDS) as u32, position % WORDS);
            let word = self.word(bucket, at);
            if word.record() != 0 {
                self.clear(Found { bucket, at, word });
                removed += 1;
            }
        }
        removed
    }

    /// Publishes a record; the name is in it, and is at most [`MAX_NAME`] octets long.
    ///
    /// `record` is the record in its wire layout ([`dns_common::records`]), padded to whole words;
    /// the head's `hash` and `slot` are filled in here.
    ///
    /// # Errors
    ///
    /// When there is no room. Then nothing has changed: a name that was there keeps its old record.
    pub fn put(&mut self, record: &mut [u8]) -> Result<Put, Full> {
        let name_len = usize::from(head(record).name_len);
        let name = &record[size_of::<Record>()..][..name_len];
        let Some(hash) = hash(name, &self.key) else {
            return Err(Full::Directory);
        };
        let found = self.find(name, hash);
        if let Some(found) = found
            && self.is_same(found, record, hash)
        {
            self.keep(found);
            return Ok(Put::Unchanged);
        }

        let slot = self.take_slot(record.len())?;
        self.write(slot, record, hash);
        let word = Word::new(hash.tag(), slot.number);
        let is_too_large = usize::from(head(record).too_large > 0);
        if let Some(found) = found {
            self.store(found.bucket, found.at, word);
            self.too_large -= self.is_too_large(found.word);
            self.too_large += is_too_large;
            self.retire(found.word);
            self.keep(found);
            return Ok(Put::Replaced);
        }
        let Some((bucket, at)) = self.make_room(hash) else {
            self.slots.give_back(slot);
            return Err(Full::Directory);
        };
        self.store(bucket, at, word);
        if bucket != hash.bucket(self.mask) {
            self.overflowed[hash.bucket(self.mask) as usize] += 1;
        }
        self.names += 1;
        self.too_large += is_too_large;
        self.keep(Found { bucket, at, word });
        Ok(Put::Inserted)
    }

    /// Whether the name's record says what is below it without having records.
    #[must_use]
    pub fn speaks_for_children(&self, name: &[u8]) -> bool {
        let Some(found) = hash(name, &self.key).and_then(|hash| self.find(name, hash)) else {
            return false;
        };
        let flags = self.read_head(found.word.record()).flags;
        flags & (Record::BELOW_UNKNOWN | Record::CHILDREN) != 0
    }

    /// Removes a name; says whether it was there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let Some(found) = hash(name, &self.key).and_then(|hash| self.find(name, hash)) else {
            return false;
        };
        self.clear(found);
        true
    }

    fn take_slot(&mut self, octets: usize) -> Result<Slot, Full> {
        if self.retired.len() >= BATCH {
            self.wait_for_readers();
        }
        if let Some(slot) = self.slots.take(octets) {
            return Ok(slot);
        }
        if !self.retired.is_empty() {
            self.wait_for_readers();
        }
        self.slots.take(octets).ok_or(Full::Records)
    }

    /// A free word for a name with this hash; moves another name to its other bucket if it must.
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
                self.move_word(Found { bucket, at, word }, (other, free));
                return Some((bucket, at));
            }
        }
        None
    }

    /// Copies a word to the name's other bucket and waits until every reader can see it there;
    /// the old place may then be overwritten.
    fn move_word(&mut self, from: Found, (other, free): (u32, usize)) {
        let primary = NameHash(self.read_head(from.word.record()).hash).bucket(self.mask);
        if primary == from.bucket {
            self.overflowed[primary as usize] += 1;
        }
        self.store(other, free, from.word);
        self.keep_as(from, (other, free));
        self.wait_for_readers();
        if primary == other {
            self.came_home(primary);
        }
    }

    /// One name less of this bucket stands in its second bucket.
    fn came_home(&mut self, primary: u32) {
        let overflowed = &mut self.overflowed[primary as usize];
        *overflowed -= 1;
        if *overflowed == 0 && self.word(primary, LAST) == Word::OVERFLOWED {
            self.store(primary, LAST, Word::EMPTY);
        }
    }

    fn free_word(&self, bucket: u32) -> Option<usize> {
        (0..WORDS).find(|at| self.word(bucket, *at).record() == 0)
    }

    fn find(&self, name: &[u8], hash: NameHash) -> Option<Found> {
        let buckets = [hash.bucket(self.mask), hash.second_bucket(self.mask)];
        for bucket in buckets {
            for at in 0..WORDS {
                let word = self.word(bucket, at);
                if word.tag() == hash.tag() && word.record() != 0 && self.is_named(word, name) {
                    return Some(Found { bucket, at, word });
                }
            }
        }
        None
    }

    /// Empties a word and retires its slot.
    fn clear(&mut self, found: Found) {
        let Found { bucket, at, word } = found;
        let primary = NameHash(self.read_head(word.record()).hash).bucket(self.mask);
        if primary != bucket {
            self.came_home(primary);
        }
        let empty = if at == LAST && self.overflowed[bucket as usize] > 0 {
            Word::OVERFLOWED
        } else {
            Word::EMPTY
        };
        self.store(bucket, at, empty);
        self.too_large -= self.is_too_large(word);
        self.retire(word);
        self.names -= 1;
    }

    /// 1 for a record that can't hold all its answers, else 0.
    fn is_too_large(&self, word: Word) -> usize {
        usize::from(self.read_head(word.record()).too_large > 0)
    }

    fn retire(&mut self, word: Word) {
        let size = self.read_head(word.record()).slot;
        self.retired.push(Slots::slot(word.record(), size));
    }

    fn write(&mut self, slot: Slot, record: &mut [u8], hash: NameHash) {
        let head: &mut Record = bytemuck::from_bytes_mut(&mut record[..size_of::<Record>()]);
        head.hash = hash.0;
        head.slot = slot.size();
        let words = &self.records.words()[slot.number as usize * GRANULE / 8..];
        for (word, octets) in words.iter().zip(record.chunks_exact(8)) {
            word.store(word_of(octets), Ordering::Relaxed);
        }
    }

    fn is_same(&self, found: Found, record: &[u8], hash: NameHash) -> bool {
        let stored = self.read_head(found.word.record());
        let same_head = Record {
            hash: hash.0,
            slot: stored.slot,
            ..head(record)
        };
        if stored != same_head {
            return false;
        }
        let words = &self.record_words(found.word)[HEAD..];
        let octets = record[size_of::<Record>()..].chunks_exact(8);
        words
            .iter()
            .zip(octets)
            .all(|(word, octets)| word.load(Ordering::Relaxed) == word_of(octets))
    }

    fn is_named(&self, word: Word, name: &[u8]) -> bool {
        if usize::from(self.read_head(word.record()).name_len) != name.len() {
            return false;
        }
        let words = &self.record_words(word)[HEAD..];
        words.iter().zip(name.chunks(8)).all(|(word, octets)| {
            word.load(Ordering::Relaxed).to_le_bytes()[..octets.len()] == *octets
        })
    }

    fn record_words(&self, word: Word) -> &[AtomicU64] {
        &self.records.words()[word.record() as usize * GRANULE / 8..]
    }

    fn read_head(&self, number: u32) -> Record {
        let words = &self.records.words()[number as usize * GRANULE / 8..];
        let head: [u64; HEAD] = std::array::from_fn(|at| words[at].load(Ordering::Relaxed));
        bytemuck::cast(head)
    }

    fn word(&self, bucket: u32, at: usize) -> Word {
        Word(self.directory.words()[bucket as usize * WORDS + at].load(Ordering::Relaxed))
    }

    fn store(&self, bucket: u32, at: usize, word: Word) {
        self.directory.words()[bucket as usize * WORDS + at].store(word.0, Ordering::Release);
    }

    fn keep(&mut self, found: Found) {
        let position = found.bucket as usize * WORDS + found.at;
        self.kept[position / 64] |= 1 << (position % 64);
    }

    /// A moved name is kept if it was kept where it stood.
    fn keep_as(&mut self, from: Found, (bucket, at): (u32, usize)) {
        let position = from.bucket as usize * WORDS + from.at;
        let to = bucket as usize * WORDS + at;
        let bit = self.kept[position / 64] >> (position % 64) & 1;
        self.kept[to / 64] = self.kept[to / 64] & !(1 << (to % 64)) | bit << (to % 64);
    }
}

/// The head of a record that is being built.
fn head(record: &[u8]) -> Record {
    bytemuck::pod_read_unaligned(&record[..size_of::<Record>()])
}

fn word_of(octets: &[u8]) -> u64 {
    octets
        .iter()
        .rev()
        .fold(0, |word, octet| word << 8 | u64::from(*octet))
}

const _: () = assert!(MAX_NAME.is_multiple_of(8));
