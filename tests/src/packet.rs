//! Ethernet frames with TCP or UDP, written with etherparse: every checksum is computed anew over the whole, and so by other
//! means than the program's.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
};
use lbpersist_common::tcp::flag;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A frame's way over one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who sends.
    pub source: Mac,
    /// Who receives.
    pub destination: Mac,
}

/// A packet in a frame. `bytes` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The frame's addresses.
    pub link: Link,
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port; of the family of `from`.
    pub to: SocketAddr,
    /// Time to live or hop limit.
    pub hops: u8,
    /// Options of an IPv4 header: a multiple of four bytes, at most 40.
    pub ip_options: Vec<u8>,
    /// The rest of the headers.
    pub transport: Transport,
    /// What is carried.
    pub payload: Vec<u8>,
}

/// What segments acknowledge unless they are told otherwise: the SYN of a server.
const ACKNOWLEDGED: u32 = 2000;

/// TCP or UDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A segment.
    Tcp {
        /// Bits of [`flag`].
        flags: u8,
        /// Options: at most 40 bytes.
        options: Vec<u8>,
        /// The sequence number.
        sequence: u32,
        /// The acknowledgement number, with [`flag::ACK`].
        acknowledgement: u32,
    },
    /// A datagram.
    Udp {
        /// Whether its checksum is computed or 0.
        checksum: Checksum,
    },
}

/// The checksum of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// As RFC 768 has it.
    Computed,
    /// None: two zero bytes.
    None,
}

impl Packet {
    /// A segment without data, options or a sensible way over a link.
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Self {
        // A server's SYN has the number that a client's segments acknowledge.
        let opens = flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK;
        let sequence = if opens { ACKNOWLEDGED - 1 } else { 1000 };
        let (options, acknowledgement) = (Vec::new(), ACKNOWLEDGED);
        Self::new(from, to, Transport::Tcp { flags, options, sequence, acknowledgement })
    }

    /// A datagram that says "question".
    pub fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        let transport = Transport::Udp { checksum: Checksum::Computed };
        Self::new(from, to, transport).payload(b"question")
    }

    /// With that payload.
    #[must_use]
    pub fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// With that time to live or hop limit.
    #[must_use]
    pub fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    /// With those IPv4 options.
    #[must_use]
    pub fn ip_options(self, options: &[u8]) -> Self {
        Self { ip_options: options.to_vec(), ..self }
    }

    /// With those TCP options.
    #[must_use]
    pub fn tcp_options(mut self, new: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = new.to_vec();
        }
        self
    }

    /// With that sequence number.
    #[must_use]
    pub fn numbered(mut self, number: u32) -> Self {
        if let Transport::Tcp { sequence, .. } = &mut self.transport {
            *sequence = number;
        }
        self
    }

    /// With that acknowledgement number, if it acknowledges anything.
    #[must_use]
    pub fn acknowledging(mut self, number: u32) -> Self {
        if let Transport::Tcp { acknowledgement, .. } = &mut self.transport {
            *acknowledgement = number;
        }
        self
    }

    /// Without a UDP checksum.
    #[must_use]
    pub fn without_checksum(self) -> Self {
        Self { transport: Transport::Udp { checksum: Checksum::None }, ..self }
    }

    /// One router further, to another destination.
    #[must_use]
    pub fn forwarded(&self, to: SocketAddr, link: Link) -> Self {
        Self { link, to, hops: self.hops - 1, ..self.clone() }
    }

    /// One router further, from another source.
    #[must_use]
    pub fn returned(&self, from: SocketAddr, link: Link) -> Self {
        Self { link, from, hops: self.hops - 1, ..self.clone() }
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        let mut bytes = Vec::new();
        let number = match self.transport {
            Transport::Tcp { .. } => IpNumber::TCP,
            Transport::Udp { .. } => IpNumber::UDP,
        };
        let ethernet = |ether_type| Ethernet2Header {
            source: self.link.source,
            destination: self.link.destination,
            ether_type,
        };
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = u16::try_from(transport.len()).expect("it fits a packet");
                let mut header =
                    Ipv4Header::new(length, self.hops, number, from.octets(), to.octets())
                        .expect("the length fits");
                header.options =
                    self.ip_options.as_slice().try_into().expect("whole words, at most ten");
                header.set_payload_len(transport.len()).expect("it fits a packet");
                header.identification = 0x4242;
                header.header_checksum = header.calc_header_checksum();
                ethernet(EtherType::IPV4).write(&mut bytes).expect("a vector takes all");
                header.write_raw(&mut bytes).expect("a vector takes all");
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: 0x20,
                    flow_label: 0x1_2345.try_into().expect("twenty bits"),
                    payload_length: u16::try_from(transport.len()).expect("it fits a packet"),
                    next_header: number,
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                };
                ethernet(EtherType::IPV6).write(&mut bytes).expect("a vector takes all");
                header.write(&mut bytes).expect("a vector takes all");
            }
            (from, to) => panic!("{from} and {to} are of two families"),
        }
        bytes.extend(transport);
        bytes
    }

    fn new(from: SocketAddr, to: SocketAddr, transport: Transport) -> Self {
        let link = Link { source: [0; 6], destination: [0; 6] };
        let (ip_options, payload) = (Vec::new(), Vec::new());
        Self { link, from, to, hops: 64, ip_options, transport, payload }
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.transport {
            Transport::Tcp { flags, options, sequence, acknowledgement } => {
                let mut header =
                    TcpHeader::new(self.from.port(), self.to.port(), *sequence, 0xfaf0);
                let acknowledges = flags & flag::ACK != 0;
                header.acknowledgment_number = if acknowledges { *acknowledgement } else { 0 };
                header.syn = flags & flag::SYN != 0;
                header.ack = flags & flag::ACK != 0;
                header.fin = flags & flag::FIN != 0;
                header.rst = flags & flag::RST != 0;
                header.set_options_raw(options).expect("at most 40 bytes");
                header.checksum = match self.addresses() {
                    Addresses::V4(from, to) => {
                        header.calc_checksum_ipv4_raw(from, to, &self.payload)
                    }
                    Addresses::V6(from, to) => {
                        header.calc_checksum_ipv6_raw(from, to, &self.payload)
                    }
                }
                .expect("the payload fits");
                header.write(&mut bytes).expect("a vector takes all");
            }
            Transport::Udp { checksum } => {
                let length = UdpHeader::LEN + self.payload.len();
                let mut header = UdpHeader {
                    source_port: self.from.port(),
                    destination_port: self.to.port(),
                    length: u16::try_from(length).expect("it fits a datagram"),
                    checksum: 0,
                };
                if *checksum == Checksum::Computed {
                    header.checksum = match self.addresses() {
                        Addresses::V4(from, to) => {
                            header.calc_checksum_ipv4_raw(from, to, &self.payload)
                        }
                        Addresses::V6(from, to) => {
                            header.calc_checksum_ipv6_raw(from, to, &self.payload)
                        }
                    }
                    .expect("the payload fits");
                }
                header.write(&mut bytes).expect("a vector takes all");
            }
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn addresses(&self) -> Addresses {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Addresses::V4(from.octets(), to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => Addresses::V6(from.octets(), to.octets()),
            (from, to) => panic!("{from} and {to} are of two families"),
        }
    }
}

enum Addresses {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}
