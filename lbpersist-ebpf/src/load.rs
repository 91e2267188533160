//! Words of a packet, whatever their alignment.
//!
//! The compiler reads a field of alignment 1 byte by byte. The kernels that lbpersist runs on read a word from any
//! address of a packet in one go, and the verifier allows it there, so these are its instructions.
#![expect(unsafe_code, reason = "the instructions are written as assembly")]

use core::arch::asm;

use lbpersist_common::net::{Address, FrameAddresses};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

/// Four bytes, in the machine's byte order.
#[inline(always)]
pub(crate) fn u32(bytes: &[u8; 4]) -> u32 {
    let word: u64;
    // SAFETY: reads the four bytes of the reference and nothing else.
    unsafe {
        asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) bytes.as_ptr(),
             options(pure, readonly, nostack, preserves_flags));
    }
    word as u32
}

/// An IPv4 header without its options, four bytes at a time.
#[inline(always)]
pub(crate) fn ipv4_words(header: &Ipv4Hdr) -> &[[u8; 4]; 5] {
    const { assert!(size_of::<Ipv4Hdr>() == 20) };
    // SAFETY: both are twenty bytes of alignment 1, valid for every bit pattern.
    unsafe { &*core::ptr::from_ref(header).cast() }
}

/// Sixteen bytes.
#[inline(always)]
pub(crate) fn address(bytes: &[u8; 16]) -> Address {
    let (first, second): (u64, u64);
    // SAFETY: reads the sixteen bytes of the reference and nothing else.
    unsafe {
        asm!("{0} = *(u64 *)({1} + 0)", out(reg) first, in(reg) bytes.as_ptr(),
             options(pure, readonly, nostack, preserves_flags));
        asm!("{0} = *(u64 *)({1} + 8)", out(reg) second, in(reg) bytes.as_ptr(),
             options(pure, readonly, nostack, preserves_flags));
    }
    Address::from_words([first, second])
}

/// Replaces sixteen bytes.
#[inline(always)]
pub(crate) fn set_address(bytes: &mut [u8; 16], address: &Address) {
    let [first, second] = address.words();
    // SAFETY: writes the sixteen bytes of the reference and nothing else.
    unsafe {
        asm!("*(u64 *)({0} + 0) = {1}", in(reg) bytes.as_mut_ptr(), in(reg) first,
             options(nostack, preserves_flags));
        asm!("*(u64 *)({0} + 8) = {1}", in(reg) bytes.as_mut_ptr(), in(reg) second,
             options(nostack, preserves_flags));
    }
}

/// Replaces four bytes, given in the machine's byte order.
#[inline(always)]
pub(crate) fn set_u32(bytes: &mut [u8; 4], word: u32) {
    // SAFETY: writes the four bytes of the reference and nothing else.
    unsafe {
        asm!("*(u32 *)({0} + 0) = {1}", in(reg) bytes.as_mut_ptr(), in(reg) u64::from(word),
             options(nostack, preserves_flags));
    }
}

/// Replaces both addresses of a frame.
#[inline(always)]
pub(crate) fn set_frame_addresses(frame: &mut EthHdr, addresses: &FrameAddresses) {
    let (first, last): (u64, u64);
    // SAFETY: reads the twelve bytes of `addresses` and writes the first twelve of `frame`, which lie in that order.
    unsafe {
        asm!("{0} = *(u64 *)({2} + 0)", "{1} = *(u32 *)({2} + 8)",
             out(reg) first, out(reg) last, in(reg) addresses,
             options(pure, readonly, nostack, preserves_flags));
        asm!("*(u64 *)({0} + 0) = {1}", "*(u32 *)({0} + 8) = {2}",
             in(reg) frame, in(reg) first, in(reg) last,
             options(nostack, preserves_flags));
    }
}
