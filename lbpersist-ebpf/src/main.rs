//! The XDP programs of lbpersist: entry points only.
//!
//! `lbpersist` is attached to interfaces and carries packets between clients and servers. `maintain` is never attached:
//! the daemon runs it to change tables in place. `decapsulate` is attached on servers that are reached through a tunnel.
#![no_std]
#![no_main]
// Inline assembly for BPF; what builds this crate is a nightly compiler or one that acts as such.
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key given by value is copied once more, and a BPF frame has 512 bytes"
)]

mod algorithm;
mod answer;
mod atomic;
mod breaks;
mod budget;
mod carried;
mod choice;
mod clock;
mod connection;
mod count;
mod decapsulate;
mod encapsulate;
mod forward;
mod fragment;
mod frame;
mod front;
mod icmp;
mod known;
mod maintain;
mod maps;
mod masquerade;
mod occupancy;
mod peek;
mod persistence;
mod rare;
mod recent;
mod record;
mod resize;
mod rewrite;
mod select;
mod stage;
mod tags;
mod udp;
mod uncommon;
mod verdict;
mod wide;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use lbpersist_packet::{checksum, cursor, load, parse, shape};

/// Carries packets between clients and servers; whatever is not ours goes to the stack.
#[xdp(frags)]
pub(crate) fn lbpersist(context: XdpContext) -> u32 {
    forward::packet(&context).action()
}

/// Carries packets whose headers are not the usual ones: `lbpersist` hands them on.
#[xdp(frags)]
pub(crate) fn uncommon(context: XdpContext) -> u32 {
    uncommon::packet(&context).action()
}

/// Carries ICMP errors and answers pings: `uncommon` hands them on.
#[xdp(frags)]
pub(crate) fn icmp(context: XdpContext) -> u32 {
    icmp::packet(&context).action()
}

/// Carries the fragments after the first: `uncommon` hands them on.
#[xdp(frags)]
pub(crate) fn fragment(context: XdpContext) -> u32 {
    fragment::packet(&context).action()
}

/// Tells a client that it is refused: the others hand its packet on, counted.
#[xdp(frags)]
pub(crate) fn refusal(context: XdpContext) -> u32 {
    answer::refuse(&context).action()
}

/// Answers the daemon's [`lbpersist_common::maintenance::Request`]s.
#[xdp]
pub(crate) fn maintain(context: XdpContext) -> u32 {
    maintain::requests(&context).action()
}

/// Unpacks what comes through a tunnel, on a server.
#[xdp(frags)]
pub(crate) fn decapsulate(context: XdpContext) -> u32 {
    decapsulate::packet(&context).action()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable in a program that the verifier accepts: it proves that every path ends.
    loop {}
}

#[expect(unsafe_code, reason = "the kernel reads the licence from a section of this name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
// SAFETY: nothing else is called so, and the kernel only reads the zero-terminated text.
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
