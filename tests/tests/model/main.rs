//! The rules of persistence, written once more in plain Rust with a clock of their own (`rules`), against the real program:
//! random sequences of events happen to both, and every verdict and every table must be the same.
//!
//! `LBPERSIST_MODEL_CASES` says how many sequences are tried. A disagreement is printed as the shortest sequence that
//! still shows it; once mended, it is kept in `found`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod budget;
mod drive;
mod events;
mod found;
mod plan;
mod rules;
#[path = "../rows/setup.rs"]
#[expect(dead_code, reason = "the rows use the rest of it")]
mod setup;
mod world;

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use lbpersist_tests::{rig::Rig, wait};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

use crate::{drive::Found, events::Case};

const CASES: u32 = 250;
/// Most of a case is waiting until no program reads an old ring, so several are under way at a time.
const WORKERS: u32 = 6;
/// Numbers of servers are not used again before all were used, so that a rig slows down with time.
const CASES_OF_A_RIG: u32 = 400;

#[test]
fn the_program_follows_the_rules() {
    if !wait::is_root_or_skip() {
        return;
    }
    let wanted = std::env::var("LBPERSIST_MODEL_CASES").ok().and_then(|text| text.parse().ok());
    let left = AtomicU32::new(wanted.unwrap_or(CASES));
    let found: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| work(&left))).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

/// How often a case is tried in which the program met its clock late.
const TRIES: u32 = 20;

/// Carries a case out, anew if it ends in a disagreement while the machine had the program wait.
fn punctual(rig: &mut Rig, case: &Case) -> Result<(), Found> {
    let mut tries = 1;
    loop {
        rig.take_late();
        let result = drive::run(rig, case);
        if result.is_ok() || !rig.take_late() || tries == TRIES {
            return result;
        }
        tries += 1;
    }
}

/// Tries cases until none is left, or one shows a disagreement, which it returns.
fn work(left: &AtomicU32) -> Option<String> {
    let mut rig = rig()?;
    let mut runner = TestRunner::default();
    for number in 1.. {
        left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok()?;
        if number % CASES_OF_A_RIG == 0 {
            rig = self::rig()?;
        }
        let case = events::cases().new_tree(&mut runner).unwrap().current();
        if let Err(first) = punctual(&mut rig, &case) {
            left.store(0, Relaxed);
            let (case, what) = shorten(&mut rig, case);
            return Some(format!("{what}\n{case:?}\nat first: {}", first.what));
        }
    }
    None
}

#[test]
fn what_was_found_stays_mended() {
    let Some(mut rig) = rig() else { return };
    let again: Vec<String> = found::cases()
        .iter()
        .filter_map(|(shows, case)| {
            punctual(&mut rig, case).err().map(|found| format!("{shows}: {}", found.what))
        })
        .collect();
    assert!(again.is_empty(), "{}", again.join("\n\n"));
}

fn rig() -> Option<Rig> {
    Rig::new(&plan::text(&[], &budget::Budget::default()), setup::network())
}

/// Leaves out whatever the disagreement does not need. proptest would change the events as well, one by one and slowly, which
/// makes them no easier to read.
fn shorten(rig: &mut Rig, mut case: Case) -> (Case, String) {
    let mut what = "it does not show again".to_owned();
    let mut shows = |case: &mut Case| match punctual(rig, case) {
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
