//! From netlink messages to the values of a view.
//!
//! What a view does not hold (other tables and families, dead next hops, cached exceptions, neighbours without an address)
//! becomes `None` here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
        RouteType, RouteVia,
    },
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};

use super::view::{Link, Mac, Route, RouteKind, Table, XdpMode};

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const LOCAL_TABLE: u32 = 255;

/// What a notification means for a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// One neighbour has now this Ethernet address, or none.
    Neighbour {
        /// Interface index and address.
        key: (u32, IpAddr),
        /// The Ethernet address.
        mac: Option<Mac>,
    },
    /// Everything must be read again: links or routes changed, or notifications were lost.
    ///
    /// Links and routes are not followed one notification at a time, because the kernel does not send all of them: when
    /// an interface goes down its IPv4 routes vanish silently, and a replaced route does not say which one it replaced.
    Stale,
}

/// What a notification means, if it means anything.
pub(super) fn event(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    use RouteNetlinkMessage as M;
    let inner = match &message.payload {
        NetlinkPayload::InnerMessage(inner) => inner,
        NetlinkPayload::Overrun(_) => return Some(Event::Stale),
        _ => return None,
    };
    match inner {
        M::NewNeighbour(message) => {
            neighbour(message).map(|(key, mac)| Event::Neighbour { key, mac })
        }
        M::DelNeighbour(message) => {
            neighbour(message).map(|(key, _)| Event::Neighbour { key, mac: None })
        }
        M::NewLink(_) | M::DelLink(_) | M::NewAddress(_) | M::DelAddress(_) => Some(Event::Stale),
        M::NewRoute(message) | M::DelRoute(message) => table(message).map(|_| Event::Stale),
        _ => None,
    }
}

/// An interface, with its index.
pub(super) fn link(message: &LinkMessage) -> (u32, Link) {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        mtu: 0,
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            // Loopback has six zero bytes here.
            LinkAttribute::Address(bytes)
                if message.header.link_layer_type == LinkLayerType::Ether =>
            {
                link.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::Xdp(attributes) => link.xdp = xdp(attributes),
            _ => {}
        }
    }
    (message.header.index, link)
}

/// The mode of the program that sees a packet first, where there are several.
fn xdp(attributes: &[LinkXdp]) -> Option<XdpMode> {
    let attached = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(attached) => Some(*attached),
        _ => None,
    })?;
    let any = |wanted: fn(&LinkXdp) -> bool| attributes.iter().any(wanted);
    match attached {
        XdpAttached::Driver => Some(XdpMode::Native),
        XdpAttached::SocketBuffer => Some(XdpMode::Generic),
        XdpAttached::Hardware => Some(XdpMode::Offloaded),
        XdpAttached::Multiple if any(|a| matches!(a, LinkXdp::HwProgId(_))) => {
            Some(XdpMode::Offloaded)
        }
        XdpAttached::Multiple if any(|a| matches!(a, LinkXdp::DrvProgId(_))) => {
            Some(XdpMode::Native)
        }
        _ => None,
    }
}

/// A route that this machine uses for any packet to its prefix.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let table = table(message)?;
    if header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let mut hop = Hop::default();
    if header.flags.contains(RouteFlags::Dead) {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = address(to)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(hops) => {
                let living =
                    hops.iter().find(|hop| !hop.flags.contains(RouteNextHopFlags::Dead))?;
                hop.interface = living.interface_index;
                living.attributes.iter().for_each(|attribute| hop.read(attribute));
            }
            attribute => hop.read(attribute),
        }
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route {
        prefix: prefix.trunc(),
        table,
        kind: match header.kind {
            RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast => {
                RouteKind::Local
            }
            RouteType::Unicast => RouteKind::Unicast,
            _ => RouteKind::Unreachable,
        },
        gateway: hop.gateway,
        interface: hop.interface,
        metric,
    })
}

/// Where a route leads.
#[derive(Default)]
struct Hop {
    interface: u32,
    gateway: Option<IpAddr>,
}

impl Hop {
    fn read(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(interface) => self.interface = *interface,
            RouteAttribute::Gateway(gateway) => self.gateway = address(gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => self.gateway = Some((*gateway).into()),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => self.gateway = Some((*gateway).into()),
            _ => {}
        }
    }
}

/// The table of a route, if it is an IP route of a table that counts. Exceptions that the kernel cached for one destination
/// (path MTU, redirects) do not count.
fn table(message: &RouteMessage) -> Option<Table> {
    let header = &message.header;
    let ip = matches!(header.address_family, AddressFamily::Inet | AddressFamily::Inet6);
    if !ip || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    // The header has room for numbers up to 255 only; the attribute has them all.
    let number = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(number) => Some(*number),
            _ => None,
        })
        .unwrap_or_else(|| header.table.into());
    if number == LOCAL_TABLE {
        Some(Table::Local)
    } else if number == u32::from(RouteHeader::RT_TABLE_MAIN) {
        Some(Table::Main)
    } else {
        None
    }
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// A neighbour, and its Ethernet address while the kernel would use it. The kernel's entries for group addresses are left
/// out: they come and go with every group packet and nothing is ever forwarded to them.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Option<Mac>)> {
    let header = &message.header;
    // The header's family is AF_BRIDGE for entries of a bridge's forwarding table.
    let ip = matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6);
    if !ip || header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => {
                address = Some(IpAddr::from(*to));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => {
                address = Some(IpAddr::from(*to));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let usable = matches!(
        header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    );
    let address = address.filter(|address| !address.is_multicast())?;
    Some(((header.ifindex, address), mac.filter(|_| usable)))
}

#[cfg(test)]
mod tests;
