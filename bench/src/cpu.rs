//! Keeps the measurement on one CPU.
#![expect(
    unsafe_code,
    reason = "sched_setaffinity(2) and clock_gettime(2) take addresses, sched_getcpu(3) is foreign"
)]

use std::{io, time::Duration};

use anyhow::{Context as _, Result};

/// The last CPU this thread may use, which interrupts meet less often than the first.
pub(crate) fn last() -> Result<usize> {
    usable()?.last().copied().context("no CPU may be used")
}

/// The first CPU this thread may use.
pub(crate) fn first() -> Result<usize> {
    usable()?.first().copied().context("no CPU may be used")
}

/// The CPUs that this thread may use.
fn usable() -> Result<Vec<usize>> {
    // SAFETY: a set of bits, for which all zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the kernel writes at most `size` bytes to `set`.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut set) } != 0 {
        return Err(io::Error::last_os_error()).context("which CPUs may be used");
    }
    let all = libc::CPU_SETSIZE as usize;
    // SAFETY: the number is below the size of the set.
    Ok((0..all).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Has this thread stay on the last CPU it may use, and returns its number.
pub(crate) fn pin_to_last() -> Result<usize> {
    let cpu = last()?;
    // SAFETY: a set of bits, for which all zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: the number is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads `size` bytes of `set`.
    if unsafe { libc::sched_setaffinity(0, size, &raw const set) } != 0 {
        return Err(io::Error::last_os_error()).context("staying on one CPU");
    }
    Ok(cpu)
}

/// The CPU this runs on.
pub(crate) fn current() -> Result<usize> {
    // SAFETY: takes nothing and returns a number.
    let cpu = unsafe { libc::sched_getcpu() };
    usize::try_from(cpu).context("which CPU this is")
}

/// CPU time that this thread has spent.
pub(crate) fn spent_by_thread() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("CPU time of a thread");
    }
    let nanoseconds = u32::try_from(time.tv_nsec).context("more than a second of nanoseconds")?;
    Ok(Duration::new(u64::try_from(time.tv_sec).context("a negative time")?, nanoseconds))
}
