//! ICMP and ICMPv6: errors follow the connection they speak of (RFC 5508, RFC 792, RFC 4443), pings to services are answered.
//!
//! An error quotes the packet it is about, and that says whose it is. About a server's answer it goes to that server, about a
//! client's packet to that client; where addresses are translated, what is quoted becomes what its sender had sent. The
//! tables are only read for this. An error never leads to another one.

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{
    front::front_flag,
    net::{self, Address, Endpoint},
    reason::Reason,
    service::{Pool, Reverse, forwarding, reverse_flag},
    tcp::flag,
    translation::Translation,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    answer::HOPS,
    checksum::Change,
    cursor::Cursor,
    encapsulate, forward, frame, front, load,
    maps::SERVERS,
    masquerade,
    parse::{Flow, Network, Numbers},
    peek,
    rewrite::{self, End},
    select,
    shape::{Piece, Shape},
    verdict::Verdict,
    wide,
};

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// Type and code of a ping, and of the answer to it.
const ECHO: [u8; 2] = [8, 0];
const ECHO_REPLY: [u8; 2] = [0, 0];
const ECHO_V6: [u8; 2] = [128, 0];
const ECHO_REPLY_V6: [u8; 2] = [129, 0];

/// Bytes before what an error quotes.
const HEADER: usize = 8;

/// Decides on an ICMP packet and counts it under exactly one reason.
#[inline(always)]
pub(crate) fn packet(context: &XdpContext) -> Verdict {
    forward::settle(context, carry(context))
}

#[inline(always)]
fn carry(context: &XdpContext) -> Result<(Verdict, Reason), Reason> {
    let shape = frame::shape(context)?;
    let mut cursor = frame::cursor(context);
    cursor.skip(shape.network_at());
    cursor.skip(shape.network_length());
    let icmp: &mut [[u8; 4]; 2] = cursor.take().ok_or(Reason::Malformed)?;
    let kind = [icmp[0][0], icmp[0][1]];
    let (is_echo, is_error) = if shape.is_ipv6() {
        (kind == ECHO_V6, matches!(kind[0], 1..=4))
    } else {
        // Unreachable, source quench, time exceeded, parameter problem; not "redirect", which is about a link.
        (kind == ECHO, matches!(kind[0], 3 | 4 | 11 | 12))
    };
    if is_error {
        error(context, shape)
    } else if is_echo {
        echo(context, shape)
    } else {
        Err(Reason::OtherProtocol)
    }
}

/// Answers a ping to a service's address.
#[inline(always)]
fn echo(context: &XdpContext, shape: Shape) -> Result<(Verdict, Reason), Reason> {
    let mut cursor = frame::cursor(context);
    let ethernet: &mut EthHdr = cursor.take().ok_or(Reason::Malformed)?;
    cursor.skip(shape.tags());
    let mut network = network(&mut cursor, shape).ok_or(Reason::Malformed)?;
    let (from, to) = network.addresses();
    let is_plain = shape.network_length() == network.plain_length();
    let answers = front::of(&to).is_some_and(|front| front.flags & front_flag::ECHO != 0);
    // Options and extension headers may ask for more than to be sent back.
    if !answers || !is_plain || !from.may_be_source() {
        return Err(Reason::OtherProtocol);
    }
    let icmp: &mut [[u8; 4]; 2] = cursor.take().ok_or(Reason::Malformed)?;
    core::mem::swap(&mut ethernet.src_addr, &mut ethernet.dst_addr);
    let reply = match &mut network {
        Network::V4(header) => {
            core::mem::swap(&mut header.src_addr, &mut header.dst_addr);
            let was = [header.ttl, header.proto];
            header.ttl = HOPS;
            header.check =
                Change::NONE.and_u16(was, [header.ttl, header.proto]).apply(header.check);
            ECHO_REPLY
        }
        Network::V6(header) => {
            load::set_address(&mut header.src_addr, &to);
            load::set_address(&mut header.dst_addr, &from);
            header.hop_limit = HOPS;
            ECHO_REPLY_V6
        }
    };
    let [kind, code, high, low] = icmp[0];
    let [high, low] = Change::NONE.and_u16([kind, code], reply).apply([high, low]);
    icmp[0] = [reply[0], reply[1], high, low];
    Ok((Verdict::Transmit, Reason::EchoAnswered))
}

/// An ICMP error and what it quotes.
struct Error<'packet> {
    ethernet: &'packet mut EthHdr,
    tags: usize,
    network: Network<'packet>,
    icmp: &'packet mut [[u8; 4]; 2],
    quoted: Network<'packet>,
    protocol: u8,
    ports: &'packet mut [u8; 4],
    /// The checksum of the quoted transport header, if that much is quoted.
    check: Option<&'packet mut [u8; 2]>,
}

/// Whom an error is for.
enum Addressee {
    /// The server whose answer to a client it speaks of.
    Server { number: u32, pool: &'static Pool },
    /// The client whose packet to a server it speaks of; under masquerade it came to the server from an address of ours.
    Client { reverse: &'static Reverse, translation: Option<&'static Translation> },
}

#[inline(always)]
fn error(context: &XdpContext, shape: Shape) -> Result<(Verdict, Reason), Reason> {
    let inner = frame::quoted(context, shape)?;
    if inner.piece() == Piece::Later || !matches!(inner.protocol(), net::TCP | net::UDP) {
        return Err(Reason::OtherProtocol);
    }
    let error = Error::read(frame::cursor(context), shape, inner).ok_or(Reason::Malformed)?;
    let opposite = error.opposite();
    let (_, to) = error.network.addresses();
    // Only the sender of a packet is told of its fate.
    if to != opposite.to.address {
        return Err(Reason::OtherProtocol);
    }
    match addressee(&opposite)? {
        Addressee::Server { number, pool } => to_server(context, error, &opposite, number, pool),
        Addressee::Client { reverse, translation } => {
            to_client(context, error, &opposite, reverse, translation)
        }
    }
}

/// Whom an error is for, by a packet that would answer the quoted one. This is the place that knows how a quoted packet's ends
/// were translated.
#[inline(always)]
fn addressee(opposite: &Flow) -> Result<Addressee, Reason> {
    let service = match select::service(opposite) {
        Some(service) => service,
        None => {
            if let Some(reverse) = select::reverse(opposite) {
                return to_whom(opposite, reverse);
            }
            wide::on_a_prefix(&opposite.to).ok_or(Reason::OtherProtocol)?
        }
    };
    let pool = select::pool(service)?;
    Ok(Addressee::Server { number: peek::server(opposite, service, pool)?, pool })
}

/// The client whose packet to that server is quoted.
#[inline(always)]
fn to_whom(opposite: &Flow, reverse: &'static Reverse) -> Result<Addressee, Reason> {
    let is_masqueraded = reverse.flags & reverse_flag::MASQUERADE != 0;
    match if is_masqueraded { masquerade::known(opposite) } else { None } {
        Some(found) => Ok(Addressee::Client { reverse: &found.answer, translation: Some(found) }),
        // The server is reached by masquerade alone, and what is quoted was no client's.
        None if reverse.service == 0 => Err(Reason::OtherProtocol),
        None => Ok(Addressee::Client { reverse, translation: None }),
    }
}

#[inline(always)]
fn to_server(
    context: &XdpContext,
    mut error: Error<'_>,
    opposite: &Flow,
    number: u32,
    pool: &Pool,
) -> Result<(Verdict, Reason), Reason> {
    let server = SERVERS.get(number).ok_or(Reason::NoServer)?;
    if server.interface == 0 {
        return Err(Reason::NoNextHop);
    }
    rewrite::may_hop(&error.network)?;
    if encapsulate::fits(server, pool) < error.network.total_length() {
        return Err(Reason::TooBig);
    }
    let port = if pool.forwarding == forwarding::MASQUERADE {
        // Who is unknown to the tables was told nothing by that server.
        masquerade::known_port(opposite, server).ok_or(Reason::OtherProtocol)?
    } else {
        0
    };
    rewrite::hop(&mut error.network);
    match pool.forwarding {
        forwarding::TUNNEL => {
            encapsulate::tunnel_tagged(context, &error.network, error.tags, server)
                .ok_or(Reason::NoNextHop)?;
        }
        forwarding::DIRECT => load::set_frame_addresses(error.ethernet, &server.frame),
        forwarding => {
            if forwarding == forwarding::MASQUERADE {
                error.translate(End::Destination, &server.tunnel_source, port);
            }
            let port = if server.port == 0 { opposite.to.port } else { server.port };
            error.translate(End::Source, &server.address, port);
            load::set_frame_addresses(error.ethernet, &server.frame);
        }
    }
    Ok((forward::send(context, server.interface), Reason::ErrorForwarded))
}

#[inline(always)]
fn to_client(
    context: &XdpContext,
    mut error: Error<'_>,
    opposite: &Flow,
    reverse: &Reverse,
    translation: Option<&Translation>,
) -> Result<(Verdict, Reason), Reason> {
    let client = translation.map_or(&opposite.to, |found| &found.client);
    let hop = forward::hop_to(&client.address)?;
    rewrite::may_hop(&error.network)?;
    if hop.mtu < error.network.total_length() {
        return Err(Reason::TooBig);
    }
    rewrite::hop(&mut error.network);
    error.translate(End::Destination, &reverse.address, reverse.port_for(opposite.from.port));
    if translation.is_some() {
        error.translate(End::Source, &client.address, client.port);
    }
    load::set_frame_addresses(error.ethernet, hop.frame);
    Ok((forward::send(context, hop.interface), Reason::ErrorReturned))
}

impl<'packet> Error<'packet> {
    #[inline(always)]
    fn read(mut cursor: Cursor, shape: Shape, inner: Shape) -> Option<Self> {
        let ethernet = cursor.take()?;
        cursor.skip(shape.tags());
        let mut behind = cursor;
        behind.skip(shape.network_length());
        let network = network(&mut cursor, shape)?;
        let icmp = behind.take()?;
        let mut transport = behind;
        transport.skip(inner.network_length());
        let quoted = self::network(&mut behind, shape)?;
        // What is behind the packet in its frame is not quoted.
        let headers = shape.network_length() + HEADER + inner.network_length();
        let left = (network.total_length() as usize).checked_sub(headers)?;
        let ports = transport.take()?;
        let (skipped, needed) = if inner.protocol() == net::TCP { (12, 18) } else { (2, 8) };
        transport.skip(skipped);
        let check = if left >= needed { transport.take() } else { None };
        let (tags, protocol) = (shape.tags(), inner.protocol());
        (left >= size_of_val(ports)).then_some(Self {
            ethernet,
            tags,
            network,
            icmp,
            quoted,
            protocol,
            ports,
            check,
        })
    }

    /// A packet that would answer the quoted one.
    #[inline(always)]
    fn opposite(&self) -> Flow {
        let (source, destination) = self.quoted.addresses();
        let [from_high, from_low, to_high, to_low] = *self.ports;
        let (from, to) =
            (u16::from_be_bytes([from_high, from_low]), u16::from_be_bytes([to_high, to_low]));
        Flow {
            from: Endpoint::new(destination, to, self.protocol),
            to: Endpoint::new(source, from, self.protocol),
            flags: if self.protocol == net::TCP { flag::ACK } else { 0 },
            numbers: Numbers::NONE,
        }
    }

    /// Gives one end of the quoted packet another address and port, and the error itself the address where it has the same
    /// end the other way round; all checksums stay as right as they were.
    #[inline(always)]
    fn translate(&mut self, quoted_end: End, address: &Address, port: u16) {
        let header_check = self.quoted.check();
        let moved = rewrite::address(&mut self.quoted, quoted_end, address);
        let mut change = moved.and_u16(header_check, self.quoted.check());
        let was = *self.ports;
        let [high, low] = port.to_be_bytes();
        match quoted_end {
            End::Source => [self.ports[0], self.ports[1]] = [high, low],
            End::Destination => [self.ports[2], self.ports[3]] = [high, low],
        }
        let (was, is) = (load::u32(&was), load::u32(self.ports));
        change = change.and_u32(was, is);
        // A UDP checksum of zero means there is none.
        if let Some(check) = &mut self.check
            && (self.protocol == net::TCP || **check != [0, 0])
        {
            let before = **check;
            **check = moved.and_u32(was, is).apply(before);
            if self.protocol == net::UDP && **check == [0, 0] {
                **check = [0xff, 0xff];
            }
            change = change.and_u16(before, **check);
        }
        let outer = rewrite::address(&mut self.network, quoted_end.other(), address);
        // ICMPv6 has the addresses in its checksum, ICMP has not.
        if let Network::V6(_) = self.network {
            change = change.and(outer);
        }
        let [_, _, high, low] = self.icmp[0];
        let [high, low] = change.apply([high, low]);
        (self.icmp[0][2], self.icmp[0][3]) = (high, low);
    }
}

/// The IP header at `cursor`.
#[inline(always)]
fn network<'packet>(cursor: &mut Cursor, shape: Shape) -> Option<Network<'packet>> {
    if shape.is_ipv6() {
        cursor.take::<Ipv6Hdr>().map(Network::V6)
    } else {
        cursor.take::<Ipv4Hdr>().map(Network::V4)
    }
}
