//! How many connections each server has open, and how many it may.
#![expect(unsafe_code, reason = "map values are changed where they lie, through pointers")]

use lbpersist_common::server::{Binding, Load};

use crate::{
    atomic,
    maps::{SERVER_LIMITS, SERVER_LOAD, SERVERS},
};

/// Counts a connection that opens.
#[inline(always)]
pub(crate) fn opened(binding: Binding) {
    if let Some(place) = place(binding) {
        // SAFETY: `place` came from a lookup in this run; a load is one aligned word.
        unsafe { atomic::add(place.cast(), Load::OPENED) };
    }
}

/// Counts a connection that closes.
#[inline(always)]
pub(crate) fn closed(binding: Binding) {
    let Some(place) = place(binding) else { return };
    // SAFETY: as in `opened`. Two that close at the same time may both see the last one; the sweep puts that right.
    unsafe {
        if (*place).open > 0 {
            atomic::add(place.cast(), Load::CLOSED);
        }
    }
}

/// Open connections of server `number`.
#[inline(always)]
pub(crate) fn open(number: u32) -> u32 {
    SERVER_LOAD.get(number).map_or(0, |load| load.open)
}

/// Whether server `number` has as many connections as it may.
#[inline(always)]
pub(crate) fn is_full(number: u32) -> bool {
    let limit = SERVER_LIMITS.get(number).copied().unwrap_or(0);
    limit != 0 && open(number) >= limit
}

/// Where the connections of a server are counted, unless its number has been given to another one.
#[inline(always)]
fn place(binding: Binding) -> Option<*mut Load> {
    let server = SERVERS.get(binding.server)?;
    if server.generation != binding.generation {
        return None;
    }
    SERVER_LOAD.get_ptr_mut(binding.server)
}
