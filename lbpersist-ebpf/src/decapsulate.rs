//! The far end of a tunnel: takes the outer header off and gives the client's packet to the stack of the server.
//!
//! Only packets from the addresses in `peers` are unpacked: whoever could send others would reach the server past every filter
//! before it.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::XdpContext};
use lbpersist_common::{net::Address, tunnel::Outcome};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    frame, load,
    maps::{PEERS, UNPACKED},
    parse, resize,
    shape::Piece,
    tags::Head,
    verdict::Verdict,
};

const IPV4: u8 = 4;
const IPV6: u8 = 41;

/// Unpacks a packet, or passes it as it is.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    let (verdict, outcome) = match unpack(context) {
        Ok(()) => (Verdict::Pass, Outcome::Unpacked),
        Err(Outcome::Stranger) => (Verdict::Drop, Outcome::Stranger),
        Err(outcome) => (Verdict::Pass, outcome),
    };
    if let Some(count) = UNPACKED.get_ptr_mut(outcome as u32) {
        // SAFETY: the place is this CPU's own, and XDP programs on one CPU run one after the other.
        unsafe { *count += 1 };
    }
    verdict
}

#[inline(always)]
fn unpack(context: &XdpContext) -> Result<(), Outcome> {
    let shape = frame::shape(context).map_err(|_| Outcome::NoTunnel)?;
    let inner = match shape.protocol() {
        IPV4 => EtherType::Ipv4,
        IPV6 => EtherType::Ipv6,
        _ => return Err(Outcome::NoTunnel),
    };
    let mut cursor = frame::cursor(context);
    cursor.skip(shape.network_at());
    let (outer_length, from) = if shape.is_ipv6() {
        let outer: &mut Ipv6Hdr = cursor.take().ok_or(Outcome::NoTunnel)?;
        (Ipv6Hdr::LEN, load::address(&outer.src_addr))
    } else {
        let outer: &mut Ipv4Hdr = cursor.take().ok_or(Outcome::NoTunnel)?;
        (Ipv4Hdr::LEN, parse::mapped(&outer.src_addr))
    };
    // Fragments, options and extension headers are for the stack, which has no tunnel and will say so.
    if shape.piece() != Piece::Whole || shape.network_length() != outer_length {
        return Err(Outcome::NoTunnel);
    }
    if !is_peer(&from) {
        return Err(Outcome::Stranger);
    }
    let head = Head::read(frame::cursor(context), shape.tags()).ok_or(Outcome::NoTunnel)?;
    resize::shrink_head(context, outer_length).ok_or(Outcome::NoTunnel)?;
    head.of_type(inner as u16).write(&mut frame::cursor(context)).ok_or(Outcome::NoTunnel)
}

#[inline(always)]
fn is_peer(address: &Address) -> bool {
    PEERS.get(&Key::new(128, *address)).is_some()
}
