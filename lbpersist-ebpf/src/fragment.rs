//! Fragments. The first one has the ports and is carried like a whole packet; it leaves a note of where it went, and the later
//! ones follow.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{
    fragment::{FRAGMENT_LIFE_NS, FragmentKey, FragmentWay, direction},
    front::Front,
    net::{self, Address, Endpoint},
    reason::Reason,
    server::Binding,
    service::{Pool, forwarding, pool_flag},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    clock, count, encapsulate, forward, frame, front, load,
    maps::{FRAGMENTS, POOLS, SERVERS},
    parse::{Flow, Network, Numbers, identification},
    peek,
    rewrite::{self, End},
    select,
    shape::Shape,
    verdict::Verdict,
};

/// The longest IP packet.
const LONGEST: usize = 65_535;

/// A fragment after the first.
struct Later<'packet> {
    ethernet: &'packet mut EthHdr,
    tags: usize,
    network: Network<'packet>,
    key: FragmentKey,
    /// Where what it carries begins in the packet, and where it ends.
    offset: usize,
    end: usize,
}

/// Notes where the first fragment of a packet went.
#[inline(always)]
pub(crate) fn note(flow: &Flow, id: u32, way: &FragmentWay) {
    let _ = insert(flow, id, way);
}

/// A subprogram of its own, for its stack and because it is rare.
#[inline(never)]
fn insert(flow: &Flow, id: u32, way: &FragmentWay) -> u32 {
    let key = FragmentKey {
        source: flow.from.address,
        destination: flow.to.address,
        id,
        protocol: flow.from.protocol.into(),
    };
    // A table that refuses leaves the later fragments to the rule for those whose first one was not seen.
    u32::from(FRAGMENTS.insert(&key, way, 0).is_ok())
}

/// The way of a first fragment to a server.
#[inline(always)]
pub(crate) fn to_server(server: u32, service_index: u32) -> FragmentWay {
    let generation = SERVERS.get(server).map_or(0, |server| server.generation);
    FragmentWay {
        address: Address::UNSPECIFIED,
        binding: Binding { server, generation },
        service_index,
        direction: direction::TO_SERVER,
        seen_ns: clock::now_ns(),
    }
}

/// The way of a first fragment to a client, from a service's address.
#[inline(always)]
pub(crate) fn to_client(address: &Address, service_index: u32) -> FragmentWay {
    FragmentWay {
        address: *address,
        binding: Binding { server: 0, generation: 0 },
        service_index,
        direction: direction::TO_CLIENT,
        seen_ns: clock::now_ns(),
    }
}

/// Whether a first fragment that cannot be read is to a service: then it is one that cuts the transport header.
#[inline(always)]
pub(crate) fn refused(context: &XdpContext, shape: Shape, reason: Reason) -> Reason {
    let to = Later::read(context, shape).map(|later| later.key.destination);
    match to {
        Some(to) if front::of(&to).is_some() => Reason::FragmentRefused,
        _ => reason,
    }
}

/// Decides on a fragment after the first and counts it under exactly one reason.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    forward::settle(context, carry(context))
}

#[inline(always)]
fn carry(context: &XdpContext) -> Result<(Verdict, Reason), Reason> {
    let shape = frame::shape(context)?;
    if !matches!(shape.protocol(), net::TCP | net::UDP) {
        return Err(Reason::Fragment);
    }
    let later = Later::read(context, shape).ok_or(Reason::Malformed)?;
    let front = front::of(&later.key.destination);
    if front.is_some() && later.is_refused() {
        return Err(Reason::FragmentRefused);
    }
    // SAFETY: copied out at once.
    let noted = unsafe { FRAGMENTS.get(&later.key) }.copied();
    let noted = noted.filter(|way| clock::now_ns() < way.seen_ns + FRAGMENT_LIFE_NS);
    match (noted, front) {
        (Some(way), _) if way.direction == direction::TO_CLIENT => {
            follow_to_client(context, later, &way)
        }
        (Some(way), _) => follow_to_server(context, later, &way),
        (None, Some(front)) => {
            let way = sole_way(&later, front).ok_or(Reason::FragmentLost)?;
            follow_to_server(context, later, &way)
        }
        (None, None) => Err(Reason::Fragment),
    }
}

/// The way to the client's server, if the address alone says which service it is and the client's address alone which server.
#[inline(always)]
fn sole_way(later: &Later<'_>, front: Front) -> Option<FragmentWay> {
    let protocol = later.key.protocol as u8;
    let port = front.sole_port(protocol)?;
    let flow = Flow {
        from: Endpoint::new(later.key.source, 0, protocol),
        to: Endpoint::new(later.key.destination, port, protocol),
        flags: 0,
        numbers: Numbers::NONE,
    };
    let service = select::service(&flow)?;
    let pool = select::pool(service).ok()?;
    if pool.flags & pool_flag::PERSISTENT == 0 {
        return None;
    }
    let server = peek::server(&flow, service, pool).ok()?;
    Some(to_server(server, service.index))
}

#[inline(always)]
fn follow_to_server(
    context: &XdpContext,
    mut later: Later<'_>,
    way: &FragmentWay,
) -> Result<(Verdict, Reason), Reason> {
    let number = way.binding.server;
    let server = SERVERS.get(number).ok_or(Reason::NoServer)?;
    // The number may be another server's by now.
    if server.generation != way.binding.generation {
        return Err(Reason::FragmentLost);
    }
    if server.interface == 0 {
        return Err(Reason::NoNextHop);
    }
    let pool: &Pool = POOLS.get(server.pool).ok_or(Reason::NoServer)?;
    rewrite::may_hop(&later.network)?;
    if encapsulate::fits(server, pool) < later.network.total_length() {
        return Err(Reason::TooBig);
    }
    rewrite::hop(&mut later.network);
    let bytes = frame::length(context) as u64;
    count::service(way.service_index, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
    count::server(number, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
    match pool.forwarding {
        forwarding::TUNNEL => {
            encapsulate::tunnel(context, &later.network, later.tags, server)
                .ok_or(Reason::NoNextHop)?;
        }
        forwarding::DIRECT => load::set_frame_addresses(later.ethernet, &server.frame),
        forwarding => {
            // The checksum of the transport header is in the first fragment, which has the change for all of them.
            if forwarding == forwarding::MASQUERADE {
                let _ = rewrite::address(&mut later.network, End::Source, &server.tunnel_source);
            }
            let _ = rewrite::address(&mut later.network, End::Destination, &server.address);
            load::set_frame_addresses(later.ethernet, &server.frame);
        }
    }
    Ok((forward::send(context, server.interface), Reason::Forwarded))
}

#[inline(always)]
fn follow_to_client(
    context: &XdpContext,
    mut later: Later<'_>,
    way: &FragmentWay,
) -> Result<(Verdict, Reason), Reason> {
    let hop = forward::hop_to(&later.key.destination)?;
    rewrite::may_hop(&later.network)?;
    if hop.mtu < later.network.total_length() {
        return Err(Reason::TooBig);
    }
    rewrite::hop(&mut later.network);
    let _ = rewrite::address(&mut later.network, End::Source, &way.address);
    let bytes = frame::length(context) as u64;
    count::service(way.service_index, |counters| {
        counters.answer_packets += 1;
        counters.answer_bytes += bytes;
    });
    load::set_frame_addresses(later.ethernet, hop.frame);
    Ok((forward::send(context, hop.interface), Reason::Returned))
}

impl<'packet> Later<'packet> {
    #[inline(always)]
    fn read(context: &'packet XdpContext, shape: Shape) -> Option<Self> {
        let mut cursor = frame::cursor(context);
        let ethernet = cursor.take()?;
        cursor.skip(shape.tags());
        let (network, id, place) = if shape.is_ipv6() {
            let header: &mut Ipv6Hdr = cursor.take()?;
            let fragment = identification(cursor, shape).ok()?;
            (Network::V6(header), fragment.id, usize::from(fragment.place & 0xfff8))
        } else {
            let header: &mut Ipv4Hdr = cursor.take()?;
            let id = u32::from(u16::from_be_bytes(header.id));
            let place = usize::from(u16::from_be_bytes(header.frags) & 0x1fff) * 8;
            (Network::V4(header), id, place)
        };
        let (source, destination) = network.addresses();
        let key = FragmentKey { source, destination, id, protocol: shape.protocol().into() };
        let carried = (network.total_length() as usize).saturating_sub(shape.network_length());
        let (tags, end) = (shape.tags(), place + carried);
        Some(Self { ethernet, tags, network, key, offset: place, end })
    }

    /// Whether it overlaps the transport header (RFC 1858, RFC 3128), or would make its packet longer than packets are.
    #[inline(always)]
    fn is_refused(&self) -> bool {
        const HEADER: usize = 16;
        let header = if self.key.protocol == u32::from(net::TCP) { HEADER + 8 } else { HEADER };
        self.offset < header || self.end > LONGEST
    }
}
