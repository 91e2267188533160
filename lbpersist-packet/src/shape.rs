//! Where the headers of a packet stand, whatever lies between them: VLAN tags, IPv4 options, IPv6 extension headers.
//!
//! [`Shape::read`] walks over all of it once. What it finds is a few numbers, so that whoever goes on from there reaches
//! every header in one step.

use lbpersist_common::reason::Reason;
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::{checksum::Sum, cursor::Cursor, parse::is_nobodys};

/// IEEE 802.1Q and 802.1ad, as they stand in a frame.
const TAGGED: u16 = 0x8100_u16.to_be();
const TAGGED_TWICE: u16 = 0x88a8_u16.to_be();
/// Tags that are read.
const TAGS: usize = 2;
/// IPv6 extension headers that are read: RFC 8200 names no more but for two of a kind.
const EXTENSIONS: usize = 6;

/// Next-header numbers of IPv6 extension headers (RFC 8200, section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Bytes of a fragment header.
pub const FRAGMENT_HEADER: usize = 8;

/// Where the headers stand, in one word: offsets from the beginning of the frame, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(u64);

/// Which part of its packet a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The first fragment: it has the transport header.
    First,
    /// A fragment after the first.
    Later,
}

const IPV6: u64 = 1 << 48;
const FIRST: u64 = 1 << 49;
const LATER: u64 = 1 << 50;
const SOURCE_ROUTED: u64 = 1 << 51;
const IDENTIFIED_AT: u32 = 32;
const TRANSPORT_AT: u32 = 16;
const PROTOCOL: u32 = 8;

impl Shape {
    /// Walks over the headers of a frame. `whole` is the frame's length, which is more than the cursor's when part of it
    /// lies elsewhere; headers have to lie where the cursor is.
    ///
    /// # Errors
    ///
    /// [`Reason::NotIp`], [`Reason::NotOurs`] for frames to a group, and [`Reason::Malformed`].
    #[inline(always)]
    pub fn read(mut cursor: Cursor, whole: usize) -> Result<Self, Reason> {
        let ethernet: &mut EthHdr = cursor.take().ok_or(Reason::NotIp)?;
        let mut kind = ethernet.ether_type;
        let mut at = EthHdr::LEN;
        let mut tag = 0;
        while tag < TAGS {
            if kind != TAGGED && kind != TAGGED_TWICE {
                break;
            }
            let [_, _, high, low]: [u8; 4] = *cursor.take().ok_or(Reason::NotIp)?;
            kind = u16::from_ne_bytes([high, low]);
            at += 4;
            tag += 1;
        }
        let is_ipv4 = kind == EtherType::Ipv4 as u16;
        if !is_ipv4 && kind != EtherType::Ipv6 as u16 {
            return Err(Reason::NotIp);
        }
        // A frame to a group is to many machines: if each carried it, its packet would arrive as often.
        if ethernet.dst_addr[0] & 1 != 0 {
            return Err(Reason::NotOurs);
        }
        let room = whole.saturating_sub(at);
        if !is_ipv4 {
            return Self::ipv6(cursor, at, room);
        }
        let shape = Self::ipv4(cursor, at, room)?;
        if is_right(cursor, shape.network_length()) { Ok(shape) } else { Err(Reason::Malformed) }
    }

    /// As [`read`](Self::read), of an IPv4 packet that begins at `at` and of which there are `room` bytes. The header's
    /// checksum is not looked at.
    #[inline(always)]
    pub fn ipv4(mut cursor: Cursor, at: usize, room: usize) -> Result<Self, Reason> {
        let header: &mut Ipv4Hdr = cursor.take().ok_or(Reason::Malformed)?;
        let header_length = usize::from(header.vihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(header.tot_len));
        if header.vihl >> 4 != 4 || header_length < Ipv4Hdr::LEN || header_length > total {
            return Err(Reason::Malformed);
        }
        if total > room {
            return Err(Reason::Malformed);
        }
        let piece = match u16::from_be_bytes(header.frags) {
            frags if frags & 0x1fff != 0 => LATER,
            frags if frags & 0x2000 != 0 => FIRST,
            _ => 0,
        };
        Ok(Self::new(at, header.proto, at + header_length, at).with(piece))
    }

    /// As [`ipv4`](Self::ipv4), of an IPv6 packet.
    #[inline(always)]
    pub fn ipv6(mut cursor: Cursor, at: usize, room: usize) -> Result<Self, Reason> {
        let header: &mut Ipv6Hdr = cursor.take().ok_or(Reason::Malformed)?;
        let payload = usize::from(u16::from_be_bytes(header.payload_len));
        if header.vcf[0] >> 4 != 6 || payload + Ipv6Hdr::LEN > room || is_nobodys(header) {
            return Err(Reason::Malformed);
        }
        let end = at + Ipv6Hdr::LEN + payload;
        Self::extensions(cursor, at, header.next_hdr, end)
    }

    #[inline(always)]
    fn extensions(mut cursor: Cursor, at: usize, first: u8, end: usize) -> Result<Self, Reason> {
        let mut next = first;
        let mut here = at + Ipv6Hdr::LEN;
        let mut identified = 0;
        let mut flags = IPV6;
        let mut count = 0;
        while count < EXTENSIONS {
            let is_first = count == 0;
            count += 1;
            if next == FRAGMENT {
                let header: &mut [[u8; 4]; 2] = cursor.take().ok_or(Reason::Malformed)?;
                // Two of them contradict each other.
                if identified != 0 {
                    return Err(Reason::Malformed);
                }
                let place = u16::from_be_bytes([header[0][2], header[0][3]]);
                next = header[0][0];
                identified = here;
                here += FRAGMENT_HEADER;
                if place & 0xfff8 != 0 {
                    flags |= LATER;
                    break;
                }
                if place & 1 != 0 {
                    flags |= FIRST;
                }
                continue;
            }
            if next != ROUTING && next != DESTINATION && !(next == HOP_BY_HOP && is_first) {
                break;
            }
            let header: &mut [u8; 4] = cursor.take().ok_or(Reason::Malformed)?;
            // A packet that is to go on from its destination to others (RFC 5095 for type 0).
            if next == ROUTING && header[3] != 0 {
                flags |= SOURCE_ROUTED;
            }
            let length = (usize::from(header[1]) + 1) * 8;
            cursor.skip(length - size_of_val(header));
            here += length;
            next = header[0];
        }
        if here > end {
            return Err(Reason::Malformed);
        }
        Ok(Self::new(at, next, here, identified).with(flags))
    }

    #[inline(always)]
    fn new(network_at: usize, protocol: u8, transport_at: usize, identified_at: usize) -> Self {
        Self(
            network_at as u64 & 0xff
                | u64::from(protocol) << PROTOCOL
                | (transport_at as u64 & 0xffff) << TRANSPORT_AT
                | (identified_at as u64 & 0xffff) << IDENTIFIED_AT,
        )
    }

    #[inline(always)]
    fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    /// As one word, to be kept somewhere.
    #[inline(always)]
    pub fn word(self) -> u64 {
        self.0
    }

    /// The inverse of [`word`](Self::word).
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Bytes of VLAN tags: 0, 4 or 8.
    #[inline(always)]
    pub fn tags(self) -> usize {
        (self.0 as usize & 0xff).wrapping_sub(EthHdr::LEN) & 0x0c
    }

    /// Where the IP header begins.
    #[inline(always)]
    pub fn network_at(self) -> usize {
        EthHdr::LEN + self.tags()
    }

    /// Bytes from the beginning of the IP header to what it carries.
    #[inline(always)]
    pub fn network_length(self) -> usize {
        ((self.0 >> TRANSPORT_AT) as usize & 0xffff).wrapping_sub(self.network_at()) & 0x3fff
    }

    /// Bytes from the beginning of the IPv6 header to the fragment header; 0 without one.
    #[inline(always)]
    pub fn fragment_header(self) -> usize {
        match (self.0 >> IDENTIFIED_AT) as usize & 0xffff {
            0 => 0,
            at => at.wrapping_sub(self.network_at()) & 0x3fff,
        }
    }

    /// What the packet carries: an IANA protocol number.
    #[inline(always)]
    pub fn protocol(self) -> u8 {
        (self.0 >> PROTOCOL) as u8
    }

    /// Whether it is IPv6.
    #[inline(always)]
    pub fn is_ipv6(self) -> bool {
        self.0 & IPV6 != 0
    }

    /// Whether its sender wants it to go on from its destination.
    #[inline(always)]
    pub fn is_source_routed(self) -> bool {
        self.0 & SOURCE_ROUTED != 0
    }

    /// Which part of its packet it is.
    #[inline(always)]
    pub fn piece(self) -> Piece {
        if self.0 & LATER != 0 {
            Piece::Later
        } else if self.0 & FIRST != 0 {
            Piece::First
        } else {
            Piece::Whole
        }
    }
}

/// Whether the checksum of the IPv4 header of `length` bytes at `cursor` is right.
#[inline(always)]
fn is_right(mut cursor: Cursor, length: usize) -> bool {
    let mut sum = Sum::ZERO;
    let mut summed = 0;
    while summed < 60 {
        if summed >= length {
            break;
        }
        let Some(word) = cursor.take::<[[u8; 4]; 1]>() else { return false };
        sum = sum.and_words(word);
        summed += 4;
    }
    sum.checksum() == [0, 0]
}
