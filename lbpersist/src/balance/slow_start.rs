//! The share of a server that has just come up: from a tenth of its weight to the whole, in steps.
//!
//! No clock: the time comes in.

use std::time::{Duration, Instant};

/// The share of a server that takes part in full.
pub const WHOLE: u32 = 10;

/// A server on its way to its whole share.
#[derive(Clone, Copy, Debug)]
pub struct Rise {
    since: Instant,
    /// The share it was last given, in tenths; none yet.
    given: u32,
}

impl Rise {
    /// That of a server that comes up now.
    pub fn begin(now: Instant) -> Self {
        Self { since: now, given: 0 }
    }

    /// The share that the server is to have now, in tenths, if it is to have the whole so long after it came up.
    pub fn give(&mut self, now: Instant, time: Duration) -> u32 {
        self.given = tenths(now.saturating_duration_since(self.since), time);
        self.given
    }

    /// How long it is until the share is another than the one that was given; nothing if that is overdue, `None` once the
    /// whole was given.
    pub fn until_next(&self, now: Instant, time: Duration) -> Option<Duration> {
        if self.given == WHOLE {
            return None;
        }
        let elapsed = now.saturating_duration_since(self.since);
        match tenths(elapsed, time) {
            due if due > self.given => Some(Duration::ZERO),
            _ => until_next_step(elapsed, time),
        }
    }
}

/// How many tenths of its weight a server has so long after it came up, if it is to have the whole after `time`; 1 to
/// [`WHOLE`].
fn tenths(elapsed: Duration, time: Duration) -> u32 {
    if elapsed >= time {
        return WHOLE;
    }
    // The shares of a tenth to nine tenths last as long as one another.
    let steps = u128::from(WHOLE - 1);
    let passed = elapsed.as_nanos() * steps / time.as_nanos();
    1 + u32::try_from(passed).unwrap_or(WHOLE - 1)
}

/// How long it is until the share grows; `None` once it is whole.
fn until_next_step(elapsed: Duration, time: Duration) -> Option<Duration> {
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

    /// Whoever was busy when a step was due still takes it, the last one above all.
    #[test]
    fn a_step_that_was_missed_is_overdue() {
        let (begun, time) = (Instant::now(), Duration::from_secs(9));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut rise = Rise::begin(begun);
        assert_eq!(rise.until_next(begun, time), Some(Duration::ZERO));
        assert_eq!(rise.give(begun, time), 1);
        assert!(rise.until_next(begun, time).unwrap() > Duration::from_millis(999));
        assert_eq!(rise.until_next(at(3), time), Some(Duration::ZERO));
        assert_eq!(rise.give(at(3), time), 4);
        assert_eq!(rise.until_next(at(60), time), Some(Duration::ZERO));
        assert_eq!(rise.give(at(60), time), WHOLE);
        assert_eq!(rise.until_next(at(61), time), None);
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
