//! Maps of an older layout are taken over with their entries.

use std::{fs, net::IpAddr, path::Path};

use aya::maps::{Map, MapData};
use lbpersist_common::{
    layout::{Name, NameKey, kind},
    net::{Address, Endpoint, TCP},
    persistence::Entry,
    server::{Binding, Server, state},
    service::{Pool, pool_flag},
};
use lbpersist_tests::{
    balancer::Balancer,
    scenario::{SERVER_PORTS, SERVICE_PORT, Scenario, Web, at, web},
    topology::{Family, Topology, Wiring},
    wait,
};

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const LRU_HASH: u32 = 9;

/// Ids that were given out, as the old daemon would have: the pool's first.
const POOL_ID: u32 = 5;
const SERVICE_ID: u32 = 6;

#[test]
fn maps_of_layout_3_are_taken_over_with_their_entries() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::Routed, 1, 3).unwrap();
    let servers = topology.start_servers(&SERVER_PORTS, &SERVER_PORTS).unwrap();
    let config = Web::default().config(&topology.servers);
    let mut balancer = Balancer::prepare(&topology.balancer, config, &topology.interfaces).unwrap();
    let hosts: Vec<_> = topology.servers.iter().map(|host| host.address(Family::V4)).collect();
    let from: Vec<IpAddr> =
        (0..60).map(|n| topology.clients[0].address_in(Family::V4, n, 7)).collect();
    let pins = balancer.pin_directory().to_owned();
    fs::create_dir_all(pins.join("maps")).unwrap();
    pin_old(&pins.join("maps"), &hosts, &from, 3);
    // What a migration left behind that was ended in the middle.
    fs::create_dir_all(pins.join("next/maps")).unwrap();
    balancer.restart().unwrap();
    assert!(!pins.join("next").exists());
    let lab = Scenario { balancer, servers, topology };
    lab.wait_until_all_are_up();

    let bindings = lab.bindings();
    assert_eq!(bindings.len(), 60);
    let expected: Vec<String> = (0..60).map(|n| lab.topology.servers[n % 3].name()).collect();
    assert_eq!(lab.meet(&from), expected, "whatever the ring says");
    assert_eq!(lab.bindings(), bindings);
    let status = lab.balancer.json(&["status"]).unwrap();
    assert_eq!(status["virtual_services"][0]["kept"], 60);
}

#[test]
fn an_unknown_layout_is_refused_and_left_as_it_is() {
    if !wait::is_root_or_skip() {
        return;
    }
    let topology = Topology::new(Wiring::Routed, 1, 1).unwrap();
    let config = Web::default().config(&topology.servers);
    let mut balancer = Balancer::prepare(&topology.balancer, config, &topology.interfaces).unwrap();
    let pins = balancer.pin_directory().to_owned();
    fs::create_dir_all(pins.join("maps")).unwrap();
    pin_old(&pins.join("maps"), &[], &[], 2);
    let refusal = balancer.restart().unwrap_err().to_string();
    assert!(refusal.contains("have layout 2, and this lbpersist knows layout"), "{refusal}");
    assert!(pins.join("maps/layout").exists());
}

/// Pins what a daemon of that layout would have for `web4`, with the clients bound to the hosts in turn.
fn pin_old(directory: &Path, hosts: &[IpAddr], clients: &[IpAddr], version: u32) {
    let now = lbpersist::clock::now_ns();
    let mut layout = [0; 24];
    layout[..4].copy_from_slice(&version.to_ne_bytes());
    layout[4..8].copy_from_slice(&65_537_u32.to_ne_bytes());
    layout[8..12].copy_from_slice(&9_u32.to_ne_bytes());
    array(directory, "layout", 1, &[(0, layout)]);

    let pool = Pool {
        slots: 65_537,
        flags: pool_flag::PERSISTENT,
        timeout_ns: 300_000_000_000,
        udp_idle_ns: 30_000_000_000,
        ipv4_mask: Address::ipv4_prefix_mask(32),
        ipv6_mask: Address::prefix_mask(128),
        id: POOL_ID,
        ..bytemuck::Zeroable::zeroed()
    };
    let pool: [u8; 72] = bytemuck::bytes_of(&pool)[..72].try_into().unwrap();
    array(directory, "pools", 4_096, &[(0, pool)]);
    let server = |(number, address): (u32, &IpAddr)| {
        let server = Server {
            address: address_of(*address),
            generation: 4,
            port: SERVER_PORTS[0],
            state: state::UP,
            weight: 1,
            ..bytemuck::Zeroable::zeroed()
        };
        (number, server)
    };
    let servers: Vec<_> = (1..).zip(hosts).map(server).collect();
    array(directory, "servers", 65_536, &servers);

    let name = |kind, id| (NameKey { kind, number: 0 }, Name::new(web(Family::V4), id));
    let names = [name(kind::POOL, POOL_ID), name(kind::SERVICE, SERVICE_ID)];
    hash(directory, "names", HASH, &names);
    let end = Endpoint::new(address_of(at(Family::V4).ip()), SERVICE_PORT, TCP);
    let service: [u8; 16] = bytemuck::cast([SERVICE_ID, 0, 0, SERVICE_ID]);
    hash(directory, "services", HASH, &[(end, service)]);
    let entry = |(n, client): (u32, &IpAddr)| {
        let mut key = [0; 24];
        let client = address_of(*client);
        key[..16].copy_from_slice(&client.bytes);
        key[16..20].copy_from_slice(&SERVICE_ID.to_ne_bytes());
        let binding = Binding { server: n % 3 + 1, generation: 4 };
        (key, Entry { binding, open: 0, changes: 2, idle_since_ns: now, created_ns: now })
    };
    let entries: Vec<_> = (0..).zip(clients).map(entry).collect();
    hash(directory, "entries", LRU_HASH, &entries);
    hash::<[u8; 24], [u8; 32]>(directory, "connections", LRU_HASH, &[]);
}

fn address_of(address: IpAddr) -> Address {
    lbpersist::datapath::address::to_map(address)
}

fn array<V: aya::Pod>(directory: &Path, name: &str, room: u32, values: &[(u32, V)]) {
    let mut map: aya::maps::Array<_, V> =
        Map::Array(make(directory, name, ARRAY, (4, size_of::<V>()), room)).try_into().unwrap();
    values.iter().for_each(|(place, value)| map.set(*place, value, 0).unwrap());
}

fn hash<K: aya::Pod, V: aya::Pod>(directory: &Path, name: &str, kind: u32, records: &[(K, V)]) {
    let data = make(directory, name, kind, (size_of::<K>(), size_of::<V>()), 65_536);
    let map = if kind == HASH { Map::HashMap(data) } else { Map::LruHashMap(data) };
    let mut map: aya::maps::HashMap<_, K, V> = map.try_into().unwrap();
    records.iter().for_each(|(key, value)| map.insert(key, value, 0).unwrap());
}

fn make(directory: &Path, name: &str, kind: u32, sizes: (usize, usize), room: u32) -> MapData {
    let [key, value] = [sizes.0, sizes.1].map(|size| u32::try_from(size).unwrap());
    let map = aya_obj::Map::new_from_params(kind, key, value, room, 0);
    let data = MapData::create(map, name, None).unwrap();
    data.pin(directory.join(name)).unwrap();
    data
}
