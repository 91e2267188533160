//! The programs behind the first one. A program jumps to one and never comes back; each has a stack of its own.
#![expect(unsafe_code, reason = "jumping is a helper of the kernel")]

use aya_ebpf::programs::XdpContext;
use lbpersist_common::stage::Stage;

use crate::maps::STAGES;

/// Jumps to `stage`. Returns only if it is not there, which is so while the daemon has not finished loading.
#[inline(always)]
pub(crate) fn jump(context: &XdpContext, stage: Stage) {
    // SAFETY: nothing here needs to be dropped.
    unsafe { STAGES.tail_call(context, stage as u32) };
}
