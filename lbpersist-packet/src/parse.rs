//! Ethernet, IPv4 or IPv6, TCP or UDP: read once into a [`Packet`].
//!
//! [`Packet::parse`] reads the packets that nearly all are: no VLAN tag, no IPv4 option, no IPv6 extension header, no
//! fragment. All others take the longer way, by a [`Shape`] and [`Packet::at`].

use lbpersist_common::{
    net::{self, Address, Endpoint},
    reason::Reason,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{
    checksum,
    cursor::Cursor,
    load,
    shape::{Piece, Shape},
};

/// A TCP header without its options (RFC 9293, section 3.1). The bit fields of `network_types::tcp::TcpHdr` are read bit
/// by bit; here they are the two bytes they come in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    /// Port.
    pub source: [u8; 2],
    /// Port.
    pub destination: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// The header's length in 32-bit words, in the upper half.
    pub data_offset: u8,
    /// The flags, as `lbpersist_common::tcp::flag` has them.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum over header, data and pseudo header.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

/// The headers of a TCP or UDP packet, and what the path asks of them again and again.
pub struct Packet<'packet> {
    /// The frame.
    pub ethernet: &'packet mut EthHdr,
    /// Bytes of VLAN tags behind the frame's addresses: 0, 4 or 8.
    pub tags: usize,
    /// IPv4 or IPv6.
    pub network: Network<'packet>,
    /// Bytes from the beginning of the IP header to the transport header.
    pub network_length: usize,
    /// TCP or UDP.
    pub transport: Transport<'packet>,
    /// The whole frame, in bytes.
    pub length: u64,
    /// Which fragment of its packet it is, if it is one: what all of them have in common.
    pub fragment: Option<u32>,
}

/// Why [`Packet::parse`] did not read a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is not one to carry.
    Not(Reason),
    /// It takes the longer way.
    Uncommon,
}

/// Who talks to whom. Both ends have the shape of a map key, so that looking them up needs no copy.
pub struct Flow {
    /// The sender.
    pub from: Endpoint,
    /// The receiver.
    pub to: Endpoint,
    /// The flags of a TCP segment; 0 for UDP.
    pub flags: u8,
    /// Sequence and acknowledgement number of a TCP segment; 0 for UDP.
    pub numbers: Numbers,
}

/// Where a TCP segment is in its connection.
#[derive(Clone, Copy)]
pub struct Numbers {
    /// Of its first byte.
    pub sequence: u32,
    /// Of the byte that is expected next.
    pub acknowledgement: u32,
}

impl Numbers {
    /// Of no segment.
    pub const NONE: Self = Self { sequence: 0, acknowledgement: 0 };

    #[inline(always)]
    fn of(segment: &Segment) -> Self {
        Self {
            sequence: u32::from_be(load::u32(&segment.sequence)),
            acknowledgement: u32::from_be(load::u32(&segment.acknowledgement)),
        }
    }
}

/// The IP header.
pub enum Network<'packet> {
    /// IPv4.
    V4(&'packet mut Ipv4Hdr),
    /// IPv6.
    V6(&'packet mut Ipv6Hdr),
}

/// The transport header.
pub enum Transport<'packet> {
    /// TCP.
    Tcp(&'packet mut Segment),
    /// UDP.
    Udp(&'packet mut UdpHdr),
}

impl<'packet> Packet<'packet> {
    /// Reads the headers, or says why the packet is not one to carry. `whole` tells the frame's length; it is asked only of
    /// packets that are longer than what the cursor sees.
    ///
    /// # Errors
    ///
    /// See [`Unread`].
    #[inline(always)]
    pub fn parse(mut cursor: Cursor, whole: impl FnOnce() -> usize) -> Result<Self, Unread> {
        let length = cursor.left();
        let ethernet: &mut EthHdr = cursor.take().ok_or(Unread::Not(Reason::NotIp))?;
        let is_ipv4 = ethernet.ether_type == EtherType::Ipv4 as u16;
        if !is_ipv4 && ethernet.ether_type != EtherType::Ipv6 as u16 {
            return Err(Unread::Uncommon);
        }
        // A frame to a group is to many machines: if each carried it, its packet would arrive as often.
        if ethernet.dst_addr[0] & 1 != 0 {
            return Err(Unread::Not(Reason::NotOurs));
        }
        if is_ipv4 {
            Self::ipv4(ethernet, cursor, length, whole)
        } else {
            Self::ipv6(ethernet, cursor, length, whole)
        }
    }

    /// Reads the headers of a TCP or UDP packet whose `shape` is known, not of a later fragment.
    ///
    /// # Errors
    ///
    /// [`Reason::Malformed`] and [`Reason::OtherProtocol`].
    #[inline(always)]
    pub fn at(mut cursor: Cursor, shape: Shape, length: usize) -> Result<Self, Reason> {
        let ethernet: &mut EthHdr = cursor.take().ok_or(Reason::Malformed)?;
        cursor.skip(shape.tags());
        let mut behind = cursor;
        behind.skip(shape.network_length());
        let is_fragment = shape.piece() != Piece::Whole;
        let (network, total, id) = if shape.is_ipv6() {
            let header: &mut Ipv6Hdr = cursor.take().ok_or(Reason::Malformed)?;
            let total = usize::from(u16::from_be_bytes(header.payload_len)) + Ipv6Hdr::LEN;
            let id = if is_fragment { identification(cursor, shape)?.id } else { 0 };
            (Network::V6(header), total, id)
        } else {
            let header: &mut Ipv4Hdr = cursor.take().ok_or(Reason::Malformed)?;
            let total = usize::from(u16::from_be_bytes(header.tot_len));
            let id = u32::from(u16::from_be_bytes(header.id));
            (Network::V4(header), total, id)
        };
        let network_length = shape.network_length();
        let payload = total.checked_sub(network_length).ok_or(Reason::Malformed)?;
        let fragment = if is_fragment { Some(id) } else { None };
        let transport = Transport::parse(shape.protocol(), behind, payload, is_fragment)?;
        let (tags, length) = (shape.tags(), length as u64);
        Ok(Self { ethernet, tags, network, network_length, transport, length, fragment })
    }

    /// Who talks to whom.
    #[inline(always)]
    pub fn flow(&self) -> Flow {
        let (source, destination) = self.network.addresses();
        let (from, to, protocol, flags, numbers) = match &self.transport {
            Transport::Tcp(header) => {
                (header.source, header.destination, net::TCP, header.flags, Numbers::of(header))
            }
            Transport::Udp(header) => (header.src, header.dst, net::UDP, 0, Numbers::NONE),
        };
        Flow {
            from: Endpoint::new(source, u16::from_be_bytes(from), protocol),
            to: Endpoint::new(destination, u16::from_be_bytes(to), protocol),
            flags,
            numbers,
        }
    }

    /// Bytes of a TCP segment's data.
    #[inline(always)]
    pub fn tcp_data_length(&self) -> u32 {
        let payload = self.network.total_length().wrapping_sub(self.network_length as u32);
        match &self.transport {
            Transport::Tcp(segment) => {
                payload.wrapping_sub(u32::from(segment.data_offset >> 4) * 4)
            }
            Transport::Udp(_) => 0,
        }
    }

    #[inline(always)]
    fn ipv4(
        ethernet: &'packet mut EthHdr,
        mut cursor: Cursor,
        length: usize,
        whole: impl FnOnce() -> usize,
    ) -> Result<Self, Unread> {
        let header: &mut Ipv4Hdr = cursor.take().ok_or(Unread::Not(Reason::Malformed))?;
        const MORE_FRAGMENTS_OR_OFFSET: [u8; 2] = [0x3f, 0xff];
        let frags = [
            header.frags[0] & MORE_FRAGMENTS_OR_OFFSET[0],
            header.frags[1] & MORE_FRAGMENTS_OR_OFFSET[1],
        ];
        if header.vihl != 0x45 || frags != [0, 0] {
            return Err(Unread::Uncommon);
        }
        let total = usize::from(u16::from_be_bytes(header.tot_len));
        let length = long_enough(EthHdr::LEN + total, length, whole)?;
        let payload = total.checked_sub(Ipv4Hdr::LEN).ok_or(Unread::Not(Reason::Malformed))?;
        if !checksum::is_right(header) {
            return Err(Unread::Not(Reason::Malformed));
        }
        let transport = Transport::parse(header.proto, cursor, payload, false)?;
        let (network, network_length) = (Network::V4(header), Ipv4Hdr::LEN);
        Ok(Self { ethernet, tags: 0, network, network_length, transport, length, fragment: None })
    }

    #[inline(always)]
    fn ipv6(
        ethernet: &'packet mut EthHdr,
        mut cursor: Cursor,
        length: usize,
        whole: impl FnOnce() -> usize,
    ) -> Result<Self, Unread> {
        let header: &mut Ipv6Hdr = cursor.take().ok_or(Unread::Not(Reason::Malformed))?;
        let payload = usize::from(u16::from_be_bytes(header.payload_len));
        let length = long_enough(EthHdr::LEN + Ipv6Hdr::LEN + payload, length, whole)?;
        if header.vcf[0] >> 4 != 6 || is_nobodys(header) {
            return Err(Unread::Not(Reason::Malformed));
        }
        let transport = Transport::parse(header.next_hdr, cursor, payload, false)?;
        let (network, network_length) = (Network::V6(header), Ipv6Hdr::LEN);
        Ok(Self { ethernet, tags: 0, network, network_length, transport, length, fragment: None })
    }
}

impl Transport<'_> {
    /// Reads the header that `payload` bytes of the packet begin with. The datagram in a first fragment goes on in others.
    #[inline(always)]
    fn parse(
        protocol: u8,
        mut cursor: Cursor,
        payload: usize,
        is_fragment: bool,
    ) -> Result<Self, Reason> {
        match protocol {
            net::TCP => {
                let header: &mut Segment = cursor.take().ok_or(Reason::Malformed)?;
                let header_length = usize::from(header.data_offset >> 4) * 4;
                if header_length < size_of::<Segment>() || header_length > payload {
                    return Err(Reason::Malformed);
                }
                Ok(Self::Tcp(header))
            }
            net::UDP => {
                let header: &mut UdpHdr = cursor.take().ok_or(Reason::Malformed)?;
                let datagram = usize::from(u16::from_be_bytes(header.len));
                let within = if is_fragment { size_of::<UdpHdr>() } else { datagram };
                if datagram < size_of::<UdpHdr>() || within > payload {
                    return Err(Reason::Malformed);
                }
                Ok(Self::Udp(header))
            }
            _ => Err(Reason::OtherProtocol),
        }
    }
}

impl Network<'_> {
    /// Bytes of the IP packet, as its header says: a frame may have padding behind it.
    #[inline(always)]
    pub fn total_length(&self) -> u32 {
        match self {
            Self::V4(header) => u16::from_be_bytes(header.tot_len).into(),
            Self::V6(header) => {
                u32::from(u16::from_be_bytes(header.payload_len)) + Ipv6Hdr::LEN as u32
            }
        }
    }

    /// Bytes of the header without options or extension headers.
    #[inline(always)]
    pub fn plain_length(&self) -> usize {
        match self {
            Self::V4(_) => Ipv4Hdr::LEN,
            Self::V6(_) => Ipv6Hdr::LEN,
        }
    }

    /// The checksum of an IPv4 header; zeros for IPv6, which has none.
    #[inline(always)]
    pub fn check(&self) -> [u8; 2] {
        match self {
            Self::V4(header) => header.check,
            Self::V6(_) => [0; 2],
        }
    }

    /// Source and destination.
    #[inline(always)]
    pub fn addresses(&self) -> (Address, Address) {
        match self {
            Self::V4(header) => (mapped(&header.src_addr), mapped(&header.dst_addr)),
            Self::V6(header) => (load::address(&header.src_addr), load::address(&header.dst_addr)),
        }
    }
}

/// What the packets that [`Packet::parse`] leaves are: the reasons of [`Transport::parse`] in its terms.
impl From<Reason> for Unread {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::OtherProtocol => Self::Uncommon,
            reason => Self::Not(reason),
        }
    }
}

/// The mapped form of an address in a packet.
#[inline(always)]
pub fn mapped(octets: &[u8; 4]) -> Address {
    let [high, prefix] = Address::from_ipv4([0; 4]).words();
    let low = if cfg!(target_endian = "little") {
        prefix | u64::from(load::u32(octets)) << 32
    } else {
        prefix | u64::from(load::u32(octets))
    };
    Address::from_words([high, low])
}

/// Whether an end of an IPv6 packet is a mapped address. In the maps that is an IPv4 one; on the wire it is nobody's, and the
/// stack refuses it too.
#[inline(always)]
pub fn is_nobodys(header: &Ipv6Hdr) -> bool {
    load::address(&header.src_addr).is_ipv4() || load::address(&header.dst_addr).is_ipv4()
}

/// The frame's length in bytes, if it has all that its headers need.
#[inline(always)]
fn long_enough(needed: usize, seen: usize, whole: impl FnOnce() -> usize) -> Result<u64, Unread> {
    if needed <= seen {
        return Ok(seen as u64);
    }
    let whole = whole();
    if needed <= whole { Ok(whole as u64) } else { Err(Unread::Not(Reason::Malformed)) }
}

/// What the fragment header of an IPv6 packet says (RFC 8200, section 4.5).
pub struct FragmentHeader {
    /// The packet's identification.
    pub id: u32,
    /// Where the fragment begins in its packet, in bytes, but for the lowest three bits.
    pub place: u16,
}

/// What the fragment header of an IPv6 packet says. `cursor` is behind the IPv6 header.
///
/// # Errors
///
/// [`Reason::Malformed`] when the packet ends before.
#[inline(always)]
pub fn identification(mut cursor: Cursor, shape: Shape) -> Result<FragmentHeader, Reason> {
    cursor.skip(shape.fragment_header().wrapping_sub(Ipv6Hdr::LEN));
    let [[_, _, high, low], id]: [[u8; 4]; 2] = *cursor.take().ok_or(Reason::Malformed)?;
    Ok(FragmentHeader { id: u32::from_be_bytes(id), place: u16::from_be_bytes([high, low]) })
}
