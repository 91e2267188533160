//! The share of a server that has just come up: from a tenth of its weight to the whole, in steps.
//!
//! No clock: the time since the server came up comes in.

use std::time::Duration;

/// The share of a server that takes part in full.
pub const WHOLE: u32 = 10;

/// How many tenths of its weight a server has so long after it came up, if it is to have the whole after `time`; 1 to
/// [`WHOLE`].
pub fn tenths(elapsed: Duration, time: Duration) -> u32 {
    if elapsed >= time {
        return WHOLE;
    }
    // The shares of a tenth to nine tenths last as long as one another.
    let steps = u128::from(WHOLE - 1);
    let passed = elapsed.as_nanos() * steps / time.as_nanos();
    1 + u32::try_from(passed).unwrap_or(WHOLE - 1)
}

/// How long it is until the share grows; `None` once it is whole.
pub fn until_next_step(elapsed: Duration, time: Duration) -> Option<Duration> {
    let share = tenths(elapsed, time);
    if share == WHOLE {
        return None;
    }
    // Rounded up, so that the step has been taken when the time has come.
    let at = time * share / (WHOLE - 1) + Duration::from_nanos(1);
    Some(at.saturating_sub(elapsed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_share_grows_by_tenths_to_the_whole() {
        let time = Duration::from_secs(9);
        let shares: Vec<u32> =
            (0..11).map(|second| tenths(Duration::from_secs(second), time)).collect();
        assert_eq!(shares, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]);
        assert_eq!(tenths(Duration::from_millis(999), time), 1);
        assert_eq!(tenths(Duration::ZERO, Duration::ZERO), WHOLE);
    }

    proptest! {
        /// Whoever sleeps until the next step finds it taken, and is through after nine.
        #[test]
        fn steps_are_taken_when_they_are_due(milliseconds in 1u64..3_600_000) {
            let time = Duration::from_millis(milliseconds);
            let mut elapsed = Duration::ZERO;
            for share in 1..WHOLE {
                prop_assert_eq!(tenths(elapsed, time), share);
                elapsed += until_next_step(elapsed, time).unwrap();
            }
            prop_assert_eq!(tenths(elapsed, time), WHOLE);
            prop_assert_eq!(until_next_step(elapsed, time), None);
            prop_assert!(elapsed <= time + Duration::from_nanos(1));
        }
    }
}
