//! Fragments. The first one has the ports and is carried like a whole packet; it leaves a note of where it went, and the later
//! ones follow.
#![expect(unsafe_code, reason = "map values are reached through pointers")]

use aya_ebpf::programs::XdpContext;
use bytemuck::Zeroable as _;
use lbpersist_common::{
    fragment::{FRAGMENT_LIFE_NS, FragmentKey, FragmentWay, direction},
    front::Front,
    net::{self, Address, Endpoint},
    reason::Reason,
    server::Binding,
    service::{Pool, Reverse, Service, forwarding, pool_flag, reverse_flag},
    translation::Translation,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    clock, count, encapsulate, forward, frame, front, load,
    maps::{FRAGMENT_CLIENTS, FRAGMENTS, POOLS, SERVERS},
    parse::{Flow, Network, Numbers, identification},
    peek,
    rewrite::{self, End},
    select,
    shape::Shape,
    verdict::Verdict,
    wide,
};

/// The longest IP packet.
const LONGEST: usize = 65_535;

/// A fragment after the first.
struct Later<'packet> {
    ethernet: &'packet mut EthHdr,
    tags: usize,
    network: Network<'packet>,
    part: Part,
}

/// Which part of which packet it is.
#[derive(Clone, Copy)]
struct Part {
    key: FragmentKey,
    /// Where what it carries begins in the packet, and where it ends.
    offset: usize,
    end: usize,
}

/// Notes where the first fragment of a packet to a server went.
///
/// This and the next are subprograms of their own, which put the note together, for their stack and because they are rare.
#[inline(never)]
pub(crate) fn note(flow: &Flow, id: u32, server: u32, service_index: u32) -> u32 {
    insert(flow, id, &to_server(server, service_index))
}

/// Notes where the first fragment of an answer went.
#[inline(never)]
pub(crate) fn note_answer(
    flow: &Flow,
    id: u32,
    answer: &Reverse,
    translation: Option<&Translation>,
) -> u32 {
    let direction = match translation {
        Some(found) => {
            let client = &found.client.address;
            let _ = FRAGMENT_CLIENTS.insert(&key(flow, id), client, 0);
            direction::TO_MASQUERADED
        }
        None => direction::TO_CLIENT,
    };
    insert(flow, id, &to_client(&answer.address, answer.service_index, direction))
}

#[inline(always)]
fn insert(flow: &Flow, id: u32, way: &FragmentWay) -> u32 {
    // A table that refuses leaves the later fragments to the rule for those whose first one was not seen.
    u32::from(FRAGMENTS.insert(&key(flow, id), way, 0).is_ok())
}

#[inline(always)]
fn key(flow: &Flow, id: u32) -> FragmentKey {
    FragmentKey {
        source: flow.from.address,
        destination: flow.to.address,
        id,
        protocol: flow.from.protocol.into(),
    }
}

/// The way of a first fragment to a server.
#[inline(always)]
fn to_server(server: u32, service_index: u32) -> FragmentWay {
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
fn to_client(address: &Address, service_index: u32, direction: u32) -> FragmentWay {
    FragmentWay {
        address: *address,
        binding: Binding { server: 0, generation: 0 },
        service_index,
        direction,
        seen_ns: clock::now_ns(),
    }
}

/// Whether a first fragment that cannot be read is to a service: then it is one that cuts the transport header.
#[inline(always)]
pub(crate) fn refused(context: &XdpContext, shape: Shape, reason: Reason) -> Reason {
    let to = Later::read(context, shape).map(|later| later.part.key.destination);
    match to {
        Some(to) if front::of(&to).is_some() => Reason::FragmentRefused,
        _ => reason,
    }
}

/// Decides on a fragment after the first and counts it under exactly one reason.
///
/// To find the way and to go it are subprograms, one after the other: the stack has room for each, but not for both at once.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    let mut way = FragmentWay::zeroed();
    match look(context, &mut way) {
        Ok(shape) => Verdict::from_action(follow(context, shape.word(), &way)),
        Err(reason) => forward::settle(context, Err(reason)),
    }
}

/// Finds the way.
#[inline(always)]
fn look(context: &XdpContext, way: &mut FragmentWay) -> Result<Shape, Reason> {
    let shape = frame::shape(context)?;
    if !matches!(shape.protocol(), net::TCP | net::UDP) {
        return Err(Reason::Fragment);
    }
    let Some(later) = Later::read(context, shape) else { return Err(Reason::Malformed) };
    let part = later.part;
    found(find(&part, way))?;
    Ok(shape)
}

/// Goes the way; a subprogram of its own, which returns the action.
#[inline(never)]
fn follow(context: &XdpContext, word: u64, way: &FragmentWay) -> u32 {
    let (verdict, reason) = match carry(context, Shape::from_word(word), way) {
        Ok(done) => done,
        Err(reason) => (Verdict::of(reason), reason),
    };
    count::verdict(reason);
    verdict.action()
}

#[inline(always)]
fn carry(
    context: &XdpContext,
    shape: Shape,
    way: &FragmentWay,
) -> Result<(Verdict, Reason), Reason> {
    // Not by way of a `Result`: copied with a reason in its place, a pointer goes in two halves, which the verifier refuses.
    let Some(later) = Later::read(context, shape) else { return Err(Reason::Malformed) };
    if way.direction != direction::TO_SERVER {
        return follow_to_client(context, later, way);
    }
    if later.part.is_refused() {
        return Err(Reason::FragmentRefused);
    }
    follow_to_server(context, later, way)
}

/// Where the first one went, or will have gone: 0, or the number of a reason. A subprogram of its own, for its stack.
#[inline(never)]
fn find(part: &Part, way: &mut FragmentWay) -> u32 {
    let found = match noted(&part.key) {
        Some(found) => Ok(found),
        None => guessed(part),
    };
    match found {
        Ok(found) => {
            *way = found;
            0
        }
        Err(reason) => reason as u32,
    }
}

/// What [`find`] says.
#[inline(always)]
fn found(number: u32) -> Result<(), Reason> {
    const OTHERS: u32 = Reason::Fragment as u32;
    const REFUSED: u32 = Reason::FragmentRefused as u32;
    match number {
        0 => Ok(()),
        OTHERS => Err(Reason::Fragment),
        REFUSED => Err(Reason::FragmentRefused),
        _ => Err(Reason::FragmentLost),
    }
}

/// Where the first one went.
#[inline(always)]
fn noted(key: &FragmentKey) -> Option<FragmentWay> {
    // SAFETY: copied out at once.
    let way = unsafe { FRAGMENTS.get(key) }.copied()?;
    (clock::now_ns() < way.seen_ns + FRAGMENT_LIFE_NS).then_some(way)
}

/// Where the first one will have gone, if addresses alone say so.
#[inline(always)]
fn guessed(part: &Part) -> Result<FragmentWay, Reason> {
    match front::of(&part.key.destination) {
        Some(front) => to_a_front(part, front),
        None => to_no_front(part),
    }
}

/// To an address that services are on.
#[inline(always)]
fn to_a_front(part: &Part, front: Front) -> Result<FragmentWay, Reason> {
    if part.is_refused() {
        return Err(Reason::FragmentRefused);
    }
    let port = front.sole_port(part.key.protocol as u8).ok_or(Reason::FragmentLost)?;
    // All ports that the service on the address leaves over are the prefix's.
    if port != 0 && wide::on_all_ports_of_a_prefix(&part.end(part.key.destination, 0)).is_some() {
        return Err(Reason::FragmentLost);
    }
    let flow = part.flow(port);
    let service = select::service(&flow).ok_or(Reason::FragmentLost)?;
    sole_way(&flow, service).ok_or(Reason::FragmentLost)
}

/// To any other address: from a server, or to a prefix, in the order in which whole packets are asked whose they are.
#[inline(always)]
fn to_no_front(part: &Part) -> Result<FragmentWay, Reason> {
    if let Some(answers) = wide::reverse(&part.end(part.key.source, 0))
        && answers.flags & reverse_flag::ALONE != 0
        && answers.service != 0
    {
        return Ok(to_client(&answers.address, answers.service_index, direction::TO_CLIENT));
    }
    let flow = part.flow(0);
    let service = wide::on_all_ports_of_a_prefix(&flow.to).ok_or(Reason::Fragment)?;
    if part.is_refused() {
        return Err(Reason::FragmentRefused);
    }
    if wide::has_ports_of_prefixes() {
        return Err(Reason::FragmentLost);
    }
    sole_way(&flow, service).ok_or(Reason::FragmentLost)
}

/// The way to the client's server, if its address alone says which that is.
#[inline(always)]
fn sole_way(flow: &Flow, service: &Service) -> Option<FragmentWay> {
    let pool = select::pool(service).ok()?;
    if pool.flags & pool_flag::PERSISTENT == 0 {
        return None;
    }
    let server = peek::server(flow, service, pool).ok()?;
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
            encapsulate::tunnel_tagged(context, &later.network, later.tags, server)
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
    let client = if way.direction == direction::TO_MASQUERADED {
        // SAFETY: copied out at once.
        let client = unsafe { FRAGMENT_CLIENTS.get(&later.part.key) }.copied();
        client.ok_or(Reason::FragmentLost)?
    } else {
        later.part.key.destination
    };
    let hop = forward::hop_to(&client)?;
    rewrite::may_hop(&later.network)?;
    if hop.mtu < later.network.total_length() {
        return Err(Reason::TooBig);
    }
    rewrite::hop(&mut later.network);
    let _ = rewrite::address(&mut later.network, End::Source, &way.address);
    if way.direction == direction::TO_MASQUERADED {
        let _ = rewrite::address(&mut later.network, End::Destination, &client);
    }
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
        let part = Part { key, offset: place, end: place + carried };
        Some(Self { ethernet, tags: shape.tags(), network, part })
    }
}

impl Part {
    /// One end of its packet, at a port that it does not show.
    #[inline(always)]
    fn end(&self, address: Address, port: u16) -> Endpoint {
        Endpoint::new(address, port, self.key.protocol as u8)
    }

    /// Its packet, to that port.
    #[inline(always)]
    fn flow(&self, port: u16) -> Flow {
        Flow {
            from: self.end(self.key.source, 0),
            to: self.end(self.key.destination, port),
            flags: 0,
            numbers: Numbers::NONE,
        }
    }

    /// Whether it overlaps the transport header (RFC 1858, RFC 3128), or would make its packet longer than packets are.
    #[inline(always)]
    fn is_refused(&self) -> bool {
        const HEADER: usize = 16;
        let header = if self.key.protocol == u32::from(net::TCP) { HEADER + 8 } else { HEADER };
        self.offset < header || self.end > LONGEST
    }
}
