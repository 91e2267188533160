//! The services as the maps have them, whether on one address or on a prefix.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use lbpersist_common::{
    net::{Address, Destination, Endpoint},
    persistence::EntryKey,
    service::{PrefixKey, Service},
};

use super::{
    Error,
    address::from_map,
    maps::{self, Maps, PinDirectory},
};
use crate::model::{Ports, Protocol};

/// A service and what it listens on.
pub(super) struct Listed {
    pub(super) addresses: IpNet,
    pub(super) ports: Ports,
    pub(super) protocol: Protocol,
    pub(super) service: Service,
    /// Whether the daemon carries it; packets are not looked up then.
    pub(super) is_carried: bool,
}

/// All services, by addresses, ports and protocol.
pub(super) fn services(pins: &PinDirectory, maps: &Maps) -> Result<Vec<Listed>, Error> {
    let mut all = Vec::new();
    for (map, is_carried) in [("services", false), ("carried", true)] {
        let found = maps::scan::<Endpoint, Service>(pins, map)?.into_iter();
        all.extend(found.map(|(endpoint, service)| {
            let addresses = IpNet::from(from_map(endpoint.address));
            let one = listed(addresses, endpoint.port, endpoint.protocol, service);
            Listed { is_carried, ..one }
        }));
    }
    for (key, service) in maps.prefix_services.iter().flatten() {
        // Those without an id are addresses of this machine, which are left out of a prefix.
        if service.id != 0 {
            let PrefixKey { protocol, port, address, .. } = key.data();
            let addresses = prefix(address, service.prefix_length);
            all.push(listed(addresses, port, protocol, service));
        }
    }
    all.sort_by_key(|one| (one.addresses, one.ports.number(), one.protocol));
    Ok(all)
}

fn listed(addresses: IpNet, port: u16, protocol: u16, service: Service) -> Listed {
    let protocol = u8::try_from(protocol).ok().and_then(Protocol::from_number);
    Listed {
        addresses,
        ports: Ports::from_number(port),
        protocol: protocol.unwrap_or(Protocol::Tcp),
        service,
        is_carried: false,
    }
}

fn prefix(address: Address, bits: u32) -> IpNet {
    let bits = u8::try_from(bits).unwrap_or(128);
    let address = from_map(address);
    let length = if address.is_ipv4() { bits.saturating_sub(96) } else { bits };
    IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address))
}

/// The address that the client of an entry came for; `None` if its service is on one address.
pub(super) fn destination(key: &EntryKey, services: &[Listed]) -> Option<IpAddr> {
    let of_scope = |one: &&Listed| one.service.scope == key.scope && one.service.prefix_length != 0;
    let mut services = services.iter().filter(of_scope);
    if key.client.is_ipv4() {
        // A pool may share its entries between services on prefixes and on single addresses.
        return (key.destination != Destination::NONE)
            .then(|| {
                let [.., a, b, c, d] = key.destination.bytes;
                IpAddr::from([a, b, c, d])
            })
            .filter(|_| services.next().is_some());
    }
    // The first 32 bits are those of the service.
    services.find_map(|one| {
        let IpAddr::V6(network) = one.addresses.network() else { return None };
        let mut octets = network.octets();
        octets[4..].copy_from_slice(&key.destination.bytes);
        let address = IpAddr::V6(Ipv6Addr::from(octets));
        one.addresses.contains(&address).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::address::to_map, *};

    fn key(client: &str, destination: &str) -> EntryKey {
        let map = |text: &str| to_map(text.parse().expect("an address"));
        EntryKey { client: map(client), scope: 7, destination: Destination::of(&map(destination)) }
    }

    fn on(addresses: &str) -> Listed {
        let addresses: IpNet = addresses.parse().expect("a prefix");
        let bits =
            u32::from(addresses.prefix_len()) + if addresses.addr().is_ipv4() { 96 } else { 0 };
        let service = Service { id: 7, index: 0, pool: 0, scope: 7, prefix_length: bits };
        listed(addresses, 80, 6, service)
    }

    #[test]
    fn destinations_are_put_together_again() {
        let services = [on("198.51.100.0/24"), on("2001:db8:7::/48")];
        for (client, address) in [("10.0.0.1", "198.51.100.77"), ("fd00::1", "2001:db8:7::77")] {
            let found = destination(&key(client, address), &services);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), Some(address));
        }
        let other =
            [Listed { service: Service { scope: 8, ..services[0].service }, ..on("0.0.0.0/0") }];
        assert_eq!(destination(&key("10.0.0.1", "198.51.100.77"), &other), None);
        let shared = EntryKey { destination: Destination::NONE, ..key("10.0.0.1", "10.0.0.1") };
        assert_eq!(destination(&shared, &services), None);
    }
}
