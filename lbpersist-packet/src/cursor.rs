//! The one maker of references into packets.
#![expect(unsafe_code, reason = "packet memory is reached by address")]

use lbpersist_common::maintenance::Request;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::parse::Segment;

/// A value that lies at an address of any alignment.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub struct Unaligned<T>(pub T);

/// A place in a packet, from which headers are taken one after the other.
#[derive(Clone, Copy)]
pub struct Cursor {
    next: usize,
    end: usize,
}

/// Plain header types: any bytes are a value, and any address will do.
///
/// # Safety
///
/// Only for types of alignment 1 or 2 (the kernel aligns headers at least so) that are valid for every bit pattern.
pub unsafe trait Header: Copy {}

// SAFETY: integers and byte arrays, aligned to 1 or 2.
unsafe impl Header for EthHdr {}
// SAFETY: as above.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: as above.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: as above.
unsafe impl Header for UdpHdr {}
// SAFETY: as above.
unsafe impl Header for Segment {}
// SAFETY: bytes.
unsafe impl<const N: usize> Header for [[u8; 4]; N] {}
// SAFETY: bytes.
unsafe impl Header for [u8; 2] {}
// SAFETY: bytes.
unsafe impl Header for [u8; 4] {}
// SAFETY: bytes.
unsafe impl Header for [u8; 16] {}
// SAFETY: `Request` is `Pod`; its alignment is lowered to 1 by the wrapper.
unsafe impl Header for Unaligned<Request> {}

impl Cursor {
    /// The farthest that one [`skip`](Self::skip) goes, in bytes: more than all headers of an IPv6 packet that are read.
    pub const FARTHEST: usize = 0x3fff;

    /// The beginning of a packet that lies from `start` to before `end`.
    ///
    /// # Safety
    ///
    /// All bytes in between must be readable and writable for as long as references that are taken are used, `start`
    /// even, and no other references into them in use meanwhile, but those of cursors whose headers do not overlap.
    #[inline(always)]
    pub unsafe fn over(start: usize, end: usize) -> Self {
        Self { next: start, end }
    }

    /// The next header, or `None` when the packet ends before it does.
    #[inline(always)]
    pub fn take<'packet, T: Header>(&mut self) -> Option<&'packet mut T> {
        const { assert!(align_of::<T>() <= 2) };
        let start = self.next;
        let end = start + size_of::<T>();
        if end > self.end {
            return None;
        }
        self.next = end;
        // SAFETY: start..end lies inside the packet, at an even address since all skipped and taken lengths are even;
        // `Header` types need no more alignment than that and take any bits; a cursor only moves forward, so no two
        // references of it overlap.
        Some(unsafe { &mut *(start as *mut T) })
    }

    /// Skips `length` bytes, at most [`FARTHEST`](Self::FARTHEST) of them.
    #[inline(always)]
    pub fn skip(&mut self, length: usize) {
        self.next += length & Self::FARTHEST;
    }

    /// Bytes left.
    #[inline(always)]
    pub fn left(&self) -> usize {
        self.end.saturating_sub(self.next)
    }
}
