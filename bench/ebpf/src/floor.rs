//! What the measured program is compared with.
#![expect(unsafe_code, reason = "packets and maps are reached by address")]

use aya_ebpf::{
    bindings::xdp_action, btf_maps::LruHashMap, helpers::generated::bpf_xdp_adjust_head,
    macros::btf_map, programs::XdpContext,
};

/// Clients by their address. The host decides on the size.
#[btf_map(name = "clients")]
static CLIENTS: LruHashMap<[u64; 2], u64, 1> = LruHashMap::new();

/// Bytes that the head is moved by: an IPv4 header, as a tunnel adds.
const DISTANCE: i32 = 20;

/// Where the source address of an IPv4 packet stands.
const SOURCE: usize = 26;

#[inline(always)]
pub(crate) fn move_head(context: &XdpContext) -> u32 {
    // SAFETY: the helper checks the number; no reference into the packet is held.
    let there = unsafe { bpf_xdp_adjust_head(context.ctx, -DISTANCE) };
    // SAFETY: as above.
    let back = unsafe { bpf_xdp_adjust_head(context.ctx, DISTANCE) };
    if there == 0 && back == 0 { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

#[inline(always)]
pub(crate) fn look_up(context: &XdpContext) -> u32 {
    let Some(key) = client(context) else { return xdp_action::XDP_ABORTED };
    match CLIENTS.get_ptr(key) {
        Some(_) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
pub(crate) fn put(context: &XdpContext) -> u32 {
    let Some(key) = client(context) else { return xdp_action::XDP_ABORTED };
    match CLIENTS.insert(key, 0, 0) {
        Ok(()) => xdp_action::XDP_TX,
        Err(_) => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn client(context: &XdpContext) -> Option<[u64; 2]> {
    let place = context.data() + SOURCE;
    if place + 4 > context.data_end() {
        return None;
    }
    // SAFETY: the four bytes lie inside the packet, at an even address.
    let [high, low] = unsafe { *(place as *const [u16; 2]) };
    Some([0, u64::from(high) << 16 | u64::from(low)])
}
