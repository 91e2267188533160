//! Packets that the first program does not read: with VLAN tags, IPv4 options or IPv6 extension headers. Apart from where
//! their headers stand they are carried as all others are.

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{net, reason::Reason};

use crate::{
    forward, frame,
    parse::Packet,
    select,
    shape::{Piece, Shape},
    verdict::Verdict,
};

/// Decides on a packet, counts it under exactly one reason, and carries it if it is ours.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    let result = frame::shape(context).and_then(|shape| carry(context, shape));
    forward::settle(result)
}

#[inline(always)]
fn carry(context: &XdpContext, shape: Shape) -> Result<(Verdict, Reason), Reason> {
    if shape.piece() != Piece::Whole {
        return Err(Reason::Fragment);
    }
    match shape.protocol() {
        net::TCP | net::UDP => {
            let packet = Packet::at(frame::cursor(context), shape, frame::length(context))?;
            let flow = packet.flow();
            if shape.is_source_routed()
                && (select::service(&flow).is_some() || select::reverse(&flow).is_some())
            {
                return Err(Reason::SourceRouted);
            }
            forward::carry(context, packet, &flow)
        }
        _ => Err(Reason::OtherProtocol),
    }
}
