//! Histograms with CoreDNS's buckets.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::writers::Writers;

/// The upper bounds of sizes in bytes. CoreDNS has 8291 where 8191 was meant, and queries of
/// dashboards name the bound.
const SIZE_BOUNDS: [u16; 14] = [
    0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000,
];
/// The least upper bound of durations in nanoseconds. Each further bound is the double.
const FIRST_DURATION: u64 = 250_000;
/// Number of upper bounds of durations, up to 8.192 s.
const DURATIONS: usize = 16;
/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// Durations. The last bucket has those above all bounds.
#[derive(Debug, Default)]
pub(super) struct DurationHistogram {
    buckets: [AtomicU64; DURATIONS + 1],
    /// In nanoseconds.
    sum: AtomicU64,
}

/// Lengths of messages. The last bucket has those above all bounds.
#[derive(Debug, Default)]
pub(super) struct SizeHistogram {
    buckets: [AtomicU64; SIZE_BOUNDS.len() + 1],
    /// In bytes.
    sum: AtomicU64,
}

/// A snapshot of a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramCounts {
    /// The upper bound of each bucket, in seconds or bytes, and the number of observations above
    /// the bound before it. The last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all observations, in seconds or bytes.
    pub sum: f64,
}

impl DurationHistogram {
    pub(super) fn observe(&self, duration: Duration, writers: Writers) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        writers.add(&self.buckets[duration_bucket(nanoseconds)], 1);
        writers.add(&self.sum, nanoseconds);
    }

    pub(super) fn snapshot(&self) -> HistogramCounts {
        let bounds = (0..DURATIONS).map(|power| (FIRST_DURATION << power) as f64 / SECOND);
        snapshot(
            bounds,
            &self.buckets,
            self.sum.load(Relaxed) as f64 / SECOND,
        )
    }
}

impl SizeHistogram {
    pub(super) fn observe(&self, size: usize, writers: Writers) {
        writers.add(&self.buckets[size_bucket(size)], 1);
        writers.add(&self.sum, size as u64);
    }

    pub(super) fn snapshot(&self) -> HistogramCounts {
        let bounds = SIZE_BOUNDS.into_iter().map(f64::from);
        snapshot(bounds, &self.buckets, self.sum.load(Relaxed) as f64)
    }
}

impl HistogramCounts {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The sum of two snapshots of histograms with the same bounds.
    pub(super) fn plus(mut self, other: &HistogramCounts) -> HistogramCounts {
        for (bucket, (_, count)) in self.buckets.iter_mut().zip(&other.buckets) {
            bucket.1 += count;
        }
        self.sum += other.sum;
        self
    }
}

fn snapshot(bounds: impl Iterator<Item = f64>, buckets: &[AtomicU64], sum: f64) -> HistogramCounts {
    let counts = buckets.iter().map(|bucket| bucket.load(Relaxed));
    HistogramCounts {
        buckets: bounds.chain([f64::INFINITY]).zip(counts).collect(),
        sum,
    }
}

/// The index of the first bound that is not less than the duration.
fn duration_bucket(nanoseconds: u64) -> usize {
    match nanoseconds.saturating_sub(1) / FIRST_DURATION {
        0 => 0,
        quotient => (quotient.ilog2() as usize + 1).min(DURATIONS),
    }
}

/// The index of the first bound that is not less than the size.
fn size_bucket(size: usize) -> usize {
    SIZE_BOUNDS.partition_point(|bound| usize::from(*bound) < size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let sizes = [0, 1, 100, 101, 511, 512, 8291, 8292, 64_000, 64_001, 65_535];
        let expected = [0, 1, 1, 2, 5, 6, 9, 10, 13, 14, 14];
        assert_eq!(sizes.map(size_bucket), expected);
        let bounds: Vec<u64> = (0..DURATIONS)
            .map(|power| FIRST_DURATION << power)
            .collect();
        assert_eq!(bounds[DURATIONS - 1], 8_192_000_000);
        for (index, bound) in bounds.into_iter().enumerate() {
            let found = [bound, bound + 1].map(duration_bucket);
            assert_eq!(found, [index, index + 1], "{bound} ns");
        }
        assert_eq!(duration_bucket(0), 0);
        assert_eq!(duration_bucket(u64::MAX), DURATIONS);
    }
}
