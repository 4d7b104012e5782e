//! Additions to counters that one task writes, or several.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Who else writes to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// No other task, so that an addition needs no locked instruction.
    One,
    Several,
}

impl Writers {
    pub(super) fn add(self, counter: &AtomicU64, count: u64) {
        match self {
            Writers::One => counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed),
            Writers::Several => {
                counter.fetch_add(count, Relaxed);
            }
        }
    }
}
