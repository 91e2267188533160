//! The budget of new keys, so that a flood from addresses that nobody has cannot push earned entries out of the tables.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use lbpersist_common::{
    counter::Event,
    flood::{self, Spent},
    net::Address,
    rare::Rare,
};

use crate::{
    count,
    maps::{FLOOD_LIMITS, SPENT, SPENT_BY_PREFIX},
    rare,
};

/// Whether a record may be made for a new client, whose address is not proven. Otherwise it is served from the ring.
#[inline(always)]
pub(crate) fn allows(client: &Address, now: u64) -> bool {
    let [high, low] = client.words();
    take_new_key(high, low, now) != 0
}

/// A global function, which the verifier looks at once. CPUs that count at the same moment may allow a few more.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_new_key(high: u64, low: u64, now: u64) -> u32 {
    let Some(limits) = FLOOD_LIMITS.get(0) else { return 1 };
    let client = Address::from_words([high, low]);
    let prefix =
        client.masked(if client.is_ipv4() { &limits.ipv4_mask } else { &limits.ipv6_mask });
    let window = flood::window(now);
    if !of_prefix(&prefix, window, limits.of_prefix) || !in_all(window, limits.all) {
        count::event(Event::BudgetSpent);
        rare::note(Rare::BudgetSpent, now);
        return 0;
    }
    1
}

#[inline(always)]
fn of_prefix(prefix: &Address, window: u32, limit: u32) -> bool {
    match SPENT_BY_PREFIX.get_ptr_mut(prefix) {
        // SAFETY: `place` came from a lookup in this run.
        Some(place) => unsafe { (*place).take(window, limit) },
        None => SPENT_BY_PREFIX.insert(prefix, &Spent { window, keys: 1 }, 0).is_ok() && limit > 0,
    }
}

#[inline(always)]
fn in_all(window: u32, limit: u32) -> bool {
    let Some(place) = SPENT.get_ptr_mut(0) else { return true };
    // SAFETY: as in `of_prefix`.
    unsafe { (*place).take(window, limit) }
}
