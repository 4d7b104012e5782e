//! The system's allocator, and how much of it is in use.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

#[global_allocator]
static COUNTED: Counted = Counted;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counted;

/// Octets in use.
pub(crate) fn now() -> usize {
    NOW.load(Ordering::Relaxed)
}

/// The most octets that were in use since the last call.
pub(crate) fn take_peak() -> usize {
    PEAK.swap(now(), Ordering::Relaxed)
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let octets = taken(layout.size());
        let now = NOW.fetch_add(octets, Ordering::Relaxed) + octets;
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What the GNU C library takes for a request: eight octets more, in steps of sixteen.
fn taken(octets: usize) -> usize {
    (octets + 8).next_multiple_of(16).max(32)
}
