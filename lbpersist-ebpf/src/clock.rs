//! The time of the tables.
#![expect(unsafe_code, reason = "the clock is a helper of the kernel")]

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

use crate::maps::LAYOUT;

/// Nanoseconds of `CLOCK_MONOTONIC`, as of the last tick: exact to a few milliseconds and a fraction of the cost of the
/// fine clock. Tests shift it.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper takes nothing and only returns a number.
    let ticked = unsafe { bpf_ktime_get_coarse_ns() };
    let offset = LAYOUT.get(0).map_or(0, |layout| layout.clock_offset_ns);
    ticked.wrapping_add(offset)
}
