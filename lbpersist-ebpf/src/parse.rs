//! Ethernet, IPv4 or IPv6, TCP or UDP: read once into a [`Packet`].

use aya_ebpf::programs::XdpContext;
use lbpersist_common::{
    net::{self, Address, Endpoint},
    reason::Reason,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
};

use crate::{checksum, cursor::Cursor, load};

/// A TCP header without its options (RFC 9293, section 3.1). The bit fields of `network_types::tcp::TcpHdr` are read bit
/// by bit; here they are the two bytes they come in.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) source: [u8; 2],
    pub(crate) destination: [u8; 2],
    pub(crate) sequence: [u8; 4],
    pub(crate) acknowledgement: [u8; 4],
    /// The header's length in 32-bit words, in the upper half.
    pub(crate) data_offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: [u8; 2],
    pub(crate) checksum: [u8; 2],
    pub(crate) urgent: [u8; 2],
}

/// The headers of a TCP or UDP packet, and what the path asks of them again and again.
pub(crate) struct Packet<'packet> {
    pub(crate) ethernet: &'packet mut EthHdr,
    pub(crate) network: Network<'packet>,
    pub(crate) transport: Transport<'packet>,
    /// The whole frame, in bytes.
    pub(crate) length: u64,
}

/// Who talks to whom. Both ends have the shape of a map key, so that looking them up needs no copy.
pub(crate) struct Flow {
    pub(crate) from: Endpoint,
    pub(crate) to: Endpoint,
    /// The flags of a TCP segment; 0 for UDP.
    pub(crate) flags: u8,
    /// Sequence and acknowledgement number of a TCP segment; 0 for UDP.
    pub(crate) numbers: Numbers,
}

/// Where a TCP segment is in its connection.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
}

impl Numbers {
    const NONE: Self = Self { sequence: 0, acknowledgement: 0 };

    #[inline(always)]
    fn of(segment: &Segment) -> Self {
        Self {
            sequence: u32::from_be(load::u32(&segment.sequence)),
            acknowledgement: u32::from_be(load::u32(&segment.acknowledgement)),
        }
    }
}

pub(crate) enum Network<'packet> {
    V4(&'packet mut Ipv4Hdr),
    V6(&'packet mut Ipv6Hdr),
}

pub(crate) enum Transport<'packet> {
    Tcp(&'packet mut Segment),
    Udp(&'packet mut UdpHdr),
}

impl<'packet> Packet<'packet> {
    /// Reads the headers, or says why the packet is not one to carry.
    #[inline(always)]
    pub(crate) fn parse(context: &'packet XdpContext) -> Result<Self, Reason> {
        let mut cursor = Cursor::new(context);
        let length = cursor.left() as u64;
        let ethernet: &mut EthHdr = cursor.take().ok_or(Reason::NotIp)?;
        let is_ipv4 = ethernet.ether_type == EtherType::Ipv4 as u16;
        if !is_ipv4 && ethernet.ether_type != EtherType::Ipv6 as u16 {
            return Err(Reason::NotIp);
        }
        // A frame to a group is to many machines: if each carried it, its packet would arrive as often.
        if ethernet.dst_addr[0] & 1 != 0 {
            return Err(Reason::NotOurs);
        }
        if is_ipv4 {
            Self::ipv4(ethernet, cursor, length)
        } else {
            Self::ipv6(ethernet, cursor, length)
        }
    }

    /// Who talks to whom.
    #[inline(always)]
    pub(crate) fn flow(&self) -> Flow {
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
    pub(crate) fn tcp_data_length(&self) -> u32 {
        let payload = self.network.total_length().wrapping_sub(match &self.network {
            Network::V4(header) => u32::from(header.vihl & 0x0f) * 4,
            Network::V6(_) => Ipv6Hdr::LEN as u32,
        });
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
        length: u64,
    ) -> Result<Self, Reason> {
        let available = cursor.left();
        let header: &mut Ipv4Hdr = cursor.take().ok_or(Reason::Malformed)?;
        let header_length = usize::from(header.vihl & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes(header.tot_len));
        if header.vihl >> 4 != 4 || header_length < Ipv4Hdr::LEN || total > available {
            return Err(Reason::Malformed);
        }
        if header_length == Ipv4Hdr::LEN && !checksum::is_right(header) {
            return Err(Reason::Malformed);
        }
        const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
        if u16::from_be_bytes(header.frags) & MORE_FRAGMENTS_OR_OFFSET != 0 {
            return Err(Reason::Fragment);
        }
        if header_length > Ipv4Hdr::LEN {
            cursor.skip(header_length - Ipv4Hdr::LEN);
        }
        let payload = total.checked_sub(header_length).ok_or(Reason::Malformed)?;
        let transport = Transport::parse(header.proto, cursor, payload)?;
        Ok(Self { ethernet, network: Network::V4(header), transport, length })
    }

    #[inline(always)]
    fn ipv6(
        ethernet: &'packet mut EthHdr,
        mut cursor: Cursor,
        length: u64,
    ) -> Result<Self, Reason> {
        let header: &mut Ipv6Hdr = cursor.take().ok_or(Reason::Malformed)?;
        let payload = usize::from(u16::from_be_bytes(header.payload_len));
        if header.vcf[0] >> 4 != 6 || payload > cursor.left() {
            return Err(Reason::Malformed);
        }
        // In the maps a mapped address is an IPv4 one; on the wire it is nobody's, and the stack refuses it too.
        if load::address(&header.src_addr).is_ipv4() || load::address(&header.dst_addr).is_ipv4() {
            return Err(Reason::Malformed);
        }
        const FRAGMENT_HEADER: u8 = 44;
        if header.next_hdr == FRAGMENT_HEADER {
            return Err(Reason::Fragment);
        }
        let transport = Transport::parse(header.next_hdr, cursor, payload)?;
        Ok(Self { ethernet, network: Network::V6(header), transport, length })
    }
}

impl Transport<'_> {
    /// Reads the header that `payload` bytes of the packet begin with.
    #[inline(always)]
    fn parse(protocol: u8, mut cursor: Cursor, payload: usize) -> Result<Self, Reason> {
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
                if datagram < size_of::<UdpHdr>() || datagram > payload {
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
    pub(crate) fn total_length(&self) -> u32 {
        match self {
            Self::V4(header) => u16::from_be_bytes(header.tot_len).into(),
            Self::V6(header) => {
                u32::from(u16::from_be_bytes(header.payload_len)) + Ipv6Hdr::LEN as u32
            }
        }
    }

    /// Source and destination.
    #[inline(always)]
    fn addresses(&self) -> (Address, Address) {
        match self {
            Self::V4(header) => (mapped(&header.src_addr), mapped(&header.dst_addr)),
            Self::V6(header) => (load::address(&header.src_addr), load::address(&header.dst_addr)),
        }
    }
}

/// The mapped form of an address in a packet.
#[inline(always)]
pub(crate) fn mapped(octets: &[u8; 4]) -> Address {
    let [high, prefix] = Address::from_ipv4([0; 4]).words();
    let low = if cfg!(target_endian = "little") {
        prefix | u64::from(load::u32(octets)) << 32
    } else {
        prefix | u64::from(load::u32(octets))
    };
    Address::from_words([high, low])
}
