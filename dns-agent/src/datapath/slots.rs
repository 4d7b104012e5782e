//! Room for records: which granules are free.

use dns_common::records::{CHUNK, CHUNK_GRANULES, GRANULE, MAX_RECORD, REACH};

/// Slots come in these sizes, in granules. A record takes the smallest that holds it.
const SIZES: [u32; 13] = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64];

const _: () = assert!(SIZES[SIZES.len() - 1] as usize * GRANULE == MAX_RECORD);

/// The last granule of a chunk at which a record may start.
const LAST_START: u32 = ((CHUNK - REACH) / GRANULE) as u32;

/// The allocator: free slots by size, and the granules never used yet.
#[derive(Debug)]
pub struct Slots {
    free: [Vec<u32>; SIZES.len()],
    /// The first granule never used.
    fresh: u32,
    /// Granules in all chunks.
    granules: u32,
    /// Granules in use, by the slots' sizes.
    used: u32,
}

/// A slot given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The record's number.
    pub number: u32,
    size: u8,
}

/// Octets of the slot for a record of `octets`.
#[must_use]
pub fn slot_octets(octets: usize) -> usize {
    let granules = octets.div_ceil(GRANULE) as u32;
    let size = SIZES.iter().find(|size| **size >= granules);
    size.map_or(MAX_RECORD, |size| *size as usize * GRANULE)
}

impl Slots {
    /// All free, in this many chunks.
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

    /// A slot for a record of `octets`; `None` when there is no room, or when the record is
    /// longer than any slot.
    pub fn take(&mut self, octets: usize) -> Option<Slot> {
        let granules = octets.div_ceil(GRANULE) as u32;
        let size = SIZES.iter().position(|size| *size >= granules)?;
        let slot = self
            .take_free(size)
            .or_else(|| self.take_fresh(size))
            .or_else(|| (size + 1..SIZES.len()).find_map(|larger| self.take_free(larger)))?;
        self.used += SIZES[usize::from(slot.size)];
        Some(slot)
    }

    /// Gives a slot back. No reader may know it any more.
    pub fn give_back(&mut self, slot: Slot) {
        self.used -= SIZES[usize::from(slot.size)];
        self.free[usize::from(slot.size)].push(slot.number);
    }

    /// The slot of a record that was put into the smallest that held it, or a larger one:
    /// the writer keeps the size in the record.
    #[must_use]
    pub fn slot(number: u32, size: u8) -> Slot {
        Slot { number, size }
    }

    /// Octets in slots given out, and in all.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (
            self.used as usize * GRANULE,
            self.granules as usize * GRANULE,
        )
    }

    fn take_free(&mut self, size: usize) -> Option<Slot> {
        let number = self.free[size].pop()?;
        Some(Slot {
            number,
            size: size as u8,
        })
    }

    fn take_fresh(&mut self, size: usize) -> Option<Slot> {
        let mut start = self.fresh;
        if start % CHUNK_GRANULES > LAST_START {
            start = start.next_multiple_of(CHUNK_GRANULES);
        }
        if start >= self.granules {
            return None;
        }
        self.fresh = start + SIZES[size];
        Some(Slot {
            number: start,
            size: size as u8,
        })
    }
}

impl Slot {
    /// The position of its size, to be kept beside its number.
    #[must_use]
    pub fn size(self) -> u8 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn granules(slot: Slot) -> u32 {
        SIZES[usize::from(slot.size)]
    }

    proptest! {
        #[test]
        fn slots_never_overlap(steps in prop::collection::vec((65usize..=MAX_RECORD, any::<bool>()), 1..400)) {
            let mut slots = Slots::new(2);
            let mut taken: BTreeMap<u32, Slot> = BTreeMap::new();
            for (octets, give_back) in steps {
                if give_back && !taken.is_empty() {
                    let (_, slot) = taken.pop_first().unwrap();
                    slots.give_back(slot);
                    continue;
                }
                let Some(slot) = slots.take(octets) else { continue };
                prop_assert!(slot.number > 0 && octets <= granules(slot) as usize * GRANULE);
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
            prop_assert_eq!(slots.fill().0, used as usize * GRANULE);
        }
    }

    #[test]
    fn full_means_none() {
        let mut slots = Slots::new(1);
        while slots.take(MAX_RECORD).is_some() {}
        assert_eq!(slots.take(64), None);
        assert_eq!(Slots::new(1).take(MAX_RECORD + 1), None);
    }
}
