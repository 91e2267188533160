//! The clocks: of the tables, and of whatever asks so often that a precise one would cost too much.
#![expect(unsafe_code, reason = "clock_gettime(2) takes an address")]

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

/// Nanoseconds of `CLOCK_MONOTONIC`, which the program counts in as well, though it reads them as of the last tick.
pub fn now_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Milliseconds since 1970, as of the kernel's last tick.
pub fn unix_ms() -> u64 {
    read(libc::CLOCK_REALTIME_COARSE) / 1_000_000
}

/// [`Instant::now`] as of the kernel's last tick, some milliseconds ago: never later than that, and for a tenth of its cost.
pub fn tick() -> Instant {
    /// The same moment by both clocks.
    static BASE: OnceLock<(Instant, u64)> = OnceLock::new();
    let (instant, ns) = *BASE.get_or_init(|| {
        let instant = Instant::now();
        (instant, read(libc::CLOCK_MONOTONIC))
    });
    let tick = now_ns();
    match tick.checked_sub(ns) {
        Some(later) => instant + Duration::from_nanos(later),
        None => instant - Duration::from_nanos(ns - tick),
    }
}

const NANOSECONDS: u64 = 1_000_000_000;

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the address of a value of the right type; the clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or_default() * NANOSECONDS
        + u64::try_from(time.tv_nsec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tick_is_a_little_ago_and_never_to_come() {
        for _ in 0..1_000 {
            let (tick, now) = (tick(), Instant::now());
            assert!(tick <= now && now - tick < Duration::from_millis(500));
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(tick() + Duration::from_millis(500) > Instant::now());
    }
}
