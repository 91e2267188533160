//! What the maps should say of the network: routes, neighbours, and how servers are reached.

use std::net::IpAddr;

use ipnet::IpNet;
use lbpersist_common::{
    net::{Address, FrameAddresses, Mac},
    route::{self, Neighbour, NeighbourKey, Route},
    service::{PrefixKey, Service},
};

use super::Desired;
use crate::{
    datapath::address::to_map,
    model::Forwarding,
    network::{NextHop, RouteTarget, View},
};

impl Desired {
    /// This machine's own addresses are no part of the prefixes around them: it would lose its own connections.
    pub(super) fn leave_out_own_addresses(&mut self, view: &View) {
        if self.prefix_services.is_empty() {
            return;
        }
        let own: Vec<Address> = view
            .best_routes()
            .filter(|(prefix, target)| {
                *target == RouteTarget::Local && prefix.prefix_len() == prefix.max_prefix_len()
            })
            .map(|(prefix, _)| to_map(prefix.addr()))
            .collect();
        let none = Service { id: 0, index: 0, pool: 0, scope: 0, prefix_length: 128 };
        for (key, bits) in
            self.prefix_services.iter().map(|((_, k), s)| (*k, s.prefix_length)).collect::<Vec<_>>()
        {
            let mask = Address::prefix_mask(u8::try_from(bits).unwrap_or(128));
            for address in own.iter().filter(|own| own.masked(&mask) == key.address) {
                let place = (PrefixKey::BITS, PrefixKey { address: *address, ..key });
                self.prefix_services.insert(place, none);
            }
        }
    }

    pub(super) fn add_network(&mut self, view: &View) {
        // Without it the IPv6 default route would also match mapped IPv4 addresses that have no route of their own.
        let no_ipv4 = (96, Address::from_ipv4([0; 4]));
        self.routes.insert(no_ipv4, route_value(&RouteTarget::Unreachable, view));
        for (prefix, target) in view.best_routes() {
            self.routes.insert(route_key(prefix), route_value(&target, view));
        }
        for (&(interface, address), &mac) in &view.neighbours {
            let Some(link) = view.links.get(&interface) else { continue };
            let Some(source) = link.mac else { continue };
            let key = NeighbourKey { address: to_map(address), interface, reserved: 0 };
            self.neighbours.insert(key, Neighbour { frame: frame(source, mac) });
        }
    }
}

/// The interface and frame addresses on the way to a server; interface 0 while they are not known, or if there is no such way:
/// a packet that keeps its destination cannot go through a router, which would send it back.
pub(super) fn hop(view: &View, server: IpAddr, forwarding: Forwarding) -> (u32, FrameAddresses) {
    let neighbour = view.neighbour_towards(server).map(|(_, neighbour)| neighbour);
    if forwarding == Forwarding::Direct && neighbour != Some(server) {
        return (0, FrameAddresses::ZERO);
    }
    match view.next_hop(server) {
        NextHop::Resolved { interface, source, destination } => {
            (interface, frame(source, destination))
        }
        NextHop::Unresolved { .. } | NextHop::Local | NextHop::Unreachable => {
            (0, FrameAddresses::ZERO)
        }
    }
}

pub(super) fn route_key(prefix: IpNet) -> (u32, Address) {
    match prefix {
        IpNet::V4(net) => (96 + u32::from(net.prefix_len()), to_map(net.network().into())),
        IpNet::V6(net) => (u32::from(net.prefix_len()), to_map(net.network().into())),
    }
}

fn route_value(target: &RouteTarget, view: &View) -> Route {
    let (kind, interface, frame) = match *target {
        RouteTarget::Local => (route::kind::LOCAL, 0, FrameAddresses::ZERO),
        RouteTarget::OnLink { interface, .. } => {
            (route::kind::ON_LINK, interface, FrameAddresses::ZERO)
        }
        RouteTarget::Gateway { interface, source, mac: Some(mac), .. } => {
            (route::kind::GATEWAY, interface, frame(source, mac))
        }
        RouteTarget::Gateway { mac: None, .. } | RouteTarget::Unreachable => {
            (route::kind::UNREACHABLE, 0, FrameAddresses::ZERO)
        }
    };
    Route { kind, interface, frame, mtu: view.links.get(&interface).map_or(0, |link| link.mtu) }
}

fn frame(source: [u8; 6], destination: [u8; 6]) -> FrameAddresses {
    FrameAddresses { destination: Mac { bytes: destination }, source: Mac { bytes: source } }
}
