//! Telling of rare events in words, by aya-log.
//!
//! What notes one is deep in the program, where the stack is used up, so it leaves a bit in memory of its CPU. Packets that have
//! been to the tables look there on their way out, when that stack is free again; no other packet does. The buffer takes no more
//! when nobody reads it, and never a verdict depends on it.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use aya_log_ebpf::warn;
use lbpersist_common::rare::Rare;

use crate::maps::RARE;

/// Notes that something rare has happened.
#[inline(always)]
pub(crate) fn note(rare: Rare, now_ns: u64) {
    if let Some(place) = RARE.get_ptr_mut(0) {
        // SAFETY: the place is this CPU's own, and XDP programs on one CPU run one after the other.
        unsafe { (*place).note(rare, now_ns) };
    }
}

/// Tells what was noted.
#[inline(always)]
pub(crate) fn tell() {
    let Some(place) = RARE.get_ptr_mut(0) else { return };
    // SAFETY: as in `note`.
    let bits = unsafe { (*place).bits };
    if bits != 0 {
        // SAFETY: as in `note`.
        unsafe { (*place).bits = 0 };
        tell_rarely(bits);
    }
}

/// A global function, which the verifier looks at once.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_rarely(bits: u32) -> u32 {
    if bits & (1 << Rare::BudgetSpent as u32) != 0 {
        tell_budget();
    }
    if bits & (1 << Rare::TableRefused as u32) != 0 {
        tell_table();
    }
    if bits & (1 << Rare::PortsExhausted as u32) != 0 {
        tell_ports();
    }
    0
}

// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_budget() -> u32 {
    warn!((), target: "", "more new clients than `flood_limits` allow; some are served without an entry");
    0
}

// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_table() -> u32 {
    warn!((), target: "", "a table takes no record; its clients are served from the ring");
    0
}

// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_ports() -> u32 {
    warn!((), target: "", "every port towards a server is taken; new clients of it are refused");
    0
}
