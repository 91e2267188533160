//! Words of a packet, whatever their alignment.
//!
//! The compiler reads a field of alignment 1 byte by byte. The kernels that lbpersist runs on read a word from any
//! address of a packet in one go, and the verifier allows it there, so these are its instructions. On the host the
//! compiler knows by itself.
#![expect(unsafe_code, reason = "words are read and written by address")]

use lbpersist_common::net::{Address, FrameAddresses};
use network_types::{eth::EthHdr, ip::Ipv4Hdr};

/// Four bytes, in the machine's byte order.
#[inline(always)]
pub fn u32(bytes: &[u8; 4]) -> u32 {
    // SAFETY: reads the four bytes of the reference.
    unsafe { word::read_u32(bytes.as_ptr()) }
}

/// An IPv4 header without its options, four bytes at a time.
#[inline(always)]
pub fn ipv4_words(header: &Ipv4Hdr) -> &[[u8; 4]; 5] {
    const { assert!(size_of::<Ipv4Hdr>() == 20) };
    // SAFETY: both are twenty bytes of alignment 1, valid for every bit pattern.
    unsafe { &*core::ptr::from_ref(header).cast() }
}

/// Sixteen bytes.
#[inline(always)]
pub fn address(bytes: &[u8; 16]) -> Address {
    let place = bytes.as_ptr();
    // SAFETY: reads the sixteen bytes of the reference.
    let words = unsafe { [word::read_u64(place), word::read_u64(place.add(8))] };
    Address::from_words(words)
}

/// Replaces sixteen bytes.
#[inline(always)]
pub fn set_address(bytes: &mut [u8; 16], address: &Address) {
    let [first, second] = address.words();
    let place = bytes.as_mut_ptr();
    // SAFETY: writes the sixteen bytes of the reference.
    unsafe {
        word::write_u64(place, first);
        word::write_u64(place.add(8), second);
    }
}

/// Replaces four bytes, given in the machine's byte order.
#[inline(always)]
pub fn set_u32(bytes: &mut [u8; 4], value: u32) {
    // SAFETY: writes the four bytes of the reference.
    unsafe { word::write_u32(bytes.as_mut_ptr(), value) };
}

/// Replaces both addresses of a frame.
#[inline(always)]
pub fn set_frame_addresses(frame: &mut EthHdr, addresses: &FrameAddresses) {
    let (from, to) = (core::ptr::from_ref(addresses).cast(), core::ptr::from_mut(frame).cast());
    // SAFETY: reads the twelve bytes of `addresses` and writes the first twelve of `frame`, which lie in that order.
    unsafe {
        let (first, last) = (word::read_u64(from), word::read_u32(from.add(8)));
        word::write_u64(to, first);
        word::write_u32(to.add(8), last);
    }
}

/// Words at any address, which must have the bytes of the word to be read or written: callers promise it, and in the kernel the
/// verifier checks it.
#[cfg(target_arch = "bpf")]
mod word {
    use core::arch::asm;

    /// # Safety
    ///
    /// The four bytes at `place` may be read.
    #[inline(always)]
    pub(super) unsafe fn read_u32(place: *const u8) -> u32 {
        let word: u64;
        // SAFETY: the caller's promise that the four bytes may be read.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) place,
                 options(pure, readonly, nostack, preserves_flags));
        }
        word as u32
    }

    /// # Safety
    ///
    /// The eight bytes at `place` may be read.
    #[inline(always)]
    pub(super) unsafe fn read_u64(place: *const u8) -> u64 {
        let word: u64;
        // SAFETY: the caller's promise that the eight bytes may be read.
        unsafe {
            asm!("{0} = *(u64 *)({1} + 0)", out(reg) word, in(reg) place,
                 options(pure, readonly, nostack, preserves_flags));
        }
        word
    }

    /// # Safety
    ///
    /// The four bytes at `place` may be written.
    #[inline(always)]
    pub(super) unsafe fn write_u32(place: *mut u8, value: u32) {
        // SAFETY: the caller's promise that the four bytes may be written.
        unsafe {
            asm!("*(u32 *)({0} + 0) = {1}", in(reg) place, in(reg) u64::from(value),
                 options(nostack, preserves_flags));
        }
    }

    /// # Safety
    ///
    /// The eight bytes at `place` may be written.
    #[inline(always)]
    pub(super) unsafe fn write_u64(place: *mut u8, value: u64) {
        // SAFETY: the caller's promise that the eight bytes may be written.
        unsafe {
            asm!("*(u64 *)({0} + 0) = {1}", in(reg) place, in(reg) value,
                 options(nostack, preserves_flags));
        }
    }
}

/// As for BPF.
#[cfg(not(target_arch = "bpf"))]
mod word {
    /// # Safety
    ///
    /// The four bytes at `place` may be read.
    pub(super) unsafe fn read_u32(place: *const u8) -> u32 {
        // SAFETY: the caller's promise that the four bytes may be read.
        unsafe { place.cast::<u32>().read_unaligned() }
    }

    /// # Safety
    ///
    /// The eight bytes at `place` may be read.
    pub(super) unsafe fn read_u64(place: *const u8) -> u64 {
        // SAFETY: the caller's promise that the eight bytes may be read.
        unsafe { place.cast::<u64>().read_unaligned() }
    }

    /// # Safety
    ///
    /// The four bytes at `place` may be written.
    pub(super) unsafe fn write_u32(place: *mut u8, value: u32) {
        // SAFETY: the caller's promise that the four bytes may be written.
        unsafe { place.cast::<u32>().write_unaligned(value) };
    }

    /// # Safety
    ///
    /// The eight bytes at `place` may be written.
    pub(super) unsafe fn write_u64(place: *mut u8, value: u64) {
        // SAFETY: the caller's promise that the eight bytes may be written.
        unsafe { place.cast::<u64>().write_unaligned(value) };
    }
}
