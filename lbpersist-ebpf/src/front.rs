//! The addresses that services are on.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use lbpersist_common::{front::Front, net::Address};

use crate::maps::FRONTS;

/// What is known of an address, if services are on it.
#[inline(always)]
pub(crate) fn of(address: &Address) -> Option<Front> {
    // SAFETY: copied out at once.
    unsafe { FRONTS.get(address) }.copied()
}
