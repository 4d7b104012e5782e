//! Counts panics of the process.

use std::{
    panic,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts all panics of this process from now on. They are reported as before.
pub fn count_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Relaxed);
        report(info);
    }));
}

/// Number of panics since [`count_panics`].
pub(super) fn panics() -> u64 {
    PANICS.load(Relaxed)
}
