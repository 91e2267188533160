//! The packet of a run, as the parts that read headers want it.
#![expect(unsafe_code, reason = "packet memory is reached by address")]

use core::arch::asm;

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use lbpersist_common::reason::Reason;
use network_types::eth::EthHdr;

use crate::{cursor::Cursor, maps::SHAPE, shape::Shape};

/// The beginning of the packet.
#[inline(always)]
pub(crate) fn cursor(context: &XdpContext) -> Cursor {
    let (start, end): (usize, usize);
    // SAFETY: reads the first two fields of the context, `data` and `data_end`. As assembly, so that the compiler knows
    // nothing of them: it would leave out a check that one further behind implies, or copy them as the 32-bit numbers that
    // the context shows, and the verifier draws no such conclusion and takes no half of a pointer.
    unsafe {
        asm!("{0} = *(u32 *)({2} + 0)", "{1} = *(u32 *)({2} + 4)",
             out(reg) start, lateout(reg) end, in(reg) context.ctx,
             options(readonly, nostack, preserves_flags));
    }
    // SAFETY: these are the packet's bounds in this run, and the verifier sees to it that no header is used after the
    // packet was resized.
    unsafe { Cursor::over(start, end) }
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

/// Where the headers stand in the packet that an ICMP packet of this `shape` quotes, as if that began a frame. Of what is
/// quoted only the beginning may be there.
#[inline(always)]
pub(crate) fn quoted(context: &XdpContext, shape: Shape) -> Result<Shape, Reason> {
    let place = SHAPE.get_ptr_mut(1).ok_or(Reason::Malformed)?;
    // SAFETY: as in `shape`.
    unsafe {
        place.write_volatile(walk_quoted(context, shape.word()));
        let word = place.read_volatile();
        if word & FAILED == 0 { Ok(Shape::from_word(word)) } else { Err(failure(word)) }
    }
}

/// As [`walk`].
#[inline(never)]
fn walk_quoted(context: &XdpContext, word: u64) -> u64 {
    let shape = Shape::from_word(word);
    let mut cursor = cursor(context);
    cursor.skip(shape.network_at());
    cursor.skip(shape.network_length());
    cursor.skip(ICMP_HEADER);
    let quoted = if shape.is_ipv6() {
        Shape::ipv6(cursor, EthHdr::LEN, usize::MAX)
    } else {
        Shape::ipv4(cursor, EthHdr::LEN, usize::MAX)
    };
    match quoted {
        Ok(shape) => shape.word(),
        Err(reason) => FAILED | reason as u64,
    }
}

const FAILED: u64 = 1 << 63;
const ICMP_HEADER: usize = 8;

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
