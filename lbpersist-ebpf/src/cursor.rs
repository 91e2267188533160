//! The one maker of references into packets.
#![expect(unsafe_code, reason = "packet memory is reached by address")]

use aya_ebpf::programs::XdpContext;
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
pub(crate) struct Unaligned<T>(pub(crate) T);

/// A place in a packet, from which headers are taken one after the other.
pub(crate) struct Cursor {
    next: usize,
    end: usize,
}

/// Plain header types: any bytes are a value, and any address will do.
///
/// # Safety
///
/// Only for types of alignment 1 or 2 (the kernel aligns headers at least so) that are valid for every bit pattern.
pub(crate) unsafe trait Header: Copy {}

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
unsafe impl Header for [u8; 16] {}
// SAFETY: `Request` is `Pod`; its alignment is lowered to 1 by the wrapper.
unsafe impl Header for Unaligned<Request> {}

impl Cursor {
    /// The beginning of the packet.
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self { next: context.data(), end: context.data_end() }
    }

    /// The next header, or `None` when the packet ends before it does.
    #[inline(always)]
    pub(crate) fn take<'packet, T: Header>(&mut self) -> Option<&'packet mut T> {
        const { assert!(align_of::<T>() <= 2) };
        let start = self.next;
        let end = start + size_of::<T>();
        if end > self.end {
            return None;
        }
        self.next = end;
        // SAFETY: start..end lies inside the packet; `Header` types need no more alignment than the kernel gives and take any bits; a cursor only
        // moves forward, so no two references overlap.
        Some(unsafe { &mut *(start as *mut T) })
    }

    /// Skips `length` bytes, at most 60 of them.
    #[inline(always)]
    pub(crate) fn skip(&mut self, length: usize) {
        self.next += length & 0x3f;
    }

    /// Bytes left.
    #[inline(always)]
    pub(crate) fn left(&self) -> usize {
        self.end.saturating_sub(self.next)
    }
}
