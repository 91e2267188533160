//! The packet of a run, as the parts that read headers want it.
#![expect(unsafe_code, reason = "packet memory is reached by address")]

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use lbpersist_common::reason::Reason;

use crate::{cursor::Cursor, maps::SHAPE, shape::Shape};

/// The beginning of the packet.
#[inline(always)]
pub(crate) fn cursor(context: &XdpContext) -> Cursor {
    // SAFETY: these are the packet's bounds in this run, and the verifier sees to it that no header is used after the
    // packet was resized.
    unsafe { Cursor::over(context.data(), context.data_end()) }
}

/// Bytes of the whole frame, also of what lies in other buffers than the first (jumbo frames).
#[inline(always)]
pub(crate) fn length(context: &XdpContext) -> usize {
    // SAFETY: the helper reads the context of this run.
    unsafe { bpf_xdp_get_buff_len(context.ctx) as usize }
}

/// Where the headers stand. What the verifier knows of the way there is left behind: else it would follow everything after
/// it once for each combination of tags, options and extension headers.
#[inline(always)]
pub(crate) fn shape(context: &XdpContext) -> Result<Shape, Reason> {
    let place = SHAPE.get_ptr_mut(0).ok_or(Reason::Malformed)?;
    // SAFETY: the place is this CPU's own, and XDP programs on one CPU run one after the other.
    unsafe {
        place.write_volatile(walk(context));
        let word = place.read_volatile();
        if word & FAILED == 0 { Ok(Shape::from_word(word)) } else { Err(failure(word)) }
    }
}

const FAILED: u64 = 1 << 63;

/// [`Shape::read`] as one number, because a subprogram returns no more.
#[inline(never)]
fn walk(context: &XdpContext) -> u64 {
    match Shape::read(cursor(context), length(context)) {
        Ok(shape) => shape.word(),
        Err(reason) => FAILED | reason as u64,
    }
}

#[inline(always)]
fn failure(word: u64) -> Reason {
    const NOT_IP: u64 = FAILED | Reason::NotIp as u64;
    const NOT_OURS: u64 = FAILED | Reason::NotOurs as u64;
    match word {
        NOT_IP => Reason::NotIp,
        NOT_OURS => Reason::NotOurs,
        _ => Reason::Malformed,
    }
}
