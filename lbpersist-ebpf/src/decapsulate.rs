//! The far end of a tunnel: takes the outer header off and gives the client's packet to the stack of the server.
//!
//! Only packets from the addresses in `peers` are unpacked: whoever could send others would reach the server past every filter
//! before it.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use aya_ebpf::{btf_maps::lpm_trie::Key, programs::XdpContext};
use lbpersist_common::{net::Address, tunnel::Outcome};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    frame, load,
    maps::{PEERS, UNPACKED},
    parse, resize,
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
    let mut cursor = frame::cursor(context);
    let ethernet: &mut EthHdr = cursor.take().ok_or(Outcome::NoTunnel)?;
    let (outer_length, protocol, from) = if ethernet.ether_type == EtherType::Ipv4 as u16 {
        let outer: &mut Ipv4Hdr = cursor.take().ok_or(Outcome::NoTunnel)?;
        // Fragments and options are for the stack, which has no tunnel and will say so.
        if outer.vihl != 0x45 || u16::from_be_bytes(outer.frags) & 0x3fff != 0 {
            return Err(Outcome::NoTunnel);
        }
        (Ipv4Hdr::LEN, outer.proto, parse::mapped(&outer.src_addr))
    } else if ethernet.ether_type == EtherType::Ipv6 as u16 {
        let outer: &mut Ipv6Hdr = cursor.take().ok_or(Outcome::NoTunnel)?;
        (Ipv6Hdr::LEN, outer.next_hdr, load::address(&outer.src_addr))
    } else {
        return Err(Outcome::NoTunnel);
    };
    let inner = match protocol {
        IPV4 => EtherType::Ipv4,
        IPV6 => EtherType::Ipv6,
        _ => return Err(Outcome::NoTunnel),
    };
    if !is_peer(&from) {
        return Err(Outcome::Stranger);
    }
    let head = *ethernet;
    resize::shrink_head(context, outer_length).ok_or(Outcome::NoTunnel)?;
    let ethernet: &mut EthHdr = frame::cursor(context).take().ok_or(Outcome::NoTunnel)?;
    ethernet.dst_addr = head.dst_addr;
    ethernet.src_addr = head.src_addr;
    ethernet.ether_type = inner as u16;
    Ok(())
}

#[inline(always)]
fn is_peer(address: &Address) -> bool {
    PEERS.get(&Key::new(128, *address)).is_some()
}
