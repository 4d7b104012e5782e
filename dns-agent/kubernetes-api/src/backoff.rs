//! Delays before requests: exponential back-off after failures, and jitter.

use std::time::Duration;

/// The ceiling after a first failure.
const FIRST_CEILING: Duration = Duration::from_millis(500);
/// The highest ceiling.
const LONGEST_CEILING: Duration = Duration::from_secs(30);

/// The ceilings of an exponential back-off with full jitter. The caller waits for a [`jitter`] of
/// the ceiling: a time that is uniform between zero and the ceiling, so that clients that failed
/// together don't retry together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    /// The ceiling of the wait after the current failure. Doubles the ceiling for the next failure,
    /// up to [`LONGEST_CEILING`].
    pub(super) fn next_ceiling(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(LONGEST_CEILING);
        ceiling
    }

    /// Returns to the first ceiling after a success.
    pub(super) fn reset(&mut self) {
        *self = Backoff::default();
    }
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            ceiling: FIRST_CEILING,
        }
    }
}

/// A random duration up to `longest`.
pub(super) fn jitter(longest: Duration) -> Duration {
    rand::random_range(Duration::ZERO..=longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_30_seconds_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let millis: Vec<_> = (0..9).map(|_| backoff.next_ceiling().as_millis()).collect();
        assert_eq!(
            millis,
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
        );
        backoff.reset();
        assert_eq!(backoff.next_ceiling(), FIRST_CEILING);
    }

    #[test]
    fn jitter_covers_its_whole_range() {
        let waits: Vec<_> = (0..1000).map(|_| jitter(LONGEST_CEILING)).collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST_CEILING));
        assert!(waits.iter().any(|wait| *wait < LONGEST_CEILING / 10));
        assert!(waits.iter().any(|wait| *wait > LONGEST_CEILING / 10 * 9));
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
