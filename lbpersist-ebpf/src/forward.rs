//! The way of a packet through the program: to a server, or back to a client.
#![expect(unsafe_code, reason = "redirecting is a helper of the kernel")]

use aya_ebpf::{
    bindings::xdp_action, btf_maps::lpm_trie::Key, helpers::generated::bpf_redirect,
    programs::XdpContext,
};
use lbpersist_common::{
    net::{Address, FrameAddresses},
    reason::Reason,
    route::{NeighbourKey, Route, kind},
    service::{Reverse, Service, forwarding},
    stage::Stage,
    translation::Translation,
};

use crate::{
    answer, clock, count, encapsulate, fragment, frame,
    maps::{NEIGHBOURS, ROUTES, SERVERS, WANTED},
    masquerade,
    parse::{Flow, Packet, Unread},
    rare, rewrite, select, stage,
    verdict::Verdict,
    wide,
};

/// Where a frame goes next.
pub(crate) struct Hop<'map> {
    pub(crate) interface: u32,
    pub(crate) frame: &'map FrameAddresses,
    /// The largest IP packet that the interface carries, in bytes.
    pub(crate) mtu: u32,
}

/// Decides on a packet, counts it under exactly one reason, and carries it if it is ours.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    let result = match Packet::parse(frame::cursor(context), || frame::length(context)) {
        Ok(packet) => {
            let flow = packet.flow();
            carry::<true>(context, packet, &flow)
        }
        Err(Unread::Uncommon) => {
            stage::jump(context, Stage::Uncommon);
            Err(Reason::OtherProtocol)
        }
        Err(Unread::Not(reason)) => Err(reason),
    };
    settle(context, result)
}

/// Counts what was decided on a packet, and has it answered if it is refused.
#[inline(always)]
pub(crate) fn settle(context: &XdpContext, result: Result<(Verdict, Reason), Reason>) -> Verdict {
    let (verdict, reason) = result.unwrap_or_else(|reason| (Verdict::of(reason), reason));
    count::verdict(reason);
    if let Verdict::Refuse = verdict {
        stage::jump(context, Stage::Refusal);
    }
    verdict
}

/// Carries a packet, whole or the first fragment of one.
///
/// A `USUAL` one has no VLAN tags. Of its service a copy is made, for which others leave no stack: so it is no matter to what
/// follows where that was found, and the verifier need not follow each way to the end.
#[inline(always)]
pub(crate) fn carry<const USUAL: bool>(
    context: &XdpContext,
    mut packet: Packet<'_>,
    flow: &Flow,
) -> Result<(Verdict, Reason), Reason> {
    let service = match select::service(flow) {
        Some(service) => service,
        None => {
            if let Some(reverse) = select::reverse(flow) {
                let translation = masquerade::answered(flow, reverse);
                return to_client(context, &mut packet, flow, reverse, translation);
            }
            // Last, since a prefix may be around everything, servers and clients too.
            wide::on_a_prefix(&flow.to).ok_or(Reason::NotOurs)?
        }
    };
    if USUAL {
        let service = *service;
        return to_server::<true>(context, &mut packet, flow, &service);
    }
    to_server::<false>(context, &mut packet, flow, service)
}

#[inline(always)]
fn to_server<const USUAL: bool>(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    flow: &Flow,
    service: &Service,
) -> Result<(Verdict, Reason), Reason> {
    // Before the tables are told of a packet that goes no further.
    rewrite::may_hop(&packet.network)?;
    let pool = select::pool(service)?;
    let number = match select::server(flow, service, pool) {
        Ok(number) => number,
        Err(reason) if select::is_answered(reason, pool) => {
            return Ok((Verdict::Refuse, reason));
        }
        Err(reason) => return Err(reason),
    };
    let server = SERVERS.get(number).ok_or(Reason::NoServer)?;
    if server.interface == 0 {
        return Err(Reason::NoNextHop);
    }
    let fits = encapsulate::fits(server, pool);
    if packet.network.total_length() > fits {
        return Ok((answer::too_big(context, fits as u16), Reason::TooBig));
    }
    let port = if pool.forwarding == forwarding::MASQUERADE {
        match masquerade::port(flow, service, number, server) {
            Ok(port) => port,
            Err(reason) => {
                rare::tell();
                return Ok((Verdict::Refuse, reason));
            }
        }
    } else {
        0
    };
    if let Some(id) = packet.fragment {
        let _ = fragment::note(flow, id, number, service.index);
    }
    rewrite::hop(&mut packet.network);
    let length = packet.length;
    count::service(service.index, |counters| {
        counters.packets += 1;
        counters.bytes += length;
    });
    count::server(number, |counters| {
        counters.packets += 1;
        counters.bytes += length;
    });
    match pool.forwarding {
        forwarding::TUNNEL => {
            let done = if USUAL {
                encapsulate::tunnel(context, &packet.network, server)
            } else {
                encapsulate::tunnel_tagged(context, &packet.network, packet.tags, server)
            };
            done.ok_or(Reason::NoNextHop)?;
        }
        forwarding::DIRECT => rewrite::frame(packet, &server.frame),
        forwarding => {
            if forwarding == forwarding::MASQUERADE {
                rewrite::source(packet, flow, &server.tunnel_source, port);
            }
            let port = if server.port == 0 { flow.to.port } else { server.port };
            rewrite::destination(packet, flow, &server.address, port);
            rewrite::frame(packet, &server.frame);
        }
    }
    Ok((send(context, server.interface), Reason::Forwarded))
}

#[inline(always)]
fn to_client(
    context: &XdpContext,
    packet: &mut Packet<'_>,
    flow: &Flow,
    reverse: &Reverse,
    translation: Option<&Translation>,
) -> Result<(Verdict, Reason), Reason> {
    let (reverse, client) = match translation {
        Some(found) => (&found.answer, &found.client),
        None => (reverse, &flow.to),
    };
    let hop = hop_to(&client.address)?;
    // The server is reached by masquerade alone, and this is no answer to a client.
    if reverse.service == 0 {
        return Err(Reason::NotOurs);
    }
    rewrite::may_hop(&packet.network)?;
    if packet.network.total_length() > hop.mtu {
        return Ok((answer::too_big(context, hop.mtu as u16), Reason::TooBig));
    }
    if let Some(id) = packet.fragment {
        let _ = fragment::note_answer(flow, id, reverse, translation);
    }
    rewrite::hop(&mut packet.network);
    select::note_answer(flow, reverse, client);
    rewrite::source(packet, flow, &reverse.address, reverse.port_for(flow.from.port));
    if translation.is_some() {
        rewrite::destination(packet, flow, &client.address, client.port);
    }
    let length = packet.length;
    count::service(reverse.service_index, |counters| {
        counters.answer_packets += 1;
        counters.answer_bytes += length;
    });
    rewrite::frame(packet, hop.frame);
    Ok((send(context, hop.interface), Reason::Returned))
}

/// The next hop on the way to a client.
#[inline(always)]
pub(crate) fn hop_to(client: &Address) -> Result<Hop<'static>, Reason> {
    let route = ROUTES.get(&Key::new(128, *client)).ok_or(Reason::NoRoute)?;
    match route.kind {
        kind::LOCAL => Err(Reason::ToThisMachine),
        kind::GATEWAY => {
            Ok(Hop { interface: route.interface, frame: &route.frame, mtu: route.mtu })
        }
        kind::ON_LINK => neighbour(client, route),
        _ => Err(Reason::NoRoute),
    }
}

#[inline(always)]
fn neighbour(client: &Address, route: &Route) -> Result<Hop<'static>, Reason> {
    let key = NeighbourKey { address: *client, interface: route.interface, reserved: 0 };
    // SAFETY: a neighbour that changes while this run reads it costs one packet a wrong address.
    let Some(neighbour) = (unsafe { NEIGHBOURS.get(&key) }) else {
        let _ = WANTED.insert(&key, &clock::now_ns(), 0);
        return Err(Reason::NoRoute);
    };
    Ok(Hop { interface: route.interface, frame: &neighbour.frame, mtu: route.mtu })
}

#[inline(always)]
pub(crate) fn send(context: &XdpContext, interface: u32) -> Verdict {
    if context.ingress_ifindex() == interface as usize {
        return Verdict::Transmit;
    }
    // SAFETY: the helper takes two numbers and notes where the frame is to go.
    let action = unsafe { bpf_redirect(interface, 0) };
    if action == xdp_action::XDP_REDIRECT.into() { Verdict::Redirect } else { Verdict::Drop }
}
