//! The clock of the tables.
#![expect(unsafe_code, reason = "clock_gettime(2) takes an address")]

/// Nanoseconds of `CLOCK_MONOTONIC`, which the program counts in as well, though it reads them as of the last tick.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the address of a value of the right type; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or_default()
}
