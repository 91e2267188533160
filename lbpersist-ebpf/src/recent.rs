//! UDP flows that were looked up a moment ago: see [`lbpersist_common::recent`].
#![expect(unsafe_code, reason = "cells are read and written where they lie, through pointers")]

use core::arch::asm;

use lbpersist_common::{
    hash,
    recent::{CELLS, Line, Mark, lasting_ticks},
    service::Pool,
};

use crate::{clock, maps::RECENT_FLOWS, parse::Flow};

/// Whether the tables have heard of this flow a moment ago.
#[inline(always)]
pub(crate) fn is_known(flow: &Flow, pool: &Pool) -> bool {
    let ticks = lasting_ticks(pool.udp_idle_ns);
    ticks != 0 && flow_is_known(hash::flow(&flow.from, &flow.to), clock::now_ns(), ticks) != 0
}

/// Notes that the tables have heard of this flow.
#[inline(always)]
pub(crate) fn note(flow: &Flow, pool: &Pool, now: u64) {
    let ticks = lasting_ticks(pool.udp_idle_ns);
    if ticks != 0 {
        note_flow(hash::flow(&flow.from, &flow.to), now, ticks);
    }
}

/// A global function, which the verifier looks at once and not for every way that leads here.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_is_known(hash: u64, now: u64, ticks: u32) -> u32 {
    let mark = Mark::of(hash, now);
    let Some(line) = RECENT_FLOWS.get_ptr_mut(mark.line) else { return 0 };
    let holds = |value| mark.owns(value) && mark.is_fresh(value, ticks);
    if holds(Cells(line).read(mark.cell)) {
        return 1;
    }
    let mut cell = 0;
    while next(&mut cell) {
        if holds(Cells(line).read(cell - 1)) {
            return 1;
        }
    }
    0
}

/// Its own cell if it has one, or the one it prefers, or one whose flow is old; the preferred one also if all are taken.
// SAFETY: no other symbol is called so.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_flow(hash: u64, now: u64, ticks: u32) -> u32 {
    let mark = Mark::of(hash, now);
    let Some(line) = RECENT_FLOWS.get_ptr_mut(mark.line) else { return 0 };
    let preferred = Cells(line).read(mark.cell);
    let mut place = mark.cell;
    if !mark.owns(preferred) && mark.is_fresh(preferred, ticks) {
        let mut cell = 0;
        while next(&mut cell) {
            let value = Cells(line).read(cell - 1);
            if mark.owns(value) {
                place = cell - 1;
                break;
            }
            if !mark.is_fresh(value, ticks) {
                place = cell - 1;
            }
        }
    }
    Cells(line).write(place, mark.value);
    1
}

/// The cells of a line that was looked up in this run.
#[derive(Clone, Copy)]
struct Cells(*mut Line);

impl Cells {
    #[inline(always)]
    fn read(self, cell: u32) -> u32 {
        // SAFETY: one of the line's cells; volatile, because other CPUs write them.
        unsafe { self.0.cast::<u32>().add(cell as usize % CELLS).read_volatile() }
    }

    #[inline(always)]
    fn write(self, cell: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe { self.0.cast::<u32>().add(cell as usize % CELLS).write_volatile(value) };
    }
}

/// Goes on to the next cell, counted from 1. Unrolled, the loop would need a stack of its own for what it computes ahead, and so the
/// compiler must not know what the count is.
#[inline(always)]
fn next(cell: &mut u32) -> bool {
    let mut count = u64::from(*cell);
    // SAFETY: adds one to a number.
    unsafe { asm!("{0} += 1", inout(reg) count, options(pure, nomem, nostack, preserves_flags)) };
    *cell = count as u32;
    *cell <= CELLS as u32
}
