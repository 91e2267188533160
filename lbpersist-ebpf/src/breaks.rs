//! Breaks: live clients that meet another server than the one they were bound to. Counted and noted; nothing here changes a
//! verdict.
//!
//! What is known of a break is put together in a record of its own, which global functions complete: the ways that lead here
//! have used most of the stack, and the verifier looks at such functions once.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use lbpersist_common::{
    breaks::{self, BreakReason, BreakRecord, BreakState, Ghost, GhostSet, REMEMBERED, WAYS},
    net::Address,
    persistence::EntryKey,
    server::{Binding, by_hand, state},
};

use crate::{
    atomic,
    maps::{BREAK_STATE, BREAKING, BREAKS, GHOSTS, LAST_BREAKS, SERVERS},
    select::Visit,
};

/// A live client loses its server to another one. If it serves all the same, it has no room (`if_serves` is 1), or it was down a
/// moment ago (0).
#[inline(always)]
pub(crate) fn lost(visit: &Visit<'_>, before: Binding, after: Binding, if_serves: u32, now: u64) {
    if before != after && hand(visit, before, after, now) {
        let _ = break_by_loss(if_serves);
    }
}

/// A client without an entry is bound: it may have had one.
#[inline(always)]
pub(crate) fn bound(visit: &Visit<'_>, after: Binding, now: u64) {
    if state().is_some_and(|state| now < state.lost_until_ns) && hand(visit, after, after, now) {
        let _ = break_by_ghost(0);
    }
}

/// A client uses its entry: it may be another one than before, made by hand.
#[inline(always)]
pub(crate) fn used(visit: &Visit<'_>, after: Binding, now: u64) {
    if state().is_some_and(|state| now < state.moved_until_ns) && hand(visit, after, after, now) {
        let _ = break_by_ghost(1);
    }
}

#[inline(always)]
fn state() -> Option<&'static BreakState> {
    BREAK_STATE.get(0)
}

/// The place of the counters of a service whose breaks are counted elsewhere: the daemon does it for those it carries.
pub(crate) const ELSEWHERE: u32 = u32::MAX;

/// Puts down what is known of a break; false if it is counted elsewhere.
#[inline(always)]
fn hand(visit: &Visit<'_>, before: Binding, after: Binding, now: u64) -> bool {
    let (before, after) = (bytemuck::cast(before), bytemuck::cast(after));
    hand_over(&visit.entry, before, after, now, visit.service.index) != 0
}

/// A function of its own, since the stack that its stores would need is not there.
#[inline(never)]
fn hand_over(key: &EntryKey, before: u64, after: u64, now: u64, service_index: u32) -> u32 {
    if service_index == ELSEWHERE {
        return 0;
    }
    let Some(place) = BREAKING.get_ptr_mut(0) else { return 0 };
    // SAFETY: the place is this CPU's own, and XDP programs on one CPU run one after the other.
    let record = unsafe { &mut *place };
    record.time_ns = now;
    record.key = *key;
    record.before = bytemuck::cast(before);
    record.after = bytemuck::cast(after);
    record.service_index = service_index;
    1
}

/// Completes the break of a client whose server is down, gone or full.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn break_by_loss(if_serves: u32) -> u32 {
    let Some(place) = BREAKING.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `hand`.
    let record = unsafe { &mut *place };
    // It may have a ghost as well, since the table is nearly full. That has had its break.
    if state().is_some_and(|state| record.time_ns < state.lost_until_ns) {
        let _ = take_ghost(record);
    }
    let reason = reason_of_loss(record.before, if_serves != 0);
    settle(record, reason as u32)
}

/// Completes the break of a client whose entry is gone, if it is one.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn break_by_ghost(is_only_moved: u32) -> u32 {
    let Some(place) = BREAKING.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `hand`.
    let record = unsafe { &mut *place };
    let Some(ghost) = take_ghost(record) else { return 0 };
    let reason = u32::from(ghost.reason);
    let is_meant = is_only_moved == 0 || reason == BreakReason::Moved as u32;
    if !is_meant || !ghost.is_live(record.time_ns) || ghost.binding() == record.after {
        return 0;
    }
    record.before = ghost.binding();
    settle(record, reason)
}

/// Why a live client does not stay with a server that has room.
#[inline(always)]
fn reason_of_loss(before: Binding, is_full: bool) -> BreakReason {
    let Some(server) = SERVERS.get(before.server) else { return BreakReason::Removed };
    if server.generation != before.generation || server.state == state::ABSENT {
        return BreakReason::Removed;
    }
    let (said, _) = by_hand::unpack(server.by_hand);
    match server.state {
        state::DISABLED => BreakReason::Disabled,
        state::DOWN if said == by_hand::DRAINING => BreakReason::Drained,
        state::UP | state::DRAINING if is_full => BreakReason::Limit,
        // Up again since the client's SYN went to another one.
        _ => BreakReason::Down,
    }
}

/// The ghost of the record's key, which is nobody else's from then on.
#[inline(always)]
fn take_ghost(record: &BreakRecord) -> Option<Ghost> {
    let (set, fingerprint) = breaks::place(&record.key, state()?.sets);
    let set: *mut GhostSet = GHOSTS.get_ptr_mut(set)?;
    for way in 0..WAYS {
        // SAFETY: `set` came from a lookup in this run; a ghost is two aligned words.
        let place = unsafe { (&raw mut (*set).ghosts[way]).cast::<u64>() };
        // SAFETY: as above; volatile, because the daemon writes at any time. A ghost that is replaced between the two reads
        // is not taken, because its first word is another one then.
        let words = unsafe { [place.read_volatile(), place.add(1).read_volatile()] };
        let ghost = Ghost::from_words(words);
        if ghost.fingerprint == fingerprint {
            // SAFETY: as above.
            return unsafe { atomic::exchange(place, words[0], 0) }.then_some(ghost);
        }
    }
    None
}

/// Counts the break and notes it among the last ones.
#[inline(always)]
fn settle(record: &mut BreakRecord, reason: u32) -> u32 {
    record.reason = reason;
    note_address(record.before, &mut record.before_address, &mut record.before_port);
    note_address(record.after, &mut record.after_address, &mut record.after_port);
    if let Some(counters) = BREAKS.get_ptr_mut(record.service_index) {
        // The verifier sees a remainder, and loses sight of a comparison.
        let place = reason as usize % BreakReason::CAPACITY;
        // SAFETY: `counters` came from a lookup in this run, and the place is within it.
        unsafe { atomic::add((&raw mut (*counters).by_reason[place]).cast(), 1) };
    }
    let Some(state) = BREAK_STATE.get_ptr_mut(0) else { return 0 };
    // SAFETY: `state` came from a lookup in this run.
    let number = unsafe { atomic::next(&raw mut (*state).breaks) };
    let Some(place) = LAST_BREAKS.get_ptr_mut(number as u32 % REMEMBERED) else { return 0 };
    // SAFETY: `place` came from a lookup in this run. Whoever reads a record whose number has changed meanwhile reads it
    // again.
    unsafe {
        (&raw mut (*place).number).write_volatile(0);
        let (from, to) = ((&raw const *record).cast::<u64>(), place.cast::<u64>());
        // Word by word, as copying is a call too; all but the number.
        for word in 1..size_of::<BreakRecord>() / size_of::<u64>() {
            to.add(word).write_volatile(from.add(word).read());
        }
        (&raw mut (*place).number).write_volatile(number + 1);
    }
    1
}

#[inline(always)]
fn note_address(binding: Binding, address: &mut Address, port: &mut u16) {
    let known = SERVERS.get(binding.server);
    let known = known.filter(|server| server.generation == binding.generation);
    let [high, low] = known.map_or([0; 2], |server| server.address.words());
    *port = known.map_or(0, |server| server.port);
    let words = (&raw mut *address).cast::<u64>();
    // SAFETY: an address is two aligned words. Written one by one, because copying and filling memory are calls, for which there is
    // no stack left.
    unsafe {
        words.write_volatile(high);
        words.add(1).write_volatile(low);
    }
}
