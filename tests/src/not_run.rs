//! Tests that this machine or kernel can't run: each says so in one line, and the lines are
//! counted.

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Number of calls of [`report_not_run`] in this process.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Prints that a test, or a part of one, is not run. The number in the last line of a test binary
/// is the sum.
///
/// Writes to standard error itself, because the test runner hides what passing tests print by
/// macros.
pub fn report_not_run(what: &str, reason: impl Display) {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    // A line that can't be written has no reader.
    writeln!(io::stderr(), "not run ({count}): {what}: {reason}").ok();
}
