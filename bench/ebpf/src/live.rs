//! The end of the way that live frames go.
#![expect(unsafe_code, reason = "packets and maps are reached by address")]

use aya_ebpf::{
    bindings::xdp_action, btf_maps::PerCpuArray, macros::btf_map, programs::XdpContext,
};

use crate::plan::{ETHERNET, FRAME};

/// One record: live frames that arrived. Written by this program, read by the host.
#[btf_map(name = "arrived")]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The type of an untagged IPv4 packet, its first two bytes, and its length, from this offset on, as they lie in memory.
const TYPE_AT: usize = 12;
const IPV4: [[u8; 2]; 3] = [[0x08, 0x00], [0x45, 0], [0, (FRAME - ETHERNET) as u8]];

#[inline(always)]
pub(crate) fn arrive(context: &XdpContext) -> u32 {
    let start = context.data();
    if start + FRAME > context.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: the six bytes lie inside the packet, at an even address.
    let begins = unsafe { *((start + TYPE_AT) as *const [[u8; 2]; 3]) };
    // Nothing else on these wires is an IPv4 packet of that very length.
    if begins != IPV4 {
        return xdp_action::XDP_PASS;
    }
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: this CPU's own record, and programs on one CPU run one after the other.
        unsafe { *arrived += 1 };
    }
    xdp_action::XDP_DROP
}
