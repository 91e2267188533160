//! Atomic changes of 64-bit words in maps.
//!
//! `core::sync::atomic` has no read-modify-write for BPF, although the instruction set has (`BPF_ATOMIC`, kernel file
//! Documentation/bpf/standardization/instruction-set.rst). These are its instructions.
#![expect(unsafe_code, reason = "the instructions are written as assembly")]

use core::arch::asm;

/// Adds `value`; a negative number in two's complement subtracts.
///
/// # Safety
///
/// `place` must be an aligned word of a map value that a lookup in this run returned.
#[inline(always)]
pub(crate) unsafe fn add(place: *mut u64, value: u64) {
    // SAFETY: the caller's promise; the instruction touches that word only.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) place, in(reg) value) };
}

/// Adds 1 and returns what there was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn next(place: *mut u64) -> u64 {
    let was: u64;
    // SAFETY: the caller's promise; the instruction touches that word only, and leaves the old one in its register.
    unsafe {
        asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) place,
             inlateout(reg) 1_u64 => was);
    }
    was
}

/// Sets the bits of `value`.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn or(place: *mut u64, value: u64) {
    // SAFETY: the caller's promise; the instruction touches that word only.
    unsafe { asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) place, in(reg) value) };
}

/// Stores `new` if the word is `expected`, and says whether it was.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub(crate) unsafe fn exchange(place: *mut u64, expected: u64, new: u64) -> bool {
    let was: u64;
    // SAFETY: the caller's promise; the instruction compares with r0 and leaves the old word there.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) place, in(reg) new,
             inlateout("r0") expected => was);
    }
    was == expected
}
