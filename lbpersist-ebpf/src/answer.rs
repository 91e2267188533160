//! Telling a sender at once that its packet goes no further: a reset (RFC 9293, section 3.10.7.1) or "port unreachable"
//! when it is refused, "too big" when the way on is narrower than the way here (RFC 792, RFC 1191, RFC 4443). The packet
//! itself is turned into the answer and sent back where it came from, with the VLAN tags it came with.
//!
//! Nothing else is ever answered: no ICMP error, no later fragment, no packet from an address that is no host's.

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{
    net::{self, Address},
    tcp::flag,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{
    checksum::Sum,
    cursor::Cursor,
    frame, load,
    parse::{Packet, Segment, Transport},
    resize,
    shape::Shape,
    tags::Head,
    verdict::Verdict,
};

pub(crate) const HOPS: u8 = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ICMP_LENGTH: usize = 8;
/// Type, code, and a checksum still to come.
const PORT_UNREACHABLE: [u8; 4] = [3, 3, 0, 0];
const PORT_UNREACHABLE_V6: [u8; 4] = [1, 4, 0, 0];
const FRAGMENTATION_NEEDED: [u8; 4] = [3, 4, 0, 0];
const PACKET_TOO_BIG_V6: [u8; 4] = [2, 0, 0, 0];
/// What is quoted of the transport header.
const QUOTE: usize = 8;
/// The longest IP headers that are quoted; packets with more of them are not answered.
const LONGEST: usize = 60;
const LONGEST_V6: usize = Ipv6Hdr::LEN + 64;

/// Refuses a client's packet, or drops it where no answer can be made. What it was refused for has been counted.
#[inline(always)]
pub(crate) fn refuse(context: &XdpContext) -> Verdict {
    answer_reset(context).unwrap_or_else(|| Verdict::from_action(error(context, 0)))
}

/// Answers a packet that is too big with how many bytes fit.
#[inline(always)]
pub(crate) fn too_big(context: &XdpContext, fits: u16) -> Verdict {
    Verdict::from_action(error(context, fits))
}

/// A subprogram of its own, for its stack and because it is rare: "port unreachable", or how many bytes fit if that is not 0.
#[inline(never)]
fn error(context: &XdpContext, fits: u16) -> u32 {
    answer_error(context, fits).unwrap_or(Verdict::Drop).action()
}

#[inline(always)]
fn answer_reset(context: &XdpContext) -> Option<Verdict> {
    let (shape, packet) = read(context)?;
    let (from, to) = packet.network.addresses();
    let Transport::Tcp(segment) = &packet.transport else { return None };
    if !from.may_be_source() {
        return None;
    }
    let answer = reset(segment, packet.tcp_data_length(), &from, &to)?;
    send_reset(context, shape, &answer, &from, &to)
}

#[inline(always)]
fn answer_error(context: &XdpContext, fits: u16) -> Option<Verdict> {
    let (shape, packet) = read(context)?;
    let is_segment = matches!(packet.transport, Transport::Tcp(_));
    // A refused segment is reset or gets no answer.
    if !packet.network.addresses().0.may_be_source() || (is_segment && fits == 0) {
        return None;
    }
    let (v4, v6) = match fits {
        0 => (PORT_UNREACHABLE, PORT_UNREACHABLE_V6),
        _ => (FRAGMENTATION_NEEDED, PACKET_TOO_BIG_V6),
    };
    if shape.is_ipv6() {
        error_v6(context, shape, v6, fits.into())
    } else {
        error_v4(context, shape, v4, fits.into())
    }
}

#[inline(always)]
fn read(context: &XdpContext) -> Option<(Shape, Packet<'_>)> {
    let shape = frame::shape(context).ok()?;
    let packet = Packet::at(frame::cursor(context), shape, frame::length(context)).ok()?;
    Some((shape, packet))
}

/// The reset that answers a segment of `data` bytes; `None` for a reset.
#[inline(always)]
fn reset(segment: &Segment, data: u32, from: &Address, to: &Address) -> Option<Segment> {
    if segment.flags & flag::RST != 0 {
        return None;
    }
    let counted =
        u32::from(segment.flags & flag::SYN != 0) + u32::from(segment.flags & flag::FIN != 0);
    let next = u32::from_be_bytes(segment.sequence).wrapping_add(data).wrapping_add(counted);
    let (sequence, acknowledgement, flags) = if segment.flags & flag::ACK != 0 {
        (segment.acknowledgement, [0; 4], flag::RST)
    } else {
        ([0; 4], next.to_be_bytes(), flag::RST | flag::ACK)
    };
    let mut answer = Segment {
        source: segment.destination,
        destination: segment.source,
        sequence,
        acknowledgement,
        data_offset: 5 << 4,
        flags,
        window: [0; 2],
        checksum: [0; 2],
        urgent: [0; 2],
    };
    answer.checksum = Sum::ZERO
        .and_address(from)
        .and_address(to)
        .and_u16([0, net::TCP])
        .and_u16((size_of::<Segment>() as u16).to_be_bytes())
        .and_u16(answer.source)
        .and_u16(answer.destination)
        .and_words(&[answer.sequence, answer.acknowledgement])
        .and_u16([answer.data_offset, answer.flags])
        .checksum();
    Some(answer)
}

/// Writes headers for `segment` over those of the packet and sends it from `to` back to `from`.
#[inline(always)]
fn send_reset(
    context: &XdpContext,
    shape: Shape,
    segment: &Segment,
    from: &Address,
    to: &Address,
) -> Option<Verdict> {
    let mut cursor = frame::cursor(context);
    let ethernet: &mut EthHdr = cursor.take()?;
    core::mem::swap(&mut ethernet.src_addr, &mut ethernet.dst_addr);
    cursor.skip(shape.tags());
    let length = size_of::<Segment>() as u16;
    let header_length = if shape.is_ipv6() {
        let header: &mut [[u8; 4]; 2] = cursor.take()?;
        ipv6_start(header, length, net::TCP);
        load::set_address(cursor.take()?, to);
        load::set_address(cursor.take()?, from);
        Ipv6Hdr::LEN
    } else {
        let header: &mut Ipv4Hdr = cursor.take()?;
        *header = ipv4(to.ipv4_octets(), from.ipv4_octets(), length, net::TCP);
        Ipv4Hdr::LEN
    };
    *cursor.take()? = *segment;
    let wanted = shape.network_at() + header_length + size_of::<Segment>();
    resize::cut_tail(context, wanted)?;
    Some(Verdict::Transmit)
}

/// Sends an ICMP error of `kind` about the packet; `size` is what fits, for the kinds that say so.
#[inline(always)]
fn error_v4(context: &XdpContext, shape: Shape, kind: [u8; 4], size: u32) -> Option<Verdict> {
    if shape.network_length() > LONGEST {
        return None;
    }
    let quoted = shape.network_length() + QUOTE;
    let head = Head::read(frame::cursor(context), shape.tags())?.turned();
    resize::grow_head(context, Ipv4Hdr::LEN + ICMP_LENGTH)?;
    let mut cursor = frame::cursor(context);
    head.write(&mut cursor)?;
    let header: &mut Ipv4Hdr = cursor.take()?;
    let icmp: &mut [[u8; 4]; 2] = cursor.take()?;
    let inner: &mut [[u8; 4]; 5] = cursor.take()?;
    *header = ipv4(inner[4], inner[3], (ICMP_LENGTH + quoted) as u16, ICMP);
    *icmp = [kind, size.to_be_bytes()];
    let sum = Sum::ZERO.and_words(icmp).and_words(inner);
    let checksum = and_rest(sum, cursor, quoted - Ipv4Hdr::LEN)?.checksum();
    icmp[0][2] = checksum[0];
    icmp[0][3] = checksum[1];
    resize::cut_tail(context, shape.network_at() + Ipv4Hdr::LEN + ICMP_LENGTH + quoted)?;
    Some(Verdict::Transmit)
}

/// As [`error_v4`], by ICMPv6.
#[inline(always)]
fn error_v6(context: &XdpContext, shape: Shape, kind: [u8; 4], size: u32) -> Option<Verdict> {
    if shape.network_length() > LONGEST_V6 {
        return None;
    }
    let quoted = shape.network_length() + QUOTE;
    let head = Head::read(frame::cursor(context), shape.tags())?.turned();
    resize::grow_head(context, Ipv6Hdr::LEN + ICMP_LENGTH)?;
    let mut cursor = frame::cursor(context);
    head.write(&mut cursor)?;
    let header: &mut [[u8; 4]; 2] = cursor.take()?;
    let addresses: &mut [[u8; 4]; 8] = cursor.take()?;
    let icmp: &mut [[u8; 4]; 2] = cursor.take()?;
    let start: &mut [[u8; 4]; 2] = cursor.take()?;
    let inner: &mut [[u8; 4]; 8] = cursor.take()?;
    let payload = (ICMP_LENGTH + quoted) as u16;
    ipv6_start(header, payload, ICMPV6);
    let mut word = 0;
    while word < 4 {
        addresses[word] = inner[4 + word];
        addresses[4 + word] = inner[word];
        word += 1;
    }
    *icmp = [kind, size.to_be_bytes()];
    let sum = Sum::ZERO
        .and_words(addresses)
        .and_u16(payload.to_be_bytes())
        .and_u16([0, ICMPV6])
        .and_words(icmp)
        .and_words(start)
        .and_words(inner);
    let checksum = and_rest(sum, cursor, quoted - Ipv6Hdr::LEN)?.checksum();
    icmp[0][2] = checksum[0];
    icmp[0][3] = checksum[1];
    resize::cut_tail(context, shape.network_at() + Ipv6Hdr::LEN + ICMP_LENGTH + quoted)?;
    Some(Verdict::Transmit)
}

/// With `length` bytes more, a multiple of four and no more than a quote has behind the addresses.
#[inline(always)]
fn and_rest(mut sum: Sum, mut cursor: Cursor, length: usize) -> Option<Sum> {
    const MOST: usize = LONGEST_V6 - Ipv6Hdr::LEN + QUOTE;
    let mut done = 0;
    while done < MOST {
        if done >= length {
            break;
        }
        let word: &mut [[u8; 4]; 1] = cursor.take()?;
        sum = sum.and_words(word);
        done += 4;
    }
    Some(sum)
}

/// An IPv4 header of ours before `payload` bytes.
#[inline(always)]
fn ipv4(from: [u8; 4], to: [u8; 4], payload: u16, protocol: u8) -> Ipv4Hdr {
    let mut header = Ipv4Hdr {
        vihl: 0x45,
        tos: 0,
        tot_len: (Ipv4Hdr::LEN as u16 + payload).to_be_bytes(),
        id: [0; 2],
        frags: [0; 2],
        ttl: HOPS,
        proto: protocol,
        check: [0; 2],
        src_addr: from,
        dst_addr: to,
    };
    header.check = Sum::ZERO
        .and_u16([header.vihl, 0])
        .and_u16(header.tot_len)
        .and_u16([header.ttl, header.proto])
        .and_words(&[header.src_addr, header.dst_addr])
        .checksum();
    header
}

/// The first eight bytes of an IPv6 header of ours before `payload` bytes.
#[inline(always)]
fn ipv6_start(header: &mut [[u8; 4]; 2], payload: u16, protocol: u8) {
    let [high, low] = payload.to_be_bytes();
    *header = [[0x60, 0, 0, 0], [high, low, protocol, HOPS]];
}
