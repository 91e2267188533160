//! Small deviations that keep checks from marching in step.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

/// A sequence of pseudo-random numbers of its own for each target and each run of the daemon, so that neither the targets of
/// one node nor the nodes of a cluster check at the same moment. Xorshift64* (Vigna, "An experimental exploration of
/// Marsaglia's xorshift generators, scrambled", 2016); nothing secret hangs on it.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    /// The sequence of a target.
    pub(super) fn of(key: &impl Hash) -> Self {
        // The state must not be zero.
        Self(RandomState::new().hash_one(key) | 1)
    }

    /// Some time below `limit`.
    pub(super) fn below(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(self.fraction())
    }

    /// `interval`, give or take `percent` of it.
    pub(super) fn around(&mut self, interval: Duration, percent: u8) -> Duration {
        let part = f64::from(percent.min(100)) / 100.0;
        interval.mul_f64(1.0 - part + 2.0 * part * self.fraction())
    }

    /// At least 0, below 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn deviations_stay_in_their_bounds(
            seed in 1u64..,
            millis in 1u64..3_600_000,
            percent in 0u8..=50,
        ) {
            let part = f64::from(percent) / 100.0;
            let mut jitter = Jitter(seed);
            let interval = Duration::from_millis(millis);
            for _ in 0..20 {
                let around = jitter.around(interval, percent);
                prop_assert!(around >= interval.mul_f64(0.999 - part));
                prop_assert!(around <= interval.mul_f64(1.001 + part));
                prop_assert!(jitter.below(interval) < interval);
            }
        }
    }

    #[test]
    fn deviations_fill_their_bounds_evenly() {
        let mut jitter = Jitter::of(&"web");
        let mut tenths = [0u32; 10];
        for _ in 0..10_000 {
            tenths[(jitter.fraction() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
    }
}
