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

/// A time in seconds since 1970, to a millisecond (civil_from_days of Howard Hinnant, "chrono-compatible low-level date
/// algorithms").
pub fn time_text(time: f64) -> String {
    let ms = (time.max(0.0) * 1e3).round() as u64;
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let seconds = of_day / 1_000;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let part = of_day % 1_000;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{part:03}")
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

    #[test]
    fn times_are_written_as_people_do() {
        for (time, text) in [
            (0.0, "1970-01-01 00:00:00.000"),
            (951_782_399.999, "2000-02-28 23:59:59.999"),
            (951_782_400.0, "2000-02-29 00:00:00.000"),
            (1_796_083_199.25, "2026-11-30 23:59:59.250"),
            (4_107_542_400.0, "2100-03-01 00:00:00.000"),
        ] {
            assert_eq!(time_text(time), text);
        }
    }
}
