//! Whether a server is up: for one monitor from what its checks said one after another, for several from the word of each.
//!
//! No clock and no socket. It takes `rise` passed checks in a row to bring a server up and `fall` failed ones to take it down.

use std::collections::BTreeSet;

use crate::model::{HealthRule, Pool};

/// Whether a server of `pool` is up when the monitors in `failing` say that it is down. Those the pool does not have do not
/// count.
pub fn is_up(pool: &Pool, failing: Option<&BTreeSet<String>>) -> bool {
    let Some(failing) = failing else { return true };
    let mut says_down =
        pool.health_monitors.iter().map(|monitor| failing.contains(&monitor.name)).peekable();
    match pool.health_rule {
        HealthRule::All => !says_down.any(|down| down),
        HealthRule::Any => says_down.peek().is_none() || !says_down.all(|down| down),
    }
}

/// Judges one server for one monitor.
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

    /// How many checks in a row have spoken against the state; while there are some, the state may be changing.
    pub fn against(&self) -> u32 {
        self.against
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

    #[test]
    fn all_or_any_of_the_monitors_decide() {
        for (rule, monitors, failing, expected) in [
            (HealthRule::All, "ab", "", true),
            (HealthRule::All, "ab", "a", false),
            (HealthRule::All, "ab", "ab", false),
            (HealthRule::Any, "ab", "", true),
            (HealthRule::Any, "ab", "a", true),
            (HealthRule::Any, "ab", "ab", false),
            (HealthRule::Any, "", "a", true),
            (HealthRule::All, "", "a", true),
            // What a monitor said that was taken away.
            (HealthRule::All, "ab", "c", true),
            (HealthRule::Any, "ab", "ac", true),
        ] {
            let names = |letters: &str| letters.chars().map(String::from).collect::<Vec<_>>();
            let list = names(monitors).iter().map(|name| format!("{name:?}")).collect::<Vec<_>>();
            let mut text = format!(
                "[[pool]]\nname = \"p\"\nservers = [{{ address = \"10.0.0.1\" }}]\nhealth_monitors = [{}]\n",
                list.join(", ")
            );
            for name in names("ab") {
                text += &format!("[[health_monitor]]\nname = \"{name}\"\n");
            }
            let mut pool = crate::config::parse(&text).unwrap().pools["p"].clone();
            pool.health_rule = rule;
            let failing: BTreeSet<String> = names(failing).into_iter().collect();
            assert_eq!(is_up(&pool, Some(&failing)), expected, "{rule:?} {monitors} {failing:?}");
            assert!(is_up(&pool, None));
        }
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
