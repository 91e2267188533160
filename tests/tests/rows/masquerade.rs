//! Masquerade: source and destination of the whole packet out, ports, and what is left of a translation.

mod errors;
mod fragments;

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr};

use lbpersist::clock::now_ns;
use lbpersist_common::{counter::Event, reason::Reason, tcp::flag};
use lbpersist_tests::{
    packet::Packet,
    rig::{Action, Rig},
    topology::Family,
};

use crate::setup::{
    DNS, FAR, NEAR, V4, V6, Visits as _, at_port, client, link_to, network, server, server_address,
};

const SECOND: u64 = 1_000_000_000;
const WEB: u16 = 80;

/// A web and a DNS service for each family on servers 11 and 12, with `ports` towards them; and `more`.
fn text(ports: &str, hosts: &[u8], more: &str) -> String {
    let mut text = format!(
        "[data_path]\nring_size = 251\nentry_table = 1024\nconnection_table = 1024\nhandshake_table = 1024\n\
         translation_table = 1024\nmasquerade_ports = \"{ports}\"\n[idle_limits]\ntcp = \"100s\"\nudp = \"10s\"\n\
         [[persistence_profile]]\nname = \"kept\"\ntimeout = \"5m\"\n"
    );
    for family in Family::BOTH {
        let (pool, at) = (format!("{family:?}"), family.service_address());
        for (protocol, port) in [("tcp", WEB), ("udp", DNS)] {
            let _ = writeln!(
                text,
                "[[virtual_service]]\nname = \"{pool}{port}\"\naddress = \"{at}\"\nport = {port}\n\
                 protocol = \"{protocol}\"\npool = \"{pool}\""
            );
        }
        let _ = writeln!(
            text,
            "[[pool]]\nname = \"{pool}\"\nforwarding = \"masquerade\"\npersistence_profile = \"kept\"\n\
             masquerade_ipv4 = \"192.0.2.2\"\nmasquerade_ipv6 = \"fd00:1::2\"\nservers = ["
        );
        for &host in hosts {
            let address = server_address(family, host);
            let _ = writeln!(text, "{{ address = \"{address}\", port = 8080 }},");
        }
        text += "]\n";
    }
    text + more
}

fn rig(ports: &str, hosts: &[u8]) -> Option<Rig> {
    Rig::new(&text(ports, hosts, ""), network())
}

fn own(family: Family, port: u16) -> SocketAddr {
    let address = if family == V4 { "192.0.2.2" } else { "fd00:1::2" };
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Where the server sees the packet come from.
fn seen(packet: &[u8]) -> SocketAddr {
    let ipv4 = packet[12] == 8;
    let port = if ipv4 { 34 } else { 54 };
    own(if ipv4 { V4 } else { V6 }, u16::from_be_bytes([packet[port], packet[port + 1]]))
}

/// A client's segment to the web service, which must arrive: our port towards the server.
fn tcp(rig: &mut Rig, from: SocketAddr, flags: u8) -> u16 {
    let family = if from.is_ipv4() { V4 } else { V6 };
    let outcome = rig.send_packet(&Packet::tcp(from, family.service(WEB), flags));
    assert_eq!(outcome.reason, Reason::Forwarded, "{from}");
    seen(&outcome.packet).port()
}

/// A segment of server 11 to that port of ours.
fn answer(rig: &mut Rig, family: Family, port: u16, flags: u8) -> Reason {
    rig.send_packet(&Packet::tcp(server(family, 11), own(family, port), flags)).reason
}

/// A whole handshake with server 11.
fn open(rig: &mut Rig, from: SocketAddr) -> u16 {
    let family = if from.is_ipv4() { V4 } else { V6 };
    let port = tcp(rig, from, flag::SYN);
    assert_eq!(answer(rig, family, port, flag::SYN | flag::ACK), Reason::Returned);
    assert_eq!(tcp(rig, from, flag::ACK), port, "the port stays");
    port
}

fn sizes(rig: &mut Rig) -> [usize; 2] {
    rig.translations().unwrap().map(|table| table.len())
}

#[test]
fn both_ends_are_rewritten_and_back() {
    for family in Family::BOTH {
        for (host, by, action) in [(11, FAR, Action::Redirect), (21, NEAR, Action::Transmit)] {
            let Some(mut rig) = rig("2000-9999", &[host]) else { return };
            for data in [&b"even"[..], b"odd", b""] {
                for packet in [
                    Packet::tcp(client(family, 1), family.service(WEB), flag::SYN).payload(data),
                    Packet::udp(client(family, 1), family.service(DNS)).payload(data),
                    Packet::udp(client(family, 2), family.service(DNS)).without_checksum(),
                ] {
                    if family == V6 && packet == packet.clone().without_checksum() {
                        continue;
                    }
                    let outcome = rig.send_packet(&packet);
                    assert_eq!((outcome.action, outcome.reason), (action, Reason::Forwarded));
                    let us = seen(&outcome.packet);
                    assert!((2000..=9999).contains(&us.port()), "{us}");
                    let there = packet.forwarded(server(family, host), link_to(family, by, host));
                    assert_eq!(outcome.packet, Packet { from: us, ..there }.bytes());

                    let back = Packet { from: server(family, host), to: us, ..packet.clone() };
                    let outcome = rig.send_packet(&back);
                    assert_eq!(outcome.reason, Reason::Returned);
                    let home = back.returned(packet.to, link_to(family, NEAR, 1));
                    assert_eq!(outcome.packet, Packet { to: packet.from, ..home }.bytes());
                }
            }
        }
    }
}

#[test]
fn a_connection_is_followed_from_its_first_segment_to_its_port_s_return() {
    for family in Family::BOTH {
        let Some(mut rig) = rig("2000-9999", &[11]) else { return };
        let from = client(family, 1);
        let port = tcp(&mut rig, from, flag::SYN);
        assert_eq!(tcp(&mut rig, from, flag::SYN), port, "sent again");
        assert_eq!(sizes(&mut rig), [0, 1], "a SYN alone earns nothing");
        assert_eq!(answer(&mut rig, family, port, flag::SYN | flag::ACK), Reason::Returned);
        assert_eq!(sizes(&mut rig), [0, 1]);
        assert_eq!(tcp(&mut rig, from, flag::ACK), port);
        assert_eq!(sizes(&mut rig), [1, 0]);
        assert_eq!(rig.event(Event::TranslationStarted).unwrap(), 1);
        assert_eq!(rig.entries().unwrap().len(), 1);
        assert_eq!(rig.entries().unwrap()[0].1.open, 1);

        assert_eq!(tcp(&mut rig, from, flag::FIN | flag::ACK), port);
        assert_eq!(answer(&mut rig, family, port, flag::FIN | flag::ACK), Reason::Returned);
        assert_eq!(tcp(&mut rig, from, flag::ACK), port);
        assert_eq!(rig.entries().unwrap()[0].1.open, 0, "the server's FIN was noted");
        rig.sweep_pass(now_ns() + 59 * SECOND).unwrap();
        assert_eq!(sizes(&mut rig), [1, 0], "its last segments may be under way");
        rig.sweep_pass(now_ns() + 61 * SECOND).unwrap();
        assert_eq!(sizes(&mut rig), [0, 0]);
        assert_eq!(rig.event(Event::TranslationEnded).unwrap(), 1);
        let late = answer(&mut rig, family, port, flag::ACK);
        assert_eq!(late, Reason::ToThisMachine, "nobody's any more");
    }
}

#[test]
fn a_client_that_begins_anew_goes_on_with_its_port() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    let from = client(V4, 1);
    let port = open(&mut rig, from);
    tcp(&mut rig, from, flag::RST);
    assert_eq!(open(&mut rig, from), port);
    assert_eq!(sizes(&mut rig), [1, 0]);
    rig.sweep_pass(now_ns() + 90 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [1, 0], "it is open again");
    rig.sweep_pass(now_ns() + 101 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [0, 0], "silent for its limit");
}

#[test]
fn four_ports_serve_four_clients_and_the_fifth_is_told() {
    let Some(mut rig) = rig("2000-2003", &[11]) else { return };
    let ports: BTreeSet<u16> = (0..4).map(|n| open(&mut rig, client(V4, n))).collect();
    assert_eq!(ports, (2000..=2003).collect());
    let fifth = Packet::tcp(client(V4, 4), V4.service(WEB), flag::SYN);
    let outcome = rig.send_packet(&fifth);
    assert_eq!((outcome.action, outcome.reason), (Action::Transmit, Reason::NoPort));
    assert_eq!(outcome.packet[47] & flag::RST, flag::RST);
    assert_eq!(rig.event(Event::PortsExhausted).unwrap(), 1);
    // Over UDP, and towards another address, the ports are others.
    let datagram = Packet::udp(client(V4, 4), V4.service(DNS));
    assert_eq!(rig.send_packet(&datagram).reason, Reason::Forwarded);
    assert!(open(&mut rig, client(V6, 4)) >= 2000);

    // Each of the four is still met at its own.
    for n in 0..4 {
        let port = tcp(&mut rig, client(V4, n), flag::ACK);
        let home = Packet::tcp(server(V4, 11), own(V4, port), flag::ACK);
        let outcome = rig.send_packet(&home);
        let address: [u8; 4] = outcome.packet[30..34].try_into().unwrap();
        assert_eq!(std::net::IpAddr::from(address), client(V4, n).ip());
    }
    // And whose client leaves makes room, not at once.
    let left = tcp(&mut rig, client(V4, 2), flag::RST | flag::ACK);
    assert_eq!(rig.send_packet(&fifth).reason, Reason::NoPort);
    rig.sweep_pass(now_ns() + 61 * SECOND).unwrap();
    assert_eq!(open(&mut rig, client(V4, 4)), left);
}

#[test]
fn spoofed_segments_use_no_ports_up() {
    let Some(mut rig) = rig("2000-2003", &[11]) else { return };
    let living = open(&mut rig, client(V4, 1));
    for n in 100..200 {
        // Whoever does not hear the server acknowledges what it did not say.
        for flags in [flag::SYN, flag::ACK] {
            let packet = Packet::tcp(client(V4, n), V4.service(WEB), flags).acknowledging(1);
            rig.send_packet(&packet);
        }
    }
    assert_eq!(sizes(&mut rig), [1, 3]);
    assert!(rig.event(Event::TranslationDisplaced).unwrap() > 0);
    assert_eq!(rig.event(Event::PortsExhausted).unwrap(), 0);
    assert_eq!(tcp(&mut rig, client(V4, 1), flag::ACK), living);
    assert_ne!(open(&mut rig, client(V4, 2)), living);
    assert_eq!(sizes(&mut rig), [2, 2]);
    rig.sweep_pass(now_ns() + 61 * SECOND).unwrap();
    assert_eq!(sizes(&mut rig), [2, 0], "unfinished ones go");
}

#[test]
fn a_flow_earns_its_port_by_going_on_after_an_answer() {
    for family in Family::BOTH {
        let Some(mut rig) = rig("2000-9999", &[11]) else { return };
        let packet = Packet::udp(client(family, 1), family.service(DNS));
        let us = seen(&rig.send_packet(&packet).packet);
        assert_eq!(seen(&rig.send_packet(&packet).packet), us);
        assert_eq!(sizes(&mut rig), [0, 1]);
        let back = Packet::udp(server(family, 11), us);
        assert_eq!(rig.send_packet(&back).reason, Reason::Returned);
        assert_eq!(seen(&rig.send_packet(&packet).packet), us);
        assert_eq!(sizes(&mut rig), [1, 0]);
        rig.sweep_pass(now_ns() + 9 * SECOND).unwrap();
        assert_eq!(sizes(&mut rig), [1, 0]);
        rig.sweep_pass(now_ns() + 12 * SECOND).unwrap();
        assert_eq!(sizes(&mut rig), [0, 0]);
    }
}

#[test]
fn connections_go_on_after_a_restart_and_without_the_tables_that_evict() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    let from: Vec<SocketAddr> = (0..50).map(|n| at_port(client(V4, n), n)).collect();
    let ports: Vec<u16> = from.iter().map(|&from| open(&mut rig, from)).collect();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 50);
    rig.reopen().unwrap();
    rig.apply().unwrap();
    assert_eq!(rig.apply().unwrap(), 0, "all was read back");
    for (key, _) in rig.connections().unwrap() {
        rig.data_path().maps.connections.remove(&key).unwrap();
    }
    for (&from, &port) in from.iter().zip(&ports) {
        assert_eq!(tcp(&mut rig, from, flag::ACK), port);
        assert_eq!(answer(&mut rig, V4, port, flag::ACK), Reason::Returned);
    }
}

#[test]
fn a_full_table_is_counted_and_its_clients_are_served() {
    let Some(mut rig) = rig("1024-32767", &[11]) else { return };
    for n in 0..1100 {
        open(&mut rig, at_port(client(V4, n % 100), n));
    }
    let [whole, unfinished] = sizes(&mut rig);
    assert!(whole >= 1024 && unfinished > 0, "{whole} {unfinished}");
    assert!(rig.event(Event::TranslationRefused).unwrap() >= 1100 - 1024);
    let last = at_port(client(V4, 99), 1099);
    let port = tcp(&mut rig, last, flag::ACK);
    assert_eq!(answer(&mut rig, V4, port, flag::ACK), Reason::Returned);
}

#[test]
fn the_machine_s_own_connections_are_its_own() {
    let Some(mut rig) = rig("2000-9999", &[11]) else { return };
    open(&mut rig, client(V4, 1));
    // The answer to a health check, from the very port of the service's server.
    assert_eq!(answer(&mut rig, V4, 40_000, flag::SYN | flag::ACK), Reason::ToThisMachine);
    // A port of ours counts only at the address that the server was shown.
    let port = tcp(&mut rig, client(V4, 1), flag::ACK);
    let elsewhere = SocketAddr::new("192.0.2.50".parse().unwrap(), port);
    let packet = Packet::tcp(server(V4, 11), elsewhere, flag::ACK);
    assert_eq!(rig.send_packet(&packet).reason, Reason::NotOurs);
}

#[test]
fn one_server_answers_under_masquerade_and_nat() {
    let nat = format!(
        "[[virtual_service]]\nname = \"nat\"\naddress = \"198.51.100.20\"\nport = \"all\"\npool = \"nat\"\n\
         [[pool]]\nname = \"nat\"\nservers = [{{ address = \"{}\" }}]\n",
        server_address(V4, 11)
    );
    let Some(mut rig) = Rig::new(&text("2000-9999", &[11], &nat), network()) else { return };
    let port = open(&mut rig, client(V4, 1));
    assert_eq!(answer(&mut rig, V4, port, flag::ACK), Reason::Returned);
    let packet = Packet::tcp(server(V4, 11), client(V4, 7), flag::ACK);
    let from: SocketAddr = "198.51.100.20:8080".parse().unwrap();
    let home = packet.returned(from, link_to(V4, NEAR, 1));
    assert_eq!(rig.send_packet(&packet).packet, home.bytes());
}

#[test]
fn every_address_of_a_prefix_is_translated_back_to_itself() {
    let wide = format!(
        "[[virtual_service]]\nname = \"wide\"\naddress = \"198.18.0.0/15\"\nport = \"all\"\npool = \"wide\"\n\
         [[pool]]\nname = \"wide\"\nforwarding = \"masquerade\"\nmasquerade_ipv4 = \"192.0.2.2\"\n\
         persistence_profile = \"kept\"\nservers = [{{ address = \"{}\" }}]\n",
        server_address(V4, 12)
    );
    let Some(mut rig) = Rig::new(&text("2000-9999", &[11], &wide), network()) else { return };
    for last in 1..20 {
        let to = SocketAddr::new([198, 18, 7, last].into(), 1000 + u16::from(last));
        let out = rig.send_packet(&Packet::tcp(client(V4, 1), to, flag::SYN));
        assert_eq!(out.reason, Reason::Forwarded);
        let (us, there) = (seen(&out.packet), SocketAddr::new(server_address(V4, 12), to.port()));
        for flags in [flag::SYN | flag::ACK, flag::FIN | flag::ACK] {
            let back = Packet::tcp(there, us, flags);
            let home = Packet { to: client(V4, 1), ..back.returned(to, link_to(V4, NEAR, 1)) };
            assert_eq!(rig.send_packet(&back).packet, home.bytes());
            rig.send_packet(&Packet::tcp(client(V4, 1), to, flag::ACK));
        }
    }
    assert_eq!(rig.entries().unwrap().len(), 19);
    assert!(rig.connections().unwrap().iter().all(|(_, known)| known.state == 3), "FINs are noted");
}
