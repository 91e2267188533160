//! Tunnels: the packet travels to its server inside another one (RFC 2003 for IPv4 in IPv4, RFC 4213 and RFC 2473 for the
//! other three), so that the server sees it as the client sent it and answers the client itself.

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{
    server::Server,
    service::{Pool, forwarding},
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{checksum::Sum, cursor::Cursor, frame, load, parse::Network, resize, tags::Head};

const HOPS: u8 = 64;
/// Protocol numbers of a packet within a packet.
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const DO_NOT_FRAGMENT: [u8; 2] = [0x40, 0];

/// How many bytes an IP packet to `server` may have.
#[inline(always)]
pub(crate) fn fits(server: &Server, pool: &Pool) -> u32 {
    let mtu = u32::from(server.mtu);
    if pool.forwarding != forwarding::TUNNEL {
        return mtu;
    }
    let outer = if server.tunnel_source.is_ipv4() { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    mtu.saturating_sub(outer as u32)
}

/// Puts a packet without VLAN tags into one to `server`. What pointed into it no longer does. `None` when there is no room.
#[inline(always)]
pub(crate) fn tunnel(context: &XdpContext, network: &Network<'_>, server: &Server) -> Option<()> {
    wrap(context, 0, server, Inner::of(network))
}

/// As [`tunnel`], for packets that may have tags.
#[inline(always)]
pub(crate) fn tunnel_tagged(
    context: &XdpContext,
    network: &Network<'_>,
    tags: usize,
    server: &Server,
) -> Option<()> {
    (wrap_tagged(context, tags, server, Inner::of(network).number()) != 0).then_some(())
}

/// A subprogram of its own, for its stack.
#[inline(never)]
fn wrap_tagged(context: &XdpContext, tags: usize, server: &Server, inner: u32) -> u32 {
    wrap(context, tags, server, Inner::from_number(inner)).is_some().into()
}

/// What the outer header says of the packet in it.
#[derive(Clone, Copy)]
struct Inner {
    length: u16,
    /// Its protocol number.
    protocol: u8,
    class: u8,
}

impl Inner {
    #[inline(always)]
    fn of(network: &Network<'_>) -> Self {
        let length = network.total_length() as u16;
        match network {
            Network::V4(header) => Self { length, protocol: IPV4, class: header.tos },
            Network::V6(header) => {
                let class = header.vcf[0] << 4 | header.vcf[1] >> 4;
                Self { length, protocol: IPV6, class }
            }
        }
    }

    /// As one argument, of which a subprogram takes five at most.
    #[inline(always)]
    fn number(self) -> u32 {
        u32::from(self.length) << 16 | u32::from(self.protocol) << 8 | u32::from(self.class)
    }

    #[inline(always)]
    fn from_number(number: u32) -> Self {
        let [class, protocol, ..] = number.to_le_bytes();
        Self { length: (number >> 16) as u16, protocol, class }
    }
}

#[inline(always)]
fn wrap(context: &XdpContext, tags: usize, server: &Server, inner: Inner) -> Option<()> {
    if server.tunnel_source.is_ipv4() {
        in_ipv4(context, tags, server, inner)
    } else {
        in_ipv6(context, tags, server, inner)
    }
}

/// Makes room for an outer header of `bytes` behind the frame's own, which goes to `server`, and says where it is.
#[inline(always)]
fn grow(
    context: &XdpContext,
    tags: usize,
    bytes: usize,
    kind: EtherType,
    server: &Server,
) -> Option<Cursor> {
    let tagged = if tags == 0 {
        None
    } else {
        Some(Head::read(frame::cursor(context), tags)?.of_type(kind as u16))
    };
    resize::grow_head(context, bytes)?;
    let mut cursor = frame::cursor(context);
    if let Some(head) = tagged {
        head.towards(&server.frame).write(&mut cursor)?;
    } else {
        let ethernet: &mut EthHdr = cursor.take()?;
        load::set_frame_addresses(ethernet, &server.frame);
        ethernet.ether_type = kind as u16;
    }
    Some(cursor)
}

#[inline(always)]
fn in_ipv4(context: &XdpContext, tags: usize, server: &Server, inner: Inner) -> Option<()> {
    let Inner { length, protocol, class } = inner;
    let mut cursor = grow(context, tags, Ipv4Hdr::LEN, EtherType::Ipv4, server)?;
    let outer: &mut [[u8; 4]; 5] = cursor.take()?;
    let [high, low] = (length + Ipv4Hdr::LEN as u16).to_be_bytes();
    load::set_u32(&mut outer[0], u32::from_ne_bytes([0x45, class, high, low]));
    load::set_u32(
        &mut outer[1],
        u32::from_ne_bytes([0, 0, DO_NOT_FRAGMENT[0], DO_NOT_FRAGMENT[1]]),
    );
    load::set_u32(&mut outer[3], u32::from_ne_bytes(server.tunnel_source.ipv4_octets()));
    load::set_u32(&mut outer[4], u32::from_ne_bytes(server.address.ipv4_octets()));
    let checksum = Sum::ZERO
        .and_u16([0x45, class])
        .and_u16([high, low])
        .and_u16(DO_NOT_FRAGMENT)
        .and_u16([HOPS, protocol])
        .and_words(&[outer[3], outer[4]])
        .checksum();
    load::set_u32(&mut outer[2], u32::from_ne_bytes([HOPS, protocol, checksum[0], checksum[1]]));
    Some(())
}

#[inline(always)]
fn in_ipv6(context: &XdpContext, tags: usize, server: &Server, inner: Inner) -> Option<()> {
    let Inner { length, protocol, class } = inner;
    let mut cursor = grow(context, tags, Ipv6Hdr::LEN, EtherType::Ipv6, server)?;
    let start: &mut [[u8; 4]; 2] = cursor.take()?;
    let source: &mut [u8; 16] = cursor.take()?;
    let destination: &mut [u8; 16] = cursor.take()?;
    let [high, low] = length.to_be_bytes();
    load::set_u32(&mut start[0], u32::from_ne_bytes([0x60 | class >> 4, class << 4, 0, 0]));
    load::set_u32(&mut start[1], u32::from_ne_bytes([high, low, protocol, HOPS]));
    load::set_address(source, &server.tunnel_source);
    load::set_address(destination, &server.address);
    Some(())
}
