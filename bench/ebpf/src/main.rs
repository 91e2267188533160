//! Programs that measure the packet path: entry points only. All but `far_end` are never attached.
//!
//! The kernel's test run repeats a program on one packet and does not put the packet back in between. `replay` does, and
//! then jumps to the program that is to be measured. The others are what that one is compared with.
#![no_std]
#![no_main]
// Inline assembly for BPF; what builds this crate is a nightly compiler or one that acts as such.
#![feature(asm_experimental_arch)]

mod floor;
mod live;
mod plan;
mod replay;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Restores the packet, makes it the next client's, and jumps to the program in place 0.
#[xdp(frags)]
pub(crate) fn replay(context: XdpContext) -> u32 {
    replay::next(&context);
    // Nothing was jumped to.
    xdp_action::XDP_ABORTED
}

/// Does nothing.
#[xdp(frags)]
pub(crate) fn transmit(_context: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Moves the packet's head there and back.
#[xdp(frags)]
pub(crate) fn move_head(context: XdpContext) -> u32 {
    floor::move_head(&context)
}

/// Looks the client up in an LRU table.
#[xdp(frags)]
pub(crate) fn look_up(context: XdpContext) -> u32 {
    floor::look_up(&context)
}

/// Puts the client into that table.
#[xdp(frags)]
pub(crate) fn put(context: XdpContext) -> u32 {
    floor::put(&context)
}

/// Makes its packet the next client's and sends it out of the interface that the run names: a live frame.
#[xdp(frags)]
pub(crate) fn generate(context: XdpContext) -> u32 {
    match replay::fresh(&context) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts live frames and drops them; passes what else there is. Attached where they arrive.
#[xdp(frags)]
pub(crate) fn far_end(context: XdpContext) -> u32 {
    live::arrive(&context)
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
