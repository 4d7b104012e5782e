//! Conversion of lease durations to jiffies, the kernel's unit of time, at a measured rate.

use std::time::{Duration, Instant};

use super::program::EbpfObject;

/// The values of `CONFIG_HZ`, jiffies per second, that `kernel/Kconfig.hz` in Linux offers.
const KERNEL_RATES: [u32; 4] = [100, 250, 300, 1000];

/// The duration of a measurement. In this time clocks of the two closest rates, 250 and 300 Hz,
/// differ by five jiffies.
const MEASUREMENT: Duration = Duration::from_millis(100);

/// The rate of the kernel's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Jiffies per second.
    pub rate: u32,
}

impl Clock {
    /// Measures the clock's rate. This takes a fifth of a second and makes the lease expire.
    ///
    /// When a virtual CPU runs again after a pause, the clock advances by many jiffies at once and
    /// the rate seems too high. The lower of two measurements counts, because a lease may be too
    /// short but not too long.
    ///
    /// # Errors
    ///
    /// When the kernel can't run the lease program.
    pub fn measure(object: &EbpfObject) -> anyhow::Result<Self> {
        let rate = measure_rate(object)?.min(measure_rate(object)?);
        Ok(Self { rate })
    }

    /// Converts a duration to jiffies, rounded up.
    #[must_use]
    pub fn jiffies(self, time: Duration) -> u64 {
        (time.as_secs_f64() * f64::from(self.rate)).ceil() as u64
    }
}

fn measure_rate(object: &EbpfObject) -> anyhow::Result<u32> {
    let start = Instant::now();
    // `set_lease` returns the current jiffies.
    let first = object.set_lease(0)?;
    std::thread::sleep(MEASUREMENT);
    let last = object.set_lease(0)?;
    let jiffies = f64::from(last.wrapping_sub(first)) / start.elapsed().as_secs_f64();
    Ok(nearest_rate(jiffies))
}

/// The kernel rate with the smallest relative difference from `rate`.
fn nearest_rate(rate: f64) -> u32 {
    let distance = |candidate: &u32| (f64::from(*candidate) / rate).ln().abs();
    KERNEL_RATES
        .into_iter()
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(KERNEL_RATES[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_rates_map_to_the_nearest_kernel_rate() {
        for (measured, rate) in [
            (98.0, 100),
            (243.0, 250),
            (291.0, 300),
            (309.0, 300),
            (985.0, 1000),
        ] {
            assert_eq!(nearest_rate(measured), rate, "measured {measured} Hz");
        }
    }

    #[test]
    fn durations_are_rounded_up_to_whole_jiffies() {
        let clock = Clock { rate: 250 };
        assert_eq!(clock.jiffies(Duration::from_secs(10)), 2500);
        assert_eq!(clock.jiffies(Duration::from_millis(1)), 1);
    }
}
