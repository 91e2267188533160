//! Waiting without fixed sleeps, and leaving out tests that this machine cannot run.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use crate::sys;

const POLL: Duration = Duration::from_millis(20);

/// How long anything may take that should take no time worth speaking of.
pub const SOON: Duration = Duration::from_secs(10);

/// Asks `probe` until it returns a value, [`SOON`].
///
/// # Panics
/// With `what` when it never does.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Asks `probe` until it says yes, [`SOON`].
///
/// # Panics
/// With `what` when it never does.
pub fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}

/// Asks `probe` again and again for `duration`: it must say yes every time.
///
/// # Panics
/// With `what` as soon as it does not.
pub fn throughout(duration: Duration, what: &str, mut probe: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < duration {
        assert!(probe(), "after {:?} of {duration:?} no longer: {what}", start.elapsed());
        thread::sleep(POLL);
    }
}

/// Says on standard error, past the capture of the test runner, that the test of this thread is left out.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("a test");
    // The macros are captured, the handle is not. Nothing can be done if even this fails.
    let _ = writeln!(std::io::stderr(), "SKIP {name}: {reason}");
}

/// Whether the test may make namespaces; if not, it says that it is left out.
pub fn is_root_or_skip() -> bool {
    let root = sys::is_root();
    if !root {
        skip("it makes network namespaces, which needs root");
    }
    root
}
