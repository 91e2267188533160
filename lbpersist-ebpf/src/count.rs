//! Counting. Nothing here can fail, and nothing here changes a verdict.
#![expect(unsafe_code, reason = "counters are reached through pointers into per-CPU maps")]

use lbpersist_common::{
    counter::{Event, ServerCounters, ServiceCounters},
    rare::Rare,
    reason::Reason,
};

use crate::{
    maps::{EVENTS, SERVER_STATS, SERVICE_STATS, VERDICTS},
    rare,
};

/// Counts a packet under `reason`.
#[inline(always)]
pub(crate) fn verdict(reason: Reason) {
    if let Some(count) = VERDICTS.get_ptr_mut(reason as u32) {
        // SAFETY: the place is this CPU's own, and XDP programs on one CPU run one after the other.
        unsafe { *count += 1 };
    }
}

/// Counts `event`.
#[inline(always)]
pub(crate) fn event(event: Event) {
    if let Some(count) = EVENTS.get_ptr_mut(event as u32) {
        // SAFETY: as in `verdict`.
        unsafe { *count += 1 };
    }
}

/// Changes the counters of the service at `index`.
#[inline(always)]
pub(crate) fn service(index: u32, change: impl FnOnce(&mut ServiceCounters)) {
    if let Some(counters) = SERVICE_STATS.get_ptr_mut(index) {
        // SAFETY: as in `verdict`.
        change(unsafe { &mut *counters });
    }
}

/// Changes the counters of server `number`.
#[inline(always)]
pub(crate) fn server(number: u32, change: impl FnOnce(&mut ServerCounters)) {
    if let Some(counters) = SERVER_STATS.get_ptr_mut(number) {
        // SAFETY: as in `verdict`.
        change(unsafe { &mut *counters });
    }
}

/// Counts a record that a table did not take.
#[inline(always)]
pub(crate) fn table_refused(now_ns: u64) {
    event(Event::TableRefused);
    rare::note(Rare::TableRefused, now_ns);
}
