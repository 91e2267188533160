//! What is counted of requests and their cookies.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::token::Refusal;

/// What is counted. Numbers are places in [`Counters`]; the first are those of [`Refusal`]; append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A cookie, or an entry, named a server that is no longer there.
    UnknownServer = 7,
    /// A request had more than one cookie of our name.
    Doubled = 8,
    /// A client's server was down, and it was given another one.
    Down = 9,
    /// A client's server had no room, and it was given another one.
    Full = 10,
    /// A client's server was down, and it was refused.
    Refused = 11,
    /// A client's server had no room, and it was refused.
    RefusedFull = 12,
}

/// Names of what is counted, by number. None is the name of an outcome, beside which they stand in `status`.
pub const EVENTS: [&str; 13] = [
    "cookie_malformed",
    "cookie_oversized",
    "cookie_version",
    "cookie_unknown_key",
    "cookie_forged",
    "cookie_expired",
    "cookie_future",
    "unknown_server",
    "cookie_doubled",
    "moved_down",
    "moved_full",
    "refused",
    "refused_full",
];

/// What has happened, by number.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; EVENTS.len()]);

impl Counters {
    /// How often each has happened.
    pub fn counts(&self) -> [u64; EVENTS.len()] {
        std::array::from_fn(|place| self.0[place].load(Relaxed))
    }

    pub(super) fn count(&self, event: Event) {
        self.0[event as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Relaxed);
    }
}
