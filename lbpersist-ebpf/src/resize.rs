//! Making packets longer and shorter. Whatever pointed into a packet no longer does afterwards: take it from a new cursor.
#![expect(unsafe_code, reason = "growing and shrinking a packet are helpers of the kernel")]

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};

use crate::frame;

/// Makes room for `bytes` before the packet; `None` when there is none.
#[inline(always)]
pub(crate) fn grow_head(context: &XdpContext, bytes: usize) -> Option<()> {
    // SAFETY: the context is that of this run, and callers use no older reference into the packet.
    let result = unsafe { bpf_xdp_adjust_head(context.ctx, -(bytes as i32)) };
    (result == 0).then_some(())
}

/// Takes `bytes` away before the packet.
#[inline(always)]
pub(crate) fn shrink_head(context: &XdpContext, bytes: usize) -> Option<()> {
    // SAFETY: as in `grow_head`.
    let result = unsafe { bpf_xdp_adjust_head(context.ctx, bytes as i32) };
    (result == 0).then_some(())
}

/// Cuts a packet to `wanted` bytes, if it is longer.
#[inline(always)]
pub(crate) fn cut_tail(context: &XdpContext, wanted: usize) -> Option<()> {
    let length = frame::length(context);
    if length <= wanted {
        return Some(());
    }
    // SAFETY: as in `grow_head`.
    let result = unsafe { bpf_xdp_adjust_tail(context.ctx, -((length - wanted) as i32)) };
    (result == 0).then_some(())
}
