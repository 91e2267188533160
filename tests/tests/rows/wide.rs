//! Services on all ports of an address and on prefixes, where the destination is a part of the key.

mod fragments;

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use lbpersist::{clock::now_ns, network::View};
use lbpersist_common::{
    layout::feature,
    net::{Address, Destination},
    reason::Reason,
    tcp::flag,
};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Rig},
    topology::Family,
};

use crate::setup::{
    FAR, NEAR, POOL_V4, V4, V6, Visits as _, at_port, client, link_to, links, neighbours, routes,
    server_address,
};

/// The service's port and pool: `services` are address, port and pool, and pool `a` has servers 11 and 12, `b` 13.
fn text(forwarding: &str, services: &[(&str, &str, &str, &str)]) -> String {
    let mut text = "[data_path]\nring_size = 251\nentry_table = 1024\nconnection_table = 1024\n\
        handshake_table = 1024\n[[persistence_profile]]\nname = \"kept\"\n"
        .to_owned();
    for (number, (address, port, protocol, pool)) in services.iter().enumerate() {
        let _ = writeln!(
            text,
            "[[virtual_service]]\nname = \"{number}\"\naddress = \"{address}\"\nport = {port}\n\
             protocol = \"{protocol}\"\npool = \"{pool}\""
        );
    }
    for (family, suffix) in [(V4, ""), (V6, "6")] {
        for (name, hosts) in [("a", &[11, 12][..]), ("b", &[13]), ("c", &[14])] {
            let _ = writeln!(
                text,
                "[[pool]]\nname = \"{name}{suffix}\"\npersistence_profile = \"kept\"\n\
                 forwarding = \"{forwarding}\"\nservers = ["
            );
            for &host in hosts {
                let _ = writeln!(text, "{{ address = \"{}\" }},", server_address(family, host));
            }
            text += "]\n";
        }
    }
    text
}

fn rig(forwarding: &str, services: &[(&str, &str, &str, &str)]) -> Option<Rig> {
    let mut local = routes();
    local.push(lbpersist::network::Route {
        table: lbpersist::network::Table::Local,
        kind: lbpersist::network::RouteKind::Local,
        ..crate::setup::route("198.51.100.200/32", None, 0)
    });
    Rig::new(&text(forwarding, services), View::new(links(), local, neighbours()))
}

fn features(rig: &mut Rig) -> u32 {
    rig.data_path().maps.layout().unwrap().features
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

const EVERY_PORT: [(&str, &str, &str, &str); 4] = [
    ("198.51.100.10", "\"all\"", "tcp", "a"),
    ("198.51.100.10", "\"all\"", "udp", "a"),
    ("2001:db8:100::10", "\"all\"", "tcp", "a6"),
    ("198.51.100.10", "25", "tcp", "b"),
];

#[test]
fn every_port_of_an_address_goes_to_the_same_port_of_a_server_and_back() {
    let Some(mut rig) = rig("nat", &EVERY_PORT) else { return };
    assert_eq!(features(&mut rig), feature::ALL_PORTS);
    for family in Family::BOTH {
        let from = client(family, 1);
        let mut met = None;
        for port in [1, 80, 8080, 65_535] {
            let to = family.service(port);
            let packet = Packet::tcp(from, to, flag::SYN);
            let host = rig.server_of(&packet);
            assert_eq!(*met.get_or_insert(host), host, "one client, one server");
            let server = SocketAddr::new(server_address(family, host), port);
            let out = packet.forwarded(server, link_to(family, FAR, host));
            assert_eq!(rig.send_packet(&packet).packet, out.bytes());
            rig.send_packet(&Packet::tcp(server, from, flag::SYN | flag::ACK));
            rig.server_of(&Packet::tcp(from, to, flag::ACK));
            let answer = Packet::tcp(server, from, flag::ACK | flag::FIN);
            let outcome = rig.send_packet(&answer);
            assert_eq!(outcome.reason, Reason::Returned);
            assert_eq!(outcome.packet, answer.returned(to, link_to(family, NEAR, 1)).bytes());
        }
        let states: Vec<_> = rig
            .connections()
            .unwrap()
            .into_iter()
            .filter(|(key, _)| key.client.is_ipv4() == (family == V4))
            .map(|(key, connection)| (key.service_port, connection.state))
            .collect();
        assert_eq!(states, [(1, 3), (80, 3), (8080, 3), (65_535, 3)], "the FINs were noted");
    }
    let datagram = Packet::udp(client(V4, 1), V4.service(5353));
    let host = rig.server_of(&datagram);
    let server = SocketAddr::new(server_address(V4, host), 5353);
    let answer = Packet::udp(server, client(V4, 1));
    let out = answer.returned(V4.service(5353), link_to(V4, NEAR, 1));
    assert_eq!(rig.send_packet(&answer).packet, out.bytes());
}

#[test]
fn a_service_on_one_port_goes_before_that_on_all() {
    let Some(mut rig) = rig("nat", &EVERY_PORT) else { return };
    for n in 0..20 {
        let from = client(V4, n);
        assert_eq!(rig.server_of(&Packet::tcp(from, V4.service(25), flag::SYN)), 13);
        assert!(rig.server_of(&Packet::tcp(from, V4.service(26), flag::SYN)) < 13);
    }
    let udp6 = rig.send_packet(&Packet::udp(client(V6, 1), V6.service(80)));
    assert_eq!(udp6.reason, Reason::NotOurs, "TCP is not UDP");
}

#[test]
fn wide_services_come_and_go_with_their_lookups() {
    let Some(mut rig) = rig("direct", &EVERY_PORT[3..]) else { return };
    assert_eq!(features(&mut rig), 0);
    let syn = Packet::tcp(client(V4, 1), V4.service(443), flag::SYN);
    assert_eq!(rig.send_packet(&syn).reason, Reason::NotOurs);
    for (services, expected) in [
        (&EVERY_PORT[..], feature::ALL_PORTS),
        (&[("198.51.100.0/24", "443", "tcp", "a")], feature::PREFIX | feature::PREFIX_PORT),
    ] {
        rig.configure(&text("direct", services)).unwrap();
        assert_eq!(features(&mut rig), expected);
        assert_eq!(rig.send_packet(&syn).reason, Reason::Forwarded);
        rig.reopen().unwrap();
        assert_eq!(rig.send_packet(&syn).reason, Reason::Forwarded);
        rig.apply().unwrap();
        assert_eq!(rig.apply().unwrap(), 0, "all was read back");
    }
    rig.configure(&text("direct", &EVERY_PORT[3..])).unwrap();
    assert_eq!(features(&mut rig), 0);
    assert_eq!(rig.send_packet(&syn).reason, Reason::NotOurs);
}

const PREFIXES: [(&str, &str, &str, &str); 6] = [
    ("198.51.100.0/24", "80", "tcp", "a"),
    ("198.51.100.0/24", "80", "udp", "a"),
    ("2001:db8:100::/48", "80", "tcp", "a6"),
    ("198.51.100.128/25", "\"all\"", "tcp", "b"),
    ("198.51.100.0/24", "\"all\"", "tcp", "c"),
    ("198.51.100.77", "80", "tcp", "c"),
];

#[test]
fn the_destination_is_a_part_of_the_key() {
    let Some(mut rig) = rig("direct", &PREFIXES) else { return };
    for (family, base) in [(V4, "198.51.100."), (V6, "2001:db8:100::")] {
        let from = client(family, 1);
        let met: Vec<u8> = (1..60)
            .map(|host| {
                let to = at(&format!("{base}{host}"), 80);
                let host = opened(&mut rig, from, to);
                assert_eq!(opened(&mut rig, at_port(from, 1), to), host);
                host
            })
            .collect();
        assert!(met.contains(&11) && met.contains(&12), "{met:?}");
    }
    let entries = rig.entries().unwrap();
    assert_eq!(entries.len(), 118);
    assert!(entries.iter().all(|(_, entry)| entry.open == 2));
    for to in ["198.51.100.59", "2001:db8:100::59"] {
        let destination = destination(to);
        assert!(entries.iter().any(|(key, _)| key.destination == destination), "{to}");
        let connections = rig.connections().unwrap();
        assert!(connections.iter().any(|(key, _)| key.destination == destination), "{to}");
    }
}

#[test]
fn the_packet_keeps_its_destination() {
    let Some(mut rig) = rig("direct", &PREFIXES) else { return };
    let to = at("198.51.100.3", 80);
    let packet = Packet::tcp(client(V4, 1), to, flag::SYN);
    let outcome = rig.send_packet(&packet);
    let hosts = [11, 12].map(|host| packet.forwarded(to, link_to(V4, FAR, host)).bytes());
    assert_eq!((outcome.action, outcome.reason), (Action::Redirect, Reason::Forwarded));
    assert!(hosts.contains(&outcome.packet));
}

#[test]
fn the_nearest_service_wins() {
    let Some(mut rig) = rig("direct", &PREFIXES) else { return };
    let mut meets = |address: &str, port| {
        let packet = Packet::tcp(client(V4, 1), at(address, port), flag::SYN);
        let outcome = rig.send_packet(&packet);
        (outcome.reason == Reason::Forwarded).then(|| outcome.packet[5])
    };
    assert_eq!(meets("198.51.100.77", 80), Some(14), "an address before prefixes");
    assert_eq!(meets("198.51.100.129", 80), Some(13), "a longer prefix before a port");
    assert!(meets("198.51.100.1", 80) < Some(13), "a port before all ports of the prefix");
    assert_eq!(meets("198.51.100.1", 81), Some(14));
    assert_eq!(meets("198.51.101.1", 80), None, "outside");
    assert_eq!(meets("198.51.100.200", 80), None, "this machine's own address");
    assert_eq!(meets("198.51.100.200", 22), None, "on any port");
}

#[test]
fn clients_are_kept_for_each_destination_when_the_ring_changes() {
    let Some(mut rig) = rig("direct", &PREFIXES) else { return };
    let from = client(V4, 1);
    let to = |host| at(&format!("198.51.100.{host}"), 80);
    let met: Vec<u8> = (1..60).map(|host| opened(&mut rig, from, to(host))).collect();
    let after = text("direct", &PREFIXES).replacen("10.0.0.11\"", "10.0.0.11\", weight = 9", 1);
    rig.configure(&after).unwrap();
    // The sweep leaves marks where the ring and the tables differ, and nowhere else.
    for _ in 0..2 {
        rig.sweep_handshakes(now_ns()).unwrap();
        rig.sweep_pass(now_ns()).unwrap();
    }
    assert!((1..40).contains(&rig.marked(POOL_V4).unwrap()));
    for (host, &met) in (1..60).zip(&met) {
        let packet = Packet::tcp(from, to(host), flag::ACK);
        assert_eq!(rig.send_packet(&packet).packet[5], met, "{host}");
        assert_eq!(opened(&mut rig, at_port(from, 2), to(host)), met, "{host}");
    }
}

#[test]
fn what_claims_to_come_from_a_wide_service_is_dropped() {
    let Some(mut rig) = rig("direct", &[&EVERY_PORT[..2], &PREFIXES[1..2]].concat()) else {
        return;
    };
    let reason = |rig: &mut Rig, packet: Packet| rig.send_packet(&packet).reason;
    for from in [at("198.51.100.10", 9), at("198.51.100.99", 80)] {
        let packet = Packet::udp(from, V4.service(5353));
        assert_eq!(reason(&mut rig, packet), Reason::ImpossibleSource, "{from}");
    }
    let outside_port = Packet::udp(at("198.51.100.99", 81), V4.service(5353));
    assert_eq!(reason(&mut rig, outside_port), Reason::Forwarded, "a client within the prefix");
    let tcp = Packet::tcp(at("198.51.100.10", 9), V4.service(80), flag::SYN);
    assert_eq!(reason(&mut rig, tcp), Reason::ImpossibleSource);
}

/// A whole handshake as the balancer sees it: the server, by the frame's destination.
fn opened(rig: &mut Rig, from: SocketAddr, to: SocketAddr) -> u8 {
    let mut hosts = [flag::SYN, flag::ACK].map(|flags| {
        let outcome = rig.send_packet(&Packet::tcp(from, to, flags));
        assert_eq!(outcome.reason, Reason::Forwarded, "{from} {to}");
        outcome.packet[5]
    });
    hosts.sort_unstable();
    assert_eq!(hosts[0], hosts[1]);
    hosts[0]
}

fn destination(text: &str) -> Destination {
    Destination::of(&match text.parse().unwrap() {
        IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        IpAddr::V6(address) => Address::from_ipv6(address.octets()),
    })
}
