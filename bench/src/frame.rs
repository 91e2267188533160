//! Frames to replay, and a look at those that come out.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lbpersist_common::{
    net::{TCP, UDP},
    tcp::flag,
};

use crate::plan::{ETHERNET, FRAME};

/// Time to live of what is replayed.
const HOPS: u8 = 64;
const TCP_HEADER: usize = 20;

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

/// What distinguishes a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    pub(crate) from: End,
    pub(crate) to: End,
    pub(crate) protocol: u8,
    /// Of TCP.
    pub(crate) flags: u8,
}

/// Where the fields stand that differ from packet to packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offsets {
    network: usize,
    transport: usize,
}

impl Offsets {
    /// The offsets in frames to and from this address.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self { network: ETHERNET, transport: ETHERNET + 20 },
            IpAddr::V6(_) => Self { network: ETHERNET, transport: ETHERNET + 40 },
        }
    }

    /// Where the last four bytes of the source address stand.
    pub(crate) fn source_tail(self) -> usize {
        self.addresses() + self.address_length() - 4
    }

    /// Where the last four bytes of the destination address stand.
    pub(crate) fn destination_tail(self) -> usize {
        self.source_tail() + self.address_length()
    }

    /// Where the source port stands.
    pub(crate) fn source_port(self) -> usize {
        self.transport
    }

    /// Where the destination port stands.
    pub(crate) fn destination_port(self) -> usize {
        self.transport + 2
    }

    /// Where the TCP flags stand.
    pub(crate) fn flags(self) -> usize {
        self.transport + 13
    }

    fn is_ipv4(self) -> bool {
        self.transport - self.network == 20
    }

    fn addresses(self) -> usize {
        self.network + if self.is_ipv4() { 12 } else { 8 }
    }

    fn address_length(self) -> usize {
        if self.is_ipv4() { 4 } else { 16 }
    }
}

/// A frame with these headers, right in all its checksums.
pub(crate) fn build(headers: &Headers) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let at = Offsets::of(headers.to.address);
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    let payload = (FRAME - at.transport) as u16;
    if at.is_ipv4() {
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let total = (payload + 20).to_be_bytes();
        frame[14..26].copy_from_slice(&[
            0x45,
            0,
            total[0],
            total[1],
            0,
            1,
            0x40,
            0,
            HOPS,
            headers.protocol,
            0,
            0,
        ]);
    } else {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        let length = payload.to_be_bytes();
        frame[14..22].copy_from_slice(&[
            0x60,
            0,
            0,
            0,
            length[0],
            length[1],
            headers.protocol,
            HOPS,
        ]);
    }
    put_address(&mut frame, at.addresses(), headers.from.address);
    put_address(&mut frame, at.addresses() + at.address_length(), headers.to.address);
    frame[at.source_port()..][..2].copy_from_slice(&headers.from.port.to_be_bytes());
    frame[at.destination_port()..][..2].copy_from_slice(&headers.to.port.to_be_bytes());
    if headers.protocol == TCP {
        frame[at.transport + 12] = (TCP_HEADER as u8 / 4) << 4;
        frame[at.flags()] = headers.flags;
        // Everybody begins with a sequence number of zero.
        frame[at.transport + 11] = u8::from(headers.flags & flag::ACK != 0);
    } else {
        frame[at.transport + 4..][..2].copy_from_slice(&payload.to_be_bytes());
    }
    if at.is_ipv4() {
        let checksum = !sum(0, &frame[at.network..at.transport]);
        frame[at.network + 10..][..2].copy_from_slice(&checksum.to_be_bytes());
    }
    let checksum = !transport_sum(&frame, at, headers.protocol);
    frame[checksum_at(at, headers.protocol)..][..2].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Who a frame says it is from and to, if all its checksums are right and it has come one hop further.
pub(crate) fn carried(frame: &[u8], like: &Headers) -> Result<(End, End)> {
    let at = Offsets::of(like.to.address);
    ensure!(frame.len() == FRAME, "the packet is {} bytes long", frame.len());
    let (hops, checksum) = match at.is_ipv4() {
        true => (frame[at.network + 8], sum(0, &frame[at.network..at.transport])),
        false => (frame[at.network + 7], 0xffff),
    };
    ensure!(hops == HOPS - 1, "the packet may go {hops} hops further");
    ensure!(checksum == 0xffff, "the checksum of the IPv4 header is wrong");
    let checksum = transport_sum(frame, at, like.protocol);
    ensure!(checksum == 0xffff, "the checksum over the packet is wrong");
    let end = |address: usize, port: usize| End {
        address: address_at(frame, address, at),
        port: u16::from_be_bytes([frame[port], frame[port + 1]]),
    };
    let source = at.addresses();
    Ok((end(source, at.source_port()), end(source + at.address_length(), at.destination_port())))
}

fn put_address(frame: &mut [u8], at: usize, address: IpAddr) {
    match address {
        IpAddr::V4(address) => frame[at..at + 4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => frame[at..at + 16].copy_from_slice(&address.octets()),
    }
}

fn address_at(frame: &[u8], at: usize, offsets: Offsets) -> IpAddr {
    if offsets.is_ipv4() {
        IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
    } else {
        let mut octets = [0; 16];
        octets.copy_from_slice(&frame[at..at + 16]);
        IpAddr::from(octets)
    }
}

fn checksum_at(at: Offsets, protocol: u8) -> usize {
    debug_assert!(protocol == TCP || protocol == UDP);
    at.transport + if protocol == TCP { 16 } else { 6 }
}

/// The sum over pseudo-header and payload, with the checksum field as it stands.
fn transport_sum(frame: &[u8], at: Offsets, protocol: u8) -> u16 {
    let payload = &frame[at.transport..];
    let pseudo = u32::from(protocol) + payload.len() as u32;
    let addresses = sum(pseudo, &frame[at.addresses()..at.transport]);
    sum(addresses.into(), payload)
}

/// The ones' complement sum of RFC 1071.
fn sum(start: u32, bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = words.fold(start, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(from: &str, to: &str, protocol: u8) -> Headers {
        let end = |address: &str, port| End { address: address.parse().unwrap(), port };
        Headers { from: end(from, 40_000), to: end(to, 80), protocol, flags: 0x10 }
    }

    #[test]
    fn a_carried_frame_says_who_it_is_for() {
        for headers in
            [headers("10.0.0.1", "198.51.100.10", TCP), headers("10.0.0.1", "198.51.100.10", UDP)]
        {
            let mut frame = build(&headers);
            assert!(carried(&frame, &headers).is_err(), "it has not come any further");
            // One hop less, and the checksum one more in its upper byte.
            frame[22] -= 1;
            frame[24] = frame[24].wrapping_add(1);
            assert_eq!(carried(&frame, &headers).unwrap(), (headers.from, headers.to));
            frame[70] ^= 1;
            assert!(carried(&frame, &headers).is_err(), "a byte of the payload is wrong");
        }
        let headers = headers("2001:db8::1", "2001:db8:1::10", TCP);
        let mut frame = build(&headers);
        frame[21] -= 1;
        assert_eq!(carried(&frame, &headers).unwrap(), (headers.from, headers.to));
    }
}
