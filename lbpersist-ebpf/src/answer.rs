//! Telling a client at once that its packet goes no further: a reset (RFC 9293, section 3.10.7.1) or "port unreachable"
//! when it is refused, "too big" when a tunnel is narrower than the way here (RFC 792, RFC 1191, RFC 4443). The packet
//! itself is turned into the answer and sent back where it came from.

use aya_ebpf::programs::XdpContext;
use lbpersist_common::tcp::flag;
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    checksum::{Change, Sum},
    cursor::Cursor,
    load,
    parse::{Flow, Network, Packet, Segment, Transport},
    resize,
    verdict::Verdict,
};

const HOPS: u8 = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ICMP_LENGTH: usize = 8;
/// Type, code, and a checksum still to come.
const PORT_UNREACHABLE: [u8; 4] = [3, 3, 0, 0];
const PORT_UNREACHABLE_V6: [u8; 4] = [1, 4, 0, 0];
const FRAGMENTATION_NEEDED: [u8; 4] = [3, 4, 0, 0];
const PACKET_TOO_BIG_V6: [u8; 4] = [2, 0, 0, 0];
/// What is quoted: an IPv4 header without options, or an IPv6 header, and eight bytes of what follows.
const QUOTE: usize = 28;
const QUOTE_V6: usize = 48;

/// Refuses a client's packet, or drops it where no answer can be made.
#[inline(always)]
pub(crate) fn refuse(context: &XdpContext) -> Verdict {
    Verdict::from_action(refusal(context))
}

/// Answers a packet that is too big with how many bytes fit.
#[inline(always)]
pub(crate) fn too_big(context: &XdpContext, fits: u16) -> Verdict {
    Verdict::from_action(size_that_fits(context, fits))
}

/// A subprogram of its own, for its stack and because it is rare.
#[inline(never)]
fn refusal(context: &XdpContext) -> u32 {
    let Ok(mut packet) = Packet::parse(context) else { return Verdict::Drop.action() };
    let frame = *packet.ethernet;
    let answered = match (&packet.transport, &packet.network) {
        (Transport::Tcp(_), _) => reset(context, &mut packet),
        (Transport::Udp(_), Network::V4(header)) if header.vihl == 0x45 => {
            error_v4(context, &frame, PORT_UNREACHABLE, 0)
        }
        (Transport::Udp(_), Network::V6(_)) => error_v6(context, &frame, PORT_UNREACHABLE_V6, 0),
        (Transport::Udp(_), Network::V4(_)) => None,
    };
    answered.unwrap_or(Verdict::Drop).action()
}

/// As [`refusal`].
#[inline(never)]
fn size_that_fits(context: &XdpContext, fits: u16) -> u32 {
    let Ok(packet) = Packet::parse(context) else { return Verdict::Drop.action() };
    let frame = *packet.ethernet;
    let answered = match &packet.network {
        Network::V4(header) if header.vihl == 0x45 => {
            error_v4(context, &frame, FRAGMENTATION_NEEDED, fits.into())
        }
        Network::V4(_) => None,
        Network::V6(_) => error_v6(context, &frame, PACKET_TOO_BIG_V6, fits.into()),
    };
    answered.unwrap_or(Verdict::Drop).action()
}

#[inline(always)]
fn reset(context: &XdpContext, packet: &mut Packet<'_>) -> Option<Verdict> {
    let flow = packet.flow();
    let data = packet.tcp_data_length();
    let length = packet.length;
    let frame = *packet.ethernet;
    turn_frame(packet.ethernet, &frame);
    let header_length = turn_network(packet, &flow)?;
    let Transport::Tcp(segment) = &mut packet.transport else { return None };
    // A reset is never answered (RFC 9293, section 3.10.7.1).
    if segment.flags & flag::RST != 0 {
        return None;
    }
    turn_segment(segment, data);
    segment.checksum = Sum::ZERO
        .and_address(&flow.from.address)
        .and_address(&flow.to.address)
        .and_u16([0, lbpersist_common::net::TCP])
        .and_u16((size_of::<Segment>() as u16).to_be_bytes())
        .and_u16(segment.source)
        .and_u16(segment.destination)
        .and_words(&[segment.sequence, segment.acknowledgement])
        .and_u16([segment.data_offset, segment.flags])
        .checksum();
    let wanted = (EthHdr::LEN + header_length + size_of::<Segment>()) as u64;
    resize::cut_tail(context, length, wanted)?;
    Some(Verdict::Transmit)
}

/// Sends the network header back; returns its length.
#[inline(always)]
fn turn_network(packet: &mut Packet<'_>, flow: &Flow) -> Option<usize> {
    let total = size_of::<Segment>() as u16;
    match &mut packet.network {
        Network::V4(header) => {
            let length = usize::from(header.vihl & 0x0f) * 4;
            load::set_u32(&mut header.src_addr, u32::from_ne_bytes(flow.to.address.ipv4_octets()));
            load::set_u32(
                &mut header.dst_addr,
                u32::from_ne_bytes(flow.from.address.ipv4_octets()),
            );
            let was = (header.tot_len, [header.ttl, header.proto]);
            header.tot_len = (length as u16 + total).to_be_bytes();
            header.ttl = HOPS;
            header.check = Change::NONE
                .and_u16(was.0, header.tot_len)
                .and_u16(was.1, [header.ttl, header.proto])
                .apply(header.check);
            Some(length)
        }
        Network::V6(header) => {
            load::set_address(&mut header.src_addr, &flow.to.address);
            load::set_address(&mut header.dst_addr, &flow.from.address);
            header.payload_len = total.to_be_bytes();
            header.hop_limit = HOPS;
            Some(Ipv6Hdr::LEN)
        }
    }
}

/// Makes a segment into the reset that answers it.
#[inline(always)]
fn turn_segment(segment: &mut Segment, data: u32) {
    let counted =
        u32::from(segment.flags & flag::SYN != 0) + u32::from(segment.flags & flag::FIN != 0);
    let next = u32::from_be_bytes(segment.sequence).wrapping_add(data).wrapping_add(counted);
    (segment.source, segment.destination) = (segment.destination, segment.source);
    if segment.flags & flag::ACK != 0 {
        segment.sequence = segment.acknowledgement;
        segment.acknowledgement = [0; 4];
        segment.flags = flag::RST;
    } else {
        segment.sequence = [0; 4];
        segment.acknowledgement = next.to_be_bytes();
        segment.flags = flag::RST | flag::ACK;
    }
    segment.data_offset = 5 << 4;
    segment.window = [0; 2];
    segment.urgent = [0; 2];
}

/// Sends an ICMP error of `kind` about the packet; `size` is what fits, for the kinds that say so.
#[inline(always)]
fn error_v4(context: &XdpContext, frame: &EthHdr, kind: [u8; 4], size: u32) -> Option<Verdict> {
    resize::grow_head(context, Ipv4Hdr::LEN + ICMP_LENGTH)?;
    let mut cursor = Cursor::new(context);
    let length = cursor.left() as u64;
    turn_frame(cursor.take()?, frame);
    let header: &mut Ipv4Hdr = cursor.take()?;
    let icmp: &mut [[u8; 4]; 2] = cursor.take()?;
    let quote: &mut [[u8; 4]; QUOTE / 4] = cursor.take()?;
    *header = Ipv4Hdr {
        vihl: 0x45,
        tos: 0,
        tot_len: ((Ipv4Hdr::LEN + ICMP_LENGTH + QUOTE) as u16).to_be_bytes(),
        id: [0; 2],
        frags: [0; 2],
        ttl: HOPS,
        proto: ICMP,
        check: [0; 2],
        src_addr: quote[4],
        dst_addr: quote[3],
    };
    header.check = Sum::ZERO
        .and_u16([header.vihl, 0])
        .and_u16(header.tot_len)
        .and_u16([header.ttl, header.proto])
        .and_words(&[header.src_addr, header.dst_addr])
        .checksum();
    *icmp = [kind, size.to_be_bytes()];
    let checksum = Sum::ZERO.and_words(icmp).and_words(quote).checksum();
    icmp[0][2] = checksum[0];
    icmp[0][3] = checksum[1];
    resize::cut_tail(context, length, (EthHdr::LEN + Ipv4Hdr::LEN + ICMP_LENGTH + QUOTE) as u64)?;
    Some(Verdict::Transmit)
}

/// As [`error_v4`], by ICMPv6.
#[inline(always)]
fn error_v6(context: &XdpContext, frame: &EthHdr, kind: [u8; 4], size: u32) -> Option<Verdict> {
    resize::grow_head(context, Ipv6Hdr::LEN + ICMP_LENGTH)?;
    let mut cursor = Cursor::new(context);
    let length = cursor.left() as u64;
    turn_frame(cursor.take()?, frame);
    let header: &mut [[u8; 4]; 10] = cursor.take()?;
    let icmp: &mut [[u8; 4]; 2] = cursor.take()?;
    let quote: &mut [[u8; 4]; QUOTE_V6 / 4] = cursor.take()?;
    let payload = (ICMP_LENGTH + QUOTE_V6) as u16;
    let [high, low] = payload.to_be_bytes();
    header[0] = [0x60, 0, 0, 0];
    header[1] = [high, low, ICMPV6, HOPS];
    let mut word = 0;
    while word < 4 {
        header[2 + word] = quote[6 + word];
        header[6 + word] = quote[2 + word];
        word += 1;
    }
    *icmp = [kind, size.to_be_bytes()];
    let (_, addresses) = header.split_first_chunk::<2>()?;
    let addresses: &[[u8; 4]; 8] = addresses.try_into().ok()?;
    let checksum = Sum::ZERO
        .and_words(addresses)
        .and_u16([high, low])
        .and_u16([0, ICMPV6])
        .and_words(icmp)
        .and_words(quote)
        .checksum();
    icmp[0][2] = checksum[0];
    icmp[0][3] = checksum[1];
    resize::cut_tail(
        context,
        length,
        (EthHdr::LEN + Ipv6Hdr::LEN + ICMP_LENGTH + QUOTE_V6) as u64,
    )?;
    Some(Verdict::Transmit)
}

/// Sends the frame back where it came from.
#[inline(always)]
fn turn_frame(frame: &mut EthHdr, was: &EthHdr) {
    frame.dst_addr = was.src_addr;
    frame.src_addr = was.dst_addr;
    frame.ether_type = was.ether_type;
}
