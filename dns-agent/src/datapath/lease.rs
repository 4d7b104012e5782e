//! How long the kernel may answer, in its own measure of time.

use std::time::{Duration, Instant};

use super::object::Object;

/// Jiffies in a second that kernels are built with (`CONFIG_HZ`).
const RATES: [u32; 4] = [100, 250, 300, 1000];

/// How long the clock is watched to find out its rate. In this time the two nearest rates, 250
/// and 300, are five jiffies apart.
const WATCH: Duration = Duration::from_millis(100);

/// The kernel's clock, as far as leases need it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Jiffies in a second.
    pub rate: u32,
}

impl Clock {
    /// Finds out the clock's rate; takes a fifth of a second. The lease is over afterwards.
    ///
    /// A virtual CPU that did not run for a while brings the clock forward by many jiffies at once when it runs
    /// again, and the rate seems higher than it is. So it is watched twice, and the lower rate counts: a lease may be
    /// too short, but not too long.
    ///
    /// # Errors
    ///
    /// When the kernel can't run the lease's program.
    pub fn measure(object: &Object) -> anyhow::Result<Self> {
        let rate = watch(object)?.min(watch(object)?);
        Ok(Self { rate })
    }

    /// A time in jiffies, rounded up.
    #[must_use]
    pub fn jiffies(self, time: Duration) -> u64 {
        (time.as_secs_f64() * f64::from(self.rate)).ceil() as u64
    }
}

fn watch(object: &Object) -> anyhow::Result<u32> {
    let start = Instant::now();
    let first = object.set_lease(0)?;
    std::thread::sleep(WATCH);
    let last = object.set_lease(0)?;
    let jiffies = f64::from(last.wrapping_sub(first)) / start.elapsed().as_secs_f64();
    Ok(nearest(jiffies))
}

fn nearest(rate: f64) -> u32 {
    let distance = |candidate: &u32| (f64::from(*candidate) / rate).ln().abs();
    RATES
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(RATES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rate() {
        for (measured, rate) in [
            (98.0, 100),
            (243.0, 250),
            (291.0, 300),
            (309.0, 300),
            (985.0, 1000),
        ] {
            assert_eq!(nearest(measured), rate, "{measured}");
        }
    }

    #[test]
    fn a_lease_is_never_shorter_than_asked() {
        let clock = Clock { rate: 250 };
        assert_eq!(clock.jiffies(Duration::from_secs(10)), 2500);
        assert_eq!(clock.jiffies(Duration::from_millis(1)), 1);
    }
}
