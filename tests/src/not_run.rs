//! Reports tests that this machine or kernel can't run, in one numbered line for each.

use std::{
    env,
    fmt::Display,
    io::{self, Write as _},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The environment variable with the number of reports before this process.
pub const VARIABLE: &str = "ZEROHOP_NOT_RUN";

/// Number of reports, including those before this process.
static COUNT: LazyLock<AtomicUsize> = LazyLock::new(|| {
    let before = env::var(VARIABLE).ok().and_then(|count| count.parse().ok());
    AtomicUsize::new(before.unwrap_or_default())
});

/// The number of reports so far, which `cargo xtask test` passes on by [`VARIABLE`].
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// Prints that a test, or a part of it, is not run. The lines are numbered, so on each kernel the
/// last one has the total.
///
/// Writes to standard error directly: the test runner hides what passing tests print with
/// `eprintln!`.
pub fn report_not_run(what: &str, reason: impl Display) {
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    // An error means that standard error is closed. The test passes nevertheless.
    writeln!(io::stderr(), "not run ({count}): {what}: {reason}").ok();
}
