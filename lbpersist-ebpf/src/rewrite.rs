//! Network address translation in place: addresses, ports, checksums, time to live.

use lbpersist_common::{
    net::{Address, FrameAddresses},
    reason::Reason,
};

use crate::{
    checksum::Change,
    load,
    parse::{Flow, Network, Packet, Transport},
};

/// Sends the packet to `address` and `port` instead of where `flow` says.
#[inline(always)]
pub(crate) fn destination(packet: &mut Packet<'_>, flow: &Flow, address: &Address, port: u16) {
    let change = match &mut packet.network {
        Network::V4(header) => {
            let change = ipv4_address(&mut header.dst_addr, address);
            header.check = change.apply(header.check);
            change
        }
        Network::V6(header) => {
            load::set_address(&mut header.dst_addr, address);
            Change::NONE.and_u128(flow.to.address.words(), address.words())
        }
    };
    transport(packet, change, flow.to.port, port, Port::Destination);
}

/// Makes the packet come from `address` and `port` instead of where `flow` says.
#[inline(always)]
pub(crate) fn source(packet: &mut Packet<'_>, flow: &Flow, address: &Address, port: u16) {
    let change = match &mut packet.network {
        Network::V4(header) => {
            let change = ipv4_address(&mut header.src_addr, address);
            header.check = change.apply(header.check);
            change
        }
        Network::V6(header) => {
            load::set_address(&mut header.src_addr, address);
            Change::NONE.and_u128(flow.from.address.words(), address.words())
        }
    };
    transport(packet, change, flow.from.port, port, Port::Source);
}

/// One of the two ends of a packet.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Source,
    Destination,
}

impl End {
    /// The one that this one is in packets the other way round.
    #[inline(always)]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Replaces an address and nothing behind the IP header; returns what that changes below a checksum with the addresses in it.
#[inline(always)]
pub(crate) fn address(network: &mut Network<'_>, end: End, address: &Address) -> Change {
    match network {
        Network::V4(header) => {
            let change = match end {
                End::Source => ipv4_address(&mut header.src_addr, address),
                End::Destination => ipv4_address(&mut header.dst_addr, address),
            };
            header.check = change.apply(header.check);
            change
        }
        Network::V6(header) => {
            let field = match end {
                End::Source => &mut header.src_addr,
                End::Destination => &mut header.dst_addr,
            };
            let was = load::address(field);
            load::set_address(field, address);
            Change::NONE.and_u128(was.words(), address.words())
        }
    }
}

#[inline(always)]
fn ipv4_address(field: &mut [u8; 4], address: &Address) -> Change {
    let (was, is) = (load::u32(field), u32::from_ne_bytes(address.ipv4_octets()));
    load::set_u32(field, is);
    Change::NONE.and_u32(was, is)
}

/// Whether the packet may go through one more router.
#[inline(always)]
pub(crate) fn may_hop(network: &Network<'_>) -> Result<(), Reason> {
    let left = match network {
        Network::V4(header) => header.ttl,
        Network::V6(header) => header.hop_limit,
    };
    if left <= 1 { Err(Reason::HopLimit) } else { Ok(()) }
}

/// Takes one from the time to live or hop limit of a packet that [`may_hop`].
#[inline(always)]
pub(crate) fn hop(network: &mut Network<'_>) {
    match network {
        Network::V4(header) => {
            let was = [header.ttl, header.proto];
            header.ttl -= 1;
            header.check =
                Change::NONE.and_u16(was, [header.ttl, header.proto]).apply(header.check);
        }
        Network::V6(header) => header.hop_limit -= 1,
    }
}

/// Addresses the frame to the next hop.
#[inline(always)]
pub(crate) fn frame(packet: &mut Packet<'_>, addresses: &FrameAddresses) {
    load::set_frame_addresses(packet.ethernet, addresses);
}

enum Port {
    Source,
    Destination,
}

#[inline(always)]
fn transport(packet: &mut Packet<'_>, change: Change, was: u16, is: u16, which: Port) {
    let port = is.to_be_bytes();
    let change = change.and_u16(was.to_be_bytes(), port);
    match &mut packet.transport {
        Transport::Tcp(header) => {
            match which {
                Port::Source => header.source = port,
                Port::Destination => header.destination = port,
            }
            header.checksum = change.apply(header.checksum);
        }
        Transport::Udp(header) => {
            match which {
                Port::Source => header.src = port,
                Port::Destination => header.dst = port,
            }
            // A UDP checksum of zero means there is none (RFC 768), so a computed zero is sent as all ones.
            if header.check != [0, 0] {
                let checksum = change.apply(header.check);
                header.check = if checksum == [0, 0] { [0xff, 0xff] } else { checksum };
            }
        }
    }
}
