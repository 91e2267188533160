//! Puts the packet back to what the plan says and hands it on.
#![expect(unsafe_code, reason = "packets and maps are reached by address")]

use core::arch::asm;

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray, ProgramArray},
    helpers::generated::bpf_xdp_adjust_head,
    macros::btf_map,
    programs::XdpContext,
};

use crate::plan::{ETHERNET, FRAME, Plan, Turn};

/// The program that is measured, in place 0. Written by the host.
#[btf_map(name = "programs")]
static PROGRAMS: ProgramArray<1> = ProgramArray::new();

/// One record: what is replayed. Written by the host.
#[btf_map(name = "plan")]
static PLAN: Array<Plan, 1> = Array::new();

/// One record: whose turn it is. Written by both.
#[btf_map(name = "turn")]
static TURN: PerCpuArray<Turn, 1> = PerCpuArray::new();

/// Prepares the next packet and jumps to the measured program. Returns if it cannot.
#[inline(always)]
pub(crate) fn next(context: &XdpContext) {
    let (Some(plan), Some(turn)) = (PLAN.get(0), TURN.get_ptr_mut(0)) else { return };
    // SAFETY: this CPU's own record, and test runs on one CPU run one after the other.
    let turn = unsafe { &mut *turn };
    if restore_head(context).is_some() && write(context, plan, turn).is_some() {
        advance(plan, turn);
        // SAFETY: nothing here needs to be dropped.
        unsafe { PROGRAMS.tail_call(context, 0) };
    }
}

/// Writes the next packet, IPv4 and TCP and right in all its checksums, into a buffer that may hold anything.
#[inline(always)]
pub(crate) fn fresh(context: &XdpContext) -> Option<()> {
    let (Some(plan), Some(turn)) = (PLAN.get(0), TURN.get_ptr_mut(0)) else { return None };
    // SAFETY: this CPU's own record, and test runs on one CPU run one after the other.
    let turn = unsafe { &mut *turn };
    write(context, plan, turn)?;
    correct_tcp_checksum(context, plan)?;
    advance(plan, turn);
    Some(())
}

/// Puts the checksum over the packet right, of which address, port and flags are no longer those of the first client.
#[inline(always)]
fn correct_tcp_checksum(context: &XdpContext, plan: &Plan) -> Option<()> {
    const CHECKSUM: u16 = ETHERNET as u16 + 20 + 16;
    let address = place(context, plan.address_at, 4)? as *const [u8; 4];
    let port = place(context, plan.port_at, 2)? as *const u16;
    // The length of the header is the byte before the flags.
    let flags = place(context, plan.flags_at.wrapping_sub(1), 2)? as *const [u8; 2];
    let checksum = place(context, CHECKSUM, 2)? as *mut u16;
    // SAFETY: all four lie inside the packet, at even addresses, and any bits are a value.
    let (address, port, flags, before) =
        unsafe { (u32::from_ne_bytes(*address), *port, *flags, *checksum) };
    let flags_before = u16::from_ne_bytes([flags[0], plan.flags[0]]);
    let sum = u64::from(!before)
        + u64::from(!plan.first_address.to_be())
        + u64::from(address)
        + u64::from(!plan.first_port.to_be())
        + u64::from(port)
        + u64::from(!flags_before)
        + u64::from(u16::from_ne_bytes(flags));
    // SAFETY: as above.
    unsafe { *checksum = !folded(sum) };
    Some(())
}

/// A sum of 16-bit and 32-bit words, with its carries added in.
#[inline(always)]
fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Undoes what the last program did to the beginning of the packet.
#[inline(always)]
fn restore_head(context: &XdpContext) -> Option<()> {
    let length = context.data_end() - context.data();
    if length == FRAME {
        return Some(());
    }
    // SAFETY: the helper checks the number; no reference into the packet is held.
    let result = unsafe { bpf_xdp_adjust_head(context.ctx, (length as i32) - (FRAME as i32)) };
    (result == 0).then_some(())
}

#[inline(always)]
fn write(context: &XdpContext, plan: &Plan, turn: &Turn) -> Option<()> {
    let start = context.data();
    if start + FRAME > context.data_end() {
        return None;
    }
    // SAFETY: FRAME bytes from `start` on lie inside the packet.
    unsafe {
        store_u64(start, plan.frame[0]);
        store_u64(start + ETHERNET - 8, plan.frame[0] >> 48 | plan.frame[1] << 16);
        let mut word = 2;
        while word < plan.frame.len() {
            store_u64(start + ETHERNET + (word - 2) * 8, plan.frame[word]);
            word += 1;
        }
    }
    let address = plan.first_address.wrapping_add(turn.client).to_be();
    if plan.wide == 0 {
        let place = place(context, plan.address_at, 4)?;
        // SAFETY: the four bytes lie inside the packet, and any bits are a value.
        let was = u32::from_ne_bytes(unsafe { *(place as *const [u8; 4]) });
        // SAFETY: the four bytes lie inside the packet.
        unsafe { store_u32(place, address) };
        correct_checksum(context, was, address)?;
    } else {
        let place = place(context, plan.address_at.wrapping_sub(4), 8)?;
        // SAFETY: the eight bytes lie inside the packet.
        unsafe { store_u64(place, u64::from(PREFIX) | u64::from(address) << 32) };
    }
    let mut port = plan.first_port.wrapping_add(turn.client as u16);
    if plan.new_ports != 0 {
        port = port.wrapping_add(turn.round as u16);
    }
    // SAFETY: two bytes inside the packet, at an even address.
    unsafe { *(place(context, plan.port_at, 2)? as *mut u16) = port.to_be() };
    let flags = if turn.sent == 0 { plan.flags[0] } else { plan.flags[1] };
    // The verifier learns nothing from the comparison that a length of one is turned into.
    // SAFETY: as above.
    unsafe { *(place(context, plan.flags_at, 2)? as *mut u8) = flags };
    Some(())
}

/// Puts the checksum of the IPv4 header right after four of its bytes have changed (RFC 1624, equation 3).
#[inline(always)]
fn correct_checksum(context: &XdpContext, was: u32, is: u32) -> Option<()> {
    const CHECKSUM: u16 = ETHERNET as u16 + 10;
    let checksum = place(context, CHECKSUM, 2)? as *mut u16;
    // SAFETY: two bytes inside the packet, at an even address.
    let sum = unsafe { u64::from(!*checksum) } + u64::from(!was) + u64::from(is);
    // SAFETY: as above.
    unsafe { *checksum = !folded(sum) };
    Some(())
}

/// The four bytes before the last four of an IPv6 client.
const PREFIX: u32 = 0;

/// Moves on to the next packet of the client, or to the next client.
#[inline(always)]
fn advance(plan: &Plan, turn: &mut Turn) {
    turn.sent += 1;
    if turn.sent < u32::from(plan.packets) {
        return;
    }
    turn.sent = 0;
    let next = turn.client + plan.step;
    turn.client = if next >= plan.clients { next - plan.clients } else { next };
    if turn.client == 0 {
        turn.round += 1;
    }
}

/// The address of `length` bytes at `offset` in the packet.
#[inline(always)]
fn place(context: &XdpContext, offset: u16, length: usize) -> Option<usize> {
    let place = context.data() + usize::from(offset & 0x7f);
    (place + length <= context.data_end()).then_some(place)
}

/// Stores eight bytes at any address in one go, where the compiler would store them one by one.
///
/// # Safety
///
/// The eight bytes at `place` lie inside the packet.
#[inline(always)]
unsafe fn store_u64(place: usize, value: u64) {
    // SAFETY: the caller's promise that the bytes lie inside the packet.
    unsafe {
        asm!("*(u64 *)({0} + 0) = {1}", in(reg) place, in(reg) value,
             options(nostack, preserves_flags));
    }
}

/// As [`store_u64`], with four bytes.
///
/// # Safety
///
/// The four bytes at `place` lie inside the packet.
#[inline(always)]
unsafe fn store_u32(place: usize, value: u32) {
    // SAFETY: as above.
    unsafe {
        asm!("*(u32 *)({0} + 0) = {1}", in(reg) place, in(reg) u64::from(value),
             options(nostack, preserves_flags));
    }
}
