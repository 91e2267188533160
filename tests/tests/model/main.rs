//! The rules of persistence, written once more in plain Rust with a clock of their own (`rules`), against the real program:
//! random sequences of events happen to both, and every verdict and every table must be the same.
//!
//! `LBPERSIST_MODEL_CASES` says how many sequences are tried. A disagreement is printed as the shortest sequence that
//! still shows it; once mended, it is kept in `found`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod drive;
mod events;
mod found;
mod rules;
#[path = "../rows/setup.rs"]
#[expect(dead_code, reason = "the rows use the rest of it")]
mod setup;

use lbpersist_tests::rig::Rig;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

use crate::events::Case;

const CASES: u32 = 200;
/// Numbers of servers are not used again before all were used, so that a rig slows down with time.
const CASES_OF_A_RIG: u32 = 400;

#[test]
fn the_program_follows_the_rules() {
    let Some(mut current) = rig() else { return };
    let wanted = std::env::var("LBPERSIST_MODEL_CASES").ok().and_then(|text| text.parse().ok());
    let mut runner = TestRunner::default();
    for number in 1..=wanted.unwrap_or(CASES) {
        if number % CASES_OF_A_RIG == 0 {
            current = rig().unwrap();
        }
        let case = events::cases().new_tree(&mut runner).unwrap().current();
        if drive::run(&mut current, &case).is_err() {
            let (case, what) = shorten(&mut current, case);
            panic!("case {number}: {what}\n{case:?}");
        }
    }
}

#[test]
fn what_was_found_stays_mended() {
    let Some(mut rig) = rig() else { return };
    for (shows, case) in found::cases() {
        if let Err(found) = drive::run(&mut rig, &case) {
            panic!("{shows}: {}", found.what);
        }
    }
}

fn rig() -> Option<Rig> {
    Rig::new(&drive::text(&[]), setup::network())
}

/// Leaves out whatever the disagreement does not need. proptest would change the events as well, one by one and slowly, which
/// makes them no easier to read.
fn shorten(rig: &mut Rig, mut case: Case) -> (Case, String) {
    let mut what = "it does not show again".to_owned();
    let mut shows = |case: &mut Case| match drive::run(rig, case) {
        Ok(()) => false,
        Err(found) => {
            case.events.truncate(found.events);
            what = found.what;
            true
        }
    };
    if !shows(&mut case) {
        return (case, what);
    }
    let mut size = case.events.len() / 2;
    while size > 0 {
        let mut from = 0;
        while from < case.events.len() {
            let mut shorter = case.clone();
            shorter.events.drain(from..(from + size).min(case.events.len()));
            if shows(&mut shorter) {
                case = shorter;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    (case, what)
}
