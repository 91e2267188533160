//! Packets that the first program does not read: with VLAN tags, IPv4 options or IPv6 extension headers. Apart from where
//! their headers stand they are carried as all others are.

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{net, reason::Reason, stage::Stage};

use crate::{
    forward, fragment, frame, icmp,
    parse::{Flow, Packet},
    select,
    shape::{Piece, Shape},
    stage,
    verdict::Verdict,
};

/// Decides on a packet, counts it under exactly one reason, and carries it if it is ours.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    let result = frame::shape(context).and_then(|shape| carry(context, shape));
    forward::settle(context, result)
}

#[inline(always)]
fn carry(context: &XdpContext, shape: Shape) -> Result<(Verdict, Reason), Reason> {
    if shape.piece() == Piece::Later {
        stage::jump(context, Stage::Fragment);
        return Err(Reason::Fragment);
    }
    match shape.protocol() {
        net::TCP | net::UDP => {
            let packet = read(context, shape)?;
            let flow = packet.flow();
            if shape.is_source_routed() && is_ours(&flow) {
                return Err(Reason::SourceRouted);
            }
            match forward::carry::<false>(context, packet, &flow) {
                Err(Reason::NotOurs) if shape.piece() == Piece::First => Err(Reason::Fragment),
                result => result,
            }
        }
        icmp::ICMP | icmp::ICMPV6 if shape.piece() == Piece::Whole => {
            if (shape.protocol() == icmp::ICMPV6) == shape.is_ipv6() {
                stage::jump(context, Stage::Icmp);
            }
            Err(Reason::OtherProtocol)
        }
        _ if shape.piece() == Piece::First => Err(Reason::Fragment),
        _ => Err(Reason::OtherProtocol),
    }
}

/// The headers of a packet, whole or the first fragment of one, which must have all of them.
#[inline(always)]
fn read(context: &XdpContext, shape: Shape) -> Result<Packet<'_>, Reason> {
    let result = Packet::at(frame::cursor(context), shape, frame::length(context));
    match result {
        Err(Reason::Malformed) if shape.piece() == Piece::First => {
            Err(fragment::refused(context, shape, Reason::Malformed))
        }
        result => result,
    }
}

/// Whether the packet is to a service or from a server; a subprogram of its own, for its stack.
#[inline(never)]
fn is_ours(flow: &Flow) -> bool {
    select::service(flow).is_some() || select::reverse(flow).is_some()
}
