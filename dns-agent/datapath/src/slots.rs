//! The allocator of record slots.
//!
//! A slot is a run of granules in one chunk and holds one record ([`dns_common::records`]).

use dns_common::records::{CHUNK, CHUNK_GRANULES, GRANULE, MAX_RECORD_LENGTH, REACH};

/// The sizes of slots in granules. A record gets a slot of the smallest size that holds it, or a
/// larger slot if only such a slot is free. No record fits into one granule, because its head fills
/// a granule.
const SIZES: [u32; 13] = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64];

const _: () = assert!(SIZES[SIZES.len() - 1] as usize * GRANULE == MAX_RECORD_LENGTH);

/// The last granule of a chunk at which a record may start. See [`REACH`].
const LAST_START: u32 = ((CHUNK - REACH) / GRANULE) as u32;

/// The allocator: freed slots by size, and the granules that have never been allocated.
#[derive(Debug)]
pub struct SlotAllocator {
    /// Numbers of the freed slots of each size.
    free: [Vec<u32>; SIZES.len()],
    /// No granule from this number on has ever been allocated.
    fresh: u32,
    /// Granules in all chunks.
    granules: u32,
    /// Granules in allocated slots.
    used: u32,
}

/// An allocated slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The record's number: the position of its first granule.
    pub number: u32,
    /// The position of the slot's size in `SIZES`.
    size_index: u8,
}

/// The size, in bytes, of the smallest slot that holds a record of `bytes` bytes. For a record that
/// no slot holds: the size of the largest slot.
#[must_use]
pub fn slot_bytes(bytes: usize) -> usize {
    let granules = bytes.div_ceil(GRANULE) as u32;
    let size = SIZES.iter().find(|size| **size >= granules);
    size.map_or(MAX_RECORD_LENGTH, |size| *size as usize * GRANULE)
}

impl SlotAllocator {
    /// An allocator over this many free chunks.
    #[must_use]
    pub fn new(chunks: u32) -> Self {
        Self {
            free: Default::default(),
            // Number 0 means "no record".
            fresh: 1,
            granules: chunks * CHUNK_GRANULES,
            used: 0,
        }
    }

    /// Allocates a slot for a record of `bytes` bytes. `None` when there is no room, or when the
    /// record is longer than any slot.
    pub fn allocate(&mut self, bytes: usize) -> Option<Slot> {
        let granules = bytes.div_ceil(GRANULE) as u32;
        let size = SIZES.iter().position(|size| *size >= granules)?;
        let slot = self
            .allocate_freed(size)
            .or_else(|| self.allocate_fresh(size))
            .or_else(|| (size + 1..SIZES.len()).find_map(|larger| self.allocate_freed(larger)))?;
        self.used += SIZES[usize::from(slot.size_index)];
        Some(slot)
    }

    /// Frees a slot. The caller ensures that no reader can still read it.
    pub fn free_slot(&mut self, slot: Slot) {
        self.used -= SIZES[usize::from(slot.size_index)];
        self.free[usize::from(slot.size_index)].push(slot.number);
    }

    /// The slot with this number and size index. The size index is stored in the record, because a
    /// record may be in a larger slot than it needs.
    #[must_use]
    pub fn slot(number: u32, size_index: u8) -> Slot {
        Slot { number, size_index }
    }

    /// Bytes in allocated slots, and in all chunks.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (
            self.used as usize * GRANULE,
            self.granules as usize * GRANULE,
        )
    }

    fn allocate_freed(&mut self, size: usize) -> Option<Slot> {
        let number = self.free[size].pop()?;
        Some(Slot {
            number,
            size_index: size as u8,
        })
    }

    fn allocate_fresh(&mut self, size: usize) -> Option<Slot> {
        let mut start = self.fresh;
        if start % CHUNK_GRANULES > LAST_START {
            start = start.next_multiple_of(CHUNK_GRANULES);
        }
        // A slot that starts in a chunk also ends in it, because `REACH` is longer than any slot.
        if start >= self.granules {
            return None;
        }
        self.fresh = start + SIZES[size];
        Some(Slot {
            number: start,
            size_index: size as u8,
        })
    }
}

impl Slot {
    /// The index of the slot's size, which is stored in the record.
    #[must_use]
    pub fn size_index(self) -> u8 {
        self.size_index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn granules(slot: Slot) -> u32 {
        SIZES[usize::from(slot.size_index)]
    }

    proptest! {
        // Every record is longer than its head, which has 64 bytes.
        #[test]
        fn slots_never_overlap(
            steps in prop::collection::vec((65usize..=MAX_RECORD_LENGTH, any::<bool>()), 1..400)
        ) {
            let mut slots = SlotAllocator::new(2);
            let mut taken: BTreeMap<u32, Slot> = BTreeMap::new();
            for (bytes, frees_slot) in steps {
                if frees_slot && !taken.is_empty() {
                    let (_, slot) = taken.pop_first().unwrap();
                    slots.free_slot(slot);
                    continue;
                }
                let Some(slot) = slots.allocate(bytes) else { continue };
                prop_assert!(slot.number > 0 && bytes <= granules(slot) as usize * GRANULE);
                prop_assert!(slot.number % CHUNK_GRANULES <= LAST_START);
                let end = slot.number + granules(slot);
                prop_assert!((end - 1) / CHUNK_GRANULES == slot.number / CHUNK_GRANULES);
                if let Some((before, held)) = taken.range(..=slot.number).next_back() {
                    prop_assert!(before + granules(*held) <= slot.number);
                }
                if let Some((after, _)) = taken.range(slot.number..).next() {
                    prop_assert!(end <= *after);
                }
                taken.insert(slot.number, slot);
            }
            let used: u32 = taken.values().map(|slot| granules(*slot)).sum();
            prop_assert_eq!(slots.usage().0, used as usize * GRANULE);
        }
    }

    #[test]
    fn allocation_fails_when_full_or_too_large() {
        let mut slots = SlotAllocator::new(1);
        while slots.allocate(MAX_RECORD_LENGTH).is_some() {}
        // The next granule is after `LAST_START`, so no shorter slot can start there either.
        assert_eq!(slots.allocate(64), None);
        assert_eq!(SlotAllocator::new(1).allocate(MAX_RECORD_LENGTH + 1), None);
    }
}
