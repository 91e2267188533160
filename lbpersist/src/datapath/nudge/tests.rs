//! Which connections, and what their clients get.

use std::{collections::hash_map::RandomState, net::SocketAddr};

use lbpersist_common::{
    net::{Destination, Endpoint},
    service::{PrefixKey, Service},
};

use super::*;
use crate::datapath::address::to_map;

const POOL: u32 = 3;
const SERVER: u32 = 8;

fn server(state: u8) -> Server {
    Server { state, generation: 2, pool: POOL, ..bytemuck::Zeroable::zeroed() }
}

fn desired(state: u8, pool: Pool) -> Desired {
    let mut desired = Desired::default();
    desired.pools.insert(POOL, pool);
    desired.servers.insert(SERVER, server(state));
    let service = Service { id: 5, index: 0, pool: POOL, scope: 0, prefix_length: 0 };
    for (id, protocol) in [(5, net::TCP), (6, net::UDP)] {
        let end = Endpoint::new(map("198.51.100.10"), 80, protocol);
        desired.services.insert(end, Service { id, ..service });
    }
    for (id, prefix, bits) in [(7, "198.18.0.0", 111), (9, "2001:db8:200::", 48)] {
        let key =
            PrefixKey { protocol: net::TCP.into(), port: 0, reserved: 0, address: map(prefix) };
        let place = (PrefixKey::FIXED_BITS + bits, key);
        desired.prefix_services.insert(place, Service { id, prefix_length: bits, ..service });
    }
    desired
}

fn pool() -> Pool {
    let flags = pool_flag::RESET | pool_flag::PERSISTENT;
    Pool { flags, server_down: server_down::IMMEDIATE, ..bytemuck::Zeroable::zeroed() }
}

fn map(address: &str) -> Address {
    to_map(address.parse().expect("an address"))
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn key(service: u32, client: &str, destination: Destination) -> ConnectionKey {
    ConnectionKey {
        client: map(client),
        service,
        client_port: 40_000,
        service_port: 80,
        destination,
        reserved: 0,
    }
}

fn open(generation: u32) -> Connection {
    let binding = Binding { server: SERVER, generation };
    Connection { binding, state: State::Established as u32, ..bytemuck::Zeroable::zeroed() }
}

fn is_waiting(state: u8, pool: Pool, connection: Connection) -> bool {
    let key = key(5, "203.0.113.7", Destination::NONE);
    Known::of(&desired(state, pool)).waiting(&key, &connection).is_some()
}

#[test]
fn who_has_lost_its_server_waits() {
    for (state, waits) in [
        (state::UP, false),
        (state::DRAINING, false),
        (state::DOWN, true),
        (state::DISABLED, true),
        (state::ABSENT, true),
    ] {
        assert_eq!(is_waiting(state, pool(), open(2)), waits, "{state}");
        assert!(is_waiting(state, pool(), open(1)), "its number is another server's by now");
        let lost = has_lost(&desired(state::UP, pool()), &desired(state, pool()));
        assert_eq!(lost, waits, "{state}");
    }
    let closed = Connection { state: State::Closed as u32, ..open(2) };
    assert!(!is_waiting(state::DOWN, pool(), closed), "closed");
    for kept in [server_down::NEVER, server_down::CONTINUE] {
        let pool = Pool { server_down: kept, ..pool() };
        assert!(!is_waiting(state::DOWN, pool, open(2)), "it may have no other");
        assert!(!has_lost(&desired(state::UP, pool), &desired(state::DOWN, pool)));
    }
    let silent = Pool { flags: pool_flag::PERSISTENT, ..pool() };
    assert!(!is_waiting(state::DOWN, silent, open(2)), "not to be reset");
    assert!(!has_lost(&desired(state::UP, silent), &desired(state::DOWN, silent)));
}

#[test]
fn its_ends_are_put_together_again() {
    let known = Known::of(&desired(state::DOWN, pool()));
    let v6 = Destination::of(&map("2001:db8:200::9"));
    let v4 = Destination::of(&map("198.18.7.9"));
    for (service, client, destination, expected) in [
        (5, "203.0.113.7", Destination::NONE, Some("198.51.100.10:80")),
        (7, "203.0.113.7", v4, Some("198.18.7.9:80")),
        (9, "2001:db8::7", v6, Some("[2001:db8:200::9]:80")),
        (6, "203.0.113.7", Destination::NONE, None),
        (4, "203.0.113.7", Destination::NONE, None),
    ] {
        let waiting = known.waiting(&key(service, client, destination), &open(2));
        assert_eq!(waiting.map(|waiting| waiting.service), expected.map(at), "{service}");
        if let Some(waiting) = waiting {
            assert_eq!(waiting.client, SocketAddr::new(client.parse().expect("one"), 40_000));
        }
    }
}

#[test]
fn packets_are_acknowledgements_without_data_and_half_of_all_numbers_apart() {
    let secrets = RandomState::new();
    for (client, service, header) in [
        ("203.0.113.7:40000", "198.51.100.10:80", 20),
        ("[2001:db8::7]:40000", "[2001:db8:200::9]:80", 40),
    ] {
        let waiting = Waiting { client: at(client), service: at(service) };
        let rounds: Vec<Vec<u8>> = (0..3).map(|n| waiting.packet(&secrets, n)).collect();
        let sequence = |packet: &[u8]| {
            u32::from_be_bytes(packet[header + 4..header + 8].try_into().expect("four bytes"))
        };
        assert_eq!(sequence(&rounds[1]).wrapping_sub(sequence(&rounds[0])), 1 << 31);
        assert_eq!(rounds[2], rounds[0]);
        for packet in &rounds {
            let read = etherparse::SlicedPacket::from_ip(packet).expect("a packet");
            let Some(etherparse::TransportSlice::Tcp(tcp)) = &read.transport else {
                panic!("no segment: {read:?}");
            };
            assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 40_000));
            assert!(tcp.ack() && !tcp.syn() && !tcp.rst() && !tcp.fin());
            assert_eq!(tcp.payload(), [0; 0]);
            let right = match &read.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => tcp
                    .calc_checksum_ipv4(ip.header().source(), ip.header().destination())
                    .expect("short"),
                Some(etherparse::NetSlice::Ipv6(ip)) => tcp
                    .calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                    .expect("short"),
                other => panic!("{other:?}"),
            };
            assert_eq!(tcp.checksum(), right);
        }
    }
}
