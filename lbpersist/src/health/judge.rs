//! Whether a server is up, from what its checks said one after another.
//!
//! No clock and no socket. It takes `rise` passed checks in a row to bring a server up and `fall` failed ones to take it down.

/// Judges one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    rise: u32,
    fall: u32,
    up: bool,
    /// Checks in a row that spoke against `up`; always below the limit that would change it.
    against: u32,
}

/// A change of mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The server was down and is up.
    Up,
    /// The server was up and is down.
    Down,
}

impl Judge {
    /// A judge that has heard nothing yet. A limit of 0 counts as 1.
    pub fn new(rise: u32, fall: u32, initially_up: bool) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), up: initially_up, against: 0 }
    }

    /// Whether the server counts as up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Hears one more check.
    pub fn observe(&mut self, passed: bool) -> Option<Change> {
        if passed == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let limit = if self.up { self.fall } else { self.rise };
        if self.against < limit {
            return None;
        }
        self.against = 0;
        self.up = passed;
        Some(if passed { Change::Up } else { Change::Down })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a judge says to `+` for passed and `-` for failed.
    fn hear(judge: &mut Judge, checks: &str) -> Vec<Option<Change>> {
        checks.chars().map(|check| judge.observe(check == '+')).collect()
    }

    #[test]
    fn fall_failures_in_a_row_take_it_down_and_rise_passes_bring_it_up() {
        let mut judge = Judge::new(2, 3, true);
        assert_eq!(hear(&mut judge, "---"), [None, None, Some(Change::Down)]);
        assert!(!judge.is_up());
        assert_eq!(hear(&mut judge, "-++"), [None, None, Some(Change::Up)]);
        assert!(judge.is_up());
    }

    #[test]
    fn one_answer_to_the_contrary_begins_the_count_anew() {
        let mut judge = Judge::new(2, 3, true);
        assert_eq!(hear(&mut judge, "--+--+--"), [None; 8]);
        assert_eq!(judge.observe(false), Some(Change::Down));
        assert_eq!(hear(&mut judge, "+-+-+"), [None; 5]);
        assert_eq!(judge.observe(true), Some(Change::Up));
    }

    #[test]
    fn a_limit_of_one_follows_every_answer() {
        let mut judge = Judge::new(1, 1, false);
        let (up, down) = (Some(Change::Up), Some(Change::Down));
        assert_eq!(hear(&mut judge, "+-+"), [up, down, up]);
        assert_eq!(Judge::new(0, 0, true).observe(false), down);
    }

    proptest! {
        /// The whole history told again at every step: a change is due if the last `limit` answers since the last
        /// change were all against the state.
        #[test]
        fn a_change_takes_exactly_its_limit(
            rise in 1u32..5,
            fall in 1u32..5,
            initially_up: bool,
            checks in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut judge = Judge::new(rise, fall, initially_up);
            let mut up = initially_up;
            let mut since = 0;
            for (at, passed) in checks.iter().enumerate() {
                let limit = if up { fall } else { rise } as usize;
                let heard = &checks[since..=at];
                let due = heard.len() >= limit
                    && heard[heard.len() - limit..].iter().all(|passed| *passed != up);
                if due {
                    up = !up;
                    since = at + 1;
                }
                let change = judge.observe(*passed);
                let expected = due.then_some(if up { Change::Up } else { Change::Down });
                prop_assert_eq!(change, expected);
                prop_assert_eq!(judge.is_up(), up);
            }
        }
    }
}
